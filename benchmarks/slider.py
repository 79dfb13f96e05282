"""Measure the cost of the page's sliders: CPU seconds for one frame of a long clip with few keyframes.

python benchmarks/slider.py --frames 2000 --size 1920x1080 --group 250
"""

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from holdfast.media import video
from holdfast.ui.proxies import Proxies


def write_clip(path: Path, frames: int, size: tuple[int, int], group: int) -> None:
    """Write a textured background that pans, and a disc that moves over it."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 256, (height + 80, width + 160, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20", "g": str(group), "sc_threshold": "0"}
        for i in range(frames):
            x, y = int(80 + 80 * np.sin(i / 90)), int(40 + 40 * np.cos(i / 60))
            frame = texture[y : y + height, x : x + width].copy()
            cv2.circle(frame, (width // 2 + i % 300, height // 2), height // 9, (200, 40, 40), -1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        out.mux(stream.encode())


def measure(clip: video.Clip, proxies: Proxies, reads: int) -> str:
    """Return the median and the longest CPU time to read a random frame, as text."""
    rng, seconds = random.Random(0), []
    for _ in range(reads):
        index, begin = rng.randrange(clip.frames), time.process_time()
        proxies.read(clip, index)
        seconds.append(time.process_time() - begin)
    return f"median {statistics.median(seconds):.3f} s, at most {max(seconds):.3f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--group", type=int, default=250, help="frames from keyframe to keyframe")
    parser.add_argument("--looks", type=int, default=15, help="random frames")
    parser.add_argument("--clip", type=Path, help="your own clip instead of a synthetic one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.clip or Path(folder) / "clip.mp4"
        if not options.clip:
            width, height = (int(side) for side in options.size.split("x"))
            write_clip(path, options.frames, (width, height), options.group)
            time.sleep(2.1)  # a file that was written a moment ago is probed a second time
        begin = time.process_time()
        clip = video.probe(path)
        print(f"probe, once: {time.process_time() - begin:.2f} s CPU, {clip.frames} frames")
        proxies = Proxies(Path(folder))
        proxies.started.add(proxies._path(clip))  # pretend that the proxy is being made
        print(f"from the keyframe: {measure(clip, proxies, options.looks)}")
        begin = time.process_time()
        proxies._make(clip, proxies._path(clip))
        megabytes = proxies._path(clip).stat().st_size / 1e6
        print(f"proxy, once: {time.process_time() - begin:.2f} s CPU, {megabytes:.0f} MB")
        print(f"from the proxy: {measure(clip, proxies, options.looks)}")


if __name__ == "__main__":
    main()

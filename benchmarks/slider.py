"""What it costs to move the page's sliders: CPU seconds for a frame of a long clip with few keyframes.

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


def measure(clip: video.Clip, proxies: Proxies, looks: int) -> tuple[float, float]:
    """Return the median and the longest CPU time of a look at a random frame, in seconds."""
    draw, spent = random.Random(0), []
    for _ in range(looks):
        number, begun = draw.randrange(clip.frames), time.process_time()
        proxies.read(clip, number)
        spent.append(time.process_time() - begun)
    return statistics.median(spent), max(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--group", type=int, default=250)
    parser.add_argument("--looks", type=int, default=15)
    parser.add_argument("--clip", type=Path, help="a clip of your own, in place of a made one")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = asked.clip or Path(folder) / "clip.mp4"
        if not asked.clip:
            size = tuple(int(side) for side in asked.size.split("x"))
            write_clip(path, asked.frames, size, asked.group)
            time.sleep(2.1)  # a file that was just written is probed again
        begun = time.process_time()
        clip = video.probe(path)
        print(f"probe, once: {time.process_time() - begun:.2f} s CPU, {clip.frames} frames")
        proxies = Proxies(Path(folder))
        proxies.started.add(proxies._path(clip))  # none yet: from the keyframe
        print(
            "from the keyframe: median {:.3f} s, at most {:.3f} s".format(
                *measure(clip, proxies, asked.looks)
            )
        )
        begun = time.process_time()
        proxies._make(clip, proxies._path(clip))
        size = proxies._path(clip).stat().st_size / 1e6
        print(f"proxy, once: {time.process_time() - begun:.2f} s CPU, {size:.0f} MB")
        print(
            "from the proxy: median {:.3f} s, at most {:.3f} s".format(
                *measure(clip, proxies, asked.looks)
            )
        )


if __name__ == "__main__":
    main()

"""Compare propagated masks with the exact masks of scenes: `python benchmarks/masks.py`.

Input is the object's true bounding box on frame 0. Metrics are the overlap (intersection over union) with the exact
mask on frame 0, over all frames, and on the last one (of 25). The last frame counts only in scenes where the object is
still visible; a second column counts only those where at least a quarter of it is. The share of these scenes with an
overlap of 0.9 or more is printed too. "Second box": a true bounding box on frame 16 is added. A pixel belongs to the
object if the object covers at least half of it; "any share" counts every pixel that it touches
(`truth.actor_mask`). Scenes are held out; --tuning uses others. Prints Markdown: means with 95 % intervals over scenes.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray
from tables import format_interval, print_header, print_row

from holdfast.media import marks, video
from holdfast.media.propagation import propagate
from holdfast.shapeworld.evaluate import FIRST_TUNING_SEED
from holdfast.shapeworld.rendering import render_with_coverage
from holdfast.shapeworld.scenes import RATE, SCENE_SETS, sample_scene

FRAMES, SECOND_BOX = 25, 16
MIN_SHARE = 0.02  # of its area on frame 0: a smaller rest of an object is not counted
# A sliver at the frame's edge has few pixels, so that a single one changes the overlap.
LARGE_SHARE = 0.25
METRICS = {
    "first": "frame 0",
    "mean": "all frames",
    "last": "frame 24",
    "good": "of these, 0.9 or more",
    "large": "frame 24, at least a quarter visible",
    "large_good": "of these, 0.9 or more",
    "mean_second_box": "all, second box",
    "large_second_box": "frame 24, at least a quarter visible, second box",
    "mean_any_share": "all frames, any share",
    "seconds": "seconds a frame",
}


def write_scene(seed: int, name: str, size: int, folder: Path) -> tuple[video.Clip, ndarray]:
    """Write a scene as a lossless clip. Return it, and the object's share of each pixel, f H W."""
    scene = sample_scene(seed, name)
    picture, shares = render_with_coverage([scene], FRAMES, (size, size))
    frames = [(255 * frame).round().byte().numpy() for frame in picture[0].permute(0, 2, 3, 1)]
    path = folder / "scene.mkv"
    video.write_frames(path, frames, RATE, "lossless-rgb")
    return video.probe(path), shares[0, seed % len(scene.actors)].numpy()


def overlap(mask: ndarray, exact: ndarray) -> float:
    """Return the intersection over union of two masks; 1 if both are empty."""
    union = (mask | exact).sum()
    return float((mask & exact).sum() / union) if union else 1.0


def box_mask(clip: video.Clip, shares: ndarray, frame: int) -> ndarray:
    """Return the mask that the object's bounding box on a frame gives."""
    box = cv2.boundingRect((shares[frame] > 0).astype(np.uint8))
    return marks.make_anchor(f"{frame}=" + ",".join(map(str, box)), clip)[1]


def measure(seed: int, name: str, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        clip, shares = write_scene(seed, name, size, Path(folder))
        exact = shares >= 0.5
        boxes = {0: box_mask(clip, shares, 0)}
        begin = time.perf_counter()
        masks = list(propagate(clip, boxes))
        seconds = (time.perf_counter() - begin) / FRAMES
        is_visible = exact.sum((1, 2)) > MIN_SHARE * exact[0].sum()
        visible = [n for n in range(FRAMES) if is_visible[n]]
        row = {
            "first": overlap(masks[0], exact[0]),
            "mean": np.mean([overlap(masks[n], exact[n]) for n in visible]),
            "mean_any_share": np.mean([overlap(masks[n], shares[n] > 0) for n in visible]),
            "last": overlap(masks[-1], exact[-1]) if is_visible[-1] else np.nan,
            "seconds": seconds,
        }
        is_large = exact[-1].sum() >= LARGE_SHARE * exact[0].sum()
        row["good"] = bool(row["last"] >= 0.9) if is_visible[-1] else np.nan
        row["large"] = row["last"] if is_large else np.nan
        row["large_good"] = row["good"] if is_large else np.nan
        if is_visible[SECOND_BOX]:
            boxes[SECOND_BOX] = box_mask(clip, shares, SECOND_BOX)
            masks = list(propagate(clip, boxes))
        row["mean_second_box"] = np.mean([overlap(masks[n], exact[n]) for n in visible])
        row["large_second_box"] = overlap(masks[-1], exact[-1]) if is_large else np.nan
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="scenes of each set")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--sets", default=",".join(SCENE_SETS), help="separated by commas")
    parser.add_argument("--tuning", action="store_true", help="other scenes than the reported ones")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    start = FIRST_TUNING_SEED if options.tuning else 0
    print_header(f"{options.size} x {options.size}, {options.count} scenes", *METRICS.values())
    all_rows: list[dict] = []
    for name in options.sets.split(","):
        seeds = range(start, start + options.count)
        rows = [measure(seed, name, options.size) for seed in seeds]
        print_row(name, *(format_interval([row[metric] for row in rows]) for metric in METRICS))
        all_rows += rows
    print_row("all", *(format_interval([row[metric] for row in all_rows]) for metric in METRICS))


if __name__ == "__main__":
    main()

"""How well a mask by hand is carried, against scenes whose masks are exact: `python benchmarks/masks.py`.

The thing's true bounding box on frame 0 is all that is given; figures are overlap (intersection over union) with the
exact mask: on frame 0, over all frames, and on the last one (25 frames) of the scenes where the thing is still in the
frame, all of them and those where a quarter or more of it is; and the share of these scenes where it is 0.9 or more.
Second box: one more on frame 16, likewise. A pixel is the thing's where half of it or more is; "any share" counts every
pixel that it touches (`truth.actor_mask`). Scenes are held out, --tuning takes others. Means with 95 % intervals over
scenes, in Markdown.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray
from tables import head, interval, line

from holdfast.media import marks, video
from holdfast.media.propagation import propagate
from holdfast.shapeworld.scenes import FIRST_TUNING_SEED
from holdfast.shapeworld.rendering import render_with_coverage
from holdfast.shapeworld.scenes import RATE, SCENE_SETS, sample_scene

FRAMES, AGAIN = 25, 16
LEAST = 0.02  # of its area on frame 0: less of a thing is not judged
# a sliver at the frame's edge is a few pixels, of which one more or less counts much
QUARTER = 0.25
FIGURES = ("first", "mean", "last", "good", "large", "large_good", "mean_again", "large_again")
FIGURES += ("mean_any", "seconds")
NAMES = (
    "frame 0",
    "all frames",
    "frame 24",
    "of these, 0.9 or more",
    "frame 24, a quarter or more left",
    "of these, 0.9 or more",
    "all, second box",
    "frame 24, a quarter or more left, second box",
    "all frames, any share",
    "seconds a frame",
)


def scene(seed: int, name: str, size: int, folder: Path) -> tuple[video.Clip, ndarray]:
    """A scene as a clip without loss, and how much of each pixel is the marked thing's, f H W."""
    drawn = sample_scene(seed, name)
    picture, shares = render_with_coverage([drawn], FRAMES, (size, size))
    frames = [(255 * frame).round().byte().numpy() for frame in picture[0].permute(0, 2, 3, 1)]
    path = folder / "scene.mkv"
    video.write_frames(path, frames, RATE, "lossless-rgb")
    return video.probe(path), shares[0, seed % len(drawn.actors)].numpy()


def overlap(found: ndarray, exact: ndarray) -> float:
    either = (found | exact).sum()
    return float((found & exact).sum() / either) if either else 1.0


def boxed(clip: video.Clip, shares: ndarray, frame: int) -> ndarray:
    """The mask that the thing's bounding box on a frame gives."""
    box = cv2.boundingRect((shares[frame] > 0).astype(np.uint8))
    return marks.make_anchor(f"{frame}=" + ",".join(map(str, box)), clip)[1]


def figures(seed: int, name: str, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        clip, shares = scene(seed, name, size, Path(folder))
        exact = shares >= 0.5
        marked = {0: boxed(clip, shares, 0)}
        began = time.perf_counter()
        found = list(propagate(clip, marked))
        seconds = (time.perf_counter() - began) / FRAMES
        there = exact.sum((1, 2)) > LEAST * exact[0].sum()
        seen = [n for n in range(FRAMES) if there[n]]
        row = {
            "first": overlap(found[0], exact[0]),
            "mean": np.mean([overlap(found[n], exact[n]) for n in seen]),
            "mean_any": np.mean([overlap(found[n], shares[n] > 0) for n in seen]),
            "last": overlap(found[-1], exact[-1]) if there[-1] else np.nan,
            "seconds": seconds,
        }
        quarter = exact[-1].sum() >= QUARTER * exact[0].sum()
        row["good"] = bool(row["last"] >= 0.9) if there[-1] else np.nan
        row["large"], row["large_good"] = (row[f] if quarter else np.nan for f in ("last", "good"))
        if there[AGAIN]:
            marked[AGAIN] = boxed(clip, shares, AGAIN)
            found = list(propagate(clip, marked))
        row["mean_again"] = np.mean([overlap(found[n], exact[n]) for n in seen])
        row["large_again"] = overlap(found[-1], exact[-1]) if quarter else np.nan
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="scenes of each set")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--sets", default=",".join(SCENE_SETS), help="with commas")
    parser.add_argument("--tuning", action="store_true", help="other scenes than the ones reported")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    start = FIRST_TUNING_SEED if options.tuning else 0
    head(f"{options.size} x {options.size}, {options.count} scenes", *NAMES)
    every: list[dict] = []
    for name in options.sets.split(","):
        seeds = range(start, start + options.count)
        rows = [figures(seed, name, options.size) for seed in seeds]
        line(name, *(interval([row[figure] for row in rows]) for figure in FIGURES))
        every += rows
    line("all", *(interval([row[figure] for row in every]) for figure in FIGURES))


if __name__ == "__main__":
    main()

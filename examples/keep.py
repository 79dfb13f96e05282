"""Put the change of an edited clip back into its source. No download, no GPU, no model: about half a minute.

    python examples/keep.py [-o FOLDER]

The edited clip is made here, as an editor returns one: half the frames, without the first two, smaller, with bars, in
other colours, encoded. Prints the report, and writes kept.mp4, its manifest and strip.png into the folder.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

import holdfast
from holdfast.media import overlays, previews, video
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import Scene, sample_edit

RATE, FRAMES, SIZE = 24, 48, (240, 400)  # frames a second; height, width
DROPPED = 2  # frames at the start of the edited clip
SMALL, BARS = (320, 192), 64  # width, height; pixels above and below
GAIN, OFFSET = (1.06, 0.98, 0.9), (6, 4, -4)  # of red, green and blue


def draw(scene: Scene) -> ndarray:
    """Return a scene of the synthetic world, f H W 3 uint8."""
    times: Any = [frame / 3 for frame in range(FRAMES)]  # in between its own frames
    (frames,) = render([scene], times, SIZE)
    return (frames.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


def imitate_editor(edited: ndarray) -> ndarray:
    """Return an exact edit as an editor's service returns it."""
    frames = []
    for frame in edited[DROPPED::2]:
        small = cv2.resize(frame, SMALL, interpolation=cv2.INTER_AREA)
        coloured = (small * GAIN + OFFSET).clip(0, 255).round().astype(np.uint8)
        frames.append(cv2.copyMakeBorder(coloured, BARS, BARS, 0, 0, cv2.BORDER_CONSTANT))
    return np.stack(frames)


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep an edit made elsewhere.")
    parser.add_argument("-o", "--output", type=Path, default=Path("kept"), help="folder")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)

    change = sample_edit(3, "colour", "single")
    source, exact = draw(change.source), draw(change.target)
    edited = folder / "edited.mp4"
    video.write_frames(edited, list(imitate_editor(exact)), RATE // 2, "h264", 23)

    result = holdfast.keep(source, edited, rate=RATE)
    result.save(folder / "kept.mp4")
    kept, outside = result.array(), np.stack(list(result.alphas())) == 0
    print(result.report["sentence"])
    changed = (kept != source)[outside].any(-1).sum()
    print(f"  outside the change {changed} pixels differ from the source")

    indices = previews.sample_indices(FRAMES)[1:]
    masks = list(result.masks())
    delivered = list(video.read(video.probe(edited)))
    rows: dict[str, Any] = {
        "source": source[indices],
        "edited": [fit(delivered[min((i - DROPPED) // 2, len(delivered) - 1)]) for i in indices],
        "change": [overlays.draw_mask(source[i], masks[i]) for i in indices],
        "kept": kept[indices],
    }
    previews.draw_strip(rows, zoom=0.8).save(folder / "strip.png")
    print(f"  look at {folder}/strip.png and {folder}/kept.mp4")


def fit(frame: ndarray) -> ndarray:
    """Return a frame of the edited clip between bars, at the source's size, for the strip."""
    height, width = SIZE
    side = frame.shape[1] * height // frame.shape[0]
    small = cv2.resize(frame, (side, height), interpolation=cv2.INTER_AREA)
    left = (width - side) // 2
    return cv2.copyMakeBorder(
        small, 0, 0, left, width - side - left, cv2.BORDER_CONSTANT, value=(255,) * 3
    )


if __name__ == "__main__":
    main()

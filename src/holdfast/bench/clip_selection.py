"""The frames and the size at which a comparison takes a data set's clips, written as clips of their own.

Method and metrics then see the same frames. Masks and true results are selected alike.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy import ndarray

from ..base.notices import warn_user
from ..media import images, masks, video
from .datasets.base import Case

Spacing = Literal["first", "even"]


@dataclass(frozen=True)
class ClipSelection:
    """How many frames of a clip, the first ones or evenly spaced ones, at which width and height.

    None: all frames, or the clip's own size.
    """

    frames: int | None = None
    spacing: Spacing = "first"
    size: tuple[int, int] | None = None

    def choose_frames(self, total: int) -> list[int]:
        """Return the indices of the selected frames of a clip; all of a clip that is too short."""
        count = min(total, self.frames or total)
        if self.spacing == "first":
            return list(range(count))
        return np.linspace(0, total - 1, count).round().astype(int).tolist()

    def describe(self) -> str:
        """Return the selection as a clause: "16 evenly spaced frames of 832x480"."""
        which = "the first" if self.spacing == "first" else "evenly spaced"
        count = f"{self.frames} frames ({which})" if self.frames else "all frames"
        return count + (" of {}x{}".format(*self.size) if self.size else " of the clip's own size")


def select_cases(cases: Iterable[Case], selection: ClipSelection, folder: Path) -> list[Case]:
    """Return the cases with their clips selected, written below a folder. Warn of clips that are too short."""
    selected, short = [], 0
    for case in cases:
        clip = video.probe(case.clip)
        short += clip.frames < (selection.frames or 0)
        selected.append(_select_case(case, clip, selection, folder))
    if short:
        warn_user(
            f"{short} of {len(selected)} clips have fewer than {selection.frames} frames: "
            "all of their frames are used"
        )
    return selected


def _select_case(case: Case, clip: video.Clip, selection: ClipSelection, folder: Path) -> Case:
    indices = selection.choose_frames(clip.frames)
    size = selection.size or clip.size
    if len(indices) == clip.frames and size == clip.size:
        return case
    rule = f"{len(indices)}-{selection.spacing}-{size[0]}x{size[1]}"
    place = folder / f"{case.name}-{rule}"
    rate = clip.rate * len(indices) / clip.frames if selection.spacing == "even" else clip.rate
    write = partial(_write_once, indices=set(indices), rate=rate)
    resize = partial(_resize, size=size)
    files = {"clip": write(place / "clip.mkv", map(resize, video.read(clip)))}
    if case.mask:
        mask = masks.open_mask(case.mask, clip, range(clip.frames), allow_any=True)
        pictures = (_mask_picture(inside, size) for inside in mask.frames())
        files["mask"] = write(place / "mask.mkv", pictures)
    if case.truth:
        truth = video.read(video.probe(case.truth))
        files["truth"] = write(place / "truth.mkv", map(resize, truth))
    if case.first_frame:
        files["first_frame"] = _select_image(
            Path(case.first_frame), place / "first_frame.png", size
        )
    keyframes = tuple(_select_keyframes(case, indices, place, size))
    # A judge knows the whole scene, and not a selection of its frames.
    return replace(case, **files, keyframes=keyframes, scene=None)


def _select_keyframes(
    case: Case, indices: list[int], place: Path, size: tuple[int, int]
) -> Iterator[str]:
    """Yield the keyframes, N=IMAGE, of selected frames, with N counted among those."""
    positions = {at: n for n, at in enumerate(indices)}
    for text in case.keyframes:
        at, path = text.split("=", 1)
        if int(at) in positions:
            image = _select_image(Path(path), place / f"keyframe{at}.png", size)
            yield f"{positions[int(at)]}={image}"


def _select_image(source: Path, path: Path, size: tuple[int, int]) -> str:
    """Write an edited frame at the clip's width and height. Return its path."""
    return _write_once(path, [_resize(images.read(source), size)], {0}, Fraction(1), "auto")


def _mask_picture(inside: ndarray, size: tuple[int, int]) -> ndarray:
    """Return a mask as a picture at a width and height, white inside."""
    import cv2

    white = np.repeat(np.uint8(255) * inside[..., None], 3, 2)
    return cv2.resize(white, size, interpolation=cv2.INTER_NEAREST)


def _write_once(
    path: Path,
    frames: Iterable[ndarray],
    indices: set[int],
    rate: Fraction,
    codec: str = "lossless",
) -> str:
    """Write the frames of these indices, unless the file is there. Return its path."""
    if not path.exists():
        chosen = [frame for i, frame in enumerate(frames) if i in indices]
        video.write_frames(path, chosen, rate, codec)
    return str(path)


def _resize(frame: ndarray, size: tuple[int, int]) -> ndarray:
    """Return a frame at a width and height."""
    import cv2

    if frame.shape[1::-1] == size:
        return frame
    is_smaller = size[0] * size[1] < frame.shape[0] * frame.shape[1]
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if is_smaller else cv2.INTER_CUBIC)

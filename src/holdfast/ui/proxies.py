"""Frames of a clip as the page shows them, at a cost that depends neither on its length nor on its keyframes.

Of a clip whose frames take long to decode, a proxy is made once, in a thread: a small copy in which every frame stands
alone. Until it is there, and for all other clips, a frame is decoded from its keyframe.
"""

import hashlib
import sys
import threading
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter
from numpy import ndarray

from ..base.files import whole
from ..media import video
from ..media.frame_access import keyframe_distance, read_frame
from ..media.images import eight_bits
from ..media.probing import identify
from ..media.reading import matrix
from . import storage

WIDEST = 960  # pixels of a frame that is shown
HEAVY = 1.5e8  # pixels that are decoded for one frame: about a fifth of a second
QUALITY = 90  # of a proxy's JPEG files


class Proxies:
    """The proxies in a folder. Each is made once, one at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.begun: set[Path] = set()
        self.lock, self.making = threading.Lock(), threading.Lock()

    def read(self, clip: video.Clip, number: int) -> ndarray:
        """Return a frame uint8 H W 3, at most `WIDEST` pixels wide."""
        path = self._path(clip)
        if path.exists():
            storage.touch(path)
            return _read(path, number)
        if is_heavy(clip):
            self._begin(clip, path)
        return shrink(read_frame(clip, number))

    def _path(self, clip: video.Clip) -> Path:
        known = [
            entry[1:] for entry in identify(clip.path)
        ]  # a run keeps an upload by another name
        return self.folder / f"proxy-{hashlib.sha256(repr(known).encode()).hexdigest()[:16]}.zip"

    def _begin(self, clip: video.Clip, path: Path) -> None:
        with self.lock:
            if path in self.begun:
                return
            self.begun.add(path)
        threading.Thread(target=self._make, args=(clip, path), daemon=True).start()

    def _make(self, clip: video.Clip, path: Path) -> None:
        try:
            with self.making:
                make_proxy(clip, path)
        except Exception:  # frames are shown without it
            traceback.print_exc(file=sys.stderr)


def is_heavy(clip: video.Clip) -> bool:
    """Whether decoding one frame takes long: it is large, and its keyframe far."""
    width, height = clip.size
    return not clip.files and width * height * keyframe_distance(clip) > HEAVY


def shown_size(clip: video.Clip) -> tuple[int, int]:
    """Width and height at which a clip's frames are shown."""
    scale = min(1, WIDEST / clip.size[0])
    return max(1, round(clip.size[0] * scale)), max(1, round(clip.size[1] * scale))


def shrink(frame: ndarray) -> ndarray:
    """Return a frame H W 3 at the width at which it is shown."""
    import cv2

    height, width = frame.shape[:2]
    if width <= WIDEST:
        return frame
    size = WIDEST, max(1, round(height * WIDEST / width))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def make_proxy(clip: video.Clip, path: Path) -> None:
    """Write every frame as a JPEG file of its own into one archive."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    with whole(path) as part, zipfile.ZipFile(part, "w") as archive:
        for i, array in enumerate(_small(clip)):
            _, data = cv2.imencode(".jpg", array[..., ::-1], options)
            archive.writestr(f"{i}.jpg", data.tobytes())


def _small(clip: video.Clip) -> Iterator[ndarray]:
    """Yield all frames as they are shown. They are scaled as they are stored, which is faster."""
    converter, scaler = VideoReformatter(), VideoReformatter()
    # Without a tag the matrix goes by the size, and that of the clip counts.
    space = {"space": 1} if matrix(clip) == Colorspace.ITU709 else {}
    small = replace(clip, size=shown_size(clip), colour=clip.colour | space)
    width, height = small.stored_size
    for frame in video.stored(clip):
        if isinstance(frame, ndarray):
            yield shrink(eight_bits(frame))
        else:
            scaled = scaler.reformat(frame, width=width, height=height)
            yield eight_bits(video.upright(scaled, small, converter))


def _read(path: Path, number: int) -> ndarray:
    import cv2

    with zipfile.ZipFile(path) as archive:
        data = archive.read(f"{number}.jpg")
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))

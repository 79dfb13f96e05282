"""Frames of a clip for display, at a cost that depends neither on the clip's length nor on its keyframes.

For a clip whose frames take long to decode, a proxy is made once, in a thread: a small copy in which every frame is
independent. Until it exists, and for all other clips, a frame is decoded from its keyframe.
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

from ..base.files import atomic_write
from ..media import video
from ..media.frame_access import keyframe_distance, read_frame
from ..media.images import to_8_bit
from ..media.probing import file_identity
from ..media.reading import colour_matrix
from . import storage

MAX_WIDTH = 960  # pixels of a displayed frame
MAX_DECODED_PIXELS = 1.5e8  # to reach one frame: about a fifth of a second
QUALITY = 90  # of a proxy's JPEG files


class Proxies:
    """The proxies in a folder. Each is made once, one at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.started: set[Path] = set()
        self.lock, self.making = threading.Lock(), threading.Lock()

    def read(self, clip: video.Clip, number: int) -> ndarray:
        """Return a frame uint8 H W 3, at most `MAX_WIDTH` pixels wide."""
        path = self._path(clip)
        if path.exists():
            storage.touch(path)
            return _read_proxy(path, number)
        if needs_proxy(clip):
            self._start(clip, path)
        return shrink(read_frame(clip, number))

    def _path(self, clip: video.Clip) -> Path:
        # Without the name: a run keeps an upload under another one.
        identity = [entry[1:] for entry in file_identity(clip.path)]
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()
        return self.folder / f"proxy-{digest[:16]}.zip"

    def _start(self, clip: video.Clip, path: Path) -> None:
        with self.lock:
            if path in self.started:
                return
            self.started.add(path)
        threading.Thread(target=self._make, args=(clip, path), daemon=True).start()

    def _make(self, clip: video.Clip, path: Path) -> None:
        try:
            with self.making:
                make_proxy(clip, path)
        except Exception:  # frames are displayed without it
            traceback.print_exc(file=sys.stderr)


def needs_proxy(clip: video.Clip) -> bool:
    """Return whether decoding one frame takes long: it is large, and its keyframe far."""
    width, height = clip.size
    return not clip.files and width * height * keyframe_distance(clip) > MAX_DECODED_PIXELS


def display_size(clip: video.Clip) -> tuple[int, int]:
    """Return the width and height at which a clip's frames are displayed."""
    scale = min(1, MAX_WIDTH / clip.size[0])
    return max(1, round(clip.size[0] * scale)), max(1, round(clip.size[1] * scale))


def shrink(frame: ndarray) -> ndarray:
    """Return a frame H W 3 at its display width."""
    import cv2

    height, width = frame.shape[:2]
    if width <= MAX_WIDTH:
        return frame
    size = MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def make_proxy(clip: video.Clip, path: Path) -> None:
    """Write every frame as a JPEG file of its own into one archive."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    with atomic_write(path) as part, zipfile.ZipFile(part, "w") as archive:
        for i, array in enumerate(_read_small(clip)):
            _, data = cv2.imencode(".jpg", array[..., ::-1], options)
            archive.writestr(f"{i}.jpg", data.tobytes())


def _read_small(clip: video.Clip) -> Iterator[ndarray]:
    """Yield all frames at display size. They are scaled before rotation, which is faster."""
    converter, scaler = VideoReformatter(), VideoReformatter()
    # Without a tag the matrix depends on the size, and the clip's own size decides.
    space = {"space": 1} if colour_matrix(clip) == Colorspace.ITU709 else {}
    small = replace(clip, size=display_size(clip), colour=clip.colour | space)
    width, height = small.stored_size
    for frame in video.read_stored(clip):
        if isinstance(frame, ndarray):
            yield shrink(to_8_bit(frame))
        else:
            scaled = scaler.reformat(frame, width=width, height=height)
            yield to_8_bit(video.to_rgb(scaled, small, converter))


def _read_proxy(path: Path, number: int) -> ndarray:
    import cv2

    with zipfile.ZipFile(path) as archive:
        data = archive.read(f"{number}.jpg")
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert array is not None  # make_proxy wrote it
    return np.ascontiguousarray(array)

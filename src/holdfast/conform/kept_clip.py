"""A source clip with another editor's change: its frames, its masks and its file."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from av.video.reformatter import VideoReformatter
from numpy import ndarray

from ..base.errors import UserError
from ..media import arrays, masks, video
from ..pipeline.events import ProgressCallback
from . import writer
from .blending import Band, remove_seam
from .comparison import Comparison
from .frames import ConformedFrames, Roi
from .task import KeepTask

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from PIL.Image import Image
    from torch import Tensor


@dataclass(repr=False)
class KeptClip:
    """The source with the change, and the report of what the editor had changed besides.

    is_whole: the whole picture is taken. user_masks: a function that returns the masks that the user gave instead of
    those found. scratch, inputs: hold temporary files while this object lives.
    """

    task: KeepTask
    comparison: Comparison
    report: dict[str, Any]
    band: Band
    is_whole: bool = False
    user_masks: Any = (
        None  # a function that returns masks at the source's size, boolean H W, one a frame
    )
    scratch: object = None
    inputs: object = None
    notices: list[str] = field(default_factory=list)

    @property
    def clip(self) -> video.Clip:
        """The source."""
        return self.comparison.source

    @property
    def changed_frames(self) -> range:
        """The frames from the first to the last that differ from the source."""
        if not (self.is_whole or self.user_masks):
            return self.comparison.changed_frames
        shown = np.flatnonzero(~np.isnan(self.comparison.positions))
        return range(int(shown[0]), int(shown[-1]) + 1) if len(shown) else range(0)

    def masks(self) -> Iterator[ndarray]:
        """Yield the change of every frame of the source, boolean H W, before it is grown and feathered."""
        if self.user_masks:
            return self.user_masks()
        if self.is_whole:
            shape = self.clip.size[::-1]
            return (np.full(shape, not np.isnan(p)) for p in self.comparison.positions)
        return self.comparison.masks()

    def alphas(self) -> Iterator[ndarray]:
        """Yield the weight of the change at each pixel of every frame, float32 H W in [0, 1]."""
        frames = self._frames()
        for i, mask in enumerate(self.masks()):
            alpha = np.zeros(mask.shape, np.float32)
            region = self._region(i, mask)
            if region is not None:
                alpha[region] = self._weigh(frames, i, mask, region)
            yield alpha

    def pictures(self) -> Iterator[video.OutputFrame]:
        """Yield every frame of the result with the frames that it was made from."""
        converter, frames = VideoReformatter(), self._frames()
        stored = zip(video.read_stored(self.clip), self.masks(), strict=True)
        for i, (frame, mask) in enumerate(stored):
            kept = None if isinstance(frame, ndarray) else frame
            region = self._region(i, mask)
            if region is None:
                yield video.OutputFrame(partial(_convert, frame, self.clip), kept)
                continue
            source = video.to_rgb(frame, self.clip, converter)
            yield self._combine(source, kept, frames, (i, mask, region))

    def _combine(
        self,
        source: ndarray,
        kept: Any,
        frames: ConformedFrames,
        place: tuple[int, ndarray, Roi],
    ) -> video.OutputFrame:
        """Return a frame with the change in a region of it."""
        number, mask, region = place
        weight = self._weigh(frames, number, mask, region)
        made = self._conform(frames, number, region)
        if self.task.blend == "poisson":
            made, weight = remove_seam(source[region], made, weight)
        edited, alpha = source.copy(), np.zeros(mask.shape, np.float32)
        edited[region] = np.rint(np.clip(made, 0, np.iinfo(source.dtype).max)).astype(source.dtype)
        alpha[region] = weight
        result = source.copy()
        result[region] = masks.composite(source[region], edited[region], weight)
        return replace(video.as_output_frame(result), source=kept, edited=edited, alpha=alpha)

    def _conform(self, frames: ConformedFrames, number: int, region: Roi) -> ndarray:
        """Return the edited frame in the source's geometry and colours, float32, inside a region."""
        picture = frames.read(number, region)
        assert picture is not None
        if self.is_whole:  # its colours may be the edit
            return picture.astype(np.float32)
        gain = self.comparison.findings.gains[number]
        return self.comparison.calibration.colours.apply(picture, gain)

    def _frames(self) -> ConformedFrames:
        c = self.comparison
        clips = c.source, c.edited
        return ConformedFrames(clips, c.alignment, c.positions, c.source.size, c.source.bits > 8)

    def _region(self, number: int, mask: ndarray) -> Roi | None:
        if np.isnan(self.comparison.positions[number]):
            return None
        return self.band.region(mask)

    def _weigh(self, frames: ConformedFrames, number: int, mask: ndarray, region: Roi) -> ndarray:
        return self.band.weigh(mask[region]) * frames.coverage(number)[region]

    def frames(self) -> Iterator[ndarray]:
        """Yield all frames before they are encoded: H W 3, uint8, or uint16 for a source above 8 bits."""
        return (picture.rgb() for picture in self.pictures())

    def array(self) -> ndarray:
        """Return all frames as one array f H W 3, uint8 or uint16."""
        return arrays.to_array(self.frames())

    def images(self) -> "list[Image]":
        """Return all frames as PIL images of eight bits."""
        return arrays.to_pil(self.frames())

    def tensor(self) -> "Tensor":
        """Return all frames as one tensor f 3 H W, float32 in [0, 1]."""
        return arrays.to_tensor(self.frames())

    def save(
        self, path: str | Path | None = None, on_progress: ProgressCallback | None = None
    ) -> Path:
        """Write the clip, its manifest and a picture of its mask, by default to the task's output.

        Raise UserError where the path cannot be written, or another run writes it.
        """
        if not (path or self.task.output):
            raise UserError("there is no output", "give save() a file name")
        target = Path(path or self.task.output)
        writer.write(self, target, on_progress)
        return target

    def __repr__(self) -> str:
        return f"KeptClip({self.report['sentence']!r})"


def _convert(frame: "VideoFrame | ndarray", clip: video.Clip) -> ndarray:
    """Return a stored frame in RGB. Its converter is its own: another thread may ask for it, and none can share one."""
    return video.to_rgb(frame, clip, VideoReformatter())

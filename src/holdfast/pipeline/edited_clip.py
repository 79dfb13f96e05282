"""An edited latent, and all that turns it into frames of the clip that it was made from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from ..media import masks, video
from ..media.images import to_array
from ..models.base import Backbone
from .planning import Plan
from .preservation import PreservationMetrics


@dataclass(frozen=True)
class EditedClip:
    """A clip whose frames `part` were edited. z: the edited latent, 1 c f h w; None: the result equals the source."""

    plan: Plan
    clip: video.Clip
    part: range
    mask: masks.Mask | None
    backbone: Backbone
    z: Tensor | None

    @torch.no_grad()
    def decode(self) -> Iterator[np.ndarray]:
        """Decode the edited part at the clip's size, H W 3, before the mask is applied."""
        if self.z is None:
            yield from islice(video.read(self.clip), self.part.start, self.part.stop)
            return
        for frame in self.plan.fit.to_clip(self.backbone.decode(self.z)):
            yield to_array(frame, self.clip.bits)

    def alphas(self) -> Iterator[np.ndarray]:
        """Return the weight of the edit at each pixel of every frame of the clip, float32 H W in [0, 1]."""
        inside = self.mask.alphas() if self.mask else None
        shape = self.clip.size[::-1]
        for i in range(self.clip.frames):
            if i not in self.part:
                yield np.zeros(shape, np.float32)
            else:
                yield next(inside) if inside else np.ones(shape, np.float32)

    def pictures(self, metrics: PreservationMetrics) -> Iterator[video.OutputFrame]:
        """Return every frame of the result with the frames that it was made from, and add each to the metrics.

        A frame that was not edited is converted to RGB only when its RGB is read.
        """
        edited, converter = self.decode(), VideoReformatter()
        frames = zip(video.read_stored(self.clip), self.alphas(), strict=True)
        for i, (stored, alpha) in enumerate(frames):
            kept = None if isinstance(stored, np.ndarray) else stored
            if i not in self.part or self.z is None:
                metrics.add_unchanged(alpha)
                yield video.OutputFrame(partial(video.to_rgb, stored, self.clip, converter), kept)
                continue
            source, made = video.to_rgb(stored, self.clip, converter), next(edited)
            result = masks.composite(source, made, alpha)
            metrics.add(source, result, alpha)
            yield replace(video.as_output_frame(result), source=kept, edited=made, alpha=alpha)

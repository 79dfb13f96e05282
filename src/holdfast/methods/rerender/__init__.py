"""Rerender A Video (Yang et al., arXiv:2306.07954): key frames by SDEdit with a ControlNet, and frames in between.

Key frames are sampled one after another, each held to the first one and to the one before; the others are propagated.

attention of the decoder, key frame i:  softmax(Q_i [K_0; K_p]^T / sqrt(d)) [V_0; V_p]
early steps:   x0 <- M w(x0_j) + (1 - M) x0
middle steps:  x <- what is visible of the results before, encoded by E' and noised
E'(I) = E(I) + m (E(I) - E(D(E(I))))

with w the warp along the optical flow and M what it does not hide. The paper's text is the only source: the released
code is not free software and was not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..base import MethodInfo
from .settings import UNUSED_UNLESS, Config

if TYPE_CHECKING:
    from ...sampling.field import EditInputs, Step, VelocityField

METHOD = MethodInfo(
    requires=frozenset({"control", "spatial_attention"}), unused_unless=UNUSED_UNLESS
)


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    from .key_frames import edit_key_frames  # it needs OpenCV, which a list of methods does not

    return edit_key_frames(field, inputs, config, resume)

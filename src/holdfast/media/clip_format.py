"""The clips that a model takes: legal sizes and lengths, as plain data."""

from dataclasses import dataclass

from ..base.errors import UserError


@dataclass(frozen=True)
class ClipFormat:
    """The clips that a model takes: `step * n + first` frames, and sides that are a multiple of `multiple` pixels."""

    stride: tuple[int, int, int]  # pixels per latent cell: time, height, width
    patch: tuple[int, int, int]  # latent cells per token of its attention
    fps: float  # frames per second it was trained at
    train_pixels: int  # pixels per frame it was trained at
    train_frames: int  # the longest clip it was trained on
    max_frames: int  # the longest that its position codes reach
    size_multiple: tuple[int, int] = (1, 1)  # pixels, height and width
    frame_step: int = 1
    frame_offset: int = 1
    # names of its grids of noise levels: own, and first of the others what own is; none: they are not known yet
    schedules: tuple[str, ...] = ()

    @property
    def length_rule(self) -> str:
        """Its legal lengths as people write them: `4n+1`."""
        return "any" if self.frame_step == 1 else f"{self.frame_step}n+{self.frame_offset}"

    def round_up_frames(self, count: int) -> int:
        """The smallest legal frame count that is not below `count`."""
        beyond = max(0, count - self.frame_offset)
        return -(-beyond // self.frame_step) * self.frame_step + self.frame_offset

    def count_latent_frames(self, frames: int) -> int:
        """How many latent frames a legal number of frames makes."""
        return (frames - 1) // self.stride[0] + 1

    def check_clip(self, frames: int, height: int, width: int) -> None:
        near = self.round_up_frames(frames)
        if near != frames:
            raise UserError(
                f"{frames} frames do not fit this model (needs {self.length_rule}): use {near - self.frame_step} or {near}"
            )
        for side, name, multiple in zip(
            (height, width), ("height", "width"), self.size_multiple, strict=True
        ):
            if side % multiple or not side:
                raise UserError(
                    f"{name} {side} does not fit this model: it needs a multiple of {multiple}"
                )

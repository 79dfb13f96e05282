"""The clips that a model takes: legal sizes and lengths, as plain data."""

from dataclasses import dataclass

from ..base.errors import UserError


@dataclass(frozen=True)
class Grid:
    """The clips that a model takes: `step * n + first` frames, and sides that are a multiple of `multiple` pixels."""

    stride: tuple[int, int, int]  # pixels per latent cell: time, height, width
    patch: tuple[int, int, int]  # latent cells per token of its attention
    rate: float  # frames per second it was trained at
    area: int  # pixels per frame it was trained at
    frames: int  # the longest clip it was trained on
    most_frames: int  # the longest that its position codes reach
    multiple: tuple[int, int] = (1, 1)  # pixels, height and width
    step: int = 1
    first: int = 1
    # names of its grids of noise levels: own, and first of the others what own is; none: they are not known yet
    levels: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """Its legal lengths as people write them: `4n+1`."""
        return "any" if self.step == 1 else f"{self.step}n+{self.first}"

    def legal_frames(self, count: int) -> int:
        """The smallest legal frame count that is not below `count`."""
        beyond = max(0, count - self.first)
        return -(-beyond // self.step) * self.step + self.first

    def latent_frames(self, frames: int) -> int:
        """How many latent frames a legal number of frames makes."""
        return (frames - 1) // self.stride[0] + 1

    def check(self, frames: int, height: int, width: int) -> None:
        near = self.legal_frames(frames)
        if near != frames:
            raise UserError(
                f"{frames} frames do not fit this model (needs {self.rule}): use {near - self.step} or {near}"
            )
        for side, name, multiple in zip(
            (height, width), ("height", "width"), self.multiple, strict=True
        ):
            if side % multiple or not side:
                raise UserError(
                    f"{name} {side} does not fit this model: it needs a multiple of {multiple}"
                )

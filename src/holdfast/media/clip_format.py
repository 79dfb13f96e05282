"""The clips that a model takes: legal sizes and lengths, as plain data."""

from dataclasses import dataclass

from ..base.errors import UserError


@dataclass(frozen=True)
class ClipFormat:
    """The legal sizes and lengths of a model's clips, and those that it was trained on.

    A legal clip has `frame_step * n + frame_offset` frames, and sides that are multiples of `size_multiple` pixels.
    """

    stride: tuple[int, int, int]  # pixels per latent cell: time, height, width
    patch: tuple[int, int, int]  # latent cells per token of its attention
    fps: float  # frames per second of its training clips
    train_pixels: int  # pixels per frame of its training clips; 0: all sizes suit it
    train_frames: int  # the longest training clip
    max_frames: int  # the longest clip that its position codes allow
    size_multiple: tuple[int, int] = (1, 1)  # pixels, height and width
    frame_step: int = 1
    frame_offset: int = 1
    # Names of its noise schedules: "native", then first the one that "native" equals. Empty if they are not known.
    schedules: tuple[str, ...] = ()

    @property
    def length_rule(self) -> str:
        """The legal lengths in the usual notation: `4n+1`."""
        return "any" if self.frame_step == 1 else f"{self.frame_step}n+{self.frame_offset}"

    def round_up_frames(self, count: int) -> int:
        """Return the smallest legal number of frames that is at least `count`."""
        beyond = max(0, count - self.frame_offset)
        return -(-beyond // self.frame_step) * self.frame_step + self.frame_offset

    def count_latent_frames(self, frames: int) -> int:
        """Return the number of latent frames of a legal number of frames."""
        return (frames - 1) // self.stride[0] + 1

    def check_clip(self, frames: int, height: int, width: int) -> None:
        """Raise UserError if a clip of this length and size is not legal."""
        legal = self.round_up_frames(frames)
        if legal != frames:
            raise UserError(
                f"{frames} frames do not fit this model (needs {self.length_rule})",
                f"use {legal - self.frame_step} or {legal}",
            )
        sides = zip((height, width), ("height", "width"), self.size_multiple, strict=True)
        for side, name, multiple in sides:
            if side % multiple or not side:
                raise UserError(
                    f"{name} {side} does not fit this model", f"use a multiple of {multiple}"
                )

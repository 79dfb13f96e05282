"""KeepTask: the one schema of putting another editor's change back into its source."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from ..base.errors import UserError
from ..base.schema import Field, Range, settings_class

Codec = Literal["auto", "h264", "h265", "vp9", "av1", "prores", "ffv1", "lossless", "lossless-rgb"]


@settings_class
class KeepTask:
    """A source, an edited version of it from any editor, and how to put the change back into the source.

    Raise UserError for a value that a field does not take.
    """

    source: str = Field(description="The clip before the edit: it is returned with the change.")
    edited: str = Field(
        description="The edited clip, from any editor. Its size, rate, length and colours may differ."
    )
    output: str = Field(
        default="",
        description="The output file; the extension selects the container. "
        "A manifest is written next to it.",
    )
    mask: str | None = Field(
        default=None,
        description="Where the change may be: a video, a folder of frames or an image "
        "(white is inside), or a box x,y,w,h.",
    )
    mask_use: Literal["limit", "replace"] = Field(
        default="limit",
        description="Look for the change only inside the mask, or take the mask as the change.",
    )
    invert_mask: bool = Field(default=False, description="Black is inside the mask.")
    brushes: tuple[str, ...] = Field(
        default=(),
        description="A picture that is white where the change may be, [N=]FILE on frame N of the source; "
        "it is tracked through the clip. May be repeated.",
    )
    words: tuple[str, ...] = Field(
        default=(),
        description="Words for the changed object in the source, [N=]TEXT, found by a detector; "
        "may be repeated.",
    )
    detector: str | None = Field(
        default=None, description="A folder or hub id of the detector's weights, for words."
    )
    grow: Annotated[int, Range(-10000, 10000)] | None = Field(
        default=None,
        description="Grow the mask by so many pixels. The default is 0.7 % of the longer side "
        "for a clean edited clip, down to 0.2 % for a noisy one.",
    )
    feather: Annotated[int, Range(0, 10000)] | None = Field(
        default=None,
        description="Pixels over which the change fades out around the mask. "
        "The default is about 0.4 % of the longer side.",
    )
    min_area: Annotated[int, Range(1, None)] | None = Field(
        default=None,
        description="Pixels of the source that a changed part needs. The default is 0.03 % of the picture.",
    )
    soft: bool = Field(
        default=False,
        description="Include weak changes next to the change, such as shadows and reflections.",
    )
    blend: Literal["feather", "poisson"] = Field(
        default="feather",
        description="feather: fade over the band around the mask. "
        "poisson: keep the edited gradients there, without a seam (Perez et al., 2003).",
    )
    ending: Literal["source", "hold"] = Field(
        default="source",
        description="Where the edited clip has no frames: leave the source, or hold its nearest frame.",
    )
    whole: bool = Field(
        default=False,
        description="Take the whole picture from the edited clip, in the source's times and size: "
        "for an edit of everything, such as another style.",
    )
    preview: str | None = Field(
        default=None, description="Also write the source with the mask over it to this file."
    )
    codec: Codec = Field(
        default="lossless",
        description="Video codec. lossless: outside the change every sample is the source's.",
    )
    crf: Annotated[int, Range(0, 63)] | None = Field(
        default=None, description="Quality of a lossy codec; lower is better."
    )

    def __post_init__(self) -> None:
        for name in ("source", "edited"):
            if not getattr(self, name).strip():
                raise UserError(f"{name} is empty", "give the name of a clip")
        if self.mask is not None and not self.mask.strip():
            raise UserError("mask is empty", "use a file or a box x,y,w,h")
        if self.mask and (self.brushes or self.words):
            raise UserError("mask and brushes or words are given", "give one of them")

    @property
    def input_files(self) -> list[str]:
        """The files that the result is made from."""
        brushes = [text.partition("=")[2] or text for text in self.brushes]
        return [self.source, self.edited, *([self.mask] if self.mask else []), *brushes]

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "KeepTask":
        """Return the task of a JSON object. Raise UserError for a field that does not exist, and for a wrong value."""
        return cls(**values)

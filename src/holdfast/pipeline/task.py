"""EditTask: the one schema of an edit. The command line, the manifest and resuming are made from it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from .. import __version__
from ..base.errors import UserError
from ..base.prompts import say_the_same
from ..base.schema import Range, Share, check
from ..media.image_files import is_system_file
from ..models import registry

# fields that change the written clip and not the edited latents
OUTPUT_FIELDS = ("codec", "crf", "feather")


def _field(
    text: str,
    default: Any = dataclasses.MISSING,
    flags: tuple[str, ...] = (),
    argument: bool = False,
) -> Any:
    """A field with its help text. flags: its names on the command line; argument: it has no flag."""
    metadata = {"help": text, "flags": flags, "argument": argument}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class EditTask:
    """What to edit, into what, with what. Everything that a result depends on. Raises ValueError for what a field does
    not take.
    """

    input: str = _field(
        "The clip: mp4, mov, mkv, webm, gif, an image, or a folder of images.", argument=True
    )
    output: str = _field(
        "Where the result goes; its name says the container. A manifest goes beside it.",
        flags=("-o", "--output"),
    )
    source: str = _field("A prompt that describes the clip.", "")
    target: str = _field("A prompt that describes the wanted clip.", "")
    negative: str = _field("A prompt to keep away from, for both.", "")
    method: str = _field("The editing method (see: holdfast list methods).", "flowedit")
    backbone: str = _field("The model (see: holdfast list backbones).", "wan2.1-1.3b")
    weights: str | None = _field(
        "A folder or hub id of the same family, in place of the backbone's own weights.", None
    )
    guide: str | None = _field(
        "A second model over the same latents, for methods that take one: NAME, or NAME=FOLDER.",
        None,
    )
    first_frame: str | None = _field(
        "The clip's first frame as it is wanted, for a model that goes on from an image.", None
    )
    keyframes: tuple = _field(
        "A frame as it is wanted at another place than the first, N=IMAGE (from 0); "
        "may be repeated.",
        (),
        flags=("--keyframe",),
    )
    mask: str | None = _field(
        "Where the edit may show: a video, folder of frames or image (bright is inside), "
        "a box x,y,w,h, or auto.",
        None,
    )
    invert_mask: bool = _field("Dark is inside the mask.", False)
    outline: Literal["given", "hull", "box"] = _field(
        "Use the mask as given, or its convex hull or bounding box.", "given"
    )
    grow: Annotated[int, Range(-100000, 100000)] | None = _field(
        "Pixels by which the mask grows; negative shrinks it.", None
    )
    feather: Annotated[int, Range(0, 100000)] | None = _field(
        "Pixels over which the edit fades out around the mask; "
        "the default is 0, and half a cell of the model's latent for --mask auto.",
        None,
    )
    mask_channel: Literal["auto", "colour", "alpha"] = _field(
        "Which layer of a mask file has the shape, where both its colour and its alpha could be meant.",
        "auto",
    )
    allow_any_mask: bool = _field(
        "Go on with a mask that is empty (nothing changes) or full (all may change).", False
    )
    words: tuple = _field(
        "A word or phrase of the target that drives the edit, where the two prompts do not tell; "
        "may be repeated.",
        (),
    )
    frames: str | None = _field(
        "Edit only frames A:B (from 0, B left out) and keep the rest.", None
    )
    window: Annotated[int, Range(0, None)] | None = _field(
        "Frames edited at once; longer clips go in overlapping windows. 0: in one piece.", None
    )
    strength: Share | None = _field(
        "How strong, 0 to 1: the share of the noise levels that are walked.", None
    )
    settings: dict = _field(
        "A setting of the method, key=value; may be repeated.", {}, flags=("--set",)
    )
    seed: int = _field("The same seed gives the same result.", 0)
    device: Literal["auto", "cpu", "cuda"] = _field("Where to compute.", "auto")
    dtype: Literal["auto", "bfloat16", "float32"] = _field(
        "auto is bfloat16 on a GPU, float32 on a CPU.", "auto"
    )
    deinterlace: bool = _field(
        "Make whole frames of an interlaced clip's fields; else they are kept.", False
    )
    background: str | None = _field(
        "A colour (black, #rrggbb) that a clip that is seen through is laid over; else it stays so.",
        None,
    )
    codec: Literal[
        "auto", "h264", "h265", "vp9", "av1", "prores", "ffv1", "lossless", "lossless-rgb"
    ] = _field("How the result is encoded; auto goes by its container and depth.", "auto")
    crf: Annotated[int, Range(0, 63)] | None = _field(
        "Quality of the codec; lower is better. The default is visually lossless.", None
    )

    def __post_init__(self) -> None:
        check(self)
        if self.mask is not None and not self.mask.strip():
            raise UserError("mask is a file, a box x,y,w,h or auto, not an empty text")
        for text in (self.source, self.target, self.negative, *self.words):
            # Surrogates are what a command line has in place of wrong bytes.
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise UserError(f"prompts and words are UTF-8 text, and {text!r} is not")

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> "EditTask":
        """Raises ValueError for a field that there is not."""
        known = {f.name: f.default for f in dataclasses.fields(cls)}
        unknown = set(data) - set(known)
        if unknown:
            raise UserError(
                f"an edit task has no {', '.join(sorted(unknown))}; it has: {', '.join(known)}"
            )
        needed = ("input", "output")
        absent = [name for name in needed if name not in data]
        if absent:
            raise UserError(f"an edit task needs {', '.join(absent)}")
        return cls(**data)

    def keyframe_paths(self) -> dict[int, str]:
        """The images of the key frames by their place. Raises ValueError for what is no N=IMAGE."""
        found = {}
        for text in self.keyframes:
            place, _, path = text.partition("=")
            if not (place.strip().isdigit() and path):
                raise UserError(f"--keyframe takes N=IMAGE, such as 24=edited.png, not {text!r}")
            if int(place) in found:
                raise UserError(f"--keyframe {place}=... is given twice")
            found[int(place)] = path
        return dict(sorted(found.items()))

    @property
    def changes_nothing(self) -> bool:
        """Whether the wanted clip is the one there is: both prompts say the same, and no frame was edited."""
        told = self.first_frame is not None or bool(self.keyframes)
        return not told and say_the_same(self.source, self.target)

    @property
    def prompts(self) -> tuple[str, str, str]:
        """Source, target and negative prompt."""
        return self.source, self.target, self.negative

    def latent_key(self) -> str:
        """A hash of what the edited latents depend on: not of where and how the result is written.

        Of the package's version it takes what tells releases apart that may give other numbers: a third number is of a
        release that keeps every result.
        """
        left_out = ("output", "allow_any_mask", *OUTPUT_FIELDS)
        data = {k: v for k, v in self.to_dict().items() if k not in left_out}
        if self.mask_channel == "auto":  # keys of earlier versions hold
            del data["mask_channel"]
        for name in ("input", "mask", "first_frame"):
            data[name] = _fingerprint(data[name])
        data["keyframes"] = [[n, _fingerprint(path)] for n, path in self.keyframe_paths().items()]
        data["place"] = None if self.mask and Path(self.mask).exists() else self.mask
        data |= self._model_identities()
        return _hash(data)

    def _model_identities(self) -> dict:
        """What a key says of the model and its helper: which files they are loaded from, wherever those lie."""
        model = registry.identify(self.backbone, self.weights)
        helper = registry.identify_image_model(self.backbone, self.guide)
        return {
            "weights": model["identity"] if model else self.weights,
            "guide": [(self.guide or "").partition("=")[0], helper and helper["identity"]],
            "version": __version__.split(".")[:2],
        }

    def adapters_key(self, settings: Mapping[str, Any]) -> str:
        """A hash of what adapters that are fitted to the clip depend on: not of what the clip is to become.

        settings: those of the method that they depend on, with their values.
        """
        names = ("backbone", "weights", "frames", "window", "seed", "device", "dtype")
        names += ("deinterlace", "background")
        data = {name: getattr(self, name) for name in names}
        data |= {"input": _fingerprint(self.input), "settings": dict(settings)}
        data["clips"] = list(self.keyframe_paths())  # where those of a long one begin
        data |= {k: v for k, v in self._model_identities().items() if k != "guide"}
        return _hash(data)


def file_stamp(path: str | Path) -> str:
    """A hash of a file's name, size and time, or of those in a folder: whether it is still what it was."""
    return _hash(_fingerprint(path))


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprint(path: str | Path | None) -> list:
    """Name, size and time of a file, or of all files in a folder."""
    if not path or not Path(path).exists():  # a box, or auto
        return []
    place = Path(path)
    inside = [f for f in place.iterdir() if not is_system_file(f)] if place.is_dir() else [place]
    files = [f for f in sorted(inside) if f.is_file()]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def parse_frame_range(frames: str | None, count: int) -> range:
    """The frames that "A:B" means of a clip of `count`. Raises ValueError where that is none."""
    if frames is None:
        return range(count)
    try:
        first, last = (int(p) if p.strip() else None for p in frames.split(":"))
    except ValueError as error:
        raise UserError(f"--frames takes A:B, such as 12:48, not {frames!r}") from error
    part = range(count)[first:last]
    if not part:
        raise UserError(f"--frames {frames} is no frame of a clip of {count}")
    return part

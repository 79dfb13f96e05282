"""EditTask: the one schema of an edit. The command line, the manifest and resuming are made from it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from .. import __version__, methods
from ..base import old_names
from ..base.errors import UserError
from ..base.memory import parse_limit
from ..base.names import normalize
from ..base.notices import warn_user
from ..base.prompts import are_same_prompts
from ..base.schema import Device, Dtype, Field, Range, Share, settings_class
from ..media.image_files import is_system_file
from ..models import registry
from .mask_areas import MaskArea, check_areas, read_areas

PATH_FIELDS = ("input", "output", "raw", "weights", "image_model", "first_frame", "keyframes")
PATH_FIELDS += ("control", "controlnet")
CONTROL_DEFAULTS = {"control": None, "controlnet": None, "control_scale": 1.0}
CONTROL_KINDS = ("canny", "hed", "depth")  # control pictures that are made from the clip
# Fields that change the written clip, and not the edited latent.
OUTPUT_FIELDS = ("codec", "crf", "feather")


@settings_class
class EditTask:
    """One edit: the clip, the prompts, and everything else that its result depends on.

    Raise UserError for a value that a field does not take.
    """

    input: str = Field(
        description="The clip: mp4, mov, mkv, webm, gif, an image, or a folder of images."
    )
    output: str = Field(
        description="The output file; the extension selects the container. "
        "A manifest is written next to it."
    )
    source_prompt: str = Field(default="", description="Prompt that describes the clip.")
    target_prompt: str = Field(default="", description="Prompt that describes the edited clip.")
    negative: str = Field(default="", description="Negative prompt, used for source and target.")
    method: str = Field(
        default="flowedit", description="The editing method (see: holdfast list methods)."
    )
    backbone: str = Field(
        default="wan2.1-1.3b",
        description="The model (see: holdfast list backbones). "
        "A method that needs none replaces the default by the backbone without a model.",
    )
    weights: str | None = Field(
        default=None,
        description="A folder or hub id of the same family, instead of the model's own weights.",
    )
    image_model: str | None = Field(
        default=None,
        description="An image model over the same latents, for methods that use one: "
        "NAME or NAME=FOLDER.",
    )
    control: str | None = Field(
        default=None,
        description="What the edited frames follow, by a ControlNet: canny (edges), hed (soft edges) or depth of the "
        "clip, or a clip or a folder of such pictures. The default is none, and canny for methods that need one.",
    )
    controlnet: str | None = Field(
        default=None,
        description="The ControlNet that reads the control pictures: canny, hed or depth for the model's own, a "
        "folder, or a hub id. The default is the one for --control.",
    )
    control_scale: Annotated[float, Range(0, 2)] = Field(
        default=1.0, description="How strongly the ControlNet counts."
    )
    first_frame: str | None = Field(
        default=None,
        description="The edited first frame, for a model or method that starts from one.",
    )
    keyframes: tuple[str, ...] = Field(
        default=(),
        description="An edited frame after the first, N=IMAGE (from 0); may be repeated.",
    )
    mask: Annotated[str | tuple[MaskArea, ...] | None, BeforeValidator(read_areas)] = Field(
        default=None,
        description="Where the edit may show: a video, a folder of frames or an image "
        "(white is inside), a box x,y,w,h, or auto. Several masks, each with the words of the target "
        "prompt that count there: MASK=WORDS; may be repeated.",
    )
    invert_mask: bool = Field(default=False, description="Black is inside the mask.")
    outline: Literal["given", "hull", "box"] = Field(
        default="given", description="Use the mask as given, its convex hull, or its bounding box."
    )
    grow: Annotated[int, Range(-100000, 100000)] | None = Field(
        default=None, description="Grow the mask by so many pixels; a negative number shrinks it."
    )
    feather: Annotated[int, Range(0, 100000)] | None = Field(
        default=None,
        description="Pixels over which the edit fades out around the mask. "
        "The default is 0, and half a cell of the model's latent for an automatic mask.",
    )
    mask_channel: Literal["auto", "colour", "alpha"] = Field(
        default="auto",
        description="The channel of a mask file with the shape, if both could be meant.",
    )
    allow_any_mask: bool = Field(
        default=False,
        description="Accept a mask that is empty (nothing changes) or full (everything may change).",
    )
    words: tuple[str, ...] = Field(
        default=(),
        description="A word or phrase of the target prompt that drives the edit, "
        "if the difference between the prompts is ambiguous; may be repeated.",
    )
    frames: str | None = Field(
        default=None, description="Edit only frames A to B-1, A:B (from 0), and keep the rest."
    )
    every: Annotated[int, Range(2, None)] | None = Field(
        default=None,
        description="Edit every N-th frame only. The result holds these frames, each at its own time, and no sound.",
    )
    count: Annotated[int, Range(1, None)] | None = Field(
        default=None,
        description="Edit so many evenly spaced frames only, from the first to the last. The result holds these "
        "frames, each at its own time, and no sound.",
    )
    window: Annotated[int, Range(0, None)] | None = Field(
        default=None,
        description="Frames edited at once; a longer clip is edited in overlapping windows. "
        "0: all at once.",
    )
    strength: Share | None = Field(
        default=None,
        description="How much the clip may change, from 0 (nothing) to 1 (everything): "
        "the fraction of the denoising steps that are run.",
    )
    quality: Literal["draft", "normal", "best"] = Field(
        default="normal",
        description="How many steps the edit takes. normal: those that the model recommends, or "
        "the method's own; draft: 40 % of them (score distillation takes longer steps instead of "
        "a weaker edit); best: the method's own, as in its paper. The setting `steps` "
        "overrides it.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="A setting of the method, key=value; may be repeated."
    )
    seed: int = Field(
        default=0, description="Seed of the noise. The same seed gives the same result."
    )
    device: Device = Field(
        default="auto", description="Where to compute: auto, cpu, cuda, cuda:1, xpu or mps."
    )
    dtype: Dtype = Field(
        default="auto",
        description="Number format; auto is float32 on a CPU, and bfloat16 on a GPU "
        "(float16 where the GPU has no bfloat16).",
    )
    memory: str = Field(
        default="auto",
        description="Memory that the edit may take, such as 12GB: of the GPU, or of the process "
        "on a CPU. auto: 90 % of what is free. 12GB,float8 also stores the denoiser in float8, "
        "which changes the result slightly.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the model's blocks (torch.compile). The first steps take minutes longer, "
        "and results differ in their last digits.",
    )
    deinterlace: bool = Field(default=False, description="Deinterlace the clip.")
    background: str | None = Field(
        default=None,
        description="Background colour (black, #rrggbb) for a clip with transparency. "
        "The default keeps the alpha channel.",
    )
    codec: Literal[
        "auto", "h264", "h265", "vp9", "av1", "prores", "ffv1", "lossless", "lossless-rgb"
    ] = Field(default="auto", description="Video codec; auto: chosen from file type and bit depth.")
    crf: Annotated[int, Range(0, 63)] | None = Field(
        default=None,
        description="Quality of the codec; lower is better. The default is visually lossless.",
    )
    raw: str | None = Field(
        default=None,
        description="Also write the clip as the method left it, before the mask put the source "
        "back, to this file.",
    )

    def __post_init__(self) -> None:
        parse_limit(self.memory)
        object.__setattr__(self, "backbone", self._choose_backbone())
        if isinstance(self.mask, str) and not self.mask.strip():
            raise UserError("mask is empty", "use a file, a box x,y,w,h or auto")
        check_areas(self.areas, self.words)
        if self.every and self.count:
            raise UserError(
                f"every is {self.every} and count is {self.count}, which both choose frames",
                "use --every or --count",
            )
        paths = [(name, "".join(getattr(self, name) or "")) for name in PATH_FIELDS]
        for name, value in [*paths, *(("mask", mask) for mask in self.masks)]:
            if not _can_be_path(value):
                raise UserError(f"{name} is {value!r}", "use a path that a file can have")
        for text in (self.source_prompt, self.target_prompt, self.negative, *self.all_words):
            # A command line has surrogates in place of bytes that are no UTF-8.
            if any("\ud800" <= c <= "\udfff" for c in text):
                raise UserError(f"{text!r} is not UTF-8", "write prompts and words as UTF-8 text")

    def _choose_backbone(self) -> str:
        """Return the task's backbone; for a method that needs no model, one without weights in place of the default."""
        if self.backbone != EditTask.backbone or self.method == EditTask.method:
            return self.backbone
        same = [name for name in methods.names() if normalize(name) == normalize(self.method)]
        if not same:  # planning reports an unknown method
            return self.backbone
        needs = methods.load(same[0]).METHOD
        if not needs.missing(registry.specs()[self.backbone].capabilities):
            return self.backbone
        return registry.find_weightless(lambda found: not needs.missing(found)) or self.backbone

    @staticmethod
    def rename_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the constructor's arguments with the present names of those that release 0.1 called otherwise."""
        return old_names.rename_fields(values)

    def __getattr__(self, name: str) -> Any:
        """Return a field by its name of release 0.1, with a notice."""
        if name not in old_names.FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        warn_user(old_names.describe_rename(name, old_names.FIELDS[name]))
        return getattr(self, old_names.FIELDS[name])

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], notify: bool = True) -> "EditTask":
        """Make a task from JSON data. Fields may have their names of release 0.1. Raise UserError as the class does.

        notify: warn the user of each old name.
        """
        return cls(**old_names.rename_fields(data, notify))

    def keyframe_paths(self) -> dict[int, str]:
        """Return the paths of the keyframes by their index. Raises UserError for a text that is not N=IMAGE."""
        paths: dict[int, str] = {}
        for text in self.keyframes:
            index, _, path = text.partition("=")
            if not (index.strip().isdigit() and path):
                raise UserError(
                    f"{text!r} is not a keyframe", "--keyframe takes N=IMAGE, such as 24=edited.png"
                )
            if int(index) in paths:
                raise UserError(f"keyframe {index} is given twice", "remove one --keyframe")
            paths[int(index)] = path
        return dict(sorted(paths.items()))

    @property
    def areas(self) -> tuple[MaskArea, ...]:
        """The masks of a task that lists them, with the words of each; empty for a single mask or none."""
        return self.mask if isinstance(self.mask, tuple) else ()

    @property
    def masks(self) -> tuple[str, ...]:
        """The files, boxes or words that are the task's masks."""
        single = (self.mask,) if isinstance(self.mask, str) else ()
        return single or tuple(area.mask for area in self.areas)

    @property
    def control_file(self) -> str | None:
        """The clip or folder of control pictures, for a task that names one."""
        return None if self.control in CONTROL_KINDS else self.control

    @property
    def all_words(self) -> tuple[str, ...]:
        """The words that are named for the whole edit, or for its masks."""
        return self.words or tuple(word for area in self.areas for word in area.words)

    @property
    def changes_nothing(self) -> bool:
        """Whether the result equals the source: both prompts have the same words, and no frame was edited."""
        has_edited_frame = self.first_frame is not None or bool(self.keyframes)
        return not has_edited_frame and are_same_prompts(self.source_prompt, self.target_prompt)

    @property
    def prompts(self) -> tuple[str, str, str]:
        """Source, target and negative prompt."""
        return self.source_prompt, self.target_prompt, self.negative

    def latent_key(self) -> str:
        """Return a hash of all that the edited latent depends on, which excludes where and how the result is written.

        Of the package's version it includes the first two numbers: a release with another third number keeps every
        result.
        """
        excluded = ("output", "raw", "allow_any_mask", *OUTPUT_FIELDS)
        data = {k: v for k, v in self.to_dict().items() if k not in excluded}
        if self.mask_channel == "auto":  # so that keys of earlier versions stay valid
            del data["mask_channel"]
        if self.quality == "normal":
            del data["quality"]
        if not self.compile:
            del data["compile"]
        for name in ("every", "count"):
            if data[name] is None:
                del data[name]
        for name, default in CONTROL_DEFAULTS.items():
            if data[name] == default:
                del data[name]
        if self.control_file:
            data["control"] = _fingerprint(self.control_file)
        # A size changes where weights are, not the numbers; a run can be resumed with another size.
        data["memory"] = parse_limit(self.memory).storage
        if not data["memory"]:
            del data["memory"]
        for name in ("input", "first_frame"):
            data[name] = _fingerprint(data[name])
        data["mask"] = [_fingerprint(mask) for mask in self.masks]
        data["keyframes"] = [[n, _fingerprint(path)] for n, path in self.keyframe_paths().items()]
        data["place"] = [None if Path(mask).exists() else mask for mask in self.masks]
        if self.areas:
            data["mask_words"] = [area.words for area in self.areas]
        else:  # so that keys of earlier versions stay valid
            data["mask"] = next(iter(data["mask"]), [])
            data["place"] = next(iter(data["place"]), None)
        data |= self._model_identities()
        return _hash(data)

    def _model_identities(self) -> dict[str, Any]:
        """Return which files the models are loaded from, wherever the files are stored."""
        model = registry.identify(self.backbone, self.weights)
        helper = registry.identify_image_model(self.backbone, self.image_model)
        return {
            "weights": model["identity"] if model else self.weights,
            "guide": [(self.image_model or "").partition("=")[0], helper and helper["identity"]],
            "version": __version__.split(".")[:2],
        }

    def adapters_key(self, settings: Mapping[str, Any]) -> str:
        """Return a hash of all that adapters trained on the clip depend on, which excludes the target of the edit.

        settings: the method's settings that the training depends on, with their values.
        """
        names = ("backbone", "weights", "frames", "window", "seed", "device", "dtype")
        names += ("deinterlace", "background")
        data = {name: getattr(self, name) for name in names}
        data |= {"input": _fingerprint(self.input), "settings": dict(settings)}
        data |= {name: n for name in ("every", "count") if (n := getattr(self, name))}
        data["clips"] = list(self.keyframe_paths())  # where the segments of a long clip begin
        data |= {k: v for k, v in self._model_identities().items() if k != "guide"}
        if self.control:
            data["control"] = [getattr(self, name) for name in CONTROL_DEFAULTS]
        if storage := parse_limit(self.memory).storage:
            data["memory"] = storage
        return _hash(data)


def _can_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate, which JSON allows
        return False


def file_stamp(path: str | Path) -> str:
    """Return a hash of the name, size and time of a file, or of all files in a folder, to notice changes."""
    return _hash(_fingerprint(path))


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _fingerprint(path: str | Path | None) -> list[list[Any]]:
    """Return name, size and time of a file, or of all files in a folder. Empty for a mask that is a box or auto."""
    if not path or not Path(path).exists():
        return []
    path = Path(path)
    entries = [f for f in path.iterdir() if not is_system_file(f)] if path.is_dir() else [path]
    files = [f for f in sorted(entries) if f.is_file()]
    return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def parse_frame_range(frames: str | None, count: int) -> range:
    """Return the frames that "A:B" selects from a clip of `count`. Raises UserError where it selects none."""
    if frames is None:
        return range(count)
    try:
        first, last = (int(p) if p.strip() else None for p in frames.split(":"))
    except ValueError as error:
        raise UserError(
            f"{frames!r} is not a range of frames", "--frames takes A:B, such as 12:48"
        ) from error
    part = range(count)[first:last]
    if not part:
        raise UserError(
            f"frames {frames} is outside the clip ({count} frames, 0 to {count - 1})",
            "choose frames of the clip",
        )
    return part

"""Find a backbone's weights, say what is missing and how to get it, complete configurations, and choose device and
number type. Nothing is downloaded.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import Missing, UserError
from . import downloads, headers, hub, layouts
from .spec import Model

CHECKPOINTS = Path(__file__).parent.parent / "shapeworld" / "checkpoints"
# What each class takes for a value that its configuration leaves out: written by tests/configurations.py from the
# classes themselves, since importing those takes seconds that a wrong flag should not cost.
DEFAULTS = Path(__file__).parent / "defaults.json"
INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
# What goes with a part, in any of these ways.
BESIDE = {
    "text_encoder": (
        "tokenizer/tokenizer.json",
        "tokenizer/vocab.json",
        "tokenizer/spiece.model",
    ),
    "image_encoder": ("feature_extractor/preprocessor_config.json",),
}


def find(model: Model, weights: str | None, parts: Sequence[str], pipelines: Sequence[str]) -> Path:
    """Return the folder that holds a model's parts.

    weights: a folder or a hub id in place of the model's own. pipelines: class names that its index may have.
    Raises UserError for a wrong folder, Missing for a hub id that is not on this machine.
    """
    place = place_of(model, weights)
    if place is not None:
        return _checked(place, model, parts, pipelines)
    if not weights and not model.gigabytes:
        raise Missing(
            f"the embedded checkpoint {model.weights} is not in this installation; install the package again"
        )
    return _downloaded(model, weights or model.weights, parts, pipelines)


def place_of(model: Model, weights: str | None) -> Path | None:
    """The file or folder that is named as weights, or the embedded one; None where the name can only be a hub id."""
    place = Path(weights).expanduser() if weights else CHECKPOINTS / model.weights
    try:
        return place if place.exists() else None
    except OSError:  # a name that is too long, say
        return None


def locate(model: Model, weights: str | None) -> Path | None:
    """The folder of a model's weights, here or in the hub's cache, unchecked; None where there is none."""
    place = place_of(model, weights)
    if place is not None or (not weights and not model.gigabytes):
        return place
    try:
        return hub.cached(weights or model.weights)
    except UserError:  # no hub id
        return None


def _checked(folder: Path, model: Model, parts: Sequence[str], pipelines: Sequence[str]) -> Path:
    """Raises UserError for a folder of another kind, or one that lacks a part."""
    _refuse_undecodable(folder)
    if not (folder / INDEX).is_file():
        raise layouts.refusal(folder, model)
    _same_pipeline(folder, pipelines)
    absent = _lacking(folder, parts)
    if absent:
        raise UserError(
            f"{folder} lacks {', '.join(absent)} (only safetensors are read)",
            _cure(folder, model, parts),
        )
    _whole(folder, parts)
    return folder


def _refuse_undecodable(folder: Path) -> None:
    """Raise UserError for a name that is not UTF-8: the libraries that open its files take text."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        cause = f"{str(folder)!r} has bytes in its name that are not UTF-8"
        raise UserError(cause, "rename the folder") from error


def _same_pipeline(folder: Path, pipelines: Sequence[str]) -> None:
    kind = index(folder).get("_class_name")
    if kind not in pipelines:
        raise UserError(f"{folder} holds a {kind}, not a {' or '.join(pipelines)}")


def _lacking(folder: Path, parts: Sequence[str]) -> list[str]:
    """What of a folder is not there."""
    absent = [name for part in parts for name in headers.lacking(folder / part)]
    for part in parts:
        beside = BESIDE.get(part, ())
        if beside and not any((folder / name).is_file() for name in beside):
            absent.append(beside[0])
    if not (folder / SCHEDULER).is_file():
        absent.append(SCHEDULER)
    return absent


def _cure(folder: Path, model: Model, parts: Sequence[str]) -> str:
    """What to do about a folder that lacks something."""
    absent = [folder / part for part in parts if not headers.files(folder / part)]
    if any(headers.pickles(part) for part in absent):
        return f"make safetensors of them with: {downloads.convert_command(str(folder))}"
    for part in absent:
        if other := headers.list_misnamed(part):
            plain = "model" if part.name.endswith("encoder") else "diffusion_pytorch_model"
            return f"rename {part.name}/{other[0].name} to {plain}.safetensors if it is to be used"
    return layouts.cure(model)


def _whole(folder: Path, parts: Sequence[str]) -> None:
    """Raises UserError for a part whose files are damaged, or whose configuration is absurd."""
    for part in parts:
        headers.plausible(folder / part)


def _downloaded(model: Model, hub_id: str, parts: Sequence[str], pipelines: Sequence[str]) -> Path:
    if hub.split(hub_id)[0].count("/") != 1:
        raise UserError(f"{hub_id!r} is neither a folder nor a hub id", "a hub id is OWNER/NAME")
    folder, get = hub.cached(hub_id), downloads.download(model, hub_id)
    if folder is None:
        size = f" ({get.size})" if get.size else ""
        how = (
            f"; {' and '.join(get.pickled)} are .bin files, to be converted" if get.pickled else ""
        )
        raise Missing(
            f"the weights {hub_id}{size} are not on this machine{how}; get them with: {get.command}"
        )
    absent = [] if (folder / INDEX).exists() else [INDEX]
    if absent and layouts.describe(folder)[0]:
        raise layouts.refusal(folder, model)
    absent += _lacking(folder, parts)
    pickled = [part for part in parts if _only_pickled(folder / part)]
    if pickled:
        convert = downloads.convert_command(str(folder))
        raise Missing(
            f"the weights {hub_id} have {', '.join(pickled)} as .bin files, which are not read; "
            f"make safetensors of them with: {convert}"
        )
    if absent:
        all_files = f" (or, where that finds nothing, {hub.command(hub_id, [])})"
        raise Missing(
            f"the download of {hub_id} is not complete (no {', '.join(absent)}); "
            f"go on with: {get.command}{'' if get.bytes else all_files}"
        )
    _same_pipeline(folder, pipelines)
    _whole(folder, parts)
    return folder


def _only_pickled(part: Path) -> bool:
    return bool(headers.pickles(part)) and not headers.files(part)


def index(folder: Path) -> dict:
    """What a folder says of itself as a whole: its parts' classes, and its pipeline's own settings."""
    return headers.read(folder / INDEX)


def config(folder: Path, part: str) -> dict:
    """Return a part's configuration, complete: with its class's defaults for what the file leaves out. It is read
    without loading the part. Raises UserError for a file that holds none.
    """
    found = headers.read(folder / (SCHEDULER if part == "scheduler" else f"{part}/config.json"))
    return defaults(class_of(found) or _class_in_index(folder, part)) | found


def class_of(config: dict) -> str:
    """The class that a configuration names; empty where it names none."""
    named = config.get("_class_name") or config.get("architectures")
    first = named[0] if isinstance(named, list) and named else named
    return first if isinstance(first, str) else ""


def _class_in_index(folder: Path, part: str) -> str:
    named = index(folder).get(part) if (folder / INDEX).is_file() else None
    return named[1] if isinstance(named, list) and len(named) == 2 and named[1] else ""


def defaults(name: str) -> dict:
    """What a class takes for values that a configuration leaves out; nothing for a class that is not known."""
    return dict(_all_defaults().get(name, {}))


@functools.cache
def _all_defaults() -> dict[str, dict]:
    return json.loads(DEFAULTS.read_text(encoding="utf-8"))


def pick_device(device: str):
    """auto, cpu or cuda as a torch.device. Raises ValueError where it is not here, or is no device."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is auto, cpu or cuda, not {device!r}")
    here = torch.cuda.is_available()
    if device == "cuda" and not here:
        raise UserError("there is no CUDA device here", "use --device cpu or auto")
    return torch.device("cuda" if here and device != "cpu" else "cpu")


def pick_dtype(dtype: str, device):
    """auto is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    known["auto"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise UserError(f"dtype is auto, bfloat16 or float32, not {dtype!r}")
    return known[dtype]

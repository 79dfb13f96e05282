"""Find a backbone's weights, say what is missing and how to get it, and choose device and number type. Nothing is
downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

from .. import hub
from ..errors import Missing, UserError
from . import _headers
from ._cards import Model

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
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
    """The folder that holds a model's parts.

    weights: a folder or a hub id in place of the model's own. pipelines: class names that its index may have.
    Raises ValueError for a wrong folder, Missing for a hub id that is not on this machine.
    """
    place = Path(weights) if weights else CHECKPOINTS / model.weights
    if place.exists():
        return _checked(place, parts, pipelines)
    if not weights and not model.gigabytes:
        raise Missing(
            f"the embedded checkpoint {model.weights} is not in this installation; install the package again"
        )
    size = "" if weights else f" (about {model.gigabytes:g} GB)"
    return _downloaded(weights or model.weights, size, parts)


def _checked(folder: Path, parts: Sequence[str], pipelines: Sequence[str]) -> Path:
    """Raises ValueError for a folder of another kind, or one that lacks a part."""
    if not (folder / INDEX).exists():
        raise UserError(f"{folder} is not a diffusers folder: it has no {INDEX}")
    kind = index(folder).get("_class_name")
    if kind not in pipelines:
        raise UserError(f"{folder} holds a {kind}, not a {' or '.join(pipelines)}")
    absent = _lacking(folder, parts)
    if absent:
        raise UserError(f"{folder} lacks {', '.join(absent)} (only safetensors are read)")
    _whole(folder, parts)
    return folder


def _lacking(folder: Path, parts: Sequence[str]) -> list[str]:
    """What of a folder is not there."""
    absent = [name for part in parts for name in _headers.lacking(folder / part)]
    for part in parts:
        beside = BESIDE.get(part, ())
        if beside and not any((folder / name).is_file() for name in beside):
            absent.append(beside[0])
    if not (folder / SCHEDULER).is_file():
        absent.append(SCHEDULER)
    return absent


def _whole(folder: Path, parts: Sequence[str]) -> None:
    """Raises ValueError for a part whose files are damaged, or whose configuration is absurd."""
    for part in parts:
        _headers.plausible(folder / part)


def _downloaded(hub_id: str, size: str, parts: Sequence[str]) -> Path:
    command, folder = f"hf download {hub_id}", hub.cached(hub_id)
    if folder is None:
        raise Missing(
            f"the weights {hub_id}{size} are not on this machine; get them with: {command}"
        )
    absent = [] if (folder / INDEX).exists() else [INDEX]
    absent += _lacking(folder, parts)
    if absent:
        raise Missing(
            f"the download of {hub_id} is not complete (no {', '.join(absent)}); go on with: {command}"
        )
    _whole(folder, parts)
    return folder


def index(folder: Path) -> dict:
    """What a folder says of itself as a whole: its parts' classes, and its pipeline's own settings."""
    return _headers.read(folder / INDEX)


def config(folder: Path, part: str) -> dict:
    """A part's configuration, read without loading it. Raises ValueError for one that is none."""
    return _headers.read(folder / (SCHEDULER if part == "scheduler" else f"{part}/config.json"))


def pick_device(device: str):
    """auto, cpu or cuda as a torch.device. Raises ValueError where it is not here, or is no device."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is auto, cpu or cuda, not {device!r}")
    here = torch.cuda.is_available()
    if device == "cuda" and not here:
        raise UserError("there is no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if here and device != "cpu" else "cpu")


def pick_dtype(dtype: str, device):
    """auto is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    known["auto"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise UserError(f"dtype is auto, bfloat16 or float32, not {dtype!r}")
    return known[dtype]

"""Find a backbone's weights, say what is missing and how to get it, and choose device and number type. Nothing is
downloaded.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ..registry import Missing
from ._cards import Model

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
INDEX = "model_index.json"


def find(model: Model, weights: str | None, parts: Sequence[str], pipelines: Sequence[str]) -> Path:
    """The folder that holds a model's parts.

    weights: a folder or a hub id in place of the model's own. pipelines: class names that its index may have.
    Raises ValueError for a wrong folder, registry.Missing for a hub id that is not on this machine.
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
        raise ValueError(f"{folder} is not a diffusers folder: it has no {INDEX}")
    kind = index(folder).get("_class_name")
    if kind not in pipelines:
        raise ValueError(f"{folder} holds a {kind}, not a {' or '.join(pipelines)}")
    absent = [p for p in parts if not _there(folder / p)]
    if absent:
        raise ValueError(f"{folder} lacks {', '.join(absent)} (only safetensors are read)")
    return folder


def _there(part: Path) -> bool:
    return any(part.glob("*.safetensors"))


def _downloaded(hub_id: str, size: str, parts: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    command = f"hf download {hub_id}"
    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except HFValidationError as error:
        raise ValueError(f"{hub_id!r} is neither a folder nor a hub id") from error
    except LocalEntryNotFoundError as error:
        raise Missing(
            f"the weights {hub_id}{size} are not on this machine; get them with: {command}"
        ) from error
    absent = [] if (folder / INDEX).exists() else [INDEX]
    absent += [p for p in parts if not _there(folder / p)]
    if absent:
        raise Missing(
            f"the download of {hub_id} is not complete (no {', '.join(absent)}); go on with: {command}"
        )
    return folder


def index(folder: Path) -> dict:
    """What a folder says of itself as a whole: its parts' classes, and its pipeline's own settings."""
    return read(folder / INDEX)


def read(file: Path) -> dict:
    """A JSON file of a checkpoint. Raises ValueError where it is none."""
    try:
        return json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error


def config(folder: Path, part: str) -> dict:
    """A part's configuration, read without loading it."""
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not file.exists():
        raise ValueError(f"{folder} lacks {file.relative_to(folder)}")
    return read(file)


def pick_device(device: str):
    """auto, cpu or cuda as a torch.device. Raises ValueError where it is not here, or is no device."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is auto, cpu or cuda, not {device!r}")
    here = torch.cuda.is_available()
    if device == "cuda" and not here:
        raise ValueError("there is no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if here and device != "cpu" else "cpu")


def pick_dtype(dtype: str, device):
    """auto is bfloat16 on a GPU and float32 on a CPU."""
    import torch

    known = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    known["auto"] = torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise ValueError(f"dtype is auto, bfloat16 or float32, not {dtype!r}")
    return known[dtype]

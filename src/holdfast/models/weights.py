"""Find the weights of a backbone on this machine, or say what is missing and how to get it. Nothing is downloaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import MissingDependencyError, UserError
from . import checkpoint, downloads, hub, layouts, weight_files
from .checkpoint import INDEX, SCHEDULER, Checkpoint
from .spec import BackboneSpec

# Files that go with a part; one of them is enough.
COMPANION_FILES = {
    "text_encoder": (
        "tokenizer/tokenizer.json",
        "tokenizer/vocab.json",
        "tokenizer/spiece.model",
    ),
    "image_encoder": ("feature_extractor/preprocessor_config.json",),
}


@dataclass(frozen=True)
class Requirements:
    """What a checkpoint of a model must hold."""

    spec: BackboneSpec
    parts: Sequence[str]
    pipelines: Sequence[str]  # class names that its index may have
    shared_parts: Mapping[str, Mapping[str, str]]  # of each embedded checkpoint of the family


def find_checkpoint(requirements: Requirements, weights: str | None) -> Checkpoint:
    """Return the checkpoint of a model.

    weights: a folder or a hub id in place of the model's own. Raise UserError for a folder that does not fit, and
    MissingDependencyError for a hub id that is not on this machine.
    """
    spec = requirements.spec
    place = local_place(spec, weights)
    if place is not None:
        return _check_folder(place, requirements)
    if not weights and not spec.download_gb:
        cause = f"the embedded checkpoint {spec.weights} is not in this installation"
        raise MissingDependencyError(cause, "install the package again")
    return _check_download(weights or spec.weights, requirements)


def local_place(spec: BackboneSpec, weights: str | None) -> Path | None:
    """Return the file or folder of the weights; None if the name can only be a hub id."""
    place = Path(weights).expanduser() if weights else checkpoint.EMBEDDED / spec.weights
    try:
        return place if place.exists() else None
    except OSError:  # for example a name that is too long
        return None


def locate(spec: BackboneSpec, weights: str | None) -> Path | None:
    """Return the place of a model's weights, unchecked: local or in the hub's cache. None if it is on neither."""
    place = local_place(spec, weights)
    if place is not None or (not weights and not spec.download_gb):
        return place
    try:
        return hub.find_cached(weights or spec.weights)
    except UserError:  # not a hub id
        return None


def open_checkpoint(folder: Path, shared_parts: Mapping[str, Mapping[str, str]]) -> Checkpoint:
    """Return a folder as a checkpoint. Only an embedded one shares parts with another."""
    is_embedded = folder.parent == checkpoint.EMBEDDED
    return Checkpoint(folder, shared_parts.get(folder.name, {}) if is_embedded else {})


def _check_folder(folder: Path, requirements: Requirements) -> Checkpoint:
    """Raise UserError for a folder of another kind, and for one that lacks a part."""
    _refuse_undecodable(folder)
    if not (folder / INDEX).is_file():
        raise layouts.layout_error(folder, requirements.spec)
    found = open_checkpoint(folder, requirements.shared_parts)
    _check_pipeline(found, requirements.pipelines)
    missing = _missing_files(found, requirements.parts)
    if missing:
        cause = f"{folder} lacks {', '.join(missing)} (only safetensors are read)"
        raise UserError(cause, _remedy(found, requirements))
    _check_parts(found, requirements.parts)
    return found


def _refuse_undecodable(folder: Path) -> None:
    """Raise UserError for a name that is not UTF-8: the libraries that open its files take text."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        cause = f"{str(folder)!r} has bytes in its name that are not UTF-8"
        raise UserError(cause, "rename the folder") from error


def _check_pipeline(found: Checkpoint, pipelines: Sequence[str]) -> None:
    name = found.index().get("_class_name")
    if name not in pipelines:
        raise UserError(f"{found} holds a {name}, not a {' or '.join(pipelines)}")


def _missing_files(found: Checkpoint, parts: Sequence[str]) -> list[str]:
    """Describe what a checkpoint lacks."""
    missing = [name for part in parts for name in weight_files.missing_files(found.part(part))]
    for part in parts:
        companions = COMPANION_FILES.get(part, ())
        if companions and not any(found.file(name).is_file() for name in companions):
            missing.append(companions[0])
    if not found.file(SCHEDULER).is_file():
        missing.append(SCHEDULER)
    return missing


def _remedy(found: Checkpoint, requirements: Requirements) -> str:
    """Say what to do about a checkpoint that lacks something."""
    parts = [found.part(part) for part in requirements.parts]
    missing = [part for part in parts if not weight_files.weight_files(part)]
    if any(weight_files.list_pickles(part) for part in missing):
        command = downloads.convert_command(str(found))
        return f"convert them to safetensors with: {command}"
    for part in missing:
        if other := weight_files.list_misnamed(part):
            stem = "model" if part.name.endswith("encoder") else "diffusion_pytorch_model"
            file = f"{part.name}/{other[0].name}"
            return f"rename {file} to {stem}.safetensors if it holds the weights to use"
    return layouts.remedy(requirements.spec)


def _check_parts(found: Checkpoint, parts: Sequence[str]) -> None:
    """Raise UserError for a part with damaged files or an implausible configuration."""
    for part in parts:
        weight_files.check_plausible(found.part(part))


def _check_download(hub_id: str, requirements: Requirements) -> Checkpoint:
    """Return the checkpoint of a hub id in the hub's cache. Raise MissingDependencyError unless it is complete."""
    if hub.split_revision(hub_id)[0].count("/") != 1:
        raise UserError(f"{hub_id!r} is neither a folder nor a hub id", "a hub id is OWNER/NAME")
    folder = hub.find_cached(hub_id)
    download = downloads.plan_download(requirements.spec, hub_id)
    if folder is None:
        raise _download_error(hub_id, download)
    found = Checkpoint(folder)
    has_index = (folder / INDEX).exists()
    if not has_index and layouts.describe(folder)[0]:
        raise layouts.layout_error(folder, requirements.spec)
    _refuse_pickled(hub_id, found, requirements.parts)
    missing = [] if has_index else [INDEX]
    missing += _missing_files(found, requirements.parts)
    if missing:
        every_file = f" (if that finds nothing: {hub.download_command(hub_id, [])})"
        raise MissingDependencyError(
            f"the download of {hub_id} is not complete (no {', '.join(missing)})",
            f"resume it with: {download.command}{'' if download.bytes else every_file}",
        )
    _check_pipeline(found, requirements.pipelines)
    _check_parts(found, requirements.parts)
    return found


def _download_error(hub_id: str, download: downloads.Download) -> MissingDependencyError:
    size = f" ({download.size})" if download.size else ""
    pickled = ""
    if download.pickled_parts:
        pickled = f"; {' and '.join(download.pickled_parts)} are .bin files, to be converted"
    cause = f"the weights {hub_id}{size} are not on this machine{pickled}"
    return MissingDependencyError(cause, f"get them with: {download.command}")


def _refuse_pickled(hub_id: str, found: Checkpoint, parts: Sequence[str]) -> None:
    """Raise MissingDependencyError for parts that exist as pickles only."""
    pickled = [part for part in parts if _has_only_pickles(found.part(part))]
    if pickled:
        convert = downloads.convert_command(str(found))
        raise MissingDependencyError(
            f"the weights {hub_id} have {', '.join(pickled)} as .bin files, which are not read",
            f"convert them to safetensors with: {convert}",
        )


def _has_only_pickles(part: Path) -> bool:
    return bool(weight_files.list_pickles(part)) and not weight_files.weight_files(part)

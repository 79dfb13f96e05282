"""The command that downloads a model's weights: the parts that are loaded, in one variant, and nothing else."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from . import hub, published
from .spec import BackboneSpec

# The folder that goes with a part.
COMPANIONS = {"text_encoder": "tokenizer", "image_encoder": "feature_extractor"}


@dataclass(frozen=True)
class Download:
    """How to get a model's weights."""

    command: str  # one line, or several joined by &&
    bytes: int | None  # None if unknown
    is_exact: bool = False  # whether the size is that of this very repository
    pickled_parts: tuple[str, ...] = ()  # parts that are published as .bin files only

    @property
    def size(self) -> str:
        """The size as text, such as "4.3 GB"; empty if it is unknown."""
        if self.bytes is None:
            return ""
        if self.is_exact:
            return f"{self.bytes / 1e9:.1f} GB"
        return f"about {self.bytes / 1e9:.3g} GB"


def plan_download(spec: BackboneSpec, hub_id: str | None = None) -> Download:
    """Return how to get a model's parts.

    hub_id: another repository than the model's own, as `owner/name` or `owner/name@revision`.
    """
    place = hub_id or spec.weights
    name, _ = hub.split_revision(place)
    repository = published.find_repository(name)
    pickled = spec.pickled_parts if name == spec.weights else ()
    includes = _small_files(spec.parts)
    for pattern in _weight_files(spec.parts, pickled):
        if repository is None or repository.has(pattern):
            includes.append(pattern)
    command = hub.download_command(place, includes)
    if pickled:
        command += f" && {convert_command(place)}"
    return Download(command, *_size(spec, repository, name, includes), pickled)


def _size(
    spec: BackboneSpec,
    repository: published.PublishedRepository | None,
    name: str,
    includes: list[str],
) -> tuple[int | None, bool]:
    """Return the size in bytes, and whether it is exact."""
    if repository:
        return repository.total_bytes(includes), name in repository.names
    return (round(spec.download_gb * 1e9) if name == spec.weights else None), False


def _small_files(parts: Sequence[str]) -> list[str]:
    """Return globs of the small files that are read. In a glob of the hub, * matches / too."""
    return ["*.json", *("tokenizer/*" for part in parts if COMPANIONS.get(part) == "tokenizer")]


def _weight_files(parts: Sequence[str], pickled: Sequence[str]) -> list[str]:
    """Return globs of the parts' weights. None of them matches a variant's files."""
    globs = []
    for part in parts:
        suffix = "bin" if part in pickled else "safetensors"
        globs += [f"{part}/*model.{suffix}", f"{part}/*model-*.{suffix}"]
    return globs


def convert_command(place: str) -> str:
    """Return the command that converts .bin weights to safetensors."""
    return f"holdfast convert {shlex.quote(place)}"

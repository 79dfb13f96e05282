"""The command that downloads a model's weights: the parts that are loaded, in one variant, and nothing else."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from . import hub, published
from .spec import Model

# What goes with a part in folders of their own.
COMPANIONS = {"text_encoder": "tokenizer", "image_encoder": "feature_extractor"}


@dataclass(frozen=True)
class Download:
    """How to get a model's weights. command: one line, or several joined by &&."""

    command: str
    bytes: int | None  # None: nothing is known of it
    is_exact: bool = False  # whether the size is of this very repository
    pickled: tuple[str, ...] = ()  # parts that come as .bin files alone

    @property
    def size(self) -> str:
        """In words, such as "4.3 GB"; empty where nothing is known."""
        if self.bytes is None:
            return ""
        if self.is_exact:
            return f"{self.bytes / 1e9:.1f} GB"
        return f"about {self.bytes / 1e9:.3g} GB"


def download(model: Model, hub_id: str | None = None) -> Download:
    """How to get a model's parts from its own repository or from another one, `owner/name` or `owner/name@revision`."""
    place = hub_id or model.weights
    name, _ = hub.split(place)
    known = published.of(name)
    own = name == model.weights
    includes = _small_files(model.parts)
    for pattern in _weight_files(model.parts, model.pickled if own else ()):
        if known is None or any(published.is_included(f, [pattern]) for f in known.listing):
            includes.append(pattern)
    command = hub.command(place, includes)
    pickled = model.pickled if own else ()
    if pickled:
        command += f" && {convert_command(place)}"
    return Download(command, *_size(model, known, name, includes), pickled)


def _size(
    model: Model, known: published.Published | None, name: str, includes: list[str]
) -> tuple[int | None, bool]:
    if known:
        return known.bytes_of(includes), name in known.names
    return (round(model.gigabytes * 1e9), False) if name == model.weights else (None, False)


def _small_files(parts: Sequence[str]) -> list[str]:
    """Globs of the small files that are read. In a glob of the hub * matches / too."""
    return ["*.json", *("tokenizer/*" for part in parts if COMPANIONS.get(part) == "tokenizer")]


def _weight_files(parts: Sequence[str], pickled: Sequence[str]) -> list[str]:
    """Globs of the parts' weights. None of them matches a variant's."""
    found = []
    for part in parts:
        kind = "bin" if part in pickled else "safetensors"
        found += [f"{part}/*model.{kind}", f"{part}/*model-*.{kind}"]
    return found


def convert_command(place: str) -> str:
    """The command that makes .bin weights readable."""
    return f"holdfast convert {shlex.quote(place)}"

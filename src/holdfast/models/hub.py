"""Where weights lie: in a folder, or in the hub's local cache. Nothing is fetched, or asked
for: a library that is given a hub id looks for optional files on the net, and waits for it.
"""

import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..base.errors import Missing, UserError

REPOSITORY = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")  # a folder of the cache
# Of a transformers model: its safetensors, where a repository has the same weights in other formats too.
WHOLE_MODEL = ("*.json", "*.txt", "*.model", "*model.safetensors", "*model-*.safetensors")


def split(place: str) -> tuple[str, str | None]:
    """A hub id and its revision: `owner/name`, or `owner/name@revision`."""
    name, _, revision = place.partition("@")
    return name, revision or None


def command(place: str, includes: Sequence[str]) -> str:
    """The command that downloads the files of a hub id that match one of some globs."""
    name, revision = split(place)
    words = ["hf", "download", name]
    words += ["--revision", revision] if revision else []
    for pattern in includes:
        words += ["--include", pattern]
    return shlex.join(words)


def cached(place: str) -> Path | None:
    """The folder of a hub id in the cache; None where it is not there. Raises UserError for what is no hub id."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, revision = split(place)
    try:
        # Nothing is asked for by name: a download of some of the files counts as incomplete otherwise.
        found = snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=[])
    except HFValidationError as error:
        raise UserError(f"{place!r} is neither a folder nor a hub id") from error
    except LocalEntryNotFoundError:
        return None
    return Path(found)


def snapshot(folder: Path) -> tuple[str, str] | None:
    """The hub id and the commit of a folder in the hub's cache; None for any other folder."""
    whole = folder.absolute()
    if whole.parent.name != "snapshots":
        return None
    found = REPOSITORY.fullmatch(whole.parent.parent.name)
    return (f"{found['owner']}/{found['name']}", whole.name) if found else None


def found(place: str) -> Path:
    """The folder of some weights: itself, or in the hub cache. Raises Missing, UserError."""
    folder = Path(place) if Path(place).is_dir() else cached(place)
    if folder is None:
        get = command(place, WHOLE_MODEL)
        raise Missing(f"the weights {place} are not on this machine; get them with: {get}")
    if not (folder / "config.json").is_file():
        raise UserError(f"{place} has no config.json: it is no folder of a transformers model")
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers says nothing while it loads: it would print a table of what one sentence says."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)

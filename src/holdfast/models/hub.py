"""Find weights in a folder or in the hub's local cache.

Nothing is downloaded, and the network is not used: a library that is given a hub id looks for optional files there and
waits for it.
"""

import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..base.errors import MissingDependencyError, UserError

REPOSITORY = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")  # a folder of the cache
# Globs of a transformers model's files: its safetensors only, if it has the weights in other formats too.
TRANSFORMERS_FILES = ("*.json", "*.txt", "*.model", "*model.safetensors", "*model-*.safetensors")


def split_revision(hub_id: str) -> tuple[str, str | None]:
    """Split `owner/name@revision` into name and revision; without `@` the revision is None."""
    name, _, revision = hub_id.partition("@")
    return name, revision or None


def download_command(hub_id: str, includes: Sequence[str]) -> str:
    """Return the command that downloads the files of a hub id that match one of the globs."""
    name, revision = split_revision(hub_id)
    words = ["hf", "download", name]
    words += ["--revision", revision] if revision else []
    for pattern in includes:
        words += ["--include", pattern]
    return shlex.join(words)


def find_cached(hub_id: str) -> Path | None:
    """Return the folder of a hub id in the cache; None if it is not there. Raise UserError if it is not a hub id."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name, revision = split_revision(hub_id)
    try:
        # No file is named: with a name, a download of some of the files would count as incomplete.
        folder = snapshot_download(
            name, revision=revision, local_files_only=True, allow_patterns=[]
        )
    except HFValidationError as error:
        raise UserError(f"{hub_id!r} is neither a folder nor a hub id") from error
    except LocalEntryNotFoundError:
        return None
    return Path(folder)


def read_snapshot(folder: Path) -> tuple[str, str] | None:
    """Return the hub id and the commit of a folder in the hub's cache; None for any other folder."""
    path = folder.absolute()
    if path.parent.name != "snapshots":
        return None
    match = REPOSITORY.fullmatch(path.parent.parent.name)
    return (f"{match['owner']}/{match['name']}", path.name) if match else None


def find_folder(place: str) -> Path:
    """Return the folder of a transformers model: `place` itself, or its folder in the hub's cache.

    Raise MissingDependencyError if it is on neither, and UserError if it is no such folder.
    """
    folder = Path(place) if Path(place).is_dir() else find_cached(place)
    if folder is None:
        command = download_command(place, TRANSFORMERS_FILES)
        cause = f"the weights {place} are not on this machine"
        raise MissingDependencyError(cause, f"get them with: {command}")
    if not (folder / "config.json").is_file():
        raise UserError(f"{place} is not the folder of a transformers model: it has no config.json")
    return folder


@contextlib.contextmanager
def silence_transformers() -> Iterator[None]:
    """Silence transformers while it loads. It would print a table of what one of our sentences says."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)

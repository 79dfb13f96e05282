"""Where weights lie: in a folder, or in the hub's local cache. Nothing is fetched, or asked
for: a library that is given a hub id looks for optional files on the net, and waits for it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .errors import Missing, UserError


def cached(hub_id: str) -> Path | None:
    """The folder of a hub id in the cache; None where it is not there. Raises ValueError for what is no hub id."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except HFValidationError as error:
        raise UserError(f"{hub_id!r} is neither a folder nor a hub id") from error
    except LocalEntryNotFoundError:
        return None


def found(place: str) -> Path:
    """The folder of some weights: itself, or in the hub cache. Raises Missing, ValueError."""
    folder = Path(place) if Path(place).is_dir() else cached(place)
    if folder is None:
        raise Missing(
            f"the weights {place} are not on this machine; get them with: hf download {place}"
        )
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

"""Where the weights of a transformers model lie: in a folder, or in the hub's local cache. Nothing is fetched, or asked
for: a library that is given a hub id looks for optional files on the net, and waits for it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .registry import Missing


def found(place: str) -> Path:
    """The folder of some weights: itself, or in the hub cache. Raises Missing, ValueError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    folder = Path(place)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(place, local_files_only=True))
        except HFValidationError as error:
            raise ValueError(f"{place!r} is neither a folder nor a hub id") from error
        except LocalEntryNotFoundError as error:
            raise Missing(
                f"the weights {place} are not on this machine; get them with: hf download {place}"
            ) from error
    if not (folder / "config.json").is_file():
        raise ValueError(f"{place} has no config.json: it is no folder of a transformers model")
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Transformers says nothing while it loads."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)

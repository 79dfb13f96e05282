"""Serve the page: from one folder, to this machine, without a word to any other."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import Missing, UserError
from .desk import Desk, Limits

# Gradio reads these when it is imported: no counting of its users, and uploads where the page's own files are.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
KEPT = (3600, 86400)  # seconds: how often uploads are looked through, and how old they become


@contextlib.contextmanager
def serve(
    folder: Path, limits: Limits, listen: str = "127.0.0.1", port: int = 0, browser: bool = False
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The page is served within the block; gives its address and what waits until it is to end.

    Raises Missing where Gradio is not installed, ValueError for a folder or a port that cannot be had.
    """
    desk = Desk(_made(folder))
    os.environ.update(QUIET | {"GRADIO_TEMP_DIR": str(desk.uploads)})
    try:
        import gradio as gr
    except ImportError as error:
        raise Missing("the page needs Gradio; get it with: pip install 'holdfast[ui]'") from error
    from .page import CSS, Page

    blocks = Page(desk, limits).blocks
    blocks.delete_cache = KEPT
    try:
        _, address, _ = blocks.queue(api_open=False).launch(
            server_name=listen,
            server_port=port or _free(listen),
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            allowed_paths=[str(desk.folder)],
            max_file_size=limits.megabytes * 2**20,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
            footer_links=[],
            ssr_mode=False,
        )
    except OSError as error:
        raise UserError(f"port {port} of {listen} cannot be had; give another --port") from error
    try:
        yield address, threading.Event().wait
    finally:
        blocks.close()
        desk.close()


def _made(folder: Path) -> Path:
    """The folder. Raises ValueError for a file of that name."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _free(listen: str) -> int:
    """A port that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind((listen, 0))
        return probe.getsockname()[1]

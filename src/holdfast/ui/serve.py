"""Serve the page from one folder, to this machine, without a request to any other."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..base.errors import Missing, UserError
from .desk import Desk, Limits
from .gate import Gate

# Gradio reads these when it is imported: no counting of its users, and uploads where the page's own files are.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
ENDING = 2  # seconds that requests have to end in


@dataclass(frozen=True)
class Address:
    """Where the page listens. token: what opens it; empty where everybody may."""

    listen: str = "127.0.0.1"
    port: int = 0
    token: str = ""

    def url(self, port: int) -> str:
        """Return the address to open in a browser."""
        host = "localhost" if self.listen in ("0.0.0.0", "::") else self.listen
        host = f"[{host}]" if ":" in host else host
        query = f"?token={quote(self.token)}" if self.token else ""
        return f"http://{host}:{port}/{query}"


@contextlib.contextmanager
def serve(
    folder: Path, limits: Limits, address: Address, browser: bool = False
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve the page within the block; yield its URL and a function that waits until it is to end.

    Raises Missing where Gradio is not installed, UserError for a folder or a port that cannot be had.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(contextlib.closing(bind(address)))
        desk = Desk(_make_folder(folder), limits=limits)
        stack.callback(desk.close)
        app = _make_app(desk, limits)
        stack.enter_context(_running(Gate(app, address.token) if address.token else app, listening))
        url = address.url(listening.getsockname()[1])
        if browser:
            import webbrowser

            webbrowser.open(url)
        yield url, threading.Event().wait


def bind(address: Address) -> socket.socket:
    """Return a socket that listens, of the address's own family. Raises UserError where it cannot be had."""
    try:
        found = socket.getaddrinfo(address.listen, address.port, type=socket.SOCK_STREAM)
        family, _, _, _, place = found[0]
        both = family == socket.AF_INET6 and address.listen == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(place[:2], family=family, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"port {address.port} of {address.listen} cannot be had ({reason})",
            "give another --port or --listen",
        ) from error


def _make_app(desk: Desk, limits: Limits):
    """Return the page as an ASGI application."""
    os.environ.update(QUIET | {"GRADIO_TEMP_DIR": str(desk.uploads)})
    try:
        import gradio as gr
        from fastapi import FastAPI
    except ImportError as error:
        raise Missing("the page needs Gradio; get it with: pip install 'holdfast[ui]'") from error
    from .page import CSS, Page

    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        Page(desk).blocks.queue(api_open=False),
        "/",
        footer_links=[],
        run_history=False,
        allowed_paths=[str(desk.folder)],
        show_error=False,
        max_file_size=limits.megabytes * 2**20,
        ssr_mode=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=CSS,
    )


@contextlib.contextmanager
def _running(app, listening: socket.socket) -> Iterator[None]:
    """Serve within the block, in a thread of its own."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="critical", access_log=False, timeout_graceful_shutdown=ENDING
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), name="web", daemon=True)
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(2 * ENDING)


def _make_folder(folder: Path) -> Path:
    """Return the folder. Raises UserError for a file of that name."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "give another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()

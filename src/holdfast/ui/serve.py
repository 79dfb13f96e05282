"""Serve the page from one folder, to this machine, without requests to any other."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..base.errors import MissingDependencyError, UserError, install_remedy
from .auth import App, TokenMiddleware
from .queue import Limits, RunQueue

if TYPE_CHECKING:
    from fastapi import FastAPI

# Gradio reads these when it is imported: no telemetry, and uploads in the page's own folder.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
SHUTDOWN_SECONDS = 2  # that requests have to finish


@dataclass(frozen=True)
class Address:
    """Where the page listens. token: the secret that opens it; empty to let everybody in."""

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
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Serve the page within the block. Yield its URL and a function that waits until the page should end.

    Raise MissingDependencyError where Gradio is not installed, UserError for a folder or a port that cannot be used.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(contextlib.closing(open_socket(address)))
        queue = RunQueue(_make_folder(folder), limits=limits)
        stack.callback(queue.close)
        app: App = _make_app(queue, limits)
        if address.token:
            app = TokenMiddleware(app, address.token)
        stack.enter_context(_run_server(app, listening))
        url = address.url(listening.getsockname()[1])
        if browser:
            import webbrowser

            webbrowser.open(url)
        yield url, threading.Event().wait


def open_socket(address: Address) -> socket.socket:
    """Return a listening socket of the address's own family. Raise UserError where the port cannot be used."""
    try:
        found = socket.getaddrinfo(address.listen, address.port, type=socket.SOCK_STREAM)
        family, _, _, _, endpoint = found[0]
        both = family == socket.AF_INET6 and address.listen == "::" and socket.has_dualstack_ipv6()
        host, port = str(endpoint[0]), int(endpoint[1])
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"port {address.port} on {address.listen} cannot be used ({reason})",
            "give another --port or --listen",
        ) from error


def _make_app(queue: RunQueue, limits: Limits) -> "FastAPI":
    """Return the page as an ASGI application."""
    os.environ.update(ENVIRONMENT | {"GRADIO_TEMP_DIR": str(queue.uploads)})
    try:
        import gradio as gr
        from fastapi import FastAPI
        from gradio.themes import Default
    except ImportError as error:
        raise MissingDependencyError("the page needs Gradio", install_remedy("ui")) from error
    from .page import CSS, Page

    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        Page(queue).blocks.queue(api_open=False),
        "/",
        footer_links=[],
        run_history=False,
        allowed_paths=[str(queue.folder)],
        show_error=False,
        max_file_size=limits.max_upload_mb * 2**20,
        ssr_mode=False,
        theme=Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=CSS,
    )


@contextlib.contextmanager
def _run_server(app: App, listening: socket.socket) -> Iterator[None]:
    """Serve within the block, in a thread of its own."""
    import uvicorn

    config = uvicorn.Config(
        app, log_level="critical", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS
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
        thread.join(2 * SHUTDOWN_SECONDS)


def _make_folder(folder: Path) -> Path:
    """Create the folder where needed and return its full path. Raise UserError for a file of that name."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "give another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()

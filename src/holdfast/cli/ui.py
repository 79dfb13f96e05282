"""`holdfast ui`: the web page."""

import contextlib
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import UserError
from .console import print_link, print_notice, report_errors

FOLDER = "Folder for runs and uploads; nothing outside it is served."
PORT = "Port to listen on; 0 takes any free one."
LISTEN = "Address to listen on (default: this computer only)."
FRAMES = "Maximum clip length in frames."
UPLOAD = "Maximum upload size in megabytes."
STORAGE = "Gigabytes of uploads and painted masks to keep; the oldest are deleted first."
TOKEN = "Token in the page's URL that opens it (default: a new one at each start). Empty: no token."


def ui(
    folder: Annotated[Path, typer.Option("-o", "--folder", help=FOLDER)] = Path("holdfast-runs"),
    port: Annotated[int, typer.Option(help=PORT, min=0, max=65535)] = 7860,
    listen: Annotated[str, typer.Option(help=LISTEN)] = "127.0.0.1",
    max_frames: Annotated[int, typer.Option(help=FRAMES, min=1)] = 2000,
    max_upload_mb: Annotated[int, typer.Option(help=UPLOAD, min=1)] = 2000,
    max_storage: Annotated[float, typer.Option(help=STORAGE, min=0)] = 20,
    token: Annotated[str | None, typer.Option(help=TOKEN, envvar="HOLDFAST_UI_TOKEN")] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a web page to edit clips: prompts, painted masks, a preview of the cost, past runs."""
    with report_errors():
        from ..ui.auth import make_token
        from ..ui.serve import Address, Limits, serve

        limits = Limits(
            max_frames, max_upload_mb, allows_paths=is_local(listen), max_storage_gb=max_storage
        )
        address = Address(listen, port, make_token() if token is None else check_token(token))
        with serve(folder, limits, address, browser) as (url, wait):
            print_link(f"{url} (runs are kept in {folder}; Ctrl-C stops the server)")
            if not (address.token or limits.allows_paths):
                print_notice("the page has no token: everyone who reaches this address can use it")
            with contextlib.suppress(KeyboardInterrupt):  # the usual way to stop it
                wait()


def check_token(token: str) -> str:
    """Return the token. Raise UserError for one that a URL and a cookie cannot hold as it is."""
    if re.fullmatch(r"[\w.~-]*", token, re.ASCII):
        return token
    raise UserError(
        "the token has characters other than letters, digits and - . _ ~", "choose another --token"
    )


def is_local(address: str) -> bool:
    """Return whether only this computer reaches an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"

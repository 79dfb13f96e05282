"""`holdfast ui`: the web page."""

import contextlib
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..base.errors import UserError
from .console import exit_codes, screen

FOLDER = "Where runs and uploads are kept; the page serves nothing outside it."
LISTEN = "The address to listen on: by default of this machine alone."
TOKEN = "What opens the page, in its URL; by default another at each start. Empty: none is needed."
STORAGE = "Gigabytes of uploads and drawn masks that are kept; the oldest go first."


def ui(
    folder: Annotated[Path, typer.Option("-o", "--folder", help=FOLDER)] = Path("holdfast-runs"),
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 7860,
    listen: Annotated[str, typer.Option(help=LISTEN)] = "127.0.0.1",
    most_frames: Annotated[int, typer.Option(help="The longest clip it takes.", min=1)] = 2000,
    most_mb: Annotated[int, typer.Option(help="The largest upload it takes.", min=1)] = 2000,
    max_storage: Annotated[float, typer.Option(help=STORAGE, min=0)] = 20,
    token: Annotated[str | None, typer.Option(help=TOKEN, envvar="HOLDFAST_UI_TOKEN")] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Serve a page to edit clips on: prompts, masks by brush, a look before anything is paid for, past runs."""
    with exit_codes():
        from ..ui.auth import make_token
        from ..ui.serve import Address, Limits, serve

        limits = Limits(most_frames, most_mb, allows_paths=is_own(listen), max_storage_gb=max_storage)
        address = Address(listen, port, make_token() if token is None else check_token(token))
        with serve(folder, limits, address, browser) as (url, wait):
            shown = escape(f"{url} (runs are kept in {folder}; Ctrl-C ends it)")
            screen.print(f"[green]open[/] {shown}", highlight=False, soft_wrap=True)
            if not (address.token or limits.allows_paths):
                warning = "everybody who reaches this address can use the page: it has no token"
                screen.print(f"[yellow]note:[/] {warning}", highlight=False, soft_wrap=True)
            with contextlib.suppress(KeyboardInterrupt):  # how one ends it
                wait()


def check_token(token: str) -> str:
    """Return the token. Raises UserError for one that a URL and a cookie do not carry as it is."""
    if re.fullmatch(r"[\w.~-]*", token, re.ASCII):
        return token
    raise UserError(
        "the token holds other characters than letters, digits and - . _ ~", "change --token"
    )


def is_own(address: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"

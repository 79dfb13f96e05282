"""`holdfast ui`: the web page."""

import contextlib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..console import exit_codes, screen

FOLDER = "Where runs and uploads are kept; the page serves nothing outside it."
LISTEN = "The address to listen on: by default of this machine alone."


def ui(
    folder: Annotated[Path, typer.Option("-o", "--folder", help=FOLDER)] = Path("holdfast-runs"),
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 7860,
    listen: Annotated[str, typer.Option(help=LISTEN)] = "127.0.0.1",
    most_frames: Annotated[int, typer.Option(help="The longest clip it takes.", min=1)] = 2000,
    most_mb: Annotated[int, typer.Option(help="The largest upload it takes.", min=1)] = 2000,
    browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Serve a page to edit clips on: prompts, masks by brush, a look before anything is paid for, past runs."""
    with exit_codes():
        from ..ui.serve import Limits, serve

        limits = Limits(most_frames, most_mb, anywhere=is_own(listen))
        with serve(folder, limits, listen, port, browser) as (address, wait):
            shown = escape(f"{address} (runs are kept in {folder}; Ctrl-C ends it)")
            screen.print(f"[green]open[/] {shown}", highlight=False, soft_wrap=True)
            with contextlib.suppress(KeyboardInterrupt):  # how one ends it
                wait()


def is_own(address: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"

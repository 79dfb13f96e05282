"""`holdfast export`: write a backbone's weights as a diffusers folder."""

from typing import Annotated

import typer
from rich.markup import escape

from .console import exit_codes, screen

WEIGHTS = "A diffusers folder or a hub id in place of the backbone's own weights."


def export(
    name: Annotated[str, typer.Argument(help="Name of the backbone.", metavar="NAME")],
    folder: Annotated[str, typer.Argument(help="Folder to create.", metavar="FOLDER")],
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
) -> None:
    """Write a backbone's weights as an ordinary diffusers folder, which diffusers itself loads."""
    from ..models.export import export as export_checkpoint

    with exit_codes():
        target = export_checkpoint(name, folder, weights)
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        text = f"{target} ({size / 1e6:.1f} MB)"
        screen.print(f"[green]wrote[/] {escape(text)}", highlight=False, soft_wrap=True)

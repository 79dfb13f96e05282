"""`holdfast convert`: safetensors of a diffusers folder's .bin files."""

from typing import Annotated

import typer
from rich.markup import escape

from .console import exit_codes, screen

PLACE = "A diffusers folder, or the hub id of one that is downloaded."


def convert(place: Annotated[str, typer.Argument(help=PLACE, metavar="FOLDER")]) -> None:
    """Make safetensors of a model's .bin files, next to them. No code in them is run."""
    from ..models.convert import convert as convert_folder

    with exit_codes():
        count = 0
        for count, written in enumerate(convert_folder(place), 1):  # noqa: B007
            said = f"{written.file} ({written.bytes / 1e6:.1f} MB, {written.tensors} tensors)"
            screen.print(f"[green]wrote[/] {escape(said)}", highlight=False, soft_wrap=True)
        if not count:
            screen.print(f"nothing to convert: every part of {escape(place)} is safetensors")

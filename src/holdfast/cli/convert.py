"""`holdfast convert`: the .bin files of a diffusers folder as safetensors."""

from typing import Annotated

import typer

from .console import print_line, print_wrote, report_errors

FOLDER = "A diffusers folder, or the hub id of a downloaded one."


def convert(folder: Annotated[str, typer.Argument(help=FOLDER, metavar="FOLDER")]) -> None:
    """Convert a model's .bin files to safetensors, next to them. No code in the files is run."""
    from ..models.convert import convert as convert_folder

    with report_errors():
        count = 0
        for file in convert_folder(folder):
            count += 1
            print_wrote(f"{file.file} ({file.bytes / 1e6:.1f} MB, {file.tensors} tensors)")
        if not count:
            print_line(f"nothing to convert: every part of {folder} is safetensors")

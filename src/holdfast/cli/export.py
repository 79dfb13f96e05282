"""`holdfast export`: a model's weights as a diffusers folder."""

from typing import Annotated

import typer

from .console import print_wrote, report_errors

WEIGHTS = "A folder or hub id of other weights for the model."


def export(
    name: Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME")],
    folder: Annotated[str, typer.Argument(help="Folder to create.", metavar="FOLDER")],
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
) -> None:
    """Write a model's weights as an ordinary diffusers folder, which diffusers itself loads."""
    from ..models.export import export as export_checkpoint

    with report_errors():
        target = export_checkpoint(name, folder, weights)
        size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
        print_wrote(f"{target} ({size / 1e6:.1f} MB)")

"""The command `holdfast`: all its commands together."""

import os

import typer

from .batch import batch
from .bench_paper import bench
from .convert import convert
from .demo import demo
from .doctor import doctor
from .edit import edit
from .export import export
from .frame import frame
from .keep import compare, keep
from .listing import list_names
from .mask import mask
from .metrics import measure
from .options import Command
from .schema import print_schema
from .sheet import sheet
from .ui import ui

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Edit a video with text prompts, without training. Everything outside the mask stays identical.",
)
app.command(cls=Command)(edit)
app.command(cls=Command)(demo)
app.command()(keep)
app.command()(compare)
app.command()(frame)
app.command(cls=Command)(mask)
app.command(cls=Command)(sheet)
app.command()(batch)
app.add_typer(bench, name="bench")
app.command("metrics", cls=Command)(measure)
app.command(cls=Command)(ui)
app.command("list")(list_names)
app.command("schema")(print_schema)
app.command()(doctor)
app.command()(convert)
app.command()(export)


def main() -> None:
    # OpenMP's threads spin while they wait for one another. On a busy machine that made an edit take half as long
    # again; so short a spin costs nothing on an idle one. torch reads the variable when it is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    app()


if __name__ == "__main__":
    main()

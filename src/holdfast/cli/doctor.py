"""`holdfast doctor`: what is installed, which weights are here, and how to get what is missing."""

import os
import platform
import shutil
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from .. import __version__
from ..base.errors import MissingDependencyError, UserError, install_remedy
from ..models import registry
from .console import print_line, report_errors

if TYPE_CHECKING:
    from ..pipeline.rehearsal import Rehearsal

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "av",
    "opencv-python-headless",
    "numpy",
)
EXTRAS = {  # packages of an extra, and what needs it
    "bench": (("torchmetrics", "matplotlib", "jinja2"), "metrics and benchmarks"),
    "ui": (("gradio",), "holdfast ui"),
    "batch": (("ray",), "holdfast batch"),
}


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    rehearse: Annotated[
        str | None,
        typer.Option(
            help="Run this model with random weights, to learn its memory and time before a download."
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(help="Width and height of the clip to rehearse, WxH.")
    ] = "832x480",
    frames: Annotated[int, typer.Option(min=1, help="Frames of the clip to rehearse.")] = 81,
    memory: Annotated[
        str, typer.Option(help="Memory limit of the rehearsal, as for holdfast edit.")
    ] = "auto",
    device: Annotated[
        str, typer.Option(help="Device of the rehearsal, as for holdfast edit.")
    ] = "auto",
    weights_dtype: Annotated[
        Literal["bfloat16", "float32"], typer.Option(help="Number format of the random weights.")
    ] = "bfloat16",
    folder: Annotated[
        str | None,
        typer.Option(help="Folder for the random weights, which are deleted afterwards."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, hidden=True)] = 2,
    evaluations: Annotated[int, typer.Option(min=1, max=3, hidden=True)] = 3,
    stages: Annotated[str, typer.Option(hidden=True)] = "condition,encode,denoise,decode",
) -> None:
    """Show what is installed, which weights are here, what the device can run, and how to get what is missing.

    With --rehearse: run a model of random weights, and report its memory and time.
    """
    with report_errors():
        if rehearse is None:
            _show_report(json)
            return
        from ..pipeline.rehearsal import BRANCHES, Rehearsal

        order = Rehearsal(
            rehearse,
            parse_size(size),
            frames,
            memory,
            steps,
            device,
            weights_dtype,
            folder,
            BRANCHES[-evaluations:],
            tuple(stages.split(",")),
        )
        _rehearse(order, json)


def _show_report(as_json: bool) -> None:
    from ..base.files import as_json as to_json

    sections = report()
    if as_json:
        print(to_json(sections))
    else:
        print_report(sections)


def _rehearse(order: "Rehearsal", as_json: bool) -> None:
    from ..base.files import as_json as to_json
    from ..pipeline.rehearsal import describe_report, rehearse

    result = rehearse(order, print_line)
    if as_json:
        print(to_json(result))
    else:
        for line in describe_report(result):
            print(line)


def parse_size(text: str) -> tuple[int, int]:
    """Return the width and height of "832x480". Raise UserError for another text."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"size is {text!r}", "use WIDTHxHEIGHT, such as 832x480")
    return int(width), int(height)


def print_report(sections: dict[str, dict[str, str]]) -> None:
    """Print the sections as lines, not as tables: a command that a cell breaks cannot be copied."""
    from rich.console import Console

    out = Console()
    for title, rows in sections.items():
        out.print(f"[bold]{escape(title)}[/]")
        width = max(map(len, rows), default=0)
        for name, value in rows.items():
            out.print(f"  {name:{width}}  {escape(str(value))}", highlight=False, soft_wrap=True)


def report() -> dict[str, dict[str, str]]:
    """Return sections of names and findings."""
    return {
        "installed": _list_packages(),
        "device": _device(),
        "weights": _weights(),
        "networks of the metrics": _networks(),
        "codecs": _codecs(),
    }


def _list_packages() -> dict[str, str]:
    found = {"python": platform.python_version(), "holdfast": __version__}
    commands = {name: f"pip install {name}" for name in PACKAGES}
    for extra, (names, what) in EXTRAS.items():
        command = f"only for {what}; {install_remedy(extra)}"
        commands |= dict.fromkeys(names, command)
    for name, command in commands.items():
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = f"missing; {command}"
    return found


def _device() -> dict[str, str]:
    import psutil
    import torch

    from ..models.devices import pick_dtype

    memory = psutil.virtual_memory().total / 2**30
    found = {
        "processor": f"{os.cpu_count()} cores, {memory:.0f} GB, {torch.get_num_threads()} threads; float32 by default"
    }
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            dtype = pick_dtype("auto", torch.device("cuda", i))
            found[f"cuda:{i}"] = (
                f"{properties.name}, {properties.total_memory / 2**30:.0f} GB; "
                f"{str(dtype).removeprefix('torch.')} by default"
            )
    else:
        found["gpu"] = (
            "none that torch can use: the embedded model runs well, the published ones take hours"
        )
    found["disk free"] = f"{shutil.disk_usage('.').free / 2**30:.0f} GB"
    return found


def _weights() -> dict[str, str]:
    found = {}
    for name, family in registry.backbones().items():
        if not family.specs[name].weights:
            found[name] = "here: it needs none"
            continue
        try:
            found[name] = f"here: {family.find(name)}"
        except (MissingDependencyError, UserError) as error:
            found[name] = str(error)
    return found


def _networks() -> dict[str, str]:
    """The networks that metrics take by default, and how to get them."""
    from ..metrics.base import MetricOptions
    from ..models import hub

    found = {}
    for option in ("clip", "dino", "structure"):
        name = getattr(MetricOptions(), option)
        folder = hub.find_cached(name)
        get = hub.download_command(name, hub.TRANSFORMERS_FILES)
        absent = f"{name} is not on this machine; get it with: {get}"
        found[option] = absent if folder is None else f"here: {folder}"
    return found


def _codecs() -> dict[str, str]:
    import av

    from ..media.video import CODECS

    return {
        name: "here" if codec.encoder in av.codecs_available else "missing from this build of PyAV"
        for name, codec in CODECS.items()
    }

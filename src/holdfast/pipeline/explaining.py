"""Draw what a method observed of an edit: one PNG strip for each kind of map."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from numpy import ndarray

from .. import methods
from ..base.errors import MissingDependencyError, UserError, install_remedy
from ..base.files import atomic_write
from ..media import video
from ..sampling.observing import Observations
from .task import EditTask

COLUMNS = 5  # steps of a strip, next to the last one and the mean


def check_explainable(task: EditTask, folder: Path) -> None:
    """Raise UserError for a method that explains nothing or a folder that is a file; MissingDependencyError without
    matplotlib.
    """
    if not methods.load(task.method).METHOD.explains:
        able = [name for name in methods.names() if methods.load(name).METHOD.explains]
        raise UserError(
            f"{task.method} has nothing to explain", f"remove --explain, or use {', '.join(able)}"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file", "give --explain a folder")
    _load_figure()


def _load_figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "explanations need matplotlib", install_remedy("bench")
        ) from error
    return Figure


def write_strips(
    folder: Path, observations: Observations, clip: video.Clip, part: range
) -> list[Path]:
    """Write one PNG for each group of observations, and return their paths.

    Each shows the middle latent frame, with the source's frame next to it. The parts of a group are rows of one scale.
    """
    groups: dict[str, dict[str, Mapping[int, Any]]] = defaultdict(dict)
    for name, steps in observations.items():
        group, _, row = name.partition(": ")
        groups[group][row] = steps
    folder.mkdir(parents=True, exist_ok=True)
    middle = part.start + len(part) // 2
    frame = next(islice(video.read(clip), middle, None))
    paths = []
    for group, rows in groups.items():
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', group.lower()).strip('-')}.png"
        with atomic_write(path) as temporary:
            _draw_strip(group, rows, frame).savefig(temporary, format="png", dpi=110)
        paths.append(path)
    return paths


def choose_steps(steps: list[int]) -> list[int]:
    """Return at most COLUMNS evenly spaced steps, and the last one: 0, 5, 10, 15, 20 and 24 of 25."""
    return list(dict.fromkeys([*steps[:: math.ceil(len(steps) / COLUMNS)], steps[-1]]))


def _draw_strip(title: str, rows: Mapping[str, Mapping[int, Any]], frame: ndarray) -> Any:
    """Return a figure: a row for each part, with the source's frame, some steps and the mean over all steps."""
    import torch

    columns = choose_steps(sorted(next(iter(rows.values()))))
    pictures = {
        row: [steps[step] for step in columns] + [torch.stack(list(steps.values())).mean(0)]
        for row, steps in rows.items()
    }
    every = [values for row in pictures.values() for values in row]
    scale = {
        "vmin": min(float(values.min()) for values in every),
        "vmax": max(float(values.max()) for values in every),
    }
    width, ratio = len(columns) + 2, frame.shape[0] / frame.shape[1]
    size = 1.9 * width + 0.8, (1.9 * ratio + 0.35) * len(rows) + 0.4
    figure = _load_figure()(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), width, squeeze=False)
    shown = None
    for line, (row, maps) in zip(axes, pictures.items(), strict=True):
        line[0].imshow(frame)
        line[0].set_ylabel(row)
        titles = ["source", *(f"step {step}" for step in columns), "mean"]
        for ax, name in zip(line, titles, strict=True):
            ax.set_title(name, fontsize=9)
            ax.set_xticks([])
            ax.set_yticks([])
        for ax, values in zip(line[1:], maps, strict=True):
            picture = values[0, 0, values.shape[2] // 2].numpy()
            extent = (0, frame.shape[1], frame.shape[0], 0)
            shown = ax.imshow(picture, extent=extent, cmap="viridis", **scale)
    figure.colorbar(shown, ax=axes[:, 1:], fraction=0.02)
    figure.suptitle(f"{title}, middle frame", fontsize=10)
    return figure

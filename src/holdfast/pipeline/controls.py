"""The control of an edit: which ControlNet reads which pictures, and the pictures themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..base.notices import warn_user
from ..media import video
from ..media.images import to_tensor
from ..models import controlnets, registry
from ..models.spec import BackboneSpec
from .task import CONTROL_KINDS, EditTask

if TYPE_CHECKING:
    from torch import Tensor

    from ..media.fitting import Fit
    from ..models.base import Backbone, Control
    from ..models.registry import BackboneInfo

DEFAULT_KIND = "canny"  # of a method that needs control
Frames = Callable[[], "Iterable[Tensor]"]


@dataclass(frozen=True)
class ControlChoice:
    """The control of an edit, and why it was chosen; without pictures, no control is used.

    pictures: canny, hed, depth, or a file. network: the ControlNet's folder.
    """

    reason: str
    pictures: str | None = None
    network: str | None = None
    scale: float = 1.0


NO_CONTROL = ControlChoice("not asked for")
UNKNOWN_MODEL = BackboneSpec("", 0, fps=0, train_pixels=0, train_frames=0)  # one without a name


def choose_control(
    task: EditTask, method: ModuleType, info: Backbone | BackboneInfo
) -> ControlChoice:
    """Choose the control that the task names, or the one that the method needs.

    Raise UserError for a model that takes none, MissingDependencyError for a ControlNet that is not on this machine.
    """
    is_needed = "control" in method.METHOD.requires
    pictures = task.control or (DEFAULT_KIND if is_needed or task.controlnet else None)
    if pictures is None:
        if task.control_scale != EditTask.control_scale:
            warn_user("--control-scale has no effect without --control")
        return NO_CONTROL
    if "control" not in info.capabilities:
        raise UserError(
            f"{info.name} takes no ControlNet, which --control needs",
            f"use one of these models: {', '.join(controllable_backbones())}",
        )
    name = task.controlnet or pictures
    _check_known(info.name, pictures, name)
    folder = controlnets.find_controlnet(registry.specs().get(info.name, UNKNOWN_MODEL), name)
    reason = "given" if task.control else f"{task.method} needs one"
    return ControlChoice(reason, pictures, str(folder), task.control_scale)


def controllable_backbones() -> list[str]:
    """Return the names of the models that take a ControlNet."""
    return [name for name, spec in registry.specs().items() if "control" in spec.capabilities]


def _check_known(backbone: str, pictures: str, name: str) -> None:
    """Raise UserError where no ControlNet is known for the pictures."""
    if name == pictures and name not in CONTROL_KINDS:
        raise UserError(
            f"no ControlNet is named for {pictures}", "name what its pictures are by --controlnet"
        )
    known = registry.specs().get(backbone, UNKNOWN_MODEL).controlnets
    if name in CONTROL_KINDS and name not in known:
        others = ", ".join(known) or "none"
        raise UserError(
            f"no ControlNet for {name} is known for {backbone} (known: {others})",
            "give its folder or hub id by --controlnet",
        )


def make_control(choice: ControlChoice, frames: Frames, given: Frames | None) -> Control | None:
    """Return the control of an edit; None where none is chosen.

    frames: the source as the model takes it, 3 H W in [0, 1]; given: the pictures of a file, in the same form.
    """
    import torch

    from ..models.base import Control

    if choice.pictures is None:
        return None
    source = given() if given else map(_find_maker(choice.pictures), frames())
    pictures = [(picture * 255).round().byte().cpu() for picture in source]
    return Control(torch.stack(pictures), choice.scale)


def _find_maker(kind: str) -> Callable[[Tensor], Tensor]:
    """Return the function that makes the control picture of a frame, both 3 H W in [0, 1]."""
    if kind == "depth":
        from ..models.vision import depth

        return depth.load_estimator()
    import torch

    from ..media import edges

    maker = {"canny": edges.canny, "hed": edges.soft_edges}[kind]

    def make(frame: Tensor) -> Tensor:
        array = frame.float().cpu().permute(1, 2, 0).numpy()
        return torch.from_numpy(maker(array)).expand(3, -1, -1)

    return make


def open_pictures(task: EditTask, clip: video.Clip, part: range, fit: Fit) -> Frames | None:
    """Return the control pictures of a task's file, as the model takes them; None for a task without one.

    clip, part: the source and its edited frames. Raise UserError for another number of pictures.
    """
    if not task.control_file:
        return None
    pictures = video.probe(Path(task.control_file))
    numbers = _picture_numbers(pictures, clip, part)

    def read() -> Iterator[Tensor]:
        chosen = (array for i, array in enumerate(video.read(pictures)) if i in numbers)
        return fit.to_model(to_tensor(array) for array in chosen)

    return read


def _picture_numbers(pictures: video.Clip, clip: video.Clip, part: range) -> set[int]:
    """Return which pictures belong to the edited frames: a file has one for each of them, or for each of the clip."""
    total = clip.sampling.source_frames if clip.sampling else clip.frames
    if pictures.frames == len(part):
        return set(range(pictures.frames))
    if pictures.frames == total:
        return set(clip.sampling.frames if clip.sampling else part)
    raise UserError(
        f"{pictures.path} has {pictures.frames} frames, and the clip {total}",
        "give a control picture for each frame of the clip",
    )

"""Every automatic choice of an edit, with its reason, made before anything is loaded."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from .. import methods
from ..base import prompt_diff
from ..base.errors import UserError
from ..base.notices import warn_user
from ..base.prompts import clean_prompt
from ..base.schema import configure
from ..media import fitting
from ..models import registry
from ..sampling import segments, windows
from . import unused_options
from .task import EditTask


@dataclass(frozen=True)
class ModelChoice:
    """The second model of an edit; none where there is no name."""

    reason: str
    name: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Plan:
    """How an edit is done."""

    task: EditTask
    method: ModuleType
    config: Any  # the method's Config
    setting_sources: dict[str, str]  # where each of its values comes from
    change: prompt_diff.Change
    fit: fitting.Fit
    windows: windows.Windows
    image_model: "ModelChoice"  # guides the edit beside the backbone
    native_schedule: str  # what the backbone's own grid of levels is called
    first_frame_model: "ModelChoice"  # makes the wanted first frame from the prompts, where none is given

    def describe(self) -> dict:
        """The choices and their reasons, as the manifest has them."""
        task = self.task
        prompts = ((task.source_prompt, self.change.source), (task.target_prompt, self.change.target))
        driving = [_words_at(text, indices) for text, indices in prompts]
        return {
            "fit": dataclasses.asdict(self.fit),
            "windows": {
                "count": self.windows.count,
                "spans": self.windows.spans,
                "reason": self.windows.reason,
            },
            "words": {
                "source": driving[0],
                "target": driving[1],
                "reason": "named" if task.words else "where the two prompts differ",
            },
            "guide": dataclasses.asdict(self.image_model),
            "first_frame": dataclasses.asdict(self.first_frame_model),
            "memory": {
                "offload": "text encoder",
                "reason": "the text encoder leaves the device once the prompts are encoded",
            },
        }

    def settings(self) -> dict:
        """The method's settings and where each comes from."""
        values = dataclasses.asdict(self.config)
        found = {k: {"value": v, "from": self.setting_sources[k]} for k, v in values.items()}
        if self.native_schedule and values.get("grid") == "own":
            found["grid"]["is"] = self.native_schedule
        return found


def _words_at(text: str, indices: tuple[int, ...]) -> str:
    written = prompt_diff.written_words(clean_prompt(text))
    return " ".join(written[i] for i in indices)


def make_plan(
    task: EditTask, info, frames: int, size: tuple[int, int], keyframes: Iterable[int] = ()
) -> Plan:
    """Choose for a clip of so many frames of a size (height, width).

    about: the backbone, loaded or not (registry.describe_backbone). keys: where key frames are given besides the first. Raises
    ValueError for what does not fit together.
    """
    method = methods.load(task.method)
    check_capabilities(method.NEEDS, info, task.method)
    check_conditioning(task, info)
    if task.mask == "auto" and "text_attention" not in info.capabilities:
        raise UserError(
            f"--mask auto follows words, which {info.name} does not look at: "
            "give --mask a file or a box x,y,w,h"
        )
    cfg, origin = configure(method.Config, info.recommended, task.strength, task.settings)
    unused_options.warn_unused_settings(task, method, cfg, origin)
    known = info.clip_format.schedules
    if known and "grid" in origin and cfg.grid not in known:
        raise UserError(
            f"{info.name} has no grid of levels called {cfg.grid!r}; there are: {', '.join(known)}"
        )
    fitted = fitting.choose_fit(info.clip_format, frames, size)
    spans = split_clip(task, method, cfg, info.clip_format, fitted.model_frames, keyframes)
    change, guide = find_edit_words(task, method), choose_image_model(task, method, cfg, info)
    unused_options.warn_unused_prompts(task, info, guide.name)
    own = known[1] if known else ""
    return Plan(task, method, cfg, origin, change, fitted, spans, guide, own, choose_first_frame_model(task, info))


def split_clip(
    task: EditTask, method: ModuleType, cfg: Any, grid, frames: int, keys: Iterable[int]
) -> windows.Windows:
    """The spans that a clip is edited in: windows, or where the method says so clips one after another."""
    if getattr(method, "LONG", "windows") == "clips":
        spans = segments.plan_segments(grid, frames, task.window, keys)
        if spans.count == 1:
            return spans
        return dataclasses.replace(spans, reason=f"{spans.reason}; {method.longer(cfg)}")
    if task.keyframes:
        raise UserError(f"{task.method} does not take --keyframe: it knows no frame but the first")
    return windows.plan_windows(grid, frames, task.window)


def choose_image_model(task: EditTask, method: ModuleType, cfg: Any, about) -> ModelChoice:
    """Which model guides the edit beside the backbone: only where the method's settings want one.

    Raises ValueError for one over other latents, Missing where it is not on this machine.
    """
    wants = getattr(method, "wants_guide", None)
    if wants is None or not wants(cfg):
        if task.image_model and choose_first_frame_model(task, about).name is None:
            warn_user(f"{task.method} uses no second model here; --image-model has no effect")
        return ModelChoice(f"{task.method} uses none with these settings")
    if not (task.source_prompt.strip() and task.target_prompt.strip()):
        warn_user(f"no prompts are given, so no image model guides: {task.method} goes without")
        return ModelChoice("no prompts are given")
    found = _choose_helper(task, about)
    if found.name is None:
        warn_user(f"{found.reason}: {task.method} goes without")
        return found
    other = registry.describe_backbone(found.name, found.weights)
    if other.latent_space != about.latent_space or other.clip_format.stride != about.clip_format.stride:
        raise UserError(f"{other.name} does not work over the latents of {about.name}")
    return found


def choose_first_frame_model(task: EditTask, about) -> ModelChoice:
    """Which image model makes the wanted first frame: only for a backbone that is steered by one, where none is
    given. Raises ValueError where no model is known to do it.
    """
    if "image" not in about.capabilities or "text" in about.capabilities:
        return ModelChoice(f"{about.name} is steered by words")
    if task.first_frame or task.changes_nothing:
        return ModelChoice("given" if task.first_frame else "the prompts are equal")
    found = _choose_helper(task, about)
    if found.name is None:
        raise UserError(f"{found.reason}: give the edited first frame by --first-frame")
    return found


def _choose_helper(task: EditTask, about) -> ModelChoice:
    """The model beside the backbone that the task names, or that works over the same latents."""
    name, _, weights = (task.image_model or about.image_model).partition("=")
    if not name:
        return ModelChoice(f"no image model is known over the latents of {about.name}")
    other = registry.describe_backbone(name, weights or None)
    name = other.name
    if "text" not in other.capabilities or "image" in other.capabilities:
        raise UserError(f"{name} cannot be told by words what to do: give another --image-model")
    return ModelChoice("given" if task.image_model else "over the same latents", name, weights or None)


def find_edit_words(task: EditTask, method: ModuleType) -> prompt_diff.Change:
    """Which words change; with a note where they have no effect, or where none drives an edit that needs one."""
    named = [clean_prompt(word) for word in task.words]
    source = clean_prompt(task.source_prompt)
    change = prompt_diff.compare_prompts(source, clean_prompt(task.target_prompt), named)
    if task.mask == "auto" and not task.changes_nothing and not (change.source or change.target):
        raise UserError(prompt_diff.NO_WORD)
    looks = "text_attention" in method.NEEDS
    if looks and not task.changes_nothing:
        return prompt_diff.warn_about_change(change, source)
    if task.words and not looks and task.mask != "auto":
        warn_user(f"words have no effect on {task.method}, which does not look at attention")
    return change


def check_conditioning(task: EditTask, about) -> None:
    """Raises ValueError where a task does not say what it wants in the way that the backbone can be told."""
    words, image = "text" in about.capabilities, "image" in about.capabilities
    told = task.source_prompt.strip() and task.target_prompt.strip()
    if image and not words and not (task.first_frame or told):
        raise UserError(
            f"{about.name} is steered by its first frame: give the edited one by --first-frame, "
            "or --source-prompt and --target-prompt, from which an image model makes it"
        )
    if task.first_frame and not image:
        raise UserError(f"{about.name} is steered by words; it does not take --first-frame")
    if words and not image and not told:
        raise UserError(f"{about.name} is steered by words: give --source-prompt and --target-prompt")


def check_capabilities(needs: set[str], about, what: str) -> None:
    """Raises ValueError where a backbone does not carry what a method needs, with the methods that it does carry."""
    missing = needs - about.capabilities
    if missing:
        fitting = ", ".join(methods.list_compatible(about.capabilities)) or "none"
        raise UserError(
            f"{what} needs {', '.join(sorted(missing))}, which {about.name} does not carry; "
            f"it carries: {fitting}"
        )

"""Plan an edit: make every automatic choice, each with its reason, before a model is loaded."""

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import methods
from ..base.errors import UserError
from ..base.notices import collect_notices, warn_user
from ..base.prompt_diff import NO_WORD, Change, compare_prompts, warn_about_change, written_words
from ..base.prompts import clean_prompt
from ..base.schema import configure
from ..media.clip_format import ClipFormat
from ..media.fitting import Fit, choose_fit
from ..methods.base import MethodInfo
from ..models import registry
from ..models.registry import BackboneInfo
from ..sampling.segments import plan_segments
from ..sampling.windows import Windows, plan_windows
from . import unused_options
from .controls import NO_CONTROL, ControlChoice, choose_control
from .memory import MemoryPlan
from .memory_limits import plan_memory, window_frames
from .quality import apply_quality
from .task import EditTask

if TYPE_CHECKING:
    from ..models.base import Backbone

ModelInfo: TypeAlias = "Backbone | BackboneInfo"  # a backbone, loaded or not


@dataclass(frozen=True)
class ModelChoice:
    """A second model of an edit, and why it was chosen; without a name, there is none."""

    reason: str
    name: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Plan:
    """How an edit is done.

    config: the method's settings; setting_sources: where each of their values comes from. change: the words that the
    edit changes. area_words: the indices of each mask's own words in the target prompt, for a task that has several.
    native_schedule: the name of the backbone's own noise schedule. image_model: helps the method.
    first_frame_model: makes the edited first frame from the prompts, where none is given. memory: where the backbone's
    parts are. control: what the frames follow, by a ControlNet.
    """

    task: EditTask
    method: ModuleType
    config: Any
    setting_sources: dict[str, str]
    change: Change
    fit: Fit
    windows: Windows
    image_model: ModelChoice
    native_schedule: str
    first_frame_model: ModelChoice
    memory: MemoryPlan
    area_words: tuple[tuple[int, ...], ...] = ()
    control: ControlChoice = NO_CONTROL

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the choices and their reasons, as in the manifest."""
        task = self.task
        return {
            "fit": dataclasses.asdict(self.fit),
            "windows": {
                "count": self.windows.count,
                "spans": self.windows.ranges,
                "reason": self.windows.reason,
            },
            "words": {
                "source": words_at(task.source_prompt, self.change.source),
                "target": words_at(task.target_prompt, self.change.target),
                "reason": "named" if task.all_words else "where the two prompts differ",
                "areas": self._describe_areas(),
            },
            "guide": dataclasses.asdict(self.image_model),
            "first_frame": dataclasses.asdict(self.first_frame_model),
            "control": dataclasses.asdict(self.control),
            "memory": self.memory.describe(),
        }

    def _describe_areas(self) -> list[dict[str, str]]:
        """Return each mask with the words that count in it, where they differ."""
        words = [words_at(self.task.target_prompt, found) for found in self.area_words]
        masks = self.task.masks if words else ()
        pairs = zip(masks, words, strict=True)
        return [{"mask": mask, "words": text} for mask, text in pairs]

    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the method's settings, each with its value and where that comes from."""
        values = dataclasses.asdict(self.config)
        sources = self.setting_sources
        settings = {name: {"value": v, "from": sources[name]} for name, v in values.items()}
        if self.native_schedule and values.get("schedule") == "native":
            settings["schedule"]["is"] = self.native_schedule
        return settings


def words_at(text: str, indices: tuple[int, ...]) -> str:
    """Return the words of a prompt that have these indices."""
    words = written_words(clean_prompt(text))
    return " ".join(words[i] for i in indices)


def make_plan(
    task: EditTask,
    info: ModelInfo,
    frames: int,
    size: tuple[int, int],
    keyframes: Iterable[int] = (),
) -> Plan:
    """Plan the edit of a clip of so many frames of a size (height, width).

    info: the backbone, loaded or not. keyframes: the indices of the edited frames after the first. Raises UserError
    where the task, the method and the backbone do not fit together.
    """
    method = methods.load(task.method)
    check_capabilities(method.METHOD, info, task.method)
    check_conditioning(task, info)
    if task.mask == "auto" and "text_attention" not in info.capabilities:
        raise UserError(
            f"mask auto needs text attention, which {info.name} does not have",
            "give --mask a file or a box x,y,w,h",
        )
    config, sources = configure(method.Config, info.recommended, task.strength, task.settings)
    config, sources = apply_quality(task, info, config, sources)
    unused_options.warn_unused_settings(task, method, config, sources)
    schedule = check_schedule(config, info)
    fit = choose_fit(info.clip_format, frames, size)
    windows = split_clip(task, method, config, info.clip_format, fit.model_frames, keyframes)
    change = find_edit_words(task, method)
    image_model = choose_image_model(task, method, config, info)
    unused_options.warn_unused_prompts(task, info, image_model.name)
    first_frame_model = choose_first_frame_model(task, info)
    windows, memory = fit_memory(task, method, info, fit, windows)
    choices = (image_model, schedule, first_frame_model, memory)
    areas, control = find_area_words(task, method), choose_control(task, method, info)
    return Plan(task, method, config, sources, change, fit, windows, *choices, areas, control)


def fit_memory(
    task: EditTask, method: ModuleType, info: ModelInfo, fit: Fit, windows: Windows
) -> tuple[Windows, MemoryPlan]:
    """Plan where the model's parts are. Return shorter windows where the task's memory needs them."""
    can_shorten = task.window is None and method.METHOD.long_clips != "segments"
    memory = plan_memory(task, info, fit, windows, can_shorten)
    if memory.window:
        frames = window_frames(info.clip_format, memory.window)
        windows = plan_windows(info.clip_format, fit.model_frames, frames)
        reason = f"{windows.reason}, because of --memory {task.memory}"
        windows = dataclasses.replace(windows, reason=reason)
    return windows, memory


def check_schedule(config: Any, info: ModelInfo) -> str:
    """Return the name of the backbone's own noise schedule; empty where it is not known.

    Raises UserError where the method's settings ask for a schedule that the backbone does not have.
    """
    known = info.clip_format.schedules
    if not known:
        return ""
    if config.schedule not in known:
        raise UserError(
            f"{info.name} has no noise schedule {config.schedule!r}", f"use {', '.join(known)}"
        )
    return known[1]


def split_clip(
    task: EditTask,
    method: ModuleType,
    config: Any,
    clip_format: ClipFormat,
    frames: int,
    keyframes: Iterable[int],
) -> Windows:
    """Split a clip into windows, or for some methods into segments that are edited one after another."""
    if method.METHOD.long_clips == "segments":
        segments = plan_segments(clip_format, frames, task.window, keyframes)
        if segments.count == 1:
            return segments
        how = method.METHOD.describe_segments(config)
        return dataclasses.replace(segments, reason=f"{segments.reason}; {how}")
    if task.keyframes:
        raise UserError(f"{task.method} uses no edited frame but the first", "remove --keyframe")
    return plan_windows(clip_format, frames, task.window)


def choose_image_model(
    task: EditTask, method: ModuleType, config: Any, info: ModelInfo
) -> ModelChoice:
    """Choose the image model that helps the method, where its settings use one.

    Raises UserError for a model over other latents, MissingDependencyError where its weights are missing.
    """
    if not method.METHOD.uses_image_model(config):
        if task.image_model and choose_first_frame_model(task, info).name is None:
            warn_user(f"--image-model has no effect: {task.method} uses no image model here")
        return ModelChoice(f"{task.method} uses none with these settings")
    if not (task.source_prompt.strip() and task.target_prompt.strip()):
        warn_user(f"no prompts are given, so {task.method} runs without an image model")
        return ModelChoice("no prompts are given")
    choice = _choose_helper(task, info)
    if choice.name is None:
        warn_user(f"{choice.reason}, so {task.method} runs without one")
        return choice
    helper = registry.describe_backbone(choice.name, choice.weights)
    has_same_cells = helper.clip_format.stride == info.clip_format.stride
    if helper.latent_space != info.latent_space or not has_same_cells:
        raise UserError(
            f"{helper.name} has other latents than {info.name}", "choose another --image-model"
        )
    return choice


def choose_first_frame_model(task: EditTask, info: ModelInfo) -> ModelChoice:
    """Choose the image model that makes the edited first frame, for an image-to-video backbone where none is given.

    Raises UserError where no image model is known.
    """
    if "image" not in info.capabilities or "text" in info.capabilities:
        return ModelChoice(f"{info.name} is conditioned on text")
    if task.first_frame or task.changes_nothing:
        return ModelChoice("given" if task.first_frame else "the prompts are equal")
    choice = _choose_helper(task, info)
    if choice.name is None:
        raise UserError(
            f"{task.method} on {info.name} needs the edited first frame",
            "give it by --first-frame, or name a model that makes it from the prompts by --image-model",
        )
    return choice


def _choose_helper(task: EditTask, info: ModelInfo) -> ModelChoice:
    """Choose the image model that the task names, or the backbone's own, which has the same latents."""
    name, _, weights = (task.image_model or info.image_model).partition("=")
    if not name:
        return ModelChoice(f"no image model over the latents of {info.name} is known")
    helper = registry.describe_backbone(name, weights or None)
    if "text" not in helper.capabilities or "image" in helper.capabilities:
        raise UserError(
            f"{helper.name} is not conditioned on text alone", "choose another --image-model"
        )
    reason = "given" if task.image_model else "over the same latents"
    return ModelChoice(reason, helper.name, weights or None)


def find_edit_words(task: EditTask, method: ModuleType) -> Change:
    """Find the words that the edit changes.

    Warns where they have no effect, and where the method needs a word and there is none. Raises UserError for an
    automatic mask without a word.
    """
    named = [clean_prompt(word) for word in task.all_words]
    source = clean_prompt(task.source_prompt)
    change = compare_prompts(source, clean_prompt(task.target_prompt), named)
    is_auto = task.mask == "auto"
    if is_auto and not task.changes_nothing and not (change.source or change.target):
        raise UserError(NO_WORD)
    reads_attention = _reads_words(method)
    if reads_attention and not task.changes_nothing:
        return warn_about_change(change, source)
    if named and not reads_attention and not is_auto:
        warn_user(f"words have no effect on {task.method}, which reads no attention")
    return change


def find_area_words(task: EditTask, method: ModuleType) -> tuple[tuple[int, ...], ...]:
    """Return the indices of each mask's own words in the target prompt; empty where all masks share all words.

    Warn where the method reads words but does not keep those of each mask apart.
    """
    if not any(area.words for area in task.areas) or not _reads_words(method):
        return ()
    if not method.METHOD.words_per_mask:
        warn_user(f"{task.method} uses the words of all masks in each of them")
        return ()
    prompts = clean_prompt(task.source_prompt), clean_prompt(task.target_prompt)
    with collect_notices():  # finding the words of the whole edit has issued them
        changes = [compare_prompts(*prompts, [*map(clean_prompt, a.words)]) for a in task.areas]
    return tuple(change.target for change in changes)


def _reads_words(method: ModuleType) -> bool:
    return "text_attention" in method.METHOD.requires or method.METHOD.words_per_mask


def check_conditioning(task: EditTask, info: ModelInfo) -> None:
    """Raise UserError where a task lacks what the backbone is conditioned on: prompts, or an edited first frame."""
    reads_text, reads_image = "text" in info.capabilities, "image" in info.capabilities
    has_prompts = task.source_prompt.strip() and task.target_prompt.strip()
    if reads_image and not reads_text and not (task.first_frame or has_prompts):
        raise UserError(
            f"{info.name} is conditioned on its first frame, and there is none",
            "give the edited one by --first-frame, or --source-prompt and --target-prompt, from which an image model "
            "makes it",
        )
    if task.first_frame and not reads_image:
        raise UserError(
            f"{info.name} is conditioned on text and takes no first frame", "remove --first-frame"
        )
    if reads_text and not reads_image and not has_prompts:
        raise UserError(
            f"{info.name} is conditioned on text, and a prompt is missing",
            "give --source-prompt and --target-prompt",
        )


def check_capabilities(needs: MethodInfo, info: ModelInfo, method: str) -> None:
    """Raise UserError where a backbone lacks what a method requires. Name models and methods that fit."""
    check_pair(needs, method, info.name, info.capabilities)


def check_pair(
    needs: MethodInfo, method: str, backbone: str, capabilities: Collection[str]
) -> None:
    """Raise UserError where a method requires more than a backbone's capabilities."""
    missing = needs.missing(capabilities)
    if missing:
        models = [name for name, s in registry.specs().items() if not needs.missing(s.capabilities)]
        compatible = ", ".join(methods.list_compatible(capabilities)) or "none"
        raise UserError(
            f"{method} does not run on {backbone}, which has no {', '.join(sorted(missing))}",
            f"models for {method}: {', '.join(models) or 'none'}; methods for {backbone}: {compatible}",
        )

"""The form on the left of the page: widgets made from the schema, and how they affect each other."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from .. import methods
from ..base.errors import MissingDependencyError
from ..media import images, video
from ..models import registry
from ..pipeline.task import EditTask
from . import form_task, views, widgets
from .form_task import BOX, BRUSH, FILE, MASK_SOURCES, NO_MASK, FormValues
from .messages import MessageFormatter
from .painter import Painter
from .queue import RunQueue
from .widgets import task_widget

MASK_SHAPE_FIELDS = ("invert_mask", "outline", "grow", "feather", "mask_channel", "allow_any_mask")
# Fields with a place of their own on the page, or none. The other fields of a task are under "More".
PLACED_FIELDS = (
    "input",
    "output",
    "mask",
    "strength",
    "quality",
    "settings",
    "keyframes",
    *MASK_SHAPE_FIELDS,
    "source_prompt",
    "target_prompt",
    "method",
    "backbone",
    "first_frame",
)
OTHER_FIELDS = tuple(f.name for f in dataclasses.fields(EditTask) if f.name not in PLACED_FIELDS)
LOCAL_FIELDS = ("weights", "raw")  # a folder and a file of this machine
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = PRIVATE | {"show_progress": "hidden"}


class Form:
    """The widgets of one edit. `components()` lists them in order, `read_values(values)` reads their values."""

    def __init__(self, queue: RunQueue, formatter: MessageFormatter):
        self.queue, self.formatter = queue, formatter
        allows_paths = queue.limits.allows_paths
        suffixes = {*video.CONTAINERS, *images.SUFFIXES, ".gif", ".apng", ".avi", ".ts", ".mpg"}
        self.upload = gr.File(label="Clip", file_types=sorted(suffixes), elem_id="clip", height=120)
        self.path = gr.Textbox(
            label="Or a file path on this computer", visible=allows_paths, elem_id="path"
        )
        self.clip_message = gr.HTML(elem_id="clip-message")
        self.prompts = [task_widget(name, lines=2) for name in ("source_prompt", "target_prompt")]
        self.differences = gr.HTML(elem_id="differences")
        self.method, self.backbone = make_model_choices()
        self.changed = gr.State({})  # settings that the user changed
        default = methods.load(str(self.method.value)).Config().strength
        self.strength = gr.Textbox(
            widgets.to_text(default), label="Strength, 0 to 1", elem_id="field-strength"
        )
        self.quality = task_widget("quality")
        with gr.Accordion("Settings of the method", open=False):
            self._make_settings()
        shape = self._make_mask_part()
        with gr.Accordion("More", open=False):
            first_frame = gr.File(
                label="Edited first frame (for models and methods that start from one)", height=100
            )
            others = {name: task_widget(name) for name in OTHER_FIELDS}
            for name in LOCAL_FIELDS:
                others[name].visible = allows_paths
        self.fields: dict[str, Component] = {
            "source_prompt": self.prompts[0],
            "target_prompt": self.prompts[1],
            "method": self.method,
            "backbone": self.backbone,
            "quality": self.quality,
            **shape,
            "first_frame": first_frame,
            **others,
        }

    def _make_settings(self) -> None:
        """Make the widgets of the chosen method's settings, again whenever the choice changes."""

        @gr.render(inputs=[self.method, self.backbone])
        def settings(method: str, backbone: str) -> None:
            recommended = registry.specs()[backbone].recommended
            made = widgets.method_widgets(methods.load(method).Config, recommended)
            for name, widget in made.items():
                if name == "strength":
                    widget.unrender()
                    continue
                inputs = [widget, self.changed]
                widget.change(track_change(name, widget.value), inputs, self.changed, **QUIET)

    def _make_mask_part(self) -> dict[str, widgets.Widget]:
        """Make the widgets of the mask. Return those that are fields of the task."""
        self.mask_source = gr.Radio(
            MASK_SOURCES, value=NO_MASK, label="Mask: the area to edit", elem_id="mask-source"
        )
        with gr.Column(visible=False) as self.box_part:
            self.box = gr.Textbox(label="x,y,width,height in pixels of the clip", elem_id="box")
        with gr.Column(visible=False) as self.brush_part:
            self.painter = Painter(self.queue, "Paint the area to edit")
        with gr.Column(visible=False) as self.file_part:
            self.file = gr.File(label="A video, or one image for all frames (white = editable)")
        with gr.Column(visible=False) as self.shape_part:
            self.follow = gr.Checkbox(True, label="Track it through the clip", elem_id="follow")
            with gr.Accordion("Shape of the mask", open=False):
                shape = {name: task_widget(name) for name in MASK_SHAPE_FIELDS}
        self.show = gr.Button("Show the mask over the clip", visible=False, elem_id="show-mask")
        return shape

    def components(self) -> list[Component]:
        """Return the components whose values `read_values` reads, in order."""
        own = [self.upload, self.path, self.changed, self.mask_source, self.box, self.file]
        return [*own, self.follow, *self.painter.components(), *self.fields.values()]

    def wire(self, load: Callable[..., Any]) -> None:
        """Connect the widgets of the form. load: the event of an opened page."""
        clip = [self.clip_message, *self.painter.components()]
        for event in (self.upload.change, self.path.submit, self.path.blur):
            event(self._show_clip, [self.upload, self.path], clip, **QUIET)
        for prompt in self.prompts:
            prompt.change(
                views.render_differences,
                self.prompts,
                self.differences,
                trigger_mode="always_last",
                **QUIET,
            )
        models = [self.method, self.backbone]
        self.backbone.input(self._list_methods, models, self.method, **QUIET)
        strength = [self.strength, self.changed]
        for event in (self.method.change, self.backbone.change, load):
            event(self._reset_strength, self.method, strength, **QUIET)
        self.strength.input(track_change("strength", None), strength, self.changed, **QUIET)
        parts = [self.box_part, self.brush_part, self.file_part, self.shape_part]
        outputs = [*parts, self.follow, self.show]
        self.mask_source.change(show_mask_parts, self.mask_source, outputs, **QUIET)
        outputs = [self.painter.editor, self.painter.marks]
        self.painter.at.release(self._open_frame, self.components(), outputs, **QUIET)

    def _show_clip(self, upload: str | None, path: str) -> tuple[Any, ...]:
        """Return a line on the clip, and its first frame to paint on."""
        if not (upload or path.strip()):
            return "", *self.painter.clear()
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages):
            clip = form_task.open_clip(upload, path, self.queue)
            line = self.formatter.to_html(form_task.describe_clip(clip))
            return line, *self.painter.show_clip(clip)
        return messages["error"], *self.painter.clear()

    def _list_methods(self, method: str, backbone: str) -> gr.Dropdown:
        names = form_task.compatible_methods(backbone)
        return gr.Dropdown(names, value=method if method in names else names[0])

    def _reset_strength(self, method: str) -> tuple[gr.Textbox, dict[str, Any]]:
        """Return the method's own strength, and no changed settings: those belonged to another method."""
        module = methods.load(method)
        return gr.Textbox(widgets.to_text(module.Config().strength)), {}

    def read_values(self, values: tuple[Any, ...]) -> FormValues:
        """Return the values of `components()` as FormValues. Raise UserError for a clip that cannot be used."""
        state: Mapping[Any, Any] = dict(zip(self.components(), values, strict=True))
        clip = form_task.open_clip(state[self.upload], state[self.path], self.queue)
        painter = self.painter
        marks = painter.collect(state[painter.marks], state[painter.editor])
        return FormValues(
            clip=str(clip.path),
            fields={name: state[widget] for name, widget in self.fields.items()},
            settings=state[self.changed],
            mask_source=state[self.mask_source],
            box=state[self.box],
            file=state[self.file],
            marks=marks,
            follow=state[self.follow],
        )

    def _open_frame(self, *values) -> tuple[Any, ...]:
        """Show another frame to paint on, and keep what was painted on the open one."""
        state = dict(zip(self.components(), values, strict=True))
        with self.formatter.capture_errors({}):
            clip = form_task.open_clip(state[self.upload], state[self.path], self.queue)
            painter = self.painter
            at, marks, editor = (
                state[widget] for widget in (painter.at, painter.marks, painter.editor)
            )
            return painter.open_frame(clip, int(at), marks, editor)
        return gr.skip(), gr.skip()


def make_model_choices() -> tuple[gr.Dropdown, gr.Dropdown]:
    """Return dropdowns for method and backbone. Backbones whose weights are on this machine come first."""
    models = registry.specs()
    present = [name for name in models if has_weights(name)]
    absent = [name for name in models if name not in present]
    choices = [*((n, n) for n in present), *((f"{n} (weights not here)", n) for n in absent)]
    # published weights were downloaded to be used, so they come first
    downloaded = [name for name in present if models[name].download_gb]
    family = registry.backbones()[EditTask.backbone].specs
    preferred = [*downloaded, *(name for name in family if name in present), *present]
    chosen = next(iter(preferred))
    names = form_task.compatible_methods(chosen)
    first = EditTask.method if EditTask.method in names else names[0]
    with gr.Row():
        backbone = gr.Dropdown(
            choices, value=chosen, label="Model", elem_id="field-backbone", min_width=220
        )
        method = gr.Dropdown(
            names, value=first, label="Method", elem_id="field-method", min_width=220
        )
    return method, backbone


def track_change(name: str, default: Any) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
    """Return a handler that keeps a setting while it differs from its default.

    It handles `change`: for Gradio a pasted text is a `change`, not an `input`.
    """

    def update(value: Any, settings: dict[str, Any]) -> dict[str, Any]:
        others = {key: kept for key, kept in settings.items() if key != name}
        is_default = value in (default, widgets.to_text(default))
        return others if is_default else others | {name: value}

    return update


def show_mask_parts(mask_source: str) -> tuple[Any, ...]:
    """Show the widgets of a kind of mask and hide the others."""
    has_mask = mask_source != NO_MASK
    parts = (mask_source == BOX, mask_source == BRUSH, mask_source == FILE, has_mask)
    follow = gr.Checkbox(visible=mask_source in (BOX, BRUSH))
    return (*(gr.Column(visible=part) for part in parts), follow, gr.Button(visible=has_mask))


def has_weights(name: str) -> bool:
    """Return whether a backbone's weights are on this machine."""
    try:
        registry.describe_backbone(name)
    except (MissingDependencyError, ValueError):
        return False
    return True

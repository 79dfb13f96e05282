"""The form of the tab that keeps an edit made elsewhere: two clips, a mask, and the settings of KeepTask."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ..base.errors import UserError
from ..base.schema import list_settings
from ..conform.task import KeepTask
from ..media import images, video
from . import form_task, widgets
from .form import QUIET
from .form_task import BOX, BRUSH, FILE, NO_MASK, FormValues
from .messages import MessageFormatter
from .painter import Painter
from .queue import RunQueue
from .widgets import keep_widget

WHITE = "#ffffff"  # of the brush: white is inside a mask
SOURCE, EDITED = "source clip", "edited clip"
WORDS = "words"  # found by a detector
MASK_CHOICES = [("found", NO_MASK), *((kind, kind) for kind in (BOX, BRUSH, WORDS, FILE))]
MASK_FIELDS = ("mask_use", "invert_mask")
EDGE_FIELDS = ("grow", "feather", "min_area", "soft", "blend")
CLIP_FIELDS = ("ending", "whole")
WORDS_FIELDS = ("words", "detector")
FILE_FIELDS = ("codec", "crf")
LOCAL_FIELDS = ("detector",)  # a folder of this machine


@dataclass(frozen=True)
class ClipPart:
    """The widgets of one clip: an upload, a path, and a line on the clip."""

    upload: gr.File
    path: gr.Textbox
    message: gr.HTML


class KeepForm:
    """The widgets of one pair of clips. `components()` lists them; `read_task` and `read_pair` read their values."""

    def __init__(self, queue: RunQueue, formatter: MessageFormatter):
        self.queue, self.formatter = queue, formatter
        with gr.Row():
            with gr.Column(min_width=220):
                self.source = self._make_clip_part("Source", SOURCE, "keep-source")
            with gr.Column(min_width=220):
                self.edited = self._make_clip_part("Edited", EDITED, "keep-edited")
        self.fields: dict[str, Component] = {**self._make_mask_part()}
        with gr.Accordion("Edges and size of the change", open=False):
            self.fields |= {name: keep_widget(name) for name in EDGE_FIELDS}
        self.fields |= {name: keep_widget(name) for name in CLIP_FIELDS}
        with gr.Accordion("Codec of the result", open=False):
            self.fields |= {name: keep_widget(name) for name in FILE_FIELDS}
        for name in LOCAL_FIELDS:
            self.fields[name].visible = queue.limits.allows_paths

    def _make_clip_part(self, label: str, name: str, elem_id: str) -> ClipPart:
        suffixes = {*video.CONTAINERS, *images.SUFFIXES, ".gif", ".apng", ".avi", ".ts", ".mpg"}
        return ClipPart(
            gr.File(label=label, file_types=sorted(suffixes), elem_id=elem_id, height=140),
            gr.Textbox(
                label=f"Or the {name}'s path on this computer",
                visible=self.queue.limits.allows_paths,
                elem_id=f"{elem_id}-path",
            ),
            gr.HTML(elem_id=f"{elem_id}-message"),
        )

    def _make_mask_part(self) -> dict[str, widgets.Widget]:
        """Make the widgets of the mask. Return those that are fields of the task."""
        self.mask_source = gr.Radio(
            MASK_CHOICES,
            value=NO_MASK,
            label="Mask: where the change may be",
            elem_id="keep-mask-source",
        )
        with gr.Column(visible=False) as self.box_part:
            self.box = gr.Textbox(
                label="x,y,width,height in pixels of the source", elem_id="keep-box"
            )
        with gr.Column(visible=False) as self.brush_part:
            self.painter = Painter(
                self.queue, "Paint where the change may be", prefix="keep-paint-", colour=WHITE
            )
        with gr.Column(visible=False) as self.words_part:
            words = {name: keep_widget(name) for name in WORDS_FIELDS}
        with gr.Column(visible=False) as self.file_part:
            self.file = gr.File(
                label="A video, or one image for all frames (white = the change)",
                elem_id="keep-mask-file",
            )
        with gr.Column(visible=False) as self.use_part:
            use = {name: keep_widget(name) for name in MASK_FIELDS}
        return words | use

    def components(self) -> list[Component]:
        """Return the components whose values are read, in order."""
        clips = [self.source.upload, self.source.path, self.edited.upload, self.edited.path]
        masks = [self.mask_source, self.box, self.file, *self.painter.components()]
        return [*clips, *masks, *self.fields.values()]

    def mask_parts(self) -> list[gr.Column]:
        """Return the outputs of `show_mask_parts`."""
        return [self.box_part, self.brush_part, self.words_part, self.file_part, self.use_part]

    def wire(self) -> None:
        """Connect the widgets of the form."""
        part = self.source
        outputs = [part.message, *self.painter.components()]
        for event in (part.upload.change, part.path.submit, part.path.blur):
            event(self._show_source, [part.upload, part.path], outputs, **QUIET)
        part = self.edited
        for event in (part.upload.change, part.path.submit, part.path.blur):
            event(self._describe_edited, [part.upload, part.path], part.message, **QUIET)
        source = self.mask_source
        source.change(show_mask_parts, source, self.mask_parts(), **QUIET)
        outputs = [self.painter.editor, self.painter.marks]
        self.painter.at.release(self._open_frame, self.components(), outputs, **QUIET)

    def _describe_edited(self, upload: str | None, path: str) -> str:
        """Return a line on the edited clip."""
        if not (upload or path.strip()):
            return ""
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages):
            clip = form_task.open_clip(upload, path, self.queue, EDITED)
            return self.formatter.to_html(form_task.describe_clip(clip))
        return messages["error"]

    def _show_source(self, upload: str | None, path: str) -> tuple[Any, ...]:
        """Return a line on the source, and its first frame to paint on."""
        if not (upload or path.strip()):
            return "", *self.painter.clear()
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages):
            clip = form_task.open_clip(upload, path, self.queue, SOURCE)
            line = self.formatter.to_html(form_task.describe_clip(clip))
            return line, *self.painter.show_clip(clip)
        return messages["error"], *self.painter.clear()

    def _open_frame(self, *values: Any) -> tuple[Any, ...]:
        """Show another frame to paint on, and keep what was painted on the open one."""
        state = self._by_component(values)
        painter = self.painter
        with self.formatter.capture_errors({}):
            at, marks, editor = (state[w] for w in (painter.at, painter.marks, painter.editor))
            return painter.open_frame(self.open_source(values), int(at), marks, editor)
        return gr.skip(), gr.skip()

    def open_source(self, values: tuple[Any, ...]) -> video.Clip:
        """Return the source. Raise UserError for one that cannot be used. values: of `components()`."""
        state, part = self._by_component(values), self.source
        return form_task.open_clip(state[part.upload], state[part.path], self.queue, SOURCE)

    def _by_component(self, values: tuple[Any, ...]) -> Mapping[Any, Any]:
        return dict(zip(self.components(), values, strict=True))

    def read_task(self, values: tuple[Any, ...]) -> KeepTask:
        """Return the task of the form. Raise UserError for a wrong value, and for a clip that cannot be used."""
        state, painter = self._by_component(values), self.painter
        pair = self.read_pair(values)
        mask = FormValues(
            clip=pair.source,
            fields={name: state[widget] for name, widget in self.fields.items()},
            mask_source=state[self.mask_source],
            box=state[self.box],
            file=state[self.file],
            marks=painter.collect(state[painter.marks], state[painter.editor]),
        )
        return build_task(mask, pair.edited, self.queue)

    def read_pair(self, values: tuple[Any, ...]) -> KeepTask:
        """Return the form's two clips with no other settings. Raise UserError for a clip that cannot be used."""
        state, part = self._by_component(values), self.edited
        source = self.open_source(values)
        edited = form_task.open_clip(state[part.upload], state[part.path], self.queue, EDITED)
        return KeepTask(str(source.path), str(edited.path))


def build_task(form: FormValues, edited: str, queue: RunQueue) -> KeepTask:
    """Return the task of a form. Raise UserError for a wrong value, as KeepTask does, and for a wrong mask."""
    schema = list_settings(KeepTask)
    values = {name: widgets.parse_value(schema[name], value) for name, value in form.fields.items()}
    values = {name: value for name, value in values.items() if value is not None}
    unused = () if form.mask_source == WORDS else WORDS_FIELDS
    unused += MASK_FIELDS if form.mask_source == NO_MASK else ()
    values = {name: value for name, value in values.items() if name not in unused}
    values |= mask_fields(form, values)
    clips = {"source": form.clip, "edited": edited}
    form_task.check_paths(queue, values | clips)  # before any file is opened
    return KeepTask(**clips, **values)


def mask_fields(form: FormValues, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mask of a form as fields of KeepTask. Raise UserError where it is missing."""
    if form.mask_source == WORDS:
        if not values.get("words"):
            raise UserError("the words are empty", "type what changed, such as: a red car")
        return {}
    options = form_task.mask_options(form)
    if form.mask_source == BRUSH:
        return {"brushes": tuple(options)}
    return {"mask": options[0]} if options else {}


def show_mask_parts(mask_source: str) -> tuple[gr.Column, ...]:
    """Show the widgets of a kind of mask and hide the others."""
    parts = (*(mask_source == kind for kind in (BOX, BRUSH, WORDS, FILE)), mask_source != NO_MASK)
    return tuple(gr.Column(visible=part) for part in parts)

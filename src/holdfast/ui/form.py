"""What is asked for: the widgets on the left of the page, made from the schemas, and what they do to each other."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy import ndarray

from .. import methods
from ..base.errors import Missing
from ..media import images, video
from ..models import registry
from ..pipeline.task import EditTask
from . import asked, told, widgets
from .asked import BOX, BRUSH, FILE, NO_MASK, WAYS, Asked
from .desk import Desk
from .messages import Wording
from .widgets import of_task

SHAPED = ("invert_mask", "outline", "grow", "feather", "mask_channel", "allow_any_mask")
# What has a place of its own on the page, or none; every other field of a task is under "More".
PLACED = ("input", "output", "mask", "strength", "settings", "keyframes", *SHAPED)
PLACED += ("source_prompt", "target_prompt", "method", "backbone", "first_frame")
MORE = tuple(f.name for f in dataclasses.fields(EditTask) if f.name not in PLACED)
LOCAL = ("weights",)  # a folder of this machine
PAINT, COLOUR = (255, 40, 120, 255), "#ff2878"  # of the brush
OPEN = "open"  # among the painted pictures: which frame is open
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = PRIVATE | {"show_progress": "hidden"}


class Form:
    """The widgets of one edit. `asked(values)` reads them, `all()` says which values, in order."""

    def __init__(self, desk: Desk, wording: Wording):
        self.desk, self.wording = desk, wording
        anywhere = desk.limits.anywhere
        kinds = sorted(
            {*video.CONTAINERS, *images.SUFFIXES, ".gif", ".apng", ".avi", ".ts", ".mpg"}
        )
        self.upload = gr.File(label="Clip", file_types=kinds, elem_id="clip", height=120)
        self.path = gr.Textbox(
            label="Or its path on this machine", visible=anywhere, elem_id="path"
        )
        self.clip_said = gr.HTML(elem_id="clip-said")
        self.fields = {name: of_task(name, lines=2) for name in ("source_prompt", "target_prompt")}
        self.differences = gr.HTML(elem_id="differences")
        self.fields |= models()
        self.changed = gr.State({})  # settings that somebody changed
        usual = methods.load(self.fields["method"].value).Config().strength
        self.strength = gr.Textbox(
            widgets.written(usual), label="Strength, 0 to 1", elem_id="field-strength"
        )
        with gr.Accordion("Settings of the method", open=False):
            self._settings()
        self._mask()
        with gr.Accordion("More", open=False):
            self.fields["first_frame"] = gr.File(
                label="First frame as it is wanted (for models that are steered by one)", height=100
            )
            self.fields |= {name: of_task(name) for name in MORE}
            for name in LOCAL:
                self.fields[name].visible = anywhere

    def _settings(self) -> None:
        """The settings of the method that is chosen, anew whenever another is."""

        @gr.render(inputs=[self.fields["method"], self.fields["backbone"]])
        def settings(method: str, backbone: str) -> None:
            prefers = registry.backbones()[backbone].MODELS[backbone].prefers
            for name, widget in widgets.of_method(methods.load(method).Config, prefers).items():
                if name == "strength":
                    widget.unrender()
                    continue
                inputs = [widget, self.changed]
                widget.change(setter(name, widget.value), inputs, self.changed, **QUIET)

    def _mask(self) -> None:
        self.way = gr.Radio(
            WAYS, value=NO_MASK, label="Mask: where the edit may show", elem_id="way"
        )
        with gr.Column(visible=False) as self.box_part:
            self.box = gr.Textbox(label="x,y,width,height in pixels of the clip", elem_id="box")
        with gr.Column(visible=False) as self.brush_part:
            self.at = gr.Slider(0, 1, step=1, label="Frame to paint on", elem_id="at")
            self.brush = gr.ImageEditor(
                label="Paint over what is to change",
                sources=(),
                transforms=(),
                layers=gr.LayerOptions(allow_additional_layers=False),
                brush=a_brush(),
                format="png",
                elem_id="brush",
            )
        with gr.Column(visible=False) as self.file_part:
            self.file = gr.File(label="A video, or one image for all frames (bright is inside)")
        with gr.Column(visible=False) as self.shape_part:
            self.follow = gr.Checkbox(True, label="Follow it through the clip", elem_id="follow")
            with gr.Accordion("Shape of the mask", open=False):
                self.fields |= {name: of_task(name) for name in SHAPED}
        self.marks = gr.State({})  # painted pictures by their frame
        self.show = gr.Button("Show the mask over the clip", visible=False, elem_id="show-mask")

    def all(self) -> list[gr.components.Component]:
        own = [self.upload, self.path, self.changed, self.way, self.box, self.file]
        return [*own, self.marks, self.follow, self.at, self.brush, *self.fields.values()]

    def wire(self, load: Any) -> None:
        """What happens within the form. load: the event of a page that is opened."""
        clip = [self.clip_said, self.at, self.brush, self.marks]
        for event in (self.upload.change, self.path.submit, self.path.blur):
            event(self._clip, [self.upload, self.path], clip, **QUIET)
        prompts = [self.fields["source_prompt"], self.fields["target_prompt"]]
        for prompt in prompts:
            prompt.change(
                told.marked, prompts, self.differences, trigger_mode="always_last", **QUIET
            )
        models = [self.fields["method"], self.fields["backbone"]]
        models[1].input(self._backbone, models, models[0], **QUIET)
        for event in (models[0].change, models[1].change, load):
            event(self._strength, models[0], [self.strength, self.changed], **QUIET)
        strength = [self.strength, self.changed]
        self.strength.input(setter("strength", None), strength, self.changed, **QUIET)
        parts = [self.box_part, self.brush_part, self.file_part, self.shape_part]
        self.way.change(ways, self.way, [*parts, self.follow, self.show], **QUIET)
        self.at.release(self._frame, self.all(), [self.brush, self.marks], **QUIET)

    def _clip(self, upload: str | None, path: str) -> tuple:
        """The clip that was given, in a line, with its first frame to paint on."""
        if not (upload or path.strip()):
            return "", gr.skip(), None, {}
        said: dict[str, str] = {}
        with self.wording.errors(said):
            clip = asked.clip_of(upload, path, self.desk)
            at = gr.Slider(0, max(1, clip.frames - 1), value=0, step=1)
            frame = background(asked.frame_of(clip, 0, self.desk))
            editor = gr.ImageEditor(
                frame, brush=a_brush(max(2, min(frame["background"].shape[:2]) // 12))
            )
            return self.wording.text(asked.described(clip)), at, editor, {}
        return said["error"], gr.skip(), None, {}

    def _backbone(self, method: str, backbone: str) -> Any:
        methods = asked.fitting(backbone)
        return gr.Dropdown(methods, value=method if method in methods else methods[0])

    def _strength(self, method: str) -> tuple:
        """The method's own strength; what was changed was of another method."""
        module = methods.load(method)
        return gr.Textbox(widgets.written(module.Config().strength)), {}

    def asked(self, values: tuple) -> Asked:
        """What stands on the page. Raises ValueError for a clip that cannot be taken."""
        found: Mapping[Any, Any] = dict(zip(self.all(), values, strict=True))
        clip = asked.clip_of(found[self.upload], found[self.path], self.desk)
        fields = {name: found[widget] for name, widget in self.fields.items()}
        mask = {"way": found[self.way], "box": found[self.box], "file": found[self.file]}
        marks = {at: path for at, path in self._marks(found).items() if at != OPEN}
        mask |= {"marks": marks, "follow": found[self.follow]}
        return Asked(str(clip.path), fields, found[self.changed], **mask)

    def _marks(self, found: Mapping) -> dict[Any, str]:
        """The pictures that were painted by their frame, with the one that is open."""
        marks = dict(found[self.marks])
        at = marks.get(OPEN, 0)
        marks.pop(at, None)
        picture = asked.painted(found[self.brush], self.desk)
        return marks | ({at: picture} if picture else {})

    def _frame(self, *values) -> tuple:
        """Another frame to paint on. What was painted is kept with the frame that was open."""
        found = dict(zip(self.all(), values, strict=True))
        with self.wording.errors({}):
            clip = asked.clip_of(found[self.upload], found[self.path], self.desk)
            marks, at = self._marks(found), int(found[self.at])
            return background(asked.frame_of(clip, at, self.desk), marks.get(at)), marks | {
                OPEN: at
            }
        return gr.skip(), gr.skip()


def models() -> dict[str, gr.Dropdown]:
    """The choices of method and backbone; those whose weights are here come first."""
    cards = {name: module.MODELS[name] for name, module in registry.backbones().items()}
    here = [name for name in cards if is_here(name)]
    absent = [name for name in cards if name not in here]
    choices = [*((n, n) for n in here), *((f"{n} (weights not here)", n) for n in absent)]
    own = [name for name in here if cards[name].gigabytes]  # somebody took the trouble to get it
    usual = registry.backbones()[EditTask.backbone].MODELS
    backbone = next(iter([*own, *(name for name in usual if name in here), *here]))
    methods = asked.fitting(backbone)
    with gr.Row():
        label = {"label": "Model", "elem_id": "field-backbone", "min_width": 220}
        model = gr.Dropdown(choices, value=backbone, **label)
        label = {"label": "Method", "elem_id": "field-method", "min_width": 220}
        first = EditTask.method if EditTask.method in methods else methods[0]
        method = gr.Dropdown(methods, value=first, **label)
    return {"method": method, "backbone": model}


def setter(name: str, usual: Any):
    """What keeps a setting where it is not the usual one. (A pasted text is no `input` to Gradio, but a `change`.)"""

    def changed(value: Any, settings: dict) -> dict:
        others = {key: kept for key, kept in settings.items() if key != name}
        return others if value in (usual, widgets.written(usual)) else others | {name: value}

    return changed


def ways(way: str) -> tuple:
    """What a way to give a mask shows of the page."""
    parts = (way == BOX, way == BRUSH, way == FILE, way != NO_MASK)
    carried = gr.Checkbox(visible=way in (BOX, BRUSH))
    shown = gr.Button(visible=way != NO_MASK)
    return (*(gr.Column(visible=part) for part in parts), carried, shown)


def a_brush(size: int | str = "auto") -> gr.Brush:
    return gr.Brush(size, [COLOUR], color_mode="fixed")


def background(frame: ndarray, painted: str | None = None) -> dict[str, Any]:
    """A frame as the editor takes it, with what was painted over it before."""
    layers = []
    if painted:
        inside = images.read(Path(painted))[..., 0] > 127
        layers = [np.where(inside[..., None], np.uint8(PAINT), np.uint8(0))]
    return {"background": frame, "layers": layers, "composite": frame}


def is_here(name: str) -> bool:
    """Whether a backbone's weights are on this machine."""
    try:
        registry.about(name)
    except (Missing, ValueError):
        return False
    return True

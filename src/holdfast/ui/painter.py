"""An editor in which a user paints a mask over frames of a clip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component
from numpy import ndarray

from ..media import images, video
from . import form_task
from .queue import RunQueue

COLOUR = "#ff2878"  # of the brush
OPEN = "open"  # the key of the open frame in the state of painted pictures


class Painter:
    """A slider that chooses a frame, an editor over that frame, and the pictures painted so far.

    prefix: of the widgets' ids. colour: of the brush.
    """

    def __init__(self, queue: RunQueue, label: str, prefix: str = "", colour: str = COLOUR):
        self.queue, self.colour = queue, colour
        self.at = gr.Slider(0, 1, step=1, label="Frame to paint on", elem_id=f"{prefix}at")
        self.editor = gr.ImageEditor(
            label=label,
            sources=(),
            transforms=(),
            layers=gr.LayerOptions(allow_additional_layers=False),
            brush=make_brush(None, colour),
            format="png",
            elem_id=f"{prefix}brush",
        )
        self.marks = gr.State({})  # painted pictures by their frame

    def components(self) -> list[Component]:
        """Return the components that hold what was painted."""
        return [self.marks, self.at, self.editor]

    def clear(self) -> tuple[Any, ...]:
        """Return updates of `components()` for a form without a clip."""
        return {}, gr.skip(), None

    def show_clip(
        self, clip: video.Clip, at: int = 0, shown: video.Clip | None = None
    ) -> tuple[Any, ...]:
        """Return updates of `components()` for a clip on which nothing is painted yet.

        at: the frame to open. shown: the clip that is displayed in place of it, with the same frames.
        """
        frame = form_task.read_display_frame(shown or clip, at, self.queue)
        brush = make_brush(max(2, min(frame.shape[:2]) // 12), self.colour)
        slider = gr.Slider(0, max(1, clip.frames - 1), value=at, step=1)
        return {OPEN: at}, slider, gr.ImageEditor(editor_value(frame), brush=brush)

    def open_frame(
        self, clip: video.Clip, at: int, marks: Mapping[Any, str], editor: Any
    ) -> tuple[Any, dict[Any, Any]]:
        """Return another frame for the editor, and the marks with what was painted on the open one."""
        collected = self.collect(marks, editor)
        frame = form_task.read_display_frame(clip, at, self.queue)
        value = editor_value(frame, collected.get(at), self.colour)
        return value, collected | {OPEN: at}

    def collect(self, marks: Mapping[Any, str], editor: Any) -> dict[Any, str]:
        """Return the painted pictures by their frame, with that of the open frame."""
        others = dict(marks)
        at = others.pop(OPEN, 0)
        others.pop(at, None)
        picture = form_task.save_brush_mask(editor, self.queue)
        return others | ({at: picture} if picture else {})


def make_brush(size: int | None, colour: str = COLOUR) -> gr.Brush:
    """Return the brush of the editor. size: pixels; None: Gradio chooses."""
    return gr.Brush(size or "auto", [colour], color_mode="fixed")


def editor_value(frame: ndarray, painted: str | None = None, colour: str = COLOUR) -> Any:
    """Return a frame as the editor takes it, with what was painted over it before."""
    layers = []
    if painted:
        inside = images.read(Path(painted))[..., 0] > 127
        paint = np.array([*bytes.fromhex(colour[1:]), 255], np.uint8)
        layers = [np.where(inside[..., None], paint, np.uint8(0))]
    return {"background": frame, "layers": layers, "composite": frame}

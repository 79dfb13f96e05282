"""Widgets made from the schemas: one for each field of EditTask and each setting of a method, by what it takes."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..base.schema import REQUIRED, Setting, list_settings
from ..pipeline.task import EditTask
from .messages import label as labelled
from .messages import name_controls

LISTS = "One a line."
UNSET = "not set"


def of_task(name: str, lines: int = 1) -> gr.components.Component:
    """The widget of a field of EditTask, with its help. lines: how high it is, of a text."""
    setting = list_settings(EditTask)[name]
    has_value = setting.kind not in ("array", "object") and setting.default is not REQUIRED
    return widget(setting, setting.default if has_value else None, lines)


def of_method(config: type, prefers: Mapping[str, Any]) -> dict[str, gr.components.Component]:
    """A widget for each setting of a method, by name, at what the backbone prefers or else the method's own value."""
    return {
        name: widget(setting, prefers.get(name, setting.default))
        for name, setting in list_settings(config).items()
    }


def widget(setting: Setting, value: Any, lines: int = 1) -> gr.components.Component:
    """What fits a kind of value: a box to tick, a choice, else a line to type.

    A number is typed as well: Gradio's sliders and number fields replace one that is out of range, or missing, by
    another, so that what stands on the page is not what was typed. A line is read, and refused, as a flag is.
    """
    name, info = setting.name, name_controls(setting.description)
    label = {"label": labelled(name), "info": info, "elem_id": f"field-{name}"}
    label |= {"interactive": True}
    if setting.kind == "boolean":
        return gr.Checkbox(value=bool(value), **label)
    if setting.choices:
        none = [("none", None)] if setting.is_optional else []
        return gr.Dropdown([*none, *((c, c) for c in setting.choices)], value=value, **label)
    if setting.kind == "array":
        return gr.Textbox(lines=2, **label | {"info": f"{info} {LISTS}"})
    is_number = setting.kind in ("integer", "number")
    unset = {"placeholder": written(value) or UNSET} if is_number else {}
    return gr.Textbox(value=written(value), lines=lines, **unset, **label)


def written(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, tuple):
        return ":".join(f"{part:g}" for part in value)
    return "" if value is None else str(value)


def given(setting: Setting, value: Any) -> Any:
    """What a widget holds, as the schema takes it: nothing typed is nothing given."""
    if setting.kind == "array":
        return tuple(line.strip() for line in (value or "").splitlines() if line.strip())
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    is_number = setting.kind in ("integer", "number")
    return value.strip() if isinstance(value, str) and is_number else value

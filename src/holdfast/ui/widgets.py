"""Widgets made from the schema: one for each field of a task and each setting of a method, by the values it takes."""

from collections.abc import Mapping
from typing import Any, TypedDict

import gradio as gr

from ..base.schema import REQUIRED, Setting, list_settings
from ..conform.task import KeepTask
from ..pipeline.task import EditTask
from .messages import control_label, name_controls

Widget = gr.Checkbox | gr.Dropdown | gr.Textbox
LISTS = "One per line."
UNSET = "not set"
NUMBERS = ("integer", "number")


class _Label(TypedDict):
    """Arguments that all widgets take."""

    label: str
    info: str
    elem_id: str
    interactive: bool


def task_widget(name: str, lines: int = 1) -> Widget:
    """Return the widget of a field of EditTask. lines: the height of a text box."""
    return _field_widget(list_settings(EditTask)[name], lines, "field")


def keep_widget(name: str) -> Widget:
    """Return the widget of a field of KeepTask."""
    return _field_widget(list_settings(KeepTask)[name], 1, "keep")


def _field_widget(setting: Setting, lines: int, prefix: str) -> Widget:
    has_value = setting.kind not in ("array", "object") and setting.default is not REQUIRED
    return make_widget(setting, setting.default if has_value else None, lines, prefix)


def method_widgets(config: type, recommended: Mapping[str, Any]) -> dict[str, Widget]:
    """Return a widget for each setting of a method, by name.

    Its value is the one that the backbone recommends, otherwise the method's default.
    """
    return {
        name: make_widget(setting, _initial_value(setting, recommended))
        for name, setting in list_settings(config).items()
    }


def _initial_value(setting: Setting, recommended: Mapping[str, Any]) -> Any:
    return (
        recommended.get(setting.name, setting.default) if setting.follows_model else setting.default
    )


def make_widget(setting: Setting, value: Any, lines: int = 1, prefix: str = "field") -> Widget:
    """Return the widget of a setting, with a value: a checkbox, a dropdown, otherwise a text box.

    prefix: of its id, since two tabs may have the same setting.

    Numbers are typed as text as well. Gradio's sliders and number fields replace a missing or excessive number with
    another one, so that the page would show a number that the user did not type. A text box is parsed and refused
    like a flag.
    """
    label: _Label = {
        "label": control_label(setting.name),
        "info": name_controls(setting.description),
        "elem_id": f"{prefix}-{setting.name}",
        "interactive": True,
    }
    if setting.kind == "boolean":
        return gr.Checkbox(value=bool(value), **label)
    if setting.choices:
        none: list[tuple[str, Any]] = [("none", None)] if setting.is_optional else []
        return gr.Dropdown([*none, *((c, c) for c in setting.choices)], value=value, **label)
    if setting.kind == "array":
        label["info"] = f"{setting.description} {LISTS}"
        return gr.Textbox(lines=2, **label)
    placeholder = (to_text(value) or UNSET) if setting.kind in NUMBERS else None
    return gr.Textbox(value=to_text(value), lines=lines, placeholder=placeholder, **label)


def to_text(value: Any) -> str:
    """Return a value as a user types it."""
    if isinstance(value, tuple):
        return ":".join(f"{part:g}" for part in value)
    return "" if value is None else str(value)


def parse_value(setting: Setting, value: Any) -> Any:
    """Return a widget's value as the schema takes it; None for an empty text box."""
    if setting.kind == "array":
        return tuple(line.strip() for line in (value or "").splitlines() if line.strip())
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value.strip() if isinstance(value, str) and setting.kind in NUMBERS else value

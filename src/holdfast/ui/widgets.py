"""Widgets made from the schema: one for each field of EditTask and each setting of a method, by the values it takes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

import gradio as gr

from ..base.schema import Kind, described, kind_of, kinds
from ..pipeline.task import EditTask
from .messages import control_label, name_controls

Widget = gr.Checkbox | gr.Dropdown | gr.Textbox
LISTS = "One per line."
UNSET = "not set"


class _Label(TypedDict):
    """Arguments that all widgets take."""

    label: str
    info: str
    elem_id: str
    interactive: bool


def task_widget(name: str, lines: int = 1) -> Widget:
    """Return the widget of a field of EditTask. lines: the height of a text box."""
    (field,) = (f for f in dataclasses.fields(EditTask) if f.name == name)
    kind, default = kind_of(field.type), field.default
    if kind.base in (dict, tuple) or default is dataclasses.MISSING:
        default = None
    return make_widget(name, kind, default, field.metadata["help"], lines)


def method_widgets(config: type, recommended: Mapping[str, Any]) -> dict[str, Widget]:
    """Return a widget for each setting of a method, by name.

    Its value is the one that the backbone recommends, otherwise the method's default.
    """
    descriptions, widgets = described(config), {}
    for f in dataclasses.fields(config):
        value = recommended.get(f.name, f.default)
        description = descriptions[f.name]["about"]
        widgets[f.name] = make_widget(f.name, kinds(config)[f.name], value, description)
    return widgets


def make_widget(name: str, kind: Kind, value: Any, description: str, lines: int = 1) -> Widget:
    """Return the widget for a kind of value: a checkbox, a dropdown, otherwise a text box.

    Numbers are typed as text as well. Gradio's sliders and number fields replace a missing or excessive number with
    another one, so that the page would show a number that nobody typed. A text box is parsed and refused like a flag.
    """
    label: _Label = {
        "label": control_label(name),
        "info": name_controls(description),
        "elem_id": f"field-{name}",
        "interactive": True,
    }
    if kind.base is bool:
        return gr.Checkbox(value=bool(value), **label)
    if kind.choices:
        none: list[tuple[str, Any]] = [("none", None)] if kind.optional else []
        return gr.Dropdown([*none, *((c, c) for c in kind.choices)], value=value, **label)
    if kind.base is tuple:
        label["info"] = f"{description} {LISTS}"
        return gr.Textbox(lines=2, **label)
    placeholder = (to_text(value) or UNSET) if kind.base in (int, float) else None
    return gr.Textbox(value=to_text(value), lines=lines, placeholder=placeholder, **label)


def to_text(value: Any) -> str:
    """Return a value as a user types it."""
    if isinstance(value, tuple):
        return ":".join(f"{part:g}" for part in value)
    return "" if value is None else str(value)


def parse_value(kind: Kind, value: Any) -> Any:
    """Return a widget's value as the schema takes it; None for an empty text box."""
    if kind.base is tuple:
        return tuple(line.strip() for line in (value or "").splitlines() if line.strip())
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value.strip() if isinstance(value, str) and kind.base in (int, float) else value

"""Widgets made from the schemas: one for each field of EditTask and each setting of a method, by what it takes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gradio as gr

from ..base.schema import Kind, described, kind_of, kinds
from ..pipeline.task import EditTask
from .messages import label as labelled
from .messages import name_controls

LISTS = "One a line."
UNSET = "not set"


def of_task(name: str, lines: int = 1) -> gr.components.Component:
    """The widget of a field of EditTask, with its help. lines: how high it is, of a text."""
    (f,) = (f for f in dataclasses.fields(EditTask) if f.name == name)
    kind, default = kind_of(f.type), f.default
    if kind.base in (dict, tuple) or default is dataclasses.MISSING:
        default = None
    return widget(name, kind, default, f.metadata["help"], lines)


def of_method(config: type, prefers: Mapping[str, Any]) -> dict[str, gr.components.Component]:
    """A widget for each setting of a method, by name, at what the backbone prefers or else the method's own value."""
    about, found = described(config), {}
    for f in dataclasses.fields(config):
        value = prefers.get(f.name, f.default)
        found[f.name] = widget(f.name, kinds(config)[f.name], value, about[f.name]["about"])
    return found


def widget(
    name: str, kind: Kind, value: Any, about: str, lines: int = 1
) -> gr.components.Component:
    """What fits a kind of value: a box to tick, a choice, else a line to type.

    A number is typed as well: Gradio's sliders and number fields replace one that is out of range, or missing, by
    another, so that what stands on the page is not what was typed. A line is read, and refused, as a flag is.
    """
    label = {"label": labelled(name), "info": name_controls(about), "elem_id": f"field-{name}"}
    label |= {"interactive": True}
    if kind.base is bool:
        return gr.Checkbox(value=bool(value), **label)
    if kind.choices:
        none = [("none", None)] if kind.optional else []
        return gr.Dropdown([*none, *((c, c) for c in kind.choices)], value=value, **label)
    if kind.base is tuple:
        return gr.Textbox(lines=2, **label | {"info": f"{about} {LISTS}"})
    unset = {"placeholder": written(value) or UNSET} if kind.base in (int, float) else {}
    return gr.Textbox(value=written(value), lines=lines, **unset, **label)


def written(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, tuple):
        return ":".join(f"{part:g}" for part in value)
    return "" if value is None else str(value)


def given(kind: Kind, value: Any) -> Any:
    """What a widget holds, as the schema takes it: nothing typed is nothing given."""
    if kind.base is tuple:
        return tuple(line.strip() for line in (value or "").splitlines() if line.strip())
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value.strip() if isinstance(value, str) and kind.base in (int, float) else value

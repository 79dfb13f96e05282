"""Typed settings: one check for the command line, JSON and Python; what is listed is made from the same types."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from holdfast import methods
from holdfast.base.schema import (
    Guidance,
    Number,
    Range,
    Share,
    Shift,
    Steps,
    check,
    configure,
    described,
    kinds,
    setting,
)
from holdfast.models import registry
from holdfast.models.spec import SHARED_SETTINGS


@dataclass(frozen=True)
class Config:
    steps: Steps = setting(50, "T")
    strength: Share = 0.5
    shift: Shift = setting(None, "of the grid; None: its own")
    smooth: bool = False
    contrast: Literal["signed", "abs"] = "signed"
    guidance: Guidance = 3.0
    frames: Annotated[int, Range(2, None)] = 21
    omega: Number = 1.0

    __post_init__ = check


def test_settings_come_from_the_method_the_backbone_and_the_user_in_that_order():
    prefers = {"shift": 5.0, "steps": 30, "unknown": 1}
    cfg, origin = configure(Config, prefers, 0.25, {"steps": "10", "smooth": "yes"})
    assert cfg == Config(10, 0.25, 5.0, True)
    assert origin["steps"] == origin["strength"] == origin["smooth"] == "given"
    assert origin["shift"] == "suits this backbone"
    assert origin["contrast"] == "the method's default"
    assert configure(Config, {"shift": 5.0}, None, {"shift": "none"})[0].shift is None


WRONG = [
    ({"stepz": "3"}, r"no setting of this method is called 'stepz'; nearest: steps"),
    ({"steps": "many"}, "steps is a whole number between 1 and 1000, not 'many'"),
    ({"steps": "0"}, "between 1 and 1000"),
    ({"steps": 2.5}, "a whole number"),
    ({"steps": True}, "a whole number"),
    ({"shift": "0"}, "shift is a number between 0.01 and 1000, or none"),
    ({"strength": "nan"}, "strength is a number between 0 and 1"),
    ({"strength": float("inf")}, "strength is a number between 0 and 1"),
    ({"strength": "1.5"}, "between 0 and 1"),
    ({"strength": None}, "between 0 and 1"),
    ({"smooth": "perhaps"}, "smooth is true or false"),
    ({"contrast": "circle"}, "contrast is signed or abs, not 'circle'"),
    ({"guidance": "1:2:3"}, "guidance is a number, or two of them"),
    ({"omega": "inf"}, "omega is a number, not 'inf'"),
    ({"frames": 1}, "frames is a whole number 2 or more"),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_wrong_settings_say_what_would_be_right_from_everywhere(settings, words):
    with pytest.raises(ValueError, match=words):
        configure(Config, {}, None, settings)
    if set(settings) <= set(kinds(Config)):
        with pytest.raises(ValueError, match=words):
            Config(**settings)


def test_texts_are_read_as_people_type_them():
    typed = Config(steps="7", strength="0.5", smooth="No", guidance="1:3", shift="None")
    assert typed == Config(7, 0.5, None, False, guidance=(1.0, 3.0))


def test_what_is_listed_is_what_the_types_and_fields_say():
    rows = described(Config)
    assert rows["steps"] == {
        "default": "50",
        "takes": "a whole number between 1 and 1000",
        "about": "T",
    }
    assert rows["shift"]["default"] == "none"
    assert rows["shift"]["about"] == "of the grid; None: its own"
    assert rows["contrast"]["takes"] == "signed or abs"


def test_settings_are_listed_without_the_sources():
    """As in a zip, or where only .pyc files are: the words were read from comments."""
    text = """
@dataclass(frozen=True)
class Config:
    steps: Steps = setting(50, "T")
    omega: float = 1.0

@dataclass(frozen=True)
class More(Config):
    omega: float = setting(2.0, "of the step")
"""
    names = {"dataclass": dataclass, "Steps": Steps, "setting": setting, "__name__": "nowhere"}
    exec(compile(text, "nowhere.py", "exec"), names)
    rows = described(names["More"])
    assert [rows[name]["about"] for name in ("steps", "omega")] == ["T", "of the step"]


@pytest.mark.parametrize("name", methods.names())
def test_every_methods_defaults_are_allowed_and_its_settings_can_be_listed(name):
    config = methods.load(name).Config
    config()
    rows = described(config)
    assert all(row["takes"] for row in rows.values())
    assert sum(bool(row["about"]) for row in rows.values()) > len(rows) / 3


def test_a_backbone_prefers_only_shared_settings():
    """Never a method's own: one strength for all would override every paper's."""
    for spec in registry.specs().values():
        assert set(spec.recommended) <= SHARED_SETTINGS

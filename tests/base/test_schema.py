"""Settings: one check for the command line, JSON and Python; lists and errors are made from the same types."""

import dataclasses
import json
from typing import Annotated, Literal

import numpy as np
import pytest
from pydantic import Field, ValidationError

from holdfast import methods
from holdfast.base.errors import UnknownArgumentError, UserError
from holdfast.base.schema import (
    REQUIRED,
    Guidance,
    Iterations,
    Number,
    Range,
    Share,
    Shift,
    Steps,
    configure,
    describe_settings,
    json_schema,
    list_settings,
    plain_type,
    settings_class,
)
from holdfast.models import registry
from holdfast.models.spec import SHARED_SETTINGS


@settings_class
class Config:
    steps: Steps = Field(50, description="T: number of steps")
    strength: Share = 0.5
    shift: Shift = Field(None, description="of the schedule; none: its own")
    smooth: bool = False
    contrast: Literal["signed", "abs"] = "signed"
    guidance: Guidance = 3.0
    frames: Annotated[int, Range(2, None)] = 21
    omega: Number = 1.0


def test_settings_come_from_the_method_the_backbone_and_the_user_in_that_order():
    recommended = {"shift": 5.0, "steps": 30, "unknown": 1}
    config, origin = configure(Config, recommended, 0.25, {"steps": "10", "smooth": "yes"})
    assert config == Config(10, 0.25, 5.0, True)
    assert origin["steps"] == origin["strength"] == origin["smooth"] == "given"
    assert origin["shift"] == "suits this backbone"
    assert origin["contrast"] == "the method's default"
    assert configure(Config, {"shift": 5.0}, None, {"shift": "none"})[0].shift is None


def test_recommended_steps_are_not_meant_for_iterations():
    @settings_class
    class Descent:
        steps: Iterations = 200

    assert configure(Descent, {"steps": 30}, None, {})[0].steps == 200


WRONG = [
    ({"stepz": "3"}, r"unknown setting of this method 'stepz': did you mean steps\?"),
    ({"steps": "many"}, "steps is 'many': use a whole number between 1 and 1000"),
    ({"steps": "0"}, "between 1 and 1000"),
    ({"steps": 2.5}, "a whole number"),
    ({"steps": True}, "a whole number"),
    ({"shift": "0"}, "shift is '0': use a number between 0.01 and 1000, or none"),
    ({"strength": "nan"}, "strength is 'nan': use a number between 0 and 1"),
    ({"strength": float("inf")}, "strength is inf: use a number between 0 and 1"),
    ({"strength": "1.5"}, "between 0 and 1"),
    ({"strength": None}, "between 0 and 1"),
    ({"smooth": "perhaps"}, "use true or false"),
    ({"contrast": "circle"}, "contrast is 'circle': use signed or abs"),
    ({"guidance": "1:2:3"}, "use a number, or two of them with a colon"),
    ({"omega": "inf"}, "omega is 'inf': use a number"),
    ({"frames": 1}, "frames is 1: use a whole number of 2 or more"),
]


@pytest.mark.parametrize(("settings", "words"), WRONG)
def test_wrong_settings_say_what_would_be_right_from_everywhere(settings, words):
    with pytest.raises(UserError, match=words):
        configure(Config, {}, None, settings)
    if set(settings) <= set(list_settings(Config)):
        with pytest.raises(UserError, match=words):
            Config(**settings)


def test_an_unknown_name_is_a_type_error_too():
    with pytest.raises(UnknownArgumentError, match=r"unknown field 'stepz': did you mean steps\?"):
        Config(stepz=3)
    with pytest.raises(TypeError):
        Config(stepz=3)
    with pytest.raises(TypeError, match="several values for steps"):
        Config(3, steps=4)


def test_texts_are_read_as_people_type_them():
    typed = Config(steps="7", strength="0.5", smooth="No", guidance="1:3", shift="None")
    assert typed == Config(7, 0.5, None, False, guidance=(1.0, 3.0))


def test_numbers_of_another_type_with_the_same_value_are_taken():
    assert Config(steps=np.int64(7), strength=np.float32(0.5), guidance=[1, 2]) == Config(
        7, 0.5, guidance=(1.0, 2.0)
    )
    assert Config(steps=7.0).steps == 7


def test_settings_cannot_be_changed_and_a_copy_is_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().steps = 3
    with pytest.raises(UserError, match="steps is 0"):
        dataclasses.replace(Config(), steps=0)


def test_a_bug_in_a_check_is_no_user_error():
    @settings_class
    class Broken:
        steps: Steps = 3

        def __post_init__(self):
            raise ValueError("a bug")

    with pytest.raises(ValidationError, match="a bug"):
        Broken()


def test_what_is_listed_is_what_the_types_and_fields_say():
    rows = describe_settings(Config)
    assert rows["steps"] == {
        "default": "50",
        "takes": "a whole number between 1 and 1000",
        "about": "T: number of steps",
    }
    assert rows["shift"]["default"] == "none"
    assert rows["shift"]["about"] == "of the schedule; none: its own"
    assert rows["contrast"]["takes"] == "signed or abs"


def test_a_required_setting_has_no_default():
    @settings_class
    class Needy:
        name: str = Field(description="a name")

    assert list_settings(Needy)["name"].default is REQUIRED
    with pytest.raises(UserError, match="name is missing"):
        Needy()


def test_other_libraries_get_types_without_limits():
    settings = list_settings(Config)
    assert plain_type(settings["steps"]) is int
    assert plain_type(settings["shift"]) == float | None
    assert plain_type(settings["contrast"]) == Literal["signed", "abs"]


def test_the_json_schema_has_limits_choices_and_descriptions():
    schema = json_schema(Config)
    assert json.loads(json.dumps(schema)) == schema
    steps = schema["properties"]["steps"]
    assert (steps["minimum"], steps["maximum"], steps["default"]) == (1, 1000, 50)
    assert steps["description"] == "T: number of steps"
    assert schema["properties"]["contrast"]["enum"] == ["signed", "abs"]


def test_settings_are_listed_without_the_sources():
    """As in a zip, or with .pyc files alone."""
    text = """
@settings_class
class Config:
    steps: Steps = Field(50, description="T")
    omega: float = 1.0

@settings_class
class More(Config):
    omega: float = Field(2.0, description="of the step")
"""
    names = {
        "settings_class": settings_class,
        "Steps": Steps,
        "Field": Field,
        "__name__": "nowhere",
    }
    exec(compile(text, "nowhere.py", "exec"), names)
    rows = describe_settings(names["More"])
    assert [rows[name]["about"] for name in ("steps", "omega")] == ["T", "of the step"]


@pytest.mark.parametrize("name", methods.names())
def test_every_methods_defaults_are_allowed_and_each_setting_is_described(name):
    config = methods.load(name).Config
    config()
    rows = describe_settings(config)
    assert all(row["takes"] for row in rows.values())
    assert [n for n, row in rows.items() if not row["about"]] == []


def test_a_backbone_recommends_only_shared_settings():
    """Never a method's own: one strength for all would override every paper's."""
    for spec in registry.specs().values():
        assert set(spec.recommended) <= SHARED_SETTINGS


@pytest.mark.parametrize(
    "value", [10**5000, ["x"] * 10_000, "x" * 10_000], ids=["number", "list", "text"]
)
def test_a_huge_value_is_refused_with_a_short_sentence(value):
    with pytest.raises(UserError, match=r"steps is .*: use a whole number between") as caught:
        Config(steps=value)
    assert len(str(caught.value)) < 300


def test_a_setting_that_is_given_twice_is_refused():
    with pytest.raises(UserError, match="steps is given twice: leave out Steps"):
        configure(Config, {}, None, {"steps": 1, "Steps": 2})

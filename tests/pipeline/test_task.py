"""The schema: round trip, key, settings and parts."""

import json
from dataclasses import replace

import pytest

from holdfast.pipeline.task import EditTask, parse_frame_range


@pytest.fixture
def task(make_clip):
    return EditTask(
        input=str(make_clip()),
        output="out.mp4",
        source_prompt="a ball",
        target_prompt="a star",
        settings={"steps": "3"},
    )


def test_json_round_trip(task):
    assert EditTask.from_dict(task.to_dict()) == task
    with pytest.raises(ValueError, match="unknown field 'size'"):
        EditTask.from_dict(task.to_dict() | {"size": 1})


def test_the_key_is_of_what_the_latents_depend_on(task, make_clip):
    same = [
        replace(task, output="b.mkv"),
        replace(task, crf=3),
        replace(task, codec="lossless"),
        replace(task, feather=2),
    ]
    assert {t.latent_key() for t in same} == {task.latent_key()}
    other = [
        replace(task, seed=1),
        replace(task, target_prompt="b"),
        replace(task, settings={}),
        replace(task, frames="0:2"),
        replace(task, strength=0.2),
    ]
    assert len({t.latent_key() for t in [task, *other]}) == 6
    before = task.latent_key()
    make_clip(frames=7)
    assert task.latent_key() != before


WRONG = [
    ({"outline": "circle"}, "outline is 'circle': use given, hull or box"),
    ({"device": "tpu"}, "device is 'tpu': use auto, cpu, cuda, cuda:N, xpu, xpu:N or mps"),
    ({"dtype": "int8"}, "dtype is 'int8': use auto, bfloat16, float16 or float32"),
    ({"feather": -1}, "feather is -1: use a whole number between 0 and 100000"),
    ({"strength": 1.5}, "strength is 1.5: use a number between 0 and 1, or none"),
    ({"window": -4}, "window is -4: use a whole number of 0 or more, or none"),
    ({"seed": "one"}, "seed is 'one': use a whole number"),
    ({"grow": 2.5}, "grow is 2.5: use a whole number"),
    ({"invert_mask": "perhaps"}, "invert_mask is 'perhaps': use true or false"),
    ({"source_prompt": None}, "source_prompt is None: use text"),
    ({"source_prompt": 3}, "source_prompt is 3: use text"),
    ({"words": 5}, "words is 5: use a list of texts"),
    ({"words": [1, 2]}, "use a list of texts"),
    ({"settings": 5}, "settings is 5: use a table"),
    ({"settings": "steps=2"}, "use a table"),
    ({"seed": 1e400}, "seed is inf: use a whole number"),
    ({"codec": "foo"}, "codec is 'foo': use auto, h264"),
    ({"crf": -5}, "crf is -5: use a whole number between 0 and 63"),
    ({"mask": ""}, "mask is empty"),
    ({"input": "a\0.mp4"}, "use a path that a file can have"),
    ({"mask": "\ud800.png"}, "use a path that a file can have"),
    ({"keyframes": ["3=a\0.png"]}, "use a path that a file can have"),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_a_value_that_a_field_does_not_take_is_refused_from_json_as_from_python(values, words):
    data = {
        "input": "a.mp4",
        "output": "b.mp4",
        "source_prompt": "a",
        "target_prompt": "b",
    } | values
    with pytest.raises(ValueError, match=words):
        EditTask.from_dict(json.loads(json.dumps(data)))
    with pytest.raises(ValueError, match=words):
        EditTask(**data)


def test_what_is_missing_or_too_much_is_named():
    with pytest.raises(ValueError, match="output is missing"):
        EditTask.from_dict({"input": "a.mp4", "source_prompt": "a"})


def test_parts():
    assert parse_frame_range(None, 9) == range(9)
    assert parse_frame_range("2:5", 9) == range(2, 5)
    assert parse_frame_range(":-4", 9) == range(5)
    assert parse_frame_range("7:", 9) == range(7, 9)
    for wrong, words in (
        ("5", "takes A:B"),
        ("a:b", "takes A:B"),
        ("1:2:3", "takes A:B"),
        ("9:", "outside the clip"),
        ("5:2", "outside the clip"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_frame_range(wrong, 9)


@pytest.mark.parametrize("field", ["source_prompt", "target_prompt", "negative", "words"])
def test_what_is_no_text_is_refused(field):
    text = b"a \xff ball".decode(errors="surrogateescape")
    with pytest.raises(ValueError, match=r"'a \\udcff ball' is not UTF-8"):
        EditTask("a.mp4", "b.mp4", **{field: (text,) if field == "words" else text})

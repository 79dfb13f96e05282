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
        source="a ball",
        target="a star",
        settings={"steps": "3"},
    )


def test_json_round_trip(task):
    assert EditTask.from_dict(task.to_dict()) == task
    with pytest.raises(ValueError, match="no colour, size"):
        EditTask.from_dict(task.to_dict() | {"size": 1, "colour": 2})


def test_the_key_is_of_what_the_latents_depend_on(task, make_clip):
    same = [
        replace(task, output="b.mkv"),
        replace(task, crf=3),
        replace(task, codec="lossless"),
        replace(task, feather=2),
    ]
    assert {t.key() for t in same} == {task.key()}
    other = [
        replace(task, seed=1),
        replace(task, target="b"),
        replace(task, settings={}),
        replace(task, frames="0:2"),
        replace(task, strength=0.2),
    ]
    assert len({t.key() for t in [task, *other]}) == 6
    before = task.key()
    make_clip(frames=7)
    assert task.key() != before


WRONG = [
    ({"outline": "circle"}, "outline is given or hull or box, not 'circle'"),
    ({"device": "tpu"}, "device is auto or cpu or cuda, not 'tpu'"),
    ({"dtype": "int8"}, "dtype is auto or bfloat16 or float32"),
    ({"feather": -1}, "feather is a whole number between 0 and 100000"),
    ({"strength": 1.5}, "strength is a number between 0 and 1, or none"),
    ({"window": -4}, "window is a whole number 0 or more, or none"),
    ({"seed": "one"}, "seed is a whole number, not 'one'"),
    ({"grow": 2.5}, "grow is a whole number"),
    ({"invert_mask": "perhaps"}, "invert_mask is true or false"),
    ({"source": None}, "source is text"),
    ({"source": 3}, "source is text"),
    ({"words": 5}, "words is a list of texts"),
    ({"words": [1, 2]}, "words is a list of texts"),
    ({"settings": 5}, "settings is a table"),
    ({"settings": "steps=2"}, "settings is a table"),
    ({"seed": 1e400}, "seed is a whole number"),
    ({"codec": "foo"}, "codec is auto or h264"),
    ({"crf": -5}, "crf is a whole number between 0 and 63"),
    ({"mask": ""}, "mask is a file"),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_a_value_that_a_field_does_not_take_is_refused_from_json_as_from_python(values, words):
    data = {"input": "a.mp4", "output": "b.mp4", "source": "a", "target": "b"} | values
    with pytest.raises(ValueError, match=words):
        EditTask.from_dict(json.loads(json.dumps(data)))
    with pytest.raises(ValueError, match=words):
        EditTask(**data)


def test_what_is_missing_or_too_much_is_named():
    with pytest.raises(ValueError, match="needs output"):
        EditTask.from_dict({"input": "a.mp4", "source": "a"})


def test_parts():
    assert parse_frame_range(None, 9) == range(9)
    assert parse_frame_range("2:5", 9) == range(2, 5)
    assert parse_frame_range(":-4", 9) == range(5)
    assert parse_frame_range("7:", 9) == range(7, 9)
    for wrong, words in (
        ("5", "takes A:B"),
        ("a:b", "takes A:B"),
        ("1:2:3", "takes A:B"),
        ("9:", "no frame"),
        ("5:2", "no frame"),
    ):
        with pytest.raises(ValueError, match=words):
            parse_frame_range(wrong, 9)


@pytest.mark.parametrize("field", ["source", "target", "negative", "words"])
def test_what_is_no_text_is_refused(field):
    text = b"a \xff ball".decode(errors="surrogateescape")
    with pytest.raises(ValueError, match=r"UTF-8 text, and 'a \\udcff ball' is not"):
        EditTask("a.mp4", "b.mp4", **{field: (text,) if field == "words" else text})

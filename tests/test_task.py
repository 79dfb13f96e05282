"""The schema: round trip, key, settings and parts."""

from dataclasses import dataclass, replace

import pytest

from holdfast.task import EditTask, configure, part_of


@pytest.fixture
def task(make_clip):
    return EditTask(input=str(make_clip()), output="out.mp4", source="a ball", target="a star", settings={"steps": "3"})


def test_json_round_trip(task):
    assert EditTask.from_dict(task.to_dict()) == task
    with pytest.raises(ValueError, match="no colour, size"):
        EditTask.from_dict(task.to_dict() | {"size": 1, "colour": 2})


def test_the_key_is_of_what_the_latents_depend_on(task, make_clip):
    same = [replace(task, output="b.mkv"), replace(task, crf=3), replace(task, codec="lossless"), replace(task, feather=2)]
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


@dataclass(frozen=True)
class Config:
    steps: int = 50
    strength: float = 0.5
    shift: float | None = None
    smooth: bool = False


def test_settings_come_from_the_method_the_backbone_and_the_user_in_that_order():
    cfg, origin = configure(Config, {"shift": 5.0, "steps": 30, "unknown": 1}, 0.25, {"steps": "10", "smooth": "yes"})
    assert cfg == Config(10, 0.25, 5.0, True)
    assert origin == {"steps": "given", "strength": "given", "shift": "suits this backbone", "smooth": "given"}
    assert configure(Config, {"shift": 5.0}, None, {"shift": "none"})[0].shift is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stepz": "3"}, r"no setting of this method is called 'stepz'; nearest: steps"),
        ({"steps": "many"}, r"steps takes int, not 'many'"),
        ({"steps": "0"}, "between 1 and 1000"),
        ({"shift": "0"}, "shift is between"),
        ({"strength": "nan"}, "strength is between"),
        ({"strength": "1.5"}, "between 0 and 1"),
        ({"smooth": "perhaps"}, "smooth takes bool"),
    ],
)
def test_wrong_settings_say_what_would_be_right(settings, words):
    with pytest.raises(ValueError, match=words):
        configure(Config, {}, None, settings)


def test_parts():
    assert part_of(None, 9) == range(9)
    assert part_of("2:5", 9) == range(2, 5)
    assert part_of(":-4", 9) == range(5)
    assert part_of("7:", 9) == range(7, 9)
    for wrong, words in (("5", "takes A:B"), ("a:b", "takes A:B"), ("1:2:3", "takes A:B"), ("9:", "no frame"), ("5:2", "no frame")):
        with pytest.raises(ValueError, match=words):
            part_of(wrong, 9)

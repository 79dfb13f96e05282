"""Names of release 0.1 are still read, with a notice."""

import copy
import pickle

import pytest

from holdfast.base import old_names
from holdfast.base.errors import UserError
from holdfast.base.notices import Notice
from holdfast.pipeline.task import EditTask


def test_an_old_field_is_read_with_a_notice():
    data = {"input": "a.mp4", "output": "b.mp4", "source": "a ball", "target": "a star"}
    with pytest.warns(Notice) as caught:
        task = EditTask.from_dict(data | {"guide": "sd1.5"})
    assert len(caught) == 3
    assert "source is now called source_prompt" in str(caught[0].message)
    prompts = task.source_prompt, task.target_prompt, task.image_model
    assert prompts == ("a ball", "a star", "sd1.5")


def test_a_field_under_both_names_is_refused():
    with pytest.raises(UserError, match="source and source_prompt are the same field"):
        old_names.rename_fields({"source": "a", "source_prompt": "b"})


def test_old_flags_are_renamed_but_not_values():
    arguments = ["clip.mp4", "--source", "a --target", "--guide=sd1.5", "--", "--source"]
    renamed, notices = old_names.rename_flags("edit", arguments)
    assert renamed == [
        "clip.mp4", "--source-prompt", "a --target", "--image-model=sd1.5", "--", "--source",
    ]  # fmt: skip
    assert len(notices) == 2
    assert "--source is now called --source-prompt" in notices[0]


def test_an_old_setting_is_the_one_of_its_new_names_that_the_method_has():
    choices = {"timestep_min": (), "schedule": ("native", "karras")}
    with pytest.warns(Notice) as caught:
        renamed = old_names.rename_settings({"low": "0.1", "grid": "own"}, choices)
    assert renamed == {"timestep_min": "0.1", "schedule": "native"}
    assert len(caught) == 3
    still = {"grid": ("own", "karras")}
    assert old_names.rename_settings({"grid": "own"}, still) == {"grid": "own"}


def test_every_new_name_exists():
    from holdfast.base.schema import list_settings

    assert set(old_names.FIELDS.values()) <= set(list_settings(EditTask))


def test_a_task_takes_and_has_the_old_names_of_its_fields():
    with pytest.warns(Notice) as caught:
        task = EditTask(input="a.mp4", output="b.mp4", source="a ball", target="a star")
    assert len(caught) == 2
    with pytest.warns(Notice, match="target is now called target_prompt"):
        assert task.target == "a star"
    with pytest.raises(AttributeError, match="'taget'"):
        _ = task.taget
    assert pickle.loads(pickle.dumps(task)) == copy.copy(task) == task


def test_a_missing_or_an_unknown_field_is_a_type_error():
    with pytest.raises(TypeError, match="output is missing"):
        EditTask(input="a.mp4")
    with pytest.raises(TypeError, match="did you mean feather"):
        EditTask(input="a.mp4", output="b.mp4", feater=3)

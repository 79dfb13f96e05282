"""A page that other machines reach opens no file outside its folder, whatever field names it."""

import numpy as np
import pytest

from holdfast.base.errors import UserError
from holdfast.base.schema import list_settings
from holdfast.media import video
from holdfast.pipeline.task import EditTask
from holdfast.ui import form_task, path_checks
from holdfast.ui.form_task import FormValues
from holdfast.ui.queue import Limits, RunQueue

FIELDS = {
    "source_prompt": "a red ball",
    "target_prompt": "a blue ball",
    "backbone": "shapeworld-wan",
}
SETTINGS = list_settings(EditTask)
TEXTS = [s.name for s in SETTINGS.values() if s.kind in ("string", "array", "object")]
CHOSEN = {name for name, setting in SETTINGS.items() if setting.choices}
NEVER_OPENED = {*path_checks.TEXT_FIELDS, "method", "backbone", *CHOSEN}


@pytest.fixture
def desk(tmp_path):
    made = RunQueue(tmp_path / "page", limits=Limits(allows_paths=False))
    yield made
    made.close()


@pytest.fixture
def clip(desk):
    path = desk.uploads / "clip.mkv"
    video.write_frames(path, [np.zeros((32, 48, 3), np.uint8)] * 2, 8, "ffv1")
    return str(path)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.mkv"
    video.write_frames(path, [np.zeros((32, 48, 3), np.uint8)], 8, "ffv1")
    return path


def forms(secret, desk):
    """Ways to name a file that is not in the folder."""
    link = desk.uploads / "link.mkv"
    link.symlink_to(secret)
    climbing = f"{desk.uploads}/../../secret.mkv"
    yield from (
        str(secret),
        f"  {secret}",
        str(link),
        climbing,
        "../secret.mkv",
        "x/../../y",
        "~/x",
    )
    yield from (f"file:{secret}", f"FILE://{secret}", "http://host/x.mp4", "\\\\host\\x", "C:\\x")
    yield from (f"0={secret}", f"shapeworld-wan={secret}", f"a={secret}", "shapeworld-wan=../x")


def values_of(name, text):
    return {"object": {"key": text}, "array": (text,)}.get(SETTINGS[name].kind, text)


@pytest.mark.parametrize("name", TEXTS)
def test_no_field_names_a_file_outside_the_folder(name, desk, secret):
    for text in forms(secret, desk):
        with pytest.raises(UserError, match="file paths are disabled"):
            path_checks.check_inside_folder({name: values_of(name, text)}, desk.root)
    if (
        name not in NEVER_OPENED
    ):  # a plain name is a file of the folder that the page was started in
        for text in ("secret.mkv", "some/folder", "0=secret.mkv", "shapeworld-wan=shapeworld-wan"):
            with pytest.raises(UserError, match="file paths are disabled"):
                path_checks.check_inside_folder({name: values_of(name, text)}, desk.root)


@pytest.mark.parametrize("name", TEXTS)
def test_an_uploaded_file_may_be_named(name, desk, clip):
    inside = desk.uploads / "a=b.mkv"
    inside.write_bytes(b"")
    for text in ("", clip, str(inside)):
        path_checks.check_inside_folder({name: values_of(name, text)}, desk.root)


def test_words_of_the_fields_may_be_said(desk):
    said = {
        "mask": "auto",
        "image_model": "shapeworld-sd",
        "source_prompt": "a cat... and/or a dog: 1=2 [x](y)",
    }
    said |= {"frames": "3:7", "background": "#ff8800", "settings": {"schedule": "euler"}}
    for values in (said, {"mask": " 1,2,3,4"}):
        path_checks.check_inside_folder(values, desk.root)


def test_a_file_that_is_not_there_is_answered_as_one_that_is(desk, secret):
    answers = set()
    for path in (secret, secret.with_name("nothing")):
        with pytest.raises(UserError) as refused:
            path_checks.check_inside_folder({"weights": str(path)}, desk.root)
        answers.add(str(refused.value))
    assert len(answers) == 1


@pytest.mark.parametrize("way", form_task.MASK_SOURCES)
@pytest.mark.parametrize("follow", [True, False])
def test_every_way_to_a_mask_stays_inside(way, follow, desk, clip, secret):
    """Nothing is opened before the check: not the box that is a path, nor the picture that is followed."""
    ways = {"box": str(secret), "file": str(secret), "marks": {0: str(secret)}}
    wanted = FormValues(clip, FIELDS, mask_source=way, follow=follow, **ways)
    if way in (form_task.NO_MASK, form_task.AUTO):
        assert form_task.build_task(wanted, desk).mask in (None, "auto")
        return
    with pytest.raises(UserError, match=r"file paths are disabled|type the box"):
        form_task.build_task(wanted, desk)
    assert not list(desk.uploads.glob("mask-*"))


@pytest.mark.parametrize("name", [f for f in TEXTS if f not in ("output", "settings")])
def test_the_whole_task_is_checked(name, desk, clip, secret):
    wanted = {"clip": str(secret)} if name == "input" else {"clip": clip}
    fields = FIELDS | ({} if name in ("input", "mask") else {name: str(secret)})
    way = {"mask_source": form_task.FILE, "file": str(secret)} if name == "mask" else {}
    with pytest.raises(UserError, match="file paths are disabled"):
        form_task.build_task(FormValues(fields=fields, **wanted, **way), desk)


def test_on_this_machine_alone_paths_may_be_typed(tmp_path, secret):
    desk = RunQueue(tmp_path / "own")
    task = form_task.build_task(
        FormValues(str(secret), FIELDS, mask_source=form_task.FILE, file=str(secret)), desk
    )
    assert task.mask == str(secret)
    desk.close()

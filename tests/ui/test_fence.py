"""A page that other machines reach opens no file outside its folder, whatever field names it."""

import numpy as np
import pytest

from holdfast.base.errors import UserError
from holdfast.base.schema import list_settings
from holdfast.media import video
from holdfast.pipeline.task import EditTask
from holdfast.ui import asked, fence
from holdfast.ui.asked import Asked
from holdfast.ui.desk import Desk, Limits

FIELDS = {
    "source_prompt": "a red ball",
    "target_prompt": "a blue ball",
    "backbone": "shapeworld-wan",
}
SETTINGS = list_settings(EditTask)
TEXTS = [s.name for s in SETTINGS.values() if s.kind in ("string", "array", "object")]
CHOSEN = {name for name, setting in SETTINGS.items() if setting.choices}
NEVER_OPENED = {*fence.PROSE, "method", "backbone", *CHOSEN}


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "page", limits=Limits(anywhere=False))
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
        with pytest.raises(UserError, match="takes uploads only"):
            fence.check_inside({name: values_of(name, text)}, desk.root)
    if (
        name not in NEVER_OPENED
    ):  # a plain name is a file of the folder that the page was started in
        for text in ("secret.mkv", "some/folder", "0=secret.mkv", "shapeworld-wan=shapeworld-wan"):
            with pytest.raises(UserError, match="takes uploads only"):
                fence.check_inside({name: values_of(name, text)}, desk.root)


@pytest.mark.parametrize("name", TEXTS)
def test_an_uploaded_file_may_be_named(name, desk, clip):
    inside = desk.uploads / "a=b.mkv"
    inside.write_bytes(b"")
    for text in ("", clip, str(inside)):
        fence.check_inside({name: values_of(name, text)}, desk.root)


def test_words_of_the_fields_may_be_said(desk):
    said = {
        "mask": "auto",
        "image_model": "shapeworld-sd",
        "source_prompt": "a cat... and/or a dog: 1=2 [x](y)",
    }
    said |= {"frames": "3:7", "background": "#ff8800", "settings": {"grid": "euler"}}
    for values in (said, {"mask": " 1,2,3,4"}):
        fence.check_inside(values, desk.root)


def test_a_file_that_is_not_there_is_answered_as_one_that_is(desk, secret):
    answers = set()
    for path in (secret, secret.with_name("nothing")):
        with pytest.raises(UserError) as refused:
            fence.check_inside({"weights": str(path)}, desk.root)
        answers.add(str(refused.value))
    assert len(answers) == 1


@pytest.mark.parametrize("way", asked.WAYS)
@pytest.mark.parametrize("follow", [True, False])
def test_every_way_to_a_mask_stays_inside(way, follow, desk, clip, secret):
    """Nothing is opened before the check: not the box that is a path, nor the picture that is followed."""
    ways = {"box": str(secret), "file": str(secret), "marks": {0: str(secret)}}
    wanted = Asked(clip, FIELDS, way=way, follow=follow, **ways)
    if way in (asked.NO_MASK, asked.AUTO):
        assert asked.task_of(wanted, desk).mask in (None, "auto")
        return
    with pytest.raises(UserError, match=r"takes uploads only|type the box"):
        asked.task_of(wanted, desk)
    assert not list(desk.uploads.glob("mask-*"))


@pytest.mark.parametrize("name", [f for f in TEXTS if f not in ("output", "settings")])
def test_the_whole_task_is_checked(name, desk, clip, secret):
    wanted = {"clip": str(secret)} if name == "input" else {"clip": clip}
    fields = FIELDS | ({} if name in ("input", "mask") else {name: str(secret)})
    way = {"way": asked.FILE, "file": str(secret)} if name == "mask" else {}
    with pytest.raises(UserError, match="takes uploads only"):
        asked.task_of(Asked(fields=fields, **wanted, **way), desk)


def test_on_this_machine_alone_paths_may_be_typed(tmp_path, secret):
    desk = Desk(tmp_path / "own")
    task = asked.task_of(Asked(str(secret), FIELDS, way=asked.FILE, file=str(secret)), desk)
    assert task.mask == str(secret)
    desk.close()

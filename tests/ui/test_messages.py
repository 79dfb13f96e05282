"""What the page says: its own labels and file names, no flags, no paths of the server, and no text taken for markup."""

import re

import numpy as np
import pytest

from holdfast.base.errors import MissingDependencyError, UserError
from holdfast.media import video
from holdfast.ui import form_task, views
from holdfast.ui.messages import MessageFormatter, control_label, describe_error
from holdfast.ui.page import Page
from holdfast.ui.queue import Limits, Run, RunQueue
from holdfast.ui.runs import STOPPED

FIELDS = {
    "source_prompt": "a red ball",
    "target_prompt": "a blue ball",
    "backbone": "shapeworld-wan",
}
HTML = '<img src=x onerror="alert(1)">'
HOSTILE = ("![](http://x.example/a.png)", HTML, "<script>alert(1)</script>", "**b** [a](http://x)")


@pytest.fixture(scope="module", params=[True, False], ids=["own", "listening"])
def page(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    desk = RunQueue(root, limits=Limits(max_frames=5, allows_paths=request.param))
    folder = desk.uploads / "0123456789abcdef"
    folder.mkdir()
    frames = [np.zeros((32, 48, 3), np.uint8)] * 5
    video.write_frames(folder / "a clip.mkv", frames, 8, "ffv1")
    video.write_frames(folder / "long.mkv", [*frames, frames[0]], 8, "ffv1")
    video.write_frames(folder / "short mask.mkv", frames[:3], 8, "ffv1")
    (folder / "broken <b>.mp4").write_bytes(b"no clip")
    yield Page(desk)
    desk.close()


def values(page, upload="a clip.mkv", **changes):
    """What an untouched page sends, but for these."""
    form, folder = page.form, page.queue.uploads / "0123456789abcdef"
    held = {widget: getattr(widget, "value", None) for widget in form.components()}
    held[form.upload] = str(folder / upload) if upload else None
    held[form.path] = ""
    own = {
        "mask_source": form.mask_source,
        "box": form.box,
        "file": form.file,
        "changed": form.changed,
    }
    own |= {"follow": form.follow, "path": form.path}
    for name, value in (FIELDS | changes).items():
        value = str(folder / value) if name in ("file", "first_frame") else value
        held[own.get(name) or form.fields[name]] = value
    return list(held.values())


BAD = {
    "no clip": {"upload": ""},
    "no such clip": {"upload": "", "path": "/nowhere/clip.mp4"},
    "no video": {"upload": "broken <b>.mp4"},
    "too long": {"upload": "long.mkv"},
    "no prompts": {"source_prompt": "", "target_prompt": ""},
    "window": {"window": "1"},
    "window, no number": {"window": "many"},
    "crf": {"crf": "-1"},
    "frames": {"frames": "12:400"},
    "frames, no range": {"frames": "all"},
    "background": {"background": "nocolour"},
    "weights": {"weights": "no/where"},
    "weights here": {"weights": "/etc"},
    "device": {"device": "cuda"},
    "first frame": {"first_frame": "a clip.mkv"},
    "method": {"method": "flowedt"},
    "codec": {"codec": "ffv1", "crf": "70"},
    "setting": {"changed": {"steps": "many"}},
    "no setting": {"changed": {"nope": 1}},
    "box": {"mask_source": form_task.BOX, "box": "5,5,900"},
    "box outside": {"mask_source": form_task.BOX, "box": "5,5,900,900", "follow": False},
    "box outside, followed": {"mask_source": form_task.BOX, "box": "5,5,900,900"},
    "brush": {"mask_source": form_task.BRUSH},
    "mask": {"mask_source": form_task.FILE},
    "short mask": {"mask_source": form_task.FILE, "file": "short mask.mkv"},
    "broken mask": {"mask_source": form_task.FILE, "file": "broken <b>.mp4"},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_the_page_s_own_words_and_not_queued(page, name, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    inputs = values(page, **BAD[name])
    answers = [page._submit([], *inputs)[0]] + (
        [] if name == "device" else [page._estimate(*inputs)]
    )
    answers += [page._show_mask(*inputs)[1]] if "mask_source" in BAD[name] else []
    for said in answers:
        assert said.startswith('<b class="error">'), said
        assert not re.search(r"--[a-z]", said), said
        assert str(page.queue.root) not in said
        assert "internal error" not in said
        assert not re.search(r"<(img|script|b>\.)", said)
    assert page.queue.runs() == []


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(page, text, tmp_path):
    wording = page.formatter
    for shown in (wording.to_html(text), wording.error_html(text), wording.list_html([text])):
        assert not re.search(r"<(img|script|a) ?", shown)
    run = Run(
        tmp_path / "20261129-101010-000001-clip", form_task.EditTask("a", "b", text, text + "!")
    )
    run.status, run.message, run.notes = STOPPED, text, [text]
    run.was_started = True
    shown = [views.render_status(run, page.queue, wording), views.render_title(run, wording)]
    shown += [
        views.render_running(run, wording),
        views.render_differences(text, text + "!"),
        views.render_notes([text], wording),
    ]
    assert not re.search(r"<(img|script|a) ?", " ".join(shown))


def test_flags_are_labels_and_uploads_have_their_names(tmp_path):
    wording = MessageFormatter(tmp_path)
    upload = tmp_path / "uploads" / "0f3a" / "my clip.mp4"
    run = tmp_path / "runs" / "20261129-1-clip" / "edited.mp4"
    assert wording.to_html(f"{upload} is bad, {run} too") == "my clip.mp4 is bad, edited.mp4 too"
    assert wording.to_html("give --first-frame, or a smaller --window=3") == (
        "give “First frame”, or a smaller “Window”=3"
    )
    assert wording.to_html("run without --some-flag") == "run without “some flag”"
    quoted = "get it with: hf download a/b --include x"
    assert wording.to_html(quoted) == quoted
    assert wording.to_html("typed: /nowhere/clip.mp4") == "typed: /nowhere/clip.mp4"
    others = MessageFormatter(tmp_path, hides_paths=True)
    assert others.to_html("no config.json in /home/me/models/wan") == "no config.json in wan"
    assert control_label("source_prompt") == "Source prompt"


def test_a_command_with_flags_is_for_whoever_runs_the_page():
    said = describe_error(
        MissingDependencyError(
            "the weights a/b are not here", "get them with: hf download a/b --include x"
        )
    )
    assert said.startswith("the weights a/b are not here; ")
    assert "--" not in said
    assert (
        describe_error(MissingDependencyError("x is missing", "get it with: pip install x"))
        == "x is missing; get it with: pip install x"
    )
    assert "--dtype" in describe_error(MemoryError())  # translated where it is shown
    assert "--" not in MessageFormatter(form_task.Path("/x")).to_html(describe_error(MemoryError()))
    assert describe_error(UserError("a", "b")) == "a: b"

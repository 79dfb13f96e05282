"""The tab that keeps an edit made elsewhere: from its widgets to a task, its runs in the queue, and what it says."""

import dataclasses
import json
import re
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from holdfast.base.errors import UserError
from holdfast.base.schema import list_settings
from holdfast.conform import run as conforming
from holdfast.conform.task import KeepTask
from holdfast.media import video
from holdfast.ui import form_task, keep_form, keep_runs, keep_tab, keep_views, path_checks, views
from holdfast.ui.form_task import FormValues
from holdfast.ui.messages import MessageFormatter
from holdfast.ui.page import Page
from holdfast.ui.queue import Limits, RunQueue
from holdfast.ui.runs import COMPARE, DONE, FAILED, KEEP, STOPPED, Run, load_runs
from tests.patience import wait_until

from .pairs import FRAMES, SIZE, square_at, write_pair

PLACED = {"source", "edited", "mask", "brushes", "output", "preview"}  # not widgets of one field


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return tuple(map(str, write_pair(tmp_path_factory.mktemp("pair"))))


@pytest.fixture
def desk(tmp_path):
    made = RunQueue(tmp_path / "page")
    yield made
    made.close()


@pytest.fixture
def tab(desk):
    return Page(desk).keep


@pytest.fixture(scope="module")
def finished(pair, tmp_path_factory):
    """A page, a run that put a change back, and a comparison."""
    desk = RunQueue(tmp_path_factory.mktemp("page"))
    runs = [desk.submit_pair(KeepTask(*pair), is_comparison) for is_comparison in (False, True)]
    yield Page(desk), *map(finish, runs)
    desk.close()


def values(tab, source, edited, **changes):
    """What an untouched tab sends, but for these."""
    form = tab.form
    held = {widget: getattr(widget, "value", None) for widget in form.components()}
    held |= {form.source.upload: source, form.edited.upload: edited}
    held |= {form.source.path: "", form.edited.path: ""}
    own = {"mask_source": form.mask_source, "box": form.box, "file": form.file}
    own |= {"marks": form.painter.marks, "editor": form.painter.editor}
    for name, value in changes.items():
        held[own.get(name) or form.fields[name]] = value
    return list(held.values())


def finish(run):
    wait_until(lambda: run.status in (DONE, FAILED, STOPPED))
    return run


def paint(frame):
    """What the editor sends when the square of a frame is painted."""
    layer = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    layer[(*square_at(frame), 3)] = 255
    return {"layers": [layer]}


def read(path):
    return list(video.read(video.probe(path)))


# from the form to a task


def test_every_field_of_a_task_is_on_the_tab(tab):
    assert {f.name for f in dataclasses.fields(KeepTask)} == set(tab.form.fields) | PLACED


def test_an_untouched_form_is_a_task_of_defaults(tab, pair):
    assert tab.form.read_task(values(tab, *pair)) == KeepTask(*pair)


def test_no_widget_replaces_a_number_that_was_typed(tab, pair):
    """As on the tab of edits: text boxes are refused like flags, sliders would change what was typed."""
    assert not [w for w in tab.form.fields.values() if isinstance(w, gr.Slider | gr.Number)]
    task = tab.form.read_task(
        values(tab, *pair, grow="-2", feather="3", soft=True, blend="poisson")
    )
    assert (task.grow, task.feather, task.soft, task.blend) == (-2, 3, True, "poisson")


def test_every_way_to_a_mask(desk, pair):
    def task(mask_source, fields=None, **ways):
        form = FormValues(pair[0], fields or {}, mask_source=mask_source, **ways)
        return keep_form.build_task(form, pair[1], desk)

    assert task(form_task.BOX, box=" 1,2,30,40 ").mask == "1,2,30,40"
    assert task(form_task.FILE, file="m.png").mask == "m.png"
    assert task(form_task.BRUSH, marks={3: "b.png", 0: "a.png"}).brushes == ("0=a.png", "3=b.png")
    found = task(keep_form.WORDS, {"words": "a red square\n", "mask_use": "replace"})
    assert (found.words, found.mask_use) == (("a red square",), "replace")


def test_widgets_that_are_hidden_are_not_sent(desk, pair):
    """Their values are of a kind of mask that was chosen before."""
    fields = {"words": "a cat", "detector": "x", "mask_use": "replace", "invert_mask": True}
    hidden = FormValues(pair[0], fields, box="1,1,9,9", file="m.png", marks={0: "a.png"})
    assert keep_form.build_task(hidden, pair[1], desk) == KeepTask(*pair)


def test_a_stroke_becomes_a_brush_of_its_frame_that_limits(tab, pair):
    sent = values(tab, *pair, mask_source=form_task.BRUSH, marks={"open": 4}, editor=paint(4))
    task = tab.form.read_task(sent)
    (brush,) = task.brushes
    frame, _, path = brush.partition("=")
    assert (frame, task.mask_use) == ("4", "limit")
    with Image.open(path) as picture:
        assert (np.asarray(picture)[square_at(4)] == 255).all()


def test_compare_reads_the_clips_alone(tab, pair):
    sent = values(tab, *pair, mask_source=form_task.BRUSH, grow="many")
    assert tab.form.read_pair(sent) == KeepTask(*pair)


BAD = {
    "there is no source clip": {"source": None},
    "there is no edited clip": {"edited": None},
    "grow is &#x27;many&#x27;": {"grow": "many"},
    "crf is &#x27;99&#x27;": {"crf": "99"},
    "nothing is painted": {"mask_source": form_task.BRUSH},
    "type the box": {"mask_source": form_task.BOX, "box": "1,2"},
    "there is no mask": {"mask_source": form_task.FILE},
    "the words are empty": {"mask_source": keep_form.WORDS},
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_is_refused_in_the_page_s_own_words_and_not_queued(tab, pair, said):
    changes = dict(BAD[said])
    clips = [changes.pop(name, clip) for name, clip in zip(("source", "edited"), pair, strict=True)]
    answer = tab._submit([], *values(tab, *clips, **changes))[0]
    assert re.search(f'<b class="error">.*({said})', answer), answer
    assert not re.search(r"--[a-z]|internal error", answer), answer
    assert tab.queue.runs() == []
    assert list(tab.queue.folder.iterdir()) == []


def test_flags_of_keep_are_labels(tmp_path):
    text = MessageFormatter(tmp_path).to_html("use --whole, or --mask-use replace, or --min-area 3")
    assert text == "use “Whole”, or “Mask use” replace, or “Min area” 3"


TEXTS = ("source", "edited", "mask", "brushes", "detector", "words", "output", "preview")


@pytest.mark.parametrize("name", TEXTS)
def test_a_page_for_others_opens_no_file_outside_its_folder(name, desk, tmp_path):
    text = str(tmp_path / "secret.mkv")
    value = (f"0={text}",) if list_settings(KeepTask)[name].kind == "array" else text
    with pytest.raises(UserError, match="file paths are disabled"):
        path_checks.check_inside_folder({name: value}, desk.root)
    chosen = {"mask_use": "replace", "blend": "poisson", "ending": "hold", "words": ("a cat",)}
    path_checks.check_inside_folder(chosen, desk.root)


def test_a_page_for_others_takes_uploads_alone(desk, pair):
    desk.limits = Limits(allows_paths=False)
    inside = [desk.uploads / name for name in ("a.mkv", "b.mkv")]
    for path, clip in zip(inside, pair, strict=True):
        path.write_bytes(Path(clip).read_bytes())
    task = keep_form.build_task(FormValues(str(inside[0]), {}), str(inside[1]), desk)
    assert (task.source, task.edited) == tuple(map(str, inside))
    with pytest.raises(UserError, match="file paths are disabled"):
        keep_form.build_task(FormValues(str(inside[0]), {}), pair[1], desk)


# runs in the queue


def test_a_run_gives_what_python_gives_and_a_restart_finds_it(finished, pair, tmp_path):
    page, run, _ = finished
    assert (run.status, run.kind, run.notes) == (DONE, KEEP, []), run.message
    alone = conforming.keep(KeepTask(*pair)).save(tmp_path / "alone.mkv")
    assert all(map(np.array_equal, read(run.output), read(alone)))
    manifest = run.manifest()
    assert manifest["delivered"]["samples_equal_outside"]
    names = {f.name for f in run.folder.iterdir()}
    assert {"strip.png", "side-by-side.mp4", "after-kept.mp4", keep_runs.MASK_CLIP} <= names
    again = next(load_runs(page.queue.folder))
    assert (again.kind, again.status, again.task) == (KEEP, DONE, run.task)


def test_a_comparison_is_a_report_without_a_clip(finished, pair):
    page, _, run = finished
    assert (run.status, run.kind, run.notes) == (DONE, COMPARE, []), run.message
    assert run.manifest()["report"]["sentence"] == conforming.compare(*pair)["sentence"]
    assert not run.output.exists()
    assert (run.folder / "strip.png").exists()
    assert [each.kind for each in load_runs(page.queue.folder)] == [KEEP, COMPARE]


def test_a_run_keeps_its_uploads_and_what_was_painted(desk, pair, tab):
    uploads = [desk.uploads / name / "clip.mkv" for name in ("a", "b")]
    for path, clip in zip(uploads, pair, strict=True):
        path.parent.mkdir()
        path.write_bytes(Path(clip).read_bytes())
    sent = values(tab, *map(str, uploads), mask_source=form_task.BRUSH, editor=paint(0))
    with desk.model_lock:
        run = desk.submit_pair(tab.form.read_task(sent))
        desk.cancel(run)
    (brush,) = run.task.brushes
    files = [run.task.source, run.task.edited, brush.removeprefix("0=")]
    assert all(Path(file).parent == run.folder for file in files)
    assert [Path(file).read_bytes() for file in files[:2]] == [p.read_bytes() for p in uploads]


@pytest.mark.parametrize("stage", ["compare", "write"])
def test_a_run_that_is_stopped_leaves_no_result(desk, pair, monkeypatch, stage):
    update = Run.update_progress

    def stop(self, name, *progress):
        update(self, name, *progress)
        self.should_stop = name == stage

    monkeypatch.setattr(Run, "update_progress", stop)
    run = finish(desk.submit_pair(KeepTask(*pair)))
    assert (run.status, run.stage) == (STOPPED, stage)
    assert not run.output.exists()
    assert not run.can_resume
    said = views.render_status(run, desk, MessageFormatter(desk.root))
    assert "Put the change back" in said
    assert "Resume" not in said


def test_clips_that_do_not_belong_together_fail_with_a_reason(desk, pair, tab, tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (FRAMES, SIZE[1], SIZE[0], 3), np.uint8)
    video.write_frames(tmp_path / "other.mkv", list(noise), 8, "lossless-rgb")
    run = finish(desk.submit_pair(KeepTask(pair[0], str(tmp_path / "other.mkv"))))
    assert (run.status, run.is_user_error) == (FAILED, True)
    assert "does not look like an edit of" in run.message
    assert "Failed" in tab._refresh(run.name, None, "")[0]


# what the tab shows


def test_a_result_is_shown_once(finished):
    page, run, comparison = finished
    for each in (run, comparison):
        shown = page.keep._refresh(each.name, None, "")
        assert len(shown) == len(page.keep._refresh_outputs())
        assert page.formatter.to_html(each.manifest()["report"]["sentence"]) in shown[4]
        assert "<th>Outside the change</th>" in shown[4]
        assert page.keep._refresh(each.name, None, shown[-2])[4] == gr.skip()


def test_a_mask_is_corrected_over_the_change_that_was_found(finished, pair):
    page, run, _ = finished
    corrected = page.keep._correct_mask(run.name, 4, *values(page.keep, *pair))
    assert len(corrected) == len(page.keep._correct_outputs())
    assert corrected[:2] == ("", form_task.BRUSH)
    assert corrected[-3] == {"open": 4}
    marked = keep_tab.marked_source(run, video.probe(pair[0]))
    apart = np.abs(read(marked.path)[4].astype(int) - read(pair[0])[4])
    assert apart[square_at(4)].mean() > 10  # the change is tinted


def test_a_mask_is_corrected_on_its_own_source_alone(finished, pair, tmp_path):
    page, run, comparison = finished
    video.write_frames(tmp_path / "short.mkv", read(pair[0])[:-1], 8, "lossless-rgb")
    other = values(page.keep, str(tmp_path / "short.mkv"), pair[1])
    said = page.keep._correct_mask(run.name, 0, *other)[0]
    assert "short.mkv is not the source of this result" in said
    for name in (None, comparison.name):
        said = page.keep._correct_mask(name, 0, *values(page.keep, *pair))[0]
        assert "there is no mask to correct" in said


def test_a_painted_correction_limits_the_change(tab, desk, pair):
    """A corner is painted that the square never touches: nothing is left to put back."""
    layer = np.zeros((SIZE[1], SIZE[0], 4), np.uint8)
    layer[:9, :9, 3] = 255
    changes = {"mask_source": form_task.BRUSH, "editor": {"layers": [layer]}, "invert_mask": False}
    task = tab.form.read_task(values(tab, *pair, **changes, grow="0", feather="0"))
    run = finish(desk.submit_pair(task))
    assert run.status == DONE, run.message
    assert run.manifest()["report"]["mask"]["share"] < 0.02
    x, y = square_at(FRAMES // 2)
    frames = zip(read(run.output), read(pair[0]), strict=True)
    assert all(np.array_equal(result[x, y], source[x, y]) for result, source in frames)


def test_the_edit_tab_does_not_display_a_run_of_this_one(desk, pair, tab):
    with desk.model_lock:
        run = desk.submit_pair(KeepTask(*pair))
        page = Page(desk)
        assert page._refresh(None, None, "")[-4] is None  # the displayed run
        assert page.keep._refresh(None, None, "")[-1] == run.name
        desk.cancel(run)


def test_past_runs_open_on_their_own_tab(desk, pair):
    run = finish(desk.submit_pair(KeepTask(*pair), is_comparison=True))
    page = Page(desk)
    pictures, names, _ = page._list_past_runs()
    assert (names, len(pictures)) == ([run.name], 1)
    assert pictures[0][1].endswith("after.mkv compared with before.mkv")
    event = gr.SelectData(None, {"index": 0, "value": None})
    opened, edit, _, keep, _, said = page._open_past_run(names, event)[:6]
    assert (opened, edit, keep) == (run.name, gr.skip(), run.name)
    assert keep_tab.TITLE in said
    removed = page._remove_run(run.name)
    assert removed[1:5] == (gr.skip(), gr.skip(), None, "removed")
    assert desk.runs() == []


def test_a_report_is_a_table_in_which_nothing_is_markup(finished):
    page, _, run = finished
    manifest = json.loads(json.dumps(run.manifest()))
    manifest["report"]["outside"]["psnr"]["raw"] = "inf"  # as a manifest has what JSON cannot hold
    manifest["report"]["sentence"] = "<img src=x onerror=alert(1)>"
    manifest["notes"] = ["<script>"]
    shown = keep_views.render_report(manifest, page.formatter)
    assert "<td>inf" not in shown
    assert not re.search(r"<(img|script)", shown)

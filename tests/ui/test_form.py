"""From the page's widgets to a task: a widget for every setting that gives back its default, every way to a mask."""

import dataclasses

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from holdfast import methods
from holdfast.base import names
from holdfast.base.schema import list_settings, read_value
from holdfast.media import masks, video
from holdfast.pipeline.task import EditTask
from holdfast.ui import form, form_task, views, widgets
from holdfast.ui.form_task import FormValues
from holdfast.ui.messages import MessageFormatter
from holdfast.ui.queue import Limits, RunQueue


@pytest.fixture
def desk(tmp_path):
    made = RunQueue(tmp_path / "page")
    yield made
    made.close()


@pytest.fixture
def clip(tmp_path):
    """A white square on black that moves right, 2 pixels a frame."""
    frames = [np.zeros((32, 48, 3), np.uint8) for _ in range(5)]
    for i, frame in enumerate(frames):
        frame[8:20, 6 + 2 * i : 18 + 2 * i] = 255
    video.write_frames(tmp_path / "clip.mkv", frames, 8, "ffv1")
    return str(tmp_path / "clip.mkv")


FIELDS = {
    "source_prompt": "a red ball",
    "target_prompt": "a blue ball",
    "backbone": "shapeworld-wan",
}


@pytest.mark.parametrize("method", names.list_modules("holdfast.methods"))
def test_every_setting_has_a_widget_that_gives_its_default_back(method):
    config = methods.load(method).Config
    with gr.Blocks():
        made = widgets.method_widgets(config, {})
    for name, setting in list_settings(config).items():
        value = widgets.parse_value(setting, made[name].value)
        assert value is None or read_value(config, name, value) == setting.default
        assert (value is None) == (setting.default is None)


def test_a_widget_shows_what_an_edit_would_take():
    """A model's steps are not meant for the iterations of score distillation."""
    recommended = {"steps": 25, "learning_rate": 0.04}
    with gr.Blocks():
        made = {
            name: widgets.method_widgets(methods.load(name).Config, recommended)
            for name in ("dds", "flowedit")
        }
    assert made["dds"]["steps"].value == "200"
    assert made["dds"]["learning_rate"].value == "0.04"
    assert made["flowedit"]["steps"].value == "25"


def test_every_field_of_a_task_is_on_the_page(desk):
    with gr.Blocks():
        made = form.Form(desk, MessageFormatter(desk.root))
    elsewhere = {"input", "output", "mask", "strength", "settings", "keyframes"}
    assert {f.name for f in dataclasses.fields(EditTask)} - elsewhere == set(made.fields)


def test_quality_is_outside_the_accordions(desk):
    with gr.Blocks():
        made = form.Form(desk, MessageFormatter(desk.root))
    parents = [made.fields["quality"].parent]
    while parents[-1] is not None:
        parents.append(parents[-1].parent)
    assert not [parent for parent in parents if isinstance(parent, gr.Accordion)]


def test_an_untouched_form_is_a_task_of_defaults(desk, clip):
    with gr.Blocks():
        made = form.Form(desk, MessageFormatter(desk.root))
    values = {name: widget.value for name, widget in made.fields.items()} | FIELDS
    task = form_task.build_task(FormValues(clip, values), desk)
    assert task == EditTask(clip, "", **FIELDS)


def test_settings_that_somebody_changed_are_given_and_strength_is_the_task_s(desk, clip):
    settings = {"steps": 7, "strength": 0.4, "shift": ""}
    task = form_task.build_task(FormValues(clip, FIELDS, settings), desk)
    assert (task.settings, task.strength) == ({"steps": 7}, 0.4)
    keep = form.track_change("steps", 25)
    assert keep(7, {}) == {"steps": 7}
    assert keep(25, {"steps": 7, "tau": 1}) == {"tau": 1}  # back to the usual is no setting


def test_every_way_to_a_mask(desk, clip, tmp_path):
    def mask(**ways):
        return form_task.build_task(FormValues(clip, FIELDS, **ways), desk).mask

    assert mask() is None
    assert mask(mask_source=form_task.AUTO) == "auto"
    assert mask(mask_source=form_task.BOX, box=" 6,8,12,12 ", follow=False) == "6,8,12,12"
    assert mask(mask_source=form_task.FILE, file="m.png") == "m.png"
    followed = mask(mask_source=form_task.BOX, box="6,8,12,12")
    inside = list(masks.open_mask(followed, video.probe(clip), range(5)).frames())
    truth = [frame[..., 0] > 0 for frame in video.read(video.probe(clip))]
    for a, b in zip(inside, truth, strict=True):
        assert (a & b).sum() / (a | b).sum() > 0.8
    for way, said in {
        form_task.BOX: "type the box",
        form_task.BRUSH: "paint",
        form_task.FILE: "upload",
    }.items():
        with pytest.raises(ValueError, match=said):
            mask(mask_source=way)


def test_what_is_painted_is_a_picture_and_nothing_painted_is_none(desk):
    layer = np.zeros((32, 48, 4), np.uint8)
    assert form_task.save_brush_mask({"layers": [layer]}, desk) is None
    assert form_task.save_brush_mask(None, desk) is None
    layer[4:9, 5:11, 3] = 200
    with Image.open(form_task.save_brush_mask({"layers": [layer]}, desk)) as picture:
        assert np.array_equal(np.asarray(picture) > 0, layer[..., 3] > 0)


def test_a_clip_that_is_too_long_or_elsewhere_is_refused(desk, clip):
    def taken(named, **limits):
        desk.limits = Limits(**limits)
        return form_task.open_clip(None, named, desk)

    assert taken(clip, max_frames=5).frames == 5
    with pytest.raises(ValueError, match="5 frames, but this page takes 4"):
        taken(clip, max_frames=4)
    with pytest.raises(ValueError, match="file paths are disabled"):
        taken(clip, allows_paths=False)
    inside = desk.uploads / "clip.mkv"
    inside.write_bytes(video.probe(clip).path.read_bytes())
    assert taken(str(inside), allows_paths=False).frames == 5
    with pytest.raises(ValueError, match="file paths are disabled"):
        taken(f"{desk.uploads}/../../clip.mkv", allows_paths=False)


def test_words_that_differ_are_marked_and_nothing_is_taken_for_html():
    shown = views.render_differences("a <b>red</b> ball", "a blue ball")
    assert "<b>" not in shown
    assert "<ins>blue</ins>" in shown
    assert views.render_differences("", "a blue ball") == ""


def test_no_number_stands_in_a_widget_that_replaces_what_was_typed(desk):
    """Gradio's sliders and number fields show another number than they send, once one is out of range or taken out."""
    with gr.Blocks():
        made = form.Form(desk, MessageFormatter(desk.root))
        settings = widgets.method_widgets(methods.load("flowedit").Config, {})
    shown = [*made.fields.values(), *settings.values(), made.strength]
    assert not [w.label for w in shown if isinstance(w, gr.Slider | gr.Number)]
    with pytest.raises(ValueError, match="steps is '5000': use a whole number between 1 and 1000"):
        methods.load("flowedit").Config(steps="5000")
    with pytest.raises(ValueError, match=r"seed is '1\.5': use a whole number"):
        form_task.build_task(FormValues("clip.mp4", FIELDS | {"seed": "1.5"}), desk)


def test_the_automatic_mask_does_not_wait_for_an_edit_that_has_the_model(desk, clip):
    task = EditTask(clip, "", **FIELDS, mask="auto")
    with desk.model_lock, pytest.raises(ValueError, match="the model is busy with another edit"):
        form_task.find_auto_mask(task, desk)

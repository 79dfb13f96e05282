"""What a model's folder says of its words, its footage and its judgement: told where it fits, and only there."""

import json
import shutil

import numpy as np
import pytest
import torch

from holdfast.base.notices import Notice
from holdfast.media import video
from holdfast.models import calibration, registry
from holdfast.models.calibration import Calibration
from holdfast.models.checkpoint import Checkpoint
from holdfast.pipeline import agreement, run, summary
from holdfast.pipeline.task import EditTask
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import sample_scene
from holdfast.shapeworld.training.text import vocabulary

EMBEDDED = ("shapeworld-wan", "shapeworld-sd", "shapeworld-t2v", "shapeworld-svd")
MEASURED = {
    "clearly": {"from": 0.8, "scenes": 50, "succeeded": 48},
    "weakly": {"scenes": 20, "succeeded": 11},
    "not": {"below": 0.2, "scenes": 30, "succeeded": 6},
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_embedded_model_says_what_it_can_be_told_and_shown(name):
    """A new checkpoint has other weights: then `python -m holdfast.shapeworld.calibrate` is due."""
    about = registry.describe_backbone(name)
    known = about.calibration
    assert known.vae_psnr > 20
    assert list(known.vocabulary) == (vocabulary() if "text" in about.capabilities else [])


def test_other_weights_in_the_folder_make_the_measurements_void(tmp_path):
    whole = registry.find_weights("shapeworld-wan")
    copied = Checkpoint(tmp_path)
    (tmp_path / "vae").mkdir()
    shutil.copy(whole.part("vae") / "diffusion_pytorch_model.safetensors", tmp_path / "vae")
    assert calibration.read(copied) == Calibration()
    said = {"weights": calibration.digest_weights(copied), "vae": {"psnr": 20.0}}
    (tmp_path / calibration.FILE).write_text(json.dumps(said))
    assert calibration.read(copied).vae_psnr == 20.0
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert calibration.read(copied) == Calibration()


def test_words_that_a_model_never_read_are_named_with_the_nearest_known_ones():
    about = registry.describe_backbone("shapeworld-wan")
    with pytest.warns(Notice) as notes:
        calibration.check_words(about, ["a red cube, over a cities", "a RED ball"])
    (said,) = (str(note.message) for note in notes)
    assert "has never read 'cube', 'cities', and cannot follow them" in said
    assert said.index("city") < said.index("meadow")
    calibration.check_words(about, ["A plain red ball moves up, over a lake."])
    calibration.check_words(registry.describe_backbone("shapeworld-svd"), ["a man walks"])


@pytest.fixture
def asked(tmp_path):
    """A task over a clip of an embedded model's world, or over noise."""

    def make(scene: bool, **fields) -> EditTask:
        frames = render([sample_scene(7, "single")], 5)[0] if scene else torch.rand(5, 3, 64, 64)
        arrays = [np.rint(f.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for f in frames]
        video.write_frames(tmp_path / "clip.mkv", arrays, 8, "ffv1")
        told = {
            "source_prompt": "a red ball",
            "target_prompt": "a blue ball",
            "backbone": "shapeworld-wan",
        }
        settings = {"steps": 2}
        return EditTask(str(tmp_path / "clip.mkv"), "", **told | fields, settings=settings)

    return make


def test_footage_that_the_vae_shows_worse_than_its_training_scenes_warns(asked, shapeworld):
    assert not run.edit(asked(True), shapeworld).manifest["notes"]
    with pytest.warns(Notice, match="this clip is unlike what shapeworld-wan was trained on"):
        made = run.edit(asked(False), shapeworld)
    assert made.manifest["agreement"]["words"] == ""  # it was never measured on such a clip
    with pytest.warns(Notice, match="has never read 'cube'"):
        strange = run.edit(asked(True, target_prompt="a blue cube"), shapeworld)
    assert strange.manifest["agreement"]["hint"] == "not measured on clips or words of this kind"
    assert any("25.6 dB or more" in text for text in made.manifest["notes"])


def test_a_judgement_is_in_the_manifest_with_what_it_cost_and_changes_no_bit(asked, shapeworld):
    judged = run.edit(asked(True), shapeworld)
    plain = run.edit(asked(True), shapeworld, judge_result=False)
    assert torch.equal(judged.z, plain.z)
    assert judged.manifest["evaluations"] == plain.manifest["evaluations"]
    assert judged.manifest["agreement_evaluations"] == agreement.EVALUATIONS
    assert "judge" in judged.writer.timer.seconds
    assert (plain.manifest["agreement"], plain.manifest["agreement_evaluations"]) == (None, 0)
    same = asked(True, target_prompt="a red ball")
    with pytest.warns(Notice, match="the prompts are equal"):
        assert run.edit(same, shapeworld).manifest["agreement"] is None


@pytest.mark.filterwarnings("ignore:shapeworld-wan has never read:holdfast.base.notices.Notice")
def test_prompts_that_a_model_reads_alike_are_said_and_what_the_question_cost(asked, shapeworld):
    alike = asked(True, source_prompt="a 红 ball", target_prompt="a 蓝 ball")
    with pytest.warns(Notice, match="reads both prompts as the same"):
        made = run.edit(alike, shapeworld)
    assert made.manifest["agreement"] is None
    assert made.manifest["agreement_evaluations"] == agreement.EVALUATIONS


def test_a_file_of_another_program_is_no_calibration(tmp_path):
    copied = Checkpoint(tmp_path)
    for text in ("[1]", "{", '{"weights": 1}'):
        (tmp_path / calibration.FILE).write_text(text)
        assert calibration.read(copied) == Calibration()


def test_a_model_that_words_do_not_steer_is_not_asked():
    assert not agreement.can_judge(registry.describe_backbone("shapeworld-svd"))
    assert agreement.can_judge(registry.describe_backbone("shapeworld-sd"))


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (
            0.8,
            "clearly (right for 48 of 50 held-out scenes with this verdict, by flowedit without a mask)",
        ),
        (
            0.2,
            "weakly (11 of 20 held-out scenes with this verdict had succeeded, by flowedit without a mask)",
        ),
        (
            0.1,
            "not (a weak hint: right for 24 of 30 held-out scenes with this verdict, by flowedit without a mask)",
        ),
    ],
)
def test_a_score_in_words_says_how_often_the_word_is_right(score, said):
    found = agreement.judge(score, MEASURED).describe()
    assert agreement.describe_agreement(found) == f"the model sees the target in the result: {said}"


def test_a_model_without_thresholds_says_a_number_and_that_it_is_not_calibrated():
    said = agreement.describe_agreement(agreement.judge(0.314, {}).describe())
    assert "+0.31" in said
    assert "not calibrated for this model" in said


def manifest(**changed) -> dict:
    """As much of one as the summary reads."""
    measured = {"psnr": 18.7, "psnr_outside": None, "max_abs_outside": None, "changed_share": 0.512}
    return {
        "output": "out.mp4",
        "task": {"mask": None},
        "plan": {"fit": {"reason": "64x64 fits the model"}},
        "preservation": measured,
        "evaluations": 48,
        "agreement": None,
        "agreement_evaluations": 0,
        "settings": {"strength": {"value": 0.66}},
    } | changed


def test_without_a_mask_the_summary_says_what_that_means():
    said = summary.summary_lines(manifest())
    assert "no mask, so the whole clip may change" in said[0]
    assert "51.2% of the pixels changed, the clip is 18.7 dB from its source" in said[0]
    assert any("--mask auto" in step for step in summary.next_steps(manifest()))


def test_decibels_in_the_file_say_of_what_they_are_and_what_is_promised():
    file = {"samples_equal_outside": False, "luma_psnr_outside": 51.2, "psnr_outside": 45.1}
    measured = {"psnr": 30.0, "psnr_outside": 99.0, "max_abs_outside": 0.0, "changed_share": 0.1}
    held = manifest(preservation=measured, delivered=file, task={"mask": "0,0,8,8"})
    said = summary.summary_lines(held)[0]
    assert "outside the mask the file is 51.2 dB from the source in luma (at least the 50" in said
    assert "45.1 dB in RGB" in said
    file["luma_psnr_outside"] = 47.0
    assert "less than the 50" in summary.summary_lines(held)[0]
    file["samples_equal_outside"] = True
    assert (
        "outside the mask every sample of the file equals the source"
        in summary.summary_lines(held)[0]
    )


def test_an_edit_that_the_model_does_not_see_is_followed_by_what_to_try():
    judged = agreement.judge(0.1, MEASURED).describe()
    steps = summary.next_steps(manifest(agreement=judged))
    assert any("raise --strength (it was 0.66, try 0.76)" in step for step in steps)
    clear = agreement.judge(0.9, MEASURED).describe()
    assert not any("--strength" in step for step in summary.next_steps(manifest(agreement=clear)))


def test_the_summary_says_what_evaluations_cost_and_what_was_kept():
    whole = {"evaluations": 48, "dense_equivalents": 48.0, "reused_evaluations": 0}
    assert "48 evaluations of the network" in summary.summary_lines(manifest() | whole)[-1]
    assert "the cost of" not in summary.summary_lines(manifest() | whole)[-1]
    part = whole | {"dense_equivalents": 19.2, "reused_evaluations": 16}
    said = summary.summary_lines(manifest() | part)[-1]
    assert "(the cost of 19: the target runs inside the mask only; 16 more were kept" in said

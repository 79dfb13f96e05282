"""The papers' own comparisons: their data, the frames that are taken, and our figures next to the printed ones."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from holdfast import methods
from holdfast.base.errors import UserError
from holdfast.base.files import write_json
from holdfast.base.intervals import estimate
from holdfast.base.schema import list_settings
from holdfast.bench import clip_selection, datasets, paper
from holdfast.bench.datasets.base import Case
from holdfast.bench.plan import BenchmarkPlan, Variant
from holdfast.bench.results import Results
from holdfast.bench.runner import Benchmark
from holdfast.cli.app import app
from holdfast.media import images, video
from holdfast.metrics import RAW
from holdfast.metrics.base import MetricModels
from holdfast.models import registry
from tests import tiny
from tests.bench import toy

PROMPTS = {"source_prompt": "a red ball", "target_prompt": "a blue ball"}


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("name", paper.names())
def test_a_paper_plans_its_rows_and_prints_a_number_for_each_column(name):
    chosen = paper.load(name)
    plan = paper.make_plan(chosen, chosen.backbone)
    assert plan.variants()
    for table in chosen.tables:
        assert set(table.columns) <= chosen.columns.keys()
        for row in table.rows:
            assert len(row.printed) in (0, len(table.columns)), row
    assert set(chosen.metric_names())
    missing = {row.name for table in chosen.tables for row in table.rows if not row.method}
    assert missing == plan.missing().keys()


def test_the_papers_settings_are_the_methods_defaults():
    """So that a row of the full method states none of them."""
    anchor, assd, i2vedit = (
        methods.load(name).Config() for name in ("flowanchor", "assd", "i2vedit")
    )
    assert (anchor.steps, round(25 * anchor.strength), anchor.gamma, anchor.tau) == (25, 23, 1, 0.6)
    assert anchor.beta_text == anchor.beta_video == 0.3
    assert (assd.steps, assd.learning_rate, assd.fusion, assd.smoothing) == (200, 0.1, 0.8, 0.165)
    assert (i2vedit.steps, i2vedit.tuning_steps, i2vedit.rank, i2vedit.sarp) == (25, 250, 32, 0.005)


def test_printed_figures_are_those_of_the_facts():
    """One figure of each table, so that a shifted row or column is seen."""
    found = {}
    for name in paper.names():
        for table in paper.load(name).tables:
            for row in table.rows:
                found[name, table.name, row.name] = dict(
                    zip(table.columns, row.printed, strict=False)
                )
    assert found["flowanchor", "five", "Wan-Edit + mask"]["M.PSNR"] == 31.11
    assert found["flowanchor", "anchor", "FlowDirector"]["CLIP-T"] == 25.19
    assert found["flowanchor", "ablation", "without AMM"]["L.CLIP-T"] == 18.64
    assert found["flowanchor", "sensitivity", "gamma = 1.5"]["L.DINO"] == 0.7027
    assert found["flowanchor", "masks", "box"]["Warp-Err"] == 1.191
    assert found["assd", "main", "FLATTEN"]["Align"] == 14.82
    assert found["i2vedit", "local", "Pika"]["auto TC"] == 2.43
    assert found["i2vedit", "other", "I2VEdit"]["AC"] == 0.47


@pytest.mark.parametrize(
    ("spacing", "count", "total", "chosen"),
    [
        ("first", 3, 8, [0, 1, 2]),
        ("even", 4, 10, [0, 3, 6, 9]),
        ("even", 3, 8, [0, 4, 7]),
        ("even", 16, 5, [0, 1, 2, 3, 4]),
        ("first", None, 4, [0, 1, 2, 3]),
    ],
)
def test_frames_are_the_first_or_evenly_spaced(spacing, count, total, chosen):
    selection = clip_selection.ClipSelection(count, spacing)
    assert selection.choose_frames(total) == chosen


def write_case(folder, frames=6):
    """A case whose frame i has the grey level 20 i, with a mask of the left half of even frames."""
    clip = [np.full((16, 32, 3), 20 * i, np.uint8) for i in range(frames)]
    mask = [np.zeros((16, 32, 3), np.uint8) for _ in range(frames)]
    for i in range(0, frames, 2):
        mask[i][:, :16] = 255
    video.write_frames(folder / "clip.mkv", clip, 12, "lossless")
    video.write_frames(folder / "mask.mkv", mask, 12, "lossless")
    truth = str(folder / "clip.mkv")
    return Case(
        "a", str(folder / "clip.mkv"), **PROMPTS, mask=str(folder / "mask.mkv"), truth=truth
    )


def test_a_clip_its_mask_and_its_truth_are_selected_alike(tmp_path):
    case = write_case(tmp_path)
    selection = clip_selection.ClipSelection(3, "even", (8, 4))
    Image.fromarray(np.full((32, 64, 3), 50, np.uint8)).save(tmp_path / "a=b.png")
    edited = str(tmp_path / "a=b.png")
    case = replace(case, first_frame=edited, keyframes=(f"2={edited}", f"3={edited}"))
    case = replace(case, scene=(0, "colour", "single"))
    (found,) = clip_selection.select_cases([case], selection, tmp_path / "data")
    (keyframe,) = found.keyframes  # of the second selected frame; the other is not selected
    assert keyframe.startswith("1=")
    assert found.scene is None  # a judge would look for the whole clip
    for path in (found.first_frame, keyframe.removeprefix("1=")):
        picture = images.read(Path(path))
        assert (picture.shape, set(picture.flat)) == ((4, 8, 3), {50})
    clip = video.probe(found.clip)
    assert (clip.size, clip.frames, clip.rate) == ((8, 4), 3, 6)
    for path in (found.clip, found.truth):
        assert [frame[0, 0, 0] for frame in video.read(video.probe(path))] == [0, 40, 100]
    inside = [frame[..., 0] for frame in video.read(video.probe(found.mask))]
    assert [(frame[:, :4].min(), frame[:, 4:].max()) for frame in inside] == [
        (255, 0),
        (255, 0),
        (0, 0),
    ]
    before = video.probe(found.clip).path.stat().st_mtime_ns
    assert clip_selection.select_cases([case], selection, tmp_path / "data") == [found]
    assert video.probe(found.clip).path.stat().st_mtime_ns == before


def test_a_clip_that_fits_is_taken_as_it_is_and_one_that_is_too_short_is_counted(tmp_path):
    case = write_case(tmp_path)
    whole = clip_selection.ClipSelection(6, "even", (32, 16))
    assert clip_selection.select_cases([case], whole, tmp_path / "data") == [case]
    with pytest.warns(UserWarning, match="1 of 1 clips have fewer than 9 frames"):
        clip_selection.select_cases([case], replace(whole, frames=9), tmp_path / "data")


def test_what_a_backbone_cannot_run_is_named_and_a_paper_without_rows_is_refused():
    chosen = paper.load("flowanchor").choose_tables(["five"])
    plan = paper.make_plan(chosen, "shapeworld-t2v")
    assert plan.missing()["RF-Solver"] == "shapeworld-t2v lacks joint_attention"
    assert paper.make_plan(paper.load("i2vedit"), "svd").missing()["Pika"] == paper.NOT_HERE
    with pytest.raises(UserError, match="no row of i2vedit can run on shapeworld-wan"):
        paper.make_plan(paper.load("i2vedit"), "shapeworld-wan")
    with pytest.raises(UserError, match="did you mean ablation"):
        paper.load("flowanchor").choose_tables(["ablatoin"])


def test_the_comparison_has_ours_next_to_the_printed_figure(tmp_path, monkeypatch, make_clip):
    """With edits of no model: two rows, one more made elsewhere, in the scale of the paper."""
    toy.install(monkeypatch)
    monkeypatch.setattr(toy, "SHARE", {"dds": 0.5})
    columns = {
        "PSNR": paper.Column("PSNR", "masked_psnr", "psnr_outside@true", 10.0),
        "Liked": paper.Column("Liked"),
    }
    rows = (
        paper.PaperRow("Absent", printed=(1.5, 2.0)),
        paper.PaperRow("DDS", "dds", {}, (300.0, 4.0)),
    )
    table = paper.PaperTable("main", "Table 1", ("PSNR", "Liked"), rows)
    chosen = replace(paper.load("assd"), columns=columns, tables=(table,))
    plan = paper.make_plan(chosen, "shapeworld-t2v")
    cases = write_dataset(tmp_path, make_clip)
    bench = make_benchmark(plan, cases, tmp_path / "out")
    bench.run()
    results = Results(tmp_path / "out")
    absent, _, ours, liked = paper.compare(plan, table, results)
    assert absent.cells() == ("Absent", "PSNR", "1.5", "–", "")
    value = results.estimate(plan.variants()[0], "psnr_outside@true")
    assert (ours.here.mean, ours.here.n) == (pytest.approx(10 * value.mean), 2)
    assert (liked.printed, liked.here) == (4.0, None)
    page = paper.format_page(plan, results, ["a fact"])
    assert "- Absent: no such method in Holdfast" in page
    assert f"| DDS | PSNR | 300 | {ours.here.interval_text()} | 2 |" in page


def write_dataset(folder, make_clip, count=2):
    lines = []
    for i in range(count):
        clip = make_clip(f"clip{i}.mp4", frames=20, size=(48, 32))
        Image.fromarray(np.full((32, 48, 3), 128, np.uint8)).save(folder / "first.png")
        case = {"clip": clip.name, "mask": "8,8,16,16", "first_frame": "first.png", **PROMPTS}
        lines.append(case | {"name": f"case{i}"})
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def make_benchmark(plan, dataset, folder):
    cases = datasets.load(str(dataset), folder / "data")
    cases = clip_selection.select_cases(cases, plan.paper.selection, folder / "data")
    bench_plan = BenchmarkPlan(str(dataset), plan.variants(), tuple(cases))
    made = Benchmark(bench_plan, folder, MetricModels(), plan.paper.metric_names())
    made.initialize("the command")
    return made


def test_the_raw_figure_is_the_papers_and_a_name_is_whole():
    column = paper.Column("M.PSNR", "masked_psnr", "psnr_outside@true")
    delivered, raw = "psnr_outside@true", f"{RAW}psnr_outside@true"

    def found(values, column=column):
        estimates = {name: estimate([value] * 3) for name, value in values.items()}
        results = SimpleNamespace(metric_names=list(values), estimate=lambda _, n: estimates[n])
        return paper.estimate_column(results, None, column)

    assert found({delivered: 100.0, raw: 30.0}).mean == 30
    assert found({"psnr_outside@truer": 1.0, delivered: 100.0}).mean == 100
    assert found({delivered: 100.0}, paper.Column("Liked")) is None
    assert found({delivered: 100.0}, replace(column, scale=0.01)).mean == 1
    whole = paper.Column("CLIP-T", value="clip_t")
    assert found({"clip_t/clip-vit-large-patch14": 25.0}, whole).mean == 25
    assert found({"clip_total/net": 25.0}, whole) is None


def test_clips_made_elsewhere_fill_the_row_of_their_name():
    table = paper.PaperTable("main", "Table 1", ("CLIP-Cons",), (paper.PaperRow("FLATTEN"),))
    plan = paper.make_plan(paper.load("assd"), "modelscope")
    plan = replace(plan, rows={"main": (paper.PlannedRow(table.rows[0], None, paper.NOT_HERE),)})
    theirs = Variant("flatten", "", origin="raw")
    results = SimpleNamespace(
        variants=[Variant("flatten", "", origin="kept"), theirs],
        metric_names=["clip_f@all_pairs/net"],
        estimate=lambda variant, _: estimate([0.5, 0.7]) if variant is theirs else None,
    )
    (line,) = paper.compare(plan, table, results)
    assert (line.printed, line.here.mean) == (None, 0.6)


def test_a_dry_run_prints_the_plan_and_missing_weights_how_to_get_them(tmp_path, make_clip):
    shown = call("bench", "paper", "assd", "--dry-run")
    assert shown.exit_code == 0
    for words in ("Tune-A-Video", "0.2899", "runs: assd joint=0 on modelscope", "flatten on sd2.1"):
        assert words in shown.stdout + shown.stderr
    assert "not run: Pika" in call("bench", "paper", "i2vedit", "--dry-run").stderr
    dataset = write_dataset(tmp_path, make_clip, 1)
    missing = call("bench", "paper", "flowanchor", dataset, "-o", tmp_path / "out")
    assert missing.exit_code == 3
    assert "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in missing.stderr
    assert not (tmp_path / "out").exists()
    for wrong, words in (
        (["flowancor"], "did you mean flowanchor"),
        (["assd"], "give a data set"),
        (["assd", dataset, "-o", tmp_path / "out", "--size", "32"], "use WIDTHxHEIGHT"),
        (["assd", "--dry-run", "--tables", "mian"], "did you mean main"),
    ):
        refused = call("bench", "paper", *wrong)
        assert refused.exit_code == 2
        assert words in refused.stderr


def save_tiny(root, name):
    """Put a tiny random model of the published classes under a backbone's name into a hub cache."""
    spec, adapter = registry.specs()[name], tiny.ADAPTERS[TINY[name]]()
    place = root / f"models--{spec.weights.replace('/', '--')}"
    folder = place / "snapshots" / "0"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0")
    for part, network in adapter.parts.items():
        network.save_pretrained(folder / part)
    if name == "svd":
        adapter.image_processor.save_pretrained(folder / "feature_extractor")
    else:
        prompts = getattr(adapter, "prompts", adapter)
        prompts.tokenizer.save_pretrained(folder / "tokenizer")
    scheduler = registry.find_weights(f"shapeworld-{TINY[name]}").config("scheduler")
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", dict(scheduler))
    index = {"_class_name": registry.choose_backbone(name)[1].pipelines[0]}
    (folder / "model_index.json").write_text(json.dumps(index))


TINY = {"wan2.1-1.3b": "wan", "modelscope": "t2v", "sd1.5": "sd", "sd2.1": "sd", "svd": "svd"}
# What makes an edit short; the rest is the paper's.
SHORT = {"steps": "1", "inversion_steps": "1", "strength": "1", "tuning_steps": "1", "rank": "2"}


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """A hub cache with all of them, as this process sees it, whose clips are small."""
    from huggingface_hub import constants

    root = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        for name in TINY:
            save_tiny(root, name)
            specs = registry.choose_backbone(name)[1].specs
            patch.setitem(specs, name, replace(specs[name], train_pixels=32 * 32))
        patch.setattr(constants, "HF_HUB_CACHE", str(root))
        yield root


def shorten(row):
    """Return a row that runs few steps."""
    if not row.method:
        return row
    known = list_settings(methods.load(row.method.partition("+")[0]).Config)
    short = {key: value for key, value in SHORT.items() if key in known}
    return replace(row, settings={**row.settings, **short})


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("flowanchor", ["five"]),
        ("assd", ["main"]),
        ("assd", ["ablation"]),
        ("i2vedit", ["local"]),
    ],
)
def test_a_paper_runs_through_on_tiny_random_models(
    name, tables, tmp_path, tiny_models, monkeypatch, make_clip
):
    """On the published classes under the paper's own name of the model, from the command line."""
    chosen = paper.load(name).choose_tables(tables)
    (table,) = chosen.tables
    table = replace(table, rows=tuple(map(shorten, table.rows)))
    columns = chosen.columns | {"SSIM": paper.Column("SSIM", "ssim", "ssim@full")}
    chosen = replace(chosen, tables=(table,), columns=columns, measure={})
    monkeypatch.setattr(paper, "load", lambda _: chosen)
    dataset, out = write_dataset(tmp_path, make_clip, 1), tmp_path / "out"
    result = call("bench", "paper", name, dataset, "-o", out, "--frames", 3, "--size", "32x32")
    assert result.exit_code == 0, result.stderr
    results = Results(out)
    plan = paper.leave_out_missing(paper.make_plan(chosen, chosen.backbone))
    assert not results.failures()
    assert [variant.key for variant in results.variants] == [v.key for v in plan.variants()]
    assert all(results.counts(variant)["done"] == 1 for variant in results.variants)
    assert all(estimate_ssim(results, variant) for variant in results.variants)
    page = (out / f"paper-{name}.md").read_text()
    for reason in plan.missing():
        assert reason in page
        assert f"not run: {reason}" in result.stderr
    assert "hf download" in result.stderr  # of CLIP's weights, which no test has


def estimate_ssim(results, variant):
    return paper.estimate_column(results, variant, paper.Column("SSIM", "ssim", "ssim@full"))


def test_a_row_may_run_on_another_model_than_the_papers():
    """Next to an embedded model on its family's own one; where its weights are missing it is left out by name."""
    row = paper.PaperRow("Other", "flowedit", backbone="zeroscope")
    table = paper.PaperTable("main", "Table 1", (), (row, paper.PaperRow("Main", "flowedit")))
    chosen = replace(paper.load("assd"), tables=(table,))
    small = paper.make_plan(chosen, "shapeworld-sd")
    assert [v.backbone for v in small.variants()] == ["shapeworld-t2v", "shapeworld-sd"]
    assert paper.leave_out_missing(small) == small
    large = paper.make_plan(chosen, "sd1.5")
    assert [v.backbone for v in large.variants()] == ["zeroscope", "sd1.5"]
    left = paper.leave_out_missing(large)
    assert [v.backbone for v in left.variants()] == ["sd1.5"]
    assert "zeroscope" in left.missing()["Other"]
    plan = BenchmarkPlan("x", small.variants(), (), weights="FOLDER", weights_of="shapeworld-sd")
    assert [plan.find_weights(v.backbone) for v in plan.variants] == [None, "FOLDER"]

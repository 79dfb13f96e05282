"""The runner: cells are done once, a kill loses at most one, failures are counted, sweeps are rows of their own."""

import csv
import dataclasses
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pytest

from holdfast import methods
from holdfast.base.errors import UserError
from holdfast.base.notices import Notice
from holdfast.bench import datasets, plan, records, runner, tables
from holdfast.bench.datasets.base import Case
from holdfast.bench.report import write_report
from holdfast.bench.results import COSTS, Results
from holdfast.metrics.base import MetricModels
from tests.bench import toy

METRICS = toy.METRICS
REAL = ("test_the_mask_is_seen_only_by_rows_that_say_so", "test_a_backbone_that_cannot_be_loaded")


@pytest.fixture(autouse=True)
def toy_edits(request, monkeypatch):
    """Edits of no model, but where a test is about a real one."""
    if not request.node.name.startswith(REAL):
        toy.install(monkeypatch)


def bench(
    folder,
    methods=("flowedit",),
    limit=2,
    sweep=None,
    dataset="shapeworld",
    metrics=METRICS,
    seed=0,
):
    rows = plan.make_variants(list(methods), ["shapeworld-wan"], {"steps": ["2"]} | (sweep or {}))
    cases = tuple(datasets.load(dataset, folder / "data", limit))
    made = runner.Benchmark(
        plan.BenchmarkPlan(dataset, rows, cases, seed), folder, MetricModels(), metrics
    )
    made.initialize("the command")
    return made


def test_cells_are_done_once_and_a_larger_plan_adds_only_what_is_new(tmp_path):
    assert bench(tmp_path).run() == {
        "edited": 2,
        "measured again": 0,
        "done before": 0,
        "failed": 0,
        "failed before": 0,
    }
    cell = json.loads(next(tmp_path.rglob("cell.json")).read_text())
    assert cell["device"] == "a toy"
    assert cell["machine"]
    times = {
        p: p.stat().st_mtime_ns
        for p in tmp_path.rglob("*")
        if p.is_file() and p.name != "bench.json"
    }
    counts = bench(tmp_path, ["flowedit", "sdedit"], limit=3).run()
    assert (counts["edited"], counts["done before"]) == (4, 2)
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    results = Results(tmp_path)
    assert [results.counts(r) for r in results.variants] == [
        {"done": 3, "failed": 0, "not done": 0}
    ] * 2


def test_measuring_again_keeps_the_edits_and_adds_figures(tmp_path):
    bench(tmp_path, limit=1).run()
    edited = next(tmp_path.rglob("edited.mkv"))
    before, time_before = (
        edited.stat().st_mtime_ns,
        json.loads(next(tmp_path.rglob("cell.json")).read_text())["seconds"],
    )
    assert bench(tmp_path, limit=1, metrics=["ssim"]).run(again=True)["measured again"] == 1
    record = json.loads(next(tmp_path.rglob("cell.json")).read_text())
    assert {"ssim@full", "ssim@outside", "truth_psnr@all"} <= set(
        record["figures"]
    )  # what was measured before is kept
    assert (edited.stat().st_mtime_ns, record["seconds"]) == (before, time_before)


def test_the_mask_is_seen_only_by_rows_that_say_so(tmp_path):
    made = bench(
        tmp_path, ["flowedit", "flowedit+mask"], limit=1, dataset="shapeworld:several/colour"
    )
    made.run()
    results = Results(tmp_path)
    blind, seeing = results.variants
    assert (blind.sees_mask, seeing.sees_mask) == (False, True)
    assert (
        results.estimate(seeing, "psnr_outside@true").mean == 100
    )  # composite, then a lossless file
    assert results.estimate(blind, "psnr_outside@true").mean < 60
    # What the method left is measured too; without a mask it is the delivered clip.
    assert results.estimate(seeing, "raw psnr_outside@true").mean < 60
    assert results.estimate(blind, "raw psnr_outside@true") == results.estimate(
        blind, "psnr_outside@true"
    )
    manifest = json.loads(
        (records.cell_folder(tmp_path, blind, made.plan.cases[0]) / "edited.mkv.json").read_text()
    )
    assert manifest["task"]["mask"] is None


def test_raw_and_delivered_are_measured_under_their_own_names(make_clip, tmp_path):
    named = jobs(tmp_path, make_clip, ["8,8,16,16"])
    made = bench(tmp_path / "a", ["flowedit", "flowedit+mask"], dataset=named, metrics=["ssim"])
    made.run()
    blind, seeing = (
        records.cell_folder(tmp_path / "a", v, made.plan.cases[0]) for v in made.plan.variants
    )
    cells = [json.loads((place / "cell.json").read_text()) for place in (blind, seeing)]
    assert set(cells[0]["figures"]) == {"ssim@full", "ssim@outside"}  # one clip, measured once
    assert set(cells[1]["figures"]) == {
        "ssim@full",
        "ssim@outside",
        "raw ssim@full",
        "raw ssim@outside",
    }
    figures = cells[1]["figures"]
    assert figures["raw ssim@full"] != figures["ssim@full"]
    results = Results(tmp_path / "a")
    assert results.estimate(results.variants[0], "raw ssim@full").mean == pytest.approx(
        cells[0]["figures"]["ssim@full"]
    )
    text = tables.format_markdown(results)
    assert "| `raw ssim@full` ↑ |" in text
    assert "begins with raw measures what the method left" in text


def test_a_folder_of_an_earlier_version_has_no_raw_values_and_is_read(make_clip, tmp_path):
    named = jobs(tmp_path, make_clip, ["8,8,16,16"])
    made = bench(tmp_path / "a", ["flowedit+mask"], dataset=named, metrics=["ssim"])
    made.run()
    (place,) = (tmp_path / "a" / "cells").glob("*/*")
    record = json.loads((place / "cell.json").read_text())
    record["figures"] = {k: v for k, v in record["figures"].items() if not k.startswith("raw ")}
    (place / "cell.json").write_text(json.dumps(record))
    plan.raw_path(place).unlink()
    assert made.run()["done before"] == 1
    assert made.run(again=True)["measured again"] == 1
    results = Results(tmp_path / "a")
    assert not [name for name in results.metric_names if name.startswith("raw ")]
    assert results.raw_note == ""


def test_a_method_sees_a_rough_mask_and_the_metrics_the_tight_one(make_clip, tmp_path):
    named = jobs(tmp_path, make_clip, ["8,8,16,16"])
    roughs = ["box", "hull", "grow4", "scribble"]
    names = ["flowedit+mask", *(f"flowedit+mask:{rough}" for rough in roughs)]
    made = bench(tmp_path / "a", names, dataset=named, metrics=["masked_psnr"])
    made.run()
    (case,) = made.plan.cases
    tasks = {
        v.rough_mask: made.plan.task(v, case, tmp_path / v.key / "edited.mkv")
        for v in made.plan.variants
    }
    assert {rough: (t.outline, t.grow) for rough, t in tasks.items()} == {
        "": ("given", None),
        "box": ("box", None),
        "hull": ("hull", None),
        "grow4": ("given", 4),
        "scribble": ("given", None),
    }
    assert {tasks[rough].mask for rough in ("", "box", "hull", "grow4")} == {case.mask}
    assert Path(tasks["scribble"].mask).name == "scribble.mkv"
    results = Results(tmp_path / "a")
    assert results.variants == list(made.plan.variants)  # what is seen is stored
    assert results.variants[1].key == "flowedit+mask:box steps=2 on shapeworld-wan"
    # The toy changes every pixel alike, so that equal values mean that all were measured with one mask.
    assert len({results.estimate(v, "psnr_outside@true").mean for v in results.variants}) == 1


def test_an_edited_first_frame_goes_to_every_method_that_an_image_drives(tmp_path):
    pairs = (
        ("i2vedit", "shapeworld-svd"),
        ("sdedit", "shapeworld-svd"),
        ("sdedit", "shapeworld-wan"),
    )
    rows = tuple(plan.Variant(*pair) for pair in pairs)
    case = Case("c", "c.mp4", "a", "b", first_frame="f.png", keyframes=("2=k.png",))
    made = plan.BenchmarkPlan("d", rows, (case,))
    given = {}
    for row in rows:
        task = made.task(row, case, tmp_path / "edited.mkv")
        given[row.method, row.backbone] = task.first_frame, task.keyframes
    assert given == {
        ("i2vedit", "shapeworld-svd"): ("f.png", ("2=k.png",)),
        ("sdedit", "shapeworld-svd"): ("f.png", ()),  # it edits no segments
        ("sdedit", "shapeworld-wan"): (None, ()),
    }
    stored = records.case_to_json(case, tmp_path)
    assert records.case_from_json(stored, tmp_path).keyframes[0].endswith("k.png")
    bare = records.case_to_json(Case("c", "c.mp4", "a", "b"), tmp_path)
    assert not bare.keys() & {"first_frame", "keyframes"}  # as earlier versions stored it


def test_a_folder_that_was_started_without_first_frames_goes_on_without(tmp_path):
    bench(tmp_path, limit=1)
    info = json.loads((tmp_path / "bench.json").read_text())
    assert info["cases"][0].pop("first_frame")
    (tmp_path / "bench.json").write_text(json.dumps(info))
    assert [case.first_frame for case in bench(tmp_path, limit=2).plan.cases] == [None, None]
    made = bench(tmp_path, limit=2)
    made.plan = dataclasses.replace(
        made.plan,
        cases=tuple(datasets.load("shapeworld", tmp_path / "data", 2)),
        variants=(plan.Variant("sdedit", "shapeworld-svd"),),
    )
    with pytest.warns(Notice, match="started without edited first frames, so no method is given"):
        made.initialize("again")


def jobs(folder, make_clip, masks):
    """A dataset of one clip under as many names as there are masks; empty: none."""
    base = {
        "clip": str(make_clip(frames=3)),
        "source_prompt": "a red ball",
        "target_prompt": "a blue ball",
    }
    lines = [base | {"name": str(i)} | ({"mask": m} if m else {}) for i, m in enumerate(masks)]
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder / "jobs.jsonl")


def test_a_row_of_masks_leaves_out_what_has_none_or_is_refused(make_clip, tmp_path):
    methods = ["flowedit", "flowedit+mask"]
    with pytest.raises(ValueError, match=r"has no masks: remove \+mask from"):
        bench(tmp_path / "a", methods, dataset=jobs(tmp_path, make_clip, ["", ""]))
    named = jobs(tmp_path, make_clip, ["8,8,16,16", ""])
    with pytest.warns(
        UserWarning, match=r"1 of 2 clips have no mask: variants with \+mask skip them"
    ):
        made = bench(tmp_path / "b", methods, dataset=named, metrics=["masked_psnr"])
    assert made.run()["edited"] == 3
    results = Results(tmp_path / "b")
    blind, seeing = results.variants
    assert results.counts(blind) == {"done": 2, "failed": 0, "not done": 0}
    assert results.counts(seeing) == {"done": 1, "failed": 0, "not done": 0}
    assert [case.mask for case in results.cases] == ["8,8,16,16", None]  # a box stays one
    figures = [name for name in results.metric_names if name.startswith("psnr_outside")]
    assert figures
    assert all(results.estimate(row, figures[0]).n == 1 for row in (blind, seeing))


def test_a_sweep_makes_a_row_for_each_combination(tmp_path):
    rows = plan.make_variants(
        ["flowedit", "sdedit"], ["shapeworld-wan"], {"steps": ["2", "3"], "n_avg": ["1", "2"]}
    )
    assert [r.label for r in rows] == [
        "flowedit steps=2 n_avg=1 on shapeworld-wan",
        "flowedit steps=2 n_avg=2 on shapeworld-wan",
        "flowedit steps=3 n_avg=1 on shapeworld-wan",
        "flowedit steps=3 n_avg=2 on shapeworld-wan",
        "sdedit steps=2 on shapeworld-wan",
        "sdedit steps=3 on shapeworld-wan",
    ]


def test_a_sweep_over_an_old_name_is_one_over_the_present_name():
    with pytest.warns(Notice) as caught:
        rows = plan.make_variants(
            ["flowedit", "sds"], ["shapeworld-wan"], {"grid": ["own", "euler"], "low": ["20"]}
        )
    assert {str(warning.message).split(";")[0] for warning in caught} == {
        "grid is now called schedule",
        "schedule=own is now called schedule=native",
        "low is now called timestep_min",
    }
    assert [r.label for r in rows] == [
        "flowedit schedule=native on shapeworld-wan",
        "flowedit schedule=euler on shapeworld-wan",
        "sds schedule=native timestep_min=20 on shapeworld-wan",
        "sds schedule=euler timestep_min=20 on shapeworld-wan",
    ]


def test_a_record_of_release_0_1_is_read(tmp_path):
    old = {"name": "c", "clip": "c.mp4", "source": "a", "target": "b", "local": "b"}
    case = old | {"kind": "", "group": "", "mask": None, "truth": None, "scene": None}
    info = {"dataset": "d", "seed": 0, "weights": None, "dtype": "auto", "commands": []}
    rules = {"mask": "", "not a number": ""}
    record = json.dumps(info | {"rules": rules, "rows": [], "cases": [case]})
    (tmp_path / "bench.json").write_text(record)
    (read,) = records.read_benchmark(tmp_path)["cases"]
    made = records.case_from_json(read, tmp_path)
    assert (made.source_prompt, made.target_prompt, made.object_prompt) == ("a", "b", "b")


def test_rows_that_a_backbone_cannot_run_are_left_out_with_a_note():
    with pytest.warns(UserWarning, match="skipped, because the backbone cannot run it: ") as said:
        rows = plan.make_variants(methods.names(), ["shapeworld-wan", "shapeworld-svd"], {})
    (text,) = [str(warning.message) for warning in said]
    assert "i2vedit on shapeworld-wan (it lacks image" in text
    assert "flowanchor on shapeworld-svd (it lacks text attention)" in text
    found = {(row.method, row.backbone) for row in rows}
    assert ("i2vedit", "shapeworld-svd") in found
    assert ("i2vedit", "shapeworld-wan") not in found
    with pytest.raises(UserError, match="nothing can be run: i2vedit on shapeworld-wan"):
        plan.make_variants(["i2vedit"], ["shapeworld-wan"], {})


def test_flowanchor_without_a_mask_says_what_it_leaves_out():
    blind, seeing = plan.make_variants(["flowanchor", "flowanchor+mask"], ["shapeworld-wan"], {})
    assert blind.label == "flowanchor, no SAR on shapeworld-wan"
    assert seeing.label == "flowanchor+mask on shapeworld-wan"
    assert blind.key == "flowanchor on shapeworld-wan"  # of its folder: older ones are found
    assert {"flowanchor", "flowanchor on shapeworld-wan"} < blind.names()
    assert plan.Variant("gone", "x").label == "gone on x"


@pytest.mark.parametrize(
    ("methods", "sweep", "message"),
    [
        (["flowedt"], {}, "flowedit"),
        (["flowedit+truth"], {}, "only \\+mask"),
        (["flowedit+mask:hul"], {}, "'hul' is not a rough mask: use box, hull, scribble"),
        (["flowedit+mask:grow0"], {}, "is not a rough mask"),
        (["flowedit+mask:"], {}, "is not a rough mask"),
        (["flowedit"], {"gama": ["1"]}, "none of these methods has a setting gama"),
        (["flowedit"], {"stps": ["1"]}, "setting stps: did you mean steps"),
        (["flowedit"], {"steps": ["many"]}, "use a whole number"),
        (["flowedit"], {"steps": ["0"]}, "between"),
    ],
)
def test_what_cannot_run_is_refused_before_any_work(methods, sweep, message):
    with pytest.raises(ValueError, match=message):
        plan.make_variants(methods, ["shapeworld-wan"], sweep)


def test_another_benchmark_in_the_same_folder_is_refused(tmp_path):
    bench(tmp_path, limit=1)
    with pytest.raises(ValueError, match="seed 0, not 1"):
        bench(tmp_path, limit=1, seed=1)


def test_a_case_that_changed_under_its_name_is_refused(make_clip, tmp_path):
    make_clip("a.mp4")
    for target in ("a red ball", "a blue ball"):
        (tmp_path / "jobs.jsonl").write_text(
            json.dumps({"clip": "a.mp4", "source_prompt": "a ball", "target_prompt": target})
        )
        if target == "a red ball":
            bench(tmp_path / "out", dataset=str(tmp_path / "jobs.jsonl"))
    with pytest.raises(ValueError, match="0001-a have changed since"):
        bench(tmp_path / "out", dataset=str(tmp_path / "jobs.jsonl"))


def test_failures_are_recorded_with_their_reason_counted_and_can_be_tried_again(
    make_clip, tmp_path
):
    make_clip("good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    lines = [
        {"clip": c, "source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
        for c in ("bad.mp4", "good.mp4")
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    made = bench(out, dataset=str(tmp_path / "jobs.jsonl"), limit=None, metrics=["flow_error"])
    counts = made.run()
    assert (counts["edited"], counts["failed"]) == (1, 1)
    assert made.run()["failed before"] == 1
    write_report(out)
    assert "bad.mp4 is not a readable video" in (out / "report.html").read_text()
    assert "1 / 1 / 0" in (out / "table.md").read_text()
    make_clip("bad.mp4")
    assert made.run(retry=True)["edited"] == 1
    assert Results(out).failures() == []


def test_an_edit_that_could_not_be_measured_is_not_made_again(make_clip, tmp_path):
    make_clip("a.mp4")
    (tmp_path / "mask.png").write_bytes(b"not an image")
    line = {
        "clip": "a.mp4",
        "source_prompt": "a red ball",
        "target_prompt": "a blue ball",
        "mask": "mask.png",
    }
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    made = bench(
        tmp_path / "out", dataset=str(tmp_path / "jobs.jsonl"), limit=None, metrics=["masked_psnr"]
    )
    assert made.run()["failed"] == 1
    edited = next(tmp_path.rglob("edited.mkv"))
    before = edited.stat().st_mtime_ns
    from PIL import Image

    Image.new("L", (48, 32)).save(tmp_path / "mask.png")
    with pytest.warns(UserWarning, match="is empty"):
        assert made.run(retry=True)["edited"] == 1
    assert edited.stat().st_mtime_ns == before


def test_what_a_killed_edit_left_behind_is_swept_away_before_it_is_made_again(tmp_path):
    made = bench(tmp_path, limit=1)
    [(row, case)] = made.plan.cells()
    place = records.cell_folder(tmp_path, row, case)
    (place / ".edited.half").mkdir(parents=True)
    (place / "edited.mkv.latents.safetensors").write_bytes(b"of a killed run")
    assert made.run()["edited"] == 1
    assert {p.name for p in place.iterdir()} == {"cell.json", "edited.mkv", "edited.mkv.json"}


def test_a_backbone_that_cannot_be_loaded_fails_its_cells_and_not_the_run(tmp_path):
    rows = plan.make_variants(["sdedit"], ["wan2.1-1.3b", "shapeworld-wan"], {"steps": ["1"]})
    cases = tuple(datasets.load("shapeworld", tmp_path / "data", 1))
    made = runner.Benchmark(
        plan.BenchmarkPlan("shapeworld", rows, cases), tmp_path, MetricModels(), METRICS
    )
    made.initialize("the command")
    counts = made.run()
    assert (counts["edited"], counts["failed"]) == (1, 1)
    assert "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in Results(tmp_path).failures()[0][2]


def test_a_folder_can_be_moved_and_named_in_another_way(tmp_path, monkeypatch):
    bench(tmp_path / "a", limit=1).run()
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert write_report(Path("b"), gallery=1)["report.html"].exists()
    assert "there is no file" not in Path("b/report.html").read_text()
    assert bench(tmp_path / "b", limit=1).run()["done before"] == 1


def test_a_figure_that_is_not_a_number_is_left_out_of_the_mean_and_counted(tmp_path):
    made = bench(tmp_path, limit=2, dataset="shapeworld:single/backdrop,colour")
    made.run()
    results = Results(tmp_path)
    assert (
        results.estimate(results.variants[0], "psnr_outside@true").n == 1
    )  # a backdrop has no outside
    assert "(n=1, few)" in tables.format_markdown(results)


def test_killed_at_random_five_times_the_tables_are_those_of_an_undisturbed_run(tmp_path):
    rng = random.Random(0)
    for name, kills in (("undisturbed", 0), ("killed", 5)):
        for _ in range(kills):
            kill_after(
                tmp_path / name, done(tmp_path / name) + rng.randint(1, 3), 0.05 * rng.random()
            )
        killed_at = done(tmp_path / name)
        process = start(tmp_path / name)
        process.join()
        assert process.exitcode == 0
        assert done(tmp_path / name) == 24
        counts = json.loads((tmp_path / name / "counts.json").read_text())
        assert counts["edited"] == 24 - killed_at  # what was done was not done again
        assert counts["done before"] == killed_at
        assert bool(kills) == (0 < killed_at < 24)
        write_report(tmp_path / name, gallery=0)
    for file in ("cells.csv", "table.csv", "table.md"):
        texts = [without_costs(tmp_path / name / file) for name in ("undisturbed", "killed")]
        assert texts[0] == texts[1]
        assert len(texts[0]) > 3


WORLD = multiprocessing.get_context(
    "forkserver"
)  # one process imports all, and every run begins as a copy of it


def start(folder: Path):
    WORLD.set_forkserver_preload(["tests.bench.toy"])
    process = WORLD.Process(target=toy.run, args=(folder, 12))
    process.start()
    return process


def done(folder: Path) -> int:
    return len(list(folder.glob("cells/*/*/cell.json")))


def kill_after(folder: Path, cells: int, seconds: float) -> None:
    process = start(folder)
    while done(folder) < cells and process.is_alive():
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def without_costs(path: Path) -> list:
    """A table's lines but for times and memory, and for the folder's name in the command."""
    if path.suffix == ".md":
        return [
            line
            for line in path.read_text().splitlines()
            if not line.startswith(("| `seconds`", "| `peak_memory_mb`", "Command"))
        ]
    rows = list(csv.DictReader(path.read_text().splitlines()))
    kept = [r for r in rows if r.get("figure") not in COSTS]
    return [{k: v for k, v in r.items() if k not in COSTS} for r in kept]

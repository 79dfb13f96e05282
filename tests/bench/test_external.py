"""Results made elsewhere: matched to cases, measured raw and kept by the benchmark's own metrics, and marked."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from holdfast.base.errors import UserError
from holdfast.bench import external, plan, records, runner
from holdfast.bench.datasets.base import Case
from holdfast.bench.report import write_report
from holdfast.bench.results import Results
from holdfast.media import video
from holdfast.media.writing import write_frames
from holdfast.metrics.base import MetricModels
from tests.batch import pairs
from tests.bench import toy
from tests.cli.test_app import call

NAMES = ["single-colour-0000", "single-shape-0001", "single-material-0002"]


def paint(frames: int, size: tuple[int, int] = (48, 32)) -> list[np.ndarray]:
    """Return frames that are brighter one by one, so that a measured frame tells its number."""
    return [np.full((size[1], size[0], 3), 20 + 10 * i, np.uint8) for i in range(frames)]


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """The folder of a finished benchmark of three cases."""
    toy.install(monkeypatch)
    toy.bench(tmp_path / "bench", 3).run()
    return tmp_path / "bench"


@pytest.fixture
def results(tmp_path, benchmark):
    """An editor's results: the true clips, encoded again, for the first two cases."""
    folder = tmp_path / "results"
    folder.mkdir()
    for case in Results(benchmark).cases[:2]:
        assert case.truth
        clip = video.probe(case.truth)
        write_frames(folder / f"{case.name}.mp4", list(video.read(clip)), clip.rate, "h264")
    return folder


def cell(benchmark: Path, variant: str, case: str) -> dict:
    return json.loads((benchmark / "cells" / variant / case / "cell.json").read_text())


def add(benchmark: Path, results: Path, *options: str, code: int = 0) -> str:
    done = call("bench", "add", benchmark, "--row", "runway", "--from", results, *options)
    assert done.exit_code == code, done.stderr
    return done.stderr


def test_results_are_measured_raw_and_kept_by_the_benchmarks_metrics(benchmark, results):
    said = add(benchmark, results)
    assert "4 added" in said
    assert f"1 of 3 clips have no file in {results}: {NAMES[2]}" in said
    ours = cell(benchmark, "flowedit_on_shapeworld-wan", NAMES[0])
    assert cell(benchmark, "runway_raw", NAMES[0])["figures"].keys() == ours["figures"].keys()
    raw, kept = (cell(benchmark, f"runway_{origin}", NAMES[0]) for origin in plan.ORIGINS)
    for record in (raw, kept):
        assert record["figures"].keys() == ours["figures"].keys()
        assert record["frames"] == ours["frames"]
        assert not record.keys() & {"seconds", "evaluations", "peak_memory_mb", "machine", "device"}
    assert raw["file"] == str(results / f"{NAMES[0]}.mp4")
    assert raw["figures"]["truth_psnr@all"] > 30
    assert kept["sentence"]
    edited = benchmark / "cells" / "runway_kept" / NAMES[0] / "edited.mkv"
    assert json.loads(Path(f"{edited}.json").read_text())["delivered"]["samples_equal_outside"]


def test_a_second_run_does_only_what_is_new(benchmark, results):
    add(benchmark, results, "--no-kept")
    left = benchmark / "cells" / "runway_kept" / NAMES[0] / ".edited.half"
    left.mkdir(parents=True)  # of a killed run
    assert "2 done before" in add(benchmark, results, "--no-kept")
    before = {p: p.stat().st_mtime_ns for p in (benchmark / "cells").rglob("edited.mkv")}
    said = add(benchmark, results)
    assert "2 added, 2 done before" in said
    assert not left.exists()
    (results / f"{NAMES[0]}.mp4").replace(results / f"{NAMES[2]}.mp4")
    assert "1 added" in add(benchmark, results, "--no-kept")
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())
    assert "2 measured again" in add(benchmark, results, "--no-kept", "--measure-again")


def test_a_result_that_was_replaced_is_measured_again(benchmark, results):
    add(benchmark, results, "--no-kept")
    before = cell(benchmark, "runway_raw", NAMES[0])
    clip = video.probe(Results(benchmark).cases[0].clip)
    file = results / f"{NAMES[0]}.mp4"
    write_frames(file, list(video.read(clip)), clip.rate, "lossless")
    assert "1 added, 1 done before" in add(benchmark, results, "--no-kept")
    after = cell(benchmark, "runway_raw", NAMES[0])
    assert after["stamp"] != before["stamp"]
    assert after["figures"]["psnr_outside@true"] > before["figures"]["psnr_outside@true"]


def test_the_report_marks_results_made_elsewhere_and_lists_what_is_missing(benchmark, results):
    add(benchmark, results)
    write_report(benchmark, gallery=1)
    table = (benchmark / "table.md").read_text()
    assert "| runway raw (not made here) | runway kept (not made here) |" in table
    assert "| 2 / 0 / 1 | 2 / 0 / 1 |" in table
    assert f"Clips without a result: runway raw: {NAMES[2]}; runway kept: {NAMES[2]}." in table
    (seconds,) = [line for line in table.splitlines() if line.startswith("| `seconds`")]
    assert seconds.endswith("| – | – |")
    assert "are left out, because costs on different machines" not in table
    page = (benchmark / "report.html").read_text()
    assert "runway kept (not made here)" in page
    assert '<td data-sort="unknown">unknown</td>' in page  # whether the editor saw the mask
    lines = list(csv.DictReader((benchmark / "cells.csv").read_text().splitlines()))
    made = [line for line in lines if line["row"].endswith("(not made here)")]
    assert len(made) == 4
    assert all(line["seconds"] == "" for line in made)
    assert (
        call("bench", "report", benchmark, "--baseline", "runway raw", "--gallery", "0").exit_code
        == 0
    )


def test_a_benchmark_without_such_results_is_stored_and_reported_as_before(benchmark):
    rows = Results(benchmark).info["rows"]
    assert all(row.keys() == {"method", "backbone", "sees_mask", "settings"} for row in rows)
    write_report(benchmark, gallery=0)
    assert "not made here" not in (benchmark / "table.md").read_text()


def test_a_keep_that_fails_is_a_failed_cell_with_its_message(benchmark, results):
    pairs.write_other(results / f"{NAMES[0]}.mp4")
    said = add(benchmark, results)
    assert "3 added, 1 failed" in said
    reasons = Results(benchmark).failures()
    assert [reason[:2] for reason in reasons] == [("runway kept (not made here)", NAMES[0])]
    assert reasons[0][2].startswith("UserError: ")
    assert "traceback" not in cell(benchmark, "runway_kept", NAMES[0])
    assert "3 done before, 1 failed before" in add(benchmark, results)
    assert "3 done before, 1 failed" in add(benchmark, results, "--retry")


def test_files_are_matched_to_cases_by_their_names(tmp_path):
    for name in ("a.mov", "b.1.webm", "other.mp4", "a.json", ".a.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "c").mkdir()
    with pytest.warns(UserWarning, match=r"belong to no case: other\.mp4"):
        found = external.find_results(tmp_path, ["a", "b.1", "c", "d"])
    assert {case: path.name for case, path in found.items()} == {
        "a": "a.mov",
        "b.1": "b.1.webm",
        "c": "c",
    }
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UserError, match=r"a\.mov and a\.mp4 are both of a: keep one"):
        external.find_results(tmp_path, ["a"])
    with pytest.raises(UserError, match=r"has the name of a case: name them x\.mp4, y\.mp4"):
        external.find_results(tmp_path, ["x", "y"])


def test_what_cannot_be_added_is_refused_before_any_work(benchmark, results, tmp_path):
    before = (benchmark / "bench.json").read_bytes()
    assert "there is no folder" in add(benchmark, tmp_path / "none", code=2)
    assert "neither raw nor kept" in add(benchmark, results, "--no-raw", "--no-kept", code=2)
    assert "holds no benchmark" in add(tmp_path / "results", results, code=2)
    assert call("bench", "add", benchmark, "--row", " ", "--from", results).exit_code == 2
    assert (benchmark / "bench.json").read_bytes() == before
    assert (
        "the editor has no name: give it by --row"
        in call("bench", "add", benchmark, "--from", results).stderr
    )
    # The call of release 0.2: the name without a flag, and --results.
    old = call("bench", "add", benchmark, "runway", "--results", results, "--no-kept")
    assert old.exit_code == 0
    assert "2 done before" in add(benchmark, results, "--no-kept")
    said = call("bench", "add", benchmark, "--row", "runway?", "--from", results, "--no-kept")
    assert said.exit_code == 2
    assert "'runway?' would have the folder of 'runway raw'" in said.stderr


def raw_frames(
    tmp_path: Path, source: int, edited: int, rate: int, folder: bool = False
) -> list[float]:
    """Return the numbers of the edited frames that a raw result of a source at 8 frames a second shows."""
    write_frames(tmp_path / "source.mkv", paint(source), Fraction(8), "ffv1")
    file = tmp_path / ("edited" if folder else "edited.mkv")
    write_frames(file, paint(edited, (32, 24)), Fraction(rate), "ffv1")
    case = Case("c", str(tmp_path / "source.mkv"), "a", "b")
    output = tmp_path / "cell" / "edited.mkv"
    assert external.make_raw(case, file, output)["frames"] == video.probe(output).frames
    clip = video.probe(output)
    assert clip.size == (32, 24)  # metrics resize it
    values = [frame[0, 0, 0] for frame in video.read(clip)]
    return [(int(value) - 20) / 10 for value in values]


@pytest.mark.parametrize(
    ("frames", "rate", "shown"),
    [
        (6, 4, [0, 1, 2, 3, 4, 5]),  # as many frames: one by one, whatever the rate
        (12, 16, [0, 2, 4, 6, 8, 10]),
        (3, 4, [0, 0, 1, 1, 2, 2]),
        (4, 8, [0, 1, 2, 3]),  # it ends earlier: so does the comparison
        (9, 8, [0, 1, 2, 3, 4, 5]),
        (5, 5, [0, 0, 1, 1, 2, 3]),
    ],
)
def test_a_raw_clip_shows_its_frames_at_the_sources_times(tmp_path, frames, rate, shown):
    assert raw_frames(tmp_path, 6, frames, rate) == shown


def test_a_raw_result_may_be_a_folder_of_frames(tmp_path):
    assert raw_frames(tmp_path, 5, 5, 8, folder=True) == [0, 1, 2, 3, 4]


def test_only_metrics_that_the_benchmark_measured_are_chosen(benchmark):
    assert external.find_measured_metrics(Results(benchmark)) == ["masked_psnr", "truth"]


def test_a_folder_without_cells_is_measured_by_all_metrics(tmp_path, monkeypatch):
    toy.install(monkeypatch)
    toy.bench(tmp_path, 1)
    assert external.find_measured_metrics(Results(tmp_path)) is None


def test_a_variant_made_elsewhere_is_read_as_it_was_stored():
    variant = plan.Variant("runway", "", origin="kept")
    stored = records.variant_to_json(variant)
    assert records.variant_from_json(stored) == variant
    assert variant.names() == {"runway kept", "runway kept (not made here)"}
    with pytest.raises(UserError, match="'cooked' is not an origin of results: use raw or kept"):
        records.variant_from_json(stored | {"origin": "cooked"})


def test_methods_can_still_be_run_after_results_were_added(benchmark, results):
    add(benchmark, results, "--no-kept")
    counts = toy.bench(benchmark, 3).run()
    assert counts["done before"] == 6
    assert [v.origin for v in Results(benchmark).variants] == [None, None, "raw"]


def test_an_edit_of_the_benchmark_needs_no_external_results(benchmark):
    variants, cases = Results(benchmark).variants, Results(benchmark).cases
    made = runner.Benchmark(
        plan.BenchmarkPlan("shapeworld", tuple(variants), tuple(cases)), benchmark, MetricModels()
    )
    assert made._stamp(variants[0], cases[0]) is None

"""The report and the study in a real browser: they open from disk, sort, play, save, and ask no other machine."""

import json
import re
import sys

import pytest

from holdfast.bench import datasets, pages, plan, runner, study, tally
from holdfast.bench.report import write_report
from holdfast.bench.results import Results
from holdfast.metrics.base import MetricModels
from tests.bench import toy
from tests.browser import needs_browser
from tests.cli.test_app import call
from tests.patience import BROWSER, PATIENCE


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    rows = plan.make_variants(
        ["flowedit", "sdedit+mask"], ["shapeworld-wan"], {"steps": ["1", "2"]}
    )
    cases = tuple(datasets.load("shapeworld:single/colour,shape", folder / "data", 2))
    made = runner.Benchmark(
        plan.BenchmarkPlan("shapeworld:single/colour,shape", rows, cases),
        folder,
        MetricModels(),
        ["truth", "masked_psnr"],
    )
    made.initialize("holdfast bench run <shapeworld>")
    with pytest.MonkeyPatch.context() as patch:
        toy.install(patch)
        made.run()
    return folder


def open_page(browser, path, width=1200):
    """The page, what it asked for, and what went wrong in it."""
    page = browser.new_page(viewport={"width": width, "height": 800}, accept_downloads=True)
    page.set_default_timeout(BROWSER)
    asked, wrong = [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("pageerror", lambda e: wrong.append(str(e)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.goto(path.as_uri())
    return page, asked, wrong


def wait_until(page, condition):
    """Ask again and again from outside: the page's own policy lets no text be run as code within it."""
    for _ in range(int(300 * PATIENCE)):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(condition)


@needs_browser
def test_the_report_sorts_plays_and_stays_on_this_machine(results, browser):
    path = write_report(results, baseline="flowedit steps=2", gallery=2)["report.html"]
    page, asked, wrong = open_page(browser, path)
    head = page.locator("#table th[scope=row]", has_text=re.compile("^truth_psnr@all"))
    labels = page.locator("#table thead th:not(:first-child)").all_inner_texts()
    for order in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == order
        shown = head.evaluate(
            "th => [...th.parentElement.cells].slice(1).map(c => Number(c.dataset.sort))"
        )
        assert len(shown) == 4
        assert shown == sorted(shown, reverse=order == "descending")
    sorted_labels = page.locator("#table thead th:not(:first-child)").all_inner_texts()
    assert sorted(sorted_labels) == sorted(labels)  # the methods' names went with their figures
    page.set_viewport_size({"width": 1300, "height": 800})
    assert page.evaluate("table.scrollWidth <= table.parentElement.clientWidth")
    page.locator("details:not([open]) summary").first.click()
    page.click("#play")
    playing = "[...document.querySelectorAll('video')].every(v => v.currentTime > 0.1 && !v.error && v.videoWidth > 0)"
    wait_until(page, playing)
    assert page.locator("video").count() == 8
    assert page.locator("img.plot").count() == 2  # cost and kind: there is one length, and one set
    assert page.evaluate(
        "[...document.querySelectorAll('img.plot')].every(i => i.naturalWidth > 0)"
    )
    assert "holdfast bench run <shapeworld>" in page.locator("body").inner_text()  # escaped
    assert all(url.startswith(("file:", "data:")) for url in asked)
    groups = page.locator("#kinds th[scope=rowgroup]").all_inner_texts()
    assert groups == ["colour, 1 clip", "shape, 1 clip"]
    assert "raw psnr_outside@true" in page.locator("#kinds").inner_text()
    assert wrong == []


@needs_browser
def test_the_report_fits_a_phone(results, browser):
    page, _, wrong = open_page(browser, write_report(results)["report.html"], width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert wrong == []


@needs_browser
def test_a_study_is_blind_saves_its_answers_and_they_are_tallied(results, browser, tmp_path):
    paths = study.write_study(results, trials=6)
    text = paths["study.html"].read_text()
    assert "flowedit" not in text
    assert "sdedit" not in text
    key = json.loads(paths["study-key.json"].read_text())
    page, asked, wrong = open_page(browser, paths["study.html"])
    for i, trial in enumerate(key["trials"]):
        shown = page.locator("section.now")
        assert shown.locator("video").count() == 3
        wanted = (
            "left"
            if trial["left"].startswith("flowedit")
            else "right"
            if trial["right"].startswith("flowedit")
            else "neither"
        )
        for question in key["questions"]:
            shown.locator(f"input[data-question={question}][value={wanted}]").check()
        if i < len(key["trials"]) - 1:
            page.click("#next")
    page.reload()
    page.locator("#message").filter(has_text="still here").wait_for()
    assert page.locator("#next").is_disabled()  # at the last one, as before
    with page.expect_download() as download:
        page.click("#save")
    answers = tmp_path / "answers.json"
    download.value.save_as(answers)
    assert "Thank you" in page.locator("#message").inner_text()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert wrong == []
    cast = tally.read_votes(paths["study-key.json"], [answers])
    assert len(cast) == 18
    ranked = tally.tally(cast)
    assert set(ranked) == {"all", *study.QUESTIONS}
    assert next(iter(ranked["all"])).startswith("flowedit")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#clear")
    assert page.locator("input:checked").count() == 0
    page.reload()
    with page.expect_download() as download:
        page.click("#save")
    another = json.loads(download.value.path().read_text())
    assert another["answers"] == []
    assert another["person"] != json.loads(answers.read_text())["person"]


@needs_browser
def test_a_study_of_all_results_asks_for_the_best_and_shares_are_tallied(
    results, browser, tmp_path, monkeypatch
):
    # As if a method that an image drives were among them: it shows the case's edited first frame.
    monkeypatch.setattr(plan.Variant, "takes_first_frame", True)
    design = study.StudyDesign("best", "i2vedit-global")
    paths = study.write_study(results, trials=6, design=design)
    text = paths["study.html"].read_text()
    assert "flowedit" not in text
    assert "sdedit" not in text
    key = json.loads(paths["study-key.json"].read_text())
    assert len(key["trials"]) == 2  # one a clip, with all results
    assert {frozenset(t["results"].values()) for t in key["trials"]} == {
        frozenset(variant.label for variant in Results(results).variants)
    }
    page, asked, wrong = open_page(browser, paths["study.html"])
    assert "Which one is best?" in page.locator("h1").inner_text()
    for i, trial in enumerate(key["trials"]):
        shown = page.locator("section.now")
        assert shown.locator("video").count() == 5
        assert shown.locator("img").evaluate("image => image.naturalWidth") > 0
        assert shown.locator("input[data-question=motion]").count() == 4  # and not "neither"
        (wanted,) = (
            letter
            for letter, name in trial["results"].items()
            if name.startswith("flowedit") and "steps=2" in name
        )
        for question in key["questions"]:
            shown.locator(f"input[data-question={question}][value={wanted}]").check()
        if i < len(key["trials"]) - 1:
            page.click("#next")
    with page.expect_download() as download:
        page.click("#save")
    answers = tmp_path / "answers.json"
    download.value.save_as(answers)
    assert wrong == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    done = call("bench", "tally", paths["study-key.json"], answers, "--json")
    shares = json.loads(done.stdout)
    assert set(shares) == {"all", "motion", "first_frame", "consistency"}
    assert [share["share"]["mean"] for share in shares["all"].values()] == [1, 0, 0, 0]
    assert (
        "share of first places" in call("bench", "tally", paths["study-key.json"], answers).stdout
    )
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_study_shows_the_delivered_clips_or_the_raw_ones(results):
    shown = {}
    for raw in (False, True):
        design = study.StudyDesign("best", "holdfast", raw)
        page = study.write_study(results, trials=1, design=design)["study.html"]
        letters = json.loads((results / "study-key.json").read_text())["trials"][0]["results"]
        clips = re.findall(
            r'<figcaption>([A-D])</figcaption><video src="([^"]+)"', page.read_text()
        )
        shown[raw] = {letters[letter]: clip for letter, clip in clips}
    differ = {name for name, clip in shown[False].items() if shown[True][name] != clip}
    assert differ == {name for name in shown[False] if "+mask" in name}


def test_a_study_that_cannot_ask_its_questions_says_why(results):
    with pytest.raises(ValueError, match="has an edited first frame and a method that was given"):
        study.write_study(results, design=study.StudyDesign("best", "i2vedit-global"))
    with pytest.raises(ValueError, match="did you mean assd"):
        study.write_study(results, design=study.StudyDesign("best", "asd"))
    with pytest.raises(ValueError, match="1 results a trial cannot be compared"):
        study.write_study(results, ["flowedit steps=1"], design=study.StudyDesign("best"))


def test_a_page_that_would_grow_too_large_leaves_clips_out_and_says_so(results, monkeypatch):
    for module in (study, sys.modules["holdfast.bench.report"]):
        monkeypatch.setattr(module, "PAGE_BYTES", 40_000)
    with pytest.warns(
        UserWarning, match=r"\d of 6 trials are left out: with them the page would be"
    ):
        paths = study.write_study(results, trials=6)
    key = json.loads(paths["study-key.json"].read_text())["trials"]
    shown = paths["study.html"].read_text().count("<section")
    assert shown == len(key) < 6
    with pytest.warns(UserWarning, match="the gallery shows 1 of 2 clips"):
        write_report(results, gallery=2)
    assert pages.max_clip_bytes(1) > pages.max_clip_bytes(90) > pages.PAGE_BYTES // 200


def test_a_study_asks_every_pair_as_often_and_shuffles_the_sides(results):
    paths = study.write_study(results, trials=12)
    trials = json.loads(paths["study-key.json"].read_text())["trials"]
    pairs = [frozenset((t["left"], t["right"])) for t in trials]
    assert {pairs.count(p) for p in pairs} == {2}
    assert len({t["left"] for t in trials}) > 1


def test_a_page_that_cannot_be_finished_leaves_what_was_there(tmp_path):
    page = tmp_path / "page.html"
    pages.write_text(page, "whole")
    with pytest.raises(UnicodeEncodeError):
        pages.write_text(page, "a" * 10**6 + "\ud800")
    assert page.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_csv_and_markdown_hold_the_same_means_as_the_cells(results):
    write_report(results, gallery=0)
    found = Results(results)
    row = found.variants[1]
    by_hand = sum(r["figures"]["truth_psnr@all"] for r in found.records_for(row)) / 2
    assert (
        f"{row.label},truth_psnr@all,higher,{by_hand:.4f}"[:-1]
        in (results / "table.csv").read_text()
    )
    assert f"{by_hand:.3g}"[:2] in (results / "table.md").read_text()
    assert len((results / "cells.csv").read_text().splitlines()) == 9
    ours, theirs = (found.values(r, "truth_psnr@all") for r in (row, found.variants[0]))
    paired = found.difference(row, found.variants[0], "truth_psnr@all")
    assert paired.mean == pytest.approx(sum(ours[c] - theirs[c] for c in ours) / 2)


def test_what_a_report_cannot_show_is_said(results, tmp_path):
    with pytest.raises(ValueError, match="holds no benchmark"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="no unique variant matches 'flowedit'"):
        write_report(results, baseline="flowedit")  # two rows begin like that
    with pytest.raises(ValueError, match="truth_psnr@all"):
        write_report(results, quality="truth_psnr@al")

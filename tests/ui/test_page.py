"""The page in a real browser: what a person does from upload to download, at a desk and on a phone."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from holdfast.media import video
from holdfast.models import registry
from holdfast.pipeline import run as editing
from holdfast.pipeline.progress import saved_progress
from holdfast.pipeline.task import EditTask
from holdfast.shapeworld.demo import to_arrays, write_clip
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import sample_edit
from tests.browser import needs_browser
from tests.patience import BROWSER, HANG, wait_until

pytestmark = needs_browser
FEW, MANY = 8, 200  # steps: quick, and enough to stop a run before its end


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A clip of the synthetic world, and its two prompts."""
    edit = sample_edit(3, "colour", "several")
    path = tmp_path_factory.mktemp("clip") / "scene.mp4"
    write_clip(path, to_arrays(render([edit.source])[0]), "lossless")
    return path, edit.source.caption(), edit.target.caption()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The page's address and folder, served by the command, which ends with Ctrl-C."""
    folder = tmp_path_factory.mktemp("page")
    limits = ["--max-frames", "50", "--max-upload-mb", "1"]
    command = [sys.executable, "-m", "holdfast.cli", "ui", "-o", folder, "--port", "0", *limits]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        first = served.stderr.readline()
        yield re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+", first)[0], folder
        served.send_signal(signal.SIGINT)
        try:
            assert served.wait(HANG) == 0, served.stderr.read()
        finally:
            served.kill()  # else the block waits for it for ever


def opened(browser, site, width=1280):
    """The page at a width; what it asked of other machines, and what went wrong in it."""
    page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
    page.set_default_timeout(BROWSER)
    strange = []
    own = (site[0].partition("?")[0], "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(own) else strange.append(r.url))
    page.on("pageerror", lambda e: strange.append(str(e)))
    page.goto(site[0])
    page.wait_for_selector("#clip input[type=file]", state="attached")
    return page, strange


def said(page, where, text):
    """Wait until a place says something; all that it says then."""
    page.locator(where).filter(has_text=re.compile(text)).wait_for()
    return page.inner_text(where)


def asked(page, scene):
    path, source, target = scene
    page.set_input_files("#clip input[type=file]", path)
    said(page, "#clip-message", "64x64, 13 frames")
    page.fill("#field-source_prompt textarea", source)
    page.fill("#field-target_prompt textarea", target)


def set_steps(page, count):
    page.click("text=Settings of the method")
    page.fill("#field-steps input, #field-steps textarea", str(count))
    page.press("#field-steps input, #field-steps textarea", "Tab")


def start_edit(page, folder):
    """Click Edit until a run exists: Gradio loses a click while it draws the button again."""
    runs = folder / "runs"
    before = len(list(runs.glob("*")))
    for _ in range(10):
        page.click("#edit")
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: len(list(runs.glob("*"))) > before, seconds=10)
            return
    raise AssertionError(f"no run begins: {page.inner_text('#message')}")


def painted(page):
    """Paint over the ball below the middle."""
    page.click("#mask-source label:has-text('brush')")
    canvas = page.locator("#brush canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)  # the editor fits the picture to its place
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2 - 40, box["y"] + box["height"] * 0.66
    page.mouse.move(x, y)
    page.mouse.down()
    for k in range(12):
        page.mouse.move(x + 3 * k, y + 20 * (k % 2))
    page.mouse.up()
    page.wait_for_timeout(800)


def test_from_upload_to_download(browser, site, scene, tmp_path):
    page, strange = opened(browser, site)
    asked(page, scene)
    assert page.inner_text("#differences del") == "red"
    assert page.inner_text("#differences ins") == "green"
    set_steps(page, FEW)
    painted(page)
    page.click("#show-mask")
    page.wait_for_selector("#mask-shown video")
    page.click("#check")
    check = said(page, "#message", "kept:")
    assert "every pixel outside the mask" in check
    assert re.search(
        r"about \d+ evaluations of the network \(the cost of \d+: .*\) and \d to score the result, about .* MB",
        check,
    )
    start_edit(page, site[1])
    said(page, "#status", "Done")
    figures = said(page, "#summary", "kept:")
    with page.expect_download() as download:
        page.locator("#files a[download='edited.mp4']").click()
    download.value.save_as(tmp_path / "edited.mp4")
    (run,) = (site[1] / "runs").iterdir()
    manifest = json.loads((run / "edited.mp4.json").read_text())
    assert (tmp_path / "edited.mp4").read_bytes() == (run / "edited.mp4").read_bytes()
    assert f"{manifest['delivered']['psnr_outside']} dB" in figures
    assert manifest["settings"]["steps"] == {"value": FEW, "from": "given"}
    assert 0 < manifest["preservation"]["changed_share"] < 0.5  # within what was painted
    page.wait_for_selector("#compare img")
    page.click("button[role=tab]:has-text('Past runs')")
    page.wait_for_selector("#gallery img")
    assert strange == []
    same_as_alone(EditTask.from_dict(manifest["task"]), tmp_path)
    page.close()


def same_as_alone(task, tmp_path):
    """The same task without the page gives the same file, sample for sample."""
    alone = replace(task, output=str(tmp_path / "alone.mp4"))
    editing.edit(alone, registry.load_backbone(task.backbone)).save()
    clips = [list(video.read(video.probe(path))) for path in (task.output, alone.output)]
    assert all(np.array_equal(a, b) for a, b in zip(*clips, strict=True))


def test_a_stopped_run_resumes_at_its_saved_step(browser, site, scene):
    page, _ = opened(browser, site)
    asked(page, scene)
    set_steps(page, MANY)
    start_edit(page, site[1])
    said(page, "#status", f"Edit: [1-9][0-9]* of {MANY}")
    page.click("#cancel")
    said(page, "#status", "Stopped. Progress is saved; press Resume to continue")
    run = max((site[1] / "runs").iterdir())  # their names begin with the time
    task = EditTask.from_dict(json.loads((run / "run.json").read_text())["task"])
    saved, _ = saved_progress(task).load()
    assert 0 < saved.index < MANY
    page.click("#resume")
    said(page, "#status", "Done")
    manifest = json.loads((run / "edited.mp4.json").read_text())
    assert 0 < manifest["evaluations"] <= 4 * (MANY - saved.index)  # of the resumed part alone
    page.close()


def test_on_a_phone_nothing_is_cut_off_and_mistakes_are_told(browser, site, scene, tmp_path):
    page, _ = opened(browser, site, 390)
    (tmp_path / "broken.mp4").write_bytes(b"no clip" * 100)
    page.set_input_files("#clip input[type=file]", tmp_path / "broken.mp4")
    assert "broken.mp4" in said(page, "#clip-message", "broken")
    page.reload()
    page.wait_for_selector("#clip input[type=file]", state="attached")
    page.click("#edit")
    said(page, "#message", "there is no clip")
    page.fill("#path textarea, #path input", "/nowhere/clip.mp4")
    page.click("#edit")
    said(page, "#message", "there is no file /nowhere/clip.mp4")
    page.fill("#path textarea, #path input", "")
    asked(page, scene)
    page.click("#mask-source label:has-text('box')")
    page.fill("#box textarea, #box input", "60,60,20,20")
    page.click("#show-mask")
    said(page, "#message", "not inside the 64x64 frame")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_nothing_outside_its_folder_is_served(site, scene):
    address, folder = site
    inside = folder / "runs" / "note.txt"
    inside.write_text("kept")
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    opener.open(address).close()
    place = address.partition("?")[0]
    with opener.open(f"{place}gradio_api/file={inside}") as answer:
        assert answer.read() == b"kept"
    inside.unlink()
    for path in (scene[0], "/etc/passwd", folder / "runs" / ".." / ".." / "x"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener.open(f"{place}gradio_api/file={path}")
        refused.value.close()
        assert refused.value.code in (403, 404)

"""The tab that keeps an edit made elsewhere, in a real browser: from two uploads to a download, and a painted mask."""

import contextlib
import re

import pytest

from holdfast.media import video
from holdfast.ui import serve as serving
from holdfast.ui.keep_tab import TITLE
from holdfast.ui.queue import Limits, RunQueue
from holdfast.ui.runs import DONE, FAILED
from holdfast.ui.serve import Address, serve
from tests.browser import needs_browser
from tests.patience import BROWSER, wait_until

from .pairs import SIZE, square_at, write_pair

pytestmark = [
    needs_browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Gradio's own, in its threads
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The queue of a page that is served; `desk.url` opens it."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            serving, "RunQueue", lambda *a, **k: made.append(RunQueue(*a, **k)) or made[-1]
        )
        folder = tmp_path_factory.mktemp("page")
        with serve(folder, Limits(), Address(token="t")) as (url, _):
            made[0].url = url
            yield made[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


def open_tab(browser, desk, width):
    page = browser.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
    page.set_default_timeout(BROWSER)
    page.strange = []
    own = (desk.url.partition("?")[0], "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(own) else page.strange.append(r.url))
    page.on("pageerror", lambda error: page.strange.append(str(error)))
    page.goto(desk.url)
    page.wait_for_selector("#clip input[type=file]", state="attached")
    if width < 500:  # the tab is in a menu
        page.click("button[aria-label='More tabs']")
        page.click(f".overflow-dropdown button:has-text('{TITLE}')")
    else:
        page.click(f"button[role=tab]:has-text('{TITLE}')")
    page.wait_for_selector("#keep-source input[type=file]", state="attached")
    return page


def upload(page, pair):
    for name, path in zip(("source", "edited"), pair, strict=True):
        page.set_input_files(f"#keep-{name} input[type=file]", path)
        page.locator(f"#keep-{name}-message").filter(has_text="96x64, 10 frames").wait_for()


def start(page, desk, button):
    """Click until a run is added: Gradio loses a click while it draws the button again. Wait until it ends."""
    before = len(desk.runs())
    for _ in range(10):
        page.click(button)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: len(desk.runs()) > before, seconds=10)
            break
    run = desk.runs()[0]
    wait_until(lambda: run.status in (DONE, FAILED))
    assert run.status == DONE, run.message
    return run


def paint_square(page):
    """Paint over the square of the open frame, which is in its middle."""
    canvas = page.locator("#keep-paint-brush canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)  # the editor fits the picture to its place
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 10, y)
    page.mouse.down()
    for k in range(8):
        page.mouse.move(x - 10 + 3 * k, y + 8 * (k % 2))
    page.mouse.up()
    page.wait_for_timeout(800)


def test_from_two_clips_to_a_corrected_result(browser, desk, pair, tmp_path):
    page = open_tab(browser, desk, 1280)
    page.click("#keep-run")
    page.locator("#keep-message").filter(has_text="there is no source clip").wait_for()
    upload(page, pair)
    page.wait_for_function("document.querySelector('#keep-message').innerText.trim() === ''")
    start(page, desk, "#keep-compare")
    page.locator("#keep-report th").filter(has_text="Outside the change").wait_for()
    run = start(page, desk, "#keep-run")
    page.locator("#keep-report").filter(has_text="every sample of the file is").wait_for()
    page.wait_for_selector("#keep-before-after img")
    page.wait_for_selector("#keep-side video")
    with page.expect_download() as download:
        page.locator("#keep-files a[download='after-kept.mp4']").click()
    download.value.save_as(tmp_path / "kept.mp4")
    assert (tmp_path / "kept.mp4").read_bytes() == run.output.read_bytes()
    page.click("#keep-correct")
    page.wait_for_selector("#keep-paint-brush canvas")
    paint_square(page)
    corrected = start(page, desk, "#keep-run")
    frame, _, picture = corrected.task.brushes[0].partition("=")
    assert (frame, corrected.task.mask_use) == ("5", "limit")
    painted = next(iter(video.read(video.probe(picture))))[..., 0] > 0
    assert painted.shape == SIZE[::-1]
    assert painted[square_at(5)].mean() > 0.05
    assert corrected.manifest()["delivered"]["samples_equal_outside"]
    assert not re.search(r"--[a-z]", page.inner_text("body"))
    assert page.strange == []
    page.close()


def test_on_a_phone_nothing_is_cut_off_and_a_waiting_run_is_removed(browser, desk, pair):
    page = open_tab(browser, desk, 390)
    upload(page, pair)
    before = len(desk.runs())
    with desk.model_lock:
        page.click("#keep-run")
        wait_until(lambda: len(desk.runs()) > before)
        page.locator("#keep-status").filter(has_text="Queued").wait_for()
        page.click("#keep-stop")
        page.locator("#keep-status").filter(has_text="Stopped before it began").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.strange == []
    page.close()

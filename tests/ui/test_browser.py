"""The page in a real browser, served by this process: what is sent, what is shown of others, and no text as markup."""

import contextlib
import re
from dataclasses import replace

import numpy as np
import pytest

from holdfast.base.errors import UserError
from holdfast.media import video
from holdfast.pipeline.task import EditTask
from holdfast.ui import serve as serving
from holdfast.ui.queue import Limits, RunQueue
from holdfast.ui.runs import RUNNING, STOPPED, WAITING, Run
from holdfast.ui.serve import Address, serve
from tests.browser import needs_browser
from tests.patience import BROWSER, PATIENCE

pytestmark = [
    needs_browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Gradio's own, in its threads
]
PROMPTS = {"source_prompt": "a red ball", "target_prompt": "a blue ball"}
HOSTILE = (
    '<img src=x onerror="window.hurt=1"> ![](http://x.example/a.png) ${window.hurt=1} {{value}}'
)
METHODS = ("flowedit", "assd")  # numbers with and without a value, pairs, choices


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The desk of a page that is served; `desk.url` opens it."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            serving, "RunQueue", lambda *a, **k: made.append(RunQueue(*a, **k)) or made[-1]
        )
        folder = tmp_path_factory.mktemp("page")
        with serve(folder, Limits(), Address(token="t")) as (url, _):
            made[0].url = url
            yield made[0]


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mkv"
    video.write_frames(path, [np.full((32, 48, 3), 40 * i, np.uint8) for i in range(5)], 8, "ffv1")
    return path


@pytest.fixture
def page(browser, desk):
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(BROWSER)
    opened.asked = []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(desk.url)
    opened.wait_for_selector("#clip input[type=file]", state="attached")
    yield opened
    opened.close()


@pytest.fixture
def sent(desk, monkeypatch):
    """The tasks that the page asks for; none is run."""
    tasks = []

    def submit(task, ending):
        tasks.append(task)
        raise UserError(f"got task {len(tasks)}")

    monkeypatch.setattr(desk, "submit", submit)
    return tasks


def fill(page, clip, source_prompt, target_prompt):
    page.set_input_files("#clip input[type=file]", clip)
    page.locator("#clip-message").filter(has_text="48x32").wait_for()
    page.fill("#field-source_prompt textarea", source_prompt)
    page.fill("#field-target_prompt textarea", target_prompt)


def ask(page, sent):
    answer = f"got task {len(sent) + 1}"
    page.click("#edit")
    page.locator("#message").filter(has_text=answer).wait_for()
    return replace(sent[-1], input="")


def choose(page, name, value):
    page.click(f"#field-{name} input")
    page.fill(f"#field-{name} input", value)
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelector('#field-{name} input').value === '{value}'")


def open_all(page):
    """Open every accordion that is shown."""
    for name in ("Settings of the method", "Shape of the mask", "More"):
        page.click(f"button:has-text('{name}')")
    page.wait_for_selector("#field-crf", state="visible")
    page.wait_for_selector("#field-steps", state="visible")
    page.wait_for_timeout(
        1000 * PATIENCE
    )  # what a widget makes of an empty value, it sends at once


@pytest.mark.parametrize("method", METHODS)
def test_what_nobody_typed_is_not_sent(page, clip, sent, method):
    """Every accordion is opened, and nothing typed: the task is that of a page that was left alone."""
    fill(page, clip, **PROMPTS)
    choose(page, "method", method)
    choose(page, "backbone", "shapeworld-sd")  # which carries both
    page.click("#mask-source label:has-text('box')")
    page.fill("#box input, #box textarea", "4,4,16,16")
    page.uncheck("#follow input")
    plain = ask(page, sent)
    open_all(page)
    assert ask(page, sent) == plain
    wanted = EditTask("", "", **PROMPTS, method=method, backbone="shapeworld-sd", mask="4,4,16,16")
    assert plain == wanted


def test_every_optional_field_that_is_typed_is_sent_and_can_be_unset(page, clip, sent):
    fill(page, clip, **PROMPTS)
    choose(page, "backbone", "shapeworld-sd")
    page.click("button:has-text('More')")
    typed = {"window": "9", "crf": "21", "frames": "1:3", "background": "black", "words": "ball"}
    for name, text in typed.items():
        page.fill(f"#field-{name} input, #field-{name} textarea", text)
    task = ask(page, sent)
    assert (task.window, task.crf, task.frames, task.words) == (9, 21, "1:3", ("ball",))
    for name in typed:
        page.fill(f"#field-{name} input, #field-{name} textarea", "")
    task = ask(page, sent)
    defaults = EditTask("", "")
    assert all(getattr(task, name) == getattr(defaults, name) for name in typed)
    page.fill("#field-window input, #field-window textarea", "many")
    page.click("#edit")
    page.locator("#message").filter(has_text="use a whole number").wait_for()
    page.click("#mask-source label:has-text('box')")  # what was said was of another page
    page.wait_for_function("document.querySelector('#message').innerText.trim() === ''")


def test_no_prompt_or_name_becomes_markup(page, desk, tmp_path, clip):
    hostile = tmp_path / "a <img src=x onerror=window.hurt=1>.mkv"
    hostile.write_bytes(clip.read_bytes())
    fill(page, hostile, HOSTILE, HOSTILE + " blue")
    page.click("#check")
    page.locator("#message li").first.wait_for()
    with desk.model_lock:
        page.click("#edit")
        page.locator("#queue").filter(has_text="window.hurt").wait_for()
        page.click("#cancel")
        page.locator("#status").filter(has_text="before it began").wait_for()
    assert page.evaluate("window.hurt") is None
    for place in ("#differences", "#message", "#queue", "#status", "#clip-message"):
        assert page.locator(f"{place} img").count() == 0
    assert not [url for url in page.asked if "x.example" in url]
    desk.remove(desk.runs()[0])


def run_of(desk, name, **state):
    folder = desk.folder / f"20261129-10101{len(desk.runs_by_name)}-000000-{name}"
    folder.mkdir()
    task = EditTask("clip.mkv", str(folder / "edited.mp4"), f"a {name}", f"a blue {name}")
    desk.runs_by_name[folder.name] = run = Run(folder, task, **state)
    return run


def click_until(page, button, said):
    """Click as a person does, again where nothing came of it: a click is lost while Gradio draws the button again."""
    from playwright.sync_api import TimeoutError

    for _ in range(30):
        with contextlib.suppress(TimeoutError):
            page.click(button, timeout=3000 * PATIENCE)
        with contextlib.suppress(TimeoutError):
            page.locator("#status").filter(has_text=said).wait_for(timeout=3000 * PATIENCE)
            return
    raise AssertionError(f"{said!r} is never shown: {page.inner_text('#status')}")


def test_the_running_edit_keeps_its_bar_and_stop_while_others_wait(page, desk, clip):
    """Of another page too, which asks before it is stopped."""
    first = run_of(desk, "dog", status=RUNNING, stage="edit", done=3, count=10, was_started=True)
    fill(page, clip, **PROMPTS)
    page.locator("#status").filter(has_text="3 of 10").wait_for()
    choose(page, "backbone", "shapeworld-wan")
    with desk.model_lock:
        page.click("#edit")
        page.locator("#status").filter(has_text="Queued, 1 ahead").wait_for()
        assert "3 of 10" in page.inner_text("#running")
        (own,) = (run for run in desk.runs() if run.status == WAITING)
        page.click("#cancel-running")
        page.locator("#question").filter(has_text="another page").wait_for()
        page.click("#no")
        page.wait_for_selector("#question", state="hidden")
        assert not first.should_stop
        page.click("#cancel-running")
        page.click("#yes")
        page.wait_for_selector("#question", state="hidden")
        assert first.should_stop
        click_until(page, "#cancel", "before it began")  # one's own is not asked about
    assert own.status == STOPPED
    desk.runs_by_name.clear()


def test_what_is_said_never_names_a_flag(page):
    page.click("#edit")
    page.locator("#message").filter(has_text="there is no clip").wait_for()
    assert not re.search(r"--[a-z]", page.inner_text("body"))

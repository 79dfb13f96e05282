"""The page: what it shows and what happens when somebody touches it. Widgets are made from the schemas."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from numpy import ndarray

from ..base.notices import collected
from ..media import video
from ..pipeline.estimate import Forecast, forecast
from ..pipeline.task import EditTask
from ..pipeline.validation import taken
from . import asked, told
from .desk import Desk
from .form import PRIVATE, QUIET, Form
from .messages import Wording
from .runs import DONE, RUNNING, SIDE, STRIP, WAITING, Run

TICK = 1.0  # seconds between two looks at how far a run is
HEAD = "# Holdfast\nEdit a clip by words. **Outside the mask, what you did not name holds fast.**"
CSS = """
.gradio-container {max-width: 1280px !important}
#differences del {background: #fde2e2; text-decoration: none; color: #7a1f1f}
#differences ins {background: #dcf5e3; text-decoration: none; color: #14532d}
.error {color: #b3261e}
#status progress, #running progress {width: 100%; height: 14px; display: block; margin: 6px 0}
footer {display: none !important}
"""


class Page:
    """The page of one desk."""

    def __init__(self, desk: Desk):
        self.desk = desk
        self.wording = Wording(desk.root, hides_paths=not desk.limits.anywhere)
        with gr.Blocks(title="Holdfast", analytics_enabled=False) as self.blocks:
            gr.Markdown(HEAD)
            self.chosen = gr.State(None)  # the name of the run that is shown
            self.seen = gr.State("")  # what of it is shown already
            self.mine = gr.State([])  # the runs that were asked for here
            self.meant = gr.State(None)  # what is asked about: an action and a run's name
            with gr.Tab("Edit"), gr.Row():
                with gr.Column(min_width=320):
                    self.form = Form(desk, self.wording)
                    self._asking()
                with gr.Column(min_width=320):
                    self._showing()
            with gr.Tab("Past runs") as past:
                self._gallery(past)
            self._wire()

    def _asking(self) -> None:
        self.mask_shown = gr.Video(
            label="Mask", visible=False, autoplay=True, loop=True, height=360, elem_id="mask-shown"
        )
        with gr.Row():
            self.check = gr.Button("Check", elem_id="check")
            self.edit = gr.Button("Edit", variant="primary", elem_id="edit")
        self.said = gr.HTML(elem_id="said")

    # what is shown

    def _showing(self) -> None:
        self.status = gr.HTML(elem_id="status")
        with gr.Row():
            self.cancel = gr.Button("Stop", visible=False, elem_id="cancel")
            self.resume = gr.Button("Resume", visible=False, elem_id="resume")
        self.running = gr.HTML(elem_id="running")
        self.cancel_running = gr.Button(
            "Stop the running edit", visible=False, elem_id="cancel-running"
        )
        with gr.Group(visible=False) as self.sure:
            self.question = gr.HTML(elem_id="question", padding=True)
            with gr.Row():
                self.yes = gr.Button("Yes, stop it", variant="stop", elem_id="yes")
                self.no = gr.Button("No", elem_id="no")
        self.preview = gr.Image(
            label="How it looks so far",
            visible=False,
            elem_id="preview",
            interactive=False,
            height=320,
            buttons=["fullscreen"],
        )
        with gr.Column(visible=False) as self.result:
            self.at = gr.Slider(0, 1, step=1, label="Frame", elem_id="result-at")
            self.compare = gr.ImageSlider(
                label="Before and after", elem_id="compare", format="png", height=400
            )
            self.side = gr.Video(label="Source and result", elem_id="side", loop=True, height=320)
            self.strip = gr.Image(
                label="Strip",
                elem_id="strip",
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            self.figures = gr.HTML(elem_id="figures")
            self.files = gr.File(
                label="Download", file_count="multiple", elem_id="files", interactive=False
            )
            with gr.Accordion("Manifest", open=False):
                self.manifest = gr.JSON(elem_id="manifest", show_label=False)
        self.queue = gr.HTML(elem_id="queue")
        self.stored = gr.HTML(elem_id="stored")

    def _gallery(self, past: gr.Tab) -> None:
        self.gallery = gr.Gallery(
            columns=2,
            elem_id="gallery",
            label="Past runs",
            format="png",
            buttons=["download", "fullscreen"],  # and none that shares it with another machine
        )
        self.open = gr.HTML("Choose a run to look at it.", elem_id="opened")
        self.remove = gr.Button("Remove this run", visible=False, elem_id="remove")
        with gr.Row(visible=False) as self.sure_remove:
            self.yes_remove = gr.Button(
                "Yes, remove it and its files", variant="stop", elem_id="yes-remove"
            )
            self.no_remove = gr.Button("No", elem_id="no-remove")
        self.past_names = gr.State([])
        self.past_list = gr.HTML(elem_id="past")
        outputs = [self.gallery, self.past_names, self.past_list]
        for event in (past.select, self.blocks.load):
            event(self._past, None, outputs, **QUIET)
        shown = [self.chosen, self.seen, self.open, self.remove, self.sure_remove]
        self.gallery.select(self._opened, self.past_names, shown, **QUIET)
        asking = [self.remove, self.sure_remove]
        self.remove.click(lambda: show(False, True), None, asking, **QUIET)
        self.no_remove.click(lambda: show(True, False), None, asking, **QUIET)
        self.yes_remove.click(self._removed, self.chosen, [*shown, *outputs], **QUIET)

    # what happens

    def _wire(self) -> None:
        self.form.wire(self.blocks.load)
        asked_all = self.form.all()
        shown = [self.mask_shown, self.said]
        self.form.show.click(self._mask_clip, asked_all, shown, **PRIVATE)
        self.check.click(self._forecast, asked_all, self.said, **PRIVATE)
        submitted = [self.said, self.chosen, self.seen, self.mine]
        self.edit.click(self._submit, [self.mine, *asked_all], submitted, **PRIVATE)
        for event in (self.form.upload.change, self.form.path.change, self.form.way.change):
            # It was said of what stood there before. In the browser, so that no later answer is cleared.
            event(None, None, self.said, js="() => ''", **QUIET)
        self._wire_stops()
        self.resume.click(
            self._again, [self.chosen, self.mine], [self.said, self.seen, self.mine], **QUIET
        )
        shown = [self.status, self.queue, self.cancel, self.resume, self.preview, self.result]
        shown += [self.at, self.compare, self.side, self.strip, self.figures, self.files]
        shown += [self.manifest, self.seen, self.chosen]
        shown += [self.running, self.cancel_running, self.stored]
        for event in (gr.Timer(TICK).tick, self.blocks.load):
            event(self._look, [self.chosen, self.seen], shown, **QUIET)
        at = [self.chosen, self.at]
        self.at.release(self._compared, at, self.compare, **QUIET)

    def _wire_stops(self) -> None:
        """Own runs stop at once; before another's does, the page asks."""
        asking = [self.sure, self.question, self.meant]
        self.cancel.click(self._stop, [self.chosen, self.mine], asking, **QUIET)
        self.cancel_running.click(self._stop_running, self.mine, asking, **QUIET)
        self.yes.click(self._stop_meant, self.meant, asking, **QUIET)
        self.no.click(ask_nothing, None, asking, **QUIET)

    def _mask_clip(self, *values) -> tuple:
        said: dict[str, str] = {}
        with self.wording.errors(said), collected() as notes:
            task = asked.task_of(self.form.asked(values), self.desk)
            shown = asked.shown_mask(task, self.desk)
            return gr.Video(shown, visible=True), told.noted(notes, self.wording)
        return gr.Video(visible=False), said["error"]

    def _forecast(self, *values) -> str:
        said: dict[str, str] = {}
        with self.wording.errors(said), collected() as notes:
            task = asked.task_of(self.form.asked(values), self.desk)
            return told.costs(self._expected(task), notes, self.wording)
        return said["error"]

    def _expected(self, task: EditTask) -> Forecast:
        """Measured, where no edit is using the model."""
        known = taken(task)
        if not self.desk.using.acquire(blocking=False):
            return replace(forecast(task, known), basis="not measured: another edit runs")
        try:
            return forecast(task, known, self.desk.backbone(task))
        finally:
            self.desk.using.release()

    def _submit(self, mine: list[str], *values) -> tuple:
        said: dict[str, str] = {}
        with self.wording.errors(said):
            task = asked.task_of(self.form.asked(values), self.desk)
            run = self.desk.submit(task, asked.ending_of(task.codec))
            return "", run.name, "", [*mine, run.name]
        return said["error"], gr.skip(), gr.skip(), gr.skip()

    def _run(self, name: str | None) -> Run | None:
        return self.desk.all.get(name or "")

    def _stop(self, name: str | None, mine: list[str]) -> tuple:
        """Stop a run of this page; ask about another's."""
        run = self._run(name)
        if run and name not in mine:
            question = f"{self.wording.text(told.title(run))}: this run was started on another page. Stop it?"
            return gr.Group(visible=True), question, name
        if run:
            self.desk.cancel(run)
        return ask_nothing()

    def _stop_running(self, mine: list[str]) -> tuple:
        run = self.desk.running()
        return self._stop(run.name, mine) if run else ask_nothing()

    def _stop_meant(self, name: str | None) -> tuple:
        return self._stop(name, [name or ""])

    def _again(self, name: str | None, mine: list[str]) -> tuple:
        said: dict[str, str] = {}
        with self.wording.errors(said):
            self.desk.resume(self._run(name))
            return "", "", [*mine, name]
        return said["error"], "", mine

    def _look(self, name: str | None, seen: str) -> tuple:
        """How far the run is, and the one that is on before it. Its pictures only once, when it is done."""
        running = self.desk.running()
        run = self._run(name) or next(iter(self.desk.queue()), None)
        other = running if running is not run else None
        state = f"{run.name} {run.status}" if run else ""
        on = run is not None and run.status in (WAITING, RUNNING)
        picture = (running or run).preview if run else None
        head = (
            told.status(run, self.desk, self.wording),
            told.queued(self.desk, self.wording),
            gr.Button("Stop" if run is running else "Take it out of the queue", visible=on),
            gr.Button(visible=run is not None and run.can_resume),
            gr.Image(picture, visible=picture is not None) if on or state != seen else gr.skip(),
        )
        rest = (gr.skip(),) * 8 if state == seen else self._result(run)
        foot = (
            told.elsewhere(other, self.wording),
            gr.Button(visible=other is not None),
            told.stored(self.desk.measure(), self.desk.limits.gigabytes),
        )
        return (*head, *rest, state, run.name if run else None, *foot)

    def _result(self, run: Run | None) -> tuple:
        if run is None or run.status != DONE:
            return (gr.Column(visible=False), *(gr.skip(),) * 7)
        manifest = run.manifest()
        last = manifest["frames"] - 1
        # The manifest names folders of this machine.
        beside = [] if self.wording.hides_paths else [run.folder / f"{run.output.name}.json"]
        files = [run.output, *beside]
        side, strip = (there(run.folder / name) for name in (SIDE, STRIP))
        return (
            gr.Column(visible=True),
            gr.Slider(0, max(1, last), value=last // 2, step=1),
            self._compared(run.name, last // 2),
            side,
            strip,
            told.figures(run, self.wording),
            [str(file) for file in files],
            self.wording.data(manifest),
        )

    def _compared(self, name: str | None, at: int) -> tuple[ndarray, ndarray] | Any:
        run = self._run(name)
        if run is None or run.status != DONE:
            return gr.skip()
        clips = (run.task.input, run.output)
        with self.wording.errors({}):  # the source may have gone since
            return tuple(asked.frame_of(video.probe(clip), at, self.desk) for clip in clips)
        return gr.skip()

    def _past(self) -> tuple:
        runs = [run for run in self.desk.runs() if (run.folder / STRIP).exists()]
        pictures = [
            (str(r.folder / STRIP), f"{told.when(r)}: {told.title(r)} ({r.task.method})")
            for r in runs
        ]
        lines = [f"<li>{told.entitled(run, self.wording)}</li>" for run in runs]
        return pictures, [run.name for run in runs], f"<ol>{''.join(lines)}</ol>"

    def _opened(self, names: list[str], event: gr.SelectData) -> tuple:
        name = names[event.index]
        run = self._run(name)
        if run is None:
            return None, "", "That run was removed.", *show(False, False)
        return (
            name,
            "",
            f"{told.entitled(run, self.wording)}: shown under Edit.",
            *show(True, False),
        )

    def _removed(self, name: str | None) -> tuple:
        run, said = self._run(name), {"error": "Removed."}
        with self.wording.errors(said):
            if run:
                self.desk.remove(run)
        # What was seen is no run's state, so that the next look takes the removed run's pictures away.
        return None, "removed", said["error"], *show(False, False), *self._past()


def show(button: bool, question: bool) -> tuple:
    """A button, or the question whether it is meant."""
    return gr.Button(visible=button), gr.Row(visible=question)


def ask_nothing() -> tuple:
    return gr.Group(visible=False), "", None


def there(path: Path) -> str | None:
    """A picture of a run, which may have met a full disk."""
    return str(path) if path.exists() else None

"""The page: what it shows and what happens when somebody touches it. Widgets are made from the schemas."""

from dataclasses import replace
from typing import Any

import gradio as gr
from numpy import ndarray

from ..forecast import Forecast, forecast
from ..intake import taken
from ..media import video
from ..notes import collected
from ..task import EditTask
from . import asked, told
from .desk import DONE, FAILED, RUNNING, SIDE, STOPPED, STRIP, WAITING, Desk, Limits, Run, errors
from .form import PRIVATE, QUIET, Form

TICK = 1.0  # seconds between two looks at how far a run is
CSS = """
.gradio-container {max-width: 1280px !important}
#differences del {background: #fde2e2; text-decoration: none; color: #7a1f1f}
#differences ins {background: #dcf5e3; text-decoration: none; color: #14532d}
#status progress {width: 100%; height: 14px; display: block; margin: 6px 0}
footer {display: none !important}
"""


class Page:
    """The page of one desk."""

    def __init__(self, desk: Desk, limits: Limits):
        self.desk, self.limits = desk, limits
        with gr.Blocks(title="Holdfast", analytics_enabled=False) as self.blocks:
            gr.Markdown(
                "# Holdfast\nEdit a clip by words. **Outside the mask, what you did not name holds fast.**"
            )
            self.chosen = gr.State(None)  # the name of the run that is shown
            self.seen = gr.State("")  # what of it is shown already
            with gr.Tab("Edit"), gr.Row():
                with gr.Column(min_width=320):
                    self.form = Form(desk, limits)
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
        self.said = gr.Markdown(elem_id="said")

    # what is shown

    def _showing(self) -> None:
        self.status = gr.HTML(elem_id="status")
        with gr.Row():
            self.cancel = gr.Button("Stop", visible=False, elem_id="cancel")
            self.resume = gr.Button("Resume", visible=False, elem_id="resume")
        self.preview = gr.Image(
            label="How it looks so far",
            visible=False,
            elem_id="preview",
            interactive=False,
            height=320,
        )
        with gr.Column(visible=False) as self.result:
            self.at = gr.Slider(0, 1, step=1, label="frame", elem_id="result-at")
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
            self.figures = gr.Markdown(elem_id="figures")
            self.files = gr.File(
                label="Download", file_count="multiple", elem_id="files", interactive=False
            )
            with gr.Accordion("Manifest", open=False):
                self.manifest = gr.JSON(elem_id="manifest", show_label=False)
        self.queue = gr.HTML(elem_id="queue")

    def _gallery(self, past: gr.Tab) -> None:
        self.gallery = gr.Gallery(columns=2, elem_id="gallery", label="Past runs", format="png")
        with gr.Row():
            self.open = gr.Markdown("Choose a run to look at it.", elem_id="opened")
            self.remove = gr.Button("Remove this run", visible=False, elem_id="remove")
        self.past_names = gr.State([])
        outputs = [self.gallery, self.past_names]
        for event in (past.select, self.blocks.load):
            event(self._past, None, outputs, **QUIET)
        shown = [self.chosen, self.seen, self.open, self.remove]
        self.gallery.select(self._opened, self.past_names, shown, **QUIET)
        self.remove.click(self._removed, self.chosen, [*shown, *outputs], **QUIET)

    # what happens

    def _wire(self) -> None:
        self.form.wire(self.blocks.load)
        asked_all = self.form.all()
        shown = [self.mask_shown, self.said]
        self.form.show.click(self._mask_clip, asked_all, shown, **PRIVATE)
        self.check.click(self._forecast, asked_all, self.said, **PRIVATE)
        self.edit.click(self._submit, asked_all, [self.said, self.chosen, self.seen], **PRIVATE)
        self.cancel.click(self._stop, self.chosen, None, **QUIET)
        self.resume.click(self._again, self.chosen, [self.said, self.seen], **QUIET)
        shown = [self.status, self.queue, self.cancel, self.resume, self.preview, self.result]
        shown += [self.at, self.compare, self.side, self.strip, self.figures, self.files]
        shown += [self.manifest, self.seen, self.chosen]
        for event in (gr.Timer(TICK).tick, self.blocks.load):
            event(self._look, [self.chosen, self.seen], shown, **QUIET)
        at = [self.chosen, self.at]
        self.at.release(self._compared, at, self.compare, **QUIET)

    def _mask_clip(self, *values) -> tuple:
        said: dict[str, str] = {}
        with errors(said), collected() as notes:
            task = asked.task_of(self.form.asked(values), self.desk)
            shown = asked.shown_mask(task, self.desk)
            return gr.Video(shown, visible=True), told.noted(notes)
        return gr.Video(visible=False), said["error"]

    def _forecast(self, *values) -> str:
        said: dict[str, str] = {}
        with errors(said), collected() as notes:
            task = asked.task_of(self.form.asked(values), self.desk)
            return told.costs(self._expected(task), notes)
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

    def _submit(self, *values) -> tuple:
        said: dict[str, str] = {}
        with errors(said):
            run = self.desk.submit(asked.task_of(self.form.asked(values), self.desk))
            return "", run.name, ""
        return said["error"], gr.skip(), gr.skip()

    def _run(self, name: str | None) -> Run | None:
        return self.desk.all.get(name or "")

    def _stop(self, name: str | None) -> None:
        run = self._run(name)
        if run:
            self.desk.cancel(run)

    def _again(self, name: str | None) -> tuple:
        said: dict[str, str] = {"error": ""}
        with errors(said):
            self.desk.resume(self._run(name))
        return said["error"], ""

    def _look(self, name: str | None, seen: str) -> tuple:
        """How far the run is. Its pictures only once, when it is done."""
        run = self._run(name) or next(iter(self._busy()), None)
        state = f"{run.name} {run.status}" if run else ""
        on = run is not None and run.status in (WAITING, RUNNING)
        ended = run is not None and run.status in (STOPPED, FAILED)
        picture = run.preview if run else None
        head = (
            told.status(run, self.desk),
            told.queued(self.desk),
            gr.Button(visible=on),
            gr.Button(visible=ended),
            gr.Image(picture, visible=picture is not None) if on or state != seen else gr.skip(),
        )
        rest = (gr.skip(),) * 8 if state == seen else self._result(run)
        return (*head, *rest, state, run.name if run else None)

    def _busy(self) -> list[Run]:
        """A run that is on, for a page that was opened meanwhile."""
        return [run for run in self.desk.runs() if run.status in (WAITING, RUNNING)]

    def _result(self, run: Run | None) -> tuple:
        if run is None or run.status != DONE:
            return (gr.Column(visible=False), *(gr.skip(),) * 7)
        manifest = run.manifest()
        last = manifest["frames"] - 1
        files = [run.output, run.folder / f"{run.output.name}.json"]
        return (
            gr.Column(visible=True),
            gr.Slider(0, max(1, last), value=last // 2, step=1),
            self._compared(run.name, last // 2),
            str(run.folder / SIDE),
            str(run.folder / STRIP),
            told.figures(run),
            [str(file) for file in files],
            manifest,
        )

    def _compared(self, name: str | None, at: int) -> tuple[ndarray, ndarray] | Any:
        run = self._run(name)
        if run is None or run.status != DONE:
            return gr.skip()
        clips = (run.task.input, run.output)
        return tuple(asked.frame_of(video.probe(clip), at) for clip in clips)

    def _past(self) -> tuple:
        runs = [run for run in self.desk.runs() if (run.folder / STRIP).exists()]
        pictures = [
            (str(r.folder / STRIP), f"{told.when(r)}: {told.title(r)} ({r.task.method})")
            for r in runs
        ]
        return pictures, [run.name for run in runs]

    def _opened(self, names: list[str], event: gr.SelectData) -> tuple:
        name = names[event.index]
        return name, "", f"{name} is shown under Edit.", gr.Button(visible=True)

    def _removed(self, name: str | None) -> tuple:
        run, said = self._run(name), {"error": "Removed."}
        with errors(said):
            if run:
                self.desk.remove(run)
        return None, "", said["error"], gr.Button(visible=False), *self._past()

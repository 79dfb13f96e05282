"""The page: what it shows, and what happens when a user acts. Its widgets are made from the schema."""

from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.components import Component
from numpy import ndarray

from ..base.notices import collect_notices
from ..media import video
from ..pipeline.estimate import Estimate, estimate_edit
from ..pipeline.task import EditTask
from ..pipeline.validation import validate
from . import form_task, views
from .form import PRIVATE, QUIET, Form
from .keep_tab import TITLE, KeepTab
from .messages import MessageFormatter
from .queue import RunQueue
from .runs import DONE, EDIT, RUNNING, SIDE_BY_SIDE, STRIP, WAITING, Run
from .stop_question import StopQuestion

TICK = 1.0  # seconds between two updates of the progress
HEAD = (
    "# Holdfast\nEdit a video with text prompts. **Everything outside the mask stays identical.**"
)
CSS = """
.gradio-container {max-width: 1280px !important}
#differences del {background: #fde2e2; text-decoration: none; color: #7a1f1f}
#differences ins {background: #dcf5e3; text-decoration: none; color: #14532d}
.error {color: #b3261e}
.status progress {width: 100%; height: 14px; display: block; margin: 6px 0}
.report {border-collapse: collapse}
.report :is(th, td) {border: 1px solid var(--border-color-primary) !important; vertical-align: top; padding: 6px 10px}
.report th {text-align: left; white-space: nowrap; font-weight: 600}
footer {display: none !important}
"""
Updates = tuple[Any, ...]  # of Gradio's components, in the order of an event's outputs


class Page:
    """The page of one run queue."""

    def __init__(self, queue: RunQueue):
        self.queue = queue
        self.formatter = MessageFormatter(queue.root, hides_paths=not queue.limits.allows_paths)
        with gr.Blocks(title="Holdfast", analytics_enabled=False) as self.blocks:
            gr.Markdown(HEAD)
            self.chosen = gr.State(None)  # the name of the run that the user chose to display
            self.displayed = gr.State(None)  # the displayed run's name: only `_refresh` sets it
            self.shown_state = gr.State("")  # the state of it that is displayed already
            self.own_runs = gr.State([])  # names of the runs submitted on this page
            with gr.Tab("Edit"), gr.Row():
                with gr.Column(min_width=320):
                    self.form = Form(queue, self.formatter)
                    self._make_buttons()
                with gr.Column(min_width=320):
                    self._make_progress_part()
                    self._make_result_part()
            with gr.Tab(TITLE):
                self.keep = KeepTab(queue, self.formatter)
            with gr.Tab("Past runs") as past:
                self._make_gallery(past)
            self._wire()

    # the widgets

    def _make_buttons(self) -> None:
        self.mask_clip = gr.Video(
            label="Mask", visible=False, autoplay=True, loop=True, height=360, elem_id="mask-shown"
        )
        with gr.Row():
            self.check = gr.Button("Check", elem_id="check")
            self.edit = gr.Button("Edit", variant="primary", elem_id="edit")
        self.message = gr.HTML(elem_id="message")

    def _make_progress_part(self) -> None:
        self.status = gr.HTML(elem_id="status", elem_classes="status")
        with gr.Row():
            self.cancel = gr.Button("Stop", visible=False, elem_id="cancel")
            self.resume = gr.Button("Resume", visible=False, elem_id="resume")
        self.running = gr.HTML(elem_id="running", elem_classes="status")
        self.cancel_running = gr.Button(
            "Stop the running edit", visible=False, elem_id="cancel-running"
        )
        self.question = StopQuestion(self.queue, self.formatter)
        self.preview = gr.Image(
            label="Preview of the result",
            visible=False,
            elem_id="preview",
            interactive=False,
            height=320,
            buttons=["fullscreen"],
        )

    def _make_result_part(self) -> None:
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
            self.summary = gr.HTML(elem_id="summary")
            self.files = gr.File(
                label="Download", file_count="multiple", elem_id="files", interactive=False
            )
            with gr.Accordion("Manifest", open=False):
                self.manifest = gr.JSON(elem_id="manifest", show_label=False)
        self.active = gr.HTML(elem_id="queue")
        self.usage = gr.HTML(elem_id="usage")

    def _make_gallery(self, past: gr.Tab) -> None:
        self.gallery = gr.Gallery(
            columns=2,
            elem_id="gallery",
            label="Past runs",
            format="png",
            buttons=["download", "fullscreen"],  # no button that shares it with another machine
        )
        self.open = gr.HTML("Choose a run to open it.", elem_id="opened")
        self.remove = gr.Button("Remove this run", visible=False, elem_id="remove")
        with gr.Row(visible=False) as self.remove_question:
            self.yes_remove = gr.Button(
                "Yes, remove it and its files", variant="stop", elem_id="yes-remove"
            )
            self.no_remove = gr.Button("No", elem_id="no-remove")
        self.past_names = gr.State([])
        self.opened = gr.State(None)  # the name of the run that is chosen here
        self.past_list = gr.HTML(elem_id="past")
        outputs = [self.gallery, self.past_names, self.past_list]
        for event in (past.select, self.blocks.load):
            event(self._list_past_runs, None, outputs, **QUIET)
        displays = [self.chosen, self.shown_state, self.keep.chosen, self.keep.shown_state]
        shown = [self.opened, *displays, self.open, self.remove, self.remove_question]
        self.gallery.select(self._open_past_run, self.past_names, shown, **QUIET)
        buttons = [self.remove, self.remove_question]
        self.remove.click(lambda: show_button_or_question(False, True), None, buttons, **QUIET)
        self.no_remove.click(lambda: show_button_or_question(True, False), None, buttons, **QUIET)
        self.yes_remove.click(self._remove_run, self.opened, [*shown, *outputs], **QUIET)

    # the events

    def _wire(self) -> None:
        self.form.wire(self.blocks.load)
        form = self.form.components()
        self.form.show.click(self._show_mask, form, [self.mask_clip, self.message], **PRIVATE)
        self.check.click(self._estimate, form, self.message, **PRIVATE)
        outputs = [self.message, self.chosen, self.shown_state, self.own_runs]
        self.edit.click(self._submit, [self.own_runs, *form], outputs, **PRIVATE)
        for event in (
            self.form.upload.change,
            self.form.path.change,
            self.form.mask_source.change,
        ):
            # The message was about earlier values. It is cleared in the browser, so that no later answer is cleared.
            event(None, None, self.message, js="() => ''", **QUIET)
        self._wire_stops()
        outputs = [self.message, self.shown_state, self.own_runs]
        self.resume.click(self._resume_run, [self.displayed, self.own_runs], outputs, **QUIET)
        tick = gr.Timer(TICK).tick
        self.keep.wire(tick, self.blocks.load)
        inputs = [self.chosen, self.displayed, self.shown_state]
        for event in (tick, self.blocks.load):
            event(self._refresh, inputs, self._refresh_outputs(), **QUIET)
        self.at.release(self._compare_frames, [self.displayed, self.at], self.compare, **QUIET)

    def _refresh_outputs(self) -> list[Component | gr.Column]:
        """Return the outputs of `_refresh`, in order."""
        head = [self.status, self.active, self.cancel, self.resume, self.preview]
        result = [self.result, self.at, self.compare, self.side, self.strip, self.summary]
        state = [self.files, self.manifest, self.shown_state, self.displayed]
        return [*head, *result, *state, self.running, self.cancel_running, self.usage]

    def _wire_stops(self) -> None:
        """Stop the page's own runs at once, and ask before another page's run is stopped."""
        self.question.wire(self.cancel, self.displayed, self.own_runs)
        self.question.wire_running(self.cancel_running, self.own_runs)
        self.question.wire_answers()

    def _show_mask(self, *values) -> tuple[gr.Video, str]:
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages), collect_notices() as notes:
            task = form_task.build_task(self.form.read_values(values), self.queue)
            clip = form_task.render_mask_clip(task, self.queue)
            return gr.Video(clip, visible=True), views.render_notes(notes, self.formatter)
        return gr.Video(visible=False), messages["error"]

    def _estimate(self, *values) -> str:
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages), collect_notices() as notes:
            task = form_task.build_task(self.form.read_values(values), self.queue)
            return views.render_estimate(self._make_estimate(task), notes, self.formatter)
        return messages["error"]

    def _make_estimate(self, task: EditTask) -> Estimate:
        """Estimate an edit; measure it where no other edit is using the model."""
        inputs = validate(task)
        if not self.queue.model_lock.acquire(blocking=False):
            return replace(estimate_edit(task, inputs), basis="not measured: another edit runs")
        try:
            return estimate_edit(task, inputs, self.queue.backbone(task))
        finally:
            self.queue.model_lock.release()

    def _submit(self, own_runs: list[str], *values) -> Updates:
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages):
            task = form_task.build_task(self.form.read_values(values), self.queue)
            run = self.queue.submit(task, form_task.suffix_for_codec(task.codec))
            return "", run.name, "", [*own_runs, run.name]
        return messages["error"], gr.skip(), gr.skip(), gr.skip()

    def _find_run(self, name: str | None) -> Run | None:
        return self.queue.runs_by_name.get(name or "")

    def _resume_run(self, name: str | None, own_runs: list[str]) -> Updates:
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages):
            self.queue.resume(self._find_run(name))
            return "", "", [*own_runs, name]
        return messages["error"], "", own_runs

    def _refresh(self, chosen: str | None, displayed: str | None, shown_state: str) -> Updates:
        """Update the progress of the displayed run and of the current one. Send a result's pictures only once.

        Until a run is chosen, an active one is displayed, and stays displayed when it ends. `chosen` is not among the
        outputs: a refresh may take longer than a click, and would undo the choice that the click made.
        """
        running = self.queue.running_run()
        edits = (run for run in self.queue.active_runs() if run.kind == EDIT)
        run = self._find_run(chosen) or self._find_run(displayed) or next(edits, None)
        other = running if running is not run else None
        state = f"{run.name} {run.status}" if run else ""
        is_active = run is not None and run.status in (WAITING, RUNNING)
        picture = (running or run).preview if run else None
        shows_preview = is_active or state != shown_state
        head = (
            views.render_status(run, self.queue, self.formatter),
            views.render_queue(self.queue, self.formatter),
            gr.Button("Stop" if run is running else "Remove from the queue", visible=is_active),
            gr.Button(visible=run is not None and run.can_resume),
            gr.Image(picture, visible=picture is not None) if shows_preview else gr.skip(),
        )
        result = (gr.skip(),) * 8 if state == shown_state else self._show_result(run)
        foot = (
            views.render_running(other, self.formatter),
            gr.Button(visible=other is not None),
            views.render_usage(self.queue.measure(), self.queue.limits.max_storage_gb),
        )
        return (*head, *result, state, run.name if run else None, *foot)

    def _show_result(self, run: Run | None) -> Updates:
        manifest = run.manifest() if run else None
        if run is None or manifest is None:
            return (gr.Column(visible=False), *(gr.skip(),) * 7)
        last = manifest["frames"] - 1
        # The manifest names folders of this machine.
        hides_paths = self.formatter.hides_paths
        manifests = [] if hides_paths else [run.folder / f"{run.output.name}.json"]
        files = [run.output, *manifests]
        side, strip = (views.path_if_exists(run.folder / name) for name in (SIDE_BY_SIDE, STRIP))
        return (
            gr.Column(visible=True),
            gr.Slider(0, max(1, last), value=last // 2, step=1),
            self._compare_frames(run.name, last // 2),
            side,
            strip,
            views.render_summary(run, self.formatter),
            [str(file) for file in files],
            self.formatter.strip_folders(manifest),
        )

    def _compare_frames(self, name: str | None, at: int) -> tuple[ndarray, ...] | Any:
        """Return a frame of the source and of the result."""
        run = self._find_run(name)
        if run is None or run.status != DONE:
            return gr.skip()
        manifest = run.manifest() or {}
        numbers = manifest.get("source", {}).get("sampled") or range(manifest.get("frames", 0))
        of_source = numbers[at] if at < len(numbers) else at
        frames = ((run.source, of_source), (run.output, at))
        with self.formatter.capture_errors({}):  # the source may have been removed since
            return tuple(
                form_task.read_display_frame(video.probe(clip), number, self.queue)
                for clip, number in frames
            )
        return gr.skip()

    def _list_past_runs(self) -> Updates:
        runs = [run for run in self.queue.runs() if (run.folder / STRIP).exists()]
        pictures = [(str(run.folder / STRIP), views.render_caption(run)) for run in runs]
        items = [f"<li>{views.render_title(run, self.formatter)}</li>" for run in runs]
        return pictures, [run.name for run in runs], f"<ol>{''.join(items)}</ol>"

    def _open_past_run(self, names: list[str], event: gr.SelectData) -> Updates:
        name = names[event.index]
        run = self._find_run(name)
        if run is None:
            text, buttons = "That run was removed.", show_button_or_question(False, False)
            return None, *(gr.skip(),) * 4, text, *buttons
        is_edit = run.kind == EDIT
        tab = "Edit" if is_edit else TITLE
        text = f"{views.render_title(run, self.formatter)}: displayed under {tab}."
        other = (gr.skip(), gr.skip())
        displays = (name, "", *other) if is_edit else (*other, name, "")
        return name, *displays, text, *show_button_or_question(True, False)

    def _remove_run(self, name: str | None) -> Updates:
        run, messages = self._find_run(name), {"error": "Removed."}
        with self.formatter.capture_errors(messages):
            if run:
                self.queue.remove(run)
        # "removed" is no run's state, so that the next refresh takes the removed run's pictures away.
        buttons = show_button_or_question(False, False)
        other = (gr.skip(), gr.skip())
        is_keep = run is not None and run.kind != EDIT
        displays = (*other, None, "removed") if is_keep else (None, "removed", *other)
        return None, *displays, messages["error"], *buttons, *self._list_past_runs()


def show_button_or_question(button: bool, question: bool) -> tuple[gr.Button, gr.Row]:
    """Show a button, or the question that confirms it."""
    return gr.Button(visible=button), gr.Row(visible=question)

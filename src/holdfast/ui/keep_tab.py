"""The tab that keeps an edit made elsewhere: its change is put back into the source, or both clips are compared."""

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component
from numpy import ndarray

from ..base.errors import UserError
from ..conform.task import KeepTask
from ..media import video
from . import form_task, keep_views, views
from .form import PRIVATE, QUIET
from .form_task import BRUSH
from .keep_form import KeepForm, show_mask_parts
from .keep_runs import MASK_CLIP
from .messages import MessageFormatter
from .queue import RunQueue
from .runs import DONE, EDIT, KEEP, RUNNING, SIDE_BY_SIDE, STRIP, WAITING, Run
from .stop_question import StopQuestion

TITLE = "Keep an edit made elsewhere"
INTRODUCTION = (
    "Put only the change of an edited clip, from any editor or service, back into its source. "
    "Everything else stays the source's."
)
Updates = tuple[Any, ...]  # of Gradio's components, in the order of an event's outputs


class KeepTab:
    """The form for a source and its edited clip on the left, progress and result on the right."""

    def __init__(self, queue: RunQueue, formatter: MessageFormatter):
        self.queue, self.formatter = queue, formatter
        self.chosen = gr.State(None)  # the name of the run that the user chose to display
        self.displayed = gr.State(None)  # the displayed run's name: only `_refresh` sets it
        self.shown_state = gr.State("")  # the state of it that is displayed already
        self.own_runs = gr.State([])  # names of the runs submitted on this page
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(min_width=320):
                self.form = KeepForm(queue, formatter)
                with gr.Row():
                    self.compare = gr.Button("Compare", elem_id="keep-compare")
                    self.keep = gr.Button(
                        "Put the change back", variant="primary", elem_id="keep-run"
                    )
                self.message = gr.HTML(elem_id="keep-message")
            with gr.Column(min_width=320):
                self._make_progress_part()
                self._make_result_part()

    def _make_progress_part(self) -> None:
        self.status = gr.HTML(elem_id="keep-status", elem_classes="status")
        self.stop = gr.Button("Stop", visible=False, elem_id="keep-stop")
        self.question = StopQuestion(self.queue, self.formatter, "keep-stop-")
        self.running = gr.HTML(elem_id="keep-running", elem_classes="status")

    def _make_result_part(self) -> None:
        with gr.Column(visible=False) as self.result:
            self.report = gr.HTML(elem_id="keep-report")
            with gr.Column() as self.clip_part:
                self.at = gr.Slider(0, 1, step=1, label="Frame", elem_id="keep-at")
                self.before_after = gr.ImageSlider(
                    label="Before and after", elem_id="keep-before-after", format="png", height=400
                )
                self.correct = gr.Button("Correct the mask on this frame", elem_id="keep-correct")
                self.side = gr.Video(
                    label="Change over the source, and result",
                    elem_id="keep-side",
                    loop=True,
                    height=320,
                )
            self.strip = gr.Image(
                label="Strip",
                elem_id="keep-strip",
                interactive=False,
                buttons=["download", "fullscreen"],
            )
            self.files = gr.File(
                label="Download", file_count="multiple", elem_id="keep-files", interactive=False
            )
            with gr.Accordion("Manifest", open=False):
                self.manifest = gr.JSON(elem_id="keep-manifest", show_label=False)

    # the events

    def wire(self, tick: Callable[..., Any], load: Callable[..., Any]) -> None:
        """Connect the widgets. tick, load: the events of the page's timer and of an opened page."""
        form = self.form
        form.wire()
        inputs = [self.own_runs, *form.components()]
        outputs = [self.message, self.chosen, self.shown_state, self.own_runs]
        self.keep.click(self._submit, inputs, outputs, **PRIVATE)
        self.compare.click(self._submit_comparison, inputs, outputs, **PRIVATE)
        for clip in (form.source, form.edited):
            for event in (clip.upload.change, clip.path.change):
                # The message was about earlier clips. It is cleared in the browser, as on the tab of edits.
                event(None, None, self.message, js="() => ''", **QUIET)
        self.question.wire(self.stop, self.displayed, self.own_runs)
        self.question.wire_answers()
        inputs = [self.chosen, self.displayed, self.shown_state]
        for event in (tick, load):
            event(self._refresh, inputs, self._refresh_outputs(), **QUIET)
        self.at.release(self._compare_frames, [self.displayed, self.at], self.before_after, **QUIET)
        inputs = [self.displayed, self.at, *form.components()]
        self.correct.click(self._correct_mask, inputs, self._correct_outputs(), **QUIET)

    def _submit(self, own_runs: list[str], *values: Any) -> Updates:
        return self._queue_pair(own_runs, lambda: self.form.read_task(values), False)

    def _submit_comparison(self, own_runs: list[str], *values: Any) -> Updates:
        return self._queue_pair(own_runs, lambda: self.form.read_pair(values), True)

    def _queue_pair(
        self, own_runs: list[str], read: Callable[[], KeepTask], is_comparison: bool
    ) -> Updates:
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages):
            run = self.queue.submit_pair(read(), is_comparison)
            return "", run.name, "", [*own_runs, run.name]
        return messages["error"], gr.skip(), gr.skip(), gr.skip()

    def _find_run(self, name: str | None) -> Run | None:
        return self.queue.runs_by_name.get(name or "")

    def _refresh_outputs(self) -> list[Component | gr.Column]:
        """Return the outputs of `_refresh`, in order."""
        result = [self.result, self.report, self.clip_part, self.at, self.before_after]
        result += [self.side, self.strip, self.files, self.manifest]
        return [self.status, self.stop, self.running, *result, self.shown_state, self.displayed]

    def _refresh(self, chosen: str | None, displayed: str | None, shown_state: str) -> Updates:
        """Update the progress of the displayed run and of the current one. Send a result's pictures only once.

        `chosen` is not among the outputs: see the page's own `_refresh`.
        """
        active = self.queue.active_runs()
        pairs = (run for run in active if run.kind != EDIT)
        run = self._find_run(chosen) or self._find_run(displayed) or next(pairs, None)
        running = self.queue.running_run()
        other = running if running is not run else None
        state = f"{run.name} {run.status}" if run else ""
        is_active = run is not None and run.status in (WAITING, RUNNING)
        label = "Stop" if run is running else "Remove from the queue"
        head = (
            views.render_status(run, self.queue, self.formatter),
            gr.Button(label, visible=is_active),
            views.render_running(other, self.formatter),
        )
        result = (gr.skip(),) * 9 if state == shown_state else self._show_result(run)
        return (*head, *result, state, run.name if run else None)

    def _show_result(self, run: Run | None) -> Updates:
        manifest = run.manifest() if run else None
        if run is None or manifest is None:
            return (gr.Column(visible=False), *(gr.skip(),) * 8)
        last, has_clip = manifest["frames"] - 1, run.kind == KEEP
        at = middle_changed_frame(manifest)
        # The manifest names folders of this machine.
        manifests = [] if self.formatter.hides_paths else [f"{run.output}.json"]
        files = [str(run.output)] * has_clip + manifests
        side, strip = (views.path_if_exists(run.folder / name) for name in (SIDE_BY_SIDE, STRIP))
        return (
            gr.Column(visible=True),
            keep_views.render_report(manifest, self.formatter),
            gr.Column(visible=has_clip),
            gr.Slider(0, max(1, last), value=at, step=1),
            self._compare_frames(run.name, at),
            side,
            gr.Image(strip, label="Change and result" if has_clip else "Source and edited clip"),
            gr.File(files, visible=bool(files)),
            self.formatter.strip_folders(manifest),
        )

    def _compare_frames(self, name: str | None, at: int) -> tuple[ndarray, ...] | Any:
        """Return a frame of the source and of the result."""
        run = self._find_run(name)
        if run is None or run.status != DONE or run.kind != KEEP:
            return gr.skip()
        with self.formatter.capture_errors({}):  # the source may have been removed since
            return tuple(self._read_frame(clip, at) for clip in (run.source, run.output))
        return gr.skip()

    def _read_frame(self, path: Any, at: int) -> ndarray:
        return form_task.read_display_frame(video.probe(path), at, self.queue)

    def _correct_outputs(self) -> list[Component | gr.Column]:
        form = self.form
        painted = form.painter.components()
        return [self.message, form.mask_source, *form.mask_parts(), *painted]

    def _correct_mask(self, name: str | None, at: int, *values: Any) -> Updates:
        """Open a frame of the result's source, with the change marked, to paint on."""
        messages: dict[str, str] = {}
        with self.formatter.capture_errors(messages):
            run, source = self._find_run(name), self.form.open_source(values)
            shown = marked_source(run, source)
            painted = self.form.painter.show_clip(source, int(at), shown)
            return "", BRUSH, *show_mask_parts(BRUSH), *painted
        return messages["error"], *(gr.skip(),) * (len(self._correct_outputs()) - 1)


def middle_changed_frame(manifest: dict[str, Any]) -> int:
    """Return the frame in the middle of those that changed, or of all."""
    frames = manifest["report"]["mask"]["frames"] or [0, manifest["frames"]]
    return sum(frames) // 2


def marked_source(run: Run | None, source: video.Clip) -> video.Clip:
    """Return the clip of a run's source with the change marked. Raise UserError where the form has another source."""
    if run is None or not (run.folder / MASK_CLIP).exists():
        raise UserError("there is no mask to correct", "put the change back first")
    marked = video.probe(run.folder / MASK_CLIP)
    if (marked.frames, marked.size) != (source.frames, source.size):
        raise UserError(
            f"{source.path.name} is not the source of this result",
            "choose the result's own source in the form, then correct the mask",
        )
    return marked

"""Stop runs: the page's own at once, another page's after a question."""

from typing import Any

import gradio as gr
from gradio.components import Component

from . import views
from .form import QUIET
from .messages import MessageFormatter
from .queue import RunQueue


class StopQuestion:
    """The question whether to stop a run that was started on another page. prefix: of the widgets' ids."""

    def __init__(self, queue: RunQueue, formatter: MessageFormatter, prefix: str = ""):
        self.queue, self.formatter = queue, formatter
        self.pending = gr.State(None)  # the name of the run that the user is asked about
        with gr.Group(visible=False) as self.group:
            self.text = gr.HTML(elem_id=f"{prefix}question", padding=True)
            with gr.Row():
                self.yes = gr.Button("Yes, stop it", variant="stop", elem_id=f"{prefix}yes")
                self.no = gr.Button("No", elem_id=f"{prefix}no")

    def wire(self, button: gr.Button, name: Component, own_runs: Component) -> None:
        """Let a button stop the run of a name. own_runs: the names of the runs that need no question."""
        button.click(self._request, [name, own_runs], self._outputs(), **QUIET)

    def wire_running(self, button: gr.Button, own_runs: Component) -> None:
        """Let a button stop the current run."""
        button.click(self._request_running, own_runs, self._outputs(), **QUIET)

    def wire_answers(self) -> None:
        """Connect the question's own buttons."""
        self.yes.click(self._confirm, self.pending, self._outputs(), **QUIET)
        self.no.click(_hide, None, self._outputs(), **QUIET)

    def _outputs(self) -> list[Component | gr.Group]:
        return [self.group, self.text, self.pending]

    def _request(self, name: str | None, own_runs: list[str]) -> tuple[Any, ...]:
        """Stop a run of this page; ask about another page's run."""
        run = self.queue.runs_by_name.get(name or "")
        if run and name not in own_runs:
            title = self.formatter.to_html(views.run_title(run))
            question = f"{title}: this run was started on another page. Stop it?"
            return gr.Group(visible=True), question, name
        if run:
            self.queue.cancel(run)
        return _hide()

    def _request_running(self, own_runs: list[str]) -> tuple[Any, ...]:
        run = self.queue.running_run()
        return self._request(run.name, own_runs) if run else _hide()

    def _confirm(self, name: str | None) -> tuple[Any, ...]:
        return self._request(name, [name or ""])


def _hide() -> tuple[Any, ...]:
    """Hide the question."""
    return gr.Group(visible=False), "", None

"""What all commands share: errors and their exit codes, notices, progress bars, key=value pairs, and all output."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from ..base.errors import MissingDependencyError, OutOfMemoryError, UserError, was_interrupted
from ..base.exit_codes import (
    BAD_INPUT,
    CANCELLED,
    FAILED,
    MISSING,
    NO_MEMORY,
    OUT_OF_MEMORY,
    PATH_ERRORS,
    format_duration,
    format_os_error,
    sanitize,
)
from ..base.memory import is_out_of_memory
from ..base.notices import Notice

Report = Callable[[str, int, int], None]  # stage, done, count
SECONDS_BETWEEN_LINES = 10.0  # of progress without a terminal
screen = Console(stderr=True)


def print_line(text: object) -> None:
    """Print a line on standard error as it is: without markup, colours and line breaks."""
    screen.print(sanitize(text), highlight=False, soft_wrap=True, markup=False)


def print_notice(text: object) -> None:
    _print_with_label("[yellow]note:[/]", text)


def print_wrote(text: object) -> None:
    _print_with_label("[green]wrote[/]", text)


def print_link(text: object) -> None:
    _print_with_label("[green]open[/]", text)


def _print_with_label(label: str, text: object) -> None:
    screen.print(f"{label} {escape(sanitize(text))}", highlight=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table on standard output. columns: its head; empty for a table without one."""
    from rich.table import Table

    head = bool(columns)
    table = Table(*columns, title=title or None, title_justify="left", show_header=head)
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Report an error that a user can cause in one line, with its exit code. Any other error is a bug and keeps its
    traceback.
    """
    try:
        with show_notices(), handle_signals():
            yield
            sys.stdout.flush()  # a broken pipe shows here, not while Python ends
    except MissingDependencyError as error:
        exit_with_error(error, MISSING)
    except KeyboardInterrupt as error:
        exit_cancelled(error)
    except BrokenPipeError:  # the reader of our output has enough of it
        discard_output()
        raise typer.Exit(FAILED) from None
    except UserError as error:
        exit_with_error(error, BAD_INPUT)
    except Exception as error:
        _report_library_error(error)
        raise


def _report_library_error(error: Exception) -> None:
    """Report an interrupt, or memory that ran out, which libraries wrap in errors of their own, and a system error."""
    if was_interrupted(error):
        exit_cancelled(KeyboardInterrupt())
    if is_out_of_memory(error):
        is_ours = isinstance(error, OutOfMemoryError)
        exit_with_error(error if is_ours else OUT_OF_MEMORY, NO_MEMORY)
    if isinstance(error, OSError):
        code = BAD_INPUT if error.errno in PATH_ERRORS else FAILED
        exit_with_error(format_os_error(error), code)


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """Let a scheduler's SIGTERM and a closed terminal's SIGHUP end a command as Ctrl-C does, with everything saved."""
    signals = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    # Only the main thread gets signals. A signal that is ignored (nohup) or handled already stays as it is.
    is_main = threading.current_thread() is threading.main_thread()
    changed = [s for s in signals if s and is_main and signal.getsignal(s) is signal.SIG_DFL]
    try:
        for number in changed:
            signal.signal(number, _interrupt)
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _interrupt(number: int, _frame: object) -> None:
    # A second signal must not end the saving that the first one began.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def print_resume_hint(can_resume: Callable[[], bool]) -> Iterator[None]:
    """Print how to resume after a stop or a failure that left saved progress. Wrap `report_errors` in it."""
    try:
        yield
    except typer.Exit as error:
        if error.exit_code in (FAILED, NO_MEMORY, CANCELLED) and can_resume():
            print_line(f"resume with: {rerun_command('--resume')}")
        raise


def rerun_command(*extra: str) -> str:
    """Return the running command as it would be typed again."""
    arguments = [a for a in sys.argv[1:] if a not in extra]
    return shlex.join(["holdfast", *arguments, *extra])


def discard_output() -> None:
    """Send what is still to be printed nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def show_notices() -> Iterator[None]:
    """Show our own warnings as notices, each once. Hide warnings and logs of libraries, which are for developers."""
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", Notice)
            warnings.showwarning = _show_once()
            yield
    finally:
        logging.disable(logging.NOTSET)


def _show_once() -> Callable[..., None]:
    """Return a function that prints a warning the first time."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: object) -> None:
        if str(message) not in seen:
            print_notice(message)
        seen.add(str(message))

    return show


def exit_with_error(message: object, code: int) -> NoReturn:
    _print_with_label("[red]error:[/]", message)
    raise typer.Exit(code)


def exit_cancelled(error: KeyboardInterrupt) -> NoReturn:
    screen.print(str(error) or "stopped", highlight=False)
    raise typer.Exit(CANCELLED)


@contextlib.contextmanager
def show_progress(quiet: bool) -> Iterator[Report]:
    """Show progress as bars with the time left, one for each stage, or as lines where there is no terminal. Yield the
    function that moves it.
    """
    if quiet:
        yield lambda stage, done, count: None
    elif screen.is_terminal:
        yield from _bars()
    else:
        yield ProgressLines()


def _bars() -> Iterator[Report]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    counted = (TextColumn("{task.description:>21}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*counted, *times, console=screen, speed_estimate_period=3600.0) as bars:
        tasks = {}

        def report(stage: str, done: int, count: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(_stage_name(stage), total=count)
            bars.update(tasks[stage], completed=done, total=count)

        yield report


class ProgressLines:
    """Progress for a log: a line when a stage ends, and one every ten seconds while it lasts."""

    def __init__(self, show: Callable[[str], None] = print_line):
        self.show = show
        self.stage, self.stage_start, self.last_line, self.first = "", time.monotonic(), 0.0, 0

    def __call__(self, stage: str, done: int, count: int) -> None:
        now = time.monotonic()
        if stage != self.stage:
            # The first report of a stage comes when its first part is done: the stage began when the last one ended.
            self.stage, self.last_line, self.first = stage, now, done - 1
        spent = now - self.stage_start
        if done == count:
            self.show(f"{_stage_name(stage)}: {count} of {count}, {format_duration(spent)}")
            self.stage_start, self.last_line = now, now
        elif now - self.last_line >= SECONDS_BETWEEN_LINES and done > self.first:
            left = format_duration(spent / (done - self.first) * (count - done))
            self.show(f"{_stage_name(stage)}: {done} of {count}, about {left} left")
            self.last_line = now


def _stage_name(stage: str) -> str:
    from ..pipeline.summary import stage_name

    return stage_name(stage)


def parse_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Return texts "key=value" as a dict. Raise UserError for a text without "="."""
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--set {pair} has no value", "write it as --set key=value")
    return dict(pair.split("=", 1) for pair in pairs)

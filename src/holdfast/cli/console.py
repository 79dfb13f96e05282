"""What all commands of the command line share: exit codes, notes, progress bars, key=value pairs."""

import contextlib
import logging
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..base.errors import Missing, UserError, was_interrupted
from ..base.exit_codes import (
    BAD_INPUT,
    CANCELLED,
    FAILED,
    LESS,
    MISSING,
    NAMES,
    NO_MEMORY,
    duration,
    one_line,
    said,
)
from ..base.memory import ran_out
from ..base.notices import Notice
from ..pipeline.summary import stage_name

EVERY = 10.0  # seconds between two lines of progress, where it is lines
screen = Console(stderr=True)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what can go wrong for a user into one message and an exit code; everything else is
    a bug and shows itself.
    """
    try:
        with our_warnings(), stoppable():
            yield
            sys.stdout.flush()  # a broken pipe shows here, not while Python ends
    except Missing as error:
        fail(error, MISSING)
    except KeyboardInterrupt as error:
        stop(error)
    except BrokenPipeError:  # who read what we print has enough of it
        silence()
        raise typer.Exit(FAILED) from None
    except UserError as error:
        fail(error, BAD_INPUT)
    except (
        Exception
    ) as error:  # libraries have errors of their own for an interrupt, and for memory that ran out
        if was_interrupted(error):
            stop(KeyboardInterrupt())
        if ran_out(error):
            fail(LESS, NO_MEMORY)
        if not isinstance(error, OSError):
            raise
        fail(said(error), BAD_INPUT if error.errno in NAMES else FAILED)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A scheduler's SIGTERM and a closed terminal's SIGHUP end a command as Ctrl-C does, with everything saved."""
    signals = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")]
    # Signals come to the main thread alone; one that somebody ignores (nohup) or handles stays as it is.
    free = threading.current_thread() is threading.main_thread()
    changed = [s for s in signals if s and free and signal.getsignal(s) is signal.SIG_DFL]
    try:
        for number in changed:
            signal.signal(number, _stop)
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, _frame) -> None:
    # A second one must not end the saving that the first began.
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def going_on(can: Callable[[], bool]) -> Iterator[None]:
    """Around `exit_codes`: say how to go on after a stop or a failure, where there is something to go on from."""
    try:
        yield
    except typer.Exit as error:
        if error.exit_code in (FAILED, NO_MEMORY, CANCELLED) and can():
            again = f"go on with: {command('--resume')}"
            screen.print(again, highlight=False, soft_wrap=True, markup=False)
        raise


def command(*extra: str) -> str:
    """The command that is running, to be typed again."""
    arguments = [a for a in sys.argv[1:] if a not in extra]
    return shlex.join(["holdfast", *arguments, *extra])


def silence() -> None:
    """Let what is still to be printed go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def our_warnings() -> Iterator[None]:
    """Show Holdfast's own warnings as notes, each once; a library's, and what it logs, are for developers."""
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
    """Shows a note the first time that it is given."""
    shown: set[str] = set()

    def show(message: Warning, *_) -> None:
        text = str(message)
        if text not in shown:
            shown_text = escape(one_line(text))
            screen.print(f"[yellow]note:[/] {shown_text}", highlight=False, soft_wrap=True)
        shown.add(text)

    return show


def fail(message: object, code: int) -> None:
    screen.print(f"[red]error:[/] {escape(one_line(message))}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def stop(error: KeyboardInterrupt) -> None:
    screen.print(str(error) or "stopped", highlight=False)
    raise typer.Exit(CANCELLED)


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """How far a command is: bars with the time left, one for each stage, and plain lines where there is no terminal.
    Yields the function that moves them.
    """
    if quiet:
        yield lambda stage, done, count: None
    elif screen.is_terminal:
        yield from _bars()
    else:
        yield Lines()


def _bars() -> Iterator[Callable[[str, int, int], None]]:
    counted = (TextColumn("{task.description:>21}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *counted,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
        speed_estimate_period=3600.0,
    ) as bars:
        known: dict[str, int] = {}

        def report(stage: str, done: int, count: int) -> None:
            if stage not in known:
                known[stage] = bars.add_task(stage_name(stage), total=count)
            bars.update(known[stage], completed=done, total=count)

        yield report


class Lines:
    """Progress for a log: a line when a stage ends, and one every now and then while it lasts."""

    def __init__(self, show: Callable[[str], None] | None = None):
        self.show = show or _plain
        self.stage, self.begun, self.told, self.first = "", time.monotonic(), 0.0, 0

    def __call__(self, stage: str, done: int, count: int) -> None:
        now = time.monotonic()
        if stage != self.stage:
            # What is told first is told after it was done: the stage began when the last one ended.
            self.stage, self.told, self.first = stage, now, done - 1
        spent = now - self.begun
        if done == count:
            self.show(f"{stage_name(stage)}: {count} of {count}, {duration(spent)}")
            self.begun, self.told = now, now
        elif now - self.told >= EVERY and done > self.first:
            left = spent / (done - self.first) * (count - done)
            self.show(f"{stage_name(stage)}: {done} of {count}, about {duration(left)} left")
            self.told = now


def _plain(text: str) -> None:
    screen.print(text, highlight=False, soft_wrap=True, markup=False)


def settings_of(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--set takes key=value, not {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)

"""What all commands of the command line share: exit codes, notes, progress bars, key=value pairs."""

import contextlib
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

from .notes import Notice

BAD_INPUT, MISSING, NO_MEMORY, CANCELLED = 2, 3, 4, 130
screen = Console(stderr=True)


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what can go wrong for a user into one message and an exit code; everything else is
    a bug and shows itself.
    """
    from .registry import Missing

    try:
        with our_warnings():
            yield
    except Missing as error:
        fail(error, MISSING)
    except KeyboardInterrupt as error:
        fail(str(error) or "stopped", CANCELLED)
    except (
        ValueError,
        FileNotFoundError,
        PermissionError,
        IsADirectoryError,
        NotADirectoryError,
    ) as error:
        fail(error, BAD_INPUT)
    except OSError as error:
        fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        fail(
            "out of memory; fewer --frames, a smaller model, or --dtype bfloat16 would need less",
            NO_MEMORY,
        )


@contextlib.contextmanager
def our_warnings() -> Iterator[None]:
    """Show Holdfast's own warnings as notes, each once; a library's are for developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Notice)
        warnings.showwarning = _show_once()
        yield


def _show_once() -> Callable[..., None]:
    """Shows a note the first time that it is given."""
    shown: set[str] = set()

    def show(message: Warning, *_) -> None:
        text = str(message)
        if text not in shown:
            screen.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)
        shown.add(text)

    return show


def out_of_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError)
        or "out of memory" in str(error)
        or "not enough memory" in str(error)
    )


def fail(message: object, code: int) -> None:
    screen.print(f"[red]error:[/] {escape(str(message))}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def shown_progress(quiet: bool) -> Iterator:
    """Bars with the time left, one for each stage; yields the function that moves them."""
    counted = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *counted,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
        disable=quiet,
        speed_estimate_period=3600.0,
    ) as bars:
        known: dict[str, int] = {}

        def report(stage: str, done: int, count: int) -> None:
            if stage not in known:
                known[stage] = bars.add_task(stage, total=count)
            bars.update(known[stage], completed=done, total=count)

        yield report


def settings_of(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set takes key=value, not {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)

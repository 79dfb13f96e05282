"""Notices: what a user should know about a run and cannot see in its result. The manifest keeps them."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar


class Notice(UserWarning):
    """A warning for the user, not for developers."""


PACKAGE = __name__.partition(".")[0]
_collecting: ContextVar[list[str] | None] = ContextVar("collecting", default=None)


def warn_user(text: str) -> None:
    """Give the user a notice: an event of the running edit, which its manifest keeps; outside an edit, a warning."""
    collected = _collecting.get()
    if collected is None:
        warnings.warn(text, Notice, stacklevel=_caller_level())
    else:
        collected.append(text)


def _caller_level() -> int:
    """Return the `stacklevel` at which a warning of `warn_user` names the first line outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == PACKAGE:
        level, frame = level + 1, frame.f_back
    return level


@contextlib.contextmanager
def collect_notices() -> Iterator[list[str]]:
    """Collect the notices of a block instead of showing warnings."""
    texts: list[str] = []
    token = _collecting.set(texts)
    try:
        yield texts
    finally:
        _collecting.reset(token)


def with_notices(events: Generator, wrap: Callable[[str], object]) -> Generator:
    """Yield the same events, and the notices of each one before it, as `wrap(text)`; also before an error.

    Notices are collected only while the events themselves run, and separately in each thread.
    """
    try:
        while True:
            collected: list[str] = []
            failure, event, ended = None, None, False
            token = _collecting.set(collected)
            try:
                event = next(events)
            except StopIteration:
                ended = True
            except BaseException as error:  # also Ctrl-C: the notices until then come first
                failure = error
            finally:
                _collecting.reset(token)
            for text in collected:
                yield wrap(text)
            if failure is not None:
                raise failure
            if ended:
                return
            yield event
    finally:
        events.close()

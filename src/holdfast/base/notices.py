"""Notes: what a user should know of a run and would not see in its result. They are shown, and kept in the manifest."""

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator
from contextvars import ContextVar


class Notice(UserWarning):
    """A warning of Holdfast's own, meant for a user and not for a developer."""


_collecting: ContextVar[list[str] | None] = ContextVar("collecting", default=None)


def warn_user(text: str) -> None:
    """Tell the user: in an edit as one of its events, and so in its manifest; elsewhere as a warning."""
    collected = _collecting.get()
    if collected is None:
        warnings.warn(text, Notice, stacklevel=3)
    else:
        collected.append(text)


@contextlib.contextmanager
def collect_notices() -> Iterator[list[str]]:
    """What is noted within the block, in place of warnings."""
    texts: list[str] = []
    token = _collecting.set(texts)
    try:
        yield texts
    finally:
        _collecting.reset(token)


def with_notices(events: Generator, wrap: Callable[[str], object]) -> Generator:
    """The same events; what each of them gave note of comes before it, as `wrap(text)`, also before an error.

    Notes are collected only while the events themselves run, and by each thread for itself.
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
            except BaseException as error:  # also Ctrl-C: what was noted until then is told first
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

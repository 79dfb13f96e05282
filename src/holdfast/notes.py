"""Notes: what a user should know of a run and would not see in its result. They are shown, and kept in the manifest."""

import warnings
from collections.abc import Generator


class Notice(UserWarning):
    """A warning of Holdfast's own, meant for a user and not for a developer."""


def note(text: str) -> None:
    """Warn the user: in Python as a warning, on the command line as a note, in an edit's manifest under `notes`."""
    warnings.warn(text, Notice, stacklevel=3)


def gathered(events: Generator, wrap: type) -> Generator:
    """The same events; what each of them gave notice of comes before it, as `wrap(text)`.

    Only while the events themselves run are notices caught: a generator that waits changes nothing for others.
    """
    ended = object()
    event = None
    try:
        while event is not ended:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", Notice)
                event = next(events, ended)
            for warning in caught:
                if issubclass(warning.category, Notice):
                    yield wrap(str(warning.message))
                else:
                    warnings.showwarning(
                        warning.message, warning.category, warning.filename, warning.lineno
                    )
            if event is not ended:
                yield event
    finally:
        events.close()

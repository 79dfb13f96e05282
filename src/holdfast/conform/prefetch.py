"""Compute the items of an iterator ahead in a thread: decoding and arithmetic then use different cores."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
AHEAD = 3  # items
POLL = 0.1  # seconds between checks whether items are still wanted


def prefetch(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield the same items. An error of the iterator is raised where its item would come. Closing stops the thread."""
    ready: queue.Queue[tuple[str, object]] = queue.Queue(AHEAD)
    is_closed = threading.Event()

    def put(kind: str, value: object) -> bool:
        while not is_closed.is_set():
            try:
                ready.put((kind, value), timeout=POLL)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:  # it belongs to the thread that asks for items
            put("error", error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # pyright: ignore[reportReturnType]  # only items are put under this name
    finally:
        is_closed.set()
        thread.join()

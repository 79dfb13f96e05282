"""The stages of a command: how long each takes, and how far it is."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from .events import ProgressCallback

Item = TypeVar("Item")


class StageTimer:
    """Measure the seconds of each stage. The time since the last lap counts for the stage that a lap names."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = time.perf_counter()

    def restart(self) -> None:
        """Let the time since the last lap count for no stage."""
        self.began = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Let the time since the last lap count for a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.began
        self.began = now


def report_items(
    items: Iterable[Item], stage: str, count: int, on_progress: ProgressCallback | None
) -> Iterator[Item]:
    """Yield the same items, and report how many of a stage's `count` have passed."""
    for done, item in enumerate(items, 1):
        yield item
        if on_progress:
            on_progress(stage, done, count)

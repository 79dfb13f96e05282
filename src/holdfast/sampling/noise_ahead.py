"""Noise that is drawn one step ahead, in a thread, so that a GPU does not wait for a CPU's random numbers.

Noise depends on its key alone. So what was drawn ahead is what would be drawn later, whoever asks for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

MAX_AHEAD = 8  # noises that wait: 67 MB at 832x480 and 81 frames


@dataclass(frozen=True)
class NoiseKey:
    """What a noise is drawn from. is_pinned: in memory from which a GPU copies by itself."""

    shape: tuple[int, ...]  # b c f h w
    seed: int
    step: int
    repeat: int
    is_pinned: bool = False
    first_frame: int = 0

    @property
    def series(self) -> tuple[tuple[int, ...], int]:
        """The noises that one loop draws step by step."""
        return self.shape, self.seed


Draw: TypeAlias = "Callable[[NoiseKey], Tensor]"


class NoiseAhead:
    """Draws noise, and inside `run` also that of the next step of the same series, in a thread."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._lock = threading.Lock()
        self._users = 0
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: dict[NoiseKey, Future[Tensor]] = {}

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Draw ahead inside the block. At the end of the last such block the thread and its noise are gone."""
        with self._lock:
            self._users += 1
            self._pool = self._pool or ThreadPoolExecutor(1, "noise")
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                pool = None if self._users else self._pool
                if pool:
                    self._pool = None
                    self._ahead.clear()
            if pool:
                pool.shutdown(cancel_futures=True)

    def take(self, key: NoiseKey) -> Tensor:
        """Return the noise of a key. Raise what drawing it raises, in whatever thread."""
        with self._lock:
            future = self._ahead.pop(key, None)
            self._draw_next(key)
        if future is None or future.cancel():  # it is in the queue behind another one
            return self._draw(key)
        return future.result()

    def _draw_next(self, key: NoiseKey) -> None:
        """Drop noise that is no longer needed, and draw the noise of the next step."""
        if self._pool is None:
            return
        for known in list(self._ahead):
            if known.series != key.series or known.step < key.step:
                self._ahead.pop(known).cancel()
        following = replace(key, step=key.step + 1)
        if following not in self._ahead and len(self._ahead) < MAX_AHEAD:
            self._ahead[following] = self._pool.submit(self._draw, following)

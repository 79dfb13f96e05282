"""What was made last is kept, and no more than that: a batch of a thousand prompts holds 32 of them."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

KEPT = 32
K, V = TypeVar("K", bound=Hashable), TypeVar("V")


def recall(known: dict[K, V], keys: Sequence[K], make: Callable[[list[K]], Iterable[V]]) -> list[V]:
    """Return the value of each key; make those that are not known in one call, and keep the KEPT that were used last.

    known: in the order of use, the oldest first.
    """
    new = [key for key in dict.fromkeys(keys) if key not in known]
    if new:
        known |= zip(new, make(new), strict=True)
    values = [known[key] for key in keys]
    for key in dict.fromkeys(keys):
        known[key] = known.pop(key)
    for key in list(known)[:-KEPT]:
        del known[key]
    return values

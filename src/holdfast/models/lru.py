"""Keep the values that were used last, and no more: a batch of a thousand prompts holds 32 of them."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

CAPACITY = 32
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def get_or_make(
    cache: dict[K, V], keys: Sequence[K], make: Callable[[list[K]], Iterable[V]]
) -> list[V]:
    """Return the value of each key, and keep the CAPACITY values that were used last.

    make: makes the values of all missing keys in one call. cache: in the order of use, the oldest first.
    """
    new = [key for key in dict.fromkeys(keys) if key not in cache]
    if new:
        cache |= zip(new, make(new), strict=True)
    values = [cache[key] for key in keys]
    for key in dict.fromkeys(keys):
        cache[key] = cache.pop(key)
    for key in list(cache)[:-CAPACITY]:
        del cache[key]
    return values

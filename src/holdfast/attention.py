"""The one door to attention: read or replace what q, k and v make at chosen sites and calls, inside a `with` block, always restored.

    with attention.edit(field, rule, where=lambda site: site.kind == "cross" and site.branch == "tgt+"):
        field.velocity(...)

Shapes: q b heads N d; k and v b heads L d (L = N in self-attention). N runs over frames, rows, columns of the site's token grid.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Site:
    """One attention operation of one call of the network."""

    layer: int  # from 0
    kind: str  # self | cross
    axis: str  # joint (all tokens of the clip) | spatial | temporal
    grid: tuple[int, int, int]  # of the query tokens: frames, rows, columns
    first: int  # the clip's latent frame that the grid begins with: not 0 in a later window
    branch: str  # src+ | src- | tgt+ | tgt-


Where = Callable[[Site], bool]
Rule = Callable[[Site, Tensor, Tensor, Tensor], Tensor | None]  # the attention's output b heads N d, or None to leave it alone


class Door:
    """A backbone's rules in force. Its adapter mounts processors that ask it while there are any, and says which call is on."""

    def __init__(self, mount: Callable[[], None], unmount: Callable[[], None], layers: int):
        self.mount, self.unmount, self.layers = mount, unmount, layers
        self.rules: list[tuple[Where, Rule]] = []
        self.branch, self.grid, self.first = "", (0, 0, 0), 0  # of the call that is on

    def site(self, layer: int, kind: str, axis: str) -> Site:
        return Site(layer, kind, axis, self.grid, self.first, self.branch)

    @torch.compiler.disable
    def wants(self, site: Site) -> bool:
        return any(where(site) for where, _ in self.rules)

    @torch.compiler.disable  # a compiled network pauses here: a rule is ordinary Python
    def ask(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """The output of the rule put in force last that gives one."""
        for where, rule in reversed(self.rules):
            if where(site):
                output = rule(site, q, k, v)
                if output is not None:
                    return output
        return None

    @contextlib.contextmanager
    def window(self, first: int) -> Iterator[None]:
        """Calls inside are of a window that begins with this latent frame."""
        before, self.first = self.first, first
        try:
            yield
        finally:
            self.first = before


def everywhere(site: Site) -> bool:
    return True


@contextlib.contextmanager
def edit(field, rule: Rule, where: Where = everywhere) -> Iterator[None]:
    """Let a rule replace attention where `where` holds. Everything else, and where the rule returns None, runs as it always does."""
    door, entry = field.door, (where, rule)
    if not door.rules:
        door.mount()
    door.rules.append(entry)
    try:
        yield
    finally:
        door.rules.remove(entry)
        if not door.rules:
            door.unmount()


@contextlib.contextmanager
def record(field, where: Where = everywhere) -> Iterator[dict[Site, tuple[Tensor, Tensor, Tensor]]]:
    """Collect (q, k, v) by site. Nothing is copied: keep what you need and let go of the rest."""
    found: dict[Site, tuple[Tensor, Tensor, Tensor]] = {}

    def keep(site: Site, q: Tensor, k: Tensor, v: Tensor) -> None:
        found[site] = (q, k, v)

    with edit(field, keep, where):
        yield found


def blocks(count: int, row: int, most: int = 2**22) -> int:
    """How many of `count` rows of `row` numbers each to hold at once: at most `most` numbers (16 MB in float32)."""
    return max(1, min(count, most // max(1, row)))


def share(q: Tensor, k: Tensor, columns: Tensor) -> Tensor:
    """How much each query attends to some keys: softmax probability, mean over those keys and over heads, N, in float32.

    Worked out in blocks of queries; the whole map is never held.
    """
    scale = q.shape[-1] ** -0.5
    size = blocks(q.shape[2], q.shape[1] * k.shape[2])
    parts = [(r.float() @ k.float().mT * scale).softmax(-1)[..., columns].mean((0, 1, 3)) for r in q.split(size, dim=2)]
    return torch.cat(parts)


def assembled(parts: list[tuple[int, Tensor]]) -> Tensor:
    """Maps of windows, each 1 1 f h w from its first latent frame on, as one of the whole clip: their mean where they overlap."""
    frames = max(first + m.shape[2] for first, m in parts)
    shape = (1, 1, frames, *parts[0][1].shape[3:])
    total, count = (torch.zeros(shape, device=parts[0][1].device) for _ in range(2))
    for first, part in parts:
        total[:, :, first : first + part.shape[2]] += part
        count[:, :, first : first + part.shape[2]] += 1
    return total / count

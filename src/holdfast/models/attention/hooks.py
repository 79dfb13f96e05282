"""The one door to attention: read or replace what q, k and v make at chosen sites and calls, inside a `with` block,
always restored.

    with attention.edit(field, rule, where=lambda site: site.kind == "cross" and site.branch == "tgt+"):
        field.velocity(...)

Shapes: q B heads N d; k and v B heads L d (L = N in self-attention). What the batch B and the tokens N run over is the
site's affair: `site.map` and `site.tokens` know it, a rule need not.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Call:
    """One evaluation of the network."""

    branch: str  # src+ | src- | tgt+ | tgt-
    frames: tuple[int, ...]  # the latent frames of the clip that it is about, not always contiguous
    size: tuple[int, int]  # rows and columns of the latent
    batch: int = 1


@dataclass(frozen=True)
class Site:
    """One attention operation, or one residual block's output, of one call of the network."""

    path: str  # of the module in the network
    place: str  # down | mid | up | block
    layer: int  # its number among those of its kind and axis, from the input on
    kind: str  # self | cross | residual
    axis: str  # joint (all tokens of the clip) | spatial (those of a frame) | temporal (those of a place)
    # what the call's tokens make up in all: frames, rows, columns
    grid: tuple[int, int, int] = (0, 0, 0)
    frames: tuple[int, ...] = ()  # the clip's latent frames that the grid is about, one a row of it
    scale: int = 1  # latent cells per token, along a side
    branch: str = ""
    # of a cross-attention's keys, those that are text tokens: first, end
    text: tuple[int, int] = (0, 0)

    def map(self, x: Tensor) -> Tensor:
        """A value per query token, B N, to b 1 f h w on the site's grid."""
        f, h, w = self.grid
        if self.axis == "temporal":  # B runs over places
            return x.reshape(-1, h, w, f).permute(0, 3, 1, 2)[:, None]
        return x.reshape(-1, 1, f, h, w)  # joint: N runs over all; spatial: B runs over frames

    def tokens(self, x: Tensor) -> Tensor:
        """The inverse of `map`: b 1 f h w on the site's grid to a value per query token, B N."""
        b, _, f, h, w = x.shape
        if self.axis == "temporal":
            return x[:, 0].permute(0, 2, 3, 1).reshape(b * h * w, f)
        if self.axis == "spatial":
            return x.reshape(b * f, h * w)
        return x.reshape(b, f * h * w)

    def covered(self, mask: Tensor) -> Tensor:
        """The tokens of which a mask of the whole clip, 1 1 f h w, covers any part: B N, boolean."""
        part = mask[:, :, list(self.frames)].float()
        return self.tokens(functional.adaptive_max_pool3d(part, self.grid)) > 0

    def columns(self, words: Sequence[int], device=None) -> Tensor:
        """Which keys some tokens of the prompt are: their positions, wherever the text stands."""
        return torch.tensor([self.text[0] + w for w in words], device=device, dtype=torch.long)


Where = Callable[[Site], bool]
# the output B heads N d, or None: leave it alone
Rule = Callable[[Site, Tensor, Tensor, Tensor], Tensor | None]


class Door:
    """A network's rules in force. Its adapter mounts what asks it while there are any, and says which call is on.

    mount: puts the asking in place and returns what takes it out again. sites: what can be asked about, without a
    call's part.
    """

    def __init__(self, mount: Callable[["Door"], Callable[[], None]], sites: Sequence[Site]):
        self.mount, self.sites = mount, tuple(sites)
        self.rules: list[tuple[Where, Callable]] = []
        self.call: Call | None = None
        self.unmount: Callable[[], None] = lambda: None

    def layers(self, kind: str, axis: str) -> int:
        """How many layers there are of a kind along an axis."""
        return sum(site.kind == kind and site.axis == axis for site in self.sites)

    @contextlib.contextmanager
    def calling(self, call: Call) -> Iterator[None]:
        """Evaluations inside are of this call."""
        before, self.call = self.call, call
        try:
            yield
        finally:
            self.call = before

    @torch.compiler.disable
    def at(self, site: Site, rows: int, columns: int, text: tuple[int, int] = (0, 0)) -> Site:
        """A site as the call that is on meets it, with its token grid."""
        call = self.call
        scale = -(-call.size[0] // rows)
        grid = (len(call.frames), rows, columns)
        return replace(
            site, grid=grid, frames=call.frames, scale=scale, branch=call.branch, text=text
        )

    @torch.compiler.disable
    def wants(self, site: Site) -> bool:
        return any(where(site) for where, _ in self.rules)

    @torch.compiler.disable  # a compiled network pauses here: a rule is ordinary Python
    def ask(self, site: Site, *tensors: Tensor) -> Tensor | None:
        """The output of the rule put in force last that gives one."""
        for where, rule in reversed(self.rules):
            if where(site):
                output = rule(site, *tensors)
                if output is not None:
                    return output
        return None

    @contextlib.contextmanager
    def ruled(self, rule: Callable, where: Where) -> Iterator[None]:
        """Have a rule in force inside, and everything as it was afterwards."""
        entry = (where, rule)
        if not self.rules:
            self.unmount = self.mount(self)
        self.rules.append(entry)
        try:
            yield
        finally:
            self.rules.remove(entry)
            if not self.rules:
                self.unmount()


def over(layers: Sequence[tuple[Site, Any]], asking: Callable[["Door", Site, Any], Any]) -> Door:
    """A door to layers that each have a `processor`. asking(door, site, stock) makes the one that stands in for it."""

    def mount(door: Door) -> Callable[[], None]:
        stock = [layer.processor for _, layer in layers]
        for site, layer in layers:
            layer.processor = asking(door, site, layer.processor)

        def unmount() -> None:
            for (_, layer), processor in zip(layers, stock, strict=True):
                layer.processor = processor

        return unmount

    return Door(mount, [site for site, _ in layers])


def everywhere(site: Site) -> bool:
    return True


def cross(site: Site) -> bool:
    """Where the prompt is looked at."""
    return site.kind == "cross"


def edit(field, rule: Rule, where: Where = everywhere) -> contextlib.AbstractContextManager[None]:
    """Let a rule replace attention where `where` holds. All else, and where it returns None, runs as it always does."""
    return field.door.ruled(rule, where)


@contextlib.contextmanager
def record(
    field, where: Where = everywhere, keep: Callable[..., Any] | None = None
) -> Iterator[dict[Site, Any]]:
    """Collect by site what `keep(site, q, k, v)` makes of each; without it (q, k, v) themselves, of which nothing is
    copied.
    """
    found: dict[Site, Any] = {}

    def look(site: Site, *tensors: Tensor) -> None:
        found[site] = keep(site, *tensors) if keep else tensors

    with edit(field, look, where):
        yield found


def size_of(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a layer's tokens: the latent's, halved (rounding up) until they are that many."""
    rows, columns = size
    while rows * columns > tokens:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != tokens:
        raise ValueError(f"{tokens} tokens are no halving of {size[0]}x{size[1]} latent cells")
    return rows, columns

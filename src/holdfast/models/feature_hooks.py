"""The door to what residual blocks put out: read or replace it at chosen sites and calls, inside a `with` block,
always restored.

A value is b c f h w on the site's grid, whatever layout the network has inside.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from .attention.hooks import Door, Site, Where, everywhere, size_of

Rule = Callable[[Site, Tensor], Tensor | None]  # the output b c f h w, or None: leave it alone


def edit(field, rule: Rule, where: Where = everywhere) -> contextlib.AbstractContextManager[None]:
    """Let a rule replace residual blocks' outputs where `where` holds. All else, and where it returns None, stays as
    it is.
    """
    return field.features.ruled(rule, where)


@contextlib.contextmanager
def record(
    field, where: Where = everywhere, keep: Callable[[Site, Tensor], Any] | None = None
) -> Iterator[dict[Site, Any]]:
    """Collect by site what `keep(site, x)` makes of each output; without it the output itself, of which nothing is
    copied.
    """
    found: dict[Site, Any] = {}

    def look(site: Site, x: Tensor) -> None:
        found[site] = keep(site, x) if keep else x

    with edit(field, look, where):
        yield found


def door_of(blocks: Sequence[tuple[Site, nn.Module]]) -> Door:
    """A door to the outputs of some modules: of images (b f) c h w, of clips b c f h w, or of tokens b N c."""

    def mount(door: Door) -> Callable[[], None]:
        handles = [module.register_forward_hook(_asking(door, site)) for site, module in blocks]

        def unmount() -> None:
            for handle in handles:
                handle.remove()

        return unmount

    return Door(mount, [site for site, _ in blocks])


def _asking(door: Door, site: Site) -> Callable:
    """A hook that gives a block's output to the door's rules, as b c f h w, and brings back what they make of it."""

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor | None:
        place = _met(door, site, output)
        if not door.wants(place):
            return None
        replaced = door.ask(place, _to_clip(place, output))
        return None if replaced is None else _from_clip(replaced, output)

    return hook


def _met(door: Door, site: Site, output: Tensor) -> Site:
    if output.dim() == 3:  # tokens of the whole clip
        tokens = output.shape[1] // len(door.call.frames)
        return door.at(site, *size_of(tokens, door.call.size))
    return door.at(site, *output.shape[-2:])


def _to_clip(site: Site, output: Tensor) -> Tensor:
    f, h, w = site.grid
    if output.dim() == 3:
        return output.transpose(1, 2).unflatten(2, (f, h, w))
    if output.dim() == 4:
        return output.unflatten(0, (-1, f)).transpose(1, 2)
    return output


def _from_clip(x: Tensor, output: Tensor) -> Tensor:
    if output.dim() == 3:
        return x.flatten(2).transpose(1, 2).to(output)
    if output.dim() == 4:
        return x.transpose(1, 2).flatten(0, 1).to(output)
    return x.to(output)

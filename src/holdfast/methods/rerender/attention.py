"""Attention to the first key frame and the one before, whose keys and values are kept for every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...base.lazy import functional, torch
from ...models.attention import hooks as attention
from ...sampling.field import VelocityField
from .settings import Config

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.attention.hooks import Layer

State = dict[str, "Tensor"]
LOOSE_CHANNELS = 1280  # layers with fewer channels count in the loose mode
FIRST, PREVIOUS, OWN = "first", "previous", "own"  # whose a value in the state is


def kept_name(owner: str, step: int, what: str) -> str:
    """Return the name in a step's state of what a key frame leaves for the same step of later ones."""
    return f"{owner}/{step}/{what}"


def find_kept(state: State, owner: str, step: int, what: str) -> Tensor:
    """Return what the first key frame or the previous one left. The first one is the previous of the second."""
    name = kept_name(owner, step, what)
    return state[name] if name in state else state[kept_name(FIRST, step, what)]


def pass_on(state: State, number: int) -> State:
    """Return the state after key frame `number`: what it left becomes the first's, or that of the previous one."""
    owner = FIRST if number == 0 else PREVIOUS
    own, first = f"{OWN}/", f"{FIRST}/"
    left = {f"{owner}/{k.removeprefix(own)}": v for k, v in state.items() if k.startswith(own)}
    return {k: v for k, v in state.items() if k.startswith(first)} | left


def is_decoder_self_attention(layer: Layer) -> bool:
    """Select self-attention over space in the U-Net's decoder; a ControlNet has none."""
    return layer.kind == "self" and layer.axis == "spatial" and layer.section == "up"


@contextlib.contextmanager
def see_key_frames(
    field: VelocityField, config: Config, state: State, step: int, is_first: bool
) -> Iterator[State]:
    """Let a key frame attend to the first one and the one before inside the block. Yield its own keys and values.

    They are collected while the block runs, by their names in the state. The first key frame attends to itself.
    """
    kept: State = {}

    def rule(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if config.attention == "loose" and q.shape[1] * q.shape[3] >= LOOSE_CHANNELS:
            return None
        what = f"{layer.branch}/{layer.path}"
        kept[kept_name(OWN, step, what)] = torch.stack((k, v))
        if is_first:
            return None
        pairs = [find_kept(state, owner, step, what).to(k) for owner in (FIRST, PREVIOUS)]
        keys, values = torch.cat(pairs, 3)  # heads (2 N) d of both key frames
        return functional.scaled_dot_product_attention(q, keys, values)

    if config.attention == "own":
        yield kept
        return
    with attention.use_rule(field, rule, is_decoder_self_attention):
        yield kept

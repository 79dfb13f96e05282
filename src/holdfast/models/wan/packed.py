"""One pass of the Wan transformer for all branches of a step: the source in full, targets inside their region only.

The stock network runs once, on a batch of all branches. Before its first block their tokens are packed into one row: N
of each full branch and m of each target. The row ends behind the last layer, where a token has few channels. Norms,
modulation, projections and the feed-forward work on each token, and two attention processors do the rest. In
self-attention a target's queries see its own keys inside the region and those of its source outside, of the same layer
and step, so that nothing is stored beyond a layer. In cross-attention each branch sees its own text. Rules act on each
branch as if it ran alone, on the tokens that it has.

Where the region is everything this is the dense evaluation. Elsewhere the first block is exact, and the later ones
do not see what the edit does to the tokens outside (docs/speed.md has the error).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...base.lazy import disable_compiler
from ...sampling.field import (
    Evaluation,
    KeptEvaluation,
    confine_to_regions,
    find_lender,
    find_lenders,
)
from ..attention.hooks import Layer, LayerHooks, NetworkCall
from .hooks import HookedAttnProcessor, project


@dataclass(frozen=True)
class Part:
    """The tokens of one evaluation in the packed row.

    tokens: their indices into the token grid, None for all. span: where they stand in the row. lender: the part whose
    keys and values stand for the tokens that this one lacks, or what was kept of an evaluation that is not in the row.
    keys_values: its own of each layer, where they are to be kept; None: they are not.
    """

    call: NetworkCall
    tokens: Tensor | None
    span: slice
    lender: "Part | KeptEvaluation | None"
    keys_values: dict[str, tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Row:
    """The packed row of one pass. grid: frames, rows and columns of the network's tokens."""

    parts: tuple[Part, ...]
    grid: tuple[int, int, int]
    rotary: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of the row's tokens, once

    def pack(self, hidden: Tensor) -> Tensor:
        """Return the row, 1 R d, of the tokens of all parts, p N d."""
        rows = [
            hidden[i] if part.tokens is None else hidden[i].index_select(0, part.tokens)
            for i, part in enumerate(self.parts)
        ]
        return torch.cat(rows)[None]

    def unpack(self, row: Tensor) -> Tensor:
        """Return the tokens of all parts, p N d, of a row 1 R d; 0 where a part has none."""
        frames, rows, columns = self.grid
        whole = row.new_zeros(len(self.parts), frames * rows * columns, row.shape[2])
        for i, part in enumerate(self.parts):
            found = row[0, part.span]
            if part.tokens is None:
                whole[i] = found
            else:
                whole[i].index_copy_(0, part.tokens, found)
        return whole

    def rotary_of_row(self, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the rotary position codes of the row's tokens, 1 R 1 d each, of those of the grid."""
        if not self.rotary:
            cos, sin = (self.pack(x[:, :, 0].expand(len(self.parts), -1, -1)) for x in rotary)
            self.rotary.append((cos[:, :, None], sin[:, :, None]))
        return self.rotary[0]


def region_tokens(region: Tensor, patch: Sequence[int]) -> Tensor:
    """Return which tokens a region 1 1 f h w covers in any part, f h w on the token grid, boolean."""
    size = tuple(patch)
    return functional.max_pool3d(region.float(), size, size)[0, 0] > 0


def widen(evaluation: Evaluation, patch: Sequence[int]) -> Evaluation:
    """Return an evaluation whose region is whole patches."""
    if evaluation.region is None:
        return evaluation
    cells = region_tokens(evaluation.region, patch)
    for axis, size in enumerate(patch):
        cells = cells.repeat_interleave(size, axis)
    return replace(evaluation, region=cells[None, None])


def token_shares(evaluations: Sequence[Evaluation], patch: Sequence[int]) -> list[float]:
    """Return the share of the tokens at which each evaluation of one pass runs the network, which is its cost.

    All that a token costs (projections, feed-forward, attention to N keys) is in proportion to the number of tokens;
    only the keys and values of the text are not, 0.5 % of a layer at 7,800 tokens.
    """
    return [
        _token_share(evaluation, patch) if is_in_row(evaluations, i) else 0.0
        for i, evaluation in enumerate(evaluations)
    ]


def _token_share(evaluation: Evaluation, patch: Sequence[int]) -> float:
    if evaluation.region is None:
        return 1.0
    return region_tokens(evaluation.region, patch).float().mean().item()


def needs_source_again(evaluations: Sequence[Evaluation], i: int) -> bool:
    """Return whether a kept evaluation runs again, because a target needs keys and values that were not kept."""
    kept = evaluations[i].kept
    return i in find_lenders(evaluations) and not (kept and kept.keys_values)


def is_in_row(evaluations: Sequence[Evaluation], i: int) -> bool:
    """Return whether the network is run for an evaluation: not where its region is empty, or its velocity kept."""
    region = evaluations[i].region
    if region is not None and not region.any():
        return False
    return not evaluations[i].is_known or needs_source_again(evaluations, i)


def plan_row(
    evaluations: Sequence[Evaluation], call: NetworkCall, patch: Sequence[int]
) -> tuple[list[int], Row]:
    """Return the evaluations that the network is run for, and their row.

    call: the frames and the size of the latent. Full evaluations stand first, because targets borrow from them.
    """
    size = (len(call.frames), *call.latent_size)
    frames, rows, columns = (cells // p for cells, p in zip(size, patch, strict=True))
    count, begin = frames * rows * columns, 0
    device = evaluations[0].z.device
    parts: dict[int, Part] = {}
    for i in sorted(range(len(evaluations)), key=lambda i: evaluations[i].region is not None):
        evaluation = evaluations[i]
        if not is_in_row(evaluations, i):
            continue
        tokens = lender = None
        if evaluation.region is not None:
            inside = region_tokens(evaluation.region, patch).flatten()
            tokens = inside.nonzero().flatten().to(device, non_blocking=True)
            source = find_lender(evaluations, evaluation)
            lender = parts.get(source) or evaluations[source].kept
        end = begin + (count if tokens is None else len(tokens))
        own_call = replace(call, branch=evaluation.branch, tokens=tokens)
        keeps_layers = evaluation.kept is not None and evaluation.kept.keeps_layers
        layers = {} if keeps_layers else None
        parts[i] = Part(own_call, tokens, slice(begin, end), lender, layers)
        begin = end
    return list(parts), Row(tuple(parts.values()), (frames, rows, columns))


def evaluate_row(
    run: Callable[[Sequence[Evaluation]], Tensor],
    network: nn.Module,
    hooks: LayerHooks,
    call: NetworkCall,
    evaluations: Sequence[Evaluation],
    saves_memory: bool = False,
) -> list[Tensor]:
    """Return the velocity of each evaluation, b c f h w, from one pass of the network.

    run: runs the network on a batch of evaluations. hooks: those of its attention. call: the frames and the size of the
    latent. A source's result is kept where the evaluation says so. saves_memory: run the feed-forward layers, which
    take most of it, on as many tokens at a time as one branch has.
    """
    config: Any = network.config
    patch = config["patch_size"]
    indices, row = plan_row(evaluations, call, patch)
    found: dict[int, Tensor] = {}
    if indices:
        split = split_feed_forward(network, row) if saves_memory else contextlib.nullcontext()
        with use_row(network, hooks, row), split:
            fresh = run([evaluations[i] for i in indices]).split(1)
        found = dict(zip(indices, fresh, strict=True))
        _keep_layers(evaluations, indices, row)
    for i, evaluation in enumerate(evaluations):
        kept = evaluation.kept
        if kept and kept.velocity is None:
            kept.velocity = found[i].clone()  # a view would keep the whole pass in memory
        elif kept and kept.velocity is not None:
            found[i] = kept.velocity
    # Outside its region, and everywhere where that is empty, a velocity is the source's.
    complete = [
        found[i] if i in found else found[find_lender(evaluations, evaluation)]
        for i, evaluation in enumerate(evaluations)
    ]
    return confine_to_regions([widen(e, patch) for e in evaluations], complete)


def _keep_layers(evaluations: Sequence[Evaluation], indices: Sequence[int], row: Row) -> None:
    """Keep the keys and values of a pass that ran to its end: those of an interrupted one lack layers."""
    for i, part in zip(indices, row.parts, strict=True):
        kept = evaluations[i].kept
        if kept is not None and part.keys_values is not None:
            kept.keys_values = part.keys_values


class PackedAttnProcessor:
    """The attention of a layer on a packed row."""

    def __init__(self, row: Row, layer: Layer, hooks: LayerHooks, own: Any):
        self.row, self.layer, self.hooks = row, layer, hooks
        self.own = own.own if isinstance(own, HookedAttnProcessor) else own

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        return self._attend_parts(attn, hidden_states, encoder_hidden_states, rotary_emb)

    @disable_compiler  # a row lives for one step, and its rules may do anything
    def _attend_parts(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None,
        rotary_emb: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        rotary = None if rotary_emb is None else self.row.rotary_of_row(rotary_emb)
        q, k, v = project(attn, hidden_states, encoder_hidden_states, rotary)  # b heads R d
        outputs = []
        for i, part in enumerate(self.row.parts):
            if encoder_hidden_states is None:
                keys_values = self._self_keys_values(part, k, v)
                if part.keys_values is not None:
                    key, value = keys_values  # of the row, which must not be kept as a whole
                    part.keys_values[self.layer.path] = key.clone(), value.clone()
            else:
                keys_values = k[i : i + 1], v[i : i + 1]
            outputs.append(self._attend(part, q[:, :, part.span], *keys_values).transpose(1, 2))
        joined = torch.cat(outputs, 1).flatten(2).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](joined))

    def _self_keys_values(self, part: Part, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the whole grid that a part's queries see, 1 heads N d."""
        own = k[:, :, part.span], v[:, :, part.span]
        if part.tokens is None:
            return own
        if isinstance(part.lender, Part):
            source = k[:, :, part.lender.span], v[:, :, part.lender.span]
        else:
            assert part.lender is not None
            source = part.lender.keys_values[self.layer.path]
        keys, values = (
            theirs.index_copy(2, part.tokens, mine)
            for theirs, mine in zip(source, own, strict=True)
        )
        return keys, values

    def _attend(self, part: Part, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output of a part's queries, 1 heads m d: that of a rule, or plain attention."""
        if self.hooks.rules:
            with self.hooks.use_call(part.call):
                text_span = (0, 0) if self.layer.kind == "self" else (0, k.shape[2])
                layer = self.hooks.locate(self.layer, *self.row.grid[1:], text_span)
                output = self.hooks.run_rules(layer, q, k, v)
            if output is not None:
                return output
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        query, key, value = (x.transpose(1, 2) for x in (q, k, v))
        attended = dispatch_attention_fn(query, key, value, backend=self.own._attention_backend)
        return attended.transpose(1, 2)


@contextlib.contextmanager
def use_row(network: nn.Module, hooks: LayerHooks, row: Row) -> Iterator[None]:
    """Run the network on a packed row inside the block. Its input is a batch of the row's parts."""
    modules: list[tuple[Any, Any]] = []
    blocks: Any = network.get_submodule("blocks")

    def pack(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return row.pack(args[0]), *args[1:]

    def unpack(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return row.unpack(output)

    handles = [
        blocks[0].register_forward_pre_hook(pack),
        network.get_submodule("proj_out").register_forward_hook(unpack),
    ]
    try:
        for layer in hooks.layers:
            module: Any = network.get_submodule(layer.path)
            modules.append((module, module.processor))
            module.processor = PackedAttnProcessor(row, layer, hooks, module.processor)
        yield
    finally:
        for module, own in modules:
            module.processor = own
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def split_feed_forward(network: nn.Module, row: Row) -> Iterator[None]:
    """Run the feed-forward layers on as many tokens of a row at a time as one branch has, inside the block."""
    blocks: Any = network.get_submodule("blocks")
    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.enter_context(_split_calls(block.ffn, math.prod(row.grid)))
        yield


@contextlib.contextmanager
def _split_calls(module: nn.Module, most: int) -> Iterator[None]:
    own, set_before = module.forward, vars(module).get("forward")

    def forward(hidden: Tensor) -> Tensor:
        output = torch.empty_like(hidden)
        for part, of_part in zip(hidden.split(most, 1), output.split(most, 1), strict=True):
            of_part.copy_(own(part))
        return output

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if set_before is not None:
            module.forward = set_before

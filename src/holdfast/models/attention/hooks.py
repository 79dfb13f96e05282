"""Attention hooks: read or replace the output of q, k and v at chosen layers, inside a `with` block.

    with attention.use_rule(field, rule, where=lambda layer: layer.kind == "cross" and layer.branch == "tgt+"):
        field.velocity(...)

The network is always restored. Shapes: q `B heads N d`; k and v `B heads L d`, with L = N in self-attention. What the
batch B and the tokens N run over depends on the layer; `Layer.to_grid` and `Layer.to_tokens` convert, so a rule need
not know it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ...base.lazy import disable_compiler, functional, torch

if TYPE_CHECKING:
    from torch import Tensor


CONTROLNET = "controlnet"  # begins the paths of a ControlNet's layers


@dataclass(frozen=True)
class NetworkCall:
    """One evaluation of the network."""

    branch: str  # src+ | src- | tgt+ | tgt-
    frames: tuple[int, ...]  # indices of the latent frames in the clip, not always contiguous
    latent_size: tuple[int, int]  # rows and columns of the latent
    batch: int = 1
    tokens: Tensor | None = None  # the evaluated tokens, as indices into the token grid; None: all


@dataclass(frozen=True)
class Layer:
    """An attention layer or a residual block of a network, in one call of it.

    The last six fields describe the call; they are empty in a layer that no call has reached.
    """

    path: str  # of the module in the network
    section: str  # down | mid | up | block
    index: int  # among the layers of its kind and axis, counted from the input
    kind: str  # self | cross | residual
    axis: str  # joint (all tokens of the clip) | spatial (of a frame) | temporal (of a position)
    token_grid: tuple[int, int, int] = (0, 0, 0)  # frames, rows, columns of the call's tokens
    frames: tuple[int, ...] = ()  # the clip's latent frames, one for each frame of the token grid
    cells_per_token: int = 1  # latent cells along a side of a token
    branch: str = ""
    text_span: tuple[int, int] = (0, 0)  # first and end of the text tokens in cross-attention keys
    # Indices of the query tokens into the token grid, where only some of them are evaluated (joint axis); None: all.
    # The keys of self-attention are always those of the whole grid.
    tokens: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def is_of_controlnet(self) -> bool:
        """Whether the layer is one of a ControlNet's, not of the model's own network."""
        return self.path.startswith(f"{CONTROLNET}.")

    def to_grid(self, x: Tensor) -> Tensor:
        """Reshape a value per query token, `B N`, to `b 1 f h w` on the token grid; 0 where no token is evaluated."""
        f, h, w = self.token_grid
        if self.tokens is not None:
            x = x.new_zeros(x.shape[0], f * h * w).index_copy(1, self.tokens, x)
        if self.axis == "temporal":  # B runs over positions
            return x.reshape(-1, h, w, f).permute(0, 3, 1, 2)[:, None]
        return x.reshape(-1, 1, f, h, w)  # joint: N runs over all; spatial: B runs over frames

    def to_tokens(self, x: Tensor) -> Tensor:
        """Reshape `b 1 f h w` on the token grid to a value per query token, `B N`: the inverse of `to_grid`."""
        b, _, f, h, w = x.shape
        if self.tokens is not None:
            return x.reshape(b, f * h * w)[:, self.tokens]
        if self.axis == "temporal":
            return x[:, 0].permute(0, 2, 3, 1).reshape(b * h * w, f)
        if self.axis == "spatial":
            return x.reshape(b * f, h * w)
        return x.reshape(b, f * h * w)

    def tokens_in_mask(self, mask: Tensor) -> Tensor:
        """Return which tokens a mask of the whole clip, `1 1 f h w`, covers in any part: `B N`, boolean."""
        part = mask[:, :, list(self.frames)].float()
        return self.to_tokens(functional.adaptive_max_pool3d(part, self.token_grid)) > 0

    def key_positions(self, tokens: Sequence[int], device: torch.device | None = None) -> Tensor:
        """Return the positions among the keys of some tokens of the prompt."""
        first = self.text_span[0]
        return torch.tensor([first + t for t in tokens], device=device, dtype=torch.long)


LayerFilter = Callable[[Layer], bool]
# Return the layer's output, or None to leave it. Attention: (layer, q, k, v) -> B heads N d.
Rule: TypeAlias = "Callable[..., Tensor | None]"


class LayerHooks:
    """The rules that are active in a network, and the call that is running.

    mount: installs the hooks in the network and returns a function that removes them. It is called while any rule is
    active, so a network without rules runs as it is. layers: every layer that a rule can reach.
    """

    def __init__(self, mount: Callable[[LayerHooks], Callable[[], None]], layers: Sequence[Layer]):
        self.mount, self.layers = mount, tuple(layers)
        self.rules: list[tuple[LayerFilter, Rule]] = []
        self.call: NetworkCall | None = None
        self.unmount: Callable[[], None] = lambda: None

    def count_layers(self, kind: str, axis: str) -> int:
        """Count the layers of a kind along an axis."""
        return sum(layer.kind == kind and layer.axis == axis for layer in self.layers)

    @contextlib.contextmanager
    def use_call(self, call: NetworkCall) -> Iterator[None]:
        """Assign the evaluations inside the block to a call."""
        before, self.call = self.call, call
        try:
            yield
        finally:
            self.call = before

    @property
    def running_call(self) -> NetworkCall:
        """The call that is running. A network that runs outside `use_call` is a bug."""
        assert self.call is not None, "the network runs outside use_call"
        return self.call

    @disable_compiler
    def locate(
        self, layer: Layer, rows: int, columns: int, text_span: tuple[int, int] = (0, 0)
    ) -> Layer:
        """Return a layer with the fields of the running call, on a token grid of `rows` and `columns`."""
        call = self.running_call
        return replace(
            layer,
            token_grid=(len(call.frames), rows, columns),
            frames=call.frames,
            cells_per_token=-(-call.latent_size[0] // rows),
            branch=call.branch,
            text_span=text_span,
            tokens=call.tokens,
        )

    @disable_compiler
    def has_rule(self, layer: Layer) -> bool:
        """Return whether any rule is active at a layer."""
        return any(where(layer) for where, _ in self.rules)

    @disable_compiler
    def run_rules(self, layer: Layer, *tensors: Tensor) -> Tensor | None:
        """Return the output of the latest rule that gives one, or None."""
        for where, rule in reversed(self.rules):
            if where(layer):
                output = rule(layer, *tensors)
                if output is not None:
                    return output
        return None

    @contextlib.contextmanager
    def add_layers(self, other: LayerHooks) -> Iterator[None]:
        """Let rules reach the layers of another network too inside the block. No rule may be active at its ends.

        other: hooks on that network, whose own rules and calls are not used.
        """
        own = self.mount, self.layers

        def mount(hooks: LayerHooks) -> Callable[[], None]:
            stack = contextlib.ExitStack()
            for mount_one in (own[0], other.mount):
                stack.callback(mount_one(hooks))
            return stack.close

        assert not self.rules, "a network joins while a rule is active"
        self.mount, self.layers = mount, own[1] + other.layers
        try:
            yield
        finally:
            self.mount, self.layers = own

    @contextlib.contextmanager
    def use_rule(self, rule: Rule, where: LayerFilter) -> Iterator[None]:
        """Keep a rule active inside the block."""
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


class HasAttention(Protocol):
    """What `use_rule` and `record` need of a velocity field."""

    @property
    def attention_hooks(self) -> LayerHooks | None: ...


def processor_hooks(
    modules: Sequence[tuple[Layer, Any]], make_processor: Callable[[LayerHooks, Layer, Any], Any]
) -> LayerHooks:
    """Return hooks on modules that each have a `processor`, as diffusers' attention has.

    make_processor: (hooks, layer, the module's own processor) -> the processor that replaces it.
    """

    def mount(hooks: LayerHooks) -> Callable[[], None]:
        own = [module.processor for _, module in modules]
        for layer, module in modules:
            module.processor = make_processor(hooks, layer, module.processor)

        def unmount() -> None:
            for (_, module), processor in zip(modules, own, strict=True):
                module.processor = processor

        return unmount

    return LayerHooks(mount, [layer for layer, _ in modules])


def any_layer(layer: Layer) -> bool:
    """Select every layer."""
    return True


def is_cross(layer: Layer) -> bool:
    """Select cross-attention, where the network reads the prompt."""
    return layer.kind == "cross"


def use_rule(
    field: HasAttention, rule: Rule, where: LayerFilter = any_layer
) -> contextlib.AbstractContextManager[None]:
    """Let a rule replace attention at the layers that `where` selects. Where it returns None, the layer runs as is."""
    assert field.attention_hooks is not None, "the field has no attention hooks"
    return field.attention_hooks.use_rule(rule, where)


@contextlib.contextmanager
def record(
    field: HasAttention, where: LayerFilter = any_layer, extract: Callable[..., Any] | None = None
) -> Iterator[dict[Layer, Any]]:
    """Collect `extract(layer, q, k, v)` by layer. Without it collect (q, k, v) themselves, not copies."""
    values: dict[Layer, Any] = {}

    def read(layer: Layer, *tensors: Tensor) -> None:
        values[layer] = extract(layer, *tensors) if extract else tensors

    with use_rule(field, read, where):
        yield values


def token_rows_columns(tokens: int, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of a layer's tokens: the latent's, halved (rounded up) until they are that many.

    Raise ValueError if no halving has that many tokens.
    """
    rows, columns = latent_size
    while rows * columns > tokens:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != tokens:
        size = f"{latent_size[0]}x{latent_size[1]}"
        raise ValueError(f"{tokens} tokens are no halving of {size} latent cells")
    return rows, columns

"""Injection: target branches take queries, keys and features of the source branch at chosen layers and steps.

Plug-and-Play (arXiv:2211.12572) and the methods after it share this. The source branch is evaluated in the same step,
before the targets; what it has at these layers is kept until the step ends, so nothing but latents is ever stored.

    table = InjectionTable(field, [Injected("residual_branch", RESIDUALS, 40), Injected("self", ATTENTIONS, 25)])
    with table.use(field, step):
        v_source, v_target, v_negative = field.velocities(sigma, [source_evaluation, target, negative])
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..base.errors import UserError
from ..base.lazy import functional
from . import feature_hooks
from .attention import hooks as attention_hooks
from .attention.hooks import Layer, LayerHooks

if TYPE_CHECKING:
    from torch import Tensor


class HasHooks(Protocol):
    """What an injection needs of a velocity field."""

    @property
    def attention_hooks(self) -> LayerHooks | None: ...

    @property
    def feature_hooks(self) -> LayerHooks | None: ...


@dataclass(frozen=True)
class Injected:
    """A row of the table: the layers of one kind inside some modules, and for how many steps they are injected.

    kind: `self`, the queries and keys of self-attention (of the first one of a transformer block that has two); or a
    kind of feature hooks (models/unet/hooks.py), whose values are injected. modules: the paths of modules that hold the
    layers, such as `up_blocks.1.resnets.1`; those that a network lacks are left out. steps: the first steps of the
    whole schedule, counted from its noisy end.
    """

    kind: str
    modules: tuple[str, ...]
    steps: int
    axis: str = "spatial"


def list_modules(*places: tuple[int, str, Sequence[int]]) -> tuple[str, ...]:
    """Return the paths of modules in up blocks from (block, list of modules, indices in it).

    `(1, "attentions", (1, 2))` gives `up_blocks.1.attentions.1` and `up_blocks.1.attentions.2`. Up blocks are counted
    from the inner end, so a smaller network lacks the last ones.
    """
    return tuple(
        f"up_blocks.{block}.{name}.{i}" for block, name, indices in places for i in indices
    )


class InjectionTable:
    """Which layers of a network are injected, and for how many steps: `steps`, by the path of each layer.

    Raise UserError if the network has none of the layers of a row.
    """

    def __init__(self, field: HasHooks, rows: Sequence[Injected]):
        self.attention_steps: dict[str, int] = {}
        self.feature_steps: dict[str, int] = {}
        for row in rows:
            is_attention = row.kind == "self"
            hooks = field.attention_hooks if is_attention else field.feature_hooks
            steps = self.attention_steps if is_attention else self.feature_steps
            steps |= dict.fromkeys(find_layers(hooks, row), row.steps)

    @contextlib.contextmanager
    def use(self, field: HasHooks, step: int) -> Iterator[Injection]:
        """Inject at the layers of a step inside the block. step: the index in the whole schedule."""
        attention, features = (
            {path for path, end in steps.items() if step < end}
            for steps in (self.attention_steps, self.feature_steps)
        )
        injection = Injection(attention, features)
        with contextlib.ExitStack() as stack:
            if attention:
                rule = attention_hooks.use_rule(field, injection.attend, injection.has_attention)
                stack.enter_context(rule)
            if features:
                rule = feature_hooks.use_rule(field, injection.replace, injection.has_feature)
                stack.enter_context(rule)
            yield injection


def find_layers(hooks: LayerHooks | None, row: Injected) -> list[str]:
    """Return the paths of a row's layers. Raise UserError if there are none."""
    prefixes = tuple(f"{module}." for module in row.modules)
    paths = [
        layer.path
        for layer in (hooks.layers if hooks else ())
        if (layer.kind, layer.axis) == (row.kind, row.axis)
        and f"{layer.path}.".startswith(prefixes)
        and (row.kind != "self" or layer.path.endswith("attn1"))
    ]
    if not paths:
        raise UserError(
            f"the model has none of the layers that are injected: {', '.join(row.modules)}",
            "use a model of the Stable Diffusion family, or another method",
        )
    return paths


class Injection:
    """What the source branch has at the layers of one step. Source branches record, target branches take."""

    def __init__(self, attention: set[str], features: set[str]):
        self.attention, self.features = attention, features
        self._found: dict[tuple, tuple[Tensor, ...]] = {}  # by path, kind and frames

    def has_attention(self, layer: Layer) -> bool:
        """Return whether the queries and keys of an attention layer are injected in this step."""
        return layer.path in self.attention

    def has_feature(self, layer: Layer) -> bool:
        """Return whether the output of a layer is injected in this step."""
        return layer.path in self.features

    def exchange(self, layer: Layer, *values: Tensor) -> tuple[Tensor, ...]:
        """Return a layer's values in a source branch, and the source's in a target branch.

        A rule of a method calls it with q and k; where the layer is not injected, it returns them as they are.
        """
        if layer.path not in self.attention | self.features:
            return values
        key = layer.path, layer.kind, layer.frames
        if layer.branch.startswith("src"):
            self._found[key] = values
        assert key in self._found, "the source branch is evaluated before its targets"
        return self._found[key]

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """Apply an attention rule: the target's values by the source's queries and keys."""
        q, k = self.exchange(layer, q, k)
        if layer.branch.startswith("src"):
            return None
        return functional.scaled_dot_product_attention(q, k, v)

    def replace(self, layer: Layer, x: Tensor) -> Tensor | None:
        """Apply a feature rule: the source's output in place of the target's."""
        (source,) = self.exchange(layer, x)
        return None if source is x else source

"""Layers of a network with weights that are fitted to one clip.

A tuned layer stands in the place of a layer of the network, and has an effect only while it is enabled. Its weights are
float32 whatever the network's type is: an update is far smaller than what bfloat16 resolves.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from .noise import keyed_noise, keyed_uniform


class TunedLayer(nn.Module):
    """A layer of a network with an addition to its output while it is enabled."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.is_enabled = layer, False

    @abstractmethod
    def tuned_weights(self) -> dict[str, Tensor]:
        """Return the weights that are fitted, by name."""

    @torch.no_grad()
    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Copy saved weights, by name, into the layer's."""
        for name, own in self.tuned_weights().items():
            own.copy_(saved[name])


def find_linear(layer: nn.Module) -> nn.Linear:
    """Return the linear layer itself, or the one inside peft's layer."""
    return next(m for m in layer.modules() if isinstance(m, nn.Linear))


def _make_linear(inputs: int, outputs: int, device: torch.device) -> nn.Linear:
    """Return a linear layer in float32 without bias, whose weight is not initialised."""
    options = {"bias": False, "device": device, "dtype": torch.float32}
    layer = skip_init(nn.Linear, inputs, outputs, **options)
    assert isinstance(layer, nn.Linear)
    return layer


@final
class LowRank(TunedLayer):
    """A linear layer with a low-rank addition: `layer(x) + dropout(up(down(x)))`.

    dropout: the share of the addition's elements that are zeroed, and the others scaled up for it, while the layer has
    a `dropout_key`. The key decides which ones, so a checkpointed block drops the same ones in its second pass.
    """

    def __init__(self, layer: nn.Module, rank: int, dropout: float = 0.0):
        super().__init__(layer)
        base = find_linear(layer)
        self.dropout, self.dropout_key = dropout, ""
        self.down = _make_linear(base.in_features, rank, base.weight.device)
        self.up = _make_linear(rank, base.out_features, base.weight.device)
        nn.init.zeros_(self.up.weight)

    @torch.no_grad()
    def initialise(self, seed: int, number: int) -> None:
        """Draw down, normal with deviation 1 / rank, by the seed and the layer's number."""
        down = self.down.weight
        drawn = keyed_noise(down[None, None, None], seed, number)[0, 0, 0]
        down.copy_(drawn / len(down))

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        if not self.is_enabled:
            return out
        change = self.up(self.down(x.to(self.down.weight.dtype)))
        if self.dropout and self.dropout_key:
            uniform = keyed_uniform(change.shape, self.dropout_key, change.device)
            change = change * (uniform >= self.dropout) / (1 - self.dropout)
        return (out + change).to(out.dtype)

    def tuned_weights(self) -> dict[str, Tensor]:
        return {"down": self.down.weight, "up": self.up.weight}


@final
class FullWeight(TunedLayer):
    """A linear layer with a weight of its own: `layer(x) + (weight - layer.weight) x`. Its bias stays.

    The weight begins as the layer's, when the layer first runs: that of a streamed block is not there before.
    """

    def __init__(self, layer: nn.Module):
        super().__init__(layer)
        base = find_linear(layer)
        made = _make_linear(base.in_features, base.out_features, base.weight.device)
        self.weight, self.is_filled = made.weight, False

    def load(self, saved: Mapping[str, Tensor]) -> None:
        super().load(saved)
        self.is_filled = True

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        if not self.is_enabled:
            return out
        base = find_linear(self.layer).weight
        if not self.is_filled:
            self.load({"weight": base})
        change = self.weight - base.float()
        return out + functional.linear(x, change.to(x.dtype))

    def tuned_weights(self) -> dict[str, Tensor]:
        return {"weight": self.weight}


@final
class AppendedAttention(TunedLayer):
    """A transformer block over images, followed by self-attention over time: `y + out(attention(norm(y)))`.

    y: the block's output, (b f) N c. Each of its N positions attends over the frames. size: c and the number of heads.
    count_frames: f of the running call. The norm has no weights, since none of them would be fitted.
    """

    def __init__(self, block: nn.Module, size: tuple[int, int], count_frames: Callable[[], int]):
        super().__init__(block)
        width, heads = size
        device = next(block.parameters()).device
        self.heads, self.count_frames = heads, count_frames
        self.to_q, self.to_k, self.to_v, self.to_out = (
            _make_linear(width, width, device) for _ in range(4)
        )
        self.out_bias = nn.Parameter(torch.zeros(width, device=device))

    @torch.no_grad()
    def initialise(self, key: str, *, draws_bias: bool) -> None:
        """Draw q, k and v uniformly, as PyTorch initialises linear layers, by a key. The output's weight is 0.

        draws_bias: draw the output's bias as well; otherwise it is 0.
        """
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.out_bias)
        drawn = {"q": self.to_q.weight, "k": self.to_k.weight, "v": self.to_v.weight}
        if draws_bias:
            drawn["bias"] = self.out_bias
        for name, weight in drawn.items():
            uniform = keyed_uniform(weight.shape, f"{key}/{name}", weight.device)
            weight.copy_((2 * uniform - 1) / math.sqrt(len(self.out_bias)))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # of the block
        out = self.layer(*args, **kwargs)
        return out + self._attend(out) if self.is_enabled else out

    def _attend(self, y: Tensor) -> Tensor:
        """Return the attention over time of tokens (b f) N c, without the skip."""
        tokens = y.unflatten(0, (-1, self.count_frames())).transpose(1, 2)  # b N f c
        normed = functional.layer_norm(tokens, tokens.shape[-1:])
        q, k, v = (
            functional.linear(normed, layer.weight.to(y.dtype))
            .unflatten(3, (self.heads, -1))
            .transpose(2, 3)
            .flatten(0, 1)
            for layer in (self.to_q, self.to_k, self.to_v)
        )  # (b N) heads f d
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        weights = self.to_out.weight.to(y.dtype), self.out_bias.to(y.dtype)
        out = functional.linear(found, *weights).unflatten(0, (-1, y.shape[1]))
        return out.transpose(1, 2).flatten(0, 1)

    def tuned_weights(self) -> dict[str, Tensor]:
        named = {"to_q": self.to_q, "to_k": self.to_k, "to_v": self.to_v, "to_out": self.to_out}
        weights = {name: layer.weight for name, layer in named.items()}
        return weights | {"to_out_bias": self.out_bias}

"""Run a training stage: scenes to train on, the optimiser, and a resumable loop with a budget."""

import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..rendering import FrameSelection, render
from ..scenes import FIRST_TRAINING_SEED, Scene, sample_scene

Network = TypeVar("Network", bound=nn.Module)
SAVE_EVERY = 120.0  # seconds
CONTINUED_RATE = 0.7  # factor of the learning rates when training continues from a checkpoint
CHUNK = 8  # scenes rendered at once: more of them do not fit the CPU's cache
# Share of the training scenes by set and number of actors. Two actors are most frequent, because a model confuses them.
MIX = {("train", 1): 0.24, ("train", 2): 0.54, ("crossing", 2): 0.12, ("several", 3): 0.10}


def device() -> torch.device:
    """Return the GPU if there is one, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(network: Network) -> Network:
    """Move a network to the device and return it."""
    module: nn.Module = network  # diffusers types its own `to` wrongly
    module.to(device())
    return network


@contextmanager
def use_plain_attention() -> Iterator[None]:
    """Compute attention by plain matrix products on a CPU inside the block.

    For sequences this short, the gradient of the fused kernel takes three times as long, and torch's own plain kernel
    works in single precision. Calls with a mask, dropout or other options use the fused kernel as before.
    """
    fused = functional.scaled_dot_product_attention

    def products(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if attn_mask is not None or dropout_p or is_causal or enable_gqa:
            return fused(
                query,
                key,
                value,
                attn_mask,
                dropout_p,
                is_causal,
                scale=scale,
                enable_gqa=enable_gqa,
            )
        logits = (scale or query.shape[-1] ** -0.5) * query @ key.transpose(-1, -2)
        return torch.softmax(logits, -1).to(value) @ value

    if not torch.cuda.is_available():
        functional.scaled_dot_product_attention = products
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = fused


def draw_training_scene(rng: random.Random) -> Scene:
    """Draw a scene that no evaluation uses: its seed is larger than all held-out ones."""
    (name, actors), *_ = rng.choices(list(MIX), list(MIX.values()))
    while True:
        scene = sample_scene(rng.randrange(FIRST_TRAINING_SEED, 2**40), name)
        if len(scene.actors) == actors:
            return scene


def draw_training_scenes(count: int, key: str) -> list[Scene]:
    """Draw scenes from a random generator that the key seeds."""
    rng = random.Random(key)
    return [draw_training_scene(rng) for _ in range(count)]


def render_clips(scenes: list[Scene], frames: FrameSelection) -> Tensor:
    """Render scenes to n f 3 H W in [-1, 1], on the device."""
    with torch.device(device()):
        chunks = [render(scenes[i : i + CHUNK], frames) for i in range(0, len(scenes), CHUNK)]
    return torch.cat(chunks) * 2 - 1


@dataclass(frozen=True)
class Budget:
    """The length of a stage, in steps or in seconds of training."""

    steps: int = 0
    seconds: float = 0.0

    def share(self, index: int, spent: float) -> float:
        """Return the share that is used, 0 to 1. The learning rate follows it."""
        if not (self.steps or self.seconds):
            return 1.0
        return min(1.0, index / self.steps if self.steps else spent / self.seconds)


class Optimiser:
    """Muon for weight matrices (with a convolution's taps flattened) and AdamW for the rest, with one schedule.

    adamw_only: the first parts of names of parameters that never use Muon. A text encoder is such a part: Muon undoes
    the binding of its words.
    """

    def __init__(
        self, model: nn.Module, lr: float, matrix_lr: float = 0.0, adamw_only: tuple[str, ...] = ()
    ):
        self.model = model
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        candidates = [
            p for n, p in model.named_parameters() if matrix_lr and not n.startswith(adamw_only)
        ]
        matrices = [p for p in candidates if p.dim() >= 2 and p.shape[0] > 1 and p[0].numel() > 4]
        self.weights = [p for p in matrices if id(p) not in tables]
        chosen = {id(p) for p in self.weights}
        # The views share the weights' memory.
        self.views = [nn.Parameter(p.data.view(p.shape[0], -1)) for p in self.weights]
        rest = [p for p in model.parameters() if id(p) not in chosen]
        adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.parts: list[tuple[torch.optim.Optimizer, float]] = [(adamw, lr)]
        if self.views:
            muon = torch.optim.Muon(self.views, lr=matrix_lr, momentum=0.95, weight_decay=0.0)
            self.parts.append((muon, matrix_lr))

    def step(self, loss: Tensor, share: float, index: int) -> None:
        """Take one step at a share of the whole stage: a short warm-up, then a quarter cosine down to zero."""
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for weight, view in zip(self.weights, self.views, strict=True):
            view.grad = None if weight.grad is None else weight.grad.reshape(view.shape)
        for optimiser, lr in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, (index + 1) / 50) * math.cos(share * math.pi / 2)
            optimiser.step()

    def state(self) -> list[dict[str, Any]]:
        """Return the state to save."""
        return [optimiser.state_dict() for optimiser, _ in self.parts]

    def load(self, state: list[dict[str, Any]]) -> None:
        """Restore a saved state."""
        for (optimiser, _), saved in zip(self.parts, state, strict=True):
            optimiser.load_state_dict(saved)


class Stage(Generic[Network]):
    """One resumable stage: a model, its running average, its optimiser, its saved progress and the log."""

    def __init__(
        self, model: Network, optimiser: Optimiser, folder: Path, name: str, decay: float = 0.998
    ):
        self.model, self.optimiser = model, optimiser
        self.folder, self.name, self.decay = folder, name, decay
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.index, self.spent, self.share, self.done = 0, 0.0, 0.0, False
        self.file = folder / f"{name}.pt"
        if self.file.exists():
            saved = torch.load(self.file, weights_only=True, map_location=device())
            model.load_state_dict(saved["model"])
            optimiser.load(saved["optimiser"])
            self.average, self.index, self.spent = saved["average"], saved["index"], saved["spent"]
            self.done = saved["done"]

    def steps(self, budget: Budget) -> Iterator[int]:
        """Yield the index of each remaining step. Between steps, update the average and sometimes save.

        At the end the model holds its average. A finished stage stays finished, even with a larger budget later. An
        empty budget leaves the stage as it is.
        """
        last_save = last_step = time.monotonic()
        while not self.done and (share := budget.share(self.index, self.spent)) < 1:
            self.share = share
            torch.manual_seed(self.index)
            yield self.index
            self.index += 1
            self._update_average()
            now = time.monotonic()
            self.spent, last_step = self.spent + now - last_step, now
            if now - last_save > SAVE_EVERY:
                self.save()
                last_save = last_step = time.monotonic()
        if not self.done and budget != Budget():
            self.done = True
            self.save()
        self.model.load_state_dict(self.average)
        self.model.eval()

    def descend(self, loss: Tensor) -> None:
        """Take one optimiser step."""
        self.optimiser.step(loss, self.share, self.index)

    def _update_average(self) -> None:
        decay = min(self.decay, self.index / (self.index + 10))
        for k, v in self.model.state_dict().items():
            if v.is_floating_point():
                self.average[k].lerp_(v, 1 - decay)
            else:
                self.average[k].copy_(v)

    def save(self) -> None:
        """Save the progress of the stage."""
        progress = {"index": self.index, "spent": self.spent, "done": self.done}
        weights = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state(),
        }
        save_atomically(self.file, progress | weights)

    def log(self, values: Mapping[str, float | Tensor], every: int = 50) -> None:
        """Append values to the log at every `every`-th step. Tensors are detached."""
        if self.index % every:
            return
        line = {"stage": self.name, "step": self.index, "seconds": round(self.spent, 1)}
        line |= {
            name: round(float(torch.as_tensor(value).detach()), 4) for name, value in values.items()
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def save_atomically(file: Path, state: object) -> None:
    """Save under a temporary name and rename, so that a file that exists is complete."""
    part = file.with_suffix(".part")
    torch.save(state, part)
    part.rename(file)

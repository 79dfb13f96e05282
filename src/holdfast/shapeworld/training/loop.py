"""What every stage of training shares: scenes to train on, the optimiser, and a resumable run with a budget."""

import json
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..rendering import render
from ..scenes import FIRST_TRAINING_SEED, Scene, sample_scene

SAVE_EVERY = 120.0  # seconds
CONTINUED_RATE = 0.7  # of the learning rates, where a written checkpoint is trained on
CHUNK = 8  # scenes rendered at once: more of them fall out of the processor's cache
# Share of the training scenes: the set they come from, and how many actors they have. Two at once are what a model
# mixes up, so they are the most.
MIX = {("train", 1): 0.24, ("train", 2): 0.54, ("crossing", 2): 0.12, ("several", 3): 0.10}


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def use_plain_attention() -> Iterator[None]:
    """Attention as plain matrix products on a processor: over rows as short as these the fused kernel's gradient takes
    thrice as long, and torch's own plain kernel works in single precision. Where more is asked (a mask, dropout), all
    is as before.
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
            more = {"scale": scale, "enable_gqa": enable_gqa}
            return fused(query, key, value, attn_mask, dropout_p, is_causal, **more)
        found = (scale or query.shape[-1] ** -0.5) * query @ key.transpose(-1, -2)
        return torch.softmax(found, -1).to(value) @ value

    if not torch.cuda.is_available():
        functional.scaled_dot_product_attention = products
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = fused


def draw_training_scene(rng: random.Random) -> Scene:
    """A scene that no evaluation draws: its seed lies beyond the held-out ones."""
    (name, actors), *_ = rng.choices(list(MIX), list(MIX.values()))
    while True:
        scene = sample_scene(rng.randrange(FIRST_TRAINING_SEED, 2**40), name)
        if len(scene.actors) == actors:
            return scene


def draw_training_scenes(count: int, key: str) -> list[Scene]:
    rng = random.Random(key)
    return [draw_training_scene(rng) for _ in range(count)]


def render_clips(scenes: list[Scene], frames: int) -> Tensor:
    """Rendered scenes, n f 3 H W in [-1, 1], on the device."""
    with torch.device(device()):
        chunks = [render(scenes[i : i + CHUNK], frames) for i in range(0, len(scenes), CHUNK)]
    return torch.cat(chunks) * 2 - 1


@dataclass(frozen=True)
class Budget:
    """How long a stage may take: so many steps, or so many seconds of training."""

    steps: int = 0
    seconds: float = 0.0

    def share(self, index: int, spent: float) -> float:
        """How much of it is used, 0 to 1: what the learning rate follows."""
        if not (self.steps or self.seconds):
            return 1.0
        return min(1.0, index / self.steps if self.steps else spent / self.seconds)


class Optimiser:
    """Muon for the weight matrices (a convolution's taps flattened), AdamW for the rest, one learning-rate schedule.

    plain: parts, by the beginning of their parameters' names, that are AdamW's altogether. A text encoder is one: Muon
    tears apart what it has bound.
    """

    def __init__(
        self, model: nn.Module, lr: float, matrix_lr: float = 0.0, plain: tuple[str, ...] = ()
    ):
        self.model = model
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        muon = [p for n, p in model.named_parameters() if matrix_lr and not n.startswith(plain)]
        wide = [p for p in muon if p.dim() >= 2 and p.shape[0] > 1 and p[0].numel() > 4]
        self.weights = [p for p in wide if id(p) not in tables]
        chosen = {id(p) for p in self.weights}
        self.views = [
            nn.Parameter(p.data.view(p.shape[0], -1)) for p in self.weights
        ]  # share the weights' memory
        rest = [p for p in model.parameters() if id(p) not in chosen]
        self.parts = [(torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0), lr)]
        if self.views:
            self.parts += [
                (
                    torch.optim.Muon(self.views, lr=matrix_lr, momentum=0.95, weight_decay=0.0),
                    matrix_lr,
                )
            ]

    def step(self, loss: Tensor, share: float, index: int) -> None:
        """Descend one loss at a share of the whole run: a short warm-up, then a quarter cosine down to zero."""
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for weight, view in zip(self.weights, self.views, strict=True):
            view.grad = None if weight.grad is None else weight.grad.reshape(view.shape)
        for optimiser, lr in self.parts:
            for group in optimiser.param_groups:
                group["lr"] = lr * min(1.0, (index + 1) / 50) * math.cos(share * math.pi / 2)
            optimiser.step()

    def state(self) -> list[dict]:
        return [optimiser.state_dict() for optimiser, _ in self.parts]

    def load(self, state: list[dict]) -> None:
        for (optimiser, _), saved in zip(self.parts, state, strict=True):
            optimiser.load_state_dict(saved)


class Stage:
    """One resumable stage: a model, its running average, its optimiser, a checkpoint file and the log."""

    def __init__(
        self, model: nn.Module, optimiser: Optimiser, folder: Path, name: str, decay: float = 0.998
    ):
        self.model, self.optimiser, self.folder, self.name, self.decay = (
            model,
            optimiser,
            folder,
            name,
            decay,
        )
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
        """Yield the index of each step still to do; between two of them average, save now and then.

        At the end the model holds its average. A stage that is done stays done, whatever budget it is given later; one
        that is given none is left as it is.
        """
        saved = then = time.monotonic()
        while not self.done and (share := budget.share(self.index, self.spent)) < 1:
            self.share = share
            torch.manual_seed(self.index)
            yield self.index
            self.index += 1
            self._average()
            now = time.monotonic()
            self.spent, then = self.spent + now - then, now
            if now - saved > SAVE_EVERY:
                self.save()
                saved = then = time.monotonic()
        if not self.done and budget != Budget():
            self.done = True
            self.save()
        self.model.load_state_dict(self.average)
        self.model.eval()

    def descend(self, loss: Tensor) -> None:
        self.optimiser.step(loss, self.share, self.index)

    def _average(self) -> None:
        decay = min(self.decay, self.index / (self.index + 10))
        for k, v in self.model.state_dict().items():
            self.average[k].lerp_(v, 1 - decay) if v.is_floating_point() else self.average[k].copy_(
                v
            )

    def save(self) -> None:
        progress = {"index": self.index, "spent": self.spent, "done": self.done}
        weights = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state(),
        }
        save_atomically(self.file, progress | weights)

    def log(self, figures: dict[str, float], every: int = 50) -> None:
        """Append figures to the log at every so many steps. A tensor among them is detached."""
        if self.index % every:
            return
        line = {"stage": self.name, "step": self.index, "seconds": round(self.spent, 1)}
        line |= {
            name: round(float(torch.as_tensor(value).detach()), 4)
            for name, value in figures.items()
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def save_atomically(file: Path, state: dict) -> None:
    """Save under a temporary name and rename: a file that exists is whole."""
    part = file.with_suffix(".part")
    torch.save(state, part)
    part.rename(file)

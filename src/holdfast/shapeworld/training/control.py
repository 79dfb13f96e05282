"""Train the ControlNet of `shapeworld-sd`: frames that follow the edges of a picture (arXiv:2302.05543).

It starts as a copy of the U-Net's encoder whose outputs are zero. The U-Net and the text encoder are frozen.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...media.edges import canny
from .clip_encoders import text_states
from .loop import (
    CONTINUED_RATE,
    Budget,
    Optimiser,
    Stage,
    device,
    draw_training_scenes,
    render_clips,
    save_atomically,
)
from .saving import load_networks, save_part
from .text import new_clip_tokenizer, tokenize
from .unets import SharedParts, noise_loss

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.controlnets.controlnet import ControlNetModel

NAME = "shapeworld-sd-canny"
SCENES, TIMES = (
    4096,
    (0, 6, 12),
)  # of the pool: its frames are those of so many clips at these times
CHUNK = 32  # clips that are rendered at once
BATCH = 32  # frames per step
DROPPED_CAPTIONS = 0.5  # so that the edges alone decide where things are, as in the paper
EDGE_CHANNELS = (
    16,
    32,
    48,
    64,
)  # of the layers that read the picture: its size is halved three times
# The convolutions that start at zero. Muon gives each step the same size, which would undo that start.
ZERO_LAYERS = ("controlnet_down_blocks", "controlnet_mid_block")


def new_controlnet(unet: nn.Module) -> "ControlNetModel":
    """Return the untrained ControlNet of a U-Net: a copy of its encoder, whose outputs are zero."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    torch.manual_seed(7)
    channels: Any = EDGE_CHANNELS
    return ControlNetModel.from_unet(
        cast("Any", unet), conditioning_embedding_out_channels=channels
    )


def edge_pictures(x: Tensor) -> Tensor:
    """Return the edges of pictures n 3 H W in [-1, 1]: n H W, boolean."""
    frames = (x.float().cpu() / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    return torch.from_numpy(np.stack([canny(frame) for frame in frames]) > 0)


def build_edge_pool(common: SharedParts) -> tuple[Tensor, Tensor]:
    """Return latents n f c h w and edges n f H W of the pool's clips at the chosen times, encoded once and saved."""
    file = common.folder / "edge-pool.pt"
    if not file.exists():
        scenes, parts = draw_training_scenes(SCENES, "edge-pool"), []
        for first in range(0, SCENES, CHUNK):
            x = render_clips(scenes[first : first + CHUNK], TIMES)
            edges = edge_pictures(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            parts.append((common.encode(x).half().cpu(), edges))
        save_atomically(file, tuple(torch.cat(part) for part in zip(*parts, strict=True)))
    return torch.load(file, weights_only=True)


def with_control(unet: nn.Module, controlnet: nn.Module, pictures: Tensor) -> Callable[..., Any]:
    """Return the U-Net's forward function guided by pictures, n 3 H W in [0, 1]."""

    def predict(x: Tensor, t: Tensor, words: Tensor) -> Any:
        down, middle = controlnet(x, t, words, controlnet_cond=pictures, return_dict=False)
        return unet(
            x,
            t,
            words,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        )

    return predict


def train_controlnet(common: SharedParts, unet: nn.Module, budget: Budget) -> nn.Module:
    """Train the ControlNet of a frozen U-Net on frames, their edges and captions, with half of the captions dropped."""
    latents, edges = build_edge_pool(common)
    tokenizer = new_clip_tokenizer()
    scenes = draw_training_scenes(SCENES, "edge-pool")
    ids, mask = tokenize(tokenizer, [scene.caption() for scene in scenes])
    empty_ids, empty_mask = tokenize(tokenizer, [""])
    network = cast("nn.Module", new_controlnet(unet)).to(device())
    optimiser = Optimiser(
        network,
        lr=1e-3 * CONTINUED_RATE,
        matrix_lr=0.02 * CONTINUED_RATE,
        adamw_only=ZERO_LAYERS,
    )
    stage = Stage(network, optimiser, common.folder, "control", decay=0.998)
    for i in stage.steps(budget):
        rng = random.Random(f"control/{i}")
        chosen = [rng.randrange(SCENES) for _ in range(BATCH)]
        times = [rng.randrange(len(TIMES)) for _ in range(BATCH)]
        dropped = torch.tensor([rng.random() < DROPPED_CAPTIONS for _ in range(BATCH)])[:, None]
        kept_ids = torch.where(dropped.to(ids.device), empty_ids, ids[chosen])
        kept_mask = torch.where(dropped.to(ids.device), empty_mask, mask[chosen])
        with torch.no_grad():
            words = text_states(common.text["text_encoder"], kept_ids, kept_mask)
        z = latents[chosen, times].to(device()).float()
        pictures = edges[chosen, times][:, None].expand(-1, 3, -1, -1).to(z)
        loss = noise_loss(with_control(unet, network, pictures), z, words)
        stage.descend(loss)
        stage.log({"loss": loss.detach()}, 20)
    return network


def train_control(folder: Path, budget: Budget, start: Path) -> None:
    """Train the unfinished ControlNet of a frame model and write it to `folder/shapeworld-sd-canny`."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = load_networks(start).to(device()).requires_grad_(False)
    text = nn.ModuleDict({"text_encoder": parts["text_encoder"]})
    common = SharedParts(cast("AutoencoderKL", parts["vae"]), text, folder)
    save_part(folder / NAME, train_controlnet(common, parts["unet"], budget))

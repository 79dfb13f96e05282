"""Train the two small CLIP models of the U-Nets: a causal text encoder, and an image encoder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..scenes import BACKDROPS, COLOURS, MATERIALS, SHAPES, Scene
from .loop import Budget, Optimiser, Stage, device, draw_training_scenes, render_clips
from .text import LENGTH, AttributeReader, new_clip_tokenizer, train_binding

if TYPE_CHECKING:
    from transformers import CLIPImageProcessor, CLIPTokenizer

WIDTH = 128  # of the text states and the image embedding, which the U-Nets attend to
TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "projection_dim": WIDTH,
    "hidden_act": "quick_gelu",
}
IMAGE_SIZE = (
    224  # the SVD pipeline resizes every picture to this, regardless of the encoder's own size
)
VISION_CONFIG: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 32,
    "projection_dim": WIDTH,
}
BATCH = 32  # images per step


def text_states(text_encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the text states, n L d, as in the Stable Diffusion pipelines: after the final norm, without a mask."""
    return text_encoder(ids).last_hidden_state


def new_text_encoder(tokenizer: "CLIPTokenizer") -> nn.Module:
    """Return an untrained CLIP text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(2)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    token_ids = {name: getattr(tokenizer, name) for name in names}
    return CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG, **token_ids, vocab_size=len(tokenizer)))


def train_text_encoder(folder: Path, budget: Budget) -> nn.ModuleDict:
    """Return a text encoder and its reader after binding. The first U-Net then trains them further."""
    tokenizer = new_clip_tokenizer()
    parts = nn.ModuleDict(
        {"text_encoder": new_text_encoder(tokenizer), "reader": AttributeReader(WIDTH)}
    ).to(device())
    stage = Stage(parts, Optimiser(parts, lr=1e-3), folder, "clip-binding", decay=0.98)
    train_binding(stage, tokenizer, text_states, budget)
    return parts


def new_image_processor() -> "CLIPImageProcessor":
    """Return the image processor of the SVD checkpoint."""
    from transformers import CLIPImageProcessor

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)


def new_image_encoder() -> nn.Module:
    """Return an untrained CLIP image encoder."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION_CONFIG))


def pixel_values(frames: Tensor) -> Tensor:
    """Convert n 3 H W in [-1, 1] to the image encoder's input, enlarged as the SVD pipeline enlarges."""
    processor = new_image_processor()
    large = (
        functional.interpolate(frames, (IMAGE_SIZE,) * 2, mode="bicubic", align_corners=True) / 2
        + 0.5
    )
    mean, std = torch.tensor(
        [processor.image_mean, processor.image_std], device=frames.device
    ).view(2, 1, 3, 1, 1)
    return (large - mean) / std


def frame_contents(scenes: list[Scene]) -> Tensor:
    """Return what a frame shows, n 50, 0 or 1: each shape in each colour and material, and each backdrop."""
    names = [(shape, value) for shape in SHAPES for value in (*COLOURS, *MATERIALS)]
    table = torch.zeros(len(scenes), len(names) + len(BACKDROPS))
    for row, scene in zip(table, scenes, strict=True):
        for actor in scene.actors:
            row[names.index((actor.shape, actor.colour))] = 1
            row[names.index((actor.shape, actor.material))] = 1
        row[len(names) + BACKDROPS.index(scene.backdrop)] = 1
    return table


def train_image_encoder(folder: Path, budget: Budget) -> nn.Module:
    """Train an image encoder whose embedding tells what a frame shows, by a linear head that is discarded."""
    head = nn.Linear(WIDTH, frame_contents(draw_training_scenes(1, "image")).shape[1])
    model = nn.ModuleDict({"encoder": new_image_encoder(), "head": head}).to(device())
    stage = Stage(
        model, Optimiser(model, lr=2e-3, matrix_lr=0.02), folder, "clip-image", decay=0.99
    )
    for i in stage.steps(budget):
        scenes = draw_training_scenes(BATCH, f"image/{i}")
        x = pixel_values(render_clips(scenes, 1)[:, 0])
        with torch.autocast(x.device.type, torch.bfloat16):
            logits = model["head"](model["encoder"](x).image_embeds)
        loss = functional.binary_cross_entropy_with_logits(
            logits.float(), frame_contents(scenes).to(x)
        )
        stage.descend(loss)
        stage.log({"loss": loss.detach()})
    return model["encoder"]

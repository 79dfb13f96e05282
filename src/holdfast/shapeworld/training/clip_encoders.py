"""The two small CLIP models of the U-Nets: a causal text encoder, and an image encoder that tells what it sees."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..scenes import BACKDROPS, COLOURS, MATERIALS, SHAPES, Scene
from .loop import Budget, Optimiser, Stage, device, draw_training_scenes, render_clips
from .text import LENGTH, AttributeReader, new_clip_tokenizer, train_binding

WIDTH = 128  # of the text states and of the image embedding: what the U-Nets attend to
TEXT_CONFIG = {
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "projection_dim": WIDTH,
    "hidden_act": "quick_gelu",
}
IMAGE_SIZE = 224  # the SVD pipeline resizes every picture to this, whatever the encoder's own size
VISION_CONFIG = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 32,
    "projection_dim": WIDTH,
}
IMAGES = 32  # a step


def text_states(text_encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """As the Stable Diffusion pipelines take them: the last states after the final norm, no mask at the padding."""
    return text_encoder(ids).last_hidden_state


def new_text_encoder(tokenizer) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(2)
    marks = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    return CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG, **marks, vocab_size=len(tokenizer)))


def train_text_encoder(folder: Path, budget: Budget) -> nn.ModuleDict:
    """Text encoder and reader, bound; the first U-Net then trains them further."""
    tokenizer = new_clip_tokenizer()
    parts = nn.ModuleDict(
        {"text_encoder": new_text_encoder(tokenizer), "reader": AttributeReader(WIDTH)}
    ).to(device())
    run = Stage(parts, Optimiser(parts, lr=1e-3), folder, "clip-binding", decay=0.98)
    train_binding(run, tokenizer, text_states, budget)
    return parts


def new_image_processor():
    from transformers import CLIPImageProcessor

    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)


def new_image_encoder() -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION_CONFIG))


def pixel_values(frames: Tensor) -> Tensor:
    """n 3 H W in [-1, 1] to what the image encoder takes, enlarged as the SVD pipeline does it."""
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
    """Which things a frame shows, n 50, 0 or 1: shapes in each colour, shapes in each material, backdrops."""
    names = [(shape, value) for shape in SHAPES for value in (*COLOURS, *MATERIALS)]
    table = torch.zeros(len(scenes), len(names) + len(BACKDROPS))
    for row, scene in zip(table, scenes, strict=True):
        for actor in scene.actors:
            row[names.index((actor.shape, actor.colour))] = 1
            row[names.index((actor.shape, actor.material))] = 1
        row[len(names) + BACKDROPS.index(scene.backdrop)] = 1
    return table


def train_image_encoder(folder: Path, budget: Budget) -> nn.Module:
    """The embedding of a frame tells what it shows, by a linear head that is thrown away."""
    head = nn.Linear(WIDTH, frame_contents(draw_training_scenes(1, "image")).shape[1])
    model = nn.ModuleDict({"encoder": new_image_encoder(), "head": head}).to(device())
    run = Stage(model, Optimiser(model, lr=2e-3, matrix_lr=0.02), folder, "clip-image", decay=0.99)
    for i in run.steps(budget):
        scenes = draw_training_scenes(IMAGES, f"image/{i}")
        x = pixel_values(render_clips(scenes, 1)[:, 0])
        with torch.autocast(x.device.type, torch.bfloat16):
            told = model["head"](model["encoder"](x).image_embeds)
        loss = functional.binary_cross_entropy_with_logits(told.float(), frame_contents(scenes).to(x))
        run.descend(loss)
        run.log({"loss": loss.detach()})
    return model["encoder"]

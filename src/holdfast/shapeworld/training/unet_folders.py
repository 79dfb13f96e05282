"""Train the parts of the U-Net checkpoints in order, and write the checkpoints as their pipeline classes load them."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from .clip_encoders import new_image_processor, train_image_encoder
from .loop import CONTINUED_RATE, Budget, device
from .motion_words import train_motion
from .saving import load_networks, save_folder, save_vocabulary
from .text import new_clip_tokenizer
from .unets import (
    BETAS,
    SharedParts,
    copy_spatial_layers,
    new_sd,
    new_svd,
    new_t2v,
    train_sd,
    train_shared_parts,
    train_svd,
    train_t2v,
)

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

PIPELINES = {
    "sd": "StableDiffusionPipeline",
    "t2v": "TextToVideoSDPipeline",
    "svd": "StableVideoDiffusionPipeline",
}

FRAME_SECONDS = {"vae": 0.3, "binding": 0.02, "sd": 0.68}
SHARES_OF_TIME = {
    "sd": FRAME_SECONDS,
    "t2v": {name: 0.4 * share for name, share in FRAME_SECONDS.items()}
    | {"t2v": 0.48, "motion": 0.12},
    "svd": {name: 0.4 * share for name, share in FRAME_SECONDS.items()}
    | {"image": 0.04, "svd": 0.56},
}


def new_ddim() -> "DDIMScheduler":
    """Return the scheduler of SD 1.5 and of ModelScope's text-to-video model."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    return DDIMScheduler(
        **BETAS,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def new_euler() -> "EulerDiscreteScheduler":
    """Return SVD's scheduler, as published."""
    from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        **BETAS,
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


def train_from_scratch(family: str, folder: Path, budgets: dict[str, Budget]) -> nn.ModuleDict:
    """Train the networks of a family's checkpoint from scratch."""
    common = train_shared_parts(folder, budgets)
    sd = train_sd(common, new_sd(), budgets["sd"])
    parts, text_encoder = nn.ModuleDict({"vae": common.vae}), sd["text_encoder"]
    if family == "svd":
        parts["image_encoder"] = train_image_encoder(folder, budgets["image"])
        unet = copy_spatial_layers(new_svd(), sd["unet"])
        parts["unet"] = train_svd(common, parts["image_encoder"], unet, budgets["svd"])
        return parts
    parts["text_encoder"], parts["unet"] = text_encoder, sd["unet"]
    if family == "t2v":
        unet = copy_spatial_layers(new_t2v(), sd["unet"])
        unet = train_t2v(common, text_encoder, unet, budgets["t2v"])
        parts["unet"] = train_motion(common, text_encoder, unet, budgets["motion"])
    return parts


def continue_training(family: str, folder: Path, budget: Budget, start: Path) -> nn.ModuleDict:
    """Load the networks of a checkpoint and continue to train its U-Net. The others are frozen."""
    parts = load_networks(start).to(device()).requires_grad_(False)
    unet = parts["unet"].requires_grad_(True)
    text = nn.ModuleDict({k: parts[k] for k in ("text_encoder",) if k in parts})
    common = SharedParts(cast("AutoencoderKL", parts["vae"]), text, folder)
    if family == "sd":
        train_sd(common, unet, budget, CONTINUED_RATE)
    elif family == "t2v":
        train_t2v(common, parts["text_encoder"], unet, budget, CONTINUED_RATE)
    else:
        train_svd(common, parts["image_encoder"], unet, budget, CONTINUED_RATE)
    return parts


def write_checkpoint(out: Path, family: str, parts: nn.ModuleDict) -> None:
    """Write the checkpoint as the family's pipeline class loads it."""
    components: dict[str, object] = dict(parts)
    if family == "svd":
        components |= {"scheduler": new_euler(), "feature_extractor": new_image_processor()}
    else:
        components |= {"scheduler": new_ddim(), "tokenizer": new_clip_tokenizer()}
    save_folder(out, PIPELINES[family], components)
    if family != "svd":
        save_vocabulary(out)


def train_family(
    family: str, folder: Path, budgets: dict[str, Budget], start: Path | None = None
) -> None:
    """Train the unfinished stages of "sd", "t2v" or "svd" and write the checkpoint to `folder/shapeworld-FAMILY`.

    start: a checkpoint of the family to continue from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"shapeworld-{family}"
    if start:
        return write_checkpoint(
            out, family, continue_training(family, folder, budgets[family], start)
        )
    write_checkpoint(out, family, train_from_scratch(family, folder, budgets))

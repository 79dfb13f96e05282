"""The U-Nets' checkpoints as their pipeline classes load them, and the order in which their parts are trained."""

from pathlib import Path

from torch import nn

from .clip import new_image_processor, train_image_encoder
from .loop import Budget
from .motion import train_motion
from .saving import save_folder, save_vocabulary
from .text import new_clip_tokenizer
from .unets import BETAS, Shared, shared, train_sd, train_svd, train_t2v

FRAME_SECONDS = {"vae": 0.3, "binding": 0.02, "sd": 0.68}
SHARES_OF_TIME = {
    "sd": FRAME_SECONDS,
    "t2v": {name: 0.4 * share for name, share in FRAME_SECONDS.items()}
    | {"t2v": 0.48, "motion": 0.12},
    "svd": {name: 0.4 * share for name, share in FRAME_SECONDS.items()}
    | {"image": 0.04, "svd": 0.56},
}


def new_ddim():
    """The scheduler of SD 1.5 and of ModelScope's text-to-video model."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        **BETAS,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def new_euler():
    """SVD's scheduler, as published."""
    from diffusers import EulerDiscreteScheduler

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


def with_words(common: Shared, text_encoder: nn.Module, unet: nn.Module) -> dict[str, object]:
    """The parts of a model that is told by words."""
    words = {"text_encoder": text_encoder, "tokenizer": new_clip_tokenizer()}
    return words | {"vae": common.vae, "unet": unet, "scheduler": new_ddim()}


def train(family: str, folder: Path, budgets: dict[str, Budget]) -> None:
    """Train what is not trained yet of "sd", "t2v" or "svd" and write the checkpoint to `folder/shapeworld-FAMILY`."""
    common = shared(folder, budgets)
    sd = train_sd(common, budgets["sd"])
    out = folder / f"shapeworld-{family}"
    if family == "sd":
        save_folder(
            out, "StableDiffusionPipeline", with_words(common, sd["text_encoder"], sd["unet"])
        )
        save_vocabulary(out)
    elif family == "t2v":
        unet = train_t2v(common, sd, budgets["t2v"])
        unet = train_motion(common, sd["text_encoder"], unet, budgets["motion"])
        save_folder(out, "TextToVideoSDPipeline", with_words(common, sd["text_encoder"], unet))
        save_vocabulary(out)
    else:
        image_encoder = train_image_encoder(folder, budgets["image"])
        unet = train_svd(common, sd, image_encoder, budgets["svd"])
        parts = {"image_encoder": image_encoder, "feature_extractor": new_image_processor()}
        parts |= {"vae": common.vae, "unet": unet, "scheduler": new_euler()}
        save_folder(out, "StableVideoDiffusionPipeline", parts)

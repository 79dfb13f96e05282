"""ControlNet (Zhang et al., arXiv:2302.05543): a copy of a U-Net's encoder that reads a picture of structure.

Its outputs are added to the U-Net's skip connections and to its middle block:
skip_i <- skip_i + w C_i(x, t, text, picture);  middle <- middle + w C_m(x, t, text, picture)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.errors import UserError
from .. import loading
from ..base import Control
from ..checkpoint import Checkpoint

# What a ControlNet shares with its U-Net, by the names of their configurations.
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")


def load_controlnet(folder: Path, dtype: torch.dtype) -> Any:
    """Load a ControlNet from its diffusers folder. Raise UserError for a folder that is damaged."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    loading.check_parts(Checkpoint(folder.parent), {folder.name: ControlNetModel})
    return loading.load_part(ControlNetModel, folder, dtype)


def check_fits(network: Any, unet: Any) -> None:
    """Raise UserError for a ControlNet of another model than a U-Net's."""
    for name in SHARED:
        own, other = (_plain(part.config.get(name)) for part in (network, unet))
        if own != other:
            raise UserError(
                f"the ControlNet belongs to another model: its {name} is {own}, and the model's is {other}",
                "choose one that was trained for this model",
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def run(
    network: Any, control: Control, frames: Sequence[int], inputs: tuple[Tensor, Tensor, Tensor]
) -> dict[str, Any]:
    """Return what a ControlNet adds to a call of its U-Net, as that takes it.

    frames: the clip's latent frames that the call holds. inputs: the U-Net's own: x `(b f) c h w`, the timestep, and
    the text states.
    """
    x, timestep, text = inputs
    pictures = control.select(frames, x)
    pictures = pictures.repeat(len(x) // len(pictures), 1, 1, 1)
    down, middle = network(
        x,
        timestep,
        text,
        controlnet_cond=pictures,
        conditioning_scale=control.scale,
        return_dict=False,
    )
    return {
        "down_block_additional_residuals": down,
        "mid_block_additional_residual": middle,
    }

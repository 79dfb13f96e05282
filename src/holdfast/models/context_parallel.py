"""Split the tokens of each evaluation over several GPUs (Ulysses), one process for each GPU.

Every process runs the same edit: its noise is keyed, so the latents are equal. One of them writes the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..base.errors import UserError
from ..base.lazy import torch
from .base import Backbone, unwrap

if TYPE_CHECKING:
    from .attention.hooks import LayerHooks

DENOISER = "transformer"


def split_tokens(backbone: Backbone) -> None:
    """Split the tokens of a backbone's evaluations over the processes of torch.distributed's default group.

    The tokens of a clip must be a multiple of the processes. It cannot be undone. Targets are evaluated everywhere
    then, whatever their region is. Raise UserError for a model whose tokens cannot be split, and where
    torch.distributed or GPUs are missing; a method that reads attention raises it when it starts.
    """
    from diffusers import (
        ContextParallelConfig,  # pyright: ignore[reportPrivateImportUsage]  # exported on use
    )

    own = unwrap(backbone)
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        raise UserError(
            "tokens are split over the processes of torch.distributed, which is not initialised",
            "start one process for each GPU, by torchrun, and call torch.distributed.init_process_group",
        )
    if not torch.accelerator.device_count():
        raise UserError("torch finds no GPU on this machine", "run on a machine with GPUs")
    if not own.can_split_tokens:
        raise UserError(
            f"the tokens of {own.name} cannot be split", "use a Wan model with one denoiser"
        )
    network, ways = own.part(DENOISER), distributed.get_world_size()
    heads = network.config["num_attention_heads"]
    if heads % ways:
        cause = (
            f"{own.name} has {heads} attention heads, which {ways} processes cannot share evenly"
        )
        raise UserError(cause, f"start a number of processes that divides {heads}")
    network.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ways))
    own.splits_tokens = True
    for hooks in (own.attention_hooks, own.feature_hooks):
        if hooks is not None:
            hooks.mount = _refuse_rules


def _refuse_rules(hooks: LayerHooks) -> Callable[[], None]:
    """Raise UserError: a rule would see the tokens of one process alone."""
    raise UserError(
        "this method reads the model's attention, which is split over several GPUs",
        "use a method that does not, or a single GPU",
    )

"""Group norms over a whole clip, in a network that takes the frames as a batch of images.

The inflated Stable Diffusion of Tune-A-Video and of its successors (FateZero, FLATTEN, ControlVideo, VideoGrain)
normalizes a clip `b c f h w` where the network has its residual blocks and its output: mean and variance of a group
are those of all frames. Only the norm at the entry of a transformer is of each frame.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from ..attention.hooks import LayerHooks


class GroupNormsOverClip:
    """The group norms of residual blocks and of the output, and whether they are those of the clip now.

    hooks: those of the network; they know how many frames the running call has.
    """

    def __init__(self, networks: Sequence[nn.Module], hooks: LayerHooks):
        self.networks, self.hooks, self.is_active = networks, hooks, False

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Normalize over the clip inside the block."""
        if self.is_active:
            yield
            return
        handles: list[Any] = []
        for norm in find_norms(self.networks):
            handles.append(norm.register_forward_pre_hook(self._join_frames))
            handles.append(norm.register_forward_hook(self._split_frames))
        self.is_active = True
        try:
            yield
        finally:
            self.is_active = False
            for handle in handles:
                handle.remove()

    @contextlib.contextmanager
    def add_network(self, network: nn.Module) -> Iterator[None]:
        """Count a network that runs together with the others inside the block."""
        own = self.networks
        self.networks = (*own, network)
        try:
            yield
        finally:
            self.networks = own

    def _join_frames(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return `(b f) c h w` as `b c (f h) w`: the statistics run over all but the batch and a group's channels."""
        frames = len(self.hooks.running_call.frames)
        return inputs[0].unflatten(0, (-1, frames)).transpose(1, 2).flatten(2, 3)

    def _split_frames(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        frames = len(self.hooks.running_call.frames)
        return output.unflatten(2, (frames, -1)).transpose(1, 2).flatten(0, 1).contiguous()


def find_norms(networks: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the group norms of the residual blocks of networks, and those before their output convolution."""
    from diffusers.models.resnet import ResnetBlock2D

    norms: list[nn.Module] = []
    for network in networks:
        blocks = [m for m in network.modules() if isinstance(m, ResnetBlock2D)]
        norms += [norm for block in blocks for norm in (block.norm1, block.norm2)]
        last = getattr(network, "conv_norm_out", None)
        if last is not None:
            norms.append(last)
    return norms

"""Call diffusers' two kinds of VAE in one way."""

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


def encode_posterior(
    vae: "AutoencoderKL | AutoencoderKLWan", x: Tensor
) -> "DiagonalGaussianDistribution":
    """Return the posterior of pictures n c H W, or of clips n c f H W."""
    return vae.encode(x, return_dict=False)[0]


def decode_latents(vae: "AutoencoderKL | AutoencoderKLWan", z: Tensor) -> Tensor:
    """Return the pictures n c H W, or clips n c f H W, of latents."""
    # diffusers types the argument as a FloatTensor, which no tensor is
    return vae.decode(z, return_dict=False)[0]  # pyright: ignore[reportArgumentType]


def get_bias(layer: nn.Module | None) -> Tensor:
    """Return the bias of a convolution, which a VAE of another configuration may lack."""
    bias = getattr(layer, "bias", None)
    assert isinstance(bias, Tensor)
    return bias

"""Tiny random members of every family, made in milliseconds, of the published classes. None of them is any good."""

import dataclasses

import torch
from torch import Tensor, nn

from holdfast.models import feature_hooks
from holdfast.models.attention.hooks import NetworkCall
from holdfast.models.spec import BackboneSpec
from holdfast.models.svd.adapter import StableVideo
from holdfast.models.svd.spec import CAPABILITIES as SVD_CAPABILITIES
from holdfast.models.unet.adapter import LatentDiffusion, unet_capabilities
from holdfast.models.unet.hooks import attention_hooks, residual_blocks
from holdfast.models.wan.adapter import Wan
from holdfast.models.wan.spec import CAPABILITIES

TEXT = 16  # width of the text states


def wan() -> Wan:
    """Real Wan parts, smaller than any checkpoint, patch (1, 2, 2) and strides (4, 8, 8) as published."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    from holdfast.shapeworld.training.text import new_t5_tokenizer

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
    )
    nn.init.normal_(transformer.proj_out.weight, std=0.5)  # made zero, every velocity would be too
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.0, 2.0],
    )
    tokenizer = new_t5_tokenizer()
    text = UMT5Config(
        d_model=TEXT,
        d_kv=8,
        num_heads=2,
        d_ff=32,
        num_layers=1,
        vocab_size=len(tokenizer),
        dropout_rate=0.0,
    )
    model = BackboneSpec(
        "tiny", 0, fps=8, train_pixels=32 * 32, train_frames=13, capabilities=CAPABILITIES
    )
    return Wan(transformer, vae, UMT5EncoderModel(text), tokenizer, 3.0, model, "tiny")


@dataclasses.dataclass
class Raw:
    """A network behind the two doors, before there is an adapter for it."""

    network: nn.Module
    run: object  # (network, z b c f h w) -> b c f h w

    def __post_init__(self):
        self.attention_hooks = attention_hooks(self.network.eval())
        self.feature_hooks = feature_hooks.output_hooks(residual_blocks(self.network))

    @torch.no_grad()
    def velocity(self, z, sigma, condition, *, branch, frames=None) -> Tensor:
        frames = tuple(range(z.shape[2])) if frames is None else tuple(frames)
        call = NetworkCall(branch, frames, z.shape[3:], len(z))
        with self.attention_hooks.use_call(call), self.feature_hooks.use_call(call):
            return self.run(self.network, z)


SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": TEXT,
}


def unet2d() -> Raw:
    """As Stable Diffusion's: frames as a batch."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    network = UNet2DConditionModel(
        **SMALL,
        in_channels=4,
        out_channels=4,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )

    def run(unet, z: Tensor) -> Tensor:
        frames = z.transpose(1, 2).flatten(0, 1)
        out = unet(frames, 500, torch.ones(len(frames), 3, TEXT)).sample
        return out.unflatten(0, (len(z), -1)).transpose(1, 2)

    return Raw(network, run)


def unet3d() -> Raw:
    """As ModelScope's: spatial and temporal layers in turn."""
    from diffusers import UNet3DConditionModel

    torch.manual_seed(0)
    network = UNet3DConditionModel(
        **SMALL,
        in_channels=4,
        out_channels=4,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )
    for name, parameter in network.named_parameters():
        if "temp_convs" in name or "proj_out" in name:  # made zero, time would not be seen
            nn.init.normal_(parameter, std=0.05)

    def run(unet, z: Tensor) -> Tensor:
        return unet(z, 500, torch.ones(len(z), 3, TEXT)).sample

    return Raw(network, run)


def svd() -> Raw:
    """As Stable Video Diffusion's: one block over space and time, the image joined on channels."""
    from diffusers import UNetSpatioTemporalConditionModel

    torch.manual_seed(0)
    network = UNetSpatioTemporalConditionModel(
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        cross_attention_dim=TEXT,
        num_attention_heads=(2, 4),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    )

    def run(unet, z: Tensor) -> Tensor:
        joined = torch.cat((z, 0 * z), 1).transpose(1, 2)  # b f 2c h w
        ids = torch.ones(len(z), 3)
        out = unet(joined, 0.5, torch.ones(len(z), 1, TEXT), added_time_ids=ids).sample
        return out.transpose(1, 2)

    return Raw(network, run)


def image_vae():
    """A VAE of single frames, stride 8."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )


def stable_video(vae: nn.Module | None = None) -> StableVideo:
    """An adapter around the image-conditioned U-Net, with CLIP's vision beside it."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    network = svd().network
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=56,
        projection_dim=TEXT,
    )
    model = BackboneSpec(
        "tiny", 0, fps=8, train_pixels=32 * 32, train_frames=10, capabilities=SVD_CAPABILITIES
    )
    encoder, processor = CLIPVisionModelWithProjection(vision), CLIPImageProcessorPil()
    return StableVideo(network, vae or image_vae(), encoder, processor, None, model, "tiny")


def latent_diffusion(network: Raw) -> LatentDiffusion:
    """An adapter around a U-Net, with a VAE of stride 8 and CLIP's classes beside it."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from holdfast.shapeworld.training.text import new_clip_tokenizer

    torch.manual_seed(0)
    vae = image_vae()
    tokenizer = new_clip_tokenizer()
    text = CLIPTextConfig(
        hidden_size=TEXT,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    capabilities = unet_capabilities(network.attention_hooks)
    model = BackboneSpec("tiny", 0, 8, 32 * 32, train_frames=10, capabilities=capabilities)
    encoder = CLIPTextModel(text)
    return LatentDiffusion(network.network, vae, encoder, tokenizer, None, model, "tiny")


def controlnet(unet: nn.Module) -> nn.Module:
    """A ControlNet of a tiny U-Net, whose outputs are not zero."""
    from diffusers import ControlNetModel

    torch.manual_seed(3)
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4, 4))
    for name, parameter in network.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding")):
            nn.init.normal_(parameter, std=0.3)
    return network


FAMILIES = {"wan": wan, "sd": unet2d, "t2v": unet3d, "svd": svd}
ADAPTERS = {
    "wan": wan,
    "sd": lambda: latent_diffusion(unet2d()),
    "t2v": lambda: latent_diffusion(unet3d()),
    "svd": stable_video,
}

"""The memory of Wan's activations, from shapes. The constants were measured on a CPU (docs/memory.md)."""

import math

from ..checkpoint import Checkpoint
from ..footprint import Activations, ClipShape
from ..placement import Placements

TEXT_TOKENS = 512
TOKEN_WIDTHS = 4  # states of the network's width that a block holds at once
FEED_FORWARD_WIDTHS = 2  # of the feed-forward layer: before and after its activation
NETWORK_BYTES = 70 * 10**6  # text states, tables of positions
SCORE_COPIES = 4  # of the text encoder's attention scores
ENCODE_FLOATS, DECODE_FLOATS = 35, 48  # per pixel and base channel of the VAE
TILE_OVERLAP = 64  # pixels


def estimate_activations(
    checkpoint: Checkpoint, shape: ClipShape, item: int, placements: Placements
) -> Activations:
    """Return the activations of a clip's window of latent frames."""
    vae, text = checkpoint.config("vae"), checkpoint.config("text_encoder")
    side = vae.get("scale_factor_spatial") or 8
    latent_cells = shape.frames * (shape.height // side) * (shape.width // side)
    network = checkpoint.config("transformer")
    tokens = latent_cells // math.prod(network.get("patch_size") or (1, 2, 2))
    width = network["num_attention_heads"] * network["attention_head_dim"]
    each = item * (TOKEN_WIDTHS * width + FEED_FORWARD_WIDTHS * network["ffn_dim"])
    encode, decode = _vae_bytes(vae, shape, placements.tile)
    return Activations(
        encode=encode,
        condition=_text_bytes(text, item),
        denoise=tokens * each + NETWORK_BYTES,
        decode=decode,
        is_measured=True,
    )


def _text_bytes(text: dict, item: int) -> int:
    """Return the activations of two prompts: scores of attention, and the feed-forward layer."""
    scores = 2 * text["num_heads"] * TEXT_TOKENS**2 * SCORE_COPIES
    states = 2 * TEXT_TOKENS * (4 * text["d_model"] + 3 * text["d_ff"])
    return item * (scores + states)


def _vae_bytes(vae: dict, shape: ClipShape, tile: int) -> tuple[int, int]:
    """Return what encoding and decoding take in float32: whole frames, or for decoding a tile and all its frames."""
    patch = vae.get("patch_size") or 1
    encode_dim = vae.get("base_dim") or 96
    decode_dim = vae.get("decoder_base_dim") or encode_dim
    pixels = shape.height * shape.width / patch**2
    encode = round(4 * pixels * encode_dim * ENCODE_FLOATS)
    decode = round(4 * pixels * decode_dim * DECODE_FLOATS)
    if tile:
        time = vae.get("scale_factor_temporal") or 4
        frames = (shape.frames - 1) * time + 1
        clip = 4 * 3 * frames * shape.height * shape.width
        inside = min(tile, shape.height) * min(tile, shape.width) / patch**2
        decode = round(4 * inside * decode_dim * DECODE_FLOATS) + clip
    return encode, decode

"""The memory of Wan's activations, from shapes. The constants were measured on a CPU (docs/memory.md)."""

import math

from ..checkpoint import Checkpoint
from ..footprint import Activations, ClipShape
from ..placement import STREAMED, Placements

TEXT_TOKENS = 512
TOKEN_WIDTHS = 5  # states of the network's width that a block holds at once
FEED_FORWARD_WIDTHS = 2  # of the feed-forward layer: before and after its activation
# Tokens in one row, in those of one evaluation. Where blocks are streamed: source and target with both their prompts
# each, and copies of them; otherwise a source, and targets inside a mask of up to a quarter of the frame.
STREAMED_ROWS, ROWS = 5.2, 1.5
NETWORK_BYTES = 70 * 10**6  # text states, tables of positions
PROMPTS = 2  # that the text encoder reads at once
ENCODE_FLOATS, DECODE_FLOATS = 34.6, 50.5  # per pixel and base channel of the VAE
ENCODE_BYTES, DECODE_BYTES = 270 * 10**6, 100 * 10**6  # of a library, whatever the size


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
    is_streamed = placements.of("transformer") in STREAMED
    rows = STREAMED_ROWS if is_streamed else ROWS
    # Streamed, the feed-forward layers take the tokens of one branch at a time.
    together = 1.0 if is_streamed else ROWS
    states = rows * TOKEN_WIDTHS * width
    each = item * (states + together * FEED_FORWARD_WIDTHS * network["ffn_dim"])
    encode, decode = _vae_bytes(vae, shape, placements.tile)
    return Activations(
        encode=encode,
        condition=_text_bytes(text, item),
        denoise=round(tokens * each) + NETWORK_BYTES,
        decode=decode,
        is_measured=True,
    )


def _text_bytes(text: dict, item: int) -> int:
    """Return the activations of two prompts: the bias of positions, scores and weights, and the feed-forward layer."""
    bias = text["num_heads"] * TEXT_TOKENS**2 * (1 + 2 * PROMPTS)
    states = PROMPTS * TEXT_TOKENS * (2 * text["d_model"] + 2 * text["d_ff"])
    return item * (bias + states)


def _vae_bytes(vae: dict, shape: ClipShape, tile: int) -> tuple[int, int]:
    """Return what encoding and decoding take in float32: whole frames, or for decoding a tile and all its frames."""
    patch = vae.get("patch_size") or 1
    encode_dim = vae.get("base_dim") or 96
    decode_dim = vae.get("decoder_base_dim") or encode_dim
    pixels = shape.height * shape.width / patch**2
    encode = round(4 * pixels * encode_dim * ENCODE_FLOATS) + ENCODE_BYTES
    decode = round(4 * pixels * decode_dim * DECODE_FLOATS) + DECODE_BYTES
    if tile:
        time = vae.get("scale_factor_temporal") or 4
        frames = (shape.frames - 1) * time + 1
        clip = 4 * 3 * frames * shape.height * shape.width
        inside = min(tile, shape.height) * min(tile, shape.width) / patch**2
        decode = round(4 * inside * decode_dim * DECODE_FLOATS) + DECODE_BYTES + clip
    return encode, decode

"""Names and shapes of the published U-Nets' parameters, written down from their structure: no class is asked."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

Shapes = Iterator[tuple[str, tuple[int, ...]]]
LAYERS = 2  # residual blocks a level going down, one more going up


@dataclass(frozen=True)
class UNet:
    """What the families of U-Nets differ in."""

    inside: int = 4  # channels
    words: int = 768  # width of what it attends to
    linear: bool = True  # projections around its attention
    kind: str = "frame"  # frame | clip (over time after each layer) | image (over time within it)
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    added: int = 0  # width of further conditions beside the timestep

    @property
    def time(self) -> int:
        return 4 * self.channels[0]


def under(name: str, shapes: Shapes) -> Shapes:
    for inner, shape in shapes:
        yield f"{name}.{inner}", shape


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def embedding(given: int, inner: int, out: int) -> Shapes:
    yield from layer("linear_1", inner, given)
    yield from layer("linear_2", out, inner)


def residual(before: int, after: int, time: int, taps: tuple[int, ...]) -> Shapes:
    yield from layer("norm1", before)
    yield from layer("conv1", after, before, *taps)
    yield from layer("time_emb_proj", after, time)
    yield from layer("norm2", after)
    yield from layer("conv2", after, after, *taps)
    if before != after:
        yield from layer("conv_shortcut", after, before, *(1 for _ in taps))


def attention(width: int, looked_at: int) -> Shapes:
    yield from layer("to_q", width, width, bias=False)
    yield from layer("to_k", width, looked_at, bias=False)
    yield from layer("to_v", width, looked_at, bias=False)
    yield from layer("to_out.0", width, width)


def forward(width: int) -> Shapes:
    yield from layer("net.0.proj", 8 * width, width)
    yield from layer("net.2", width, 4 * width)


def transformer(width: int, looked_at: int) -> Shapes:
    for i in (1, 2, 3):
        yield from layer(f"norm{i}", width)
    yield from under("attn1", attention(width, width))
    yield from under("attn2", attention(width, looked_at))
    yield from under("ff", forward(width))


def over_time(width: int, inner: int) -> Shapes:
    """Attention over time of a clip model: twice over itself."""
    yield from layer("norm", width)
    yield from layer("proj_in", inner, width)
    yield from under("transformer_blocks.0", transformer(inner, inner))
    yield from layer("proj_out", width, inner)


def attending(net: UNet, width: int) -> Shapes:
    taps = () if net.linear else (1, 1)
    yield from layer("norm", width)
    yield from layer("proj_in", width, width, *taps)
    yield from under("transformer_blocks.0", transformer(width, net.words))
    if net.kind == "image":
        inner = "temporal_transformer_blocks.0"
        yield from layer(f"{inner}.norm_in", width)
        yield from under(f"{inner}.ff_in", forward(width))
        yield from under(inner, transformer(width, net.words))
        yield from under("time_pos_embed", embedding(width, 4 * width, width))
        yield "time_mixer.mix_factor", (1,)
    yield from layer("proj_out", width, width, *taps)


def convolving(net: UNet, before: int, after: int) -> Shapes:
    if net.kind != "image":
        yield from residual(before, after, net.time, (3, 3))
        return
    yield from under("spatial_res_block", residual(before, after, net.time, (3, 3)))
    yield from under("temporal_res_block", residual(after, after, net.time, (3, 1, 1)))
    yield "time_mixer.mix_factor", (1,)


def convolving_over_time(width: int) -> Shapes:
    for i, place in ((1, 2), (2, 3), (3, 3), (4, 3)):  # after norm and activation, and dropout
        yield from layer(f"conv{i}.0", width)
        yield from layer(f"conv{i}.{place}", width, width, 3, 1, 1)


def level(net: UNet, widths: list[tuple[int, int]], attends: bool, attentions: int) -> Shapes:
    """One block. widths: channels before and after each of its residual blocks."""
    for i, (before, after) in enumerate(widths):
        yield from under(f"resnets.{i}", convolving(net, before, after))
        if net.kind == "clip":
            yield from under(f"temp_convs.{i}", convolving_over_time(after))
    for i in range(attentions if attends else 0):
        width = widths[i][1]
        yield from under(f"attentions.{i}", attending(net, width))
        if net.kind == "clip":
            yield from under(f"temp_attentions.{i}", over_time(width, width))


def parameters(net: UNet) -> dict[str, tuple[int, ...]]:
    """Every parameter of a U-Net whose deepest level does not attend."""
    return dict(all_of(net))


def all_of(net: UNet) -> Shapes:
    first, *_, last = net.channels
    yield from layer("conv_in", first, net.inside, 3, 3)
    yield from under("time_embedding", embedding(first, net.time, net.time))
    if net.added:
        yield from under("add_embedding", embedding(net.added, net.time, net.time))
    if net.kind == "clip":
        yield from under("transformer_in", over_time(first, 8 * 64))
    kept, before = [first], first  # channels that the way up will find
    for i, after in enumerate(net.channels):
        widths = [(before, after)] + [(after, after)] * (LAYERS - 1)
        deepest = i == len(net.channels) - 1
        yield from under(f"down_blocks.{i}", level(net, widths, not deepest, LAYERS))
        kept += [after] * LAYERS
        if not deepest:
            yield from layer(f"down_blocks.{i}.downsamplers.0.conv", after, after, 3, 3)
            kept.append(after)
        before = after
    yield from under("mid_block", level(net, [(last, last)] * 2, True, 1))
    for i, after in enumerate(reversed(net.channels)):
        widths = []
        for _ in range(LAYERS + 1):
            widths.append((before + kept.pop(), after))
            before = after
        yield from under(f"up_blocks.{i}", level(net, widths, i > 0, LAYERS + 1))
        if i < len(net.channels) - 1:
            yield from layer(f"up_blocks.{i}.upsamplers.0.conv", after, after, 3, 3)
    yield from layer("conv_norm_out", first)
    yield from layer("conv_out", 4, first, 3, 3)


SD15 = UNet(linear=False)
SD21 = UNet(words=1024)
CLIP = replace(SD21, kind="clip")  # ModelScope and Zeroscope
IMAGE = replace(SD21, kind="image", inside=8, added=3 * 256)  # Stable Video Diffusion

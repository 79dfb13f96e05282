"""EbSynth (Jamriska et al., ACM TOG 38(4), 2019; no arXiv number): propagate edited frames by guided patch synthesis.

E = sum_p [ sum_g w_g |G_g(q) - G'_g(p)|^2 + w_s |style(q) - out(p)|^2 + uniformity * Omega(q) ],  q = field(p)

over patches of the edited keyframe q and of the frame p, for guides g: colour, edges, the result of the frame before
and the position in the keyframe, the last two moved along the flow. PatchMatch finds the field; a vote gives the
picture. It needs no model: media/patch_synthesis is the synthesis, and the backbone's latent is the clip itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from ..base.errors import UserError
from ..base.notices import warn_user
from ..base.schema import Field, Range, Share, settings_class
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, remaining_steps
from ..sampling.masking import blend_by_mask
from .base import MethodInfo

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from ..media.patch_synthesis.propagation import Clip, PropagationOptions

Weight = Annotated[float, Range(0, 1000)]


def describe_segments(config: Config) -> str:
    """Return how the parts between keyframes are edited, for the plan."""
    return "frames between two keyframes are propagated from both and blended"


METHOD = MethodInfo(
    requires=frozenset({"pixels"}), long_clips="segments", describe_segments=describe_segments
)


@settings_class
class Config:
    """The values of the released program, and the guides' weights that Rerender-A-Video (arXiv:2306.07954) takes."""

    steps: Annotated[int, Range(1, 1000)] = Field(
        default=6, description="iterations of search and vote on each level of the pyramid"
    )
    strength: Share = Field(
        default=1.0,
        description="share of the change that is kept: source + strength (result - source)",
    )
    search_iterations: Annotated[int, Range(1, 100)] = Field(
        default=4, description="iterations of PatchMatch before each vote"
    )
    patch: Annotated[int, Range(3, 31)] = Field(
        default=5, description="side of a patch in pixels, odd"
    )
    uniformity: Annotated[float, Range(0, 1e6)] = Field(
        default=3500.0,
        description="lambda_uniform: cost of patches of the keyframe that are used often; 0: none",
    )
    levels: Annotated[int, Range(0, 16)] = Field(
        default=0, description="levels of the pyramid; 0: as many as the frame has room for"
    )
    stop_threshold: Annotated[float, Range(0, 255)] = Field(
        default=5.0,
        description="pixels that a vote changes by less, in 8-bit steps, are not searched again",
    )
    extra_pass: bool = Field(default=False, description="a last pass with patches of 3 pixels")
    style_weight: Weight = Field(default=1.0, description="w_s: weight of the result itself")
    colour_weight: Weight = Field(default=6.0, description="weight of the clip's colours")
    edge_weight: Weight = Field(default=0.5, description="weight of the clip's edges")
    temporal_weight: Weight = Field(
        default=0.5, description="weight of the result of the frame before, moved along the flow"
    )
    position_weight: Weight = Field(
        default=2.0, description="weight of the position in the keyframe, moved along the flow"
    )
    optical_flow: Literal["sharp_dis", "dis"] = Field(
        default="sharp_dis", description="how the flow between frames is estimated"
    )
    start: Literal["flow", "random"] = Field(
        default="flow",
        description="where the search begins: where the flow leads, or at random points as released",
    )
    blend: Literal["average", "contrast", "poisson"] = Field(
        default="contrast",
        description="how the results of two keyframes are blended: their average, the average with their contrast, or "
        "that with the gradients of the better match (a Poisson equation)",
    )

    def __post_init__(self) -> None:
        if self.patch % 2 == 0:
            raise UserError(f"patch is {self.patch}", "use an odd number")


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    from ..media.patch_synthesis.propagation import plan_parts, run_part

    if not config.strength:
        return
    clip, options = open_clip(inputs, config), propagation_options(config, inputs.seed)
    check_segments(inputs)
    parts = plan_parts(len(clip.frames), sorted(clip.keyframes))
    z, state = initial_state(resume, inputs.latent)
    for i in remaining_steps(resume, "edit", 0, 1 + len(parts)):
        pictures = {} if i else {key: clip.style(key) for key in clip.keyframes}
        if i:
            carried = {name: value.numpy() for name, value in state.items()}
            carried, picture = run_part(clip, parts[i - 1], carried, options)
            pictures = {} if picture is None else {parts[i - 1].frame: picture}
            state = {name: to_tensor(value) for name, value in carried.items()}
        z = replace_frames(z, pictures, inputs, config.strength)
        yield Step("edit", i + 1, 1 + len(parts), z, state, preview=z)


def open_clip(inputs: EditInputs, config: Config) -> Clip:
    """Return the clip with its keyframes, flow and mask as arrays."""
    import numpy as np

    from ..media import optical_flow
    from ..media.patch_synthesis.propagation import Clip

    frames = np.ascontiguousarray(inputs.latent[0].permute(1, 2, 3, 0).float().cpu().numpy())
    estimate = {"dis": optical_flow.dis, "sharp_dis": optical_flow.sharp_dis}[config.optical_flow]
    assert inputs.first_frame is not None
    mask = inputs.mask
    return Clip(
        list(frames),
        lambda frame, other: estimate(frames[frame], frames[other]),
        {at: to_array(image) for at, image in {0: inputs.first_frame, **inputs.keyframes}.items()},
        None if mask is None else lambda frame: mask[0, 0, frame].cpu().numpy() > 0,
    )


def check_segments(inputs: EditInputs) -> None:
    """Warn the user of segments that no keyframe asks for: the method holds one frame at a time."""
    begins = {begin for begin, _ in inputs.segments}
    if begins - {0, *inputs.keyframes}:
        warn_user("the window has no effect: frames are propagated one after another")


def propagation_options(config: Config, seed: int) -> PropagationOptions:
    from ..media.patch_synthesis.guides import GuideWeights
    from ..media.patch_synthesis.propagation import PropagationOptions
    from ..media.patch_synthesis.synthesis import Options

    synthesis = Options(
        config.patch,
        config.uniformity,
        config.steps,
        config.search_iterations,
        config.levels,
        config.stop_threshold,
        config.extra_pass,
        config.style_weight,
        seed,
    )
    weights = GuideWeights(
        config.colour_weight, config.edge_weight, config.temporal_weight, config.position_weight
    )
    return PropagationOptions(synthesis, weights, config.blend, config.start == "flow")


def replace_frames(
    z: Tensor, pictures: dict[int, ndarray], inputs: EditInputs, strength: float
) -> Tensor:
    """Return the clip 1 3 f H W with some frames replaced, as far as strength and mask allow."""
    z = z.clone()
    for at, picture in pictures.items():
        part = slice(at, at + 1)
        source = inputs.latent[:, :, part]
        edited = to_tensor(picture).permute(2, 0, 1)[None, :, None].to(source)
        if strength < 1:
            edited = source + strength * (edited - source)
        mask = inputs.mask
        z[:, :, part] = edited if mask is None else blend_by_mask(mask[:, :, part], edited, source)
    return z


def to_array(image: Tensor) -> ndarray:
    """Return an image 3 H W as H W 3 float32."""
    import numpy as np

    return np.ascontiguousarray(image.permute(1, 2, 0).float().cpu().numpy())


def to_tensor(array: ndarray) -> Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32))

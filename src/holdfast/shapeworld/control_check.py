"""Measure whether samples follow the edges that control them: `python -m holdfast.shapeworld.control_check`.

A frame is sampled from noise with a scene's caption, once with the edges of the scene's frame and once without. The
agreement of two edge maps is the harmonic mean of the shares of each one's edges that lie within a pixel of the
other's.
"""

import argparse
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from statistics import mean

import cv2
import numpy as np
import torch
from torch import Tensor

from ..media.edges import canny
from ..models.base import Backbone, Control, Prompt
from ..models.checkpoint import EMBEDDED
from ..models.registry import load_backbone
from ..models.unet.control import load_controlnet
from ..sampling.guidance import guided_velocity
from ..sampling.noise import keyed_noise
from .rendering import render
from .scenes import sample_scene

NAME = "shapeworld-sd-canny"
TIME = 6  # of a clip's frames, the one that is sampled
STEPS, GUIDANCE = 25, 4.0


def edge_agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the agreement of two edge maps H W, 0 to 1, with a tolerance of one pixel."""
    kernel = np.ones((3, 3), np.uint8)
    near = [cv2.dilate((edges > 0).astype(np.uint8), kernel) > 0 for edges in (first, second)]
    precision = near[1][first > 0].mean() if (first > 0).any() else 0.0
    recall = near[0][second > 0].mean() if (second > 0).any() else 0.0
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def edges_of(frame: Tensor) -> np.ndarray:
    """Return Canny's edges of a frame 3 H W in [0, 1]."""
    return canny(frame.permute(1, 2, 0).cpu().numpy())


@torch.no_grad()
def sample_frame(backbone: Backbone, caption: str, control: Control | None, seed: int) -> Tensor:
    """Return a frame that is sampled from noise, 3 H W in [0, 1]."""
    conditioning = dataclasses.replace(backbone.condition(Prompt(caption)), control=control)
    sigmas = backbone.sigmas(STEPS)
    z = keyed_noise(torch.zeros(1, 16, 1, 8, 8), seed, 0) * sigmas[0]
    for sigma, sigma_next in pairwise(sigmas):
        v = guided_velocity(backbone.field, z, sigma, conditioning, "tgt", GUIDANCE)
        z = z + (sigma_next - sigma) * v
    return next(iter(backbone.decode(z)))[0]


def check_scene(backbone: Backbone, seed: int) -> dict[str, float]:
    """Return the agreement of samples with the edges of a held-out scene, with control and without."""
    scene = sample_scene(seed)
    wanted = edges_of(render([scene], (TIME,))[0, 0])
    picture = torch.from_numpy(wanted * 255).byte().expand(1, 3, -1, -1)
    controls = {"with": Control(picture), "without": None}
    frames = {n: sample_frame(backbone, scene.caption(), c, seed) for n, c in controls.items()}
    return {name: edge_agreement(edges_of(frame), wanted) for name, frame in frames.items()}


def main() -> None:
    """Print the mean agreement on held-out scenes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--controlnet", type=Path, default=EMBEDDED / NAME)
    parser.add_argument("--scenes", type=int, default=20)
    options = parser.parse_args()
    backbone = load_backbone("shapeworld-sd", device="cpu")
    network = load_controlnet(options.controlnet, torch.float32)
    with backbone.use_controlnet(network):
        found = [check_scene(backbone, seed) for seed in range(options.scenes)]
    better = sum(one["with"] > one["without"] for one in found)
    means = {name: round(mean(one[name] for one in found), 3) for name in ("with", "without")}
    print(json.dumps({"scenes": len(found), **means, "better_with": better}))


if __name__ == "__main__":
    main()

"""How well flow and occlusion are estimated on scenes whose truth is known: `python -m holdfast.shapeworld.flow`.

Prints a line each for forward and backward flow: end-point error in pixels over all pixels, over those that are seen in
the other frame too, and over actors; overlap of the occlusion map with the true one. A figure is a mean over scenes,
with its 95 % interval. Seeds count from 0, from 500000 with --tuning.
"""

import argparse
import itertools
import json

import numpy as np
import torch
from numpy import ndarray

from ..media import optical_flow
from ..models.vision.latent_flow import BACKENDS, flow_function
from .evaluate import FIRST_TUNING_SEED, summarise
from .rendering import render
from .scenes import FRAMES, sample_scene
from .truth import exact_displacement

SETS = ("several", "crossing", "fast")  # in equal parts
Pair = tuple[ndarray, ndarray]  # flow ahead and back


def estimate_flow(frames: list[ndarray], flow: optical_flow.FlowFunction) -> Pair:
    """Flow from the first of some frames to the last and back, joined from frame to frame."""
    ahead = back = np.zeros((*frames[0].shape[:2], 2), np.float32)
    for here, there in itertools.pairwise(frames):
        ahead = optical_flow.compose(ahead, flow(here, there))
        back = optical_flow.compose(flow(there, here), back)
    return ahead, back


def score_scene(seed: int, name: str, flow: optical_flow.FlowFunction, step: int) -> dict[str, dict[str, float]]:
    """Figures of the scene of a seed, over `step` frames, by direction."""
    scene = sample_scene(seed, name)
    clip = list(render([scene], FRAMES)[0].permute(0, 2, 3, 1).numpy())
    starts = range(len(clip) - step)
    pairs = [estimate_flow(clip[t : t + step + 1], flow) for t in starts]
    turned = [(back, ahead) for ahead, back in pairs]
    return {
        "forward": compare_flow(pairs, *exact_displacement(scene, FRAMES, step)),
        "backward": compare_flow(turned, *exact_displacement(scene, FRAMES, -step)),
    }


def compare_flow(pairs: list[Pair], exact: torch.Tensor, lost: torch.Tensor) -> dict[str, float]:
    """Figures of flows with those that lead back, against the exact flow n 2 H W and what is lost n H W."""
    lost = lost.numpy()
    exact = exact.permute(0, 2, 3, 1).numpy()
    error = np.linalg.norm(np.stack([ahead for ahead, _ in pairs]) - exact, axis=-1)
    moving = np.abs(exact).sum(-1) > 0  # no camera pans in these sets
    called = np.stack([optical_flow.occlusion(*pair) for pair in pairs])
    both = (called & lost).sum()
    return {
        "error": error.mean(),
        "error_still": np.linalg.norm(exact, axis=-1).mean(),  # of a flow that is zero
        "error_seen": error[~lost].mean(),
        "error_actors": error[moving].mean(),
        "error_seen_actors": error[moving & ~lost].mean(),
        "occlusion_iou": both / (called | lost).sum(),
        "occlusion_precision": both / max(called.sum(), 1),
        "occlusion_recall": both / lost.sum(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="scenes, a third of each set")
    parser.add_argument("--step", type=int, default=1, help="frames from one end to the other")
    parser.add_argument("--flow", default="sharp_dis", help=", ".join(BACKENDS))
    parser.add_argument("--raft-weights", default=None, help="file; default: torch hub's cache")
    parser.add_argument("--tuning", action="store_true", help="other scenes than the ones reported")
    options = parser.parse_args()
    flow = flow_function(options.flow, options.raft_weights)
    start = FIRST_TUNING_SEED if options.tuning else 0
    seeds = range(start, start + options.count // len(SETS))
    rows = {name: [score_scene(seed, name, flow, options.step) for seed in seeds] for name in SETS}
    rows["all"] = [row for name in SETS for row in rows[name]]
    for name, found in rows.items():
        for direction in ("forward", "backward"):
            line = {"set": name, "flow": direction, "scenes": len(found)}
            print(json.dumps(line | summarise([row[direction] for row in found])), flush=True)


if __name__ == "__main__":
    main()

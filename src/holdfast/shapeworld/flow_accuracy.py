"""Measure flow and occlusion estimates on scenes with known flow: `python -m holdfast.shapeworld.flow_accuracy`.

Print a JSON line each for forward and backward flow: the end-point error in pixels over all pixels, over those that are
visible in the other frame too, and over actors; and the overlap of the occlusion map with the true one. A value is a
mean over scenes, with its 95 % interval. Seeds start at 0, or at 500000 with --tuning.
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
Pair = tuple[ndarray, ndarray]  # forward and backward flow


def estimate_flow(frames: list[ndarray], flow: optical_flow.FlowFunction) -> Pair:
    """Return the flow from the first to the last of some frames and back, composed from frame to frame."""
    forward = backward = np.zeros((*frames[0].shape[:2], 2), np.float32)
    for first, second in itertools.pairwise(frames):
        forward = optical_flow.compose(forward, flow(first, second))
        backward = optical_flow.compose(flow(second, first), backward)
    return forward, backward


def score_scene(
    seed: int, name: str, flow: optical_flow.FlowFunction, step: int
) -> dict[str, dict[str, float]]:
    """Return the metrics of the scene of a seed by direction. step: frames from the start of a flow to its end."""
    scene = sample_scene(seed, name)
    clip = list(render([scene], FRAMES)[0].permute(0, 2, 3, 1).numpy())
    starts = range(len(clip) - step)
    pairs = [estimate_flow(clip[t : t + step + 1], flow) for t in starts]
    reversed_pairs = [(backward, forward) for forward, backward in pairs]
    return {
        "forward": compare_flow(pairs, *exact_displacement(scene, FRAMES, step)),
        "backward": compare_flow(reversed_pairs, *exact_displacement(scene, FRAMES, -step)),
    }


def compare_flow(pairs: list[Pair], exact: torch.Tensor, lost: torch.Tensor) -> dict[str, float]:
    """Return the metrics of pairs of flow and reverse flow.

    exact: the true flow, n 2 H W; lost: the pixels that are not visible at its end, n H W.
    """
    is_lost = lost.numpy()
    truth = exact.permute(0, 2, 3, 1).numpy()
    error = np.linalg.norm(np.stack([flow for flow, _ in pairs]) - truth, axis=-1)
    is_actor = np.abs(truth).sum(-1) > 0  # the camera does not move in these sets
    estimate = np.stack([optical_flow.occlusion(*pair) for pair in pairs])
    both = (estimate & is_lost).sum()
    return {
        "error": error.mean(),
        "error_still": np.linalg.norm(truth, axis=-1).mean(),  # of a flow that is zero everywhere
        "error_seen": error[~is_lost].mean(),
        "error_actors": error[is_actor].mean(),
        "error_seen_actors": error[is_actor & ~is_lost].mean(),
        "occlusion_iou": both / (estimate | is_lost).sum(),
        "occlusion_precision": both / max(estimate.sum(), 1),
        "occlusion_recall": both / is_lost.sum(),
    }


def main() -> None:
    """Measure the flow function that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120, help="scenes, a third from each set")
    parser.add_argument(
        "--step", type=int, default=1, help="frames from the start of a flow to its end"
    )
    parser.add_argument("--flow", default="sharp_dis", help=", ".join(BACKENDS))
    parser.add_argument("--raft-weights", default=None, help="a file; default: torch hub's cache")
    parser.add_argument(
        "--tuning", action="store_true", help="use other scenes than the reported ones"
    )
    options = parser.parse_args()
    flow = flow_function(options.flow, options.raft_weights)
    start = FIRST_TUNING_SEED if options.tuning else 0
    seeds = range(start, start + options.count // len(SETS))
    rows = {name: [score_scene(seed, name, flow, options.step) for seed in seeds] for name in SETS}
    rows["all"] = [row for name in SETS for row in rows[name]]
    for name, scenes in rows.items():
        for direction in ("forward", "backward"):
            line = {"set": name, "flow": direction, "scenes": len(scenes)}
            print(json.dumps(line | summarise([row[direction] for row in scenes])), flush=True)


if __name__ == "__main__":
    main()

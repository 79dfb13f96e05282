"""One layer of Wan2.1-1.3B at random weights: three dense passes against one packed pass (models/wan/packed.py).

    python benchmarks/packed.py [--tokens 7800 17160] [--shares 0.05 0.1 0.2 0.4] [--repeats 3]

It prints how many times as fast the packed pass is, next to the bound 3 / (1 + 2 share) by tokens. Passes take turns,
and each figure is of the fastest of its repeats.
"""

import argparse
import time

import torch
from diffusers import WanTransformer3DModel

from holdfast.models.base import Conditioning
from holdfast.models.wan import adapter, spec
from holdfast.sampling.field import Evaluation

ROWS_COLUMNS = {7800: (5, 60, 104), 17160: (11, 60, 104), 32760: (21, 60, 104)}  # latent f h w


def one_layer(device: torch.device, layers: int = 1) -> adapter.Wan:
    """Return the published model with one of its layers, at random weights."""
    torch.manual_seed(0)
    with device:
        network = WanTransformer3DModel(
            num_attention_heads=12, ffn_dim=8960, num_layers=layers, text_dim=4096, freq_dim=256
        )
    return adapter.Wan(network, spec=spec.SPECS["wan2.1-1.3b"], device=device)


def make_region(shape: tuple[int, int, int], share: float) -> torch.Tensor:
    """Return a region of whole rows of tokens that holds about a share of the cells."""
    region = torch.zeros(1, 1, *shape, dtype=torch.bool)
    region[..., : 2 * max(1, round(share * shape[2] / 2))] = True
    return region


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[7800, 17160])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4, 1.0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = one_layer(device)
    text = torch.randn(1, 512, 4096, device=device)
    condition = Conditioning(text, text.flip(1))
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for tokens in args.tokens:
        shape = ROWS_COLUMNS[tokens]
        z = [torch.randn(1, 16, *shape, device=device) for _ in range(2)]
        for share in args.shares:
            region = make_region(shape, share)
            names = ("src+", "tgt+", "tgt-")
            packed = [
                Evaluation(z[n != "src+"], condition, n, None if n == "src+" else region)
                for n in names
            ]
            dense = [Evaluation(e.z, condition, e.branch) for e in packed]
            seconds = {"dense": [], "packed": []}
            for _ in range(args.repeats):
                for kind, evaluations in (("dense", dense), ("packed", packed)):
                    seconds[kind].append(time_call(backbone, evaluations, device))
            ratio = min(seconds["dense"]) / min(seconds["packed"])
            bound = 3 / sum(backbone.costs(packed))
            print(
                f"{tokens} tokens, share {(bound and (3 / bound - 1) / 2):.3f}: "
                f"{ratio:.2f} times as fast (bound {bound:.2f}); dense {min(seconds['dense']):.2f} s",
                flush=True,
            )


def time_call(backbone: adapter.Wan, evaluations: list[Evaluation], device: torch.device) -> float:
    begin = time.perf_counter()
    backbone.velocities(0.7, evaluations)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

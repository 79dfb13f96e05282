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


KEPT_IN_FLOAT32 = ("time_embedder", "scale_shift_table", "norm1", "norm2", "norm3")  # by diffusers
HEADS_WIDTH = {"wan2.1-1.3b": (12, 8960), "wan2.1-14b": (40, 13824)}  # and of the feed-forward


def one_layer(device: torch.device, layers: int = 1, name: str = "wan2.1-1.3b") -> adapter.Wan:
    """Return a published model with some of its layers, at random weights."""
    torch.manual_seed(0)
    heads, width = HEADS_WIDTH[name]
    with device:
        network = WanTransformer3DModel(
            num_attention_heads=heads,
            ffn_dim=width,
            num_layers=layers,
            text_dim=4096,
            freq_dim=256,
        )
    if device.type == "cuda":
        for path, parameter in network.named_parameters():
            if not any(kept in path for kept in KEPT_IN_FLOAT32):
                parameter.data = parameter.data.bfloat16()
    return adapter.Wan(network, spec=spec.SPECS[name], name=name, device=device)


def make_region(shape: tuple[int, int, int], share: float) -> torch.Tensor:
    """Return a region with about a share of the tokens of each frame, the first ones row by row: 1 1 f h w."""
    frames, rows, columns = shape[0], shape[1] // 2, shape[2] // 2
    tokens = torch.zeros(rows * columns, dtype=torch.bool)
    tokens[: max(1, round(share * len(tokens)))] = True
    cells = tokens.view(rows, columns).repeat_interleave(2, 0).repeat_interleave(2, 1)
    return cells.expand(1, 1, frames, -1, -1)


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
                f"{tokens} tokens, share {(3 / bound - 1) / 2:.3f}: "
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

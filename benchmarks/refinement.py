"""Measure the cost of FlowAnchor's refinement: `python benchmarks/refinement.py [--device cuda] [--frames 41] ...`.

One transformer layer of Wan2.1-1.3B at random weights, at the tokens of a clip of 832x480 (41 frames: 17160): a plain
call, one with our closed form, and one with a naive refinement that builds the map of all heads. Prints seconds and
peak memory of the call, in one run. A step makes four such calls in each of 30 layers, and one of the four is refined:
the overhead of a step is a quarter of the call's.
"""

import argparse
import threading
import time

import psutil
import torch
from torch import Tensor

from holdfast.methods.flowanchor import Config, RefinementRule
from holdfast.models import attention
from holdfast.models.attention.refinement import (
    LogitRefinement,
    MaskRows,
    WordColumns,
    refine_attention,
)
from holdfast.models.base import Conditioning
from holdfast.models.wan.adapter import Wan

TEXT, WORDS, LENGTH = 512, (4, 5), 24  # tokens: padded, of the edit, of the prompt


def build_network(device: str, dtype: torch.dtype, layers: int) -> Wan:
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    with torch.device(device):
        transformer = WanTransformer3DModel(
            num_layers=layers,
            num_attention_heads=12,
            attention_head_dim=128,
            ffn_dim=8960,
            text_dim=4096,
        )
    return Wan(transformer if dtype == torch.float32 else transformer.to(dtype))


def refine_naively(
    q: Tensor, k: Tensor, v: Tensor, inside: Tensor, target: Tensor, how: LogitRefinement
) -> Tensor:
    """Apply equations 6 to 9 literally, on the whole map."""
    a = (q.float() @ k.float().mT) * q.shape[-1] ** -0.5  # b h N L
    top, bottom = a.amax(-1, keepdim=True), a.amin(-1, keepdim=True)
    columns = torch.zeros(k.shape[2], dtype=torch.bool, device=k.device)
    columns[target] = True
    raised = torch.where(columns, a + how.beta_text * (top - a), a - how.beta_text * (a - bottom))
    a = torch.where(inside[:, None], raised, a)
    high, low = a.amax(2, keepdim=True), a.amin(2, keepdim=True)
    moved = torch.where(
        inside[:, None], a + how.beta_video * (high - a), a - how.beta_video * (a - low)
    )
    return (torch.where(columns, moved, a).softmax(-1) @ v.float()).to(q.dtype)


class Peak:
    """Peak memory within the block above that at its start, in MB."""

    def __init__(self, device: str):
        self.device = device

    def __enter__(self):
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        self.process, self.most, self.on = psutil.Process(), 0, True
        self.before = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.on:
            self.most = max(self.most, self.process.memory_info().rss)
            time.sleep(0.002)

    def __exit__(self, *_):
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.most = torch.cuda.max_memory_allocated()
        else:
            self.on = False
            self.thread.join()
        self.mb = (self.most - self.before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--frames", type=int, default=41)
    parser.add_argument("--layers", type=int, default=1, help="30: the whole model")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    backbone = build_network(options.device, dtype, options.layers)
    shape = ((options.frames - 1) // 4 + 1, 60, 104)
    z = torch.randn(1, 16, *shape, device=options.device)
    text = torch.randn(1, TEXT, 4096, device=options.device)
    mask = torch.zeros(1, 1, *shape, device=options.device)
    mask[..., 15:45, 26:78] = 1  # a quarter of the frame
    condition = Conditioning(text, text, LENGTH, WORDS)
    anchor, words = (
        RefinementRule(mask, condition, Config()),
        torch.tensor(WORDS, device=options.device),
    )

    def ours(site, q, k, v):
        return anchor(site, q, k, v)

    def whole(site, q, k, v):
        return refine_naively(
            q, k, v, site.tokens_in_mask(mask)[0], words, LogitRefinement(0.3, 0.3, TEXT)
        )

    def cross(site):
        return site.kind == "cross"

    def call(rule) -> Tensor:
        if rule is None:
            return backbone.velocity(z, 0.8, condition, branch="tgt+")
        with attention.use_rule(backbone, rule, cross):
            return backbone.velocity(z, 0.8, condition, branch="tgt+")

    call(None)  # warm up
    rows, results = {}, {}
    for name, rule in (("plain", None), ("ours", ours), ("naive", whole)):
        times = []
        for _ in range(options.repeats):
            with Peak(options.device) as peak:
                begin = time.perf_counter()
                results[name] = call(rule)
            times.append(time.perf_counter() - begin)
        rows[name] = (min(times), peak.mb)
    tokens = shape[0] * 30 * 52
    where = f"{options.dtype}, {options.device}, {torch.get_num_threads()} threads"
    print(f"{tokens} tokens, {TEXT} text tokens, 12 heads, {options.layers} layer(s), {where}")
    print(f"{'':<8} {'seconds':>9} {'to plain':>9} {'peak MB':>9}")
    for name, (seconds, mb) in rows.items():
        print(f"{name:<8} {seconds:>9.3f} {seconds / rows['plain'][0] - 1:>+9.1%} {mb:>9.0f}")
    step = {name: 3 * rows["plain"][0] + seconds for name, (seconds, _) in rows.items()}
    over = {name: seconds / step["plain"] - 1 for name, seconds in step.items()}
    print(
        "a step of three plain calls and one refined, to four plain ones: "
        f"ours {over['ours']:+.1%}, naive {over['naive']:+.1%}"
    )
    print(
        f"largest difference of ours to naive: {(results['ours'] - results['naive']).abs().max().item():.1e}"
    )
    time_attention(mask, words, options)


def time_attention(mask: Tensor, words: Tensor, options) -> None:
    """Time the cross-attention operation alone, where the difference is largest."""
    tokens = mask.shape[2] * 30 * 52
    dtype = getattr(torch, options.dtype)
    q = torch.randn(1, 12, tokens, 128, device=options.device, dtype=dtype)
    k, v = (torch.randn(1, 12, TEXT, 128, device=options.device, dtype=dtype) for _ in range(2))
    inside = torch.nn.functional.adaptive_max_pool3d(mask, (mask.shape[2], 30, 52)).flatten() > 0
    how = LogitRefinement(0.3, 0.3, TEXT)
    columns = WordColumns.join(words.tolist(), device=q.device)
    kinds = {
        "plain": lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v),
        "ours": lambda: refine_attention(q, k, v, MaskRows.split(inside), columns, how),
        "naive": lambda: refine_naively(q, k, v, inside, words, how),
    }
    print(f"\ncross-attention alone\n{'':<8} {'seconds':>9} {'peak MB':>9}")
    for name, run in kinds.items():
        run()
        with Peak(options.device) as peak:
            begin = time.perf_counter()
            run()
        print(f"{name:<8} {time.perf_counter() - begin:>9.3f} {peak.mb:>9.0f}")


if __name__ == "__main__":
    with torch.no_grad():
        main()

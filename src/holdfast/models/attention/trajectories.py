"""Attention along the trajectories that optical flow gives tokens (FLATTEN, arXiv:2310.05922).

A token p of frame i goes on to p + F_i(p) in frame i + 1, with the flow F_i rounded to the grid of tokens. Where
several tokens reach one, a drawn one keeps it as its successor, and the others' trajectories end. A token attends to
those of its trajectory. Tokens of a clip are numbered by frame, row and column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...base.lazy import functional, torch
from ...sampling.noise import keyed_noise
from ..vision.latent_flow import flow_function
from .frames import attend_to_frames, frame_sources, merge_frames, split_frames
from .maps import rows_per_block

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from ..injection import Injection
    from .hooks import Layer

NONE = -1  # in place of the number of a token


@dataclass(frozen=True)
class TrajectoryKeys:
    """The tokens that each token of a clip attends to, and which of them count: both (f N) K."""

    tokens: Tensor
    is_used: Tensor


class Trajectories:
    """The trajectories of a clip, on the grid of each layer that asks for them.

    flows: from each frame to the next, 2 H W in pixels. variant: `paper`, a token's keys are those of its trajectory;
    `released`, see `windowed_keys`. seed: of the draws.
    """

    def __init__(
        self, flows: Sequence[Tensor], seed: int, variant: Literal["paper", "released"] = "released"
    ):
        self.flows, self.seed, self.variant = flows, seed, variant
        self._successors: dict[tuple[int, int], Tensor] = {}  # by rows and columns
        self._keys: dict[tuple, TrajectoryKeys] = {}

    @classmethod
    def of_clip(
        cls,
        frames: Iterable[Tensor],
        flow: str,
        seed: int,
        variant: Literal["paper", "released"] = "released",
    ) -> Trajectories:
        """Return the trajectories of frames 3 H W. flow: the name of what computes it."""
        return cls(pixel_flows(frames, flow_function(flow)), seed, variant)

    def attend(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return attention along trajectories in a layer over space: `(b f) heads N d`, as q, k and v."""
        frames = len(layer.frames)
        q, k, v = (merge_frames(x, frames) for x in (q, k, v))
        return split_frames(attend_along(q, k, v, self.find_keys(layer, q.device)), frames)

    def find_keys(self, layer: Layer, device: torch.device) -> TrajectoryKeys:
        """Return what the tokens of a layer attend to."""
        key = layer.frames, layer.token_grid, device
        if key not in self._keys:
            made = self.make_keys(layer.frames, layer.token_grid[1:])
            self._keys[key] = TrajectoryKeys(made.tokens.to(device), made.is_used.to(device))
        return self._keys[key]

    def make_keys(self, frames: Sequence[int], grid: tuple[int, int]) -> TrajectoryKeys:
        """Return the keys on a grid of (rows, columns), in neighbouring frames of the clip."""
        if grid not in self._successors:
            flows = [round_flow(flow, grid) for flow in self.flows]
            self._successors[grid] = find_successors(flows, grid, self.seed)
        successors = self._successors[grid][frames[0] : frames[-1]]
        tokens = trajectory_tokens(successors, len(frames))
        if self.variant == "paper":
            return trajectory_keys(tokens)
        return windowed_keys(tokens, *grid)


def is_spatial_self(layer: Layer) -> bool:
    """Select self-attention over space."""
    return layer.kind == "self" and layer.axis == "spatial"


@dataclass(frozen=True)
class FlowAttention:
    """The attention rule: over all frames, and then along trajectories in the layers of the finest grid.

    injection: that of the step; targets take the source's queries and keys.
    """

    trajectories: Trajectories
    old_qk: bool
    injection: Injection | None = None

    def __call__(self, layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.injection is not None:
            q, k = self.injection.exchange(layer, q, k)
        output = attend_to_frames(layer, q, k, v, frame_sources("all", len(layer.frames)))
        if layer.cells_per_token > 1:
            return output
        q, k = (q, k) if self.old_qk else (output, output)
        return self.trajectories.attend(layer, q, k, output)


def pixel_flows(
    frames: Iterable[Tensor], flow: Callable[[ndarray, ndarray], ndarray]
) -> list[Tensor]:
    """Return the flow from each frame 3 H W to the next, each 2 H W in pixels (x, y)."""
    flows, previous = [], None
    for frame in frames:
        current = np.ascontiguousarray(frame.permute(1, 2, 0).float().cpu().numpy())
        if previous is not None:
            flows.append(torch.from_numpy(flow(previous, current)).permute(2, 0, 1))
        previous = current
    return flows


def round_flow(flow: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a flow 2 H W in pixels as whole tokens of a grid of (rows, columns): 2 rows columns, (x, y).

    It is that of the top left pixel of each cell. Halves are rounded to the even number.
    """
    (rows, columns), (_, height, width) = grid, flow.shape
    y = torch.arange(rows) * height // rows
    x = torch.arange(columns) * width // columns
    size = torch.tensor([width, height]).view(2, 1, 1)
    count = torch.tensor([columns, rows]).view(2, 1, 1)
    return (flow[:, y][:, :, x] / size * count).round().long()


def find_successors(flows: Sequence[Tensor], grid: tuple[int, int], seed: int) -> Tensor:
    """Return the successor of each token in the next frame, f-1 N: its number in that frame, or NONE.

    flows: of each frame but the last, in whole tokens 2 h w. grid: (rows, columns). NONE: it leaves the frame, or
    another token was drawn for its place. The draw is keyed by the seed and the frame.
    """
    rows, columns = grid
    if not flows:
        return torch.empty(0, rows * columns, dtype=torch.long)
    moves = torch.stack(list(flows))  # f-1 2 h w
    x = torch.arange(columns) + moves[:, 0]
    y = torch.arange(rows)[:, None] + moves[:, 1]
    is_inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    count = rows * columns
    target = torch.where(is_inside, y * columns + x, count).flatten(1)  # count: outside
    draw = keyed_noise(torch.empty(1, 1, len(moves), rows, columns), seed, 0, repeat=1)
    rank = draw[0, 0].flatten(1).argsort().argsort()  # f-1 N, no two equal in a frame
    best = torch.full((len(moves), count + 1), NONE).scatter_reduce(1, target, rank, "amax")
    is_kept = is_inside.flatten(1) & (rank == best.gather(1, target))
    return torch.where(is_kept, target, NONE)


def trajectory_tokens(successors: Tensor, frames: int) -> Tensor:
    """Return the tokens of each token's trajectory by frame, f N f: numbers in the clip, NONE where it has none."""
    count = successors.shape[1]
    own = torch.arange(count)
    labels, end = own[None].clone(), count  # of each token: the number of its trajectory
    for i in range(frames - 1):
        following = torch.arange(end, end + count)  # new trajectories, where no token comes from
        is_kept = successors[i] >= 0
        following[successors[i][is_kept]] = labels[i][is_kept]
        labels, end = torch.cat((labels, following[None])), end + count
    table = torch.full((end, frames), NONE)
    for i in range(frames):
        table[labels[i], i] = i * count + own
    return table[labels]


def trajectory_keys(trajectories: Tensor) -> TrajectoryKeys:
    """Return the tokens of each token's trajectory, itself first. trajectories: f N f."""
    frames, count, _ = trajectories.shape
    others = drop_own_frame(trajectories)
    own = torch.arange(frames * count)[:, None]
    tokens = torch.cat((own, others.flatten(0, 1)), 1)
    return TrajectoryKeys(tokens.clamp(min=0), tokens >= 0)


def windowed_keys(trajectories: Tensor, rows: int, columns: int, radius: int = 2) -> TrajectoryKeys:
    """Return the tokens that each token attends to in FLATTEN's released code. trajectories: f N f.

    A token's list is itself, its neighbours in a window (those in the frame, padded), and the others of its trajectory,
    padded to the longest. Of these it attends to the first and the last f - 1: to neighbours, too, where no trajectory
    is f tokens long.
    """
    frames, count, _ = trajectories.shape
    others = move_last(drop_own_frame(trajectories).flatten(0, 1))
    longest = int((others >= 0).sum(1).max())
    window = move_last(window_tokens(rows, columns, radius)).repeat(frames, 1)
    first = torch.arange(frames).repeat_interleave(count)[:, None] * count
    window = torch.where(window >= 0, window + first, NONE)
    own = torch.arange(frames * count)[:, None]
    listed = torch.cat((own, window, others[:, :longest]), 1)
    last = listed[:, -(frames - 1) :] if frames > 1 else listed[:, :0]
    tokens = torch.cat((own, last), 1)
    return TrajectoryKeys(tokens.clamp(min=0), tokens >= 0)


def drop_own_frame(trajectories: Tensor) -> Tensor:
    """Return the trajectories without each token itself, f N f-1."""
    frames = len(trajectories)
    others = [[j for j in range(frames) if j != i] for i in range(frames)]
    index = torch.tensor(others, dtype=torch.long).view(frames, 1, frames - 1)
    return trajectories.gather(2, index.expand(-1, trajectories.shape[1], -1))


def move_last(tokens: Tensor) -> Tensor:
    """Return lists of tokens, n K, with NONE after the others, whose order stays."""
    order = (tokens < 0).to(torch.uint8).sort(dim=1, stable=True).indices
    return tokens.gather(1, order)


def window_tokens(rows: int, columns: int, radius: int) -> Tensor:
    """Return the neighbours of each token of a frame, N K: row by row, NONE outside the frame."""
    offsets = [
        (i, j)
        for i in range(-radius, radius + 1)
        for j in range(-radius, radius + 1)
        if (i, j) != (0, 0)
    ]
    y = torch.arange(rows).repeat_interleave(columns)[:, None] + torch.tensor(
        [i for i, _ in offsets]
    )
    x = torch.arange(columns).repeat(rows)[:, None] + torch.tensor([j for _, j in offsets])
    is_inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    return torch.where(is_inside, y * columns + x, NONE)


def attend_along(q: Tensor, k: Tensor, v: Tensor, keys: TrajectoryKeys) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v of each token over its own keys, in blocks of tokens.

    q, k, v: `b heads (f N) d`.
    """
    numbers = 2 * q.shape[0] * q.shape[1] * keys.tokens.shape[1] * q.shape[3]
    size = rows_per_block(q.shape[2], numbers, q.device)
    blocks = zip(q.split(size, 2), keys.tokens.split(size), keys.is_used.split(size), strict=True)
    parts = []
    for rows, tokens, is_used in blocks:
        chosen = (x[:, :, tokens].transpose(1, 2) for x in (k, v))  # b n heads K d
        near_k, near_v = (x.flatten(0, 1) for x in chosen)
        query = rows.transpose(1, 2).flatten(0, 1)[:, :, None]  # (b n) heads 1 d
        mask = is_used.repeat(len(q), 1)[:, None, None]
        out = functional.scaled_dot_product_attention(query, near_k, near_v, attn_mask=mask)
        parts.append(out[:, :, 0].unflatten(0, (len(q), -1)).transpose(1, 2))
    return torch.cat(parts, 2)

"""Trajectories along optical flow and attention to them, against loops over tokens."""

import dataclasses

import pytest
import torch

from holdfast.models.attention import Layer, trajectories
from holdfast.sampling.noise import keyed_noise

F, ROWS, COLUMNS, SEED = 5, 5, 6, 3
N = ROWS * COLUMNS


@pytest.fixture(scope="module")
def flows():
    """Flow in pixels of frames of 32 x 48, 8 to a token: so rough that trajectories collide and leave the frame."""
    generator = torch.Generator().manual_seed(0)
    return list(12 * torch.randn(F - 1, 2, 8 * ROWS, 8 * COLUMNS, generator=generator))


def follow_naively(flows):
    """Chains of (frame, row, column), built token by token. The draw is that of the keyed noise."""
    draw = keyed_noise(torch.empty(1, 1, F - 1, ROWS, COLUMNS), SEED, 0, repeat=1)[0, 0]
    following = {}
    for t in range(F - 1):
        reached = {}
        for y in range(ROWS):
            for x in range(COLUMNS):
                dx, dy = (flows[t][i, 8 * y, 8 * x].item() / 8 for i in (0, 1))
                to = (t + 1, y + round(dy), x + round(dx))  # Python rounds halves to even, too
                if 0 <= to[1] < ROWS and 0 <= to[2] < COLUMNS:
                    reached.setdefault(to, []).append((t, y, x))
        for to, tokens in reached.items():
            following[max(tokens, key=lambda p: draw[p])] = to
    started = set(following.values())
    chains = {}
    for p in ((t, y, x) for t in range(F) for y in range(ROWS) for x in range(COLUMNS)):
        if p in started:
            continue
        chain = [p]
        while chain[-1] in following:
            chain.append(following[chain[-1]])
        chains |= dict.fromkeys(chain, chain)
    return chains


def number(p):
    return p[0] * N + p[1] * COLUMNS + p[2]


def list_naively(chains, radius):
    """The list of each token in the released code, of which the first and the last F - 1 are read."""
    longest = max(map(len, chains.values()))
    size = (2 * radius + 1) ** 2
    lists = {}
    for t, y, x in chains:
        near = [
            (t, y + i, x + j)
            for i in range(-radius, radius + 1)
            for j in range(-radius, radius + 1)
            if (i, j) != (0, 0) and 0 <= y + i < ROWS and 0 <= x + j < COLUMNS
        ]
        others = [p for p in chains[t, y, x] if p != (t, y, x)]
        listed = [(t, y, x), *near] + [None] * (size - 1 - len(near))
        listed += others + [None] * (longest - 1 - len(others))
        lists[t, y, x] = [listed[0], *listed[-F + 1 :]]
    return lists


def as_sets(keys):
    """The keys of each token that count, sorted, by its number."""
    pairs = zip(keys.tokens.tolist(), keys.is_used.tolist(), strict=True)
    return [sorted(t for t, used in zip(*pair, strict=True) if used) for pair in pairs]


def test_tokens_follow_the_rounded_flow_and_a_drawn_one_keeps_its_place(flows):
    chains = follow_naively(flows)
    assert {1, 2, 3} < set(map(len, chains.values()))  # some collide or leave, some go on
    keys = trajectories.Trajectories(flows, SEED, "paper").make_keys(range(F), (ROWS, COLUMNS))
    expected = [sorted(map(number, chains[p])) for p in sorted(chains)]
    assert as_sets(keys) == expected


def test_halves_are_rounded_to_even_numbers():
    flow = torch.tensor([4.0, 12.0, 20.0, -4.0]).view(1, 1, 4).expand(2, 1, 4)
    flow = flow.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert trajectories.round_flow(flow, (1, 4))[0].tolist() == [[0, 2, 2, 0]]


@pytest.mark.parametrize("last_move", [0, 1000])
def test_the_released_list_has_neighbours_where_no_trajectory_is_whole(flows, last_move):
    flows = [*flows[:-1], flows[-1] + last_move]  # all leave the frame, or not
    chains = follow_naively(flows)
    assert (max(map(len, chains.values())) == F) == (last_move == 0)
    keys = trajectories.Trajectories(flows, SEED).make_keys(range(F), (ROWS, COLUMNS))
    lists = list_naively(chains, 2)
    assert as_sets(keys) == [sorted(number(p) for p in lists[q] if p) for q in sorted(lists)]


def test_a_window_of_the_clip_has_the_trajectories_of_its_frames(flows):
    made = trajectories.Trajectories(flows, SEED, "paper")
    part = made.make_keys((2, 3, 4), (ROWS, COLUMNS))
    whole = as_sets(made.make_keys(range(F), (ROWS, COLUMNS)))[2 * N :]
    assert as_sets(part) == [[t - 2 * N for t in tokens if t >= 2 * N] for tokens in whole]


def test_a_single_frame_attends_to_itself():
    for variant in ("paper", "released"):
        keys = trajectories.Trajectories([], 0, variant).make_keys((0,), (ROWS, COLUMNS))
        assert as_sets(keys) == [[n] for n in range(N)]


@pytest.mark.parametrize("block", [2**22, 64])
def test_attention_is_that_to_the_keys_of_each_token(flows, block, monkeypatch):
    from holdfast.models.attention import maps

    monkeypatch.setattr(maps, "CPU_BLOCK_NUMBERS", block)
    made = trajectories.Trajectories(flows, SEED)
    grid = {"token_grid": (F, ROWS, COLUMNS), "frames": tuple(range(F))}
    layer = dataclasses.replace(Layer("a", "up", 0, "self", "spatial"), **grid)
    q, k, v = torch.randn(3, 2 * F, 2, N, 5, generator=torch.Generator().manual_seed(1))
    out = made.attend(layer, q, k, v)
    keys = made.make_keys(range(F), (ROWS, COLUMNS))
    for batch, head in ((0, 0), (1, 1)):
        rows = slice(batch * F, batch * F + F)
        q1, k1, v1, out1 = (x[rows, head].flatten(0, 1) for x in (q, k, v, out))
        for n in range(F * N):
            some = keys.tokens[n][keys.is_used[n]]
            expected = (k1[some] @ q1[n] / 5**0.5).softmax(0) @ v1[some]
            assert torch.allclose(out1[n], expected, atol=1e-6)

"""Maps of attention: shares against the whole softmax, windows joined, and the automatic mask on attention that is
known.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.models.attention import blending, maps
from holdfast.models.attention.hooks import Layer, LayerHooks, NetworkCall
from holdfast.models.base import Conditioning
from holdfast.sampling.field import EditInputs


@pytest.mark.parametrize("batch", [1, 4])
def test_share_is_the_softmax_probability_of_some_columns(batch, monkeypatch):
    torch.manual_seed(0)
    q, k = torch.randn(batch, 3, 50, 8), torch.randn(batch, 3, 20, 8)
    columns = torch.tensor([2, 7])
    whole = (q @ k.mT / 8**0.5).softmax(-1)[..., columns].mean((1, 3))
    assert torch.allclose(maps.mean_attention(q, k, columns), whole, atol=1e-6)
    monkeypatch.setattr(maps, "rows_per_block", lambda count, row, device=None: 7)
    assert torch.allclose(maps.mean_attention(q, k, columns), whole, atol=1e-6)


def site(frames, path="a"):
    return Layer(path, "block", 0, "cross", "joint", token_grid=(len(frames), 2, 2), frames=frames)


def test_maps_of_windows_become_one_of_the_clip():
    parts = {
        site((0, 1, 2)): torch.ones(1, 1, 3, 2, 2),
        site((2, 3, 4)): 3 * torch.ones(1, 1, 3, 2, 2),
    }
    assert maps.merge_windows(parts)[0, 0, :, 0, 0].tolist() == [1, 1, 2, 3, 3]


def test_observations_are_put_together_by_layer():
    found = {site((0,), "a"): 1, site((0,), "b"): 2, site((1,), "a"): 3}
    assert [list(layer.values()) for layer in maps.group_by_layer(found)] == [[1, 3], [2]]


class Looking:
    """A field with one cross-attention that looks at token 1 in the left half of the frame,
    and at token 0 elsewhere.
    """

    feature_hooks = None
    shape = (2, 4, 8)

    def __init__(self):
        self.attention_hooks = LayerHooks(
            lambda door: lambda: None, [Layer("look", "block", 0, "cross", "joint")]
        )
        self.branches = []

    def velocity(self, z, sigma, condition, *, branch, frames=None):
        self.branches.append(branch)
        f, h, w = z.shape[2:]
        left = torch.zeros(1, 1, f, h, w)
        left[..., : w // 2] = 1
        direction = torch.stack((1 - left.flatten(), left.flatten()), -1)  # N 2
        q, k = 5 * direction[None, None], torch.eye(2)[None, None]
        with self.attention_hooks.use_call(NetworkCall(branch, tuple(range(f)), (h, w))):
            at = self.attention_hooks.locate(self.attention_hooks.layers[0], h, w, (0, 2))
            if self.attention_hooks.has_rule(at):
                self.attention_hooks.run_rules(at, q, k, k)
        return torch.zeros_like(z)


def find_auto_mask(field, about):
    return maps.find_auto_mask(field, about.latent, about.source, about.target, about.seed)


def given(src_words, tgt_words):
    z = torch.randn(1, 3, *Looking.shape)
    conditions = [Conditioning(None, None, 2, words) for words in (src_words, tgt_words)]
    return EditInputs(z, *conditions)


@pytest.mark.parametrize(("src", "tgt", "branch"), [((1,), (0,), "src+"), ((), (1,), "tgt+")])
def test_the_automatic_mask_is_where_the_words_attend(src, tgt, branch):
    """The words that go where there are some, else the ones that come; inside is where they are looked at, not
    elsewhere.
    """
    field = Looking()
    cells = find_auto_mask(field, given(src, tgt))
    assert set(field.branches) == {branch}
    assert cells[..., :3].all()
    assert not cells[..., 5:].any()


def test_no_word_no_mask():
    with pytest.raises(ValueError, match="name some with --words"):
        find_auto_mask(Looking(), given((), ()))


def test_frames_that_are_not_contiguous_have_their_own_heat():
    heat = maps.merge_windows({site((4, 0)): torch.ones(1, 1, 2, 2, 2)})
    assert heat[0, 0, :, 0, 0].tolist() == [1, 0, 0, 0, 1]


def test_a_loud_layer_does_not_drown_the_others(monkeypatch):
    """Each layer's map is scaled to its own range: two faint ones that agree outweigh a loud one that does not."""
    left, top = torch.zeros(1, 1, 2, 8, 8), torch.zeros(1, 1, 2, 8, 8)
    left[..., :4], top[..., :4, :] = 1, 1
    found = {
        Layer(path, "block", 0, "cross", "joint", (2, 8, 8), (0, 1)): heat
        for path, heat in (("a", left), ("b", 0.01 * top), ("c", 0.01 * top))
    }

    @contextlib.contextmanager
    def record(*_):
        yield found

    monkeypatch.setattr(maps, "record", record)
    z = torch.zeros(1, 3, 2, 8, 8)
    words = Conditioning(None, None, 2, (1,))
    cells = find_auto_mask(Looking(), EditInputs(z, words, words))
    assert cells[:, :3].all()
    assert not cells[:, 5:].any()


class CastCounter(TorchDispatchMode):
    """Counts the casts of tensors with so many tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens, self.casts = tokens, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "_to_copy":
            self.casts += args[0].shape[-2] == self.tokens
        return func(*args, **(kwargs or {}))


def test_keys_are_cast_once_and_not_for_each_block_of_queries(monkeypatch):
    q, k = (torch.randn(1, 2, n, 8).bfloat16() for n in (40, 30))
    for module in (maps, blending):
        monkeypatch.setattr(module, "rows_per_block", lambda count, row, device: 5)
    with CastCounter(30) as counter:
        maps.mean_attention(q, k, torch.tensor([1]))
    assert counter.casts == 1
    with CastCounter(30) as counter:
        blending.attention_distance(q, k, q, k)
    assert counter.casts == 2  # the edited keys and the source's


def test_blocks_are_larger_on_a_gpu():
    sizes = [maps.rows_per_block(10**9, 1000, torch.device(name)) for name in ("cpu", "cuda")]
    assert sizes == [2**22 // 1000, 2**26 // 1000]

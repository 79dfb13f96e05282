"""Prompts in the adapters: cleaned once, for words and tokens alike; states kept for the last few; two in a batch."""

import pytest
import torch

from holdfast import methods
from holdfast.base import prompt_diff
from holdfast.base.prompts import clean_prompt
from holdfast.models import lru
from holdfast.models.base import Prompt
from holdfast.pipeline import planning
from holdfast.pipeline.task import EditTask

from .. import tiny


@pytest.fixture(scope="module", params=["wan", "sd", "t2v", "svd"])
def backbone(request):
    return tiny.ADAPTERS[request.param]()


@pytest.fixture(scope="module", params=["wan", "sd"])
def reader(request):
    """A backbone that reads: by UMT5, or by CLIP."""
    return tiny.ADAPTERS[request.param]()


def test_two_clips_in_a_batch_are_two_calls(backbone):
    """ModelScope's network refused two: its text was not widened."""
    torch.manual_seed(0)
    z = torch.randn(2, 4, 3, 4, 4)
    image = torch.rand(3, 32, 32)
    condition = backbone.condition(Prompt("a plain red ball", image=image))
    for branch in ("tgt+", "src-"):
        both = backbone.velocity(z, 0.6, condition, branch=branch)
        each = [backbone.velocity(one[None], 0.6, condition, branch=branch) for one in z]
        assert both.shape == z.shape
        assert torch.allclose(both, torch.cat(each), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a plain&nbsp;red ball", 2),
        ("a  plain\u00a0red\nball", 2),
        ("a plain &amp;amp; red ball", 2),
        ("a plain red ball", 2),
    ],
)
def test_a_word_is_counted_and_placed_in_the_same_text(reader, text, word):
    """Counted in the raw prompt, `plain&nbsp;red` was one word, and every later index was one too low."""
    task = EditTask("", "", text, text.replace("red", "blue"))
    method = methods.load("flowanchor")
    change = planning.find_edit_words(task, method)
    cleaned = clean_prompt(task.target_prompt)
    assert [prompt_diff.written_words(cleaned)[i] for i in change.target] == ["blue"]
    tokenizer = getattr(reader, "tokenizer", None) or reader.prompts.tokenizer
    condition = reader.condition(Prompt(task.target_prompt, words=change.target))
    ids = tokenizer(cleaned).input_ids
    assert tokenizer.decode([ids[t] for t in condition.edit_tokens]).strip() == "blue"


def test_what_a_model_reads_is_the_cleaned_prompt(reader):
    plain, written = (
        reader.condition(Prompt(text)).positive for text in ("a red ball", " a&nbsp;red\tball")
    )
    assert torch.equal(plain, written)
    assert clean_prompt("  a\n&amp;amp; b\te\u0301") == "a & b \u00e9"


def test_states_of_the_last_prompts_alone_are_kept(reader, monkeypatch):
    """A worker kept the text states of every row of its batch: 4 MB each."""
    monkeypatch.setattr(lru, "CAPACITY", 3)
    known = reader._states if hasattr(reader, "_states") else reader.prompts.cache
    known.clear()
    first = reader.condition(Prompt("a plain red ball")).positive
    for colour in ("blue", "green", "white", "black"):
        reader.condition(Prompt(f"a plain {colour} ball"))
        reader.condition(Prompt("a plain red ball"))
    assert list(known) == ["a plain black ball", "a plain red ball", ""]
    assert torch.equal(reader.condition(Prompt("a plain red ball")).positive, first)


def test_what_is_recalled_is_made_once_and_the_oldest_goes(monkeypatch):
    monkeypatch.setattr(lru, "CAPACITY", 2)
    made, known = [], {}

    def make(keys):
        made.extend(keys)
        return [key.upper() for key in keys]

    assert lru.get_or_make(known, ["a", "b", "a"], make) == ["A", "B", "A"]
    assert lru.get_or_make(known, ["a", "c"], make) == ["A", "C"]
    assert list(known) == ["a", "c"]
    assert lru.get_or_make(known, ["b", "c", "d"], make) == ["B", "C", "D"]  # more than are kept
    assert list(known) == ["c", "d"]
    assert made == ["a", "b", "c", "b", "d"]

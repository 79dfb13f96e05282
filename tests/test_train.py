"""Training at toy length: every stage resumes to the same weights, and what it writes loads as any checkpoint does."""

import json

import pytest
import torch

from holdfast import load_backbone
from holdfast.shapeworld import train


@pytest.fixture
def toy(monkeypatch):
    """Four steps a stage on a smaller model, saved after every one."""
    phases = tuple(train.Phase(p.until, min(p.frames, 5), 2) for p in train.VAE_PHASES)
    small = {"VAE_STEPS": 4, "STEPS": 4, "SAVE_EVERY": 0.0, "VAE_PHASES": phases, "DECODER_STEPS": 2}
    small |= {"POOLS": dict.fromkeys(train.POOLS, 8), "BATCH": dict.fromkeys(train.BATCH, 2)}
    small["TRANSFORMER_CONFIG"] = train.TRANSFORMER_CONFIG | {"num_layers": 1, "attention_head_dim": 12, "ffn_dim": 32}
    for name, value in small.items():
        monkeypatch.setattr(train, name, value)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # torch's own, under autocast
def test_training_resumes_to_the_same_weights_and_writes_a_checkpoint(toy, tmp_path, monkeypatch):
    train.train_wan(tmp_path / "whole")
    original, calls = train.Optimiser.step, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) in (3, 8):  # once in the VAE, once in the transformer
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(train.Optimiser, "step", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train.train_wan(tmp_path / "broken")
    train.train_wan(tmp_path / "broken")
    for stage in ("vae", "transformer", "decoder"):
        whole, broken = (torch.load(tmp_path / run / f"{stage}.pt", weights_only=True) for run in ("whole", "broken"))
        assert whole["index"] == broken["index"]
        for name, weight in whole["average"].items():
            assert torch.allclose(weight, broken["average"][name], atol=1e-5), (stage, name)
    backbone = load_backbone("shapeworld-wan", weights=str(tmp_path / "broken" / "wan"))
    z = backbone.encode(torch.rand(5, 3, 16, 16))
    assert backbone.velocity(z, 0.5, backbone.condition("a plain red ball"), branch="src+").isfinite().all()
    stages = [json.loads(line)["stage"] for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert {"vae", "transformer"} <= set(stages)


def test_captions_fit_the_text_length():
    tokenizer = train.new_tokenizer()
    longest = max(len(tokenizer(train.sample(i, name).caption()).input_ids) for i in range(200) for name in ("train", "several"))
    assert longest <= train.TEXT_LENGTH
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a striped dog").input_ids)
    assert pieces == ["▁a", "▁striped", "▁", "d", "o", "g", "</s>"]

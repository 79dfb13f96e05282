"""One clip over several processes, which stand in for GPUs: the same latents; and what cannot be split is refused."""

import os
import socket

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.models import attention, context_parallel
from holdfast.models.base import Prompt
from holdfast.sampling.field import Evaluation

from .. import tiny


def test_what_cannot_be_split_is_refused(monkeypatch):
    with pytest.raises(UserError, match="not initialised: start one process for each GPU"):
        context_parallel.split_tokens(tiny.wan())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)
    with pytest.raises(UserError, match="finds no GPU"):
        context_parallel.split_tokens(tiny.wan())
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(UserError, match="cannot be split: use a Wan model with one denoiser"):
        context_parallel.split_tokens(tiny.stable_video())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 7)
    with pytest.raises(UserError, match="attention heads, which 7 processes cannot share evenly"):
        context_parallel.split_tokens(tiny.wan())


def evaluate(backbone):
    """Two branches, one of them with a region."""
    z = torch.randn(1, 4, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    region = torch.zeros(1, 1, 3, 6, 8, dtype=torch.bool)
    region[..., :2] = True
    source, target = (backbone.condition(Prompt(f"a {word} ball")) for word in ("red", "blue"))
    pair = [Evaluation(z, source, "src+"), Evaluation(z, target, "tgt+", region)]
    with torch.no_grad():
        alone = [backbone.velocity(e.z, 0.7, e.conditioning, branch=e.branch) for e in pair]
        return [*alone, backbone.velocities(0.7, pair)[1]], region


def run_process(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 2  # diffusers counts devices, and finds none on a CPU
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    backbone = tiny.wan()
    source, target = evaluate(backbone)[0][:2]
    context_parallel.split_tokens(backbone)
    (ours, theirs, confined), region = evaluate(backbone)
    assert torch.allclose(ours, source, atol=1e-5)
    assert torch.allclose(theirs, target, atol=1e-5)
    assert torch.allclose(confined, torch.where(region, target, source), atol=1e-5)
    with (
        pytest.raises(UserError, match="split over several GPUs: use a method that does not"),
        attention.record(backbone),
    ):
        pass
    torch.distributed.destroy_process_group()
    (folder / str(rank)).touch()


@pytest.mark.nightly
def test_two_processes_compute_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(run_process, args=(port, tmp_path), nprocs=2)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}

"""Devices and number formats by name, on machines that are simulated."""

import contextlib

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.models import devices
from holdfast.models.base import Prompt
from holdfast.models.registry import load_backbone
from holdfast.models.unet import adapter as unet_adapter
from holdfast.pipeline.task import EditTask


@pytest.fixture
def machine(monkeypatch):
    """Simulates a machine with so many devices, with or without bfloat16."""

    def simulate(cuda=0, xpu=0, mps=0, has_bfloat16=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: xpu)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps > 0)
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda *_: has_bfloat16)
        monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)

        def supports(including_emulation=True):
            return has_bfloat16 or including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supports)
        monkeypatch.setattr(torch.xpu, "is_bf16_supported", supports)

    return simulate


def test_devices_by_name(machine):
    machine(cuda=2, xpu=1, mps=1)
    assert devices.pick_device("auto") == torch.device("cuda")
    for name in ("cpu", "cuda", "cuda:0", "cuda:1", "xpu", "xpu:0", "mps"):
        assert devices.pick_device(name) == torch.device(name)
        assert EditTask("a.mp4", "b.mp4", device=name).device == name
    machine()
    assert devices.pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda:2", "finds no device cuda:2 on this machine: the last one is cuda:1"),
        ("xpu", "finds no XPU device on this machine: use the device cpu or auto"),
        ("mps", "finds no MPS device"),
        ("cuda:x", "device is auto, cpu, cuda, cuda:N"),
        ("cpu:1", "device is auto"),
        ("meta", "device is auto"),
    ],
)
def test_a_device_that_is_not_there_is_refused(machine, name, words):
    machine(cuda=2)
    with pytest.raises(UserError, match=words):
        devices.pick_device(name)


@pytest.mark.parametrize("name", ["cuda:", "cuda:-1", "cuda 1", "CUDA", "", "cpu\n"])
def test_a_task_refuses_what_is_no_device(name):
    with pytest.raises(UserError, match=r"device is .*: use auto, cpu, cuda, cuda:N"):
        EditTask("a.mp4", "b.mp4", device=name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "xpu", "mps"])
def test_the_number_format_follows_the_device(machine, name):
    device = torch.device(name)
    machine(2, 1, 1, has_bfloat16=True)
    assert devices.pick_dtype("auto", device) == torch.bfloat16
    machine(2, 1, 1, has_bfloat16=False)
    assert devices.pick_dtype("auto", device) == torch.float16
    assert devices.pick_dtype("bfloat16", device) == torch.bfloat16
    assert devices.pick_dtype("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(UserError, match="dtype is auto, bfloat16, float16 or float32, not 'int8'"):
        devices.pick_dtype("int8", device)


def test_a_model_in_float16_is_near_the_one_in_float32(tiny_wan):
    half = load_backbone("shapeworld-wan", device="cpu", dtype="float16")
    whole = load_backbone("shapeworld-wan", device="cpu", dtype="float32")
    z = torch.randn(1, whole.parts["vae"].config.z_dim, 2, 8, 8)
    with torch.no_grad():
        ours, exact = (
            b.velocity(z, 0.5, b.condition(Prompt("a red ball")), branch="src+")
            for b in (half, whole)
        )
    assert half.dtype == torch.float16
    assert (ours - exact).norm() < 0.02 * exact.norm()


def test_convolutions_of_an_image_model_have_channels_last_on_cuda_alone(monkeypatch):
    """The numbers are the same; a CPU keeps its order, whose numbers have been published."""
    from .. import tiny

    made = tiny.ADAPTERS["sd"]()
    weight = made.parts["unet"].conv_in.weight
    assert weight.is_contiguous()
    x = torch.randn(1, weight.shape[1], 5, 7)
    with torch.no_grad():
        before = made.parts["unet"].conv_in(x)
        for name in ("cpu", "cuda"):
            devices.use_channels_last(made.parts["unet"], torch.device(name))
            is_last = weight.is_contiguous(memory_format=torch.channels_last)
            assert is_last == (name == "cuda")
        assert torch.allclose(made.parts["unet"].conv_in(x), before, atol=1e-6)
    asked = []
    monkeypatch.setattr(unet_adapter, "use_channels_last", lambda part, device: asked.append(part))
    made = tiny.ADAPTERS["sd"]()
    assert asked == [made.parts["unet"], made.parts["vae"]]

"""Training the ControlNet at toy length: it starts as no change, its progress is saved, and its folder loads."""

import torch

from holdfast.models import controlnets
from holdfast.models.checkpoint import EMBEDDED
from holdfast.models.registry import specs
from holdfast.models.unet.control import load_controlnet
from holdfast.shapeworld import control_check
from holdfast.shapeworld.training import control
from holdfast.shapeworld.training.loop import Budget


def test_a_controlnet_starts_at_zero_is_trained_and_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "SCENES", 4)
    monkeypatch.setattr(control, "BATCH", 2)
    start = EMBEDDED / "shapeworld-sd"
    control.train_control(tmp_path / "a", Budget(steps=2), start)
    control.train_control(tmp_path / "b", Budget(), start)  # as it starts
    first, second = (
        load_controlnet(tmp_path / name / control.NAME, torch.float32) for name in ("a", "b")
    )
    assert not second.controlnet_mid_block.weight.any()  # its outputs are zero
    assert first.controlnet_mid_block.weight.any()
    saved = torch.load(tmp_path / "a" / "control.pt", weights_only=True)
    assert (saved["index"], saved["done"]) == (2, True)


def test_the_one_in_the_package_is_found_by_what_it_reads():
    folder = controlnets.find_controlnet(specs()["shapeworld-sd"], "canny")
    assert folder == EMBEDDED / control.NAME
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6


def test_agreement_of_edges_is_1_within_a_pixel_and_0_far_away():
    edges = torch.zeros(16, 16).numpy()
    edges[4] = 1
    near, far = edges.copy(), edges.copy()
    near[[4, 5]] = near[[5, 4]]
    far[[4, 12]] = far[[12, 4]]
    assert control_check.edge_agreement(near, edges) == 1
    assert control_check.edge_agreement(far, edges) == 0

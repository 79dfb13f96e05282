"""Which parts are on the device during which stage."""

import pytest
import torch
from torch import nn

from holdfast.models.placement import Placements
from holdfast.models.residency import Residency, find_device


class Part(nn.Module):
    """It remembers its moves."""

    def __init__(self):
        super().__init__()
        self.place = "cpu"

    def to(self, device):
        self.place = str(device)
        return self


def make(**placements):
    parts = {name: Part() for name in ("unet", "vae", "text_encoder")}
    return Residency(parts, Placements(placements)), parts


def places(parts):
    return {name for name, part in parts.items() if part.place == "meta"}


DEVICE = torch.device("meta")


def test_nothing_is_on_the_device_before_it_is_used_and_the_encoder_leaves_first():
    residency, parts = make()
    assert places(parts) == set()
    with residency.use(["text_encoder"], DEVICE):
        assert places(parts) == {"text_encoder"}
    assert places(parts) == set()
    with residency.use(["vae"], DEVICE):
        assert places(parts) == {"vae"}
    with residency.use(["unet"], DEVICE):
        assert places(parts) == {"vae", "unet"}


def test_a_swapped_part_leaves_when_another_stage_begins():
    residency, parts = make(unet="swapped", vae="swapped")
    for name in ("vae", "unet", "unet", "vae"):
        with residency.use([name], DEVICE):
            assert places(parts) == {name}
    with residency.use(["text_encoder"], DEVICE):
        assert places(parts) == {"text_encoder"}


@pytest.mark.parametrize("placement", ["stored", "ram", "disk"])
def test_a_streamed_part_never_moves(placement):
    residency, parts = make(unet=placement)
    with residency.use(["unet"], DEVICE):
        assert places(parts) == set()
    residency.leave("unet")
    assert parts["unet"].place == "cpu"


def test_the_device_is_that_of_a_part_which_is_no_encoder():
    encoder, network = nn.Linear(1, 1), nn.Linear(1, 1, device="meta")
    assert find_device({"text_encoder": encoder, "unet": network}).type == "meta"
    assert find_device({}).type == "cpu"

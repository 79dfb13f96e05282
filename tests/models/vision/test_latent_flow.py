"""Flow between latent frames: vectors, times, sides; and the parts of RAFT that need no weights."""

import sys

import numpy as np
import pytest
import torch

from holdfast.base.errors import MissingDependencyError
from holdfast.media import optical_flow
from holdfast.models.vision import latent_flow as module
from holdfast.models.vision import raft
from holdfast.models.vision.latent_flow import LatentFlow, flow_function, latent_flow, warp
from tests.media.test_optical_flow import constant, shifted, texture


def marked(count, height=64, width=80):
    """Frames that say which they are, 3 H W."""
    return [torch.full((3, height, width), i / 100) for i in range(count)]


def marching(x, y):
    """A flow function: everything moves by (x, y) from a marked frame to the next one."""

    def flow(first, second):
        sign = np.sign(second[0, 0, 0] - first[0, 0, 0])
        return sign * constant(x, y)

    return flow


def test_a_coarser_grid_divides_vectors_exactly():
    made = latent_flow(marked(3), (1, 8, 4), marching(6, -4))
    assert made.forward.shape == made.backward.shape == (2, 2, 8, 20)
    assert made.occluded_share.shape == made.disoccluded_share.shape == (2, 1, 8, 20)
    assert (made.forward[:, 0] == 6 / 4).all()
    assert (made.forward[:, 1] == -4 / 8).all()
    assert torch.equal(made.backward, -made.forward)


def test_shares_say_how_much_of_a_cell_leaves_the_frame():
    made = latent_flow(marked(2), (1, 8, 8), marching(4, 0))
    assert (made.occluded_share[..., :-1] == 0).all()
    assert (made.occluded_share[..., -1] == 0.5).all()
    assert (made.disoccluded_share[..., 1:] == 0).all()
    assert (made.disoccluded_share[..., 0] == 0.5).all()


@pytest.mark.parametrize(("time", "frames"), [(1, [0, 1, 2, 3]), (2, [0, 2, 4]), (4, [0, 3, 7])])
def test_a_latent_frame_stands_at_the_middle_of_its_frames(time, frames):
    made = latent_flow(marked(time * (len(frames) - 1) + 1), (time, 8, 8), marching(1, 0))
    steps = torch.tensor(frames).diff()
    assert torch.equal(made.forward[:, 0, 2, 2], steps / 8)
    assert torch.equal(made.backward[:, 0, 2, 2], -steps / 8)


def test_one_latent_frame_has_no_flow():
    with pytest.raises(ValueError, match="two latent frames"):
        latent_flow(marked(1), (4, 8, 8), marching(1, 0))


def test_warped_is_the_warp_of_frames():
    image = texture()
    flow = np.random.default_rng(0).normal(size=(64, 80, 2), scale=4).astype(np.float32)
    expected = optical_flow.warp(image, flow)
    tensors = [torch.from_numpy(a).permute(2, 0, 1)[None] for a in (image, flow)]
    found = warp(*tensors)[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 0.02  # OpenCV rounds places to 1/32 of a pixel


def test_neighbours_come_from_the_side_they_are_on():
    base = torch.from_numpy(texture()).permute(2, 0, 1)
    clip = torch.stack([torch.roll(base, 2 * t, -1) for t in range(3)], 1)[None]  # 1 3 f H W
    right = torch.zeros(2, 2, 64, 80)
    right[:, 0] = 2
    hidden = torch.zeros(2, 1, 64, 80)
    hidden[0, 0, 0, 0] = 1
    made = LatentFlow(right, -right, hidden, hidden).to(clip)
    ahead, seen = made.from_next(clip)
    assert torch.allclose(ahead[:, :, :2, :, :-2], clip[:, :, :2, :, :-2], atol=1e-5)
    assert seen.shape == (1, 1, 3, 64, 80)
    assert seen[0, 0, 0, 0, 0] == 0
    assert seen[0, 0, :2].sum() == 2 * 64 * 80 - 1
    assert (ahead[:, :, 2] == 0).all()
    assert (seen[:, :, 2] == 0).all()
    behind, seen = made.from_previous(clip)
    assert torch.allclose(behind[:, :, 1:, :, 2:], clip[:, :, 1:, :, 2:], atol=1e-5)
    assert seen[0, 0, 1, 0, 0] == 0
    assert (seen[:, :, 0] == 0).all()


def test_the_default_flow_of_a_moving_texture():
    frames = [torch.from_numpy(shifted(texture(), 2 * t, 0)).permute(2, 0, 1) for t in range(5)]
    made = latent_flow(frames, (4, 8, 8))
    assert made.forward.shape == (1, 2, 8, 10)
    assert (made.forward[0, 0, 2:-2, 2:-2] - 6 / 8).abs().max() < 0.05


def test_backends_by_name():
    assert flow_function("dis") is optical_flow.dis
    assert flow_function("sharp-dis") is optical_flow.sharp_dis
    with pytest.raises(ValueError, match="unknown optical flow 'rapt': did you mean raft"):
        flow_function("rapt")
    assert set(module.BACKENDS) == {"sharp_dis", "dis", "raft"}


def test_raft_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingDependencyError, match=r"constraints\.txt -e '\.\[raft\]'"):
        flow_function("raft")


def test_raft_names_the_command_that_brings_its_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MissingDependencyError) as missing:
        raft.weights_file(None)
    file = tmp_path / "checkpoints" / raft.WEIGHTS
    url = f"https://download.pytorch.org/models/{raft.WEIGHTS}"
    assert f"curl --create-dirs -o '{file}' {url}" in str(missing.value)
    with pytest.raises(MissingDependencyError, match=r"mine\.pth"):
        raft.weights_file(tmp_path / "mine.pth")
    file.parent.mkdir()
    file.touch()
    assert raft.weights_file(None) == file


def test_what_raft_is_given():
    """Test only the input of RAFT: the network needs torchvision and weights."""
    frame = texture(60, 83)
    given = raft.prepare(frame, 3)
    assert given.shape == (1, 3, 184, 256)
    assert given.min() >= -1
    assert given.max() <= 1
    plain = raft.prepare(frame, 1)
    assert np.allclose(plain[0, :, :60, :83].transpose(1, 2, 0), 2 * frame - 1)
    assert np.array_equal(plain[..., 83:], np.repeat(plain[..., 82:83], 5, -1))

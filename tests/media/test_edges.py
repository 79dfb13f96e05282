"""Edge maps: where a step of brightness is, and nothing where there is none."""

import numpy as np

from holdfast.media import edges


def step_frame(size=64):
    frame = np.zeros((size, size, 3), np.float32)
    frame[:, size // 2 :] = 1
    return frame


def test_canny_marks_a_step_and_leaves_a_flat_frame_black():
    found = edges.canny(step_frame())
    assert set(np.unique(found)) == {0, 1}
    assert set(np.nonzero(found)[1]) <= {31, 32}
    assert found[4:-4].any(1).all()
    assert not edges.canny(np.full((64, 64, 3), 0.5, np.float32)).any()


def test_soft_edges_fall_off_around_a_step():
    found = edges.soft_edges(step_frame())
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    row = found[32]
    assert row[31] > row[28] >= row[16] == 0
    assert not edges.soft_edges(np.full((64, 64, 3), 0.5, np.float32)).any()

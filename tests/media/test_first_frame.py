"""The edited first frame: any size of the clip's aspect ratio; another picture is refused or gives a notice."""

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.media import first_frame
from holdfast.media.fitting import Fit, resize

FIT = Fit(9, (60, 100), 9, (32, 48), "")


def written(path, size=(100, 60), shade=90):
    Image.fromarray(np.full((size[1], size[0], 3), shade, np.uint8)).save(path)
    return str(path)


def shown():
    return resize(torch.full((1, 3, 60, 100), 90 / 255), (32, 48))[0]


@pytest.mark.parametrize("size", [(100, 60), (200, 120), (51, 30)])
def test_any_size_of_the_clips_aspect_comes_as_the_model_takes_it(tmp_path, size):
    frame = first_frame.read(written(tmp_path / "a.png", size), FIT, shown())
    assert torch.allclose(frame, shown(), atol=1e-5)


def test_another_aspect_ratio_is_refused_with_the_size_that_fits(tmp_path):
    with pytest.raises(ValueError, match=r"is 64x64, the clip's frames are 100x60"):
        first_frame.read(written(tmp_path / "a.png", (64, 64)), FIT, shown())


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no image"):
        first_frame.read(str(tmp_path / "none.png"), FIT, shown())
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="is not a readable image: use a picture"):
        first_frame.read(str(tmp_path / "text.png"), FIT, shown())


def test_a_frame_that_differs_everywhere_is_remarked_on(tmp_path):
    with pytest.warns(UserWarning, match="differs nearly everywhere"):
        first_frame.read(written(tmp_path / "a.png", shade=200), FIT, shown())

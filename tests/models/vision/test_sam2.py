"""SAM 2 through transformers: a published folder, its prompts, tracking through a clip; and refused folders."""

import numpy as np
import pytest
import torch

from holdfast.base.errors import MissingDependencyError
from holdfast.media.marks import Marks
from holdfast.media.propagation import propagate
from holdfast.models.vision import grounding, sam2

from ...media.test_propagation import passing, written


def tiny():
    """The published class at random weights, 128 pixels a side."""
    from transformers import (
        Sam2HieraDetConfig,
        Sam2VideoConfig,
        Sam2VideoMaskDecoderConfig,
        Sam2VideoModel,
        Sam2VideoPromptEncoderConfig,
        Sam2VisionConfig,
    )

    torch.manual_seed(0)
    seeing = Sam2HieraDetConfig(
        hidden_size=8,
        embed_dim_per_stage=[8, 16, 32, 64],
        blocks_per_stage=[1, 1, 2, 1],
        global_attention_blocks=[3],
        image_size=[128, 128],
        window_size_per_stage=[4, 2, 4, 2],
    )
    vision = Sam2VisionConfig(
        backbone_config=seeing,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=128,
    )
    config = Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=Sam2VideoPromptEncoderConfig(hidden_size=128, image_size=128),
        mask_decoder_config=Sam2VideoMaskDecoderConfig(
            hidden_size=128, mlp_dim=32, iou_head_hidden_dim=32
        ),
        image_size=128,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[8, 8],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_num_layers=1,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
    )
    return Sam2VideoModel(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sam2")
    tiny().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return sam2.load(str(folder), "cpu")


def test_a_saved_folder_is_loaded_whole(folder, model):
    saved = tiny().state_dict()
    assert all(torch.equal(saved[name], value) for name, value in model.model.state_dict().items())
    assert model.side == 128


@pytest.mark.parametrize(
    ("blocks", "attended", "millions"), [((7,), (5, 7, 9), 38.9), ((11,), (7, 10, 13), 46.0)]
)
def test_the_published_sizes_have_the_published_numbers_of_weights(blocks, attended, millions):
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

    seeing = Sam2HieraDetConfig(
        blocks_per_stage=[1, 2, *blocks, 2], global_attention_blocks=list(attended)
    )
    with torch.device("meta"):
        whole = Sam2VideoModel(
            Sam2VideoConfig(vision_config=Sam2VisionConfig(backbone_config=seeing))
        )
    count = sum(p.numel() for p in whole.parameters())
    assert count == pytest.approx(millions * 1e6, rel=0.005)


def test_prompts_are_in_the_models_pixels_a_box_as_two_corners_first(model):
    marks = Marks(boxes=((4, 8, 16, 8),), points=((10, 12), (60, 40)), negative_points=((2, 2),))
    prompt = model._prompt(marks, marks.boxes[0], (64, 128, 3))  # twice as wide as it is high
    assert prompt["point_coords"][0, 0].tolist() == [[4, 16], [20, 32], [10, 24], [2, 4]]
    assert prompt["point_labels"][0, 0].tolist() == [2, 3, 1, 0]
    points = model._prompt(marks, None, (64, 128, 3))["point_labels"][0, 0].tolist()
    assert points == [1, 1, 0]


def test_frames_are_scaled_and_normalised_as_published(model):
    grey = np.full((20, 40, 3), 0.5, np.float32)
    pixels = model._pixels(grey)
    assert pixels.shape == (1, 3, 128, 128)
    wanted = (0.5 - torch.tensor(sam2.MEAN)) / torch.tensor(sam2.STD)
    assert torch.allclose(pixels[0, :, 64, 64], wanted, atol=1e-5)


def test_it_takes_the_place_of_the_other_follower_both_ways(model, tmp_path):
    frames, exact = passing(6)
    clip = written(frames, tmp_path)
    masks = list(propagate(clip, {2: exact[2], 4: exact[4]}, tracker=model.tracker_factory()))
    assert [m.shape for m in masks] == [(48, 72)] * 6
    assert np.array_equal(masks[2], exact[2])
    inside = model.segment(frames[0], Marks(boxes=((4, 16, 14, 14),), points=((8, 20),)))
    assert inside.shape == (48, 72)


def test_a_given_mask_is_what_the_model_sees_on_its_frame(model):
    frames, exact = passing(1)
    follower = sam2.Sam2Tracker(model, frames[0].astype(np.float32) / 255, exact[0])
    logits = follower.session.output_dict_per_obj[0]["cond_frame_outputs"][0]["pred_masks"]
    shown = torch.nn.functional.interpolate(logits, (48, 72), mode="bilinear")[0, 0] > 0
    assert (shown.numpy() == exact[0]).mean() > 0.97


def test_what_is_remembered_of_a_clip_has_an_end(model):
    frame = passing(1)[0][0].astype(np.float32) / 255
    follower = sam2.Sam2Tracker(model, frame, passing(1)[1][0])
    for _ in range(follower.memory_frames + 6):
        follower.follow(frame)
    kept = follower.session.output_dict_per_obj[0]["non_cond_frame_outputs"]
    assert len(kept) <= follower.memory_frames + 1
    assert not follower.session.processed_frames


def test_weights_that_are_not_here_come_with_the_command_that_brings_them():
    with pytest.raises(MissingDependencyError, match=r"hf download facebook/sam2.1-hiera-tiny"):
        sam2.load(None, "cpu")
    with pytest.raises(
        MissingDependencyError, match=r"hf download IDEA-Research/grounding-dino-tiny"
    ):
        grounding.find_boxes(np.zeros((32, 32, 3), np.uint8), "a red car")


def test_folders_of_something_else_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        sam2.load(str(tmp_path), "cpu")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="holds clip, not sam2_video"):
        sam2.load(str(tmp_path), "cpu")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no weights in safetensors"):
        sam2.load(str(tmp_path), "cpu")


def test_a_folder_that_lacks_some_weights_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    del weights["no_memory_embedding"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="has no weights for no_memory_embedding of sam2_video"):
        sam2.load(str(tmp_path), "cpu")


def test_found_boxes_are_whole_pixels_within_the_frame():
    assert grounding._to_pixels([-3.2, 4.7, 30.4, 90.0], (48, 72, 3)) == (0, 4, 30, 44)
    assert grounding._to_pixels([71.5, 47.9, 72.0, 48.0], (48, 72, 3)) == (71, 47, 1, 1)

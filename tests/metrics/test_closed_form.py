"""Every metric on cases whose answer is known without a network of published weights."""

import importlib.machinery
import math
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from holdfast import metrics
from holdfast.base.errors import MissingDependencyError
from holdfast.cli.bench import choose_metrics
from holdfast.metrics import _batching, _packages, compare, motion_fidelity
from holdfast.metrics.base import Metric, MetricModels, MetricOptions, PairInfo
from holdfast.models.vision import raft
from tests.media.test_optical_flow import constant, shifted, texture

FREE = (
    "flow_error",
    "motion_fidelity",
    "ssim",
    "warp_error",
)  # need neither weights nor more than two clips


def exact(x, y):
    def known(first, second):
        """+(x, y) from a frame to the next, and back."""
        return constant(x, y) if known.forward(first, second) else constant(-x, -y)

    known.forward = lambda first, second: np.array_equal(shifted(first, x, y), second)
    return known


def still(first, second):
    return np.zeros((*first.shape[:2], 2), np.float32)


def moving(frames=5, x=2, y=0):
    image = texture()
    return [shifted(image, x * t, y * t) for t in range(frames)]


def run(source, edited, only, mask=None, truth=None, tools=None, **known):
    subject = PairInfo(
        source[0].shape[:2], has_mask=mask is not None, has_truth=truth is not None, **known
    )
    count = len(source)
    moments = zip(source, edited, mask or [None] * count, truth or [None] * count, strict=True)
    figures, left_out = compare.compare_frames(subject, tools or MetricModels(), moments, [only])
    assert not left_out
    return figures


def half(frames, share=0.5):
    mask = np.zeros(frames[0].shape[:2], bool)
    mask[:, : round(share * mask.shape[1])] = True
    return [mask] * len(frames)


def test_every_metric_says_which_way_is_better_and_what_it_needs():
    for name in metrics.names():
        facts = metrics.find(name)
        assert facts.directions
        assert set(facts.directions.values()) <= {"higher", "lower"}
        assert facts.rates <= facts.directions.keys()
        assert isinstance(facts.every_frame, bool)
        assert issubclass(facts.metric, Metric)
        assert facts.requires <= {
            "mask",
            "truth",
            "judge",
            "source_prompt",
            "target_prompt",
            "object_prompt",
        }


def test_a_clip_against_itself():
    clip = moving()
    mask = half(clip)
    found = {}
    for name in (*FREE, "masked_psnr"):
        found |= run(clip, clip, name, mask)
    assert found["psnr_outside@true"] == found["psnr_outside@zero_filled"] == 100
    assert found["ssim@full"] == pytest.approx(1)
    assert found["ssim@outside"] == pytest.approx(1)
    assert found["flow_epe@pixels/dis"] == 0
    assert found["motion_fidelity@both/dis-16x16-tracks"] == pytest.approx(1, abs=1e-5)
    assert found["warp_error_x1000@source,squared/dis"] < 0.5  # DIS is not exact


def test_warp_error_is_zero_for_an_integer_shift_along_its_exact_flow():
    clip = moving(x=3, y=-2)
    tools = MetricModels(flow=exact(3, -2))
    assert run(clip, clip, "warp_error", tools=tools)["warp_error_x1000@source,squared/known"] == 0


def test_warp_error_of_flicker_is_its_mean_square():
    clip = [np.full((64, 80, 3), 0.5 + 0.1 * (t % 2), np.float32) for t in range(5)]
    tools = MetricModels(flow=still)
    assert run(clip, clip, "warp_error", tools=tools)[
        "warp_error_x1000@source,squared/still"
    ] == pytest.approx(10, rel=1e-4)
    tools = MetricModels(MetricOptions(warp_norm="absolute", warp_flow="edited"), still)
    assert run(clip, clip, "warp_error", tools=tools)[
        "warp_error_x1000@edited,absolute/still"
    ] == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("sigma", [0.01, 0.1])
def test_psnr_outside_of_known_noise_is_minus_20_log_sigma(sigma):
    rng = np.random.default_rng(0)
    clip = [np.full((64, 80, 3), 0.5, np.float32)] * 6
    mask = half(clip, 0.25)
    edited = [
        np.where(mask[0][..., None], rng.random(f.shape), f + rng.normal(0, sigma, f.shape)).astype(
            np.float32
        )
        for f in clip
    ]
    found = run(clip, edited, "masked_psnr", mask)
    assert found["psnr_outside@true"] == pytest.approx(-20 * math.log10(sigma), abs=0.1)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_zero_filled_psnr_is_higher_by_the_background_share(share):
    clip = moving()
    edited = [f * 0.9 for f in clip]
    found = run(clip, edited, "masked_psnr", half(clip, share))
    difference = found["psnr_outside@zero_filled"] - found["psnr_outside@true"]
    assert difference == pytest.approx(-10 * math.log10(1 - share), abs=1e-4)


def test_a_full_mask_has_no_outside():
    clip = moving()
    found = run(clip, clip, "masked_psnr", [np.ones(clip[0].shape[:2], bool)] * len(clip))
    assert math.isnan(found["psnr_outside@true"])


def test_tracks_that_stand_still_are_faithful_to_still_ones_only():
    tools = MetricModels(flow=still)
    clip = moving()
    assert (
        run(clip, clip, "motion_fidelity", tools=tools)["motion_fidelity@both/still-16x16-tracks"]
        == 1
    )
    frozen = [clip[0]] * len(clip)

    def either(first, second):
        return still(first, second) if np.array_equal(first, second) else constant(2, 0)

    found = run(clip, frozen, "motion_fidelity", tools=MetricModels(flow=either))
    assert found["motion_fidelity@both/either-16x16-tracks"] == 0


def test_both_ways_is_the_mean_of_the_best_of_each_track_and_of_each_other_one():
    right, left, still = (np.float32([[2, 0]]), np.float32([[-2, 0]]), np.float32([[0, 0]]))
    edited, source = [np.concatenate([right, right])], [np.concatenate([right, left, still])]
    c = motion_fidelity.similarity(edited, source)
    assert c.tolist() == [[1, -1, 0], [1, -1, 0]]
    measure = motion_fidelity.MotionFidelity(PairInfo((64, 80)), MetricModels())
    measure.edited.steps, measure.source.steps = edited, source
    assert list(measure.values().values()) == [
        0.5,
        1.0,
    ]  # half of 1, and of the mean of 1, -1 and 0


def test_ssim_outside_looks_outside():
    clip = moving()
    inside = half(clip)
    edited = [np.where(m[..., None], 1 - f, f) for f, m in zip(clip, inside, strict=True)]
    found = run(clip, edited, "ssim", inside)
    assert found["ssim@outside"] > 0.9 > 0.6 > found["ssim@full"]


def test_opposite_motion_is_minus_one():
    forward, backward = moving(x=2), moving(x=-2)

    def by_sign(first, second):
        return constant(2, 0) if np.array_equal(shifted(first, 2, 0), second) else constant(-2, 0)

    found = run(forward, backward, "motion_fidelity", tools=MetricModels(flow=by_sign))
    assert found["motion_fidelity@both/by_sign-16x16-tracks"] == pytest.approx(-1)
    found = run(forward, backward, "flow_error", tools=MetricModels(flow=by_sign))
    assert found["flow_epe@pixels/by_sign"] == pytest.approx(4)
    assert found["flow_epe@diagonal/by_sign"] == pytest.approx(4 / math.hypot(64, 80))


def test_one_frame_has_no_motion_and_that_is_not_a_number():
    clip = moving(frames=1)
    for name in ("flow_error", "motion_fidelity", "warp_error"):
        assert all(math.isnan(v) for v in run(clip, clip, name).values())


def test_no_frame_is_refused():
    with pytest.raises(ValueError, match="no frame"):
        compare.compare_frames(PairInfo((8, 8)), MetricModels(), [], ["flow_error"])


def test_truth_inside_and_outside_of_what_it_changes():
    source = moving()
    mask = half(source)[0][..., None]
    truth = [np.where(mask, f * 0.5, f) for f in source]
    edited = [np.where(mask, t + 0.1, t + 0.01).astype(np.float32) for t in truth]
    found = run(source, edited, "truth", truth=truth)
    assert found["truth_psnr@inside"] == pytest.approx(
        20, abs=0.2
    )  # dark pixels barely change: those count as outside
    assert found["truth_psnr@outside"] == pytest.approx(40, abs=0.5)
    exact = run(source, truth, "truth", truth=truth)
    assert exact["edit_energy_outside"] == 0
    assert exact["truth_gain_db"] > 70  # 100 dB less the source's own
    unedited = run(source, source, "truth", truth=truth)
    assert unedited["truth_gain_db"] == 0
    assert math.isnan(unedited["edit_energy_outside"])


def test_an_edit_succeeds_when_it_is_the_truth_and_fails_when_it_is_not():
    from holdfast.shapeworld.rendering import render
    from holdfast.shapeworld.scenes import sample_edit
    from holdfast.shapeworld.truth import make_judge

    edit = sample_edit(3, "colour")
    source, target = (
        list(r.permute(0, 2, 3, 1).numpy()) for r in render([edit.source, edit.target])
    )
    right = run(source, target, "scene_truth", judge=make_judge(edit))
    wrong = run(source, source, "scene_truth", judge=make_judge(edit))
    assert right["edit_success@any_edit"] == right["edit_success@same_kind"] == 1
    assert wrong["edit_success@any_edit"] == 0
    assert (
        right["warp_error_x1000@exact,squared"] < 2
    )  # motion is a fraction of a pixel: bilinear warping is not exact
    shuffled = run(source, target[::-1], "scene_truth", judge=make_judge(edit))
    assert shuffled["warp_error_x1000@exact,squared"] > right["warp_error_x1000@exact,squared"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A real CLIP, DINOv2 and DINO ViT at random weights, in folders as published."""
    from transformers import (
        BertTokenizerFast,
        BitImageProcessor,
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        Dinov2Config,
        Dinov2Model,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("networks")
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "ball"]
    text = {
        **small,
        "vocab_size": len(words),
        "eos_token_id": 3,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    vision = {**small, "image_size": 32, "patch_size": 8}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    ).save_pretrained(root / "clip")
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(root / "clip")
    (root / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / "clip")
    plain = {k: v for k, v in small.items() if k != "intermediate_size"}
    Dinov2Model(Dinov2Config(**plain, image_size=28, patch_size=14)).save_pretrained(root / "dino")
    BitImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(root / "dino")
    ViTModel(
        ViTConfig(**small, image_size=32, patch_size=8), add_pooling_layer=False
    ).save_pretrained(root / "structure")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "structure")
    return MetricOptions(
        clip=str(root / "clip"), dino=str(root / "dino"), structure=str(root / "structure")
    )


def test_clip_figures_on_a_real_clip_at_random_weights(networks):
    tools = MetricModels(networks)
    clip = [texture(seed=t) for t in range(4)]

    def embed(image):
        return tools.clip.embed(image).value

    texts = {"source_prompt": "a blue ball", "target_prompt": "a red ball", "object_prompt": "red"}
    found = run(clip, clip, "text_alignment", half(clip), tools=tools, **texts)
    assert set(found) == {"clip_t/clip", "clip_frame_accuracy/clip", "local_clip_t@box,centre/clip"}
    by_hand = np.mean([100 * embed(f) @ tools.clip.embed_text("a red ball") for f in clip])
    assert found["clip_t/clip"] == pytest.approx(by_hand, rel=1e-5)
    crops = np.mean([100 * embed(f[:, :40]) @ tools.clip.embed_text("red") for f in clip])
    assert found["local_clip_t@box,centre/clip"] == pytest.approx(crops, rel=1e-5, abs=1e-5)
    consistent = run(clip, clip, "frame_consistency", tools=tools)
    e = np.stack([embed(f) for f in clip])
    assert consistent["clip_f@consecutive/clip"] == pytest.approx(
        np.mean([e[i] @ e[i + 1] for i in range(3)]), rel=1e-5
    )
    pairs = [e[i] @ e[j] for i in range(4) for j in range(4) if i != j]
    assert consistent["clip_f@all_pairs/clip"] == pytest.approx(np.mean(pairs), rel=1e-5)
    frozen = [clip[0]] * 4
    assert run(frozen, frozen, "frame_consistency", tools=tools)[
        "clip_f@all_pairs/clip"
    ] == pytest.approx(1, abs=1e-5)


def test_dino_figures_on_real_transformers_at_random_weights(networks):
    tools = MetricModels(networks)
    clip, other = [texture(seed=t) for t in range(3)], [texture(seed=9 + t) for t in range(3)]
    assert run(clip, clip, "local_dino", half(clip), tools=tools)[
        "local_dino@cls,box,centre/dino"
    ] == pytest.approx(1, abs=1e-5)
    outside = [
        np.where(m[..., None], a, b) for m, a, b in zip(half(clip), clip, other, strict=True)
    ]
    assert run(clip, outside, "local_dino", half(clip), tools=tools)[
        "local_dino@cls,box,centre/dino"
    ] == pytest.approx(1, abs=1e-5)
    assert (
        run(clip, clip, "structure_distance", tools=tools)[
            "structure_distance_x1000@keys/structure"
        ]
        == 0
    )
    assert (
        run(clip, other, "structure_distance", tools=tools)[
            "structure_distance_x1000@keys/structure"
        ]
        > 0
    )
    assert tools.structure.keys(clip[0]).value.shape == (17, 32)  # 16 patches and the class token


def test_frames_that_go_through_a_network_together_have_the_numbers_of_single_ones(
    networks, monkeypatch
):
    """20 frames: a batch of 16 and one of 4; boxes of two sizes."""
    clip, edited = ([texture(seed=s + t) for t in range(20)] for s in (0, 50))
    mask = [half(clip, 0.3 if t % 3 else 0.7)[0] for t in range(20)]
    texts = {"source_prompt": "a blue ball", "target_prompt": "a red ball", "object_prompt": "red"}
    names = ("text_alignment", "frame_consistency", "local_dino", "structure_distance")
    found = []
    for most in (16, 1):
        monkeypatch.setattr(_batching, "MAX_FRAMES", most)
        sizes: list[int] = []
        tools = MetricModels(networks, device="cpu")
        for network in (tools.clip.model.vision_model, tools.dino.model, tools.structure.model):
            network.register_forward_hook(
                lambda _module, _inputs, output, out=sizes: out.append(len(output[0]))
            )
        found.append(
            {
                k: v
                for n in names
                for k, v in run(clip, edited, n, mask, tools=tools, **texts).items()
            }
        )
        assert max(sizes) == most
    together, alone = found
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-6)
    assert len(together) == 7


def test_a_batch_holds_fewer_of_large_frames(monkeypatch):
    seen: list[int] = []

    def sizes(frames):
        seen.append(len(frames))
        return range(len(frames))

    queue = _batching.BatchQueue(sizes)
    later = [queue.put(torch.zeros(1, 3, 1080, 1920)) for _ in range(3)]
    later.append(queue.put(torch.zeros(1, 3, 8, 8)))
    assert [one.value for one in later] == [0, 1, 0, 0]
    assert seen == [2, 1, 1]


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    """A stand-in for torchvision, which has no wheel for every machine: RAFT and AlexNet at hand, and torch hub's
    folder empty.
    """
    pytest.importorskip("torchmetrics")  # before the stand-in, of which it would import more
    flow = types.ModuleType("torchvision.models.optical_flow")
    models = types.ModuleType("torchvision.models")
    module = types.ModuleType("torchvision")
    module.models, models.optical_flow = models, flow
    # transformers and torchmetrics ask whether it is installed
    module.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)

    class Raft(torch.nn.Module):
        """Nothing moves."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def forward(self, first, second):
            return [self.weight[None, :, None, None].expand(1, 2, *first.shape[-2:])]

    flow.raft_large = lambda **_: Raft()
    url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    models.AlexNet_Weights = types.SimpleNamespace(DEFAULT=types.SimpleNamespace(url=url))
    for one in (module, models, flow):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return Raft


def test_flow_by_raft_is_asked_for_by_an_option_and_named(torchvision, tmp_path, monkeypatch):
    tools, only = choose_metrics("flow_error,warp_error", ["flow=raft"])
    clip = moving()
    figures, left_out = compare.compare_frames(
        PairInfo(clip[0].shape[:2]),
        tools,
        zip(clip, clip, [None] * 5, [None] * 5, strict=True),
        only,
    )
    assert figures == {}
    assert all("20 MB" in reason and "curl" in reason for reason in left_out.values())
    weights = tmp_path / "checkpoints" / raft.WEIGHTS
    torch.save(torchvision().state_dict(), weights)
    tools, _ = choose_metrics("all", ["flow=raft"])
    frozen = [clip[0]] * 5
    found = run(frozen, frozen, "warp_error", tools=tools)
    assert found["warp_error_x1000@source,squared/raft"] == 0
    assert run(clip, clip, "flow_error", tools=tools)["flow_epe@pixels/raft"] == 0


def test_lpips_downloads_nothing(torchvision, tmp_path, monkeypatch):
    """Its network would be fetched by torchvision as soon as it is asked for."""
    pytest.importorskip("torchmetrics")
    with pytest.raises(
        MissingDependencyError, match=r"curl -L --create-dirs -o .*alexnet-owt-7be5be79\.pth https"
    ):
        _packages.load_lpips("alex")
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    url = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
    assert _packages.find_weights(url, "lpips").is_file()


def test_lpips_of_frames_together_is_that_of_single_ones(monkeypatch):
    """With a stand-in for the network: which frames go through it together, and which value is whose."""
    sizes: list[int] = []

    def distance(edited, source, normalize):
        sizes.append(len(edited))
        return (edited - source).square().mean((1, 2, 3), keepdim=True)

    metric = types.SimpleNamespace(net=distance)
    metric.to = lambda device: metric
    monkeypatch.setattr("holdfast.metrics.lpips.load_lpips", lambda name: metric)
    clip = moving(frames=20)
    edited = [frame * (1 - t / 40) for t, frame in enumerate(clip)]
    found = run(clip, edited, "lpips", tools=MetricModels(device="cpu"))
    by_hand = np.mean([np.square(a - b).mean() for a, b in zip(clip, edited, strict=True)])
    assert found["lpips@full/alex"] == pytest.approx(by_hand, rel=1e-5)
    assert sizes == [16, 4]


def test_stride_looks_at_every_nth_frame_and_says_so(networks):
    clip = moving(frames=5)
    edited = [f * (0.9 if t % 2 else 1) for t, f in enumerate(clip)]
    tools = MetricModels(MetricOptions(stride=2))
    found = run(clip, edited, "masked_psnr", half(clip), tools=tools)
    assert found["psnr_outside@true every 2 frames"] == 100


def test_what_misses_its_weights_is_left_out_with_the_command_and_the_rest_is_computed():
    clip = moving()
    figures, left_out = compare.compare_frames(
        PairInfo((64, 80), target_prompt="a red ball"),
        MetricModels(),
        zip(clip, clip, [None] * 5, [None] * 5, strict=True),
    )
    assert "warp_error_x1000@source,squared/dis" in figures
    assert "hf download openai/clip-vit-large-patch14" in left_out["text_alignment"]
    assert left_out["masked_psnr"] == "needs mask"
    assert "torchvision" in left_out["lpips"]
    assert all(math.isfinite(v) for v in figures.values())
    with pytest.raises(MissingDependencyError, match="dino-vitb8"):
        MetricModels().structure  # noqa: B018


def test_an_unknown_metric_names_the_nearest():
    with pytest.raises(ValueError, match="warp_error"):
        metrics.find("warp_eror")
    assert metrics.direction("warp_error_x1000@exact,squared") == "lower"
    assert metrics.direction("something") == ""


@pytest.mark.parametrize(
    "option",
    [
        {"warp_flow": "target"},
        {"warp_norm": "cubed"},
        {"lpips": "no"},
        {"flow": "rapt"},
        {"tracks": 0},
        {"stride": 0},
    ],
)
def test_options_that_there_are_not_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is"):
        MetricOptions(**option)


def test_files_of_another_size_and_length_are_compared_with_a_warning(make_clip):
    source, edited = (
        make_clip("a.mp4", frames=6, size=(48, 32)),
        make_clip("b.mp4", frames=4, size=(24, 16)),
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figures, left_out = compare.compare_files(
            compare.ClipPair(str(source), str(edited)), MetricModels(), ["ssim", "truth"]
        )
    assert [str(w.message) for w in told] == [
        "the edited clip has 4 frames, the source 6; the first 4 are compared",
        "the edited clip is 24x16, the source 48x32; it is resized",
    ]
    assert 0 < figures["ssim@full"] < 1
    assert left_out == {"truth": "needs truth"}

"""Training at toy length: stages resume to the same weights, and checkpoints load in their pipeline class."""

import copy
import json
import math
import random

import pytest
import torch
from PIL import Image

from holdfast.shapeworld import scenes
from holdfast.shapeworld.training import (
    clip_encoders,
    image_vae,
    loop,
    motion_words,
    pools,
    saving,
    text,
    unet_folders,
    unets,
    wan,
)
from holdfast.shapeworld.training.loop import Budget

TOY = Budget(steps=2)
SMALL = unets.BASE | {"block_out_channels": (32, 32)}
FORMS = {
    wan: {
        "POOLS": dict.fromkeys(wan.POOLS, 4),
        "BATCH": dict.fromkeys(wan.BATCH, 2),
        "VAE_PHASES": tuple(wan.Phase(p.until, min(p.frames, 5), 1) for p in wan.VAE_PHASES),
        "VAE_CONFIG": wan.VAE_CONFIG | {"base_dim": 4},
        "TRANSFORMER_CONFIG": wan.TRANSFORMER_CONFIG
        | {"num_layers": 1, "attention_head_dim": 12, "ffn_dim": 32},
    },
    image_vae: {
        "BATCH": 2,
        "CLIPS": 1,
        "CONFIG": image_vae.CONFIG | {"block_out_channels": (8, 8, 8, 8)},
    },
    clip_encoders: {
        "TEXT_CONFIG": clip_encoders.TEXT_CONFIG | {"num_hidden_layers": 1},
        "BATCH": 2,
    },
    unets: {"POOLS": {13: 4, 25: 5}, "FRAMES_BATCH": 2, "CLIPS_BATCH": 1, "BASE": SMALL},
    motion_words: {"FRAMES_BATCH": 2, "CLIPS_BATCH": 1},
}


@pytest.fixture
def toy(monkeypatch):
    """Smaller models on less data, saved after every step, and few scenes that measure binding."""
    for module, values in FORMS.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(unets, "HEADS", (2, 2))
    monkeypatch.setattr(pools, "PROBES", 1)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work is slower on many, and much slower beside other work
    yield
    torch.set_num_threads(threads)


def dying(monkeypatch, at: int) -> None:
    """Interrupt the optimiser once, at its step number `at`."""
    original, calls = loop.Optimiser.step, []

    def step(self, *arguments):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(loop.Optimiser, "step", step)


def same(a, b) -> None:
    """Check that the saved progress of two stages has equal steps and equal averages."""
    a, b = (torch.load(file, weights_only=True) for file in (a, b))
    assert a["done"]
    assert b["done"]
    assert a["index"] == b["index"]
    for name, weight in a["average"].items():
        assert torch.allclose(weight, b["average"][name], atol=1e-5), name


@pytest.mark.filterwarnings(
    "ignore:Mismatch dtype between input and weight"
)  # torch's own, under autocast
def test_wan_resumes_to_the_same_weights_and_loads(toy, tmp_path, monkeypatch):
    budgets = dict.fromkeys(wan.SHARES_OF_TIME, TOY)
    wan.train_wan(tmp_path / "whole", budgets)
    for at in (
        6,
        3,
    ):  # each after one step, of the transformer and of the polish; before: VAE, words
        with monkeypatch.context() as context:
            dying(context, at)
            with pytest.raises(KeyboardInterrupt):
                wan.train_wan(tmp_path / "broken", budgets)
    wan.train_wan(tmp_path / "broken", budgets)
    for stage in budgets:
        same(tmp_path / "whole" / f"{stage}.pt", tmp_path / "broken" / f"{stage}.pt")
    stages = [
        json.loads(line)["stage"]
        for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()
    ]
    assert set(stages) == set(budgets)
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(tmp_path / "broken" / "shapeworld-wan")
    assert pipeline.transformer.config.num_layers == 1
    start, goal = (tmp_path / name / "shapeworld-wan" for name in ("whole", "further"))
    wan.train_wan(tmp_path / "further", budgets, start=start)
    assert not (tmp_path / "further" / "vae.pt").exists()
    assert changed(start, goal) == {"transformer", "vae"}


def test_a_polished_vae_keeps_its_latents(toy, tmp_path, monkeypatch):
    vae = wan.new_vae().to(loop.device())
    clip = loop.render_clips(loop.draw_training_scenes(2, "polish"), 5)
    before, moved = wan.clip_encoder(vae)(clip).float(), []
    for held in (0.0, 1e3):
        monkeypatch.setattr(wan, "SHIFT_WEIGHT", held)
        (tmp_path / str(held)).mkdir()
        polished = copy.deepcopy(vae)
        wan.polish_vae(polished, tmp_path / str(held), Budget(steps=12))
        moved.append((wan.clip_encoder(polished)(clip).float() - before).square().mean())
    assert moved[1] < 0.3 * moved[0]


def changed(start, goal) -> set[str]:
    """Return the networks in which two checkpoints differ."""
    files = [file.relative_to(start) for file in start.glob("*/*.safetensors")]
    assert files
    return {f.parts[0] for f in files if (start / f).read_bytes() != (goal / f).read_bytes()}


def test_short_attention_is_the_same_attention():
    """softmax(q k^T / sqrt(d)) v, and torch's own where there is a mask; torch's own again afterwards."""
    attention = torch.nn.functional.scaled_dot_product_attention
    q, k, v = (torch.randn(2, 3, length, 8) for length in (5, 7, 7))
    masked = {"attn_mask": torch.rand(5, 7) > 0.3}
    cases = [{}, {"scale": 0.3}, {"dropout_p": 0.0, "attn_mask": None}, masked, {"is_causal": True}]
    wanted = [attention(q, k, v, **options) for options in cases]
    with loop.use_plain_attention():
        for options, out in zip(cases, wanted, strict=True):
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
            assert torch.allclose(found, out, atol=1e-6)
    assert torch.nn.functional.scaled_dot_product_attention is attention


def test_a_stage_with_a_budget_of_seconds_ends():
    budget = Budget(seconds=10.0)
    assert budget.share(1000, 5.0) == 0.5
    assert budget.share(0, 11.0) == 1.0


def test_a_stage_without_a_budget_gives_what_there_is_and_goes_on_later(tmp_path):
    def new_run():
        torch.manual_seed(0)
        part = torch.nn.Linear(2, 2)
        return loop.Stage(part, loop.Optimiser(part, lr=0.1), tmp_path, "part")

    def stepped(run, budget) -> list[int]:
        found = []
        for i in run.steps(budget):
            run.descend(run.model(torch.ones(2)).square().sum())
            found.append(i)
        return found

    begun = new_run()
    for _ in begun.steps(Budget(steps=4)):
        begun.descend(begun.model(torch.ones(2)).square().sum())
        if begun.index == 2:
            begun.save()
            break
    shown = new_run()
    assert stepped(shown, Budget()) == []
    assert torch.equal(shown.model.weight, begun.average["weight"])
    assert not torch.equal(shown.model.weight, begun.model.weight)
    assert stepped(new_run(), Budget(steps=4)) == [2, 3]
    assert stepped(new_run(), Budget(steps=9)) == []  # done stays done


def test_a_work_folder_belongs_to_where_it_began(tmp_path):
    start, work = tmp_path / "start", tmp_path / "work"
    (start / "unet").mkdir(parents=True)
    with pytest.raises(ValueError, match="start holds no checkpoint: --start takes a WanPipeline"):
        saving.prepare_folder(work, start, "WanPipeline")
    (start / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    (start / "unet" / "a.safetensors").write_bytes(b"1")
    saving.prepare_folder(work, start, "WanPipeline")
    (work / "pool-13.pt").write_bytes(b"")
    saving.prepare_folder(work, start, "WanPipeline")
    (start / "unet" / "a.safetensors").write_bytes(b"2")
    for other in (start, None):
        with pytest.raises(ValueError, match="started from another checkpoint"):
            saving.prepare_folder(work, other, "WanPipeline")
    with pytest.raises(ValueError, match="holds WanPipeline: --start takes a StableDiffusionPipel"):
        saving.prepare_folder(tmp_path / "new", start, "StableDiffusionPipeline")


@pytest.fixture
def trained(toy, tmp_path, monkeypatch):
    """A folder with the three U-Nets' checkpoints; the run of the clip model was broken off twice and taken up
    again."""
    budgets = dict.fromkeys(
        unet_folders.SHARES_OF_TIME["t2v"] | unet_folders.SHARES_OF_TIME["svd"], TOY
    )
    unet_folders.train_family("sd", tmp_path, budgets)
    for name in ("image-vae", "clip-binding", "sd", "pool-13", "pool-25"):
        (tmp_path / "again").mkdir(exist_ok=True)
        if (tmp_path / f"{name}.pt").exists():
            (tmp_path / "again" / f"{name}.pt").write_bytes((tmp_path / f"{name}.pt").read_bytes())
    unet_folders.train_family("t2v", tmp_path, budgets)
    for at in (2, 3):  # one step of the clips; the other and one of the words of motion
        with monkeypatch.context() as context:
            dying(context, at)
            with pytest.raises(KeyboardInterrupt):
                unet_folders.train_family("t2v", tmp_path / "again", budgets)
    unet_folders.train_family("t2v", tmp_path / "again", budgets)
    unet_folders.train_family("svd", tmp_path, budgets)
    for family in unet_folders.PIPELINES:
        start = tmp_path / f"shapeworld-{family}"
        unet_folders.train_family(family, tmp_path / f"{family}-on", {family: TOY}, start)
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_unets_resume_and_load_in_their_pipelines(trained):
    for stage in ("t2v", "motion"):
        same(trained / f"{stage}.pt", trained / "again" / f"{stage}.pt")
    for family in unet_folders.PIPELINES:
        name = f"shapeworld-{family}"
        assert changed(trained / name, trained / f"{family}-on" / name) == {"unet"}
    from diffusers import (
        StableDiffusionPipeline,
        StableVideoDiffusionPipeline,
        TextToVideoSDPipeline,
    )

    options, kind = {"num_inference_steps": 1, "output_type": "pt"}, {"torch_dtype": torch.float32}
    sd = StableDiffusionPipeline.from_pretrained(trained / "shapeworld-sd", **kind)
    assert sd("a plain red ball", **options).images.shape == (1, 3, 64, 64)
    t2v = TextToVideoSDPipeline.from_pretrained(trained / "shapeworld-t2v", **kind)
    assert t2v("a plain red ball", num_frames=5, height=64, width=64, **options).frames.shape == (
        1,
        5,
        3,
        64,
        64,
    )
    svd = StableVideoDiffusionPipeline.from_pretrained(trained / "shapeworld-svd", **kind)
    image = Image.new("RGB", (64, 64), "teal")
    assert svd(image, num_frames=5, height=64, width=64, **options).frames.shape == (
        1,
        5,
        3,
        64,
        64,
    )


def test_clip_models_begin_as_the_frame_model(toy):
    torch.manual_seed(0)
    sd, t2v = unets.new_sd().eval(), unets.new_t2v().eval()
    unets.copy_spatial_layers(t2v, sd)
    z, words, t = torch.randn(1, 16, 3, 8, 8), torch.randn(1, 32, 128), torch.tensor([400])
    with torch.no_grad():
        clip = t2v(z, t, words).sample
        for f in range(3):
            assert torch.allclose(clip[:, :, f], sd(z[:, :, f], t, words).sample, atol=1e-4)
    unets.copy_spatial_layers(unets.new_svd(), sd)  # every layer has a place there


def test_training_scenes_are_not_held_out(monkeypatch):
    drawn, original = [], loop.sample_scene
    monkeypatch.setattr(
        loop, "sample_scene", lambda seed, name: drawn.append(seed) or original(seed, name)
    )
    found = loop.draw_training_scenes(200, "vae/0")
    assert min(drawn) >= scenes.FIRST_TRAINING_SEED
    assert 0.5 < sum(len(s.actors) == 2 for s in found) / 200 < 0.8
    assert any(len(s.actors) == 3 for s in found)


@pytest.mark.parametrize("make", [text.new_t5_tokenizer, text.new_clip_tokenizer])
def test_captions_fit_and_every_word_is_one_token(make):
    tokenizer = make()
    marks = 1 + (tokenizer.bos_token_id is not None)
    for name in ("train", "several"):
        for seed in range(100):
            caption = scenes.sample_scene(seed, name).caption()
            assert len(tokenizer(caption).input_ids) == len(caption.split()) + marks <= text.LENGTH
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a striped dog").input_ids)
    assert len(pieces) > 3 + marks  # letters for a word that the world does not have
    assert tokenizer.unk_token_id not in tokenizer("a striped dog").input_ids[:-1]


def test_a_word_tells_what_it_belongs_to():
    scene = next(
        s for s in (scenes.sample_scene(i, "several") for i in range(9)) if len(s.actors) == 2
    )
    named = list(text.ATTRIBUTES.items())[:5]
    first, second = (
        [values.index(getattr(a, name)) for name, values in named] for a in scene.actors
    )
    whole, causal = (text.attribute_labels([scene], 0, c)[0] for c in (False, True))
    assert whole[0, :5].tolist() == first == causal[5, :5].tolist()
    assert whole[7, :5].tolist() == second == causal[12, :5].tolist()
    assert causal[0].eq(text.IGNORED).all()
    assert causal[2, :3].tolist() == [text.IGNORED, first[1], first[2]]
    assert (whole[6] == text.IGNORED).all()
    assert pools.swap_attribute(scene, "colour").actors[0].colour == scene.actors[1].colour


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation"
)  # torch's tensors, as the scheduler hands them to numpy
def test_noise_levels_are_the_published_ones():
    from diffusers import EulerDiscreteScheduler

    kept = unet_folders.new_ddim().alphas_cumprod
    a, s = unets.signal_and_noise()
    assert torch.allclose(a.cpu().square(), kept, atol=1e-5)
    assert torch.allclose((a**2 + s**2).cpu(), torch.ones(1000))
    euler = unet_folders.new_euler()
    assert isinstance(euler, EulerDiscreteScheduler)
    euler.set_timesteps(25)
    assert euler.sigmas[0] == pytest.approx(700)
    assert euler.timesteps[0] == pytest.approx(0.25 * torch.tensor(700.0).log().item())


def test_edm_target_is_the_pipelines_v():
    """With the exact v, the scheduler's clean estimate is the clean clip."""
    clean, noise = torch.randn(2, 3, 16, 8, 8), torch.randn(2, 3, 16, 8, 8)
    sigma = torch.tensor([0.5, 20.0])
    level = sigma.view(-1, 1, 1, 1, 1)

    def exact(inside, t, words, added_time_ids):
        assert torch.allclose(t, 0.25 * sigma.log())
        x = inside[:, :, :16] * (level**2 + 1).sqrt()
        v = (x - clean * (level**2 + 1)) / (
            level * (level**2 + 1).sqrt()
        )  # solved from EulerDiscreteScheduler.step
        return type("Output", (), {"sample": v})

    given = unets.ImageConditioning(
        torch.zeros(2, 16, 8, 8), torch.zeros(2, 128), torch.zeros(2, 3)
    )
    assert unets.edm_errors(exact, clean, given, sigma, noise).max() < 1e-6
    assert unets.motion_bucket(scenes.sample_scene(3, "single")) == 127
    assert unets.motion_bucket(scenes.sample_scene(3, "fast")) == 254
    assert 9 <= unets.draw_length(random.Random(0), unets.SVD_SHARES)[0] <= 25


def test_noise_is_learned_as_v_and_high():
    """Of an empty clip all is noise: off by a at every timestep, it is off by 1 in v. Half the timesteps are of the
    highest quarter."""
    a, s = unets.signal_and_noise()
    drawn = []

    def off(x, t, words):
        drawn.append(t)
        at = (-1, 1, 1, 1)
        return type("Output", (), {"sample": x / s[t].view(at) + a[t].view(at)})

    loss = unets.noise_loss(off, torch.zeros(4096, 1, 2, 2), torch.zeros(4096, 1, 128))
    assert loss.item() == pytest.approx(1, abs=1e-3)
    high = (drawn[0] >= 750).float().mean().item()
    assert high == pytest.approx(0.5, abs=0.05)  # over six standard errors
    assert 0 <= drawn[0].min() < 50
    assert 950 < drawn[0].max() < 1000


def test_a_cell_tells_the_motion_of_the_actor_nearest_to_it():
    scene = scenes.Scene(
        "lake",
        (
            scenes.Actor("ball", "red", "plain", "moves", "up", 0.2, 0.2, 0.8),
            scenes.Actor("box", "blue", "plain", "races", "left", 0.2, 0.8, 0.2),
        ),
        "right",
    )
    found = motion_words.motion_labels([scene, None], [range(2, 4), range(2)], (8, 8))
    assert found.shape == (2, 2, 8, 8, 3)
    names = list(motion_words.MOTION.items())
    for corner, said in (((7, 0), ("up", "moves", "right")), ((0, 6), ("left", "races", "right"))):
        values = [names[i][1].index(word) for i, word in enumerate(said)]
        assert found[0, 0][corner].tolist() == values
    assert (found[1] == text.IGNORED).all()


def test_tellers_read_what_every_attention_put_out(toy):
    """Heads of nothing know nothing; a batch without captions tells nothing."""
    unet = unets.new_t2v().eval()
    tellers = motion_words.new_motion_heads(unet)
    layers = motion_words.cross_attention_layers(unet)
    with motion_words.record_outputs(layers) as found:
        unet(torch.randn(2, 16, 3, 8, 8), torch.tensor([400, 9]), torch.randn(2, 32, 128))
    assert len(found) == len(tellers) == 7  # two down, four up, the middle
    assert {x.shape for x in found} == {(6, 32, 8, 8), (6, 32, 4, 4)}
    assert not any(layer._forward_hooks for layer in layers)
    shown = [scenes.sample_scene(i, "train") for i in range(2)]
    times = [range(3)] * 2
    assert motion_words.motion_label_loss(tellers, found, [None, None], times) == 0
    tell = motion_words.motion_label_loss(tellers, found, shown, times)
    gradients = torch.autograd.grad(tell, [*tellers.parameters()])
    assert all(g.abs().sum() > 0 for g in gradients)
    for p in tellers.parameters():
        torch.nn.init.zeros_(p)
    chance = math.log(4 * 2 * 3)  # directions, verbs, pans
    assert motion_words.motion_label_loss(tellers, found, shown, times).item() == pytest.approx(
        chance
    )


def test_a_frame_is_given_and_the_others_are_noise_alone():
    """Who knows the clip tells the noise that takes it to what is seen; who tells none of it is off by one in v where
    the clip is empty, and the given frame does not count."""
    a, s = (table[-1] for table in unets.signal_and_noise())
    clean, at = torch.randn(2, 1, 5, 8, 8), [3, 0]

    def knowing(x, t, words):
        assert t.tolist() == [999, 999]
        for i, f in enumerate(at):
            assert torch.equal(x[i, :, f], clean[i, :, f])
            assert (x[i] != clean[i]).sum() == 4 * 64
        return type("Output", (), {"sample": (x - a * clean) / s})

    assert motion_words.clean_frame_loss(knowing, clean, torch.zeros(2, 1, 128), at) < 1e-6

    def off(x, t, words):
        return type("Output", (), {"sample": x / s + a})

    empty = torch.zeros(2, 1, 5, 8, 8)
    assert motion_words.clean_frame_loss(off, empty, torch.zeros(2, 1, 128), at) == pytest.approx(
        1, abs=1e-4
    )

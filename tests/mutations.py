"""Does the suite notice? Apply each mutation below to a copy of the package and run the tests that should fail.

    python tests/mutations.py [--only WORD] [--jobs 2] [--check]

Print a line for each mutation. The exit status is the number of survivors. A mutation changes a sign, an index, a
condition or a polarity of one equation or promise, as a slip of the hand would. With --check no test runs: the
mutations that the present files do not have any more are listed.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ORACLE, CONTRACT = "tests/methods/test_oracle.py", "tests/methods/test_contract.py"
ANCHOR, AFFINE = "tests/methods/test_flowanchor.py", "tests/models/attention/test_refinement.py"
DOOR, MAPS = "tests/models/attention/test_hooks.py", "tests/models/attention/test_maps.py"
EDITING, WAN = "tests/pipeline/test_run.py", "tests/models/test_wan.py"
PLACES, CLAIMS = "tests/pipeline/test_output_paths.py", "tests/pipeline/test_locks.py"
MASKS, FILES, SETTINGS = (
    "tests/media/test_masks.py",
    "tests/pipeline/test_progress.py",
    "tests/base/test_schema.py",
)
WORDS, DIFFUSION, WINDOWS = (
    "tests/base/test_prompt_diff.py",
    "tests/sampling/test_diffusion.py",
    "tests/sampling/test_windows.py",
)


@dataclass(frozen=True)
class Mutation:
    file: str  # in src/holdfast
    old: str
    new: str
    tests: str


def of(file: str, tests: str, *changes: tuple[str, str]) -> list[Mutation]:
    return [Mutation(file, old, new, tests) for old, new in changes]


DEFAULTS, WALK, NOTES = (
    "tests/methods/test_defaults.py",
    "tests/pipeline/test_loop.py",
    "tests/base/test_notices.py",
)
LATENT = "tests/models/test_latent_diffusion.py"
LIMITS, SCHEDULE = "tests/methods/test_limits.py", "tests/models/test_noise_schedule.py"
WAN22, SVD = "tests/models/test_wan22.py", "tests/models/test_svd.py"
DISTILL = "tests/methods/test_distillation.py"
PAPERS = "tests/bench/test_paper.py"
WAITS = "tests/methods/test_device_waits.py"
MATCHING = "tests/models/attention/test_blending.py"
PATCHES = "tests/media/test_patch_synthesis.py"
PYTHON, ARRAYS = "tests/pipeline/test_api.py", "tests/media/test_arrays.py"
CONTROL, CONTROLS = "tests/models/test_control.py", "tests/pipeline/test_controls.py"
CONTROLVIDEO, RERENDER = "tests/methods/test_controlvideo.py", "tests/methods/test_rerender.py"
MUTATIONS = [
    *of(
        "sampling/masking.py",
        LIMITS,
        ("torch.where(mask == 0, outside, mixed)", "mixed"),
        ("torch.where(mask == 1, inside,", "torch.where(mask == 2, inside, "),
        ("torch.where(mask == 0, torch.zeros_like(change), mask * change)", "mask * change"),
    ),
    *of("sampling/solvers.py", LIMITS, ("return -math.inf if sigma == 1 else", "return")),
    *of(
        "media/encoding.py",
        "tests/media/test_samples.py",
        ("if os.sched_getscheduler(0) != policy:", "if False:"),
    ),
    *of(
        "pipeline/evaluation_count.py",
        "tests/pipeline/test_estimate.py",
        ("more = (iterations - 1) *", "more = iterations *"),
        ("settings[repeated] = 1 ", "pass "),
    ),
    *of(
        "pipeline/estimate.py",
        "tests/pipeline/test_estimate.py",
        (
            "(cost + estimate.judge_evaluations - estimate.gradient_evaluations) * each",
            "cost * each",
        ),
        ("decodings = 2 if plan.task.raw else 1", "decodings = 1"),
    ),
    *of(
        "pipeline/dry_run.py",
        "tests/pipeline/test_estimate.py",
        ("if needs_gradient or any(", "if any("),
    ),
    *of(
        "pipeline/estimate.py",
        "tests/pipeline/test_estimate.py",
        (
            "seconds += estimate.gradient_evaluations * with_gradient",
            "seconds += estimate.gradient_evaluations * each",
        ),
        ("seconds += coding", "seconds -= coding"),
        ("    if not task.changes_nothing:\n        count", "    if True:\n        count"),
    ),
    *of(
        "pipeline/agreement.py",
        "tests/bench/test_contact_sheet.py",
        (
            "(_sum_squares(v_src - u) - _sum_squares(v_tgt - u))",
            "(_sum_squares(v_tgt - u) - _sum_squares(v_src - u))",
        ),
        ("nearer / apart if apart", "nearer / apart if True"),
    ),
    *of(
        "pipeline/agreement.py",
        "tests/models/test_calibration.py",
        ("value < calibration[NOT]", "value > calibration[NOT]"),
        ("count - succeeded if word == NOT", "count - succeeded if word == CLEARLY"),
        ("right / count >= MIN_RELIABILITY", "right / count < MIN_RELIABILITY"),
    ),
    *of(
        "models/calibration.py",
        "tests/models/test_calibration.py",
        ('values.get("weights") != digest_weights(checkpoint)', "False"),
        ("psnr >= bound", "psnr < bound"),
        ("w not in known and", ""),
        ("(-likeness(word), word)", "(likeness(word), word)"),
    ),
    *of("pipeline/loop.py", EDITING, ("if task.feather is None", "if False")),
    *of(
        "bench/contact_sheet.py", "tests/bench/test_contact_sheet.py", (">= threshold > 0", ">= 0")
    ),
    *of(
        "bench/contact_sheet.py",
        "tests/bench/test_contact_sheet.py",
        ('sign = 1 if DIRECTIONS[name] == "higher" else -1', "sign = 1"),
    ),
    *of(
        "bench/contact_sheet.py",
        "tests/bench/test_contact_sheet.py",
        ("min(ranks, key=", "max(ranks, key="),
        ("get_or_make(self.conditions, [key]", "get_or_make({}, [key]"),
        (
            "validated = dataclasses.replace(validated, latent=encode_source(validated, model))",
            "encode_source(validated, model)",
        ),
    ),
    *of(
        "ui/queue.py",
        "tests/ui/test_queue.py",
        ("resume=saved_progress(run.task).choose_resume()", "resume=False"),
        ("shutil.rmtree(folder, ignore_errors=True)\n            raise", "raise"),
        ("if self.uploads not in Path(path).resolve().parents:", "if True:"),
    ),
    *of(
        "ui/queue.py",
        "tests/ui/test_queue.py",
        ("(run.status != RUNNING, run.queued_at)", "(run.status != RUNNING, -run.queued_at)"),
    ),
    *of(
        "ui/runs.py",
        "tests/ui/test_queue.py",
        (
            "if run.status in (WAITING, RUNNING):\n            run.status = _final_status(run)",
            "if False:\n            pass",
        ),
    ),
    *of("ui/pictures.py", "tests/ui/test_queue.py", ("clean[:, :, :1]", "clean[:, :, :0]")),
    *of(
        "ui/page.py",
        "tests/ui/test_refresh.py",
        ("self.shown_state, self.displayed]", "self.shown_state, self.chosen]"),
        (
            "self._find_run(chosen) or self._find_run(displayed)",
            "self._find_run(displayed) or self._find_run(chosen)",
        ),
    ),
    *of(
        "ui/keep_tab.py",
        "tests/ui/test_refresh.py",
        ("self.shown_state, self.displayed]", "self.shown_state, self.chosen]"),
        ("self._find_run(displayed) or next(pairs", "next(pairs"),
    ),
    *of(
        "ui/path_checks.py",
        "tests/ui/test_form.py",
        ("root.resolve() in Path(text).resolve().parents", "True"),
        ("root.resolve() in Path(text).resolve().parents", "root in Path(text).parents"),
    ),
    *of(
        "ui/form_task.py",
        "tests/ui/test_form.py",
        ("if clip.frames > limits.max_frames:", "if clip.frames >= limits.max_frames:"),
    ),
    *of(
        "ui/form_task.py",
        "tests/ui/test_form.py",
        ('settings.pop("strength", None)', "None"),
        ("layer[..., 3] > 0 for", "layer[..., 0] > 0 for"),
    ),
    *of(
        "base/prompts.py",
        "tests/base/test_prompts.py",
        (".casefold()", ""),
        ('"NFKC", plain', '"NFC", plain'),
        ("|a(?=i*[wn])", ""),
        ("|(?<=n)d(?=n)", ""),
    ),
    *of(
        "media/mask_channels.py",
        "tests/media/test_mask_channels.py",
        ("bright[visible]", "bright"),
        ("if len(colour_values) > 1:", "if False:"),
        ("0 if self.is_label else _half(values)", "_half(values)"),
    ),
    *of(
        "media/image_files.py",
        "tests/media/test_folders.py",
        ('path.name.startswith(".") or ', ""),
        ("exif.get(ORIENTATION) in SWAPPING_ORIENTATIONS", "False"),
    ),
    *of(
        "media/metadata.py",
        "tests/media/test_metadata.py",
        ('"location.ISO6709")', '"location.iso6709")'),
        ('(ANY_TAG if _needs_any_tag(metadata, suffix) else "")', '""'),
    ),
    *of(
        "media/colour_matrices.py",
        "tests/media/test_colour_matrices.py",
        ("5: Colorspace.ITU601,", ""),
        ("if space in UNSUPPORTED:", "if False:"),
    ),
    *of(
        "ui/views.py", "tests/ui/test_form.py", ("{escape(text[first:stop])}", "{text[first:stop]}")
    ),
    *of(
        "ui/form.py",
        "tests/ui/test_form.py",
        ("return others if is_default else", "return others if False else"),
    ),
    *of(
        "cli/console.py",
        "tests/cli/test_console.py",
        ("spent / (done - self.first) * (count - done)", "spent / done * count"),
        ("now - self.last_line >= SECONDS_BETWEEN_LINES", "now - self.last_line >= 0"),
    ),
    *of(
        "sampling/field.py",
        DEFAULTS,
        ("config.schedule, inputs.latent", '"own", inputs.latent'),
        ("inputs.latent.shape[2:])", "(1, 1, 1))"),
        ("round(config.strength * config.steps)", "int(config.strength * config.steps + 0.999)"),
    ),
    *of(
        "methods/uniedit.py",
        DEFAULTS,
        ('default="euler"', 'default="native"'),
        ("int(config.strength * config.steps + 1e-9)", "round(config.strength * config.steps)"),
    ),
    *of("methods/wanedit.py", DEFAULTS, ('default="whole"', 'default="exact"')),
    *of("sampling/settings.py", DEFAULTS, ('default="exact"', 'default="whole"')),
    *of(
        "methods/flowanchor.py",
        ANCHOR,
        ("inputs.apply_mask(change) if config.mask_velocity else change", "change"),
    ),
    *of(
        "methods/flowdirector.py",
        ORACLE,
        ("paths[min(round(depth * len(paths)), len(paths) - 1)]", "paths[0]"),
        ("round(pool_size * min(size[1:]) / 60)", "round(0 * min(size[1:]) / 60)"),
        ("mask = mask.maximum(threshold", "mask = (threshold"),
    ),
    *of("models/attention/maps.py", MAPS, ("heat += normalize_range(resized)", "heat += resized")),
    *of(
        "pipeline/loop.py",
        WALK,
        ("return replace(inputs, mask=alpha, areas=tuple(areas))", "return inputs"),
    ),
    *of(
        "pipeline/loop.py",
        WALK,
        ("    if model is None:\n        return inputs", "    if True:\n        return inputs"),
        ("        seed=task.seed,\n", "        seed=0,\n"),
    ),
    *of(
        "pipeline/metering.py",
        "tests/methods/test_i2vedit.py",
        ("self._segment[:, :, begin - end :]", "step.z[:, :, begin:end]"),
    ),
    *of(
        "pipeline/loop.py",
        WALK,
        ("@torch.no_grad()\ndef run_loop", "def run_loop"),
    ),
    *of(
        "pipeline/planning.py",
        EDITING,
        ('task.mask == "auto" and "text_attention" not in info.capabilities', "False"),
    ),
    *of("pipeline/planning.py", EDITING, ("config.schedule not in known", "False")),
    *of("pipeline/run.py", EDITING, ("time.monotonic() - last_save > SAVE_SECONDS", "False")),
    *of(
        "pipeline/run.py",
        EDITING,
        (
            "if resume and session.progress and not task.changes_nothing",
            "if resume and session.progress",
        ),
        ("        if self.progress:\n            extra", "        if False:\n            extra"),
    ),
    *of("base/notices.py", NOTES, ("for text in collected:", "for text in ():")),
    *of(
        "models/unet/adapter.py",
        LATENT,
        ("part + posterior.std * eps", "part + posterior.var * eps"),
        ("/ vae.config.scaling_factor", "* vae.config.scaling_factor"),
    ),
    *of(
        "models/noise_schedule.py",
        LATENT,
        ("(x - s * prediction) / a", "(x - s * prediction)"),
        (
            "s * x + a * prediction, a * x - s * prediction",
            "a * x + s * prediction, a * x - s * prediction",
        ),
        ("math.floor(self.timestep_at(sigma))", "self.timestep_at(sigma)"),
    ),
    *of(
        "models/noise_schedule.py",
        SCHEDULE,
        ("0.0], dtype=torch.float64", "0.0], dtype=torch.float32"),
        ("return float(nearest) if", "return found if"),
        ("(2 if ends_pure else 1)", "1"),
        ("(root - root[-1])", "root"),
        ('self.spacing if schedule == "native"', '"leading" if schedule == "native"'),
    ),
    *of(
        "methods/flowedit.py",
        ORACLE,
        ("z_sigma = x_sigma + (z - x)", "z_sigma = x_sigma"),
        ("(v_target - v_source) / config.n_avg", "(v_source - v_target) / config.n_avg"),
        ("i, k)", "i, 0)"),
        ("if i < target_only:", "if True:"),
    ),
    *of("methods/flowedit.py", CONTRACT, ("inputs.apply_mask(difference)", "difference")),
    *of(
        "methods/wanedit.py",
        ORACLE,
        ("field.snap_timestep(sigmas[i - 1])", "field.snap_timestep(sigmas[i])"),
        ("field.snap_timestep(sigmas[i - 1])", "sigmas[i - 1]"),
        ("v_target - v_source", "v_source - v_target"),
    ),
    *of(
        "methods/flowalign.py",
        ORACLE,
        ("+ config.zeta * pull", "- config.zeta * pull"),
        ("inputs.target.with_negative_of(inputs.source)", "inputs.target"),
        ("p = q + (z - x)", "p = q"),
    ),
    *of(
        "methods/holdfast.py",
        ORACLE,
        ("z_sigma = x_sigma + (z - x)", "z_sigma = x_sigma"),
        ("inputs.apply_mask(v_target - v_source)", "v_target - v_source"),
        (
            "            inputs.source,\n            config",
            "            inputs.target,\n            config",
        ),
    ),
    *of(
        "sampling/guidance.py",
        ORACLE,
        (
            "self.other_scale * (positive - negatives[-1])",
            "self.other_scale * (positive - negatives[0])",
        ),
    ),
    *of(
        "methods/dfvedit.py",
        ORACLE,
        ("add_noise(z, sigma, eps)", "add_noise(source, sigma, eps) + z - source"),
    ),
    *of("methods/sdedit.py", ORACLE, ("sigmas[first], eps", "sigmas[0], eps")),
    *of(
        "methods/uniedit.py",
        ORACLE,
        ("config.omega * (1 + m) * g", "-config.omega * (1 + m) * g"),
        ("m * v_target + (1 - m) * v_source", "(1 - m) * v_target + m * v_source"),
        ('"src+" if config.invert_with_source else "src-"', '"src+"'),
        ("g = v_target - v_source", "g = v_source - v_target"),
    ),
    *of(
        "methods/rfsolver.py",
        ORACLE,
        ("if i < config.inject else None", "if False else None"),
        ("values[layer.path, layer.frames])", "v)"),
        (
            "field.velocity(inverted, sigma, inputs.source",
            "field.velocity(inverted, sigma, inputs.tgt",
        ),
        ('state["last"] if "last" in state else velocity(z, sigma)', "velocity(z, sigma)"),
    ),
    *of(
        "methods/flowdirector.py",
        ORACLE,
        ("> heat.mean()", "< heat.mean()"),
        ("np.exp(-decay * distance)", "np.exp(-decay * 0 * distance)"),
        ("config.omega * (mean - worse)", "config.omega * (worse - mean)"),
        ("sigmas = [field.snap_timestep(sigma) for sigma in sigmas]", "pass"),
        ("if has_words:", "if False:"),
        ("mask = mask.maximum(attended)", "pass"),
    ),
    *of(
        "methods/flowanchor.py",
        ORACLE,
        ("math.log(x.shape[2])", "x.shape[2]"),
        ("(1 + contrast_map(", "(1 - contrast_map("),
    ),
    *of(
        "methods/flowanchor.py",
        ANCHOR,
        ("sigma >= config.tau", "sigma < config.tau"),
        ('layer.branch == "tgt+"', 'layer.branch == "src+"'),
        (
            "(layer.tokens_in_mask(area.mask).flatten()",
            "(~layer.tokens_in_mask(area.mask).flatten()",
        ),
        ("tuple(areas) or (TargetArea(mask", "(TargetArea(mask"),
        ("else begin + self.target.token_count", "else self.target.token_count"),
        ("q.transpose(0, 1).reshape(1, heads", "q.reshape(1, heads"),
    ),
    *of(
        "models/attention/refinement.py",
        AFFINE,
        ("(1 - b2) * b1 * row.high - b1 * row.low", "(1 - b2) * b1 * row.high"),
        ("torch.where(own, columns.high, columns.low)", "columns.high"),
        ("torch.where(own, columns.high, columns.low)", "columns.low"),
        ("torch.where(is_word, 1 - b2, 1.0)", "torch.where(is_word, 1.0, 1.0)"),
        ("+ b1 * torch.where(own, high, low)", "+ b1 * high"),
        ("-b1 * b2 * row.low", "-b1 * row.low"),
        ("1 - keys.own[:, None].float()", "0 * keys.own[:, None].float()"),
        ("owners[covered.cpu()] = number", "owners[covered.cpu() & (owners < 0)] = number"),
        ("logits[..., refinement.key_begin : refinement.key_end]", "logits"),
        ("return high, x - high", "return high, 0 * x"),
    ),
    *of(
        "pipeline/mask_areas.py",
        "tests/pipeline/test_targets.py",
        ("reversed(ends)", "ends"),
        ("ends[-1])", "ends[0])"),
        ("if worded and bare:", "if False:"),
    ),
    *of(
        "pipeline/task.py",
        "tests/pipeline/test_targets.py",
        ('data["mask_words"] = [area.words for area in self.areas]', "pass"),
    ),
    *of(
        "media/masks.py",
        "tests/pipeline/test_targets.py",
        ("np.logical_or.reduce(frames)", "frames[0]"),
        ("(count > 1).sum()", "(count > 0).sum()"),
    ),
    *of(
        "media/sampling.py",
        "tests/pipeline/test_sampled_frames.py",
        ("part[::every]", "part[: len(part) // every]"),
        ("round(i * last / steps)", "i * last // len(part)"),
        ("time - first for time in times", "time for time in times"),
        ("[part.index(frame) for frame in frames]", "range(len(frames))"),
        ("        tracks=(),\n", ""),
    ),
    *of(
        "methods/flowanchor.py",
        "tests/methods/test_explanations.py",
        (
            'yield f"{which}after", self(layer, q, k, is_word)[..., 0]',
            'yield f"{which}after", before[..., 0]',
        ),
        ('observing.observe("change |dV|", i, difference.abs())', "pass"),
    ),
    *of(
        "methods/assd.py",
        "tests/methods/test_explanations.py",
        (
            'observing.observe("smoothing mask m", i, m)',
            'observing.observe("smoothing mask m", 0, m)',
        ),
    ),
    *of(
        "models/attention/maps.py",
        MAPS,
        ("values > threshold", "values <= threshold"),
        ('(source, "src+") if source.edit_tokens', '(target, "tgt+") if target.edit_tokens'),
        (".mean((1, 3))", ".sum((1, 3))"),
        ("return total / count.clamp(min=1)", "return total"),
        ("layers.setdefault(layer.path", "layers.setdefault(layer.kind"),
    ),
    *of(
        "models/attention/hooks.py",
        DOOR,
        ("x.reshape(-1, h, w, f).permute(0, 3, 1, 2)", "x.reshape(-1, f, h, w)"),
        ("permute(0, 2, 3, 1).reshape(b * h * w, f)", "reshape(b * h * w, f)"),
        ("mask[:, :, list(self.frames)]", "mask[:, :, : len(self.frames)]"),
        ("first + t for t", "t for t"),
        ("reversed(self.rules)", "self.rules"),
        ("-(-rows // 2), -(-columns // 2)", "rows // 2, columns // 2"),
        ("            self.rules.remove(entry)\n", "            self.rules.clear()\n"),
        ("before, self.call = self.call, call", "before = self.call = call"),
    ),
    *of(
        "models/feature_hooks.py",
        DOOR,
        ("output.unflatten(0, (-1, f)).transpose(1, 2)", "output.unflatten(0, (f, -1))"),
        ("handle.remove()", "pass"),
        ("x.flatten(2).transpose(1, 2).to(output)", "x.flatten(2).to(output).view_as(output)"),
    ),
    *of(
        "models/unet/hooks.py",
        DOOR,
        (
            'context = encoder_hidden_states if self.layer.kind == "cross" else None',
            "context = None",
        ),
        ('kind, "temporal" if _is_temporal(path) else "spatial")', 'kind, "spatial")'),
        ('parts[f"{path}.conv2"] = "residual_branch"', 'parts[path] = "residual_branch"'),
        ("counts[layer.kind, layer.axis] = number + 1", "pass"),
    ),
    *of(
        "sampling/ddim.py",
        "tests/sampling/test_ddim.py",
        ("network_sigma=levels.networks[i]", "network_sigma=None"),
        ("z = z + (sigma_next - sigma) * velocity", "z = z - (sigma_next - sigma) * velocity"),
        ("return math.hypot(1 - sigma, sigma)", "return 1.0"),
        ("    inverted = join_levels(inverted, noisy)\n", "    inverted = inverted[::-1]\n"),
        ("        networks = rising[:-1]\n", "        networks = rising[1:]\n"),
        ("field.clean_sigma if config.last_level", "0.0 if config.last_level"),
        ("int(name.removeprefix(prefix)) <= number", "int(name.removeprefix(prefix)) < number"),
        ("state[inverted_name(self.steps - step)]", "state[inverted_name(self.steps - step + 1)]"),
    ),
    *of(
        "models/unet/clip_norms.py",
        "tests/models/test_clip_norms.py",
        ("(block.norm1, block.norm2)", "(block.norm1,)"),
        (".transpose(1, 2).flatten(2, 3)", ".transpose(1, 2).flatten(0, 1)"),
        ("            self.is_active = False\n", ""),
    ),
    *of(
        "models/attention/trajectories.py",
        "tests/models/attention/test_trajectories.py",
        (".round().long()", ".floor().long()"),
        (
            "y = torch.arange(rows) * height // rows",
            "y = (torch.arange(rows) * height + rows) // rows",
        ),
        ('rank, "amax")', 'rank, "amin")'),
        ("following[successors[i][is_kept]] = labels[i][is_kept]", "pass"),
        ("listed[:, -(frames - 1) :]", "listed[:, -frames:]"),
        ("others[:, :longest]", "others"),
        ("[frames[0] : frames[-1]]", "[: len(frames) - 1]"),
        ("attn_mask=mask", "attn_mask=None"),
    ),
    *of(
        "models/attention/trajectories.py",
        "tests/methods/test_flatten.py",
        ("if layer.cells_per_token > 1:", "if layer.cells_per_token > 0:"),
        (
            "(q, k) if self.old_qk else (output, output)",
            "(output, output) if self.old_qk else (q, k)",
        ),
        ("            q, k = self.injection.exchange(layer, q, k)", "            pass"),
    ),
    *of(
        "methods/flatten.py",
        "tests/methods/test_flatten.py",
        ("ddim.scale_of(levels.sigmas[first]) /", "ddim.scale_of(levels.rising[-1]) /"),
        ('if config.variant == "released":', "if False:"),
        ('(1, "resnets", (0, 1))', '(1, "resnets", (0,))'),
        ("with field.normalize_over_clip(), attention", "with attention"),
        ("ddim.sample_latent(inputs) if is_drawn else inputs", "inputs"),
    ),
    *of(
        "models/attention/modulation.py",
        "tests/methods/test_videograin.py",
        ("(goal - logits)", "(logits - goal)"),
        ("torch.where(modulation.keys[regions], high, low)", "high"),
        ("torch.where(mask >= 0.5, number, regions)", "torch.where(mask > 0.7, number, regions)"),
        ("enumerate(masks, 1):", "enumerate(masks[::-1], 1):"),
    ),
    *of(
        "methods/videograin.py",
        "tests/methods/test_videograin.py",
        ("(max(timestep - 1, 0) / TIMESTEPS) ** 5", "(max(timestep, 0) / TIMESTEPS) ** 5"),
        ('branch = "tgt-" if self.is_released else "tgt+"', 'branch = "tgt+"'),
        ("if self.is_released:\n            keys[0]", "if False:\n            keys[0]"),
        ("(frames if self.is_released else 1)", "1"),
        ("torch.where(regions == 0, 0, sizes)", "sizes"),
        ("sizes.clamp(max=MAX_HALF).half()", "sizes"),
        ('self.config.variant == "released" and target == "tgt-"', "False"),
        ("            words[0] &= ~words[1:].any(0)\n", ""),
        ("self.is_released and layer.cells_per_token == 1", "layer.cells_per_token == 1"),
        ("return step + 1 if self.config", "return step if self.config"),
        ("add_noise(inputs.latent, sigma, keyed", "add_noise(inputs.latent, sigma_next, keyed"),
        (
            "            target = target.splice_words(area.edit_tokens, words)\n",
            "            pass\n",
        ),
        ("step - self.levels.first_step < self", "step - self.levels.first_step <= self"),
    ),
    *of(
        "methods/tokenflow.py",
        "tests/methods/test_tokenflow.py",
        ("w = 1 / (1 + math.exp(-previous / (own + previous)))", "w = previous / (own + previous)"),
        ("((pivots[n], w), (pivots[n - 1], 1 - w))", "((pivots[n - 1], w), (pivots[n], 1 - w))"),
        ("w = (after - frame) / (after - before)", "w = (frame - before) / (after - before)"),
        ("int(config.start * config.steps - 1)", "int(config.start * config.steps)"),
        ("group.start + len(group) // 2", "group.start + (len(group) - 1) // 2"),
        (
            "                self.outputs[block, layer.branch, frame] = tokens",
            "                pass",
        ),
        ('frame_sources("all", len', 'frame_sources("own", len'),
        ("        q, k = self.injection.exchange(layer, q, k)\n", ""),
        ("sigma = levels.rising[-1]", "sigma = levels.sigmas[first]"),
        ("(rows @ others.mT).argmax(-1)", "(rows @ others.mT).argmin(-1)"),
    ),
    *of(
        "models/injection.py",
        "tests/models/test_injection.py",
        ("if step < end}", "if step <= end}"),
        (
            'if layer.branch.startswith("src"):\n            self._found',
            "if True:\n            self._found",
        ),
        (
            "        q, k = self.exchange(layer, q, k)\n",
            "        q, _ = self.exchange(layer, q, k)\n",
        ),
        ("return None if source is x else source", "return None"),
        ('f"{layer.path}.".startswith(prefixes)', "True"),
    ),
    *of(
        "models/attention/frames.py",
        "tests/models/attention/test_frames.py",
        ("[max(i - 1, 0), 0]", "[0, max(i - 1, 0)]"),
        ("[count // 2]", "[(count - 1) // 2]"),
        ("x.unflatten(2, (frames, -1))", "x.roll(1, 2).unflatten(2, (frames, -1))"),
    ),
    *of("sampling/solvers.py", ORACLE, ("half = z + step / 2", "half = z + step")),
    *of(
        "sampling/inversion.py",
        ORACLE,
        ("ahead = velocity(z + step * last, sigma_next)", "ahead = velocity(z, sigma_next)"),
    ),
    *of(
        "sampling/solvers.py",
        ORACLE,
        ("return z + step * middle, middle", "return z + step * middle, last"),
    ),
    *of(
        "sampling/guidance.py",
        DIFFUSION,
        (
            "negatives[0] + scale * (positive -",
            "positive + scale * (positive -",
        ),
    ),
    *of(
        "sampling/noise.py",
        DIFFUSION,
        ("{key.seed}/{key.step}/{key.repeat}/{frame}", "{key.seed}/{key.step}/{key.repeat}"),
        ("{key.seed}/{key.step}/{key.repeat}/{frame}", "{key.seed}/{key.step}/{frame}"),
    ),
    *of(
        "sampling/schedules.py",
        DIFFUSION,
        ("return shift * sigmas / (1 + (shift - 1) * sigmas)", "return shift * sigmas"),
    ),
    *of("sampling/masking.py", DIFFUSION, ("(high - low + eps)", "(high + eps)")),
    *of(
        "sampling/schedules.py",
        DIFFUSION,
        ("torch.cat((shift_sigmas(even, shift)", "torch.cat((even"),
    ),
    *of("sampling/solvers.py", DIFFUSION, ("rho_old = (b1 - b2)", "rho_old = (b1 + b2)")),
    *of("sampling/guidance.py", ORACLE, ("torch.linspace(*scale,", "torch.linspace(*scale[::-1],")),
    *of(
        "sampling/windows.py",
        WINDOWS,
        ("torch.minimum(rise, rise.flip(0)).float()", "torch.ones(size)"),
        ("for e in evaluations], part)", "for e in evaluations], None)"),
        ("total / weights for total", "total for total"),
    ),
    *of(
        "sampling/field.py",
        FILES,
        ("return range(resume.index, end)", "return range(first, end)"),
        ("STAGES.index(resume.stage) < STAGES.index(stage)", "False"),
        ("(resume.z, resume.state)", "(resume.z, {})"),
    ),
    *of(
        "sampling/field.py",
        CONTRACT,
        (
            "masking.blend_by_mask(self.mask, z, outside)",
            "masking.blend_by_mask(self.mask, outside, z)",
        ),
        ("else masking.apply_mask(self.mask, change)", "else change"),
        ('if config.timesteps == "whole"', 'if config.timesteps == "exact"'),
    ),
    *of(
        "base/schema.py",
        SETTINGS,
        ("self.low is None or value >= self.low", "True"),
        ("self.high is None or value <= self.high", "True"),
        ("return above and below and math.isfinite(value)", "return above and below"),
    ),
    *of(
        "base/schema.py",
        SETTINGS,
        ("Literal[setting.choices] if setting.choices else", "Any if setting.choices else"),
    ),
    *of(
        "base/schema.py",
        SETTINGS,
        ('given |= {} if strength is None else {"strength": strength}', "pass"),
        (
            "if n in settings and settings[n].follows_model}",
            "if n in settings and settings[n].follows_model and n != 'shift'}",
        ),
    ),
    *of("base/schema.py", SETTINGS, ("if isinstance(value, bool):", "if False:")),
    *of(
        "pipeline/planning.py",
        EDITING,
        ("missing = needs.missing(capabilities)", "missing = set()"),
    ),
    *of(
        "pipeline/run.py",
        EDITING,
        ('cells=extra["mask"] > 0 if "mask" in extra else None', "cells=None"),
        ("notices.append(event.text)", "pass"),
    ),
    *of(
        "pipeline/run.py",
        EDITING,
        ('save_with_progress({"mask": cells.byte()})', "save_with_progress({})"),
        ("        resume=step,\n", "        resume=None,\n"),
    ),
    *of(
        "pipeline/run.py",
        EDITING,
        ("except (KeyboardInterrupt, GeneratorExit):", "except KeyboardInterrupt:"),
    ),
    *of(
        "pipeline/output_paths.py",
        PLACES,
        ("if PROTOCOL.match(str(output)):", "if False:"),
        ("if not stat.S_ISREG(place.stat().st_mode):", "if False:"),
        ("is_result and all(f.suffix", "is_result and any(f.suffix"),
        ("(str(source) in written or is_inside)", "str(source) in written"),
        ("folder.rmdir()", "                pass\n"),
        ("if free < needed:", "if False:"),
    ),
    *of(
        "base/files.py",
        PLACES,
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        ("if ours.fullmatch(folder.name):", "if True:"),
        ("(folder / REPLACED).exists() and", "False and"),
    ),
    *of(
        "cli/edit.py",
        PLACES,
        (
            "validated = validate(task)  # before",
            "from ..pipeline import run\n\n    validated = validate(task)  # before",
        ),
    ),
    *of("pipeline/loop.py", EDITING, ("    frames = job.mask\n", "    frames = None\n")),
    *of(
        "pipeline/metering.py",
        CONTRACT,
        ("sum(cost > 0 for cost in costs)", "2 * sum(cost > 0 for cost in costs)"),
    ),
    *of(
        "pipeline/estimate.py",
        "tests/pipeline/test_estimate.py",
        ("tokens[:, :, begin:end].mean()", "tokens.mean()"),
    ),
    *of(
        "pipeline/evaluation_count.py",
        "tests/pipeline/test_estimate.py",
        ("(plan.windows.count - 1) / (windows - 1)", "plan.windows.count / (windows - 1)"),
        ("each * sum(1 - share for", "each * sum(share for"),
        ("each * sum(share == 0 for", "0 * sum(share == 0 for"),
    ),
    *of(
        "models/wan/packed.py",
        "tests/models/test_packed.py",
        ("theirs.index_copy(2, part.tokens, mine)", "theirs"),
        ("k[i : i + 1], v[i : i + 1]", "k[:1], v[:1]"),
        ('get_submodule("proj_out").register', 'get_submodule("norm_out").register'),
        ("call, branch=evaluation.branch, tokens=tokens", "call, tokens=tokens"),
        ("key.clone(), value.clone()", "key * 0, value * 0"),
        ("and not (kept and kept.keys_values)", "and False"),
        ("kept.keys_values = part.keys_values", "pass"),
        ("if saves_memory else contextlib", "if False else contextlib"),
        ("found[i].clone()  # a view", "found[i]  # a view"),
        ("return replace(evaluation, region=cells[None, None])", "return evaluation"),
    ),
    *of(
        "sampling/field.py",
        "tests/models/test_packed.py",
        ("own if own in branches else", "'src-' if 'src-' in branches else"),
        ("is not None and evaluation.region.any()", "is not None"),
    ),
    *of(
        "models/source_store.py",
        "tests/models/test_source_store.py",
        ("if self._is_observed(field):", "if False:"),
        ("which), digest_point(e.z))", "which),)"),
        ("if view not in found:", "if True:"),
        ("e.is_known and not c for", "e.is_known for"),
        ("if self._room is None else min", "if True else min"),
        ("        if self._entries:\n            self._make_room(0)\n", ""),
        ("excess <= 0 or edit == self._edit", "excess <= 0"),
        ("entry.bytes += layer_bytes", "pass"),
    ),
    *of("pipeline/preservation.py", EDITING, ("**2, alpha == 0", "**2, alpha != 0")),
    *of("pipeline/edited_clip.py", EDITING, ("if i not in self.part:", "if False:")),
    *of("pipeline/writer.py", EDITING, ("self.progress.remove()", "            pass\n")),
    *of(
        "media/masks.py",
        MASKS,
        ("mask = mask != self.invert", "mask = mask == self.invert"),
        ("self.part.start if self.covers_clip else 0", "0"),
        (
            "latent_frame = -(-i // clip_format.stride[0])",
            "latent_frame = i // clip_format.stride[0]",
        ),
        (
            "min(-(-i // clip_format.stride[0]), shape[0] - 1)",
            "min(i // clip_format.stride[0], shape[0] - 1)",
        ),
        ("source * (1 - weight) + edited * weight", "edited * (1 - weight) + source * weight"),
        ("_distance(mask) / (width + 1)", "_distance(mask) / width"),
        ("_distance(mask) <= radius", "_distance(mask) < radius"),
    ),
    *of(
        "base/prompt_diff.py",
        WORDS,
        ("words[i] not in _ARTICLES", "True"),
        ("stood.update(run.before[run.after.index(j)] for j in here)", "pass"),
        ("first < chosen[before - 1][1]", "first <= chosen[before - 1][1]"),
    ),
    *of(
        "base/prompt_diff.py",
        WORDS,
        ("if bisect_left(ordered, i) < bisect_left(ordered, i + size)", "if True"),
    ),
    *of(
        "models/wan/adapter.py",
        WAN,
        ("return states * mask[..., None].to(states)", "return states"),
        ("return (z - mean) / std", "return z"),
        ("z.to(self.device, torch.float32) * std + mean", "z.to(self.device, torch.float32)"),
        ("int(1000 * sigma + ROUNDING) / 1000", "round(1000 * sigma) / 1000"),
    ),
    *of(
        "models/base.py",
        WAN,
        ('self.positive if branch.endswith("+")', 'self.positive if branch.endswith("-")'),
        (
            "            self.part(name)\n        return self.residency",
            "            name\n        return self.residency",
        ),
    ),
    *of("models/base.py", ORACLE, ("negative=other.positive", "negative=other.negative")),
    *of(
        "bench/results.py",
        "tests/bench/test_tables.py",
        ("sign = 1 if direction(metric)", "sign = -1 if direction(metric)"),
        ("if is_finished(record) and value is not None", "if value is not None"),
        ("and self._is_comparable(record, metric)", "and True"),
        ("sum(sign * own[case] for case in cases)", "sum(sign * value for value in own.values())"),
    ),
    *of(
        "bench/tables.py",
        "tests/bench/test_tables.py",
        ("if not isinstance(cell, str) or", "if True or"),
    ),
    *of(
        "base/intervals.py",
        "tests/base/test_intervals.py",
        ("CONFIDENCE = 0.95", "CONFIDENCE = 0.9"),
        ("count + 2) for sign in (1, -1))", "count) for sign in (1, -1))"),
        ("(math.cos(angle) if freedom % 2", "(math.sin(angle) if freedom % 2"),
    ),
    *of(
        "base/intervals.py",
        "tests/base/test_intervals.py",
        ("value -= skewness / (6 * count)", "value += skewness / (6 * count)"),
    ),
    *of(
        "bench/results.py",
        "tests/bench/test_pages.py",
        ("ours[case] - theirs[case]", "theirs[case] - ours[case]"),
    ),
    *of(
        "media/optical_flow.py",
        "tests/media/test_optical_flow.py",
        ("return ~occlusion(forward, backward) &", "return occlusion(forward, backward) &"),
        ("return covered | ~ends_in_frame(forward)", "return covered"),
        ("> 0.01 * sizes + 0.5", "> 0.01 * sizes + 5"),
        ("return first + warp(second, first)", "return first + second"),
        ("return _sharpen(flow, first, second)", "return flow"),
        ("is_better = mismatch < lowest", "is_better = mismatch > lowest"),
        ("_squared_norm(forward + returned)", "_squared_norm(forward - returned)"),
        ("return x + flow[..., 0], y + flow[..., 1]", "return x - flow[..., 0], y - flow[..., 1]"),
        ("moved = self.points + step", "moved = self.points - step"),
    ),
    *of(
        "metrics/base.py",
        "tests/metrics/test_closed_form.py",
        (
            "return MAX_PSNR_DB if squared_error <= 10 ** (-MAX_PSNR_DB / 10) else psnr(squared_error)",
            "return psnr(squared_error)",
        ),
        ("math.inf if squared_error == 0 else -10 *", "math.inf if squared_error == 0 else -20 *"),
    ),
    *of(
        "metrics/masked_psnr.py",
        "tests/metrics/test_closed_form.py",
        ("outside = ~pair.mask", "outside = pair.mask"),
        ("float(squares.sum()) / pair.source.size", "float(squares.mean())"),
    ),
    *of(
        "metrics/truth.py",
        "tests/metrics/test_closed_form.py",
        ("self.all.psnr() - self.unedited.psnr()", "self.unedited.psnr() - self.all.psnr()"),
        ("change[~inside].sum()", "change[inside].sum()"),
    ),
    *of(
        "metrics/warp_error.py",
        "tests/metrics/test_closed_form.py",
        ("(first - warp(second, flow))", "(second - warp(first, flow))"),
        ("return float(sizes.mean())", "return float(sizes.sum())"),
    ),
    *of(
        "metrics/motion_fidelity.py",
        "tests/metrics/test_closed_form.py",
        ("cosine[one_still] = 0.0", "cosine[one_still] = 1.0"),
        ("to_edited = _mean_best(c.T)", "to_edited = _mean_best(c)"),
    ),
    *of(
        "metrics/ssim.py",
        "tests/metrics/test_closed_form.py",
        ("similarity[~pair.mask]", "similarity[pair.mask]"),
    ),
    *of(
        "metrics/frame_consistency.py",
        "tests/metrics/test_closed_form.py",
        ("np.diag(cosines, 1)", "np.diag(cosines)"),
    ),
    *of(
        "metrics/compare.py",
        "tests/metrics/test_closed_form.py",
        ("pair.index % one.stride == 0", "pair.index % one.stride == 1"),
    ),
    *of(
        "shapeworld/truth.py",
        "tests/shapeworld/test_scenes.py",
        ("all(own < _error(rival, result, times)", "all(own > _error(rival, result, times)"),
        ("rivals += [target for target in targets if target != edit.target]", "rivals += []"),
        ("outside = 1 - inside", "outside = inside"),
        ("scenes = [edit.source]", "scenes = [edit.target]"),
    ),
    *of(
        "shapeworld/truth.py",
        "tests/metrics/test_closed_form.py",
        (
            "return _single_layer(first) & _single_layer(at_end) & same & ends_in_frame(forward)",
            "return _single_layer(first) & _single_layer(at_end) & ~same & ends_in_frame(forward)",
        ),
    ),
    *of(
        "shapeworld/rendering.py",
        "tests/shapeworld/test_scenes.py",
        ("pan = -PANS[scene.pan] * width", "pan = PANS[scene.pan] * width"),
        ("visible[rows] *= 1 - alpha[:, None]", "visible[rows] *= 1"),
    ),
    *of(
        "shapeworld/scenes.py",
        "tests/shapeworld/test_scenes.py",
        ("all(gap > -0.06 for gap in gaps)", "all(gap > -0.3 for gap in gaps)"),
    ),
    *of(
        "shapeworld/scenes.py",
        "tests/shapeworld/test_evaluate.py",
        (
            "start = along if dx + dy > 0 else 1 - along\n        excess",
            "start = along\n        excess",
        ),
    ),
    *of(
        "shapeworld/evaluate.py",
        "tests/shapeworld/test_evaluate.py",
        ("psnr(clip, truth) > repeated", "psnr(clip, truth) < repeated"),
    ),
    *of(
        "shapeworld/caption_check.py",
        "tests/shapeworld/test_caption_check.py",
        ("holds[name] = own < nearest_rival(match, name, sampled)", "holds[name] = True"),
        ("nearest = min(nearest, refine_actor(rival, i, sampled)[0])", "pass"),
        ("own < min(nearest, *rendering_errors", "own < max(nearest, *rendering_errors"),
    ),
    *of(
        "shapeworld/training/loop.py",
        "tests/shapeworld/test_training.py",
        ("query.shape[-1] ** -0.5", "query.shape[-1] ** 0.5"),
        ("or dropout_p or is_causal", "or dropout_p"),
        ("if not self.done and budget != Budget():", "if not self.done:"),
    ),
    *of(
        "shapeworld/training/saving.py",
        "tests/shapeworld/test_training.py",
        ("if recorded != identity:", "if False:"),
        ("if name != pipeline:", "if False:"),
    ),
    *of(
        "shapeworld/training/wan.py",
        "tests/shapeworld/test_training.py",
        ("before = copy.deepcopy(vae)", "before = vae"),
    ),
    *of(
        "models/wan/adapter.py",
        "tests/models/test_wan22.py",
        ("posterior.std * eps.transpose(0, 1)", "posterior.var * eps.transpose(0, 1)"),
    ),
    *of(
        "bench/plan.py",
        "tests/bench/test_runner.py",
        ("if variant.sees_mask else {}", "if True else {}"),
        ("if not variant.takes_first_frame:", "if variant.takes_first_frame:"),
        ("case.keyframes if has_segments else ()", "case.keyframes"),
        ("raw=str(raw_path(place)) if variant.has_raw_clip else None", "raw=None"),
    ),
    *of(
        "bench/rough_masks.py",
        "tests/bench/test_rough_masks.py",
        ("return mask & (cv2", "return (cv2"),
        ("places = low + waypoints", "places = waypoints"),
        ("[seed, zlib.crc32(case.name.encode())]", "[seed]"),
    ),
    *of(
        "bench/rough_masks.py",
        "tests/bench/test_runner.py",
        ('"grow": int(grow[1])', '"grow": -int(grow[1])'),
    ),
    *of(
        "bench/first_places.py",
        "tests/bench/test_study.py",
        ("chosen.sum((0, 1)) / len(votes)", "chosen.sum((0, 1)) / chosen.sum((0, 1)).max()"),
        ("draw_counts(rng, len(clips))", "np.ones((2000, len(clips)))"),
        ("np.argsort(-shares", "np.argsort(shares"),
    ),
    *of(
        "bench/results.py",
        "tests/bench/test_tables.py",
        ("if case.kind == kind]", "if case.kind != kind]"),
    ),
    *of(
        "bench/results.py",
        "tests/bench/test_runner.py",
        ("if record and is_one_clip(variant):", "if record and not is_one_clip(variant):"),
    ),
    *of(
        "pipeline/writer.py",
        "tests/pipeline/test_raw.py",
        ("replace(edited, mask=None), raw", "edited, raw"),
    ),
    *of(
        "pipeline/jobs.py",
        "tests/pipeline/test_raw.py",
        ("== file_stamp(output) and _has_raw(task, manifest)", "== file_stamp(output)"),
    ),
    *of(
        "pipeline/task.py",
        "tests/pipeline/test_raw.py",
        ('excluded = ("output", "raw", ', 'excluded = ("output", '),
    ),
    *of(
        "pipeline/output_paths.py",
        "tests/pipeline/test_raw.py",
        ("or result in place.parents or", "or"),
        ("if str(place) in written or", "if"),
    ),
    *of(
        "bench/runner.py",
        "tests/bench/test_runner.py",
        (
            'elif record and not record["error"] and not again:',
            'elif record and record["error"] and not again:',
        ),
        ("for path in output.parent.iterdir():", "for path in ():"),
        ('f"{metrics.RAW}{name}": value', "name: value"),
        ("pair(raw_path(place))", "pair(edited)"),
        ("if not is_older:", "if True:"),
    ),
    *of(
        "bench/tally.py",
        "tests/bench/test_study.py",
        ('"left": 1.0, "right": 0.0', '"left": 0.0, "right": 1.0'),
    ),
    *of(
        "bench/tally.py",
        "tests/bench/test_study.py",
        ("p = won / expected.sum(-1)", "p = won / games.sum(-1)"),
        (
            "rng.multinomial(count, np.full",
            "np.ones((RESAMPLES, count)) + 0 * rng.multinomial(count, np.full",
        ),
    ),
    *of(
        "media/fitting.py",
        "tests/media/test_fitting.py",
        ("return stretch + AREA_WEIGHT * growth", "return growth"),
        ("for frame in chunk[:remaining]:", "for frame in chunk:"),
    ),
    *of(
        "media/reading.py",
        "tests/media/test_video.py",
        ("src_color_range=colour_range(clip)", "src_color_range=1"),
        ("clip.orientation.apply(array)", "clip.orientation.turn_back(array)"),
    ),
    *of(
        "media/truncation.py",
        "tests/media/test_video.py",
        ("if end < 0.98 * seconds - 0.2:", "if end > 0.98 * seconds - 0.2:"),
    ),
    *of(
        "media/encoding.py",
        "tests/media/test_video.py",
        (
            '0 if is_rgb else clip.colour.get("space") or UNTAGGED',
            'clip.colour.get("space", UNTAGGED)',
        ),
    ),
    *of(
        "media/images.py",
        "tests/media/test_images.py",
        ("np.rint(values).astype(dtype)", "values.astype(dtype)"),
    ),
    *of(
        "models/vision/latent_flow.py",
        "tests/models/vision/test_latent_flow.py",
        ("torch.tensor([width, height]", "torch.tensor([height, width]"),
        (
            "_cell_means(forward.transpose(2, 0, 1), cell) / size",
            "_cell_means(forward.transpose(2, 0, 1), cell)",
        ),
        ("_cell_means(occlusion(forward, backward)", "_cell_means(occlusion(backward, forward)"),
        ("== time_stride // 2", "== 0"),
        ("compose(step_back, backward)", "backward"),
        ("return (1 - occluded_share).transpose", "return occluded_share.transpose"),
        (
            "_warp_frames(z[:, :, :-1], self.backward)",
            "_warp_frames(z[:, :, :-1], self.forward)",
        ),
        ("(2 * x + 1) / w - 1", "2 * x / w - 1"),
    ),
    *of(
        "models/vision/raft.py",
        "tests/models/vision/test_latent_flow.py",
        ("2 * padded.transpose(2, 0, 1) - 1", "padded.transpose(2, 0, 1)"),
        ("(-side % 8 for", "(side % 8 for"),
    ),
    *of(
        "shapeworld/truth.py",
        "tests/shapeworld/test_scenes.py",
        ("(owner == k) & (at_end < shares[k] / 2)", "(owner == k) & (at_end > shares[k] / 2)"),
        ("dx, dy = step * (vx - PANS[scene.pan])", "dx, dy = step * vx"),
        ("    lost = ~torch.stack(", "    lost = 0 > torch.stack("),
        ("displacement = step * exact_flow(", "displacement = exact_flow("),
    ),
    *of(
        "shapeworld/flow_accuracy.py",
        "tests/shapeworld/test_scenes.py",
        (
            "exact_displacement(scene, FRAMES, -step)",
            "exact_displacement(scene, FRAMES, step)",
        ),
    ),
    *of(
        "models/wan/adapter.py",
        WAN22,
        ("self.residency.leave(SECOND if name == FIRST else FIRST)", "pass"),
        ("                    remount(hooks)", "                    pass"),
        ("constants.SHIFTS.get(name) or ", ""),
    ),
    *of("models/wan/experts.py", WAN22, (">= 1000 * self.boundary", "> 1000 * self.boundary")),
    *of(
        "pipeline/memory.py",
        "tests/pipeline/test_memory.py",
        ("together = max(denoisers) if machine.is_gpu", "together = sum(denoisers) if True"),
        ("if limit is None or (plan.peak or 0) <= limit:", "if True:"),
        ("if own == plan.placements or try_placements(own):", "if True:"),
        ("plan.peak is None or plan.peak <= plan.limit:", "True:"),
        ("if _host_bytes(work, machine.item) <= machine.ram:", "if True:"),
        (
            "choose(work, machine, plan.peak - 10**8, storage)",
            "choose(work, machine, plan.peak, storage)",
        ),
    ),
    *of(
        "pipeline/memory_limits.py",
        "tests/pipeline/test_memory.py",
        ("replace(work, windows=())", "replace(work)"),
        ("if not is_out_of_memory(error) or", "if False or"),
    ),
    *of(
        "base/memory.py", "tests/pipeline/test_memory.py", ("-(-size // 10**8)", "(size // 10**8)")
    ),
    *of(
        "pipeline/task.py",
        "tests/pipeline/test_memory.py",
        ('data["memory"] = parse_limit(self.memory).storage', 'data["memory"] = self.memory'),
    ),
    *of("pipeline/loading.py", "tests/pipeline/test_memory.py", ("if saved != own:", "if False:")),
    *of(
        "pipeline/jobs.py",
        "tests/pipeline/test_jobs.py",
        ('memory.get("changes_numbers") and', "False and"),
    ),
    *of(
        "pipeline/run.py",
        EDITING,
        ("        if is_out_of_memory(error):\n", "        if False:\n"),
    ),
    *of(
        "pipeline/rehearsal.py",
        "tests/pipeline/test_rehearsal.py",
        ("if free < needed:", "if False:"),
        ("order.folder is not None and not Path(order.folder).is_dir()", "False"),
        ("machine.is_gpu or order.frames", "True or order.frames"),
    ),
    *of(
        "models/wan/tiling.py",
        "tests/models/test_tiling.py",
        ("chunk.cpu() * ramp", "chunk.cpu()"),
        ("if begin == 0 else", "if True else"),
    ),
    *of(
        "models/residency.py",
        "tests/models/test_residency.py",
        ("for name in ENCODERS.intersection(names):", "for name in ():"),
        ("for name in self._list_swappable() - set(names):", "for name in ():"),
        ("if name in self.parts and not self.is_streamed(name):", "if name in self.parts:"),
        ("if name not in self.arrived and not self.is_streamed(name):", "if True:"),
    ),
    *of(
        "models/streaming.py",
        "tests/models/test_streaming.py",
        ("always_call=True", "always_call=False"),
        ("block.register_forward_hook(lambda *_: self.drop(), ", "(lambda *_, **_o: None)("),
        ("if not self.is_checked:", "if False:"),
        ("for row in rows]", "for row in range(len(list(rows)))]"),
    ),
    *of(
        "models/part_loading.py",
        "tests/models/test_streaming.py",
        ("torch.float32 if kept & set", "dtype if kept & set"),
        ("    if missing:", "    if False:"),
    ),
    *of(
        "models/wan/hooks.py",
        WAN22,
        ("        hooks.unmount()\n        hooks.unmount = ", "        hooks.unmount = "),
    ),
    *of(
        "models/wan/spec.py",
        WAN22,
        ("if has_second and name not in BOUNDARIES", "if False"),
        ("if name in BOUNDARIES and not has_second", "if False"),
        ('.get("boundary_ratio") or ', ".get(None) or "),
        ("or entry[0] is not None", "or True"),
    ),
    *of(
        "models/family.py",
        WAN22,
        ("self._find(name, weights, own)", "self._find(name, weights, self.parts)"),
    ),
    *of(
        "models/weights.py",
        WAN22,
        ("missing = [] if has_index else [INDEX]", "missing = []"),
    ),
    *of(
        "models/svd/adapter.py",
        SVD,
        ("noise = s / scale**2 * x + prediction / scale", "noise = s / scale**2 * x + prediction"),
        ("- s / scale * prediction", "+ s / scale * prediction"),
        ("0.25 * math.log(s", "0.25 * math.log10(s"),
        ("spec.fps - 1, MOTION", "spec.fps, MOTION"),
        ("image + self._noise(image)", "image"),
        ("else torch.zeros_like(latents)", "else latents"),
        ("** (1 / 7), self.edm_min ** (1 / 7)", "** (1 / 6), self.edm_min ** (1 / 6)"),
        ("np.minimum(levels, self.edm_max)", "np.minimum(levels, 1e9)"),
    ),
    *of(
        "sampling/inversion.py",
        SVD,
        ("spreads[-1] ** 2 / spreads[0]", "spreads[-1]"),
        ("z = (1 - sigmas[0]) * source", "z = source"),
        ("field.velocity(z, sigma, condition", "field.velocity(z, sigma_next, condition"),
    ),
    *of(
        "sampling/distillation.py",
        DISTILL,
        ("SCHEDULE_STEPS - keyed_integer", "keyed_integer"),
        ("cells = z[0, 0, 0].numel()", "cells = z.numel()"),
        ("self.eps[:, :, list(frames)]", "self.eps[:, :, : len(frames)]"),
    ),
    *of("sampling/noise.py", DISTILL, ("return z + (1 - sigma) * velocity", "return z + velocity")),
    *of(
        "sampling/noise.py",
        DISTILL,
        ("torch.randint(low, high, ()", "torch.randint(low, high - 99, ()"),
    ),
    *of(
        "methods/dds.py",
        DISTILL,
        (
            "inputs.apply_mask(eps_target - eps_source)",
            "inputs.apply_mask(eps_source - eps_target)",
        ),
    ),
    *of(
        "methods/dds.py",
        CONTRACT,
        ("inputs.apply_mask(eps_target - eps_source)", "(eps_target - eps_source)"),
    ),
    *of("methods/sds.py", DISTILL, ("eps_target - sample.eps", "eps_target")),
    *of(
        "methods/assd.py",
        DISTILL,
        ("return total / weight", "return total"),
        ('size > bound if config.smoothing_mask == "text" else size < bound', "size > bound"),
        ("size.amax(2, keepdim=True)", "size.amax(1, keepdim=True)"),
        (
            "smooth_over_time(eps_source - base, config.smoothing) + base",
            "smooth_over_time(eps_source - base, config.smoothing)",
        ),
        (
            "torch.where(smoothing_mask(eps_target - eps_source, config), smooth, eps_source)",
            "smooth",
        ),
        ("config.joint * image_model_change", "image_model_change"),
        ("range(0, z.shape[2], config.key_frame_stride)", "range(0, z.shape[2], 1)"),
        ("paths[-count:]", "paths[:count]"),
        (
            "scaled_dot_product_attention(q, k_source, v_source)",
            "scaled_dot_product_attention(q, k_source, v)",
        ),
    ),
    *of(
        "bench/clip_selection.py",
        PAPERS,
        ("np.linspace(0, total - 1, count)", "np.linspace(0, total, count)"),
        ("clip.rate * len(indices) / clip.frames", "clip.rate"),
        ("if i in indices", "if i + 1 in indices"),
        ('f"{positions[int(at)]}={image}"', 'f"{at}={image}"'),
        ("scene=None)", "scene=case.scene)"),
    ),
    *of(
        "bench/paper.py",
        PAPERS,
        ("not name.startswith(RAW)", "name.startswith(RAW)"),
        ("mean=column.scale * estimate.mean", "mean=estimate.mean"),
        ('in ("", "@", ",", "/")', 'not in ("0",)'),
        ('variant.origin == "raw"', 'variant.origin == "kept"'),
    ),
    *of(
        "methods/flowdistill.py",
        DISTILL,
        ("weight > 0, total / weight", "weight > 0, total"),
        ("neighbour_weight * apply_mask(visible, warped)", "neighbour_weight * warped"),
        ("config.preservation * 2 * (1 - change_map)", "config.preservation * 2 * change_map"),
        ("memory * change_map + (1 - memory) * now", "memory * now + (1 - memory) * change_map"),
        (
            "config.consistency * consistency_gradient(sample",
            "-config.consistency * consistency_gradient(sample",
        ),
        ("* z[0, 0, 0].numel()", ""),
        ("(change - change.mean(2, keepdim=True))", "change"),
        ("/ source.square().sum(1).mean()", ""),
        ("middle[-1] if middle", "layers[0] if middle"),
        ("frame_features(sample, inputs.latent, inputs.target)", "0 * z.mean((3, 4))[:, :1]"),
    ),
    *of(
        "models/attention/blending.py",
        MATCHING,
        (".abs().sum(-1).mean(1) / 2", ".abs().sum(-1).mean(1)"),
        ("torch.where(distance >= threshold", "torch.where(distance < threshold"),
        ("share if mask is None else apply_mask(mask, share)", "share"),
        ("torch.arange(frames) / frames", "torch.arange(frames) / max(1, frames - 1)"),
        ("layer.cells_per_token >= coarse", "layer.cells_per_token > coarse"),
        (" and layer.path != skipped_path", ""),
        ("step < first or", "step <= first or"),
        ("scales[len(scales) // 2]", "scales[-1]"),
    ),
    *of(
        "sampling/distillation.py",
        DISTILL,
        ("(sigma < boundary) != is_odd", "sigma < boundary"),
        ("group_by_expert(drawn, field.expert_boundary", "group_by_expert(drawn, 0.0"),
    ),
    *of(
        "models/wan/adapter.py",
        WAN22,
        ("self.expert_boundary = self.experts.boundary", "self.expert_boundary = 0.0"),
    ),
    *of(
        "pipeline/run.py",
        EDITING,
        ("                self.saver.wait()\n", "                pass\n"),
        ("session.start_saving(step)", "session.save_step(step)"),
        ("        session.end_saving()\n", "        pass\n"),
    ),
    *of(
        "models/context_parallel.py",
        "tests/models/test_context_parallel.py",
        ("if heads % ways:", "if False:"),
        ("if not own.can_split_tokens:", "if False:"),
    ),
    *of(
        "models/compiling.py",
        "tests/models/test_compiling.py",
        ("        module._compiled_call_impl = None", "        pass"),
        ("    if backbone.streams_blocks:", "    if False:"),
    ),
    *of("pipeline/loop.py", "tests/models/test_compiling.py", ("job.plan.task.compile:", "False:")),
    *of(
        "pipeline/task.py",
        "tests/models/test_compiling.py",
        ("        if not self.compile:\n", "        if True:\n"),
    ),
    *of("models/wan/adapter.py", WAN22, ("self.prepare_denoiser(self.parts[name])", "pass")),
    *of(
        "models/devices.py",
        "tests/models/test_devices.py",
        ("(found.index or 0) >= count", "(found.index or 0) > count"),
        (
            "torch.cuda.is_bf16_supported(including_emulation=False)",
            "torch.cuda.is_bf16_supported()",
        ),
        ('if device.type == "cpu":', 'if device.type != "cuda":'),
    ),
    *of(
        "methods/flowanchor.py",
        WAITS,
        ("if key not in self._rows:", "if True:"),
        ("if key not in self._keys:", "if True:"),
    ),
    *of(
        "models/attention/refinement.py",
        WAITS,
        ("extra[..., 2:4] = keys.exempt[:, None]", "extra[:, :, keys.exempt, 2:4] = 1"),
    ),
    *of(
        "models/attention/maps.py",
        MAPS,
        ("rows.float() @ keys * scale", "rows.float() @ k.float().mT * scale"),
        ("CPU_BLOCK_NUMBERS if is_cpu else GPU_BLOCK_NUMBERS", "CPU_BLOCK_NUMBERS"),
    ),
    *of(
        "sampling/perturbation.py",
        "tests/sampling/test_perturbation.py",
        ("kernel, kernel.T", "kernel, kernel"),
        (".mean(1, keepdim=True)", ".amax(1, keepdim=True)"),
        (".clamp(-1, 1)", ""),
        ('smooth if config.sarp_area == "smooth" else ~smooth', "smooth"),
        ("find_smooth_areas(x, config.sarp_threshold)", "find_smooth_areas(x)"),
        ("seed, draw, first_frame=n", "seed, draw"),
        ("latent + config.sarp * keyed_noise", "latent + keyed_noise"),
        ("    pixels = inputs.get_pixels()\n", "    return inputs.latent\n"),
    ),
    *of(
        "methods/i2vedit/segment.py",
        "tests/methods/test_i2vedit.py",
        (
            "bisect.bisect_left(rising, sigma), count)",
            "bisect.bisect_left(rising, sigma) - 1, count)",
        ),
        (
            "bisect.bisect_left(rising, sigma), count)",
            "bisect.bisect_left(rising, sigma), count + 1)",
        ),
        ('max(above - 1, 0) if variant == "released" else above', "above"),
        ("if first is None or not config.attend_in_tuning:", "if first is None:"),
        ("if first is None or not config.attend_in_tuning:", "if True:"),
        ("with hooks.use_call(whole_call(inputs.latent)), extend_keys", "with extend_keys"),
    ),
    *of(
        "methods/i2vedit/settings.py",
        "tests/methods/test_i2vedit.py",
        ("if first > second:", "if False:"),
        ("return float(first), float(second)", "return float(second), float(first)"),
    ),
    *of(
        "methods/uniedit.py",
        "tests/sampling/test_perturbation.py",
        ("else perturbed_source(inputs, config)", "else x"),
    ),
    *of(
        "methods/anyv2v.py",
        "tests/methods/test_anyv2v.py",
        ("field.velocity(inverted, sigma, inputs.source", "field.velocity(z, sigma, inputs.source"),
        ("(config.steps - 1) * parts + 1", "config.steps * parts"),
        ("if row.steps > first_step", "if row.steps"),
        ("share * config.steps + 1e-9", "share * (config.steps - 1) + 1e-9"),
        ("(1 - ratio) * z + ratio * noise", "z + ratio * noise"),
        ("ddim.scale_of(sigma) * keyed_noise", "keyed_noise"),
        ('config), "temporal")', 'config), "spatial")'),
        ("if injection and (injection.attention or injection.features):", "if injection:"),
    ),
    *of(
        "models/svd/adapter.py",
        "tests/methods/test_anyv2v.py",
        ('if prompt.negative_image == "latents" else', 'if prompt.negative_image == "zeros" else'),
    ),
    *of(
        "methods/spacetime.py",
        "tests/methods/test_spacetime.py",
        ("m[..., :, None] - m[..., None, :]", "m[..., :, None] - m[..., :, None].mean(2)"),
        ("x.float().mean((3, 4))", "x.float().amax((3, 4))"),
        ("eps = (noisiest - (1 - top) * inputs.latent) / top", "eps = noisiest"),
        ("+ noise - low_frequencies(noise, factor)", "+ low_frequencies(noise, factor)"),
        ("ddim.scale_of(sigma) * keyed_noise", "keyed_noise"),
        ("ratio = (1 - sigma_next) / (1 - sigma)\n", "ratio = 1.0\n"),
        ("- (ratio * sigma) ** 2) ** 0.5", "- sigma**2) ** 0.5"),
        ("field, inverted, sigma, inputs.source", "field, inverted, sigma, inputs.target"),
        ("field, scale * x, sigma,", "field, x, sigma,"),
        ('if config.variant == "released" and i + 1 < config.steps:', "if i + 1 < config.steps:"),
        ("max(len(steps) - 1, 1)", "len(steps)"),
    ),
    *of(
        "models/feature_hooks.py",
        "tests/methods/test_spacetime.py",
        (" and len(layer.frames) == frames:", ":"),
    ),
    *of(
        "methods/rfsolver.py",
        "tests/sampling/test_perturbation.py",
        ("else perturbed_source(inputs, config)", "else x"),
    ),
    *of(
        "sampling/tuning.py",
        "tests/sampling/test_tuning.py",
        ("((1 - sigma) ** 2 + sigma**2) * error", "error"),
        ("math.exp(shift / 2)", "math.exp(-shift / 2)"),
        ("(1 - share) * noisy + share * clean", "share * noisy + (1 - share) * clean"),
    ),
    *of(
        "sampling/tuning.py",
        "tests/sampling/test_tuning.py",
        ("        adapters.enable(True)", "        adapters.enable(False)"),
        ("    network.enable_gradient_checkpointing(checkpoint)\n", ""),
        (
            "        with _checkpoint_modules(network, _list_block_kinds()[:1], checkpoint):",
            "        if True:",
        ),
        ("            del block.forward\n", ""),
        ("        or network.is_gradient_checkpointing\n", ""),
    ),
    *of(
        "sampling/adapters.py",
        "tests/sampling/test_tuning.py",
        ('adapters.enable(evaluation.branch.startswith("tgt"))', "adapters.enable(True)"),
        ("if path not in without_effect", ""),
    ),
    *of(
        "sampling/tuning.py",
        "tests/sampling/test_tuned_layers.py",
        ("((1 - sigma) * eps - sigma * clean)", "((1 - sigma) * eps + sigma * clean)"),
        ("z - sigma * velocity", "z + sigma * velocity"),
        ("if options.clip_norm is not None:", "if False:"),
        (
            "        with _checkpoint_modules(network, _list_block_kinds(), checkpoint):",
            "        if True:",
        ),
        ("stack.enter_context(own.use_call(call))", "pass"),
        ('if names["step"] in state:', "if True:"),
    ),
    *of(
        "sampling/tuned_layers.py",
        "tests/sampling/test_tuned_layers.py",
        ("/ (1 - self.dropout)", ""),
        ("change = self.weight - base.float()", "change = self.weight"),
        ("return out + self._attend(out)", "return self._attend(out)"),
        (".unflatten(3, (self.heads, -1))", ".unflatten(3, (-1, self.heads))"),
        ("(2 * uniform - 1)", "uniform"),
        ("if draws_bias:", "if True:"),
    ),
    *of(
        "sampling/noise.py",
        "tests/sampling/test_tuned_layers.py",
        (" + _hash_key(key)", ""),
    ),
    *of(
        "methods/tuneavideo.py",
        "tests/methods/test_tuneavideo.py",
        ('"first+previous"', '"previous"'),
        ("with field.normalize_over_clip(), hooks", "with hooks"),
        ('draws_bias=config.variant == "released"', "draws_bias=True"),
        ("keyed_noise(x, inputs.seed, i, repeat=1)", "keyed_noise(x, inputs.seed, i)"),
        ("CLIP_NORM = 1.0", "CLIP_NORM = 0.01"),
        ('if layer.kind == "self":', "if False:"),
    ),
    *of(
        "methods/vmc.py",
        "tests/methods/test_vmc.py",
        ("noise[:, :, 1:] - noise[:, :, :-1]", "noise[:, :, 1:] + noise[:, :, :-1]"),
        ("change.abs()", "change"),
        ("change.transpose(1, 2).flatten(2)", "change"),
        (' and layer.section != "block"', ""),
        ('("to_q", "to_k", "to_v")', '("to_q", "to_k")'),
    ),
    *of(
        "methods/motiondirector.py",
        "tests/methods/test_motiondirector.py",
        ("math.sqrt(b**2 + 1) * error - b", "math.sqrt(b**2 + 1) * error + b"),
        ("pair.enable(True, False)", "pair.enable(True, True)"),
        ("pair.enable(not is_skipped, True)", "pair.enable(False, True)"),
        ("x[:, :, at], eps[:, :, at]", "x[:, :, :1], eps[:, :, :1]"),
        ("math.sqrt(share) * inverted", "share * inverted"),
        ("noise * ddim.scale_of(sigma) if is_whole", "noise if is_whole"),
        ('("attn1", "attn2", "ff")', '("attn1", "ff")'),
        ("options, inputs, resume, temporal)", "options, inputs, resume)"),
        ('pair.set_dropout(f"{seed}/{i}/clip")', 'pair.set_dropout("")'),
    ),
    *of(
        "sampling/ddim.py",
        "tests/methods/test_vmc.py",
        ('z, sigma, inputs.target, "tgt", guidance)', 'z, sigma, inputs.source, "tgt", guidance)'),
    ),
    *of("sampling/tuning.py", CONTRACT, ("if 0 < done < steps", "if False")),
    *of(
        "methods/i2vedit/long_clip.py",
        EDITING,
        ('with_prefix(f"{n}.", inputs.adapters or {})', "{}"),
        ('add_prefix(f"{n}.", step.adapters)', "step.adapters"),
    ),
    *of("pipeline/task.py", EDITING, ('data["clips"] = list(self.keyframe_paths())', "pass")),
    *of(
        "methods/i2vedit/segment.py",
        "tests/methods/test_i2vedit.py",
        ('z = first.latents[f"inverted{paired}"]', 'z = first.latents["inverted0"]'),
        ("self.adapters.load(of_first)", "pass"),
    ),
    *of(
        "methods/i2vedit/long_clip.py",
        "tests/methods/test_i2vedit.py",
        ("return 0 if n == 0 or begin in inputs.keyframes else 1", "return 0"),
    ),
    *of(
        "methods/i2vedit/conditions.py",
        "tests/methods/test_i2vedit.py",
        ("inputs.seed, draw=1", "inputs.seed"),
    ),
    *of(
        "methods/i2vedit/conditions.py",
        "tests/methods/test_i2vedit.py",
        ("latent=latent, noise_target=noise", "noise_target=noise"),
        ("latent=latent, noise_target=noise", "latent=latent"),
        ("time_ids=(6, 0.02, 127)", "time_ids=(6, 127, 0.02)"),
        ("return (noisy * 255).floor() / 255", "return noisy"),
    ),
    *of(
        "methods/i2vedit/long_clip.py",
        "tests/methods/test_i2vedit.py",
        ("if begin in inputs.keyframes:", "if False:"),
    ),
    *of(
        "media/samples.py",
        "tests/media/test_samples.py",
        ("np.minimum.reduce(places)", "np.maximum.reduce(places)"),
        ("range(min(3, len(source.planes)))", "range(1)"),
        ("frame.pict_type = 0", "pass"),
        ("undo(frame.alpha)", "frame.alpha"),
    ),
    *of(
        "media/samples.py",
        "tests/media/test_kinds.py",
        ("plane_array(encoded, 3)[:] = plane_array(converted, 3)", "pass"),
    ),
    *of(
        "media/avc.py",
        "tests/media/test_splicing.py",
        ("for n in range(1, 32) if n not in used", "for n in range(32)"),
        ("max(self.level, sps[0][3])", "self.level"),
        ("unit_type(unit) == IDR", "unit_type(unit) in (1, IDR)"),
    ),
    *of(
        "media/splicing.py",
        "tests/media/test_splicing.py",
        ("g <= edited.start", "g < edited.start"),
        ("g >= edited.stop", "g > edited.stop"),
        ("self.splice.dts[self.next], self.clip.time_base", "packet.dts, self.clip.time_base"),
        ("self.splice.header.convert_packet(bytes(packet))", "bytes(packet)"),
        ("stream.codec_context.codec_tag = splice.header.tag", "pass"),
    ),
    *of(
        "pipeline/locks.py",
        CLAIMS,
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        ("if os.path.samestat(os.fstat(descriptor), path.stat())", "if True"),
        ("if lock and lock.is_busy", "if False"),
        ("folder.rmdir()", "pass"),
    ),
    *of("pipeline/locks.py", CLAIMS, ("lock.release()", "pass")),
    *of("pipeline/writer.py", CLAIMS, ("with lock_output(path):", "if path:")),
    *of(
        "base/files.py",
        EDITING,
        ('metadata["digest"] != _digest(tensors, metadata)', "False"),
        ("digest.update(json.dumps(described, sort_keys=True).encode())", "pass"),
    ),
    *of(
        "pipeline/run.py",
        EDITING,
        ("finished.z if finished and finished.is_edited else None", "finished and finished.z"),
        ('self.save_with_progress({"first": painted.frame})', "pass"),
        ('extra.get("first", session.first_frame)', "session.first_frame"),
    ),
    *of(
        "pipeline/in_memory.py",
        EDITING,
        (
            "load_helper(job.plan.first_frame_model, backbone)",
            'globals().setdefault("_kept", load_helper(job.plan.first_frame_model, backbone))',
        ),
    ),
    *of(
        "pipeline/finite.py",
        "tests/pipeline/test_finite.py",
        ("        if not self.is_late:\n", "        if True:\n"),
        ("        self.finish()\n        what", "        what"),
        (".item() <= MAX_ABS", ".item() <= float('inf')"),
    ),
    *of(
        "pipeline/progress_parts.py",
        FILES,
        (" or _hash(value) != name", ""),
        ("found() is tensor and version == tensor._version", "found() is tensor"),
        ("found() is tensor and version == tensor._version", "False"),
        ("NAME.fullmatch(path.stem) and ", ""),
    ),
    *of(
        "pipeline/progress.py",
        FILES,
        ("if not is_usable(step.z):", "if False:"),
        ("if self._running is None or self._running.done():", "if True:"),
        ("        self.parts.remove_except(parts.values())\n", ""),
    ),
    *of(
        "sampling/noise_ahead.py",
        "tests/sampling/test_noise_ahead.py",
        ("replace(key, step=key.step + 1)", "replace(key, repeat=key.repeat + 1)"),
        (" and len(self._ahead) < MAX_AHEAD", ""),
        ("known.series != key.series or known.step < key.step", "known.step < key.step"),
    ),
    *of("pipeline/finite.py", WALK, ("if largest > MAX_ABS", "if False")),
    *of(
        "pipeline/loop.py",
        WALK,
        ('({"z": step.z} | step.state)', '({"z": step.z})'),
    ),
    *of(
        "models/loading.py",
        "tests/models/test_weights.py",
        ("        _refuse_whole_numbers(part, module)\n", ""),
    ),
    *of(
        "pipeline/unused_options.py",
        "tests/pipeline/test_unused_options.py",
        ('if setting_sources.get(name) == "given":', "if True:"),
        ("and not image_model", ""),
    ),
    *of(
        "methods/base.py",
        "tests/pipeline/test_unused_options.py",
        ("now == value if value else now not in OFF_VALUES", "now not in OFF_VALUES"),
    ),
    *of(
        "pipeline/loop.py",
        "tests/pipeline/test_unused_options.py",
        ("user.was_used(conditioning.negative)", "bool(user.evaluations)"),
    ),
    *of(
        "pipeline/loop.py",
        "tests/pipeline/test_unused_options.py",
        ('    if "text" in backbone.capabilities:\n', "    if True:\n"),
    ),
    *of("base/prompt_diff.py", WORDS, ("max(i, end)", "i"), ("if len(wanted) > LONG", "if False")),
    *of(
        "bench/pages.py",
        "tests/bench/test_pages.py",
        ("with atomic_write(path) as part", "for part in [path]"),
    ),
    *of(
        "pipeline/planning.py",
        EDITING,
        ('settings["schedule"]["is"] = self.native_schedule', "pass"),
    ),
    *of(
        "sampling/solvers.py",
        "tests/sampling/test_solver_setting.py",
        ('if name == "unipc" else Euler()', 'if name != "unipc" else Euler()'),
        ("z + (sigma_next - sigma) * velocity, self", "z - (sigma_next - sigma) * velocity, self"),
    ),
    *of(
        "methods/flowedit.py",
        "tests/sampling/test_solver_setting.py",
        ("is_last = i + 1 == target_only", "is_last = i + 1 == config.steps"),
        ("solver.to_dict() | sampler.state()", "sampler.state()"),
    ),
    *of(
        "sampling/guidance_schedule.py",
        "tests/sampling/test_guidance_schedule.py",
        ("self.low <= sigma <= self.high", "self.low <= sigma"),
        ("positive - self.differences", "positive + self.differences"),
        ("if sigma == self._sigma else 0", "if sigma == self._sigma else self._calls"),
        (" - self.first_step) % self.every == 0", " - self.first_step) % self.every != 0"),
        ("{} if resume is None else resume.state", "{}"),
        ("or self._key(place) not in", "or self._key(place) in"),
        ('f".{place.number}" if place.number else ""', '""'),
        ("else (0.0, interval)", "else (interval, 1.0)"),
    ),
    *of(
        "ui/widgets.py",
        "tests/ui/test_form.py",
        ("if setting.follows_model else setting.default", "if True else setting.default"),
    ),
    *of(
        "pipeline/quality.py",
        "tests/pipeline/test_quality.py",
        ('if sources["steps"] == "given"', "if False"),
        ("rate * config.steps / steps", "rate"),
        ("math.floor(0.5 / strength) + 1", "1"),
        ("max(config.steps, default)", "config.steps"),
        ("DRAFT_SHARE = 0.4", "DRAFT_SHARE = 0.5"),
        ("not (spec and spec.download_gb)", "True"),
        ("steps in spec.measured_steps", "True"),
    ),
    *of(
        "pipeline/task.py",
        "tests/pipeline/test_quality.py",
        ('if self.quality == "normal"', "if False"),
    ),
    *of(
        "media/hevc.py",
        "tests/media/test_splicing.py",
        ("2 if unit_type(unit) in REFRESHING else 1", "1"),
        ('f"{number + 1:09b}"', 'f"{number:09b}"'),
        ("(9, NEW_ID, 1)", "(9, 14, 1)"),
        ("merged[i] &= theirs[2 + i]", "pass"),
        ("max(merged[12], theirs[14])", "merged[12]"),
        ("self.inband_sets.update(sets)", "pass"),
        ("if NEW_ID in others or not free", "if not free"),
    ),
    *of(
        "media/encoding.py",
        "tests/media/test_splicing.py",
        ("context.codec_tag = CODECS[codec].tag", "pass"),
    ),
    *of(
        "media/encoding.py",
        "tests/media/test_kinds.py",
        ("packet.duration = durations[packet.pts]", "pass"),
        ('"tff=1" if clip.field_order == "top" else "bff=1"', '"tff=1"'),
    ),
    *of(
        "media/probing.py",
        "tests/media/test_kinds.py",
        ("if context.field_order in BOTTOM_FIRST", "if context.field_order not in BOTTOM_FIRST"),
    ),
    *of(
        "media/truncation.py",
        "tests/media/test_kinds.py",
        ('if b";" not in file.read()', "if False"),
    ),
    *of(
        "pipeline/verification.py",
        EDITING,
        ("capped_psnr(square / 3)", "capped_psnr(square)"),
        ("self.is_equal &= largest == 0", "pass"),
    ),
    *of(
        "methods/i2vedit/attention.py",
        "tests/methods/test_i2vedit.py",
        (
            "return scaled_dot_product_attention(q_source, k_source, v)",
            "return scaled_dot_product_attention(q, k, v)",
        ),
        (
            "k_source, _ = prepend_first_segment(k_source, v_source",
            "_, _ = prepend_first_segment(k_source, v_source",
        ),
    ),
    *of(
        "sampling/segments.py",
        "tests/methods/test_i2vedit.py",
        ("first = segments[-1][1] - 1", "first = segments[-1][1]"),
        ("(0, *sorted(keyframes), frames)", "(0, frames)"),
    ),
    *of(
        "methods/i2vedit/segment.py",
        CONTRACT,
        (
            'z = inputs.blend_outside(z, state[f"inverted{paired}"] if paired else inputs.latent)',
            "pass",
        ),
    ),
    *of(
        "methods/i2vedit/segment.py",
        "tests/methods/test_i2vedit.py",
        ("if paired else inputs.latent", "if paired else latent"),
    ),
    *of(
        "pipeline/planning.py",
        WALK,
        ("if reads_image and not reads_text and not (task.first_frame or has_prompts)", "if False"),
        ("if task.first_frame and not reads_image", "if False"),
    ),
    *of(
        "media/first_frame.py",
        "tests/media/test_first_frame.py",
        ("> ASPECT_TOLERANCE", "> 10"),
        ("changed.float().mean() > CHANGED_SHARE", "False"),
    ),
    *of(
        "pipeline/api.py",
        PYTHON,
        ("stack.callback(call.scratch.remove)", "pass"),
        ("event.scratch = call.scratch", "pass"),
        ("call.scratch\n                    stack.pop_all()", "call.scratch"),
        ("stack.callback(scratch.remove)", ""),
        ("validated = validate(task, backbone)", "validated = validate(task)\n"),
    ),
    *of(
        "pipeline/api.py",
        PYTHON,
        ("        times=tuple(range(count)),\n", ""),
        ("if sampling:\n        clip = video.sample", "if False:\n        clip = video.sample"),
        ("        colour={},\n", ""),
        ('event.manifest["notes"][:0] = call.notices', "pass"),
        ("if name not in known:", "if False:"),
    ),
    *of(
        "pipeline/signature.py", PYTHON, ("default=default, annotation", "default=None, annotation")
    ),
    *of("pipeline/run.py", PYTHON, ("with contextlib.closing(events):", "if True:")),
    *of(
        "media/arrays.py",
        ARRAYS,
        ("np.moveaxis(array, channel, -1)", "np.moveaxis(array, -1, channel)"),
        ("integers = np.rint(scaled)", "integers = np.floor(scaled)"),
        ("array > peak / 2", "array > 0"),
        ("array > 0 if is_integer and high <= 1 else", ""),
        (
            "upright = ImageOps.exif_transpose(value)\n    if upright.has_transparency_data and",
            "upright = value\n    if upright.has_transparency_data and",
        ),
        ("digest.update(np.ascontiguousarray(array).data)", "pass"),
        ("os.utime(path, (0, 0))", "pass"),
        ("(integers >= 0) & (integers <= 255)", "integers <= 255"),
        ("> ROUNDING_TOLERANCE", "> 1"),
        (
            "order = (2, 0, 1) if is_tensor else (1, 2, 0)",
            "order = (1, 2, 0) if is_tensor else (2, 0, 1)",
        ),
        ("[..., 3].min() < 255", "[..., 3].min() < 0"),
    ),
    *of("media/writing.py", ARRAYS, ("bits=8 * frames[0].dtype.itemsize", "bits=8")),
    *of(
        "pipeline/notebook.py",
        PYTHON,
        ("begin = edited.part.start if", "begin = 0 if"),
        ("for _ in frames:", "for _ in ():"),
        ("_video_tag(data) * (count > 1)", "_video_tag(data)"),
        ("map(escape, lines)", "lines"),
    ),
    *of(
        "media/previews.py",
        PYTHON,
        ("file.stat().st_size <= max_bytes", "True"),
        ("MAX_WIDTH / (count * size[0])", "MAX_WIDTH / size[0]"),
    ),
    *of("pipeline/api.py", PYTHON, ("@functools.cached_property", "@property")),
    *of("pipeline/summary.py", PYTHON, ('["max_abs_outside"] == 0', '["max_abs_outside"] != 0')),
    *of(
        "pipeline/jobs.py",
        "tests/pipeline/test_jobs.py",
        ('manifest.get("key") != task.latent_key()', "False"),
        ('manifest.get("stamp") == file_stamp(output)', "True"),
    ),
    *of(
        "pipeline/jobs.py",
        "tests/pipeline/test_jobs.py",
        ("if not is_same or", "if"),
        ("resume = saved_progress(task).choose_resume()", "resume = False"),
    ),
    *of(
        "pipeline/jobs.py",
        "tests/batch/test_run.py",
        ("manifest = finished_manifest(task)", "manifest = None"),
        ("lock = _wait_for_lock(task, on_progress)", "lock = claimed(task.output).__enter__()"),
    ),
    *of(
        "batch/rows.py",
        "tests/batch/test_rows.py",
        ("if others:", "if False:"),
        ("if makers:", "if False:"),
        ("if reserved & {", "if False and reserved & {"),
        ("if single.finished_manifest(task):", "if False:"),
        (
            "(is_cluster and isinstance(error, MissingDependencyError)):\n            job.",
            "isinstance(error, MissingDependencyError):\n            job.",
        ),
        ('startswith(b"#")', 'startswith(b"%")'),
        ("return text", "return str(place)"),
    ),
    *of(
        "batch/run.py",
        "tests/batch/test_run.py",
        ("job.attempts <= retries", "job.attempts < retries"),
        ("if chosen not in counts", "if True"),
        ("counts[key] / (1 + in_use[key])", "counts[key]"),
        ("if not (is_dead or out_of_memory):", "if not is_dead:"),
        ("with lock_output(folder / RECORD_NAME), _write_finally", "with _write_finally"),
    ),
    *of("batch/run.py", "tests/batch/test_cluster.py", ("waiting.insert(0, job)", "pass")),
    *of(
        "batch/worker_pool.py",
        "tests/batch/test_cluster.py",
        ("worker.actor.stop.remote()", "pass"),
    ),
    *of(
        "batch/worker.py",
        "tests/batch/test_run.py",
        ("if self.loaded != wanted", "if True"),
        ("if self.stopping", "if False"),
        ("torch.set_num_threads(self.threads)", "pass"),
        ('.get("run") == run', '.get("run")'),
    ),
    *of(
        "batch/record.py",
        "tests/batch/test_run.py",
        ("codes.pop() if len(codes) == 1 else 1", "1"),
        ("(count - finished)", "count"),
    ),
    *of(
        "media/propagation.py",
        "tests/media/test_propagation.py",
        (
            "(1 - position) * forward + position * tracked_back",
            "position * forward + (1 - position) * tracked_back",
        ),
        ("range(i + 1, following), factory", "range(i + 1, i + 1), factory"),
        ("        if i in part:\n", "        if True:\n"),
        (
            "range(frames.stop + 1, frames.start, -longest)",
            "range(frames.stop, frames.start, -longest)",
        ),
        ("refine(frame, mask, scale / 2)", "mask"),
    ),
    *of(
        "media/two_layer_tracker.py",
        "tests/media/test_propagation.py",
        (
            "np.log(of_object) - np.log(of_rest)",
            "np.log(of_rest) - np.log(of_object)",
        ),
        ("if self.frames_lost > 1:", "if False:"),
        ("(1 + self.presence) / 2, hidden)", "(1 + self.presence) / 2, 0)"),
        ("presence = warp(self.presence, object_flow)", "presence = self.presence"),
        (
            "self.object_memory = warp(self.object_memory, object_flow)\n        self.background_memory =",
            "_ =",
        ),
    ),
    *of(
        "media/layer_motion.py", "tests/media/test_propagation.py", ("motion.update(flow", "(flow")
    ),
    *of(
        "media/grabcut.py",
        "tests/media/test_propagation.py",
        ("narrow[~dilate(mask, reach)] = OUTSIDE", "pass"),
        ("(trimap == INSIDE) | (trimap == OUTSIDE)", "trimap == 99"),
    ),
    *of(
        "media/marks.py",
        "tests/media/test_propagation.py",
        ('(sign == "!", ', '(sign != "!", '),
        ("np.isin(components, list(chosen))", "mask"),
        ("if marks.is_exact and marked.any()", "if False"),
        ("None if Path(text).exists() else", ""),
    ),
    *of("media/overlays.py", "tests/media/test_propagation.py", ("[dilated & ~mask]", "[dilated]")),
    *of(
        "models/vision/sam2.py",
        "tests/models/vision/test_sam2.py",
        ("[*inside, *marks.negative_points]", "[*marks.negative_points, *inside]"),
        ("(x + width, y + height)", "(width, height)"),
        ("self.session.processed_frames.clear()", "pass"),
        ("n < oldest", "False"),
        ("(sized - mean) / std", "sized"),
        ('if report["missing_keys"]', "if False"),
        ("use_safetensors=True", "use_safetensors=None"),
    ),
    *of(
        "pipeline/track_mask.py",
        "tests/cli/test_mask.py",
        ("and tracked[-1][1] < LOST_SHARE * marked_share", ""),
        ("stop = min(", "stop = max("),
        ("if preview_path == path", "if False"),
        ("for file in (path, preview_path)", "for file in (path,)"),
        (
            'target.output_clip, pictures, "lossless"',
            'target.output_clip, pictures, "h264"',
        ),
    ),
    *of(
        "models/checkpoint.py",
        "tests/models/test_published.py",
        (
            "return class_defaults(class_name(values) or self._class_in_index(part)) | values",
            "return values",
        ),
    ),
    *of("models/hub.py", "tests/models/test_published.py", (", allow_patterns=[]", "")),
    *of(
        "models/weight_files.py",
        "tests/models/test_layouts.py",
        ("if all(shard.is_file() for shard in files):", "if True:"),
        ("    if rounded:", "    if False:"),
        ("    elif scales:", "    elif False:"),
    ),
    *of(
        "models/loading.py",
        "tests/models/test_layouts.py",
        ("or not _succeeds(control)", ""),
        ("if name in (single, index) and not any(map(_is_variant, files)):", "if True:"),
    ),
    *of(
        "pipeline/task.py",
        "tests/models/test_identity.py",
        ('model["identity"] if model else self.weights', "self.weights"),
        ('helper and helper["identity"]', "None"),
        ('"version": __version__.split(".")[:2]', '"version": 0'),
    ),
    *of(
        "models/convert.py",
        "tests/models/test_convert.py",
        ("weights_only=True", "weights_only=False"),
        ("pointer not in seen and tensor.is_contiguous()", "True"),
    ),
    *of(
        "sampling/adapters.py",
        "tests/sampling/test_tuning.py",
        ("isinstance(layer, nn.Linear) and not is_inner", "isinstance(layer, nn.Linear)"),
        ('set_submodule(path.rpartition(".")[2], layer.layer)', "train(False)"),
    ),
    *of(
        "media/orientation.py",
        "tests/media/test_orientation.py",
        ("rotated[:, ::-1] if self.is_mirrored else rotated", "rotated"),
        ("math.atan2(-b, d)", "math.atan2(b, d)"),
        ("determinant < 0, matrix", "False, matrix"),
    ),
    *of(
        "media/timeline.py",
        "tests/media/test_timeline.py",
        ("offset += last + frame_ticks - now", "offset += last - now"),
        ("return earliest if video < 0", "return video if video < 0"),
        ("return sorted(times), ()", "return list(times), ()"),
    ),
    *of(
        "media/copying.py",
        "tests/media/test_timeline.py",
        ("packet.pts + packet.duration <= 0", "False"),
        ("self.source.format.name not in DELAY_FORMATS", "True"),
        ("(self.offset - self.clip.time_offset) / tick", "self.offset / tick"),
    ),
    *of(
        "media/copying.py",
        "tests/media/test_tracks.py",
        ("return len(back.streams) > 0", "return True"),
        ("added.disposition &= ~Disposition.default", "pass"),
    ),
    *of(
        "media/animations.py",
        "tests/media/test_animations.py",
        ("image.seek(number)", "image.seek(0)"),
    ),
    *of(
        "media/image_frames.py",
        "tests/media/test_animations.py",
        ("list(range(1, count))", "list(range(count))"),
        ("if not kind & (REDUCED | MASK)", "if kind is not None"),
    ),
    *of(
        "media/frame_shapes.py",
        "tests/media/test_frame_shapes.py",
        (":force_original_aspect_ratio=decrease", ""),
    ),
    *of(
        "media/completeness.py",
        "tests/media/test_timeline.py",
        ("return None if end is None else end <= size", "return None"),
    ),
    *of(
        "conform/timing.py",
        "tests/conform/test_timing.py",
        ("return self.offset + self.rate * edited", "return self.offset + edited"),
        ("np.where((seconds < early) | (seconds > late), np.nan, index)", "index"),
        ("return np.maximum.accumulate(index)", "return index[::-1]"),
    ),
    *of(
        "conform/geometry.py",
        "tests/conform/test_geometry.py",
        ("[[sx, 0, tx + (sx - 1) / 2], [0, sy, ty", "[[sx, 0, tx], [0, sy, ty"),
        ("cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP", "cv2.INTER_CUBIC"),
        ("(y >= top + edge - 0.51)", "(y >= top - edge - 0.51)"),
    ),
    *of(
        "conform/alignment.py",
        "tests/conform/test_geometry.py",
        ("[[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]", "[[x, 0, 0], [0, y, 0]"),
        ("@ np.linalg.inv(scaling(source))", "@ scaling(source)"),
    ),
    *of(
        "conform/colour.py",
        "tests/conform/test_colour.py",
        ("self.curves) @ self.matrix.T", "self.curves) @ self.matrix"),
        ("gain[:, 0] * offset + gain[:, 1]", "offset + gain[:, 1]"),
        ("np.where(ratio < 1, (1 - ratio**2) ** 2, 0.0)", "np.ones_like(ratio)"),
        ("* np.float32(peak / 255)", "* np.float32(1)"),
    ),
    *of(
        "conform/change.py",
        "tests/conform/test_change.py",
        ("has_strong[labels[distance > strong]] = True", "has_strong[:] = True"),
        ("(areas >= min_area) & (", "("),
        ("touches[labels[mask]] = True", "touches[:] = True"),
        ("is_kept = inside >= share", "is_kept = inside <= share"),
        (
            "edited.astype(np.float32) - source.astype(np.float32), TO_YCC",
            "source.astype(np.float32) - edited.astype(np.float32), TO_YCC",
        ),
    ),
    *of(
        "methods/fatezero.py",
        "tests/methods/test_fatezero.py",
        ("sigma, network_sigma = below, above", "sigma, network_sigma = below, below"),
        (
            "    number = levels.steps - i - 1\n    sigma,",
            "    number = levels.steps - i\n    sigma,",
        ),
        ("stack.enter_context(field.normalize_over_clip())", "pass"),
        ("fixed_sources([(count - 1) // 2], count)", "fixed_sources([0], count)"),
        ("state[ddim.inverted_name(number + 1)]", "state[ddim.inverted_name(number)]"),
        ("/ scales[0] * scales[1]", "* scales[0] / scales[1]"),
        ("first < self.number + 1 < end", "first < self.number < end"),
        ("target + state[HEAT] if HEAT in state else target", "target"),
        ("if config.attention_blend and step.edits_self:", "if config.attention_blend and False:"),
        ("dict.fromkeys(target.edit_tokens, config.word_weight)", "{}"),
    ),
    *of(
        "methods/p2p.py",
        "tests/methods/test_p2p.py",
        ("z_source = state.get(SOURCE, z)", "z_source = z"),
        ('read = edited if step.config.variant == "released" else own', "read = own"),
        ("self.number + 1 > int(BLEND_START", "self.number > int(BLEND_START"),
        (
            "return blend_by_mask(mask, z, state[SOURCE])",
            "return blend_by_mask(1 - mask, z, state[SOURCE])",
        ),
        ('if step.config.target_negative == "fitted":', "if True:"),
        ("state[name] + heat if name in state else heat", "heat"),
        (
            "return step.edits_self and has_small_map(layer)",
            "return has_small_map(layer) and False",
        ),
        ("levels.steps - i - 1)]", "levels.steps - i)]"),
    ),
    *of(
        "pipeline/metering.py",
        "tests/methods/test_p2p.py",
        ("embedding = conditioning.origin  #", "pass  #"),
    ),
    *of(
        "sampling/null_text.py",
        "tests/methods/test_p2p.py",
        ("LEARNING_RATE * (1 - self.number / DECAY)", "LEARNING_RATE"),
        ("ERROR + ERROR_PER_STEP * self.number", "ERROR"),
        (
            "negative + step.guidance_scale * (positive",
            "negative - step.guidance_scale * (positive",
        ),
        ("/ scale_of(step.sigma_next)", "/ 1"),
        ("            leaf[frame] = before[frame]", "            pass"),
        ("share = 1 / len(frames) if len(leaf) == 1 else 1.0", "share = 1.0"),
        ("if error >= largest]", "if error < largest]"),
    ),
    *of(
        "models/unet/adapter.py",
        "tests/methods/test_p2p.py",
        ("return text[frames].repeat", "return text[: len(frames)].repeat"),
    ),
    *of(
        "models/attention/map_editing.py",
        "tests/models/attention/test_map_editing.py",
        ("(1 - alpha) * own) * weights", "(1 - alpha) * own)"),
        ("alpha * (source.to(own) @ matrix)", "alpha * (source.to(own) @ matrix.T)"),
        ("= 1 / len(new)", "= 1 / len(old)"),
        ('if variant == "released" and not pairs else', 'if variant == "released" else'),
        ("len(source) - len(target) if", "len(target) - len(source) if"),
        ("if scores[i][j] == scores[i][j - 1]:", "if scores[i][j] < scores[i][j - 1]:"),
        ("torch.where(share, own, kept)", "torch.where(share, kept, own)"),
        ('paths["down"][2:4]', 'paths["down"][1:3]'),
        ("peaks.amax((3, 4), keepdim=True)", "peaks.amax((2, 3, 4), keepdim=True)"),
        (
            "peaks = functional.max_pool3d(heat, (1, 3, 3), stride=1, padding=(0, 1, 1))",
            "peaks = heat",
        ),
        ('if kind == "cross" and variant == "released"', 'if variant == "released"'),
    ),
    *of(
        "conform/mask_store.py",
        "tests/conform/test_change.py",
        ("flat.reshape(height, width)", "flat.reshape(width, height).T"),
    ),
    *of(
        "conform/blending.py",
        "tests/conform/test_blending.py",
        ("[[0, 1, 0], [1, 0, 1], [0, 1, 0]]", "[[1, 1, 1], [1, 0, 1], [1, 1, 1]]"),
        (
            "source.astype(np.float32) - edited.astype(np.float32)",
            "edited.astype(np.float32) - source.astype(np.float32)",
        ),
        ("return max(self.grow, 0) + self.feather + 1", "return max(self.grow, 0)"),
    ),
    *of(
        "media/patch_synthesis/energy.py",
        PATCHES,
        ("alive[total[alive] < bound[alive]]", "alive[total[alive] < bound[alive] / 2]"),
        ('padding, mode="edge"', 'padding, mode="wrap"'),
        ("return mean / patch**2", "return mean"),
        ("+ uniformity * used.sum()", "- uniformity * used.sum()"),
    ),
    *of(
        "media/patch_synthesis/patch_match.py",
        PATCHES,
        ("better = distances < bound", "better = distances > bound"),
        ("np.clip(matches.field[y, x] - offset, 0", "np.clip(matches.field[y, x] + offset, 0"),
        ("bound - penalty[found", "bound + penalty[found"),
        ("radius //= 2", "radius //= 3"),
        ("(-radius, radius + 1, points", "(-radius, radius, points"),
        ("penalty = uniformity * usage", "penalty = 0 * usage"),
    ),
    *of(
        "media/patch_synthesis/synthesis.py",
        PATCHES,
        ("part.weight / part.source.shape[2]", "part.weight"),
        ("return total / count", "return total / patch**2"),
        ("+ points - 2 * small", ""),
        (".max(2) > options.stop_threshold", ".max(2) < options.stop_threshold"),
        ("target[:, :channels] = flatten", "_ = flatten"),
        (
            "np.where(example.inside[..., None], picture",
            "np.where(example.inside[..., None], picture / 2",
        ),
    ),
    *of(
        "media/patch_synthesis/guides.py",
        PATCHES,
        ("grey - cv2.GaussianBlur", "grey + cv2.GaussianBlur"),
        ("Guide(edges(source), edges(target)", "Guide(edges(target), edges(source)"),
        ("np.array([size[1], size[0]]", "np.array([size[0], size[1]]"),
    ),
    *of(
        "media/patch_synthesis/blending.py",
        PATCHES,
        (
            "(1 - position) * first + position * second\n",
            "position * first + (1 - position) * second\n",
        ),
        ("gain = wanted /", "gain = deviation /"),
        ("errors[1] < errors[0]", "errors[1] > errors[0]"),
        ("* colours - divergence", "* colours + divergence"),
        (
            "np.diff(parts, axis=axis)[..., None], 0",
            "np.diff(parts, axis=axis)[..., None], gradient",
        ),
    ),
    *of(
        "media/patch_synthesis/propagation.py",
        PATCHES,
        ("self.frame + 1 if self", "self.frame - 1 if self"),
        ("moved = warp(positions, flow)", "moved = positions"),
        ("(part.frame - part.key) / (", "(part.other - part.frame) / ("),
        ("positions[..., ::-1] if", "positions if"),
        ("return rest, clip._limit(part.frame, blended)", "return state, blended"),
    ),
    *of(
        "methods/ebsynth.py",
        "tests/methods/test_ebsynth.py",
        ("edited = source + strength *", "edited = edited + strength *"),
        ("else blend_by_mask(mask[:, :, part], edited, source)", "else edited"),
        ("run_part(clip, parts[i - 1]", "run_part(clip, parts[i - 2]"),
        ("if begins - {0, *inputs.keyframes}:", "if False:"),
    ),
    *of(
        "methods/base.py",
        "tests/methods/test_ebsynth.py",
        ('"pixels" in capabilities and', "False and"),
    ),
    *of(
        "pipeline/task.py",
        "tests/methods/test_ebsynth.py",
        (
            "return registry.find_weightless(lambda found: not needs.missing(found)) or self",
            "return self",
        ),
    ),
    *of(
        "conform/frames.py",
        "tests/conform/test_frames.py",
        (
            "share * (share * backward - (1 - share) * forward)",
            "share * (share * forward - (1 - share) * backward)",
        ),
        ("numbers = segment.frames.start + numbers", "numbers = 0 + numbers"),
        (
            "positions[: known[0]], positions[known[-1] :] = positions[known[0]], positions[known[-1]]",
            "pass",
        ),
    ),
    *of(
        "models/unet/control.py",
        CONTROL,
        ("conditioning_scale=control.scale", "conditioning_scale=1.0"),
        ('"mid_block_additional_residual": middle', '"mid_block_additional_residual": 0 * middle'),
    ),
    *of("models/base.py", CONTROL, ("self.pictures[list(frames)]", "self.pictures[: len(frames)]")),
    *of(
        "models/attention/hooks.py",
        CONTROL,
        ("for mount_one in (own[0], other.mount):", "for mount_one in (own[0],):"),
    ),
    *of(
        "models/unet/clip_norms.py",
        CONTROLVIDEO,
        ("self.networks = (*own, network)", "self.networks = own"),
    ),
    *of(
        "models/unet/hooks.py",
        CONTROL,
        ('path.removeprefix(f"{CONTROLNET}.").split(".")', 'path.split(".")'),
    ),
    *of(
        "pipeline/controls.py",
        CONTROLS,
        ("if pictures.frames == len(part):", "if pictures.frames >= len(part):"),
        ('{"canny": edges.canny, "hed": edges.soft_edges}', '{"canny": edges.soft_edges}'),
    ),
    *of("media/edges.py", "tests/media/test_edges.py", ("low, high) > 0)", "low, high) >= 0)")),
    *of(
        "media/interpolation.py",
        CONTROLVIDEO,
        (
            "[warp(first, -difference), warp(second, difference)]",
            "[warp(first, difference), warp(second, -difference)]",
        ),
    ),
    *of(
        "methods/controlvideo.py",
        CONTROLVIDEO,
        ("clean, eps = z - sigma * v,", "clean, eps = z - sigma_next * v,"),
        ("first=1 + number % 2", "first=2 - number % 2"),
        (
            'frame_attention.frame_sources("all", count)',
            'frame_attention.frame_sources("own", count)',
        ),
        ("fixed_sources((0, count - 1), count)", "fixed_sources((0, 0), count)"),
        (
            'if variant == "released":\n        spacing = max(MIN_SPACING, spacing) - 1',
            "if False:\n        pass",
        ),
        ("order = (key, following, *inner)", "order = (key, *inner)"),
        ('is_own = config.variant == "released" and layer', "is_own = False and layer"),
    ),
    *of(
        "sampling/from_noise.py",
        CONTROLVIDEO,
        ("return eps * scale_of(sigma)", "return eps * sigma"),
        ("z / scale_of(sigma), inputs.latent", "z, inputs.latent"),
        ("like[:, :, :1], self.seed, self.step).expand_as(like)", "like, self.seed, self.step)"),
    ),
    *of(
        "methods/rerender/attention.py",
        RERENDER,
        ("for owner in (FIRST, PREVIOUS)]", "for owner in (FIRST, FIRST)]"),
        ("owner = FIRST if number == 0 else PREVIOUS", "owner = FIRST"),
        ('and layer.section == "up"', ""),
    ),
    *of(
        "methods/rerender/fusion.py",
        RERENDER,
        ("return z + near * (z - pixels", "return z - near * (z - pixels"),
        ("cells < NEAR", "cells >= NEAR"),
        ("in reversed(pictures.items())", "in pictures.items()"),
        ("kept = max(1 - w,", "kept = min(1 - w,"),
        (
            "clean = clean + visible * w * (picture - clean)",
            "clean = clean + w * (picture - clean)",
        ),
        (
            "spread * (clean - mean) / (deviation + 1e-6) + wanted",
            "spread * (clean - mean) + wanted",
        ),
    ),
    *of(
        "methods/rerender/flows.py",
        RERENDER,
        ("RELATIVE * lengths + ABSOLUTE", "RELATIVE * lengths + 10 * ABSOLUTE"),
        ("return 1 - functional.max_pool2d", "return 1 - functional.avg_pool2d"),
    ),
    *of(
        "methods/rerender/key_frames.py",
        RERENDER,
        ("visible * warped + (1 - visible) * clean", "warped"),
        ("earlier = (run.keys[0], run.keys[point.number - 1])", "earlier = (run.keys[0],)"),
    ),
    *of(
        "methods/rerender/between.py",
        RERENDER,
        (
            "distances = [abs(key - frame) for key in around]",
            "distances = [1 + key for key in around]",
        ),
    ),
]


def find_problem(mutation: Mutation) -> str | None:
    """Return why a mutation cannot be applied, or None where it can."""
    file = ROOT / "src" / "holdfast" / mutation.file
    if not file.exists():
        return "the file does not exist"
    if not (ROOT / mutation.tests).exists():
        return f"{mutation.tests} does not exist"
    text = file.read_text()
    count = text.count(mutation.old)
    if count != 1:
        return f"the text occurs {count} times, not once"
    if mutation.old == mutation.new:
        return "the new text is the old one"
    try:
        ast.parse(text.replace(mutation.old, mutation.new))
    except SyntaxError as error:  # tests would fail for it, whatever they test
        return f"the changed file is not Python: {error}"
    return None


def check(mutations: Sequence[Mutation]) -> list[str]:
    """Return a line for each mutation that cannot be applied to the present files."""
    problems = ((mutation, find_problem(mutation)) for mutation in mutations)
    return [f"{m.file}: {m.old!r}: {problem}" for m, problem in problems if problem]


def is_caught(mutation: Mutation) -> bool:
    """Return whether the mutation's tests fail."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / "holdfast" / mutation.file
        text = file.read_text()
        file.write_text(text.replace(mutation.old, mutation.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [*command, mutation.tests], cwd=ROOT, env=environment, capture_output=True, timeout=600
        )
        if run.returncode not in (0, 1):  # no test ran
            raise SystemExit(run.stderr.decode() or run.stdout.decode())
        return run.returncode == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutations whose file has this word")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="list mutations that do not apply")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.only in m.file]
    problems = check(chosen)
    print(*problems, sep="\n", end="\n" if problems else "")
    if problems or options.check:
        print(f"{len(problems)} of {len(chosen)} mutations do not apply")
        return 1 if problems else 0
    with ThreadPoolExecutor(options.jobs) as pool:
        survivors = 0
        for mutation, found in zip(chosen, pool.map(is_caught, chosen), strict=True):
            outcome = "caught" if found else "SURVIVES"
            print(f"{outcome:<8} {mutation.file}: {mutation.old!r} -> {mutation.new!r}", flush=True)
            survivors += not found
    print(f"{len(chosen)} mutations, {len(chosen) - survivors} caught")
    return survivors


if __name__ == "__main__":
    sys.exit(main())

"""Does the suite notice? Apply each mutation below to a copy of the package and run the tests that should fail.

    python tests/mutations.py [--only WORD] [--jobs 2]

Prints a line a mutation, and those that survive at the end; the exit status is how many did. A mutation is a sign, an
index, a condition or a polarity of one equation or promise: what a slip of the hand would change.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
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
    "tests/test_diffusion.py",
    "tests/test_windows.py",
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
MATCHING = "tests/models/attention/test_blending.py"
PYTHON, ARRAYS = "tests/pipeline/test_api.py", "tests/media/test_arrays.py"
MUTATIONS = [
    *of(
        "diffusion.py",
        LIMITS,
        ("torch.where(mask == 0, outside, mixed)", "mixed"),
        ("torch.where(mask == 1, inside, ", "torch.where(mask == 2, inside, "),
        ("torch.where(mask == 0, torch.zeros_like(change), mask * change)", "mask * change"),
        ("return -math.inf if sigma == 1 else", "return"),
    ),
    *of(
        "media/encoding.py",
        "tests/media/test_samples.py",
        ("if os.sched_getscheduler(0) != policy:", "if False:"),
    ),
    *of(
        "forecast.py",
        "tests/pipeline/test_estimate.py",
        ("(plan.spans.count - 1) / (spans - 1)", "plan.spans.count / (spans - 1)"),
        ("if torch.is_grad_enabled() or any(", "if any("),
        ("(said.evaluations + said.judging - said.learning) * each", "said.evaluations * each"),
        ("total += said.learning * learning", "total += said.learning * each"),
        ("total += coding", "total -= coding"),
        ("Count(0, 0, 0) if task.same else counts(plan", "counts(plan"),
    ),
    *of(
        "agreement.py",
        "tests/test_sheet.py",
        ("(_square(v_src - u) - _square(v_tgt - u))", "(_square(v_tgt - u) - _square(v_src - u))"),
        ("nearer / apart if apart", "nearer / apart if True"),
    ),
    *of(
        "agreement.py",
        "tests/models/test_calibration.py",
        ("value < calibration[NOT]", "value > calibration[NOT]"),
        ("count - succeeded if word == NOT", "count - succeeded if word == CLEARLY"),
        ("right / count >= TRUSTED", "right / count < TRUSTED"),
    ),
    *of(
        "models/calibration.py",
        "tests/models/test_calibration.py",
        ('values.get("weights") != digest_weights(checkpoint)', "False"),
        ("psnr >= bound", "psnr < bound"),
        ("w not in known and", ""),
        ("(-likeness(word), word)", "(likeness(word), word)"),
    ),
    *of("walk.py", EDITING, ("if chosen.task.feather is None", "if False")),
    *of(
        "sheet.py",
        "tests/test_sheet.py",
        (">= ENOUGH * best > 0", ">= 0"),
        ('sign = 1 if BETTER[measure] == "higher" else -1', "sign = 1"),
        ("min(ranks, key=", "max(ranks, key="),
        ("recall(self.known, [key]", "recall({}, [key]"),
        (
            "known = dataclasses.replace(known, latent=encoded(known, model))",
            "encoded(known, model)",
        ),
    ),
    *of(
        "ui/desk.py",
        "tests/ui/test_desk.py",
        ("resume=store_of(run.task).holds()", "resume=False"),
        ("other.name < run.name for other", "other.name > run.name for other"),
        (
            "if run.status in (WAITING, RUNNING):\n            run.status = STOPPED",
            "if False:\n            pass",
        ),
        ("shutil.rmtree(folder, ignore_errors=True)\n            raise", "raise"),
        ("if self.uploads not in Path(path).resolve().parents:", "if True:"),
        ("clean[:, :, :1]", "clean[:, :, :0]"),
    ),
    *of(
        "ui/asked.py",
        "tests/ui/test_form.py",
        ("inside = desk.root.resolve() in Path(named).resolve().parents", "inside = True"),
        (
            "inside = desk.root.resolve() in Path(named).resolve().parents",
            "inside = desk.root in Path(named).parents",
        ),
        ("if clip.frames > limits.frames:", "if clip.frames >= limits.frames:"),
        ('settings.pop("strength", None)', "None"),
        ("layer[..., 3] > 0 for", "layer[..., 0] > 0 for"),
    ),
    *of(
        "prompts.py",
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
        ("if exif.get(ORIENTATION) in SIDEWAYS else", "if False else"),
    ),
    *of(
        "media/metadata.py",
        "tests/media/test_metadata.py",
        ('"location.ISO6709")', '"location.iso6709")'),
        ('(ANY_TAG if _needs_any_tag(metadata, suffix) else "")', '""'),
    ),
    *of(
        "media/matrices.py",
        "tests/media/test_matrices.py",
        ("    5: Colorspace.ITU601,\n", ""),
        ("if space in OTHERS:", "if False:"),
    ),
    *of(
        "ui/told.py",
        "tests/ui/test_form.py",
        ("{escape(text[first:stop])}", "{text[first:stop]}"),
    ),
    *of(
        "ui/form.py",
        "tests/ui/test_form.py",
        ("return others if value == usual else", "return others if False else"),
    ),
    *of(
        "console.py",
        "tests/cli/test_console.py",
        ("spent / (done - self.first) * (count - done)", "spent / done * count"),
        ("now - self.told >= EVERY", "now - self.told >= 0"),
    ),
    *of(
        "step.py",
        DEFAULTS,
        ("cfg.grid, given.source", '"own", given.source'),
        ("given.source.shape[2:])", "(1, 1, 1))"),
        ("round(cfg.strength * cfg.steps)", "int(cfg.strength * cfg.steps + 0.999)"),
    ),
    *of(
        "methods/uniedit.py",
        DEFAULTS,
        ('setting("euler"', 'setting("own"'),
        ("int(cfg.strength * cfg.steps + 1e-9)", "round(cfg.strength * cfg.steps)"),
    ),
    *of("methods/flowedit.py", DEFAULTS, ('setting("exact"', 'setting("whole"')),
    *of("methods/flowanchor.py", ANCHOR, ("given.inside(change) if cfg.cut else change", "change")),
    *of(
        "methods/flowdirector.py",
        ORACLE,
        ("layers[min(round(depth * len(layers)), len(layers) - 1)]", "layers[0]"),
        ("round(smooth * min(shape[1:]) / 60)", "round(0 * min(shape[1:]) / 60)"),
        ("seen = torch.maximum(seen, torch", "seen = (torch"),
    ),
    *of(
        "models/attention/maps.py",
        MAPS,
        ("heat += maths.normalize_range(resized)", "heat += resized"),
    ),
    *of(
        "walk.py",
        WALK,
        ("given = _masked(given, job.locate(cells), backbone)", "job.locate(cells)"),
        ("job.guide or borrowed", "None and borrowed"),
        ("self.part[:, :, begin - end :]", "step.z[:, :, begin:end]"),
        ('{"seed": task.seed', '{"seed": 0'),
        ("@torch.no_grad()\ndef walk", "def walk"),
    ),
    *of(
        "plan.py",
        EDITING,
        ('task.mask == "auto" and "text_attention" not in about.carries', "False"),
        ("cfg.grid not in known", "False"),
    ),
    *of(
        "editing.py",
        EDITING,
        ("time.monotonic() - last > SAVE_EVERY", "False"),
        (
            "if resume and edit.store and not task.same else None",
            "if resume and edit.store else None",
        ),
        ("    if edit.store and found:\n", "    if False:\n"),
    ),
    *of(
        "notes.py", NOTES, ("            for text in collected:\n", "            for text in ():\n")
    ),
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
        ('self.spacing if schedule == "own"', '"leading" if schedule == "own"'),
    ),
    *of(
        "methods/flowedit.py",
        ORACLE,
        ("coupled = noisy + (z - source)", "coupled = noisy"),
        ("(v_target - v_source) / cfg.n_avg", "(v_source - v_target) / cfg.n_avg"),
        ("i, k)", "i, 0)"),
        ("if i < alone:", "if True:"),
    ),
    *of("methods/flowedit.py", CONTRACT, ("given.inside(difference)", "difference")),
    *of(
        "methods/wanedit.py",
        ORACLE,
        ("field.whole(levels[i - 1])", "field.whole(levels[i])"),
        ("field.whole(levels[i - 1])", "levels[i - 1]"),
        ("v_target - v_source", "v_source - v_target"),
    ),
    *of(
        "methods/flowalign.py",
        ORACLE,
        ("+ cfg.zeta * pull", "- cfg.zeta * pull"),
        ("given.tgt.against(given.src)", "given.tgt"),
        ("p = q + (z - source)", "p = q"),
    ),
    *of(
        "methods/dfvedit.py",
        ORACLE,
        ("diffusion.noised(z, sigma, eps)", "diffusion.noised(source, sigma, eps) + z - source"),
    ),
    *of("methods/sdedit.py", ORACLE, ("levels[first], eps", "levels[0], eps")),
    *of(
        "methods/uniedit.py",
        ORACLE,
        ("cfg.omega * (1 + m) * g", "-cfg.omega * (1 + m) * g"),
        ("m * v_target + (1 - m) * v_source", "(1 - m) * v_target + m * v_source"),
        ('"src+" if cfg.source_prompt else "src-"', '"src+"'),
        ("g = v_target - v_source", "g = v_source - v_target"),
    ),
    *of(
        "methods/rfsolver.py",
        ORACLE,
        ("if i < cfg.inject else None", "if False else None"),
        ("values[site.path, site.frames])", "v)"),
        ("field.velocity(inverted, sigma, given.src", "field.velocity(inverted, sigma, given.tgt"),
        ('state["last"] if "last" in state else velocity(z, sigma)', "velocity(z, sigma)"),
    ),
    *of(
        "methods/flowdirector.py",
        ORACLE,
        ("> heat.mean()", "< heat.mean()"),
        ("np.exp(-decay * distance)", "np.exp(-decay * 0 * distance)"),
        ("cfg.omega * (mean - baseline)", "cfg.omega * (baseline - mean)"),
        ("levels = [field.whole(sigma) for sigma in levels]", "pass"),
        ("if gated:", "if False:"),
        ("torch.maximum(where_source, where_target)", "where_source"),
    ),
    *of(
        "methods/flowanchor.py",
        ORACLE,
        ("math.log(source.shape[2])", "source.shape[2]"),
        ("(1 + diffusion.contrast", "(1 - diffusion.contrast"),
    ),
    *of(
        "methods/flowanchor.py",
        ANCHOR,
        ("sigma >= cfg.tau if", "sigma < cfg.tau if"),
        ('site.branch == "tgt+"', 'site.branch == "src+"'),
        ("self._inside(site).flatten()", "~self._inside(site).flatten()"),
        ("else site.text[0] + self.tgt.length", "else self.tgt.length"),
        ("q.transpose(0, 1).reshape(1, heads", "q.reshape(1, heads"),
    ),
    *of(
        "models/attention/refinement.py",
        AFFINE,
        ("(1 - b2) * b1 * rows.high - b1 * rows.low", "(1 - b2) * b1 * rows.high"),
        ("b2 * columns.high, exempt)", "b2 * columns.low, exempt)"),
        ("torch.where(is_target, 1 - b2, 1.0)", "torch.where(is_target, 1.0, 1.0)"),
        ("+ b1 * high", "- b1 * high"),
        ("logits[..., refinement.key_begin : refinement.key_end]", "logits"),
        ("return high, x - high", "return high, 0 * x"),
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
        ('"temporal" if is_temporal else "spatial")\n\n\ndef', '"spatial")\n\n\ndef'),
        ("counts[layer.kind, layer.axis] = number + 1", "pass"),
    ),
    *of(
        "inversion.py",
        ORACLE,
        ("half = z + step / 2", "half = z + step"),
        ("ahead = velocity(z + step * last, sigma_next)", "ahead = velocity(z, sigma_next)"),
        ("return z + step * middle, middle", "return z + step * middle, last"),
    ),
    *of(
        "diffusion.py",
        DIFFUSION,
        ("negative + per_frame(scale, z) *", "positive + per_frame(scale, z) *"),
        ("{seed}/{step}/{repeat}/{frame}", "{seed}/{step}/{repeat}"),
        ("{seed}/{step}/{repeat}/{frame}", "{seed}/{step}/{frame}"),
        ("shift * levels / (1 + (shift - 1) * levels)", "shift * levels"),
        ("rho_old = (b1 - b2)", "rho_old = (b1 + b2)"),
        ("torch.cat((shifted(even, shift)", "torch.cat((even"),
        ("(high - low + least)", "(high + least)"),
    ),
    *of("diffusion.py", ORACLE, ("torch.linspace(*scale,", "torch.linspace(*scale[::-1],")),
    *of(
        "windows.py",
        WINDOWS,
        ("torch.minimum(rise, rise.flip(0)).float()", "torch.ones(size)"),
        ("frames=part", "frames=None"),
        ("return total / weights", "return total"),
    ),
    *of(
        "step.py",
        FILES,
        ("return range(start.index, end)", "return range(first, end)"),
        ("STAGES.index(start.stage) < STAGES.index(stage)", "False"),
        ("(start.z, start.state)", "(start.z, {})"),
    ),
    *of(
        "step.py",
        CONTRACT,
        ("diffusion.blend(self.mask, z, rest)", "diffusion.blend(self.mask, rest, z)"),
        ("else diffusion.apply_mask(self.mask, change)", "else change"),
        ('if cfg.timesteps == "whole"', 'if cfg.timesteps == "exact"'),
    ),
    *of(
        "settings.py",
        SETTINGS,
        ("self.low is None or value >= self.low", "True"),
        ("self.high is None or value <= self.high", "True"),
        ("return above and below and math.isfinite(value)", "return above and below"),
        ("if value not in kind.choices:", "if False:"),
        ('{**given, "strength": strength}', "dict(given)"),
        ("if name in known}", "if name in known and name != 'shift'}"),
        ("if isinstance(value, bool):", "if False:"),
    ),
    *of("plan.py", EDITING, ("missing = needs - about.carries", "missing = set()")),
    *of(
        "editing.py",
        EDITING,
        ('cells=found["mask"] > 0 if "mask" in found else None', "cells=None"),
        ('found={"mask": cells.byte()}', "found={}"),
        ("except (KeyboardInterrupt, GeneratorExit):", "except KeyboardInterrupt:"),
        ("notes.append(event.text)", "pass"),
        ("        start=step,\n", "        start=None,\n"),
    ),
    *of(
        "places.py",
        PLACES,
        ("if PROTOCOL.match(str(output)):", "if False:"),
        ("if not stat.S_ISREG(place.stat().st_mode):", "if False:"),
        ("known and all(f.suffix", "known and any(f.suffix"),
        ("(str(source) in written or within)", "str(source) in written"),
        ("                folder.rmdir()\n", "                pass\n"),
        ("if free < needed:", "if False:"),
    ),
    *of(
        "files.py",
        PLACES,
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        ("if ours.fullmatch(folder.name):", "if True:"),
        ("(folder / REPLACED).exists() and", "False and"),
    ),
    *of(
        "cli.py",
        PLACES,
        ("known = taken(task)", "from . import editing\n\n    known = taken(task)"),
    ),
    *of("walk.py", EDITING, ("elif job.mask:", "elif False:")),
    *of("walk.py", CONTRACT, ("self.evaluations += 1", "self.evaluations += 2")),
    *of(
        "result.py",
        EDITING,
        ("alpha == 0", "alpha != 0"),
        ("if i in self.part:", "if True:"),
        ("            self.store.remove()\n", "            pass\n"),
    ),
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
        "words.py",
        WORDS,
        ("words[i] not in _ARTICLES", "True"),
        ("stood.update(run.before[run.after.index(j)] for j in here)", "pass"),
        ("first < chosen[before - 1][1]", "first <= chosen[before - 1][1]"),
        ("if new.intersection(range(i, i + len(wanted)))", "if True"),
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
        ("for name in CPU_PARTS.intersection(names):", "for name in ():"),
    ),
    *of("models/base.py", ORACLE, ("negative=other.positive", "negative=other.negative")),
    *of(
        "bench/tables.py",
        "tests/bench/test_tables.py",
        ("sign = 1 if better(figure)", "sign = -1 if better(figure)"),
        ("if done(record) and value is not None", "if value is not None"),
        ("and self._counts(record, figure)", "and True"),
        (
            "sum(sign * found[case] for case in cases)",
            "sum(sign * value for value in found.values())",
        ),
        ("if not isinstance(cell, str) or", "if True or"),
    ),
    *of(
        "intervals.py",
        "tests/test_intervals.py",
        ("SHARE = 0.95", "SHARE = 0.9"),
        ("count + 2) for sign in (1, -1))", "count) for sign in (1, -1))"),
        ("value -= skewness / (6 * count)", "value += skewness / (6 * count)"),
        ("(math.cos(angle) if freedom % 2", "(math.sin(angle) if freedom % 2"),
    ),
    *of(
        "bench/tables.py",
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
        ("return CAP if square <= 10 ** (-CAP / 10) else psnr(square)", "return psnr(square)"),
        ("math.inf if square == 0 else -10 *", "math.inf if square == 0 else -20 *"),
    ),
    *of(
        "metrics/masked_psnr.py",
        "tests/metrics/test_closed_form.py",
        ("outside = ~moment.mask", "outside = moment.mask"),
        ("float(square.sum()) / moment.source.size", "float(square.mean())"),
    ),
    *of(
        "metrics/truth.py",
        "tests/metrics/test_closed_form.py",
        ("self.all.psnr() - self.before.psnr()", "self.before.psnr() - self.all.psnr()"),
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
        ("to_edited = _best(c.T)", "to_edited = _best(c)"),
    ),
    *of(
        "metrics/ssim.py",
        "tests/metrics/test_closed_form.py",
        ("similarity[~moment.mask]", "similarity[moment.mask]"),
    ),
    *of(
        "metrics/frame_consistency.py",
        "tests/metrics/test_closed_form.py",
        ("np.diag(cosines, 1)", "np.diag(cosines)"),
    ),
    *of(
        "measuring.py",
        "tests/metrics/test_closed_form.py",
        ("moment.index % one.stride == 0", "moment.index % one.stride == 1"),
    ),
    *of(
        "shapeworld/truth.py",
        "tests/shapeworld/test_scenes.py",
        ("all(own < _error(rival, result)", "all(own > _error(rival, result)"),
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
        ("holds[name] = own < nearest", "holds[name] = True"),
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
        "bench/runner.py",
        "tests/bench/test_runner.py",
        ("mask=case.mask if row.sees_mask else None", "mask=case.mask"),
        (
            'elif record and not record["error"] and not again:',
            'elif record and record["error"] and not again:',
        ),
        ("for left in output.parent.iterdir():", "for left in ():"),
    ),
    *of(
        "bench/study.py",
        "tests/bench/test_study.py",
        ('"left": 1.0, "right": 0.0', '"left": 0.0, "right": 1.0'),
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
        ("clip.orientation.turn(array)", "clip.orientation.turn_back(array)"),
    ),
    *of(
        "media/probing.py",
        "tests/media/test_video.py",
        ("if end < 0.98 * announced - 0.2:", "if end > 0.98 * announced - 0.2:"),
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
        ("np.rint(values).astype(kind)", "values.astype(kind)"),
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
        (">= 1000 * self.boundary", "> 1000 * self.boundary"),
        ("if other in self.parts:", "if self.part(other):"),
        ('self.parts[other].to("cpu")', "pass"),
        ("                    remount(hooks)", "                    pass"),
        ("constants.SHIFTS.get(name) or ", ""),
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
        ("torch.zeros_like(latents), time_ids", "latents, time_ids"),
        ("** (1 / 7), self.edm_min ** (1 / 7)", "** (1 / 6), self.edm_min ** (1 / 6)"),
        ("np.minimum(levels, self.edm_max)", "np.minimum(levels, 1e9)"),
    ),
    *of(
        "inversion.py",
        SVD,
        ("spreads[-1] ** 2 / spreads[0]", "spreads[-1]"),
        ("z = (1 - levels[0]) * source", "z = source"),
        ("field.velocity(z, sigma, condition", "field.velocity(z, sigma_next, condition"),
    ),
    *of(
        "distillation.py",
        DISTILL,
        ("levels[LEVELS - diffusion", "levels[diffusion"),
        ("2000 / z[0, 0, 0].numel()", "2000 / z.numel()"),
        ("self.eps[:, :, list(frames)]", "self.eps[:, :, : len(frames)]"),
    ),
    *of(
        "diffusion.py",
        DISTILL,
        ("return z + (1 - sigma) * velocity", "return z + velocity"),
        ("torch.randint(low, high, ()", "torch.randint(low, high - 99, ()"),
    ),
    *of(
        "methods/dds.py", DISTILL, ("given.inside(wanted - known)", "given.inside(known - wanted)")
    ),
    *of("methods/dds.py", CONTRACT, ("given.inside(wanted - known)", "(wanted - known)")),
    *of("methods/sds.py", DISTILL, ("wanted - draw.eps", "wanted")),
    *of(
        "methods/assd.py",
        DISTILL,
        ("return total / weight", "return total"),
        ('size > bound if cfg.mask == "text" else size < bound', "size > bound"),
        ("size.amax(2, keepdim=True)", "size.amax(1, keepdim=True)"),
        ("smoothed(known - base, cfg.window) + base", "smoothed(known - base, cfg.window)"),
        ("torch.where(edited(wanted - known, cfg), smooth, known)", "smooth"),
        ("cfg.joint * guidance", "guidance"),
        ("range(0, z.shape[2], cfg.stride)", "range(0, z.shape[2], 1)"),
        ("layers[-count:]", "layers[:count]"),
        ("attended(q, k_known, v_known) - own", "attended(q, k_known, v) - own"),
    ),
    *of(
        "methods/flowdistill.py",
        DISTILL,
        ("weight > 0, total / weight", "weight > 0, total"),
        ("side * diffusion.apply_mask(seen, moved)", "side * moved"),
        ("cfg.keep * 2 * (1 - where)", "cfg.keep * 2 * where"),
        ("memory * where + (1 - memory) * now", "memory * now + (1 - memory) * where"),
        ("cfg.consistency * apart(clean)", "-cfg.consistency * apart(clean)"),
        ("* clean[0, 0, 0].numel()", ""),
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
        "sarp.py",
        "tests/test_sarp.py",
        ("kernel, kernel.T", "kernel, kernel"),
        (".mean(1, keepdim=True)", ".amax(1, keepdim=True)"),
        (".clamp(-1, 1)", ""),
        ("torch.where(smooth(x, threshold), noisy, x)", "noisy"),
    ),
    *of(
        "tuning.py",
        "tests/test_tuning.py",
        ("((1 - sigma) ** 2 + sigma**2) * error", "error"),
        ("math.exp(shift / 2)", "math.exp(-shift / 2)"),
        ("(1 - share) * noisy + share * clean", "share * noisy + (1 - share) * clean"),
        ('self.adapters.switch(branch.startswith("tgt"))', "self.adapters.switch(True)"),
        ("if path not in dead", ""),
    ),
    *of(
        "tuning.py",
        CONTRACT,
        ("if 0 < begun < fit.steps", "if False"),
    ),
    *of(
        "methods/i2vedit.py",
        EDITING,
        ('_under(f"{n}.", given.adapters or {})', "{}"),
        ('_named(f"{n}.", step.fitted)', "step.fitted"),
    ),
    *of(
        "task.py",
        EDITING,
        ('data["clips"] = list(self.key_frames())', "pass"),
    ),
    *of(
        "methods/i2vedit.py",
        "tests/methods/test_i2vedit.py",
        ('z = first.latents[f"inverted{paired}"]', 'z = first.latents["inverted0"]'),
        ("self.adapters.load(of_first)", "pass"),
        ("shared = 0 if own else 1", "shared = 0"),
        ("Prompt(image=image, latent=latent, **noise)", "Prompt(image=image, **noise)"),
        ("Prompt(image=image, latent=latent, **noise)", "Prompt(image=image, latent=latent)"),
        ("if begin in given.keys:", "if False:"),
        ("ids=(6, 0.02, 127)", "ids=(6, 127, 0.02)"),
        ("(first * 255).floor() / 255", "first"),
        ("given.seed, 1, cfg.sarp", "given.seed, 0, cfg.sarp"),
    ),
    *of(
        "media/samples.py",
        "tests/media/test_samples.py",
        (".min((1, 3))", ".max((1, 3))"),
        ("range(min(3, len(own.planes)))", "range(1)"),
        ("frame.pict_type = 0", "pass"),
        ("stored(shown.alpha)", "shown.alpha"),
    ),
    *of(
        "media/samples.py",
        "tests/media/test_kinds.py",
        ("plane_of(made, 3)[:] = plane_of(known, 3)", "pass"),
    ),
    *of(
        "media/avc.py",
        "tests/media/test_splicing.py",
        ("for n in range(1, 32) if n not in used", "for n in range(32)"),
        ("max(self.level, sps[0][3])", "self.level"),
        ("kind(unit) == IDR", "kind(unit) in (1, IDR)"),
    ),
    *of(
        "media/splicing.py",
        "tests/media/test_splicing.py",
        ("g <= edited.start", "g < edited.start"),
        ("g >= edited.stop", "g > edited.stop"),
        ("self.splice.dts[self.next], clip.time_base", "packet.dts, clip.time_base"),
        ("self.splice.header.packet(bytes(packet))", "bytes(packet)"),
        ("stream.codec_context.codec_tag = splice.header.tag", "pass"),
    ),
    *of(
        "claims.py",
        CLAIMS,
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        ("if os.path.samestat(os.fstat(lock), place.stat())", "if True"),
        ("if claim and claim.busy", "if False"),
        ("claim.release()", "pass"),
        ("folder.rmdir()", "pass"),
    ),
    *of("result.py", CLAIMS, ("with claimed(path):", "if path:")),
    *of(
        "files.py",
        EDITING,
        ('about["digest"] != _digest(tensors, about)', "False"),
        ("found.update(json.dumps(said, sort_keys=True).encode())", "pass"),
    ),
    *of(
        "editing.py",
        EDITING,
        ("done.z if done.walked else None", "done.z"),
        ("self.find(first=made.frame)", "pass"),
        ('found.get("first", edit.first)', "edit.first"),
    ),
    *of(
        "walk.py",
        EDITING,
        ("loaded(known.plan.painter, backbone)", "_kept(*asked(known.plan.painter, backbone))"),
    ),
    *of(
        "walk.py",
        WALK,
        ("if largest > LARGEST", "if False"),
        ('({"z": start.z} | start.state)', '({"z": start.z})'),
    ),
    *of(
        "models/loading.py",
        "tests/models/test_weights.py",
        ("        _refuse_whole_numbers(part, module)\n", ""),
    ),
    *of(
        "effects.py",
        "tests/pipeline/test_unused_options.py",
        ('origin[name] == "given" and not wanted', "not wanted"),
        ("now == value if value else now not in OFF", "now not in OFF"),
        ("and not beside", ""),
    ),
    *of(
        "walk.py",
        "tests/pipeline/test_unused_options.py",
        ("field.is_steered_by(condition.negative)", "field.halves"),
        ('if "text" in backbone.carries else []', ""),
    ),
    *of("words.py", WORDS, ("max(i, end)", "i"), ("if len(wanted) > LONG", "if False")),
    *of(
        "bench/pages.py",
        "tests/bench/test_pages.py",
        ("with whole(path) as part", "for part in [path]"),
    ),
    *of("plan.py", EDITING, ('found["grid"]["is"] = self.own', "pass")),
    *of(
        "media/hevc.py",
        "tests/media/test_splicing.py",
        ("2 if kind(unit) in REFRESHING else 1", "1"),
        ('f"{number + 1:09b}"', 'f"{number:09b}"'),
        ("(9, OURS, 1)", "(9, 14, 1)"),
        ("made[i] &= known[2 + i]", "pass"),
        ("max(made[12], known[14])", "made[12]"),
        ("self.inside.update(sets)", "pass"),
        ("if OURS in taken or not free", "if not free"),
    ),
    *of(
        "media/encoding.py",
        "tests/media/test_splicing.py",
        ("context.codec_tag = CODECS[codec].tag", "pass"),
    ),
    *of(
        "media/encoding.py",
        "tests/media/test_kinds.py",
        ("packet.duration = durations.get(packet.pts, packet.duration)", "pass"),
        ('"tff=1" if clip.fields == "top" else "bff=1"', '"tff=1"'),
    ),
    *of(
        "media/probing.py",
        "tests/media/test_kinds.py",
        ("if context.field_order in BOTTOM_FIRST", "if context.field_order not in BOTTOM_FIRST"),
        ('if b";" not in file.read()', "if False"),
    ),
    *of(
        "delivered.py",
        EDITING,
        ("capped(square / 3)", "capped(square)"),
        ("self.equal &= worst == 0", "pass"),
    ),
    *of(
        "methods/_matched.py",
        "tests/methods/test_i2vedit.py",
        ("return attended(q0, k0, v)", "return attended(q, k, v)"),
        ("k0, _ = longer(k0, v0", "_, _ = longer(k0, v0"),
    ),
    *of(
        "clips.py",
        "tests/methods/test_i2vedit.py",
        ("first = found[-1][1] - 1", "first = found[-1][1]"),
        ("(0, *sorted(keys), frames)", "(0, frames)"),
    ),
    *of(
        "methods/i2vedit.py",
        CONTRACT,
        ("z = given.held(z, rest)", "pass"),
        ("if paired else given.source", "if paired else source"),
    ),
    *of(
        "plan.py",
        WALK,
        ("if image and not words and not (task.first_frame or told)", "if False"),
        ("if task.first_frame and not image", "if False"),
    ),
    *of(
        "media/first_frame.py",
        "tests/media/test_first_frame.py",
        ("> ASPECT_TOLERANCE", "> 10"),
        ("changed.float().mean() > CHANGED_SHARE", "False"),
    ),
    *of(
        "python.py",
        PYTHON,
        ("undone.callback(asked.scratch.remove)", "pass"),
        ("event.made_from = asked.scratch", "pass"),
        ("                    undone.pop_all()", "                    pass"),
        ('even = {"times": tuple(range(count)), ', "even = {"),
        ('"durations": (1,) * count, "colour": {}}', '"durations": (1,) * count}'),
        ('event.manifest["notes"][:0] = asked.notes', "pass"),
        ("        undone.callback(scratch.remove)\n", ""),
        ("default=default, annotation", "default=None, annotation"),
        ("known = taken(task, backbone)\n", "known = taken(task)\n"),
        ("if key not in signature.parameters:", "if False:"),
    ),
    *of("editing.py", PYTHON, ("with contextlib.closing(running):", "if True:")),
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
        "notebook.py",
        PYTHON,
        ("begin = result.part.start if", "begin = 0 if"),
        ("    for _ in edited:", "    for _ in ():"),
        ("_clip(data) * (count > 1)", "_clip(data)"),
        ("map(escape, said)", "said"),
    ),
    *of(
        "media/showing.py",
        PYTHON,
        ("file.stat().st_size <= most", "True"),
        ("WIDTH / (count * size[0])", "WIDTH / size[0]"),
    ),
    *of("result.py", PYTHON, ("@functools.cached_property", "@property")),
    *of("summary.py", PYTHON, ('["max_abs_outside"] == 0', '["max_abs_outside"] != 0')),
    *of(
        "jobs.py",
        "tests/pipeline/test_jobs.py",
        ('manifest.get("key") != task.key()', "False"),
        ('manifest.get("stamp") != stamp(output)', "False"),
        ("if not same or", "if"),
        ("resume = store_of(task).holds()", "resume = False"),
    ),
    *of(
        "jobs.py",
        "tests/batch/test_run.py",
        ("manifest = done(task)", "manifest = None"),
        ("claim = _alone(task, report)", "claim = claimed(task.output).__enter__()"),
    ),
    *of(
        "batch/rows.py",
        "tests/batch/test_rows.py",
        ("if others:", "if False:"),
        ("elif first:", "elif False:"),
        ("elif kept &", "elif False and kept &"),
        ("if single.done(job.task):", "if False:"),
        ("elsewhere and isinstance", "isinstance"),
        ('startswith(b"#")', 'startswith(b"%")'),
        ("return text", "return str(place)"),
    ),
    *of(
        "batch/run.py",
        "tests/batch/test_run.py",
        ("job.attempts <= retries", "job.attempts < retries"),
        ("if kind not in kinds", "if True"),
        ("kinds[kind] / (1 + taken[kind])", "kinds[kind]"),
        ("isinstance(outcome, Dead) or memory", "isinstance(outcome, Dead)"),
        ("with claimed(folder / NAME), _recorded", "with _recorded"),
    ),
    *of("batch/run.py", "tests/batch/test_cluster.py", ("waiting.insert(0, job)", "pass")),
    *of("batch/crew.py", "tests/batch/test_cluster.py", ("hand.actor.stop.remote()", "pass")),
    *of(
        "batch/worker.py",
        "tests/batch/test_run.py",
        ("if self.loaded != asked", "if True"),
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
        "task.py",
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
        "tuning.py",
        "tests/test_tuning.py",
        ("isinstance(layer, nn.Linear) and not inside", "isinstance(layer, nn.Linear)"),
        ("        _put(network, before)\n", "        pass\n"),
    ),
    *of(
        "media/orientation.py",
        "tests/media/test_orientation.py",
        ("turned[:, ::-1] if self.is_mirrored else turned", "turned"),
        ("math.atan2(-b, d)", "math.atan2(b, d)"),
        ("determinant < 0, whole", "False, whole"),
    ),
    *of(
        "media/timeline.py",
        "tests/media/test_timeline.py",
        ("offset += last + step - now", "offset += last - now"),
        ("return earliest if picture < 0", "return picture if picture < 0"),
        ("return sorted(times), ()", "return list(times), ()"),
    ),
    *of(
        "media/copying.py",
        "tests/media/test_timeline.py",
        ("packet.pts + packet.duration <= 0", "False"),
        ("self.source.format.name not in DELAYED", "True"),
        ("(self.offset - self.clip.start) / tick", "self.offset / tick"),
    ),
    *of(
        "media/copying.py",
        "tests/media/test_tracks.py",
        ("return len(back.streams) > 0", "return True"),
        ("made.disposition &= ~Disposition.default", "pass"),
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
        ("if not kind & (SMALLER | MASK)", "if kind is not None"),
    ),
    *of(
        "media/sizes.py",
        "tests/media/test_sizes.py",
        (":force_original_aspect_ratio=decrease", ""),
    ),
    *of(
        "media/wholeness.py",
        "tests/media/test_timeline.py",
        ("return None if end is None else end <= size", "return None"),
    ),
]


def caught(mutation: Mutation) -> bool | None:
    """Whether its tests fail; None where the text to change is not there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / "holdfast" / mutation.file
        text = file.read_text()
        if mutation.old not in text:
            return None
        file.write_text(text.replace(mutation.old, mutation.new, 1))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(
            [*command, mutation.tests], cwd=ROOT, env=environment, capture_output=True, timeout=600
        )
        if run.returncode not in (0, 1):  # no test ran: that says nothing
            raise SystemExit(run.stderr.decode() or run.stdout.decode())
        return run.returncode == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutations whose file has this word")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.only in m.file]
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = []
        for mutation, outcome in zip(chosen, pool.map(caught, chosen), strict=True):
            said = {True: "caught", False: "SURVIVES", None: "NOT THERE"}[outcome]
            print(f"{said:<10} {mutation.file}: {mutation.old!r} -> {mutation.new!r}", flush=True)
            outcomes.append(outcome)
    survivors = sum(outcome is not True for outcome in outcomes)
    print(f"{len(chosen)} mutations, {len(chosen) - survivors} caught")
    return survivors


if __name__ == "__main__":
    sys.exit(main())

"""Write a clip with another editor's change, verify the file, and write its manifest."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy import ndarray

from .. import __version__
from ..base.files import atomic_write, write_json
from ..base.notices import warn_user
from ..media import overlays, previews, video
from ..media.frame_access import read_frame
from ..media.images import to_8_bit
from ..pipeline import verification
from ..pipeline.events import ProgressCallback
from ..pipeline.locks import lock_output
from ..pipeline.output_paths import check_output_path, manifest_path, mask_picture_path
from ..pipeline.stages import StageTimer, report_items
from .blending import Band
from .prefetch import prefetch
from .task import KeepTask


class Deliverable(Protocol):
    """What is written: a KeptClip."""

    task: KeepTask
    report: dict[str, Any]
    band: Band
    is_whole: bool
    notices: list[str]

    @property
    def clip(self) -> video.Clip: ...
    @property
    def changed_frames(self) -> range: ...
    def pictures(self) -> Iterator[video.OutputFrame]: ...
    def masks(self) -> Iterator[ndarray]: ...
    def alphas(self) -> Iterator[ndarray]: ...


def write(kept: Deliverable, path: Path, on_progress: ProgressCallback | None) -> dict[str, Any]:
    """Write the clip, its manifest, and a picture of its mask. Return the manifest."""
    check_output_path(path, kept.task.input_files)
    codec = pick_codec(kept.task.codec, path, kept.clip)
    timer = StageTimer()
    with lock_output(path):
        strip = StripSampler(kept.clip)
        pictures = report_items(
            prefetch(strip.watch(kept.pictures())), "write", kept.clip.frames, on_progress
        )
        copied = video.write(path, kept.clip, pictures, codec, kept.task.crf, kept.changed_frames)
        timer.lap("write")
        alphas = report_items(prefetch(kept.alphas()), "check", kept.clip.frames, on_progress)
        delivered = verification.measure_file(kept.clip, path, alphas)
        timer.lap("check")
        strip.save(mask_picture_path(path))
        manifest = describe(kept, path, codec) | {"delivered": delivered, "copied": copied}
        manifest["seconds"] = {stage: round(s, 3) for stage, s in timer.seconds.items()}
        write_json(manifest_path(path), manifest)
    return manifest


def pick_codec(codec: str, path: Path, clip: video.Clip) -> str:
    """Return the codec to use. Files that cannot hold a lossless one get their own, with a notice."""
    suffix = path.suffix.lower()
    if codec != "lossless" or suffix not in video.CONTAINERS:
        return codec
    if suffix == ".webm":
        warn_user(
            f"{path.name} cannot hold a lossless codec: it is encoded as VP9; .mkv keeps every sample"
        )
        return "vp9"
    return video.pick_codec(codec, suffix, clip)


def describe(kept: Deliverable, path: Path, codec: str) -> dict[str, Any]:
    """Return the manifest of a result, without what is measured on its file."""
    clip = kept.clip
    return {
        "output": str(path),
        "version": __version__,
        "task": kept.task.to_dict(),
        "frames": clip.frames,
        "rate": f"{clip.rate.numerator}/{clip.rate.denominator}",
        "size": list(clip.size),
        "audio_tracks": video.count_audio_tracks(path, clip),
        "codec": codec,
        "report": kept.report,
        "band": {"grow": kept.band.grow, "feather": kept.band.feather},
        "notes": kept.notices,
        "mask_picture": str(mask_picture_path(path)),
    }


class StripSampler:
    """Keep a few frames of a result on its way into a file, and draw them under their source."""

    def __init__(self, clip: video.Clip):
        self.clip = clip
        self.indices = previews.sample_indices(clip.frames)
        self.rows: dict[str, list[ndarray]] = {"change": [], "result": []}

    def watch(self, pictures: Iterable[video.OutputFrame]) -> Iterator[video.OutputFrame]:
        """Yield the same pictures."""
        for i, picture in enumerate(pictures):
            if i in self.indices:
                source = read_frame(self.clip, i)
                mask = (
                    np.zeros(source.shape[:2], bool)
                    if picture.alpha is None
                    else picture.alpha > 0.5
                )
                self.rows["change"].append(overlays.draw_mask(source, mask))
                self.rows["result"].append(to_8_bit(picture.rgb()))
            yield picture

    def save(self, path: Path) -> None:
        scale = previews.MAX_WIDTH / max(1, len(self.rows["change"])) / self.clip.size[0]
        with atomic_write(path) as temporary:
            previews.draw_strip(self.rows, scale).save(temporary)


def write_preview(kept: Deliverable, path: Path) -> None:
    """Write the source with the mask over it, H.264."""
    clip, pairs = kept.clip, zip(video.read(kept.clip), kept.masks(), strict=True)
    frames = (overlays.draw_mask(frame, mask) for frame, mask in pairs)
    video.write(path, replace(clip, tracks=(), bits=8), frames, "auto", None)


def describe_delivery(manifest: Mapping[str, Any]) -> str:
    """Return what was verified of a written file, as a sentence."""
    delivered = manifest["delivered"]
    if manifest["task"]["whole"]:
        return "The whole picture is the edited clip's, in the source's times and size."
    if delivered["samples_equal_outside"] or delivered["max_abs_outside"] == 0:
        return "Outside the mask every sample of the file is the source's (verified)."
    if delivered["psnr_outside"] is None:
        return "The whole picture was changed."
    return (
        f"Outside the mask the file is within {delivered['psnr_outside']:.1f} dB of the source "
        f"({manifest['codec']})"
        + ("." if manifest["codec"] == "vp9" else "; --codec lossless keeps every sample.")
    )

"""How a result appears in a notebook: one line, or the clip next to its source, a strip, and a few metrics."""

import textwrap
from collections.abc import Iterator, Mapping
from html import escape
from itertools import islice
from typing import Any

from numpy import ndarray

from ..media import images, previews, video
from . import summary
from .edited_clip import EditedClip
from .task import EditTask

COLUMNS = 5  # frames of a strip


def describe_result(
    edited: EditedClip, manifest: Mapping[str, Any], seconds: Mapping[str, float]
) -> str:
    """Describe a result in one line, without decoding it."""
    task, clip = edited.plan.task, edited.clip
    width, height = clip.size
    prompts = (
        textwrap.shorten(text, 40, placeholder="...")
        for text in (task.source_prompt, task.target_prompt)
    )
    frames = f"{clip.frames} frame{'s' * (clip.frames > 1)}"
    return (
        f"<Result: {manifest['method']} on {manifest['backbone']}, {frames} of "
        f"{width}x{height}, {' -> '.join(map(repr, prompts))}, {manifest['evaluations']} evaluations "
        f"in {sum(seconds.values()):.1f} s>"
    )


def result_html(task: EditTask, manifest: Mapping[str, Any], preview: str) -> str:
    """Return a result as HTML: its preview, its prompts and its summary."""
    lines = [f"{task.source_prompt} -> {task.target_prompt}", *summary.summary_lines(manifest)]
    return f"<div>{preview}<p>{'<br>'.join(map(escape, lines))}</p></div>"


def preview_html(edited: EditedClip, frames: Iterator[ndarray]) -> str:
    """Return the clip next to its source, and a strip of both, as HTML that contains all its data.

    frames: those of the result, which are all read, so that its metrics are known. Of a long clip only the beginning of
    the edited part is shown, which the caption says.
    """
    clip = edited.clip
    begin = edited.part.start if clip.frames > previews.MAX_FRAMES else 0
    count = min(previews.MAX_FRAMES, clip.frames - begin)
    both = [islice(video.read(clip), begin, begin + count), islice(frames, begin, begin + count)]
    rows: dict[str, list[ndarray]] = {"source": [], "edited": []}
    passing = [
        _collect_strip(shown, count, row) for shown, row in zip(both, rows.values(), strict=True)
    ]
    data = previews.preview_data_url(passing, clip.size, float(clip.rate))
    for _ in frames:  # the metrics are those of all frames
        pass
    zoom = previews.MAX_WIDTH / COLUMNS / clip.size[0]
    strip = previews.image_data_url(previews.draw_strip(rows, zoom))
    return (
        _video_tag(data) * (count > 1)
        + f'<img src="{strip}" style="max-width:100%"><br>{_caption(clip, begin, count)}'
    )


def _collect_strip(frames: Iterator[ndarray], count: int, row: list[ndarray]) -> Iterator[ndarray]:
    """Yield the frames at eight bits, and add those of the strip to its row."""
    wanted = previews.sample_indices(count, COLUMNS)
    for i, frame in enumerate(map(images.to_8_bit, frames)):
        if i in wanted:
            row.append(frame)
        yield frame


def _video_tag(data: str) -> str:
    return (
        f'<video src="{data}" controls loop autoplay muted playsinline style="max-width:100%">'
        "</video><br>"
    )


def _caption(clip: video.Clip, begin: int, count: int) -> str:
    """Say which frames are shown, and whether they are scaled down."""
    parts, size = ["source and edited"], clip.size
    if count < clip.frames:
        parts.append(f"frames {begin} to {begin + count - 1} of {clip.frames}")
    shown, scale = previews.preview_size(2, size)
    if scale < 1:
        parts.append("{}x{} shown at {}x{}".format(*size, *shown))
    return f"<small>{', '.join(parts)}</small>"

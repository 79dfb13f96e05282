"""How a result shows itself: in one line, and in a notebook as a clip beside its source, a strip and a few figures."""

import textwrap
from collections.abc import Iterator
from html import escape
from itertools import islice
from typing import Any

from numpy import ndarray

from ..media import images, previews, video
from . import summary

COLUMNS = 5  # frames of a strip


def describe_result(result: Any) -> str:
    """One line, for which nothing is decoded."""
    task, manifest, (width, height) = result.task, result.manifest, result.clip.size
    texts = (textwrap.shorten(text, 40, placeholder="...") for text in (task.source_prompt, task.target_prompt))
    count = result.clip.frames
    return (
        f"<Result: {manifest['method']} on {manifest['backbone']}, {count} frame{'s' * (count > 1)} of "
        f"{width}x{height}, {' -> '.join(map(repr, texts))}, {manifest['evaluations']} evaluations "
        f"in {sum(result.clock.seconds.values()):.1f} s>"
    )


def result_html(result: Any) -> str:
    """The clip beside its source, a strip of both, and what was kept. For the pictures see `look`."""
    pictures = result.look  # first: with the frames come the figures
    seconds = {"seconds": result.clock.seconds, "preservation": result.preservation}
    said = [
        f"{result.task.source_prompt} -> {result.task.target_prompt}",
        *summary.summary_lines(result.manifest | seconds),
    ]
    return f"<div>{pictures}<p>{'<br>'.join(map(escape, said))}</p></div>"


def preview_html(result: Any) -> str:
    """A result's clip and strip as HTML that needs nothing but itself: small, and of a long clip the beginning of what
    was edited, which is said below. The frames are decoded once.
    """
    clip = result.clip
    begin = result.part.start if clip.frames > previews.MAX_FRAMES else 0
    count = min(previews.MAX_FRAMES, clip.frames - begin)
    edited = result.frames()
    both = [islice(video.read(clip), begin, begin + count), islice(edited, begin, begin + count)]
    rows: dict[str, list[ndarray]] = {"source": [], "edited": []}
    passing = [_collect_strip(frames, count, row) for frames, row in zip(both, rows.values(), strict=True)]
    data = previews.preview_data_url(passing, clip.size, float(clip.rate))
    for _ in edited:  # the figures are those of all frames
        pass
    width = previews.MAX_WIDTH / COLUMNS
    strip = previews.image_data_url(previews.draw_strip(rows, width / clip.size[0]))
    return (
        _video_tag(data) * (count > 1)
        + f'<img src="{strip}" style="max-width:100%"><br>{_caption(result, begin, count)}'
    )


def _collect_strip(frames: Iterator[ndarray], count: int, row: list[ndarray]) -> Iterator[ndarray]:
    """The frames at eight bits; those of the strip are kept in its row."""
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


def _caption(result: Any, begin: int, count: int) -> str:
    """What of the clip is not shown as it is."""
    said, size = ["source and edited"], result.clip.size
    if count < result.clip.frames:
        said.append(f"frames {begin} to {begin + count - 1} of {result.clip.frames}")
    shown, scale = previews.preview_size(2, size)
    if scale < 1:
        said.append("{}x{} shown at {}x{}".format(*size, *shown))
    return f"<small>{', '.join(said)}</small>"

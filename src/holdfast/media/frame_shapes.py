"""Frames of one size and pixel format, made from a stream that changes them (recordings of calls and browsers do)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
from av.filter import Graph
from av.filter.context import FilterContext

Size = tuple[int, int]  # width, height


class FrameShape(NamedTuple):
    """The size and pixel format of a decoded frame."""

    size: Size
    layout: str  # FFmpeg's name of the pixel format


def main_shape(shapes: Sequence[FrameShape]) -> FrameShape:
    """Return the shape of most frames; among equally frequent ones, the largest."""
    counts = Counter(shapes)
    return max(counts, key=lambda s: (counts[s], s.size[0] * s.size[1]))


def describe_changes(shapes: Sequence[FrameShape]) -> list[str]:
    """Return a sentence for each group of frames that differs from the main shape."""
    main, sentences = main_shape(shapes), []
    for other in dict.fromkeys(shapes):
        if other == main:
            continue
        frames = [i for i, shape in enumerate(shapes) if shape == other]
        if other.size != main.size:
            sizes = ("{}x{}".format(*shape.size) for shape in (other, main))
            sentences.append("{} are {}: fitted into the clip's {}".format(_name(frames), *sizes))
        else:
            sentences.append(
                f"{_name(frames)} are {other.layout}: converted to the clip's {main.layout}"
            )
    return sentences


def _name(frames: list[int]) -> str:
    if len(frames) == frames[-1] - frames[0] + 1:
        return f"frames {frames[0]} to {frames[-1]}"
    return f"{len(frames)} frames, the first of them {frames[0]},"


def unify(frames: Iterator[av.VideoFrame], size: Size, layout: str) -> Iterator[av.VideoFrame]:
    """Yield frames of one size and layout. Scale others to fit, with black bars where the aspect ratio differs."""
    graphs: dict[FrameShape, Graph] = {}
    for frame in frames:
        shape = FrameShape((frame.width, frame.height), frame.format.name)
        if shape == (size, layout):
            yield frame
            continue
        if shape not in graphs:
            graphs[shape] = _make_fit_graph(shape, size, layout, frame.time_base)
        graphs[shape].push(frame)
        fitted = graphs[shape].pull()
        assert isinstance(fitted, av.VideoFrame)
        fitted.pts, fitted.time_base = frame.pts, frame.time_base
        yield fitted


def _make_fit_graph(
    shape: FrameShape, size: Size, layout: str, time_base: Fraction | None
) -> Graph:
    width, height = size
    graph = Graph()
    steps = (
        ("scale", f"{width}:{height}:force_original_aspect_ratio=decrease:flags=lanczos"),
        ("format", layout),
        ("pad", f"{width}:{height}:-1:-1"),
    )
    buffer = add_buffer(graph, shape.size, shape.layout, time_base)
    nodes = [graph.add(*step) for step in steps]
    graph.link_nodes(buffer, *nodes, graph.add("buffersink")).configure()
    return graph


def add_buffer(graph: Graph, size: Size, layout: str, time_base: Fraction | None) -> FilterContext:
    """Add the input of a filter graph, for frames of one size and layout."""
    width, height = size
    return graph.add_buffer(
        width=width,
        height=height,
        format=layout,  # pyright: ignore[reportArgumentType]  # PyAV takes the name; its stubs do not
        time_base=time_base,
    )

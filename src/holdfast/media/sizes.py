"""Frames of one size and layout, of a stream that changes them on the way, as recorders of calls and of browsers do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import av

Size = tuple[int, int]  # width, height


class Shape(NamedTuple):
    """How a frame lies in memory."""

    size: Size
    layout: str  # FFmpeg's name of the pixel format


def main_shape(shapes: Sequence[Shape]) -> Shape:
    """What most frames are, of as many the larger."""
    counts = Counter(shapes)
    return max(counts, key=lambda s: (counts[s], s.size[0] * s.size[1]))


def describe(shapes: Sequence[Shape]) -> list[str]:
    """Which frames are fitted to the others, in a sentence each; none where all are alike."""
    main, said = main_shape(shapes), []
    for other in dict.fromkeys(shapes):
        if other == main:
            continue
        frames = [i for i, shape in enumerate(shapes) if shape == other]
        if other.size != main.size:
            sizes = ("{}x{}".format(*shape.size) for shape in (other, main))
            said.append("{} are {}: fitted into the clip's {}".format(_name(frames), *sizes))
        else:
            said.append(f"{_name(frames)} are {other.layout}: brought to the clip's {main.layout}")
    return said


def _name(frames: list[int]) -> str:
    if len(frames) == frames[-1] - frames[0] + 1:
        return f"frames {frames[0]} to {frames[-1]}"
    return f"{len(frames)} frames, the first of them {frames[0]},"


def unify(frames: Iterator[av.VideoFrame], size: Size, layout: str) -> Iterator[av.VideoFrame]:
    """Frames of this size and layout; others are scaled to fit, with black at two sides where their aspect differs."""
    graphs: dict[Shape, av.filter.Graph] = {}
    for frame in frames:
        shape = Shape((frame.width, frame.height), frame.format.name)
        if shape == (size, layout):
            yield frame
            continue
        if shape not in graphs:
            graphs[shape] = _fitting(shape, size, layout, frame.time_base)
        graphs[shape].push(frame)
        fitted = graphs[shape].pull()
        fitted.pts, fitted.time_base = frame.pts, frame.time_base
        yield fitted


def _fitting(shape: Shape, size: Size, layout: str, time_base: Fraction) -> av.filter.Graph:
    width, height = size
    graph = av.filter.Graph()
    steps = (
        ("scale", f"{width}:{height}:force_original_aspect_ratio=decrease:flags=lanczos"),
        ("format", layout),
        ("pad", f"{width}:{height}:-1:-1"),
    )
    buffer = add_buffer(graph, shape.size, shape.layout, time_base)
    nodes = [graph.add(*step) for step in steps]
    graph.link_nodes(buffer, *nodes, graph.add("buffersink")).configure()
    return graph


def add_buffer(graph: av.filter.Graph, size: Size, layout: str, time_base: Fraction):
    """Add where frames of this kind go in."""
    width, height = size
    return graph.add_buffer(width=width, height=height, format=layout, time_base=time_base)

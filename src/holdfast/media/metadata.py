"""Title, time, place and chapters of a clip: read them, write them, and find out which containers keep them.

What a container keeps is not looked up in a table. A file of one small frame is written in memory and read back.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import numpy as np
from av.container import OutputContainer
from av.container.core import Container
from av.stream import Stream

MP4 = (".mp4", ".m4v", ".mov")
# Tags that describe the container itself, or that the writer computes: copied to another file they would be wrong.
CONTAINER_TAGS = frozenset(
    {
        "encoder",
        "major_brand",
        "minor_version",
        "compatible_brands",
        "duration",
        "vendor_id",
        "timecode",  # copied separately
        "alpha_mode",
        "stereo_mode",
        "rotate",
        "encoder_options",
        "handler_vendor_id",
    }
)
STATISTICS_PREFIXES = ("bps", "number_of_", "_statistics_")
ANY_TAG = "+use_metadata_tags"  # FFmpeg's flag: keep names that MP4 has no field of its own for
UNREADABLE = "\ufffd"  # stands for bytes that are not UTF-8
Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chapter:
    """A chapter. start, end: seconds."""

    start: Fraction
    end: Fraction
    title: str = ""


@dataclass(frozen=True)
class Metadata:
    """The tags of a clip and of its video track, as pairs of name and value, and the clip's chapters."""

    clip: Tags = ()
    track: Tags = ()
    chapters: tuple[Chapter, ...] = ()

    @property
    def unreadable(self) -> list[str]:
        """Return the names of tags that are not encoded in UTF-8."""
        chapters = [("a chapter's title", chapter.title) for chapter in self.chapters]
        pairs = chain(self.clip, self.track, chapters)
        return sorted({name for name, value in pairs if UNREADABLE in name + value})

    def names(self) -> list[str]:
        """Return a name for every tag and for the chapters, as a sentence lists them."""
        count = len(self.chapters)
        chapters = [f"{count} chapter{'s' * (count > 1)}"] if count else []
        of_track = [f"{n} of the video track" for n, _ in self.track if n != "handler_name"]
        return [name.replace("_", " ") for name, _ in self.clip] + of_track + chapters


def read_metadata(container: Container, stream: Stream) -> Metadata:
    """Return the metadata of an open container and of one of its tracks."""
    chapters = tuple(
        Chapter(
            c["start"] * Fraction(c["time_base"] or 0),
            c["end"] * Fraction(c["time_base"] or 0),
            c.get("metadata", {}).get("title", ""),
        )
        for c in container.chapters()
    )
    clip, track = _select_tags(container.metadata), dict(track_tags(stream))
    if track.get("creation_time") == dict(clip).get("creation_time"):
        track.pop("creation_time", None)  # a track without a time of its own reports the clip's
    return Metadata(clip, tuple(track.items()), chapters)


def track_tags(stream: Stream) -> Tags:
    """Return the tags of one track. MP4 reads a track's name under `name` and writes it from `title`."""
    tags = dict(_select_tags(stream.metadata))
    if "name" in tags:
        tags["title"] = tags.pop("name")
    return tuple((n, v) for n, v in tags.items() if (n, v) != ("language", "und"))


def _select_tags(tags: Mapping[str, str]) -> Tags:
    """Return the tags that can be copied to another file, with names in lower case (Matroska stores capitals)."""
    by_name = {_normalize_case(name): value for name, value in tags.items() if value}
    # FFmpeg reads one place twice, the second time with its language.
    duplicates = {
        n for n in by_name if "-" in n and by_name.get(n.rpartition("-")[0]) == by_name[n]
    }
    others = (pair for pair in by_name.items() if pair[0] not in duplicates)
    return tuple(
        (n, v)
        for n, v in others
        if n not in CONTAINER_TAGS and not n.startswith(STATISTICS_PREFIXES)
    )


def _normalize_case(name: str) -> str:
    lower = name.lower() if name.partition("-")[0].isupper() else name
    return lower.replace("location.iso6709", "location.ISO6709")  # as Apple's programs look for it


def write_metadata(
    out: OutputContainer, stream: Stream, metadata: Metadata, start: Fraction = Fraction(0)
) -> None:
    """Write metadata to an output container and its video track. Call it before the first packet is written.

    start: the time in the source, in seconds, that is zero in the output.
    """
    out.metadata.update(dict(metadata.clip))
    stream.metadata.update(dict(metadata.track))
    base = Fraction(1, 1000)
    if any(chapter.start < start for chapter in metadata.chapters):
        start = Fraction(0)  # these chapters count from the clip's own first frame
    if metadata.chapters:
        out.set_chapters(
            [
                {
                    "id": number,
                    "start": round((chapter.start - start) / base),
                    "end": round((chapter.end - start) / base),
                    "time_base": base,
                    "metadata": {"title": chapter.title},
                }
                for number, chapter in enumerate(metadata.chapters, 1)
            ]
        )


def mov_flags(metadata: Metadata, suffix: str) -> str:
    """Return the FFmpeg flags with which MP4 and its relatives keep the most metadata."""
    return "+faststart" + (ANY_TAG if _needs_any_tag(metadata, suffix) else "")


def _needs_any_tag(metadata: Metadata, suffix: str) -> bool:
    """Return whether `ANY_TAG` keeps more tags. Fewer players show those than MP4's own."""
    lost = suffix in MP4 and _find_lost(metadata, suffix, "")
    return bool(lost) and len(_find_lost(metadata, suffix, ANY_TAG)) < len(lost)


def lost_names(metadata: Metadata, suffix: str) -> tuple[str, ...]:
    """Return the names of the metadata that a file with this suffix cannot hold. Images hold none of it."""
    if suffix not in (*MP4, ".mkv", ".webm"):
        return tuple(metadata.names())
    return _find_lost(metadata, suffix, ANY_TAG if _needs_any_tag(metadata, suffix) else "")


@functools.lru_cache(maxsize=64)
def _find_lost(metadata: Metadata, suffix: str, flags: str) -> tuple[str, ...]:
    """Write the metadata to a small file in memory, read it back, and return the names that are missing."""
    if not (metadata.clip or metadata.track or metadata.chapters):
        return ()
    data = io.BytesIO()
    container = {".mov": "mov", ".mkv": "matroska", ".webm": "matroska"}.get(suffix, "mp4")
    with av.open(data, "w", format=container, options={"movflags": flags} if flags else {}) as out:
        stream = out.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        write_metadata(out, stream, metadata)
        black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
        out.mux(list(chain(stream.encode(black), stream.encode(None))))
    data.seek(0)
    with av.open(data, "r", metadata_errors="replace") as back:
        names = {*read_metadata(back, back.streams.video[0]).names()}
    return tuple(name for name in metadata.names() if name not in names)

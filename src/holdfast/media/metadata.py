"""Title, time, place, chapters: what a container says of a clip besides its picture and sound, and who can hold it.

What another container keeps is not looked up in a table: a file of one small frame is written in memory and read again.
"""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

import av
import numpy as np

MP4 = (".mp4", ".m4v", ".mov")
# What a container says of itself, and what a writer counts: of another file these would be wrong.
OWN = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id"}
OWN |= {"timecode"}  # which is carried over for itself
OWN |= {"alpha_mode", "stereo_mode", "rotate", "encoder_options", "handler_vendor_id"}
COUNTED = ("bps", "number_of_", "_statistics_")
ANY_TAG = "+use_metadata_tags"  # FFmpeg's flag: names that MP4 has no place of its own for
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Chapter:
    """A chapter, from and to in seconds."""

    start: Fraction
    end: Fraction
    title: str = ""


@dataclass(frozen=True)
class Metadata:
    """What a container says of a clip, and of its picture's track: names with their values."""

    clip: Pairs = ()
    track: Pairs = ()
    chapters: tuple[Chapter, ...] = ()

    @property
    def unread(self) -> list[str]:
        """The names of tags in another encoding than UTF-8."""
        chapters = [("a chapter's title", chapter.title) for chapter in self.chapters]
        named = chain(self.clip, self.track, chapters)
        return sorted({name for name, value in named if "\ufffd" in name + value})

    def names(self) -> list[str]:
        """All of it, as a sentence names it."""
        count = len(self.chapters)
        chapters = [f"{count} chapter{'s' * (count > 1)}"] if count else []
        of_track = [f"{n} of the picture" for n, _ in self.track if n != "handler_name"]
        return [name.replace("_", " ") for name, _ in self.clip] + of_track + chapters


def read_metadata(container, stream) -> Metadata:
    """Return what an open container says of itself and of one track."""
    chapters = tuple(
        Chapter(
            c["start"] * Fraction(c["time_base"]),
            c["end"] * Fraction(c["time_base"]),
            c.get("metadata", {}).get("title", ""),
        )
        for c in container.chapters()
    )
    clip, track = _plain(container.metadata), dict(track_tags(stream))
    if track.get("creation_time") == dict(clip).get("creation_time"):
        track.pop("creation_time", None)  # a track's is the clip's where it has none
    return Metadata(clip, tuple(track.items()), chapters)


def track_tags(stream) -> Pairs:
    """Return what is said of one track. What MP4 reads as its name it writes of its title."""
    found = dict(_plain(stream.metadata))
    if "name" in found:
        found["title"] = found.pop("name")
    return tuple((n, v) for n, v in found.items() if (n, v) != ("language", "und"))


def _plain(tags: Mapping[str, str]) -> Pairs:
    """What is carried over. Matroska has names in capitals, whatever they were."""
    named = {_cased(name): value for name, value in tags.items() if value}
    # FFmpeg reads one place twice, once with its language.
    twice = {n for n in named if "-" in n and named.get(n.rpartition("-")[0]) == named[n]}
    others = (pair for pair in named.items() if pair[0] not in twice)
    return tuple((n, v) for n, v in others if n not in OWN and not n.startswith(COUNTED))


def _cased(name: str) -> str:
    lower = name.lower() if name.partition("-")[0].isupper() else name
    return lower.replace("location.iso6709", "location.ISO6709")  # as Apple's programs look for it


def attach(out, stream, metadata: Metadata, start: Fraction = Fraction(0)) -> None:
    """Write it to an output container and its picture's track, before the first packet.

    start: the seconds of the source that are zero in the output.
    """
    out.metadata.update(dict(metadata.clip))
    stream.metadata.update(dict(metadata.track))
    base = Fraction(1, 1000)
    if any(chapter.start < start for chapter in metadata.chapters):
        start = Fraction(0)  # they count from the clip's own first frame
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


def movflags(metadata: Metadata, suffix: str) -> str:
    """Return FFmpeg's flags with which MP4 and its kin keep most of it."""
    return "+faststart" + (ANY_TAG if _needs_any_tag(metadata, suffix) else "")


def _needs_any_tag(metadata: Metadata, suffix: str) -> bool:
    """Return whether more is kept under names of any kind, which fewer players show than MP4's own."""
    plain = suffix in MP4 and _lost(metadata, suffix, "")
    return bool(plain) and len(_lost(metadata, suffix, ANY_TAG)) < len(plain)


def lost(metadata: Metadata, suffix: str) -> tuple[str, ...]:
    """Return the names of what a file with this ending cannot hold. An ending that is no container's holds nothing."""
    if suffix not in (*MP4, ".mkv", ".webm"):
        return tuple(metadata.names())
    return _lost(metadata, suffix, ANY_TAG if _needs_any_tag(metadata, suffix) else "")


@functools.lru_cache(maxsize=64)
def _lost(metadata: Metadata, suffix: str, flags: str) -> tuple[str, ...]:
    """What is not found in a file that was written with it."""
    if not (metadata.clip or metadata.track or metadata.chapters):
        return ()
    data = io.BytesIO()
    form = {".mov": "mov", ".mkv": "matroska", ".webm": "matroska"}.get(suffix, "mp4")
    with av.open(data, "w", format=form, options={"movflags": flags} if flags else {}) as out:
        stream = out.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        attach(out, stream, metadata)
        black = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")
        out.mux(list(chain(stream.encode(black), stream.encode(None))))
    data.seek(0)
    with av.open(data, metadata_errors="replace") as again:
        found = read_metadata(again, again.streams.video[0])
    kept = {*found.names()}
    return tuple(name for name in metadata.names() if name not in kept)

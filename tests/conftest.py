"""What all tests share: tiny models, the embedded model, clips made with PyAV itself, and the order of the files."""

import os
import signal
import tempfile
from fractions import Fraction
from pathlib import Path

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="no-weights-")  # no downloads of the user are seen
os.environ["OMP_NUM_THREADS"] = "1"  # in processes that tests start; here it is set below

import av
import numpy as np
import pytest
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
torch.set_num_threads(1)  # two files run at once, and tiny networks gain nothing by more

# The files that take longest start first, so that no worker ends with one of them alone.
LONGEST = (
    "test_contract",
    "test_page",
    "test_cluster",
    "test_fuzz",
    "test_run",
    "test_oracle",
    "test_browser",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONGEST)))  # stable


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    from .browser import ARGUMENTS, BROWSER

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=BROWSER, args=ARGUMENTS.split())
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def tiny_wan():
    from . import tiny

    return tiny.wan()


@pytest.fixture(scope="session")
def shapeworld():
    from holdfast import load_backbone

    return load_backbone("shapeworld-wan", device="cpu")


def picture(t: int, width: int, height: int) -> np.ndarray:
    """A smooth moving test picture, uint8."""
    y, x = np.mgrid[0:height, 0:width]
    red = 128 + 100 * np.sin(x / 9 + t / 3)
    green = 128 + 100 * np.cos(y / 11 - t / 4)
    blue = np.full_like(red, 40 + 5 * t % 200)
    return np.stack([red, green, blue], -1).clip(0, 255).astype(np.uint8)


@pytest.fixture
def make_clip(tmp_path):
    """make_clip(name, frames=, size=, rate=, ...) writes a clip straight through PyAV and returns its path."""

    def make(
        name="clip.mp4",
        frames=6,
        size=(48, 32),
        rate=Fraction(8),
        pixels="yuv420p",
        audio=0,
        rotation=0,
        times=None,
        codec="libx264",
        colour=None,
        options=None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as out:
            stream = out.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, pixels
            if (
                codec == "libx264"
            ):  # at its default, a bit rate, the encoder's threads make every file a little different
                stream.codec_context.options = {"crf": "18"}
            if options:
                stream.codec_context.options = options
            for key, value in (colour or {}).items():
                setattr(stream.codec_context, key, value)
            stream.codec_context.time_base = stream.time_base = (
                Fraction(1, 1000) if times else 1 / Fraction(rate)
            )
            if rotation:
                stream.set_display_rotation(rotation)
            sounds = [out.add_stream("aac", rate=44100) for _ in range(audio)]
            for sound, language in zip(sounds, ("deu", "fra", "jpn"), strict=False):
                sound.metadata["language"] = language
            for i in range(frames):
                frame = av.VideoFrame.from_ndarray(picture(i, *size), "rgb24").reformat(
                    format=pixels
                )
                frame.pts, frame.time_base = (
                    (times[i] if times else i),
                    stream.codec_context.time_base,
                )
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
            for k, sound in enumerate(sounds):
                write_tone(out, sound, 330 * (k + 1), frames / float(rate))
        return path

    return make


def write_tone(out, stream, pitch: float, seconds: float) -> None:
    samples = np.sin(np.arange(int(44100 * seconds)) * pitch * 2 * np.pi / 44100).astype(np.float32)
    for i in range(0, len(samples), 1024):
        block = samples[i : i + 1024]
        frame = av.AudioFrame.from_ndarray(np.stack([block, block]), "fltp", "stereo")
        frame.sample_rate, frame.pts = 44100, i
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def audio_packets(path: Path) -> list[tuple]:
    """Time and raw bytes of every packet of every audio track, and the track's language."""
    with av.open(str(path)) as container:
        languages = [track.metadata.get("language") for track in container.streams.audio]
    tracks = []
    for i, language in enumerate(languages):
        with (
            av.open(str(path)) as container
        ):  # opened anew: after a seek the first packet, before time 0, is not seen again
            tracks.append(
                (
                    language,
                    [
                        (float(p.pts * p.time_base), bytes(p))
                        for p in container.demux(audio=i)
                        if p.size
                    ],
                )
            )
    return tracks

"""Verify what the delivered file preserves of a clip, with FFmpeg's own programs: `python benchmarks/kept.py`.

Each clip of a folder and each kind of clip made here is edited in a box in its middle, once at the default quality and
once losslessly. ffprobe and ffmpeg read both files: frames, times, size, pixel aspect, rotation, colour tags, depth,
fields and sound; luma outside the box in dB; and whether every sample outside equals the source's in the lossless file.
Prints Markdown. `--clips FOLDER` adds its videos and folders of images.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy import ndarray
from tables import print_header, print_row

from holdfast.models.registry import load_backbone
from holdfast.pipeline.run import edit
from holdfast.pipeline.task import EditTask

BOX = (slice(1, 4), slice(1, 3))  # fifths of the height, quarters of the width
PATTERN = "testsrc2=size={size}:rate=8:duration=2"
SIZE = "96x64"
X264 = ["-c:v", "libx264", "-crf", "18"]
X264_420 = [*X264, "-pix_fmt", "yuv420p"]
HDR = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
VARIABLE_RATE = ["-vf", "setpts='N*0.1/TB+mod(N,3)*0.02/TB'", "-fps_mode", "vfr"]
ALPHA_RAMP = "format=yuva444p,geq=lum='p(X,Y)':cb='p(X,Y)':cr='p(X,Y)':a='255*X/W'"
# kind of clip: ffmpeg's output arguments, and the file's suffix
CLIPS: dict[str, tuple[list[str], str]] = {
    "rotated by 90": (X264_420, ".mp4"),
    "rotated by 180": (X264_420, ".mp4"),
    "rotated by 270": (X264_420, ".mp4"),
    "variable rate": ([*X264_420, *VARIABLE_RATE], ".mp4"),
    "10-bit": ([*X264, "-pix_fmt", "yuv420p10le"], ".mp4"),
    "4:2:2": ([*X264, "-pix_fmt", "yuv422p"], ".mp4"),
    "4:4:4": ([*X264, "-pix_fmt", "yuv444p"], ".mp4"),
    "full range": ([*X264, "-pix_fmt", "yuvj420p"], ".mp4"),
    "odd sides": ([*X264, "-vf", "format=yuv444p,scale=97:63"], ".mp4"),
    "PQ": ([*X264, "-pix_fmt", "yuv420p10le", "-x264-params", HDR], ".mp4"),
    "interlaced": ([*X264_420, "-flags", "+ilme+ildct", "-top", "1"], ".mp4"),
    "transparent": (
        ["-vf", ALPHA_RAMP, "-c:v", "libvpx-vp9", "-crf", "20", "-pix_fmt", "yuva420p"],
        ".webm",
    ),
    "two sound tracks": (X264_420, ".mp4"),
    "5.1 sound": (X264_420, ".mp4"),
    "AVI": (["-c:v", "mpeg4", "-q:v", "3", "-bf", "0"], ".avi"),
    "ProRes": (["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"], ".mov"),
    "AV1": (["-c:v", "libsvtav1", "-crf", "20", "-pix_fmt", "yuv420p"], ".mp4"),
    "VP9": (["-c:v", "libvpx-vp9", "-crf", "20", "-pix_fmt", "yuv420p"], ".webm"),
}
SINE = ["-f", "lavfi", "-i", "sine={frequency}:duration=2"]
OUTPUT_SUFFIX = {".avi": ".mkv"}  # if the source's own container cannot be written
PROPERTIES = (
    "width", "height", "sample_aspect_ratio", "pix_fmt", "field_order",
    "color_range", "color_space", "color_transfer", "color_primaries",
)  # fmt: skip
# ffprobe's values for an unspecified property, and those that players assume for it
DEFAULTS = ("unknown", "unspecified", "progressive", "1:1", "N/A", "0:1", "tv")


def run_tool(name: str, *arguments: str) -> bytes:
    return subprocess.run([name, "-v", "error", *arguments], check=True, capture_output=True).stdout


def make_clip(name: str, folder: Path) -> Path:
    """Make a clip of one of the kinds in CLIPS."""
    arguments, suffix = CLIPS[name]
    inputs = ["-f", "lavfi", "-i", PATTERN.format(size=SIZE)]
    sound: list[str] = []
    if name == "two sound tracks":
        inputs += _sine(330) + _sine(660)
        sound = ["-map", "0:v", "-map", "1:a", "-map", "2:a", "-c:a", "aac"]
    if name == "5.1 sound":
        inputs += _sine(330)
        sound = ["-map", "0:v", "-map", "1:a", "-c:a", "aac", "-ac", "6"]
    path = folder / f"{name.replace(' ', '-').replace(':', '')}{suffix}"
    run_tool("ffmpeg", "-y", *inputs, *arguments, *sound, str(path))
    if name.startswith("rotated"):
        return add_rotation(path, int(name.rpartition(" ")[2]))
    return path


def _sine(frequency: int) -> list[str]:
    return [part.format(frequency=frequency) for part in SINE]


def add_rotation(path: Path, angle: int) -> Path:
    """Return a copy with a rotation tag, by PyAV: FFmpeg's programs have renamed their option for it repeatedly."""
    rotated = path.with_name("turned-" + path.name)
    with av.open(str(path)) as source, av.open(str(rotated), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(angle)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return rotated


@dataclass
class ProbedFile:
    """A file as ffprobe and ffmpeg describe it."""

    properties: dict[str, Any]
    times: list[Fraction]
    rotation: int
    sound: list[str]
    planes: list[list[ndarray]]  # of each frame, as stored

    @property
    def pixel_format(self) -> str:
        return self.properties["pix_fmt"].replace("yuvj", "yuv")


def probe_file(path: Path) -> ProbedFile:
    entries = ("-show_streams", "-show_frames", "-show_entries", "frame=pts,stream_index")
    report = json.loads(run_tool("ffprobe", *entries, "-of", "json", str(path)))
    track = next(s for s in report["streams"] if s["codec_type"] == "video")
    frames = [f for f in report["frames"] if f["stream_index"] == track["index"]]
    base = Fraction(track["time_base"])
    rotations = [int(d["rotation"]) for d in track.get("side_data_list", ()) if "rotation" in d]
    audio = [s["index"] for s in report["streams"] if s["codec_type"] == "audio"]
    properties = {name: track.get(name) for name in PROPERTIES}
    tags = track.get("tags", {})
    if tags.get("ALPHA_MODE", tags.get("alpha_mode")) == "1":
        properties["pix_fmt"] = "yuva420p"  # only libvpx's decoder reports it
    return ProbedFile(
        properties,
        times=[f["pts"] * base for f in frames],
        rotation=rotations[0] % 360 if rotations else 0,
        sound=[hash_track(path, index) for index in audio],
        planes=list(read_planes(path, properties)),
    )


def hash_track(path: Path, index: int) -> str:
    """Return the MD5 of a track's packets."""
    copy = ("-c", "copy", "-f", "md5", "-")
    return run_tool("ffmpeg", "-i", str(path), "-map", f"0:{index}", *copy).decode()


def read_planes(path: Path, properties: dict[str, Any]) -> Iterator[list[ndarray]]:
    """Yield the planes of each frame, h w, as stored."""
    pixel_format = properties["pix_fmt"]
    is_vp9_alpha = pixel_format == "yuva420p" and path.suffix == ".webm"
    decoder = ["-c:v", "libvpx-vp9"] if is_vp9_alpha else []
    data = run_tool("ffmpeg", "-noautorotate", *decoder, "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough",
                    "-f", "rawvideo", "-pix_fmt", pixel_format, "-")  # fmt: skip
    values = np.frombuffer(data, np.uint16 if pixel_format.endswith("le") else np.uint8)
    width, height = properties["width"], properties["height"]
    subsampling = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}
    rows, columns = subsampling[pixel_format.lstrip("yuvaj")[:3]]
    chroma = (-(-height // rows), -(-width // columns))
    has_alpha = pixel_format.startswith("yuva")
    shapes = [(height, width), chroma, chroma] + [(height, width)] * has_alpha
    ends = np.cumsum([h * w for h, w in shapes])
    for frame in values.reshape(-1, ends[-1]):
        parts = np.split(frame, ends[:-1])
        yield [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def edit_box(width: int, height: int) -> tuple[str, ndarray]:
    """Return the box to edit in the frame as displayed: as text x,y,w,h and as a mask."""
    rows = slice(height * BOX[0].start // 5, height * BOX[0].stop // 5)
    columns = slice(width * BOX[1].start // 4, width * BOX[1].stop // 4)
    inside = np.zeros((height, width), bool)
    inside[rows, columns] = True
    box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    return ",".join(map(str, box)), inside


def outside_samples(inside: ndarray, shape: tuple[int, int]) -> ndarray:
    """Return the samples of a plane that cover at least one pixel outside the mask."""
    steps = [-(-side // n) for side, n in zip(inside.shape, shape, strict=True)]
    pad = [(0, n * s - side) for n, s, side in zip(shape, steps, inside.shape, strict=True)]
    cells = np.pad(inside, pad, mode="edge").reshape(shape[0], steps[0], shape[1], steps[1])
    return ~cells.all((1, 3))


def compare_planes(
    one: ProbedFile, other: ProbedFile, inside: ndarray
) -> tuple[float, bool | None]:
    """Return luma outside in dB, mean over frames, and whether every sample outside is equal (None: other layout)."""
    if one.pixel_format != other.pixel_format or len(one.planes) != len(other.planes):
        return float("nan"), None
    stored = np.rot90(inside, -(one.rotation // 90))
    decibels, equal = [], True
    peak = 1023 if "10" in one.pixel_format else 4095 if "12" in one.pixel_format else 255
    for a, b in zip(one.planes, other.planes, strict=True):
        for n, (first, second) in enumerate(zip(a, b, strict=True)):
            outside = outside_samples(stored, first.shape)
            equal &= bool((first == second)[outside].all())
            if n == 0:
                square = np.square((first[outside].astype(float) - second[outside]) / peak).mean()
                decibels.append(min(100.0, -10 * np.log10(max(square, 1e-10))))
    return float(np.mean(decibels)), equal


def list_differences(one: ProbedFile, other: ProbedFile, tick: float) -> list[str]:
    """Return the properties that differ. A time may be off by the container's tick, in seconds."""
    names = [name for name in PROPERTIES if _normalize(one, name) != _normalize(other, name)]
    starts = [[float(t - file.times[0]) for t in file.times] for file in (one, other)]
    if len(starts[0]) != len(starts[1]):
        names.append("frames")
    elif max((abs(a - b) for a, b in zip(*starts, strict=True)), default=0) > tick:
        names.append("times")
    if one.rotation != other.rotation:
        names.append("rotation")
    return names + ["sound"] * (one.sound != other.sound)


def _normalize(file: ProbedFile, name: str) -> object:
    """Return a property, with None for every value that means the default."""
    if name == "pix_fmt":
        return file.pixel_format
    value = file.properties[name]
    return None if value in DEFAULTS else value


def print_clip(name: str, path: Path, folder: Path, backbone: Any, crf: int | None) -> None:
    """Edit a clip, compare the delivered files with it, and print a row."""
    source = probe_file(path) if path.is_file() else None
    width, height = displayed_size(path, source)
    box, inside = edit_box(width, height)
    usual, delivered = edit_clip(path, folder, backbone, default_codec(name), box, crf)
    lossless, _ = edit_clip(path, folder, backbone, "lossless", box, crf)
    if source is None:
        print_row(name, "images", "-", *("-" * 2), "-")
        return
    default_file, lossless_file = probe_file(usual), probe_file(lossless)
    tick = 0.0011 if output_suffix(path) in (".mkv", ".webm") else 1e-6
    lost = sorted(
        {
            *list_differences(source, default_file, tick),
            *list_differences(source, lossless_file, 0.0011),
        }
    )
    decibels, _ = compare_planes(source, default_file, inside)
    _, equal = compare_planes(source, lossless_file, inside)
    reported = delivered["luma_psnr_outside"]
    print_row(
        name,
        f"{source.properties['pix_fmt']}, {width}x{height}, {len(source.times)} frames",
        "all" if not lost else "all but " + ", ".join(lost),
        f"{decibels:.1f}",
        "-" if reported is None else f"{reported:.1f}",
        {True: "yes", False: "no", None: "other layout"}[equal],
        f"{usual.stat().st_size / path.stat().st_size:.1f}",
    )


def default_codec(name: str) -> str:
    return "prores" if name == "ProRes" else "auto"  # ProRes has 10 bits


def output_suffix(path: Path) -> str:
    return OUTPUT_SUFFIX.get(path.suffix, path.suffix) or ".mkv"


def edit_clip(
    path: Path, folder: Path, backbone: Any, codec: str, box: str, crf: int | None
) -> tuple[Path, dict[str, Any]]:
    """Edit a clip inside a box. Return the file, and what its manifest reports of the delivered file."""
    suffix = output_suffix(path)
    ending = ".mkv" if suffix == ".webm" and codec == "lossless" else suffix
    task = EditTask(
        str(path),
        str(folder / f"{codec}-{path.stem}{ending}"),
        source_prompt="a red square moves left",
        target_prompt="a blue square moves left",
        backbone=backbone.name,
        mask=box,
        codec=codec,
        crf=crf,
        settings={"steps": 2},
    )
    result = edit(task, backbone)
    return result.save(), result.manifest["delivered"]


def displayed_size(path: Path, source: ProbedFile | None) -> tuple[int, int]:
    """Return width and height after rotation."""
    if source is None:
        from holdfast.media.video import probe

        return probe(path).size
    width, height = source.properties["width"], source.properties["height"]
    return (height, width) if source.rotation % 180 else (width, height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, default=None, help="a folder with more clips")
    parser.add_argument("--only", default="", help="kinds and clips whose name contains this")
    parser.add_argument("--crf", type=int, default=None, help="instead of the default quality")
    options = parser.parse_args()
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise SystemExit("this benchmark needs FFmpeg's own programs: install ffmpeg first")
    backbone = load_backbone("shapeworld-wan", None)
    columns = ("luma outside, dB, by ffmpeg", "in the manifest", "lossless: equal outside")
    print_header("clip", "stored as", "preserved", *columns, "size relative to the source")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in CLIPS:
            if options.only in kind:
                print_clip(kind, make_clip(kind, folder), folder, backbone, options.crf)
        clips = sorted(options.clips.glob("*.mp4")) if options.clips else []
        for path in clips:
            if options.only in path.name:
                print_clip(path.name, path, folder, backbone, options.crf)


if __name__ == "__main__":
    main()

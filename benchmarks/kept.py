"""What of a clip is kept in the file that a user gets, checked by FFmpeg's own programs: `python benchmarks/kept.py`.

Each clip of a folder and each kind made here is edited in a box in its middle, once at the default quality and once
without loss, and both files are taken apart by ffprobe and ffmpeg: frames, times, size, pixel aspect, rotation, colour
tags, depth, fields and sound; luma outside the box in dB; whether without loss every sample outside is the source's.
Prints Markdown. `--clips FOLDER` adds its videos and folders of images.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tables import head, line

from holdfast.models.registry import load_backbone
from holdfast.pipeline.run import edit
from holdfast.pipeline.task import EditTask

BOX = (slice(1, 4), slice(1, 3))  # quarters of the height and width
FLAT = "testsrc2=size={size}:rate=8:duration=2"
X264 = ["-c:v", "libx264", "-crf", "18"]
HDR = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
# arguments of ffmpeg after the picture, the size, and the suffix
MADE = {
    "rotated by 90": ([*X264, "-pix_fmt", "yuv420p"], "96x64", ".mp4"),
    "rotated by 180": ([*X264, "-pix_fmt", "yuv420p"], "96x64", ".mp4"),
    "rotated by 270": ([*X264, "-pix_fmt", "yuv420p"], "96x64", ".mp4"),
    "variable rate": (
        [
            *X264,
            "-pix_fmt",
            "yuv420p",
            "-vf",
            "setpts='N*0.1/TB+mod(N,3)*0.02/TB'",
            "-fps_mode",
            "vfr",
        ],
        "96x64",
        ".mp4",
    ),
    "10-bit": ([*X264, "-pix_fmt", "yuv420p10le"], "96x64", ".mp4"),
    "4:2:2": ([*X264, "-pix_fmt", "yuv422p"], "96x64", ".mp4"),
    "4:4:4": ([*X264, "-pix_fmt", "yuv444p"], "96x64", ".mp4"),
    "full range": ([*X264, "-pix_fmt", "yuvj420p"], "96x64", ".mp4"),
    "odd sides": ([*X264, "-vf", "format=yuv444p,scale=97:63"], "96x64", ".mp4"),
    "PQ": ([*X264, "-pix_fmt", "yuv420p10le", "-x264-params", HDR], "96x64", ".mp4"),
    "interlaced": (
        [*X264, "-pix_fmt", "yuv420p", "-flags", "+ilme+ildct", "-top", "1"],
        "96x64",
        ".mp4",
    ),
    "seen through": (
        ["-c:v", "libvpx-vp9", "-crf", "20", "-pix_fmt", "yuva420p"],
        "96x64",
        ".webm",
    ),
    "two sound tracks": ([*X264, "-pix_fmt", "yuv420p"], "96x64", ".mp4"),
    "5.1 sound": ([*X264, "-pix_fmt", "yuv420p"], "96x64", ".mp4"),
    "AVI": (["-c:v", "mpeg4", "-q:v", "3", "-bf", "0"], "96x64", ".avi"),
    "ProRes": (["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"], "96x64", ".mov"),
    "AV1": (["-c:v", "libsvtav1", "-crf", "20", "-pix_fmt", "yuv420p"], "96x64", ".mp4"),
    "VP9": (["-c:v", "libvpx-vp9", "-crf", "20", "-pix_fmt", "yuv420p"], "96x64", ".webm"),
}
OUT = {".avi": ".mkv"}  # where the source's own container is not written
SHAPE = ("width", "height", "sample_aspect_ratio", "pix_fmt", "field_order")
PROPERTIES = (*SHAPE, "color_range", "color_space", "color_transfer", "color_primaries")


def tool(name: str, *arguments: str) -> bytes:
    return subprocess.run([name, "-v", "error", *arguments], check=True, capture_output=True).stdout


def made(name: str, folder: Path) -> Path:
    arguments, size, suffix = MADE[name]
    picture = ["-f", "lavfi", "-i", FLAT.format(size=size)]
    sound = []
    if name == "two sound tracks":
        picture += [
            "-f",
            "lavfi",
            "-i",
            "sine=330:duration=2",
            "-f",
            "lavfi",
            "-i",
            "sine=660:duration=2",
        ]
        sound = ["-map", "0:v", "-map", "1:a", "-map", "2:a", "-c:a", "aac"]
    if name == "5.1 sound":
        picture += ["-f", "lavfi", "-i", "sine=330:duration=2"]
        sound = ["-map", "0:v", "-map", "1:a", "-c:a", "aac", "-ac", "6"]
    if name == "seen through":
        arguments = [
            "-vf",
            "format=yuva444p,geq=lum='p(X,Y)':cb='p(X,Y)':cr='p(X,Y)':a='255*X/W'",
            *arguments,
        ]
    path = folder / f"{name.replace(' ', '-').replace(':', '')}{suffix}"
    tool("ffmpeg", "-y", *picture, *arguments, *sound, str(path))
    if name.startswith("rotated"):
        return tagged(path, int(name.rpartition(" ")[2]))
    return path


def tagged(path: Path, angle: int) -> Path:
    """The same with a rotation tag; FFmpeg's programs have changed their word for it more than once."""
    turned = path.with_name("turned-" + path.name)
    with av.open(str(path)) as source, av.open(str(turned), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(angle)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return turned


@dataclass
class Seen:
    """A file as ffprobe and ffmpeg tell of it."""

    about: dict
    times: list[Fraction]
    rotation: int
    sound: list[str]
    planes: list[list[np.ndarray]]  # of each frame, as stored

    @property
    def kind(self) -> str:
        return self.about["pix_fmt"].replace("yuvj", "yuv")


def seen(path: Path) -> Seen:
    asked = (
        "-show_streams",
        "-show_frames",
        "-show_entries",
        "frame=pts,stream_index",
        "-of",
        "json",
    )
    found = json.loads(tool("ffprobe", *asked, str(path)))
    track = next(s for s in found["streams"] if s["codec_type"] == "video")
    frames = [f for f in found["frames"] if f["stream_index"] == track["index"]]
    base = Fraction(track["time_base"])
    turned = [int(d["rotation"]) for d in track.get("side_data_list", ()) if "rotation" in d]
    tracks = [s["index"] for s in found["streams"] if s["codec_type"] == "audio"]
    copied = ("-c", "copy", "-f", "md5", "-")
    sound = [tool("ffmpeg", "-i", str(path), "-map", f"0:{n}", *copied).decode() for n in tracks]
    about = {name: track.get(name) for name in PROPERTIES}
    if track.get("tags", {}).get("ALPHA_MODE", track.get("tags", {}).get("alpha_mode")) == "1":
        about["pix_fmt"] = "yuva420p"  # which only libvpx's decoder sees
    times = [f["pts"] * base for f in frames]
    rotation = turned[0] % 360 if turned else 0
    return Seen(about, times, rotation, sound, list(raw(path, about)))


def raw(path: Path, about: dict):
    """Planes of each frame, h w."""
    kind, deep = about["pix_fmt"], about["pix_fmt"].endswith("le")
    decoder = ["-c:v", "libvpx-vp9"] if kind == "yuva420p" and path.suffix == ".webm" else []
    data = tool("ffmpeg", "-noautorotate", *decoder, "-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough",
                "-f", "rawvideo", "-pix_fmt", kind, "-")  # fmt: skip
    values = np.frombuffer(data, np.uint16 if deep else np.uint8)
    width, height = about["width"], about["height"]
    halves = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}[kind.lstrip("yuvaj")[:3]]
    small = (-(-height // halves[0]), -(-width // halves[1]))
    shapes = [(height, width), small, small] + [(height, width)] * kind.startswith("yuva")
    ends = np.cumsum([h * w for h, w in shapes])
    for frame in values.reshape(-1, ends[-1]):
        parts = np.split(frame, ends[:-1])
        yield [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def box(width: int, height: int) -> tuple[str, np.ndarray]:
    """In the frame as it is seen, for the command line and as a mask."""
    rows = slice(height * BOX[0].start // 5, height * BOX[0].stop // 5)
    columns = slice(width * BOX[1].start // 4, width * BOX[1].stop // 4)
    inside = np.zeros((height, width), bool)
    inside[rows, columns] = True
    said = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    return ",".join(map(str, said)), inside


def outside(inside: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Samples of a plane of which some pixel is outside."""
    steps = [-(-side // n) for side, n in zip(inside.shape, shape, strict=True)]
    pad = [(0, n * s - side) for n, s, side in zip(shape, steps, inside.shape, strict=True)]
    cells = np.pad(inside, pad, mode="edge").reshape(shape[0], steps[0], shape[1], steps[1])
    return ~cells.all((1, 3))


def compared(one: Seen, other: Seen, inside: np.ndarray) -> tuple[float, bool | None]:
    """Luma outside in dB, mean over frames; whether every sample outside is equal."""
    if one.kind != other.kind or len(one.planes) != len(other.planes):
        return float("nan"), None
    stored = np.rot90(inside, -(one.rotation // 90))
    decibels, equal = [], True
    peak = 1023 if "10" in one.kind else 4095 if "12" in one.kind else 255
    for a, b in zip(one.planes, other.planes, strict=True):
        for n, (here, there) in enumerate(zip(a, b, strict=True)):
            where = outside(stored, here.shape)
            equal &= bool((here == there)[where].all())
            if n == 0:
                square = np.square((here[where].astype(float) - there[where]) / peak).mean()
                decibels.append(min(100.0, -10 * np.log10(max(square, 1e-10))))
    return float(np.mean(decibels)), equal


def differing(one: Seen, other: Seen, tick: float) -> list[str]:
    """What is not as it was. A time may be off by the container's tick."""
    found = [name for name in PROPERTIES if said(one.about[name]) != said(other.about[name])]
    if one.about["pix_fmt"].replace("yuvj", "yuv") == other.about["pix_fmt"].replace("yuvj", "yuv"):
        found = [name for name in found if name != "pix_fmt"]
    starts = [[float(t - s.times[0]) for t in s.times] for s in (one, other)]
    if len(starts[0]) != len(starts[1]):
        found.append("frames")
    elif max((abs(a - b) for a, b in zip(*starts, strict=True)), default=0) > tick:
        found.append("times")
    if one.rotation != other.rotation:
        found.append("rotation")
    return found + ["sound"] * (one.sound != other.sound)


def said(value) -> object:
    """What is not said is what it is taken for."""
    usual = ("unknown", "unspecified", "progressive", "1:1", "N/A", "0:1", "tv")
    return None if value in usual else value


def row(name: str, path: Path, folder: Path, backbone, crf: int | None) -> None:
    suffix = OUT.get(path.suffix, path.suffix) or ".mkv"
    source = seen(path) if path.is_file() else None
    width, height = size_of(path, source)
    spoken, inside = box(width, height)
    about = {
        "source_prompt": "a red square moves left",
        "target_prompt": "a blue square moves left",
    }
    asked = {"backbone": backbone.name, "mask": spoken, "settings": {"steps": 2}}
    asked["crf"] = crf
    files = {}
    for codec in ("auto", "lossless"):
        if name == "ProRes" and codec == "auto":
            codec = "prores"  # its own, of ten bits
        ending = ".mkv" if suffix == ".webm" and codec == "lossless" else suffix
        result = edit(
            EditTask(
                str(path),
                str(folder / f"{codec}-{path.stem}{ending}"),
                codec=codec,
                **asked,
                **about,
            ),
            backbone,
        )
        files[codec] = result.save(), result.manifest["delivered"]
    if source is None:
        line(name, "images", "-", *("-" * 2), "-")
        return
    (usual, delivered), (lossless, _) = files.values()
    here, there = seen(usual), seen(lossless)
    tick = 0.0011 if suffix in (".mkv", ".webm") else 1e-6
    lost = sorted({*differing(source, here, tick), *differing(source, there, 0.0011)})
    decibels, _ = compared(source, here, inside)
    _, equal = compared(source, there, inside)
    share = usual.stat().st_size / path.stat().st_size
    line(name, f"{source.about['pix_fmt']}, {width}x{height}, {len(source.times)} frames",
         "all" if not lost else "all but " + ", ".join(lost), f"{decibels:.1f}",
         "-" if delivered["luma_psnr_outside"] is None else f"{delivered['luma_psnr_outside']:.1f}",
         {True: "yes", False: "no", None: "other layout"}[equal], f"{share:.1f}")  # fmt: skip


def size_of(path: Path, source: Seen | None) -> tuple[int, int]:
    """As it is seen."""
    if source is None:
        from holdfast.media.video import probe

        return probe(path).size
    size = source.about["width"], source.about["height"]
    return size[::-1] if source.rotation % 180 else size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=Path, default=None, help="a folder of clips besides")
    parser.add_argument("--only", default="", help="kinds and clips whose name has this word")
    parser.add_argument("--crf", type=int, default=None, help="in place of the default quality")
    options = parser.parse_args()
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise SystemExit("this checks with FFmpeg's own programs; install ffmpeg first")
    backbone = load_backbone("shapeworld-wan", None)
    figures = ("luma outside, dB, by ffmpeg", "in the manifest", "lossless: equal outside")
    head("clip", "stored as", "kept", *figures, "size, of the source's")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in MADE:
            if options.only in kind:
                row(kind, made(kind, folder), folder, backbone, options.crf)
        clips = sorted(options.clips.glob("*.mp4")) if options.clips else []
        for path in clips:
            if options.only in path.name:
                row(path.name, path, folder, backbone, options.crf)


if __name__ == "__main__":
    main()

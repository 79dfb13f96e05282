"""`holdfast frame`: one frame of a clip as an image."""

from pathlib import Path
from typing import Annotated

import typer

from ..base.errors import UserError
from .console import print_wrote, report_errors

OUTPUT = "The image. PNG keeps every pixel."
AT = "Number of the frame, from 0; a negative number counts from the end."


def frame(
    clip: Annotated[str, typer.Argument(help="The clip.", metavar="CLIP")],
    output: Annotated[Path, typer.Option("-o", "--output", help=OUTPUT)] = Path("first.png"),
    at: Annotated[int, typer.Option(help=AT)] = 0,
) -> None:
    """Export a frame to edit in an image editor, for --first-frame."""
    with report_errors():
        export_frame(clip, output, at)
        print_wrote(str(output))


def export_frame(path: str, output: Path, at: int) -> None:
    """Write frame `at` of a clip as an image. Raise UserError for a frame or an output that cannot be."""
    from itertools import islice

    from ..base.files import atomic_write
    from ..base.notices import warn_user
    from ..media import image_writing, images, video

    clip = video.probe(path)
    where = at + clip.frames if at < 0 else at
    if not 0 <= where < clip.frames:
        raise UserError(
            f"frame {at} of {path} does not exist", f"choose from 0 to {clip.frames - 1}"
        )
    images.check_output_path(output)
    if output.exists() and output.samefile(path):
        raise UserError(f"the frame would overwrite {output}", "choose another --output")
    (array,) = islice(video.read(clip), where, where + 1)
    if clip.bits > 8 and output.suffix.lower() not in image_writing.SIXTEEN_BIT:
        warn_user(
            f"{output.name} holds 8 of the clip's {clip.bits} bits a channel; write .png or .tif"
        )
    source = clip.files[where] if clip.files else None
    with atomic_write(output) as part:
        image_writing.write_image(part, array, source, opaque=True)

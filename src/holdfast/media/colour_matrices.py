"""The matrix between YUV and RGB that a clip is tagged with (ISO/IEC 23091-2): which values are converted."""

from pathlib import Path

from av.video.reformatter import Colorspace

from ..base.errors import UserError

UNTAGGED, IDENTITY, RESERVED, FROM_PRIMARIES = 2, 0, 3, 12
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
# Value 12 derives the matrix from the primaries. For these primaries it is one of the above.
MATRIX_OF_PRIMARIES = {1: Colorspace.ITU709, 9: Colorspace.BT2020}
# These are more than a matrix, or FFmpeg's scaler does not have them.
UNSUPPORTED = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "YDzDx",
    12: "a matrix derived from its primaries",
    13: "constant luminance derived from its primaries",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


def tagged_matrix(colour: dict[str, int]) -> Colorspace | None:
    """Return the tagged matrix, or None where there is no usable tag."""
    space = colour.get("space", UNTAGGED)
    if space == FROM_PRIMARIES:
        return MATRIX_OF_PRIMARIES.get(colour.get("primaries", UNTAGGED))
    return MATRICES.get(space)


def check_matrix(path: Path, colour: dict[str, int]) -> list[str]:
    """Return what a user should know about the matrix of a YUV clip, one sentence each.

    Raise UserError for a matrix that cannot be converted: all colours would be wrong.
    """
    space = colour.get("space", UNTAGGED)
    if tagged_matrix(colour) or space == UNTAGGED:
        return []
    if space in UNSUPPORTED:
        target = "2020_ncl" if colour.get("primaries") == 9 else "709"
        raise UserError(
            f"{path} stores its colours as {UNSUPPORTED[space]} (matrix {space}), which is not supported",
            f"convert it first, such as with ffmpeg -i INPUT -vf zscale=matrix={target} OUTPUT",
        )
    problem = "means RGB, but the samples are YUV" if space == IDENTITY else "has no meaning"
    return [f"the colour matrix {space} of {path.name} {problem}: it is read like an untagged clip"]

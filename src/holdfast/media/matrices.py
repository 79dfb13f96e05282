"""The matrix between YUV and RGB that a clip is tagged with (ISO/IEC 23091-2): those that are converted, and others."""

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
OF_PRIMARIES = {1: Colorspace.ITU709, 9: Colorspace.BT2020}  # from which 12 derives the same matrix
# These are no matrix alone, or one that FFmpeg's scaler does not have.
OTHERS = {
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


def matrix_of(colour: dict[str, int]) -> Colorspace | None:
    """Return the tagged matrix; None where no tag says one."""
    space = colour.get("space", UNTAGGED)
    if space == FROM_PRIMARIES:
        return OF_PRIMARIES.get(colour.get("primaries", UNTAGGED))
    return MATRICES.get(space)


def check_matrix(path: Path, colour: dict[str, int]) -> list[str]:
    """Return what a user should know of the matrix of a YUV clip, in a sentence each.

    Raises UserError for one that cannot be converted: all colours would be wrong.
    """
    space = colour.get("space", UNTAGGED)
    if matrix_of(colour) or space == UNTAGGED:
        return []
    if space in OTHERS:
        target = "2020_ncl" if colour.get("primaries") == 9 else "709"
        raise UserError(
            f"{path} stores its colours as {OTHERS[space]} (matrix {space}), which is not read here",
            f"convert it first, such as with ffmpeg -i INPUT -vf zscale=matrix={target} OUTPUT",
        )
    why = "says RGB, and the samples are YUV" if space == IDENTITY else "has no meaning"
    return [f"the colour matrix {space} of {path.name} {why}: it is read as an untagged clip is"]

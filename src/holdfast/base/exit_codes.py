"""Exit codes, and errors and durations in words, for every front end."""

import errno
import os

FAILED, BAD_INPUT, MISSING, NO_MEMORY, CANCELLED = 1, 2, 3, 4, 130
# What the system says of a name that a user gave; anything else (a full disk, say) came while the work was done.
PATH_ERRORS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EROFS,
    errno.ENXIO,
}
OUT_OF_MEMORY = (
    "out of memory; fewer --frames, a smaller model, or --dtype bfloat16 would need less"
)


def format_os_error(error: OSError) -> str:
    """What the system says, as a sentence that begins with the file."""
    cure = "; free some" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    if not (error.filename and error.strerror):
        return f"{error.strerror or error}{cure}"
    return f"{os.fsdecode(error.filename)}: {error.strerror}{cure}"


def sanitize(message: object) -> str:
    """One line whatever a file is called: control characters would move the cursor, or worse."""
    text = " ".join(str(message).splitlines())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def format_duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

"""Exit codes, and errors and durations as text, for every front end."""

import errno
import os

FAILED, BAD_INPUT, MISSING, NO_MEMORY, CANCELLED = 1, 2, 3, 4, 130
# System errors about a path that the user named. Others (a full disk) happen during the work.
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
OUT_OF_MEMORY = "out of memory: use fewer --frames, a smaller model, or --dtype bfloat16"


def format_os_error(error: OSError) -> str:
    """Return a system error as a sentence that begins with the file."""
    remedy = ": free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    if not (error.filename and error.strerror):
        return f"{error.strerror or error}{remedy}"
    return f"{os.fsdecode(error.filename)}: {error.strerror}{remedy}"


def sanitize(message: object) -> str:
    """Return a message in one line, without control characters, which could move the cursor."""
    text = " ".join(str(message).splitlines())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def format_duration(seconds: float) -> str:
    """Return a duration as text, such as "45 s" or "10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

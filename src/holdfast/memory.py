"""Whether an error says that memory ran out: a library says so in many ways, and none of them is bad input."""

_SAID = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "Insufficient memory",
)


def ran_out(error: BaseException) -> bool:
    """Of Python, numpy, OpenCV, and torch on a GPU and on a CPU."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in _SAID)

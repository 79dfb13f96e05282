"""One file per paper; the file's name is the method's. Each offers NEEDS, Config and the generator edit()."""


def names() -> list[str]:
    """Names of all methods."""
    from ..registry import modules

    return modules("holdfast.methods")

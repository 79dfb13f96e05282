"""The errors that a user can cause. Every front end reports them in one sentence without a traceback."""

import re
from collections.abc import Callable

FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)")


class UserError(ValueError):
    """The input is wrong, and the user can fix it (exit code 2). Any other ValueError is a bug and keeps its traceback.

    cause: what is wrong, with the value; remedy: what to do. A remedy names a control as a flag of the command line
    (`--mask`); a page and Python put their own names in its place (`name_controls`).
    """

    def __init__(self, cause: str, remedy: str = ""):
        super().__init__(cause, remedy)
        self.cause, self.remedy = cause, remedy

    def name_controls(self, control: Callable[[str], str]) -> None:
        """Put other names in place of flags. control: a flag without its dashes to what takes its place."""
        self.cause = name_controls(self.cause, control)
        self.remedy = name_controls(self.remedy, control)

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy}" if self.remedy else self.cause


class UnknownArgumentError(UserError, TypeError):
    """A name that a function or a class does not take. Python users expect a TypeError."""


class MissingArgumentError(UserError, TypeError):
    """A required argument is missing. Python users expect a TypeError."""


class InputNotFoundError(UserError, FileNotFoundError):
    """An input file that does not exist. Python users expect a FileNotFoundError."""


class MissingDependencyError(Exception):
    """Weights or an optional package are not installed (exit code 3).

    cause: what is missing; remedy: how to get it, with the command.
    """

    def __init__(self, cause: str, remedy: str = ""):
        super().__init__(cause, remedy)
        self.cause, self.remedy = cause, remedy

    def __str__(self) -> str:
        return f"{self.cause}; {self.remedy}" if self.remedy else self.cause


class OutOfMemoryError(MemoryError):
    """Memory ran out (exit code 4). remedy: what takes less."""

    def __init__(self, remedy: str):
        super().__init__(remedy)
        self.remedy = remedy

    def __str__(self) -> str:
        return f"out of memory: {self.remedy}"


def install_remedy(*extras: str) -> str:
    """Return how to install extras of this package, as `bench`. No release has them: a checkout is needed."""
    names = ",".join(extras)
    return f"in a checkout of Holdfast, get it with: pip install -c constraints.txt -e '.[{names}]'"


def name_controls(text: str, control: Callable[[str], str]) -> str:
    """Return a text with other names in place of flags."""
    return FLAG.sub(lambda match: control(match[1]), text)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C or a signal ended the work. A library that cleans up after it may raise an error of its own, which
    remembers the interrupt as its context alone (torch: "trying to pop from empty mode stack").
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False

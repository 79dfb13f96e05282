"""The errors that a user can cause, and that every front end reports in one sentence without a traceback."""


class UserError(ValueError):
    """The input is wrong, and the user can fix it (exit code 2). Any other ValueError is a bug and keeps its traceback.

    cause: what was found, with its value; remedy: what to do. They are kept apart so that each front end can name its
    own controls: a command line names flags, a page names fields.
    """

    def __init__(self, cause: str, remedy: str = ""):
        super().__init__(cause, remedy)
        self.cause, self.remedy = cause, remedy

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy}" if self.remedy else self.cause


class Missing(Exception):
    """Weights or an optional package are not installed (exit code 3). The message gives the command to install them."""


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C or a signal ended the work. A library that cleans up after it may raise an error of its own, which
    remembers the interrupt as its context alone (torch: "trying to pop from empty mode stack").
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False

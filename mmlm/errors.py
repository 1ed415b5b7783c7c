"""The one error that means "bad input": the command line prints its message and exits with 2, without a traceback."""


class InputError(ValueError):
    """Something a person gave us cannot be used.

    The message says what was expected, what came, where each came from (path, line, key) and what to do.
    """


def missing_extra(package: str, extra: str, need: str) -> InputError:
    """The error for an optional package that is not installed."""
    return InputError(f"{need} needs the package {package!r}, which is not installed: pip install 'mmlm[{extra}]'")


def reason(error: Exception) -> str:
    """The first line of what an error of somebody else says; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

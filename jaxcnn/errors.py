"""Errors that are the user's to mend: one clear line each, with the nearest valid choice."""

import difflib
from collections.abc import Iterable

# Choices that an error lists, characters of a value that it shows, which may be anything, and of a longer message
# that are kept at either end.
_LISTED, _SHOWN, _KEPT = 24, 80, 700


class UsageError(ValueError):
    """A mistake in what was asked for. The command line prints the message alone and exits with 2."""

    def __init__(self, message: object = "") -> None:
        """Keep the beginning and the end of a message that has something very long in it."""
        super().__init__(_shortened(str(message)))


class InputTooSmall(UsageError):
    """A window that does not fit into what a layer is given."""


class RunError(RuntimeError):
    """A run that cannot go on (non-finite loss, full disk, no good checkpoint). Exits with 1."""

    def __init__(self, message: object = "") -> None:
        """See `UsageError`."""
        super().__init__(_shortened(str(message)))


def _shortened(message: str) -> str:
    return message if len(message) <= 2 * _KEPT else f"{message[:_KEPT]} ... {message[-_KEPT:]}"


def line(error: BaseException) -> str:
    """Return what an error says in one line: of a file, what went wrong and its name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join(str(error).split()) or type(error).__name__


class BadExample(Exception):
    """One line: why an example of a data set cannot be used. It is passed over, up to a limit."""


def nearest(value: str, choices: Iterable[str]) -> str | None:
    """Return the choice most alike `value`, or None where nothing is alike."""
    names = list(choices)
    lowered = {name.lower(): name for name in names}
    found = difflib.get_close_matches(value.lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def unknown(what: str, value: str, choices: Iterable[str], at: str = "") -> UsageError:
    """Return the error for a name that is not among `choices`; `at` is shown before each.

    >>> unknown("model", "resnt20", ["lenet5", "resnet20"]).args[0]
    "unknown model 'resnt20': did you mean 'resnet20'?"
    """
    names = sorted(choices)
    guess = nearest(value, names) if len(value) <= _SHOWN else None
    value = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    if guess is not None:
        return UsageError(f"unknown {what} {at + value!r}: did you mean {at + guess!r}?")
    more = f", ... ({len(names)} in all)" * (len(names) > _LISTED)
    listed = ", ".join(at + name for name in names[:_LISTED])
    return UsageError(f"unknown {what} {at + value!r}: valid choices are {listed}{more}")

"""The exceptions that user mistakes raise, and the short form of other libraries' errors."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: one clear sentence that names the file, the value and the mend."""


class DivergedError(InputError):
    """A training whose loss is no longer finite: most often its learning rate was too high."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none: what an ``InputError`` quotes of it."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""The exceptions that user mistakes raise."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: one clear sentence that names the file, the value and the mend."""


class DivergedError(InputError):
    """A training whose loss is no longer finite: most often its learning rate was too high."""

"""The one exception that user mistakes raise."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: one clear sentence that names the file, the value and the mend."""

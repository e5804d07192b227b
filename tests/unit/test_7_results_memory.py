"""Peak memory: a reset starts a new peak and the whole life's is kept."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.memory import process_peak_mb, reset_resident_peak, resident_peak_mb


def test_the_process_keeps_its_peak_over_a_reset():
    start = resident_peak_mb()
    reset_resident_peak()
    block = np.ones(40_000_000, np.uint8)  # touched, so resident
    grown = resident_peak_mb()
    del block
    reset_resident_peak()
    if resident_peak_mb() >= grown - 1:
        pytest.skip("this system cannot reset the peak of a process")
    assert process_peak_mb() >= max(start, grown) - 1  # the kernel counts pages in batches

"""Peak memory: a reset starts a new peak and the whole life's is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from sarnb.notebook import KEEP_FREED_MEMORY
from sarnb.settings import process_peak_mb, repository, reset_resident_peak, resident_peak_mb


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


KEEPER = """
import ctypes, os, sys
import numpy as np
from sarnb.train.machine import reset_resident_peak, resident_peak_mb
blocks = [np.ones(1_000_000, np.uint8) for _ in range(200)]
blocks = blocks[-1:]  # the heap cannot shrink from its end: the last block holds it
before = resident_peak_mb()
reset_resident_peak()
print(before, resident_peak_mb())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_a_reset_gives_back_what_was_freed_even_where_the_process_keeps_it():
    environment = {**os.environ, **KEEP_FREED_MEMORY, "PYTHONPATH": str(repository())}
    done = subprocess.run([sys.executable, "-c", KEEPER], env=environment, capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert before - after > 150

"""The stopwatch of the named baselines."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


def best_of(call: Callable[[], object], rounds: int = 3) -> float:
    """Seconds of the fastest of ``rounds`` calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.fixture
def seconds() -> Callable[..., float]:
    """The stopwatch, for tests that time a baseline next to pytest-benchmark."""
    return best_of

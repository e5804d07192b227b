"""Speed and memory of the twin world: ``pytest tests/benchmarks/test_world.py --benchmark-only``."""

from __future__ import annotations

import resource
from dataclasses import replace

from sarnb.data.files import ordered_map
from sarnb.data.twin import ground_radar, sample_radar, twin_sample
from sarnb.world.radar import PRESETS, simulate
from sarnb.world.scene import CLASSES, make_scene

RADAR = PRESETS["airborne-x"]


def one_sample(index: int) -> int:
    """A sample as the builder draws it; returns its bytes, so that a worker sends next to nothing back."""
    sample = twin_sample(CLASSES[index % len(CLASSES)], index, sample_radar(ground_radar("airborne-x"), index, index))
    return sample.sar.nbytes


def test_samples_on_one_core(benchmark):
    """Both modalities, masks, satellite view and captions of all classes; aim: 40 samples/s on one core."""
    benchmark.pedantic(lambda: [one_sample(index) for index in range(len(CLASSES))], rounds=5, warmup_rounds=1)
    benchmark.extra_info["samples_per_second"] = len(CLASSES) / benchmark.stats.stats.min


def test_samples_by_two_workers(benchmark, seconds):
    """Aim: 75 samples/s; the pool starts once in every round."""
    benchmark.extra_info["baseline"] = "the same in this process"
    count = 600
    base = seconds(lambda: [one_sample(index) for index in range(count)], rounds=1)
    benchmark.pedantic(lambda: list(ordered_map(one_sample, list(range(count)), 2, "samples")), rounds=2)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
    benchmark.extra_info["samples_per_second"] = count / benchmark.stats.stats.min


def test_large_complex_image(benchmark, seconds):
    """1024 x 1024 SLC; aim: 1.5 s. The baseline is 64 patches of the same total area."""
    benchmark.extra_info["baseline"] = "64 images of 128 x 128"
    large, small = make_scene("city", 1, size=1024), make_scene("city", 1)
    base = 64 * seconds(lambda: simulate(small, RADAR, 1))
    benchmark.pedantic(lambda: simulate(large, RADAR, 1), rounds=3, warmup_rounds=1)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min


def test_memory_stays_flat(benchmark):
    """Peak memory after 2,000 further samples against that after the first 100."""
    benchmark.extra_info["baseline"] = "peak memory after 100 samples"
    small = replace(RADAR, look="left")
    for index in range(100):
        twin_sample(CLASSES[index % 12], index, small, size=64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    benchmark.pedantic(lambda: [twin_sample(CLASSES[i % 12], i, small, size=64) for i in range(2_000)], rounds=1)
    benchmark.extra_info["ratio"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / before

"""Speed and memory of the twin world: ``pytest tests/benchmarks/test_world.py --benchmark-only``."""

from __future__ import annotations

import math
import resource
from dataclasses import replace

import numpy as np

from sarnb.data.files import ordered_map
from sarnb.data.twin import ground_radar, sample_radar, twin_sample
from sarnb.world.backscatter import COVERS, lookup
from sarnb.world.radar import PRESETS, reflectivity, simulate
from sarnb.world.scene import CLASSES, Scene, make_scene

RADAR = PRESETS["airborne-x"]


def naive_reflectivity(scene: Scene, incidence_deg: float) -> np.ndarray:
    """Facet by facet in Python: horizon, local incidence, table, and the power spread over the cells that the facet covers.

    Terrain and roofs only: no walls, corners, windows, points, volumes or texture.
    """
    table = lookup(tuple(COVERS), "X", "VV")
    cot = 1 / math.tan(math.radians(incidence_deg))
    rows, cols = scene.height.shape
    image = np.zeros((rows, cols))
    for row in range(rows):
        heights = [float(z) / scene.spacing for z in scene.height[row]]
        horizon = -math.inf
        for col in range(cols - 1):
            near, far = heights[col], heights[col + 1]
            reach = far + (col + 1) * cot
            if reach <= horizon:
                continue
            horizon = reach
            slope = far - near
            cosine = (slope + cot) / math.sqrt(1 + cot * cot) / math.sqrt(1 + slope * slope)
            power = float(table.mean(scene.cover[row, col], np.float64(cosine))) * math.sqrt(1 + slope * slope)
            start, stop = sorted((col - near * cot, col + 1 - far * cot))
            for cell in range(max(0, math.floor(start)), min(cols, math.ceil(stop))):
                image[row, cell] += power * (min(stop, cell + 1) - max(start, cell)) / (stop - start)
    return image


def one_sample(index: int) -> int:
    """A sample as the builder draws it; returns its bytes, so that a worker sends next to nothing back."""
    sample = twin_sample(CLASSES[index % len(CLASSES)], index, sample_radar(ground_radar("airborne-x"), index, index))
    return sample.sar.nbytes


def test_reflectivity_against_a_facet_loop(benchmark, seconds):
    benchmark.extra_info["baseline"] = "a Python loop over facets that leaves out walls, corners, points and texture"
    scene = make_scene("city", 1)
    base = seconds(lambda: naive_reflectivity(scene, RADAR.incidence_deg), rounds=1)
    benchmark(lambda: reflectivity(scene, RADAR, np.random.default_rng(0)))
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min


def test_samples_on_one_core(benchmark, seconds):
    """Both modalities, masks, satellite view and captions of all classes; aim: 40 samples/s on one core."""
    benchmark.extra_info["baseline"] = "the facet loop alone, for as many scenes"
    scene = make_scene("city", 1)
    base = len(CLASSES) * seconds(lambda: naive_reflectivity(scene, RADAR.incidence_deg), rounds=1)
    benchmark.pedantic(lambda: [one_sample(index) for index in range(len(CLASSES))], rounds=5, warmup_rounds=1)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
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

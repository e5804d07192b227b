"""Speed and memory of the measures and of ``evaluate``: ``pytest tests/benchmarks/test_evaluate.py --benchmark-only``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.feature import graycomatrix, graycoprops

from sarnb.metrics import amplitude, distribution, texture

OFFSETS = (1, 2, 3, 4, 6, 8, 12, 16)  # px, along range and along azimuth: 16 offsets
PATCHES = np.random.default_rng(0).rayleigh(60, (16, 128, 128)).clip(0, 255).astype(np.uint8)


def skimage_descriptors(images: np.ndarray) -> list[np.ndarray]:
    """The same six properties by scikit-image, one image at a time."""
    found = []
    for image in images // 4:
        matrices = graycomatrix(image, OFFSETS, (0, np.pi / 2), levels=texture.LEVELS, symmetric=True, normed=True)
        found.append(np.stack([graycoprops(matrices, name) for name in texture.PROPERTIES]))
    return found


def test_texture_of_sixteen_offsets(benchmark, seconds):
    """Aim: 150 patches/s on one core."""
    benchmark.extra_info["baseline"] = "skimage.feature.graycomatrix and graycoprops, the same offsets, levels and properties"
    base = seconds(lambda: skimage_descriptors(PATCHES))
    benchmark(texture.glcm_descriptors, PATCHES, OFFSETS)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
    benchmark.extra_info["patches_per_second"] = len(PATCHES) / benchmark.stats.stats.min
    benchmark.extra_info["baseline_patches_per_second"] = len(PATCHES) / base


def all_amplitude_measures(real: np.ndarray, fake: np.ndarray) -> list[np.ndarray]:
    """Every amplitude measure of the catalogue, on images."""
    p, q = amplitude.histogram(real), amplitude.histogram(fake)
    pairs = (
        amplitude.kl,
        amplitude.reverse_kl,
        amplitude.jensen_shannon,
        amplitude.wasserstein,
        amplitude.kolmogorov_smirnov,
        amplitude.log_cumulant_distance,
    )
    single = (amplitude.coefficient_of_variation, amplitude.log_cumulants)
    return [f(p.sum(0), q.sum(0)) for f in pairs] + [f(counts) for f in single for counts in (p, q)] + [amplitude.local_enl(fake)]


def test_all_amplitude_measures(benchmark, seconds):
    """Aim: 500 patches/s."""
    from scipy.stats import wasserstein_distance

    benchmark.extra_info["baseline"] = "scipy.stats.wasserstein_distance on the pixels, one of the measures alone"
    real, fake = PATCHES[:8], PATCHES[8:]
    base = seconds(lambda: wasserstein_distance(real.ravel(), fake.ravel()))
    benchmark(all_amplitude_measures, real, fake)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
    benchmark.extra_info["patches_per_second"] = len(PATCHES) / benchmark.stats.stats.min


def test_frechet_of_gaussians(benchmark, seconds):
    """A hundred a cell of the evaluation's table, by its bootstrap."""
    import torch
    from torchmetrics.image.fid import _compute_fid

    benchmark.extra_info["baseline"] = "torchmetrics' Fréchet distance of the same two Gaussians in 128 dimensions"
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(400, 128)) * np.linspace(0.2, scale, 128) for scale in (1.0, 2.0)]
    moments = [part for features in sets for part in distribution.weighted_moments(features)[:2]]
    tensors = [torch.from_numpy(part) for part in moments]
    base = seconds(lambda: _compute_fid(*tensors))
    assert np.isclose(benchmark(distribution.gaussian_frechet, *moments), float(_compute_fid(*tensors)), rtol=1e-6)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min


def run_evaluate(real: Path, fake: Path, out: Path, workers: int) -> tuple[float, float]:
    """(seconds, peak memory in MB of the largest process) of the command, in a process of its own."""
    code = (
        "import resource, sys, time; start = time.perf_counter(); from sarnb.cli import app; "
        "app(sys.argv[1:], standalone_mode=False); "
        "peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)); "
        "print(f'measured {time.perf_counter() - start} {peak / 1024}')"
    )
    words = ["evaluate", "--real", str(real), "--fake", str(fake), "--out", str(out), "--workers", str(workers)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=variables, check=True)
    taken, peak = done.stdout.rsplit("measured", 1)[1].split()
    return float(taken), float(peak)


def write_folder(folder: Path, count: int, seed: int) -> Path:
    """``count`` speckled images of 256 x 256 px, 8-bit PNG, no two alike."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for index in range(count):
        scene = np.kron(rng.gamma(2.0, 15.0, (8, 8)), np.ones((32, 32)))
        Image.fromarray((scene * rng.rayleigh(0.8, scene.shape)).clip(0, 255).astype(np.uint8)).save(
            folder / f"{index:04d}.png", compress_level=1
        )
    return folder


@pytest.mark.parametrize("workers", [2])
def test_evaluate_a_thousand_against_a_thousand(benchmark, tmp_path, workers):
    """Aim: 60 s on 2 cores, and a peak memory that hardly grows from 200 to 1,000 images a side."""
    benchmark.extra_info["baseline"] = "the same command on 200 images a side: its peak memory"
    small = [write_folder(tmp_path / f"small{side}", 200, side) for side in (0, 1)]
    large = [write_folder(tmp_path / f"large{side}", 1000, side + 2) for side in (0, 1)]
    base_seconds, base_peak = run_evaluate(*small, tmp_path / "out_small", workers)
    found = benchmark.pedantic(lambda: run_evaluate(*large, tmp_path / "out_large", workers), rounds=1)
    benchmark.extra_info["ratio"] = found[1] / base_peak
    benchmark.extra_info |= {"seconds": found[0], "peak_mb": found[1], "peak_mb_of_200": base_peak, "seconds_of_200": base_seconds}

"""Speed against a named baseline in the same run: ``pytest tests/benchmarks --benchmark-only``.

``extra_info["ratio"]`` says how many times faster than the baseline each one is; nothing fails for being slow.
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from skimage.feature import graycomatrix, graycoprops

from sarnb.generate.sample import generate
from sarnb.metrics.amplitude import histogram, kl, log_cumulants, wasserstein
from sarnb.metrics.texture import glcm_descriptors
from sarnb.model.foundation import load_foundation
from sarnb.train.machine import autocast, plain_attention

SPECKLE = np.random.default_rng(0).rayleigh(60, (8, 128, 128)).clip(0, 255).astype(np.uint8)


def skimage_descriptors(images: np.ndarray) -> list[np.ndarray]:
    """The baseline of texture: scikit-image, one image at a time."""
    found = []
    for image in images // 4:
        matrices = graycomatrix(image, (1, 2, 4, 8), (0, np.pi / 2), levels=64, symmetric=True, normed=True)
        found.append(np.stack([graycoprops(matrices, name) for name in ("contrast", "homogeneity", "energy", "correlation")]))
    return found


def test_texture_against_scikit_image(benchmark, seconds):
    benchmark.extra_info["baseline"] = "skimage.feature.graycomatrix and graycoprops"
    base = seconds(lambda: skimage_descriptors(SPECKLE))
    benchmark(glcm_descriptors, SPECKLE)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
    benchmark.extra_info["patches_per_second"] = len(SPECKLE) / benchmark.stats.stats.min


def test_amplitude_measures_against_sorting_pixels(benchmark, seconds):
    from scipy.stats import wasserstein_distance

    benchmark.extra_info["baseline"] = "scipy.stats.wasserstein_distance on pixels, Wasserstein alone"
    real, fake = SPECKLE[:4], SPECKLE[4:]
    base = seconds(lambda: wasserstein_distance(real.ravel(), fake.ravel()))

    def measures():
        p, q = histogram(real).sum(0), histogram(fake).sum(0)
        return kl(p, q), wasserstein(p, q), log_cumulants(p)

    benchmark(measures)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min


@pytest.mark.parametrize("precision", ["auto"])
def test_sampling_against_float32(benchmark, seconds, precision):
    benchmark.extra_info["baseline"] = "the same in float32"
    pipe = load_foundation()
    prompts, seeds = ["a radar image of a city"] * 8, list(range(8))
    base = seconds(lambda: generate(pipe, prompts, seeds, steps=4, precision="fp32"))
    benchmark.pedantic(lambda: generate(pipe, prompts, seeds, steps=4, precision=precision), rounds=3)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
    benchmark.extra_info["seconds_per_image_20_steps"] = benchmark.stats.stats.min / 8 * 5


def test_gradients_through_plain_attention(benchmark, seconds):
    benchmark.extra_info["baseline"] = "the same forward and backward pass of the UNet with torch's fused attention"
    unet = load_foundation().unet.train().requires_grad_(True)
    size, draw = 16, torch.Generator().manual_seed(0)
    latents = torch.randn((size, unet.config.in_channels, 16, 16), generator=draw)
    hidden = torch.randn((size, 64, unet.config.cross_attention_dim), generator=draw)
    pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    wanted = {"text_embeds": torch.randn((size, pooled), generator=draw), "time_ids": torch.ones(size, 6)}

    def step(attention: contextlib.AbstractContextManager) -> None:
        unet.zero_grad()
        with attention:
            with autocast():
                noise = unet(latents, torch.full((size,), 500), hidden, added_cond_kwargs=wanted).sample
            noise.float().square().mean().backward()

    base = seconds(lambda: step(contextlib.nullcontext()))
    benchmark.pedantic(lambda: step(plain_attention(unet, tokens=256)), rounds=3, warmup_rounds=1)
    benchmark.extra_info["ratio"] = base / benchmark.stats.stats.min
    benchmark.extra_info["images_per_second"] = size / benchmark.stats.stats.min

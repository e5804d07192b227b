"""Texture pictures against the laws that they are named after."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.world import optical as textures


class FixedSlope:
    """Generator whose first uniform draw is the given spectral slope; the rest is as ever."""

    def __init__(self, slope: float) -> None:
        self.slope, self.rng, self.first = slope, np.random.default_rng(0), True

    def uniform(self, low, high, size=None):
        if self.first:
            self.first = False
            return self.slope
        return 20.0 if size is None else np.full(size, (low + high) / 2)

    def random(self):
        return 0.0

    def standard_normal(self, shape):
        return self.rng.standard_normal(shape)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_amplitude_spectrum_falls_with_the_drawn_slope(slope):
    picture = textures.power_law_noise(FixedSlope(slope), 256)[..., 0].astype(float)
    power = np.abs(np.fft.fft2(picture - picture.mean())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    bands = np.geomspace(0.02, 0.3, 8)
    mean = [power[(radius >= low) & (radius < high)].mean() for low, high in zip(bands, bands[1:])]
    centre = np.sqrt(bands[:-1] * bands[1:])
    fitted = -np.polyfit(np.log(centre), 0.5 * np.log(mean), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.12)  # clipping to 8 bits whitens a little


def test_pictures_depend_on_seed_and_index_only():
    long, short = textures.texture_pictures(6, 3, 32), textures.texture_pictures(2, 3, 32)
    assert np.array_equal(long[:2], short) and long.shape == (6, 32, 32, 3) and long.dtype == np.uint8
    assert not np.array_equal(long, textures.texture_pictures(6, 4, 32))


def test_dead_leaves_have_edges_that_hide_one_another():
    pictures = np.stack([textures.dead_leaves(np.random.default_rng(i), 64).astype(float) for i in range(20)])
    steps = np.abs(np.diff(pictures.mean(-1), axis=2)).ravel()
    # Occlusion makes a few large steps among many small ones: far heavier tails than a Gaussian (kurtosis 3).
    assert (steps**4).mean() / (steps**2).mean() ** 2 > 6

"""Round-trip measures against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from sarnb.errors import InputError
from sarnb.metrics.prompting import linear_code_psnr, round_trip


def test_psnr_of_a_known_error_and_ssim_of_identity():
    before = np.full((1, 16, 16, 3), 100, np.uint8)
    before[0, ::2] = 120
    row = round_trip(before, before + 5).iloc[0]
    assert row.psnr_db == pytest.approx(20 * np.log10(255 / 5))
    assert row.cv_before == pytest.approx(10 / 110) and row.cv_after == pytest.approx(10 / 115)
    assert round_trip(before, before).iloc[0].ssim == pytest.approx(1.0)


def test_shapes_must_match_and_black_pictures_are_refused():
    with pytest.raises(InputError, match="same pictures"):
        round_trip(np.ones((1, 16, 16, 3), np.uint8), np.ones((1, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="all zero"):
        round_trip(np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 3), np.uint8))


def test_linear_code_equals_scikit_image_on_its_own_reconstruction():
    """The same subspace by a singular value decomposition, the picture rebuilt and compared by scikit-image."""
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(6, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = (128 + 20 * smooth + 8 * rng.normal(size=(6, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    blocks = images.reshape(6, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(24, 192).astype(float)
    mean = blocks.mean(axis=0)
    axes = np.linalg.svd(blocks - mean, full_matrices=False)[2][:5]
    rebuilt = (mean + (blocks - mean) @ axes.T @ axes).reshape(6, 2, 2, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)
    expected = np.mean([peak_signal_noise_ratio(a.astype(float), b, data_range=255) for a, b in zip(images, rebuilt)])
    assert linear_code_psnr(images, images, 8, (5,))[5] == pytest.approx(expected, abs=1e-6)


def test_linear_code_keeps_all_with_as_many_numbers_as_values():
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    found = linear_code_psnr(images, images, 4, (1, 8, 16))
    assert found[1] < found[8] < found[16] and found[16] > 100
    with pytest.raises(InputError, match="at most 16"):
        linear_code_psnr(images, images, 4, (17,))
    with pytest.raises(InputError, match="sides"):
        linear_code_psnr(images, images, 3, (1,))

"""Round-trip measures against the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.metrics.reconstruction import round_trip


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

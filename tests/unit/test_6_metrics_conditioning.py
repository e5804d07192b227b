"""Measures of following a condition, against other implementations and cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import jaccard
from scipy.stats import pearsonr

from sarnb.data.amplitude import Normalisation
from sarnb.metrics.conditioning import (
    OTHER,
    coarse_amplitude,
    consistency,
    edge_agreement,
    iou_table,
    mean_ious,
    nearest,
    shadow_contrast,
    shadow_masks,
)
from sarnb.metrics.geometry import block_scene
from sarnb.world.backscatter import COVERS
from sarnb.world.radar import PRESETS, amplitude, simulate

RNG = np.random.default_rng(0)


def test_iou_is_one_minus_jaccard_s_distance():
    truth, read = RNG.integers(0, 5, (3, 16, 16)).astype(np.uint8), RNG.integers(0, 7, (3, 16, 16)).astype(np.uint8)
    table = iou_table(truth, read)
    assert list(table["cover"]) == list(COVERS[:5])
    expected = [1 - jaccard(truth.ravel() == code, read.ravel() == code) for code in range(5)]
    np.testing.assert_allclose(table["iou"], expected, rtol=1e-12)
    assert list(iou_table(truth, truth)["iou"]) == [1.0] * 5 and len(iou_table(truth, read, 0.5)) == 0


def test_multilooking_keeps_the_mean_intensity():
    images = RNG.integers(0, 256, (2, 16, 16)).astype(np.uint8)
    coarse = coarse_amplitude(images, Normalisation(1.0, 0.5), 4)
    assert coarse.shape == (2, 4, 4)
    assert coarse[1, 2, 3] == pytest.approx(np.sqrt(np.mean((images[1, 8:12, 12:16] / 255 * 2.5) ** 2)))


def test_consistency_of_a_view_that_differs_by_a_factor_and_by_noise():
    views = RNG.integers(20, 200, (4, 8, 8)).astype(np.uint8)
    fine, scale = np.kron(views, np.ones((4, 4))).astype(np.uint8), Normalisation(1.0, 1.0)
    same = consistency(fine, views, scale, scale)
    assert same.correlation == pytest.approx(1) and same.bias == pytest.approx(0, abs=1e-9) and same.spread == pytest.approx(0, abs=1e-5)
    louder = consistency(fine, views, Normalisation(10.0, 10.0), scale)
    assert louder.bias == pytest.approx(20) and louder.correlation == pytest.approx(1)
    other = RNG.permuted(views.reshape(4, -1), axis=1).reshape(views.shape)
    assert abs(consistency(fine, other, scale, scale).correlation) < 0.2
    noisy = np.clip(views * RNG.normal(1, 0.1, views.shape), 1, 254).astype(np.uint8)
    found = consistency(fine, noisy, scale, scale)
    assert found.correlation == pytest.approx(pearsonr(*np.log([views.ravel() * 1.0, noisy.ravel() * 1.0]))[0], rel=1e-9)
    assert found.spread == pytest.approx(np.std(20 * np.log10(views / noisy)), rel=1e-9)


def test_a_draw_of_scenes_is_what_these_scenes_give():
    truth, read = RNG.integers(0, 5, (4, 16, 16)).astype(np.uint8), RNG.integers(0, 7, (4, 16, 16)).astype(np.uint8)
    truth[0, :2] = 9  # a cover that a draw without the scene does not show
    draws, scales = np.array([[0, 1, 2, 3], [1, 1, 3, 2], [0, 0, 0, 0]]), (Normalisation(1.0, 0.5), Normalisation(2.0, 0.5))
    expected = [iou_table(truth[own], read[own])["iou"].mean() for own in draws]
    np.testing.assert_allclose(mean_ious(truth, read, draws), expected, rtol=1e-12)
    images, views = RNG.integers(0, 256, (4, 16, 16)).astype(np.uint8), RNG.integers(0, 256, (4, 4, 4)).astype(np.uint8)
    together = consistency(images, views, *scales, draws)
    for place, own in enumerate(draws):
        alone = consistency(images[own], views[own], *scales)
        for name in ("correlation", "bias", "spread"):
            assert getattr(together, name)[place] == pytest.approx(getattr(alone, name), rel=1e-9)


def test_edges_agree_with_themselves_in_spite_of_speckle_and_not_with_other_scenes():
    blocks = np.kron(RNG.integers(1, 5, (6, 4, 4)) * 40, np.ones((16, 16)))
    speckled = [np.clip(blocks * RNG.gamma(4, 0.25, blocks.shape) ** 0.5, 0, 255).astype(np.uint8) for _ in range(2)]
    same, other = edge_agreement(*speckled), edge_agreement(speckled[0], np.roll(speckled[1], (1, 8, 8), axis=(0, 1, 2)))
    np.testing.assert_allclose(edge_agreement(speckled[0], speckled[0]), 1)
    assert same.min() > 0.6 and other.max() < 0.4
    assert edge_agreement(np.zeros((1, 8, 8), np.uint8), speckled[0][:1, :8, :8]) == pytest.approx(0)


def test_the_nearest_is_that_of_all_distances():
    known, requested = RNG.integers(0, 256, (9, 4, 4)).astype(np.uint8), RNG.integers(0, 256, (5, 4, 4)).astype(np.uint8)
    distances = ((known[None].astype(float) - requested[:, None]) ** 2).sum((2, 3))
    assert list(nearest(requested, known)) == list(distances.argmin(1))
    codes = known % 3
    assert list(nearest(codes[[4, 1]], codes, codes=True)) == [4, 1]
    one = codes[2].copy()
    one[0, 0] = 9  # far in level, one cell in codes
    assert nearest(one[None], codes, codes=True)[0] == 2


def test_the_contrast_of_shadows_is_that_of_mean_logs_and_nan_without_shadow():
    shade, lit = np.zeros((3, 16, 16), bool), np.zeros((3, 16, 16), bool)
    shade[:2, :, :4], lit[:, :, 8:12] = True, True
    images = np.full((3, 16, 16), 30, np.uint8)
    images[0][shade[0]], images[0][lit[0]] = 7, 70
    images[1][shade[1]], images[1][lit[1]] = 70, 7
    wanted = 20 * np.log10(70.5 / 7.5)
    np.testing.assert_allclose(shadow_contrast(images, shade, lit), [wanted, -wanted, np.nan])


def test_shadows_of_the_scene_are_seen_in_its_image_and_not_in_its_mirror_image_nor_in_texture():
    """A block on flat ground: its shadow is as long as height times tan(incidence), and of noise the contrast is none."""
    radar = replace(PRESETS["airborne-x"], looks=16)
    for look in ("left", "right"):
        own = replace(radar, look=look)
        scene = block_scene(spacing=own.spacing_m[0])
        shade, lit = shadow_masks(scene, own)
        top = scene.height - scene.ground
        rows = np.flatnonzero(top.max(1) > 0)
        middle = rows[len(rows) // 2]
        length = shade[middle].sum() * own.spacing_m[0]
        assert length == pytest.approx(top.max() * np.tan(np.deg2rad(own.incidence_deg)), abs=2 * own.spacing_m[0])
        near, far = np.flatnonzero(shade[middle]).mean(), np.flatnonzero(top[middle]).mean()
        assert (near > far) == (look == "left"), "the shadow falls away from the radar"
        level = amplitude(simulate(scene, own, 1))
        image = np.clip(level / level.mean() * 60, 0, 255).astype(np.uint8)[None]
        mirrored = np.clip(amplitude(simulate(scene, replace(own, look=OTHER[look]), 1)) / level.mean() * 60, 0, 255).astype(np.uint8)[None]
        noise = np.clip(RNG.rayleigh(50, image.shape), 0, 255).astype(np.uint8)
        masks = shade[None], lit[None]
        assert shadow_contrast(image, *masks)[0] > 6 and shadow_contrast(mirrored, *masks)[0] < -6
        assert abs(shadow_contrast(noise, *masks)[0]) < 2

"""Set distances against torchmetrics, scipy and points whose neighbours are known."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from sarnb.errors import InputError
from sarnb.metrics import distribution


def gaussian(count: int, width: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ np.diag(np.linspace(0.5, 2, width)) + shift


def test_frechet_equals_torchmetrics_and_scipy() -> None:
    real, fake = gaussian(200, 6), gaussian(150, 6, 0.4, seed=1)
    package = distribution.frechet_distance(real, fake)
    moments = [torch.from_numpy(part) for x in (real, fake) for part in (x.mean(0), np.cov(x.T))]
    assert package == pytest.approx(float(_compute_fid(*moments)), rel=1e-6)
    a, b = np.cov(real.T), np.cov(fake.T)
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert package == pytest.approx(expected, rel=1e-6)


def test_frechet_closed_form() -> None:
    mean, identity = np.zeros(3), np.eye(3)
    assert distribution.gaussian_frechet(mean, identity, mean + 2, 4 * identity) == pytest.approx(12 + 3 * (1 - 2) ** 2)


def test_frechet_of_flat_gaussians() -> None:
    """Covariances without full rank, as of fewer images than features: on common axes it is the difference of the deviations."""
    flat = [np.diag(values) for values in ([1.0, 4.0, 0.0], [9.0, 1.0, 0.0], [0.0, 0.0, 0.0])]
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    for first, second, expected in ((0, 1, 5), (1, 0, 5), (0, 2, 5), (2, 1, 10), (0, 0, 0)):
        for axes in (np.eye(3), turn):
            pair = [axes @ flat[index] @ axes.T for index in (first, second)]
            found = distribution.gaussian_frechet(np.zeros(3), pair[0], np.zeros(3), pair[1])
            assert found == pytest.approx(expected, abs=1e-6)


def test_frechet_of_integer_weights_is_that_of_repeats() -> None:
    fake = gaussian(8, 3, seed=2)
    times = np.array([0, 1, 2, 3, 0, 1, 1, 2])
    mean, covariance, _ = distribution.weighted_moments(fake, times / times.sum())
    repeated = np.repeat(fake, times, axis=0)
    np.testing.assert_allclose(mean, repeated.mean(0))
    biased = np.cov(repeated.T, bias=True)
    np.testing.assert_allclose(covariance * (1 - ((times / times.sum()) ** 2).sum()), biased)


def test_shrinkage_keeps_small_sets_finite_and_lowers_their_bias() -> None:
    real, fake = gaussian(20, 30), gaussian(20, 30, seed=1)  # one law, fewer images than dimensions
    plain = distribution.gaussian_frechet(real.mean(0), np.cov(real.T), fake.mean(0), np.cov(fake.T))
    shrunk = distribution.frechet_distance(real, fake)
    assert 0 <= shrunk < plain


def test_oas_intensity_limits() -> None:
    assert distribution.oas_intensity(np.eye(4), 10) == 1.0  # already a multiple of the identity
    assert distribution.oas_intensity(np.diag([1.0, 2.0, 3.0]), 1e9) == pytest.approx(0, abs=1e-6)
    # by hand, Chen et al. 2010, equation 23: p 3, tr S² 14, (tr S)² 36, n 50
    by_hand = ((1 - 2 / 3) * 14 + 36) / ((51 - 2 / 3) * (14 - 36 / 3))
    assert distribution.oas_intensity(np.diag([1.0, 2.0, 3.0]), 50) == pytest.approx(by_hand)


def kid(real: np.ndarray, fake: np.ndarray) -> float:
    kernels = [distribution.polynomial_kernel(a, b) for a, b in ((real, real), (fake, fake), (real, fake))]
    return float(distribution.weighted_kid(*kernels, *(np.full(len(own), 1 / len(own)) for own in (real, fake))))


def test_kid_equals_torchmetrics() -> None:
    real, fake = gaussian(30, 8), gaussian(30, 8, 0.3, seed=1)
    assert kid(real, fake) == pytest.approx(float(poly_mmd(torch.from_numpy(real), torch.from_numpy(fake))), rel=1e-6)


def test_kid_of_integer_weights_is_that_of_repeats_without_pairs_of_one_image() -> None:
    real, fake = gaussian(7, 4), gaussian(6, 4, 0.5, seed=1)
    times = [np.array([1, 2, 0, 3, 1, 1, 2]), np.array([2, 1, 1, 0, 3, 1])]
    kernels = [distribution.polynomial_kernel(a, b) for a, b in ((real, real), (fake, fake), (real, fake))]
    package = distribution.weighted_kid(*kernels, *(own / own.sum() for own in times))
    drawn = [np.repeat(np.arange(len(own)), own) for own in times]

    def others(kernel: np.ndarray, index: np.ndarray) -> float:
        return np.mean([kernel[i, j] for i in index for j in index if i != j])

    crossed = np.mean([kernels[2][i, j] for i in drawn[0] for j in drawn[1]])
    assert package == pytest.approx(others(kernels[0], drawn[0]) + others(kernels[1], drawn[1]) - 2 * crossed, rel=1e-12)


def test_kid_is_unbiased_for_one_law() -> None:
    values = [kid(gaussian(20, 4, seed=2 * k), gaussian(20, 4, seed=2 * k + 1)) for k in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)
    assert min(values) < 0


def test_precision_and_recall_of_known_points() -> None:
    real = np.arange(10.0)[:, None]  # radius of the 3 nearest: 2 inside, 3 at the ends
    fake = np.array([[4.0], [4.2], [4.4], [4.6], [30.0], [31.0], [32.0], [33.0]])
    assert distribution.manifold_hits(real, fake).tolist() == [True] * 4 + [False] * 4
    # generated radii: 0.6 and 0.4 around 4 to 4.6, 2 to 3 around 30: only real 4 and 5 are reached
    assert np.flatnonzero(distribution.manifold_hits(fake, real)).tolist() == [4, 5]


def test_precision_and_recall_extremes() -> None:
    real = gaussian(30, 3)
    assert distribution.manifold_hits(real, real).all()
    assert not distribution.manifold_hits(real, real + 1000).any() and not distribution.manifold_hits(real + 1000, real).any()
    collapsed = np.repeat(real[:1], 30, axis=0)
    assert distribution.manifold_hits(real, collapsed).all() and distribution.manifold_hits(collapsed, real).mean() < 0.1


def scenes(count: int, seed: int, size: int = 64) -> np.ndarray:
    """Smooth scenes, float64 [count, size, size], of which no two are alike."""
    return np.kron(np.random.default_rng(seed).gamma(4.0, 10.0, (count, 16, 16)), np.ones((1, size // 16, size // 16)))


def acquired(scene: np.ndarray, seed: int) -> np.ndarray:
    """Single-look amplitude of scenes: every acquisition has speckle of its own."""
    return np.minimum(scene * np.random.default_rng(seed).rayleigh(0.8, scene.shape), 255).astype(np.uint8)


def otherwise(images: np.ndarray) -> np.ndarray:
    """The same pixels scaled anew and with some noise: no byte is the same."""
    return np.clip(np.rint(0.6 * images + np.random.default_rng(8).normal(0, 4, images.shape)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("count", [0, 1, 3, 25, 29])
def test_real_images_that_are_training_images_do_not_hide_what_was_memorised(count: int) -> None:
    layouts = scenes(40, 0)
    train, held_out = acquired(layouts, 1), acquired(scenes(30, 2), 3)
    held_out[:count] = otherwise(train[::-1])[:count]
    redrawn, fresh = acquired(layouts[:10], 4), acquired(scenes(10, 5), 6)  # the same scenes in new speckle, and new ones
    overlap = distribution.overlapping(distribution.grain(held_out), distribution.grain(train))
    assert np.flatnonzero(overlap).tolist() == list(range(count))
    views = [distribution.thumbnails(stack) for stack in (np.concatenate([redrawn, fresh]), train, held_out)]
    assert distribution.memorised(*views, overlap).tolist() == [True] * 10 + [False] * 10


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_mirrored_copies_are_copies(axes: tuple[int, ...]) -> None:
    """In new speckle too: of a training image, and of another generated one."""
    layouts = scenes(40, 0, 96)
    train, held_out, fresh = acquired(layouts, 1), acquired(scenes(30, 2, 96), 3), acquired(scenes(10, 5, 96), 6)
    turned = np.flip(acquired(layouts[:10], 4), axes)
    views = [distribution.thumbnails(stack) for stack in (np.concatenate([turned, fresh]), train, held_out)]
    assert distribution.memorised(*views).tolist() == [True] * 10 + [False] * 10
    pairs = np.concatenate([fresh, np.flip(acquired(scenes(10, 5, 96)[:3], 7), axes)])
    assert np.flatnonzero(distribution.duplicated(distribution.thumbnails(pairs), views[2])).tolist() == [0, 1, 2, 10, 11, 12]


@pytest.mark.parametrize(("shape", "side"), [((64, 128), 32), ((100, 75), 32), ((48, 63), 24)])
def test_thumbnails_are_the_means_of_equal_blocks_that_fill_the_image(shape: tuple[int, int], side: int) -> None:
    """The same as of the image enlarged until blocks hold whole pixels; turned images have turned thumbnails."""
    image = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    whole = np.kron(image, np.ones((side, side))).reshape(side, shape[0], side, shape[1]).mean((1, 3))
    found = distribution.thumbnails(image[None]).reshape(side, side)
    np.testing.assert_allclose(found, (whole - whole.mean()) / np.linalg.norm(whole - whole.mean()), atol=1e-12)
    np.testing.assert_allclose(distribution.thumbnails(image[None, ::-1]).reshape(side, side), found[::-1], atol=1e-12)


def test_without_a_new_real_image_nothing_says_what_is_memorised() -> None:
    views = distribution.thumbnails(acquired(scenes(4, 0), 1))
    with pytest.raises(InputError, match="every real image is a training image"):
        distribution.memorised(views, views, views, np.ones(4, bool))


@pytest.mark.parametrize("pairs", [0, 1, 4, 10])
def test_repeated_real_images_do_not_hide_duplicates(pairs: int) -> None:
    real = acquired(scenes(20, 0), 1)
    real[10 : 10 + pairs] = otherwise(real[:pairs])
    layouts = scenes(10, 2)
    fake = np.concatenate([acquired(layouts, 3), acquired(layouts[:3], 4)])
    views = [distribution.thumbnails(stack) for stack in (fake, real)]
    assert np.flatnonzero(distribution.duplicated(*views, distribution.grain(real))).tolist() == [0, 1, 2, 10, 11, 12]
    with pytest.raises(InputError, match="at least 2"):
        distribution.duplicated(views[0][:1], views[1])


def test_independent_tiles_are_no_duplicates_however_unlike_the_real_images_are() -> None:
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    real, base = vectors[:20], vectors[40]
    mixed = vectors[20:30] * np.sqrt(1 - 0.45) + base * np.sqrt(0.45)  # any two correlate by 0.45, two real ones by 0
    assert not distribution.duplicated(mixed, real).any()
    assert distribution.duplicated(vectors[20:30] * np.sqrt(1 - 0.75) + base * np.sqrt(0.75), real).all()


def test_the_threshold_is_the_quantile_of_real_images_and_no_single_one() -> None:
    values = np.random.default_rng(0).uniform(0.7, 0.95, 150)
    assert distribution.copy_threshold(values) == np.sort(values)[int(0.99 * 149)] < values.max()
    assert distribution.copy_threshold(np.array([0.2, 0.3])) == distribution.copy_threshold(np.array([])) == distribution.ALIKE


def test_grain_knows_an_acquisition_in_any_storage_and_tells_two_of_one_scene_apart() -> None:
    layouts = scenes(60, 0, 128)
    first, again = acquired(layouts, 1), acquired(layouts, 2)
    marks = distribution.grain(first)
    assert (marks @ distribution.grain(again).T).std() == pytest.approx(1 / 32, rel=0.15)
    assert not distribution.overlapping(marks, distribution.grain(again)).any() and not distribution.overlapping(marks).any()
    streams = [io.BytesIO() for _ in first]
    for stream, image in zip(streams, first):
        Image.fromarray(image).save(stream, "JPEG", quality=75)
    for other in (otherwise(first), np.stack([np.asarray(Image.open(stream)) for stream in streams])):
        assert distribution.overlapping(distribution.grain(other), marks).all()
    for mirrored in (first[:, ::-1], first[:, :, ::-1], first[:, ::-1, ::-1]):
        assert distribution.overlapping(distribution.grain(mirrored), marks).all()
        assert distribution.overlapping(np.concatenate([marks[:1], distribution.grain(mirrored[:1])])).all()
    grid = 1 + 0.8 * np.cos(np.arange(128) * np.pi / 4)  # what a decoder draws every 8 px into all of its images
    drawn = [np.clip(stack * grid * grid[:, None], 0, 255).astype(np.uint8) for stack in (first, acquired(scenes(60, 3, 128), 4))]
    assert not distribution.overlapping(*map(distribution.grain, drawn)).any()
    for constant in (distribution.grain, distribution.thumbnails):
        assert not constant(np.full((1, 40, 33), 9, np.uint8)).any()


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least 2"):
        distribution.frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(InputError, match="differ"):
        distribution.frechet_distance(np.zeros((3, 3)), np.zeros((5, 4)))
    with pytest.raises(InputError, match="NaN"):
        distribution.frechet_distance(np.full((3, 3), np.nan), np.zeros((5, 3)))
    with pytest.raises(InputError, match="at least 4"):
        distribution.manifold_hits(np.zeros((3, 3)), np.zeros((9, 3)))


def test_latents_that_all_move_by_one_deviation_have_the_frechet_distance_one() -> None:
    before = np.random.default_rng(0).normal(3, 2, (16, 4, 8, 8))
    moved = distribution.latent_shift(before, before + 2.0)
    assert moved["frechet"] == pytest.approx(1, rel=0.1) and moved["rms"] == pytest.approx(1, rel=0.1)
    assert moved["mean_shift"] == pytest.approx(2, rel=0.1) and moved["covariance_change"] == pytest.approx(0, abs=1e-9)
    wider = distribution.latent_shift(before, 3 + 1.5 * (before - 3))
    assert wider["covariance_change"] == pytest.approx(1.25, rel=0.01)
    assert wider["frechet"] == pytest.approx(0.25, rel=0.1)  # (1.5 - 1)^2 in every channel
    assert all(value == pytest.approx(0, abs=1e-9) for value in distribution.latent_shift(before, before).values())
    with pytest.raises(InputError, match="same images"):
        distribution.latent_shift(before, before[:2])

"""Co-occurrence texture against scikit-image and a matrix counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.feature import graycomatrix, graycoprops

from sarnb.errors import InputError
from sarnb.metrics import texture
from sarnb.metrics.distribution import frechet_distance


def noise(count: int = 3, size: tuple[int, int] = (40, 52), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size)).astype(np.uint8)


def test_matrix_counted_by_hand() -> None:
    image = np.array([[0, 4, 4], [8, 4, 0]], np.uint8)  # levels 0 1 1 / 2 1 0
    along_range, along_azimuth = texture.cooccurrence(image, distances=(1,))
    expected = np.zeros((64, 64))
    expected[0, 1] = expected[1, 0] = 2  # pairs 0-1 and 1-0, each counted both ways
    expected[1, 1] = 2
    expected[1, 2] = expected[2, 1] = 1
    np.testing.assert_allclose(along_range, expected / 8)
    expected = np.zeros((64, 64))
    expected[0, 2] = expected[2, 0] = 1
    expected[1, 1] = 2
    expected[0, 1] = expected[1, 0] = 1
    np.testing.assert_allclose(along_azimuth, expected / 6)
    contrast, dissimilarity, homogeneity, energy, _, entropy = texture.properties(along_range[None])[0]
    assert (contrast, dissimilarity, homogeneity) == pytest.approx((0.75, 0.75, 0.625))
    assert energy == pytest.approx(np.sqrt(3 * 1 / 16 + 2 / 64))
    assert entropy == pytest.approx(-(3 * 0.25 * np.log(0.25) + 2 * 0.125 * np.log(0.125)))


def test_equals_scikit_image() -> None:
    image = noise(1)[0]
    matrix = graycomatrix(image >> 2, texture.DISTANCES, [0, np.pi / 2], levels=64, symmetric=True, normed=True)
    package = texture.cooccurrence(image)
    np.testing.assert_allclose(package, np.moveaxis(matrix, (3, 2), (0, 1)).reshape(-1, 64, 64), atol=1e-15)
    theirs = np.stack([graycoprops(matrix, name) for name in texture.PROPERTIES], axis=-1)  # distance, angle, property
    np.testing.assert_allclose(texture.glcm_descriptors(image[None])[0], theirs.swapaxes(0, 1).ravel(), rtol=1e-9)


def test_constant_image_as_scikit_image() -> None:
    image = np.full((16, 16), 200, np.uint8)
    values = texture.properties(texture.cooccurrence(image, (1,), ("range",)))[0]
    assert values == pytest.approx([0, 0, 1, 1, 1, 0])


def test_range_and_azimuth_are_kept_apart() -> None:
    stripes = np.tile(np.array([0, 255] * 16, np.uint8), (32, 1))  # varies along columns, that is along range
    names = texture.descriptor_names()
    values = dict(zip(names, texture.glcm_descriptors(stripes[None])[0], strict=True))
    assert values["contrast range 1"] == 63**2
    assert values["contrast azimuth 1"] == 0
    assert len(names) == 48


def test_texture_distance_by_hand() -> None:
    real = np.array([[0.0, 10.0], [2.0, 14.0]])  # deviations 1 and 2
    fake = np.array([[3.0, 12.0], [3.0, 16.0]])  # means 2 and 2 above
    assert texture.texture_distance(real, fake) == pytest.approx((2 / 1 + 2 / 2) / 2)
    assert texture.texture_distance(real, real) == 0


def test_distance_orders_blur() -> None:
    speckle = np.random.default_rng(0).rayleigh(50, (24, 48, 48))
    images = [np.clip(gaussian_filter(speckle, (0, s, s)), 0, 255).astype(np.uint8) for s in (0, 0.5, 1.0, 2.0)]
    real = texture.glcm_descriptors(images[0][:12])
    sets = [texture.glcm_descriptors(stack[12:]) for stack in images]
    for function in (texture.texture_distance, frechet_distance):
        values = [function(texture.standardise(real, real), texture.standardise(fake, real)) for fake in sets]
        assert values == sorted(values), function.__name__
        assert values[0] < 0.3 * values[1]


def test_property_distances_average_to_texture_distance() -> None:
    real, fake = texture.glcm_descriptors(noise(6)), texture.glcm_descriptors(noise(6, seed=1))
    means = texture.standardise(real, real).mean(0), texture.standardise(fake, real).mean(0)
    assert texture.property_distances(*means).mean() == pytest.approx(texture.texture_distance(real, fake))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="does not fit"):
        texture.glcm_descriptors(np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(InputError, match="direction"):
        texture.glcm_descriptors(np.zeros((1, 16, 16), np.uint8), directions=("diagonal",))
    with pytest.raises(InputError, match="different sizes"):
        texture.glcm_descriptors([np.zeros((16, 16), np.uint8), np.zeros((17, 16), np.uint8)])
    with pytest.raises(InputError, match="at least 2"):
        texture.texture_distance(np.zeros((1, 4)), np.zeros((3, 4)))
    with pytest.raises(InputError, match="NaN"):
        texture.texture_distance(np.full((2, 4), np.nan), np.zeros((3, 4)))

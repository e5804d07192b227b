"""Descriptive tables and fitted laws against simulated speckle of known law, hand-made images, and scipy's own fits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from sarnb.errors import InputError
from sarnb.metrics import describe
from sarnb.metrics.texture import glcm_descriptors
from sarnb.world.backscatter import CODE


def rayleigh(count: int = 4, side: int = 64, level: float = 60.0, seed: int = 0) -> np.ndarray:
    """Single-look amplitude of a flat scene as uint8 [N, side, side], mean about ``level``."""
    sample = np.random.default_rng(seed).rayleigh(level / np.sqrt(np.pi / 2), (count, side, side))
    return np.clip(np.rint(sample), 0, 255).astype(np.uint8)


def test_flat_speckle_has_the_textbook_statistics() -> None:
    table = describe.image_statistics(rayleigh())
    assert table["mean"].mean() == pytest.approx(60 / 255, rel=0.02)
    assert table["cv"].mean() == pytest.approx(describe.RAYLEIGH_CV, rel=0.02)
    assert table["enl"].mean() == pytest.approx(1.0, abs=0.1)
    assert table["saturated"].max() < 1e-3


def test_shares_at_the_end_levels_are_exact() -> None:
    image = np.full((1, 16, 16), 100, np.uint8)
    image[0, 0, :4], image[0, 1, :2] = 255, 0
    table = describe.image_statistics(image)
    assert (table["saturated"][0], table["zero"][0]) == (4 / 256, 2 / 256)


def test_law_table_ranks_the_true_law_above_the_others() -> None:
    counts = np.bincount(rayleigh(8).ravel(), minlength=256)
    table = describe.law_table({"flat": counts}, ("lognormal", "gamma", "rayleigh"))
    assert table["law"][0] == "rayleigh" and table["ks"].is_monotonic_increasing
    assert table["ks"][0] < 0.02


def test_cover_statistics_sees_each_cover_alone() -> None:
    images, masks = rayleigh(4, 64), np.full((4, 64, 64), CODE["grass"], np.uint8)
    images[:, :, 32:] = 90  # asphalt without speckle: no variance at all
    images[:, 0, 32:] = 91
    masks[:, :, 32:] = CODE["asphalt"]
    masks[:, :8, :8] = np.arange(64).reshape(8, 8) % 2  # a mixed window counts for no cover
    table = describe.cover_statistics(images, masks).set_index("cover")
    assert table.loc["grass", "windows"] == 4 * 31 and table.loc["asphalt", "windows"] == 4 * 32
    assert table.loc["grass", "cv"] == pytest.approx(describe.RAYLEIGH_CV, rel=0.05)
    assert table.loc["grass", "enl"] == pytest.approx(1.0, abs=0.1)
    assert table.loc["asphalt", "cv"] == 0


def test_flat_sample_leaves_out_windows_of_another_level() -> None:
    images, masks = rayleigh(3, 64), np.full((3, 64, 64), CODE["crop"], np.uint8)
    images[0, :16] = np.minimum(images[0, :16].astype(int) * 3, 250)  # two brighter rows of windows
    counts = describe.flat_sample(images, masks, "crop")
    p = counts / counts.sum()
    mean = p @ np.arange(256)
    spread = np.sqrt(p @ np.arange(256) ** 2 - mean**2) / mean
    assert 0 < counts.sum() < images.size
    assert spread == pytest.approx(describe.RAYLEIGH_CV, rel=0.03)
    with pytest.raises(InputError, match="lies in snow alone"):
        describe.flat_sample(images, masks, "snow")


def test_masks_must_match() -> None:
    with pytest.raises(InputError, match="one mask an image"):
        describe.cover_statistics(rayleigh(2), np.zeros((1, 64, 64), np.uint8))


@pytest.mark.parametrize("law", ["speckle", "k", "g0"])
def test_log_cumulants_equal_those_of_samples(law: str) -> None:
    rng, order, count = np.random.default_rng(5), 4.0, 400_000
    texture = {"speckle": 1.0, "k": rng.gamma(order, 1, count), "g0": 1 / rng.gamma(order, 1, count)}[law]
    speckle = rng.gamma(order if law == "speckle" else 1.0, 1.0, count)
    logs = 0.5 * np.log(speckle * texture)
    centred = logs - logs.mean()
    expected = describe.law_log_cumulants(law, np.array(order))
    assert expected[0] == pytest.approx((centred**2).mean(), rel=0.01)
    assert expected[1] == pytest.approx((centred**3).mean(), abs=0.01)


def filtered(kernel: tuple[float, ...], axis: int, count: int = 6) -> np.ndarray:
    """White Gaussian noise about level 128 with a kernel run along one axis: uint8 [count, 128, 128]."""
    noise = np.random.default_rng(3).standard_normal((count, 128, 128))
    smooth = np.apply_along_axis(lambda line: np.convolve(line, kernel, "same"), axis, noise)
    return np.clip(np.rint(128 + 30 * smooth / smooth.std()), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kernel, expected", [((1.0,), 0.0), ((1.0, 1.0), 0.5), ((1.0, 2.0, 1.0), 4 / 6), ((1.0, -1.0), -0.5)])
@pytest.mark.parametrize("axis, column", [(2, 0), (1, 1)])
def test_lag_one_correlation_is_that_of_the_filter(kernel: tuple[float, ...], expected: float, axis: int, column: int) -> None:
    found = describe.lag_one_correlation(filtered(kernel, axis)).mean(0)
    assert found[column] == pytest.approx(expected, abs=0.015)  # sum h_k h_(k+1) / sum h_k^2
    assert found[1 - column] == pytest.approx(0.0, abs=0.015), "the other direction stays white"


def test_a_constant_image_has_no_correlation() -> None:
    assert np.isnan(describe.lag_one_correlation(np.full((1, 8, 8), 7, np.uint8))).all()


@pytest.mark.parametrize("looks", [1, 4])
def test_flat_enl_counts_looks_next_to_a_scene(looks: int) -> None:
    """Half of the windows are flat and half of these are taken, the evener ones, which lifts the ENL: by so much as in drawn windows."""
    rng = np.random.default_rng(2)
    power = rng.gamma(looks, 1 / looks, (40_000, 8, 8))
    parts = power.reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)
    evenness = parts.std(1) / parts.mean(1)
    flat = power[evenness <= np.median(evenness)].reshape(-1, 64)
    expected = np.median(flat.mean(1) ** 2 / flat.var(1, ddof=1))
    amplitude = 50 * np.sqrt(rng.gamma(looks, 1 / looks, (12, 128, 128)))
    amplitude[:, :, 64:] *= np.where(np.arange(64) % 8 < 4, 0.3, 1.6)  # half of the scene is stripes, two in each window
    images = np.clip(np.rint(amplitude), 0, 255).astype(np.uint8)
    assert describe.flat_enl(images).mean() == pytest.approx(expected, rel=0.03)
    striped = describe.flat_enl(images[:, :, 64:]).mean()
    assert striped < 0.8 * looks, "stripes are seen where there is nothing flat"


def test_flat_enl_without_a_window() -> None:
    assert np.isnan(describe.flat_enl(np.zeros((1, 16, 16), np.uint8)))


def test_image_measures_agree_with_the_single_measures() -> None:
    images = rayleigh(2, 64)
    images[:, :2, :4] = 255
    images[:, 3, 0] = 0
    table = describe.image_measures(images)
    from_glcm = glcm_descriptors(images, (4,))
    assert np.allclose(table[[f"{name} range" for name in describe.PROPERTIES]], from_glcm[:, :6])
    assert np.allclose(table[[f"{name} azimuth" for name in describe.PROPERTIES]], from_glcm[:, 6:])
    assert table["saturated"].min() >= 8 / 4096 and table["zero"].min() >= 1 / 4096
    flat = describe.image_measures(rayleigh(8, 128)).mean()
    assert flat["cv"] == pytest.approx(describe.RAYLEIGH_CV, rel=0.01)
    assert (flat["kappa2"], flat["kappa3"]) == pytest.approx((0.4112, -0.3005), abs=0.02)
    assert flat["lag 1 range"] == pytest.approx(0, abs=0.01) and flat["correlation azimuth"] == pytest.approx(0, abs=0.02)


COUNT = 40_000


def k_samples(nu: float, looks: float, mean: float, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.sqrt(mean * rng.gamma(nu, 1 / nu, COUNT) * rng.gamma(looks, 1 / looks, COUNT))


@pytest.mark.parametrize("family", ["rayleigh", "weibull", "lognormal", "gamma"])
def test_fits_equal_those_of_scipy(family: str) -> None:
    law = {"rayleigh": stats.rayleigh, "weibull": stats.weibull_min, "lognormal": stats.lognorm, "gamma": stats.gamma}[family]
    sample = stats.gamma(2.3, scale=0.1).rvs(COUNT, random_state=1)
    *shape, _, scale = law.fit(sample, floc=0)
    names = {"rayleigh": ["scale"], "lognormal": ["sigma", "mu"]}.get(family, ["shape", "scale"])
    expected = dict(zip(names, [*shape, np.log(scale) if family == "lognormal" else scale]))
    assert describe.fit(family, sample).parameters == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("nu", "looks"), [(0.8, 1.0), (3.0, 1.0), (4.0, 3.0)])
def test_k_finds_its_parameters(nu: float, looks: float) -> None:
    model = describe.fit("k", k_samples(nu, looks, 0.05), looks=looks)
    assert model.parameters["nu"] == pytest.approx(nu, rel=0.12)
    assert model.parameters["mean"] == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize(("nu", "looks"), [(0.8, 1.0), (3.0, 1.0), (4.0, 3.0), (60.0, 1.0)])
def test_k_density_integrates_to_its_distribution(nu: float, looks: float) -> None:
    model = describe.AmplitudeFit("k", {"mean": 0.05, "nu": nu, "looks": looks})
    for upper in (0.1, 0.3):
        assert quad(lambda a: float(model.pdf(a)), 0, upper)[0] == pytest.approx(float(model.cdf(upper)), abs=2e-3)
    assert float(model.cdf(10.0)) == pytest.approx(1.0, abs=1e-3)


def test_k_without_texture_is_rayleigh() -> None:
    sample = stats.rayleigh(scale=0.3).rvs(COUNT, random_state=4)
    model, points = describe.fit("k", sample), np.linspace(0.1, 1, 10)
    np.testing.assert_allclose(model.cdf(points), stats.rayleigh(scale=0.3).cdf(points), atol=0.02)


def test_k_of_order_three_halves_is_a_gamma_law() -> None:
    # Bessel K of order 1/2 is elementary: the density becomes a exp(-b a) with b = 2 sqrt(nu / mean)
    model, points = describe.AmplitudeFit("k", {"mean": 0.02, "nu": 1.5, "looks": 1.0}), np.linspace(0.01, 0.8, 20)
    gamma = stats.gamma(2, scale=1 / (2 * np.sqrt(1.5 / 0.02)))
    np.testing.assert_allclose(model.pdf(points), gamma.pdf(points), rtol=1e-9)
    np.testing.assert_allclose(model.cdf(points), gamma.cdf(points), atol=1e-3)


def test_the_true_law_fits_best() -> None:
    sample = k_samples(4.0, 1.0, 0.02)
    counts = np.bincount(np.clip(np.rint(sample * 255), 0, 255).astype(int), minlength=256)
    scores = {name: describe.goodness(describe.fit_histogram(name, counts), counts) for name in describe.FAMILIES}
    assert min(scores, key=scores.get) == "k"
    assert scores["k"] < 0.02 < scores["rayleigh"]


def test_weights_stand_for_repeats() -> None:
    values, weights = np.array([0.1, 0.2, 0.5]), np.array([1, 3, 2])
    for name in describe.FAMILIES:
        first = describe.fit(name, values, weights).parameters
        assert first == pytest.approx(describe.fit(name, np.repeat(values, weights)).parameters)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="unknown law"):
        describe.fit("cauchy", np.ones(3))
    with pytest.raises(InputError, match="unknown law"):
        describe.law_log_cumulants("weibull", np.array(1.0))
    with pytest.raises(InputError, match="different amplitudes"):
        describe.fit("weibull", np.full(9, 0.2))
    with pytest.raises(InputError, match="NaN"):
        describe.fit("gamma", np.array([0.1, np.nan]))
    with pytest.raises(InputError, match="0 or less"):
        describe.fit("rayleigh", np.array([0.0, 1.0]))
    with pytest.raises(InputError, match="looks"):
        describe.fit("k", np.array([0.1, 1.0]), looks=0)

"""SAR image formation against theory: speckle, K texture, impulse response, geometry, calibration, corner reflectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import fft, stats

from sarnb.errors import InputError
from sarnb.world import facets, speckle
from sarnb.world.backscatter import CODE, COVERS, SIGMA0, lookup, sigma0_db
from sarnb.world.radar import PRESETS, Radar, amplitude, reflectivity, simulate
from sarnb.world.scene import Scene
from sarnb.world.speckle import add_points, impulse_response, with_reflectors

SPACING = 2.0
WHITE = speckle.broadening("rect") * SPACING  # the band fills the sampling rate: samples are independent


def flat(material: str = "grass", size: int = 128, **changes: np.ndarray) -> Scene:
    """A flat scene of one cover; arrays given by name replace its own."""
    zero = np.zeros((size, size), np.float32)
    scene = Scene(
        kind="test",
        height=zero,
        ground=zero,
        cover=np.full((size, size), CODE[material], np.uint8),
        tint=zero,
        points=np.zeros((0, 5), np.float32),
        spacing=SPACING,
        season="summer",
    )
    return replace(scene, **changes)


def radar(**changes: object) -> Radar:
    """A radar with independent samples and hardly any noise."""
    plain = Radar("test", "X", 9.6, 40.0, resolution_m=(WHITE, WHITE), spacing_m=(SPACING, SPACING), window="rect", nesz_db=-90.0)
    return replace(plain, **changes)


def pure_speckle(looks: int = 1, size: int = 256) -> np.ndarray:
    """Intensity of thermal noise far above any cover: homogeneous, no texture."""
    return simulate(flat(size=size), radar(nesz_db=40.0, looks=looks), seed=5).intensity / 1e4


def test_single_look_intensity_is_exponential() -> None:
    intensity = pure_speckle().ravel()
    # float32 FFTs and 65,536 samples: standard errors of mean, ENL and CV are 0.004, 0.008 and 0.0012
    assert stats.kstest(intensity[::3], "expon").pvalue > 0.01
    assert intensity.mean() == pytest.approx(1, abs=0.02)
    assert intensity.mean() ** 2 / intensity.var() == pytest.approx(1, abs=0.03)
    root = np.sqrt(intensity)
    assert root.std() / root.mean() == pytest.approx(np.sqrt(4 / np.pi - 1), abs=0.01)


@pytest.mark.parametrize("looks", [2, 4, 9])
def test_looks_give_that_equivalent_number_of_looks(looks: int) -> None:
    intensity = pure_speckle(looks)
    assert intensity.mean() ** 2 / intensity.var() == pytest.approx(looks, rel=0.03)


def test_speckle_correlation_follows_the_band() -> None:
    """Power spectrum theorem: the autocorrelation of filtered white noise is the transform of the band's power."""
    sensor = radar(resolution_m=(3.6, 3.6), nesz_db=40.0)
    image = simulate(flat(size=256), sensor, seed=1).slc
    measured = np.vdot(image[:, :-1], image[:, 1:]) / np.vdot(image[:, :-1], image[:, :-1])
    assert measured.real == pytest.approx(np.sinc(speckle.broadening("rect") * SPACING / 3.6), abs=0.02)
    assert abs(measured.imag) < 0.02


@pytest.mark.parametrize("cover", ["rock", "tile", "metal"])
def test_texture_makes_k_distributed_intensity(cover: str) -> None:
    intensity = simulate(flat(cover, 448), radar(), seed=2).intensity.astype(float)
    ratio, nu = np.mean(intensity**2) / intensity.mean() ** 2, SIGMA0[cover].nu
    assert ratio == pytest.approx(2 * (1 + 1 / nu), rel=0.05)
    assert 1 / (ratio / 2 - 1) == pytest.approx(nu, rel=0.10)
    order = np.array([np.inf, 2.0, np.inf])
    assert speckle.gamma_texture(order, np.random.default_rng(0))[[0, 2]].tolist() == [1, 1], "texture of infinite order is one"


@pytest.mark.parametrize(("window", "low", "high"), [("rect", -13.6, -13.0), ("taylor", -36.0, -34.0)])
@pytest.mark.parametrize("ratio", [1.25, 1.6, 2.4])
def test_point_response_has_width_and_side_lobes(window: str, low: float, high: float, ratio: float) -> None:
    n, zoom = 256, 64
    cells = np.zeros((16, n), np.complex64)
    cells[0, 0] = 1
    # the wide second ratio would spread in azimuth only; the range cut keeps its shape
    cut = speckle.impulse_response(cells, (ratio, 1.25), window)[0]
    spectrum = np.zeros(n * zoom, complex)
    spectrum[: n // 2], spectrum[-n // 2 :] = fft.fft(cut)[: n // 2], fft.fft(cut)[n // 2 :]
    fine = np.abs(fft.ifft(spectrum)) ** 2
    fine = np.roll(fine / fine.max(), n * zoom // 2)
    centre = int(np.argmax(fine))
    width = np.count_nonzero(fine[centre - 8 * zoom : centre + 8 * zoom] >= 0.5) / zoom
    assert width == pytest.approx(ratio, rel=0.02)
    null = centre + int(np.argmax(np.diff(fine[centre:]) > 0))  # the first rise after the peak ends the main lobe
    assert low <= 10 * np.log10(fine[null:].max()) <= high


def test_point_keeps_its_cross_section_and_place() -> None:
    """Calibration by the integral method: energy times cell area is the RCS (its 2 dB draw undone by many points)."""
    rows = np.arange(8, 120, 16) + 0.3
    points = [(r, c + 0.4, 0.0, 30.0, np.nan) for r in rows for c in rows]
    scene = flat("asphalt", points=np.array(points, np.float32))
    image = simulate(scene, replace(PRESETS["airborne-x"], nesz_db=-90.0), seed=3).intensity
    whole = [(r, c, 0.0, 30.0, np.nan) for r in range(8, 120, 16) for c in range(8, 120, 16)]
    quiet = replace(PRESETS["airborne-x"], nesz_db=-90.0)
    grid, energies = replace(scene, points=np.array(whole, np.float32)), []
    for seed in range(16):
        with_points, without = (simulate(one, quiet, seed=seed).intensity for one in (grid, replace(scene, points=scene.points[:0])))
        energies.append((with_points - without).sum() * SPACING**2 / len(whole))
    spread = 2.0 * np.log(10) / 10
    assert np.mean(energies) == pytest.approx(1000 * np.exp(spread**2 / 2), rel=0.06)  # mean of a log-normal with 2 dB deviation
    window = image[8 - 4 : 8 + 5, 8 - 4 : 8 + 5]
    offset = (window.sum(axis=1) @ np.arange(9) / window.sum(), window.sum(axis=0) @ np.arange(9) / window.sum())
    assert offset == (pytest.approx(4.3, abs=0.15), pytest.approx(4.7, abs=0.15))


@pytest.mark.parametrize("row", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("col", [0.0, 0.5])
def test_energy_of_a_point_does_not_depend_on_its_place_between_cells(row: float, col: float) -> None:
    """The response keeps the power of white noise, so that of a unit impulse on a cell is 1 (Parseval); it is 1 between cells too."""
    place = np.array([32 + row]), np.array([32 + col])
    formed = impulse_response(add_points(np.zeros((64, 64), np.complex64), *place, np.ones(1, np.complex64)), (1.2, 1.2), "taylor")
    assert (np.abs(formed) ** 2).sum() == pytest.approx(1.0, rel=0.11)  # 0.22 dB an axis half-way, by eight taps


def test_long_metal_objects_flash_broadside_and_alike_from_both_sides() -> None:
    gain = facets.aspect_gain(np.array([0.0, 20.0, -20.0, 90.0, 180.0, 200.0, np.nan]))
    side = 0.05 + 0.95 / np.e
    assert gain == pytest.approx([1, side, side, 0.05, 1, side, 1], abs=1e-6)
    ships = [flat("water", points=np.array([(64, 64, 5, 50, facing)], np.float32)) for facing in (0.0, 90.0)]
    for look in ("left", "right"):
        broadside, bow = (simulate(ship, radar(look=look), seed=2).intensity[60:69, 58:69].max() for ship in ships)
        assert 10 * np.log10(broadside / bow) == pytest.approx(13.0, abs=0.3)  # the same draw of the fine structure


@pytest.mark.parametrize("look", ["left", "right"])
@pytest.mark.parametrize("incidence", [30.0, 45.0, 60.0])
@pytest.mark.parametrize("height", [8.0, 15.0, 24.0])
def test_wall_layover_shadow_and_corner(look: str, incidence: float, height: float) -> None:
    first, thick, size = 64, 2, 160  # the wall stands in columns 64 and 65 as seen from the near side
    heights, cover = np.zeros((2, size, size), np.float32)
    heights[:, first : first + thick] = height
    cover = np.where(heights > 0, CODE["roof"], CODE["asphalt"]).astype(np.uint8)
    scene = flat(size=size, height=heights, cover=cover)
    if look == "right":
        scene = replace(scene, height=heights[:, ::-1], cover=cover[:, ::-1])
    image = simulate(scene, radar(incidence_deg=incidence, look=look), seed=4)
    layover, shadow, intensity = (a if look == "left" else a[:, ::-1] for a in (image.layover, image.shadow, image.intensity))
    tangent = np.tan(np.deg2rad(incidence))
    lean, dark = height / tangent / SPACING, height * tangent / SPACING
    rows = slice(8, -8)
    columns = np.flatnonzero(layover[rows].all(axis=0))
    assert abs(columns[0] - (first - lean)) <= 1 and abs(columns[-1] + 1 - first) <= 1
    assert abs(len(columns) - lean) <= 1
    columns = np.flatnonzero(shadow[rows].all(axis=0))
    behind = columns[columns >= first + thick]
    assert abs(len(behind) - dark) <= 1 and abs(behind[0] - (first + thick)) <= 1
    assert (np.diff(columns) == 1).all()
    assert abs(int(np.argmax(intensity[rows].mean(axis=0))) + 0.5 - first) <= 1
    assert np.median(intensity[rows, columns[1:-1]]) < 1e-6  # what is there is the tails of points next to it


def test_corner_needs_a_wall_that_faces_the_radar() -> None:
    heights = np.zeros((128, 128), np.float32)
    heights[40:80, 40:80] = 12
    cover = np.where(heights > 0, CODE["roof"], CODE["asphalt"]).astype(np.uint8)
    scene = flat(height=heights, cover=cover)
    lit = simulate(scene, radar(), seed=1).intensity[45:75].mean(axis=0)
    assert lit[39] > 20 * lit[20] and lit[80:84].max() < 1e-6


@pytest.mark.parametrize("cover", COVERS)
def test_mean_backscatter_is_the_table_after_noise_subtraction(cover: str) -> None:
    sensor = replace(PRESETS["airborne-x"], incidence_deg=37.0, nesz_db=-25.0)
    image = simulate(flat(cover, 256), sensor, seed=7)
    measured = 10 * np.log10(image.intensity.mean(dtype=float) - 10**-2.5)
    assert measured == pytest.approx(sigma0_db(cover, 37.0), abs=0.2)
    np.testing.assert_allclose(image.incidence, 37.0, atol=1e-3)


@pytest.mark.parametrize("slope_deg", [-20.0, 10.0, 25.0])
def test_slopes_brighten_by_local_incidence_and_foreshortening(slope_deg: float) -> None:
    """σ0(θ - α) sin θ / sin(θ - α), the area of a resolution cell on a tilted plane (Ulaby, Moore and Fung, ch. 12)."""
    theta, alpha = np.deg2rad(40.0), np.deg2rad(slope_deg)
    ramp = np.broadcast_to(np.tan(alpha) * SPACING * np.arange(256.0), (256, 256)).astype(np.float32)
    seen = reflectivity(flat("grass", 256, height=ramp, ground=ramp), radar(), np.random.default_rng(0))
    middle = slice(100, 156)
    expected = sigma0_db("grass", 40.0 - slope_deg) + 10 * np.log10(np.sin(theta) / np.sin(theta - alpha))
    assert 10 * np.log10(seen.power[:, middle].mean()) == pytest.approx(expected, abs=0.15)
    assert seen.incidence[:, middle] == pytest.approx(40.0 - slope_deg, abs=0.05)


def test_accumulation_conserves_energy_and_equals_a_loop() -> None:
    rng = np.random.default_rng(1)
    row, start = rng.integers(0, 5, 400), rng.uniform(1, 30, 400)
    stop, weight = start + rng.exponential(3, 400) * rng.integers(0, 2, 400), rng.exponential(1, 400)
    (image,) = facets.accumulate(row, start, stop, (weight,), (5, 60))
    assert image.sum() == pytest.approx(weight.sum(), rel=1e-9)
    slow = np.zeros((5, 60))
    for r, a, b, w in zip(row, start, np.maximum(stop, start + facets.MIN_WIDTH), weight):
        for k in range(60):
            slow[r, k] += w * max(0.0, min(b, k + 1) - max(a, k)) / (b - a)
    assert image == pytest.approx(slow, abs=1e-7)
    (image,) = facets.accumulate(np.zeros(3, int), np.array([-5, -0.5, 3.75]), np.array([-4, 0.5, 4.75]), (np.ones(3),), (1, 4))
    assert image[0] == pytest.approx([0.5, 0, 0, 0.25]), "what lies outside is dropped"


def test_horizon_agrees_with_rays() -> None:
    """Shadow fractions of a rough terrain against rays marched through a densely sampled profile."""
    rng = np.random.default_rng(2)
    height = np.cumsum(rng.normal(0, 0.6, (6, 50)), axis=1)
    cot = 1 / np.tan(np.deg2rad(50.0))
    profile = facets.trace(height, height, np.zeros(height.shape, bool), 1.0, cot)
    sub = 200
    t = (np.arange(sub) + 0.5) / sub
    z = (profile.left[..., None] + (profile.right - profile.left)[..., None] * t).reshape(6, -1)
    y = (np.arange(50)[:, None] + t).ravel()
    dark = np.zeros((6, 50 * sub))
    for i in range(0, 50 * sub):
        dark[:, i] = (z[:, :i] > z[:, i : i + 1] + (y[i] - y[:i]) * cot + 1e-9).any(axis=1)
    assert profile.dark == pytest.approx(dark.reshape(6, 50, sub).mean(axis=2), abs=0.02)


def test_other_look_side_mirrors_the_image() -> None:
    rng = np.random.default_rng(3)
    heights = np.where(rng.random((64, 64)) > 0.9, 9, 0).astype(np.float32)
    cover = np.where(heights > 0, CODE["roof"], CODE["grass"]).astype(np.uint8)
    scene = flat(size=64, height=heights, cover=cover, points=np.array([[20, 11, 2, 20, 30]], np.float32))
    mirror = replace(scene, height=heights[:, ::-1], cover=cover[:, ::-1], points=np.array([[20, 52, 2, 20, -30]], np.float32))
    left, right = simulate(scene, radar(), seed=1), simulate(mirror, radar(look="right"), seed=1)
    for name in ("slc", "intensity", "layover", "shadow", "incidence", "slant_range"):
        assert np.array_equal(getattr(left, name), getattr(right, name)[..., ::-1]), name


def test_flat_ground_maps_to_itself_at_any_altitude() -> None:
    cover = np.full((96, 96), CODE["grass"], np.uint8)
    cover[:, 40:50] = CODE["water"]
    low = reflectivity(flat(size=96, cover=cover), radar(), np.random.default_rng(0))
    up = np.full((96, 96), 1024, np.float32)
    high = reflectivity(flat(size=96, cover=cover, height=up, ground=up), radar(), np.random.default_rng(0))
    assert np.array_equal(low.power, high.power)
    dark = np.flatnonzero(low.power.mean(axis=0) < 10**-1.7)
    assert dark.tolist() == list(range(40, 50))


def test_slant_range_spacing_is_ground_range_times_sine_and_grows_away_from_the_radar() -> None:
    scene, step = flat("water", 192, points=np.array([(64, 40, 0, 50, np.nan), (64, 140, 0, 50, np.nan)], np.float32)), SPACING / 2
    changes = ({}, {"look": "right"}, {"geometry": "slant"})
    ground, right, slant = (simulate(scene, radar(incidence_deg=30.0, **change), seed=1) for change in changes)
    assert slant.intensity.shape == (192, 96)
    assert np.diff(np.sort(np.argsort(slant.intensity[64])[-2:]))[0] == pytest.approx(100 * np.sin(np.deg2rad(30.0)), abs=1)
    grass = simulate(flat("grass", 256), radar(geometry="slant", incidence_deg=30.0), seed=1).intensity
    assert 10 * np.log10(grass.mean(dtype=float)) == pytest.approx(sigma0_db("grass", 30.0), abs=0.2)
    assert np.diff(ground.slant_range) == pytest.approx(np.full(191, step)) and ground.slant_range.mean() == pytest.approx(0, abs=1e-4)
    assert np.array_equal(right.slant_range, ground.slant_range[::-1])
    assert np.diff(slant.slant_range) == pytest.approx(np.full(95, SPACING))  # half as many columns, each a full spacing


def test_spacings_of_range_and_azimuth_are_independent() -> None:
    sensor = radar(spacing_m=(4.0, 2.0), resolution_m=(2 * WHITE, WHITE))
    points = np.array([(32, 20, 0, 60, np.nan), (96, 100, 0, 60, np.nan)], np.float32)
    image = simulate(flat("water", points=points), sensor, seed=1).intensity
    assert image.shape == (128, 64)
    peaks = sorted(np.unravel_index(index, image.shape) for index in np.argsort(image.ravel())[-2:])
    assert np.abs(np.array(peaks) - [(32, 9.75), (96, 49.75)]).max() <= 0.5
    level = simulate(flat("crop", 256), sensor, seed=1).intensity.mean(dtype=float)
    assert 10 * np.log10(level) == pytest.approx(sigma0_db("crop", 40.0), abs=0.2)


def test_coarser_grid_keeps_calibration_and_extent() -> None:
    sensor = replace(PRESETS["sentinel-1"], nesz_db=-60.0)
    image = simulate(flat("crop", 320), sensor, seed=2)
    assert image.intensity.shape == (64, 64)
    expected = sigma0_db("crop", sensor.incidence_deg, "C")
    assert 10 * np.log10(image.intensity.mean(dtype=float)) == pytest.approx(expected, abs=0.3)
    finer = PRESETS["airborne-x"].scaled(0.5)
    assert simulate(flat("crop", 64), finer, seed=2).slc.shape == (128, 128) and finer.resolution_m == (1.2, 1.2)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_form_finite_repeatable_images(name: str) -> None:
    scene = flat("grass", 160, points=np.array([(50, 60, 1, 20, np.nan)], np.float32))
    image, again, other = (simulate(scene, PRESETS[name], seed) for seed in (1, 1, 2))
    assert image.slc.dtype == np.complex64 and image.intensity.dtype == amplitude(image).dtype == np.float32
    assert np.isfinite(image.intensity).all() and np.array_equal(image.slc, again.slc)
    assert not np.array_equal(image.slc, other.slc)
    np.testing.assert_allclose(amplitude(image), np.sqrt(image.intensity))
    if PRESETS[name].looks == 1:
        np.testing.assert_allclose(image.intensity, np.abs(image.slc) ** 2, rtol=1e-4)


IMPOSSIBLE = {  # a word of the error -> values that meet it
    "incidence": [{"incidence_deg": value} for value in (0.0, 90.0, float("nan"))],
    "finer": [{"resolution_m": (1.0, 2.4)}, {"window": "taylor"}],
    "looks": [{"looks": 0}, {"looks": -3}],
    "spacing": [{"spacing_m": (-1.0, 2.0)}, {"spacing_m": 2.0}],
    "resolution": [{"resolution_m": (float("nan"), 4.0)}],
    "look": [{"look": "up"}],
    "geometry": [{"geometry": "map"}],
    "band": [{"band": "Q"}],
    "GHz": [{"frequency_ghz": 5.4}],
    "polarisation": [{"polarisation": "HV"}],
    "nesz": [{"nesz_db": float("nan")}],
    "window": [{"window": "hann"}],
}


@pytest.mark.parametrize(("word", "changes"), [(word, changes) for word, several in IMPOSSIBLE.items() for changes in several])
def test_impossible_radars_are_refused(word: str, changes: dict) -> None:
    with pytest.raises(InputError, match=word):
        radar(**changes)


def test_impossible_scenes_are_refused() -> None:
    with pytest.raises(InputError, match="larger scene"):
        simulate(flat(size=32), PRESETS["sentinel-1"], 0)
    with pytest.raises(InputError, match="seed"):
        simulate(flat(size=32), radar(), -1)
    with pytest.raises(InputError, match="lava"):
        lookup(("water", "lava"), "X", "VV")


# P1 … P6 of σ0 [dB] = P1 + P2 exp(-P3 θ) + P4 cos(P5 θ + P6), θ in radians (Ulaby and Dobson 1989, C band).
REGRESSION = {
    ("soil", "HH"): (-24.855, 26.351, 1.146, 0.204, 0.0, 0.0),
    ("soil", "VV"): (-24.951, 28.742, 1.043, -1.681, 0.0, 0.0),
    ("grass", "HH"): (-15.750, 17.931, 2.369, -1.502, 4.592, -3.142),
    ("grass", "VV"): (-93.606, 99.0, 0.220, -5.509, -2.964, 1.287),
    ("short vegetation", "HH"): (-87.727, 99.0, 0.322, 10.188, -1.747, 3.142),
    ("short vegetation", "VV"): (-88.593, 99.0, 0.326, 9.574, 1.969, -3.142),
    ("shrubs", "HH"): (-91.950, 99.0, 0.270, 6.980, 1.922, -3.142),
    ("shrubs", "VV"): (-91.133, 99.0, 0.294, 8.107, 2.112, -3.142),
    ("dry snow", "HH"): (-42.864, 20.762, 10.0, 30.0, 0.763, -0.147),
    ("dry snow", "VV"): (-19.765, 19.830, 10.0, 7.089, 1.540, -0.012),
}


def regression_db(terrain: str, polarisation: str, incidence_deg: np.ndarray) -> np.ndarray:
    """The published C-band regression of mean σ0 in dB, for ``incidence_deg`` of any shape; keys of ``REGRESSION``."""
    p1, p2, p3, p4, p5, p6 = REGRESSION[terrain, polarisation]
    theta = np.deg2rad(incidence_deg)
    return p1 + p2 * np.exp(-p3 * theta) + p4 * np.cos(p5 * theta + p6)


@pytest.mark.parametrize("polarisation", ["HH", "VV"])
@pytest.mark.parametrize(
    ("cover", "terrain", "low", "high"),
    [
        ("bare", "soil", -2, 2),
        ("grass", "grass", -2, 2),
        ("crop", "short vegetation", -2, 2),
        ("snow", "dry snow", -2, 2),
        ("forest", "shrubs", -0.5, 3),
    ],
)
def test_natural_covers_follow_the_published_regression(cover: str, terrain: str, low: float, high: float, polarisation: str) -> None:
    angles = np.arange(20.0, 60.5, 2.5)
    published = regression_db(terrain, polarisation, angles)
    rows = np.array([sigma0_db(cover, angle, "C", polarisation) for angle in angles])
    assert low <= (rows - published).min() and (rows - published).max() <= high


def test_every_cover_has_a_physical_row() -> None:
    table = lookup(COVERS, "X", "VV")
    assert (np.diff(table.sigma0, axis=1) <= 1e-12).all()  # σ0 never rises with incidence
    assert (table.nu > 0).all() and ((0 <= table.mirror) & (table.mirror <= 1)).all()
    assert sigma0_db("water", 40.0) < sigma0_db("asphalt", 40.0) < sigma0_db("grass", 40.0) < sigma0_db("forest", 40.0)


# Corner reflectors in images against the response they are meant to have.


DARK = np.zeros((24, 64, 64), np.uint8)


def half_power_width(cut: np.ndarray) -> float:
    """-3 dB width of a band-limited amplitude cut, read on a grid 32 times finer (zero-padded spectrum)."""
    spectrum, size = np.fft.fftshift(np.fft.fft(cut)), len(cut)
    fine = np.abs(np.fft.ifft(np.fft.ifftshift(np.pad(spectrum, (size * 31) // 2))))
    top = int(fine.argmax())
    above = np.roll(fine, len(fine) // 2 - top) >= fine.max() * np.sqrt(0.5)
    left, right = np.flatnonzero(~above[: len(fine) // 2]).max(), np.flatnonzero(~above[len(fine) // 2 :]).min() + len(fine) // 2
    return (right - left - 1) / 32


def test_a_point_is_as_wide_as_the_resolution_and_as_high_as_was_drawn(monkeypatch):
    monkeypatch.setattr(speckle, "PEAKS", (0.8, 0.8))
    found, peaks = [], []
    for image in with_reflectors(np.zeros((40, 64, 64), np.uint8), (3.0, 4.0), np.random.default_rng(0), count=1):
        row, column = np.unravel_index(image.argmax(), image.shape)
        if 14 <= row < 50 and 14 <= column < 50:
            found.append((half_power_width(image[row] / 255), half_power_width(image[:, column] / 255)))
            peaks.append(image.max() / 255)
    assert len(found) > 5
    np.testing.assert_allclose(np.mean(found, axis=0), (3.0, 4.0), rtol=0.05)
    assert 0.7 < min(peaks) and max(peaks) <= 0.805  # between pixels the highest sample lies below the peak


def test_a_point_on_a_pixel_is_that_of_the_image_formation():
    """Against ``impulse_response`` of one point in a grid, which filters in two dimensions at once."""
    dark = np.zeros((64, 64), np.complex64)
    place = np.array([30]), np.array([21])
    formed = impulse_response(add_points(dark, *place, np.ones(1, np.complex64)), (1.7, 2.4), "taylor")
    rows, columns = (speckle._responses(64, ratio, "taylor", where.astype(float)) for ratio, where in zip((2.4, 1.7), place))
    np.testing.assert_allclose(np.abs(rows.T @ columns), np.abs(formed) / np.abs(formed).max(), atol=0.02)


def test_point_and_scene_add_in_power(monkeypatch):
    """E|A e^{iφ} + P|² = A² + P² over the random phase φ, with the dimming held at none."""
    monkeypatch.setattr(speckle, "DIMMEST_DB", 0.0)
    monkeypatch.setattr(speckle, "PEAKS", (0.5, 0.5))
    count, scene = 1200, np.full((1200, 16, 16), 51, np.uint8)
    powers = [(with_reflectors(level * scene, (2.0, 2.0), np.random.default_rng(1), count=1) / 255.0) ** 2 for level in (0, 1)]
    alone, both = (power.mean(axis=(1, 2)) for power in powers)
    noise = (both - alone).std() / np.sqrt(count)
    assert both.mean() - alone.mean() == pytest.approx(0.2**2, abs=4 * noise) and noise < 4e-3


def test_without_points_the_scene_is_dimmed_by_at_most_the_stated_factor():
    scene = np.random.default_rng(0).rayleigh(40, (32, 32, 32)).clip(1, 255).astype(np.uint8)
    dimmed = with_reflectors(scene, (1.2, 1.2), np.random.default_rng(0), count=0)
    factors = dimmed.mean(axis=(1, 2)) / scene.mean(axis=(1, 2))
    assert 10 ** (speckle.DIMMEST_DB / 20) * 0.9 < factors.min() < 0.15 and 0.7 < factors.max() <= 1.001
    assert np.corrcoef(dimmed[factors.argmax()].ravel(), scene[factors.argmax()].ravel())[0, 1] > 0.999


def test_the_same_generator_gives_the_same_images_and_an_impossible_resolution_is_refused():
    first, second = (with_reflectors(DARK, (1.2, 1.2), np.random.default_rng(3)) for _ in range(2))
    assert (first == second).all() and (first.max(axis=(1, 2)) > 0.3 * 255).all()
    with pytest.raises(InputError, match="resolution over spacing is"):
        with_reflectors(DARK, (1.0, 1.2), np.random.default_rng(0))

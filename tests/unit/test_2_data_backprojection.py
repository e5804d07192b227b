"""Images of phase history against the geometry and the widths that theory gives, and the layout of the GOTCHA set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.constants import c
from scipy.io import savemat

from sarnb.data import backprojection
from sarnb.data.backprojection import GRID, form_window, read_aperture
from sarnb.data.dataset import load_set
from sarnb.data.patches import import_products
from sarnb.data.products import describe
from sarnb.errors import InputError

HEIGHT, RADIUS, DEGREES = 7000.0, 7000.0, 1.0
FREQUENCIES = np.linspace(9.3e9, 9.9e9, 300)


def write_history(
    path: Path, points: list[tuple[float, float, float]], clockwise: bool = False, start: float = 30.0, packed: bool = False, **changes
) -> Path:
    """Phase history of points (x, y, amplitude) on the ground, seen from a circle: what an ideal radar would record."""
    angles = np.radians(start + np.linspace(0, DEGREES, 101) * (-1 if clockwise else 1))
    x, y, z = RADIUS * np.cos(angles), RADIUS * np.sin(angles), np.full(len(angles), HEIGHT)
    r0 = np.sqrt(x**2 + y**2 + z**2)
    fp = np.zeros((len(FREQUENCIES), len(angles)), complex)
    for px, py, strength in points:
        excess = np.sqrt((x - px) ** 2 + (y - py) ** 2 + z**2) - r0
        fp += strength * np.exp(-4j * np.pi / c * FREQUENCIES[:, None] * excess)
    data = {"fp": fp.astype(np.complex64), "freq": FREQUENCIES, "x": x, "y": y, "z": z, "r0": r0, "th": np.degrees(angles), "phi": 0 * x}
    savemat(path, {"data": {name: value for name, value in (data | changes).items() if value is not None}}, do_compression=packed)
    return path


def width(profile: np.ndarray) -> float:
    """Distance, in samples, between the two places where the power falls to a half."""
    power = np.abs(profile) ** 2 / (np.abs(profile) ** 2).max()
    peak = int(power.argmax())
    right = peak + np.flatnonzero(power[peak:] < 0.5)[0]
    left = peak - np.flatnonzero(power[peak::-1] < 0.5)[0]
    after = right - 1 + (power[right - 1] - 0.5) / (power[right - 1] - power[right])
    before = left + 1 - (power[left + 1] - 0.5) / (power[left + 1] - power[left])
    return after - before


@pytest.mark.parametrize("clockwise", [False, True])
def test_points_lie_where_they_are_and_the_radar_looks_inwards(tmp_path, clockwise):
    points = [(0.0, 0.0, 3.0), (12.0, -5.0, 2.0), (-8.0, 14.0, 1.0)]
    aperture = read_aperture(write_history(tmp_path / "a.mat", points, clockwise))
    assert aperture.side == ("right" if clockwise else "left")  # the centre of a circle flown counterclockwise lies to the left
    image = np.abs(form_window(aperture, 0, aperture.shape[0], 0, aperture.shape[1]))
    along, across = aperture.axes
    middle = (np.array(aperture.shape) - 1) / 2
    for x, y, strength in points:
        row, column = middle[0] - np.dot((x, y), along) / GRID, middle[1] + np.dot((x, y), across) / GRID
        top, left = int(row) - 4, int(column) - 4
        part = image[top : top + 10, left : left + 10]
        found = np.unravel_index(part.argmax(), part.shape)
        assert abs(found[0] + top - row) <= 1 and abs(found[1] + left - column) <= 1
        assert part.max() == pytest.approx(strength * len(aperture.positions) * len(FREQUENCIES) / aperture.profiles.shape[1], rel=0.1)


def test_a_point_is_as_wide_as_bandwidth_and_aperture_allow(tmp_path):
    aperture = read_aperture(write_history(tmp_path / "a.mat", [(0.0, 0.0, 1.0)], start=0.0))
    rows, columns = aperture.shape
    image = form_window(aperture, rows // 2 - 40, rows // 2 + 40, columns // 2 - 40, columns // 2 + 40)
    row, column = np.unravel_index(np.abs(image).argmax(), image.shape)
    # The image is band-limited about zero frequency: 16 times as many samples by its own spectrum.
    finer = [np.fft.ifft(np.pad(np.fft.fftshift(np.fft.fft(line)), 600)) for line in (image[row], image[:, column])]
    level = np.cos(aperture.elevation)
    bandwidth = FREQUENCIES[-1] - FREQUENCIES[0] + np.diff(FREQUENCIES)[0]
    expected = 0.886 * c / (2 * bandwidth * level), 0.886 * c / aperture.frequency / (2 * np.radians(DEGREES * 101 / 100) * level)
    for line, metres in zip(finer, expected):
        assert width(line) * GRID * len(image) / len(line) == pytest.approx(metres, rel=0.04)
    spectrum = np.abs(np.fft.fft2(image)) ** 2
    near = np.abs(np.fft.fftfreq(len(image))) < 0.4
    assert spectrum[np.ix_(near, near)].sum() > 0.99 * spectrum.sum()  # about zero: it may be resampled


def test_windows_are_parts_of_the_whole(tmp_path):
    aperture = read_aperture(write_history(tmp_path / "a.mat", [(3.0, 4.0, 1.0), (-6.0, 2.0, 1.0)]))
    whole = form_window(aperture, 0, 120, 100, 200)
    np.testing.assert_allclose(form_window(aperture, 30, 60, 110, 150), whole[30:60, 10:50], rtol=1e-4, atol=1e-6 * np.abs(whole).max())


def test_phase_history_becomes_patches(tmp_path):
    rng = np.random.default_rng(0)
    points = [(*place, 1.0) for place in rng.uniform(-30, 30, (150, 2))]
    path = write_history(tmp_path / "data_3dsar_pass1_az001_VV.mat", points)
    (product,) = describe(path)
    assert (product.polarisation, product.sensor, product.look) == ("VV", "Gotcha", "right")
    assert (
        product.place == describe(write_history(tmp_path / "data_3dsar_pass1_az002_HH.mat", points))[0].place
    )  # all circle about one scene
    assert product.incidence.values.item() == pytest.approx(90 - np.degrees(np.arctan2(HEIGHT, RADIUS)), abs=0.01)
    card = import_products([path], tmp_path / "set", patch=32, grid=0.8, workers=1)
    rows = load_set(tmp_path / "set" / "train").rows
    assert card["products"] == 1 and not card["refused"] and len(rows) >= 2 and rows[0]["look"] == "right"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"r0": None}, "r0 (ranges to the centre)"),
        ({"fp": np.ones((300, 7), np.complex64)}, "do not fit"),
        ({"fp": np.full((300, 101), np.nan, np.complex64)}, "not finite"),
        ({"freq": np.geomspace(9.3e9, 9.9e9, 300) ** 1.3}, "not evenly spaced"),
    ],
)
def test_damaged_phase_history_is_refused(tmp_path, changes, said):
    path = write_history(tmp_path / "bad.mat", [(0, 0, 1)], **changes)
    with pytest.raises(InputError, match="bad.mat") as refusal:
        describe(path)
    assert said in str(refusal.value)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="bad.mat"):
        describe(path)


def test_phase_history_that_unpacks_beyond_measure_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_history(tmp_path / "bomb.mat", [(0, 0, 1)], fp=np.zeros((300, 101), np.complex64), packed=True)
    unpacked = 300 * 101 * 8
    monkeypatch.setattr(backprojection, "LARGEST_BYTES", unpacked - 1)
    monkeypatch.setattr(backprojection, "loadmat", lambda *_, **__: pytest.fail("was read"))
    assert path.stat().st_size < unpacked / 20
    with pytest.raises(InputError, match="bomb.mat: unpacks to more than"):
        describe(path)

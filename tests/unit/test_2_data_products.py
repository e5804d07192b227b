"""Products: what comes back of a SICD, a GeoTIFF, a SAFE, Capella's JSON and an NPY, against numbers computed here."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from fractions import Fraction
from pathlib import Path

import lxml.etree
import numpy as np
import pytest
import rasterio
import sarkit.sicd as sicd
from scipy.interpolate import RegularGridInterpolator
from typer.testing import CliRunner

from sarnb.cli import app
from sarnb.data.dataset import load_set, read_metadata
from sarnb.data.patches import import_products, resample, same_scenes
from sarnb.data.prepare import prepare_user_data
from sarnb.data.products import describe
from sarnb.errors import InputError

TARGET = np.array([6378137.0, 0.0, 0.0])  # on the equator: up is x, east is y, north is z
NORTH, EAST, UP = np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), np.array([1.0, 0, 0])


def _track(side: str) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity of a radar that flies north and has the target on this side."""
    return TARGET + 5e5 * UP + 4e5 * EAST * {"right": -1, "left": 1}[side], 7500 * NORTH


def _xyz(vector: np.ndarray) -> str:
    return "".join(f"<{axis}>{value!r}</{axis}>" for axis, value in zip("XYZ", map(float, vector)))


def _sicd(
    path: Path, image: np.ndarray, side: str = "right", spacing=(0.8, 0.8), polynomial=None, mirrored=False, kind="RE32F_IM32F", east=0.0
) -> Path:
    """A SICD of these pixels: range down the rows, seen from above unless ``mirrored``; sigma0's polynomial in metres [r, c].
    The scene's middle lies so many metres ``east``."""
    position, velocity = _track(side)
    row = (TARGET - position) / np.linalg.norm(TARGET - position)
    column = NORTH * (1 if side == "right" else -1) * (-1 if mirrored else 1)
    terms = () if polynomial is None else np.ndenumerate(polynomial)
    coefficients = "".join(f'<Coef exponent1="{i}" exponent2="{j}">{float(value)!r}</Coef>' for (i, j), value in terms)
    radiometric = (
        f"<Radiometric><SigmaZeroSFPoly order1='1' order2='1'>{coefficients}</SigmaZeroSFPoly></Radiometric>" if coefficients else ""
    )
    corners = "".join(
        f'<ICP index="{i + 1}:{name}"><Lat>{0.01 * (i + 1)}</Lat><Lon>0.01</Lon></ICP>'
        for i, name in enumerate(("FRFC", "FRLC", "LRLC", "LRFC"))
    )
    rows, columns = image.shape
    axes = "".join(
        f"<{name}><UVectECF>{_xyz(vector)}</UVectECF><SS>{step}</SS><ImpRespBW>1.0</ImpRespBW><Sgn>-1</Sgn></{name}>"
        for name, vector, step in zip(("Row", "Col"), (row, column), spacing)
    )
    text = f"""<SICD xmlns="urn:SICD:1.3.0"><CollectionInfo><CollectorName>TEST-1</CollectorName><CoreName>made</CoreName>
      <RadarMode><ModeType>SPOTLIGHT</ModeType></RadarMode><Classification>UNCLASSIFIED</Classification></CollectionInfo>
      <ImageCreation><DateTime>2024-01-01T00:00:00Z</DateTime></ImageCreation>
      <ImageData><PixelType>{kind}</PixelType><NumRows>{rows}</NumRows><NumCols>{columns}</NumCols><FirstRow>0</FirstRow>
      <FirstCol>0</FirstCol><FullImage><NumRows>{rows}</NumRows><NumCols>{columns}</NumCols></FullImage>
      <SCPPixel><Row>{rows // 2}</Row><Col>{columns // 2}</Col></SCPPixel></ImageData>
      <GeoData><EarthModel>WGS_84</EarthModel><SCP><ECF>{_xyz(TARGET + east * EAST)}</ECF>
      <LLH><Lat>0</Lat><Lon>0</Lon><HAE>0</HAE></LLH></SCP>
      <ImageCorners>{corners}</ImageCorners></GeoData><Grid><ImagePlane>SLANT</ImagePlane>{axes}</Grid>
      <Timeline><CollectStart>2024-01-01T00:00:00Z</CollectStart></Timeline>
      <SCPCOA><ARPPos>{_xyz(position)}</ARPPos><ARPVel>{_xyz(velocity)}</ARPVel><SideOfTrack>{side[0].upper()}</SideOfTrack>
      <IncidenceAng>38.5</IncidenceAng></SCPCOA>{radiometric}</SICD>"""
    security = sicd.NitfSecurityFields(clas="U")
    metadata = sicd.NitfMetadata(
        xmltree=lxml.etree.ElementTree(lxml.etree.fromstring(text)),
        file_header_part=sicd.NitfFileHeaderPart(ostaid="here", security=security),
        im_subheader_part=sicd.NitfImSubheaderPart(isorce="here", security=security),
        de_subheader_part=sicd.NitfDeSubheaderPart(security=security),
    )
    with path.open("wb") as file, sicd.NitfWriter(file, metadata) as writer:
        writer.write_image(image)
    return path


def _speckle(shape: tuple[int, int], power: float = 1.0, seed: int = 0) -> np.ndarray:
    """Circular complex Gaussian samples of a mean power, white over the whole band."""
    rng = np.random.default_rng(seed)
    return (np.sqrt(power / 2) * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype(np.complex64)


def _tiff(path: Path, values: np.ndarray, transform=None, crs="EPSG:32633", **profile) -> Path:
    transform = rasterio.Affine(0.8, 0, 5e5, 0, -0.8, 5e6) if transform is None else transform
    options = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype, "crs": crs, "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", **{**options, **profile}) as file:
        file.write(values, 1)
    return path


def _rows(out: Path) -> list[tuple[dict, np.ndarray]]:
    """Rows and images of the set but for judge, which repeats train."""
    found = []
    for split in ("train", "val", "test"):
        if (out / split / "metadata.jsonl").stat().st_size:
            images = load_set(out / split)
            found += list(zip(images.rows, images.images))
    return found


def test_sigma0_of_a_sicd_comes_back_within_a_tenth_of_a_decibel(tmp_path):
    sigma0, patch = 0.04, 64
    polynomial = np.array([[2.0, 0.004], [-0.01, 0.0]])
    metres = [(np.arange(200) - 100) * 0.8, (np.arange(264) - 132) * 0.8]
    factor = 2.0 - 0.01 * metres[0][:, None] + 0.004 * metres[1]
    image = _speckle((200, 264), sigma0) / np.sqrt(factor).astype(np.float32)
    card = import_products([_sicd(tmp_path / "a.nitf", image, polynomial=polynomial)], tmp_path / "d", patch)
    expected, powers = np.abs(image) * np.sqrt(factor), []
    for row, found in _rows(tmp_path / "d"):
        scale = row["mu"] + 3 * row["sigma"]
        window = expected[row["row"] : row["row"] + patch, row["column"] : row["column"] + patch]
        turned = np.rot90(window)  # near range, the first rows, comes to the left
        assert np.abs(found / 255 * scale - np.minimum(turned, scale)).max() < scale / 500
        assert (row["calibration"], row["look"], row["incidence"], row["spacing_m"]) == ("sigma0", "left", 38.5, [0.8, 0.8])
        powers.append(np.mean(np.square(np.minimum(turned, scale))) - np.mean(np.square(found / 255 * scale)))
    assert np.abs(powers).max() < 1e-4 and len(powers) == 12
    mean, spread = (card["normalisation"]["TEST-1 sigma0 "][name] for name in ("mu", "sigma"))
    assert abs(10 * np.log10((mean**2 + spread**2) / sigma0)) < 0.1


@pytest.mark.parametrize("spacing", [(0.5, 0.4), (0.7, 0.85)])
def test_sigma0_stays_when_the_grid_takes_a_part_of_the_band(tmp_path, spacing):
    image = _speckle((420, 420), 0.04)
    card = import_products([_sicd(tmp_path / "a.nitf", image, spacing=spacing, polynomial=np.ones((1, 1)))], tmp_path / "d", 64)
    moments = card["normalisation"]["TEST-1 sigma0 "]
    assert abs(10 * np.log10((moments["mu"] ** 2 + moments["sigma"] ** 2) / 0.04)) < 0.1
    for row, _ in _rows(tmp_path / "d"):
        np.testing.assert_allclose(row["spacing_m"], 0.8, rtol=1e-4)


def _width(line: np.ndarray, step: float) -> float:
    """Width at half power, in metres, of the peak in a complex line, by 64-fold interpolation of its spectrum."""
    spectrum = np.fft.fft(line * np.exp(-2j * np.pi * np.angle(np.vdot(line[:-1], line[1:])) / (2 * np.pi) * np.arange(len(line))))
    padded = np.zeros(64 * len(line), complex)
    half = len(line) // 2
    padded[:half], padded[-half:] = spectrum[:half], spectrum[-half:]
    power = np.abs(np.fft.ifft(padded)) ** 2
    return float(np.count_nonzero(power > power.max() / 2) * step / 64)


@pytest.mark.parametrize("centre", [0.0, 0.31])  # cycles a sample: a spectrum that wraps round
def test_a_point_target_keeps_its_width(centre):
    old, new, band = 0.5, 0.8, 1.0  # m, m, cycles a metre: less than the grid's 1.25
    offsets = (np.arange(512) - 250.3) * old
    line = np.sinc(offsets * band) * np.exp(2j * np.pi * centre * np.arange(512))
    image = np.outer(line, line).astype(np.complex64)
    ratio = Fraction(8, 5)
    found = resample(image[: 8 * 64, : 8 * 64], [ratio, ratio])
    assert found.shape == (320, 320)
    row, column = np.unravel_index(np.argmax(np.abs(found)), found.shape)
    assert (row, column) == (round(250.3 * old / new), round(250.3 * old / new))
    for cut in (found[row], found[:, column]):
        assert _width(cut, new) == pytest.approx(0.8859 / band, rel=0.03) == pytest.approx(_width(line, old), rel=0.03)


def test_a_band_wider_than_the_grid_is_cut_to_it_without_aliasing():
    image = np.zeros((512, 512), np.complex64)
    image[200, 300] = 1  # fills the whole band
    found = resample(image, [Fraction(8, 5)] * 2)
    peak = np.unravel_index(np.argmax(np.abs(found)), found.shape)
    assert peak == (125, 187) or peak == (125, 188)
    assert _width(found[125], 0.8) == pytest.approx(0.8859 * 0.8, rel=0.03)  # a rectangle as wide as the new band
    lines = np.arange(512)
    inside, beyond = (np.cos(2 * np.pi * cycles * lines / 512) for cycles in (100, 200))  # the new band ends at 160
    power = np.broadcast_to(3 + inside + beyond, (512, 512)).astype(np.float32)
    new = 3 + np.cos(2 * np.pi * 100 * np.arange(320) / 320)
    np.testing.assert_allclose(resample(power, [Fraction(1), Fraction(8, 5)]), np.broadcast_to(new, (512, 320)), atol=1e-4)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("side", "look"), [("right", "left"), ("left", "right")])
def test_look_side_and_turn_follow_the_geometry(tmp_path, side, look, mirrored):
    """A ramp that brightens with range and towards the end of the track: bright must be far from the radar, and above."""
    bright = np.linspace(1, 3, 64)[:, None] * np.ones(64)
    along = np.linspace(1, 2, 64) if (side == "right") != mirrored else np.linspace(2, 1, 64)  # columns run with or against the track
    path = _sicd(tmp_path / "a.nitf", (bright * along).astype(np.complex64), side, mirrored=mirrored)
    import_products([path], tmp_path / "d", 64)
    ((row, image),) = _rows(tmp_path / "d")
    left, right = image[:, :32].mean(), image[:, 32:].mean()
    assert (row["look"], row["side_of_track"]) == (look, side) and (left < right) == (look == "left")
    assert image[:32].mean() > image[32:].mean()
    assert f"illuminated from the {look}, incidence 38 degrees" in row["text"]


def test_a_geometry_that_contradicts_the_stated_side_is_said(tmp_path):
    path = _sicd(tmp_path / "a.nitf", _speckle((64, 64)))
    path.write_bytes(path.read_bytes().replace(b"<SideOfTrack>R<", b"<SideOfTrack>L<"))
    (product,) = describe(path)
    assert product.side == "right" and "states that it looks left, but its geometry looks right" in product.notes[0]


@pytest.mark.parametrize("kind", ["RE16I_IM16I", "AMP8I_PHS8I"])
def test_complex_integers_of_a_sicd_are_read_as_they_mean(tmp_path, kind):
    image = np.zeros((64, 64), sicd.PIXEL_TYPES[kind]["dtype"])
    rng = np.random.default_rng(0)
    first, second = image.dtype.names
    image[first], image[second] = rng.integers(1, 120, (64, 64)), rng.integers(1, 120, (64, 64))
    expected = image["amp"].astype(float) if first == "amp" else np.hypot(image["real"].astype(float), image["imag"])
    import_products([_sicd(tmp_path / "a.nitf", image, kind=kind)], tmp_path / "d", 64)
    ((row, found),) = _rows(tmp_path / "d")
    scale = row["mu"] + 3 * row["sigma"]
    assert row["mu"] == pytest.approx(expected.mean(), rel=1e-5)
    assert np.abs(found / 255 * scale - np.minimum(np.rot90(expected), scale)).max() < scale / 500


# Sentinel-1.


def _safe(folder: Path, digital: np.ndarray, calibration: bool = True, burst: int = 0) -> Path:
    """A SAFE whose tables are linear in line and pixel; its noise has range and azimuth factors.

    With ``burst`` lines it is an SLC of bursts, without data in their first line and left of column 8.
    """
    name = "s1a-iw-grd-vv-x-001"
    for part in ("measurement", "annotation/calibration"):
        (folder / part).mkdir(parents=True)
    _tiff(folder / "measurement" / f"{name}.tiff", digital, rasterio.Affine.identity(), None)
    height, width = digital.shape
    position, velocity = _track("right")
    points = "".join(
        f"<geolocationGridPoint><line>{line}</line><pixel>{pixel}</pixel><latitude>0</latitude><longitude>0</longitude><height>0</height>"
        f"<incidenceAngle>{30 + 10 * pixel / width}</incidenceAngle></geolocationGridPoint>"
        for line in (0, height)
        for pixel in (0, width // 2, width)
    )
    orbit = "".join(
        f"<orbit><position>{_xyz(position + t * velocity).lower()}</position><velocity>{_xyz(velocity).lower()}</velocity></orbit>"
        for t in (-10, 0, 10)
    )
    starts, ends = (" ".join(["-1", *[str(column)] * (burst - 1)]) for column in (8, width))
    one = f"<burst><firstValidSample>{starts}</firstValidSample><lastValidSample>{ends}</lastValidSample></burst>"
    bursts = f"<linesPerBurst>{burst}</linesPerBurst>{one * (height // burst)}" if burst else ""
    (folder / "annotation" / f"{name}.xml").write_text(
        f"<product><adsHeader><missionId>S1A</missionId><productType>{'SLC' if burst else 'GRD'}</productType>"
        f"<polarisation>VV</polarisation><mode>IW</mode><swath>IW2</swath></adsHeader>{bursts}<imageInformation><rangePixelSpacing>10</rangePixelSpacing><azimuthPixelSpacing>10</azimuthPixelSpacing>"
        f"</imageInformation>{points}{orbit}</product>"
    )
    pixels = " ".join(map(str, (0, width - 1)))

    def vectors(tag: str, lut: str, start: float) -> str:
        return "".join(
            f"<{tag}><line>{line}</line><pixel>{pixels}</pixel><{lut}>{start + line / height} {start + line / height + 1}</{lut}></{tag}>"
            for line in (0, height // 2, height)
        )

    def block(limits: str, lines: tuple[int, int], values: str) -> str:
        return (
            f"<noiseAzimuthVector>{limits}<firstRangeSample>0</firstRangeSample><lastRangeSample>{width // 2}</lastRangeSample>"
            f"<line>{lines[0]} {lines[1]}</line><noiseAzimuthLut>{values}</noiseAzimuthLut></noiseAzimuthVector>"
        )

    half = height // 2  # a GRD has several blocks along azimuth, an SLC one a swath, which says no limits
    parts = ((0, half - 1, "1.0 3.0"), (half, height - 1, "4.0 2.0"))
    limits = "<firstAzimuthLine>{}</firstAzimuthLine><lastAzimuthLine>{}</lastAzimuthLine>"
    blocks = [block(limits.format(first, last), (first, last), values) for first, last, values in parts]
    azimuth = block("", (0, height), "1.0 3.0") if burst else "".join(blocks)
    if calibration:
        tables = folder / "annotation" / "calibration"
        (tables / f"calibration-{name}.xml").write_text(f"<c>{vectors('calibrationVector', 'sigmaNought', 400)}</c>")
        (tables / f"noise-{name}.xml").write_text(f"<n>{vectors('noiseRangeVector', 'noiseRangeLut', 500)}{azimuth}</n>")
    return folder


def test_a_safe_is_calibrated_by_its_tables_less_the_noise(tmp_path):
    digital = np.random.default_rng(0).integers(10, 300, (128, 192)).astype(np.uint16)
    import_products([_safe(tmp_path / "A.SAFE", digital)], tmp_path / "d", 64)
    lines, pixels = np.arange(128.0), np.arange(192.0)

    def table(start: float) -> np.ndarray:
        nodes = np.array([[start, start + 1], [start + 0.5, start + 1.5], [start + 1, start + 2]])
        grid = RegularGridInterpolator(([0, 64, 128], [0, 191]), nodes)
        return grid(np.stack(np.meshgrid(lines, pixels, indexing="ij"), -1))

    along = np.where(lines < 64, 1 + 2 * lines / 63, 4 - 2 * (lines - 64) / 63)
    azimuth = np.where(pixels <= 96, along[:, None], 1)
    sigma0 = np.maximum(digital.astype(float) ** 2 - table(500) * azimuth, 0) / table(400) ** 2
    found = _rows(tmp_path / "d")
    assert len(found) == 6
    for row, image in found:
        scale = row["mu"] + 3 * row["sigma"]
        window = np.sqrt(sigma0[row["row"] : row["row"] + 64, row["column"] : row["column"] + 64])
        assert np.abs(image / 255 * scale - np.minimum(window[::-1], scale)).max() < scale / 500  # the track points up
        assert row["incidence"] == pytest.approx(30 + 10 * (row["column"] + 32) / 192)
        assert (row["look"], row["spacing_m"], row["geometry"]) == ("left", [10, 10], "ground range")


def test_each_burst_of_an_slc_is_calibrated_where_it_has_data(tmp_path):
    digital = (100 * _speckle((132, 72))).astype(np.complex64)
    safe = _safe(tmp_path / "A.SAFE", digital, burst=66)
    assert [(p.name, p.place, p.shape, p.look, p.geometry) for p in describe(safe)] == [
        (f"A.SAFE/IW2 VV burst {number}", "A.SAFE", (66, 72), "left", "slant range") for number in (1, 2)
    ]
    card = import_products([safe], tmp_path / "d", 32)
    assert card["products"] == 2 and any("4 patches are dropped: each holds pixels that are no data" in line for line in card["read"])
    found = _rows(tmp_path / "d")
    assert len(found) == 4  # of two by two in each burst the right ones
    for row, image in found:
        first = 66 * (row["product"][-1] == "2")
        lines, pixels = np.arange(first + row["row"], first + row["row"] + 32), np.arange(row["column"], row["column"] + 32)
        noise = 500 + lines[:, None] / 132 + pixels / 71
        noise *= np.where(pixels <= 36, 1 + 2 * lines[:, None] / 132, 1)
        power = np.abs(digital[lines][:, pixels]) ** 2
        expected = np.sqrt(np.maximum(power - noise, 0)) / (400 + lines[:, None] / 132 + pixels / 71)
        scale = row["mu"] + 3 * row["sigma"]
        assert np.abs(image / 255 * scale - np.minimum(expected[::-1], scale)).max() < scale / 300


def test_a_safe_without_tables_is_said_to_be_uncalibrated(tmp_path):
    digital = np.random.default_rng(0).integers(10, 300, (64, 64)).astype(np.uint16)
    card = import_products([_safe(tmp_path / "A.SAFE", digital, calibration=False)], tmp_path / "d", 64)
    assert any("are not calibrated" in line for line in card["read"])
    (tmp_path / "C.SAFE").mkdir()
    with pytest.raises(InputError, match="C.SAFE: holds no measurement"):
        describe(tmp_path / "C.SAFE")


# GeoTIFF, Capella, NPY.


def _capella(path: Path, side: str, **form) -> None:
    position, velocity = _track(side)
    states = [{"position": list(position + t * velocity), "velocity": list(velocity)} for t in (-20, 0, 20)]
    image = {"scale_factor": 0.01, "radiometry": "sigma_nought", "calibration": "full", "image_geometry": form}
    image["center_pixel"] = {"incidence_angle": 41.0, "target_position": list(TARGET)}
    radar = {"transmit_polarization": "H", "receive_polarization": "H", "pointing": side}
    path.write_text(json.dumps({"collect": {"platform": "capella-9", "image": image, "radar": radar, "state": {"state_vectors": states}}}))


@pytest.mark.parametrize(("side", "look"), [("right", "left"), ("left", "right")])
def test_capella_is_scaled_to_sigma0_by_the_json_next_to_its_tiff(tmp_path, side, look):
    digital = np.abs(10 * _speckle((64, 64)) ** 2).astype(np.uint16) + 1  # as bright and dark as a city, which may look like intensity
    path = _tiff(tmp_path / "geo.tif", digital)
    _capella(tmp_path / "geo_extended.json", side, type="geotransform")
    import_products([path], tmp_path / "d", 64)
    ((row, image),) = _rows(tmp_path / "d")
    scale = row["mu"] + 3 * row["sigma"]
    assert (row["calibration"], row["look"], row["incidence"], row["sensor"]) == ("sigma0", look, 41.0, "Capella (capella-9)")
    assert np.abs(image / 255 * scale - np.minimum(0.01 * digital, scale)).max() < scale / 500  # it flies north, which is up already


def test_capella_in_slant_range_keeps_slant_spacing_and_is_not_mirrored(tmp_path):
    position, _ = _track("right")
    sight = (TARGET - position) / np.linalg.norm(TARGET - position)
    image = (np.linspace(1, 3, 64)[:, None] * np.linspace(1, 4, 64) * 100).astype(np.complex64)  # later and farther is brighter
    path = _tiff(tmp_path / "slc.tif", image, rasterio.Affine.identity(), None)
    form = {"row_direction": list(sight), "col_direction": list(NORTH), "row_sample_spacing": 0.7, "col_sample_spacing": 0.8}
    _capella(tmp_path / "slc_extended.json", "right", **form)
    (product,) = describe(path)
    assert (product.spacing, product.geometry, product.look) == ((0.8, 0.7), "slant range", "left")
    import_products([path], tmp_path / "d", 32, grid=0)
    upper = [found for row, found in _rows(tmp_path / "d") if row["row"] == 32]
    assert all(image[:16].mean() > image[16:].mean() and image[:, 16:].mean() > image[:, :16].mean() for image in upper)


@pytest.mark.parametrize(("side", "look"), [("right", "left"), ("left", "right")])
def test_iceye_is_read_by_the_json_next_to_its_tiff(tmp_path, side, look):
    amplitude = np.linspace(1, 3, 64)[:, None] * np.linspace(1, 4, 64) * 1000  # farther and later along the rows is brighter
    path = _tiff(tmp_path / "grd.tif", np.round((16 * amplitude) ** 0.5).astype(np.uint16), rasterio.Affine.identity(), None)
    about = {
        "platform": "ICEYE-X42",
        "sar:polarizations": ["VV"],
        "sar:observation_direction": side,
        "sar:pixel_spacing_range": 0.7,
        "sar:pixel_spacing_azimuth": 0.8,
        "view:incidence_angle": 31.9,
        "iceye:plane": "ground",
        "iceye:calibration_factor": 1e-4,
        "iceye:orientation": "shadows-down",
        "iceye:amplitude_mapping": {"function": "power", "parameters": {"exponent": 0.5, "scale": 16}},
    }
    (tmp_path / "grd.json").write_text(json.dumps({"type": "Feature", "bbox": [9.9, -0.1, 10.1, 0.1], "properties": about}))
    place = 6378137.0 * np.array([np.cos(np.pi / 18), np.sin(np.pi / 18), 0])  # on the equator
    np.testing.assert_allclose(describe(path)[0].scene, [*place, 64 * 0.8], rtol=1e-6, atol=1e-3)
    import_products([path], tmp_path / "d", 64, grid=0)
    ((row, image),) = _rows(tmp_path / "d")
    assert (row["sensor"], row["calibration"], row["look"], row["incidence"]) == ("ICEYE (ICEYE-X42)", "sigma0", look, 31.9)
    assert row["spacing_m"] == [0.8, 0.7] and row["geometry"] == "ground range"
    scale, expected = row["mu"] + 3 * row["sigma"], 0.01 * amplitude
    expected = np.rot90(expected, 1 if side == "right" else 3)  # the track, along the rows, points up
    assert np.abs(image / 255 * scale - np.minimum(expected, scale)).max() < scale / 100
    darker = image[:, :32] if look == "left" else image[:, 32:]  # near range is dark here
    assert darker.mean() < image.mean()
    (tmp_path / "grd.json").write_text(json.dumps(about | {"iceye:orientation": "north-up"}))
    with pytest.raises(InputError, match="grd.tif: its JSON says orientation 'north-up'"):
        describe(path)


def test_borders_nodata_and_constant_tiles_are_dropped_and_counted(tmp_path):
    values = np.abs(1000 * _speckle((128, 192))).astype(np.uint16) + 1
    values[:64, :64], values[:30, 64:128], values[70, 130] = 7, 0, 65535
    card = import_products([_tiff(tmp_path / "a.tif", values, nodata=65535)], tmp_path / "d", 64)
    assert sum(len(_) > 0 for _ in _rows(tmp_path / "d")) == 3
    said = "\n".join(card["read"])
    for reason in ("1 patches are dropped: each is constant", "each holds a border or other zeros", "each holds pixels that are no data"):
        assert reason in said


@pytest.mark.parametrize("name", ["intensity", "db", "amplitude"])
def test_intensity_and_decibels_become_amplitude(tmp_path, name):
    amplitude = np.abs(_speckle((64, 64))) + 0.01
    values = {"intensity": amplitude**2, "db": 20 * np.log10(amplitude), "amplitude": amplitude}[name].astype(np.float32)
    import_products([_tiff(tmp_path / "a.tif", values)], tmp_path / "d", 64, quantity=name)
    ((row, image),) = _rows(tmp_path / "d")
    scale = row["mu"] + 3 * row["sigma"]
    assert row["mu"] == pytest.approx(amplitude.mean(), rel=1e-4)
    assert np.abs(image / 255 * scale - np.minimum(amplitude, scale)).max() < scale / 500


def test_detected_images_keep_their_mean_power_on_the_grid(tmp_path):
    amplitude = np.abs(_speckle((256, 256))).astype(np.float32)
    path = _tiff(tmp_path / "a.tif", amplitude, rasterio.Affine(0.5, 0, 0, 0, -0.5, 0))
    card = import_products([path], tmp_path / "d", 64, quantity="amplitude")
    moments = card["normalisation"]["a.tif"]
    assert moments["mu"] ** 2 + moments["sigma"] ** 2 == pytest.approx(np.mean(amplitude**2), rel=0.02)


def test_a_geographic_grid_and_a_turned_one_have_their_spacing(tmp_path):
    values = (100 + np.abs(10 * _speckle((64, 64)))).astype(np.float32)
    step = 0.8 / 111194.9  # degrees of a great circle of 6371 km
    (product,) = describe(_tiff(tmp_path / "a.tif", values, rasterio.Affine(step, 0, 10, 0, -step, 60), "EPSG:4326"))
    np.testing.assert_allclose(product.spacing, (0.8, 0.4), rtol=0.01)
    (product,) = describe(_tiff(tmp_path / "c.tif", values, rasterio.Affine(1, 0, 0, 0, -1, 8399737.89), "EPSG:3857"))  # 60 degrees north
    np.testing.assert_allclose(product.spacing, 0.5, rtol=1e-3)
    turned = rasterio.Affine(-0.143, -0.577, 5e5, -0.577, 0.143, 5e6)  # as Umbra's GEC
    (product,) = describe(_tiff(tmp_path / "b.tif", values, turned))
    np.testing.assert_allclose(product.spacing, np.hypot(0.143, 0.577), rtol=1e-6)
    assert "rows do not run east" in product.notes[-1]


def test_a_product_coarser_than_twice_the_grid_keeps_its_spacing(tmp_path):
    path = _tiff(tmp_path / "a.tif", np.abs(100 * _speckle((64, 64))).astype(np.float32), rasterio.Affine(2, 0, 0, 0, -2, 0))
    import_products([path], tmp_path / "d", 32)
    assert {tuple(row["spacing_m"]) for row, _ in _rows(tmp_path / "d")} == {(2.0, 2.0)}


def _attack(path: Path, text: str) -> None:
    """Put another XML into a SICD, as long as its own."""
    data = path.read_bytes()
    start, end = data.index(b"<SICD"), data.index(b"</SICD>") + 7
    path.write_bytes(data[:start] + text.encode().ljust(end - start) + data[end:])


def _bad(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that are refused, and words of the reason."""
    good = np.abs(100 * _speckle((64, 64))).astype(np.uint16) + 1
    found = {}

    def add(name: str, words: str) -> Path:
        found[name] = folder / name, words
        return folder / name

    north = rasterio.Affine(0.8, 0, 0, 0, -0.8, 0)
    cut = _sicd(add("cut.nitf", "is cut short"), _speckle((64, 64)))
    cut.write_bytes(cut.read_bytes()[:-100])
    laughs = '<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;&b;">]><SICD xmlns="urn:SICD:1.3.0">&c;</SICD>'
    _attack(_sicd(add("laughs.nitf", "its XML is refused .DTDForbidden"), _speckle((64, 64))), laughs)
    outside = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><SICD xmlns="urn:SICD:1.3.0">&b;</SICD>'
    _attack(_sicd(add("outside.nitf", "its XML is refused .DTDForbidden"), _speckle((64, 64))), outside)
    add("signal.nitf", "holds phase history .CPHD").write_bytes(b"CPHD/1.1.0\n")
    add("a.txt", "is no product read here").write_bytes(b"text")
    add("none.tif", "cannot be read as a product .FileNotFoundError")
    _tiff(add("south.tif", "is mirrored .south is up"), good, rasterio.Affine(0.8, 0, 0, 0, 0.8, 0))
    _tiff(add("sheared.tif", "not at right angles"), good, rasterio.Affine(0.8, 0.4, 0, 0, -0.8, 0))
    _tiff(add("bare.tif", "does not say its pixel spacing"), good, rasterio.Affine.identity(), None)
    _tiff(add("small.tif", "smaller than a patch of 64 px"), good[:50], north)
    _tiff(add("flat.tif", "no patch of 64 px is left, each is constant"), np.full_like(good, 9), north)
    part = _tiff(add("part.tif", "part.tif"), np.tile(good, (9, 9)), north)
    part.write_bytes(part.read_bytes()[:100_000])
    with rasterio.open(add("bands.tif", "has several bands"), "w", driver="GTiff", height=64, width=64, count=2, dtype="uint16") as file:
        file.write(np.stack([good, good]))
    np.save(add("objects.npy", "cannot be read as a product .ValueError: .*Python objects"), np.array([[print]], object), allow_pickle=True)
    np.save(add("bare.npy", "does not say its pixel spacing"), _speckle((64, 64)))
    safe = _safe(folder / "L.SAFE", good)
    annotation = next((safe / "annotation").glob("*.xml"))
    annotation.write_text(laughs)
    found["L.SAFE"] = safe, "its XML is refused .DTDForbidden"
    return found


def test_bad_files_are_refused_by_name_and_the_others_go_on(tmp_path):
    bad = _bad(tmp_path)
    good = _sicd(tmp_path / "good.nitf", _speckle((64, 64)))
    card = import_products([path for path, _ in bad.values()] + [good], tmp_path / "d", 64)
    assert set(card["refused"]) == {str(path) for path, _ in bad.values()} and card["totals"]["train"] == 1
    for name, (_, words) in bad.items():
        (line,) = (line for line in card["read"] if line.startswith("refused") and f"/{name}" in line.split(": ")[1] + ":")
        assert re.search(words, line), (words, line)
    with pytest.raises(InputError, match="no image is left"):
        import_products([bad["a.txt"][0]], tmp_path / "e", 64)


def test_the_command_ends_with_1_where_a_file_was_refused(tmp_path):
    np.save(tmp_path / "a.npy", _speckle((64, 64)))
    (tmp_path / "b.txt").write_text("no product")
    words = [*"dataset import --patch 32 --spacing 0.8 --workers 1 --out".split(), str(tmp_path / "d"), str(tmp_path / "a.npy")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and "train 4, val 0, test 0, judge 4 images" in done.stdout
    done = CliRunner().invoke(app, [*words, str(tmp_path / "b.txt")], catch_exceptions=False)
    assert done.exit_code == 1 and "b.txt: is no product read here" in done.stdout
    with pytest.raises(InputError, match="import was given no FILE"):
        CliRunner().invoke(app, ["dataset", "import", "--out", str(tmp_path / "f")], catch_exceptions=False)


def test_scenes_are_never_in_two_splits_and_the_files_do_not_depend_on_processes_or_stops(tmp_path, monkeypatch):
    files = [_sicd(tmp_path / f"{i}.nitf", _speckle((64, 128), seed=i), east=1000.0 * i) for i in range(4)]
    import_products(files, tmp_path / "d", 32)
    rows = read_metadata(tmp_path / "d").query("split != 'judge'")
    assert rows.groupby("place")["split"].nunique().max() == 1 and set(rows["split"]) == {"train", "val", "test"}
    import_products(files, tmp_path / "e", 32, workers=2)
    from sarnb.data import patches

    write, calls = patches._write, []

    def stop(item, patch):
        calls.append(item[2])
        if len(calls) == 3:
            raise SystemExit(143)
        return write(item, patch)

    monkeypatch.setattr(patches, "_write", stop)
    with pytest.raises(SystemExit):
        import_products(files, tmp_path / "f", 32)
    import_products(files, tmp_path / "f", 32)
    contents = [
        {p.relative_to(out): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()} for out in map(tmp_path.joinpath, "def")
    ]
    assert contents[0] == contents[1] == contents[2]


def test_what_shows_the_same_ground_is_one_place(tmp_path):
    # sides of 51.2 m: 0 and 1 overlap, 2 overlaps 1 alone, 3 touches 2, and a map of another sensor lies about 3
    places = [0.0, 30.0, 60.0, 111.3]
    files = [_sicd(tmp_path / f"{i}.nitf", _speckle((64, 64), seed=i), east=east) for i, east in enumerate(places)]
    degrees = 180 / np.pi / 6378137 * np.array([places[3], 0.8])  # on the equator
    map_of_it = rasterio.Affine(degrees[1], 0, degrees[0] - 16 * degrees[1], 0, -degrees[1], 16 * degrees[1])
    files.append(_tiff(tmp_path / "map.tif", np.abs(100 * _speckle((32, 32))).astype(np.float32) + 1, map_of_it, "EPSG:4326"))
    shown = same_scenes([product for path in files for product in describe(path)])
    assert shown == {"0.nitf": "0.nitf", "1.nitf": "0.nitf", "2.nitf": "0.nitf", "3.nitf": "3.nitf", "map.tif": "3.nitf"}
    one, other = (dataclasses.replace(describe(files[0])[0], place=place) for place in "AB")
    several = [dataclasses.replace(one, scene=(float(x), 0.0, 0.0, 10.0)) for x in (0, 100)]  # as the swaths of a SAFE
    assert same_scenes([*several, dataclasses.replace(other, scene=(2.0, 0.0, 0.0, 10.0))]) == {"A": "A", "B": "A"}
    card = import_products(files, tmp_path / "d", 32, grid=0)
    # Two scenes cannot be three splits, and bands of several images of a scene, which lie anywhere, would share ground.
    assert {row["place"] for row, _ in _rows(tmp_path / "d")} == {"0.nitf", "3.nitf"}
    assert any("3 products show ground that one before them shows" in line for line in card["read"])


def test_folders_of_products_are_classes_which_can_be_held_out(tmp_path):
    files = []
    for number, kind in enumerate(["city", "sea_ice", "harbour"] * 6):
        (tmp_path / kind).mkdir(exist_ok=True)
        files.append(_sicd(tmp_path / kind / f"{number}.nitf", _speckle((32, 32), seed=number), east=1000.0 * number))
    card = import_products(files, tmp_path / "d", 32, grid=0, unseen=["harbour"])
    rows = read_metadata(tmp_path / "d")
    assert rows["label"].tolist() == [files[int(name.split(".")[0])].parent.name for name in rows["product"]]
    shown = rows[rows["split"].isin(["train", "val"])]
    assert set(shown["label"]) == {"city", "sea_ice"} and "harbour" in set(rows[rows["split"] == "judge"]["label"])
    assert set(rows[rows["label"] == "sea_ice"]["text"]) == {"a radar image of sea ice, illuminated from the left, incidence 38 degrees"}
    assert card["groups"]["unseen"] == ["harbour"]
    with pytest.raises(InputError, match="--unseen port: no class of these products; they are city, harbour, sea_ice"):
        import_products(files, tmp_path / "e", 32, unseen=["port"])
    assert prepare_user_data(tmp_path / "d", tmp_path / "study", 32)["labels"] == ["city", "harbour", "sea_ice"]


def test_a_set_of_one_class_is_no_study(tmp_path):
    files = [_sicd(tmp_path / f"{i}.nitf", _speckle((32, 32), seed=i), east=1000.0 * i) for i in range(4)]
    assert set(import_products(files, tmp_path / "d", 32, grid=0)["labels"]) == {"unclear"}
    with pytest.raises(InputError, match="d: its images to train with are all of the class 'unclear', and the study compares classes"):
        prepare_user_data(tmp_path / "d", tmp_path / "study", 32)


@pytest.mark.skipif("SARNB_PRODUCTS" not in os.environ, reason="SARNB_PRODUCTS names no folder of product samples")
def test_real_samples_are_imported_or_refused_for_a_reason(tmp_path):
    folder = Path(os.environ["SARNB_PRODUCTS"])
    parts = ("sicd_sidd_nitf", "sicd_cphd_sidd_xml", "umbra", "capella_json", "gotcha_phase_history")
    files = sorted(path for part in parts for path in (folder / part).iterdir())
    card = import_products(files, tmp_path / "d", 256)
    assert {row["product"] for row, _ in _rows(tmp_path / "d")} == {"umbra_mount_yasur.tiff"}
    assert len(card["refused"]) == len(files) - 1 and all(reason.startswith(f"{path}: ") for path, reason in card["refused"].items())
    import_products([folder / "sicd_sidd_nitf/sicd_50x50.nitf"], tmp_path / "e", 18, grid=0)
    for row, _ in _rows(tmp_path / "e"):
        facts = row["look"], row["side_of_track"], row["sensor"], row["calibration"]
        assert facts == ("left", "right", "RCM-1", "sigma0")
    safes = sorted((folder / "sentinel1_safe").iterdir())
    assert [product.side for product in describe(safes[1])] == ["right"] and "not calibrated" in describe(safes[1])[0].notes[0]
    bursts = describe(safes[0])
    assert [product.first for product in bursts] == list(range(0, 13500, 1500))
    assert {(product.shape, product.spacing, product.side) for product in bursts} == {((1500, 21169), (13.9283, 2.329562), "right")}

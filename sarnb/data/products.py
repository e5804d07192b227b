"""What a product of a radar sensor says of itself: SICD, GeoTIFF, Sentinel-1 SAFE, Capella, ICEYE, complex NPY, GOTCHA phase history.

A file becomes one or more ``Product`` values: where its pixels are, their spacing, calibration and geometry. ``window_reader``
reads the pixels as stored; ``sarnb.data.patches`` calibrates them, puts them on a grid and writes the set.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jbpy
import numpy as np
import rasterio
import sarkit.sicd
import sarkit.wgs84
from defusedxml.ElementTree import fromstring
from rasterio.warp import transform as transform_points

from sarnb.data import backprojection
from sarnb.data.amplitude import decide_quantity, flat_statistics, stated_quantity
from sarnb.data.imagefolder import UNSTATED
from sarnb.data.images import FILLS, open_stored
from sarnb.errors import InputError, first_line

logging.getLogger("jbpy").setLevel(logging.CRITICAL)  # header fields that it complains of are filled with blanks by many writers


@dataclass(frozen=True)
class Table:
    """Values on nodes, between which one interpolates: ``rows`` [R] and ``columns`` [C] in px, ``values`` [R, C]."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Bilinear values [len(rows), len(columns)], the outermost ones beyond the nodes."""
        across = np.stack([np.interp(columns, self.columns, line) for line in self.values])
        if len(self.rows) == 1:
            return np.broadcast_to(across, (len(rows), len(columns)))
        below = np.clip(np.searchsorted(self.rows, rows, "right") - 1, 0, len(self.rows) - 2)
        part = np.clip((rows - self.rows[below]) / (self.rows[below + 1] - self.rows[below]), 0, 1)[:, None]
        return across[below] * (1 - part) + across[below + 1] * part


@dataclass(frozen=True)
class Product:
    """One image of a product. Rows and columns are those of the file.

    ``path`` of the pixels; ``source``: the file that was given; ``name``; ``place``: images of one scene share it; ``scene``: x, y, z
    of its middle, earth-centred, and its longest side, all in metres, () if not known; ``label``: the class, "" for none; ``shape``;
    ``spacing`` of rows and of columns in metres; ``quantity`` of QUANTITIES; ``calibration``: "sigma0" and the like, ""
    if there is none; ``gain``: power by pixel value squared; ``noise``: what is taken off the squared values before;
    ``incidence`` in degrees; ``side`` to which the radar looks from its track, ``turn``: whether columns are flipped, and
    quarter turns to the left then, that make the track point up; ``first`` line of the file, and first and last ``valid`` column
    of each line, of a burst; ``exponent``: amplitude to this power is stored; ``notes``: what was guessed or is not as usual.
    """

    path: Path
    source: str
    name: str
    place: str
    shape: tuple[int, int]
    spacing: tuple[float, float]
    quantity: str
    sensor: str = UNSTATED
    geometry: str = "unstated"
    polarisation: str = ""
    calibration: str = ""
    gain: Table | None = None
    noise: tuple[Table, ...] = ()
    incidence: Table | None = None
    side: str = ""
    turn: tuple[bool, int] = (False, 0)
    itemsize: int = 8
    first: int = 0
    valid: np.ndarray | None = None
    exponent: float = 1.0
    scene: tuple[float, ...] = ()
    label: str = ""
    notes: tuple[str, ...] = field(default=())

    @property
    def look(self) -> str | None:
        """Side of the turned patches on which the radar is: the track points up, so it is opposite to the side it looks to."""
        return {"left": "right", "right": "left"}.get(self.side)


def describe(path: Path, spacing: float = 0.0, quantity: str = "") -> list[Product]:
    """The images of a product.

    Raises
    ------
    InputError
        The file is no product that is read here; the message names it.
    """
    path = Path(path)
    try:
        if path.is_dir() or path.name == "manifest.safe":
            return _safe(path.parent if path.is_file() else path)
        with path.open("rb") as file:
            head = file.read(9)
        if head.startswith(b"MATLAB"):
            return [_phase_history(path)]
        for start, what in ((b"CPHD", "phase history"), (b"CRSD", "received signal")):
            if head.startswith(start):
                raise InputError(f"{path}: holds {what} ({start.decode()}), of which no image is formed here; give a SICD or a TIFF of it")
        if head.startswith((b"NITF", b"NSIF")):
            return [_sicd(path)]
        if path.suffix.lower() in (".tif", ".tiff", ".npy"):
            return [_raster(path, spacing, quantity)]
        raise InputError(f"{path}: is no product read here; give a SICD (NITF), a GeoTIFF, an NPY, a GOTCHA .mat, or the folder of a SAFE")
    except (InputError, MemoryError):
        raise
    except Exception as error:  # readers raise anything on damaged bytes
        kind = "SICD" if path.suffix.lower() in (".nitf", ".ntf") else "product"
        raise InputError(f"{path}: cannot be read as a {kind} ({type(error).__name__}: {first_line(error)}); give it whole") from error


def _parsed(data: bytes, where: Path) -> Any:
    """The root of an XML without entities, external ones or a document type: with them it is refused."""
    try:
        return fromstring(data, forbid_dtd=True)
    except Exception as error:
        raise InputError(f"{where}: its XML is refused ({type(error).__name__}: {first_line(error)}); give the original file") from error


def _sicd(path: Path) -> Product:
    """A SICD through sarkit; sigma0 (or else gamma0, beta0) by its polynomial in metres from the scene's centre."""
    with path.open("rb") as file:
        nitf = jbpy.Jbp().load(file)
        if nitf["FileHeader"]["FL"].value > path.stat().st_size:
            raise InputError(f"{path}: is cut short ({path.stat().st_size} of {nitf['FileHeader']['FL'].value} bytes); fetch it again")
        described = nitf["DataExtensionSegments"][0] if len(nitf["DataExtensionSegments"]) else None
        if described is None or not str(described["subheader"]["DESID"].value).startswith("XML_DATA_CONTENT"):
            raise InputError(f"{path}: is a NITF without SICD metadata; give a SICD of version 1.1 or newer")
        file.seek(described["DESDATA"].get_offset())
        root = _parsed(file.read(described["DESDATA"].size), path)
    version = root.tag[1:].split("}")[0]
    if version not in sarkit.sicd.VERSION_INFO:
        raise InputError(f"{path}: is {version}; SICD is read in the versions {', '.join(sarkit.sicd.VERSION_INFO)}")

    def number(place: str) -> float:
        return float(root.findtext("/".join(f"{{*}}{part}" for part in place.split("/"))))

    def vector(place: str) -> np.ndarray:
        return np.array([number(f"{place}/{axis}") for axis in "XYZ"])

    shape = int(number("ImageData/NumRows")), int(number("ImageData/NumCols"))
    steps = number("Grid/Row/SS"), number("Grid/Col/SS")
    target, position, velocity = vector("GeoData/SCP/ECF"), vector("SCPCOA/ARPPos"), vector("SCPCOA/ARPVel")
    side, turn = _orientation(vector("Grid/Row/UVectECF"), vector("Grid/Col/UVectECF"), position, velocity, target)
    stated, notes = {"L": "left", "R": "right"}.get(root.findtext("{*}SCPCOA/{*}SideOfTrack", "")), []
    if stated and stated != side:
        notes.append(f"{path.name}: states that it looks {stated}, but its geometry looks {side}, which is taken")
    gain, calibration = None, ""
    for name, value in (("SigmaZeroSFPoly", "sigma0"), ("GammaZeroSFPoly", "gamma0"), ("BetaZeroSFPoly", "beta0")):
        polynomial = root.find(f"{{*}}Radiometric/{{*}}{name}")
        if polynomial is not None and gain is None:
            found = polynomial.findall("{*}Coef")
            order = max(int(coef.get("exponent1")) for coef in found), max(int(coef.get("exponent2")) for coef in found)
            factors = np.zeros((order[0] + 1, order[1] + 1))
            for coef in found:
                factors[int(coef.get("exponent1")), int(coef.get("exponent2"))] = float(coef.text)
            nodes = [np.linspace(0, count - 1, 65) for count in shape]
            first = [number(f"ImageData/First{axis}") - number(f"ImageData/SCPPixel/{axis}") for axis in ("Row", "Col")]
            metres = [(node + start) * step for node, start, step in zip(nodes, first, steps)]
            gain, calibration = Table(*nodes, np.polynomial.polynomial.polygrid2d(*metres, factors)), value
    return Product(
        path, str(path), path.name, path.name, shape, steps, "complex", root.findtext("{*}CollectionInfo/{*}CollectorName") or UNSTATED,
        "ground range" if root.findtext("{*}Grid/{*}ImagePlane") == "GROUND" else "slant range",
        root.findtext("{*}ImageFormation/{*}TxRcvPolarizationProc") or "", calibration, gain, (), _constant(number("SCPCOA/IncidenceAng")),
        side, turn, scene=_scene(target, shape, steps), notes=tuple(notes),
    )  # fmt: skip


def _phase_history(path: Path) -> Product:
    """One degree of the GOTCHA circle, of which windows are formed as they are read: rows against the track, so nothing is turned."""
    aperture = backprojection.read_aperture(path)
    steps = (backprojection.GRID, backprojection.GRID)
    polarisation = next((name for name in ("HH", "VV", "HV", "VH") if name in path.stem.upper()), "")
    incidence = _constant(90 - math.degrees(aperture.elevation))
    note = f"{path.name}: an image of the plane through the scene's centre was formed of {len(aperture.positions)} pulses, without window"
    return Product(
        path, str(path), path.name, "the GOTCHA scene", aperture.shape, steps, "complex", "Gotcha", "ground", polarisation,
        incidence=incidence, side=aperture.side, notes=(note,),
    )  # fmt: skip


def _raster(path: Path, spacing: float, quantity: str) -> Product:
    """A TIFF or NPY; georeferenced, described by a JSON of Capella or ICEYE next to it, or of the spacing that was given."""
    stored = open_stored(path)
    if len(stored.shape) != 2 or stored.turn != 1:
        raise InputError(f"{path}: has several bands or an orientation tag; give one band as it was processed")
    sidecar = next((name for ending in ("_extended.json", ".json") if (name := path.with_name(path.stem + ending)).is_file()), None)
    meta = json.loads(sidecar.read_text(encoding="utf-8")) if sidecar else {}
    meta = meta if isinstance(meta, dict) else {}
    capella = meta.get("collect") if isinstance(meta.get("collect"), dict) else None
    iceye = next((part for part in (meta.get("properties"), meta) if isinstance(part, dict) and "iceye:orientation" in part), None)
    axes, middle, geometry = None, None, "unstated"
    if path.suffix.lower() != ".npy":
        axes, middle = _map_axes(path)
    steps = (spacing, spacing) if spacing else (0.0, 0.0)
    if axes is not None:
        steps, geometry = (float(np.hypot(*axes[0])), float(np.hypot(*axes[1]))), "map"
    flat, notes = _middle(path), []
    stated = "complex" if stored.dtype.kind == "c" else "" if capella or iceye else stated_quantity(stored.words)
    if (capella or iceye) and not stated and not quantity:
        decided, how = "amplitude", f"{path.name}: amplitude, as the format of its JSON has it"
    else:
        decided, how = decide_quantity(path.name, [stated], [flat], quantity, kept=stored.dtype == np.uint8)
    notes.append(how)
    given: dict[str, Any] = {}
    if capella:
        given, steps, geometry = _capella(path, capella, axes, steps, geometry)
        middle = np.array(capella["image"]["center_pixel"]["target_position"])
    elif iceye:
        given, steps, geometry = _iceye(path, iceye)
        if box := meta.get("bbox"):  # west, south, (lowest,) east, north, (highest)
            half = len(box) // 2
            middle = sarkit.wgs84.geodetic_to_cartesian([(box[1] + box[half + 1]) / 2, (box[0] + box[half]) / 2, 0.0])
    if not min(steps) > 0:
        raise InputError(f"{path}: does not say its pixel spacing; give it with --spacing, in metres")
    if axes is not None and abs(axes[0][0]) > 1e-6 * steps[0]:
        notes.append(f"{path.name}: its rows do not run east; patches keep the directions of the file, turned by quarters at most")
    return Product(
        path, str(path), path.name, path.name, stored.shape, steps, decided, geometry=geometry, itemsize=stored.dtype.itemsize,
        scene=_scene(middle, stored.shape, steps), notes=tuple(notes), **given,
    )  # fmt: skip


def _map_axes(path: Path) -> tuple[tuple[np.ndarray, np.ndarray] | None, np.ndarray | None]:
    """Steps (east, north) in metres of a row and of a column of a georeferenced TIFF, and its middle; None without reference."""
    with rasterio.open(path, driver="GTiff") as source:
        transform, crs = source.transform, source.crs
        if crs is None or transform.is_identity:
            return None, None
        scale, (east, north) = np.ones(2), source.xy(source.height // 2, source.width // 2)
        if crs.is_geographic:
            latitude = math.radians(north)
            scale = np.array([111412.84 * math.cos(latitude) - 93.5 * math.cos(3 * latitude), 111132.92 - 559.82 * math.cos(2 * latitude)])
        else:
            scale *= crs.linear_units_factor[1]
        try:
            (longitude,), (north,) = transform_points(crs, "EPSG:4326", [east], [north])
            middle = sarkit.wgs84.geodetic_to_cartesian([north, longitude, 0.0])
            if crs.to_epsg() == 3857:  # Web Mercator stretches the ground by 1 / cos(latitude)
                scale *= math.cos(math.radians(north))
        except rasterio.errors.RasterioError:  # a grid of its own, which nothing ties to the earth
            middle = None
    column, row = np.array([transform.a, transform.d]) * scale, np.array([transform.b, transform.e]) * scale
    area = column[0] * row[1] - column[1] * row[0]
    if area > 0:
        raise InputError(f"{path}: is mirrored (south is up); save it with north up, as 'gdalwarp' does")
    if abs(column @ row) > 0.01 * np.hypot(*column) * np.hypot(*row):
        raise InputError(f"{path}: its rows and columns are not at right angles; save it with north up, as 'gdalwarp' does")
    return (row, column), middle


def _scene(middle: np.ndarray | None, shape: tuple[int, ...], steps: tuple[float, float]) -> tuple[float, ...]:
    """See ``Product``; () without a middle."""
    known = middle is not None and bool(np.isfinite(middle).all())
    longest = max(count * step for count, step in zip(shape, steps))
    return (*map(float, middle), longest) if known and middle is not None else ()


def _capella(
    path: Path, collect: Mapping[str, Any], axes: Any, steps: tuple[float, float], geometry: str
) -> tuple[dict[str, Any], tuple[float, float], str]:
    """What Capella's JSON says: scale to power, side and incidence; spacing and directions of a slant-range image too."""
    image, form = collect["image"], collect["image"]["image_geometry"]
    target = np.array(image["center_pixel"]["target_position"])
    states = [(np.array(state["position"]), np.array(state["velocity"])) for state in collect["state"]["state_vectors"]]
    position, velocity = min(states, key=lambda state: abs((target - state[0]) @ state[1]))  # where it passes the target
    if "row_direction" in form:  # its "row" is a line along range, which is a row of the file: along the columns
        along, across = np.array(form["col_direction"]), np.array(form["row_direction"])
        steps, geometry = (form["col_sample_spacing"], form["row_sample_spacing"]), "slant range"
    elif axes is not None:
        east = np.cross([0, 0, 1], target)
        east /= np.linalg.norm(east)
        north = np.cross(target / np.linalg.norm(target), east)
        along, across = (axis[0] * east + axis[1] * north for axis in axes)
    else:
        raise InputError(f"{path}: neither it nor its JSON says in which directions its rows run; give it with its georeference")
    side, turn = _orientation(along, across, position, velocity, target)
    names = {"sigma_nought": "sigma0", "beta_nought": "beta0", "gamma_nought": "gamma0"}
    calibration = names.get(image.get("radiometry"), "") if image.get("calibration") == "full" else ""
    return {
        "sensor": f"Capella ({collect['platform']})",
        "polarisation": collect["radar"]["transmit_polarization"] + collect["radar"]["receive_polarization"],
        "calibration": calibration,
        "gain": _constant(image["scale_factor"] ** 2),
        "incidence": _constant(image["center_pixel"]["incidence_angle"]),
        "side": side,
        "turn": turn,
    }, steps, geometry  # fmt: skip


def _iceye(path: Path, about: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[float, float], str]:
    """What the JSON of ICEYE's GeoTIFFs says, in the terms of STAC. Rows run along range, away from the track ("shadows-down")."""
    mapping = about.get("iceye:amplitude_mapping") or {"function": "linear"}
    if about["iceye:orientation"] != "shadows-down" or mapping.get("function") not in ("linear", "power"):
        said = f"orientation {about['iceye:orientation']!r}, amplitude mapping {mapping}"
        raise InputError(f"{path}: its JSON says {said}; an ICEYE product is read shadows-down, of a linear or power mapping")
    how, ground, side = mapping.get("parameters") or {}, about.get("iceye:plane") != "slant", about["sar:observation_direction"].lower()
    return {
        "sensor": f"ICEYE ({about['platform']})",
        "polarisation": "".join(about["sar:polarizations"]),
        "calibration": "sigma0" if ground else "beta0",
        "gain": _constant(about["iceye:calibration_factor"] / how.get("scale", 1.0) ** 2),
        "incidence": _constant(about["view:incidence_angle"]),
        "side": side,
        "turn": (False, 1 if side == "right" else 3),  # it flies along the rows of the file, to the right where it looks to the right
        "exponent": float(how.get("exponent", 1.0)),
    }, (about["sar:pixel_spacing_range"], about["sar:pixel_spacing_azimuth"]), "ground range" if ground else "slant range"  # fmt: skip


def _safe(folder: Path) -> list[Product]:
    """The measurements of a Sentinel-1 SAFE, of an SLC each burst: sigma0 by its calibration table, less its thermal noise table.

    In a burst the beam turns and with it the band sweeps along azimuth: its power is resampled, not its samples.
    """
    found = sorted((folder / "measurement").glob("*.tif*"))
    if not found:
        raise InputError(f"{folder}: holds no measurement/*.tiff, so it is no whole Sentinel-1 SAFE; give its folder NAME.SAFE")
    products = []
    for path in found:
        notes = folder / "annotation" / f"{path.stem}.xml"
        if not notes.is_file():
            raise InputError(f"{folder}: has no annotation of {path.name}; give the SAFE whole")
        root = _parsed(notes.read_bytes(), notes)
        head = {name: root.findtext(f"adsHeader/{name}", "") for name in ("missionId", "productType", "polarisation", "mode")}
        stored = open_stored(path)
        steps = tuple(float(root.findtext(f".//imageInformation/{axis}PixelSpacing")) for axis in ("azimuth", "range"))
        points = root.findall(".//geolocationGridPoint")
        places = np.array([[float(point.findtext(name)) for name in ("line", "pixel", "incidenceAngle")] for point in points])
        lines = np.unique(places[:, 0])
        incidence = Table(lines, np.unique(places[:, 1]), places[:, 2].reshape(len(lines), -1))
        middle = points[len(points) // 2]
        target = sarkit.wgs84.geodetic_to_cartesian([float(middle.findtext(name)) for name in ("latitude", "longitude", "height")])
        orbits = [
            tuple(np.array([float(orbit.findtext(f"{name}/{axis}")) for axis in "xyz"]) for name in ("position", "velocity"))
            for orbit in root.findall(".//orbit")
        ]
        position, velocity = min(orbits, key=lambda state: abs((target - state[0]) @ state[1]))
        side, turn = _orientation(velocity, target - position, position, velocity, target)
        gain, noise = _sentinel_tables(folder, path.stem)
        kind = "slant range" if head["productType"] == "SLC" else "ground range"
        lacking = () if gain else (f"{folder.name}: has no annotation/calibration of {path.name}, so its values are not calibrated",)
        whole = Product(
            path, str(folder), f"{folder.name}/{head['polarisation']}", folder.name, stored.shape[:2], steps,
            "complex" if stored.dtype.kind == "c" else "amplitude", f"Sentinel-1 ({head['missionId']})", kind, head["polarisation"],
            "sigma0" if gain else "", gain, noise, incidence, side, turn, stored.dtype.itemsize,
            scene=_scene(target, stored.shape, steps), notes=lacking,
        )  # fmt: skip
        lines, bursts = int(root.findtext(".//linesPerBurst") or 0), root.findall(".//burst")
        for number, burst in enumerate(bursts):
            valid = np.array([burst.findtext(f"{end}ValidSample").split() for end in ("first", "last")], int).T
            name = f"{folder.name}/{root.findtext('adsHeader/swath')} {head['polarisation']} burst {number + 1}"
            shape = lines, stored.shape[1]
            products.append(replace(whole, name=name, shape=shape, quantity="amplitude", first=number * lines, valid=valid))
        products += [] if bursts else [whole]
    return products


def _sentinel_tables(folder: Path, stem: str) -> tuple[Table | None, tuple[Table, ...]]:
    """Gain 1 / A^2 of sigma0, and the thermal noise as the product of the tables given (range, and azimuth in blocks)."""
    tables = []
    for kind, vectors, values in (("calibration", "calibrationVector", "sigmaNought"), ("noise", "noiseRangeVector", "noiseRangeLut")):
        file = folder / "annotation" / "calibration" / f"{kind}-{stem}.xml"
        if not file.is_file():
            tables.append(None)
            continue
        root = _parsed(file.read_bytes(), file)
        found = root.findall(f".//{vectors}") or root.findall(".//noiseVector")
        if not found:
            raise InputError(f"{file}: holds no {vectors}; give the SAFE whole")
        read = [
            [float(vector.findtext("line"))]
            + [np.array((vector.findtext(name) or vector.findtext("noiseLut")).split(), float) for name in ("pixel", values)]
            for vector in found
        ]
        nodes = np.unique(np.concatenate([pixels for _, pixels, _ in read]))
        tables.append(
            Table(np.array([line for line, _, _ in read]), nodes, np.stack([np.interp(nodes, pixels, own) for _, pixels, own in read]))
        )
        if kind == "noise":
            tables += [_azimuth_noise(block) for block in root.findall(".//noiseAzimuthVector")]
    gain = tables[0] and replace(tables[0], values=1 / tables[0].values ** 2)
    return gain, tuple(table for table in tables[1:] if table)


def _azimuth_noise(block: Any) -> Table:
    """The noise's factor along azimuth in a block of lines and range samples; 1 outside of it."""

    def limit(name: str, otherwise: float) -> float:
        return float(block.findtext(name) or otherwise)

    values, lines = (np.array(block.findtext(name).split(), float) for name in ("noiseAzimuthLut", "line"))
    start, stop = min(limit("firstAzimuthLine", -1e9), lines[0]), max(limit("lastAzimuthLine", 1e9), lines[-1])
    first, last = limit("firstRangeSample", 0), limit("lastRangeSample", 1e9)
    rows = np.array([start - 0.5, start - 0.499, *lines, stop + 0.499, stop + 0.5])
    columns = np.array([first - 0.5, first - 0.499, last + 0.499, last + 0.5])
    inside = np.array([1.0, values[0], *values, values[-1], 1.0])[:, None]
    ones = np.ones_like(inside)
    return Table(rows, columns, np.hstack([ones, inside, inside, ones]))


def _constant(value: float) -> Table:
    return Table(np.zeros(1), np.zeros(1), np.full((1, 1), float(value)))


def _orientation(
    row: np.ndarray, column: np.ndarray, position: np.ndarray, velocity: np.ndarray, target: np.ndarray
) -> tuple[str, tuple[bool, int]]:
    """Side to which the radar looks, and how an image is turned so that it is seen from above with the track pointing up.

    Parameters
    ----------
    row, column : directions, earth-centred, in which the row and the column number grows.
    position, velocity, target : of the radar, and the imaged point.

    Returns
    -------
    side : "left" or "right" of the track.
    turn : whether the columns are flipped, and quarter turns to the left then. A radar that looks to the right is then on
        the left side of the image.
    """
    up, sight = target / np.linalg.norm(target), target - position
    side = "left" if np.cross(velocity, sight) @ up > 0 else "right"
    flip = bool(np.cross(row, column) @ up < 0)
    level = sight - (sight @ up) * up
    across = np.array([level @ row / np.linalg.norm(row), level @ column / np.linalg.norm(column) * (-1 if flip else 1)])
    wanted = 1 if side == "right" else -1  # the sight goes to larger columns where the radar is on the left
    # one quarter turn to the left brings (down, right) = (r, c) to (-c, r)
    for quarters in range(4):
        down, right = across
        if right * wanted >= abs(down):
            return side, (flip, quarters)
        across = np.array([-right, down])
    return side, (flip, 0)


# Pixels as stored, a window at a time.


def window_reader(path: Path, first: int = 0, columns: np.ndarray | None = None) -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """(first row, row behind, first column, column behind) -> values as numbers [H, W], and where they are data; see ``Product``."""
    if path.suffix.lower() == ".mat":
        aperture = backprojection.read_aperture(path)
        return lambda *window: (backprojection.form_window(aperture, *window), None)
    if path.suffix.lower() in (".tif", ".tiff", ".npy"):
        stored = open_stored(path)

        def read(top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
            values, valid = stored.read(first + top, first + bottom, left, right)
            if columns is not None:
                at, (low, high) = np.arange(left, right), columns[top:bottom].T[..., None]
                inside = (at >= low) & (at <= high) & (low >= 0)
                valid = inside if valid is None else valid & inside
            if stored.white:
                values = stored.white - values
            if values.dtype.kind in "fc":
                bad = ~np.isfinite(values) | np.isin(values.real, FILLS)
                valid, values = ~bad if valid is None else valid & ~bad, np.where(bad, 0, values)
            return (values * np.float32(stored.scale) + np.float32(stored.offset) if stored.scaled else values), valid

        return read

    def read_sicd(top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        with path.open("rb") as file, sarkit.sicd.NitfReader(file) as source:
            values = source.read_sub_image(top, left, bottom, right)[0]
            table = source.metadata.xmltree.find("{*}ImageData/{*}AmpTable")
        if values.dtype.names == ("real", "imag"):
            values = values["real"].astype(np.float32) + 1j * values["imag"].astype(np.float32)
        elif values.dtype.names:
            levels = np.arange(256.0) if table is None else np.array([float(level.text) for level in table])
            values = levels[values["amp"]] * np.exp(2j * np.pi / 256 * values["phase"])
        values = values.astype(np.complex64)
        finite = np.isfinite(values)
        return (values, None) if finite.all() else (np.where(finite, values, 0), finite)

    return read_sicd


def _middle(path: Path) -> tuple[float, float]:
    """Statistics of flat areas about the middle, by which amplitude, intensity and decibels are distinguished."""
    stored = open_stored(path)
    (top, bottom), (left, right) = ((max(0, count // 2 - 512), min(count, count // 2 + 512)) for count in stored.shape)
    values, valid = window_reader(path)(top, bottom, left, right)
    return (math.nan, math.nan) if values.dtype.kind == "c" else flat_statistics(values, valid)

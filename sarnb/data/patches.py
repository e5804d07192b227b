"""Products of radar sensors as a data set of patches: windows are calibrated, put on a grid, turned and written, a row at a time.

The track points up in every patch. Slant range stays slant range, and nothing is mirrored.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from scipy.fft import fft, ifft, next_fast_len

from sarnb.data.amplitude import Normalisation, moments
from sarnb.data.files import content_key, ordered_map, write_json, write_png
from sarnb.data.imagefolder import ZERO_SHARE, default_caption, physics, some
from sarnb.data.prepare import UNCLEAR, Found, build_set
from sarnb.data.products import Product, describe, window_reader
from sarnb.errors import InputError, first_line

FORMAT = 2  # raised when the written files change their meaning
COARSEST = 2.0  # a product whose spacing is over so many times the grid keeps its own: interpolation adds no detail
MARGIN = 32  # px of the grid around a patch, which the edges of the transformed block spoil
READ_BYTES = 2**27  # of pixels as stored, read at a time
EXACT = 0.01  # of the spacing: a product as near to the grid is not resampled


def import_products(
    files: Sequence[Path],
    out: Path,
    patch: int = 1024,
    grid: float = 0.8,
    spacing: float = 0.0,
    seed: int = 0,
    workers: int = 1,
    quantity: str = "",
    unseen: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the patches of all files that can be read, and return the card; its ``refused`` says which could not, and why.

    Parameters
    ----------
    files : products; see ``describe``.
    out : the folder; a killed call is continued by the next one, finished rows of patches are not read again.
    patch : side of a patch in px.
    grid : metres a pixel; 0 keeps the spacing of each product, and a product coarser than twice the grid keeps its own too.
    spacing : metres a pixel of files that do not say it.
    seed : draws the splits. Places are scenes, see ``same_scenes``; of fewer than three, bands of their rows of patches.
    workers : processes. The files are the same for any number.
    quantity : what real numbers are, instead of what tags and statistics say.
    unseen : classes that neither train nor val shows; see ``folder_classes``.

    Raises
    ------
    InputError
        Impossible sizes, an unknown class to hold out, or no file gives a patch.
    """
    if not files:
        raise InputError("import was given no FILE; name SICD, GeoTIFF or NPY files, or the folder of a SAFE")
    if patch < 8 or not 0 <= grid < math.inf or not 0 <= spacing < math.inf:
        raise InputError(f"--patch {patch} --grid {grid:g} --spacing {spacing:g}: give a patch of 8 px or more, and metres of 0 or more")
    classes = folder_classes(files)
    if strange := sorted({*unseen} - {*classes}):
        raise InputError(
            f"--unseen {strange[0]}: no class of these products; they are {', '.join(sorted({*classes})) or 'of no known class'}"
        )
    stamps = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else str(path) for path in files]
    settings = {"format": FORMAT, "files": stamps, "patch": patch, "grid": grid, "spacing": spacing, "quantity": quantity}
    key = content_key(json.dumps(settings))
    read = partial(_import_all, files=files, patch=patch, grid=grid, spacing=spacing, workers=workers, quantity=quantity, key=key)
    return build_set(out, {**settings, "seed": seed, "held": list(unseen)}, read, seed, unseen)


def folder_classes(files: Sequence[Path]) -> list[str]:
    """The class of each product: the name of the folder in which it lies, where there are two such names or more, each of two products
    or more; else "", for archives have folders by date and the like.

    >>> folder_classes([Path("a/city/1.tif"), Path("a/city/2.tif"), Path("b/port/3.SAFE"), Path("b/port/4.SAFE/manifest.safe")])
    ['city', 'city', 'port', 'port']
    >>> folder_classes([Path("city/1.tif"), Path("city/2.tif"), Path("port/3.tif")])
    ['', '', '']
    """
    own = [(path.parent if path.name == "manifest.safe" else path).absolute().parent.name for path in files]
    counts = Counter(own)
    return own if len(counts) > 1 and min(counts.values()) > 1 else [""] * len(own)


# Pixels: a window calibrated, on the grid.


def _amplitude(product: Product, values: np.ndarray, top: int, left: int) -> np.ndarray:
    """Complex values, or power, of a window whose upper left pixel is given; calibrated where the product says how."""
    if product.quantity != "complex":
        values = np.abs(values) if values.dtype.kind == "c" else values.astype(np.float32)
        if product.quantity == "db":
            values = np.power(np.float32(10), values / np.float32(10))
        elif product.quantity == "intensity":
            values = np.maximum(values, 0)
        elif values.min(initial=0) < 0:
            raise InputError(
                f"{product.source}: has negative values ({values.min():g}), so it is no amplitude; say by --quantity what it is"
            )
        else:
            values = np.power(values, np.float32(2 / product.exponent)) if product.exponent != 1 else np.square(values)
    if not product.noise and (product.gain is None or product.gain.values.size == 1):
        gain = 1.0 if product.gain is None else float(product.gain.values[0, 0])
        return values * np.float32(math.sqrt(gain) if product.quantity == "complex" else gain) if gain != 1 else values
    rows, columns = product.first + top + np.arange(values.shape[0]), left + np.arange(values.shape[1])
    if product.noise and product.quantity != "complex":
        values = np.maximum(values - math.prod(table.at(rows, columns) for table in product.noise), 0)
    gain = product.gain.at(rows, columns) if product.gain else np.ones(1)
    return values * (np.sqrt(gain) if product.quantity == "complex" else gain).astype(np.float32)


def resample(values: np.ndarray, ratios: Sequence[Fraction]) -> np.ndarray:
    """Band-limited resampling of a block: of both axes' spectra, the part that the new grid carries is kept, the rest cut.

    Parameters
    ----------
    values : [N, M], complex samples or power; N and M multiples of the ratios' numerators. It is taken as periodic.
    ratios : old samples a new sample, of rows and of columns.

    Returns
    -------
    array [N / ratio, M / ratio], complex or real as ``values``, of the same mean power: what a narrower band takes from speckle
    is given back, so that sigma0 stays. Complex samples are shifted in frequency, so that the centre of their spectrum is at 0
    (the mean phase step from pixel to pixel says where it is): their modulus alone has a meaning.
    """
    complex_ = np.iscomplexobj(values)
    power = np.vdot(values, values).real / values.size
    for axis, ratio in enumerate(ratios):
        count = values.shape[axis]
        new = int(count / ratio)
        if complex_:
            ahead, behind = (np.take(values, np.arange(count - 1) + step, axis) for step in (1, 0))
            centre = np.angle(np.vdot(behind, ahead)) / (2 * np.pi)
            shift = np.exp(-2j * np.pi * centre * np.arange(count)).astype(np.complex64)
            values = values * (shift[:, None] if axis == 0 else shift)
        if new == count:
            continue
        spectrum = np.moveaxis(fft(values, axis=axis), axis, 0)
        kept = np.zeros((new, *spectrum.shape[1:]), spectrum.dtype)
        half = (min(new, count) + 1) // 2  # frequencies 0 … half - 1 and their negatives; a Nyquist frequency is cut
        kept[:half] = spectrum[:half]
        if half > 1:
            kept[1 - half :] = spectrum[1 - half :]
        values = ifft(np.moveaxis(kept, 0, axis), axis=axis) * np.float32(new / count)
    if not complex_:
        return values.real
    left = np.vdot(values, values).real / values.size
    return values * np.float32(math.sqrt(power / left)) if left > 0 else values


@dataclass(frozen=True)
class Plan:
    """How a product is cut: ``ratios`` of rows and columns, ``first`` patch's upper left corner on the grid and ``counts`` of patches."""

    ratios: tuple[Fraction, Fraction]
    first: tuple[int, int]
    counts: tuple[int, int]
    spacing: tuple[float, float]


def plan_patches(product: Product, patch: int, grid: float) -> Plan:
    """The patches of a product, on a grid centred in it.

    Raises
    ------
    InputError
        The product is smaller than a patch.
    """
    wanted = product.spacing
    if grid:
        coarsest = max(product.spacing)
        wanted = (coarsest,) * 2 if coarsest > COARSEST * grid else (grid, grid)
    ratios = tuple(
        Fraction(1) if abs(new / old - 1) < EXACT else Fraction(new / old).limit_denominator(128)
        for new, old in zip(wanted, product.spacing)
    )
    sizes = [int(count / ratio) for count, ratio in zip(product.shape, ratios)]
    counts = tuple(size // patch for size in sizes)
    if min(counts) < 1:
        raise InputError(
            f"{product.source}: is {sizes[0]} x {sizes[1]} px on its grid of {wanted[0]:g} m, smaller than a patch of {patch} px; "
            "give a smaller --patch or --grid"
        )
    first = tuple((size - count * patch) // 2 for size, count in zip(sizes, counts))
    return Plan(ratios, first, counts, tuple(float(old * ratio) for old, ratio in zip(product.spacing, ratios)))


def _span(start: int, length: int, ratio: Fraction) -> tuple[int, int, int]:
    """Of new samples start … start + length: first old sample and number of a block with margins; where the new ones lie in it."""
    if ratio == 1:
        return start, length, 0
    begin = (start - MARGIN) // ratio.denominator
    periods = next_fast_len(math.ceil((start + length + MARGIN - begin * ratio.denominator) / ratio.denominator))
    return begin * ratio.numerator, periods * ratio.numerator, start - begin * ratio.denominator


def _patches(product: Product, plan: Plan, row: int, patch: int) -> Any:
    """Yield (column, window as first row, first column, rows, columns in the file; amplitude [patch, patch] or why it is dropped)."""
    read = window_reader(product.path, product.first, product.valid)
    top, height, down = _span(plan.first[0] + row * patch, patch, plan.ratios[0])
    spans = [_span(plan.first[1] + column * patch, patch, plan.ratios[1]) for column in range(plan.counts[1])]
    together = max(1, READ_BYTES // (product.itemsize * height * max(spans[0][1], 1)))
    for start in range(0, len(spans), together):
        group = spans[start : start + together]
        left, right = max(0, group[0][0]), min(product.shape[1], group[-1][0] + group[-1][1])
        stored, valid = read(max(0, top), min(product.shape[0], top + height), left, right)
        for column, (begin, width, aside) in enumerate(group, start):
            inside = slice(max(0, begin) - left, min(product.shape[1], begin + width) - left)
            beyond = [(max(0, -top), max(0, top + height - product.shape[0])), (max(0, -begin), max(0, begin + width - product.shape[1]))]
            window = [
                math.floor(place * ratio)
                for place, ratio in zip((plan.first[0] + row * patch, plan.first[1] + column * patch), plan.ratios)
            ] + [math.ceil(patch * ratio) for ratio in plan.ratios]
            own = slice(window[0] - max(0, top), window[0] - max(0, top) + window[2])
            cut = own, slice(window[1] - left, window[1] - left + window[3])
            if valid is not None and not valid[cut].all():
                yield column, window, "holds pixels that are no data"
            elif _blank(stored[cut]) > ZERO_SHARE:
                yield column, window, "holds a border or other zeros"
            else:
                values = _amplitude(product, stored[:, inside], max(0, top), max(0, begin))
                if any(map(any, beyond)):
                    values = np.pad(values, beyond, mode="reflect" if min(values.shape) > MARGIN else "edge")
                if plan.ratios != (1, 1):
                    values = resample(values, plan.ratios)[down : down + patch, aside : aside + patch]
                image = np.abs(values) if product.quantity == "complex" else np.sqrt(np.maximum(values, 0), dtype=np.float32)
                yield column, window, image if image.min() < image.max() else "is constant"


def _blank(values: np.ndarray, side: int = 8) -> float:
    """Share of the pixels in blocks of 8 x 8 px that are 0 throughout: a border is, dark speckle of few levels is not."""
    if values.size - np.count_nonzero(values) <= ZERO_SHARE * values.size:  # the blocks' share is no larger
        return 0.0
    empty = values == 0
    rows, columns = (count // side for count in values.shape)
    blocks = empty[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return float(blocks.all(axis=(1, 3)).mean())


# The set: first the scale of each kind, then the files, a row of patches at a time.


def _measure(item: tuple[Product, Plan, int, Path], patch: int) -> None:
    """Note the moments of a row's patches, and why others are dropped; or what the file's fault is."""
    product, plan, row, note = item
    if note.is_file():
        return
    kept, dropped, fault = [], Counter(), ""
    try:
        for column, _, image in _patches(product, plan, row, patch):
            if isinstance(image, str):
                dropped[image] += 1
            else:
                kept.append((column, moments(image)))
    except Exception as error:  # readers raise anything on damaged bytes; the other files go on
        fault = first_line(error) if isinstance(error, InputError) else f"{product.source}: cannot be read ({first_line(error)})"
    write_json(note, {"kept": kept, "dropped": dropped, "fault": fault})


def _write(item: tuple[Product, Plan, int, Path, Normalisation], patch: int) -> list[tuple[str, dict[str, Any]]]:
    """Write a row's patches next to its note, and return their names and rows."""
    product, plan, row, note, scale = item
    written = note.with_suffix(".rows")
    if written.is_file():
        return json.loads(written.read_text(encoding="utf-8"))
    rows = []
    for column, window, image in _patches(product, plan, row, patch):
        if isinstance(image, str):
            continue
        flip, quarters = product.turn
        lead = default_caption(product.label) if product.label else "a radar image"
        name = f"{note.stem}-{column:04d}.png"
        write_png(note.with_name(name), np.rot90(scale.apply(image)[:, :: -1 if flip else 1], quarters), fast=True)
        middle = np.array([product.first + window[0] + window[2] / 2]), np.array([window[1] + window[3] / 2])
        incidence = float(product.incidence.at(*middle)[0, 0]) if product.incidence else None
        rows.append(
            (
                name,
                {
                    "text": ", ".join([lead, *physics(product.look, incidence)]),
                    "label": product.label or UNCLEAR,
                    "place": product.place,
                    "product": product.name,
                    **dict(zip(("row", "column", "rows", "columns"), window)),
                    "incidence": incidence,
                    "look": product.look,
                    "side_of_track": product.side or None,
                    "sensor": product.sensor,
                    "polarisation": product.polarisation or None,
                    "geometry": product.geometry,
                    "spacing_m": [plan.spacing[1], plan.spacing[0]] if quarters % 2 else list(plan.spacing),
                    "calibration": product.calibration or None,
                    "mu": scale.mu,
                    "sigma": scale.sigma,
                },
            )
        )
    write_json(written, rows)
    return rows


def _import_all(
    work: Path, files: Sequence[Path], patch: int, grid: float, spacing: float, workers: int, quantity: str, key: str
) -> tuple[list[Found], dict[str, Any]]:
    """Read all products into ``work``: the patches with their rows, and the facts of the card."""
    work.mkdir(exist_ok=True)
    refused: dict[str, str] = {}
    found: list[tuple[Product, Plan]] = []
    for path, label in zip(files, folder_classes(files)):
        try:
            described = [replace(product, label=label) for product in describe(path, spacing, quantity)]
            found += [(product, plan_patches(product, patch, grid)) for product in described]
        except InputError as error:
            refused[str(path)] = str(error)
    shown = same_scenes([product for product, _ in found])
    products = [replace(product, place=shown[product.place]) for product, _ in found]
    jobs = [
        (product, plan, row, work / f"{key}-{number:04d}-{row:04d}.json")
        for number, (product, (_, plan)) in enumerate(zip(products, found))
        for row in range(plan.counts[0])
    ]
    with rasterio.Env(GDAL_CACHEMAX=64):  # MB; by default a twentieth of the machine's memory, in each process
        for _ in ordered_map(partial(_measure, patch=patch), jobs, workers, "measuring"):
            pass
        notes = {job[3]: json.loads(job[3].read_text(encoding="utf-8")) for job in jobs}
        of: dict[str, list[dict[str, Any]]] = {}
        for job in jobs:
            of.setdefault(job[0].source, []).append(notes[job[3]])
        for source, own in of.items():
            faults = [note["fault"] for note in own if note["fault"]]
            why = " or ".join(sorted({reason for note in own for reason in note["dropped"]}))
            if faults or not any(note["kept"] for note in own):
                refused[source] = faults[0] if faults else f"{source}: no patch of {patch} px is left, each {why}; it gives nothing"
        kept = [job for job in jobs if job[0].source not in refused and notes[job[3]]["kept"]]
        dropped = sum((Counter(note["dropped"]) for source in of.keys() - refused.keys() for note in of[source]), Counter())
        parts: dict[tuple[str, ...], list[tuple[int, float, float]]] = {}
        for job in kept:
            parts.setdefault(_scale_of(job[0]), []).extend(tuple(moment) for _, moment in notes[job[3]]["kept"])
        scales = {kind: Normalisation.from_moments(own) for kind, own in parts.items()}
        left = [(*job, scales[_scale_of(job[0])]) for job in kept]
        used = [product for product in products if product.source not in refused]
        grounds: dict[str, set[tuple[Any, ...]]] = {}
        for product in used:
            grounds.setdefault(product.place, set()).add((product.source, product.first, product.shape))
        # Bands part one image only: equal bands of several images of a place, as of two tracks, show different ground.
        banded = {place for place, own in grounds.items() if len(own) == 1} if len(grounds) < 3 else set()
        images: list[Found] = []
        for item, rows in zip(left, ordered_map(partial(_write, patch=patch), left, workers, "writing")):
            band = f", rows of patches {item[2] * 10 // item[1].counts[0] + 1}/10" if item[0].place in banded else ""
            images += [(work / name, {**row, "place": row["place"] + band}) for name, row in rows]
    read = [f"refused: {reason}" for reason in refused.values()]
    read += [f"{count} patches are dropped: each {reason}" for reason, count in sorted(dropped.items())]
    read += [note for product in used for note in product.notes]
    if repeated := [place for place, first in shown.items() if place != first]:
        read.append(f"{len(repeated)} products show ground that one before them shows, and are of its place: {some(repeated)}")
    if banded and images:
        read.append("there are fewer than three scenes, so bands of their rows of patches are the places; neighbouring bands touch")
    facts = {
        "kind": "products",
        "source": some([product.name for product in used]),
        "licence": "that of the products; not known here",
        "sensor": None,
        "spacing_m": grid or None,
        "size": patch,
        "mu": None,
        "sigma": None,
        "products": len(used),
        "refused": refused,
        "normalisation": {" ".join(kind): {"mu": scale.mu, "sigma": scale.sigma} for kind, scale in scales.items()},
        "columns": {
            "place": "scene, or band of one; splits are by place",
            "product": "the image that the patch is cut from",
            "row, column, rows, columns": "window of the patch in the product's pixels",
            "incidence": "incidence angle at the middle of the patch or of the scene, degrees",
            "look": "side of the image the radar is on",
            "side_of_track": "side of its track to which the radar looks, from the geometry",
            "spacing_m": "of rows and of columns, metres",
            "calibration": "what the squared amplitude is: sigma0, beta0, gamma0, or nothing",
            "mu, sigma": "mu + 3 sigma became 255; one scale a sensor and calibration, else one a product",
        },
        "notes": [
            "Patches are turned so that the track points up, and never mirrored; geocoded ones by the nearest quarter turn.",
            "A class is the name of the folder of a product, where several folders hold two products or more each; else none is known.",
            "Resampling cuts the spectrum at the grid's band: of complex samples directly, else of the power.",
            *read,
        ],
        "read": read,
    }  # fmt: skip
    return images, facts


def same_scenes(products: Sequence[Product]) -> dict[str, str]:
    """Place of each product -> the first place that shows the same ground, so that no ground is in two splits.

    Two show the same where their middles are nearer than the mean of their longest sides, and what one of them shares with a third
    counts too. So corners of squares that meet aslant, a few hundredths of their ground, can go unseen.
    """
    scenes = sorted({(product.place, product.scene) for product in products if product.scene})
    shown = {product.place: product.place for product in products}
    for (one, here), (other, there) in combinations(scenes, 2):
        if shown[one] != shown[other] and math.dist(here[:3], there[:3]) < (here[3] + there[3]) / 2:
            gone = shown[other]
            shown = {place: shown[one] if first == gone else first for place, first in shown.items()}
    return shown


def _scale_of(product: Product) -> tuple[str, ...]:
    """Products that share it share one amplitude scale: calibrated ones of a sensor; others have no common unit."""
    return (product.sensor, product.calibration, product.polarisation) if product.calibration else (product.name,)

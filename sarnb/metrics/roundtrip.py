"""What of a radar image the autoencoder's round trip keeps: speckle law, texture, spectrum, calibration, grey.

Originals are grey uint8 [N, H, W], decoded images uint8 [N, H, W, 3] of the same scenes in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import CubicSpline
from scipy.ndimage import uniform_filter
from scipy.signal import peak_widths
from skimage.metrics import peak_signal_noise_ratio
from skimage.util import view_as_blocks

from sarnb.errors import InputError
from sarnb.generate.sample import to_grey
from sarnb.metrics import image_stack
from sarnb.metrics.amplitude import coefficient_of_variation, histogram, kl, local_enl, log_cumulant_distance, zero_share
from sarnb.metrics.describe import cover_statistics
from sarnb.metrics.texture import glcm_descriptors, standardise
from sarnb.train.vae_losses import PERIODOGRAM_SIDE, SMALLEST_POWER, WINDOW_POWER, periodogram, radial_power
from sarnb.world.backscatter import COVERS
from sarnb.world.speckle import add_points, circular_gaussian, impulse_response

# Power spectra, by the functions of the loss terms in double precision, and the pattern that a decoder repeats from latent
# cell to latent cell.


def radial_spectrum(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radially averaged power spectrum of the amplitude, see ``radial_power``: uint8 [N, S, S] → cycles a pixel [S/2], power [S/2].

    The power is the mean over the images.

    Raises
    ------
    InputError
        Images that are not square.
    """
    stack = image_stack(images)
    if stack.shape[1] != stack.shape[2]:
        raise InputError(f"radial spectrum: images of {stack.shape[2]} x {stack.shape[1]} px; give square ones")
    power = np.mean([radial_power(torch.from_numpy(image[None] / 255.0))[0].numpy() for image in stack], axis=0)
    return np.arange(1, stack.shape[1] // 2 + 1) / stack.shape[1], power


def mean_periodogram(images: np.ndarray) -> np.ndarray:
    """Power spectrum in two dimensions, see ``periodogram``, mean over the images: uint8 [N, H, W] → [side, side/2 + 1].

    Axis 0 is azimuth in the order of ``numpy.fft.fftfreq``, axis 1 range from 0 to half a cycle a pixel. Raises
    ``InputError`` for images smaller than its windows.
    """
    stack, side = image_stack(images), PERIODOGRAM_SIDE
    if min(stack.shape[1:]) < side:
        raise InputError(f"periodogram: images of {stack.shape[2]} x {stack.shape[1]} px; give at least {side} x {side} px")
    return np.mean([periodogram(torch.from_numpy(image[None] / 255.0))[0].numpy() for image in stack], axis=0)


def spectrum_gap(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Decoded over original power in dB at every frequency of ``radial_spectrum``: [S/2]."""
    return 10 * np.log10(np.divide(*(radial_spectrum(images)[1] + SMALLEST_POWER for images in (decoded, real))))


def periodogram_gap(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Decoded over original power in dB at every frequency of ``mean_periodogram``: [side, side/2 + 1]."""
    return 10 * np.log10(np.divide(*(mean_periodogram(images) + WINDOW_POWER for images in (decoded, real))))


def lattice(images: np.ndarray, period: int = 8) -> float:
    """Strength of the pattern that repeats every ``period`` px: uint8 [N, H, W] → relative standard deviation, 0 is none.

    Each pixel is divided by its local mean (15 px for a period of 8) and averaged over all pixels at its place of a cell, in
    all images; the figure is the standard deviation of the period² averages. Speckle of M independent cells a place leaves
    about its own coefficient of variation over √M; reference images say how much that is.
    """
    stack = image_stack(images).astype(np.float64)
    reach = 2 * period - 1
    local = uniform_filter(stack, (0, reach, reach), mode="reflect") + 1
    rows, columns = (side - side % period for side in stack.shape[1:])
    ratio = (stack / local)[:, :rows, :columns].reshape(len(stack), rows // period, period, columns // period, period)
    return float(ratio.mean((0, 1, 3)).std())


# The response to a point: its width and its side lobes, before and after a round trip.

FINE = 32  # samples a pixel at which the response is read
REACH = 14  # px from the peak within which side lobes are sought
CELL = 8  # px of a latent cell of Stable Diffusion's autoencoders: a decoder draws a point otherwise at each place in it
SMALLEST = 2 * REACH + CELL + 4  # px a side of an image with a point


def point_places(count: int, size: int, cell: int = CELL) -> np.ndarray:
    """Rows and columns of the points of ``point_images``: int [count, 2], spread evenly over a cell around the middle.

    Every ``cell`` images meet each row and each column of the cell once, ``cell`` squared images each place once, if
    ``cell`` is not a multiple of three.
    """
    number = np.arange(count)
    row, column = number % cell, (3 * number + number // cell) % cell
    return np.stack([row, column], axis=1) + size // 2 - cell // 2


def point_images(
    count: int, size: int, ratios: tuple[float, float], window: str = "taylor", clutter_db: float = -25.0, seed: int = 0
) -> np.ndarray:
    """Images uint8 [count, size, size] of one point on homogeneous single-look clutter, at ``point_places``.

    ``ratios``: resolution over spacing in range and azimuth. ``clutter_db``: mean power of the clutter over the peak power
    of the point, which is drawn at 90 % of the largest amplitude.

    Raises
    ------
    InputError
        A size too small for the side lobes.
    """
    if size < SMALLEST:
        raise InputError(f"point targets: {size} px are too few for the side lobes; give {SMALLEST} or more")
    images = []
    for number, (row, column) in enumerate(point_places(count, size)):
        rng = np.random.default_rng((seed, 61, number))
        dark = np.zeros((size, size), np.complex64)
        point = impulse_response(add_points(dark, row[None], column[None], np.ones(1, np.complex64)), ratios, window)
        clutter = impulse_response(circular_gaussian((size, size), rng), ratios, window)
        field = point / np.abs(point).max() + 10 ** (clutter_db / 20) * clutter
        images.append(np.rint(np.clip(np.abs(field) * 0.9, 0, 1) * 255).astype(np.uint8))
    return np.stack(images)


def point_response(images: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Of ``point_images``, before or after a round trip: -3 dB widths, highest side lobes, peak over clutter.

    The power is averaged over the images, each moved so that its point lies in the middle, the clutter's mean power is taken
    off, and the cuts through the brightest pixel near the middle are read between pixels by a cubic spline of the amplitude.

    Returns
    -------
    response : width_range, width_azimuth [px]; lobe_range, lobe_azimuth [dB below the peak]; contrast [dB, peak over
        clutter]. NaN where no point is left.
    power : the mean power, clutter included, [size, size].
    """
    stack = image_stack(images).astype(np.float64)
    size, middle = stack.shape[1], stack.shape[1] // 2
    places = point_places(len(stack), size)
    power = np.square([np.roll(image, tuple(middle - place), axis=(0, 1)) for image, place in zip(stack, places)]).mean(0)
    far = np.hypot(*np.mgrid[-middle : size - middle, -middle : size - middle]) > REACH
    clutter = power[far].mean()
    near = power[middle - 2 : middle + 3, middle - 2 : middle + 3]
    row, column = (int(place) + middle - 2 for place in np.unravel_index(near.argmax(), near.shape))
    found = {"contrast": float(10 * np.log10(power[row, column] / max(clutter, 1e-9)))}
    for name, cut, peak in (("range", power[row], column), ("azimuth", power[:, column], row)):
        found[f"width_{name}"], found[f"lobe_{name}"] = _cut(cut - clutter, peak)
    return found, power


def _cut(power: np.ndarray, peak: int) -> tuple[float, float]:
    """-3 dB width [px] and highest side lobe [dB] of one cut; NaN where it has no peak."""
    nothing = float("nan"), float("nan")
    if power[peak] <= 0:
        return nothing
    places = np.arange(max(0, peak - REACH), min(len(power), peak + REACH + 1))
    fine = np.linspace(places[0], places[-1], FINE * (len(places) - 1) + 1)
    curve = CubicSpline(places, np.sign(power[places]) * np.sqrt(np.abs(power[places])))(fine)
    top = int(np.argmax(np.where(np.abs(fine - peak) <= 1, curve, -np.inf)))
    if max(curve[: top + 1].min(), curve[top:].min()) >= curve[top] * np.sqrt(0.5):
        return nothing  # it does not fall to half of its power on both sides
    whole = curve[[top]], np.array([0]), np.array([len(curve) - 1])  # the height above zero, not above the valleys
    width = peak_widths(curve, [top], 1 - np.sqrt(0.5), whole)[0][0] / FINE
    falling, rising = np.flatnonzero(np.diff(curve[: top + 1]) <= 0), np.flatnonzero(np.diff(curve[top:]) > 0)
    # Side lobes lie beyond the first minima to both sides.
    lobes = [*(curve[: falling[-1] + 1] if len(falling) else ()), *(curve[top + rising[0] :] if len(rising) else ())]
    with np.errstate(divide="ignore"):  # minus infinity where there is none
        return float(width), float(20 * np.log10(max([0.0, *lobes]) / curve[top]))


FLOOR = "reference vs reference"
HALVINGS = 20  # of the originals, behind the floor
MEASURES = {  # with their titles in figures
    "psnr_db": "PSNR [dB]",
    "amplitude_kl": "amplitude KL [nats]",
    "cv_error": "CV, relative error",
    "enl_error": "ENL in flat windows, relative error",
    "kappa_distance": "distance in the κ₃, κ₂ plane",
    "zero_share": "black pixels, share",
    "glcm_distance": "GLCM distance [σ]",
    "spectrum_db": "power spectrum, largest gap [dB]",
    "periodogram_db": "spectrum in two dimensions, mean gap [dB]",
    "lattice": "lattice of latent cells, relative",
    "bias_db": "σ⁰ bias, largest of the covers [dB]",
    "leak": "colour leak [levels]",
}
# What the best variant is to reach on held-out images: size of each error, in its own unit or in floors, see ``targets``.
TARGETS = {
    "amplitude_kl": 0.02,
    "cv_error": 0.05,
    "enl_error": 0.10,
    "spectrum_db": 1.0,
    "periodogram_db": 1.0,
    "bias_db": 0.3,
}
TARGETS_IN_FLOORS = {"glcm_distance": 2.0, "kappa_distance": 2.0, "lattice": 2.0, "zero_share": 2.0}
LEAST_ZEROS = 1e-3  # the target of black pixels is not below it: references may have none


def round_trip_table(real: np.ndarray, decoded: Mapping[str, np.ndarray], masks: np.ndarray | None = None) -> pd.DataFrame:
    """One row a variant, grey uint8 [N, H, W] as ``real``, then the floor: columns variant and ``MEASURES``.

    cv_error and enl_error are relative to the original (0.05 is 5 % too much); kappa_distance is that in the plane of
    log-cumulants; zero_share the share of exactly black pixels; glcm_distance in standard deviations of one image;
    spectrum_db the largest gap over frequencies; periodogram_db the mean gap over the frequencies of both axes, corners of the
    plane included; lattice the strength of what repeats every 8 px; bias_db the largest over land covers (NaN without masks).
    The floor compares originals with other originals: other scenes of the same kinds, not the same scenes. It is the median size
    of each error over ``HALVINGS`` random halvings; its lattice is that of all originals, as chance leaves more of it in fewer
    images, and so are its black pixels.
    """
    real = image_stack(real, minimum=4)
    rows = [{"variant": name, **_paired(real, images, masks)} for name, images in decoded.items()]
    floor = _floor(real, masks) | {"psnr_db": np.nan, "leak": 0.0, "lattice": lattice(real)}
    return pd.DataFrame([*rows, {"variant": FLOOR, **floor}])[["variant", *MEASURES]]


def set_table(real: np.ndarray, sets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The same of sets that show other scenes, as generated ones: name → grey uint8 [M, H, W] gives a row each, then the floor.

    Columns variant, amplitude_kl, cv_error, enl_error, kappa_distance, zero_share, glcm_distance, spectrum_db, periodogram_db,
    lattice. The lattice is that of equally many images of each set, originals too, spread evenly over it: as many as the smallest has.
    """
    real = image_stack(real, minimum=4)
    count = min(map(len, (real, *sets.values())))
    rows = [{"variant": name, **_unpaired(real, images)} for name, images in sets.items()]
    table = pd.DataFrame([*rows, {"variant": FLOOR, **_floor(real)}]).drop(columns="bias_db")
    seen = [images[np.arange(count) * len(images) // count] for images in (*sets.values(), real)]
    return table.assign(lattice=[lattice(images) for images in seen])


def _paired(real: np.ndarray, decoded: np.ndarray, masks: np.ndarray | None) -> dict[str, float]:
    """The measures of images and what their round trip made of them."""
    if decoded.ndim != 4 or decoded.shape[-1] != 3:
        raise InputError(f"round trip: decoded images of shape {decoded.shape}; give the three channels, [N, H, W, 3]")
    grey = to_grey(decoded)
    if grey.shape != real.shape:
        raise InputError(f"round trip: {real.shape} before and {grey.shape} after; decode the same images")
    with np.errstate(divide="ignore"):  # infinite where nothing changed
        psnr = float(np.mean([peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(real, grey)]))
    bias = sigma0_bias(real, grey, masks, masks)["bias_db"].abs().max() if masks is not None else np.nan
    channels = decoded.astype(np.float64)  # how far they lie from their mean, in grey levels; 0 is grey
    leak = float(np.sqrt(((channels - channels.mean(-1, keepdims=True)) ** 2).mean((1, 2, 3)).mean()))
    return _unpaired(real, grey, masks, masks) | {"psnr_db": psnr, "bias_db": bias, "leak": leak, "lattice": lattice(grey)}


def _floor(real: np.ndarray, masks: np.ndarray | None = None) -> dict[str, float]:
    """The median size of each error between random halves of the originals; the unit of texture is that of all of them."""
    unit, found = glcm_descriptors(real), []
    for number in range(HALVINGS):
        parts = np.array_split(np.random.default_rng(number).permutation(len(real)), 2)
        images, covers = [real[part] for part in parts], [None if masks is None else masks[part] for part in parts]
        bias = np.nan if masks is None else sigma0_bias(*images, *covers)["bias_db"].abs().max()
        found.append(_unpaired(*images, *covers, [unit[part] for part in parts], unit) | {"bias_db": bias})
    return pd.DataFrame(found).abs().median().to_dict() | {"zero_share": float(zero_share(histogram(real).sum(0)))}


def _unpaired(
    real: np.ndarray,
    fake: np.ndarray,
    real_masks: np.ndarray | None = None,
    fake_masks: np.ndarray | None = None,
    described: Sequence[np.ndarray] = (),
    unit: np.ndarray | None = None,
) -> dict[str, float]:
    """The measures of two sets that need not show the same scenes; the GLCM descriptors of both, and of the unit, if known."""
    first, second = described or (glcm_descriptors(real), glcm_descriptors(fake))
    gap = standardise(first, first if unit is None else unit).mean(0) - standardise(second, first if unit is None else unit).mean(0)
    counts = histogram(real), histogram(fake)
    pooled = [own.sum(0) for own in counts]
    spread = [np.nanmean(coefficient_of_variation(own)) for own in counts]
    looks = homogeneous_enl(real, real_masks), homogeneous_enl(fake, fake_masks)
    return {
        "amplitude_kl": float(kl(*pooled)),
        "cv_error": float(spread[1] / spread[0] - 1),
        "enl_error": float(looks[1] / looks[0] - 1),
        "kappa_distance": float(log_cumulant_distance(*pooled)),
        "zero_share": float(zero_share(pooled[1])),
        "glcm_distance": float(np.abs(gap).mean()),
        "spectrum_db": float(np.abs(spectrum_gap(real, fake)).max()),
        "periodogram_db": float(np.abs(periodogram_gap(real, fake)).mean()),
    }


def sigma0_bias(real: np.ndarray, decoded: np.ndarray, masks: np.ndarray, decoded_masks: np.ndarray, least: int = 256) -> pd.DataFrame:
    """Radiometric bias by land cover: columns cover, pixels, bias_db = 10 lg(mean power decoded / mean power original).

    Backscatter is a mean of squared amplitudes, so the scale of the amplitude cancels.

    Parameters
    ----------
    real, decoded : grey uint8 [N, H, W].
    masks, decoded_masks : codes of ``COVERS`` uint8 [N, H, W], the same where both show the same scenes.
    least : covers of fewer pixels in either set are left out.

    Raises
    ------
    InputError
        Images and masks of different shapes.
    """
    if real.shape != masks.shape or decoded.shape != decoded_masks.shape:
        shapes = f"originals {real.shape}, decoded {decoded.shape}, masks {masks.shape} and {decoded_masks.shape}"
        raise InputError(f"sigma0 bias: {shapes}; give the masks of the same scenes")
    sets, size = ((real, masks), (decoded, decoded_masks)), len(COVERS)
    counts = [np.bincount(own.ravel(), minlength=size) for _, own in sets]
    sums = [np.bincount(own.ravel(), images.ravel().astype(np.float64) ** 2, minlength=size) for images, own in sets]
    known = np.flatnonzero((np.minimum(*counts) >= least) & (np.minimum(*sums) > 0))
    before, after = (total[known] / count[known] for total, count in zip(sums, counts))
    table = pd.DataFrame({"cover": [COVERS[code] for code in known], "pixels": counts[0][known], "bias_db": 10 * np.log10(after / before)})
    return table.sort_values("pixels", ascending=False, ignore_index=True)


def homogeneous_enl(images: np.ndarray, masks: np.ndarray | None) -> float:
    """Equivalent number of looks of uint8 [N, H, W] where the scene is flat: in windows of one land cover, or all without masks.

    The medians of the covers, weighted by their windows; without masks the median over windows, then over images.
    """
    if masks is None:
        return float(np.nanmedian(local_enl(images)))
    table = cover_statistics(images, masks, least=1)
    return float(np.average(table["enl"], weights=table["windows"])) if len(table) else float("nan")


def targets(table: pd.DataFrame) -> dict[str, float]:
    """The targets, by measure, in the measure's unit: ``TARGETS``, and multiples of the floor of ``table``."""
    floor = table.set_index("variant").loc[FLOOR]
    found = TARGETS | {name: float(times * floor[name]) for name, times in TARGETS_IN_FLOORS.items()}
    return found | {"zero_share": max(found["zero_share"], LEAST_ZEROS)}


def score(table: pd.DataFrame) -> pd.Series:
    """One number a variant, lower is better: the geometric mean over measures of error over target.

    Levels whose target counts the floor, such as black pixels, are no better below the floor than at it: less than references have is
    no merit, and chance. Measures that are not known for all variants (the bias without masks) are left out. Index: variant, best first.
    """
    own = table[table["variant"] != FLOOR].set_index("variant")
    ratios = pd.DataFrame({name: own[name].abs() / goal for name, goal in targets(table).items() if own[name].notna().all()})
    least = pd.Series({name: 1 / times for name, times in TARGETS_IN_FLOORS.items()}).reindex(ratios.columns).fillna(1e-6)
    return np.exp(np.log(ratios.clip(lower=least, axis=1)).mean(axis=1)).sort_values()


def linear_code_psnr(fit: np.ndarray, images: np.ndarray, block: int, numbers: Sequence[int]) -> dict[int, float]:
    """What the best linear code of blocks reaches: the yardstick of an autoencoder with as many latent channels.

    Principal components of the ``block`` x ``block`` px blocks of ``fit``, of which the first k code those of ``images``.

    Parameters
    ----------
    fit, images : uint8 [N, H, W, C], sides multiples of ``block``.
    numbers : values of k.

    Returns
    -------
    k -> mean PSNR of a picture in dB.

    Raises
    ------
    InputError
        Sides that are no multiples, or more numbers than a block has values.
    """
    values = block * block * images.shape[-1]
    if any(side % block for side in (*fit.shape[1:3], *images.shape[1:3])) or max(numbers) > values:
        raise InputError(f"blocks of {block} px: give images whose sides they divide, and at most {values} numbers a block")
    shape = (1, block, block, images.shape[-1])
    known, wanted = (view_as_blocks(stack, shape).reshape(-1, values).astype(np.float64) for stack in (fit, images))
    mean = known.mean(axis=0)
    _, components = np.linalg.eigh(np.cov((known - mean).T))
    inside = ((wanted - mean) @ components[:, ::-1]) ** 2  # energy by component, the strongest first
    lost = inside.sum(axis=1, keepdims=True) - np.cumsum(inside, axis=1)  # of each block, after its first k components
    errors = lost.reshape(len(images), -1, values).mean(axis=1) / values
    return {k: float(np.mean(10 * np.log10(255**2 / np.maximum(errors[:, k - 1], 1e-12)))) for k in numbers}

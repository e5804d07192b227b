"""What of a radar image the autoencoder's round trip keeps: speckle law, texture, spectrum, calibration, grey.

Originals are grey uint8 [N, H, W], decoded images uint8 [N, H, W, 3] of the same scenes in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline
from scipy.ndimage import uniform_filter
from scipy.signal.windows import hann
from skimage.metrics import peak_signal_noise_ratio

from sarnb.errors import InputError
from sarnb.generate.sample import to_grey
from sarnb.metrics import image_stack
from sarnb.metrics.amplitude import coefficient_of_variation, histogram, kl, local_enl, log_cumulant_distance, log_cumulants
from sarnb.metrics.describe import cover_statistics
from sarnb.metrics.texture import DIRECTIONS, DISTANCES, PROPERTIES, glcm_descriptors, texture_distance
from sarnb.world.backscatter import COVERS
from sarnb.world.speckle import add_points, circular_gaussian, impulse_response

# Power spectra in small windows, and the pattern that a decoder repeats from latent cell to latent cell.

WINDOW_POWER = 1e-6  # added to a power before its logarithm: a quiet sea has no more in a small window


def periodogram(images: np.ndarray, side: int = 16) -> np.ndarray:
    """Power spectrum of the amplitude in two dimensions: uint8 [N, H, W] → [side, side/2 + 1], mean over windows and images.

    Welch's method (IEEE Trans. Audio Electroacoust. 15, 1967, 70): windows of ``side`` px that overlap by half, each without
    its mean and under a Hann window, scaled so that white noise of variance v has the power v at every frequency. Axis 0 is
    azimuth in the order of ``numpy.fft.fftfreq``, axis 1 range from 0 to half a cycle a pixel.
    """
    stack = image_stack(images)
    if min(stack.shape[1:]) < side:
        raise InputError(f"periodogram: images of {stack.shape[2]} x {stack.shape[1]} px; give at least {side} x {side} px")
    window = np.outer(hann(side), hann(side))
    total = np.zeros((side, side // 2 + 1))
    for image in stack:
        parts = np.lib.stride_tricks.sliding_window_view(image / 255.0, (side, side))[:: side // 2, :: side // 2]
        parts = (parts - parts.mean((2, 3), keepdims=True)) * window
        total += (np.abs(np.fft.rfft2(parts)) ** 2).mean((0, 1))
    return total / len(stack) / (window**2).sum()


def periodogram_gap(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Decoded over original power in dB at every frequency of ``periodogram``: [side, side/2 + 1]."""
    powers = (periodogram(images) + WINDOW_POWER for images in (decoded, real))
    return 10 * np.log10(np.divide(*powers))


def lattice(images: np.ndarray, period: int = 8) -> float:
    """Strength of the pattern that repeats every ``period`` px: uint8 [N, H, W] → relative standard deviation, 0 is none.

    Each pixel is divided by its local mean (15 px for a period of 8) and averaged over all pixels at its place of a cell, in
    all images; the figure is the standard deviation of the period² averages. Speckle of M independent cells a place leaves
    about its own coefficient of variation over √M; real images say how much that is.
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


def point_response(images: np.ndarray) -> dict[str, float]:
    """Of ``point_images``, before or after a round trip: -3 dB widths, highest side lobes, peak over clutter.

    The power is averaged over the images, each moved so that its point lies in the middle, the clutter's mean power is taken
    off, and the cuts through the brightest pixel near the middle are read between pixels by a cubic spline of the amplitude.
    Keys: width_range, width_azimuth [px]; lobe_range, lobe_azimuth [dB below the peak]; contrast [dB, peak over clutter].
    NaN where no point is left.
    """
    power = _mean_power(images)
    size, middle = len(power), len(power) // 2
    far = np.hypot(*np.mgrid[-middle : size - middle, -middle : size - middle]) > REACH
    clutter = power[far].mean()
    near = power[middle - 2 : middle + 3, middle - 2 : middle + 3]
    row, column = (int(place) + middle - 2 for place in np.unravel_index(near.argmax(), near.shape))
    found = {"contrast": float(10 * np.log10(power[row, column] / max(clutter, 1e-9)))}
    for name, cut, peak in (("range", power[row], column), ("azimuth", power[:, column], row)):
        found[f"width_{name}"], found[f"lobe_{name}"] = _cut(cut - clutter, peak)
    return found


def point_table(images: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """``point_response`` of several sets: name → grey images gives a row each, columns variant and its keys."""
    return pd.DataFrame([{"variant": name, **point_response(stack)} for name, stack in images.items()])


def point_cuts(images: np.ndarray) -> pd.DataFrame:
    """Mean power along range and azimuth through the middle, in dB of its peak: columns offset [px], direction, power_db."""
    power = _mean_power(images)
    middle = len(power) // 2
    offsets = np.arange(-REACH, REACH + 1)
    cuts = {"range": power[middle, middle + offsets], "azimuth": power[middle + offsets, middle]}
    return pd.concat(
        [
            pd.DataFrame({"offset": offsets, "direction": name, "power_db": 10 * np.log10(np.maximum(cut, 0.25) / cut.max())})
            for name, cut in cuts.items()
        ],
        ignore_index=True,
    )


def _mean_power(images: np.ndarray) -> np.ndarray:
    """Mean squared amplitude of ``point_images`` whose points were moved to the middle: [size, size]."""
    stack = image_stack(images).astype(np.float64)
    places = point_places(len(stack), stack.shape[1])
    moved = [np.roll(image, tuple(stack.shape[1] // 2 - place), axis=(0, 1)) for image, place in zip(stack, places)]
    return np.square(moved).mean(0)


def _cut(power: np.ndarray, peak: int) -> tuple[float, float]:
    """-3 dB width [px] and highest side lobe [dB] of one cut; NaN where it has no peak."""
    places = np.arange(max(0, peak - REACH), min(len(power), peak + REACH + 1))
    values = power[places]
    if power[peak] <= 0:
        return float("nan"), float("nan")
    fine = np.linspace(places[0], places[-1], FINE * (len(places) - 1) + 1)
    amplitude = np.sign(values) * np.sqrt(np.abs(values))
    curve = CubicSpline(places, amplitude)(fine)
    top = int(np.argmax(np.where(np.abs(fine - peak) <= 1, curve, -np.inf)))
    sides = _half_power(curve[top:]), _half_power(curve[top::-1])
    if None in sides:
        return float("nan"), float("nan")
    width = sum(sides) / FINE
    rising = np.diff(curve) > 0
    ends = np.flatnonzero(~rising[:top]), np.flatnonzero(rising[top:])  # the first minima to both sides
    before = curve[: ends[0][-1] + 1] if len(ends[0]) else curve[:0]
    after = curve[ends[1][0] + top :] if len(ends[1]) else curve[:0]
    lobes = np.concatenate([before, after])
    highest = float(lobes.max()) if len(lobes) else 0.0
    return float(width), float(20 * np.log10(highest / curve[top])) if highest > 0 else float("-inf")


def _half_power(falling: np.ndarray) -> float | None:
    """Where amplitudes that begin at a peak first fall to half its power, in samples and between them; None if they do not."""
    level = falling[0] * np.sqrt(0.5)
    below = np.flatnonzero(falling < level)
    if not len(below):
        return None
    after = below[0]  # 1 or more, as the peak itself lies above
    return float(after - (level - falling[after]) / (falling[after - 1] - falling[after]))


ORIGINAL, FLOOR = "original", "real vs real"
MEASURES = (
    "psnr_db",
    "amplitude_kl",
    "cv_error",
    "enl_error",
    "kappa_distance",
    "glcm_distance",
    "spectrum_db",
    "periodogram_db",
    "lattice",
    "bias_db",
    "leak",
)
# What the best variant is to reach on held-out images: size of each error; the texture's is in floors, see ``targets``.
TARGETS = {
    "amplitude_kl": 0.02,
    "cv_error": 0.05,
    "enl_error": 0.10,
    "glcm_distance": 2.0,
    "spectrum_db": 1.0,
    "periodogram_db": 1.0,
    "bias_db": 0.3,
}
POINT_WIDTH = 0.10  # relative change of a point's width; measured on other images than the rest, so no part of the score
SMALLEST_POWER = 1e-8  # added before the logarithm of a power, far below what 8 bits resolve


def colour_leak(decoded: np.ndarray) -> np.ndarray:
    """How coloured a grey image came back: uint8 [N, H, W, 3] → [N], root mean square distance of the channels from their
    mean, in grey levels; 0 is grey."""
    if decoded.ndim != 4 or decoded.shape[-1] != 3:
        raise InputError(f"colour leak: images of shape {decoded.shape}; give the three channels, [N, H, W, 3]")
    values = decoded.astype(np.float64)
    return np.sqrt(((values - values.mean(-1, keepdims=True)) ** 2).mean((1, 2, 3)))


def radial_spectrum(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum of the amplitude against spatial frequency: uint8 [N, S, S] → cycles a pixel [S/2], power [N, S/2].

    Mean taken out, Hann window, averaged over rings one frequency step wide up to the Nyquist frequency; scaled so that
    white noise of variance v has the power v at every frequency.
    """
    stack = image_stack(images).astype(np.float64) / 255
    size = stack.shape[1]
    if stack.shape[1] != stack.shape[2]:
        raise InputError(f"radial spectrum: images of {stack.shape[2]} x {stack.shape[1]} px; give square ones")
    window = np.hanning(size)[:, None] * np.hanning(size)
    spectrum = np.abs(np.fft.fft2((stack - stack.mean((1, 2), keepdims=True)) * window)) ** 2 / (window**2).sum()
    cycles = np.fft.fftfreq(size, 1 / size)
    ring = np.rint(np.hypot(cycles[:, None], cycles[None, :])).astype(int).ravel()
    count = np.bincount(ring)[1 : size // 2 + 1]
    power = np.stack([np.bincount(ring, own.ravel())[1 : size // 2 + 1] / count for own in spectrum])
    return np.arange(1, size // 2 + 1) / size, power


def spectrum_gap(real: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Decoded over original power in dB at every frequency of ``radial_spectrum``, both averaged over the set: [S/2]."""
    powers = (radial_spectrum(images)[1].mean(0) + SMALLEST_POWER for images in (decoded, real))
    return 10 * np.log10(np.divide(*powers))


def sigma0_bias(real: np.ndarray, decoded: np.ndarray, masks: np.ndarray, least: int = 256) -> pd.DataFrame:
    """Radiometric bias by land cover: columns cover, pixels, bias_db = 10 lg(mean power decoded / mean power original).

    Backscatter is a mean of squared amplitudes, so the scale of the amplitude cancels. ``masks`` uint8 [N, H, W]: codes of
    ``COVERS``; covers of fewer than ``least`` pixels are left out. real, decoded : grey uint8 [N, H, W].
    """
    if not real.shape == decoded.shape == masks.shape:
        shapes = f"originals {real.shape}, decoded {decoded.shape}, masks {masks.shape}"
        raise InputError(f"sigma0 bias: {shapes}; give the same scenes")
    codes, powers = masks.ravel(), [images.ravel().astype(np.float64) ** 2 for images in (real, decoded)]
    counts = np.bincount(codes, minlength=len(COVERS))
    before, after = (np.bincount(codes, power, minlength=len(COVERS)) for power in powers)
    rows = [
        (COVERS[code], int(counts[code]), float(10 * np.log10(after[code] / before[code])))
        for code in np.flatnonzero(counts >= least)
        if before[code] > 0 and after[code] > 0
    ]
    table = pd.DataFrame(rows, columns=["cover", "pixels", "bias_db"])
    return table.sort_values("pixels", ascending=False, ignore_index=True)


def homogeneous_looks(images: np.ndarray, masks: np.ndarray | None, window: int = 8) -> float:
    """Equivalent number of looks where the scene is flat: in windows that lie in one land cover, or in all where no masks are.

    The medians of the covers, weighted by their windows; without masks the median over windows, then over images.
    """
    if masks is None:
        return float(np.nanmedian(local_enl(images, window)))
    table = cover_statistics(images, masks, window, least=1)
    return float(np.average(table["enl"], weights=table["windows"])) if len(table) else float("nan")


def round_trip_table(real: np.ndarray, decoded: Mapping[str, np.ndarray], masks: np.ndarray | None = None) -> pd.DataFrame:
    """One row a variant, then the floor: columns variant and ``MEASURES``.

    psnr_db; amplitude_kl in nats; cv_error and enl_error, relative to the original (0.05 is 5 % too much); kappa_distance in
    the plane of log-cumulants; glcm_distance in standard deviations of one image; spectrum_db, the largest gap over
    frequencies; periodogram_db, the mean gap over the frequencies of both axes, corners of the plane included; lattice, the
    strength of what repeats every 8 px; bias_db, the largest over land covers (NaN without masks); leak in grey levels. The
    floor compares every second original with the others: other scenes of the same kinds, not the same scenes. Its lattice is
    that of all originals, as chance leaves more of it in fewer images.
    """
    real = image_stack(real, minimum=4)
    rows = [{"variant": name, **_row(real, images, masks)} for name, images in decoded.items()]
    even, odd = real[::2], real[1::2]
    halves = (None, None) if masks is None else (masks[::2], masks[1::2])
    floor = _unpaired(even, odd, *halves) | {"psnr_db": np.nan, "leak": 0.0, "bias_db": _cover_gap(even, odd, *halves)}
    floor["lattice"] = lattice(real)
    return pd.DataFrame([*rows, {"variant": FLOOR, **floor}])[["variant", *MEASURES]]


def set_table(real: np.ndarray, sets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The same of sets that show other scenes, as generated ones: name → grey images gives a row each, then the floor.

    Columns variant, amplitude_kl, cv_error, enl_error, kappa_distance, glcm_distance, spectrum_db, periodogram_db, lattice.
    The lattice is that of equally many images of each set, real ones too, spread evenly over it: as many as the smallest has.
    """
    real = image_stack(real, minimum=4)
    count = min(map(len, (real, *sets.values())))
    patterns = {name: lattice(_spread(images, count)) for name, images in sets.items()}
    rows = [{"variant": name, **_unpaired(real, images), "lattice": patterns[name]} for name, images in sets.items()]
    floor = _unpaired(real[::2], real[1::2]) | {"lattice": lattice(_spread(real, count))}
    return pd.DataFrame([*rows, {"variant": FLOOR, **floor}])


def texture_by_distance(images: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """GLCM properties by direction and distance: name → grey images gives rows (name, direction, distance, property, value)."""
    rows = []
    for name, stack in images.items():
        means = glcm_descriptors(stack).mean(0).reshape(len(DIRECTIONS), len(DISTANCES), len(PROPERTIES))
        rows += [
            (name, way, step, label, means[i, j, k])
            for i, way in enumerate(DIRECTIONS)
            for j, step in enumerate(DISTANCES)
            for k, label in enumerate(PROPERTIES)
        ]
    return pd.DataFrame(rows, columns=["name", "direction", "distance", "property", "value"])


def class_cumulants(images: Mapping[str, np.ndarray], labels: Sequence[str]) -> pd.DataFrame:
    """Log-cumulants of each class: name → grey images of ``labels`` gives rows (variant, class, kappa2, kappa3)."""
    names, rows = np.array(labels), []
    for variant, stack in images.items():
        counts = histogram(stack)
        for label in dict.fromkeys(labels):
            _, second, third = log_cumulants(counts[names == label].sum(0))
            rows.append((variant, label, second, third))
    return pd.DataFrame(rows, columns=["variant", "class", "kappa2", "kappa3"])


def targets(table: pd.DataFrame) -> dict[str, float]:
    """The figures to reach, by measure, in the measure's unit: the texture's is twice the floor of ``table``."""
    floor = table.set_index("variant").loc[FLOOR, "glcm_distance"]
    return TARGETS | {"glcm_distance": float(TARGETS["glcm_distance"] * floor)}


def score(table: pd.DataFrame) -> pd.Series:
    """One number a variant, lower is better: the geometric mean over measures of error over figure to reach.

    Measures that are not known for all variants (the bias without masks) are left out. Index: variant, best first.
    """
    own = table[table["variant"] != FLOOR].set_index("variant")
    ratios = pd.DataFrame({name: own[name].abs() / goal for name, goal in targets(table).items() if own[name].notna().all()})
    return np.exp(np.log(ratios.clip(lower=1e-6)).mean(axis=1)).sort_values()


def reached_table(table: pd.DataFrame, points: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row a measure with a figure to reach: measure, to reach, floor, then each variant's size of the error.

    ``points``: of ``point_table``, with the rows ``ORIGINAL``, the variants, and perhaps ``FLOOR``, other draws of the
    originals' clutter. It gives the row point_width: the larger of the relative changes of width in range and azimuth, NaN
    where no point is left.
    """
    values = table.set_index("variant")
    rows = [
        {"measure": name, "to reach": goal, "floor": abs(values.loc[FLOOR, name])}
        | {variant: abs(values.loc[variant, name]) for variant in values.index if variant != FLOOR}
        for name, goal in targets(table).items()
    ]
    if points is not None:
        widths = points.set_index("variant")[["width_range", "width_azimuth"]]
        change = (widths / widths.loc[ORIGINAL] - 1).abs().max(axis=1, skipna=False).reindex(values.index)
        row = {"measure": "point_width", "to reach": POINT_WIDTH, "floor": change[FLOOR]}
        rows.append(row | change.drop(FLOOR).to_dict())
    return pd.DataFrame(rows)


def gain_shares(table: pd.DataFrame, whole: str, frozen: str, measures: tuple[str, ...]) -> pd.DataFrame:
    """Which share of the improvement of ``whole`` over ``frozen`` each variant reaches; rows variant, columns ``measures``.

    1 is the improvement of ``whole``; NaN where ``whole`` improved nothing. All measures are errors: lower is better.
    """
    values = table.set_index("variant")[list(measures)].abs()
    gain = values.loc[frozen] - values.loc[whole]
    shares = (values.loc[frozen] - values) / gain.where(gain > 0)
    return shares.drop(index=[FLOOR, frozen], errors="ignore").reset_index()


def _row(real: np.ndarray, decoded: np.ndarray, masks: np.ndarray | None) -> dict[str, float]:
    grey = to_grey(decoded)
    if grey.shape != real.shape:
        raise InputError(f"round trip: {real.shape} before and {grey.shape} after; decode the same images")
    values = _unpaired(real, grey, masks, masks)
    with np.errstate(divide="ignore"):  # infinite where nothing changed
        values["psnr_db"] = float(np.mean([peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(real, grey)]))
    biases = sigma0_bias(real, grey, masks)["bias_db"] if masks is not None else pd.Series(dtype=float)
    values["bias_db"] = float(biases.abs().max()) if len(biases) else float("nan")
    return values | {"leak": float(np.sqrt((colour_leak(decoded) ** 2).mean()))}


def _spread(images: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the images, evenly over the set."""
    return images[np.arange(count) * len(images) // count]


def _unpaired(
    real: np.ndarray, fake: np.ndarray, real_masks: np.ndarray | None = None, fake_masks: np.ndarray | None = None
) -> dict[str, float]:
    """The measures of two sets that need not show the same scenes."""
    counts = histogram(real), histogram(fake)
    pooled = [own.sum(0) for own in counts]
    spread = [np.nanmean(coefficient_of_variation(own)) for own in counts]
    looks = homogeneous_looks(real, real_masks), homogeneous_looks(fake, fake_masks)
    return {
        "amplitude_kl": float(kl(*pooled)),
        "cv_error": float(spread[1] / spread[0] - 1),
        "enl_error": float(looks[1] / looks[0] - 1),
        "kappa_distance": float(log_cumulant_distance(*pooled)),
        "glcm_distance": texture_distance(glcm_descriptors(real), glcm_descriptors(fake)),
        "spectrum_db": float(np.abs(spectrum_gap(real, fake)).max()),
        "periodogram_db": float(np.abs(periodogram_gap(real, fake)).mean()),
        "lattice": lattice(fake),
    }


def _cover_gap(even: np.ndarray, odd: np.ndarray, even_masks: np.ndarray | None, odd_masks: np.ndarray | None) -> float:
    """Largest difference in dB of a cover's mean power between two sets of scenes; NaN without masks."""
    if even_masks is None:
        return float("nan")
    gaps = []
    for code in range(len(COVERS)):
        areas = [images[own == code].astype(np.float64) for images, own in ((even, even_masks), (odd, odd_masks))]
        if min(len(area) for area in areas) >= 256:
            powers = [(area**2).mean() for area in areas]
            gaps.append(abs(10 * np.log10(powers[1] / powers[0])) if min(powers) > 0 else np.nan)
    return float(np.nanmax(gaps)) if gaps else float("nan")

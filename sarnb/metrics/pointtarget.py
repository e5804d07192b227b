"""The response to a point: its width and its side lobes, before and after a round trip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline

from sarnb.errors import InputError
from sarnb.metrics.checks import image_stack
from sarnb.world.speckle import add_points, circular_gaussian, impulse_response

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
    return pd.concat([
        pd.DataFrame({"offset": offsets, "direction": name, "power_db": 10 * np.log10(np.maximum(cut, 0.25) / cut.max())})
        for name, cut in cuts.items()
    ], ignore_index=True)


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

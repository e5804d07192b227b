"""Power spectra in small windows, and the pattern that a decoder repeats from latent cell to latent cell."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.signal.windows import hann

from sarnb.errors import InputError
from sarnb.metrics.checks import image_stack

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

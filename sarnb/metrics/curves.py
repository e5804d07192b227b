"""What the figures of the evaluation draw, as tidy tables: histograms, textures and log-cumulants of image sets.

Sets go in by name (the strategy), each as one or more `Measured` (one a training seed). Only classes that all sets have
are used, and each class counts the same, as in the evaluation table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics import amplitude, fits, texture
from sarnb.metrics.measured import Measured

Sets = Mapping[str, Sequence[Measured]]


def shared_labels(sets: Sequence[Measured]) -> tuple[str, ...]:
    """Classes that every set has, in the order of the first one. Raises InputError where there is none."""
    shared = tuple(label for label in dict.fromkeys(sets[0].labels) if all(label in part.labels for part in sets[1:]))
    if not shared:
        raise InputError("the image sets have no class in common; draw the classes of the real images.")
    return shared


def class_means(values: np.ndarray, labels: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Mean over the images of each wanted class: values [N, ...] -> [K, ...]."""
    names = np.asarray(labels, dtype=object)
    return np.stack([values[names == label].mean(0) for label in wanted])


def amplitude_curves(sets: Sets) -> pd.DataFrame:
    """Share of pixels at each 8-bit level: columns strategy, amplitude (level/255), share; 256 rows a strategy."""
    wanted = _shared(sets)
    levels = np.arange(amplitude.LEVELS) / (amplitude.LEVELS - 1)
    parts = [
        pd.DataFrame({"strategy": name, "amplitude": levels, "share": _class_histograms(several, wanted).mean(0)})
        for name, several in sets.items()
    ]
    return pd.concat(parts, ignore_index=True)


def law_table(curves: pd.DataFrame) -> pd.DataFrame:
    """How far each set is from each fitted law: columns strategy, law, KS distance (0 to 1), best (its nearest law), parameters.

    ``curves``: of `amplitude_curves`. A set with one grey level only has no fit and is left out.
    """
    rows = []
    for name, part in curves.groupby("strategy", sort=False):
        share = part["share"].to_numpy(float)
        if (share > 0).sum() < 2:
            continue
        models = {family: fits.fit_histogram(family, share) for family in fits.FAMILIES}
        gaps = {family: fits.goodness(model, share) for family, model in models.items()}
        for family, model in models.items():
            words = ", ".join(f"{key} {value:.3g}" for key, value in model.parameters.items())
            rows.append((name, family, gaps[family], family == min(gaps, key=gaps.get), words))
    return pd.DataFrame(rows, columns=["strategy", "law", "KS distance", "best", "parameters"])


def texture_curves(sets: Sets) -> pd.DataFrame:
    """GLCM properties: columns strategy, property, direction, distance (px), value; the mean over classes of the images'."""
    wanted, rows = _shared(sets), []
    for name, several in sets.items():
        means = np.mean([class_means(part.descriptors, part.labels, wanted).mean(0) for part in several], axis=0)
        for described, value in zip(texture.descriptor_names(), means, strict=True):
            what, direction, distance = described.rsplit(" ", 2)
            rows.append((name, what, direction, int(distance), float(value)))
    return pd.DataFrame(rows, columns=["strategy", "property", "direction", "distance", "value"])


def cumulant_points(sets: Sets) -> pd.DataFrame:
    """Log-cumulants of amplitude: columns strategy, class ("all" and each), kappa2, kappa3.

    A class's come from the pixels of all its images; "all" from the pixels of all classes, each class counting the same.
    """
    wanted, rows = _shared(sets), []
    for name, several in sets.items():
        histograms = _class_histograms(several, wanted)
        for label, histogram in [("all", histograms.mean(0)), *zip(wanted, histograms)]:
            _, second, third = amplitude.log_cumulants(histogram)
            rows.append((name, label, float(second), float(third)))
    return pd.DataFrame(rows, columns=["strategy", "class", "kappa2", "kappa3"])


def _shared(sets: Sets) -> tuple[str, ...]:
    return shared_labels([part for several in sets.values() for part in several])


def _class_histograms(several: Sequence[Measured], wanted: Sequence[str]) -> np.ndarray:
    """Share of pixels [K, 256] of each class, the mean over training seeds."""
    return np.mean([class_means(amplitude.probabilities(part.histograms), part.labels, wanted) for part in several], axis=0)

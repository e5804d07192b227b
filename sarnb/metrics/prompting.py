"""What tuning gained scene by scene, and the grain of images set by set; for notebook 07."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval, percentile_interval, stratified_weights, weighted_mean
from sarnb.metrics.describe import image_statistics

# What tuning gained, scene by scene: paired comparisons of noise-prediction errors, with intervals over scenes.


def error_change(
    before: pd.DataFrame, after: Mapping[str, pd.DataFrame], images: str, wording: str, resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Relative change of the error at each timestep, Σ after / Σ before - 1 over scenes: columns model, timestep, value, lo, hi.

    Scenes are resampled whole, with both of their errors, so the interval is that of the paired comparison.

    Parameters
    ----------
    before, after : tables of ``sarnb.train.held_out.wording_errors`` on the same scenes; of ``after`` one a model.
    images, wording : the kind of image and the wording of its prompt, as in these tables.
    """
    rows = []
    for model, table in after.items():
        old, new = (_by_scene(part, images, wording) for part in (before, table))
        if old.shape != new.shape:
            raise InputError(f"error change: {model} has other scenes or timesteps than before; measure the same")
        for column in old.columns:
            pairs = np.column_stack([old[column], new[column]])
            value = interval(lambda part: part[:, 1].sum() / part[:, 0].sum() - 1.0, [pairs], resamples, seed)
            rows.append((model, int(column), *value))
    return pd.DataFrame(rows, columns=["model", "timestep", "value", "lo", "hi"])


def caption_choice(tables: Mapping[str, pd.DataFrame], resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """How often the own wording explains an image better: columns model, images, scenes, right, lo, hi, gap.

    An image of kind K is right where its error, mean over timesteps, is lower under wording K than under every other; two
    equal errors are half right. ``gap``: mean of (lowest other error - own) / own.
    """
    rows = []
    for model, table in tables.items():
        means = table.groupby(["images", "wording", "scene"])["error"].mean()
        for kind in dict.fromkeys(table["images"]):
            own = means[kind, kind].to_numpy()
            wordings = [wording for wording in dict.fromkeys(table["wording"]) if wording != kind]
            others = np.min([means[kind, wording].to_numpy() for wording in wordings], axis=0)
            right = np.where(own < others, 1.0, np.where(own == others, 0.5, 0.0))
            share = interval(np.mean, [right], resamples, seed)
            rows.append((model, kind, len(own), *share, float(np.mean((others - own) / own))))
    return pd.DataFrame(rows, columns=["model", "images", "scenes", "right", "lo", "hi", "gap"])


def _by_scene(table: pd.DataFrame, images: str, wording: str) -> pd.DataFrame:
    """One row a scene, one column a timestep."""
    part = table[(table["images"] == images) & (table["wording"] == wording)]
    if part.empty:
        raise InputError(f"error change: no {images} images under the wording {wording}; measure them first")
    return part.pivot(index="scene", columns="timestep", values="error")


# First-order statistics of speckle, set by set, with intervals over images: what the grain of an image is like.

STATISTICS = {"mean": "mean level", "cv": "coefficient of variation", "enl": "looks in 8 px windows"}


def speckle_table(sets: Mapping[str, np.ndarray], resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Mean over images of each statistic of one image: columns set, statistic, images, value, lo, hi.

    ``sets``: name -> uint8 [N, H, W]. The equivalent number of looks (Oliver and Quegan 2004) is the median of an image's
    windows, which see speckle and little of the scene; 1 for single-look speckle, more for a smoother grain.
    """
    rows = []
    for name, images in sets.items():
        statistics = image_statistics(images)
        base, resampled = stratified_weights(["all"] * len(images), resamples, seed)
        for column, title in STATISTICS.items():
            values = statistics[column].to_numpy()
            value = float(weighted_mean(values, base))
            rows.append((name, title, len(images), value, *percentile_interval(weighted_mean(values, resampled), value)))
    return pd.DataFrame(rows, columns=["set", "statistic", "images", "value", "lo", "hi"])

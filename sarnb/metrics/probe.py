"""What tuning gained, scene by scene: paired comparisons of noise-prediction errors, with intervals over scenes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval


def error_change(
    before: pd.DataFrame, after: Mapping[str, pd.DataFrame], images: str, wording: str, resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Relative change of the error at each timestep, Σ after / Σ before - 1 over scenes.

    Columns model, timestep, value, lo, hi.
    ``before`` and ``after``: tables of ``sarnb.train.probe.wording_errors`` on the same scenes. Scenes are resampled whole,
    with both of their errors, so the interval is that of the paired comparison.
    """
    rows = []
    for model, table in after.items():
        old, new = (_by_scene(part, images, wording) for part in (before, table))
        if old.shape != new.shape:
            raise InputError(f"error change: {model} was asked other scenes or timesteps than before; ask it the same")
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
        raise InputError(f"error change: no {images} images asked by wording {wording}; ask for them first")
    return part.pivot(index="scene", columns="timestep", values="error")

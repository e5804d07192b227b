"""Figures of notebook 02: how prompts are read, and what the foundation draws for them."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure


def token_histogram(lengths: Mapping[str, np.ndarray], limit: int) -> Figure:
    """How many captions of each kind have how many tokens; the line is the most that the encoder reads.

    ``lengths``: kind of caption -> tokens of each, int [N], start and end included.
    """
    figure, axis = plt.subplots(figsize=(6.0, 3.0))
    most = max(limit, *(int(np.max(values)) for values in lengths.values()))
    for name, values in lengths.items():
        share = np.bincount(values, minlength=most + 2) / len(values)
        axis.stairs(share, np.arange(len(share) + 1) - 0.5, fill=True, alpha=0.55, label=name)
    axis.axvline(limit + 0.5, color="C3", lw=1, ls="--", label=f"the encoder reads {limit}")
    axis.set(xlabel="tokens of a caption", ylabel="share of captions", xlim=(0, most + 2))
    axis.legend(fontsize=8)
    return figure


def similarity_heatmaps(matrices: Mapping[str, pd.DataFrame]) -> Figure:
    """Cosine matrices side by side on one colour scale: title -> table whose index and columns are the class names."""
    low = min(table.to_numpy().min() for table in matrices.values())
    widest = max(len(table) for table in matrices.values())
    size = 1.4 + 0.27 * widest
    figure, axes = plt.subplots(1, len(matrices), figsize=(size * len(matrices) + 1.5, size + 0.4), squeeze=False)
    for place, (axis, (title, table)) in enumerate(zip(axes[0], matrices.items())):
        last = place == len(matrices) - 1
        seaborn.heatmap(table, ax=axis, vmin=low, vmax=1, cmap="viridis", square=True, cbar=last, cbar_kws={"label": "cosine", "shrink": 0.7},
                        xticklabels=True, yticklabels=True)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7, length=0)
        axis.set(xlabel=table.columns.name or "", ylabel=table.index.name or "")
    return figure


def prior_bars(table: pd.DataFrame, chance: float) -> Figure:
    """Share of pictures read as the class asked for: one group of bars a class, one colour a set of pictures.

    ``table``: from ``accuracy_table``; ``chance``: the share that guessing gets.
    """
    long = table.melt("class", var_name="pictures", value_name="share")
    figure, axis = plt.subplots(figsize=(6.6, 1.2 + 0.34 * len(table)))
    seaborn.barplot(long, x="share", y="class", hue="pictures", ax=axis, errorbar=None)
    axis.axvline(chance, color="0.3", lw=1, ls="--", label="guessing")
    axis.set(xlabel="share read as the class asked for", ylabel="", xlim=(0, 1))
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def confusion_heatmap(table: pd.DataFrame) -> Figure:
    """Which class is read (columns) where which was asked for (rows), as shares of the row: from ``confusion``."""
    size = 1.8 + 0.34 * len(table)
    figure, axis = plt.subplots(figsize=(size + 1.0, size))
    seaborn.heatmap(table, ax=axis, vmin=0, vmax=1, cmap="mako", square=True, cbar_kws={"label": "share of the row", "shrink": 0.7},
                    xticklabels=True, yticklabels=True)
    axis.tick_params(labelsize=8, length=0)
    return figure


def guidance_curves(table: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """Amplitude statistics against the guidance scale, one line a class; dotted: the real images of the class.

    Args:
        table: one row an image with the columns class, scale, mean, cv, enl, saturated.
        real: the same columns but ``scale``, for real radar images; a class without any gets no dotted line.
    """
    measures = {"mean": "mean level", "cv": "coefficient of variation", "enl": "looks in 8 px windows", "saturated": "share at the highest level"}
    figure, axes = plt.subplots(1, len(measures), figsize=(3.0 * len(measures), 3.0))
    for axis, (column, name) in zip(axes, measures.items()):
        for place, label in enumerate(dict.fromkeys(table["class"])):
            own = table[table["class"] == label].groupby("scale")[column].mean()
            axis.plot(own.index, own.to_numpy(), "o-", color=f"C{place}", label=label)
            reference = real.loc[real["class"] == label, column].mean()
            if np.isfinite(reference):
                axis.axhline(reference, color=f"C{place}", lw=1, ls=":")
        axis.set(xlabel="guidance scale", title=name)
    axes[0].legend(fontsize=8)
    return figure

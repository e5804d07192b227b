"""Figures of notebook 02: how prompts are read, and what the foundation draws for them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

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
        seaborn.heatmap(
            table,
            ax=axis,
            vmin=low,
            vmax=1,
            cmap="viridis",
            square=True,
            cbar=last,
            cbar_kws={"label": "cosine", "shrink": 0.7},
            xticklabels=True,
            yticklabels=True,
        )
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
    seaborn.heatmap(
        table,
        ax=axis,
        vmin=0,
        vmax=1,
        cmap="mako",
        square=True,
        cbar_kws={"label": "share of the row", "shrink": 0.7},
        xticklabels=True,
        yticklabels=True,
    )
    axis.tick_params(labelsize=8, length=0)
    return figure


def guidance_curves(table: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """Amplitude statistics against the guidance scale, one line a class; dotted: the real images of the class.

    Args:
        table: one row an image with the columns class, scale, mean, cv, enl, saturated.
        real: the same columns but ``scale``, for real radar images; a class without any gets no dotted line.
    """
    measures = {
        "mean": "mean level",
        "cv": "coefficient of variation",
        "enl": "looks in 8 px windows",
        "saturated": "share at the highest level",
    }
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


def wording_dots(table: pd.DataFrame, real_cv: float, chance: float) -> Figure:
    """Wordings below each other: share read rightly with 95 % intervals at the left, coefficient of variation at the right.

    Args:
        table: of `wording_table`. real_cv: of real radar images, dotted. chance: what guessing reads rightly, dashed.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.0, 1.0 + 0.3 * len(table)), sharey=True)
    places = np.arange(len(table))
    errors = np.stack([table["read rightly"] - table["lo"], table["hi"] - table["read rightly"]])
    axes[0].errorbar(table["read rightly"], places, xerr=errors, fmt="o", capsize=3)
    axes[0].axvline(chance, color="0.3", lw=1, ls="--")
    axes[0].set(xlabel="share read as the class asked for", xlim=(-0.03, 1.03))
    axes[1].plot(table["cv"], places, "s")
    axes[1].axvline(real_cv, color="black", lw=1, ls=":")
    axes[1].set(xlabel="coefficient of variation; dotted: real radar")
    axes[0].set_yticks(places, table["wording"])
    axes[0].invert_yaxis()
    for axis in axes:
        axis.grid(axis="y", linewidth=0.3)
    return figure


def attention_sheet(pictures: Sequence[np.ndarray], maps: Sequence[Mapping[str, np.ndarray]], titles: Sequence[str]) -> Figure:
    """A picture a row and, beside it, the map of each phrase, brighter where the phrase is read; each map on its own scale from 0.

    Args:
        pictures: uint8 [H, W, 3] each. maps: phrase -> [h, w] for each picture, the same phrases' kinds in the same order.
        titles: the prompt of each row.
    """
    columns = 1 + max(len(several) for several in maps)
    figure, axes = plt.subplots(len(pictures), columns, figsize=(1.55 * columns, 1.75 * len(pictures)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (picture, several, title) in enumerate(zip(pictures, maps, titles)):
        axes[row, 0].imshow(picture)
        axes[row, 0].set_title(textwrap.fill(title, 30), fontsize=6, loc="left")
        for axis, (phrase, values) in zip(axes[row, 1:], several.items()):
            axis.imshow(values, cmap="magma", vmin=0, vmax=values.max(), interpolation="bilinear")
            axis.set_title(f"{phrase}\n{values.mean():.1%}", fontsize=6)
    return figure

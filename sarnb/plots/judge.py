"""Figures of the judge: its training, its confusions, its cosines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SPLIT_COLOURS = {"pooled": "0.4", "seen": "C0", "unseen": "C1", "composition": "C2"}


def training_curve(history: pd.DataFrame, batch_size: int) -> Figure:
    """Loss, in-batch retrieval and, where it was trained with wrong captions, its choice against these over steps.

    Each with the level of an untrained judge.

    Args:
        history: columns step, loss, retrieval_r1 and perhaps contrary_r1, as `train_clip` returns them.
        batch_size: image-caption pairs a step, which sets the levels ln B (without wrong captions and mirror images) and 1/B.
    """
    columns = [
        ("loss", "contrastive loss [nats]", math.log(batch_size)),
        ("retrieval_r1", "own caption first in the batch", 1 / batch_size),
        ("contrary_r1", "own caption before a wrong one", 0.5),
    ]
    columns = [column for column in columns if column[0] in history]
    figure, axes = plt.subplots(1, len(columns), figsize=(4.25 * len(columns), 3))
    for axis, (column, label, level) in zip(axes, columns):
        axis.plot(history["step"], history[column], marker="o" if len(history) < 20 else None, markersize=4)
        axis.axhline(level, color="0.5", linestyle="--", linewidth=1)
        axis.annotate(
            "no knowledge",
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="0.4",
        )
        axis.set(xlabel="step", ylabel=label)
        axis.set_ylim(bottom=0)
    return figure


def matrix(values: np.ndarray, names: Sequence[str], colour_label: str, row_label: str, column_label: str, zeros: bool = True) -> Figure:
    """A square matrix of classes with its numbers written in, two decimals; NaN is left white.

    Args:
        values: [K, K]; negative values get a diverging scale about zero.
        names: the K classes.
        colour_label: what the colour means. row_label, column_label: what the axes are.
        zeros: also write the numbers that round to zero.
    """
    count, signed = len(names), bool(np.nanmin(values) < 0)
    side = max(4.0, 0.47 * count + 2.2)
    figure, axis = plt.subplots(figsize=(side + 0.9, side))
    limit = float(np.nanmax(np.abs(values))) or 1.0
    words = [[f"{value:.2f}" if zeros or abs(value) >= 0.005 else "" for value in row] for row in values]
    seaborn.heatmap(
        pd.DataFrame(values, index=list(names), columns=list(names)),
        ax=axis,
        mask=np.isnan(values),
        annot=words,
        fmt="",
        annot_kws={"size": 7 if count > 8 else 9},
        cmap="vlag" if signed else "Blues",
        vmin=-limit if signed else 0.0,
        vmax=limit,
        square=True,
        linewidths=0.5,
        cbar_kws={"label": colour_label, "shrink": 0.7},
    )
    axis.set(xlabel=column_label, ylabel=row_label)
    axis.tick_params(axis="x", rotation=60, length=0)
    axis.tick_params(axis="y", rotation=0, length=0)
    plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    return figure


def score_bars(table: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """Scores of each class as bars with 95 % intervals, one panel a measure, coloured by split; a tick marks chance.

    Args:
        table: columns measure, split, class, value, lo, hi, chance, as `judge_table` returns them.
        measures: names in the column measure.
    """
    rows = table[table["measure"].isin(measures)]
    keys = list(dict.fromkeys(zip(rows["split"], rows["class"])))
    names = [label if label != "all" else "all" if split == "pooled" else f"all {split}" for split, label in keys]
    figure, axes = plt.subplots(1, len(measures), figsize=(1.8 + 3.6 * len(measures), 0.26 * len(keys) + 1.1), sharey=True, squeeze=False)
    for axis, measure in zip(axes[0], measures):
        places = pd.MultiIndex.from_tuples(keys, names=["split", "class"])
        _bars(axis, rows[rows["measure"] == measure].set_index(["split", "class"]).reindex(places).reset_index())
        axis.set(xlabel=measure, xlim=(0, 1.02))
    axes[0, 0].set_yticks(range(len(keys)), names)
    axes[0, 0].invert_yaxis()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return figure


def _bars(axis: Axes, part: pd.DataFrame) -> None:
    places, values = np.arange(len(part)), part["value"].to_numpy(float)
    colours = [SPLIT_COLOURS.get(split, "0.6") for split in part["split"]]
    shade = [1.0 if label == "all" else 0.55 for label in part["class"]]
    for place, value, colour, alpha in zip(places, values, colours, shade):
        axis.barh(place, value, color=colour, alpha=alpha, height=0.75)
    errors = np.stack([values - part["lo"].to_numpy(float), part["hi"].to_numpy(float) - values])
    axis.errorbar(values, places, xerr=np.nan_to_num(errors), fmt="none", ecolor="0.15", elinewidth=1, capsize=2)
    axis.vlines(part["chance"], places - 0.4, places + 0.4, color="crimson", linewidth=1.5, label="a guess")


def reliability_diagram(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy against certainty with 95 % intervals, a panel a way of calibrating; on the dashed line the judge is as sure as right.

    Args:
        tables: title -> table of `sarnb.metrics.judging.reliability`. Grey bars: the share of the images in each bin.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(3.9 * len(tables), 3.6), sharex=True, sharey=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], tables.items()):
        axis.bar(
            table["low"],
            table["n"] / table["n"].sum(),
            width=table["high"] - table["low"],
            align="edge",
            color="0.85",
            label="share of the images",
        )
        axis.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1)
        errors = np.stack([table["accuracy"] - table["lo"], table["hi"] - table["accuracy"]]).clip(min=0)
        axis.errorbar(table["certainty"], table["accuracy"], yerr=errors, fmt="o", capsize=2, elinewidth=1, label="accuracy")
        axis.set(title=title, xlabel="certainty of the called class", xlim=(0, 1.02), ylim=(0, 1.02))
    axes[0, 0].set_ylabel("accuracy")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    return figure


def cosine_histogram(matching: np.ndarray, mismatching: np.ndarray) -> Figure:
    """Distributions of the cosine of images with their own caption and with captions of other classes.

    Args:
        matching: [N] cosines. mismatching: [M] cosines; may be empty where there is one class only.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3))
    low = min(part.min() for part in (matching, mismatching) if len(part))
    high = max(part.max() for part in (matching, mismatching) if len(part))
    edges = np.linspace(low, max(high, low + 1e-3), 41)
    for values, label in ((mismatching, "caption of another class"), (matching, "own caption")):
        if len(values):
            name = f"{label}: mean {values.mean():.2f}, {len(values):,} pairs"
            seaborn.histplot(x=values, bins=edges, stat="density", element="step", alpha=0.45, ax=axis, label=name)
    axis.set(xlabel="cosine of image and caption", ylabel="density")
    axis.legend(fontsize=8)
    return figure

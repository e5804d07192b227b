"""Figures of a fine-tuning: what trains, how the loss fell, what came out, how far it is from real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from sarnb.data.dataset import Column
from sarnb.metrics import find_metric
from sarnb.metrics.evaluation import ANCHORS
from sarnb.metrics.report import over_seeds
from sarnb.plots import MARKERS, image_grid

_GOALS = {"lower": "lower is better", "higher": "higher is better", "match": "nearer to the reference is better"}
_GAP = 0.2  # between two groups, in widths of an image


def component_bars(counts: pd.DataFrame, title: str = "") -> Figure:
    """Parameters of each component and how many of them train, on a logarithmic scale.

    ``counts``: columns component, trains, total, as ``sarnb.model.strategy.component_counts`` gives.
    """
    figure, axis = plt.subplots(figsize=(7.5, 0.5 + 0.42 * len(counts)))
    places = np.arange(len(counts))
    axis.barh(places, counts["total"], color="0.85", label="all parameters")
    axis.barh(places, counts["trains"], color="C0", label="those that train", height=0.5)
    axis.set_xscale("log")
    axis.set_xlim(1, 300 * counts["total"].max())  # room for the numbers
    for place, trains, total in zip(places, counts["trains"], counts["total"]):
        share = f"{trains:,} of {total:,} ({trains / total:.2%})" if trains else f"none of {total:,}"
        axis.annotate(share, (total, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set(yticks=places, yticklabels=counts["component"], xlabel="parameters", title=title)
    axis.invert_yaxis()
    figure.legend(loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    return figure


def training_curves(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Training loss and held-out loss against the step; one colour and one mark a strategy, one line a training seed.

    ``histories``: strategy → the tables of its runs, with columns step, loss and, where it was measured, held_out.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
    panels = (("loss", "training loss, weighted"), ("held_out", "held-out loss, fixed noise and steps"))
    for axis, (column, title) in zip(axes, panels):
        for place, (name, runs) in enumerate(histories.items()):
            for number, history in enumerate(runs):
                known = history.reindex(columns=["step", column]).dropna()
                label = name if number == 0 else None
                style = {"marker": MARKERS[place % len(MARKERS)], "ls": ("-", "--", "-.", ":")[place % 4]}
                axis.plot(known["step"], known[column], color=f"C{place}", **style, markersize=4, lw=1.2, alpha=0.8, label=label)
        if not any(len(line.get_xdata()) for line in axis.lines):
            axis.text(0.5, 0.5, "not measured: no validation images", ha="center", va="center", transform=axis.transAxes)
        axis.set(title=title, xlabel="step", ylabel="mean squared error")
        axis.ticklabel_format(useOffset=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def comparison_grid(
    rows: Mapping[str, Sequence[np.ndarray]], columns: Sequence[Column], cell: float = 0.95, spacing_m: Sequence[float] | None = None
) -> Figure:
    """Rows of images under common columns, with a gap between the groups (seen | unseen).

    ``rows``: name → one image a column, uint8 [H, W] or [H, W, 3], as for real images, strategies, or before and after.
    ``spacing_m``: of a pixel along azimuth and range [m], as data cards have it; with it the last row gets a scale bar and an
    arrow along range, which both sides share: a radar on the left has its near range at the left.

    Raises
    ------
    ValueError
        A row has another number of images than there are columns.
    """
    for name, images in rows.items():
        if len(images) != len(columns):
            raise ValueError(f"comparison_grid: row {name} has {len(images)} images for {len(columns)} columns")
    starts = [i for i, column in enumerate(columns) if i == 0 or column.group != columns[i - 1].group]
    places: list[int | None] = []
    for i in range(len(columns)):
        places += [None, i] if i in starts[1:] else [i]
    titles = ["" if i is None else f"{columns[i].group if i in starts else ''}\n{columns[i].label}" for i in places]
    grid = [[None if i is None else images[i] for i in places] for images in rows.values()]
    figure = image_grid(grid, list(rows), titles, cell)
    gaps = [_GAP if i is None else 1.0 for i in places]
    figure.axes[0].get_gridspec().set_width_ratios(gaps)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width - cell * (len(gaps) - sum(gaps)), height)
    if spacing_m is not None:
        side, metres = np.shape(next(iter(rows.values()))[0])[1], float(spacing_m[1])
        length = max(one for one in (10.0**power * part for power in range(-2, 6) for part in (1, 2, 5)) if one <= side * metres / 2)
        last = figure.axes[-len(places) :]
        bar, arrow = last[0], last[next((at for at, i in enumerate(places) if at and i is not None), 0)]
        bar.plot(
            [0.06 * side, 0.06 * side + length / metres],
            [0.92 * side] * 2,
            color="w",
            lw=2.5,
            path_effects=[withStroke(linewidth=4, foreground="k")],
        )
        style = {"arrowstyle": "<->", "color": "w", "lw": 1.5, "path_effects": [withStroke(linewidth=3, foreground="k")]}
        arrow.annotate("", (0.94 * side, 0.85 * side), (0.06 * side, 0.85 * side), arrowprops=style)
        bar.set_xlabel(f"bar: {length:g} m", fontsize=7)
        if arrow is not bar:
            arrow.set_xlabel("arrow: range", fontsize=7)
    return figure


def measure_dots(table: pd.DataFrame, metrics: Sequence[str], splits: Sequence[str]) -> Figure:
    """Each strategy's value with its 95 % interval, one panel a measure, one colour and shape a split; anchors hollow, below.

    ``table``: evaluation table with the rows of class "all". Distances, whose best and worst anchors are orders of magnitude apart,
    have a logarithmic scale.
    """
    joined = over_seeds(table[table["class"] == "all"])
    present = dict.fromkeys(joined["strategy"])
    names = [name for name in present if name not in ANCHORS] + [name for name in ANCHORS if name in present]
    height = 1.8 + 0.15 * len(names) * len(splits)
    figure, axes = plt.subplots(1, len(metrics), figsize=(2.5 + 3.4 * len(metrics), height), squeeze=False, sharey=True)
    for axis, metric in zip(axes[0], metrics):
        part, about = joined[joined["metric"] == metric], find_metric(metric)
        for place, split in enumerate(splits):
            rows = part[part["split"] == split].set_index("strategy")
            for name in (name for name in names if name in rows.index):
                value, lo, hi = rows.loc[name, ["value", "lo", "hi"]].astype(float)
                spread = np.nan_to_num([[value - lo], [hi - value]]).clip(min=0)  # none where there is no interval
                style = {"markersize": 5, "capsize": 2, "lw": 1, "color": f"C{place}", "fmt": MARKERS[place]}
                fill = "white" if name in ANCHORS else f"C{place}"
                label = split if name == names[0] else "_nolegend_"
                height_of = names.index(name) + (place - (len(splits) - 1) / 2) * 0.2
                axis.errorbar([value], [height_of], xerr=spread, markerfacecolor=fill, label=label, **style)
        axis.set(
            title=metric.replace("_", " ").replace("kl", "KL").replace("cv", "CV"),
            xlabel=f"[{about.unit}], {_GOALS[about.better]}",
            xscale="log" if about.better == "lower" and (part["value"] > 0).all() else "linear",
            yticks=range(len(names)),
            yticklabels=names,
            ylim=(len(names) - 0.5, -0.5),
        )
        axis.axhline(sum(name not in ANCHORS for name in names) - 0.5, color="0.8", lw=1, zorder=0)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower right", ncols=len(splits), fontsize=8, frameon=False)
    return figure


def neighbour_bars(neighbours: pd.DataFrame) -> Figure:
    """Nearest vocabulary words of the learned word by cosine: a row an encoder, left at the start, right after training.

    ``neighbours``: columns encoder, when, rank, word, cosine.
    """
    height = 0.6 + 0.22 * neighbours["rank"].max()
    style = {"kind": "bar", "sharey": False, "legend": False, "height": height, "aspect": 4.4 / height}
    columns = {"x": "cosine", "y": "word", "row": "encoder", "col": "when", "hue": "when"}
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn lays its grid out itself
        grid = seaborn.catplot(neighbours, **columns, **style)
    return grid.set_titles("{row_name}, {col_name}").set_axis_labels("cosine", "").figure

"""Figures of the evaluation, for its notebook and for the comparison of two folders of images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from sarnb.data.dataset import ImageSet
from sarnb.metrics import WHOLE, find_metric
from sarnb.metrics.describe import fit_histogram
from sarnb.metrics.evaluation import ANCHORS, FROZEN_DECODER, OPTICAL_AS_GREY, REFERENCE_FLOOR, TUNED_DECODER
from sarnb.metrics.report import Sets, amplitude_shares, cumulant_points, over_seeds, texture_curves
from sarnb.plots import LAW_STYLES, MARKERS, broken_label, law_lines

REFERENCE, GUESS, FREE = "reference", "a guess", "free"
LARGEST_CELL = 160  # px of one image of a mosaic in the saved file
SMALLEST_CELL = 128  # px of an image
LINES = {
    REFERENCE_FLOOR: ("black", "-"),
    FROZEN_DECODER: ("#0072b2", (0, (5, 1, 1, 1))),
    TUNED_DECODER: ("#009e73", (0, (3, 1))),
    OPTICAL_AS_GREY: ("#d55e00", "--"),
    GUESS: ("0.5", ":"),
}


def colours(names: Sequence[str]) -> dict[str, tuple[float, float, float] | str]:
    """One colour a strategy, the same in every figure that gets the same names in any order; reference images are black.

    Colours that the colour-blind tell apart are few. They come again where there are more strategies, with another of ``marks``.
    """
    palette = seaborn.color_palette("colorblind")
    palette = palette[:6] + palette[7:]  # its pink is too pale
    return {name: palette[index % len(palette)] for index, name in enumerate(_strategies(names))} | {REFERENCE: "black"}


def marks(names: Sequence[str]) -> dict[str, str]:
    """One mark a strategy, as ``colours``; reference images are dots."""
    return {name: MARKERS[index % len(MARKERS)] for index, name in enumerate(_strategies(names))} | {REFERENCE: "o"}


def _strategies(names: Sequence[str]) -> list[str]:
    return sorted({*names} - {REFERENCE, *LINES})


def sample_grid(real: ImageSet, samples: Mapping[str, ImageSet], labels: Sequence[str]) -> Figure:
    """The first image of each class by each strategy, a row a class, next to a reference image of the same side.

    Parameters
    ----------
    real : held-out reference images.
    samples : strategy -> images of the same size.
    labels : the classes to show; where a set lacks one, its place stays empty.
    """
    rows = []
    for label in labels:
        drawn = [_first(part, label) for part in samples.values()]
        look = next((row.get("look") for _, row in filter(None, drawn)), None)
        held_out = _first(real, label, look) or _first(real, label)
        rows.append([found[0] if found else None for found in (held_out, *drawn)])
    return mosaic(rows, list(labels), [REFERENCE, *samples])


def _first(images: ImageSet, label: str, look: str | None = None) -> tuple[np.ndarray, dict] | None:
    for index, row in enumerate(images.rows):
        if images.labels[index] == label and (look is None or row.get("look") == look):
            return images.images[index], row
    return None


def mosaic(rows: Sequence[Sequence[np.ndarray | None]], row_labels: Sequence[str], column_labels: Sequence[str]) -> Figure:
    """Images of one size in rows and columns, grey ones on the fixed scale 0 to 255; small ones keep every pixel when saved, or have
    each several times, so that their headings have room.

    Parameters
    ----------
    rows : equally long rows of uint8 [H, W], or all [H, W, 3]; None leaves a place white.
    row_labels, column_labels : one text each, at the left and on top.
    """
    times = max(1, SMALLEST_CELL // next(image.shape[1] for row in rows for image in row if image is not None))
    rows = [[image if image is None else image.repeat(times, axis=0).repeat(times, axis=1) for image in row] for row in rows]
    height, width, *colours = next(image.shape for row in rows for image in row if image is not None)
    gap = max(2, width // 32)
    sheet = np.full((len(rows) * (height + gap) - gap, len(column_labels) * (width + gap) - gap, *colours), 255, np.uint8)
    for r, c in np.ndindex(len(rows), len(column_labels)):
        if rows[r][c] is not None:
            sheet[r * (height + gap) : r * (height + gap) + height, c * (width + gap) : c * (width + gap) + width] = rows[r][c]
    dots = plt.rcParams["savefig.dpi"]
    scale = min(1.0, LARGEST_CELL / width) / (plt.rcParams["figure.dpi"] if dots == "figure" else dots)
    heads = [broken_label(label, int(13 * width * scale)) for label in column_labels]
    figure = plt.figure(figsize=(sheet.shape[1] * scale, sheet.shape[0] * scale))
    figure.set_layout_engine("none")
    axis = figure.add_axes((0, 0, 1, 1))  # one image pixel is one pixel of the file: resampled speckle is no speckle
    axis.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="auto", aspect="auto")
    axis.set_xticks(np.arange(len(heads)) * (width + gap) + width / 2, heads, fontsize=9)
    axis.set_yticks(np.arange(len(rows)) * (height + gap) + height / 2, row_labels, fontsize=9)
    axis.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    return figure


def amplitude_histograms(sets: Sets, columns: int = 3) -> Figure:
    """One panel a strategy: its grey levels as a line over those of the reference, logarithmic, so that tails show.

    ``sets`` : name -> statistics of its trainings, with the reference images as "reference".
    """
    shares = amplitude_shares(sets)
    names = [name for name in shares if name != REFERENCE]
    levels, tint = np.arange(256) / 255, colours(names)
    columns, rows = min(columns, len(names)), -(-len(names) // min(columns, len(names)))
    size = (3.4 * columns, 2.2 * rows + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for axis, name in zip(axes.flat, names):
        axis.fill_between(levels, shares[REFERENCE], color="0.8", step="mid", label=REFERENCE, linewidth=0)
        axis.plot(levels, shares[name], color=tint[name], linewidth=1.3, label=name, drawstyle="steps-mid")
        axis.plot(levels, shares[REFERENCE], color="0.4", linewidth=0.7, drawstyle="steps-mid")  # a narrow spike has no area
        axis.set_yscale("log")
        axis.set_title(name, fontsize=9)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, len(names) - columns) : len(names)]:  # the lowest panel of each column
        axis.tick_params(labelbottom=True)
    drawn = np.concatenate([share[share > 0] for share in shares.values()])
    axes[0, 0].set_ylim(max(drawn.min(), 1e-6) * 0.7, drawn.max() * 1.5)
    figure.supxlabel("amplitude / (μ + 3σ)", fontsize=9)
    figure.supylabel("share of pixels", fontsize=9)
    return figure


def drawing_sheet(image: np.ndarray, title: str, opinion: Mapping[str, float], nearest: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """One drawing and what is said of it: its grey levels with fitted laws, the judge's opinion, the reference images most like it.

    Parameters
    ----------
    image : uint8 [H, W].
    title : its prompt.
    opinion : class -> cosine of the judge with its prompt, the highest first.
    nearest : up to three reference images uint8 [H, W] with a text each.
    """
    figure, axes = plt.subplots(2, 3, figsize=(10, 6.4), layout="constrained")
    for axis, (text, shown) in zip([axes[0, 0], *axes[1]], [("drawn", image), *nearest]):
        axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
        axis.set_title(text, fontsize=9)
    for axis in [axes[0, 0], *axes[1]]:
        axis.set_axis_off()
    counts, levels = np.bincount(image.ravel(), minlength=256), np.arange(256) / 255
    axes[0, 1].fill_between(levels, counts / counts.sum() * 255, step="mid", color="0.8", label="drawn")
    for family in ("rayleigh", "k"):
        name, colour, dashes = LAW_STYLES[family]
        axes[0, 1].plot(levels[1:], fit_histogram(family, counts).pdf(levels[1:]), color=colour, ls=dashes, label=name)
    axes[0, 1].set(xlabel="amplitude / (μ + 3σ)", ylabel="density", ylim=(0, 1.2 * np.max(counts[1:-1] / counts.sum() * 255)))
    axes[0, 1].legend(fontsize=8, frameon=False)
    best = list(opinion.items())[:6]
    axes[0, 2].barh([name for name, _ in best], [value for _, value in best], color="0.5")
    axes[0, 2].invert_yaxis()
    axes[0, 2].set_xlabel("cosine by the judge")
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=10)
    return figure


def texture_lines(sets: Sets) -> Figure:
    """Co-occurrence properties over distance, a column a property, a row a direction; reference in black."""
    curves = texture_curves(sets)
    tint, shape = colours(list(sets)), marks(list(sets))
    what, ways = list(curves["property"].unique()), list(curves["direction"].unique())
    size = (2.1 * len(what), 2.2 * len(ways) + 0.8)
    figure, axes = plt.subplots(len(ways), len(what), figsize=size, sharex=True, sharey="col", squeeze=False)
    for (way, name), part in curves.groupby(["direction", "property"], sort=False):
        r, c = ways.index(way), what.index(name)
        for strategy, own in part.groupby("strategy", sort=False):
            thick = {"linewidth": 2.4, "zorder": 5} if strategy == REFERENCE else {"linewidth": 1.2, "marker": shape[strategy]}
            axes[r, c].plot(own["distance"], own["value"], color=tint[strategy], markersize=3.5, label=strategy, **thick)
        axes[r, c].set_xscale("log", base=2)
        axes[r, c].set_xticks(own["distance"], own["distance"].astype(str))
        axes[r, c].set_title(name if r == 0 else "", fontsize=9)
        axes[r, c].set_ylabel(way if c == 0 else "")
    figure.supxlabel("distance [px]", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=min(6, len(sets)), fontsize=8)
    return figure


def cumulant_diagram(sets: Sets) -> Figure:
    """Log-cumulant diagram with the laws of speckle as curves: whole sets at the left, their single classes at the right."""
    points = cumulant_points(sets)
    tint, shape = colours(list(sets)), marks(list(sets))
    figure, axes = plt.subplots(1, 2, figsize=(13, 4.8), sharex=True, sharey=True)
    for axis, whole in zip(axes, (True, False)):
        law_lines(axis, points)
        axis.axvline(0, color="0.5", linestyle=":", linewidth=1.2, label="log-normal")
        for name, part in points[(points["class"] == WHOLE) == whole].groupby("strategy", sort=False):
            style = {"color": [tint[name]], "marker": shape[name], "label": name, "zorder": 5 if whole or name == REFERENCE else 3}
            axis.scatter(part["kappa3"], part["kappa2"], s=90 if whole else 22, alpha=1.0 if whole else 0.6, edgecolors="white", **style)
        axis.set_title("all classes together" if whole else "single classes", fontsize=9)
    axes[1].set_ylabel("")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def interval_panels(panels: Mapping[str, pd.DataFrame], column: str, label: str, tint: Mapping[str, str] | None = None) -> Figure:
    """Values with their 95 % intervals, a panel a table and a row a strategy; anchors and a guess are vertical lines.

    Parameters
    ----------
    panels : title -> table with the columns strategy, ``column``, lo and hi (NaN without an interval); strategies that are named
        as ``LINES`` become lines. The first table orders the rows, from above.
    column, label : what is drawn, and its name on the common axis.
    tint : strategy -> colour; that of ``colours`` by default.
    """
    names = [name for table in panels.values() for name in table["strategy"] if name not in LINES]
    names = list(dict.fromkeys(names))
    shape = {} if tint else marks(names)
    tint, places = tint or colours(names), {name: place for place, name in enumerate(names)}
    size = (2.2 + 2.9 * len(panels), 0.3 * len(names) + 1.5)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], panels.items()):
        for name, value, lo, hi in table[["strategy", column, "lo", "hi"]].itertuples(index=False):
            if name in LINES:
                axis.axvline(value, color=LINES[name][0], linestyle=LINES[name][1], linewidth=1.2, label=name)
                continue
            style = {"fmt": shape.get(name, "o"), "color": tint[name], "markersize": 5, "capsize": 3, "elinewidth": 1.3}
            axis.errorbar([value], [places[name]], xerr=np.nan_to_num([[value - lo], [hi - value]]).clip(0), **style)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="x", linewidth=0.4)
    axes[0, 0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(label, fontsize=9)
    _one_legend(figure, axes, "outside upper center", ncols=4)
    return figure


def quality_against_cost(fronts: pd.DataFrame, evaluation: pd.DataFrame) -> Figure:
    """Quality with 95 % intervals over cost, a row a measure: the front as a step line, hollow marks where another dominates.

    Parameters
    ----------
    fronts : of ``pareto_table``, for one or more measures; what costs nothing stands at the left edge.
    evaluation : the table that it was made from, for the intervals and the anchors.
    """
    joined = over_seeds(evaluation)
    whole = joined[(joined["split"] == "pooled") & (joined["class"] == "all")].set_index(["metric", "strategy"])
    metrics = list(fronts["metric"].unique())
    tint, shape = colours(list(fronts["strategy"])), marks(list(fronts["strategy"]))
    figure, axes = plt.subplots(len(metrics), 1, figsize=(10, 2.6 * len(metrics) + 0.6), squeeze=False, sharex=True)
    for axis, metric in zip(axes[:, 0], metrics):
        part, known = fronts[fronts["metric"] == metric], whole.loc[metric]
        paid = part.loc[part["cost"] > 0, "cost"]
        free = 0.5 * paid.min() if len(paid) else 1.0
        prices, front = part["cost"].where(part["cost"] > 0, free), part["dominated by"] == ""
        shifts = 1.03 ** prices.groupby(prices).cumcount()  # marks of one price stand side by side
        for name, price, value, best in zip(part["strategy"], prices * shifts, part["value"], front):
            ends = np.nan_to_num([[value - known.loc[name, "lo"]], [known.loc[name, "hi"] - value]]).clip(0)
            style = {"color": tint[name], "markerfacecolor": tint[name] if best else "white", "markersize": 7}
            axis.errorbar([price], [value], yerr=ends, fmt=shape[name], capsize=3, elinewidth=1.2, label=f"_{name}", **style)
        axis.step(prices[front], part.loc[front, "value"], where="post", color="0.4", linewidth=1, zorder=0)
        for anchor in (name for name in ANCHORS if name in known.index):
            axis.axhline(known.loc[anchor, "value"], color=LINES[anchor][0], linestyle=LINES[anchor][1], linewidth=1.2, label=anchor)
        if (part["cost"] == 0).any():
            axis.axvline(1.25 * free, color="0.8", linewidth=1)
            axis.annotate(FREE, (free, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=7, color="0.4")
        about = find_metric(metric)
        if about.better == "lower" and part["value"].min() > 0:
            axis.set_yscale("log")  # what was never trained lies far off
        axis.set_ylabel(f"{metric} [{about.unit}]\n({about.better} is better)", fontsize=8)
    axis = axes[-1, 0]
    for name in dict.fromkeys(fronts["strategy"]):  # filled in the legend, whether or not another one dominates
        axes[0, 0].plot([], [], shape[name], color=tint[name], markersize=7, label=name)
    axis.set(xscale="log", xlabel=fronts["cost of"].iloc[0])
    low, high = axis.get_xlim()  # plain numbers that do not touch
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 2000 * low else (1,)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    _one_legend(figure, axes, "outside right upper")
    return figure


def _one_legend(figure: Figure, axes: np.ndarray, place: str, **options) -> None:
    """Every label of all axes once, outside of them; nothing where there is none."""
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc=place, fontsize=8, **options)

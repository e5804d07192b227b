"""Figures of the evaluation: samples, distributions, textures, meaning, and quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from scipy.special import polygamma

from sarnb.data.dataset import ImageSet
from sarnb.metrics import find_metric
from sarnb.metrics.evaluation import ANCHORS, OPTICAL_AS_GREY, REAL_VS_REAL
from sarnb.metrics.report import over_seeds
from sarnb.plots import MARKERS, broken_label

REAL = "real"
LARGEST_CELL = 160  # px of one image of a mosaic in the saved file
ANCHOR_LINES = {REAL_VS_REAL: ("black", "-"), OPTICAL_AS_GREY: ("crimson", "--")}


def colours(names: Sequence[str]) -> dict[str, tuple[float, float, float] | str]:
    """One colour a strategy, the same in every figure that gets the same names in any order; real images are black."""
    drawn = _strategies(names)
    palette = seaborn.color_palette("colorblind")
    palette = palette[:6] + palette[7:]  # its pink is too pale
    if len(drawn) > len(palette):  # neighbours on the colour wheel differ in lightness, too
        light, dark = (seaborn.husl_palette(len(drawn), l=lightness) for lightness in (0.68, 0.45))
        palette = [pair[index % 2] for index, pair in enumerate(zip(light, dark))]
    return dict(zip(drawn, palette)) | {REAL: "black"}


def marks(names: Sequence[str]) -> dict[str, str]:
    """One mark a strategy, as `colours`; real images are dots."""
    return {name: MARKERS[index % len(MARKERS)] for index, name in enumerate(_strategies(names))} | {REAL: "o"}


def _strategies(names: Sequence[str]) -> list[str]:
    return sorted({*names} - {REAL, *ANCHORS})


def sample_grid(real: ImageSet, samples: Mapping[str, ImageSet], labels: Sequence[str]) -> Figure:
    """The first image of each class by each strategy, one row a class, beside a real one of the same side.

    Args:
        real: held-out real images. samples: image sets of the same size, by strategy.
        labels: the classes to show; where a set lacks one, its place stays empty.
    """
    rows = []
    for label in labels:
        drawn = [_first(part, label) for part in samples.values()]
        look = next((row.get("look") for _, row in filter(None, drawn)), None)
        beside = _first(real, label, look) or _first(real, label)
        rows.append([found[0] if found else None for found in (beside, *drawn)])
    return mosaic(rows, list(labels), [REAL, *samples])


def mosaic(rows: Sequence[Sequence[np.ndarray | None]], row_labels: Sequence[str], column_labels: Sequence[str]) -> Figure:
    """Grey images of one size in rows and columns, on the fixed scale 0 to 255; small ones keep every pixel when saved.

    Args:
        rows: equally long rows of uint8 [H, W]; None leaves a place white.
        row_labels, column_labels: one text each, at the left and on top.
    """
    height, width = next(image.shape for row in rows for image in row if image is not None)
    gap = max(2, width // 32)
    sheet = np.full((len(rows) * (height + gap) - gap, len(column_labels) * (width + gap) - gap), 255, np.uint8)
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


def _first(images: ImageSet, label: str, look: str | None = None) -> tuple[np.ndarray, dict] | None:
    for index, row in enumerate(images.rows):
        if images.labels[index] == label and (look is None or row.get("look") == look):
            return images.images[index], row
    return None


def amplitude_histograms(curves: pd.DataFrame, columns: int = 3) -> Figure:
    """One panel a strategy: its grey levels as a line over those of the real images, logarithmic, so that tails show.

    Args:
        curves: columns strategy, amplitude, share, as `amplitude_curves` returns them, with the strategy "real".
        columns: panels in a row.
    """
    names = [name for name in curves["strategy"].unique() if name != REAL]
    real = curves[curves["strategy"] == REAL]
    tint = colours(names)
    figure, axes = _panels(len(names), columns, (3.4, 2.2), sharex=True, sharey=True)
    for axis, name in zip(axes, names):
        part = curves[curves["strategy"] == name]
        axis.fill_between(real["amplitude"], real["share"], color="0.8", step="mid", label="real", linewidth=0)
        axis.plot(part["amplitude"], part["share"], color=tint[name], linewidth=1.3, label=name, drawstyle="steps-mid")
        axis.set_yscale("log")
        axis.set_title(name, fontsize=9)
    positive = curves.loc[curves["share"] > 0, "share"]
    axes[0].set_ylim(max(positive.min(), 1e-6) * 0.7, positive.max() * 1.5)
    figure.supxlabel("amplitude / (μ + 3σ)", fontsize=9)
    figure.supylabel("share of pixels", fontsize=9)
    return figure


def texture_lines(curves: pd.DataFrame) -> Figure:
    """Co-occurrence properties over distance, a column a property, a row a direction; real images in black.

    Args:
        curves: columns strategy, property, direction, distance, value, as `texture_curves` returns them.
    """
    names = list(curves["strategy"].unique())
    what, ways = list(curves["property"].unique()), list(curves["direction"].unique())
    tint, shape = colours(names), marks(names)
    figure, axes = plt.subplots(
        len(ways), len(what), figsize=(2.1 * len(what), 2.2 * len(ways) + 0.8), sharex=True, sharey="col", squeeze=False
    )
    for (r, way), (c, name) in ((a, b) for a in enumerate(ways) for b in enumerate(what)):
        axis, part = axes[r, c], curves[(curves["property"] == name) & (curves["direction"] == way)]
        for strategy in names:
            own = part[part["strategy"] == strategy]
            thick = {"linewidth": 2.4, "zorder": 5} if strategy == REAL else {"linewidth": 1.2, "marker": shape[strategy]}
            axis.plot(own["distance"], own["value"], color=tint[strategy], markersize=3.5, label=strategy, **thick)
        distances = sorted(part["distance"].unique())
        axis.set_xscale("log", base=2)
        axis.set_xticks(distances, [str(distance) for distance in distances])
        axis.set_title(name if r == 0 else "", fontsize=9)
        axis.set_ylabel(way if c == 0 else "")
    figure.supxlabel("distance [px]", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=min(6, len(names)), fontsize=8)
    return figure


def split_bars(table: pd.DataFrame, metric: str, splits: Sequence[str], chance: Mapping[str, float] | None = None) -> Figure:
    """One measure as bars with 95 % intervals, a panel a split, with lines for the floor, the ceiling and a guess.

    Args:
        table: evaluation table. metric: name of the catalogue. splits: the panels.
        chance: what a guess reaches, by split; none is drawn where it is missing.
    """
    joined = over_seeds(table)
    rows = joined[(joined["metric"] == metric) & (joined["class"] == "all")]
    names = [name for name in dict.fromkeys(rows["strategy"]) if name not in ANCHORS]
    tint = colours(names)
    figure, axes = plt.subplots(
        1, len(splits), figsize=(1.6 + 3.1 * len(splits), 0.36 * len(names) + 1.5), sharex=True, sharey=True, squeeze=False
    )
    for axis, split in zip(axes[0], splits):
        part = rows[rows["split"] == split].set_index("strategy")
        own = part.reindex(names)
        values = own["value"].to_numpy(float)
        axis.barh(names, values, color=[tint[name] for name in names], height=0.7)
        errors = np.nan_to_num(np.stack([values - own["lo"].to_numpy(float), own["hi"].to_numpy(float) - values]))
        axis.errorbar(values, names, xerr=errors, fmt="none", ecolor="0.2", elinewidth=1.2, capsize=3)
        _anchor_lines(axis.axvline, part)
        if split in (chance or {}):
            axis.axvline(chance[split], color="0.5", linestyle=":", label="a guess")
        axis.set_title(split, fontsize=9)
    axes[0, 0].invert_yaxis()
    handles = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(f"{metric} [{find_metric(metric).unit}], {find_metric(metric).better} is better", fontsize=9)
    return figure


def _anchor_lines(line, part: pd.DataFrame) -> None:
    for name, (colour, style) in ANCHOR_LINES.items():
        if name in part.index:
            line(part.loc[name, "value"], color=colour, linestyle=style, linewidth=1.2, label=name)


def cumulant_diagram(points: pd.DataFrame) -> Figure:
    """Log-cumulant diagram: a small mark a class and a large one for all, with the laws of speckle as curves.

    Args:
        points: columns strategy, class, kappa2, kappa3, as `cumulant_points` returns them.
    """
    names = list(points["strategy"].unique())
    tint, shape = colours(names), marks(names)
    figure, axis = plt.subplots(figsize=(7.2, 4.6))
    for label, (third, second, style) in _laws().items():
        axis.plot(third, second, style, color="0.55", linewidth=1.1, label=label)
    axis.plot(polygamma(2, 1) / 8, polygamma(1, 1) / 4, "k+", markersize=12, markeredgewidth=2, label="single-look speckle, flat scene")
    for name in names:
        part, mark = points[points["strategy"] == name], shape[name]
        single, whole = part[part["class"] != "all"], part[part["class"] == "all"]
        axis.scatter(single["kappa3"], single["kappa2"], s=14, alpha=0.4, color=[tint[name]], marker=mark, linewidths=0)
        axis.scatter(whole["kappa3"], whole["kappa2"], s=90, color=[tint[name]], marker=mark, edgecolors="white", label=name, zorder=5)
    reach_x, reach_y = points["kappa3"].abs().max(), points["kappa2"].max()
    axis.set(
        xlim=(-1.15 * max(reach_x, 0.6), 1.15 * max(0.3, points["kappa3"].max())),
        ylim=(0, 1.1 * max(reach_y, 0.6)),
        xlabel="κ₃ of ln A",
        ylabel="κ₂ of ln A",
    )
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _laws() -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    """κ3 and κ2 of amplitude under the classical laws, by name, with a line style (Nicolas 2002)."""
    order = np.geomspace(0.25, 200, 300)
    speckle2, speckle3, second, third = polygamma(1, 1), polygamma(2, 1), polygamma(1, order), polygamma(2, order)
    zeros = np.zeros_like(order)
    return {
        "speckle of 0.25 to 200 looks": (third / 8, second / 4, "-"),
        "single look × gamma texture (K)": ((speckle3 + third) / 8, (speckle2 + second) / 4, "--"),
        "single look × inverse gamma texture (G0)": ((speckle3 - third) / 8, (speckle2 + second) / 4, "-."),
        "log-normal": (zeros, np.linspace(0, 4, len(order)), ":"),
    }


def quality_against_cost(
    table: pd.DataFrame, costs: pd.DataFrame, metrics: Sequence[str], against: Sequence[str], split: str = "pooled"
) -> Figure:
    """Quality over cost: a row a measure, a column a cost on a logarithmic axis; what cost nothing is a dotted line.

    Args:
        table: evaluation table. costs: columns strategy and those of `against`, one or more rows a strategy (their mean).
        metrics: names of the catalogue. against: columns of `costs`. split: which rows of the table.
    """
    joined = over_seeds(table)
    rows = joined[(joined["split"] == split) & (joined["class"] == "all")]
    names = [name for name in dict.fromkeys(rows["strategy"]) if name not in ANCHORS]
    tint, shape, means = colours(names), marks(names), costs.groupby("strategy")[list(against)].mean()
    figure, axes = plt.subplots(
        len(metrics), len(against), figsize=(1.4 + 3.4 * len(against), 2.3 * len(metrics) + 0.6), squeeze=False, sharex="col", sharey="row"
    )
    for (r, metric), (c, cost) in ((a, b) for a in enumerate(metrics) for b in enumerate(against)):
        axis, part = axes[r, c], rows[rows["metric"] == metric].set_index("strategy")
        _anchor_lines(axis.axhline, part)
        for name in (name for name in names if name in part.index):
            _cost_point(axis, name, part.loc[name], means[cost].get(name, np.nan), tint[name], shape[name])
        label_cost_axis(axis, cost if r == len(metrics) - 1 else "", metric if c == 0 else "")
    one_legend(figure, axes)
    return figure


def label_cost_axis(axis: Axes, cost: str, metric: str) -> None:
    """A logarithmic axis of cost with plain numbers; an empty name leaves its label out."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 2000 * low else (1,)))  # else the numbers touch
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(cost)
    axis.set_ylabel(f"{metric}\n({find_metric(metric).better} is better)" if metric else "", fontsize=8)


def one_legend(figure: Figure, axes: np.ndarray) -> None:
    """Every label of all axes once, at the right of the figure."""
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)


def _cost_point(axis: Axes, name: str, row: pd.Series, cost: float, colour, marker: str) -> None:
    if cost > 0:
        error = np.nan_to_num([[row["value"] - row["lo"]], [row["hi"] - row["value"]]])
        axis.errorbar([cost], [row["value"]], yerr=error, fmt=marker, color=colour, markersize=7, capsize=3, elinewidth=1.2, label=name)
    elif cost == 0:
        axis.axhline(row["value"], color=colour, linestyle=":", linewidth=1.8, label=f"{name} (costs nothing)")


def _panels(count: int, columns: int, size: tuple[float, float], **shared) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows + 0.3), squeeze=False, **shared)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    for axis in axes.flat[max(0, count - columns) : count]:  # the lowest panel of each column
        axis.tick_params(labelbottom=True)
    return figure, list(axes.flat[:count])

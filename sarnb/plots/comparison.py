"""Figures that put strategies against each other: ranks, tests, scores between the anchors, the Pareto front, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from sarnb.metrics import find_metric
from sarnb.metrics.fits import FAMILIES, fit_histogram
from sarnb.plots import image_grid
from sarnb.plots.data import LAW_STYLES
from sarnb.plots.verdict import colours, label_cost_axis, marks, one_legend


def rank_intervals(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Average ranks with 95 % intervals, best on top, a panel a split.

    Args:
        tables: title -> table of `rank_table`; the first one orders the rows.
    """
    names = next(iter(tables.values()))["strategy"].tolist()
    names += [name for table in tables.values() for name in table["strategy"] if name not in names]
    tint, places = colours(names), {name: place for place, name in enumerate(dict.fromkeys(names))}
    figure, axes = plt.subplots(
        1, len(tables), figsize=(1.8 + 2.9 * len(tables), 0.32 * len(places) + 1.1), sharex=True, sharey=True, squeeze=False
    )
    for axis, (title, table) in zip(axes[0], tables.items()):
        for row in table.to_dict("records"):
            place, value = places[row["strategy"]], row["average rank"]
            axis.errorbar(
                [value],
                [place],
                xerr=[[value - row["lo"]], [row["hi"] - value]],
                fmt="o",
                color=tint[row["strategy"]],
                capsize=3,
                elinewidth=1.4,
            )
        axis.set(title=title, xlabel="average rank, 1 is best", xlim=(0.8, len(places) + 0.2))
        axis.grid(axis="x", linewidth=0.4)
    axes[0, 0].set_yticks(range(len(places)), list(places))
    axes[0, 0].set_ylim(len(places) - 0.5, -0.5)
    return figure


def pair_matrix(tests: pd.DataFrame, names: Sequence[str], alpha: float) -> Figure:
    """Who beats whom, a panel a measure: blue where the row is better than the column, red where it is worse, with the corrected p.

    Args:
        tests: of `paired_tests`, one split. names: the strategies in order. alpha: corrected p below which a pair is coloured.
    """
    metrics = list(dict.fromkeys(tests["metric"]))
    columns = min(3, len(metrics))
    side = 0.46 * len(names) + 1.3
    rows = -(-len(metrics) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(side * columns + 1.2, side * rows), squeeze=False, sharex=True, sharey=True)
    for axis, metric in zip(axes.flat, metrics):
        verdict, words = np.full((len(names),) * 2, np.nan), np.full((len(names),) * 2, "", dtype=object)
        for row in tests[tests["metric"] == metric].itertuples():
            i, j = names.index(row.first), names.index(row.second)
            sign = 0 if row.p_holm >= alpha else 1 if row.better == row.first else -1
            verdict[i, j], verdict[j, i] = sign, -sign
            words[i, j] = words[j, i] = "<.001" if row.p_holm < 0.001 else f"{row.p_holm:.2g}".replace("0.", ".", 1)
        table = pd.DataFrame(verdict, index=list(names), columns=list(names))
        seaborn.heatmap(
            table,
            ax=axis,
            mask=np.isnan(verdict),
            annot=words,
            fmt="",
            annot_kws={"size": 6},
            cmap="vlag_r",
            vmin=-1.6,
            vmax=1.6,
            cbar=False,
            square=True,
            linewidths=0.5,
        )
        axis.set_title(metric, fontsize=9)
        axis.tick_params(labelsize=7, length=0)
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    return figure


def radar_chart(scores: pd.DataFrame, columns: int = 4) -> Figure:
    """One web a strategy: each measure between the anchors, rim = real against real, centre ring = optical as grey.

    Args:
        scores: of `anchored_scores`; drawn between -0.25 and 1.25, what lies beyond is set to the edge.
    """
    metrics, names = list(dict.fromkeys(scores["metric"])), list(dict.fromkeys(scores["strategy"]))
    angles = np.linspace(0, 2 * np.pi, len(metrics), endpoint=False)
    closed = np.append(angles, angles[0])
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.3 * columns, 2.9 * rows), subplot_kw={"projection": "polar"}, squeeze=False)
    tint = colours(names)
    for axis, name in zip(axes.flat, names):
        own = scores[scores["strategy"] == name].set_index("metric").reindex(metrics)
        value = own["score"].clip(-0.25, 1.25).to_numpy(float)
        low, high = own["lo"].clip(-0.25, 1.25).to_numpy(float), own["hi"].clip(-0.25, 1.25).to_numpy(float)
        axis.fill_between(closed, np.append(low, low[0]), np.append(high, high[0]), color=tint[name], alpha=0.25, linewidth=0)
        axis.plot(closed, np.append(value, value[0]), color=tint[name], linewidth=1.8)
        axis.plot(np.linspace(0, 2 * np.pi, 200), np.ones(200), color="black", linewidth=1)
        axis.plot(np.linspace(0, 2 * np.pi, 200), np.zeros(200), color="crimson", linewidth=1, linestyle="--")
        axis.set(ylim=(-0.5, 1.25), title=name, yticks=[0, 1])
        axis.set_yticklabels([])
        axis.set_xticks(angles, [metric.replace("_", "\n", 1) for metric in metrics], fontsize=6)
        axis.title.set_fontsize(9)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    return figure


def pareto_fronts(table: pd.DataFrame) -> Figure:
    """Quality against cost with the front as a step line; hollow marks are dominated, what costs nothing stands at the left edge.

    Args:
        table: of `pareto_table`, of one or more measures and costs, below each other.
    """
    metrics, costs = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["cost of"]))
    names = sorted(dict.fromkeys(table["strategy"]))
    tint, shape = colours(names), marks(names)
    figure, axes = plt.subplots(
        len(metrics),
        len(costs),
        figsize=(1.6 + 3.6 * len(costs), 2.4 * len(metrics) + 0.6),
        squeeze=False,
        sharex="col",
        sharey="row",
    )
    for (r, metric), (c, cost) in ((a, b) for a in enumerate(metrics) for b in enumerate(costs)):
        axis, part = axes[r, c], table[(table["metric"] == metric) & (table["cost of"] == cost)]
        free = 0.5 * part.loc[part["cost"] > 0, "cost"].min() if (part["cost"] > 0).any() else 1.0
        prices = part["cost"].where(part["cost"] > 0, free)
        for price, row in zip(prices, part.to_dict("records")):
            name, front = row["strategy"], row["dominated by"] == ""
            axis.plot(
                [price],
                [row["value"]],
                shape[name],
                color=tint[name],
                markerfacecolor=tint[name] if front else "white",
                markersize=8,
                label=name,
            )
        if (part["cost"] == 0).any():
            axis.axvline(1.25 * free, color="0.8", linewidth=1)
            axis.annotate("free", (free, 1.01), xycoords=("data", "axes fraction"), ha="center", fontsize=7, color="0.4")
        best = part["dominated by"] == ""
        axis.step(prices[best], part.loc[best, "value"], where="post", color="0.4", linewidth=1, zorder=0)
        label_cost_axis(axis, cost if r == len(metrics) - 1 else "", metric if c == 0 else "")
    one_legend(figure, axes)
    return figure


def failure_sheet(table: pd.DataFrame, images: Mapping[str, np.ndarray]) -> Figure:
    """The worst images of each strategy, a row each; above every image its class, what the judge called it, and the cosine.

    Args:
        table: of `failures`. images: strategy -> uint8 [N, H, W], which `index` counts.
    """
    names = list(dict.fromkeys(table["strategy"]))
    rows = [[images[name][i] for i in table.loc[table["strategy"] == name, "index"]] for name in names]
    figure = image_grid(rows, names, cell=1.25)
    columns = max(len(row) for row in rows)
    for r, name in enumerate(names):
        for c, row in enumerate(table[table["strategy"] == name].itertuples()):
            axis = figure.axes[r * columns + c]
            axis.set_title(f"{row[4]}\n→ {row.called} {row.cosine:.2f}", fontsize=5.5, pad=2)
    return figure


def fitted_laws(curves: pd.DataFrame, columns: int = 4, families: Sequence[str] = FAMILIES) -> Figure:
    """Grey levels of each set with fitted laws of speckle and texture, logarithmic.

    Args:
        curves: columns strategy, amplitude, share, as `amplitude_curves` returns them.
    """
    names = list(curves["strategy"].unique())
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.9 * columns, 2.3 * rows + 0.6), squeeze=False, sharex=True, sharey=True)
    levels = np.arange(1, 255) / 255.0
    for axis, name in zip(axes.flat, names):
        share = curves.loc[curves["strategy"] == name, "share"].to_numpy(float)
        axis.fill_between(np.arange(256) / 255.0, share * 255.0, step="mid", color="0.8", linewidth=0, label="images")
        for family in families:
            label, colour, dashes = LAW_STYLES[family]
            axis.plot(levels, fit_histogram(family, share).pdf(levels), color=colour, ls=dashes, linewidth=1.1, label=label)
        axis.set_yscale("log")
        axis.set_title(name, fontsize=9)
    axes[0, 0].set_ylim(1e-3, 30)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    figure.supxlabel("amplitude / (μ + 3σ)", fontsize=9)
    figure.supylabel("density", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=8)
    return figure


def sensor_heatmaps(table: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Each measure as numbers: a row what was drawn, a column the sensor whose real images judged it.

    Args:
        table: columns strategy, sensor, metric, value.
    """
    rows, sensors = list(dict.fromkeys(table["strategy"])), list(dict.fromkeys(table["sensor"]))
    figure, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(1.9 + (0.95 * len(sensors) + 0.5) * len(metrics), 0.34 * len(rows) + 1.3),
        sharey=True,
        squeeze=False,
    )
    for axis, metric in zip(axes[0], metrics):
        values = table[table["metric"] == metric].pivot_table(index="strategy", columns="sensor", values="value", sort=False)
        colour = "crest" if find_metric(metric).better == "lower" else "crest_r"
        seaborn.heatmap(
            values.reindex(index=rows, columns=sensors),
            ax=axis,
            annot=True,
            fmt=".3g",
            annot_kws={"size": 8},
            cmap=colour,
            cbar=False,
            linewidths=0.5,
        )
        axis.set(title=f"{metric} ({find_metric(metric).better} is better)", xlabel="judged by real images of", ylabel="")
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=8, length=0)
        axis.tick_params(axis="x", rotation=25)
    return figure

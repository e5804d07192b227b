"""The held-out losses of many trainings in one figure."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from sarnb.plots.verdict import MARKERS, colours


def held_out_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """The held-out loss of many strategies against the step, in one panel, each with a colour and mark of its own.

    ``histories``: strategy → columns step and, where it was measured, held_out; those without any are left out.
    """
    figure, axis = plt.subplots(figsize=(8, 3.8))
    tint = colours(sorted(histories))
    for place, (name, history) in enumerate(histories.items()):
        known = history.reindex(columns=["step", "held_out"]).dropna()
        if len(known):
            style = {"color": tint[name], "marker": MARKERS[place % len(MARKERS)], "markersize": 4, "lw": 1.2}
            axis.plot(known["step"], known["held_out"], label=name, **style)
    if not axis.lines:
        axis.text(0.5, 0.5, "not measured: no validation images", ha="center", va="center", transform=axis.transAxes)
    axis.set(title="held-out loss, fixed noise and steps", xlabel="step", ylabel="mean squared error")
    axis.ticklabel_format(useOffset=False)
    if axis.lines:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure

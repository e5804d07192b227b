"""Figures of notebook 00."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure


def stage_curves(histories: dict[str, pd.DataFrame]) -> Figure:
    """Loss against step, one panel a stage; ``histories``: stage → table with the columns step and loss."""
    figure, axes = plt.subplots(1, len(histories), figsize=(3.6 * len(histories), 2.8), squeeze=False)
    for axis, (stage, history) in zip(axes[0], histories.items()):
        history = history.dropna(subset=["loss"])
        axis.plot(history["step"], history["loss"], alpha=0.3)
        axis.plot(history["step"], history["loss"].ewm(span=20).mean(), color="C0")
        axis.set(title=stage, xlabel="step", ylabel="loss")
    return figure

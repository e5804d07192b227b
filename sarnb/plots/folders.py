"""Figures of the comparison of two folders."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sarnb.plots.verdict import mosaic


def two_rows(real: np.ndarray, fake: np.ndarray, name: str) -> Figure:
    """Some real images above some generated ones: uint8 [K, H, W] and [M, H, W], drawn by the seed and not chosen."""
    columns = max(len(real), len(fake))
    rows = [[images[k] if k < len(images) else None for k in range(columns)] for images in (real, fake)]
    return mosaic(rows, ["real", name if len(name) < 20 else "generated"], [""] * columns)


def floor_dots(ratios: pd.DataFrame) -> Figure:
    """Each measure as a multiple of its floor, with 95 % intervals, on a logarithmic axis.

    Args:
        ratios: columns measure, family, ratio, lo, hi, as `floor_ratios` returns them.
    """
    families = list(dict.fromkeys(ratios["family"]))
    tint = dict(zip(families, seaborn.color_palette("colorblind")))
    figure, axis = plt.subplots(figsize=(7.0, 0.28 * len(ratios) + 1.2))
    for family in families:
        part = ratios[ratios["family"] == family]
        ends = np.nan_to_num([part["ratio"] - part["lo"], part["hi"] - part["ratio"]]).clip(0)
        axis.errorbar(
            part["ratio"], part["measure"], xerr=ends, fmt="o", color=tint[family], markersize=5, capsize=3, elinewidth=1.2, label=family
        )
    axis.axvline(1.0, color="black", linewidth=1.2, label="floor: real against real")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.invert_yaxis()
    axis.set_xlabel("multiple of the floor (lower is better)")
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure

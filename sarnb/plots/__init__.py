"""The look of the figures, and small helpers that return a figure and save nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.figure import Figure

MARKERS = "osD^vP*Xph<>"  # matplotlib's, told apart at a glance: one a strategy, or a sensor


def set_theme() -> None:
    """Sets the one theme of all notebooks (seaborn 'ticks', colour-blind palette, text kept as text in SVG).

    In a notebook, figures are shown as JPEG: PNG cannot shrink speckle, and the exact pixels lie in the results' figures.
    """
    seaborn.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.dpi": 90,
            "savefig.dpi": 120,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "svg.fonttype": "none",
        }
    )
    if "ipykernel" in sys.modules:
        _show_as_jpeg()


def _show_as_jpeg() -> None:
    from IPython import get_ipython  # here, as programs that only save figures need neither
    from matplotlib_inline.config import InlineBackend

    inline = InlineBackend.instance(parent=get_ipython())
    inline.shell = get_ipython()
    inline.print_figure_kwargs = inline.print_figure_kwargs | {"pil_kwargs": {"quality": 90}}
    inline.figure_formats = {"jpeg"}


def broken_label(label: str, width: int) -> str:
    """A label of more than ``width`` letters in lines, broken behind its plus signs: names of strategies are such sums."""
    if len(label) <= width:
        return label
    return "+\n".join(label.split("+"))


def image_grid(
    images: Sequence[Sequence[np.ndarray | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    cell: float = 1.1,
) -> Figure:
    """Images in rows and columns, labelled at the left and on top.

    Parameters
    ----------
    images : rows of images, each uint8 [H, W] (drawn grey on the fixed scale 0 to 255, so that brightness can be
        compared) or uint8 [H, W, 3]; None leaves the place empty. An array [R, C, H, W] or [R, C, H, W, 3] will do.
    row_labels, column_labels : one text a row or a column, or none.
    cell : side of one image in the figure [inch].

    Raises
    ------
    ValueError : no image, or labels that do not match the rows or columns.
    """
    rows, columns = len(images), max((len(row) for row in images), default=0)
    if not rows or not columns:
        raise ValueError("image_grid: no image given")
    if row_labels and len(row_labels) != rows:
        raise ValueError(f"image_grid: {len(row_labels)} row labels for {rows} rows")
    if column_labels and len(column_labels) != columns:
        raise ValueError(f"image_grid: {len(column_labels)} column labels for {columns} columns")
    figure, axes = plt.subplots(
        rows, columns, figsize=(cell * columns + (1.2 if row_labels else 0), cell * rows + 0.3), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    for r, row in enumerate(images):
        for c in range(columns):
            axis = axes[r, c]
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if c < len(row) and row[c] is not None:
                axis.imshow(np.asarray(row[c]), cmap="gray", vmin=0, vmax=255)
            if c == 0 and row_labels:
                axis.set_ylabel(row_labels[r], rotation=0, ha="right", va="center", fontsize=8)
            if r == 0 and column_labels:
                axis.set_title(broken_label(column_labels[c], int(15 * cell)), fontsize=8)
    return figure

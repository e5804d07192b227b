"""Figures of notebook 01 on image formation: a scene's geometry drawn over its radar image, and sensors side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from sarnb.data.sideview import SideView
from sarnb.plots.data import LAYOVER, SHADOW, paint

PANEL = 0.6  # height of the upper panel over its width, which is that of the images
FOOT = (0.0, 0.62, 0.45)  # green of the colour-blind palette
_ORANGE, _BLUE = np.array(LAYOVER) / 255, np.array(SHADOW) / 255


def side_views(views: Mapping[str, SideView]) -> Figure:
    """One column a view, lit from the left: the range line with its rays, the radar image with the predicted marks, and the masks.

    All three rows share the axis of ground range, in metres. Green: feet of walls, where the double bounce arrives; orange:
    where the tops of the walls arrive; blue: where shadows end. The line cuts the image at the white ticks.
    """
    figure, axes = plt.subplots(
        3, len(views), figsize=(4.4 * len(views), 9.6), squeeze=False, sharex="col", gridspec_kw={"height_ratios": (PANEL, 1, 1)}
    )
    for column, (name, view) in zip(axes.T, views.items()):
        _range_panel(column[0], view)
        column[0].set_title(f"{name}, incidence {view.incidence_deg:.0f}°")
        rows, cols = view.image.shape
        extent = (0, cols * view.spacing, rows * view.spacing, 0)
        for axis, picture in ((column[1], view.image), (column[2], paint(view.image, view.layover, view.shadow))):
            axis.imshow(picture, vmin=0, vmax=255, extent=extent)
            axis.set(ylabel="azimuth [m]")
        _marks(column[1], view)
        at = (view.row + 0.5) * view.spacing
        for end in (0, cols * view.spacing):
            column[1].plot([end], [at], "w>" if end == 0 else "w<", ms=7, mec="k", clip_on=False)
        column[2].set(xlabel="ground range [m], near range at the left", xlim=(0, cols * view.spacing))
    axes[1, 0].legend(
        handles=[
            Patch(color=FOOT, label="foot of a wall: double bounce"),
            Patch(color=_ORANGE, label="top of a wall"),
            Patch(color=_BLUE, label="end of a shadow"),
        ],
        fontsize=7,
        loc="lower left",
        title="predicted",
        title_fontsize=7,
    )
    axes[2, 0].legend(
        handles=[Patch(color=_ORANGE, label="layover"), Patch(color=_BLUE, label="shadow")],
        fontsize=7,
        loc="lower left",
        title="simulated",
        title_fontsize=7,
    )
    return figure


def _marks(axis: Axes, view: SideView) -> None:
    for column, table, colour in (("layover", view.walls, _ORANGE), ("end", view.shadows, _BLUE), ("foot", view.walls, FOOT)):
        axis.plot(table[column] * view.spacing, (table["row"] + 0.5) * view.spacing, "s", color=colour, ms=2.4, mew=0)


def _range_panel(axis: Axes, view: SideView) -> None:
    """Heights along the line, shadowed ground, and for each wall its wave front and the last ray over the shadow."""
    line, cot = view.line, 1 / np.tan(np.deg2rad(view.incidence_deg))
    floor = min(0.0, float(line.height.min()))
    edges = np.concatenate([line.ground - view.spacing / 2, [line.ground[-1] + view.spacing / 2]])
    axis.stairs(line.height, edges, baseline=floor - 10, fill=True, color="0.8")
    axis.stairs(line.height, edges, baseline=None, color="0.3", lw=1)
    axis.stairs(np.where(line.dark, line.height, np.nan), edges, baseline=None, color=_BLUE, lw=3)
    axis.set_box_aspect(PANEL)
    walls, shadows = (table[table["row"] == view.row] for table in (view.walls, view.shadows))
    for _, wall in walls.iterrows():
        edge, foot, top = (wall[name] * view.spacing for name in ("edge", "foot", "layover"))
        axis.plot([top, foot], [0, 0], color=_ORANGE, lw=3, solid_capstyle="butt")
        axis.plot([top, edge], [0, (edge - top) / cot], color=_ORANGE, lw=0.9, ls="--")  # a wave front: points of one range
        axis.plot([edge], [(edge - foot) / cot], "o", color=FOOT, ms=5, zorder=4)
    for end in shadows["end"] * view.spacing:
        ray = np.array([end - 1.3 * line.height.max() / cot, end])  # the last ray over the roof
        axis.plot(ray, (end - ray) * cot, color=_BLUE, lw=0.9, ls="--")
    if len(walls) == len(shadows) == 1:
        wall, shadow = walls.iloc[0], shadows.iloc[0]
        middle = 0.5 * (wall["foot"] + wall["layover"]) * view.spacing
        axis.text(middle, -1, f"h / tan θ\n{wall['height'] * cot:.0f} m", color=_ORANGE, fontsize=8, ha="center", va="top")
        axis.text(
            shadow["end"] * view.spacing - shadow["length"] / 2,
            -1,
            f"h tan θ\n{shadow['length']:.0f} m",
            color=_BLUE,
            fontsize=8,
            ha="center",
            va="top",
        )
    axis.set(ylabel="height [m]", ylim=(floor - 10, 1.3 * line.height.max() + 2))
    axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= 1.3 * line.height.max()])


def sensor_sheet(views: Mapping[str, np.ndarray], extent_m: float, detail_m: float = 160.0) -> Figure:
    """One scene by several sensors: whole above, and below the square of ``detail_m`` metres that is brightest in the first view.

    Args:
        views: sensor -> image uint8 [rows, cols] of the whole scene, all of one orientation. extent_m: side of the scene.
    """
    part = detail_m / extent_m
    corner = brightest_square(next(iter(views.values())), part)
    figure, axes = plt.subplots(2, len(views), figsize=(2.9 * len(views), 6.2), squeeze=False)
    for column, (name, image) in zip(axes.T, views.items()):
        for axis, (top, left), share in zip(column, ((0.0, 0.0), corner), (1.0, part)):
            (rows, cols), (height, width) = image.shape, np.rint(np.multiply(share, image.shape)).astype(int)
            cut = image[round(top * rows) :, round(left * cols) :][:height, :width]
            axis.imshow(cut, vmin=0, vmax=255, aspect="auto")  # a square of ground, though its pixels may not be
            axis.set(xticks=[], yticks=[], xlabel=f"{share * extent_m:.0f} m = {cut.shape[1]} px")
            axis.set_box_aspect(1)
        top, left = corner
        frame = Rectangle((left * cols - 0.5, top * rows - 0.5), part * cols, part * rows, fill=False, ec=_ORANGE, lw=1.2)
        column[0].add_patch(frame)
        column[0].set_title(name)
    return figure


def brightest_square(image: np.ndarray, part: float) -> tuple[float, float]:
    """Upper left corner (row, column), each as a part of the image [rows, cols], of its brightest window.

    ``part``: side of the window over that of the image, in (0, 1].
    """
    rows, cols = image.shape
    height, width = max(1, round(part * rows)), max(1, round(part * cols))
    total = np.pad(image.astype(np.float64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return float(top) / rows, float(left) / cols

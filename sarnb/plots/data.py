"""Figures of radar images that several notebooks share: sheets, histograms with their laws, masks, side views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sarnb.data.amplitude import Normalisation
from sarnb.data.sideview import range_line, shadow_marks, wall_marks
from sarnb.metrics.describe import fit_histogram, law_log_cumulants
from sarnb.plots import image_grid
from sarnb.world.radar import Radar, SarImage, amplitude
from sarnb.world.scene import Scene

MASK_COLOURS = {"layover": (0.902, 0.471, 0.0), "shadow": (0.0, 0.51, 0.902)}
"""Orange and blue, distinguishable by colour-blind readers."""
FOOT = (0.0, 0.62, 0.45)  # green of the colour-blind palette
GROUP_COLOURS = {"seen": "C0", "unseen": "C1", "composition": "C2"}
LAW_STYLES = {
    "rayleigh": ("Rayleigh", "C0", "-"),
    "gamma": ("gamma", "C1", "--"),
    "k": ("K", "C3", "-."),
    "weibull": ("Weibull", "C2", ":"),
    "lognormal": ("log-normal", "C4", ":"),
}
PANEL = 0.6  # height of the upper panel of a side view over its width, which is that of the images


def modality_sheet(labels: Sequence[str], rows: Mapping[str, Sequence[np.ndarray]], columns: int = 6) -> Figure:
    """Several pictures of each label below each other, labels side by side and wrapped into bands.

    Parameters
    ----------
    labels : one name a column.
    rows : row name ("optical", "radar") -> one picture a label, uint8 [H, W] or [H, W, 3].
    columns : labels a band.
    """
    bands = [slice(start, start + columns) for start in range(0, len(labels), columns)]
    figure = image_grid([list(images[band]) for band in bands for images in rows.values()], row_labels=list(rows) * len(bands))
    width = min(columns, len(labels))
    tops = [axis for place, axis in enumerate(figure.axes) if (place // width) % len(rows) == 0]
    for axis, label in zip(tops, labels):
        axis.set_title(label, fontsize=8, pad=4)
    return figure


def paint(image: np.ndarray, layover: np.ndarray, shadow: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """Grey uint8 [H, W] with layover in orange and shadow in blue: uint8 [H, W, 3]; where both hold, their mean."""
    colour = np.repeat(image[..., None].astype(np.float64), 3, axis=-1)
    masks = np.stack([layover, shadow], axis=-1).astype(float)
    mixed = 255 * masks @ np.array(list(MASK_COLOURS.values())) / np.maximum(masks.sum(-1, keepdims=True), 1)
    marked = masks.any(-1)
    colour[marked] = (1 - strength) * colour[marked] + strength * mixed[marked]
    return np.rint(colour).astype(np.uint8)


def amplitude_laws(samples: Mapping[str, np.ndarray], families: Sequence[str] = ("rayleigh", "gamma", "k")) -> Figure:
    """Histograms with fitted laws, linear above and logarithmic below: name -> counts [256], one column a sample."""
    figure, axes = plt.subplots(2, len(samples), figsize=(3.6 * len(samples), 4.8), squeeze=False, sharex="col")
    levels = np.arange(256) / 255.0
    for column, (name, counts) in zip(axes.T, samples.items()):
        density = counts / counts.sum() * 255.0
        last = levels[min(255, int(np.searchsorted(np.cumsum(counts), 0.9995 * counts.sum())) + 8)]
        models = {family: fit_histogram(family, counts) for family in families}
        for axis in column:
            axis.fill_between(levels, density, step="mid", color="0.8", label="images")
            for family, model in models.items():
                name_of_law, colour, dashes = LAW_STYLES[family]
                axis.plot(levels[1:], model.pdf(levels[1:]), color=colour, ls=dashes, label=name_of_law)
        middle = density[1:-1].max()  # the end bins hold everything clipped there
        column[0].set(title=name, ylim=(0, 1.15 * middle))
        floor = 0.3 * density[density > 0].min()
        column[1].set(yscale="log", ylim=(floor, 3 * middle), xlim=(0, last), xlabel="normalised amplitude")
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("density, logarithmic")
    axes[0, 0].legend(fontsize=8)
    return figure


def law_lines(axis: Axes, laws: Sequence[str], points: pd.DataFrame) -> None:
    """Lines of the product laws in the plane of the third and second log-cumulant, and the star where they meet.

    Parameters
    ----------
    axis : where to draw; its limits become those of the points and the star.
    laws : of "speckle" (any number of looks), "k" and "g0" (one look with gamma or inverse-gamma texture).
    points : columns kappa2 and kappa3 of what will be drawn there.
    """
    looks, orders = np.geomspace(0.6, 50, 200), np.geomspace(0.5, 200, 200)
    styles = {
        "speckle": (looks, "0.4", "speckle, looks from 0.6 up"),
        "k": (orders, "C3", "K: one look, gamma texture"),
        "g0": (orders, "C4", "G0: one look, inverse-gamma texture"),
    }
    for law in laws:
        order, colour, name = styles[law]
        kappa2, kappa3 = law_log_cumulants(law, order).T
        axis.plot(kappa3, kappa2, color=colour, lw=1.2, label=name)
    kappa2, kappa3 = law_log_cumulants("speckle", np.array(1.0))
    axis.plot(kappa3, kappa2, "k*", ms=12, label="single look, flat ground")
    x, y = np.append(points["kappa3"], kappa3), np.append(points["kappa2"], kappa2)
    pad_x, pad_y = 0.2 * (np.ptp(x) + 0.3), 0.15 * (np.ptp(y) + 0.2)
    axis.set(xlim=(x.min() - pad_x, x.max() + pad_x), ylim=(max(0, y.min() - pad_y), y.max() + pad_y))
    axis.set(xlabel="third log-cumulant κ₃", ylabel="second log-cumulant κ₂")


def side_views(views: Mapping[str, tuple[Scene, Radar, SarImage]]) -> Figure:
    """One column a view: the range line with its rays, the radar image with the predicted marks, and the simulator's masks.

    All three rows share the axis of ground range, in metres. Green: feet of walls, where the double bounce arrives; orange:
    where the tops of the walls arrive; blue: where shadows end. The line, that of the highest wall in sight, cuts the image
    at the white ticks.

    Parameters
    ----------
    views : name -> scene, radar and the image that ``simulate`` gives of them. The radar looks from the left and has the
        ground grid of the scene, because the marks count its columns. The image is scaled by its own A / (mu + 3 sigma).
    """
    figure, axes = plt.subplots(
        3, len(views), figsize=(4.4 * len(views), 9.6), squeeze=False, sharex="col", gridspec_kw={"height_ratios": (PANEL, 1, 1)}
    )
    for column, (name, (scene, radar, seen)) in zip(axes.T, views.items()):
        walls, shadows = wall_marks(scene, radar), shadow_marks(scene, radar)
        row = int(walls.loc[walls["height"].idxmax(), "row"]) if len(walls) else len(scene.height) // 2
        _range_panel(column[0], range_line(scene, radar, row), walls[walls["row"] == row], shadows[shadows["row"] == row], radar)
        column[0].set_title(f"{name}, incidence {radar.incidence_deg:.0f}°")
        image = Normalisation.fit([amplitude(seen)]).apply(amplitude(seen))
        height, width = np.multiply(image.shape, scene.spacing)
        for axis, picture in ((column[1], image), (column[2], paint(image, seen.layover, seen.shadow))):
            axis.imshow(picture, vmin=0, vmax=255, extent=(0, width, height, 0))
            axis.set(ylabel="azimuth [m]")
        for mark, table, colour in (
            ("layover", walls, MASK_COLOURS["layover"]),
            ("end", shadows, MASK_COLOURS["shadow"]),
            ("foot", walls, FOOT),
        ):
            column[1].plot(table[mark] * scene.spacing, (table["row"] + 0.5) * scene.spacing, "s", color=colour, ms=2.4, mew=0)
        for end in (0, width):
            column[1].plot([end], [(row + 0.5) * scene.spacing], "w>" if end == 0 else "w<", ms=7, mec="k", clip_on=False)
        column[2].set(xlabel="ground range [m], near range at the left", xlim=(0, width))
    axes[1, 0].legend(
        handles=[
            Patch(color=FOOT, label="foot of a wall: double bounce"),
            Patch(color=MASK_COLOURS["layover"], label="top of a wall"),
            Patch(color=MASK_COLOURS["shadow"], label="end of a shadow"),
        ],
        fontsize=7,
        loc="lower left",
        title="predicted",
        title_fontsize=7,
    )
    axes[2, 0].legend(
        handles=[Patch(color=MASK_COLOURS["layover"], label="layover"), Patch(color=MASK_COLOURS["shadow"], label="shadow")],
        fontsize=7,
        loc="lower left",
        title="simulated",
        title_fontsize=7,
    )
    return figure


def _range_panel(axis: Axes, line: pd.DataFrame, walls: pd.DataFrame, shadows: pd.DataFrame, radar: Radar) -> None:
    """Heights along the line, shadowed ground, and for each wall its wave front and the last ray over the shadow."""
    spacing, cot = radar.spacing_m[0], 1 / np.tan(np.deg2rad(radar.incidence_deg))
    floor = min(0.0, float(line["height"].min()))
    edges = np.append(line["ground"] - spacing / 2, line["ground"].iloc[-1] + spacing / 2)
    axis.stairs(line["height"], edges, baseline=floor - 10, fill=True, color="0.8")
    axis.stairs(line["height"], edges, baseline=None, color="0.3", lw=1)
    axis.stairs(line["height"].where(line["dark"]), edges, baseline=None, color=MASK_COLOURS["shadow"], lw=3)
    axis.set_box_aspect(PANEL)
    for _, wall in walls.iterrows():
        edge, foot, top = (wall[name] * spacing for name in ("edge", "foot", "layover"))
        axis.plot([top, foot], [0, 0], color=MASK_COLOURS["layover"], lw=3, solid_capstyle="butt")
        axis.plot([top, edge], [0, (edge - top) / cot], color=MASK_COLOURS["layover"], lw=0.9, ls="--")  # a wave front: points of one range
        axis.plot([edge], [(edge - foot) / cot], "o", color=FOOT, ms=5, zorder=4)
    for end in shadows["end"] * spacing:
        ray = np.array([end - 1.3 * line["height"].max() / cot, end])  # the last ray over the roof
        axis.plot(ray, (end - ray) * cot, color=MASK_COLOURS["shadow"], lw=0.9, ls="--")
    if len(walls) == len(shadows) == 1:
        wall, shadow = walls.iloc[0], shadows.iloc[0]
        middle = 0.5 * (wall["foot"] + wall["layover"]) * spacing
        axis.text(middle, -1, f"h / tan θ\n{wall['height'] * cot:.0f} m", color=MASK_COLOURS["layover"], fontsize=8, ha="center", va="top")
        axis.text(
            shadow["end"] * spacing - shadow["length"] / 2,
            -1,
            f"h tan θ\n{shadow['length']:.0f} m",
            color=MASK_COLOURS["shadow"],
            fontsize=8,
            ha="center",
            va="top",
        )
    axis.set(ylabel="height [m]", ylim=(floor - 10, 1.3 * line["height"].max() + 2))
    axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= 1.3 * line["height"].max()])

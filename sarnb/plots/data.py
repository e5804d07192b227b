"""Figures of notebook 01: what the radar images look like, and their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sarnb.metrics.describe import RAYLEIGH_CLIPPED, RAYLEIGH_CV, law_log_cumulants
from sarnb.metrics.fits import fit_histogram
from sarnb.plots import image_grid

LAYOVER, SHADOW = (230, 120, 0), (0, 130, 230)  # orange and blue, told apart by colour-blind readers
GROUP_COLOURS = {"seen": "C0", "unseen": "C1", "composition": "C2"}
LAW_STYLES = {
    "rayleigh": ("Rayleigh", "C0", "-"),
    "gamma": ("gamma", "C1", "--"),
    "k": ("K", "C3", "-."),
    "weibull": ("Weibull", "C2", ":"),
    "lognormal": ("log-normal", "C4", ":"),
}


def modality_sheet(labels: Sequence[str], rows: Mapping[str, Sequence[np.ndarray]], columns: int = 6) -> Figure:
    """Several pictures of each label below each other, labels side by side and wrapped into bands.

    Args:
        labels: one name a column. rows: row name ("optical", "radar") -> one picture a label, uint8 [H, W] or [H, W, 3].
        columns: labels a band.
    """
    bands = [slice(start, start + columns) for start in range(0, len(labels), columns)]
    pictures = [list(images[band]) for band in bands for images in rows.values()]
    figure = image_grid(pictures, row_labels=list(rows) * len(bands))
    width = min(columns, len(labels))
    for place, (axis, label) in enumerate(zip(_band_tops(figure, width, len(rows)), labels)):
        axis.set_title(label, fontsize=8, loc="center", pad=3 if place < width else 5)
    return figure


def _band_tops(figure: Figure, width: int, height: int) -> list[Axes]:
    """The axes that carry a label: the first row of every band, of a grid of ``width`` columns and ``height`` rows a band."""
    return [axis for place, axis in enumerate(figure.axes) if (place // width) % height == 0]


def caption_lengths_figure(captions: pd.DataFrame, shares: pd.DataFrame) -> Figure:
    """How long the captions are, and what they tell: number of words by caption length, and the share that names each thing.

    Args:
        captions: from ``caption_lengths``, columns length and words. shares: from ``caption_table``, columns "names ...".
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.4))
    lengths = list(shares["length"])
    colours = dict(zip(lengths, seaborn.color_palette(n_colors=len(lengths))))
    bins = np.arange(captions["words"].min(), captions["words"].max() + 2) - 0.5
    seaborn.histplot(captions, x="words", hue="length", hue_order=lengths, palette=colours, bins=bins, element="step", ax=axes[0])
    axes[0].set(xlabel="words of a caption", ylabel="captions")
    named = [name for name in shares.columns if name.startswith("names ")]
    tidy = shares.melt("length", named, "names", "share")
    tidy["names"], tidy["share"] = tidy["names"].str.removeprefix("names "), 100 * tidy["share"]
    seaborn.barplot(tidy, x="names", y="share", hue="length", hue_order=lengths, palette=colours, ax=axes[1], legend=False)
    axes[1].set(xlabel="what the caption names", ylabel="captions [%]", ylim=(0, 105))
    return figure


def paint(image: np.ndarray, layover: np.ndarray, shadow: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """Grey uint8 [H, W] with layover in orange and shadow in blue: uint8 [H, W, 3]; where both hold, their mean."""
    colour = np.repeat(image[..., None].astype(np.float64), 3, axis=-1)
    weight = layover.astype(float) + shadow.astype(float)
    mixed = layover[..., None] * np.array(LAYOVER, float) + shadow[..., None] * np.array(SHADOW, float)
    marked = weight > 0
    colour[marked] = (1 - strength) * colour[marked] + strength * mixed[marked] / weight[marked, None]
    return np.rint(colour).astype(np.uint8)


def scene_anatomy(optical: np.ndarray, height: np.ndarray, views: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Figure:
    """One scene as photograph, as height map, and as radar image from each side with its layover and shadow drawn in.

    Args:
        optical: uint8 [H, W, 3]. height: surface height [H, W] in metres.
        views: look ("left", "right") -> (image uint8 [H, W], layover bool [H, W], shadow bool [H, W]).
    """
    rows = max(2, len(views))
    figure, axes = plt.subplots(rows, 3, figsize=(9.0, 3.0 * rows), squeeze=False)
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        seaborn.despine(ax=axis, left=True, bottom=True)
    axes[0, 0].imshow(optical)
    axes[0, 0].set_title("optical")
    relief = axes[1, 0].imshow(height - np.min(height), cmap="viridis")
    axes[1, 0].set_title("height above the lowest cell")
    figure.colorbar(relief, ax=axes[1, 0], label="m", shrink=0.8)
    for row, (look, (image, layover, shadow)) in zip(axes, views.items()):
        row[1].imshow(image, vmin=0, vmax=255)
        row[1].set_title(f"radar, illuminated from the {look}")
        ends = ("near", "far") if look == "left" else ("far", "near")
        row[1].set_xlabel(f"{ends[0]} range  {'→' if look == 'left' else '←'}  {ends[1]} range")
        row[2].imshow(paint(image, layover, shadow))
        row[2].set_title("the same, with masks")
    legend = [Patch(color=np.array(LAYOVER) / 255, label="layover"), Patch(color=np.array(SHADOW) / 255, label="shadow")]
    axes[0, 2].legend(handles=legend, loc="lower right", fontsize=8, framealpha=0.9)
    return figure


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


def spread_by_class(statistics: pd.DataFrame) -> Figure:
    """Coefficient of variation and local number of looks, one box a class; lines: single-look speckle on flat ground.

    ``statistics``: one row an image with the columns class, cv and enl.
    """
    labels = list(dict.fromkeys(statistics["class"]))
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 0.9 + 0.27 * len(labels)), sharey=True)
    for axis, column, line, name in (
        (axes[0], "cv", RAYLEIGH_CV, "coefficient of variation of the image"),
        (axes[1], "enl", 1.0, "equivalent looks in 8 px windows"),
    ):
        seaborn.boxplot(statistics, x=column, y="class", order=labels, ax=axis, color="0.85", fliersize=2, linewidth=0.8)
        axis.axvline(line, color="C3", lw=1, ls="--")
        values = statistics[column].dropna().to_numpy()
        low, high = min(line, values.min(initial=line)), max(line, values.max(initial=line))
        pad = 0.05 * (high - low) + 0.02
        axis.set(xlabel=name, ylabel="", xlim=(low - pad, high + pad))
    return figure


def log_cumulant_diagram(points: pd.DataFrame) -> Figure:
    """Classes in the plane of the third and second log-cumulant, with the lines of the product laws.

    ``points``: columns class, group, kappa2, kappa3. Lines: speckle of any number of looks, and single-look speckle under
    gamma (K law) or inverse-gamma (G0 law) texture; they meet in single-look speckle on flat ground.
    """
    figure, axis = plt.subplots(figsize=(8.0, 4.8))
    looks, orders = np.geomspace(0.6, 50, 200), np.geomspace(0.5, 200, 200)
    for law, order, style, name in (
        ("speckle", looks, "0.4", "speckle, looks from 0.6 up"),
        ("k", orders, "C3", "K: one look, gamma texture"),
        ("g0", orders, "C4", "G0: one look, inverse-gamma texture"),
    ):
        line = law_log_cumulants(law, order)
        axis.plot(line[:, 1], line[:, 0], color=style, lw=1.2, label=name)
    flat = law_log_cumulants("speckle", np.array(1.0))
    axis.plot(flat[1], flat[0], "k*", ms=12, label="single look, flat ground")
    for group, own in points.groupby("group", sort=False):
        axis.scatter(own["kappa3"], own["kappa2"], s=28, color=GROUP_COLOURS.get(group, "C5"), label=group, zorder=3)
    for _, row in points.iterrows():
        axis.annotate(row["class"], (row["kappa3"], row["kappa2"]), fontsize=7, xytext=(4, 2), textcoords="offset points")
    x, y = [*points["kappa3"], flat[1]], [*points["kappa2"], flat[0]]
    pad_x, pad_y = 0.2 * (np.ptp(x) + 0.3), 0.15 * (np.ptp(y) + 0.2)
    axis.set(xlim=(min(x) - pad_x, max(x) + 1.5 * pad_x), ylim=(max(0, min(y) - pad_y), max(y) + pad_y))
    axis.set(xlabel="third log-cumulant κ₃", ylabel="second log-cumulant κ₂")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def texture_directions(table: pd.DataFrame, named: int = 3) -> Figure:
    """GLCM property along range against along azimuth, one panel a property and one point a class.

    ``table``: from ``direction_table``. On the diagonal both directions agree; the ``named`` classes farthest from it
    carry their names.
    """
    names = list(dict.fromkeys(table["property"]))
    figure, axes = plt.subplots(2, int(np.ceil(len(names) / 2)), figsize=(9.5, 6.0), squeeze=False)
    for axis, name in zip(axes.ravel(), names):
        own = table[table["property"] == name].reset_index(drop=True)
        for group, part in own.groupby("group", sort=False):
            axis.scatter(part["range"], part["azimuth"], s=22, color=GROUP_COLOURS.get(group, "C5"), label=group, zorder=3)
        axis.axline((own["range"].mean(),) * 2, slope=1, color="0.6", lw=1)
        gap = (own["range"] - own["azimuth"]).abs()
        for index in gap.nlargest(named).index:
            place = own.loc[index]
            axis.annotate(place["class"], (place["range"], place["azimuth"]), fontsize=7, xytext=(4, 2), textcoords="offset points")
        axis.set(title=name, xlabel="along range", ylabel="along azimuth")
    for axis in axes.ravel()[len(names) :]:
        axis.remove()
    axes[0, 0].legend(fontsize=7)
    return figure


def clipping(shares: pd.Series, ratios: np.ndarray | None = None) -> Figure:
    """What A / (mu + 3 sigma) cuts off.

    Args:
        shares: class -> share of its pixels at level 255.
        ratios: unclipped A / (mu + 3 sigma) of some images, any shape; without it the left panel is left out.
    """
    panels = 2 if ratios is not None else 1
    figure, axes = plt.subplots(1, panels, figsize=(4.6 * panels, 1.2 + 0.24 * len(shares)), squeeze=False)
    if ratios is not None:
        axis, values = axes[0, 0], np.ravel(ratios)
        top = max(1.5, float(np.quantile(values, 0.9999)))
        density, edges = np.histogram(values, np.linspace(0, top, 120))
        density = density / (len(values) * np.diff(edges))
        axis.stairs(density, edges, color="0.75", fill=True)
        axis.stairs(np.where(edges[:-1] >= 1, density, 0), edges, color="C3", fill=True)
        axis.axvline(1, color="C3", lw=1, ls="--")
        axis.set(yscale="log", xlim=(0, top), xlabel="A / (μ + 3σ) before clipping", ylabel="density, logarithmic")
    axis = axes[0, -1]
    axis.barh(np.arange(len(shares)), 100 * shares.to_numpy(), color="C0")
    axis.axvline(100 * RAYLEIGH_CLIPPED, color="C3", lw=1, ls="--", label=f"Rayleigh: {100 * RAYLEIGH_CLIPPED:.2f} %")
    axis.set(yticks=np.arange(len(shares)), yticklabels=list(shares.index), xlabel="pixels at the highest level [%]")
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    return figure


def look_evidence(table: pd.DataFrame) -> Figure:
    """Evidence for the illumination side, one point an image, coloured by its true side.

    ``table``: columns class, look ("left", "right") and score (above 0: the image looks lit from the left).
    """
    labels = list(dict.fromkeys(table["class"]))
    figure, axis = plt.subplots(figsize=(6.4, 0.9 + 0.3 * len(labels)))
    state = np.random.get_state()
    np.random.seed(0)  # seaborn draws the jitter from numpy's global generator; the figure should be the same in every run
    seaborn.stripplot(
        table, x="score", y="class", hue="look", hue_order=["left", "right"], order=labels, ax=axis, size=4, alpha=0.7, jitter=0.25
    )
    np.random.set_state(state)
    axis.axvline(0, color="0.5", lw=1)
    axis.set(xlabel="evidence for illumination from the left", ylabel="")
    axis.legend(title="true side", fontsize=8)
    return figure

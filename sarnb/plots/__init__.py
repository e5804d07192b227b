"""The look of the figures, and those that several notebooks share: grids, sheets, laws, side views, and those of a fine-tuning.

Every function returns its figure and saves nothing.
"""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import Column
from sarnb.metrics import find_metric
from sarnb.metrics.describe import fit_histogram, law_log_cumulants
from sarnb.metrics.evaluation import ANCHORS
from sarnb.metrics.geometry import range_line, shadow_marks, wall_marks
from sarnb.metrics.report import over_seeds
from sarnb.world.radar import Radar, SarImage, amplitude
from sarnb.world.scene import Scene

MARKERS = "osD^vP*Xph<>"  # matplotlib's, distinct at a glance: one a strategy, or a sensor
MASK_COLOURS = {"layover": (0.902, 0.471, 0.0), "shadow": (0.0, 0.51, 0.902)}
"""Orange and blue, distinguishable by colour-blind readers."""
MARK_COLOURS = {**MASK_COLOURS, "foot": (0.0, 0.62, 0.45)}  # green of the colour-blind palette
GROUP_COLOURS = {"seen": "C0", "unseen": "C1", "composition": "C2"}
GROUP_MARKERS = {"seen": "o", "unseen": "s", "composition": "^"}  # the second code, for readers who cannot part the colours
LAW_STYLES = {
    "rayleigh": ("Rayleigh", "C0", "-"),
    "gamma": ("gamma", "C1", "--"),
    "k": ("K", "C3", "-."),
    "weibull": ("Weibull", "C2", ":"),
    "lognormal": ("log-normal", "C4", ":"),
}
CUMULANT_LAWS = {
    "speckle": ("speckle, any number of looks", "-"),
    "k": ("K: one look, gamma texture", "--"),
    "g0": ("G0: one look, inverse-gamma texture", "-."),
}
PANEL = 0.6  # height of the upper panel of a side view over its width, which is that of the images


def set_theme() -> None:
    """Sets the one theme of all notebooks (seaborn 'ticks', colour-blind palette, text kept as text in SVG).

    In a notebook, figures are shown as JPEG: PNG cannot shrink speckle, and the exact pixels lie in the results' figures.
    """
    plt.rcdefaults()  # whatever a matplotlibrc says
    warnings.filterwarnings("ignore", message="The figure layout has changed to tight")  # seaborn's grids lay themselves out
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
            "text.parse_math": False,  # names of classes may hold a "$"; powers of ten become formulas when a figure is saved
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
    ValueError
        No image, or labels that do not match the rows or columns.
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
    width = min(3.6, 13.0 / len(samples))
    figure, axes = plt.subplots(2, len(samples), figsize=(width * len(samples), 4.8), squeeze=False, sharex="col", sharey="row")
    levels, middles, floors = np.arange(256) / 255.0, [], []
    for column, (name, counts) in zip(axes.T, samples.items()):
        density = counts / counts.sum() * 255.0
        last = levels[min(255, int(np.searchsorted(np.cumsum(counts), 0.9995 * counts.sum())) + 8)]
        models = {family: fit_histogram(family, counts) for family in families}
        for axis in column:
            axis.fill_between(levels, density, step="mid", color="0.8", label="images")
            for family, model in models.items():
                name_of_law, colour, dashes = LAW_STYLES[family]
                axis.plot(levels[1:], model.pdf(levels[1:]), color=colour, ls=dashes, label=name_of_law)
            axis.xaxis.set_major_locator(MaxNLocator(3, prune="upper"))
        middles.append(density[1:-1].max())  # the end bins hold everything clipped there
        floors.append(0.3 * density[density > 0].min())
        column[0].set_title(name, fontsize=9)
        column[1].set(yscale="log", xlim=(0, last))
    axes[0, 0].set(ylabel="density", ylim=(0, 1.15 * max(middles)))
    axes[1, 0].set(ylabel="density, logarithmic", ylim=(min(floors), 3 * max(middles)))
    figure.supxlabel("normalised amplitude A / (μ + 3σ)", fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


def measure_panels(
    table: pd.DataFrame, titles: Mapping[str, str], floor: str, goals: Mapping[str, float], signed: Sequence[str] = ()
) -> Figure:
    """Sizes of errors of several variants, one panel a measure, with the floor (dashed) and the target (dotted).

    Parameters
    ----------
    table : column ``variant``, which names the rows, ``floor`` among them, and a column a measure; one without a value is left out.
    titles : measure -> what stands under its panel, with the unit.
    goals : measure -> target; its panel has a logarithmic axis.
    signed : measures of which an open mark says that the error is negative.
    """
    rows, lowest = table[table["variant"] != floor], table.set_index("variant").loc[floor]
    names = [name for name in titles if name in table and rows[name].notna().any()]
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    labels = [textwrap.fill(name.replace("+", " + "), 36) for name in rows["variant"]]
    depth = np.array([1.5 + label.count("\n") for label in labels])  # lines of text that a row takes
    places = np.cumsum(depth) - depth / 2
    size = (2.8 + 2.6 * columns, min(13.5, lines * (0.15 * depth.sum() + 0.75) + 0.4))
    figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for axis, name in zip(axes.flat, names):
        for number, (place, value) in enumerate(zip(places, rows[name])):
            filled = {} if value > 0 or name not in signed else {"markerfacecolor": "none"}
            axis.plot(abs(value), place, MARKERS[number % len(MARKERS)], color=f"C{number % 10}", ms=6, **filled)
        axis.axvline(abs(lowest[name]), color="0.3", ls="--", lw=1.2)
        axis.axvline(goals.get(name, np.nan), color="C3", ls=":", lw=1.6)
        seen = np.abs([*rows[name].dropna(), *([lowest[name], goals[name]] if name in goals else ())])
        if name in goals and seen.min() > 0 and seen.max() > 5 * seen.min():
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(numticks=4))
            axis.xaxis.set_minor_formatter(NullFormatter())
        else:
            axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.set_xlabel(titles[name], fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", color="0.92")
        axis.margins(x=0.12)
    axes[0, 0].set_yticks(places, labels, fontsize=8)
    axes[0, 0].set_ylim(depth.sum(), 0)
    marks = [Line2D([], [], color="0.3", ls="--", label=floor), Line2D([], [], color="C3", ls=":", label="target")]
    marks += [Line2D([], [], color="0.3", marker="o", ls="", markerfacecolor="none", label="open: too little")] if signed else []
    figure.legend(handles=marks, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def law_lines(axis: Axes, points: pd.DataFrame, laws: Sequence[str] = tuple(CUMULANT_LAWS)) -> None:
    """Lines of the product laws in the plane of the third and second log-cumulant, and the star where they meet.

    Parameters
    ----------
    axis : where to draw; its limits become those of the points and the star.
    points : columns kappa2 and kappa3 of what will be drawn there.
    laws : of ``CUMULANT_LAWS``.
    """
    for law in laws:
        kappa2, kappa3 = law_log_cumulants(law, np.geomspace(0.5, 200, 300)).T
        axis.plot(kappa3, kappa2, CUMULANT_LAWS[law][1], color="0.5", lw=1.2, label=CUMULANT_LAWS[law][0])
    kappa2, kappa3 = law_log_cumulants("speckle", np.array(1.0))
    axis.plot(kappa3, kappa2, "k*", ms=12, label="single look, flat ground")
    x, y = np.append(points["kappa3"], kappa3), np.append(points["kappa2"], kappa2)
    pad_x, pad_y = 0.2 * (np.ptp(x) + 0.3), 0.15 * (np.ptp(y) + 0.2)
    axis.set(xlim=(x.min() - pad_x, x.max() + pad_x), ylim=(max(0, y.min() - pad_y), y.max() + pad_y))
    axis.set(xlabel="third log-cumulant κ₃ of ln A", ylabel="second log-cumulant κ₂ of ln A")


def name_points(axis: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], size: float = 7) -> None:
    """Names of points in a column right of the axes, in the order of their heights, with a thin line to each: none overlap.

    Parameters
    ----------
    axis : where the points are; its limits and its scale have their final values.
    x, y, names : one a point.
    size : of the letters [point].
    """
    figure = axis.get_figure(root=True)
    figure.draw_without_rendering()
    line = 1.3 * size / 72 * figure.dpi / axis.get_window_extent().height  # of text, in heights of the axes
    order = np.argsort(y, kind="stable")
    wanted = axis.transAxes.inverted().transform(axis.transData.transform(np.column_stack([x, y])))[order, 1]
    steps = line * np.arange(len(order))
    heights = np.maximum.accumulate(wanted - steps)  # never nearer than a line to the one below
    heights = np.minimum(heights, max(0.0, 1 - line * (len(order) - 0.5))) + steps  # nor above the axes, if there is room
    for place, height in zip(order, heights):
        arrow = {"arrowstyle": "-", "lw": 0.5, "color": "0.6", "shrinkA": 0, "shrinkB": 2}
        style = {"textcoords": "axes fraction", "va": "center", "fontsize": size, "arrowprops": arrow, "annotation_clip": False}
        axis.annotate(names[place], (x[place], y[place]), (1.04, height), **style)


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
    style = {"squeeze": False, "sharex": "col", "height_ratios": (PANEL, 1, 1), "layout": "constrained"}
    figure, axes = plt.subplots(3, len(views), figsize=(4.4 * len(views), 9.9), **style)
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
        marks = ("layover", walls, "layover"), ("end", shadows, "shadow"), ("foot", walls, "foot")
        for mark, table, colour in marks:
            column[1].plot(
                table[mark] * scene.spacing, (table["row"] + 0.5) * scene.spacing, "s", color=MARK_COLOURS[colour], ms=2.4, mew=0
            )
        for end in (0, width):
            column[1].plot([end], [(row + 0.5) * scene.spacing], "w>" if end == 0 else "w<", ms=7, mec="k", clip_on=False)
        column[2].set(xlabel="ground range [m], near range at the left", xlim=(0, width))
    names = {"foot": "foot of a wall: double bounce", "layover": "top of a wall, layover", "shadow": "end of a shadow, shadow"}
    handles = [Patch(color=MARK_COLOURS[mark], label=name) for mark, name in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
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
        axis.plot([edge], [(edge - foot) / cot], "o", color=MARK_COLOURS["foot"], ms=5, zorder=4)
    for end in shadows["end"] * spacing:
        ray = np.array([end - 1.3 * line["height"].max() / cot, end])  # the last ray over the roof
        axis.plot(ray, (end - ray) * cot, color=MASK_COLOURS["shadow"], lw=0.9, ls="--")
    if len(walls) == len(shadows) == 1:
        wall, shadow = walls.iloc[0], shadows.iloc[0]
        middle = 0.5 * (wall["foot"] + wall["layover"]) * spacing
        style = {"fontsize": 8, "ha": "center", "va": "top"}
        axis.text(middle, -1, f"h / tan θ\n{wall['height'] * cot:.0f} m", color=MASK_COLOURS["layover"], **style)
        middle = shadow["end"] * spacing - shadow["length"] / 2
        axis.text(middle, -1, f"h tan θ\n{shadow['length']:.0f} m", color=MASK_COLOURS["shadow"], **style)
    axis.set(ylabel="height [m]", ylim=(floor - 10, 1.3 * line["height"].max() + 2))
    axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= 1.3 * line["height"].max()])


# A fine-tuning: what trains, how the loss fell, what came out, how far it is from real images.

_GOALS = {"lower": "lower is better", "higher": "higher is better", "match": "nearer to the reference is better"}
_GAP = 0.2  # between two groups, in widths of an image


def component_bars(counts: pd.DataFrame, title: str = "") -> Figure:
    """Parameters of each component and how many of them train, on a logarithmic scale.

    ``counts``: columns component, trains, total, as ``sarnb.model.strategy.component_counts`` gives.
    """
    figure, axis = plt.subplots(figsize=(7.5, 0.5 + 0.42 * len(counts)))
    places = np.arange(len(counts))
    axis.barh(places, counts["total"], color="0.85", label="all parameters")
    axis.barh(places, counts["trains"], color="C0", label="those that train", height=0.5)
    axis.set_xscale("log")
    axis.set_xlim(1, 300 * counts["total"].max())  # room for the numbers
    for place, trains, total in zip(places, counts["trains"], counts["total"]):
        share = f"{trains:,} of {total:,} ({trains / total:.2%})" if trains else f"none of {total:,}"
        axis.annotate(share, (total, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set(yticks=places, yticklabels=counts["component"], xlabel="parameters", title=title)
    axis.invert_yaxis()
    figure.legend(loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    return figure


def training_curves(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Training loss and held-out loss against the step; one colour and one mark a strategy, one line a training seed.

    ``histories``: strategy → the tables of its runs, with columns step, loss and, where it was measured, held_out.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
    panels = (("loss", "training loss, weighted"), ("held_out", "held-out loss, fixed noise and steps"))
    for axis, (column, title) in zip(axes, panels):
        for place, (name, runs) in enumerate(histories.items()):
            for number, history in enumerate(runs):
                known = history.reindex(columns=["step", column]).dropna()
                label = name if number == 0 else None
                style = {"marker": MARKERS[place % len(MARKERS)], "ls": ("-", "--", "-.", ":")[place % 4]}
                axis.plot(known["step"], known[column], color=f"C{place}", **style, markersize=4, lw=1.2, alpha=0.8, label=label)
        if not any(len(line.get_xdata()) for line in axis.lines):
            axis.text(0.5, 0.5, "not measured: no validation images", ha="center", va="center", transform=axis.transAxes)
        axis.set(title=title, xlabel="step", ylabel="mean squared error")
        axis.ticklabel_format(useOffset=False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def comparison_grid(
    rows: Mapping[str, Sequence[np.ndarray]], columns: Sequence[Column], cell: float = 0.95, spacing_m: Sequence[float] | None = None
) -> Figure:
    """Rows of images under common columns, with a gap between the groups (seen | unseen).

    ``rows``: name → one image a column, uint8 [H, W] or [H, W, 3], as for real images, strategies, or before and after.
    ``spacing_m``: of a pixel along azimuth and range [m], as data cards have it; with it the last row gets a scale bar and an
    arrow along range, which both sides share: a radar on the left has its near range at the left.

    Raises
    ------
    ValueError
        A row has another number of images than there are columns.
    """
    for name, images in rows.items():
        if len(images) != len(columns):
            raise ValueError(f"comparison_grid: row {name} has {len(images)} images for {len(columns)} columns")
    starts = [i for i, column in enumerate(columns) if i == 0 or column.group != columns[i - 1].group]
    places: list[int | None] = []
    for i in range(len(columns)):
        places += [None, i] if i in starts[1:] else [i]
    titles = ["" if i is None else f"{columns[i].group if i in starts else ''}\n{columns[i].label}" for i in places]
    grid = [[None if i is None else images[i] for i in places] for images in rows.values()]
    figure = image_grid(grid, list(rows), titles, cell)
    gaps = [_GAP if i is None else 1.0 for i in places]
    figure.axes[0].get_gridspec().set_width_ratios(gaps)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width - cell * (len(gaps) - sum(gaps)), height)
    if spacing_m is not None:
        side, metres = np.shape(next(iter(rows.values()))[0])[1], float(spacing_m[1])
        length = max(one for one in (10.0**power * part for power in range(-2, 6) for part in (1, 2, 5)) if one <= side * metres / 2)
        last = figure.axes[-len(places) :]
        bar, arrow = last[0], last[next((at for at, i in enumerate(places) if at and i is not None), 0)]
        bar.plot(
            [0.06 * side, 0.06 * side + length / metres],
            [0.92 * side] * 2,
            color="w",
            lw=2.5,
            path_effects=[withStroke(linewidth=4, foreground="k")],
        )
        style = {"arrowstyle": "<->", "color": "w", "lw": 1.5, "path_effects": [withStroke(linewidth=3, foreground="k")]}
        arrow.annotate("", (0.94 * side, 0.85 * side), (0.06 * side, 0.85 * side), arrowprops=style)
        bar.set_xlabel(f"bar: {length:g} m", fontsize=7)
        if arrow is not bar:
            arrow.set_xlabel("arrow: range", fontsize=7)
    return figure


def measure_dots(table: pd.DataFrame, metrics: Sequence[str], splits: Sequence[str]) -> Figure:
    """Each strategy's value with its 95 % interval, one panel a measure, one colour and shape a split; anchors hollow, below.

    ``table``: evaluation table with the rows of class "all". Distances, whose best and worst anchors are orders of magnitude apart,
    have a logarithmic scale.
    """
    joined = over_seeds(table[table["class"] == "all"])
    present = dict.fromkeys(joined["strategy"])
    names = [name for name in present if name not in ANCHORS] + [name for name in ANCHORS if name in present]
    height = 1.8 + 0.15 * len(names) * len(splits)
    figure, axes = plt.subplots(1, len(metrics), figsize=(2.5 + 3.4 * len(metrics), height), squeeze=False, sharey=True)
    for axis, metric in zip(axes[0], metrics):
        part, about = joined[joined["metric"] == metric], find_metric(metric)
        for place, split in enumerate(splits):
            rows = part[part["split"] == split].set_index("strategy")
            for name in (name for name in names if name in rows.index):
                value, lo, hi = rows.loc[name, ["value", "lo", "hi"]].astype(float)
                spread = np.nan_to_num([[value - lo], [hi - value]]).clip(min=0)  # none where there is no interval
                style = {"markersize": 5, "capsize": 2, "lw": 1, "color": f"C{place}", "fmt": MARKERS[place]}
                fill = "white" if name in ANCHORS else f"C{place}"
                label = split if name == names[0] else "_nolegend_"
                height_of = names.index(name) + (place - (len(splits) - 1) / 2) * 0.2
                axis.errorbar([value], [height_of], xerr=spread, markerfacecolor=fill, label=label, **style)
        axis.set(
            title=metric.replace("_", " ").replace("kl", "KL").replace("cv", "CV"),
            xlabel=f"[{about.unit}], {_GOALS[about.better]}",
            xscale="log" if about.better == "lower" and (part["value"] > 0).all() else "linear",
            yticks=range(len(names)),
            yticklabels=names,
            ylim=(len(names) - 0.5, -0.5),
        )
        axis.axhline(sum(name not in ANCHORS for name in names) - 0.5, color="0.8", lw=1, zorder=0)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower right", ncols=len(splits), fontsize=8, frameon=False)
    return figure


def neighbour_bars(neighbours: pd.DataFrame) -> Figure:
    """Nearest vocabulary words of the learned word by cosine: a row an encoder, left at the start, right after training.

    ``neighbours``: columns encoder, when, rank, word, cosine.
    """
    height = 0.6 + 0.22 * neighbours["rank"].max()
    style = {"kind": "bar", "sharey": False, "legend": False, "height": height, "aspect": 4.4 / height}
    columns = {"x": "cosine", "y": "word", "row": "encoder", "col": "when", "hue": "when"}
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn lays its grid out itself
        grid = seaborn.catplot(neighbours, **columns, **style)
    return grid.set_titles("{row_name}, {col_name}").set_axis_labels("cosine", "").figure

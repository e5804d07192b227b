"""Figures of notebook 04: what the autoencoder's round trip keeps of a radar image, variant beside variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sarnb.metrics.describe import law_log_cumulants
from sarnb.metrics.roundtrip import FLOOR, ORIGINAL, REACH
from sarnb.plots import image_grid
from sarnb.train.vae_losses import TERM_WEIGHTS

_TITLES = {
    "psnr_db": "PSNR [dB]",
    "amplitude_kl": "amplitude KL [nats]",
    "cv_error": "CV, error [%]",
    "enl_error": "ENL in flat windows, error [%]",
    "kappa_distance": "distance in the κ₃, κ₂ plane",
    "glcm_distance": "GLCM distance [σ]",
    "spectrum_db": "power spectrum, largest gap [dB]",
    "periodogram_db": "spectrum in two dimensions, mean gap [dB]",
    "lattice": "lattice of latent cells, relative",
    "bias_db": "σ⁰ bias, largest of the covers [dB]",
    "leak": "colour leak [levels]",
}
_PERCENT = ("cv_error", "enl_error")


def round_trip_sheet(original: Sequence[np.ndarray], decoded: Mapping[str, Sequence[np.ndarray]], labels: Sequence[str]) -> Figure:
    """Originals, then for each variant its images and their difference from the originals (grey: none, scale as the images').

    original, decoded[name] : one grey uint8 [H, W] a label.
    """
    rows, names = [list(original)], [ORIGINAL]
    for name, images in decoded.items():
        gaps = [128 + (after.astype(int) - before) / 2 for before, after in zip(original, images)]
        rows += [list(images), [gap.clip(0, 255).astype(np.uint8) for gap in gaps]]
        names += [name, "difference"]
    return image_grid(rows, names, list(labels))


def measure_bars(table: pd.DataFrame, measures: Sequence[str], targets: Mapping[str, float] | None = None) -> Figure:
    """One panel a measure, one bar a variant; dashed: real images against other real ones; dotted: the figure to reach.

    ``table``: of ``round_trip_table``. Errors of CV and ENL have a sign, a bar to the left means too little.
    """
    targets = targets or {}
    own = table[table["variant"] != FLOOR].reset_index(drop=True)
    floor = table.set_index("variant").loc[FLOOR]
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    size = (3.4 * columns, rows * (0.9 + 0.24 * len(own)))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for axis, name in zip(axes.ravel(), measures):
        unit = 100 if name in _PERCENT else 1
        axis.barh(own.index, unit * own[name], color=[f"C{place}" for place in own.index], height=0.7)
        for value, style, colour in ((floor[name], "--", "0.3"), (targets.get(name, np.nan), ":", "C3")):
            for sign in (1, -1) if name in _PERCENT else (1,):
                if np.isfinite(value):
                    axis.axvline(sign * unit * abs(value), color=colour, ls=style, lw=1.2)
        axis.set_title(_TITLES[name], fontsize=9)
        axis.axvline(0, color="0.6", lw=0.8)
    for axis in axes.ravel()[len(measures) :]:
        axis.remove()
    axes[0, 0].set(yticks=own.index, yticklabels=own["variant"])
    axes[0, 0].invert_yaxis()
    return figure


def spectrum_lines(frequency: np.ndarray, powers: Mapping[str, np.ndarray]) -> Figure:
    """Radially averaged power spectra, and what each variant adds or takes at every frequency.

    ``powers``: name → mean power at ``frequency`` (cycles a pixel); the entry ``ORIGINAL`` is the reference.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4))
    reference = 10 * np.log10(np.maximum(powers[ORIGINAL], 1e-8))
    places = iter(range(len(powers)))
    for name, power in powers.items():
        level = 10 * np.log10(np.maximum(power, 1e-8))
        style = {"color": "k", "lw": 2} if name == ORIGINAL else {"color": f"C{next(places)}", "lw": 1.2}
        axes[0].plot(frequency, level, label=name, **style)
        if name != ORIGINAL:
            axes[1].plot(frequency, level - reference, **style)
    axes[1].axhspan(-1, 1, color="0.9", zorder=0)
    axes[1].axhline(0, color="k", lw=1)
    axes[0].set(xlabel="spatial frequency [cycles / px]", ylabel="power of the amplitude [dB]", title="power spectrum")
    axes[1].set(xlabel="spatial frequency [cycles / px]", ylabel="decoded over original [dB]", title="gap; grey: within 1 dB")
    axes[0].legend(fontsize=7)
    return figure


def periodogram_maps(gaps: Mapping[str, np.ndarray]) -> Figure:
    """What each variant adds (red) or takes (blue) at every pair of frequencies; [side, side/2 + 1] dB, of ``periodogram_gap``."""
    columns = min(4, len(gaps))
    rows = -(-len(gaps) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.3 * columns + 1, 2.9 * rows), squeeze=False, sharex=True, sharey=True)
    for axis, (name, gap) in zip(axes.ravel(), gaps.items()):
        half = np.fft.fftshift(gap, axes=0)
        edge = 0.5 / gap.shape[0]
        extent = (-edge, 0.5 + edge, 0.5 - edge, -0.5 - edge)
        drawn = axis.imshow(half, cmap="coolwarm", vmin=-6, vmax=6, extent=extent, interpolation="nearest")
        axis.set_title(f"{name}\nmean {np.abs(gap).mean():.1f} dB", fontsize=9)
        axis.grid(False)
    for axis in axes.ravel()[len(gaps) :]:
        axis.remove()
    for axis in axes[:, 0]:
        axis.set_ylabel("azimuth [cycles / px]")
    for axis in axes[-1]:
        axis.set_xlabel("range [cycles / px]")
    figure.colorbar(drawn, ax=list(axes.ravel()[: len(gaps)]), label="decoded over original [dB]", shrink=0.8)
    return figure


def kappa_shift(points: pd.DataFrame) -> Figure:
    """Classes in the plane of the log-cumulants before and after, joined by a line, one panel a variant.

    ``points``: columns variant, class, kappa2, kappa3; the variant ``ORIGINAL`` is where the lines start.
    """
    names = [name for name in dict.fromkeys(points["variant"]) if name != ORIGINAL]
    before = points[points["variant"] == ORIGINAL].set_index("class")
    figure, axes = plt.subplots(1, len(names), figsize=(2.7 * len(names), 3.2), squeeze=False, sharex=True, sharey=True)
    orders = np.geomspace(0.4, 200, 200)
    for place, (axis, name) in enumerate(zip(axes[0], names)):
        for law, style, label in (("speckle", "0.4", "speckle of any looks"), ("k", "C3", "K, one look")):
            line = law_log_cumulants(law, orders)
            axis.plot(line[:, 1], line[:, 0], color=style, lw=1, label=label)
        after = points[points["variant"] == name].set_index("class").loc[before.index]
        axis.plot([before["kappa3"], after["kappa3"]], [before["kappa2"], after["kappa2"]], color="0.75", lw=0.8, zorder=1)
        axis.scatter(before["kappa3"], before["kappa2"], s=14, facecolor="none", edgecolor="k", label=ORIGINAL, zorder=3)
        axis.scatter(after["kappa3"], after["kappa2"], s=14, color=f"C{place}", label="decoded", zorder=3)
        axis.set(title=name, xlabel="κ₃")
        axis.title.set_fontsize(9)
    x, y = points["kappa3"], points["kappa2"]
    pad_x, pad_y = 0.1 * (np.ptp(x) + 0.2), 0.1 * (np.ptp(y) + 0.1)
    axes[0, 0].set(ylabel="κ₂", xlim=(x.min() - pad_x, x.max() + pad_x), ylim=(max(0, y.min() - pad_y), y.max() + pad_y))
    axes[0, 0].legend(fontsize=6)
    return figure


def texture_lines(table: pd.DataFrame, properties: Sequence[str] = ("contrast", "homogeneity", "correlation", "entropy")) -> Figure:
    """GLCM properties against distance, range above and azimuth below; black is the original.

    ``table``: of ``texture_by_distance``.
    """
    directions = list(dict.fromkeys(table["direction"]))
    size = (2.7 * len(properties), 2.3 * len(directions))
    figure, axes = plt.subplots(len(directions), len(properties), figsize=size, sharex=True)
    for row, way in zip(axes, directions):
        for axis, label in zip(row, properties):
            own = table[(table["direction"] == way) & (table["property"] == label)]
            places = iter(range(own["name"].nunique()))
            for name, line in own.groupby("name", sort=False):
                style = {"color": "k", "lw": 2} if name == ORIGINAL else {"color": f"C{next(places)}", "lw": 1.2}
                axis.plot(line["distance"], line["value"], label=name, marker=".", ms=4, **style)
            axis.set_title(f"{label}, {way}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("distance [px]")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(handles[1]), fontsize=8, frameon=False)
    return figure


def point_sheet(images: Mapping[str, np.ndarray], cuts: Mapping[str, pd.DataFrame]) -> Figure:
    """The point before and after: one example image a variant above, mean power cuts along range and azimuth below.

    ``images``: name → grey uint8 [N, S, S], ``ORIGINAL`` first; ``cuts``: name → table of ``point_cuts``.
    """
    figure = plt.figure(figsize=(max(7.5, 1.5 * len(images)), 5.0))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.6])
    for axis, (name, stack) in zip(above.subplots(1, len(images), squeeze=False)[0], images.items()):
        middle = stack.shape[1] // 2
        axis.imshow(stack[0][middle - REACH : middle + REACH + 1, middle - REACH : middle + REACH + 1], vmin=0, vmax=255)
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=8)
    for axis, way in zip(below.subplots(1, 2, sharey=True), ("range", "azimuth")):
        places = iter(range(len(cuts)))
        for name, table in cuts.items():
            own = table[table["direction"] == way]
            style = {"color": "k", "lw": 2} if name == ORIGINAL else {"color": f"C{next(places)}", "lw": 1.2}
            axis.plot(own["offset"], own["power_db"], label=name, **style)
        axis.set(xlabel=f"offset along {way} [px]", ylabel="mean power [dB of the peak]" if way == "range" else "")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=len(cuts), fontsize=7, frameon=False)
    return figure


def bias_dots(table: pd.DataFrame) -> Figure:
    """Bias of σ⁰ by land cover, one colour a variant; grey: within 0.3 dB. ``table``: variant, cover, pixels, bias_db."""
    covers = list(dict.fromkeys(table["cover"]))
    names = list(dict.fromkeys(table["variant"]))
    figure, axis = plt.subplots(figsize=(7.0, 0.9 + 0.3 * len(covers)))
    axis.axvspan(-0.3, 0.3, color="0.9", zorder=0)
    axis.axvline(0, color="k", lw=1)
    for place, name in enumerate(names):
        own = table[table["variant"] == name].set_index("cover")["bias_db"].reindex(covers)
        axis.plot(own, np.arange(len(covers)) + 0.12 * (place - (len(names) - 1) / 2), "o", ms=5, color=f"C{place}", label=name)
    axis.set(yticks=range(len(covers)), yticklabels=covers, xlabel="σ⁰ of the decoded over the original image [dB]")
    axis.invert_yaxis()
    axis.legend(fontsize=7, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return figure


def loss_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Each term of the loss against the step, one panel a term, one colour a variant; unweighted.

    ``histories``: variant → its training history. A discriminator's steps before it joined, where its loss is 0, are left out.
    """
    known = (*TERM_WEIGHTS, "discriminator", "held_out")
    terms = [name for name in known if any(name in history for history in histories.values())]
    columns = min(4, len(terms))
    rows = -(-len(terms) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.8 * columns, 2.2 * rows), squeeze=False)
    for axis, term in zip(axes.ravel(), terms):
        for place, (name, history) in enumerate(histories.items()):
            own = history.reindex(columns=["step", term]).dropna()
            own = own[own[term] != 0] if term == "discriminator" else own
            axis.plot(own["step"], own[term], color=f"C{place}", marker=".", ms=4, lw=1.2, label=name)
        axis.set_title(term.replace("_", " "), fontsize=9)
    for axis in axes.ravel()[len(terms) :]:
        axis.remove()
    for axis in axes[-1]:
        axis.set_xlabel("step")
    axes[0, 0].legend(fontsize=7)
    return figure


def channel_bars(table: pd.DataFrame) -> Figure:
    """Mean (dot) and standard deviation (bar) of each latent channel, one colour a set; dashed: the unit normal's ±1.

    ``table``: of ``channel_table``.
    """
    names, channels = list(dict.fromkeys(table["set"])), table["channel"].nunique()
    figure, axis = plt.subplots(figsize=(max(6.0, 0.6 * channels), 3.0))
    for place, name in enumerate(names):
        own = table[table["set"] == name]
        shift = 0.6 * (place - (len(names) - 1) / 2) / max(1, len(names))
        axis.errorbar(own["channel"] + shift, own["mean"], yerr=own["std"], fmt="o", ms=4, lw=1.5, color=f"C{place}", label=name)
    for level in (-1, 1):
        axis.axhline(level, color="0.5", lw=1, ls="--")
    axis.set(xlabel="latent channel", ylabel="mean ± standard deviation", xticks=range(channels))
    axis.legend(fontsize=7, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return figure

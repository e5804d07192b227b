"""Figures of the notebooks on text encoders and the learned word."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sarnb.metrics.prompting import STATISTICS


def shift_dots(shifts: Mapping[str, pd.DataFrame], gap: pd.DataFrame) -> Figure:
    """How far the embeddings of each class went, a panel a strategy, and how alike two wordings are, before and after.

    ``shifts``: strategy → ``text_shift``; ``gap``: ``wording_gap``, one colour a model.
    """
    labels = list(dict.fromkeys(gap["class"]))
    size = (3.6 * (len(shifts) + 1) + 0.8, 1.4 + 0.24 * len(labels))
    figure, axes = plt.subplots(1, len(shifts) + 1, sharey=True, figsize=size, squeeze=False)
    for axis, (name, shift) in zip(axes[0], shifts.items()):
        for place, (wording, rows) in enumerate(shift.groupby("prompt", sort=False)):
            places = [labels.index(label) for label in rows["class"]]
            look = {"color": f"C{place}", "label": f"{wording} prompt", "markersize": 5}
            axis.plot(rows["token change"], places, "os"[place % 2], **look)
        axis.set(title=name, xlabel="change of the token vectors, relative")
        axis.set_xlim(left=0)
        axis.legend(fontsize=8, loc="best")
    last = axes[0][-1]
    for place, (model, rows) in enumerate(gap.groupby("model", sort=False)):
        places, color = [labels.index(label) for label in rows["class"]], "0.4" if place == 0 else f"C{place + 1}"
        last.plot(rows["cosine"], places, "o", color=color, label=model, markersize=5)
    last.set(title="radar and optical wording", xlabel="cosine of the pooled vectors")
    last.legend(fontsize=8, loc="best")
    axes[0][0].set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    return figure


def error_change_lines(table: pd.DataFrame, choice: pd.DataFrame) -> Figure:
    """Left: change of the error on radar images by timestep; right: how often the own wording explains an image better.

    ``table``: ``error_change``; ``choice``: ``caption_choice``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.4))
    models = list(dict.fromkeys(table["model"]))
    for place, model in enumerate(models):
        rows = table[table["model"] == model].sort_values("timestep")
        errors = 100 * np.stack([rows["value"] - rows["lo"], rows["hi"] - rows["value"]])
        left.errorbar(
            rows["timestep"], 100 * rows["value"], yerr=errors, marker="o", markersize=4, capsize=2, lw=1.2, color=f"C{place}", label=model
        )
    left.axhline(0, color="0.3", lw=1, ls="--")
    left.set(xlabel="timestep (small: the grain; large: the layout)", ylabel="change of the error [%]", title="radar images, radar prompts")
    left.legend(fontsize=8)
    names, kinds = list(dict.fromkeys(choice["model"])), list(dict.fromkeys(choice["images"]))
    for place, kind in enumerate(kinds):
        rows = choice[choice["images"] == kind].set_index("model").loc[names]
        places = np.arange(len(names)) + (place - (len(kinds) - 1) / 2) * 0.2
        errors = np.stack([rows["right"] - rows["lo"], rows["hi"] - rows["right"]])
        right.errorbar(rows["right"], places, xerr=errors, fmt="os"[place % 2], capsize=2, lw=1, color=f"C{place}", label=f"{kind} images")
    right.axvline(0.5, color="0.3", lw=1, ls="--")
    right.set(
        yticks=range(len(names)),
        yticklabels=names,
        ylim=(len(names) - 0.5, -0.5),
        xlim=(-0.03, 1.03),
        xlabel="share of images that their own wording explains better",
        title="which caption fits?",
    )
    right.legend(fontsize=8)
    return figure


def speckle_dots(table: pd.DataFrame, real: str) -> Figure:
    """Each set's statistics with their intervals, a panel a statistic; the dashed line is the set ``real``."""
    names = list(dict.fromkeys(table["set"]))
    size = (3.6 * len(STATISTICS) + 1.2, 1.2 + 0.3 * len(names))
    figure, axes = plt.subplots(1, len(STATISTICS), sharey=True, figsize=size)
    for axis, title in zip(axes, STATISTICS.values()):
        rows = table[table["statistic"] == title].set_index("set").loc[names]
        errors = np.nan_to_num(np.stack([rows["value"] - rows["lo"], rows["hi"] - rows["value"]]))
        axis.errorbar(rows["value"], range(len(names)), xerr=errors, fmt="o", markersize=5, capsize=2, lw=1, color="C0")
        axis.axvline(rows.loc[real, "value"], color="0.3", lw=1, ls="--", zorder=0)
        axis.set(title=title, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    if (table["value"] > 0).all():
        axes[-1].set_xscale("log")  # looks of smooth pictures are many times those of speckle
    return figure


def token_path_lines(paths: pd.DataFrame) -> Figure:
    """The way of the word: distance from its start and cosine with it, a line an encoder. ``paths``: ``path_table``."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.0))
    for axis, column in zip(axes, ("distance", "cosine")):
        for place, (encoder, rows) in enumerate(paths.groupby("encoder", sort=False)):
            axis.plot(rows["step"], rows[column], marker=".", color=f"C{place}", label=encoder)
        axis.set(xlabel="step", ylabel=f"{column} from its start" if column == "distance" else "cosine with its start")
    axes[0].legend(fontsize=8)
    return figure


def token_plane(plane: pd.DataFrame) -> Figure:
    """Ways from several words in the plane of most variance, a panel an encoder. ``plane``: ``path_plane``."""
    encoders = list(dict.fromkeys(plane["encoder"]))
    figure, axes = plt.subplots(1, len(encoders), figsize=(4.8 * len(encoders), 3.8), squeeze=False)
    for axis, encoder in zip(axes[0], encoders):
        part = plane[plane["encoder"] == encoder]
        for place, (word, rows) in enumerate(part.groupby("start", sort=False)):
            axis.plot(rows["x"], rows["y"], marker=".", markersize=4, lw=1.2, color=f"C{place}")
            axis.plot(
                rows["x"].iloc[0], rows["y"].iloc[0], "o", markersize=8, markerfacecolor="none", color=f"C{place}", label=f"from “{word}”"
            )
            axis.plot(rows["x"].iloc[-1], rows["y"].iloc[-1], "*", markersize=11, color=f"C{place}")
        axis.set(title=f"{encoder}: {part['shown'].iloc[0]:.0%} of the variance", xlabel="first axis", ylabel="second axis")
        axis.set_aspect("equal", adjustable="datalim")
    axes[0][0].legend(fontsize=8)
    return figure


def count_bars(counts: Mapping[str, pd.DataFrame]) -> Figure:
    """Trained parameters of each component, one colour a strategy, on a logarithmic scale; no bar where nothing trains.

    ``counts``: strategy → columns component, trains, as ``sarnb.model.strategy.component_counts`` gives.
    """
    parts = list(dict.fromkeys(part for table in counts.values() for part in table["component"]))
    figure, axis = plt.subplots(figsize=(7.5, 0.8 + 0.24 * len(parts) * len(counts)))
    height = 0.8 / len(counts)
    for place, (name, table) in enumerate(counts.items()):
        trains = table.set_index("component")["trains"].reindex(parts).fillna(0)
        places = np.arange(len(parts)) + (place - (len(counts) - 1) / 2) * height
        axis.barh(places, trains, height=0.9 * height, color=f"C{place}", label=name)
        for y, number in zip(places, trains):
            told = f"{int(number):,}" if number else "none"
            axis.annotate(told, (max(number, 1), y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_xscale("log")
    axis.set(yticks=range(len(parts)), yticklabels=parts, xlabel="parameters that train", ylim=(len(parts) - 0.5, -0.5))
    axis.set_xlim(1, 30 * max(table["trains"].max() for table in counts.values()))
    figure.legend(loc="outside lower right", ncols=len(counts), fontsize=8, frameon=False)
    return figure

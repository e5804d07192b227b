"""The comparison of two folders in tables and in Markdown: what to print, what to write down, and how it was computed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

import sarnb
from sarnb.data.plain import PlainFolder
from sarnb.errors import InputError
from sarnb.metrics.catalogue import METRICS
from sarnb.metrics.cautions import LEAST_FOR_INTERVAL
from sarnb.metrics.describe import law_table
from sarnb.metrics.evaluation import REAL_VS_REAL
from sarnb.metrics.fits import FAMILIES
from sarnb.metrics.folders import Comparison, Wish, sizes_table
from sarnb.metrics.report import BETTER, protocol_table
from sarnb.metrics.summary import format_interval

CLASS_METRICS = ("amplitude_kl", "amplitude_cv", "amplitude_enl", "texture_distance", "clip_accuracy")


def summary_table(comparison: Comparison) -> pd.DataFrame:
    """One row a measure over all images: measure, value with interval, floor, direction, unit; or why there is no value.

    Columns: measure, family, value, floor (the same measure between two halves of the real images), better, unit, reason.
    """
    rows = _pooled(comparison.table)
    missing = comparison.missing
    missing = missing[missing["split"].isin(("pooled", "all")) & missing["class"].isin(("all", "unlabelled"))]
    reasons = {(row["strategy"], row["metric"]): row["reason"] for _, row in missing.iterrows()}
    lines = []
    for name, metric in METRICS.items():
        cells = {}
        for strategy in (comparison.name, REAL_VS_REAL):
            found = rows[(rows["strategy"] == strategy) & (rows["metric"] == name)]
            cells[strategy] = format_interval(found.iloc[0]) if len(found) else ""
        value, floor = cells[comparison.name], cells[REAL_VS_REAL]
        told = reasons.get((comparison.name, name)) or reasons.get((comparison.name, "all"), "not computed")
        lines.append((name, metric.family, value, floor, BETTER[metric.better], metric.unit, "" if value else told))
    return pd.DataFrame(lines, columns=["measure", "family", "value", "floor", "better", "unit", "reason"])


def counted(comparison: Comparison) -> str:
    """How many images of what size are compared."""
    height, width = comparison.real.size
    return f"{len(comparison.real)} real and {len(comparison.fake)} generated images of {height} x {width} px"


def class_table(comparison: Comparison) -> pd.DataFrame:
    """Some measures by class, a row a class, cells "value [lo, hi]"; empty without classes."""
    table = comparison.table
    own = table[(table["strategy"] == comparison.name) & (table["class"] != "all") & table["metric"].isin(CLASS_METRICS)]
    cells = own.assign(cell=[format_interval(row) for _, row in own.iterrows()])
    wide = cells.pivot(index="class", columns="metric", values="cell")
    shown = [name for name in CLASS_METRICS if name in wide.columns]
    return wide.reindex(columns=shown).fillna("").reset_index().rename_axis(columns=None)


def laws_of_both(comparison: Comparison) -> pd.DataFrame:
    """Laws fitted to the amplitudes of each side, the best first: sample, law, parameters, ks; "none" for a constant side."""
    parts = []
    for name, part in (("real", comparison.real), (comparison.name, comparison.fake)):
        try:
            parts.append(law_table({name: part.histograms.sum(0)}, FAMILIES))
        except InputError as error:
            parts.append(pd.DataFrame([(name, "none", str(error), np.nan)], columns=["sample", "law", "parameters", "ks"]))
    return pd.concat(parts, ignore_index=True)


def setting_table(comparison: Comparison, wish: Wish, real: PlainFolder, fake: PlainFolder, judge: str) -> pd.DataFrame:
    """What was compared, and how, down to the definitions of the measures: item, value."""
    rows = [
        ("real", _told(real)),
        ("generated", _told(fake)),
        ("compared", f"{counted(comparison)}{', the middle of each' if wish.size else ''}"),
        ("sensor", wish.sensor or "all"),
        ("amplitude scales", "; ".join(sorted({_scale_words(key, scale) for key, scale in comparison.scales.items()}))),
        ("classes", "each counts the same; only those on both sides" if any(comparison.real.labels) else "not told apart"),
        ("floor", "one random half of the real images against the other, class by class"),
        ("intervals left out", f"fewer than {LEAST_FOR_INTERVAL} images on a side"),
        ("judge", judge or "none"),
        ("seed", str(wish.seed)),
        ("version", f"sarnb {sarnb.__version__}"),
    ]
    return pd.concat([pd.DataFrame(rows, columns=["item", "value"]), protocol_table(wish.resamples)], ignore_index=True)


def markdown(comparison: Comparison, setting: pd.DataFrame, figures: dict[str, str]) -> str:
    """The whole report. ``figures``: file name -> one sentence on what it shows."""
    summary = summary_table(comparison)
    known, gone = summary[summary["reason"] == ""], summary[summary["reason"] != ""]
    parts = [
        f"# {comparison.name} against real radar images",
        "## Read this first" if comparison.cautions else "",
        "\n".join(f"- {line}" for line in comparison.cautions),
        "## Measures",
        "Value with its 95 % interval; the floor is the same measure between two halves of the real images, so a set cannot "
        "be expected to do better.",
        known.drop(columns="reason").to_markdown(index=False),
        "## Not computed" if len(gone) else "",
        "\n".join(f"- {row['measure']}: {row['reason']}" for _, row in gone.iterrows()),
    ]
    classes = class_table(comparison)
    if len(classes):
        parts += ["## By class", classes.to_markdown(index=False)]
    parts += [
        "## Amplitude laws", "Kolmogorov-Smirnov distance `ks` of the histogram to each fitted law, the best first.",
        laws_of_both(comparison).round(4).to_markdown(index=False),
        "## Figures", "\n\n".join(f"![{words}](figures/{name}.png)\n{words}" for name, words in figures.items()),
        "## Images", sizes_table(comparison).to_markdown(index=False),
        "## Protocol", setting.to_markdown(index=False),
        "Measures: " + "; ".join(f"`{name}`: {metric.meaning}" for name, metric in METRICS.items()) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def floor_ratios(comparison: Comparison) -> pd.DataFrame:
    """Measures that are better low as multiples of their floor, where that is above 0: measure, family, ratio, lo, hi."""
    rows = _pooled(comparison.table)
    found = []
    for name, metric in METRICS.items():
        own = rows[(rows["metric"] == name) & (rows["strategy"] == comparison.name)]
        floor = rows[(rows["metric"] == name) & (rows["strategy"] == REAL_VS_REAL)]
        if metric.better == "lower" and len(own) and len(floor) and floor["value"].iloc[0] > 0 and own["value"].iloc[0] > 0:
            value, lo, hi = (own[column].iloc[0] / floor["value"].iloc[0] for column in ("value", "lo", "hi"))
            found.append((name, metric.family, value, lo, hi))
    return pd.DataFrame(found, columns=["measure", "family", "ratio", "lo", "hi"])


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["split"] == "pooled") & (table["class"] == "all")]


def _told(folder: PlainFolder) -> str:
    storages, sensors = Counter(one.storage for one in folder.facts), Counter(folder.sensors())
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(storages.items()))
    known = ", ".join(f"{name} {count}" for name, count in sorted(sensors.items()))
    return f"{folder.source.resolve().name}: {len(folder)} images ({kinds}; sensor {known})"


def _scale_words(key: tuple[str, str, str], scale) -> str:
    side, sensor, storage = key
    if scale is None:
        return f"{side} {storage}: as stored"
    return f"{side} {storage} ({sensor}): A / {scale.scale:.6g}, mu {scale.mu:.6g}, sigma {scale.sigma:.6g}"

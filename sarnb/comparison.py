"""What ``python -m sarnb evaluate`` does: compare two folders of radar images, print the table, write it with figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

import sarnb
from sarnb.data.files import check_out, claim, clear, release
from sarnb.data.imagefolder import ImageFolder, read_captions, read_folder
from sarnb.errors import InputError
from sarnb.metrics import METRICS, class_name
from sarnb.metrics.describe import FAMILIES, law_table
from sarnb.metrics.evaluation import REFERENCE_FLOOR
from sarnb.metrics.folders import LEAST_FOR_INTERVAL, Comparison, Options, compare
from sarnb.metrics.report import format_interval, protocol_table
from sarnb.plots import set_theme
from sarnb.plots.evaluation import amplitude_histograms, cumulant_diagram, interval_panels, mosaic, texture_lines
from sarnb.results import figure_file, write_atomically

TABLE, REPORT = "evaluation.csv", "evaluation.md"
KIND, OUTPUTS = "comparison", (TABLE, REPORT, "left_out.csv", "laws.csv", "protocol.csv", "figures/*.png", "figures/*.svg")
CLASS_METRICS = ["amplitude_kl", "amplitude_cv", "amplitude_enl", "texture_distance", "clip_accuracy"]


def compare_folders(
    real: Path,
    fake: Path,
    out: Path,
    options: Options,
    captions: Path | None = None,
    clip: str = "",
    train: Path | None = None,
) -> Comparison:
    """Compare two folders, print the verdict, and write evaluation.csv, evaluation.md, other tables and figures into ``out``.

    Parameters
    ----------
    real, fake : folders of images.
    options : see ``Options``.
    captions : metadata.jsonl that describes images of either.
    clip : SAR-CLIP, a folder.
    train : training images of the generator, for the check of memorisation.

    Raises
    ------
    InputError
        Bad folders, images, captions or judge, or an ``out`` that cannot be written.
    """
    inputs = [place for place in (real, fake, train, captions, clip) if place]
    check_out(out, KIND, inputs, OUTPUTS)
    judge = None
    if clip:
        from sarnb.model.judge import load_judge

        judge = load_judge(clip)  # before hours of reading: a wrong path is reported at once
    rows = read_captions(captions, (fake, real)) if captions else None
    quantity, quantity_of_fake = options.quantities
    sides = [read_folder(folder, rows, options.workers, what) for folder, what in ((real, quantity), (fake, quantity_of_fake))]
    known = read_folder(train, None, options.workers, quantity) if train else None
    comparison = compare(*sides, options, judge, known)
    named = zip(("real", "generated", "training"), (*sides, known))
    read = [f"{side} {folder.source.resolve().name}: {note}" for side, folder in named if folder for note in folder.notes]
    comparison = replace(comparison, cautions=(*comparison.cautions, *read))
    set_theme()
    figures = _figures(comparison)
    files: dict[str, str | bytes] = {}
    shown = {}
    for name, (figure, words) in figures.items():
        ending, content = figure_file(figure, name)
        files[f"figures/{name}.{ending}"] = content
        shown[f"figures/{name}.{ending}"] = words
        plt.close(figure)
    laws, setting = laws_of_both(comparison), setting_table(comparison, options, *sides, clip)
    for name, table in {"left_out": comparison.missing, "laws": laws, "protocol": setting, "evaluation": comparison.table}.items():
        files[f"{name}.csv"] = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files[REPORT] = markdown(comparison, laws, setting, shown)
    clear(claim(out, KIND, inputs, OUTPUTS))  # of an earlier comparison no figure stays
    for name, content in files.items():
        write_atomically(out / name, content)
    release(out)
    print(text(comparison))
    print(f"\n{out / REPORT}: the same with protocol, laws, classes and figures; {out / TABLE}: all values")
    return comparison


# Figures.


def _figures(comparison: Comparison) -> dict[str, tuple[Figure, str]]:
    """File name -> the figure, and one sentence on what it shows."""
    sets = {"reference": [comparison.real], comparison.name: [comparison.fake]}
    columns = max(len(images) for images in comparison.examples)
    rows = [[*images, *[None] * (columns - len(images))] for images in comparison.examples]
    fake = comparison.name if len(comparison.name) < 20 else "generated"
    images = mosaic(rows, ["reference", fake], [""] * columns)
    figures = {
        "images": (images, "Images drawn by the seed: real above, generated below."),
        "amplitude": (amplitude_histograms(sets), "Grey levels of the generated images (line) over those of the real ones (area)."),
        "log_cumulants": (cumulant_diagram(sets), "Log-cumulants of both sets among the laws of speckle; small marks are classes."),
        "texture": (texture_lines(sets), "Co-occurrence properties by distance and direction, real images in black."),
    }
    ratios = floor_ratios(comparison)
    if len(ratios):
        floor = pd.DataFrame({"strategy": [REFERENCE_FLOOR], "ratio": 1.0})
        panel = {"": pd.concat([ratios.rename(columns={"measure": "strategy"}), floor])}
        dots = interval_panels(panel, "ratio", "multiple of the floor (lower is better)", dict.fromkeys(ratios["measure"], "C0"))
        dots.axes[0].set_xscale("log")
        dots.axes[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figures["floor"] = (dots, "Each measure as a multiple of what real images reach against other real images.")
    return figures


# Tables and text.


def summary_tables(comparison: Comparison) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The measures over all images that have a value, and those that have none, a row each.

    Columns: measure, family, value (with interval), floor (the same measure between real images and others), better,
    unit; of the second table: measure, reason.
    """
    rows = _pooled(comparison.table)
    cells = {(row["strategy"], row["metric"]): format_interval(row) for _, row in rows.iterrows()}
    missing = comparison.missing
    missing = missing[missing["split"].isin(("pooled", "all")) & missing["class"].isin(("all", "unlabelled"))]
    reasons = dict(zip(zip(missing["strategy"], missing["metric"]), missing["reason"]))
    lines = []
    for name, metric in METRICS.items():
        value, floor = (cells.get((strategy, name), "") for strategy in (comparison.name, REFERENCE_FLOOR))
        reason = reasons.get((comparison.name, name)) or reasons.get((comparison.name, "all"), "not computed")
        lines.append((name, metric.family, value, floor, metric.direction, metric.unit, "" if value else reason))
    table = pd.DataFrame(lines, columns=["measure", "family", "value", "floor", "better", "unit", "reason"])
    known = table["reason"] == ""
    return table[known].drop(columns="reason"), table.loc[~known, ["measure", "reason"]]


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table["split"] == "pooled") & (table["class"] == "all")]


def floor_ratios(comparison: Comparison) -> pd.DataFrame:
    """Measures that are better low as multiples of their floor, where both are above 0: measure, ratio, lo, hi."""
    rows = _pooled(comparison.table).set_index(["strategy", "metric"])[["value", "lo", "hi"]]
    both = [name for name in (comparison.name, REFERENCE_FLOOR) if name in rows.index.get_level_values(0)]
    if len(both) < 2:
        return pd.DataFrame(columns=["measure", "ratio", "lo", "hi"])
    lower = [name for name, metric in METRICS.items() if metric.better == "lower"]
    own, floor = (rows.loc[name].reindex(lower) for name in both)
    above = (own["value"] > 0) & (floor["value"] > 0)
    ratios = own[above].div(floor.loc[above, "value"], axis=0)
    return ratios.rename(columns={"value": "ratio"}).rename_axis("measure").reset_index()


def values_by_class(comparison: Comparison) -> pd.DataFrame:
    """Some measures by class, a row a class, cells "value [lo, hi]"; empty without classes."""
    table = comparison.table
    own = table[(table["strategy"] == comparison.name) & (table["class"] != "all") & table["metric"].isin(CLASS_METRICS)]
    cells = own.assign(cell=[format_interval(row) for _, row in own.iterrows()])
    wide = cells.pivot(index="class", columns="metric", values="cell")
    shown = [name for name in CLASS_METRICS if name in wide.columns]
    return wide.reindex(columns=shown).fillna("").reset_index().rename_axis(columns=None)


def sizes_table(comparison: Comparison) -> pd.DataFrame:
    """Images of each class on both sides: columns class, real, generated; the last row is all."""
    counts = [Counter(part.labels) for part in (comparison.real, comparison.fake)]
    rows = [(class_name(label), counts[0][label], counts[1][label]) for label in sorted({*counts[0], *counts[1]})]
    return pd.DataFrame([*rows, ("all", len(comparison.real), len(comparison.fake))], columns=["class", "real", "generated"])


def laws_of_both(comparison: Comparison) -> pd.DataFrame:
    """Laws fitted to the amplitudes of each side, the best first: sample, law, parameters, ks; "none" for a constant side."""
    parts = []
    for name, part in (("real", comparison.real), (comparison.name, comparison.fake)):
        try:
            parts.append(law_table({name: part.histograms.sum(0)}, FAMILIES))
        except InputError as error:
            parts.append(pd.DataFrame([(name, "none", str(error), np.nan)], columns=["sample", "law", "parameters", "ks"]))
    return pd.concat(parts, ignore_index=True)


def setting_table(comparison: Comparison, options: Options, real: ImageFolder, fake: ImageFolder, judge: str) -> pd.DataFrame:
    """What was compared, and how, down to the definitions of the measures: item, value."""
    scales = []
    for (side, sensor, storage), scale in comparison.scales.items():
        numbers = "" if scale is None else f"A / {scale.scale:.6g}, mu {scale.mu:.6g}, sigma {scale.sigma:.6g}"
        scales.append(f"{side} {storage} ({sensor}): {numbers}" if numbers else f"{side} {storage}: as stored")
    rows = [
        ("real", _contents(real)),
        ("generated", _contents(fake)),
        ("compared", f"{counted(comparison)}{', the middle of each' if options.size else ''}"),
        ("sensor", options.sensor or "all"),
        ("amplitude scales", "; ".join(sorted(set(scales)))),
        ("classes", "each counts the same; only those on both sides" if any(comparison.real.labels) else "not distinguished"),
        ("floor", "real images against as many others as were generated, half of them at most: median and 95 % of random halvings"),
        ("intervals left out", f"fewer than {LEAST_FOR_INTERVAL} images on a side"),
        ("judge", judge or "none"),
        ("seed", str(options.seed)),
        ("version", f"sarnb {sarnb.__version__}"),
    ]
    return pd.concat([pd.DataFrame(rows, columns=["item", "value"]), protocol_table(options.resamples)], ignore_index=True)


def _contents(folder: ImageFolder) -> str:
    storages, sensors = Counter(image.facts.storage for image in folder.images), Counter(image.sensor for image in folder.images)
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(storages.items()))
    known = ", ".join(f"{name} {count}" for name, count in sorted(sensors.items()))
    return f"{folder.source.resolve().name}: {len(folder)} images ({kinds}; sensor {known})"


def counted(comparison: Comparison) -> str:
    """How many images of what size are compared."""
    height, width = comparison.real.size
    return f"{len(comparison.real)} real and {len(comparison.fake)} generated images of {height} x {width} px"


def text(comparison: Comparison) -> str:
    """The verdict for a terminal: sizes, cautions, measures, and what could not be computed."""
    known, gone = summary_tables(comparison)
    parts = [
        f"{counted(comparison)}; value [95 % interval over images]; floor: real images against other real images, "
        "median [95 % of random halvings].",
        *(f"! {line}" for line in comparison.cautions),
        "",
        known[["measure", "value", "floor", "better", "unit"]].to_markdown(index=False, tablefmt="presto"),
    ]
    for reason, part in gone.groupby("reason", sort=False):
        parts.append(f"not computed: {', '.join(part['measure'])}: {reason}")
    return "\n".join(parts)


def _rows(table: pd.DataFrame) -> str:
    """A table in Markdown; a "|" in a name ends no cell."""
    return table.map(lambda cell: cell.replace("|", r"\|") if isinstance(cell, str) else cell).to_markdown(index=False)


def markdown(comparison: Comparison, laws: pd.DataFrame, setting: pd.DataFrame, figures: dict[str, str]) -> str:
    """The whole report. ``figures``: path of a figure -> one sentence on what it shows."""
    (known, gone), classes = summary_tables(comparison), values_by_class(comparison)
    parts = [
        f"# {comparison.name} against real radar images",
        "## Read this first" if comparison.cautions else "",
        "\n".join(f"- {line}" for line in comparison.cautions),
        "## Measures",
        "Value with its 95 % interval; the floor is the same measure between real images and other "
        "real ones, the median of random halvings with the range of 95 % of them, so a set cannot "
        "be expected to do better.",
        _rows(known),
        "## Not computed" if len(gone) else "",
        "\n".join(f"- {row['measure']}: {row['reason']}" for _, row in gone.iterrows()),
        "## By class" if len(classes) else "",
        _rows(classes) if len(classes) else "",
        "## Amplitude laws",
        "Kolmogorov-Smirnov distance `ks` of the histogram to each fitted law, the best first.",
        _rows(laws.round(4)),
        "## Figures",
        "\n\n".join(f"![{words}]({path})\n{words}" for path, words in figures.items()),
        "## Images",
        _rows(sizes_table(comparison)),
        "## Protocol",
        _rows(setting),
        "Measures: " + "; ".join(f"`{name}`: {metric.meaning}" for name, metric in METRICS.items()) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"

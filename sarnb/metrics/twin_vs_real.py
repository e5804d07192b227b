"""The twin world beside real radar images: the same measures for both, and where the two do not meet.

Tables hold one row a class and sensor, from `group_table`. Every sentence is made from the table it speaks of.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sarnb.data.measured import ImageGroup
from sarnb.errors import InputError
from sarnb.metrics.describe import image_measures

SCALE_FREE = ("cv", "enl", "kappa2", "kappa3", "lag 1 range", "lag 1 azimuth", "correlation range", "correlation azimuth")
"""Measures that do not change when all amplitudes of a sensor are multiplied by one number, clipping apart."""
LEAST_LOOKS = 0.75
"""Amplitude of one look has an ENL of 1 on flat ground; below this median a sensor's values are probably no amplitude."""
ALIKE = {
    "city": ("city", "san francisco", "shanghai"),
    "crop fields": ("field", "crop fields"),
    "mountains": ("mountain", "mountains", "hills"),
    "coast": ("coast", "labrador coast"),
    "harbour": ("harbour",),
    "forest": ("forest",),
}
"""Classes of the twin world and real labels that show the like."""


def group_table(groups: Sequence[ImageGroup], world: str, distance: int = 4) -> pd.DataFrame:
    """One row a group: world, source, sensor, class, n, and the mean over its images of each of `image_measures`.

    NaN, as the ENL of an image without a usable window, is left out of the mean. ``distance`` of the GLCM in px.
    """
    rows = [
        {
            "world": world,
            "source": group.source,
            "sensor": group.sensor,
            "class": group.label,
            "n": len(group.patches),
            **image_measures(group.patches, distance).mean(),
        }
        for group in groups
    ]
    return pd.DataFrame(rows)


def no_amplitude(real: pd.DataFrame) -> pd.Series:
    """Sensors whose median ENL over classes is below LEAST_LOOKS: sensor -> that median."""
    looks = real.groupby("sensor", sort=False)["enl"].median()
    return looks[looks < LEAST_LOOKS]


def sensor_medians(table: pd.DataFrame, measures: Sequence[str] = SCALE_FREE) -> pd.DataFrame:
    """Median over classes of each measure: rows world, sensor, classes (their number) and the measures."""
    grouped = table.groupby(["world", "sensor"], sort=False)
    medians = grouped[list(measures)].median()
    medians.insert(0, "classes", grouped.size())
    return medians.reset_index()


def world_gaps(own: pd.DataFrame, real: pd.DataFrame, measures: Sequence[str] = SCALE_FREE) -> pd.DataFrame:
    """For each measure the range of the class means in both tables, and the classes of ``own`` outside that of ``real``.

    Columns: measure, own low, own high, real low, real high, below, above (class names with their value, by value) and
    outside (their number). Raises InputError where a table has no row.
    """
    if own.empty or real.empty:
        raise InputError("comparison of worlds: one of the tables has no row; give at least one class of each")
    rows = []
    for measure in measures:
        values, low, high = own.set_index("class")[measure].sort_values(), real[measure].min(), real[measure].max()
        sides = [values[values < low], values[values > high]]
        words = [", ".join(f"{name} {value:.3g}" for name, value in side.items()) for side in sides]
        rows.append((measure, values.min(), values.max(), low, high, *words, sum(map(len, sides))))
    return pd.DataFrame(rows, columns=["measure", "own low", "own high", "real low", "real high", "below", "above", "outside"])


def gap_sentences(gaps: pd.DataFrame, classes: int, whose: str = "twin") -> list[str]:
    """What a table of `world_gaps` over ``classes`` classes of ``whose`` world says, one sentence a measure."""
    sentences = []
    for _, row in gaps.iterrows():
        span = f"the real images span {row['real low']:.3g} to {row['real high']:.3g}"
        if not row["outside"]:
            inside = f"at {row['own low']:.3g} to {row['own high']:.3g}"
            sentences.append(f"{row['measure']}: {span}; all {classes} {whose} classes lie inside, {inside}.")
            continue
        sides = [f"{side} it {row[side]}" for side in ("below", "above") if row[side]]
        sentences.append(f"{row['measure']}: {span}; {row['outside']} of {classes} {whose} classes lie outside, {' and '.join(sides)}.")
    return sentences


def alike_table(own: pd.DataFrame, real: pd.DataFrame, measures: Sequence[str] = SCALE_FREE) -> pd.DataFrame:
    """Classes with real counterparts: rows class, real (their number), and for each measure the value beside their span.

    A value outside the span of its counterparts is marked with <, too small, or >, too large. Classes are matched by
    ALIKE; those with fewer than two counterparts, which span nothing, are left out.
    """
    rows = []
    for _, row in own.iterrows():
        like = real[real["class"].isin(ALIKE.get(row["class"], (row["class"],)))]
        if len(like) < 2:
            continue
        found = {"class": row["class"], "real": len(like)}
        for measure in measures:
            low, high, value = like[measure].min(), like[measure].max(), row[measure]
            mark = "<" if value < low else ">" if value > high else ""
            found[measure] = f"{value:.2f} {mark}({low:.2f} to {high:.2f})"
        rows.append(found)
    return pd.DataFrame(rows, columns=["class", "real", *measures])


def alike_sentences(alike: pd.DataFrame, measures: Sequence[str] = SCALE_FREE) -> list[str]:
    """What a table of `alike_table` says, one sentence a measure: which classes leave the span of their real counterparts."""
    sentences = []
    for measure in measures:
        sides = []
        for mark, word in (("<", "smaller"), (">", "larger")):
            names = ", ".join(alike.loc[alike[measure].str.contains(mark, regex=False), "class"])
            sides += [f"{word} than in all its real counterparts for {names}"] if names else []
        sentences.append(f"{measure}: {'; '.join(sides) or 'every class within the span of its real counterparts'}.")
    return sentences

"""Which classes stand side by side in a figure, group by group: seen in radar training, unseen, compositions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sarnb.data.dataset import ImageSet

GROUPS = ("seen", "unseen", "composition")
_PLURALS = {"seen": "seen classes", "unseen": "unseen classes", "composition": "compositions"}


@dataclass(frozen=True)
class Column:
    """One place of a comparison: an image of class ``label``, which belongs to ``group``."""

    group: str
    label: str


def columns_of(*sets: ImageSet, groups: Sequence[str] = ("seen", "unseen"), most: int = 12) -> tuple[Column, ...]:
    """At most ``most`` columns: one a class that every set has, in the order of ``groups``, then of first appearance."""
    first, others = sets[0], sets[1:]
    shared = [label for label in dict.fromkeys(first.labels) if all(label in images.labels for images in others)]
    group = {label: _group(row) for label, row in zip(first.labels, first.rows)}
    return tuple(Column(name, label) for name in groups for label in shared if group[label] == name)[:most]


def pick(images: ImageSet, columns: Sequence[Column]) -> list[int]:
    """The index in ``images`` of the first image of each column's class."""
    return [images.labels.index(column.label) for column in columns]


def missing_groups(images: ImageSet) -> str:
    """One sentence on the groups that ``images`` lacks, "" if it has all three."""
    present = {_group(row) for row in images.rows}
    absent = [_PLURALS[group] for group in GROUPS if group not in present]
    if not absent:
        return ""
    return f"These data have no {' and no '.join(absent)}, so nothing is shown or measured for them."


def _group(row: dict) -> str:
    return row.get("group") or "seen"

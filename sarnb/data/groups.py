"""Which classes stand side by side in a figure, group by group: seen in radar training, unseen, compositions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sarnb.data.dataset import ImageSet

GROUPS = ("seen", "unseen", "composition")
_PLURALS = {"seen": "seen classes", "unseen": "unseen classes", "composition": "compositions"}


@dataclass(frozen=True)
class Column:
    """One place of a comparison: image ``number`` (from 0) of class ``label`` ("" where images have no class)."""

    group: str
    label: str
    number: int

    @property
    def title(self) -> str:
        """What stands over it: the class, or the image's number (from 1) where there is no class."""
        return self.label or f"image {self.number + 1}"


def columns_of(*sets: ImageSet, groups: Sequence[str] = ("seen", "unseen"), most: int = 12) -> tuple[Column, ...]:
    """At most ``most`` columns that every set can fill: one a class in the order of ``groups``, then of first appearance.

    Images without a class fill a column each, in order; image i of one set then stands over image i of the others, as the
    evaluation images of an unlabelled test set follow its captions.
    """
    first, others = sets[0], sets[1:]
    columns = []
    for group in groups:
        labels = dict.fromkeys(label for label, row in zip(first.labels, first.rows) if _group(row) == group)
        for label in labels:
            counts = [_members(images, label) for images in (first, *others)]
            shared = min(map(len, counts))
            columns += [Column(group, label, number) for number in range(shared if label == "" else min(1, shared))]
    return tuple(columns[:most])


def pick(images: ImageSet, columns: Sequence[Column]) -> list[int]:
    """The index in ``images`` of each column's image."""
    return [_members(images, column.label)[column.number] for column in columns]


def missing_groups(images: ImageSet) -> str:
    """One sentence on the groups that ``images`` lacks, "" if it has all three."""
    present = {_group(row) for row in images.rows}
    absent = [_PLURALS[group] for group in GROUPS if group not in present]
    if not absent:
        return ""
    return f"These data have no {' and no '.join(absent)}, so nothing is shown or measured for them."


def _group(row: dict) -> str:
    return row.get("group") or "seen"


def _members(images: ImageSet, label: str) -> list[int]:
    return [index for index, name in enumerate(images.labels) if name == label]

"""Columns of a comparison: what every set can fill, group by group."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sarnb.data.dataset import ImageSet, columns_of, missing_groups, pick


def make_set(labels, groups):
    rows = tuple({"label": label, "group": group} for label, group in zip(labels, groups))
    images = np.arange(len(rows), dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    return ImageSet(Path("."), tuple(map(str, range(len(rows)))), images, ("text",) * len(rows), tuple(labels), rows)


REAL = make_set(["harbour", "city", "city", "river+forest", "forest"], ["unseen", "seen", "seen", "composition", "seen"])
FAKE = make_set(["city", "harbour", "forest", "forest"], ["seen", "unseen", "seen", "seen"])


def test_columns_follow_the_groups_and_hold_one_image_of_each_set():
    columns = columns_of(REAL, FAKE)
    assert [(column.group, column.label) for column in columns] == [("seen", "city"), ("seen", "forest"), ("unseen", "harbour")]
    assert pick(REAL, columns) == [1, 4, 0] and pick(FAKE, columns) == [0, 2, 1]
    assert [column.label for column in columns_of(REAL, FAKE, most=2)] == ["city", "forest"]
    assert [column.label for column in columns_of(REAL, groups=("composition",))] == ["river+forest"]


def test_a_class_that_one_set_lacks_has_no_column():
    assert columns_of(REAL, FAKE, groups=("composition",)) == ()


def test_the_sentence_on_missing_groups():
    assert missing_groups(REAL) == ""
    only_seen = make_set(["city"], [None])
    assert missing_groups(only_seen) == ("These data have no unseen classes and no compositions, so nothing is shown or measured for them.")

"""Sets of images: columns of a comparison, some images of each label, metadata, and twin scenes drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import ImageSet, card_table, columns_of, load_set, missing_groups, pick, read_metadata, some_per_label
from sarnb.data.twin import SplitSpec, build_twin, redraw_scene
from sarnb.errors import InputError
from sarnb.world.radar import amplitude, simulate


def make_set(labels, groups):
    rows = tuple({"file_name": str(n), "label": label, "group": group} for n, (label, group) in enumerate(zip(labels, groups)))
    images = np.arange(len(rows), dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    return ImageSet(Path("."), images, rows)


REAL = make_set(["harbour", "city", "city", "river+forest", "forest"], ["unseen", "seen", "seen", "composition", "seen"])
FAKE = make_set(["city", "harbour", "forest", "forest"], ["seen", "unseen", "seen", "seen"])


def test_columns_follow_the_groups_and_hold_one_image_of_each_set():
    columns = columns_of(REAL, FAKE)
    assert [(column.group, column.label) for column in columns] == [("seen", "city"), ("seen", "forest"), ("unseen", "harbour")]
    assert pick(REAL, columns) == [1, 4, 0] and pick(FAKE, columns) == [0, 2, 1]
    assert [column.label for column in columns_of(REAL, FAKE, most=2)] == ["city", "forest"]
    assert [column.label for column in columns_of(REAL, groups=("composition",))] == ["river+forest"]
    assert columns_of(REAL, FAKE, groups=("composition",)) == ()  # a class that one set lacks


def test_the_sentence_on_missing_groups():
    assert missing_groups(REAL) == ""
    only_seen = make_set(["city"], [None])
    assert missing_groups(only_seen) == ("These data have no unseen classes and no compositions, so nothing is shown or measured for them.")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("twin") / "data"
    splits = {"train": SplitSpec(("city", "river"), 4), "test": SplitSpec(("city", "stadium", "river+forest"), 3)}
    return folder, build_twin(folder, splits, size=64, workers=1)


def test_a_folder_without_splits_and_a_split_given_for_the_whole_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no split"):
        read_metadata(tmp_path)
    (tmp_path / "set/train").mkdir(parents=True)
    (tmp_path / "set/train/metadata.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"set/train: is one split of a data set; give the folder of all, .*/set$"):
        load_set(tmp_path / "set/train/test")


def test_card_table_is_flat_text(twin: tuple[Path, dict]) -> None:
    facts = card_table(twin[1]).set_index("fact")["value"]
    assert facts["has truth"] == "yes"
    assert facts["totals: train"] == "4"
    assert "fingerprint" not in facts
    assert facts.map(lambda value: isinstance(value, str)).all()


def test_scene_drawn_again_equals_the_stored_image(twin: tuple[Path, dict]) -> None:
    folder, card = twin
    stored = load_set(folder / "test")
    scale = Normalisation(card["mu"], card["sigma"])
    for image, row in zip(stored.images, stored.rows):
        np.testing.assert_array_equal(scale.apply(amplitude(simulate(*redraw_scene(row, 64)))), image)
    with pytest.raises(InputError, match="only twin images"):
        redraw_scene({"file_name": "a.png", "label": "city", "look": None}, 64)


def test_some_per_label_bounds_and_keeps_order() -> None:
    images = make_set("a" * 9 + "b" * 2, "x" * 11)
    some = some_per_label(images, 3, seed=1)
    assert some.labels == ("a",) * 3 + ("b",) * 2
    assert list(map(int, some.ids)) == sorted(map(int, some.ids))
    assert some_per_label(images, 3, seed=1).ids == some.ids
    assert len({some_per_label(images, 3, seed).ids for seed in range(8)}) > 1
    with pytest.raises(InputError, match="at least 1"):
        some_per_label(images, 0)

"""Tables of a data set against counts made by hand, and scenes drawn again against the stored files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import write_set
from sarnb.data.overview import (
    caption_lengths,
    caption_table,
    card_table,
    class_table,
    content_words,
    read_metadata,
    redraw_scene,
    some_per_label,
)
from sarnb.data.twin import SplitSpec, build_twin
from sarnb.errors import InputError
from sarnb.world.radar import amplitude, simulate


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("twin") / "data"
    splits = {"train": SplitSpec(("city", "river"), 4), "test": SplitSpec(("city", "stadium", "river+forest"), 3)}
    return folder, build_twin(folder, splits, size=64, workers=1)


def test_class_table_counts_every_image_once(twin: tuple[Path, dict]) -> None:
    folder, card = twin
    table = class_table(read_metadata(folder)).set_index("class")
    assert list(table.index) == ["city", "river", "stadium", "river+forest", "all"]
    assert table.loc["city", ["train", "test"]].tolist() == [2, 1]
    assert {label: int(table.loc[label, "train"]) for label in card["counts"]["train"]} == card["counts"]["train"]
    assert table.loc["all", ["train", "test"]].tolist() == [4, 3]
    assert (table["left"] + table["right"]).tolist() == (table["train"] + table["test"]).tolist()
    assert table["group"].tolist() == ["seen", "seen", "unseen", "composition", ""]


def test_class_table_counts_captions_and_words(tmp_path: Path) -> None:
    rows = [
        {"text": "a b", "captions": ["a b", "a b c d"], "label": "x", "group": "seen"},
        {"text": "a b", "captions": ["a b", "e"], "label": "x", "group": "seen"},
        {"text": "lonely", "label": "y", "group": "seen"},
    ]
    write_set(tmp_path / "train", np.zeros((3, 8, 8), np.uint8), rows)
    table = class_table(read_metadata(tmp_path)).set_index("class")
    assert table["different captions"].tolist() == [3, 1, 4]
    assert table["words, median"].tolist() == [2.0, 1.0, 2.0]  # 2 4 2 1 | 1 | 2 4 2 1 1
    assert table["words, most"].tolist() == [4, 1, 4]
    assert "left" not in table, "no look column where no image tells its side"


def test_caption_tables_count_what_is_written(tmp_path: Path) -> None:
    rows = [
        {
            "text": "a city",
            "captions": ["a city", "a city with two towers, seen from the left", "a city, incidence 40 degrees"],
            "label": "x",
        },
        {
            "text": "a city",
            "captions": ["a city", "Towers of a city", "a city with dozens of towers, incidence 30 degrees, from the right"],
            "label": "x",
        },
        {"text": "a leftover lake", "label": "y"},
    ]
    write_set(tmp_path / "train", np.zeros((3, 8, 8), np.uint8), [{**row, "group": "seen"} for row in rows])
    captions = caption_lengths(read_metadata(tmp_path))
    assert captions["length"].tolist() == ["short", "mid", "long"] * 2 + ["given"]
    table = caption_table(captions).set_index("length")
    assert table["captions"].tolist() == [2, 2, 2, 1] and table["different"].tolist() == [1, 2, 2, 1]
    assert table.loc["mid", ["words, least", "words, median", "words, most"]].tolist() == [4, 6.5, 9]
    assert table["names look side"].tolist() == [0, 0.5, 0.5, 0], "leftover is no side"
    assert table["names incidence"].tolist() == [0, 0, 1, 0]
    assert table["names a count"].tolist() == [0, 0.5, 0.5, 0], "degrees are no count"
    words = content_words(captions).set_index("class")["words"]
    assert words["x"] == "city 100%, towers 50%" and words["y"] == "lake 100%, leftover 100%"
    assert content_words(captions, most=1)["words"].tolist() == ["city 100%", "lake 100%"]


def test_a_folder_without_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no split"):
        read_metadata(tmp_path)


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
        scene, radar = redraw_scene(row, 64)
        np.testing.assert_array_equal(scale.apply(amplitude(simulate(scene, radar, row["seed"]))), image)


def test_user_images_cannot_be_drawn_again() -> None:
    with pytest.raises(InputError, match="only twin images"):
        redraw_scene({"file_name": "a.png", "label": "city", "look": None}, 64)


def test_some_per_label_bounds_and_keeps_order() -> None:
    labels = ("a",) * 9 + ("b",) * 2
    images = ImageSet(
        Path("."), tuple(map(str, range(11))), np.zeros((11, 8, 8), np.uint8), labels, labels, tuple({"label": x} for x in labels)
    )
    some = some_per_label(images, 3, seed=1)
    assert some.labels == ("a",) * 3 + ("b",) * 2
    assert list(map(int, some.ids)) == sorted(map(int, some.ids))
    assert some_per_label(images, 3, seed=1).ids == some.ids
    assert len({some_per_label(images, 3, seed).ids for seed in range(8)}) > 1
    with pytest.raises(InputError, match="at least 1"):
        some_per_label(images, 0)

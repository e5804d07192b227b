"""Sets of images: columns of a comparison, some images of each label, metadata, twin scenes drawn again, and the data card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sarnb.data import dataset
from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import ImageSet, card_table, columns_of, data_card, load_card, load_set, pick
from sarnb.data.files import README, read_numbered
from sarnb.data.prepare import prepare_user_data
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


@pytest.mark.parametrize(
    ("seen", "unseen", "shown"), [(8, 4, (8, 4)), (19, 2, (10, 2)), (19, 9, (8, 4)), (3, 12, (3, 9)), (19, 0, (12, 0))]
)
def test_many_seen_classes_hide_no_unseen_ones(seen, unseen, shown):
    images = make_set([f"class {n}" for n in range(seen + unseen)], ["seen"] * seen + ["unseen"] * unseen)
    groups = [column.group for column in columns_of(images)]
    assert (groups.count("seen"), groups.count("unseen")) == shown and groups == sorted(groups)


def test_the_sentence_on_missing_groups():
    assert dataset.missing_groups(REAL) == ""
    said = "These data have no unseen classes and no compositions, so nothing is shown or measured for them."
    assert dataset.missing_groups(make_set(["city"], [None])) == said


def test_a_folder_without_splits_and_a_split_given_for_the_whole_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no split"):
        dataset.read_metadata(tmp_path)
    (tmp_path / "set/train").mkdir(parents=True)
    (tmp_path / "set/train/metadata.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"set/train: is one split of a data set; give the folder of all, .*/set$"):
        load_set(tmp_path / "set/train/test")


def test_card_table_is_flat_text(folder: Path) -> None:
    facts = card_table(load_card(folder)).set_index("fact")["value"]
    assert facts["has truth"] == "yes"
    assert facts["totals: train"] == "5"
    assert "fingerprint" not in facts
    assert facts.map(lambda value: isinstance(value, str)).all()


def test_scene_drawn_again_equals_the_stored_image(folder: Path) -> None:
    stored, card = load_set(folder / "test"), load_card(folder)
    scale = Normalisation(card["mu"], card["sigma"])
    for image, row in zip(stored.images, stored.rows):
        np.testing.assert_array_equal(scale.apply(amplitude(simulate(*redraw_scene(row, 32)))), image)
    with pytest.raises(InputError, match="only twin images"):
        redraw_scene({"file_name": "a.png", "label": "city", "look": None}, 64)


def test_some_per_label_bounds_and_keeps_order() -> None:
    images = make_set("a" * 9 + "b" * 2, "x" * 11)
    some = dataset.some_per_label(images, 3, seed=1)
    assert some.labels == ("a",) * 3 + ("b",) * 2
    assert list(map(int, some.ids)) == sorted(map(int, some.ids))
    assert dataset.some_per_label(images, 3, seed=1).ids == some.ids
    assert len({dataset.some_per_label(images, 3, seed).ids for seed in range(8)}) > 1
    with pytest.raises(InputError, match="at least 1"):
        dataset.some_per_label(images, 0)


# The data card: front matter that the hub reads, and numbers that are those of card.json.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "data"
    build_twin(out, {"train": SplitSpec(("city", "river"), 5), "test": SplitSpec(("city", "stadium"), 2)}, "umbra", 32, 1, 1)
    return out


def front_matter(text: str) -> dict:
    empty, head, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head)


def table_rows(text: str, heading: str) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    lines = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def test_front_matter_is_what_the_hub_reads_and_the_card_a_pure_function(folder: Path) -> None:
    assert data_card(load_card(folder)) == (folder / README).read_text()
    head = front_matter((folder / README).read_text())
    assert head["license"] == "apache-2.0" and "text-to-image" in head["task_categories"]
    assert head["size_categories"] == ["n<1K"]
    files = {item["split"]: item["path"] for item in head["configs"][0]["data_files"]}
    assert files == {"train": "train/**", "test": "test/**"}


@pytest.mark.parametrize(("images", "name"), [(0, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (5_000_000, "1M<n<10M")])
def test_size_categories(folder: Path, images: int, name: str) -> None:
    assert front_matter(data_card({**load_card(folder), "totals": {"train": images}}))["size_categories"] == [name]


def test_counts_are_those_of_the_images(folder: Path) -> None:
    text = (folder / README).read_text()
    labels = {split: load_set(folder / split).labels for split in ("train", "test")}
    rows = {row[0]: row[1:] for row in table_rows(text, "Splits")}
    assert rows.pop("total") == ["", "5", "2"]
    assert rows == {
        kind: [group, str(labels["train"].count(kind)), str(labels["test"].count(kind))]
        for kind, group in (("city", "seen"), ("river", "seen"), ("stadium", "unseen"))
    }
    assert "Train does not show: stadium." in text


def test_the_sensor_and_the_scale_are_reported(folder: Path) -> None:
    text, card = (folder / README).read_text(), load_card(folder)
    assert "umbra: X band (9.6 GHz), VV, looks: 1" in text and "incidence 35, 45, 55 degrees" in text
    assert f"mu = {card['mu']:.6g} and sigma = {card['sigma']:.6g}" in text
    (train, _) = table_rows(text, "Statistics")
    images = load_set(folder / "train").images / 255
    assert float(train[1]) == pytest.approx(images.mean(), abs=1e-4)


def test_every_column_is_explained(folder: Path, user_folder: Path) -> None:
    for root in (folder, user_folder):
        _, row = read_numbered(root / "train/metadata.jsonl")[0]
        reported = [cells[0] for cells in table_rows((root / README).read_text(), "Columns")]
        assert sorted(reported) == sorted(name for name, value in row.items() if value is not None)


@pytest.fixture(scope="module")
def user_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("user")
    rng = np.random.default_rng(0)
    for label in ("ships", "land"):
        (root / "in" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(root / "in" / label / f"{number}.png")
    prepare_user_data(root / "in", root / "out", 32)
    return root / "out"


def test_the_users_own_images_get_a_card_without_invented_facts(user_folder: Path) -> None:
    text = (user_folder / README).read_text()
    head = front_matter(text)
    assert head["license"] == "unknown" and "synthetic" not in head["tags"]
    assert {row[0]: row[2:] for row in table_rows(text, "Splits")}["ships"] == ["2", "1", "1", "2"]
    assert "share no amplitude scale" in text and "## Radar" not in text

"""The user's folder: what is read, how it is split and cut, and what is refused before anything is written."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sarnb.data import prepare
from sarnb.data.dataset import load_card, load_set
from sarnb.data.imagefolder import list_images
from sarnb.data.prepare import check_user_folder, patch_origins, prepare_user_data
from sarnb.errors import InputError

SIZE = 32
REAL = os.environ.get("SARNB_REAL_DATA", "")


def picture(seed: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (height, width), dtype=np.uint8)


def put(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)
    return path


def class_folders(root: Path, classes: tuple[str, ...] = ("city", "sea_ships"), each: int = 5) -> Path:
    for number, label in enumerate(classes):
        for index in range(each):
            put(root / label / f"{index}.png", picture(100 * number + index))
    return root


def imagefolder(root: Path, lines: list[str] | None = None, **changes: object) -> Path:
    """Six images of two classes with metadata; ``changes`` overwrite row 1 (line 2), ``lines`` are appended raw."""
    rows = []
    for index in range(6):
        put(root / f"images/{index}.png", picture(index))
        rows.append({"file_name": f"images/{index}.png", "text": f"caption {index}", "label": ("field", "water")[index % 2]})
    rows[1].update(changes)
    text = [json.dumps({key: value for key, value in row.items() if value != "remove"}) for row in rows] + (lines or [])
    (root / "metadata.jsonl").write_text("\n".join(text) + "\n", encoding="utf-8")
    return root


def table_of(root: Path, suffix: str, columns: dict[str, str] | None = None, **changes: object) -> Path:
    """The folder with its metadata.jsonl as a table of another form; ``columns`` are renamed, ``changes`` overwrite row 1."""
    path = root / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1].update(changes)
    table = pd.DataFrame([{(columns or {}).get(name, name): value for name, value in row.items()} for row in rows])
    path.unlink()
    if suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(root / "metadata.csv", index=False) if suffix == ".csv" else table.to_parquet(root / "metadata.parquet")
    return root


def csv_of(root: Path, mark: str, text: str = "a text") -> Path:
    lines = [mark.join((f"images/{index}.png", text, "ab"[index % 2])) for index in range(6)]
    imagefolder(root).joinpath("metadata.jsonl").unlink()
    (root / "metadata.csv").write_text("\n".join([mark.join(("file_name", "text", "label")), *lines]))
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_class_folders_give_labels_and_captions_and_pass_over_the_rest(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in put")
    (source / "README.md").write_text("about")
    (source / "index.csv").write_text("a,b")
    (source / "city" / "notes.txt").write_text("x")
    (source / "city" / ".hidden.png").write_bytes(b"broken")
    put(source / "__MACOSX" / "city" / "0.png", picture(9))
    put(source / "city" / "north" / "UPPER.PNG", picture(50))
    listing = list_images(source)
    assert listing.form == "class folders" and len(listing.images) == 11
    assert {image.label: image.text for image in listing.images} == {
        "city": "a radar image of a city",
        "sea_ships": "a radar image of sea ships",
    }
    assert listing.ignored == {".csv": 1, ".md": 1, ".txt": 1}


def test_links_to_class_folders_are_followed_loops_end_and_a_folder_named_train_next_to_classes_is_a_class(tmp_path: Path) -> None:
    assert {image.label for image in list_images(class_folders(tmp_path / "a", ("train", "station"))).images} == {"train", "station"}
    source = class_folders(tmp_path / "all", ("city", "field", "water"))
    subset = tmp_path / "subset"
    subset.mkdir()
    for label in ("city", "water"):
        (subset / label).symlink_to(source / label, target_is_directory=True)
    (source / "city" / "loop").symlink_to(source / "city", target_is_directory=True)
    assert [image.label for image in list_images(subset).images] == ["city"] * 5 + ["water"] * 5


def test_metadata_captions_labels_and_scene_facts_are_kept(tmp_path: Path) -> None:
    source = imagefolder(tmp_path / "in", text="  ships\n at sea ")
    rows = [json.loads(line) | {"look": "left", "incidence": 35} for line in (source / "metadata.jsonl").read_text().splitlines()]
    rows[2].pop("text")
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    put(source / "unlisted.png", picture(77))
    card = prepare_user_data(source, tmp_path / "out", SIZE)
    found = {row["source"]: row for split in ("train", "val", "test") for row in load_set(tmp_path / "out" / split).rows}
    assert len(found) == 6 and card["ignored_files"] == {".png": 1}
    assert found["images/1.png"]["text"] == "ships at sea"
    assert found["images/2.png"]["text"] == "a radar image of field"
    assert all((row["look"], row["incidence"], row["sensor"]) == ("left", 35.0, None) for row in found.values())


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("column", ["text", "caption", "captions", "prompt"])
def test_captions_are_found_in_every_column_and_form_that_datasets_knows(column: str, suffix: str, tmp_path: Path) -> None:
    source = table_of(
        imagefolder(tmp_path / "in", incidence=35.5), suffix, {"text": column, "incidence": "incidence"}, look="right", flown=1
    )
    listing = list_images(source)
    assert [(image.text, image.label) for image in listing.images] == [(f"caption {k}", ("field", "water")[k % 2]) for k in range(6)]
    assert listing.images[1].extra == {"look": "right", "incidence": 35.5} and not listing.images[0].extra
    notes = [f"6 captions are read from the column '{column}'"] * (column != "text") + ["columns of the metadata that are not used: flown"]
    assert list(listing.notes) == notes
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset("imagefolder", data_dir=str(source), split="train", cache_dir=str(tmp_path / "cache"))
    assert read[column] == [image.text for image in listing.images], "as the library reads them"


def test_several_captions_of_an_image_are_all_kept(tmp_path: Path) -> None:
    source = imagefolder(tmp_path / "in", text="remove", captions=["one  field", "two", "one field"], look=float("nan"))
    prepare_user_data(source, tmp_path / "out", SIZE)
    rows = {row["source"]: row for split in ("train", "val", "test") for row in load_set(tmp_path / "out" / split).rows}
    assert rows["images/1.png"]["text"] == "one field" and rows["images/1.png"]["captions"] == ["one field", "two"]
    assert rows["images/0.png"]["captions"] == ["caption 0"]


@pytest.mark.parametrize("text", ["", "  ", None, []])
def test_an_empty_caption_gives_way_to_one_in_another_column(text: object, tmp_path: Path) -> None:
    listing = list_images(imagefolder(tmp_path, text=text, caption="a field at dawn"))
    assert listing.images[1].text == "a field at dawn"
    assert "1 captions are read from the column 'caption'" in listing.notes


@pytest.mark.parametrize("other", ["sea ships", "Sea_Ships", "sea  ships", "City"])
def test_classes_that_prompts_cannot_tell_apart_are_refused(other: str, tmp_path: Path) -> None:
    source = class_folders(tmp_path, ("city", "sea_ships", other))
    with pytest.raises(InputError, match="the classes '.*' and '.*' read alike.*rename or merge"):
        list_images(source)
    assert len(list_images(source, labelled=False)) > 0


def test_columns_of_the_index_that_are_not_used_and_rows_without_a_split_are_said(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in")
    (source / "index.csv").write_text("file,sensor,look\ncity/0.png,umbra,left\n")
    assert any(note.startswith("columns of index.csv that are not used: look") for note in list_images(source, index=True).notes)
    source = imagefolder(tmp_path / "some", split="test")
    assert "5 of 6 images have no split named, though others have: they count as train" in check_user_folder(source, SIZE).notes


WORDS = {"train": {"train", "Training"}, "val": {"dev"}, "test": {"test", "eval"}}
SPLIT_FORMS = {
    "train and test": ({"train": 6, "test": 2}, {"train": 10, "val": 2, "test": 4}),
    "all three, other words": ({"Training": 5, "dev": 2, "eval": 3}, {"train": 10, "val": 4, "test": 6}),
    "train alone": ({"train": 5}, {"train": 6, "val": 2, "test": 2}),
}


@pytest.mark.parametrize("form", SPLIT_FORMS)
@pytest.mark.parametrize("table", ["", "each", "top"])
def test_folders_named_after_splits_are_splits(form: str, table: str, tmp_path: Path) -> None:
    folders, totals = SPLIT_FORMS[form]
    rows: dict[str, list[dict]] = {}
    for number, (split, each) in enumerate(folders.items()):
        for label, index in ((label, index) for label in ("city", "train station") for index in range(each)):
            name = f"{label}/{index}.png"
            put(tmp_path / "in" / split / name, picture(1000 * number + 100 * len(label) + index))
            home, prefix = (split, "") if table == "each" else (".", f"{split}/")
            rows.setdefault(home, []).append({"file_name": prefix + name, "caption": f"{label} {index}"})
    for home, own in rows.items() if table else ():
        (tmp_path / "in" / home / "metadata.jsonl").write_text("\n".join(map(json.dumps, own)))
    card = prepare_user_data(tmp_path / "in", tmp_path / "out", SIZE)
    assert {split: card["totals"][split] for split in totals} == totals and card["labels"] == ["city", "train station"]
    for split in ("val", "test"):
        sources = {row["source"].split("/")[0] for row in load_set(tmp_path / "out" / split).rows}
        assert sources == (WORDS[split] & {*folders} or {next(iter(folders))}), "as given, or else cut from train"
    reported = [f"{split} {'as given' if named & {*folders} else 'drawn by image, class by class'}" for split, named in WORDS.items()]
    assert f"splits: {', '.join(sorted(reported, key=lambda part: 'drawn' in part))}" in card["read"]


def test_a_column_of_splits_is_used_and_a_class_of_test_alone_is_unseen(tmp_path: Path) -> None:
    source = imagefolder(tmp_path / "in")
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    for row, split in zip(rows, ("train", "test", "train", "test", "validation", "test")):
        row["split"] = split
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    card = prepare_user_data(source, tmp_path / "out", SIZE)
    assert card["totals"] == {"train": 2, "val": 1, "test": 3, "judge": 2}
    assert card["groups"] == {"seen": ["field"], "unseen": ["water"], "composition": []}
    assert set(load_set(tmp_path / "out/test").column("group")) == {"unseen"}


def test_a_held_out_class_is_shown_by_test_and_judge_alone(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", ("city", "lake", "water"), each=10)
    card = prepare_user_data(source, tmp_path / "out", SIZE, unseen=["lake"])
    assert card["groups"] == {"seen": ["city", "water"], "unseen": ["lake"], "composition": []}
    assert card["counts"] == {
        "train": {"city": 7, "water": 7},
        "val": {"city": 1, "water": 1},
        "test": {"city": 2, "lake": 2, "water": 2},
        "judge": {"city": 7, "lake": 7, "water": 7},
    }
    for split in ("test", "judge"):
        images = load_set(tmp_path / "out" / split)
        assert dict(zip(images.labels, images.column("group"))) == {"city": "seen", "lake": "unseen", "water": "seen"}
    for wrong, said in ((["lac"], "has no class 'lac'; it has city, lake, water"), (["city", "lake"], "fewer than two classes")):
        with pytest.raises(InputError, match=said):
            prepare_user_data(source, tmp_path / "none", SIZE, unseen=wrong)
    assert not (tmp_path / "none").exists()


def test_what_was_given_and_is_not_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = class_folders(tmp_path / "in")
    put(source / "loose.png", picture(70))
    put(source / "city" / "copy.png", picture(1))
    for name in ("city/scene.dat", "city/scene.mat", "water.nc"):
        (source / name).write_bytes(b"x")
    (source / "index.csv").write_text("file,sensor\ncity/0.png,umbra\ncity/9.png,umbra\nloose.png,umbra\n")
    listing = list_images(source, index=True)
    assert listing.notes == (
        "1 images lie in no class folder and are left out: loose.png",
        "3 files are of no form read here and are passed over: 1 .dat, 1 .mat, 1 .nc",
        "2 of 3 rows of index.csv name no image that is used: city/9.png, loose.png",
    )
    card = prepare_user_data(source, tmp_path / "out", SIZE)
    assert "1 images have the pixels of another one and are left out: city/copy.png" in card["read"]
    assert {*listing.notes[:2]} <= {*card["read"]} and card["left_out_duplicates"] == ["city/copy.png"]
    assert sum(card["source_images"][split] for split in ("train", "val", "test")) == 10


ODD_NAMES = ("real", "all", "$x^2$", "a|b", "ünï çödé", "100%", 'it\'s "so"', "-dash", "#hash", "{{ card }}", "a, b", "<SAR>", "50$")


def test_classes_and_captions_of_any_letters_pass_unchanged(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "real", ODD_NAMES, each=3)
    rows = [{"file_name": f"{label}/{index}.png", "text": f"{label}: $5 & {{x}} | {index}"} for label in ODD_NAMES for index in range(3)]
    (source / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    card = prepare_user_data(source, tmp_path / "out", SIZE)
    assert card["labels"] == sorted(ODD_NAMES) and card["source"] == "real"
    train = load_set(tmp_path / "out/train")
    assert sorted(train.labels) == sorted(ODD_NAMES) and all(
        text.startswith(f"{label}: $5 &") for label, text in zip(train.labels, train.captions)
    )
    table = [line for line in (tmp_path / "out/README.md").read_text().splitlines() if line.endswith("| 1 | 1 | 1 | 1 |")]
    assert len(table) == len(ODD_NAMES) and all(len(re.split(r"(?<!\\)\|", line)) == 8 for line in table), "a bar splits no cell"
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert read["label"] == list(train.labels) and read["text"] == list(train.captions)


def test_no_image_is_in_two_splits_and_every_class_is_in_all(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", each=10)
    for index in range(3):
        put(source / "coast" / f"{index}.png", picture(900 + index, 2 * SIZE, 3 * SIZE))
    prepare_user_data(source, tmp_path / "out", SIZE, seed=4)
    sets = {split: load_set(tmp_path / "out" / split) for split in ("train", "val", "test", "judge")}
    sources = {split: set(images.column("source")) for split, images in sets.items()}
    assert not sources["train"] & sources["val"] and not sources["train"] & sources["test"] and not sources["val"] & sources["test"]
    assert len(sources["train"] | sources["val"] | sources["test"]) == 23
    assert all(set(images.labels) == {"city", "sea_ships", "coast"} for images in sets.values())
    assert [len(sets[split].where(label="city")) for split in ("train", "val", "test")] == [7, 1, 2]
    assert sets["judge"].rows == sets["train"].rows and np.array_equal(sets["judge"].images, sets["train"].images)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in", each=10)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_user_data(source, tmp_path / name, SIZE, seed=seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert load_set(tmp_path / "a/test").column("source") != load_set(tmp_path / "c/test").column("source")


def test_patches_are_cuts_of_the_image_without_overlap() -> None:
    image = picture(5, 3 * SIZE + 7, 2 * SIZE + 5)
    origins = patch_origins(image, SIZE, 99, np.random.default_rng(0))
    assert sorted(origins) == [(3 + SIZE * row, 2 + SIZE * column) for row in range(3) for column in range(2)]
    image[3 : 3 + SIZE, 2 : 2 + SIZE] = 0
    assert (3, 2) not in patch_origins(image, SIZE, 99, np.random.default_rng(0))
    assert len(patch_origins(image, SIZE, 4, np.random.default_rng(0))) == 4


def test_8_bit_pixels_arrive_unchanged_and_huge_images_do_not_dominate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = class_folders(tmp_path / "in", ("city",), each=6)
    for index in range(6):
        put(source / "big" / f"{index}.png", picture(300 + index, 8 * SIZE, 8 * SIZE))
    monkeypatch.setattr(prepare, "TILES_PER_CLASS", 16)
    card = prepare_user_data(source, tmp_path / "out", SIZE)
    counts = {label: sum(card["counts"][split][label] for split in ("train", "val", "test")) for label in ("big", "city")}
    assert counts == {"big": 16, "city": 6} and card["mu"] is None and card["storages"] == {"8-bit": 12}
    train = load_set(tmp_path / "out/train")
    for image, row in zip(train.images, train.rows, strict=True):
        whole = np.asarray(Image.open(source / row["source"]))
        assert np.array_equal(image, whole[row["row"] : row["row"] + SIZE, row["column"] : row["column"] + SIZE])


def replaced(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (class_folders(root) / name).write_bytes(content)
        return root

    return make


def with_image(name: str, array: np.ndarray) -> Callable[[Path], Path]:
    return lambda root: put(class_folders(root) / name, array).parents[1]


def two_faults(root: Path) -> Path:
    class_folders(root)
    for name in ("city/1.png", "sea_ships/2.png"):
        (root / name).write_bytes(b"")
    return root


def linked_out(root: Path) -> Path:
    secret = put(root.parent / "secret.png", picture(1))
    source = imagefolder(root, file_name="images/link.png")
    (source / "images/link.png").symlink_to(secret)
    return source


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda root: root / "none", "no such folder"),
    "a file": (lambda root: put(root / "a.png", picture(0)), "is a file, not a folder"),
    "empty": (lambda root: (root.mkdir(), root)[1], "is empty"),
    "no image": (lambda root: (root.mkdir(), (root / "a.txt").write_text("x"), root)[2], "holds no image"),
    "flat": (lambda root: put(root / "a.png", picture(0)).parent, "lie in no class folder"),
    "one class": (lambda root: class_folders(root, ("city",)), r"one class only \('city'\)"),
    "two images": (lambda root: class_folders(root, each=2), "'city' has 2 different image"),
    "metadata below": (lambda root: imagefolder(root / "deep").parent, "give .*deep as the data folder"),
    "two tables": (
        lambda root: (imagefolder(root) / "metadata.csv").write_text("file_name") and root,
        "metadata.csv and metadata.jsonl; keep",
    ),
    "split": (lambda root: imagefolder(root, split="left"), "line 2: 'split' is 'left'"),
    "no training image": (lambda root: class_folders(root / "test").parent, "has no training image"),
    "one image": (lambda root: class_folders(root / "train", each=1).parent, "'city' has 1 different .* train, val, test; give at least 3"),
    "no table": (lambda root: (class_folders(root) / "metadata.parquet").write_bytes(b"PAR1") and root, "cannot be read as a table"),
    "semicolons": (lambda root: csv_of(root, ";"), "metadata.csv: has no column 'file_name' but 'file_name;text;label'"),
    "bare comma": (lambda root: csv_of(root, ",", "at sea, near Brest"), "metadata.csv line 2: has not as many cells"),
    "steep": (lambda root: table_of(imagefolder(root), ".csv", incidence="steep"), "metadata.csv line 3: 'incidence' is 'steep'"),
    "splits and more": (lambda root: class_folders(root, ("train", "test", "spare")), "holds test, train, named as splits, next to spare"),
    "folder above": (lambda root: class_folders(root / "data").parent, r"one class only \('data'\); give .*in/data if its folders"),
    "empty cell": (lambda root: table_of(imagefolder(root), ".csv", file_name=""), "metadata.csv line 3: 'file_name' is None"),
    "caption type": (lambda root: imagefolder(root, text="remove", captions=["a", 3]), "line 2: the caption 'captions' is 3"),
    "zero bytes": (replaced("city/1.png", b""), "city/1.png: has zero bytes"),
    "corrupt": (replaced("city/1.png", b"\x89PNG\r\n\x1a\nrubbish"), "city/1.png: cannot be read"),
    "two faults": (two_faults, "1 more faulty: sea_ships/2.png"),
    "small": (with_image("city/1.png", picture(0, SIZE, SIZE - 1)), "32 x 31 px, smaller than the 32 px patch"),
    "two labels": (with_image("sea_ships/same.png", picture(0)), "same pixels as city/0.png"),
    "broken JSON": (lambda root: imagefolder(root, lines=['{"file_name": "a']), "metadata.jsonl line 7: broken JSON"),
    "no object": (lambda root: imagefolder(root, lines=["[1]"]), "line 7: .* is not a JSON object"),
    "no rows": (lambda root: (imagefolder(root) / "metadata.jsonl").write_text("\n") and root, "has no rows"),
    "not UTF-8": (lambda root: (imagefolder(root) / "metadata.jsonl").write_bytes(b"\xff\xfe") and root, "not UTF-8"),
    "missing file": (lambda root: imagefolder(root, file_name="images/9.png"), "line 2: 'images/9.png' does not exist"),
    "duplicate": (lambda root: imagefolder(root, file_name="./images/0.png"), r"line 2: .* second time \(first in line 1\)"),
    "parent": (lambda root: imagefolder(root, file_name="../x.png"), "line 2: '../x.png' leaves the folder"),
    "parent inside": (lambda root: imagefolder(root, file_name="images/../images/1.png"), "leaves the folder"),
    "absolute": (lambda root: imagefolder(root, file_name=str(root / "images/1.png")), "leaves the folder"),
    "URL": (lambda root: imagefolder(root, file_name="file://etc/a.png"), "leaves the folder"),
    "link out": (linked_out, "'images/link.png' leaves the folder"),
    "no name": (lambda root: imagefolder(root, file_name="remove"), "line 2: 'file_name' is None"),
    "name type": (lambda root: imagefolder(root, file_name=3), "line 2: 'file_name' is 3"),
    "NUL": (lambda root: imagefolder(root, file_name="a\0.png"), "does not exist"),
    "long name": (lambda root: imagefolder(root, file_name="a" * 999 + ".png"), "does not exist"),
    "surrogate": (lambda root: imagefolder(root, text="\ud800"), "line 2: has half of a surrogate pair"),
    "name form": (lambda root: imagefolder(root, file_name="metadata.jsonl"), "no image form"),
    "empty caption": (lambda root: imagefolder(root, text="  "), "line 2: the caption 'text' is empty"),
    "null caption": (lambda root: imagefolder(root, text=None), "line 2: the caption 'text' is None"),
    "label type": (lambda root: imagefolder(root, label=4), "line 2: 'label' is 4"),
    "label path": (lambda root: imagefolder(root, label="../up"), "line 2: 'label' is '../up'"),
    "look": (lambda root: imagefolder(root, look="east"), "line 2: 'look' is 'east'"),
    "incidence": (lambda root: imagefolder(root, incidence=120), "line 2: 'incidence' is 120"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_one_sentence_and_nothing_is_written(fault: str, tmp_path: Path) -> None:
    make, message = FAULTS[fault]
    source = make(tmp_path / "in")
    with pytest.raises(InputError, match=message) as caught:
        prepare_user_data(source, tmp_path / "results" / "out", SIZE)
    assert str(tmp_path / "in") in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_a_good_set_survives_a_later_bad_call_and_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "in")
    prepare_user_data(source, tmp_path / "out", SIZE)
    before = contents(tmp_path / "out")
    (source / "city/0.png").write_bytes(b"")
    with pytest.raises(InputError):
        prepare_user_data(source, tmp_path / "out", SIZE)
    assert contents(tmp_path / "out") == before
    put(tmp_path / "mine" / "diary.png", picture(0))
    with pytest.raises(InputError, match="diary.png, not written here"):
        prepare_user_data(class_folders(tmp_path / "in"), tmp_path / "mine", SIZE)
    with pytest.raises(InputError, match="lies in .* what this call reads"):
        prepare_user_data(source, source / "out", SIZE)


def test_a_full_disk_is_one_sentence_and_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    source = class_folders(tmp_path / "in")
    monkeypatch.setattr("sarnb.data.files.write_png", full)
    with pytest.raises(InputError, match="No space left on device"):
        prepare_user_data(source, tmp_path / "out", SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="set SARNB_REAL_DATA to a folder of real radar images in class folders")
def test_real_images_pass(tmp_path: Path) -> None:
    card = prepare_user_data(Path(REAL), tmp_path / "out", 128)
    checked = check_user_folder(Path(REAL), 128)
    assert load_card(tmp_path / "out") == card and not card["has_truth"]
    assert sum(card["source_images"][split] for split in ("train", "val", "test")) == len(checked)
    for split in ("train", "val", "test"):
        images = load_set(tmp_path / "out" / split)
        assert len(images) == card["totals"][split] and images.images.shape[1:] == (128, 128)
        assert all(image.min() < image.max() for image in images.images)

"""Read an imagefolder back: images, captions, labels and rows of one split, in memory; and its card, in words."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image

from sarnb.data.files import CARD, METADATA, README, SPLITS, content_key, height_metres, read_numbered, write_json, write_text
from sarnb.errors import InputError

CARDS = Path(__file__).parent.parent / "cards"  # templates of cards in the hub's format
TRUTH = ("optical", "mask", "satellite", "height")  # columns NAME_file_name of the twin's rows, restored as NAME
HUB_LICENCES = {"Apache-2.0": "apache-2.0", "CC-BY-SA-4.0": "cc-by-sa-4.0"}  # names the hub knows; others become "unknown"
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test", "judge": "judge"}
HUB_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")


@dataclass(frozen=True)
class ImageSet:
    """One split in memory.

    ``root``: folder of the split. ``images``: uint8 [N, H, W], grey. ``rows``: the metadata rows, all columns.
    """

    root: Path
    images: np.ndarray
    rows: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.rows):
            raise InputError(f"{self.root}: {len(self.images)} images and {len(self.rows)} rows; give one row an image")
        if self.images.dtype != np.uint8 or self.images.ndim != 3:
            raise InputError(f"{self.root}: images are {self.images.dtype} {self.images.shape}; give uint8 [N, H, W]")

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """File names, one an image."""
        return tuple(row.get("file_name") or "" for row in self.rows)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The training text of each image."""
        return tuple(row.get("text") or "" for row in self.rows)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Class name of each image, "" where unknown."""
        return tuple(row.get("label") or "" for row in self.rows)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the images and all their captions, by which trainings know their data; computed once."""
        return content_key(self.images, json.dumps(self.all_captions()))

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The images at ``indices`` int [K], or where a boolean mask [N] is true, in that order."""
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
        return ImageSet(self.root, self.images[chosen], tuple(self.rows[index] for index in chosen))

    def where(self, **values: Any) -> ImageSet:
        """The images whose rows have these values: ``where(label="city", group="seen")``; a tuple or list means any of."""
        keep = np.ones(len(self), bool)
        for name, wanted in values.items():
            accepted = wanted if isinstance(wanted, (tuple, list, set, frozenset)) else (wanted,)
            keep &= np.array([value in accepted for value in self.column(name)], bool)
        return self.subset(keep)

    def column(self, name: str) -> tuple[Any, ...]:
        """One value an image.

        Raises
        ------
        InputError
            No row has the column; single rows without it give None.
        """
        if len(self) and not any(name in row for row in self.rows):
            known = sorted({key for row in self.rows for key in row})
            raise InputError(f"{self.root}: has no column '{name}'; it has {', '.join(known)}")
        return tuple(row.get(name) for row in self.rows)

    def all_captions(self) -> list[list[str]]:
        """Every caption of every image: the column ``captions``, or the one training text."""
        return [list(row.get("captions") or [text]) for row, text in zip(self.rows, self.captions, strict=True)]

    def optical(self) -> np.ndarray | None:
        """The optical images of the same scenes, uint8 [N, H, W, 3]; None where the set has no scene truth."""
        return self._truth("optical", "RGB")

    def masks(self) -> np.ndarray | None:
        """Land-cover codes (index into ``sarnb.world.scene.COVERS``), uint8 [N, H, W]; None without scene truth."""
        return self._truth("mask", "L")

    def satellite(self) -> np.ndarray | None:
        """The coarse multi-look views of the same scenes, uint8 [N, H/4, W/4]; None without scene truth.

        Their cell (i, j) covers the cells 4i … 4i+3, 4j … 4j+3 of the images. Their scale is in ``card.json``: satellite.
        """
        return self._truth("satellite", "L")

    def heights(self) -> np.ndarray | None:
        """Surface heights in metres (buildings and canopy included), float32 [N, H, W]; None without scene truth."""
        levels = self._truth("height", "I;16")
        return None if levels is None else height_metres(levels)

    def _truth(self, name: str, mode: str) -> np.ndarray | None:
        if not len(self) or not all(row.get(name) for row in self.rows):
            return None
        return np.stack([_read(self.root / row[name], mode) for row in self.rows])


def load_set(folder: Path) -> ImageSet:
    """Read a split that ``twin``, ``folder`` or the sampler wrote: metadata.jsonl and 8-bit grey images of one size.

    Raises
    ------
    InputError
        The folder, its metadata or an image is missing or damaged.
    """
    folder = Path(folder)
    if not (folder / METADATA).is_file():
        if (folder.parent / METADATA).is_file():
            raise InputError(f"{folder.parent}: is one split of a data set; give the folder of all, {folder.absolute().parent.parent}")
        raise InputError(f"{folder}: has no {METADATA}; make the data set first, or give the folder of a split such as data/train")
    rows, images = [], []
    for number, row in read_numbered(folder / METADATA):
        if not isinstance(row.get("file_name"), str):
            raise InputError(f"{folder / METADATA} line {number}: has no 'file_name'; make the data set again")
        images.append(_read(folder / row["file_name"], "L"))
        rows.append(_restored(row))
    if not rows:
        raise InputError(f"{folder / METADATA}: has no rows; make the data set again")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise InputError(f"{folder}: images have different sizes {sorted(shapes)}; make the data set again")
    return ImageSet(folder, np.stack(images), tuple(rows))


def load_card(data_dir: Path) -> dict[str, Any]:
    """The card of a data set: counts, mu, sigma, source, has_truth, licence; keys in ``twin`` and ``folder``.

    Raises
    ------
    InputError
        The card is damaged.
    """
    path = Path(data_dir) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; make the data set first (notebook 01)") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the data set again") from error
    if not isinstance(card, dict):
        raise InputError(f"{path}: is not a JSON object; make the data set again")
    if not card.get("complete", True):
        raise InputError(f"{path}: the data set is unfinished; run notebook 01 again, it goes on where it stopped")
    return card


def data_card(card: Mapping[str, Any]) -> str:
    """README.md of the data set that ``card`` (card.json, see ``twin`` and ``prepare``) describes.

    The front matter has one configuration, so that ``datasets.load_dataset(folder)`` finds the splits; facts follow as
    tables. Pure: the same card gives the same text.
    """
    twin, total, counts = card["kind"] == "twin", sum(card["totals"].values()), card["counts"]
    title = f"Twin world through {card['sensor']}" if twin else f"Radar images of {card['source']}"
    data_files = [{"split": HUB_SPLITS[split], "path": f"{split}/**"} for split in card["totals"]]
    data = DatasetCardData(
        license=HUB_LICENCES.get(card["licence"], "unknown"),
        pretty_name=title,
        task_categories=["text-to-image", "image-to-image"] if card["has_truth"] else ["text-to-image"],
        tags=["synthetic-aperture-radar", "remote-sensing", *(["synthetic"] if twin else [])],
        size_categories=[HUB_SIZES[np.searchsorted((10**3, 10**4, 10**5, 10**6), total, side="right")]],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    hidden = sorted({kind for part in counts.values() for kind in part} - set(counts["train"]))
    values = {"card": card, "title": title, "total": total, "hidden": hidden}
    return DatasetCard.from_template(data, template_path=str(CARDS / "dataset.md"), **values).content + "\n"


def write_card(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Write the card into a folder, for readers and, last, for programs; returns it."""
    write_text(folder / README, data_card(card))
    write_json(folder / CARD, card)
    return card


def card_table(card: Mapping[str, Any]) -> pd.DataFrame:
    """The facts of a data set's card as (fact, value) rows of text; nested facts are written ``outer: inner``."""
    left_out = ("fingerprint", "complete", "counts", "radar", "labels", "groups", "read", "columns")  # in other tables, or for machines
    rows = []
    for key, value in card.items():
        if key in left_out or value is None or value == {} or value == []:
            continue
        name = key.replace("_", " ")
        if isinstance(value, Mapping):
            rows += [(f"{name}: {inner}", _text(part)) for inner, part in value.items()]
        elif key == "notes":
            rows += [("note", _text(part)) for part in value]
        else:
            rows.append((name, _text(value)))
    return pd.DataFrame(rows, columns=["fact", "value"])


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return ", ".join(_text(part) for part in value) if isinstance(value, (list, tuple)) else str(value)


def _restored(row: dict[str, Any]) -> dict[str, Any]:
    """A row with ``counts`` as a dict again, and with the short names of the truth's files (``TRUTH``)."""
    row = dict(row)
    if isinstance(row.get("counts"), str):
        row["counts"] = json.loads(row["counts"])
    for name in TRUTH:
        if f"{name}_file_name" in row:
            row[name] = row[f"{name}_file_name"]
    return row


def _read(path: Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode != mode:
                raise InputError(f"{path}: is of mode {image.mode} instead of {mode}; make the data set again")
            return np.asarray(image)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; make the data set again") from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); make the data set again") from error


# Which classes stand side by side in a figure, group by group: seen in radar training, unseen, compositions.

GROUPS = ("seen", "unseen", "composition")
_PLURALS = {"seen": "seen classes", "unseen": "unseen classes", "composition": "compositions"}


@dataclass(frozen=True)
class Column:
    """One place of a comparison: an image of class ``label``, which belongs to ``group``."""

    group: str
    label: str


def columns_of(*sets: ImageSet, groups: Sequence[str] = ("seen", "unseen"), most: int = 12) -> tuple[Column, ...]:
    """At most ``most`` columns: one a class that every set has, in the order of ``groups``, then of first appearance.

    Where there are more, the groups behind the first keep a third of the columns, so that many seen classes hide no unseen one.
    """
    first, others = sets[0], sets[1:]
    shared = [label for label in dict.fromkeys(first.labels) if all(label in images.labels for images in others)]
    group = {label: _group(row) for label, row in zip(first.labels, first.rows)}
    columns = [Column(name, label) for name in groups for label in shared if group[label] == name]
    later = [column for column in columns if column.group != groups[0]]
    room = max(most - len(later), most - most // 3)  # of the first group
    return tuple((columns[: len(columns) - len(later)][:room] + later)[:most])


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


def read_metadata(data_dir: Path) -> pd.DataFrame:
    """The metadata rows of all splits that are there, one row an image, with the columns ``split`` and ``captions``.

    Raises
    ------
    InputError
        There is no split, or its metadata is damaged.
    """
    data_dir = Path(data_dir)
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        path = data_dir / split / METADATA
        if path.is_file():
            rows += [{"split": split, **row} for _, row in read_numbered(path)]
    if not rows:
        raise InputError(f"{data_dir}: holds no split with a {METADATA}; make the data set first (notebook 01)")
    for row in rows:
        row["captions"] = row.get("captions") or [row.get("text") or ""]
    return pd.DataFrame(rows)


def spread(total: int, count: int) -> np.ndarray:
    """At most ``count`` numbers below ``total``, spread evenly, int [K]: images in class folders come class by class."""
    return np.linspace(0, total - 1, min(total, count)).round().astype(int)


def some_per_label(images: ImageSet, count: int, seed: int = 0) -> ImageSet:
    """At most ``count`` images of every label, drawn by ``seed``, in the set's order: bounds the cost of statistics.

    Drawn, not the first ones: the files of a user often come sensor by sensor.

    Raises
    ------
    InputError
        A count below 1.
    """
    if count < 1:
        raise InputError(f"some_per_label: count is {count}; give at least 1")
    labels = np.array(images.labels)
    chosen: list[int] = []
    for label in dict.fromkeys(images.labels):
        own = np.flatnonzero(labels == label)
        rng = np.random.default_rng([seed, zlib.crc32(label.encode())])
        chosen += [int(index) for index in rng.permutation(own)[:count]]
    return images.subset(sorted(chosen))

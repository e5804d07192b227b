"""What a data set holds, as tables: read from the card and the metadata rows, without opening an image."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.data.files import METADATA, SPLITS, read_numbered
from sarnb.data.twin import ground_radar
from sarnb.errors import InputError
from sarnb.world.captions import LENGTHS
from sarnb.world.radar import Radar
from sarnb.world.scene import Scene, make_scene

GROUPS = ("seen", "unseen", "composition")
MENTIONS = {  # what a caption can tell beyond its class -> the words that give it away
    "look side": r"\b(?:left|right)\b",
    "incidence": r"\bincidence\b",
    "a count": r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|dozens|hundred)\b",
}
_NO_CONTENT = frozenset(  # words of grammar and of the acquisition, the same in every class
    "a an and as at between by in inside into its of on or over the through to with around beside below above behind acquired about seen "
    "viewed imaged looking shadows image radar sar north south east west "
    "synthetic aperture view band illuminated from left right incidence degrees resolution m x c one two three four five six seven "
    "eight nine ten eleven twelve fifteen twenty dozens hundred".split()
)


def read_metadata(data_dir: Path) -> pd.DataFrame:
    """The metadata rows of all splits that are there, one row an image, with the columns ``split`` and ``captions``.

    Raises InputError if there is no split, or its metadata is damaged.
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


def class_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a class: images a split, how many different captions, their length in words, and the look sides.

    ``rows``: from ``read_metadata``. Classes come group by group in the order of their first appearance; ``left`` and
    ``right`` are left out where no image has a known side. A last row holds the sums.
    """
    labels = _ordered_labels(rows)
    table = pd.DataFrame({"class": labels})
    table["group"] = [rows.loc[rows["label"] == label, "group"].iloc[0] for label in labels]
    for split in dict.fromkeys(rows["split"]):
        own = rows[rows["split"] == split]["label"].value_counts()
        table[split] = [int(own.get(label, 0)) for label in labels]
    texts = [[text for several in rows.loc[rows["label"] == label, "captions"] for text in several] for label in labels]
    words = [[len(text.split()) for text in several] for several in texts]
    table["different captions"] = [len(set(several)) for several in texts]
    table["words, median"] = [float(np.median(several)) for several in words]
    table["words, most"] = [max(several) for several in words]
    if "look" in rows and rows["look"].notna().any():
        for side in ("left", "right"):
            own = rows[rows["look"] == side]["label"].value_counts()
            table[side] = [int(own.get(label, 0)) for label in labels]
    every = [text for several in texts for text in several]
    total = {name: table[name].sum() for name in table.columns.drop(["class", "group"])}
    total |= {"class": "all", "group": "", "different captions": len(set(every))}
    total |= {"words, median": float(np.median([len(text.split()) for text in every])), "words, most": table["words, most"].max()}
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def caption_lengths(rows: pd.DataFrame) -> pd.DataFrame:
    """Every caption of every image, one row each: split, label, length ("short", "mid", "long", or "given"), text, words.

    ``rows``: from ``read_metadata``. Captions are "given" where an image has not exactly one of each length.
    """
    parts = []
    for split, label, captions in zip(rows["split"], rows["label"], rows["captions"]):
        names = LENGTHS if len(captions) == len(LENGTHS) else ("given",) * len(captions)
        parts += [(split, label, name, text, len(text.split())) for name, text in zip(names, captions)]
    return pd.DataFrame(parts, columns=["split", "label", "length", "text", "words"])


def caption_table(captions: pd.DataFrame) -> pd.DataFrame:
    """One row a caption length: captions, different ones, words (least, median, most), and the share that names each of MENTIONS.

    ``captions``: from ``caption_lengths``.
    """
    rows = []
    for length, own in captions.groupby("length", sort=False):
        mentions = {f"names {what}": own["text"].str.contains(pattern, case=False).mean() for what, pattern in MENTIONS.items()}
        rows.append(
            {
                "length": length,
                "captions": len(own),
                "different": own["text"].nunique(),
                "words, least": own["words"].min(),
                "words, median": own["words"].median(),
                "words, most": own["words"].max(),
                **mentions,
            }
        )
    return pd.DataFrame(rows)


def content_words(captions: pd.DataFrame, most: int = 6) -> pd.DataFrame:
    """The most frequent content words of each class: rows class, words ("city 100 %, street 37 %"), most frequent first.

    ``captions``: from ``caption_lengths``. The share is that of the class's captions that hold the word; words of grammar,
    of the acquisition and numbers are left out.
    """
    rows = []
    for label, own in captions.groupby("label", sort=False):
        counts = Counter(word for text in own["text"] for word in sorted(set(re.findall(r"[a-z]+", text.lower())) - _NO_CONTENT))
        rows.append((label, ", ".join(f"{word} {count / len(own):.0%}" for word, count in counts.most_common(most))))
    return pd.DataFrame(rows, columns=["class", "words"])


def _ordered_labels(rows: pd.DataFrame) -> list[str]:
    groups = [group for group in GROUPS if (rows["group"] == group).any()]
    return [label for group in groups for label in dict.fromkeys(rows.loc[rows["group"] == group, "label"])]


def card_table(card: Mapping[str, Any]) -> pd.DataFrame:
    """The facts of a data set's card as (fact, value) rows of text; nested facts are written ``outer: inner``."""
    left_out = ("fingerprint", "complete", "counts", "radar", "labels", "groups")  # in other tables, or for machines
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


def some_per_label(images: ImageSet, count: int, seed: int = 0) -> ImageSet:
    """At most ``count`` images of every label, drawn by ``seed``, in the set's order: bounds the cost of statistics.

    Drawn, not the first ones: the files of a user often come sensor by sensor.
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


def redraw_scene(row: Mapping[str, Any], size: int) -> tuple[Scene, Radar]:
    """The scene and the radar of a twin image, from its metadata row: what the 8-bit file no longer shows.

    ``simulate(scene, radar, speckle_seed(row["seed"], row["sensor"]))`` gives the image again, complex and with its layover and shadow.
    Raises InputError if the row is not of the twin world.
    """
    wanted = ("label", "seed", "sensor", "look", "incidence")
    missing = [name for name in wanted if row.get(name) is None]
    if missing:
        raise InputError(f"image {row.get('file_name', '?')}: its row has no {missing[0]!r}; only twin images can be drawn again")
    radar = replace(ground_radar(row["sensor"]), look=row["look"], incidence_deg=float(row["incidence"]))
    return make_scene(row["label"], int(row["seed"]), size=size, spacing=radar.spacing_m[0]), radar

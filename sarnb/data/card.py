"""The data card: README.md of a data set in the hub's format, written from its card.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from huggingface_hub import DatasetCard, DatasetCardData

from sarnb.cards import FOLDER

HUB_LICENCES = {"Apache-2.0": "apache-2.0"}  # names the hub knows; others become "unknown"
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test", "judge": "judge"}


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
        size_categories=[size_category(total)],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    hidden = sorted({kind for part in counts.values() for kind in part} - set(counts["train"]))
    values = {"card": card, "title": title, "total": total, "hidden": hidden}
    return DatasetCard.from_template(data, template_path=str(FOLDER / "dataset.md"), **values).content + "\n"


def size_category(images: int) -> str:
    """The hub's name of a size.

    >>> size_category(999), size_category(20_000)
    ('n<1K', '10K<n<100K')
    """
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M")
    return next((name for name, most in zip(names, (10**3, 10**4, 10**5, 10**6)) if images < most), "1M<n<10M")


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

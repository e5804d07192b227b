"""The data card: README.md of a data set in the hub's format, written from its card.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml

HUB_LICENCES = {"Apache-2.0": "apache-2.0"}  # names the hub knows; others become "unknown"
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test", "judge": "judge"}
TWIN_COLUMNS = {
    "file_name": "radar image, 8-bit grey; `datasets` calls it `image`",
    "text": "the training caption: one of `captions`",
    "captions": "short, mid and long caption",
    "label": "class, or two classes joined by +",
    "group": "seen (train shows the kind), unseen, or composition",
    "look": "side of the image the radar is on: left or right",
    "shadow": "the way radar shadows fall",
    "incidence": "incidence angle at the scene centre, degrees",
    "sensor": "radar preset",
    "sun_azimuth": "of the optical image, degrees clockwise from north",
    "sun_elevation": "of the optical image, degrees",
    "seed": "the scene can be drawn again from it",
    "season": "of the optical image",
    "counts": "objects in sight, a JSON object by plural name",
    "optical_file_name": "photograph of the scene, RGB",
    "mask_file_name": "land cover, 8-bit index into `sarnb.world.scene.COVERS`",
    "satellite_file_name": "coarse multi-look radar view, 8-bit grey, a quarter of the size along each axis",
    "height_file_name": "surface height, 16-bit grey: decimetres above -1000 m",
}
USER_COLUMNS = {
    "file_name": "radar image, 8-bit grey; `datasets` calls it `image`",
    "text": "the caption",
    "captions": "the caption, as a list",
    "label": "class",
    "group": "always seen",
    "source": "the file the patch is cut from",
    "row": "upper row of the patch in its file",
    "column": "left column of the patch in its file",
    "storage": "how the file stores the amplitude",
}
TWIN_LIMITS = (
    "Everything is simulated: no measured radar data is in it, and what the simulator leaves out (motion, ambiguities, azimuth "
    "layover, multipath beyond corners) no model can learn from it.",
    "Scenes are procedural: twelve classes and their compositions, 2 m a cell, so small objects are a few pixels.",
    "Captions come of a grammar, not of people.",
)
USER_LIMITS = ("What the source does not tell (sensor, side, scene) is not known here.",)


def data_card(card: Mapping[str, Any]) -> str:
    """README.md of the data set that ``card`` (card.json, see ``twin`` and ``folder``) describes.

    YAML front matter as the Hugging Face hub reads it, with one configuration, so that ``datasets.load_dataset(folder)``
    finds the splits, then the facts as tables. Pure: the same card gives the same text.
    """
    twin = card["kind"] == "twin"
    title = f"Twin world through {card['sensor']}" if twin else f"Radar images of {card['source']}"
    parts = [
        _front_matter(card, title),
        f"# {title}\n",
        f"{sum(card['totals'].values())} radar images of {card['size']} x {card['size']} px with captions. Source: {card['source']}.\n",
        '```python\nfrom datasets import load_dataset\ndata = load_dataset("path/to/this/folder")\n```\n',
        f"## Splits\n{_splits(card)}\n",
        _table(("kind", "group", *card["totals"]), _count_rows(card)),
        f"## Radar\n{_bullets(_radar_facts(card))}" if twin else "",
        f"## Statistics\n{_scales(card)}\n",
        _table(("split", "mean", "CV", "clipped"), _statistic_rows(card)) if twin else "",
        "## Columns\n" + _table(("column", "what it is"), list((TWIN_COLUMNS if twin else USER_COLUMNS).items())),
        f"## Notes and known limits\n{_bullets([*card['notes'], *(TWIN_LIMITS if twin else USER_LIMITS)])}",
        f"## Licence\n{card['licence']}\n",
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(card: Mapping[str, Any], title: str) -> str:
    data_files = [{"split": HUB_SPLITS[split], "path": f"{split}/**"} for split in card["totals"]]
    values = {
        "license": HUB_LICENCES.get(card["licence"], "unknown"),
        "pretty_name": title,
        "task_categories": ["text-to-image", "image-to-image"] if card["has_truth"] else ["text-to-image"],
        "tags": ["synthetic-aperture-radar", "remote-sensing", *(["synthetic"] if card["kind"] == "twin" else [])],
        "size_categories": [size_category(sum(card["totals"].values()))],
        "configs": [{"config_name": "default", "data_files": data_files}],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---\n"


def size_category(images: int) -> str:
    """The hub's name of a size.

    >>> size_category(999), size_category(20_000)
    ('n<1K', '10K<n<100K')
    """
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M")
    return next((name for name, most in zip(names, (10**3, 10**4, 10**5, 10**6)) if images < most), "1M<n<10M")


def _splits(card: Mapping[str, Any]) -> str:
    """How the images were split, and what train does not show: computed, so that it holds for any splits."""
    if card["kind"] != "twin":
        return "By source image: all patches of an image are in one split."
    counts = card["counts"]
    hidden = sorted({kind for part in counts.values() for kind in part} - set(counts["train"]))
    shown = f"Train does not show: {', '.join(hidden)}." if hidden else "Train shows every kind that the set holds."
    return f"By scene: each is drawn from a seed of its own split, so no scene is in two splits. {shown}"


def _count_rows(card: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows = [
        (kind, group, *(card["counts"][split].get(kind, 0) for split in card["totals"]))
        for group, kinds in card["groups"].items()
        for kind in kinds
    ]
    return [*rows, ("all", "", *card["totals"].values())]


def _radar_facts(card: Mapping[str, Any]) -> list[str]:
    radar, coarse = card["radar"], card["satellite"]
    across, along = radar["resolution_m"]
    return [
        f"{card['sensor']}: {radar['band']} band ({radar['frequency_ghz']} GHz), {radar['polarisation']}, looks: {radar['looks']}",
        f"resolution {across:.2f} m in range and {along:.2f} m in azimuth on a ground grid of {card['spacing_m'][0]:g} m",
        f"incidence {', '.join(f'{angle:g}' for angle in card['incidences_deg'])} degrees, from the left and from the right in turn",
        f"noise-equivalent sigma0 {radar['nesz_db']:g} dB",
        f"satellite view: grid of {coarse['spacing_m'][0]:g} m, {coarse['looks']} looks, incidence {coarse['incidence_deg']:g} degrees",
    ]


def _scales(card: Mapping[str, Any]) -> str:
    if card["mu"] is None:
        return "The images share no amplitude scale; see the notes."
    text = f"An amplitude of mu + 3 sigma becomes 255, with mu = {card['mu']:.6g} and sigma = {card['sigma']:.6g} over train"
    coarse = card.get("satellite")
    return text + (f"; of the satellite views mu = {coarse['mu']:.6g} and sigma = {coarse['sigma']:.6g}." if coarse else ".")


def _statistic_rows(card: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Averages over the images: level in [0, 1], standard deviation over mean, share of pixels at 255."""
    return [(split, *(f"{value:.4f}" for value in numbers.values())) for split, numbers in card["statistics"].items()]


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def _bullets(facts: list[str]) -> str:
    return "".join(f"- {fact}\n" for fact in facts)


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

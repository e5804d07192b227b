"""The user's radar images as a data set: check everything, cut patches, scale to 8 bits, hold images out."""

from __future__ import annotations

import os
import shutil
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sarnb.data.amplitude import Normalisation
from sarnb.data.card import data_card
from sarnb.data.files import (
    CARD,
    METADATA,
    README,
    SPLITS,
    check_target,
    replace_folder,
    saving,
    write_json,
    write_png,
    write_rows,
    write_text,
)
from sarnb.data.imagefolder import EXTRA_COLUMNS, Facts, Listing, UserImage, list_images, survey
from sarnb.data.images import read_image
from sarnb.errors import InputError

TEST_SHARE, VAL_SHARE = 0.2, 0.1  # of a class's images, at least one each
LEAST_IMAGES = 3  # a class: one each for train, val and test


@dataclass(frozen=True)
class CheckedImage:
    """An image that passed: what its pixels say, and the origins (row, column) of its patches."""

    image: UserImage
    facts: Facts
    origins: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CheckedFolder:
    """A folder without fault. ``duplicates``: names left out because another image of the class has the same pixels."""

    listing: Listing
    images: tuple[CheckedImage, ...]
    duplicates: tuple[str, ...]


def check_user_folder(source: Path, size: int = 128, seed: int = 0, tiles_per_image: int = 4) -> CheckedFolder:
    """Read every image of a folder and find every fault, writing nothing.

    Parameters: ``size`` of a patch in px; ``tiles_per_image``: the most patches of one image.
    Raises InputError; if several images are faulty, the first is explained and the others are named.
    """
    if size < 8 or tiles_per_image < 1:
        raise InputError(f"size {size} and tiles_per_image {tiles_per_image} make no patch; use at least 8 px and 1 patch")
    listing = list_images(source)
    checked = survey(listing.images, partial(_check_image, size=size, seed=seed, tiles_per_image=tiles_per_image))
    images, duplicates = _drop_duplicates(checked)
    for label, count in sorted(Counter(item.image.label for item in images).items()):
        if count < LEAST_IMAGES:
            raise InputError(
                f"{source}: class '{label}' has {count} different image(s); give at least {LEAST_IMAGES} "
                "(train, validation and test need one each) or remove the class"
            )
    return CheckedFolder(listing, images, duplicates)


def prepare_user_data(
    source: Path,
    out: Path,
    size: int = 128,
    seed: int = 0,
    tiles_per_image: int = 4,
    tiles_per_class: int = 256,
) -> dict[str, Any]:
    """Make ``out/{train,val,test,judge}`` and ``out/card.json`` of the user's images; returns the card.

    Patches of ``size`` x ``size`` px are cut from a centred grid, never resized; an image gives at most
    ``tiles_per_image`` of them. Every image gives one; further ones are taken in turn until the class has
    ``tiles_per_class``, so that a few huge images do not dominate. All patches of an image are in one split. 8-bit
    images keep their values (their scaling is unknown); others become A / (mu + 3 sigma), fitted over the training
    images of the same storage. ``judge`` repeats ``train``: there are no other labelled images to train the judge on.

    Raises InputError (see check_user_folder) before anything is written; a set made here earlier is replaced.
    """
    out = check_target(out)
    _refuse_overlap(Path(source), out)
    folder = check_user_folder(source, size, seed, tiles_per_image)
    splits = split_images(folder.images, seed)
    scales = _fit_scales(folder.images, splits["train"])
    patches = _choose_patches(folder.images, tiles_per_class)
    temporary = out.with_name(f".{out.name}.partial-{os.getpid()}")
    with saving(out):
        try:
            counts = {}
            shared = _shared_columns(folder.images)
            for split in ("train", "val", "test"):
                rows = _write_split(temporary / split, splits[split], patches, scales, size, shared)
                counts[split] = dict(sorted(Counter(row["label"] for row in rows).items()))
            shutil.copytree(temporary / "train", temporary / "judge")
            counts["judge"] = counts["train"]
            card = _card(folder, splits, counts, scales, size, seed, tiles_per_image, tiles_per_class)
            write_json(temporary / CARD, card)
            write_text(temporary / README, data_card(card))
            replace_folder(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return card


def split_images(images: Sequence[CheckedImage], seed: int) -> dict[str, tuple[CheckedImage, ...]]:
    """Train, val and test by image, class by class: 70, 10 and 20 %, at least one each (a class has three or more)."""
    splits: dict[str, list[CheckedImage]] = {"train": [], "val": [], "test": []}
    by_label = defaultdict(list)
    for item in images:
        by_label[item.image.label].append(item)
    for label, items in sorted(by_label.items()):
        order = np.random.default_rng([seed, zlib.crc32(label.encode())]).permutation(len(items))
        test = max(1, round(TEST_SHARE * len(items)))
        val = max(1, round(VAL_SHARE * len(items)))
        parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
        for split, chosen in parts.items():
            splits[split].extend(items[index] for index in chosen)
    return {split: tuple(sorted(items, key=lambda item: item.image.name)) for split, items in splits.items()}


def patch_origins(amplitude: np.ndarray, size: int, limit: int, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Upper left corners (row, column) of up to ``limit`` patches that do not overlap nor are constant.

    They lie on a grid centred in the image; which of its cells are taken is drawn by ``rng``.
    """
    rows, columns = amplitude.shape[0] // size, amplitude.shape[1] // size
    top, left = (amplitude.shape[0] - rows * size) // 2, (amplitude.shape[1] - columns * size) // 2
    origins = []
    for cell in rng.permutation(rows * columns):
        row, column = top + int(cell // columns) * size, left + int(cell % columns) * size
        patch = amplitude[row : row + size, column : column + size]
        if patch.min() < patch.max():
            origins.append((row, column))
        if len(origins) == limit:
            break
    return tuple(origins)


def _check_image(image: UserImage, size: int, seed: int, tiles_per_image: int) -> CheckedImage:
    read = read_image(image.path)
    height, width = read.amplitude.shape
    if min(height, width) < size:
        raise InputError(
            f"{image.path}: is {height} x {width} px, smaller than the {size} px patch; remove it or choose a smaller image_size"
        )
    rng = np.random.default_rng([seed, zlib.crc32(image.name.encode())])
    origins = patch_origins(read.amplitude, size, tiles_per_image, rng)
    if not origins:
        raise InputError(f"{image.path}: is constant in every {size} px patch of its grid; crop it to what is imaged or remove it")
    return CheckedImage(image, Facts.of(read), origins)


def _drop_duplicates(checked: Sequence[CheckedImage]) -> tuple[tuple[CheckedImage, ...], tuple[str, ...]]:
    """The first of images with equal pixels: a copy in another split would let the test see training images."""
    first: dict[str, CheckedImage] = {}
    duplicates = []
    for item in checked:
        same = first.setdefault(item.facts.digest, item)
        if same.image.label != item.image.label:
            raise InputError(
                f"{item.image.path}: has the same pixels as {same.image.name} but the label '{item.image.label}' "
                f"instead of '{same.image.label}'; remove one of them"
            )
        if same is not item:
            duplicates.append(item.image.name)
    return tuple(first.values()), tuple(duplicates)


def _fit_scales(images: Sequence[CheckedImage], train: Sequence[CheckedImage]) -> dict[str, Normalisation]:
    """One amplitude scale a storage other than 8 bits, over the training images (over all, where train has none)."""
    scales = {}
    for storage in sorted({item.facts.storage for item in images} - {"8-bit"}):
        fitted = [item for item in train if item.facts.storage == storage] or [item for item in images if item.facts.storage == storage]
        scales[storage] = Normalisation.from_moments(item.facts.moments for item in fitted)
    return scales


def _choose_patches(images: Sequence[CheckedImage], tiles_per_class: int) -> dict[str, tuple[tuple[int, int], ...]]:
    """Origins by image name: the first of every image, then second ones, third ones … while the class has room."""
    chosen = {item.image.name: list(item.origins[:1]) for item in images}
    room = Counter()
    for item in images:
        room[item.image.label] += 1
    for rank in range(1, max(len(item.origins) for item in images)):
        for item in images:
            if rank < len(item.origins) and room[item.image.label] < tiles_per_class:
                chosen[item.image.name].append(item.origins[rank])
                room[item.image.label] += 1
    return {name: tuple(sorted(origins)) for name, origins in chosen.items()}


def _shared_columns(images: Sequence[CheckedImage]) -> tuple[str, ...]:
    """The extra columns that every image has: a column known for some only would differ in type between splits."""
    return tuple(name for name in EXTRA_COLUMNS if all(name in item.image.extra for item in images))


def _write_split(
    folder: Path,
    items: Sequence[CheckedImage],
    patches: dict[str, tuple[tuple[int, int], ...]],
    scales: dict[str, Normalisation],
    size: int,
    shared: tuple[str, ...],
) -> list[dict[str, Any]]:
    """Write the patches of one split; returns their rows."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for item in items:
        amplitude = read_image(item.image.path).amplitude
        for row, column in patches[item.image.name]:
            patch = amplitude[row : row + size, column : column + size]
            name = f"{len(rows):06d}.png"
            write_png(folder / name, scales[item.facts.storage].apply(patch) if item.facts.storage in scales else patch)
            facts = {key: item.image.extra[key] if key in shared else None for key in EXTRA_COLUMNS}
            rows.append(
                {
                    "file_name": name,
                    "text": item.image.text,
                    "captions": [item.image.text],
                    "label": item.image.label,
                    "group": "seen",
                    **facts,
                    "source": item.image.name,
                    "row": row,
                    "column": column,
                    "storage": item.facts.storage,
                }
            )
    write_rows(folder / METADATA, rows)
    return rows


def _card(
    folder: CheckedFolder,
    splits: dict[str, tuple[CheckedImage, ...]],
    counts: dict[str, dict[str, int]],
    scales: dict[str, Normalisation],
    size: int,
    seed: int,
    tiles_per_image: int,
    tiles_per_class: int,
) -> dict[str, Any]:
    storages = Counter(item.facts.storage for item in folder.images)
    only = next(iter(scales.values())) if len(scales) == 1 and len(storages) == 1 else None
    notes = [
        f"Patches of {size} x {size} px from a centred grid, never resized: at most {tiles_per_image} an image, "
        f"further than the first while the class has fewer than {tiles_per_class}.",
        "All patches of an image are in one split; images of one scene cannot be recognised and may be in several.",
        "judge repeats train.",
    ]
    if "8-bit" in storages:
        notes.append(
            f"{storages['8-bit']} images are 8-bit and kept as they are: how they were scaled is not known, "
            "so amplitudes compare within one source only."
        )
    for storage, scale in scales.items():
        notes.append(
            f"{storages[storage]} {storage} images: A / (mu + 3 sigma), mu + 3 sigma = {scale.scale:.6g} over the training "
            "images of this kind, clipped to [0, 1]."
        )
    return {
        "kind": "user",
        "source": folder.listing.source.resolve().name,
        "form": folder.listing.form,
        "licence": "that of the source images; not known here",
        "has_truth": False,
        "sensor": None,
        "spacing_m": None,
        "size": size,
        "seed": seed,
        "labels": sorted(counts["train"]),
        "groups": {"seen": sorted(counts["train"]), "unseen": [], "composition": []},
        "counts": counts,
        "totals": {split: sum(counts[split].values()) for split in SPLITS},
        "source_images": {split: len(splits[split if split != "judge" else "train"]) for split in SPLITS},
        "mu": only.mu if only else None,
        "sigma": only.sigma if only else None,
        "normalisation": {storage: {"mu": scale.mu, "sigma": scale.sigma} for storage, scale in scales.items()},
        "storages": dict(sorted(storages.items())),
        "ignored_files": folder.listing.ignored,
        "left_out_duplicates": list(folder.duplicates),
        "notes": notes,
    }


def _refuse_overlap(source: Path, out: Path) -> None:
    """The data set must not be written into its own source, nor replace it."""
    source, out = source.resolve(), out.resolve()
    if out == source or out.is_relative_to(source) or source.is_relative_to(out):
        raise InputError(f"{out}: lies in the source folder {source} or holds it; write the data set elsewhere")

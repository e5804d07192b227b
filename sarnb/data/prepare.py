"""The user's radar images as a data set: check everything, cut patches, scale to 8 bits, hold images out.

Images without a caption can have one: what an image-text model says of the photograph next to each, and the physics of the metadata.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sarnb.data import files
from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import write_card
from sarnb.data.files import CARD, METADATA, SPLITS, WRITTEN, check_apart, read_numbered, saving, working_in, write_rows
from sarnb.data.imagefolder import (
    EXTRA_COLUMNS,
    PAIRED,
    ImageFolder,
    Origins,
    UserImage,
    default_caption,
    list_images,
    merged_scale,
    physics,
    read_captions,
    safe_name,
    some,
    survey_quantity,
)
from sarnb.data.images import read_image
from sarnb.errors import InputError, first_line

TEST_SHARE, VAL_SHARE = 0.2, 0.1  # of a class's images, at least one each
TILES_PER_IMAGE, TILES_PER_CLASS = 4, 256  # the most patches of an image, and of a class with more patches than images
Scales = dict[tuple[str, str], Normalisation]  # (sensor, storage) -> scale


def check_user_folder(
    source: Path,
    size: int = 128,
    seed: int = 0,
    quantity: str = "",
    unseen: Sequence[str] = (),
    captions: Path | None = None,
) -> ImageFolder:
    """Read every image of a folder and find every fault, writing nothing: the images with their facts and patches.

    Parameters
    ----------
    source : the folder, see ``list_images``.
    size : side of a patch in px.
    seed : draws which patches of an image are taken.
    quantity : what the numbers are, see ``survey_quantity``.
    unseen : classes that are to be held out.
    captions : rows in place of the folder's own, see ``read_captions``.

    Raises
    ------
    InputError
        If several images are faulty, the first is explained and the others are named.
    """
    if size < 8:
        raise InputError(f"size {size} makes no patch; use at least 8 px")
    folder = list_images(source, captions=read_captions(captions, [source]) if captions else None, index=True)
    labels = {image.label for image in folder.images}
    if strange := [label for label in unseen if label not in labels]:
        raise InputError(f"--unseen {','.join(unseen)}: {source} has no class {strange[0]!r}; it has {', '.join(sorted(labels))}")
    if len(labels - {*unseen}) < 2:
        raise InputError(f"--unseen {','.join(unseen)}: leaves fewer than two classes of {source} to train with; name fewer")
    check = partial(_check_image, size=size, seed=seed)
    checked, notes = survey_quantity(folder.images, check, quantity)
    empty = [image.name for image in checked if not image.origins]
    if empty:
        notes.append(f"no patch of {size} px that is all data: {len(empty)} of {len(checked)} images left out, {some(empty)}")
    images, duplicates = _drop_duplicates([image for image in checked if image.origins])
    missing = _missing_splits(images)
    counts = Counter(image.label for image in images if image.split in ("", "train"))
    if not counts:
        raise InputError(f"{source}: has no training image; name one of its splits train")
    for label, count in sorted(counts.items()):
        if count < 1 + len(missing):
            raise InputError(
                f"{source}: class '{label}' has {count} different image(s) for {', '.join(('train', *missing))}; give at least "
                f"{1 + len(missing)}, one each, or remove the class"
            )
    given = [name for name in SPLITS if any(image.split == name for image in images)]
    bare = sum(not image.split for image in images)
    if given and bare:
        notes.append(f"{bare} of {len(images)} images have no split named, though others have: they count as train")
    taken = [f"{name} as given" for name in given] + [f"{name} drawn by image, class by class" for name in missing]
    notes.append(f"splits: {', '.join(taken)}")
    if unseen:
        notes.append(f"held out, shown by neither train nor val: {', '.join(unseen)}")
    if len(sensors := Counter(image.sensor for image in images)) > 1:
        parts = ", ".join(f"{sensor} {count}" for sensor, count in sensors.most_common())
        notes.append(
            f"{len(sensors)} sensors are mixed, of unlike resolution, speckle and scale, by which classes may be recognised: {parts}"
        )
    if duplicates:
        notes.append(f"{len(duplicates)} images have the pixels of another one and are left out: {some(duplicates)}")
    return replace(folder, images=images, duplicates=duplicates, notes=(*folder.notes, *notes))


def prepare_user_data(
    source: Path,
    out: Path,
    size: int = 128,
    seed: int = 0,
    quantity: str = "",
    unseen: Sequence[str] = (),
    captions: Path | None = None,
) -> dict[str, Any]:
    """Make ``out/{train,val,test,judge}`` and ``out/card.json`` of the user's images; a set made here earlier is replaced.

    Patches are cut from a centred grid, never resized. Every image gives one; further ones are taken in turn until the
    class has ``TILES_PER_CLASS``, so that a few huge images do not dominate. All patches of an image are in one split.
    8-bit images keep their values (their scaling is unknown); others become A / (mu + 3 sigma), fitted over the training
    images of the same sensor and storage. Pixels that are no data count in no scale and stand in no patch. ``judge``
    repeats ``train``: there are no other labelled images to train the judge on. Of held-out classes, which neither train nor
    val shows, the images that train would have go to judge alone.

    A data set that was made here of SARLO-80 or of products (``ready_set``) is taken over as it is, with its splits, captions
    and hidden classes; the images are hard links where the disk knows them.

    Parameters
    ----------
    source, out : the folder of the images, and that of the data set.
    size : side of a patch in px.
    seed : draws the splits and the patches.
    quantity : what the numbers are: amplitude, intensity, db or complex; "" has it decided by tags and statistics.
    unseen : classes that are held out. A set that is taken over has its own.
    captions : rows in place of the folder's own, see ``read_captions``.

    Returns
    -------
    dict
        The card.

    Raises
    ------
    InputError
        See ``check_user_folder``; before anything is written.
    """
    out = files.check_out(out, "data set", [source])
    if ready := ready_set(source, size):
        if {*unseen} - {*ready["groups"]["unseen"]}:
            raise InputError(f"--unseen {','.join(unseen)}: {source} is a finished set with splits of its own; hold out when it is made")
        return _take_over(Path(source), out, ready)
    folder = check_user_folder(source, size, seed, quantity, unseen, captions)
    images = _choose_patches(folder.images)
    splits = split_images(images, seed)
    splits["judge"] = splits["train"]
    for split in ("train", "val"):
        splits[split] = [image for image in splits[split] if image.label not in unseen]
    scales = fit_scales(images, splits["train"])
    # a column known for some images only would differ in type between splits
    shared = [name for name in EXTRA_COLUMNS if all(name in image.extra for image in images)]
    shown = {image.label for image in splits["train"]}
    with _remade(out) as temporary:
        counts = {}
        for split in SPLITS:
            rows = _write_split(temporary / split, splits[split], scales, size, shared, shown)
            counts[split] = dict(sorted(Counter(row["label"] for row in rows).items()))
        return write_card(temporary, _card(folder, splits, counts, scales, size, seed))


@contextmanager
def _remade(out: Path) -> Iterator[Path]:
    """A folder next to ``out`` that takes its place at the end, or is removed where something fails."""
    temporary = out.resolve().with_name(f".{out.resolve().name}.partial-{os.getpid()}")
    with files.working_in(out), files.saving(out):
        for stale in temporary.parent.glob(f".{glob.escape(out.resolve().name)}.partial-*"):
            shutil.rmtree(stale, ignore_errors=True)  # of a call that was killed: the lock is this one's
        try:
            yield temporary
            files.replace_folder(temporary, out, "data set")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def split_images(images: Sequence[UserImage], seed: int) -> dict[str, list[UserImage]]:
    """Train, val and test by image: as the user gave them; a split that is not given is cut from train, class by class.

    Of a class 10 % become val and 20 % test, at least one each.
    """
    splits = {name: [image for image in images if image.split == name] for name in ("train", "val", "test")}
    rest, missing = [image for image in images if image.split in ("", "train")], _missing_splits(images)
    splits["train"] = []
    for label in sorted({image.label for image in rest}):
        own = [image for image in rest if image.label == label]
        order = np.random.default_rng([seed, zlib.crc32(label.encode())]).permutation(len(own))
        test, val = (max(1, round(share * len(own))) * (name in missing) for name, share in (("test", TEST_SHARE), ("val", VAL_SHARE)))
        for split, chosen in zip(("test", "val", "train"), np.split(order, [test, test + val])):
            splits[split] += [own[index] for index in chosen]
    return {split: sorted(part, key=lambda image: image.name) for split, part in splits.items()}


def _missing_splits(images: Sequence[UserImage]) -> list[str]:
    """Those of val and test that the user did not give."""
    return [name for name in ("val", "test") if not any(image.split == name for image in images)]


def patch_origins(
    amplitude: np.ndarray, size: int, limit: int, rng: np.random.Generator, valid: np.ndarray | None = None, gaps: float = 0.0
) -> Origins:
    """Upper left corners (row, column) of up to ``limit`` patches of an amplitude [H, W] that do not overlap nor are constant.

    They lie on a grid centred in the image; which of its cells are taken is drawn by ``rng``. At most the share ``gaps`` of a
    patch's pixels is not ``valid``.
    """
    rows, columns = amplitude.shape[0] // size, amplitude.shape[1] // size
    top, left = (amplitude.shape[0] - rows * size) // 2, (amplitude.shape[1] - columns * size) // 2
    origins = []
    for cell in rng.permutation(rows * columns):
        row, column = top + int(cell // columns) * size, left + int(cell % columns) * size
        patch = amplitude[row : row + size, column : column + size]
        whole = valid is None or np.mean(~valid[row : row + size, column : column + size]) <= gaps
        if whole and patch.min() < patch.max():
            origins.append((row, column))
        if len(origins) == limit:
            break
    return tuple(origins)


def _check_image(image: UserImage, size: int, seed: int, quantity: str) -> UserImage:
    read = read_image(image.path, quantity=quantity)
    height, width = read.amplitude.shape
    if min(height, width) < size:
        raise InputError(
            f"{image.path}: is {height} x {width} px, smaller than the {size} px patch; remove it or choose a smaller image_size"
        )
    rng = np.random.default_rng([seed, zlib.crc32(image.name.encode())])
    origins = patch_origins(read.amplitude, size, TILES_PER_IMAGE, rng, read.valid, read.gaps)
    if not origins and read.valid is None:
        raise InputError(f"{image.path}: is constant in every {size} px patch of its grid; crop it to what is imaged or remove it")
    return replace(image, facts=read.facts(), origins=origins)


def _drop_duplicates(images: Sequence[UserImage]) -> tuple[tuple[UserImage, ...], tuple[str, ...]]:
    """The first of images with equal pixels: a copy in another split would let the test see training images."""
    first: dict[str, UserImage] = {}
    duplicates = []
    for image in images:
        same = first.setdefault(image.facts.digest, image)
        if same.label != image.label:
            raise InputError(
                f"{image.path}: has the same pixels as {same.name} but the label '{image.label}' "
                f"instead of '{same.label}'; remove one of them"
            )
        if same is not image:
            duplicates.append(image.name)
    return tuple(first.values()), tuple(duplicates)


def fit_scales(images: Sequence[UserImage], train: Sequence[UserImage] = ()) -> Scales:
    """One amplitude scale a sensor and storage other than 8 bits, over the training images (over all, where train has none)."""
    scales = {}
    for kind in sorted({_kind(image) for image in images if image.facts.storage != "8-bit"}):
        fitted, every = ([image for image in part if _kind(image) == kind] for part in (train, images))
        scales[kind] = merged_scale(fitted or every)
    return scales


def _kind(image: UserImage) -> tuple[str, str]:
    """(sensor, storage): images that share them share one amplitude scale."""
    return image.sensor, image.facts.storage


def _choose_patches(images: Sequence[UserImage]) -> list[UserImage]:
    """The images with the first patch of each, then second ones, third ones … while the class has room."""
    taken, counts = Counter(image.label for image in images), Counter(image.name for image in images)
    for rank in range(1, max(len(image.origins) for image in images)):
        for image in images:
            if rank < len(image.origins) and taken[image.label] < TILES_PER_CLASS:
                counts[image.name] += 1
                taken[image.label] += 1
    return [replace(image, origins=tuple(sorted(image.origins[: counts[image.name]]))) for image in images]


def _write_split(
    folder: Path, images: Sequence[UserImage], scales: Scales, size: int, shared: Sequence[str], shown: set[str]
) -> list[dict[str, Any]]:
    """Write the patches of one split; returns their rows."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for image in images:
        amplitude, scale = read_image(image.path, quantity=image.facts.quantity).amplitude, scales.get(_kind(image))
        for row, column in image.origins:
            patch = amplitude[row : row + size, column : column + size]
            name = f"{len(rows):06d}.png"
            files.write_png(folder / name, scale.apply(patch) if scale else patch)
            rows.append(
                {
                    "file_name": name,
                    "text": image.text,
                    "captions": image.extra.get("captions", [image.text]),
                    "label": image.label,
                    "group": "seen" if image.label in shown else "unseen",
                    **{key: image.extra[key] if key in shared else None for key in EXTRA_COLUMNS},
                    "source": image.name,
                    "row": row,
                    "column": column,
                    "storage": image.facts.storage,
                }
            )
    files.write_rows(folder / METADATA, rows)
    return rows


def _card(
    folder: ImageFolder,
    splits: dict[str, list[UserImage]],
    counts: dict[str, dict[str, int]],
    scales: Scales,
    size: int,
    seed: int,
) -> dict[str, Any]:
    storages = Counter(image.facts.storage for image in folder.images)
    only = next(iter(scales.values())) if len(scales) == 1 and len(storages) == 1 else None
    labels = {label for part in counts.values() for label in part}
    notes = [
        f"Patches of {size} x {size} px from a centred grid, never resized: at most {TILES_PER_IMAGE} an image, "
        f"further than the first while the class has fewer than {TILES_PER_CLASS}.",
        "All patches of an image are in one split; images of one scene cannot be recognised and may be in several.",
        "judge repeats train, and shows the held-out classes too.",
    ]
    if "8-bit" in storages:
        notes.append(
            f"{storages['8-bit']} images are 8-bit and kept as they are: how they were scaled is not known, "
            "so amplitudes compare within one source only."
        )
    kinds, named = Counter(_kind(image) for image in folder.images), {}
    several = len({image.sensor for image in folder.images}) > 1
    for (sensor, storage), scale in scales.items():
        name = f"{sensor}, {storage}" if several else storage
        named[name] = {"mu": scale.mu, "sigma": scale.sigma}
        notes.append(
            f"{kinds[sensor, storage]} {storage} images{f' of {sensor}' if several else ''}: A / (mu + 3 sigma), mu + 3 sigma = "
            f"{scale.scale:.6g} over the training images of this kind, clipped to [0, 1]."
        )
    return {
        "kind": "user",
        "source": folder.source.resolve().name,
        "form": folder.form,
        "licence": "that of the source images; not known here",
        "has_truth": False,
        "sensor": None,
        "spacing_m": None,
        "size": size,
        "seed": seed,
        "labels": sorted(labels),
        "groups": {"seen": sorted(counts["train"]), "unseen": sorted(labels - {*counts["train"]}), "composition": []},
        "counts": counts,
        "totals": {split: sum(counts[split].values()) for split in SPLITS},
        "source_images": {split: len(splits[split]) for split in SPLITS},
        "mu": only.mu if only else None,
        "sigma": only.sigma if only else None,
        "normalisation": named,
        "storages": dict(sorted(storages.items())),
        "ignored_files": folder.ignored,
        "no_data_pixels": sum(image.facts.excluded for image in folder.images),
        "left_out_duplicates": list(folder.duplicates),
        "notes": [*notes, *folder.notes],
        "read": list(folder.notes),
    }


# Images out of archives and products: read piece by piece into .work, which a later call goes on with, then laid out by split.

UNCLEAR = "unclear"  # the class of an image whose class nothing tells
Found = tuple[Path, dict[str, Any]]  # an 8-bit image, and its row: "place", "label", "text" and what else is known of it


def place_splits(sizes: Mapping[str, int], seed: int) -> dict[str, str]:
    """The split of each place: test and val get whole places until each has 10 % of the images, at least one; train the others.

    Parameters
    ----------
    sizes : number of images of each place. Of fewer than three places all are train.
    seed : draws the order of the places; the largest one is always train.
    """
    names = sorted(sizes)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    order.remove(max(names, key=lambda name: sizes[name])) if names else None
    splits = dict.fromkeys(names, "train")
    for split in ("test", "val") if len(names) > 2 else ():
        taken = 0
        while taken < sum(sizes.values()) / 10 and (taken == 0 or len(order) > 1):
            taken += sizes[order[0]]
            splits[order.pop(0)] = split
    return splits


def build_set(
    out: Path,
    settings: Mapping[str, Any],
    read: Callable[[Path], tuple[list[Found], dict[str, Any]]],
    seed: int,
    unseen: Sequence[str] = (),
    part: bool = False,
) -> dict[str, Any]:
    """A data set of images that ``read`` finds, split by place; a killed call is continued by the next one of the same settings.

    No place is in two splits. Classes of ``unseen`` are shown by neither train nor val: their images in places of train
    go to judge, those in places of val are left out. Judge repeats train besides, as hard links where the disk knows them.

    Parameters
    ----------
    out : the folder, made or continued here; a finished set of the same settings is returned at once.
    settings : all that the files depend on, as JSON.
    read : a folder for its pieces -> the images with their rows, and the facts of the card.
    seed : draws the splits.
    unseen : classes that are held out.
    part : ``read`` reads a part only, perhaps next to other machines that read other parts into the same folder. Nothing is laid out:
        when all parts are read, a call for the whole does it, and finds them.

    Raises
    ------
    InputError
        A folder that holds something else, a full disk, or no image; and what ``read`` raises.
    """
    out, key = files.check_out(out, "data set"), files.content_key(json.dumps(settings, sort_keys=True))
    if (card := files.begun(out, key)).get("complete"):
        shutil.rmtree(out / ".work", ignore_errors=True)
        return card
    with files.saving(out):
        with files.working_in(out):
            if not files.begun(out, key):
                files.clear(files.claim(out, "data set", names=WRITTEN))
                for name in SPLITS:
                    shutil.rmtree(out / name, ignore_errors=True)
                files.write_json(out / CARD, {"fingerprint": key, "complete": False})
        found, facts = read(out / ".work")
        if part:
            return {**facts, "totals": {"part": len(found)}}
        if not found:
            raise InputError(f"{out}: no image is left to make a data set of: {'; '.join(facts['read']) or 'nothing was found'}")
        sizes = Counter(row["place"] for _, row in found)
        splits = place_splits(sizes, seed)
        parts: dict[str, list[Found]] = {split: [] for split in SPLITS}
        for path, row in found:
            hidden, split = row["label"] in unseen, splits[row["place"]]
            if not hidden or split == "test":
                parts[split].append((path, row))
            if split == "train":
                parts["judge"].append((path, row))
        notes = list(facts["notes"])
        if len(sizes) < 3:
            notes.append(f"There are {len(sizes)} places; a split by place needs three, so all images are in train.")
        counts = {}
        for split, own in parts.items():
            shutil.rmtree(out / split, ignore_errors=True)
            shutil.rmtree(made := out / ".work" / split, ignore_errors=True)
            _lay_out(made, own, unseen)
            made.replace(out / split)
            counts[split] = dict(sorted(Counter(row["label"] for _, row in own).items()))
        labels = sorted({row["label"] for own in parts.values() for _, row in own})
        card = {
            **facts,
            "complete": True,
            "has_truth": False,
            "seed": seed,
            "labels": labels,
            "groups": {
                "seen": [label for label in labels if label not in unseen],
                "unseen": [label for label in labels if label in unseen],
                "composition": [],
            },
            "counts": counts,
            "totals": {split: len(own) for split, own in parts.items()},
            "places": {split: sum(name == split for name in splits.values()) for split in SPLITS[:3]},
            "notes": notes,
            "fingerprint": key,
        }
        write_card(out, card)
        shutil.rmtree(out / ".work", ignore_errors=True)
        files.release(out)
    return card


def _lay_out(folder: Path, part: Sequence[Found], unseen: Sequence[str]) -> None:
    """Make the folder of a split: its images, and their rows last."""
    folder.mkdir(parents=True)
    rows = []
    for index, (path, row) in enumerate(part):
        name = f"{index:06d}.png"
        _link(path, folder / name)
        group = "unseen" if row["label"] in unseen else "seen"
        rows.append({"file_name": name, **row} | {"file_name": name, "group": group})
    files.write_rows(folder / METADATA, rows)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links, or another disk
        shutil.copyfile(path, target)


def ready_set(source: Path, size: int) -> dict[str, Any]:
    """The card of a finished data set of ``size`` px that ``build_set`` made, none of its splits empty; {} for any other folder.

    Raises
    ------
    InputError
        The set shows fewer than two classes: the study compares them.
    """
    card = files.read_json(Path(source) / CARD)
    finished = card.get("kind") in ("sarlo80", "products") and card.get("complete") and card.get("size") == size
    whole = finished and all(card["totals"].get(split) for split in SPLITS) and not files.lost_files(Path(source))
    if whole and len(card["counts"]["train"]) < 2:
        raise InputError(
            f"{source}: its images to train with are all of the class {next(iter(card['counts']['train']))!r}, and the study compares "
            "classes; make it anew of captions that name several, or of products in folders, one a class"
        )
    return card if whole else {}


def _take_over(source: Path, out: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Lay out a finished set in ``out``, with the columns that every set has; returns its card."""
    card = {"spacing_m": None, **card}
    with _remade(out) as temporary:
        for split in SPLITS:
            rows = [{**dict.fromkeys(EXTRA_COLUMNS), **row} for _, row in files.read_numbered(source / split / METADATA)]
            _lay_out(temporary / split, [(source / split / row["file_name"], row) for row in rows], card["groups"]["unseen"])
        return write_card(temporary, card)


# ---- captions for images that have none ----

WORDS = 40  # tokens that the model may say of a picture
#: What such models begin with; a radar image is none of these.
LEAD = re.compile(r"(?:(?:an?|the|this) )?(?:(?:\w+ )?(?:photo|photograph|image|view|picture|shot) (?:of|showing) )", re.IGNORECASE)


def write_captions(source: Path, out: Path, model: str = "", batch: int = 16) -> tuple[int, int]:
    """Write a row of every image of a folder into ``out``: its class and facts, and a caption.

    Parameters
    ----------
    source : the folder, see ``list_images``.
    out : JSON lines. What a killed call has described lies next to it, and the next one goes on behind that.
    model : image-text model, a hub id or a folder. It describes the photographs that the metadata's column ``PAIRED`` names;
        images without one, or all without a model, have their class as caption.
    batch : photographs at a time.

    Returns
    -------
    described, others : captions of photographs, and by the class.

    Raises
    ------
    InputError
        No image, no such model, a photograph that cannot be read, or a file of another model's captions.
    """
    images, by = list_images(source, labelled=False, index=True).images, model or "class"
    check_apart(out, [image.path for image in images], "captions")
    half = out.with_name(f".{out.name}.partial")
    with working_in(out), saving(out):
        done = _whole_rows(half) | ({row.get("file_name"): row for _, row in read_numbered(out)} if out.is_file() else {})
        for name, row in done.items():
            if row.get("captioned_by") != by:
                raise InputError(f"{out}: {name} is captioned by {row.get('captioned_by')!r}, not {by!r}; name another file, or remove it")
        left = [image for image in images if image.name not in done]
        paired = [image for image in left if model and PAIRED in image.extra]
        say = describer(model) if paired else None
        with half.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in done.values())
            file.flush()
            for start in range(0, len(paired), batch):
                part = paired[start : start + batch]
                texts = say([_photograph(image) for image in part]) if say else []
                file.writelines(json.dumps(_row(image, text, by), ensure_ascii=False) + "\n" for image, text in zip(part, texts))
                file.flush()
        done = _whole_rows(half)
        write_rows(out, [done.get(image.name) or _row(image, "", by) for image in images])
        half.unlink()
    described = sum(bool(model and PAIRED in image.extra) for image in images)
    return described, len(images) - described


def describer(model: str) -> Callable[[Sequence[Image.Image]], list[str]]:
    """Pictures -> a sentence on each, by greedy decoding. Weights are read from safetensors, and no code of the model's is run.

    Raises
    ------
    InputError
        The model cannot be read here, or is no image-text model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        network = AutoModelForImageTextToText.from_pretrained(model, trust_remote_code=False, use_safetensors=True).eval()
    except Exception as error:  # the hub's client and the readers raise anything
        raise InputError(
            f"--model {model}: is no image-text model that can be read here ({first_line(error)}); give a captioning model such as BLIP, "
            "by its name on the hub or as a folder with config.json, model.safetensors, tokenizer and preprocessor_config.json"
        ) from error
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)

    def say(pictures: Sequence[Image.Image]) -> list[str]:
        with torch.inference_mode():
            inputs = processor(images=list(pictures), return_tensors="pt").to(device)
            tokens = network.generate(**inputs, max_new_tokens=WORDS, do_sample=False)
        return [" ".join(text.split()) for text in processor.batch_decode(tokens, skip_special_tokens=True)]

    return say


def _row(image: UserImage, sentence: str, by: str) -> dict[str, Any]:
    seen = LEAD.sub("", sentence, count=1).rstrip(". ")
    text = f"a radar image of {seen}" if seen else default_caption(image.label) if image.label else "a radar image"
    facts = {name: image.extra[name] for name in EXTRA_COLUMNS if name in image.extra}
    label = {"label": image.label} if image.label else {}
    return {"file_name": image.name, **label, **facts, "text": ", ".join([text, *physics(**facts)]), "captioned_by": by}


def _photograph(image: UserImage) -> Image.Image:
    folder, name, where = image.extra[PAIRED]
    path = folder / safe_name(name, folder, where)
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except Exception as error:  # decoders raise anything on damaged bytes, and refuse bombs
        raise InputError(f"{path}: cannot be read as a photograph ({first_line(error)}); mend it or take it out of the row") from error


def _whole_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Image -> row of what an earlier call wrote, without a last line that has no end."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return {row["file_name"]: row for row in map(json.loads, lines)}

"""What lies in the user's folder: class folders, or an imagefolder with metadata.jsonl. No pixel is read here."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sarnb.data.files import METADATA, read_numbered
from sarnb.data.images import SUFFIXES
from sarnb.errors import InputError
from sarnb.world.captions import prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS

EXTRA_COLUMNS = ("look", "incidence", "sensor")  # scene facts that a user's metadata may give and later steps can use


@dataclass(frozen=True)
class UserImage:
    """One image of the user: its path, its name inside the folder, label, caption, and what else metadata says of it."""

    path: Path
    name: str
    label: str
    text: str
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """Images by name. ``form``: "class folders" or "imagefolder". ``ignored``: files by suffix that were passed over."""

    source: Path
    form: str
    images: tuple[UserImage, ...]
    ignored: dict[str, int]


def list_user_folder(source: Path) -> Listing:
    """Find the images and labels of a folder.

    Class folders: every folder in ``source`` is a label, its images (at any depth) belong to it; other files, hidden
    ones and ``__MACOSX`` are passed over. Imagefolder: ``source/metadata.jsonl`` with ``file_name``, ``text``
    (optional) and ``label`` (or images in one folder a label); images it does not name are passed over.

    Raises InputError if the folder is missing, empty or holds one class, and for every fault of the metadata.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source}: there is no such folder; correct the path given as data")
    if not source.is_dir():
        raise InputError(f"{source}: is a file, not a folder; give a folder of class folders or with a {METADATA}")
    files = files_below(source)
    if not files:
        raise InputError(f"{source}: is empty; put in one folder of images for each class, or images with a {METADATA}")
    if (source / METADATA).exists():
        form, images = "imagefolder", _from_metadata(source)
    else:
        _refuse_other_forms(source, files)
        form, images = "class folders", _from_folders(source, files)
    labels = sorted({image.label for image in images})
    if len(labels) < 2:
        found = f"holds images of one class only ('{labels[0]}')" if labels else "holds no image"
        raise InputError(
            f"{source}: {found}; give at least two classes, as folders named after them holding {', '.join(SUFFIXES)} files"
        )
    used = {image.path for image in images}
    ignored = Counter(path.suffix.lower() or "no suffix" for path in files if path not in used and path.name != METADATA)
    return Listing(source, form, tuple(sorted(images, key=lambda image: image.name)), dict(sorted(ignored.items())))


def files_below(source: Path) -> list[Path]:
    """All files below, links followed (a subset is often made of links), hidden ones left out, sorted."""
    found, entered = [], set()
    for folder, subfolders, names in os.walk(source, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:  # a link back to a folder above would never end
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__MACOSX")
        found += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    return found


def _refuse_other_forms(source: Path, files: list[Path]) -> None:
    for path in files:
        if path.name == METADATA:
            raise InputError(f"{path}: lies below {source}; give {path.parent} as the data folder, or move {METADATA} to its top")
        if path.parent == source and path.name in ("metadata.csv", "metadata.parquet"):
            raise InputError(f"{path}: this form of metadata is not read; write the same rows as {METADATA}")


def _from_folders(source: Path, files: list[Path]) -> list[UserImage]:
    images = []
    for path in files:
        parts = path.relative_to(source).parts
        if len(parts) < 2 or path.suffix.lower() not in SUFFIXES:
            continue
        if not "".join(parts).isprintable():
            raise InputError(f"{ascii(str(path))}: its name has characters that cannot be written as text; rename it")
        images.append(UserImage(path, "/".join(parts), parts[0], default_caption(parts[0])))
    if not images and any(path.suffix.lower() in SUFFIXES for path in files):
        raise InputError(f"{source}: its images lie in no class folder; put them into one folder a class, or add a {METADATA}")
    return images


def default_caption(label: str) -> str:
    """The caption of an image that has none: its label in words, underscores as blanks.

    A class of the twin world gets its canonical prompt, which the foundation knows.

    >>> default_caption("sea_ships"), default_caption("city")
    ('a radar image of sea ships', 'a radar image of a city')
    """
    words = label_words(label)
    return prompt(words, "sar") if words in CLASSES + COMPOSITIONS else f"a radar image of {words}"


def label_words(label: str) -> str:
    """A label in words: underscores and repeated blanks become one blank."""
    return " ".join(label.replace("_", " ").split())


def _from_metadata(source: Path) -> list[UserImage]:
    images, first_line = [], {}
    for number, row in read_numbered(source / METADATA):
        where = f"{source / METADATA} line {number}"
        name = safe_name(row.get("file_name"), source, where)
        path = source / name
        real = path.resolve()
        if real in first_line:
            raise InputError(f"{where}: '{name}' is named a second time (first in line {first_line[real]}); remove one of the rows")
        first_line[real] = number
        label = _label(row, name, where)
        images.append(UserImage(path, name, label, _text(row, label, where), scene_facts(row, where)))
    if not images:
        raise InputError(f"{source / METADATA}: has no rows; write one JSON object an image")
    return images


def safe_name(name: Any, source: Path, where: str) -> str:
    """The file name of a row in plain form, if it is an image inside the folder."""
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: 'file_name' is {name!r}; write the image's path inside the folder")
    pure = PurePosixPath(name)
    try:
        inside = (source / pure).resolve().is_relative_to(source.resolve())
        exists = (source / pure).is_file()
    except (OSError, ValueError):  # a name that no file can have: too long, or with a NUL
        inside, exists = True, False
    # links are judged by where they lead: metadata may come from elsewhere and must not reach other files of this machine
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "://" in name or not inside:
        raise InputError(f"{where}: '{name}' leaves the folder; name a file inside {source} by a plain relative path")
    if pure.suffix.lower() not in SUFFIXES:
        raise InputError(f"{where}: '{name}' is of no image form read here; use one of {', '.join(SUFFIXES)}")
    if not exists:
        raise InputError(f"{where}: '{name if name.isprintable() else ascii(name)}' does not exist; add the file or remove the row")
    return pure.as_posix()


def _label(row: dict[str, Any], name: str, where: str) -> str:
    label = row.get("label")
    if label is None:
        parts = PurePosixPath(name).parts
        if len(parts) < 2:
            raise InputError(f"{where}: has no 'label'; add the class name, or put the images into one folder a class")
        return parts[0]
    if not isinstance(label, str) or not label.strip() or not label.isprintable() or "/" in label or "\\" in label:
        raise InputError(f"{where}: 'label' is {label!r}; write the class name as plain text without / and \\")
    return label.strip()


def _text(row: dict[str, Any], label: str, where: str) -> str:
    if "text" not in row:
        return default_caption(label)
    text = row["text"]
    if not isinstance(text, str) or not text.strip():
        found = "empty" if isinstance(text, str) else repr(text)
        raise InputError(f"{where}: the caption 'text' is {found}; write one, or leave 'text' out")
    return " ".join(text.split())


def scene_facts(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Those of EXTRA_COLUMNS that a row of the metadata gives. Raises InputError for a value that cannot be one."""
    extra = {name: row[name] for name in EXTRA_COLUMNS if row.get(name) is not None}
    if extra.get("look", "left") not in ("left", "right"):
        raise InputError(f"{where}: 'look' is {extra['look']!r}; write left or right, the side the illumination comes from")
    if "incidence" in extra:
        value = extra["incidence"]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 90:
            raise InputError(f"{where}: 'incidence' is {value!r}; write degrees between 0 and 90")
        extra["incidence"] = float(value)
    if not isinstance(extra.get("sensor", ""), str):
        raise InputError(f"{where}: 'sensor' is {extra['sensor']!r}; write its name as text")
    return extra

"""Any folder of radar images, labelled or not, of any storage: listed, surveyed and read one at a time as 8 bit.

For the comparison of two folders. Nothing is copied, and no more than one image is in memory.
"""

from __future__ import annotations

import csv
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sarnb.data.amplitude import Normalisation, moments
from sarnb.data.dataset import ImageSet
from sarnb.data.files import METADATA, ordered_map, read_numbered
from sarnb.data.images import SUFFIXES, read_image
from sarnb.errors import InputError
from sarnb.world.captions import prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS

# What lies in the user's folder: class folders, or an imagefolder with metadata.jsonl. No pixel is read here.

INDEX = "index.csv"  # optional, beside the class folders: columns "file" (path inside the folder) and "sensor"


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
        raise InputError(f"{source}: {found}; give at least two classes, as folders named after them holding {', '.join(SUFFIXES)} files")
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


UNSTATED = "unstated"


@dataclass(frozen=True)
class Facts:
    """What one image is: its ``storage`` and ``shape``; ``moments`` of the amplitude (pixels, mean, squares); ``constant``:
    it has one value; ``digest`` of its pixels."""

    storage: str
    shape: tuple[int, int]
    moments: tuple[int, float, float]
    constant: bool
    digest: str


@dataclass(frozen=True)
class PlainFolder:
    """Images of a folder, by name, with what is known of each and their facts; see `read_folder`."""

    source: Path
    images: tuple[UserImage, ...]
    facts: tuple[Facts, ...]

    def __len__(self) -> int:
        return len(self.images)

    def where(self, keep: Sequence[bool]) -> PlainFolder:
        """The images whose place in ``keep`` is true."""
        chosen = [index for index, kept in enumerate(keep) if kept]
        return replace(self, images=tuple(self.images[k] for k in chosen), facts=tuple(self.facts[k] for k in chosen))

    def sensors(self) -> tuple[str, ...]:
        """The sensor of each image, UNSTATED where nothing tells it."""
        return tuple(image.extra.get("sensor") or UNSTATED for image in self.images)


def read_folder(source: Path, captions: Mapping[str, dict[str, Any]] | None = None, workers: int = 1) -> PlainFolder:
    """Find and check the images of a folder.

    With a metadata.jsonl in it the images that it names are taken, with their text, label, group, look and sensor; text and
    label may be missing. Without one all images below are taken: one in a folder of its own has its name as label.
    ``captions``: rows by file name from elsewhere, which say the same of the images that they name. The sensor may also come
    from an index.csv (columns file, sensor) in the folder or in the one above.

    Raises:
        InputError: no folder, no image, an image that cannot be read as amplitude (the first is explained, others named).
    """
    source = Path(source)
    if not source.is_dir():
        found = "is a file" if source.exists() else "there is no such folder"
        raise InputError(f"{source}: {found}; give a folder of radar images")
    own = _rows(source / METADATA, source) if (source / METADATA).is_file() else {}
    files = [] if own else files_below(source)
    names = list(own) or [path.relative_to(source).as_posix() for path in files if path.suffix.lower() in SUFFIXES]
    below = [path for path in files if path.name == METADATA]
    if below:
        raise InputError(f"{below[0]}: lies below {source}; give {below[0].parent}, so that its labels are read too")
    if not names:
        raise InputError(f"{source}: holds no image of a form read here ({', '.join(SUFFIXES)}); give a folder of such files")
    sensors, given = _sensors(source), {**own, **(captions or {})}
    images = tuple(_described(source, name, given.get(name, {}), sensors.get(name, "")) for name in sorted(names))
    facts, faults = [], []
    surveyed = ordered_map(_survey, [image.path for image in images], workers, f"reading {source.name}")
    for image, found in zip(images, surveyed):
        faults.append((image.name, found)) if isinstance(found, str) else facts.append(found)
    if faults:
        others = [name for name, _ in faults[1:]]
        more = f" ({len(others)} more faulty: {', '.join(others[:5])}{' …' if len(others) > 5 else ''})" if others else ""
        raise InputError(faults[0][1] + more)
    if all(one.constant for one in facts):
        raise InputError(f"{source}: every image has one value only (all zero, or saturated throughout); give images that vary")
    return PlainFolder(source, images, tuple(facts))


def read_captions(path: Path, folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Rows of a metadata.jsonl that lies anywhere, by file name; each has to be the name of an image of one of the folders.

    Raises InputError for a file without rows, and names the first image that is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a {METADATA} with rows of file_name and text")
    rows: dict[str, dict[str, Any]] = {}
    absent: list[tuple[int, str]] = []
    for number, row in read_numbered(path):
        where = f"{path} line {number}"
        name = row.get("file_name")
        homes = [folder for folder in folders if isinstance(name, str) and (folder / name).is_file()]
        if homes:
            name = safe_name(name, homes[0], where)
            rows[name] = {**row, **scene_facts(row, where)}
        else:
            absent.append((number, str(name)))
    if absent:
        number, name = absent[0]
        raise InputError(
            f"{path} line {number}: '{name}' is an image of neither folder ({len(absent)} of "
            f"{len(absent) + len(rows)} captions are without an image); correct the names or remove the rows"
        )
    if not rows:
        raise InputError(f"{path}: has no rows; write one JSON object an image, with file_name and text")
    return rows


def merged_scale(facts: Iterable[Facts]) -> Normalisation:
    """Mean and standard deviation of the amplitude over all pixels of several images."""
    return Normalisation.from_moments(one.moments for one in facts)


def load(image: UserImage, scale: Normalisation | None, size: tuple[int, int]) -> np.ndarray:
    """The middle ``size`` (H, W) px as uint8 [H, W]: as stored in 8 bits, or A / (mu + 3 sigma) by ``scale``.

    8-bit values that are scaled anew are first spread over their level, [v - 1/2, v + 1/2), by noise that depends on the
    file's name only. Without it a stretched histogram has empty levels, and any measure of it sees nothing else.
    """
    amplitude = read_image(image.path, constant=True).amplitude
    top, left = ((have - want) // 2 for have, want in zip(amplitude.shape, size))
    cut = amplitude[top : top + size[0], left : left + size[1]]
    if scale is None:
        return cut
    if cut.dtype == np.uint8:
        noise = np.random.default_rng(zlib.crc32(image.name.encode())).random(cut.shape, np.float32) - np.float32(0.5)
        cut = np.abs(cut + noise)
    return scale.apply(cut)


def load_batch(chunk: Sequence[tuple[UserImage, Normalisation | None]], root: Path, size: tuple[int, int]) -> ImageSet:
    """Some images with their scales, as an image set."""
    images = [image for image, _ in chunk]
    return ImageSet(
        root=root,
        ids=tuple(image.name for image in images),
        images=np.stack([load(image, scale, size) for image, scale in chunk]),
        captions=tuple(image.text for image in images),
        labels=tuple(image.label for image in images),
        rows=tuple({"file_name": image.name, "label": image.label, **image.extra} for image in images),
    )


def common_size(folders: Sequence[PlainFolder], size: int | None) -> tuple[int, int]:
    """(H, W) that is compared: ``size`` px from the middle of every image, or the one size that all images have.

    Raises InputError where sizes differ and none is asked for, or an image is smaller than that.
    """
    first: dict[tuple[int, int], str] = {}
    for folder in folders:
        for image, one in zip(folder.images, folder.facts):
            first.setdefault(one.shape, str(image.path))
    shapes = sorted(first)
    if size is not None:
        small = [shape for shape in shapes if min(shape) < size]
        if small:
            raise InputError(
                f"{first[small[0]]}: is {small[0][0]} x {small[0][1]} px, smaller than the {size} px to compare; choose a smaller size"
            )
        return size, size
    if len(shapes) > 1:
        told = " and ".join(f"{h} x {w} px ({Path(first[h, w]).name})" for h, w in (shapes[0], shapes[-1]))
        least = min(min(shape) for shape in shapes)
        raise InputError(
            f"images have {len(shapes)} different sizes, such as {told}; cut them to one, or give --size {least} to "
            "compare the middle of each"
        )
    return shapes[0]


def _rows(path: Path, source: Path) -> dict[str, dict[str, Any]]:
    """Rows of a folder's own metadata by file name; every file has to be there."""
    rows: dict[str, dict[str, Any]] = {}
    for number, row in read_numbered(path):
        where = f"{path} line {number}"
        name = safe_name(row.get("file_name"), source, where)
        if name in rows:
            raise InputError(f"{where}: '{name}' is named a second time; remove one of the rows")
        rows[name] = {**row, **scene_facts(row, where)}
    if not rows:
        raise InputError(f"{path}: has no rows; write one JSON object an image, or remove the file")
    return rows


def _described(source: Path, name: str, row: Mapping[str, Any], sensor: str) -> UserImage:
    parts = name.split("/")
    label = row.get("label") or (parts[0] if len(parts) > 1 else "")
    if not isinstance(label, str):
        raise InputError(f"{source / name}: its 'label' is {label!r}; write the class name as text")
    text = row.get("text") or (default_caption(label) if label else "")
    if not isinstance(text, str):
        raise InputError(f"{source / name}: its caption 'text' is {text!r}; write one line of text")
    extra = {key: row[key] for key in ("look", "incidence", "sensor", "group") if row.get(key) is not None}
    known = {"sensor": sensor, **extra} if sensor else extra
    return UserImage(source / name, name, label.strip(), " ".join(text.split()), known)


def _sensors(source: Path) -> dict[str, str]:
    """Sensor by file name, of the index in the folder or in the one above it."""
    above = source.resolve().parent
    outer = {} if (source / INDEX).is_file() or not (above / INDEX).is_file() else read_sensors(above)
    prefix = source.resolve().name + "/"
    found = {name.removeprefix(prefix): sensor for name, sensor in outer.items() if name.startswith(prefix)}
    return found or read_sensors(source)


def _survey(path: Path) -> Facts | str:
    """Facts of one image, or the sentence that says what is wrong with it."""
    try:
        read = read_image(path, constant=True)
    except InputError as error:
        return str(error)
    amplitude = read.amplitude
    head = repr((read.storage, amplitude.shape)).encode()
    digest = hashlib.blake2b(head + amplitude.tobytes(), digest_size=16).hexdigest()
    constant = bool(amplitude.min() == amplitude.max())
    return Facts(read.storage, amplitude.shape, moments(amplitude), constant, digest)


def read_sensors(folder: Path) -> dict[str, str]:
    """File name inside the folder -> sensor, of index.csv; empty without one. Raises InputError for a table without the columns."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            lacking = {"file", "sensor"} - set(table.fieldnames or ())
            if lacking:
                raise InputError(f"{path}: has no column {min(lacking)!r}; give the columns file and sensor, or remove the table")
            return {row["file"]: (row["sensor"] or "").strip() for row in table}
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no UTF-8 table with commas ({error}); save it as such or remove it") from error

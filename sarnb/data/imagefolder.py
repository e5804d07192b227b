"""Any folder of radar images, labelled or not, of any storage: listed, surveyed and read one at a time.

One listing and one survey serve all who read a user's folder: the preparation of a data set (``prepare``), the comparison
of two folders (``sarnb.metrics.folders``) and the reader of measured images (``measured``). Files are opened by
``images.read_image`` alone. Nothing is copied, and each worker holds one image at a time.
"""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from sarnb.data.amplitude import QUANTITIES, Normalisation, decide_quantity
from sarnb.data.dataset import ImageSet
from sarnb.data.files import MARKER, METADATA, files_below, ordered_map, read_numbered
from sarnb.data.images import SUFFIXES, UNREAD, ImageFacts, read_image
from sarnb.errors import InputError, first_line
from sarnb.world.captions import prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS

INDEX = "index.csv"  # optional, next to the class folders: columns "file" (path inside the folder) and "sensor"
EXTRA_COLUMNS = ("look", "incidence", "sensor")  # scene facts that a user's metadata may give and later steps can use
BLACK_LEVEL = 4  # of 255, the mean of an image after scaling, below which 8 bits leave next to nothing of it
ZERO_SHARE = 0.05  # of an image's pixels at 0, above which they are mentioned
BESIDE = (".aux.xml", ".msk")  # files next to an image that say what its pixels are; read with it
PAIRED = "optical_file_name"  # column that names the photograph of the same scene
UNSTATED = "unstated"  # the sensor of an image of which nothing says it
METADATA_FILES = (METADATA, "metadata.csv", "metadata.parquet")  # what `datasets` reads next to images
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt")  # the first that a row has is its caption, or its list of captions
SPLIT_NAMES = {  # names of folders, or values of a column "split", that `datasets` takes as splits
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
Origins = tuple[tuple[int, int], ...]  # upper left corners (row, column) of an image's patches
Rows = Mapping[str, tuple[dict[str, Any], str]]  # file name -> (row of the metadata, file and line that it stands in)
Found = TypeVar("Found")

# What lies in the folder: class folders, or an imagefolder with metadata.jsonl. No pixel is read here.


@dataclass(frozen=True)
class UserImage:
    """One image of the user.

    ``path``; ``name``: its path inside the folder; ``label`` and caption ``text``, empty where there is none; ``extra``:
    what else metadata says of it; ``split``: train, val or test where the user gave one; ``facts``: what its pixels say,
    UNREAD before they are read; ``origins`` of its patches.
    """

    path: Path
    name: str
    label: str
    text: str
    extra: dict[str, Any] = field(default_factory=dict)
    split: str = ""
    facts: ImageFacts = UNREAD
    origins: Origins = ()

    @property
    def sensor(self) -> str:
        """Its sensor, UNSTATED where nothing tells it."""
        return self.extra.get("sensor") or UNSTATED


@dataclass(frozen=True)
class ImageFolder:
    """Images by name. ``form``: "class folders" or "imagefolder", "by split" behind it where folders are named after splits.
    ``ignored``: files by suffix that were passed over. ``duplicates``: names left out because another image of the class has
    the same pixels. ``notes``: what was given and is not used, or was guessed,
    applied and excluded when the pixels were read, one sentence each."""

    source: Path
    form: str
    images: tuple[UserImage, ...]
    ignored: dict[str, int]
    duplicates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def where(self, keep: Callable[[UserImage], bool]) -> ImageFolder:
        """The images of which ``keep`` is true."""
        return replace(self, images=tuple(image for image in self.images if keep(image)))


def list_images(source: Path, labelled: bool = True, captions: Rows | None = None, index: bool = False) -> ImageFolder:
    """Find the images of a folder and what is known of each.

    With one of ``METADATA_FILES`` in it the images that it names are taken, others are passed over. Without one every folder
    in ``source`` is a label, and its images, at any depth, belong to it; hidden files and ``__MACOSX`` are passed over. Where
    all folders with images have names of splits (``SPLIT_NAMES``), each is read in this way, and its images are of that split.

    Parameters
    ----------
    source : the folder.
    labelled : whether the classes matter, as in a data set: each image has a label, and there are two labels at least.
        Otherwise images without a label are taken too, and an empty label or text counts as none.
    captions : from ``read_captions``; its rows replace those of the folder's own metadata.
    index : whether the sensor of an image whose row names none is looked up in index.csv, see ``read_sensors``.

    Raises
    ------
    InputError
        The folder is missing or holds no image, or, if labelled, images of one class only; every fault of the metadata.
    """
    source = Path(source)
    if not source.is_dir():
        found = "is a file, not a folder; " if source.exists() else "there is no such folder; correct the path, or "
        wanted = f"class folders, or with a {METADATA}" if labelled else "radar images"
        raise InputError(f"{source}: {found}give a folder of {wanted}")
    files = files_below(source)
    if (source / MARKER).is_file():  # a data set made here: judge repeats train
        files = [path for path in files if path.relative_to(source).parts[0] != "judge"]
    rows, form = _rows_by_split(source, files, labelled)
    sensors, unread_columns = read_sensors(source) if index else ({}, [])
    images = []
    for name, (row, where, split) in rows.items():
        row, where = (captions or {}).get(name, (row, where))
        images.append(_described(source, name, row, where, split, sensors.get(name, ""), labelled))
    labels = sorted({image.label for image in images})
    forms = ", ".join(SUFFIXES)
    if labelled and len(labels) < 2:
        found = f"holds images of one class only ('{labels[0]}')" if labels else "holds no image" if files else "is empty"
        wanted = f"at least two classes, as folders named after them holding {forms} files, or as labels in a {METADATA}"
        if labels and (source / labels[0]).is_dir():
            wanted = f"{source / labels[0]} if its folders are the classes, else {wanted}"
        raise InputError(f"{source}: {found}; give {wanted}")
    spoken: dict[str, str] = {}
    for label in labels if labelled else ():  # text encoders read no capitals
        if (other := spoken.setdefault(label_words(label).lower(), label)) != label:
            raise InputError(
                f"{source}: the classes '{other}' and '{label}' read alike, so prompts cannot tell them apart; rename or merge them"
            )
    if not images:
        raise InputError(f"{source}: holds no image of a form read here ({forms}); give a folder of such files")
    known = {image.path for image in images}
    known |= {image.path.with_name(image.path.name + ending) for image in images for ending in BESIDE}
    unused = [path for path in files if path not in known and path.name not in (*METADATA_FILES, *([INDEX] if index else []))]
    ignored = Counter(path.suffix.lower() or "no suffix" for path in unused)
    left_out = [path.relative_to(source).as_posix() for path in unused if path.suffix.lower() in SUFFIXES]
    notes = [*_notes_on_rows([row for row, _, _ in rows.values()], form)]
    if left_out:
        why = "are named in no row of the metadata" if form.startswith("imagefolder") else "lie in no class folder"
        notes.append(f"{len(left_out)} images {why} and are left out: {some(left_out)}")
    unread = {suffix: count for suffix, count in sorted(ignored.items()) if suffix not in SUFFIXES}
    if unread:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in unread.items())
        notes.append(f"{sum(unread.values())} files are of no form read here and are passed over: {counts}")
    if unread_columns:
        notes.append(f"columns of {INDEX} that are not used: {', '.join(unread_columns)}; the metadata may give them")
    unmatched = [name for name in sensors if name not in rows]
    if unmatched:
        notes.append(f"{len(unmatched)} of {len(sensors)} rows of {INDEX} name no image that is used: {some(unmatched)}")
    images.sort(key=lambda image: image.name)
    return ImageFolder(source, form, tuple(images), dict(sorted(ignored.items())), notes=tuple(notes))


def some(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(ascii(name) if not name.isprintable() else name for name in names[:3]) + (" …" if names[3:] else "")


def _rows_by_split(source: Path, files: list[Path], labelled: bool) -> tuple[dict[str, tuple[dict[str, Any], str, str]], str]:
    """Name of each image inside ``source`` -> (row of the metadata, file and line that it stands in, split); and the form."""
    tops = {path.relative_to(source).parts[0] for path in files if path.suffix.lower() in SUFFIXES and path.parent != source}
    by_split = bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)
    mixed = sorted(top for top in tops if top.lower() in SPLIT_NAMES)
    if len(mixed) > 1 and not by_split and not _metadata_of(source, files):
        others = some(sorted(tops - {*mixed}))
        raise InputError(f"{source}: holds {some(mixed)}, named as splits, next to {others}; move one or the other away, or rename it")
    rows: dict[str, tuple[dict[str, Any], str, str]] = {}
    forms = set()
    for top in sorted(tops) if by_split and not _metadata_of(source, files) else [""]:
        folder = source / top
        inside = [path for path in files if path.is_relative_to(folder)]
        table = _metadata_of(folder, inside)
        forms.add("imagefolder" if table else "class folders")
        found = _own_rows(folder, table, labelled) if table else _without_rows(folder, inside, labelled)
        for name, (row, where) in ((f"{top}/{name}" if top else name, row) for name, row in found.items()):
            said = str(row.get("split") or "").lower()
            if said and said not in SPLIT_NAMES:
                raise InputError(f"{where}: 'split' is {row['split']!r}; write train, val or test, or leave it out")
            placed = name.split("/")[0].lower() if by_split and "/" in name else ""
            rows[name] = row, where, SPLIT_NAMES.get(said or placed, "")
    return rows, " and ".join(sorted(forms)) + (" by split" if by_split else "")


def _metadata_of(folder: Path, files: list[Path]) -> Path | None:
    """The table of a folder's images, of METADATA_FILES. Raises InputError where there are two, or one in a folder below."""
    tables = [path for path in files if path.parent == folder and path.name in METADATA_FILES]
    if len(tables) > 1:
        raise InputError(f"{folder}: holds {tables[0].name} and {tables[1].name}; keep the one that is to be read")
    below = [path for path in files if path.parent != folder and path.name in METADATA_FILES]
    if tables and below:
        raise InputError(f"{below[0]}: lies below {tables[0]}, which is read; join the two, or move one away")
    return tables[0] if tables else None


def _own_rows(source: Path, table: Path, labelled: bool) -> Rows:
    """The rows of the folder's metadata, each of an image that is there."""
    rows: dict[str, tuple[dict[str, Any], str]] = {}
    named_in: dict[Path | str, int] = {}
    for number, row in read_table(table):
        where = f"{table} line {number}"
        name = safe_name(row.get("file_name"), source, where)
        file = (source / name).resolve() if labelled else name  # a link must not bring one image into two splits
        if file in named_in:
            raise InputError(f"{where}: '{name}' is named a second time (first in line {named_in[file]}); remove one of the rows")
        named_in[file] = number
        rows[name] = row | ({PAIRED: (source, row[PAIRED], where)} if PAIRED in row else {}), where
    if not rows:
        raise InputError(f"{table}: has no rows; write one row an image, or remove the file")
    return rows


def read_table(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number, row) of metadata as JSON lines, CSV or Parquet; what a cell leaves empty is not in the row.

    Raises
    ------
    InputError
        A file that is neither.
    """
    if path.suffix not in (".csv", ".parquet"):
        # NaN, which pandas writes for an empty cell, is the one value that does not equal itself
        return [(number, {name: value for name, value in row.items() if value == value}) for number, row in read_numbered(path)]
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, restkey="")
                names, found = list(reader.fieldnames or ()), [(reader.line_num, row) for row in reader]
        else:
            table = pd.read_parquet(path)
            names, found = list(table), list(enumerate(table.to_dict("records"), start=1))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({first_line(error)}); save it as UTF-8 with commas, or as {METADATA}"
        ) from error
    if "file_name" not in names:
        raise InputError(
            f"{path}: has no column 'file_name' but {', '.join(map(repr, names)) or 'none'}; add it, with commas between columns"
        )
    rows = []
    for number, row in found:
        if path.suffix == ".csv" and ("" in row or None in row.values()):
            raise InputError(f"{path} line {number}: has not as many cells as the header; put texts with commas between quotation marks")
        values = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
        values = {name: value for name, value in values.items() if isinstance(value, list) or not (value == "" or pd.isna(value))}
        with suppress(ValueError):  # what is no number is refused where facts are checked
            values |= {"incidence": float(values["incidence"])} if isinstance(values.get("incidence"), str) else {}
        rows.append((number, values))
    return rows


def _notes_on_rows(rows: Sequence[Mapping[str, Any]], form: str) -> list[str]:
    """What of the metadata is not used, and what is used for want of a caption."""
    if not any(rows):
        return []
    taken = Counter(column if row.get(column := _caption_column(row)) is not None else "" for row in rows)
    notes = [f"{count} captions are read from the column '{name}'" for name, count in taken.items() if name not in ("", "text")]
    if taken[""]:
        notes.append(f"{taken['']} images have no caption and get 'a radar image of' their class")
    used = {"file_name", "label", "split", "group", "text", "captions", *taken, *EXTRA_COLUMNS}
    unused = sorted({name for row in rows for name in row} - used)
    return notes + ([f"columns of the metadata that are not used: {', '.join(unused)}"] if unused else [])


def _caption_column(row: Mapping[str, Any]) -> str:
    """The first of CAPTION_COLUMNS in which a row holds a caption, else the first that it has, "" for none."""
    own = [name for name in CAPTION_COLUMNS if name in row]
    return next((name for name in own if row[name] and not (isinstance(row[name], str) and row[name].isspace())), own[0] if own else "")


def _without_rows(source: Path, files: list[Path], labelled: bool) -> Rows:
    """The images of a folder without metadata, with empty rows; of labelled ones those in a class folder."""
    for path in files:
        if path.name in METADATA_FILES:
            raise InputError(f"{path}: lies below {source}; give {path.parent} as the data folder, or move {path.name} to its top")
    names = [path.relative_to(source).as_posix() for path in files if path.suffix.lower() in SUFFIXES]
    if labelled:
        found, names = names, [name for name in names if "/" in name]
        if found and not names:
            raise InputError(f"{source}: its images lie in no class folder; put them into one folder a class, or add a {METADATA}")
        for name in names:
            if not name.isprintable():
                raise InputError(f"{ascii(str(source / name))}: its name has characters that cannot be written as text; rename it")
    return {name: ({}, str(source / name)) for name in names}


def _described(source: Path, name: str, row: Mapping[str, Any], where: str, split: str, sensor: str, labelled: bool) -> UserImage:
    """An image with the label, captions and facts of its row; what the row leaves out follows from the image's folder."""
    label, folders = row.get("label"), name.split("/")[:-1]
    if label is None or not (label or labelled):
        folders = folders[bool(split and folders and folders[0].lower() in SPLIT_NAMES) :]
        label = folders[0] if folders else ""
        if labelled and not label:
            raise InputError(f"{where}: has no 'label'; add the class name, or put the images into one folder a class")
    elif not isinstance(label, str) or labelled and (not label.strip() or not label.isprintable() or "/" in label or "\\" in label):
        raise InputError(f"{where}: 'label' is {label!r}; write the class name as plain text without / and \\")
    label = label.strip()
    column = _caption_column(row)
    given = row.get(column)
    texts = given if isinstance(given, list) else [given] if column and (given or labelled) else []
    for text in texts:
        if not isinstance(text, str) or labelled and not text.strip():
            found = "empty" if isinstance(text, str) else repr(text)
            raise InputError(f"{where}: the caption '{column}' is {found}; write one, or leave '{column}' out")
    if column == "text" and isinstance(row.get("captions"), list):  # a set made here has both
        texts = [*texts, *(text for text in row["captions"] if isinstance(text, str) and text.strip())]
    texts = list(dict.fromkeys(" ".join(text.split()) for text in texts)) or ([default_caption(label)] if label else [""])
    extra = ({"sensor": sensor} if sensor else {}) | scene_facts(row, where)
    extra |= {name: row[name] for name in ("group", PAIRED) if row.get(name) is not None} | ({"captions": texts} if texts[1:] else {})
    return UserImage(source / name, name, label, texts[0], extra, split)


def default_caption(label: str) -> str:
    """The caption of an image that has none: its label in words, underscores as blanks.

    A class of the twin world gets its canonical prompt, which the foundation knows.

    >>> default_caption("sea_ships"), default_caption("city")
    ('a radar image of sea ships', 'a radar image of a city')
    """
    words = label_words(label)
    return prompt(words, "sar") if words in CLASSES + COMPOSITIONS else f"a radar image of {words}"


def physics(look: str | None = None, incidence: float | None = None, **_: Any) -> list[str]:
    """What a caption says of the acquisition, as far as it is known: the side of the illumination, and the incidence."""
    side = f"illuminated from the {look}" if look else ""
    return [words for words in (side, f"incidence {incidence:.0f} degrees" if incidence else "") if words]


def label_words(label: str) -> str:
    """A label in words: underscores and repeated blanks become one blank."""
    return " ".join(label.replace("_", " ").split()) or label


def _is_file(path: Path) -> bool:
    """Whether the file is there; also of a name that no file can have, too long or with a NUL."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def safe_name(name: Any, source: Path, where: str) -> str:
    """The file name of a row in plain form, if it is an image inside the folder.

    Raises
    ------
    InputError
        The name is empty, leads out of the folder, is of no image form read here, or its file is not there.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: 'file_name' is {name!r}; write the image's path inside the folder")
    pure = PurePosixPath(name)
    try:
        inside = (source / pure).resolve().is_relative_to(source.resolve())
    except (OSError, ValueError):  # a name that no file can have
        inside = True
    # links are judged by where they lead: metadata may come from elsewhere and must not reach other files of this machine
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "://" in name or not inside:
        raise InputError(f"{where}: '{name}' leaves the folder; name a file inside {source} by a plain relative path")
    if pure.suffix.lower() not in SUFFIXES:
        raise InputError(f"{where}: '{name}' is of no image form read here; use one of {', '.join(SUFFIXES)}")
    if not _is_file(source / pure):
        raise InputError(f"{where}: '{name if name.isprintable() else ascii(name)}' does not exist; add the file or remove the row")
    return pure.as_posix()


def scene_facts(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Those of EXTRA_COLUMNS that a row of the metadata gives.

    Raises
    ------
    InputError
        A value that a column of its kind cannot have.
    """
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
    if "sensor" in extra:  # a blank too many would make another sensor, of a scale of its own
        extra["sensor"] = " ".join(extra["sensor"].split())
    return extra


# What the pixels say: each image is read once, and all faults are found before anything is written.


def survey(images: Sequence[UserImage], check: Callable[[UserImage], Found], workers: int = 1, label: str = "") -> list[Found]:
    """What ``check`` (of module level) finds of every image.

    Raises
    ------
    InputError
        ``check`` refuses an image: the first fault is explained, the names of others follow.
    """
    found, faults = [], []
    for image, one in zip(images, ordered_map(partial(_attempt, check), images, workers, label)):
        faults.append((image.name, one)) if isinstance(one, str) else found.append(one)
    if faults:
        others = [name for name, _ in faults[1:]]
        more = f" ({len(others)} more faulty: {', '.join(others[:5])}{' …' if len(others) > 5 else ''})" if others else ""
        raise InputError(faults[0][1] + more)
    return found


def _attempt(check: Callable[[UserImage], Found], image: UserImage) -> Found | str:
    try:
        return check(image)
    except InputError as error:
        return str(error)


def survey_quantity(
    images: Sequence[UserImage], read: Callable[..., UserImage], quantity: str = "", workers: int = 1, label: str = ""
) -> tuple[list[UserImage], list[str]]:
    """Every image with its facts, read as the one quantity that its sensor and storage have.

    Parameters
    ----------
    images, workers, label : see ``survey``.
    read : (image, ``quantity`` by name) -> the image with its facts.
    quantity : of ``QUANTITIES``; "" has it decided by ``decide_quantity``, for all images of a sensor and storage alike.

    Returns
    -------
    images : in the given order.
    notes : how the quantity is known, what was applied to the pixels, and what is no data; one sentence each.

    Raises
    ------
    InputError
        An unknown quantity, or an image that cannot be read as what was decided.
    """
    if quantity not in ("", *QUANTITIES):
        raise InputError(f"quantity {quantity!r}: use {', '.join(QUANTITIES)}, or leave it out to have it guessed")
    found = survey(images, partial(read, quantity=quantity), workers, label)
    groups: dict[tuple[str, str], list[int]] = {}
    for place, image in enumerate(found):
        groups.setdefault((image.sensor, image.facts.storage.split()[0]), []).append(place)
    notes = []
    for (sensor, storage), places in sorted(groups.items()):
        facts = [found[place].facts for place in places]
        what = f"{len(places)} of {len(found)} images, {storage}" + (f" of {sensor}" if sensor != UNSTATED else "")
        kept = storage == "8-bit" and not quantity
        decided, sentence = decide_quantity(what, [one.stated for one in facts], [one.flat for one in facts], quantity, kept)
        notes.append(sentence)
        again = [place for place in places if found[place].facts.quantity != decided]
        try:
            anew = survey([found[place] for place in again], partial(read, quantity=decided), workers, label)
        except InputError as error:
            raise InputError(f"{error} ({sentence})") from None
        for place, image in zip(again, anew):
            found[place] = image
        levels = [found[place].facts.moments[1] for place in places]
        if sensor == UNSTATED and storage != "8-bit" and len(levels) > 1:
            notes.append(
                f"{what}: scaled together as one sensor's, of means from {min(levels):.3g} to {max(levels):.3g}; name several in a column "
                "sensor of the metadata or of index.csv"
            )
        full = merged_scale(found[place] for place in places).scale if storage != "8-bit" and any(levels) else 0.0
        if black := sum(255 * level < BLACK_LEVEL * full for level in levels):
            notes.append(
                f"{what}: at their one scale, mean + 3 standard deviations = {full:.3g}, {black} of them have a mean below "
                f"{BLACK_LEVEL} of 255 grey levels, hence next to nothing is left of them"
            )
    bare = sum(image.sensor == UNSTATED for image in found)
    if 0 < bare < len(found):
        notes.append(f"{bare} of {len(found)} images have no sensor named, though others have: they are scaled together")
    applied = Counter(note for image in found for note in image.facts.notes)
    notes += [f"{note}: {count} of {len(found)} images" for note, count in sorted(applied.items())]
    partly = [image.facts for image in found if image.facts.excluded]
    if partly:
        pixels, every = (sum(values) for values in zip(*((one.excluded, one.shape[0] * one.shape[1]) for one in partly)))
        notes.append(
            f"no data (a no-data value, NaN, a mask or an alpha channel): {pixels} pixels ({pixels / every:.1%}) in {len(partly)} of "
            f"{len(found)} images count in no statistic"
        )
    dark = sum(image.facts.zeros > ZERO_SHARE * image.facts.shape[0] * image.facts.shape[1] for image in found)
    if dark:
        notes.append(
            f"over {ZERO_SHARE:.0%} pixels of value 0 that nothing declares as no data: {dark} of {len(found)} images; they count as "
            "amplitude 0, so crop or declare borders"
        )
    return found, notes


def with_facts(image: UserImage, quantity: str = "") -> UserImage:
    """The image with what its pixels say; one value throughout is no fault."""
    return replace(image, facts=read_image(image.path, constant=True, quantity=quantity).facts())


def read_folder(source: Path, captions: Rows | None = None, workers: int = 1, quantity: str = "") -> ImageFolder:
    """Find and check the images of a folder, labelled or not.

    Parameters
    ----------
    source : the folder, see ``list_images``; index.csv is looked up.
    captions : rows from elsewhere, from ``read_captions``.
    workers : processes that read images.
    quantity : what the numbers are, see ``survey_quantity``; what was guessed and excluded stands in the folder's ``notes``.

    Raises
    ------
    InputError
        No folder, no image, an image that cannot be read as amplitude (the first is explained, others are named), or
        none that varies.
    """
    folder = list_images(source, labelled=False, captions=captions, index=True)
    images, notes = survey_quantity(folder.images, with_facts, quantity, workers, f"reading {folder.source.name}")
    if all(image.facts.constant for image in images):
        raise InputError(f"{source}: every image has one value only (all zero, or saturated throughout); give images that vary")
    return replace(folder, images=tuple(images), notes=(*folder.notes, *notes))


def read_sensors(source: Path) -> tuple[dict[str, str], list[str]]:
    """File name inside the folder -> sensor, of index.csv in the folder or, without one, in the folder above it; other columns.

    Empty without a table.

    Raises
    ------
    InputError
        A table without the columns file and sensor.
    """
    path, prefix = source / INDEX, ""
    if not path.is_file():
        path, prefix = source.resolve().parent / INDEX, source.resolve().name + "/"
    if not path.is_file():
        return {}, []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            others = sorted({*(table.fieldnames or ())} - {"file", "sensor"})
            lacking = {"file", "sensor"} - set(table.fieldnames or ())
            if lacking:
                raise InputError(f"{path}: has no column {min(lacking)!r}; give the columns file and sensor, or remove the table")
            named = [(row["file"] or "", " ".join((row["sensor"] or "").split())) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is no UTF-8 table with commas ({error}); save it as such or remove it") from error
    return {name.removeprefix(prefix): sensor for name, sensor in named if name.startswith(prefix)}, others


def read_captions(path: Path, folders: Sequence[Path]) -> Rows:
    """Rows of a metadata.jsonl that lies anywhere, by file name; each has to be the name of an image of one of the folders.

    Raises
    ------
    InputError
        A file without rows, or a row whose image is not there; the message names the first.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give a {METADATA} with rows of file_name and text")
    rows: dict[str, tuple[dict[str, Any], str]] = {}
    absent: list[tuple[int, str]] = []
    for number, row in read_table(path):
        where = f"{path} line {number}"
        name = row.get("file_name")
        homes = [folder for folder in folders if isinstance(name, str) and _is_file(folder / name)]
        if homes:
            name = safe_name(name, homes[0], where)
            rows[name] = row, where
            scene_facts(row, where)  # also where neither listing takes the image
        else:
            absent.append((number, str(name)))
    if absent:
        number, name = absent[0]
        raise InputError(
            f"{path} line {number}: '{name}' is no image of {' or '.join(map(str, folders))} ({len(absent)} of "
            f"{len(absent) + len(rows)} captions are without an image); correct the names or remove the rows"
        )
    if not rows:
        raise InputError(f"{path}: has no rows; write one JSON object an image, with file_name and text")
    return rows


def merged_scale(images: Iterable[UserImage]) -> Normalisation:
    """Mean and standard deviation of the amplitude over all pixels of several images, from their facts."""
    return Normalisation.from_moments(image.facts.moments for image in images)


def load(image: UserImage, scale: Normalisation | None, size: tuple[int, int]) -> np.ndarray:
    """The middle ``size`` (H, W) px as uint8 [H, W]: as stored in 8 bits, or A / (mu + 3 sigma) by ``scale``.

    8-bit values that are scaled anew are first spread over their level, [v - 1/2, v + 1/2), by noise that depends on the
    file's name only. Without it a stretched histogram has empty levels, and any measure of it sees nothing else.

    Raises
    ------
    InputError
        More of the pixels inside are no data than the file may leave out.
    """
    read = read_image(image.path, constant=True, quantity=image.facts.quantity)
    top, left = ((have - want) // 2 for have, want in zip(read.amplitude.shape, size))
    middle = slice(top, top + size[0]), slice(left, left + size[1])
    cut = read.amplitude[middle]
    if read.valid is not None and np.mean(~read.valid[middle]) > read.gaps:
        raise InputError(
            f"{image.path}: {np.count_nonzero(~read.valid[middle])} of the {cut.size} px that are compared are no data (no-data "
            "value, mask or alpha channel); give a smaller --size, crop the image or leave it out"
        )
    if scale is None:
        return cut
    if cut.dtype == np.uint8:
        noise = np.random.default_rng(zlib.crc32(image.name.encode())).random(cut.shape, np.float32) - np.float32(0.5)
        cut = np.abs(cut + noise)
    return scale.apply(cut)


def load_batch(chunk: Sequence[tuple[UserImage, Normalisation | None]], root: Path, size: tuple[int, int]) -> ImageSet:
    """Some images with their scales, as an image set."""
    rows = tuple({"file_name": image.name, "text": image.text, "label": image.label, **image.extra} for image, _ in chunk)
    return ImageSet(root, np.stack([load(image, scale, size) for image, scale in chunk]), rows)


def common_size(folders: Iterable[ImageFolder], size: int | None) -> tuple[int, int]:
    """(H, W) that is compared: ``size`` px from the middle of every image, or the one size that all images have.

    Raises
    ------
    InputError
        Sizes differ and none is requested, or an image is smaller than that.
    """
    first: dict[tuple[int, int], str] = {}
    for folder in folders:
        for image in folder.images:
            first.setdefault(image.facts.shape, str(image.path))
    shapes = sorted(first)
    if size is not None:
        small = [shape for shape in shapes if min(shape) < size]
        if small:
            raise InputError(
                f"{first[small[0]]}: is {small[0][0]} x {small[0][1]} px, smaller than the {size} px to compare; choose a smaller size"
            )
        return size, size
    if len(shapes) > 1:
        examples = " and ".join(f"{h} x {w} px ({Path(first[h, w]).name})" for h, w in (shapes[0], shapes[-1]))
        least = min(min(shape) for shape in shapes)
        raise InputError(
            f"images have {len(shapes)} different sizes, such as {examples}; cut them to one, or give --size {least} to "
            "compare the middle of each"
        )
    return shapes[0]

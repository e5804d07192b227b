"""Files that are whole or not there: writing an imagefolder and reading its rows, results kept by their key, ordered workers."""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import multiprocessing
import os
import shutil
import struct
import sys
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from sarnb.errors import InputError

METADATA = "metadata.jsonl"
CARD = "card.json"
README = "README.md"
SPLITS = ("train", "val", "test", "judge")
WRITTEN = (README, CARD, ".work/*", ".*.partial-*", *(f"{name}/*" for name in SPLITS))  # of a data set that a later call goes on with
HEIGHT_ZERO_M, HEIGHT_STEP_M = -1000.0, 0.1  # height of the value 0, and metres a level: 16 bits reach from -1000 to 5553.5 m


def write_png(path: Path, image: np.ndarray, fast: bool = False, synthetic: str = "") -> None:
    """uint8 [H, W] (grey) or [H, W, 3], or uint16 [H, W], as PNG; the bytes depend on the pixels, and on ``synthetic``, only.

    ``fast``, of uint8 [H, W]: speckle neither repeats nor is foretold by its neighbours, so its levels are coded as they are,
    without the search for repetitions and filters, in a third of the time and fewer bytes. Smooth images are written as others.
    ``synthetic`` says in the file itself, under that keyword, that and how it was drawn.
    """
    if synthetic or not fast or _bits(image[::8, 1:] - image[::8, :-1]) <= _bits(image[::8]):
        notes = PngInfo()
        if synthetic:
            notes.add_itxt("synthetic", synthetic)
        Image.fromarray(np.ascontiguousarray(image)).save(path, format="PNG", optimize=False, pnginfo=notes)
        return
    lines = np.zeros((image.shape[0], image.shape[1] + 1), np.uint8)  # in front of each row the number of its filter, 0 for none
    lines[:, 1:] = image
    coder = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)  # 8 bits, grey, not interlaced
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", header), (b"IDAT", coder.compress(lines) + coder.flush()), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _bits(levels: np.ndarray) -> float:
    """Entropy of uint8 levels in bits: what a code of single levels costs at least.

    >>> _bits(np.array([0, 0, 7, 7], np.uint8)), _bits(np.arange(256, dtype=np.uint8))
    (1.0, 8.0)
    """
    share = np.bincount(levels.ravel(), minlength=256) / max(1, levels.size)
    return float(-(share * np.log2(share, where=share > 0, out=np.zeros(256))).sum())


def height_levels(height: np.ndarray) -> np.ndarray:
    """Heights in metres to uint16 in decimetres above -1000 m, rounded; what lies beyond is clipped.

    >>> height_levels(np.array([-1000.0, 0.0, 12.34])).tolist()
    [0, 10000, 10123]
    """
    levels = np.rint((np.asarray(height, np.float64) - HEIGHT_ZERO_M) / HEIGHT_STEP_M)
    return np.clip(levels, 0, np.iinfo(np.uint16).max).astype(np.uint16)


def height_metres(levels: np.ndarray) -> np.ndarray:
    """The inverse of ``height_levels``: levels [H, W] as float32 metres [H, W], exact to half a decimetre."""
    return (np.asarray(levels, np.float64) * HEIGHT_STEP_M + HEIGHT_ZERO_M).astype(np.float32)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write under a name of its own, also among processes of other machines, and renamed at the end: all of it or none."""
    temporary = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, written atomically; NaN is refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line, written atomically; ``rows`` are taken one at a time, so a generator costs no memory.

    ``counts`` (a dict whose keys differ from row to row) goes in as a JSON string: Arrow, which ``datasets`` reads the
    file with, wants one type a column.
    """
    with replacing(path) as file:
        for row in rows:
            if isinstance(row.get("counts"), dict):
                row = {**row, "counts": json.dumps(row["counts"], sort_keys=True)}
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def write_set(folder: Path, images: np.ndarray, rows: Sequence[dict[str, Any]]) -> None:
    """Write images uint8 [N, H, W] as an imagefolder: 000000.png … and metadata.jsonl, last.

    Every row gets ``file_name``; ``text`` and ``label`` are for the caller to give. Where a row has ``synthetic``, how the image was
    drawn, the file says it, too.

    Raises
    ------
    InputError
        Images and rows of different numbers.
    """
    if len(images) != len(rows):
        raise InputError(f"{folder}: {len(images)} images but {len(rows)} metadata rows; give one row an image")
    folder.mkdir(parents=True, exist_ok=True)
    named = [{"file_name": f"{index:06d}.png", **row} for index, row in enumerate(rows)]
    for image, row in zip(images, named, strict=True):
        mark = row.get("synthetic")
        write_png(folder / row["file_name"], image, synthetic=json.dumps(mark, ensure_ascii=False) if mark else "")
    write_rows(folder / METADATA, named)


def read_numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number from 1, row) of a metadata.jsonl; InputError names the line that is not a JSON object."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it a readable file") from error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path} line {number}: broken JSON ({error.msg} at column {error.colno}); write one whole JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f'{path} line {number}: {line.strip()[:60]} is not a JSON object; write {{"file_name": ..., "text": ...}}')
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path} line {number}: has half of a surrogate pair, which is no text; write the character itself") from error
        rows.append((number, row))
    return rows


def files_below(folder: Path) -> list[Path]:
    """All files below, links followed (a subset is often made of links), hidden ones left out, sorted."""
    found, entered = [], set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:  # a link back to a folder above would never end
            subfolders.clear()
            continue
        entered.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != "__MACOSX")
        found += [Path(place) / name for name in sorted(names) if not name.startswith(".")]
    return found


@contextmanager
def saving(out: Path) -> Iterator[None]:
    """Turn an operating system's refusal (disk full, no permission) while writing ``out`` into InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: could not be written ({error.strerror or error}); free some space or choose another folder"
        ) from error


# One place decides whose an output folder is. A name says nothing: whoever makes a data set has a card.json and a metadata.jsonl.

MARKER = ".sarnb.json"  # in a folder made here: what it holds, the files that were made here as they were, what is being written


def check_out(out: Path, kind: str, inputs: Iterable[str | Path] = (), names: Sequence[str] = ("*",)) -> Path:
    """Check, writing nothing, that a call may write into ``out``: it never replaces or removes a file that was not made here.

    Parameters
    ----------
    out : the folder; absent, empty, or made here.
    kind : what it is to hold, such as "data set"; what another kind of call made is not replaced.
    inputs : what the call reads. A name that is no path here, such as a hub id, is passed over.
    names : patterns of what the call writes, such as ``unet/*``; other files in ``out`` stay as they are. "*" is all: then
        the folder must hold nothing else.

    Raises
    ------
    InputError
        ``out`` is a file, cannot be written to, holds files that were not made here under these names, is of another kind, or
        is, lies in or holds an input.
    """
    out = Path(out)
    try:
        out.stat()
    except (FileNotFoundError, NotADirectoryError):
        if out.is_symlink():
            raise InputError(f"{out}: is a link to what is not there; make its target, or name another folder for the {kind}") from None
    except OSError as error:  # a name that is too long, links in a ring, no permission
        raise InputError(f"{out}: cannot be a folder ({error.strerror}); choose another name for the {kind}") from None
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; name a folder for the {kind}")
    check_apart(out, inputs, kind)
    holds, listed, written = _read_marker(out)
    if holds and holds != kind:
        raise InputError(f"{out}: holds a {holds}, which a {kind} must not replace; name another folder")
    if names == ("*",) and out.is_mount():
        raise InputError(f"{out}: is a mount point, which nothing can take the place of; name a folder in it for the {kind}")
    foreign = [name for name in _names(out) if _fits(name, names) and not _fits(name, written) and not _is_ours(out, name, listed)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(f"{out}: holds {foreign[0]}{more}, not written here or changed since; name another folder or move it away")
    parent = out if out.is_dir() else next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{parent}: is no folder you may write to; choose another place for {out.name}")
    return out


def check_apart(out: Path, inputs: Iterable[str | Path], kind: str) -> None:
    """Raise InputError where ``out`` is, lies in or holds what the call reads; see ``check_out``."""
    target = out.resolve()
    for source in (Path(name).expanduser().resolve() for name in inputs if name and Path(name).expanduser().exists()):
        if target.is_relative_to(source) or source.is_relative_to(target):
            place = "is" if target == source else f"lies in {source}," if target.is_relative_to(source) else f"holds {source},"
            raise InputError(f"{out}: {place} what this call reads; write the {kind} elsewhere")


def claim(out: Path, kind: str, inputs: Iterable[str | Path] = (), names: Sequence[str] = ("*",)) -> Path:
    """Check as ``check_out``, then mark the folder as made here: until ``release``, so do all files under ``names`` count.

    So what a killed call left can be continued or replaced by the next one.
    """
    out = check_out(out, kind, inputs, names)
    out.mkdir(parents=True, exist_ok=True)
    _, listed, written = _read_marker(out)
    listed = {name: noted for name, noted in listed.items() if not os.path.lexists(out / name) or _is_ours(out, name, listed)}
    write_json(out / MARKER, {"kind": kind, "files": listed, "writing": list(dict.fromkeys([*written, *names]))})
    return out


def release(out: Path, *more: str) -> None:
    """Note in a folder made here what the call has written, ``more`` names with it: whatever else comes is the user's."""
    holds, listed, written = _read_marker(out)
    if holds:
        own = [name for name in _names(out) if not name.endswith("/")]
        new = {name for name in own if _fits(name, (*written, *more))}
        kept_ones = {name for name in own if name not in new and _is_ours(out, name, listed)}
        noted = _noted(out, sorted(new)) | {name: listed[name] for name in kept_ones}
        files = {name: noted[name] for name in own if name in noted}
        write_json(out / MARKER, {"kind": holds, "files": files, "writing": []})


def lost_files(out: Path) -> list[str]:
    """Names of files that the marker lists and that are not there."""
    return [name for name in _read_marker(out)[1] if not (out / name).is_file()]


def begun(out: Path, fingerprint: str) -> dict[str, Any]:
    """The card of a data set of this fingerprint that was begun or finished here; empty for another, or where a finished one lost files."""
    card = read_json(out / CARD)
    return card if card.get("fingerprint") == fingerprint and not (card.get("complete") and lost_files(out)) else {}


def clear(out: Path) -> None:
    """Remove the files that the marker lists, and the folders that are empty then."""
    for name in _read_marker(out)[1]:
        (out / name).unlink(missing_ok=True)
        for folder in (out / name).relative_to(out).parents:
            with suppress(OSError):
                if folder != Path("."):
                    (out / folder).rmdir()


def _read_marker(out: Path) -> tuple[str, dict[str, str], list[str]]:
    """What the folder holds, its listed files, and the names under which a call writes or was cut short; empty without marker."""
    try:
        found = json.loads((out / MARKER).read_text(encoding="utf-8"))
        inside = {
            name: size for name, size in dict(found["files"]).items() if not Path(name).is_absolute() and ".." not in Path(name).parts
        }
        return str(found["kind"]), inside, [str(name) for name in found["writing"] if isinstance(found["writing"], list)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", {}, []


LITTER = (".DS_Store", "._*", "Thumbs.db", "desktop.ini")  # what file browsers leave behind


def _names(out: Path) -> list[str]:
    """Relative path of every file below, and of links to folders and empty folders with "/" at their end. The marker is left out."""
    found = []
    for folder, subfolders, names in os.walk(out):
        inside = [Path(folder) / name for name in names if not _fits(name, LITTER)]
        below = [Path(folder) / name for name in subfolders]
        inside += [path for path in below if path.is_symlink() or not os.access(path, os.R_OK) or not any(path.iterdir())]
        found += [path.relative_to(out).as_posix() + "/" * path.is_dir() for path in inside if path != out / MARKER]
    return sorted(found)


def _noted(out: Path, names: Sequence[str]) -> dict[str, str]:
    """Size and digest of files, for the marker: the same for the same files, so that equal sets have equal markers."""
    with ThreadPoolExecutor() as pool:  # digests are made outside of Python's lock
        return dict(zip(names, pool.map(lambda name: f"{(out / name).lstat().st_size} {_digest(out / name)}", names), strict=True))


def _is_ours(out: Path, name: str, listed: Mapping[str, str]) -> bool:
    """Whether a file is as the marker noted it; its bytes are read only where it was touched since, or copied with the folder."""
    size, _, digest = str(listed.get(name, "")).partition(" ")
    stat = (out / name).lstat()
    return str(stat.st_size) == size and (stat.st_ctime_ns < (out / MARKER).stat().st_ctime_ns or _digest(out / name) == digest)


def _digest(path: Path) -> str:
    if path.is_symlink():
        return content_key(os.readlink(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file has one of the names, or lies in the way of it, as a link to a folder does through which would be written."""
    return any(fnmatch.fnmatchcase(name, pattern) or (name.endswith("/") and pattern.startswith(name)) for pattern in patterns)


def replace_folder(new: Path, target: Path, kind: str) -> None:
    """Put the folder ``new`` in the place of ``target``, as made here: two renames, so that no half-written set is ever seen there.

    Raises
    ------
    InputError
        ``target`` was not made here; see ``check_out``.
    """
    target = check_out(target, kind).resolve()  # a link stays and leads to the new folder
    write_json(new / MARKER, {"kind": kind, "files": _noted(new, _names(new)), "writing": []})
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def content_key(*parts: str | bytes | np.ndarray) -> str:
    """Sixteen hex digits of the SHA-256 of the parts, each with its length: no two lists of parts collide by joining."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            data: bytes | memoryview = np.ascontiguousarray(part).data
        else:
            data = part.encode() if isinstance(part, str) else part
        digest.update(f"{memoryview(data).nbytes}:".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


# One memo: what was made earlier, of the same key, is read back; all else is made.

Kept = TypeVar("Kept")
NOTE = "kept.json"


def kept(
    folder: Path,
    key: Mapping[str, Any],
    make: Callable[[], Mapping[str, Any] | None],
    load: Callable[[dict[str, Any]], Kept],
    note: str = NOTE,
    alone: bool = True,
) -> Kept:
    """The result in ``folder`` if it is there, whole and of the same key; else it is made, noted and read.

    Parameters
    ----------
    folder : where the result lies, or is to lie.
    key : all that the result depends on, as JSON: settings, and digests of data and weights.
    make : writes the result into ``folder``. What it returns is noted next to the key, such as the cost; of None no note
        is written, because ``make`` has written one itself as its last act.
    load : the note -> the result. Where it raises, the files are damaged and are made again.
    note : file name in ``folder``. It is written last, so that work that was cut short is not taken for a result.
    alone : of several processes that want the same result one makes it and the others wait. False for work that the
        processes do together, such as a training.

    Raises
    ------
    InputError
        The disk is full, or the folder cannot be written to.
    """
    folder, key = Path(folder), json.loads(json.dumps(key))

    def read() -> tuple[Kept] | None:
        try:
            noted = json.loads((folder / note).read_text(encoding="utf-8"))
            return (load(noted),) if {name: noted.get(name) for name in key} == key else None
        except Exception:  # damaged files raise anything; a ``load`` that is wrong itself raises below
            return None

    if found := read():
        return found[0]
    with saving(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent) if alone else nullcontext():
            if alone and (found := read()):  # another process has made it meanwhile
                return found[0]
            more = make()
            if more is not None:
                folder.mkdir(exist_ok=True)
                write_json(folder / note, {**key, **more})
                release(folder, note)
    return load(json.loads((folder / note).read_text(encoding="utf-8")))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time inside; the system lifts the lock of one that dies. No lock where the file system knows none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


_held: set[Path] = set()  # folders that this process works in already


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """One process at a time makes ``folder``; another one says in a sentence which process does, and waits for its end.

    The lock is the file ``.NAME.lock`` next to the folder, for the folder itself may be replaced. The system lifts it when a
    process dies, however it dies. There is none where no file can be locked; what is written then says why. A process may enter twice.
    """
    folder = Path(os.path.realpath(folder))  # one lock, by whatever name or link the folder is called
    if folder in _held or not folder.name:  # there is no place next to "/"; check_out refuses it
        yield
        return
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _lock(path, folder)
    except OSError:
        yield
        return
    _held.add(folder)
    try:
        yield
    finally:
        _held.discard(folder)
        with suppress(OSError):
            path.unlink()  # before the lock is lifted: who waited for this file sees that it is gone, and makes another
        os.close(handle)


def _lock(path: Path, folder: Path) -> int:
    """An open handle of the lock file, locked, with the number of this process in it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            for _ in range(20):  # who has just taken the lock writes its number a moment later
                if holder := os.pread(handle, 100, 0).decode(errors="replace").strip():
                    break
                time.sleep(0.01)
            # In one write: several processes may wait, and their sentences must not mix.
            sys.stderr.write(f"sarnb: {folder}: {holder or 'another process'} works in this folder; waiting until it has ended\n")
            sys.stderr.flush()
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            there = os.path.samestat(os.fstat(handle), path.stat())
        except FileNotFoundError:
            there = False  # who held it has removed it
        if there:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}".encode(), 0)
            return handle
        os.close(handle)


# Work in several processes with results in order: the same answer for any number of workers.

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, label: str = "", chunk: int = 1
) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in the order of the items.

    ``function`` must be a module-level function (or a ``functools.partial`` of one) whose result depends on the item
    alone. With one worker, or one item, nothing is forked; a worker is handed ``chunk`` items at a time. A worker that
    dies raises ``BrokenProcessPool`` instead of hanging. The progress bar shows on a terminal only.
    """
    bar = tqdm(total=len(items), desc=label, disable=not sys.stderr.isatty() or not label, leave=False)
    workers = min(workers, len(items))
    with bar:
        if workers <= 1:
            for item in items:
                yield function(item)
                bar.update()
            return
        # fork: a notebook needs no guarded main module, and the workers run numpy only, so torch's threads do not matter
        method = "fork" if sys.platform == "linux" else "spawn"
        context = multiprocessing.get_context(method)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow, initargs=(os.getpid(),))
        try:
            for result in pool.map(function, items, chunksize=chunk):
                yield result
                bar.update()
        except (KeyboardInterrupt, SystemExit):  # a signal, perhaps to this process alone: an item may take minutes
            for process in list(pool._processes.values()):
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow(parent: int) -> None:
    """End this worker soon after its parent was killed; without it the worker would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

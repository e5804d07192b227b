"""Large tables of tensors on disk: written piece by piece, by one process, and mapped into memory instead of read.

The file is plain safetensors (a header in JSON, then the bytes), so that every reader of the format opens it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sarnb.errors import InputError

TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
Pieces = Iterable[dict[str, Tensor]]


def stored_rows(
    path: Path, make: Callable[[], Pieces], count: int, about: dict[str, str] | None = None
) -> dict[str, Tensor]:
    """The tensors of ``path``, mapped; made and written first where the file is missing or damaged.

    ``make()`` gives pieces {name: [b, ...]} whose rows add up to ``count``; no two are in memory at once. Of several
    processes that want the same file one makes it and the others wait. The file is renamed into place when it is whole, so a
    process that dies leaves nothing that could be taken for a table.

    Raises ``InputError`` when the disk is full.
    """
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            try:
                return load_file(path)  # another process has made it meanwhile
            except (FileNotFoundError, SafetensorError):
                for left in path.parent.glob(f"{path.name}.*.tmp"):  # of a process that died: the living hold the lock
                    left.unlink()
                _write(path, make(), count, about or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the cache could not be saved ({error}); free some disk space and run again") from error
    return load_file(path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time inside; the system lifts the lock of one that dies. No lock where the file system knows none."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, pieces: Pieces, count: int, about: dict[str, str]) -> None:
    temporary, written, starts = path.with_name(f"{path.name}.{os.getpid()}.tmp"), 0, {}
    try:
        with open(temporary, "wb") as file:
            for piece in pieces:
                if not starts:
                    starts = _write_header(file, piece, count, about)
                for name, rows in piece.items():
                    rows = rows.detach().cpu().contiguous()
                    file.seek(starts[name] + written * rows[0].nbytes)
                    file.write(rows.view(torch.uint8).numpy().data)
                written += len(rows)
            if written != count:
                raise ValueError(f"{path}: {written} rows were made where {count} were announced")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_header(file, piece: dict[str, Tensor], count: int, about: dict[str, str]) -> dict[str, int]:
    """Name, type, shape and place of every tensor, after the first piece; name → where its bytes start in the file."""
    header: dict[str, dict] = {"__metadata__": about} if about else {}
    places, end = {}, 0
    for name, rows in piece.items():
        places[name], start = end, end
        end += count * rows[0].nbytes
        header[name] = {"dtype": TYPES[rows.dtype], "shape": [count, *rows.shape[1:]], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + place for name, place in places.items()}

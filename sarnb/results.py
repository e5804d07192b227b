"""Figures, tables and other artefacts of a notebook, recorded in its manifest.

A record collects everything in a staging folder and moves it to its place when it is closed, so that a notebook
that fails half-way leaves the earlier results as they were.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from sarnb.errors import InputError
from sarnb.manifest import artefact_entry, environment, read_manifest, read_manifests, sources, write_atomically, write_manifest
from sarnb.profile import load_profile
from sarnb.settings import process_peak_mb, repository

STAMP_COLUMN = "stamp"
VECTOR_PIXELS = 100_000  # of images in a figure; beyond, its SVG would be the same pixels again, as text


def results_folder(results_dir: str | Path) -> Path:
    """The results folder as an absolute path; a relative one starts at the repository."""
    return (repository() / results_dir).absolute()


def claim_folder(results_dir: str | Path, profile: str, stamp: str, data: str = "") -> None:
    """Make a results folder the one of a profile and of a user's data folder, or check that it is.

    Raises
    ------
    InputError
        The folder holds results of another profile or of other data, or cannot be written to.
    """
    path = results_folder(results_dir) / "profile.json"
    mine = {"profile": profile, "stamp": stamp, "data": data}
    if path.is_file():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        if theirs["profile"] != profile or bool(theirs["stamp"]) != bool(stamp):
            raise InputError(
                f"{path.parent}: holds results of the profile {theirs['profile']!r}, {profile!r} must not be "
                "written over them; choose another results folder"
            )
        if theirs["data"] != data:
            raise InputError(
                f"{path.parent}: holds results of the data folder {theirs['data'] or '(none)'}, not of "
                f"{data or '(none)'}; rename one of the folders or set SARNB_RESULTS"
            )
        return
    write_atomically(path, json.dumps(mine, indent=1) + "\n")


def open_record(
    producer: str,
    results_dir: str | Path,
    profile: str,
    seed: int,
    parameters: Mapping[str, Any],
) -> Record:
    """Start the record of one notebook.

    Parameters
    ----------
    producer : the notebook's name without its ending, e.g. ``05_unet_full``.
    results_dir : the results folder, ``RESULTS``; relative to the repository or absolute.
    profile : the profile's name, ``PROFILE``.
    seed : ``SEED``.
    parameters : the values the notebook ran with.

    Raises
    ------
    InputError
        The folder belongs to another profile, or cannot be written to.
    """
    folder = results_folder(results_dir)
    claim = folder / "profile.json"
    if not claim.is_file():
        claim_folder(folder, profile, load_profile(profile).stamp)
    held = json.loads(claim.read_text(encoding="utf-8"))
    claim_folder(folder, profile, held["stamp"], held["data"])
    return Record(producer, folder, profile, held["stamp"], seed, dict(parameters))


class Record:
    """What one notebook made; see ``open_record``.

    Attributes
    ----------
    folder : the results folder, absolute; models, samples and data go below it.
    """

    def __init__(self, producer: str, folder: Path, profile: str, stamp: str, seed: int, parameters: dict[str, Any]) -> None:
        self.producer, self.folder, self.profile, self.stamp = producer, folder, profile, stamp
        self.seed, self.parameters = seed, parameters
        self._started, self._clock = datetime.now(UTC), time.perf_counter()
        self._staging = folder / ".state" / "staging" / producer
        self._staged: list[tuple[str, str, str]] = []
        self._others: list[tuple[Path, str]] = []
        shutil.rmtree(self._staging, ignore_errors=True)

    def figure(self, figure: Figure, name: str, meaning: str) -> None:
        """Record a figure as figures/<name>.png and .svg, a sheet of images (see ``figure_files``) as PNG only.

        Parameters
        ----------
        figure : drawn by matplotlib; with a smoke profile it gets the stamp across it.
        name : file name without ending, one of its kind in the whole results folder.
        meaning : what a reader sees in it, one line.
        """
        self._check(name, meaning)
        if self.stamp and not any(text.get_gid() == STAMP_COLUMN for text in figure.texts):
            style: dict[str, Any] = {"fontsize": 18, "color": "crimson", "alpha": 0.45, "rotation": 20, "zorder": 1000}
            figure.text(0.5, 0.5, self.stamp, ha="center", va="center", gid=STAMP_COLUMN, **style)
        for ending, content in figure_files(figure, name).items():
            self._stage("figure", f"figures/{name}.{ending}", content, meaning)

    def table(self, table: pd.DataFrame, name: str, meaning: str) -> None:
        """Record a table as tables/<name>.csv, .md and .tex, numbers with six significant digits.

        A named index becomes columns, an unnamed one is dropped. With a smoke profile the CSV gets a last column
        ``stamp``, which ``read_table`` takes off again.
        """
        self._check(name, meaning)
        named = any(level is not None for level in table.index.names)
        frame = table.reset_index() if named else table.reset_index(drop=True)
        head = f"{self.stamp}: " if self.stamp else ""
        csv = frame.assign(**{STAMP_COLUMN: self.stamp}) if self.stamp else frame
        self._stage("table", f"tables/{name}.csv", csv.to_csv(index=False, float_format="%.6g", lineterminator="\n"), meaning)
        self._stage("table", f"tables/{name}.md", f"{head}{meaning}\n\n{frame.to_markdown(index=False, floatfmt='.4g')}\n", meaning)
        tex = frame.to_latex(index=False, escape=True, float_format="%.4g", na_rep="")
        self._stage("table", f"tables/{name}.tex", f"% {head}{meaning}\n{tex}", meaning)

    def artefact(self, path: str | Path, meaning: str) -> None:
        """Record a file or folder that lies below the results folder already, e.g. a trained model."""
        path = (self.folder / path).absolute()
        if not path.is_relative_to(self.folder) or not path.exists():
            raise InputError(f"{path}: is not there or not below {self.folder}; save artefacts below the results folder")
        self._others.append((path, meaning))

    def close(self) -> list[str]:
        """Put everything in its place, write the manifest and rebuild index.md; returns the paths of what was recorded.

        Files of an earlier run of the same notebook that this one did not make again are removed.
        """
        recorded = read_manifest(self.folder, self.producer).get("artefacts", [])
        earlier = {entry["path"] for entry in recorded if entry["kind"] in ("figure", "table")}
        entries = []
        for kind, name, meaning in self._staged:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._staging / name).replace(target)
            entries.append(artefact_entry(self.folder, target, kind, meaning))
        entries += [artefact_entry(self.folder, path, "artefact", meaning) for path, meaning in self._others]
        for name in earlier - {entry["path"] for entry in entries}:
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self._staging, ignore_errors=True)
        write_manifest(
            self.folder,
            {
                "producer": self.producer,
                "profile": self.profile,
                "stamp": self.stamp,
                "seed": self.seed,
                "parameters": self.parameters,
                **sources(self.folder, self.producer),
                **environment(),
                "started": self._started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - self._clock, 1),
                "peak_memory_mb": round(process_peak_mb(), 1),
                "artefacts": entries,
            },
        )
        return [entry["path"] for entry in entries]

    def _check(self, name: str, meaning: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or not meaning.strip() or "\n" in meaning:
            raise InputError(f"artefact {name!r}: give a plain file name and one line of meaning")
        for producer, manifest in read_manifests(self.folder).items():
            stems = {entry["path"].rpartition(".")[0] for entry in manifest.get("artefacts", [])}
            if producer != self.producer and {f"figures/{name}", f"tables/{name}"} & stems:
                raise InputError(f"artefact {name!r}: {producer} has recorded one of this name; choose another")

    def _stage(self, kind: str, name: str, content: str | bytes, meaning: str) -> None:
        write_atomically(self._staging / name, content)
        self._staged = [entry for entry in self._staged if entry[1] != name] + [(kind, name, meaning)]


def figure_files(figure: Figure, name: str) -> dict[str, bytes]:
    """A figure as PNG and SVG, by file ending; PNG only where its images have more than ``VECTOR_PIXELS`` pixels.

    The same figure and name give the same bytes.
    """
    files, metadata_of = {}, {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    if sum(image.get_size()[0] * image.get_size()[1] for axis in figure.axes for image in axis.get_images()) > VECTOR_PIXELS:
        del metadata_of["svg"]
    for ending, metadata in metadata_of.items():
        stream = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(stream, format=ending, metadata=metadata, bbox_inches="tight")
        files[ending] = stream.getvalue()
    files["png"] = compact_png(files["png"])
    return files


def compact_png(content: bytes) -> bytes:
    """The same pixels in fewer bytes: one channel where all is grey, three where nothing shines through.

    matplotlib writes four channels always, and speckle, which nothing compresses, then takes twice its room.
    """
    image = Image.open(io.BytesIO(content))
    dpi = image.info.get("dpi", (72, 72))
    channels = np.asarray(image.convert("RGBA"))
    if (channels[..., 3] == 255).all():
        grey = (channels[..., :1] == channels[..., 1:3]).all()
        image = Image.fromarray(channels[..., 0] if grey else channels[..., :3])
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True, dpi=dpi)
    return stream.getvalue()


def read_table(results_dir: str | Path, name: str) -> pd.DataFrame:
    """Read tables/<name>.csv of a results folder, without the smoke stamp's column.

    Raises
    ------
    InputError
        No such table.
    """
    path = results_folder(results_dir) / "tables" / f"{name}.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such table; run the notebook that makes it")
    return pd.read_csv(path).drop(columns=STAMP_COLUMN, errors="ignore")

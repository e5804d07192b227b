"""What each notebook made: its figures, tables and other artefacts, one JSON record a notebook in ``manifest``.

A record collects everything in a staging folder and moves it to its place when it is closed, so that a notebook that fails
half-way leaves the earlier results as they were. ``sarnb.graph`` compares the records with what lies on the disk. Files are known
by hashes of their content, never by their times, which a git clone does not keep.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarnb.data.files import files_below, replacing
from sarnb.errors import InputError
from sarnb.profile import load_profile, profile_names, read_yaml_file
from sarnb.settings import cores, notebooks_folder, process_peak_mb, repository

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Large and rebuilt by a run: ignored by git, so their absence in a clone is no fault.
LOCAL_FOLDERS = ("data", "models", "samples")
RECORDED_FOLDERS = ("figures", "tables", "notebooks")
STAMP_COLUMN = "stamp"
DRAWING_BYTES = 150_000  # of an SVG; beyond, a figure of so many marks is smaller as pixels
COURSE = "notebooks/COURSE.md"  # lies next to the executed notebooks, whose words it explains
VERDICT = "10_evaluation"  # the notebook that compares what the others made
BOX = "<!-- findings -->"
PAGE_ROWS = 100  # of a table that fits on a page or two; beyond, Markdown and LaTeX are only a second and a third copy of the CSV
GREYS = 64  # levels of a grey figure; this project's choice, see ``compact_png``
SCREEN_PIXELS = 1400  # neither side of a figure is longer where a notebook shows it
PACKAGES = (
    *("torch", "diffusers", "transformers", "peft", "accelerate", "datasets", "numpy", "scipy", "pandas", "scikit-image"),
    *("matplotlib", "seaborn", "papermill", "snakemake"),
)


# ---- files: known by their content, written whole ----


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def content_digest(path: Path, but: Collection[str] = ()) -> str:
    """SHA-256 (hex) of a file's bytes, or over the names and bytes of the files below a folder, those named in ``but`` apart."""
    if path.is_dir():
        return digest([[name, content_digest(path / name)] for name in file_names(path) if name not in but])
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_names(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, links followed, sorted, without those that are hidden or in a hidden folder."""
    return sorted(path.relative_to(folder).as_posix() for path in files_below(folder) if path.is_file())


def read_cells(notebook: Path) -> list[dict[str, Any]]:
    """Cells of a notebook file, the source of each as one text.

    Raises
    ------
    InputError
        The file is missing or no notebook.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"])} for cell in cells]
    except FileNotFoundError:
        raise InputError(f"{notebook}: no such notebook") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{notebook}: not a Jupyter notebook ({error}); save it again from Jupyter") from None


def notebook_digest(notebook: Path) -> str:
    """SHA-256 (hex) of a notebook's cell types and sources; outputs and metadata do not count."""
    return digest([[cell["cell_type"], cell["source"]] for cell in read_cells(notebook)])


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: next to it, then renamed.

    Raises
    ------
    InputError
        The folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be saved ({error.strerror}); free some space or choose a folder you may write to with SARNB_RESULTS"
        ) from None


# ---- a notebook's record, while it runs ----


def read_claim(folder: Path) -> dict[str, str]:
    """Whose results a folder holds, from its profile.json: profile, stamp, data (the user's data folder); empty for a new folder.

    Raises
    ------
    InputError
        The file is damaged, or it is missing where other files are.
    """
    path = folder / "profile.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {key: held[key] + "" for key in ("profile", "stamp", "data")}
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir() and (others := sorted(name for name in os.listdir(folder) if name != "models" and name[0] != ".")):
            raise InputError(f"{folder}: holds {others[0]}, and no profile.json of a run; name another place with SARNB_RESULTS") from None
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({error}); choose another results folder, or remove this one") from None


def claim_folder(folder: Path, profile: str, stamp: str | None = None, data: str | None = None, write: bool = True) -> str:
    """Make a results folder the one of a profile and of a user's data folder, or check that it is; returns its stamp.

    Parameters
    ----------
    folder : the results folder.
    profile : the profile's name.
    stamp : what is put on every artefact; None = as the folder was claimed, at first that of the shipped profile.
    data : the user's data folder, empty for none; None = as the folder was claimed.
    write : False = only check.

    Raises
    ------
    InputError
        The folder holds results of another profile or of other data, files of no run, or cannot be written to.
    """
    known = read_claim(folder)  # a profile of the user's own is known by what the run that it sizes wrote here
    held = known or {"profile": profile, "stamp": load_profile(profile).stamp if stamp is None else stamp, "data": data or ""}
    if held["profile"] != profile or (stamp is not None and held["stamp"] != stamp):
        raise InputError(
            f"{folder}: holds results of the profile {held['profile']!r} with the stamp {held['stamp']!r}, {profile!r}"
            f"{'' if stamp is None else f' with {stamp!r}'} must not be written over them; choose another results folder"
        )
    if data is not None and held["data"] != data:
        raise InputError(
            f"{folder}: holds results of the data folder {held['data'] or '(none)'}, not of "
            f"{data or '(none)'}; rename one of the folders or set SARNB_RESULTS"
        )
    if write and not known:
        write_atomically(folder / "profile.json", json.dumps(held, indent=1) + "\n")
    return held["stamp"]


class Record:
    """What one notebook makes, collected while it runs.

    Parameters
    ----------
    producer : the notebook's name without its ending, e.g. ``05_unet_full``.
    results : the results folder, ``RESULTS``; relative to the repository or absolute.
    profile : the profile's name, ``PROFILE``.
    seed : ``SEED``.
    parameters : the values the notebook ran with.

    Attributes
    ----------
    folder : the results folder, absolute; models, samples and data go below it.

    Raises
    ------
    InputError
        The folder belongs to another profile, or cannot be written to.
    """

    def __init__(self, producer: str, results: str | Path, profile: str, seed: int, parameters: Mapping[str, Any]) -> None:
        self.producer, self.folder = producer, (repository() / results).absolute()
        self.stamp = claim_folder(self.folder, profile)
        self._setting = {"profile": profile, "stamp": self.stamp, "seed": seed, "parameters": dict(parameters)}
        self._started, self._clock, self._busy = datetime.now(UTC), time.perf_counter(), sum(os.times()[:4])
        self._staging = self.folder / ".state" / "staging" / producer
        self._staged: dict[str, tuple[str, str]] = {}
        self._others: dict[Path, str] = {}
        self._found: list[str] = []
        self._figure_faults: list[str] = []
        shutil.rmtree(self._staging, ignore_errors=True)

    def figure(self, figure: Figure, name: str, meaning: str) -> str:
        """Record a figure as figures/<name>.svg, or .png where it holds images (see ``figure_file``); returns that path.

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
        ending, content = figure_file(figure, name)
        self._stage("figure", f"figures/{name}.{ending}", content, meaning)
        self._figure_faults += [f"{name}: {fault}" for fault in figure_faults(figure)]
        return f"figures/{name}.{ending}"

    def table(self, table: pd.DataFrame, name: str, meaning: str) -> None:
        """Record a table as tables/<name>.csv, and one of up to ``PAGE_ROWS`` rows as .md and .tex too; six significant digits.

        A named index becomes columns, an unnamed one is dropped. With a smoke profile the CSV gets a last column ``stamp``.
        """
        self._check(name, meaning)
        named = any(level is not None for level in table.index.names)
        frame = table.reset_index() if named else table.reset_index(drop=True)
        head = f"{self.stamp}: " if self.stamp else ""
        csv = frame.assign(**{STAMP_COLUMN: self.stamp}) if self.stamp else frame
        self._stage("table", f"tables/{name}.csv", csv.to_csv(index=False, float_format="%.6g", lineterminator="\n"), meaning)
        if len(frame) > PAGE_ROWS:
            return
        rows = frame.to_markdown(index=False, floatfmt=".4g").replace("<", r"\<")  # <SAR> is no tag
        self._stage("table", f"tables/{name}.md", f"{head}{meaning}\n\n{rows}\n", meaning)
        tex = frame.to_latex(index=False, escape=True, float_format="%.4g", na_rep="")
        self._stage("table", f"tables/{name}.tex", f"% {head}{meaning}\n{tex}", meaning)

    def artefact(self, path: str | Path, meaning: str) -> None:
        """Record a file or folder that lies below the results folder already, e.g. a trained model.

        Raises
        ------
        InputError
            The path is not there, or not below the results folder.
        """
        path = (self.folder / path).absolute()
        if not path.is_relative_to(self.folder) or not path.exists():
            raise InputError(f"{path}: is not there or not below {self.folder}; save artefacts below the results folder")
        self._others[path] = meaning

    def found(self, sentences: Sequence[str]) -> None:
        """Record what the notebook found, in sentences that its code wrote; index.md shows them."""
        self._found = list(sentences)

    def close(self) -> list[str]:
        """Put everything in its place, write the manifest and rebuild index.md; returns the paths of what was recorded.

        Files of an earlier run of the same notebook that this one did not make again are removed.
        """
        recorded = read_manifest(self.folder, self.producer).get("artefacts", [])
        earlier = {entry["path"] for entry in recorded if entry["kind"] in ("figure", "table")}
        for name in self._staged:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._staging / name).replace(target)
        entries = [_entry(self.folder, self.folder / name, *what) for name, what in self._staged.items()]
        entries += [_entry(self.folder, path, "artefact", meaning) for path, meaning in self._others.items()]
        for name in earlier - {entry["path"] for entry in entries}:
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self._staging, ignore_errors=True)
        notebook, graph = notebooks_folder() / f"{self.producer}.ipynb", notebooks_folder() / "graph.yaml"
        needs = (read_yaml_file(graph) or {}).get(self.producer, []) if graph.is_file() else []
        _write_manifest(
            self.folder,
            {
                "producer": self.producer,
                **self._setting,
                "notebook_sha256": notebook_digest(notebook) if notebook.is_file() else None,
                "upstream": {need: artefacts_digest(self.folder, need) for need in needs if read_manifest(self.folder, need)},
                "git": _git(),
                "python": platform.python_version(),
                "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
                "device": device(),
                "started": self._started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - self._clock, 1),
                "cpu_seconds": round(sum(os.times()[:4]) - self._busy, 1),
                "peak_memory_mb": round(process_peak_mb(), 1),
                "found": self._found,
                "figure_faults": self._figure_faults,
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
        self._staged[name] = (kind, meaning)


def figure_file(figure: Figure, name: str) -> tuple[str, bytes]:
    """A figure as one file: its ending and its content, which is the same for the same figure and name.

    Drawings of lines and marks become SVG, which is sharp at any size. Figures that hold images, or more marks than
    ``DRAWING_BYTES`` take, become PNG of the size at which a notebook shows them. A mosaic, of which one pixel is one pixel
    of a file at the theme's resolution, is saved at that one, for resampled speckle is no speckle.
    """
    import matplotlib

    short_log_labels(figure)
    literal_text(figure)
    images, dots = [image for axis in figure.axes for image in axis.get_images()], matplotlib.rcParams["savefig.dpi"]
    widths = [(image.get_size()[1], image.axes.bbox.width / figure.dpi) for image in images]  # [px], [inch]
    exact = dots != "figure" and any(abs(inches * dots - pixels) < 1 for pixels, inches in widths)

    def saved(ending: str, metadata: dict[str, None]) -> bytes:
        stream = io.BytesIO()
        # Ticks that the layout adds while it is saved are texts of their own, and may be powers of ten.
        with matplotlib.rc_context({"svg.hashsalt": name, "text.parse_math": True}):
            figure.savefig(stream, format=ending, metadata=metadata, bbox_inches="tight", dpi=dots if exact else "figure")
        return stream.getvalue()

    if not images:
        drawing = saved("svg", {"Date": None, "Creator": None})
        if len(drawing) <= DRAWING_BYTES:
            return "svg", drawing
    return "png", compact_png(saved("png", {"Software": None}))


def short_log_labels(figure: Figure) -> None:
    """Label logarithmic axes that show little more than a decade at 1, 2 and 5 times a power of ten, short ones at 3 times, too.

    They are written as 0.2. matplotlib writes 2 x 10^-1, and at 4 and 6 too, which run into each other in a narrow panel.
    Longer axes keep their powers of ten alone.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for line in (line for axis in figure.axes for line in (axis.xaxis, axis.yaxis)):
        low, high = sorted(line.get_view_interval())
        if line.get_scale() == "log" and getattr(line.get_transform(), "base", 10) == 10 and low > 0:
            if high / low > 10**1.2:
                line.set_minor_formatter(NullFormatter())
            else:
                line.set_minor_locator(LogLocator(subs=(2, 3, 5) if high / low < 5 else (2, 5)))
                for set_formatter in (line.set_major_formatter, line.set_minor_formatter):
                    set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def literal_text(figure: Figure) -> None:
    """Draw every text as it is written: a "$" in the name of a class or a folder starts no formula.

    The powers of ten on logarithmic axes stay formulas; no other text of this project is one. The theme says the same before
    a figure is laid out, but knows no axes.
    """
    from matplotlib.text import Text

    lines = [line for axis in figure.axes for line in (axis.xaxis, axis.yaxis)]
    ticks = [tick for line in lines if line.get_scale() != "linear" for tick in (*line.get_major_ticks(), *line.get_minor_ticks())]
    powers = {label for tick in ticks for label in (tick.label1, tick.label2)}  # in view or not: the layout may move them into it
    for text in figure.findobj(Text):
        text.set_parse_math(text in powers)


def figure_faults(figure: Figure) -> list[str]:
    """What keeps a figure from being read on a screen: texts that overlap, and a side of more than ``SCREEN_PIXELS``.

    Each text is the rectangle around its letters, turned as the text is; two overlap where no side of either separates
    them. Rectangles are a pixel smaller than matplotlib's on each side: its boxes have a rim.
    """
    import numpy as np
    from matplotlib.text import Text

    figure.draw_without_rendering()
    faults, boxes = [], []
    unseen = set()  # labels of ticks outside of the axes: they are there, and not drawn
    for axis in figure.axes:
        for line in (axis.xaxis, axis.yaxis):
            low, high = sorted(line.get_view_interval())
            margin = 1e-9 * (high - low)
            for tick in [*line.get_major_ticks(), *line.get_minor_ticks()]:
                if not axis.axison or not low - margin <= tick.get_loc() <= high + margin:
                    unseen |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text in unseen or not text.get_text().strip() or not text.get_visible() or text.get_gid() == STAMP_COLUMN:
            continue
        if text.axes is not None and not text.axes.get_visible():
            continue
        around, angle = Text.get_window_extent(text), text.get_rotation()  # of an annotation without its arrow
        text.set_rotation(0)
        upright = Text.get_window_extent(text)
        text.set_rotation(angle)
        half = np.maximum(np.array([upright.width, upright.height]) / 2 - 1, 0.5)
        turn = np.deg2rad(angle)
        sides = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        centre = np.array([around.x0 + around.x1, around.y0 + around.y1]) / 2
        boxes.append((text.get_text(), sides, centre + np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * half @ sides))
    for place, (one, sides, corners) in enumerate(boxes):
        for other, other_sides, other_corners in boxes[:place]:
            a, b = (points @ np.concatenate([sides, other_sides]).T for points in (corners, other_corners))
            if (a.max(0) > b.min(0)).all() and (b.max(0) > a.min(0)).all():
                faults.append(f"the texts {other!r} and {one!r} overlap")
    box = figure.get_tightbbox()
    faults += [
        f"{side * figure.dpi:.0f} pixels {name}, more than the {SCREEN_PIXELS} that a screen shows"
        for name, side in (("wide", box.width), ("tall", box.height))
        if side * figure.dpi > SCREEN_PIXELS
    ]
    return faults


def compact_png(content: bytes) -> bytes:
    """The same picture in fewer bytes, as it is looked at: 256 colours, or 64 greys where all is grey.

    Speckle is noise, which nothing compresses, and matplotlib writes four channels of it. A palette takes a third of a sheet of
    photographs (median cut, then k-means until no more than a twentieth of the pixels moves: 35 dB and more from the original);
    pages, letters and lines stay as they are. 64 greys are at most two of 255 from their own. A picture of no more colours keeps
    each; what shines through, all.
    """
    import numpy as np
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    dpi = image.info.get("dpi", (72, 72))
    channels = np.asarray(image.convert("RGBA"))
    ways = [image]
    if (channels[..., 3] == 255).all():
        if (channels[..., :1] == channels[..., 1:3]).all():
            levels = np.unique(channels[..., 0])
            if len(levels) > GREYS:
                levels = np.rint(np.linspace(0, 255, GREYS)).astype(np.uint8)
            nearest = np.abs(np.arange(256)[:, None] - levels.astype(int)).argmin(axis=1).astype(np.uint8)[channels[..., 0]]
            by_palette = Image.fromarray(nearest)
            by_palette.putpalette(levels.repeat(3).tobytes())
            ways = [by_palette, Image.fromarray(levels[nearest])]  # noise is smaller without a filter, as palettes are; edges are not
        else:
            colours = Image.fromarray(channels[..., :3])
            moving = 1 + colours.width * colours.height // 20
            ways = [colours.quantize(256, Image.Quantize.MEDIANCUT, kmeans=moving, dither=Image.Dither.NONE)]

    def saved(way: Image.Image) -> bytes:
        stream = io.BytesIO()
        way.save(stream, format="PNG", optimize=True, dpi=dpi)
        return stream.getvalue()

    return min(map(saved, ways), key=len)


def _git() -> dict[str, Any]:
    """Revision, and whether what decides the results differs from it."""

    def ask(*words: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(repository()), *words], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    changes = ask("status", "--porcelain", "--", "sarnb", "notebooks", "pyproject.toml")
    return {"revision": ask("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def device() -> dict[str, Any]:
    """System, processor, cores, and what torch uses of them."""
    found: dict[str, Any] = {"system": platform.system(), "machine": platform.machine(), "cores": cores()}
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        found["processor"] = models[0].partition(":")[2].strip()
    except (OSError, IndexError):
        found["processor"] = platform.processor()
    torch = sys.modules.get("torch")  # a notebook that does not use torch need not wait for it
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["graphics"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


# ---- the records of a results folder ----


def read_manifest(results: Path, producer: str) -> dict[str, Any]:
    """A producer's manifest; empty if there is none or it is not one: keys missing, of another type, paths that lead elsewhere."""
    try:
        found = json.loads((results / "manifest" / f"{producer}.json").read_text(encoding="utf-8"))
        texts = [found["producer"], found["profile"], found["stamp"], *found["upstream"].values()]
        texts += [entry[key] for entry in found["artefacts"] for key in ("path", "kind", "meaning", "sha256")]
        paths = [Path(entry["path"]) for entry in found["artefacts"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    plain = all(isinstance(text, str) for text in texts) and not any(path.is_absolute() or ".." in path.parts for path in paths)
    return found if plain and found["producer"] == producer else {}


def read_manifests(results: Path) -> dict[str, dict[str, Any]]:
    """All manifests of a results folder, by producer, in the order of their names."""
    return {path.stem: read_manifest(results, path.stem) for path in sorted((results / "manifest").glob("*.json"))}


def _entry(results: Path, path: Path, kind: str, meaning: str) -> dict[str, Any]:
    """The manifest's entry of one file or folder."""
    return {"path": path.relative_to(results).as_posix(), "kind": kind, "meaning": meaning, "sha256": content_digest(path)}


def record_digest(results: Path, producer: str) -> str:
    """One hash over a producer's manifest; empty where there is none."""
    manifest = read_manifest(results, producer)
    return digest(manifest) if manifest else ""


def artefacts_digest(results: Path, producer: str) -> str:
    """One hash over the figures, tables, models and data that a producer recorded (its executed copy left out)."""
    entries = read_manifest(results, producer).get("artefacts", [])
    return digest([[entry["path"], entry["sha256"]] for entry in entries if entry["kind"] != "notebook"])


def _write_manifest(results: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, ensure_ascii=False, default=str) + "\n"
    write_atomically(results / "manifest" / f"{manifest['producer']}.json", text)
    write_atomically(results / "index.md", index(results))


def add_executed_copy(results: Path, producer: str) -> None:
    """Adds the executed notebook to its producer's manifest; nothing to do where the notebook keeps no record."""
    if manifest := read_manifest(results, producer):
        entry = _entry(results, results / "notebooks" / f"{producer}.ipynb", "notebook", "the executed notebook")
        manifest["artefacts"] = [old for old in manifest["artefacts"] if old["path"] != entry["path"]] + [entry]
        _write_manifest(results, manifest)


def findings(manifest: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: what a notebook found, as a quoted box, and an empty line; nothing where it recorded nothing."""
    signs = str.maketrans({sign: f"\\{sign}" for sign in "\\`*$<"})  # of names such as <SAR>; a sentence is no Markdown
    sentences = [f"> - {sentence.translate(signs)}" for sentence in manifest.get("found", [])]
    return ["> **What we found**", ">", *sentences, ""] if sentences else []


def write_findings(results: Path, page: Path) -> None:
    """Write the verdict of a results folder between the two lines ``BOX`` of a Markdown page, such as README.md.

    Raises
    ------
    InputError
        The page has no such lines, the folder no verdict, or its profile is stamped.
    """
    manifest = read_manifest(results, VERDICT)
    if not manifest.get("found"):
        raise InputError(f"{results}: {VERDICT} has recorded no findings there; run it first (./run_all.sh --only 10)")
    if manifest["stamp"]:
        raise InputError(f"{results}: {manifest['stamp']}; give results that are none")
    try:
        parts = page.read_text(encoding="utf-8").split(BOX)
    except OSError as error:
        raise InputError(f"{page}: cannot be read ({error.strerror}); name a Markdown page, such as README.md") from None
    if len(parts) != 3:
        raise InputError(f"{page}: {len(parts) - 1} lines {BOX!r}; write two, and the findings go between them")
    where = f"Written from notebook 10 of the profile `{manifest['profile']}`, seed {manifest['seed']}, run on {manifest['finished'][:10]}."
    parts[1] = "\n".join(["", *findings(manifest), where, ""])
    write_atomically(page, BOX.join(parts))


def took(manifest: Mapping[str, Any]) -> str:
    """How long a notebook ran, and on what."""
    device = manifest.get("device", {})
    threads = device.get("threads", device.get("cores"))
    where = device.get("graphics") or f"{threads} thread{'s' * (threads != 1)} of {device.get('processor') or 'a processor'}"
    return f"Ran for {manifest.get('seconds', 0) / 60:.1f} minutes on {where}."


def index(results: Path) -> str:
    """The text of index.md: the verdict (without it, what the last notebook found), then every figure and table, by notebook."""
    manifests = {producer: manifest for producer, manifest in read_manifests(results).items() if manifest}
    first = next(iter(manifests.values()), {})
    lines = [f"# Results of the profile `{first.get('profile', results.name)}`", ""]
    if stamp := first.get("stamp"):
        lines += [f"**{stamp}**", ""]
    verdict = [manifests[VERDICT]] if VERDICT in manifests else list(manifests.values())[-1:]
    lines += [line for manifest in verdict for line in findings(manifest)]
    for producer, manifest in manifests.items():
        lines += [f"## {producer}", "", took(manifest), ""]
        if manifest not in verdict:
            lines += findings(manifest)
        paths = {entry["path"] for entry in manifest["artefacts"]}  # in older editions some figures are there as PNG and as SVG
        for entry in sorted(manifest["artefacts"], key=lambda e: (e["kind"] != "notebook", e["kind"])):
            name = entry["path"]
            if not name.endswith((".md", ".tex")) and not (name.endswith(".svg") and f"{name[:-4]}.png" in paths):
                link = f"[{name}]({name.replace(' ', '%20')})"
                lines.append(f"- {link}: {entry['meaning']}{' — ' + stamp if stamp and entry['kind'] != 'notebook' else ''}")
        lines.append("")
    return "\n".join(lines)


def file_problems(results: Path, producer: str) -> tuple[list[str], list[str]]:
    """What of a producer's record is not as recorded: what counts, and files of the local folders that are gone.

    A clone has no local folders, so there nothing of them counts as gone.
    """
    manifest, changed, gone = read_manifest(results, producer), [], []
    for need, sha in manifest.get("upstream", {}).items():
        if artefacts_digest(results, need) != sha:
            changed.append(f"{need} recorded other results since")
    for entry in manifest.get("artefacts", []):
        path, top = results / entry["path"], entry["path"].split("/")[0]
        if path.exists():
            if content_digest(path) != entry["sha256"]:
                changed.append(f"{entry['path']} changed")
            elif path.is_symlink() and entry["kind"] != "artefact":  # what it leads to may change or go unseen
                changed.append(f"{entry['path']} is a link now")
        elif top not in LOCAL_FOLDERS:
            changed.append(f"{entry['path']} is missing")
        elif (results / top).exists():
            gone.append(f"{entry['path']} is missing")
    return changed, gone


def folder_problems(results: Path) -> list[str]:
    """What of a results folder belongs to no notebook's record, or contradicts the records."""
    problems, manifests, claim = [], read_manifests(results), read_claim(results)
    known = {entry["path"] for manifest in manifests.values() for entry in manifest.get("artefacts", [])}
    if claim.get("profile") in profile_names() and claim["stamp"] != load_profile(claim["profile"]).stamp:
        problems.append(f"profile.json: its stamp {claim['stamp']!r} is not that of the profile {claim['profile']}")
    for producer, manifest in manifests.items():
        problems += [
            f"manifest/{producer}.json: its {key} {manifest[key]!r} is not {claim[key]!r} as in profile.json"
            for key in ("profile", "stamp")
            if manifest and claim and manifest[key] != claim[key]
        ]
    listed = (results / "index.md").read_text(encoding="utf-8", errors="replace") if (results / "index.md").is_file() else ""
    lost = sorted(set(re.findall(r"^## (\S+)$", listed, re.MULTILINE)) - manifests.keys())
    problems += [f"manifest/{producer}.json: missing, index.md lists it; run {producer} again" for producer in lost]
    if manifests and not lost and listed != index(results):
        problems.append("index.md: not what the records say; the next run writes it anew")
    for name in (f"{folder}/{name}" for folder in RECORDED_FOLDERS for name in file_names(results / folder)):
        if name.endswith(".failed.ipynb"):
            problems.append(f"{name}: the last run of this notebook failed; see the error in it and run it again")
        elif name not in known and name != COURSE:
            problems.append(f"{name}: stale, no manifest records it; delete it or run its notebook again")
    return problems

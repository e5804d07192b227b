"""Open one radar image of any common form as amplitude: PNG, JPEG, TIFF or NPY; 8 bit, 16 bit, float or complex.

``read_image`` is the one place that opens an image of the user: what a file means (bands, alpha, palette, values that
are no amplitude) is decided in this module, for all who read such images. Nothing is guessed: what cannot be an
amplitude image (colour, NaN, decibels, a mask) raises InputError.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from sarnb.data.amplitude import moments
from sarnb.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")

# Grey stored as three channels: JPEG's chroma planes may come back a few levels off 128, a colour photograph is far off.
GREY_MEAN_SPREAD, GREY_MAX_SPREAD = 2.0 / 255.0, 32.0 / 255.0


@dataclass(frozen=True)
class ImageFacts:
    """What is kept of an image: its ``storage`` and ``shape``; ``moments`` of the amplitude (pixels, mean, squares);
    ``constant``: it has one value; ``digest`` of its pixels."""

    storage: str
    shape: tuple[int, int]
    moments: tuple[int, float, float]
    constant: bool
    digest: str


UNREAD = ImageFacts("unread", (0, 0), (0, 0.0, 0.0), False, "")  # of an image that was found and not opened yet


@dataclass(frozen=True)
class RadarImage:
    """One image as read.

    ``amplitude``: uint8 [H, W] when stored in 8 bits, else float32 [H, W], finite and not negative (modulus of complex).
    ``storage``: "8-bit", "integer", "float" or "complex"; images of one storage share one amplitude scale.
    """

    amplitude: np.ndarray
    storage: str

    def facts(self) -> ImageFacts:
        """What is kept when the pixels go."""
        amplitude = self.amplitude
        head = repr((self.storage, amplitude.shape)).encode()
        digest = hashlib.blake2b(head + amplitude.tobytes(), digest_size=16).hexdigest()
        return ImageFacts(self.storage, amplitude.shape, moments(amplitude), bool(amplitude.min() == amplitude.max()), digest)


def read_image(path: Path, constant: bool = False) -> RadarImage:
    """Open the image at ``path``, in four steps: the file, its pixels as stored, one grey channel, amplitude.

    Parameters
    ----------
    path : the file; its form follows from the suffix.
    constant : an image of one value is no fault.

    Raises
    ------
    InputError
        (File, value, mend:) the file is missing, empty, corrupt or of an unknown form, or its pixels are colour, NaN,
        infinite, negative, all equal, or partly transparent.
    """
    path = Path(path)
    _check_file(path)
    try:
        pixels = _READERS[path.suffix.lower()](path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything from struct.error to SyntaxError on damaged bytes
        what = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: cannot be read as an image ({type(error).__name__}: {what}); replace or remove the file") from error
    return _as_amplitude(_as_grey(pixels, path), path, constant)


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: '{path.suffix}' is not an image form read here; use one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; correct the name or remove its entry")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); give read permission or remove the file") from error
    if not head:
        raise InputError(f"{path}: has zero bytes; replace or remove the file")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(f"{path}: is a Git LFS pointer, not the image; run 'git lfs pull' in its repository")


def _read_pillow(path: Path) -> np.ndarray:
    """8-bit PNG or JPEG as uint8 [H, W] or [H, W, C]; 16-bit PNG by GDAL, because Pillow cuts 16-bit colour to 8 bits."""
    with path.open("rb") as file:
        head = file.read(25)
    if head.startswith(b"\x89PNG") and len(head) == 25 and head[24] == 16:
        return _read_gdal(path, "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
            image.load()
            if image.mode == "1":
                raise InputError(f"{path}: has 1 bit a pixel, a mask and not an amplitude; give the radar image itself")
            if image.mode in ("P", "PA", "CMYK", "YCbCr"):
                return np.asarray(image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB"))
            return np.asarray(image)


def _read_gdal(path: Path, driver: str) -> np.ndarray:
    """All bands as [H, W] or [H, W, C] in the stored type (complex included)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        # the driver is named, so that no file can make GDAL follow it to other files
        with rasterio.open(path, driver=driver) as source:
            if source.colorinterp[0] == ColorInterp.palette:
                raise InputError(f"{path}: holds palette indices, not amplitudes; save it as grey")
            bands = source.read()
    return bands[0] if len(bands) == 1 else np.moveaxis(bands, 0, -1)


def _read_npy(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if array.ndim == 3 and array.shape[0] == 1:
        return array[0]
    if array.ndim == 3 and array.shape[-1] == 1:
        return array[..., 0]
    return array


_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".png": _read_pillow,
    ".jpg": _read_pillow,
    ".jpeg": _read_pillow,
    ".tif": partial(_read_gdal, driver="GTiff"),
    ".tiff": partial(_read_gdal, driver="GTiff"),
    ".npy": _read_npy,
}


def _as_grey(pixels: np.ndarray, path: Path) -> np.ndarray:
    """[H, W] of [H, W] or of [H, W, C] whose colour channels agree; an alpha channel must be opaque."""
    if pixels.dtype.kind not in "uifc" or pixels.size == 0:
        raise InputError(f"{path}: holds {pixels.dtype} of shape {pixels.shape}; give numbers of shape [rows, columns]")
    if pixels.ndim == 2:
        return pixels
    channels = pixels.shape[-1] if pixels.ndim == 3 else 0
    if channels not in (2, 3, 4):
        raise InputError(f"{path}: has shape {pixels.shape}; give one channel, [rows, columns]")
    if channels in (2, 4):
        pixels = _without_alpha(pixels, path)
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    if pixels.dtype.kind == "c":
        raise InputError(f"{path}: has 3 complex channels; give one polarisation, [rows, columns]")
    return _merge_channels(pixels, path)


def _without_alpha(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Drop the last of 2 or 4 channels if it is a full alpha channel."""
    alpha = pixels[..., -1]
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else None
    if opaque is None or np.any(alpha != alpha.flat[0]):
        raise InputError(
            f"{path}: has {pixels.shape[-1]} channels and the last is not an opaque alpha channel; "
            "give one channel (one polarisation, or one complex array instead of real and imaginary parts)"
        )
    if alpha.flat[0] != opaque:
        raise InputError(f"{path}: is transparent (alpha {alpha.flat[0]} of {opaque}); save it as opaque grey")
    return pixels[..., :-1]


def _merge_channels(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Mean of three channels, if they are equal within what JPEG does to grey."""
    values = pixels.astype(np.float64)
    full = float(np.iinfo(pixels.dtype).max) if pixels.dtype == np.uint8 else max(float(np.nanmax(np.abs(values))), 1e-30)
    spread = (values.max(axis=-1) - values.min(axis=-1)) / full
    if not (spread.mean() <= GREY_MEAN_SPREAD and spread.max() <= GREY_MAX_SPREAD) and np.isfinite(values).all():
        raise InputError(
            f"{path}: is a colour image (its channels differ by {100 * spread.mean():.1f} % on average, "
            f"{100 * spread.max():.0f} % at most); give a grey radar image"
        )
    mean = values.mean(axis=-1)
    return np.rint(mean).astype(pixels.dtype) if pixels.dtype.kind in "ui" else mean


def _as_amplitude(pixels: np.ndarray, path: Path, constant: bool) -> RadarImage:
    """Check the values and name the storage."""
    if pixels.dtype == np.uint8:
        amplitude, storage = pixels, "8-bit"
    elif pixels.dtype.kind == "c":
        amplitude, storage = np.abs(pixels), "complex"
    else:
        amplitude, storage = pixels, "float" if pixels.dtype.kind == "f" else "integer"
    if amplitude.dtype.kind == "f":
        bad = int(amplitude.size - np.count_nonzero(np.isfinite(amplitude)))
        if bad:
            first = np.argwhere(~np.isfinite(amplitude))[0]
            raise InputError(
                f"{path}: {bad} of {amplitude.size} pixels are NaN or infinite (first at row {first[0]}, column {first[1]}); "
                "replace them or crop the image"
            )
    low, high = amplitude.min(), amplitude.max()
    if low < 0:
        raise InputError(
            f"{path}: has negative values (lowest {low:.6g}), so it is no amplitude; "
            "give linear amplitude (not decibels, no negative no-data value) or complex samples"
        )
    if low == high and not constant:
        raise InputError(f"{path}: is constant (every pixel is {low:.6g}); replace or remove the file")
    if high > np.finfo(np.float32).max:
        raise InputError(f"{path}: the largest value {high:.6g} does not fit 32-bit floats; rescale the amplitudes")
    return RadarImage(amplitude if storage == "8-bit" else amplitude.astype(np.float32), storage)

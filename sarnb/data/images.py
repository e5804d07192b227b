"""Open one radar image of any common form as amplitude: PNG, JPEG, TIFF or NPY; 8 bit, 16 bit, float or complex.

``read_image`` is the one place that opens an image of the user. What a file says of its pixels (type, bands, no-data value,
validity mask, alpha, photometric interpretation, pages, scale, offset, orientation, quantity) is gathered by ``_open`` into
one ``Stored``, and ``read_image`` applies it or refuses the file by name. What was applied stands in the image's notes; what
is declared not to be data, or can be nothing else (FILLS), is excluded from every statistic. The table in README.md lists all cases.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import tifffile
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags

from sarnb.data.amplitude import BLOCK, DECIBEL_SKEWNESS, flat_statistics, moments, stated_quantity
from sarnb.errors import InputError

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # tags are judged here; GDAL reads those that tifffile complains of
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
LARGEST_BYTES = 4 * 2**30  # of one image as stored: 16,000 x 16,000 complex pixels of 16 + 16 bits, opened, fill it

# Grey stored as three 8-bit channels: JPEG's chroma planes may come back a few levels off 128, a colour photograph and
# three polarisations are far off. The spread is also compared with the mean level: one saturated point hides nothing.
GREY_SPREAD, GREY_MOST = 2.0, 32.0  # levels, mean and largest
GREY_SHARE = {True: 0.5, False: 0.1}  # mean spread over mean level, of JPEG and of other files
DARK_SHARE = 0.01  # of a patch's pixels that may be 0 where 0 is declared as no data
SATURATED = 0.05  # of an image's pixels at its highest value, above which they are mentioned
DECIBELS = (-200.0, 200.0)  # values outside of these are no decibels
MOSTLY = 0.9  # of the values below 0, above which they are decibels
# What programs write where there are no data, also without a tag that says so; no decibels, and no amplitude, are among them.
FILLS = (
    -9999.0,
    -99999.0,
    -32768.0,
    *(float(end) for form in (np.float32, np.float64) for end in (np.finfo(form).min, np.finfo(form).max)),
)
FILLS += (9.969209968386869e36, 1e20, float(np.float32(1e20)))  # of NetCDF, and of the CF conventions
OTHER_WORDS = (  # other layers
    r"phase|coherence|interferogram|incidence|elevation|slope|radian|degree|(layover|shadow)[ _-]*mask"
    r"|(?<!\d )(?<![a-z0-9])(coh(?!.*coherence)|dem|dtm|dsm|rad|deg)(?![a-z])"  # not in "VV at 35 deg"
)
NEGATIVE_SHARE = 0.05  # of an intensity's values: subtraction of noise leaves some below 0, which are taken as 0
EXIF_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.T,
    6: lambda image: image[::-1].T,
    7: lambda image: image[::-1, ::-1].T,
    8: lambda image: image.T[::-1],
}


@dataclass(frozen=True)
class ImageFacts:
    """What is kept of an image: its ``storage`` and ``shape``; ``moments`` of the amplitude (pixels, mean, squares);
    ``constant``: it has one value; ``digest`` of its pixels; ``quantity`` as which it was read, the one that the file
    ``stated`` ("" for none) and the ``flat`` statistics to guess it by; ``excluded`` and ``zeros``: pixels that are no
    data by the file's own word, and others that are 0; ``notes`` on what the file required and got."""

    storage: str
    shape: tuple[int, int]
    moments: tuple[int, float, float]
    constant: bool
    digest: str
    quantity: str = "amplitude"
    stated: str = ""
    flat: tuple[float, float] = (np.nan, np.nan)
    excluded: int = 0
    zeros: int = 0
    notes: tuple[str, ...] = ()


UNREAD = ImageFacts("unread", (0, 0), (0, 0.0, 0.0), False, "")  # of an image that was found and not opened yet


@dataclass(frozen=True)
class RadarImage:
    """One image as read.

    ``amplitude``: uint8 [H, W] when stored in 8 bits, else float32 [H, W], finite and not negative (modulus of complex).
    ``storage``: "8-bit", "integer", "float" or "complex", and the quantity where it was intensity or decibels; images of
    one sensor and storage share one amplitude scale. ``valid``: bool [H, W], None where every pixel is data; the amplitude
    of others is 0. ``zero_nodata``: it is the value 0 that is declared as no data. The rest is as in ``ImageFacts``.
    """

    amplitude: np.ndarray
    storage: str
    valid: np.ndarray | None = None
    quantity: str = "amplitude"
    stated: str = ""
    flat: tuple[float, float] = (np.nan, np.nan)
    notes: tuple[str, ...] = ()
    zero_nodata: bool = False

    @property
    def gaps(self) -> float:
        """The share of a patch's pixels that may be no data: none, or few where a dark pixel has the declared value 0 too."""
        return DARK_SHARE if self.zero_nodata else 0.0

    def facts(self) -> ImageFacts:
        """What is kept when the pixels go."""
        amplitude, valid = self.amplitude, self.valid
        head = repr((self.storage, amplitude.shape)).encode()
        digest = hashlib.blake2b(head, digest_size=16)
        digest.update(np.ascontiguousarray(amplitude))
        low, high = _ends(amplitude, valid)
        excluded = 0 if valid is None else int(valid.size - np.count_nonzero(valid))
        zeros = int(amplitude.size - np.count_nonzero(amplitude)) - excluded
        return ImageFacts(
            self.storage,
            amplitude.shape,
            moments(amplitude, valid),
            bool(low == high),
            digest.hexdigest(),
            self.quantity,
            self.stated,
            self.flat,
            excluded,
            zeros,
            self.notes,
        )


@dataclass(frozen=True)
class Stored:
    """The pixels of a file as stored, and what the file says of them; nothing is applied yet.

    ``read``: (first row, row behind the last; of TIFF and NPY also first column, column behind the last) -> pixels [rows, W] or
    [rows, W, C], and where they are data: bool [rows, W], or None for everywhere. ``turn``: the EXIF orientation, 1 to 8.
    ``white``: the stored value that is black where white is the smallest, else 0. ``words``: of the tags that may name the
    quantity. ``jpeg``: colours may be off by its rounding.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[..., tuple[np.ndarray, np.ndarray | None]]
    scale: float = 1.0
    offset: float = 0.0
    turn: int = 1
    white: int = 0
    words: str = ""
    jpeg: bool = False
    zero_nodata: bool = False
    notes: tuple[str, ...] = ()

    @property
    def scaled(self) -> bool:
        """Whether a scale or an offset changes the values."""
        return (self.scale, self.offset) != (1.0, 0.0)


def read_image(path: Path, constant: bool = False, quantity: str = "") -> RadarImage:
    """Open the image at ``path``, in four steps: the file, its pixels as stored, one grey channel, amplitude.

    Parameters
    ----------
    path : the file; its form follows from the suffix.
    constant : an image of one value is no fault.
    quantity : what the numbers are, of QUANTITIES. "": what the file states, and amplitude where it states nothing; a set of
        images is decided as a whole, by ``decide_quantity``.

    Raises
    ------
    InputError
        (File, value, mend:) the file is missing, empty, corrupt, of an unknown form or too large, or its pixels are colour,
        infinite, negative, all equal, partly transparent, or several images.
    """
    path = Path(path)
    _check_file(path)
    try:
        stored = _OPENERS[path.suffix.lower()](path)
        _check_stored(stored, path)
        return _as_amplitude(stored, path, constant, quantity)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything from struct.error to SyntaxError on damaged bytes
        what = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: cannot be read as an image ({type(error).__name__}: {what}); replace or remove the file") from error


def open_stored(path: Path) -> Stored:
    """What a TIFF or NPY says of its pixels, to be read by windows of any size; nothing is applied yet. Raises InputError."""
    _check_file(path)
    stored = _OPENERS[path.suffix.lower()](path)
    if stored.dtype.kind not in "uifc" or 0 in stored.shape or stored.white and stored.dtype.kind != "u":
        raise InputError(f"{path}: holds {stored.dtype} of shape {stored.shape}; give numbers of shape [rows, columns]")
    return stored


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


# What each form says of its pixels.


@contextmanager
def _any_number_of_pixels() -> Iterator[None]:
    """Without Pillow's limit, beyond which it takes a file for a bomb: the limit here is LARGEST_BYTES."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = most


def _open_pillow(path: Path) -> Stored:
    """PNG and JPEG; 16-bit PNG by GDAL, because Pillow cuts 16-bit colour to 8 bits."""
    with _any_number_of_pixels():
        with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
            _check_size(path, (image.height, image.width, len(image.getbands())), 1)
            if image.format == "TIFF":
                return _open_tiff(path)
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{path}: holds {image.n_frames} pictures; save the one that is meant as a file of its own")
            turn = image.getexif().get(0x0112, 1)
            said = [value for value in image.info.values() if isinstance(value, str)]  # texts of a PNG; a JPEG has one comment
            said += [str(image.info.get("comment", b""), "latin-1")] if image.format == "JPEG" else []
            words = " ".join(filter(_is_plain, said))
            if image.mode == "1":
                raise InputError(f"{path}: has 1 bit a pixel, a mask and not an amplitude; give the radar image itself")
            if image.format == "PNG" and image.mode.startswith("I") or _sixteen_bit_png(path):
                return _open_gdal(path, "PNG", turn=turn, words=words)
            clear, form = image.info.get("transparency"), image.format
            sidecar = any(path.with_name(path.name + ending).is_file() for ending in (".aux.xml", ".msk"))
            if sidecar and form in ("PNG", "JPEG") and image.mode in ("L", "LA", "RGB", "RGBA"):  # no-data value, scale or mask
                return replace(_open_gdal(path, form, turn=turn, words=words), jpeg=form == "JPEG")
            if image.mode in ("P", "PA", "CMYK", "YCbCr"):
                image = image.convert("RGBA" if clear is not None or image.mode == "PA" else "RGB")
                clear = None
            pixels = np.asarray(image)
    if isinstance(clear, bytes):
        raise InputError(f"{path}: is partly transparent; save it as opaque grey")
    valid = None if clear is None else np.any(pixels.reshape(*pixels.shape[:2], -1) != clear, axis=-1)

    def read(start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        return pixels[start:stop], None if valid is None else valid[start:stop]

    return Stored(pixels.shape, pixels.dtype, read, turn=turn, words=words, jpeg=form == "JPEG", zero_nodata=clear in (0, (0, 0, 0)))


def _sixteen_bit_png(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(25)
    return head.startswith(b"\x89PNG") and len(head) == 25 and head[24] == 16


def _open_tiff(path: Path) -> Stored:
    """The one page of a TIFF that is neither a preview nor a mask."""
    with tifffile.TiffFile(path) as file:
        pages = [(number, page) for number, page in enumerate(file.pages, start=1)]
        own = [(number, page) for number, page in pages if not int(page.subfiletype) & 5]  # 1: reduced in size, 4: a mask
        images = (file.imagej_metadata or {}).get("images", 1) if file.is_imagej else 1
        if len(own) != 1 or images > 1:
            sizes = ", ".join(sorted({" x ".join(map(str, page.shape)) for _, page in own or pages}))
            found = f"{max(len(own), images)} pages ({sizes})" if own else "only pages that are marked as previews or masks"
            raise InputError(f"{path}: holds {found}; save the image that is meant as a file of its own")
        number, page = own[0]
        tags = {code: tag.value for code in (254, 262, 270, 274) if (tag := page.tags.get(code)) is not None}
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    photometric = int(tags.get(262, 1))
    if bits == 1:
        raise InputError(f"{path}: has 1 bit a pixel, a mask and not an amplitude; give the radar image itself")
    if photometric not in (0, 1, 2, 3, 6):
        raise InputError(f"{path}: is of photometric interpretation {photometric}, no grey image; save it as grey (black is zero)")
    if number > 1 and any(int(page.subfiletype) & 4 for _, page in pages):
        raise InputError(f"{path}: its mask does not stand behind the first page; save image and mask as a file of their own")
    notes = () if number == 1 else (f"page {number} of {len(pages)}, the others are previews",)
    white = 2**bits - 1 if photometric == 0 else 0
    name = str(path) if number == 1 else f"GTIFF_DIR:{number}:{path}"
    stored = _open_gdal(path, "GTiff", name, int(tags.get(274, 1)), str(tags.get(270, "")), white, notes)
    return replace(stored, jpeg=photometric == 6)


def _open_gdal(
    path: Path, driver: str, name: str = "", turn: int = 1, words: str = "", white: int = 0, notes: tuple[str, ...] = ()
) -> Stored:
    """A file that GDAL reads by windows, in the stored type (complex included)."""

    def opened() -> rasterio.DatasetReader:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            # the driver is named, so that no file can make GDAL follow it to other files
            return rasterio.open(name or str(path), driver=driver)

    with opened() as source:
        colours = source.colorinterp
        if colours[0] == ColorInterp.palette and not white:  # GDAL gives a grey palette to what has white as the smallest
            raise InputError(f"{path}: holds palette indices, not amplitudes; save it as grey")
        bands = [band for band, colour in zip(source.indexes, colours) if colour != ColorInterp.alpha]
        scaling = {(source.scales[band - 1], source.offsets[band - 1]) for band in bands}
        if len(scaling) > 1 or not all(np.isfinite(pair).all() and pair[0] != 0 for pair in scaling):
            raise InputError(f"{path}: has the scale and offset tags {sorted(scaling)}; give one scale other than 0")
        named = " ".join(filter(None, (*source.units, *source.descriptions)))
        if not stated_quantity(named) and (other := re.search(OTHER_WORDS, named.lower())):
            raise InputError(
                f"{path}: its unit or band name {named!r} tells of {other[0]}, which is no backscatter; give the radar image itself"
            )
        said = [named, words if _is_plain(words) else ""]
        for tags in (source.tags(), *(source.tags(band) for band in bands)):
            said += [f"{key} {value}" for key, value in tags.items() if any(part in key.lower() for part in _TELLING)]
        nodata, shape, dtype = [source.nodatavals[band - 1] for band in bands], source.shape, source.dtypes[bands[0] - 1]
        masked = any(MaskFlags.all_valid not in source.mask_flag_enums[band - 1] for band in bands)

    def read(start: int, stop: int, left: int = 0, right: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        window = rasterio.windows.Window(left, start, (shape[1] if right is None else right) - left, stop - start)
        with opened() as source:
            pixels = source.read(bands, window=window)
            masks = source.read_masks(bands, window=window) if masked else None
        if masks is not None:  # GDAL takes the mask or the no-data value, and of complex samples the real part alone
            if pixels.dtype.kind == "c":
                masks[[value is not None for value in nodata]] = 255
            masks[[_equal(band, value) for band, value in zip(pixels, nodata)]] = 0
        if masks is not None and np.any((masks > 0) & (masks < 255)):
            raise InputError(f"{path}: is partly transparent (alpha between 0 and its largest value); save it as opaque grey")
        valid = None if masks is None else masks.min(axis=0) > 0
        return (pixels[0] if len(bands) == 1 else np.moveaxis(pixels, 0, -1)), valid

    shape = shape if len(bands) == 1 else (*shape, len(bands))
    scale, offset = scaling.pop()
    dtype = np.dtype("complex64" if dtype == "complex_int16" else dtype)  # as rasterio reads it
    return Stored(shape, dtype, read, scale, offset, turn, white, " ".join(filter(None, said)), zero_nodata=0 in nodata, notes=notes)


def _is_plain(words: str) -> bool:
    """Not JSON or XML, which tell of a whole product, such as what its amplitudes can be calibrated to, or hold identifiers."""
    return not words.lstrip("\ufeff \n\t").startswith(("{", "<"))


def _equal(band: np.ndarray, value: float | None) -> np.ndarray:
    """Where a band has the no-data value, which may be NaN or beyond what its type holds."""
    if value is None:
        return np.zeros(band.shape, bool)
    if np.isnan(value):
        return np.isnan(band)
    with np.errstate(over="ignore"):
        return band == (value if band.dtype.kind in "ui" else band.dtype.type(value))


_TELLING = ("quantity", "unit", "measure", "backscatter", "layer", "long_name", "standard_name")  # names of tags that may name it


def _open_npy(path: Path) -> Stored:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    elif array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Stored(array.shape, array.dtype, lambda start, stop, left=0, right=None: (np.asarray(array[start:stop, left:right]), None))


_OPENERS: dict[str, Callable[[Path], Stored]] = {
    ".png": _open_pillow,
    ".jpg": _open_pillow,
    ".jpeg": _open_pillow,
    ".tif": _open_tiff,
    ".tiff": _open_tiff,
    ".npy": _open_npy,
}


# From what is stored to the amplitude, some rows at a time.


def _check_stored(stored: Stored, path: Path) -> None:
    if stored.dtype.kind not in "uifc" or 0 in stored.shape:
        raise InputError(f"{path}: holds {stored.dtype} of shape {stored.shape}; give numbers of shape [rows, columns]")
    if len(stored.shape) not in (2, 3) or len(stored.shape) == 3 and stored.shape[-1] not in (2, 3, 4):
        raise InputError(f"{path}: has shape {stored.shape}; give one channel, [rows, columns]")
    _check_size(path, stored.shape, stored.dtype.itemsize)
    if stored.turn not in EXIF_TURNS and stored.turn != 0:
        raise InputError(f"{path}: has the EXIF orientation {stored.turn}; give 1 to 8, or remove the tag")
    if stored.white and stored.dtype.kind != "u":
        raise InputError(f"{path}: holds {stored.dtype} of which white is the smallest; save it with black as zero")


def _check_size(path: Path, shape: tuple[int, ...], itemsize: int) -> None:
    size = int(np.prod(shape, dtype=object)) * itemsize
    if size > LARGEST_BYTES:
        raise InputError(
            f"{path}: its {' x '.join(map(str, shape))} pixels take {size / 2**30:.1f} GiB, over the limit of "
            f"{LARGEST_BYTES / 2**30:g} GiB an image; cut it into parts"
        )


def _read_values(stored: Stored, path: Path) -> tuple[np.ndarray, np.ndarray, set[str]]:
    """The finite values [H, W], uint8 or float32, of one channel with scale and offset applied; where they are data; and which
    values were taken as no data though nothing declares them."""
    height, width = stored.shape[:2]
    values = np.empty((height, width), np.uint8 if stored.dtype == np.uint8 and not stored.scaled else np.float32)
    valid, grey, bad, first_bad, fills = np.ones((height, width), bool), _Grey(path, stored), 0, (0, 0), set()
    step = max(1, BLOCK // int(np.prod(stored.shape[1:])))
    for start in range(0, height, step):
        pixels, own = stored.read(start, min(height, start + step))
        part, own = grey.of(pixels, own)
        if own is not None:
            valid[start : start + step] = own
        keep = valid[start : start + step]
        if part.dtype.kind in "fci":
            empty = np.isnan(part) | ((part == -np.inf) | np.isin(part, FILLS) if part.dtype.kind != "c" else False)
            fills |= {f"{value:.7g}" for value in np.unique(part[keep & empty].real)}
            keep &= ~empty
        if stored.white:
            part = stored.white - part
        if part.dtype.kind == "c":
            part = np.abs(part * stored.scale + stored.offset if stored.scaled else part)
        elif stored.scaled:
            part = part * stored.scale + stored.offset
        if part.dtype.kind == "f":
            wrong = keep & ~np.isfinite(part)
            if wrong.any() and not bad:
                first_bad = tuple(np.argwhere(wrong)[0] + (start, 0))
            bad += int(np.count_nonzero(wrong))
            high = np.max(np.abs(part), where=keep & ~wrong, initial=0)
            if high > np.finfo(np.float32).max:
                raise InputError(f"{path}: the largest value {high:.6g} does not fit 32-bit floats; rescale the amplitudes")
            part = np.where(keep & ~wrong, part, 0)
        values[start : start + step] = part
        values[start : start + step][~keep] = 0
    grey.check()
    if bad:
        raise InputError(
            f"{path}: {bad} of {values.size} pixels are infinite (first at row {first_bad[0]}, column {first_bad[1]}) and "
            "no tag declares them as no data; replace them or crop the image"
        )
    return values, valid, fills


def _as_amplitude(stored: Stored, path: Path, constant: bool, quantity: str) -> RadarImage:
    """Read and apply, name the storage, and decide the quantity."""
    values, valid, fills = _read_values(stored, path)
    kind = {"c": "complex", "f": "float"}.get(stored.dtype.kind, "float" if stored.scaled else "integer")
    storage = "8-bit" if values.dtype == np.uint8 else kind
    turn, notes = EXIF_TURNS[stored.turn or 1], list(stored.notes)
    values, mask = np.ascontiguousarray(turn(values)), None if valid.all() else np.ascontiguousarray(turn(valid))
    if mask is not None and not mask.any():
        raise InputError(f"{path}: has no pixel of data (all are no data, masked or transparent); remove it")
    notes += [f"turned by its EXIF orientation {stored.turn}"] if (stored.turn or 1) > 1 else []
    notes += ["inverted, for white is its smallest value"] if stored.white else []
    notes += [f"scaled by its tags, {stored.scale:g} x value + {stored.offset:g}"] if stored.scaled else []
    notes += [f"{value} is taken as no data, though nothing declares it" for value in sorted(fills)]
    low, high = _ends(values, mask)
    if low < high and np.mean(values == high) > SATURATED:
        notes.append(f"over {SATURATED:.0%} of the pixels have the highest value {high:g}: saturation, or no data that nothing declares")
    flat = flat_statistics(values, mask)
    stated = "complex" if storage == "complex" else stated_quantity(stored.words)
    if not stated and low < 0 and _are_decibels(low, high):  # no amplitude is negative; half of a complex image's parts are
        negative = float(np.mean(values < 0, where=True if mask is None else mask))
        stated = "db" if negative > MOSTLY or flat[1] < DECIBEL_SKEWNESS else ""
    if low == high and not constant:
        raise InputError(f"{path}: is constant (every pixel is {low:.6g}); replace or remove the file")
    quantity = quantity or stated or "amplitude"
    if quantity in ("intensity", "db"):
        values = _converted(values, mask, quantity, path, unit_known=storage == "float")
        storage = f"{storage} {quantity}"
    elif low < 0:
        raise InputError(
            f"{path}: has negative values (lowest {low:.6g}), so it is no amplitude; give linear amplitude or complex samples, "
            "declare the value as no data, or say by --quantity that they are decibels or intensity"
        )
    return RadarImage(values, storage, mask, quantity, stated, flat, tuple(notes), mask is not None and stored.zero_nodata)


def _ends(values: np.ndarray, valid: np.ndarray | None) -> tuple[float, float]:
    """The lowest and the highest value that is data."""
    if valid is None:
        return float(values.min()), float(values.max())
    bounds = np.iinfo(values.dtype) if values.dtype.kind == "u" else np.finfo(values.dtype)
    return float(values.min(where=valid, initial=bounds.max)), float(values.max(where=valid, initial=bounds.min))


def _are_decibels(low: float, high: float) -> bool:
    return DECIBELS[0] <= low and high <= DECIBELS[1]


def _converted(values: np.ndarray, valid: np.ndarray | None, quantity: str, path: Path, unit_known: bool) -> np.ndarray:
    """Amplitude float32 of intensity (its root) or of decibels (10^(dB / 20)); 0 where there are no data."""
    low, high = _ends(values, valid)
    if quantity == "intensity":
        below = np.count_nonzero(values < 0)
        if below > NEGATIVE_SHARE * values.size:
            raise InputError(
                f"{path}: {below} of {values.size} values are negative (lowest {low:.6g}), so it is no intensity; see --quantity"
            )
        return np.sqrt(np.maximum(values, 0), dtype=np.float32)
    if not unit_known and high - low > 120:
        raise InputError(
            f"{path}: its whole numbers from {low:g} to {high:g} are no decibels of one unit a step; save the decibels as floats, "
            "or with a scale and offset tag, or say by --quantity amplitude that they are none"
        )
    if not _are_decibels(low, high):
        raise InputError(
            f"{path}: has values from {low:.6g} to {high:.6g}, which are no decibels; declare no-data values, or see --quantity"
        )
    amplitude = np.power(np.float32(10), values.astype(np.float32) / np.float32(20))
    return amplitude if valid is None else np.where(valid, amplitude, np.float32(0))


class _Grey:
    """One channel of the bands, some rows at a time; how far the bands differ is checked at the end."""

    def __init__(self, path: Path, stored: Stored) -> None:
        self.path, self.stored = path, stored
        self.pixels, self.spread, self.level, self.most = 0, 0.0, 0.0, 0.0

    def of(self, pixels: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """[rows, W] of [rows, W] or of [rows, W, C], and where it is data: not where an alpha channel is 0."""
        if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
            pixels, opaque = self._without_alpha(pixels)
            valid = opaque if valid is None else valid & opaque
        if pixels.ndim == 2 or pixels.shape[-1] == 1:
            return pixels.reshape(pixels.shape[:2]), valid
        if pixels.dtype.kind == "c":
            raise InputError(f"{self.path}: has 3 complex channels; give one polarisation, [rows, columns]")
        values = pixels.astype(np.float64)
        mean, spread = values.mean(axis=-1), np.ptp(values, axis=-1)
        known = np.isfinite(spread) if valid is None else valid & np.isfinite(spread)
        self.pixels += int(np.count_nonzero(known))
        self.spread += float(spread[known].sum())
        self.level += float(np.abs(mean[known]).sum())
        self.most = max(self.most, float(spread.max(where=known, initial=0)))
        return np.rint(mean).astype(pixels.dtype) if pixels.dtype.kind in "ui" else mean, valid

    def _without_alpha(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bands but the last of 2 or 4, and where that one, an alpha channel, is opaque."""
        alpha = pixels[..., -1]
        full = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else None
        if full is None or np.any((alpha != 0) & (alpha != full)):
            raise InputError(
                f"{self.path}: has {pixels.shape[-1]} channels and the last is no alpha channel of 0 and {full or 1} only; "
                "give one channel (one polarisation, or one complex array instead of real and imaginary parts)"
            )
        return pixels[..., :-1], alpha == full

    def check(self) -> None:
        """Raise InputError if the bands were not one grey image."""
        if not self.pixels:
            return
        mean, level = self.spread / self.pixels, self.level / self.pixels
        if self.stored.dtype == np.uint8:
            alike = mean <= min(GREY_SPREAD, GREY_SHARE[self.stored.jpeg] * level) and self.most <= GREY_MOST
        else:
            alike = self.most <= 1e-6 * level  # nothing but JPEG's rounding could make equal channels differ
        if not alike:
            full = 255.0 if self.stored.dtype == np.uint8 else level
            raise InputError(
                f"{self.path}: is a colour image or holds three polarisations (its channels differ by {100 * mean / full:.1f} % "
                f"on average, {100 * self.most / full:.0f} % at most); give one grey channel, [rows, columns]"
            )

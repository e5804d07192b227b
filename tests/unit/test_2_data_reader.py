"""What a file says of its pixels: each case of the README's table is built, read, and compared with values computed here."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, PngImagePlugin

from sarnb.data import images as reader
from sarnb.data.amplitude import decide_quantity, flat_statistics, moments
from sarnb.data.imagefolder import load, read_folder
from sarnb.data.images import read_image
from sarnb.data.prepare import prepare_user_data
from sarnb.errors import InputError
from sarnb.metrics.folders import fit_scales

SIDE = 64
RNG = np.random.default_rng(11)
AMPLITUDE = RNG.rayleigh(300.0, (SIDE, SIDE)).clip(1, 4000)
U16 = AMPLITUDE.astype(np.uint16)
U8 = (AMPLITUDE / 8).clip(1, 254).astype(np.uint8)
FLOAT = AMPLITUDE.astype(np.float32)
HOLE = np.zeros((SIDE, SIDE), bool)
HOLE[:20, :30] = True
OPAQUE = np.where(HOLE, 0, 255).astype(np.uint8)


def tiff(path: Path, bands: np.ndarray, mask: np.ndarray | None = None, tags: dict | None = None, **options: object) -> Path:
    """GeoTIFF of bands [H, W] or [C, H, W] by GDAL. ``tags``: attributes of the dataset (scales, offsets, units, …)."""
    bands = bands if bands.ndim == 3 else bands[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore")
        profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
        with rasterio.open(path, "w", **(profile | options)) as target:
            target.write(bands)
            if mask is not None:
                target.write_mask(mask)
            for name, value in (tags or {}).items():
                setattr(target, name, value)
    return path


def pages(path: Path, *images: tuple[np.ndarray, dict]) -> Path:
    with tifffile.TiffWriter(path) as file:
        for image, options in images:
            file.write(image, **{"photometric": "minisblack", "metadata": None} | options)
    return path


def turned(path: Path, orientation: int, image: np.ndarray | None = None) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(U8 if image is None else image).save(path, exif=exif)
    return path


def with_file_beside(path: Path, mask: bool = False) -> Path:
    """A PNG whose no-data value 255, or whose mask, stands in a file of GDAL next to it."""
    png(path, with_hole(U8, 255))
    if mask:
        sidecar = tiff(path.with_name("mask.tif"), OPAQUE)
        with rasterio.open(sidecar, "r+") as target:
            target.update_tags(INTERNAL_MASK_FLAGS_1=2)  # one mask for all bands
        sidecar.rename(path.with_name(path.name + ".msk"))
        return path
    text = "<PAMDataset><PAMRasterBand band='1'><NoDataValue>255</NoDataValue></PAMRasterBand></PAMDataset>"
    path.with_name(path.name + ".aux.xml").write_text(text)
    return path


def png(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=array.dtype == object)
    return path


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_hole(image: np.ndarray, value: float) -> np.ndarray:
    return np.where(HOLE, np.array(value, image.dtype), image)


def tag(code: int, value: int) -> dict:
    return {"extratags": [(code, "H", 1, value, True)]}


def made(write: Callable[..., Path], name: str, *content: object, **options: object) -> Made:
    """What writes such a file into a folder."""
    return lambda folder: write(folder / name, *content, **options)


Made = Callable[[Path], Path]
POLARISATIONS = RNG.rayleigh(1.0, (3, SIDE, SIDE))
POLARISATIONS[0, 5, 5] = 500.0  # one saturated point must not make the channels look alike
COMPLEX = (RNG.normal(size=(SIDE, SIDE)) + 1j * RNG.normal(size=(SIDE, SIDE))).astype(np.complex64)
SMALL = U8[::4, ::4]
BLOCKS = np.repeat(np.repeat(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8), 8, 0), 8, 1)  # JPEG keeps blocks of one value

# (what the file is, what happens to it, as in README.md) -> how it is made, the amplitude, and where it is data
APPLIED: dict[tuple[str, str], tuple[Made, np.ndarray, np.ndarray | None]] = {
    ("TIFF, no-data value 65535", "excluded"): (made(tiff, "a.tif", with_hole(U16, 65535), nodata=65535), U16, ~HOLE),
    ("TIFF, no-data value 0", "excluded"): (made(tiff, "a.tif", with_hole(U16, 0), nodata=0), U16, ~HOLE),
    ("TIFF, no-data value -9999", "excluded"): (made(tiff, "a.tif", with_hole(FLOAT, -9999), nodata=-9999), FLOAT, ~HOLE),
    ("TIFF, no-data value NaN", "excluded"): (made(tiff, "a.tif", with_hole(FLOAT, np.nan), nodata=np.nan), FLOAT, ~HOLE),
    ("TIFF, complex, no-data value 0", "excluded"): (
        made(tiff, "a.tif", with_hole(COMPLEX + 1j * (COMPLEX.real == 0), 0), nodata=0),
        np.abs(COMPLEX),
        ~HOLE,
    ),
    ("TIFF, validity mask", "excluded"): (made(tiff, "a.tif", U16, mask=OPAQUE), U16, ~HOLE),
    ("TIFF, validity mask and no-data value", "excluded"): (
        made(tiff, "a.tif", np.where(HOLE.T, 9, U16).astype(np.uint16), mask=OPAQUE, nodata=9),
        U16,
        ~(HOLE | HOLE.T | (U16 == 9)),
    ),
    ("TIFF, alpha band of 16 bits", "excluded"): (
        made(tiff, "a.tif", np.stack([U16, OPAQUE.astype(np.uint16) * 257]), alpha="YES"),
        U16,
        ~HOLE,
    ),
    ("PNG, 16 bits, EXIF orientation 8", "turned"): (made(turned, "a.png", 8, U16), np.rot90(U16), None),
    ("JPEG, EXIF orientation 5", "turned"): (made(turned, "a.jpg", 5, BLOCKS), BLOCKS.T, None),
    ("TIFF, description in JSON that names what calibrates it", "kept"): (
        made(pages, "a.tif", (U16, {"description": '{"radiometry": "sigma_nought", "scale_factor": 2e-4}'})),
        U16,
        None,
    ),
    ("TIFF, alpha band", "excluded"): (made(tiff, "a.tif", np.stack([U8, OPAQUE]), alpha="YES"), U8, ~HOLE),
    ("PNG, alpha of 0 and 255", "excluded"): (made(png, "a.png", np.dstack([U8, OPAQUE])), U8, ~HOLE),
    ("PNG, no-data value in .aux.xml", "excluded"): (made(with_file_beside, "a.png"), U8, ~HOLE),
    ("PNG, validity mask in .msk", "excluded"): (made(with_file_beside, "a.png", mask=True), U8, ~HOLE),
    ("PNG, transparent level", "excluded"): (made(png, "a.png", with_hole(U8, 255), transparency=255), U8, ~HOLE),
    ("TIFF, scale and offset", "applied"): (made(tiff, "a.tif", U16, tags={"scales": (0.5,), "offsets": (10.0,)}), 0.5 * U16 + 10.0, None),
    ("TIFF, no data, then scale and offset", "both"): (
        made(tiff, "a.tif", with_hole(U16, 0), nodata=0, tags={"scales": (2.0,), "offsets": (7.0,)}),
        2.0 * U16 + 7.0,
        ~HOLE,
    ),
    ("TIFF, white is the smallest, 8 bits", "inverted"): (made(pages, "a.tif", (255 - U8, {"photometric": "miniswhite"})), U8, None),
    ("TIFF, white is the smallest, 16 bits", "inverted"): (made(pages, "a.tif", (65535 - U16, {"photometric": "miniswhite"})), U16, None),
    ("TIFF, preview before the image", "read"): (made(pages, "a.tif", (SMALL, {"subfiletype": 1}), (U8, {})), U8, None),
    ("TIFF, overviews behind the image", "read"): (made(pages, "a.tif", (U8, {}), (SMALL, {"subfiletype": 1})), U8, None),
    ("TIFF, orientation 6", "turned"): (made(pages, "a.tif", (U8, tag(274, 6))), np.rot90(U8, -1), None),
    ("PNG, three equal bands", "one"): (made(png, "a.png", np.dstack([U8] * 3)), U8, None),
    ("TIFF, three equal bands of floats", "one"): (made(tiff, "a.tif", np.stack([FLOAT] * 3)), FLOAT, None),
    ("TIFF, complex of 16 and 16 bits", "modulus"): (
        made(tiff, "a.tif", np.rint(COMPLEX * 100).astype(np.complex64), dtype="complex_int16"),
        np.abs(np.rint(COMPLEX.real * 100) + 1j * np.rint(COMPLEX.imag * 100)),
        None,
    ),
    ("NPY, complex", "modulus"): (made(npy, "a.npy", COMPLEX), np.abs(COMPLEX), None),
    ("TIFF, units dB", "decibels"): (made(tiff, "a.tif", (20 * np.log10(FLOAT)).astype(np.float32), tags={"units": ("dB",)}), FLOAT, None),
    ("TIFF, whole numbers of dB with scale and offset", "decibels"): (
        made(
            tiff,
            "a.tif",
            np.rint((20 * np.log10(AMPLITUDE) + 50) * 100).astype(np.uint16),
            tags={"scales": (0.01,), "offsets": (-50.0,), "units": ("dB",)},
        ),
        AMPLITUDE,
        None,
    ),
    ("TIFF, band named Sigma0_VV", "root"): (made(tiff, "a.tif", FLOAT**2, tags={"descriptions": ("Sigma0_VV",)}), FLOAT, None),
    ("NPY, mostly negative", "decibels"): (made(npy, "a.npy", 20 * np.log10(FLOAT / 9000)), FLOAT / 9000, None),
}
for code, turn in {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}.items():
    APPLIED[f"PNG, EXIF orientation {code}", "turned"] = (made(turned, "a.png", code), turn(U8), None)

for fill in (np.nan, -np.inf, -9999, -32768, np.finfo(np.float32).min, np.finfo(np.float32).max, np.float32(1e20), 9.96921e36):
    APPLIED[f"TIFF, undeclared {fill:.6g}", "excluded"] = (made(tiff, "a.tif", with_hole(FLOAT, fill)), FLOAT, ~HOLE)
APPLIED["TIFF, whole numbers, undeclared -9999", "excluded"] = (made(tiff, "a.tif", with_hole(U16.astype(np.int16), -9999)), U16, ~HOLE)
APPLIED["TIFF, decibels, undeclared -inf", "excluded"] = (
    made(tiff, "a.tif", with_hole((20 * np.log10(FLOAT / 9000)).astype(np.float32), -np.inf)),
    FLOAT / 9000,
    ~HOLE,
)
APPLIED["NPY, complex, undeclared NaN", "excluded"] = (made(npy, "a.npy", with_hole(COMPLEX, np.nan)), np.abs(COMPLEX), ~HOLE)

REFUSED: dict[str, tuple[Made, str]] = {
    "two pages": (made(pages, "a.tif", (U8, {}), (U8, {})), r"holds 2 pages \(64 x 64\); save the image"),
    "pages of two sizes": (made(pages, "a.tif", (SMALL, {}), (U8, {})), r"holds 2 pages \(16 x 16, 64 x 64\)"),
    "previews alone": (made(pages, "a.tif", (SMALL, {"subfiletype": 1})), "only pages that are marked as previews"),
    "a stack of ImageJ": (lambda p: tifffile.imwrite(p / "a.tif", np.stack([U8] * 5), imagej=True) or p / "a.tif", "holds 5 pages"),
    "an animated PNG": (
        lambda p: Image.fromarray(U8).save(p / "a.png", save_all=True, append_images=[Image.fromarray(U8.T)]) or p / "a.png",
        "holds 2 pictures",
    ),
    "CMYK": (made(pages, "a.tif", (np.dstack([U8] * 4), {"photometric": "separated"})), "photometric interpretation 5"),
    "bits": (made(pages, "a.tif", (U8 > 9, {})), "1 bit a pixel"),
    "signed, white is the smallest": (made(pages, "a.tif", (U8.astype(np.int16), {"photometric": "miniswhite"})), "white is the smallest"),
    "orientation 12": (made(pages, "a.tif", (U8, tag(274, 12))), "EXIF orientation 12"),
    "scale 0": (made(tiff, "a.tif", U16, tags={"scales": (0.0,)}), r"scale and offset tags \[\(0.0, 0.0\)\]"),
    "half transparent": (made(png, "a.png", np.dstack([U8, U8])), "no alpha channel of 0 and 255 only"),
    "no data at all": (made(tiff, "a.tif", np.zeros_like(U16), nodata=0), "has no pixel of data"),
    "polarisations": (made(tiff, "a.tif", POLARISATIONS.astype(np.float32)), "three polarisations"),
    "polarisations, 16 bits": (made(tiff, "a.tif", (POLARISATIONS * 100).astype(np.uint16)), "three polarisations"),
    "polarisations, dark 8 bits": (
        made(png, "a.png", np.moveaxis(POLARISATIONS / 500 * 255, 0, -1).round().astype(np.uint8)),
        "three polarisations",
    ),
    "two polarisations": (made(tiff, "a.tif", np.stack([U16, U16.T])), "one polarisation"),
    "infinite": (made(tiff, "a.tif", with_hole(FLOAT, np.inf)), "600 of 4096 pixels are infinite .*row 0, column 0"),
    "the real part of complex samples": (made(npy, "a.npy", COMPLEX.real), "negative values"),
    "-999, which decibels times ten may be": (made(tiff, "a.tif", with_hole(FLOAT, -999)), "negative values"),
    "no data at all, by NaN": (made(npy, "a.npy", np.full_like(FLOAT, np.nan)), "has no pixel of data"),
    "a band of coherence": (made(tiff, "a.tif", FLOAT / 4000, tags={"descriptions": ("coh_Coherence_VV",)}), "tells of coherence"),
    "a short band name": (made(tiff, "a.tif", FLOAT / 4000, tags={"descriptions": ("coh_VV",)}), "tells of coh, which"),
    "a short unit": (made(tiff, "a.tif", FLOAT, tags={"units": ("rad",)}), "tells of rad, which"),
    "a phase": (made(tiff, "a.tif", FLOAT, tags={"units": ("radians",)}), "tells of radian, which is no backscatter"),
    "dB in whole numbers without a unit": (
        made(tiff, "a.tif", np.rint((20 * np.log10(AMPLITUDE) + 50) * 100).astype(np.uint16), tags={"units": ("dB",)}),
        "no decibels of one unit a step",
    ),
}

COLOUR = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
BROKEN: dict[str, tuple[Made, str]] = {
    "zero bytes": (made(raw, "a.png", b""), "zero bytes"),
    "truncated PNG": (lambda p: raw(p / "a.png", png(p / "whole.png", U8).read_bytes()[:2000]), "cannot be read as an image"),
    "truncated TIFF": (lambda p: raw(p / "a.tif", tiff(p / "whole.tif", FLOAT).read_bytes()[:8000]), "cannot be read as an image"),
    "truncated NPY": (made(raw, "a.npy", b"\x93NUMPY\x01"), "cannot be read as an image"),
    "a web page": (made(raw, "a.jpg", b"<html>not found</html>" * 9), "cannot be read as an image"),
    "LFS pointer": (made(raw, "a.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "git lfs pull"),
    "missing": (lambda p: p / "a.png", "no such file"),
    "unknown form": (lambda p: p / "a.gif", "'.gif' is not an image form"),
    "constant": (made(png, "a.png", np.full_like(U8, 7)), r"constant \(every pixel is 7\)"),
    "complex infinity": (made(npy, "a.npy", with_hole(FLOAT, np.inf) + 1j), "infinite"),
    "one negative value": (made(tiff, "a.tif", FLOAT - 9000 * (FLOAT == FLOAT.max())), "negative values .*decibels"),
    "colour PNG": (made(png, "a.png", COLOUR), "colour image"),
    "colour JPEG": (made(png, "a.jpg", COLOUR), "colour image"),
    "colour TIFF": (made(tiff, "a.tif", np.moveaxis(COLOUR, -1, 0)), "colour image"),
    "red boxes on grey": (made(png, "a.png", np.where(HOLE[..., None], np.uint8([255, 0, 0]), U8[..., None])), "100 % at most"),
    "a stack": (made(npy, "a.npy", np.ones((7, 24, 20))), r"shape \(7, 24, 20\)"),
    "a mask": (made(png, "a.png", U8 > 99), "1 bit"),
    "booleans": (made(npy, "a.npy", U8 > 99), "holds bool"),
    "a pickle": (made(npy, "a.npy", np.array([[{}]], object)), "cannot be read as an image"),
    "nothing inside": (made(npy, "a.npy", np.ones((0, 5))), "holds float64 of shape"),
}
TURNED_PALETTE = [value for level in range(256) for value in (255 - level,) * 3]

FORMS: dict[str, tuple[Made, str, np.ndarray]] = {
    "grey PNG": (made(png, "a.png", U8), "8-bit", U8),
    "PNG in capitals": (made(png, "b.PNG", np.dstack([U8] * 3)), "8-bit", U8),
    "PNG with a full alpha": (made(png, "c.png", np.dstack([U8, np.full_like(U8, 255)])), "8-bit", U8),
    "colour PNG with a full alpha": (made(png, "d.png", np.dstack([U8] * 3 + [np.full_like(U8, 255)])), "8-bit", U8),
    "PNG with a palette": (lambda p: palette(p / "p.png"), "8-bit", U8),
    "TIFF": (made(tiff, "e.tif", U8, compress="lzw"), "8-bit", U8),
    "TIFF of three bands": (made(tiff, "f.TIFF", np.stack([U8] * 3)), "8-bit", U8),
    "NPY": (made(npy, "g.npy", U8[None]), "8-bit", U8),
    "PNG of 16 bits": (made(png, "a.png", U16), "integer", U16),
    "colour PNG of 16 bits": (made(tiff, "a.png", np.stack([U16] * 3), driver="PNG"), "integer", U16),
    "TIFF of 16 bits": (made(tiff, "b.tif", U16, compress="deflate"), "integer", U16),
    "NPY, big-endian": (made(npy, "c.npy", U16.astype(">u2")), "integer", U16),
    "TIFF of floats": (made(tiff, "d.tif", FLOAT, compress="lzw"), "float", FLOAT),
    "NPY of doubles": (made(npy, "e.npy", FLOAT.astype(np.float64)), "float", FLOAT),
    "TIFF, complex": (made(tiff, "f.tif", COMPLEX), "complex", np.abs(COMPLEX)),
}


TEXT = PngImagePlugin.PngInfo()  # which only looks like a quantity
TEXT.add_text("XML:com.adobe.xmp", "<?xpacket?> power, sigma0, xmp.iid:9-db-4")
TEXT.add_text("Software", "Powered by 3db8-0db1")
FORMS["PNG with words"] = (made(png, "a.png", U8, pnginfo=TEXT), "8-bit", U8)
for word in ("VV at 35 deg", "VV_35deg", "radar", "demo", "cohort_3"):  # which only look like another layer
    FORMS[f"TIFF, band named {word}"] = (made(tiff, "a.tif", FLOAT, tags={"descriptions": (word,)}), "float", FLOAT)
for word in ("NRCS_VV", "s0_vv", "VH g0"):  # short names of the cross-section
    FORMS[f"TIFF, band named {word}"] = (made(tiff, "a.tif", FLOAT**2, tags={"descriptions": (word,)}), "float intensity", FLOAT)


def palette(path: Path) -> Path:
    inverted = Image.fromarray(255 - U8).convert("P")
    inverted.putpalette(TURNED_PALETTE)
    inverted.save(path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_keeps_its_values(form: str, tmp_path: Path) -> None:
    make, storage, expected = FORMS[form]
    image = read_image(make(tmp_path))
    assert (image.storage, image.amplitude.dtype) == (storage, np.uint8 if storage == "8-bit" else np.float32)
    np.testing.assert_allclose(image.amplitude, expected, rtol=0 if storage == "8-bit" else 1e-6)


def test_grey_jpeg_with_three_channels_is_grey(tmp_path: Path) -> None:
    path = png(tmp_path / "a.jpg", np.dstack([U8] * 3), quality=80)
    assert np.abs(read_image(path).amplitude - np.asarray(Image.open(path).convert("L"), float)).max() <= 2


@pytest.mark.parametrize("case", APPLIED, ids=lambda case: case[0])
def test_what_a_file_says_is_applied(case: tuple[str, str], tmp_path: Path) -> None:
    make, expected, valid = APPLIED[case]
    image = read_image(make(tmp_path))
    where = np.ones(image.amplitude.shape, bool) if valid is None else valid
    np.testing.assert_allclose(image.amplitude[where], expected[where], rtol=0.001 if "whole" in case[0] else 1e-5)
    assert (image.valid is None) if valid is None else np.array_equal(image.valid, valid)
    count, mean, squares = image.facts().moments
    known = image.amplitude[where].astype(float)
    assert (count, mean, np.sqrt(squares / count)) == pytest.approx((known.size, known.mean(), known.std()), rel=1e-6)
    assert image.facts().excluded == (~where).sum()


@pytest.mark.parametrize("fault", REFUSED | BROKEN)
def test_what_cannot_be_read_or_applied_is_refused_in_one_sentence_with_the_file(fault: str, tmp_path: Path) -> None:
    make, message = (REFUSED | BROKEN)[fault]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and ";" in text


README_CASES = {  # third column of the README's table -> cases above or tests that build such files
    "nothing": [
        "TIFF, description in JSON that names what calibrates it",
        "NPY, complex",
        "TIFF, complex of 16 and 16 bits",
        "test_the_guess_is_said_and_gives_single_look_amplitude",
    ],
    "mostly negative values": ["NPY, mostly negative"],
    "a no-data value, NaN too": [f"TIFF, no-data value {value}" for value in ("65535", "0", "-9999", "NaN")]
    + ["PNG, no-data value in .aux.xml", "TIFF, complex, no-data value 0", "no data at all"],
    "a transparent level": ["PNG, transparent level"],
    "a validity mask": ["TIFF, validity mask", "PNG, validity mask in .msk", "TIFF, validity mask and no-data value"],
    "an alpha channel of 0 and the largest value": ["TIFF, alpha band of 16 bits", "TIFF, alpha band", "PNG, alpha of 0 and 255"],
    "an alpha channel of other values": ["half transparent"],
    "scale and offset": ["TIFF, scale and offset", "TIFF, no data, then scale and offset", "scale 0"],
    "white is the smallest value": [f"TIFF, white is the smallest, {bits} bits" for bits in (8, 16)] + ["signed, white is the smallest"],
    "EXIF orientation 2 to 8": [f"PNG, EXIF orientation {code}" for code in range(2, 9)]
    + ["TIFF, orientation 6", "orientation 12"]
    + ["PNG, 16 bits, EXIF orientation 8", "JPEG, EXIF orientation 5"],
    "pages that are previews or overviews": ["TIFF, preview before the image", "TIFF, overviews behind the image"],
    "several pages that are no previews": ["two pages", "pages of two sizes", "previews alone", "a stack of ImageJ", "an animated PNG"],
    "equal (8 bit: within JPEG's rounding)": ["PNG, three equal bands", "TIFF, three equal bands of floats"],
    "different: polarisations, colour": ["polarisations", "polarisations, 16 bits", "polarisations, dark 8 bits", "two polarisations"],
    "a mask, or no grey levels": ["bits", "CMYK"],
    "units or band names of dB, sigma0, intensity, amplitude": ["TIFF, units dB", "TIFF, band named Sigma0_VV"]
    + ["TIFF, whole numbers of dB with scale and offset", "test_the_option_decides_and_what_disagrees_is_refused"],
    "a unit or band name of phase, coherence, incidence angle or elevation": [
        "a band of coherence",
        "a phase",
        "a short band name",
        "a short unit",
    ],
    "dB without scale and offset": ["dB in whole numbers without a unit"],
    "NaN, -infinity, -9999, -99999, -32768, 1e20, 9.96921e36 or the ends of floats that nothing declares": [
        case for case, _ in APPLIED if "undeclared" in case
    ]
    + ["no data at all, by NaN"],
    "infinite or other negative values that nothing declares": ["infinite", "-999, which decibels times ten may be"]
    + ["the real part of complex samples"],
}


def test_the_table_in_the_readme_is_the_list_of_cases() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = text.split("| form | type, bands | the file says | what happens |\n")[1].split("\n\n")[0]
    assert {line.split("|")[3].strip() for line in table.splitlines()[1:]} == set(README_CASES)
    built = {case for case, _ in APPLIED} | set(REFUSED)
    named = {case for cases in README_CASES.values() for case in cases}
    assert built <= named and all(case in built or callable(globals()[case]) for case in named)


def test_a_scene_is_read_by_windows_and_the_limit_is_one_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {form: read_image(path) for form, path in scenes(tmp_path).items()}
    sums = moments(whole["tif"].amplitude)
    monkeypatch.setattr(reader, "BLOCK", 5 * SIDE)
    monkeypatch.setattr("sarnb.data.amplitude.BLOCK", 5 * SIDE)
    for form, path in scenes(tmp_path).items():
        again = read_image(path)
        assert np.array_equal(again.amplitude, whole[form].amplitude) and again.facts().digest == whole[form].facts().digest
    assert moments(whole["tif"].amplitude) == pytest.approx(sums, rel=1e-12)
    monkeypatch.setattr(reader, "LARGEST_BYTES", SIDE * SIDE - 1)
    for path in scenes(tmp_path).values():
        with pytest.raises(InputError, match="over the limit of .* GiB an image; cut it into parts"):
            read_image(path)


def scenes(folder: Path) -> dict[str, Path]:
    return {
        "tif": tiff(folder / "a.tif", with_hole(U16, 0), nodata=0),
        "png": png(folder / "a.png", np.dstack([U8] * 3)),
        "npy": npy(folder / "a.npy", COMPLEX),
    }


@pytest.mark.parametrize("make", [made(png, "a.png", U8), made(png, "a.jpg", U8), made(png, "b.png", U16), made(tiff, "a.tif", FLOAT)])
def test_the_limit_is_one_of_bytes_and_not_pillows_of_pixels(make, tmp_path: Path, monkeypatch) -> None:
    path = make(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # to Pillow a bomb from twice that on
    assert read_image(path).amplitude.shape == (SIDE, SIDE)
    assert Image.MAX_IMAGE_PIXELS == 100


# The quantity: one decision for all images of a sensor and storage.


def intensity(seed: int, looks: int, side: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).gamma(looks, 1 / looks, (side, side))


@pytest.mark.parametrize("looks", [1, 3])
def test_flat_statistics_are_those_of_the_law(looks: int) -> None:
    power = intensity(0, looks, 512)
    for values, variation in ((power, looks**-0.5), (np.sqrt(power), {1: 0.5227, 3: 0.2823}[looks])):
        assert flat_statistics(values)[0] == pytest.approx(variation, rel=0.12)  # of the flattest quarter, so a little less
    assert flat_statistics(10 * np.log10(power) + 40)[1] < -0.4 < 0 < flat_statistics(np.sqrt(power))[1]


CASES = {
    "amplitude": (lambda power: np.sqrt(power), "amplitude, guessed"),
    "intensity": (lambda power: power, "intensity, guessed"),
    "db shifted": (lambda power: 10 * np.log10(power) + 60, "db, guessed"),
    "db": (lambda power: 10 * np.log10(power) - 12, "db, by the tags"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_guess_is_said_and_gives_single_look_amplitude(case: str, tmp_path: Path) -> None:
    form, sentence = CASES[case]
    for label in ("a", "b"):
        for number in range(4):
            (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
            npy(tmp_path / "in" / label / f"{number}.npy", form(intensity(10 * number + ord(label), 1)).astype(np.float32))
    folder = read_folder(tmp_path / "in")
    assert sentence in folder.notes[0]
    scale = np.concatenate([np.sqrt(intensity(10 * n + ord(k), 1)).ravel() for k in "ab" for n in range(4)])
    for image in folder.images:
        count, mean, squares = image.facts.moments
        assert np.sqrt(squares / count) / mean == pytest.approx(np.sqrt(4 / np.pi - 1), rel=0.05)  # Rayleigh
    card = prepare_user_data(tmp_path / "in", tmp_path / "out", 64)
    factor = {"db shifted": 1000.0, "db": 10 ** (-12 / 20)}.get(case, 1.0)
    assert card["mu"] == pytest.approx(factor * scale.mean(), rel=0.02) and sentence in card["read"][0]
    assert card["read"][0] in json.loads((tmp_path / "out/card.json").read_text())["notes"]


def test_the_option_decides_and_what_disagrees_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        npy(tmp_path / "a" / f"{number}.npy", intensity(number, 4).astype(np.float32))
    note = read_folder(tmp_path).notes[0]
    assert "amplitude, guessed" in note and "so this is not sure" in note, "several looks of power may be amplitude of fewer"
    looks = re.search(r"\((\S+) looks and .* intensity of (\S+) looks spreads as much", note).groups()
    assert np.array(looks, float) == pytest.approx([4 * (4 / np.pi - 1), 4], rel=0.15), "the coefficient of variation is 1/2"
    folder = read_folder(tmp_path, quantity="intensity")
    assert "intensity, as requested" in folder.notes[0] and {image.facts.storage for image in folder.images} == {"float intensity"}
    np.testing.assert_allclose(read_image(folder.images[1].path, quantity="intensity").amplitude, np.sqrt(intensity(1, 4)), rtol=1e-5)
    for wrong, message in (("complex", "real numbers"), ("power", "use amplitude, intensity, db, complex")):
        with pytest.raises(InputError, match=message):
            read_folder(tmp_path, quantity=wrong)
    one = flat_statistics(intensity(0, 1))
    with pytest.raises(InputError, match="tags say amplitude, but 0.3.* looks .* of intensity; give --quantity"):
        decide_quantity("5 of 5 images, float", ["amplitude"] * 5, [one] * 5)
    with pytest.raises(InputError, match="tags of some say amplitude, of others intensity"):
        decide_quantity("5 of 5 images, float", ["amplitude", "intensity"], [one] * 2)
    assert decide_quantity("5 of 5 images, float", ["amplitude"], [one], "intensity")[0] == "intensity"
    kept = decide_quantity("5 of 5 images, 8-bit", [""], [one], kept=True)
    assert kept[0] == "amplitude" and "those of intensity; see --quantity" in kept[1]


def test_a_refusal_that_follows_from_a_guess_says_so(tmp_path: Path) -> None:
    for number in range(3):
        npy(tmp_path / f"{number}.npy", np.rint((20 * np.log10(np.sqrt(intensity(number, 1))) + 90) * 50).astype(np.uint16))
    with pytest.raises(InputError, match="no decibels of one unit a step.*3 of 3 images, integer: db, guessed .*--quantity says otherwise"):
        read_folder(tmp_path)


def test_images_of_no_named_sensor_that_are_scaled_together_are_reported_with_their_levels(tmp_path: Path) -> None:
    """Those that one scale makes black are counted; a blank makes no sensor."""
    for number, level in enumerate((1.0, 1.0, 400.0)):
        npy(tmp_path / f"{number}.npy", np.full((64, 64), level, np.float32) * np.linspace(0.5, 1.5, 64, dtype=np.float32))
    line = "3 of 3 images, float: scaled together as one sensor's, of means from 1 to 400"
    notes = read_folder(tmp_path).notes
    assert any(note.startswith(f"{line}; name several in a column sensor") for note in notes)
    assert any(", 2 of them have a mean below 4 of 255 grey levels" in note for note in notes)
    (tmp_path / "metadata.csv").write_text("file_name,sensor\n0.npy,my sensor\n1.npy, my  sensor \n2.npy,c\n")
    folder = read_folder(tmp_path)
    assert [image.sensor for image in folder.images] == ["my sensor", "my sensor", "c"]
    assert not any("scaled together" in note or "grey levels" in note for note in folder.notes)


# Excluded pixels and sensors in a data set.


def test_no_data_is_in_no_scale_and_no_patch_and_is_counted(tmp_path: Path) -> None:
    images = {}
    for label in ("a", "b"):
        for number in range(4):
            level = np.random.default_rng([number, ord(label)]).rayleigh(300.0, (128, 128)).clip(1, 4000).astype(np.uint16)
            level[:50] = 65535
            images[f"{label}/{number}.tif"] = level
            tiff(tmp_path / "in" / label / f"{number}.tif", level, nodata=65535)
    tiff(tmp_path / "in/a/border.tif", np.where(np.arange(128) % 40 < 20, 65535, level).astype(np.uint16), nodata=65535)
    card = prepare_user_data(tmp_path / "in", tmp_path / "out", 32)
    rows = [json.loads(line) for line in (tmp_path / "out/train/metadata.jsonl").read_text().splitlines()]
    known = np.concatenate([images[name][images[name] < 65535].astype(float) for name in {row["source"] for row in rows}])
    assert (card["mu"], card["sigma"]) == pytest.approx((known.mean(), known.std()), rel=1e-6)
    assert all(row["row"] >= 50 for row in rows)
    for row in rows:
        cut = images[row["source"]][row["row"] : row["row"] + 32, row["column"] : row["column"] + 32]
        expected = np.clip(cut / (card["mu"] + 3 * card["sigma"]), 0, 1) * 255
        assert np.abs(np.asarray(Image.open(tmp_path / "out/train" / row["file_name"])) - expected).max() <= 0.51
    assert any(re.match(r"no data .*: \d+ pixels \(4\d\.\d%\) in 9 of 9 images count in no statistic", line) for line in card["read"])
    assert any(line == "no patch of 32 px that is all data: 1 of 9 images left out, a/border.tif" for line in card["read"])
    assert card["no_data_pixels"] == 8 * 50 * 128, "of the images that are in the set"
    folder = read_folder(tmp_path / "in")
    with pytest.raises(InputError, match="px that are compared are no data"):
        load(folder.images[0], None, (128, 128))
    assert load(folder.images[0], None, (20, 20)).max() < 4001


def two_sensors(folder: Path, factor: float = 1.0) -> Path:
    """Rayleigh amplitudes of two classes, of a weak and of a strong sensor that index.csv names."""
    lines = []
    for label, number in ((label, number) for label in "ab" for number in range(8)):
        sensor, level = (("weak", 1.0), ("strong", 5000.0))[number % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        values = factor * np.random.default_rng([number, ord(label)]).rayleigh(level, (64, 64))
        npy(folder / label / f"{number}.npy", values.astype(np.float32))
        lines.append(f"{label}/{number}.npy,{sensor}")
    (folder / "index.csv").write_text("file,sensor\n" + "\n".join(lines))
    return folder


def test_each_sensor_has_a_scale_of_its_own(tmp_path: Path) -> None:
    two_sensors(tmp_path / "in")
    card = prepare_user_data(tmp_path / "in", tmp_path / "out", 64)
    mean, spread = np.sqrt(np.pi / 2), np.sqrt(2 - np.pi / 2)  # of Rayleigh amplitude of parameter 1
    for name, level in (("weak, float", 1.0), ("strong, float", 5000.0)):
        found = card["normalisation"][name]
        assert (found["mu"], found["sigma"]) == pytest.approx((level * mean, level * spread), rel=0.05)
    assert card["mu"] is None and any("images of weak" in note for note in card["notes"])
    for path in sorted((tmp_path / "out/train").glob("*.png")):
        image = np.asarray(Image.open(path)) / 255
        assert image.mean() == pytest.approx(mean / (mean + 3 * spread), rel=0.1), "no sensor is left with a few grey levels"


def test_a_comparison_scales_each_sensor_by_its_own_real_images(tmp_path: Path) -> None:
    sides = {side: read_folder(two_sensors(tmp_path / side, factor)) for side, factor in (("real", 1.0), ("generated", 2.0))}
    scales = fit_scales(sides, "real")
    unit = np.sqrt(np.pi / 2) + 3 * np.sqrt(2 - np.pi / 2)  # mu + 3 sigma of Rayleigh amplitude
    for side in ("real", "generated"):  # a generated set that is twice as bright stays so
        assert scales[side, "weak", "float"].scale == pytest.approx(unit, rel=0.03)
        assert scales[side, "strong", "float"].scale == pytest.approx(5000 * unit, rel=0.03)


def test_the_comment_of_a_jpeg_names_the_quantity(tmp_path: Path) -> None:
    for name, comment in (("plain", b"made by X, 3db8"), ("reported", b"sigma0, linear power")):
        Image.fromarray(U8).save(tmp_path / f"{name}.jpg", comment=comment)
    plain, reported = (read_image(tmp_path / f"{name}.jpg") for name in ("plain", "reported"))
    assert (plain.stated, reported.stated, reported.storage) == ("", "intensity", "8-bit intensity")
    np.testing.assert_allclose(reported.amplitude, np.sqrt(plain.amplitude.astype(np.float32)), rtol=1e-6)


def test_files_next_to_an_image_are_read_with_it_and_a_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for number in range(4):
        with_file_beside(tmp_path / f"{number}.png")
    (tmp_path / "index.csv").write_text("file,sensor\n0.png,near\n1.png,near\n2.png,far\n", encoding="utf-8-sig")
    folder = read_folder(tmp_path)
    assert [image.sensor for image in folder.images] == ["near", "near", "far", "unstated"]
    assert folder.ignored == {} and not any("passed over" in note for note in folder.notes)
    assert "1 of 4 images have no sensor named, though others have: they are scaled together" in folder.notes


def test_what_nothing_declares_is_excluded_and_said(tmp_path: Path) -> None:
    for number, fill in enumerate((np.nan, np.nan, -9999.0)):
        tiff(tmp_path / f"{number}.tif", with_hole(FLOAT + number, fill))
    tiff(tmp_path / "3.tif", FLOAT[::-1])
    tiff(tmp_path / "4.tif", with_hole(U16, 65535))
    notes = read_folder(tmp_path).notes
    assert "over 5% of the pixels have the highest value 65535: saturation, or no data that nothing declares: 1 of 5 images" in notes
    assert "nan is taken as no data, though nothing declares it: 2 of 5 images" in notes
    assert "-9999 is taken as no data, though nothing declares it: 1 of 5 images" in notes
    assert any(note.startswith("no data (") and ": 1800 pixels (14.6%) in 3 of 5 images" in note for note in notes)


def test_a_no_data_value_beyond_32_bits_as_printed_is_read_without_a_complaint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lowest = float(np.finfo(np.float32).min)
    path = tiff(tmp_path / "a.tif", np.where(HOLE, np.float32(lowest), FLOAT), nodata=lowest)
    np.testing.assert_array_equal(read_image(path).valid, ~HOLE)
    assert not caplog.records

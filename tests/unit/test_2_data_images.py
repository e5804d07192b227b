"""Reading images of every form, and refusing what is no amplitude."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from sarnb.data.images import read_image
from sarnb.errors import InputError

RNG = np.random.default_rng(3)
GREY8 = RNG.integers(0, 256, (24, 20), dtype=np.uint8)
GREY16 = RNG.integers(0, 65536, (24, 20), dtype=np.uint16)
FLOAT = RNG.rayleigh(1.0, (24, 20)).astype(np.float32)
COMPLEX = (RNG.normal(size=(24, 20)) + 1j * RNG.normal(size=(24, 20))).astype(np.complex64)


def save_tiff(path: Path, bands: np.ndarray, **options: object) -> Path:
    bands = bands if bands.ndim == 3 else bands[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
        with rasterio.open(path, "w", **profile, **options) as target:
            target.write(bands)
    return path


def save_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array, allow_pickle=array.dtype == object)
    return path


def save_pillow(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def stacked(array: np.ndarray) -> np.ndarray:
    return np.repeat(array[..., None], 3, axis=-1)


def test_8_bit_is_kept_as_uint8(tmp_path: Path) -> None:
    alpha = np.full_like(GREY8, 255)
    paths = [
        save_pillow(tmp_path / "a.png", GREY8),
        save_pillow(tmp_path / "b.PNG", stacked(GREY8)),
        save_pillow(tmp_path / "c.png", np.dstack([GREY8, alpha])),
        save_pillow(tmp_path / "d.png", np.dstack([stacked(GREY8), alpha])),
        save_tiff(tmp_path / "e.tif", GREY8, compress="lzw"),
        save_tiff(tmp_path / "f.TIFF", np.moveaxis(stacked(GREY8), -1, 0)),
        save_npy(tmp_path / "g.npy", GREY8[None]),
    ]
    for path in paths:
        image = read_image(path)
        assert image.storage == "8-bit" and image.amplitude.dtype == np.uint8
        assert np.array_equal(image.amplitude, GREY8), path.name


def test_palette_png_of_greys_is_read_as_its_colours(tmp_path: Path) -> None:
    inverted = Image.fromarray(255 - GREY8).convert("P")
    inverted.putpalette([value for level in range(256) for value in (255 - level,) * 3])
    inverted.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png").amplitude, GREY8)


def test_16_bit_float_and_complex_keep_their_values(tmp_path: Path) -> None:
    cases = [
        (save_pillow(tmp_path / "a.png", GREY16), "integer", GREY16),
        (save_tiff(tmp_path / "b.tif", GREY16, compress="deflate"), "integer", GREY16),
        (save_npy(tmp_path / "c.npy", GREY16.astype(">u2")), "integer", GREY16),
        (save_tiff(tmp_path / "d.tif", FLOAT, compress="lzw"), "float", FLOAT),
        (save_npy(tmp_path / "e.npy", FLOAT.astype(np.float64)), "float", FLOAT),
        (save_tiff(tmp_path / "f.tif", COMPLEX), "complex", np.abs(COMPLEX)),
        (save_npy(tmp_path / "g.npy", COMPLEX), "complex", np.abs(COMPLEX)),
    ]
    for path, storage, expected in cases:
        image = read_image(path)
        assert image.storage == storage and image.amplitude.dtype == np.float32, path.name
        np.testing.assert_allclose(image.amplitude, expected, rtol=1e-6, err_msg=path.name)


def test_16_bit_colour_png_is_not_cut_to_8_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="PNG", count=3, height=24, width=20, dtype="uint16") as target:
            target.write(np.repeat(GREY16[None], 3, axis=0))
    assert np.array_equal(read_image(path).amplitude, GREY16.astype(np.float32))


def test_grey_jpeg_with_three_channels_is_grey(tmp_path: Path) -> None:
    path = save_pillow(tmp_path / "a.jpg", stacked(GREY8), quality=80)
    expected = np.asarray(Image.open(path).convert("L"), float)
    assert np.abs(read_image(path).amplitude - expected).max() <= 2


def faulty(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name of the fault → file with it, and what the message must say."""
    infinite = FLOAT.copy()
    infinite[4, 7] = np.inf
    colour = RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8)
    whole = save_pillow(folder / "whole.png", GREY8).read_bytes()
    raw = {"zero.png": b"", "cut.png": whole[: len(whole) // 2], "text.jpg": b"<html>not found</html>" * 9, "cut.npy": b"\x93NUMPY\x01"}
    raw["lfs.png"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    tiff = save_tiff(folder / "whole.tif", FLOAT).read_bytes()
    raw["cut.tif"] = tiff[: len(tiff) // 2]
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    half = np.dstack([GREY8, np.where(GREY8 > 99, 255, 100).astype(np.uint8)])
    return {
        "zero bytes": (folder / "zero.png", "zero bytes"),
        "truncated PNG": (folder / "cut.png", "cannot be read as an image"),
        "truncated TIFF": (folder / "cut.tif", "cannot be read as an image"),
        "truncated NPY": (folder / "cut.npy", "cannot be read as an image"),
        "a web page": (folder / "text.jpg", "cannot be read as an image"),
        "LFS pointer": (folder / "lfs.png", "git lfs pull"),
        "missing": (folder / "none.png", "no such file"),
        "unknown form": (folder / "a.gif", "'.gif' is not an image form"),
        "constant": (save_pillow(folder / "const.png", np.full((24, 20), 7, np.uint8)), r"constant \(every pixel is 7\)"),
        "infinity": (save_tiff(folder / "inf.tif", infinite), r"1 of 480 pixels are infinite \(first at row 4, column 7\)"),
        "complex infinity": (save_npy(folder / "cinf.npy", infinite + 1j), "infinite"),
        "negative": (save_tiff(folder / "negative.tif", FLOAT - 400 * (FLOAT == FLOAT.max())), "negative values .*decibels"),
        "colour PNG": (save_pillow(folder / "rgb.png", colour), "colour image"),
        "colour JPEG": (save_pillow(folder / "rgb.jpg", colour), "colour image"),
        "colour TIFF": (save_tiff(folder / "rgb.tif", np.moveaxis(colour, -1, 0)), "colour image"),
        "transparent": (save_pillow(folder / "alpha.png", half), "alpha"),
        "two polarisations": (save_tiff(folder / "two.tif", np.stack([FLOAT, FLOAT[::-1]])), "one polarisation"),
        "a stack": (save_npy(folder / "stack.npy", np.ones((7, 24, 20))), r"shape \(7, 24, 20\)"),
        "a mask": (save_pillow(folder / "bit.png", GREY8 > 99), "1 bit"),
        "booleans": (save_npy(folder / "bool.npy", GREY8 > 99), "holds bool"),
        "a pickle": (save_npy(folder / "object.npy", np.array([[{}]], object)), "cannot be read as an image"),
        "nothing inside": (save_npy(folder / "empty.npy", np.ones((0, 5))), "holds float64 of shape"),
    }


def test_every_fault_gives_one_sentence_with_the_file(tmp_path: Path) -> None:
    for fault, (path, message) in faulty(tmp_path).items():
        with pytest.raises(InputError, match=message) as caught:
            read_image(path)
        text = str(caught.value)
        assert text.startswith(str(path)) and "\n" not in text and ";" in text, f"{fault}: {text}"


def test_red_boxes_drawn_on_a_grey_image_are_colour(tmp_path: Path) -> None:
    marked = stacked(GREY8)
    marked[5, 5:8] = (255, 0, 0)
    with pytest.raises(InputError, match="100 % at most"):
        read_image(save_pillow(tmp_path / "a.png", marked))

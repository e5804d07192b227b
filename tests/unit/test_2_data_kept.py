"""What was made of the same key is read back, all else is made; and only files that were made here are replaced or removed."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import entropy

from sarnb.data.files import MARKER, NOTE, check_out, claim, clear, kept, release, replace_folder, working_in, write_png
from sarnb.errors import InputError


@pytest.fixture
def ask(tmp_path):
    """Asks for a result of some key; ``ask.made`` counts how often it was made."""

    def ask(key=None, fails=None, alone=True):
        folder = tmp_path / "results" / "one"

        def make():
            ask.made += 1
            folder.mkdir(exist_ok=True)
            (folder / "result").write_text(f"number {ask.made}")
            if fails:
                raise fails
            return {"cost": ask.made}

        return kept(folder, key or {"steps": (1, 2)}, make, lambda note: ((folder / "result").read_text(), note["cost"]), alone=alone)

    ask.made, ask.folder = 0, tmp_path / "results" / "one"
    return ask


@pytest.mark.parametrize("alone", [True, False])
def test_the_same_key_is_read_back_and_another_is_made(ask, alone):
    assert ask(alone=alone) == ask(alone=alone) == ("number 1", 1)
    assert ask({"steps": [1, 3]}, alone=alone) == ("number 2", 2)
    assert json.loads((ask.folder / NOTE).read_text()) == {"steps": [1, 3], "cost": 2}


@pytest.mark.parametrize("text", ["", "[]", '{"steps": [1, 2]}', '{"steps": [1, 2], "cost"'])
def test_a_damaged_note_or_result_is_made_again(ask, text):
    ask()
    (ask.folder / NOTE).write_text(text)
    assert ask() == ("number 2", 2)
    (ask.folder / "result").unlink()
    assert ask() == ("number 3", 3)


def test_work_that_failed_is_no_result(ask):
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(fails=RuntimeError("out of memory"))
    with pytest.raises(InputError, match="one: could not be written.*No space left"):
        ask(fails=OSError(28, "No space left on device"))
    assert not (ask.folder / NOTE).exists() and ask() == ("number 3", 3)


# An output folder was made here only with this project's marker.


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _made(folder: Path, **files: str) -> Path:
    """A folder made here with these files."""
    claim(folder, "data set")
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    release(folder)
    return folder


def test_only_listed_files_are_removed(tmp_path):
    out = _made(tmp_path / "out", card_json="{}", train__a_png="1")
    clear(out)
    assert list(_tree(out)) == [MARKER] and not (out / "train").exists()


@pytest.mark.parametrize("name", ["card.json", "metadata.jsonl", "README.md", "unet/config.json", "history.csv", ".hidden", "train/a.png"])
def test_what_has_no_marker_was_not_made_here_whatever_its_name(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name}, not written here"):
        claim(tmp_path, "data set")
    assert _tree(tmp_path) == {name: b"mine"}


def test_a_file_put_into_a_folder_made_here_or_changed_there_is_the_users(tmp_path):
    out = _made(tmp_path / "out", README_md="package", train__a_png="1")
    (out / "README.md").write_text("my own words")
    (out / "train/mine.png").write_bytes(b"2")
    before = _tree(out)
    with pytest.raises(InputError, match="holds README.md and 1 more, not written here or changed since"):
        check_out(out, "data set")
    assert check_out(out, "data set", names=("test/*", "card.json")) == out  # what it writes is of other names
    clear(claim(out, "data set", names=("test/*",)))
    assert (out / "train/mine.png").read_bytes() == before["train/mine.png"]


def test_an_edit_of_equal_size_and_an_empty_folder_are_the_users_and_a_copy_of_the_whole_counts_as_made_here(tmp_path):
    out = _made(tmp_path / "out", card_json="1234", train__a_png="1")
    shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copyfile)
    assert (tmp_path / "copy/card.json").stat().st_mtime_ns != (out / "card.json").stat().st_mtime_ns
    check_out(tmp_path / "copy", "data set")
    (tmp_path / "copy/mine").mkdir()
    with pytest.raises(InputError, match="holds mine/, not written here"):
        check_out(tmp_path / "copy", "data set")
    (out / "card.json").write_text("4321")
    with pytest.raises(InputError, match="holds card.json, not written here or changed since"):
        check_out(out, "data set")
    clear(claim(out, "data set", names=("test/*",)))  # a call that writes other names does not take the edit for its own
    assert (out / "card.json").read_text() == "4321" and not (out / "train").exists()
    release(out)
    with pytest.raises(InputError, match="holds card.json, not written here or changed since"):
        check_out(out, "data set")


def test_a_mount_point_is_refused_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(InputError, match="is a mount point.*name a folder in it"):
        check_out(tmp_path, "data set")
    check_out(tmp_path / "in", "data set")


def test_what_a_killed_call_left_counts_as_made_here_and_other_kinds_are_refused(tmp_path):
    claim(tmp_path / "out", "model", names=("unet/*",))
    (tmp_path / "out/unet").mkdir()
    (tmp_path / "out/unet/half").write_text("x")
    claim(tmp_path / "out", "model", names=("unet/*", "README.md"))
    with pytest.raises(InputError, match="holds a model, which a data set must not replace"):
        check_out(tmp_path / "out", "data set")


@pytest.mark.parametrize(
    "marker",
    [
        "",
        "{}",
        "[]",
        '{"kind": "data set", "files": 3, "writing": []}',
        '{"kind": "data set", "files": [1]}',
        '{"kind": "data set", "files": {}, "writing": "*"}',
    ],
)
def test_a_damaged_marker_takes_nothing_for_made_here(tmp_path, marker):
    (tmp_path / MARKER).write_text(marker)
    (tmp_path / "a.png").write_bytes(b"1")
    with pytest.raises(InputError, match="a.png, not written here"):
        check_out(tmp_path, "data set")


def test_nothing_outside_the_folder_is_written_or_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").write_bytes(b"1")
    out = _made(tmp_path / "out", README_md="package")
    (out / "figures").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="holds figures/, not written here"):
        claim(out, "data set", names=("figures/*.png",))
    (out / MARKER).write_text(
        json.dumps({"kind": "data set", "files": {"../mine/a.png": 1, str(tmp_path / "mine/a.png"): 1}, "writing": []})
    )
    clear(out)
    assert _tree(tmp_path / "mine") == {"a.png": b"1"}


def test_an_output_is_not_its_input_nor_in_one_nor_around_one(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out, words in (("in", "is what this call reads"), ("link", "is what"), ("link/new", "lies in .*/in,"), (".", "holds .*/in,")):
        with pytest.raises(InputError, match=words):
            check_out(tmp_path / out, "model", ["stabilityai/sdxl", "", tmp_path / "in"])
    check_out(tmp_path / "inside", "model", [tmp_path / "in"])


def test_an_output_that_cannot_be_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "nowhere").symlink_to(tmp_path / "disk/out")
    (tmp_path / "ring").symlink_to("ring")
    for out, words in (("nowhere", "is a link to what is not there"), ("ring", "cannot be a folder"), ("x" * 300, "name too long")):
        with pytest.raises(InputError, match=words), working_in(tmp_path / out):
            check_out(tmp_path / out, "data set")
    with pytest.raises(InputError, match="not written here"), working_in(Path("/")):
        check_out(Path("/etc"), "data set")


def test_a_folder_has_one_lock_by_whatever_name_it_is_called(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link").symlink_to(tmp_path / "out")
    with working_in(tmp_path / "elsewhere/../elsewhere/link"):
        assert (tmp_path / ".out.lock").read_text() == f"process {os.getpid()}"
        with working_in(tmp_path / "out"):  # the same folder: entered, not waited for
            pass


def test_a_folder_takes_the_place_of_one_made_here_only(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for text, name in (("1", "out"), ("2", "link")):
        (tmp_path / "new").mkdir()
        (tmp_path / "new/a.png").write_text(text)
        replace_folder(tmp_path / "new", tmp_path / name, "data set")
    assert (tmp_path / "link").is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]
    (tmp_path / "out/mine.png").write_text("3")
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match="mine.png"):
        replace_folder(tmp_path / "new", tmp_path / "out", "data set")
    assert (tmp_path / "out/a.png").read_text() == "2" and (tmp_path / "out/mine.png").read_text() == "3"


# One process at a time works in a folder, and the next one says which.


def enter(folder, log, seconds) -> None:
    """Work in ``folder`` and note in ``log`` who begins and who has ended."""
    with working_in(folder), working_in(folder):
        for word in ("begins", "ends"):
            with log.open("a") as file:
                file.write(f"{os.getpid()} {word}\n")
            time.sleep(seconds)


def test_processes_work_in_a_folder_one_after_another_and_say_so(tmp_path, capfd):
    context, folder, log = multiprocessing.get_context("fork"), tmp_path / "new" / "out", tmp_path / "log"
    several = [context.Process(target=enter, args=(folder, log, 0.3)) for _ in range(5)]
    for process in several:
        process.start()
    for process in several:
        process.join(30)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 10 and all(one[0] == two[0] for one, two in zip(lines[::2], lines[1::2]))
    said = capfd.readouterr().err.splitlines()
    assert said and all(re.fullmatch(r"sarnb: .*out: process \d+ works in this folder; waiting until it has ended", line) for line in said)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("_", range(5))
def test_a_process_that_was_killed_holds_no_folder(_, tmp_path):
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    killed = context.Process(target=enter, args=(tmp_path / "out", log, 60))
    killed.start()
    while not (log.exists() and log.read_text()):
        time.sleep(0.01)
    killed.kill()
    killed.join(30)
    enter(tmp_path / "out", log, 0)
    assert len(log.read_text().splitlines()) == 3 and [path.name for path in tmp_path.iterdir()] == ["log"]


def _band(share: float) -> np.ndarray:
    """Speckle [256, 256] in 8 bits of which this share of the band is filled."""
    rng, kept = np.random.default_rng(0), np.abs(np.fft.fftfreq(256)) < share / 2
    noise = np.fft.fft2(rng.normal(size=(256, 256)) + 1j * rng.normal(size=(256, 256)))
    amplitude = np.abs(np.fft.ifft2(noise * np.outer(kept, kept)))
    return np.clip(255 * amplitude / (amplitude.mean() + 3 * amplitude.std()), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("image", [_band(1.0), _band(0.7), _band(0.1), _band(1.0)[:37, :53]])
def test_a_fast_png_has_the_same_pixels_in_no_more_bytes(tmp_path, image):
    for name, fast in (("fast.png", True), ("usual.png", False)):
        write_png(tmp_path / name, image, fast)
    with Image.open(tmp_path / "fast.png") as opened:
        opened.verify()  # checksums
    with Image.open(tmp_path / "fast.png") as opened, Image.open(tmp_path / "usual.png") as usual:
        assert (opened.mode, opened.size) == (usual.mode, usual.size)
        np.testing.assert_array_equal(np.asarray(opened), image)
    assert (tmp_path / "fast.png").stat().st_size <= (tmp_path / "usual.png").stat().st_size


def test_a_fast_png_of_speckle_takes_the_bytes_that_its_entropy_demands(tmp_path):
    levels = _band(1.0)
    write_png(tmp_path / "a.png", levels, True)
    share = np.unique(levels, return_counts=True)[1] / levels.size
    assert (tmp_path / "a.png").stat().st_size == pytest.approx(entropy(share, base=2) / 8 * levels.size, rel=0.02)

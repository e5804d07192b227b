"""SARLO-80: shards made here in its layout, read back by ``load_set``; damage and attacks are skipped by name and counted."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shards import TEXTS, complex_image, grey_image, npy, png, sample, write_shard
from typer.testing import CliRunner

from sarnb.cli import app
from sarnb.data import prepare, sarlo80
from sarnb.data.dataset import load_card, load_set, read_metadata
from sarnb.data.files import SPLITS
from sarnb.data.imagefolder import list_images
from sarnb.data.sarlo80 import build_sarlo80, class_of, keyword_table, list_shards
from sarnb.errors import InputError

SIZE = 32


@pytest.fixture
def shards(tmp_path) -> str:
    """Three shards of four places and three classes, 24 samples."""
    for shard in range(3):
        kinds = ("city", "harbour", "forest", "city") * 2
        samples = [sample(8 * shard + i, kind, f"Place {(8 * shard + i) % 5}") for i, kind in enumerate(kinds)]
        write_shard(tmp_path / f"shard-{shard:05d}.tar", *samples)
    return f"{tmp_path}/shard-0000{{0..2}}.tar"


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_sample_keeps_its_pixels_captions_and_metadata_and_no_place_is_in_two_splits(shards, tmp_path):
    card = build_sarlo80(tmp_path / "d", shards, size=SIZE)
    rows = read_metadata(tmp_path / "d").query("split != 'judge'")
    assert len(rows) == 24 == sum(card["totals"][split] for split in SPLITS[:3])
    for split in SPLITS[:3]:
        images = load_set(tmp_path / "d" / split)
        for image, row in zip(images.images, images.rows):
            number = int(row["source"].split("/")[1])
            np.testing.assert_array_equal(image, grey_image(number, SIZE))
            assert row["captions"] == list(TEXTS[row["label"]]) and row["text"] in row["captions"]
            facts = row["place"], row["incidence"], row["side_of_track"], row["spacing_m"], row["group"]
            assert facts == (f"Place {number % 5}", 40.5, "left", [0.8, 0.81], "seen")
    assert card["licence"] == "CC-BY-SA-4.0" and "CC-BY-SA-4.0" in (tmp_path / "d" / "README.md").read_text()
    assert "license: cc-by-sa-4.0" in (tmp_path / "d" / "README.md").read_text()
    assert rows.groupby("place")["split"].nunique().max() == 1
    assert card["keyword_counts"]["harbour: dock"] == 6 and card["keyword_counts"]["city: city"] == 12
    np.testing.assert_array_equal(load_set(tmp_path / "d/judge").images, load_set(tmp_path / "d/train").images)


def test_a_finished_set_is_read_with_its_splits_and_taken_over_as_it_is(shards, tmp_path):
    card = build_sarlo80(tmp_path / "d", shards, size=SIZE, unseen=["harbour"])
    images = list_images(tmp_path / "d").images
    assert {split: sum(image.split == split for image in images) for split in SPLITS[:3]} == {s: card["totals"][s] for s in SPLITS[:3]}
    assert {image.split for image in images if image.label == "harbour"} == {"test"}
    assert prepare.ready_set(tmp_path / "d", SIZE) == card and not prepare.ready_set(tmp_path / "d", 16)
    taken = prepare.prepare_user_data(tmp_path / "d", tmp_path / "e", SIZE)
    assert taken["groups"]["unseen"] == ["harbour"] and taken["licence"] == "CC-BY-SA-4.0" and taken["spacing_m"] is None
    for split in SPLITS:
        own, made = load_set(tmp_path / "d" / split), load_set(tmp_path / "e" / split)
        np.testing.assert_array_equal(own.images, made.images)
        assert own.all_captions() == made.all_captions() and own.column("group") == made.column("group")
        assert set(made.column("look")) == {None} and "row" not in made.rows[0]  # no patch was cut
        assert (tmp_path / "d" / split / own.ids[0]).samefile(tmp_path / "e" / split / own.ids[0])
    assert "harbour" in load_set(tmp_path / "e/judge").labels and "harbour" not in load_set(tmp_path / "e/train").labels
    assert prepare.prepare_user_data(tmp_path / "d", tmp_path / "f", 16)["kind"] == "user"  # of another size: patches are cut
    (tmp_path / "d/test" / own.ids[0]).unlink()
    assert not prepare.ready_set(tmp_path / "d", SIZE)


def test_held_out_concepts_are_shown_by_neither_train_nor_val(shards, tmp_path):
    card = build_sarlo80(tmp_path / "d", shards, size=SIZE, unseen=["dock"])  # a word of the class harbour
    rows = read_metadata(tmp_path / "d")
    text = rows["captions"].map(" ".join).str.lower()
    assert not text[rows["split"].isin(["train", "val"])].str.contains("harbour|dock").any()
    assert set(rows.query("split in ('test', 'judge')")["label"]) >= {"harbour"} and set(rows.query("label == 'harbour'")["group"]) == {
        "unseen"
    }
    assert card["groups"]["unseen"] == ["harbour"] and card["held_out"] == ["harbour"]
    hidden = build_sarlo80(tmp_path / "e", shards, size=SIZE, unseen=["woodland", "streets"])  # "streets" is a class of its own
    assert hidden["samples"]["left_out"] == 12 and "streets" in hidden["held_out"]  # every city caption names it


def test_classes_follow_the_table_of_words():
    table, _ = keyword_table()
    assert class_of(["Some ground.", "Nothing."], table) == "unclear"
    assert class_of(["A city on a river.", "The city."], table) == "city"  # the first is a tie
    assert class_of(["Portraits of crops."], table) == "crop fields"  # no port


def test_the_files_are_the_same_for_any_number_of_processes_and_after_a_stop(shards, tmp_path, monkeypatch):
    build_sarlo80(tmp_path / "d", shards, size=SIZE, seed=3)
    build_sarlo80(tmp_path / "e", shards, size=SIZE, seed=3, workers=2)
    read, seen = sarlo80._read_shard, []

    def stop(item, **settings):
        if item[0] == 1 and "stopped" not in seen:
            seen.append("stopped")
            raise SystemExit(143)
        seen.append(item[1].name)
        read(item, **settings)

    monkeypatch.setattr(sarlo80, "_read_shard", stop)
    with pytest.raises(SystemExit):
        build_sarlo80(tmp_path / "f", shards, size=SIZE, seed=3)
    build_sarlo80(tmp_path / "f", shards, size=SIZE, seed=3)
    assert seen == ["shard-00000.tar", "stopped", "shard-00001.tar", "shard-00002.tar"]
    assert _bytes(tmp_path / "d") == _bytes(tmp_path / "e") == _bytes(tmp_path / "f")
    build_sarlo80(tmp_path / "f", shards, size=SIZE, seed=3)
    assert len(seen) == 4  # finished: nothing is read
    build_sarlo80(tmp_path / "f", shards, size=SIZE, seed=4)
    assert len(seen) == 7


def test_parts_are_read_by_several_machines_and_make_the_same_set(shards, tmp_path, monkeypatch):
    build_sarlo80(tmp_path / "whole", shards, size=SIZE)
    read = []
    monkeypatch.setattr(sarlo80, "_read_shard", lambda item, own=sarlo80._read_shard, **how: read.append(item[1].name) or own(item, **how))
    for k in (2, 1):
        assert build_sarlo80(tmp_path / "d", shards, size=SIZE, part=(k, 2))["totals"] == {"part": 8 * (2 if k == 1 else 1)}
        assert not (tmp_path / "d/train").exists()
    assert read == ["shard-00001.tar", "shard-00000.tar", "shard-00002.tar"]
    build_sarlo80(tmp_path / "d", shards, size=SIZE)
    assert len(read) == 3  # the whole found the parts
    assert _bytes(tmp_path / "d") == _bytes(tmp_path / "whole")
    words = ["dataset", "sarlo80", "--shards", shards, "--size", str(SIZE), "--workers", "1", "--part", "2/2", "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "e")], catch_exceptions=False)
    assert done.exit_code == 0 and "part 2/2 is read, 8 images; when all are, the same call without --part" in done.stdout
    assert CliRunner().invoke(app, [*words, str(tmp_path / "d")], catch_exceptions=False).exit_code == 0 and len(read) == 4
    for wrong in ((0, 2), (3, 2)):
        with pytest.raises(InputError, match="--part ./2: write K/N with K from 1 to N"):
            build_sarlo80(tmp_path / "e", shards, size=SIZE, part=wrong)


def test_complex_samples_are_scaled_by_their_own_mu_and_sigma(shards, tmp_path):
    build_sarlo80(tmp_path / "d", shards, size=SIZE, quantity="complex")
    images = load_set(tmp_path / "d/train")
    for image, row in zip(images.images, images.rows):
        amplitude = np.abs(complex_image(int(row["source"].split("/")[1]), SIZE).astype(complex))
        assert row["mu"] == pytest.approx(amplitude.mean(), rel=1e-6) and row["sigma"] == pytest.approx(amplitude.std(), rel=1e-6)
        assert np.abs(image - 255 * np.minimum(amplitude / (amplitude.mean() + 3 * amplitude.std()), 1)).max() <= 0.51


def _claims(width: int) -> bytes:
    """A PNG that claims width x width px, with a whole header and one byte of pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, width, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def _huge_npy() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<c8", "fortran_order": False, "shape": (10**6, 10**6)})
    return buffer.getvalue()


LAUGHS = b'<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;">]><SICD>&c;</SICD>'
OUTSIDE = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><SICD>&b;</SICD>'
BAD = {  # what is wrong with a sample -> the members changed, and the words that say so
    "bomb": ({"sar_png": _claims(10**5)}, "PNG that is not 32 x 32 px of 8-bit grey"),
    "cut": ({"sar_png": png(grey_image(1, SIZE))[:200]}, "cannot be decoded"),
    "colour": ({"sar_png": png(np.zeros((SIZE, SIZE, 3), np.uint8))}, "PNG that is not 32 x 32 px of 8-bit grey"),
    "flat": ({"sar_png": png(np.full((SIZE, SIZE), 7, np.uint8))}, "is constant"),
    "pickle": ({"sar_png": None, "sar_npy": npy(np.array([[print]], object))}, "no complex array"),
    "huge": ({"sar_png": None, "sar_npy": _huge_npy()}, "no complex array"),
    "real": ({"sar_png": None, "sar_npy": npy(np.ones((SIZE, SIZE)))}, "no complex array"),
    "no image": ({"sar_png": None, "sar_npy": None}, "no image of the wanted kind"),
    "no caption": ({"meta_json": b'{"city": "Rome"}'}, "has no caption"),
    "no place": ({"meta_json": b'{"caption": {"SHORT": "A city."}}'}, "names no place"),
    "no meta": ({"meta_json": None}, "has no meta.json"),
    "broken meta": ({"meta_json": b"{"}, "cannot be decoded"),
    "list meta": ({"meta_json": b"[1]"}, "no JSON object"),
    "laughs": ({"sicd_xml": LAUGHS}, "entities or a document type"),
    "outside": ({"sicd_xml": OUTSIDE}, "entities or a document type"),
    "short": ({"sar_png": _claims(SIZE)}, "cannot be decoded"),
}


def test_bad_samples_are_skipped_by_name_and_counted(tmp_path):
    samples = [sample(i, **changed) for i, (changed, _) in enumerate(BAD.values())]
    write_shard(tmp_path / "a.tar", *samples, sample(90), sample(91))
    card = build_sarlo80(tmp_path / "d", f"{tmp_path}/a.tar", size=SIZE)
    assert card["samples"] == {"read": 2, "skipped": len(BAD), "left_out": 0} and card["totals"]["train"] == 2
    for words, count in Counter(words for _, words in BAD.values()).items():
        lines = [line for line in card["read"] if words in line]
        assert sum(int(re.search(r"(\d+) x", line)[1]) for line in lines) == count, (words, lines)
    assert "a.tar/00000000" in next(line for line in card["read"] if "32 x 32 px of" in line)
    assert "names no place: a.tar/00000009" in (tmp_path / "d/README.md").read_text()


def test_members_that_lead_out_links_devices_and_giants_are_skipped_by_name(tmp_path):
    infos = []
    for name, kind, size in [
        ("/etc/00000001.sar.png", tarfile.REGTYPE, 9),
        ("../../00000002.meta.json", tarfile.REGTYPE, 9),
        ("00000003.sar.png", tarfile.SYMTYPE, 0),
        ("00000004.sar.png", tarfile.LNKTYPE, 0),
        ("00000005.sar.png", tarfile.CHRTYPE, 0),
        ("00000006.sar.npy", tarfile.REGTYPE, 3 * 2**20),
        ("folder", tarfile.DIRTYPE, 0),
    ]:
        infos.append(tarfile.TarInfo(name))
        infos[-1].type, infos[-1].size, infos[-1].linkname = kind, size, "/etc/passwd"
    write_shard(tmp_path / "in.tar", sample(90), extra=tuple(infos))
    before = set(tmp_path.rglob("*"))
    card = build_sarlo80(tmp_path / "d", f"{tmp_path}/in.tar", size=SIZE)
    assert card["samples"] == {"read": 1, "skipped": 6, "left_out": 0}
    said = "\n".join(card["read"])
    assert "/etc/00000001.sar.png" in said and "2 x has a path that leads out" in said
    assert "3 x is a link or a device: in.tar/00000003.sar.png" in said and "1 x has more than" in said
    assert all(path.is_relative_to(tmp_path / "d") for path in set(tmp_path.rglob("*")) - before)


def test_a_truncated_shard_gives_what_was_whole(shards, tmp_path):
    path = tmp_path / "shard-00001.tar"
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        fifth = [member.offset_data for member in archive if member.name.endswith("sar.png")][4]
    path.write_bytes(data[: fifth + 10])
    card = build_sarlo80(tmp_path / "d", shards, size=SIZE)
    assert card["samples"]["read"] == 8 + 4 + 8
    assert any("cut short" in line and "shard-00001.tar" in line for line in card["read"])
    for other in (b"no tar", gzip.compress(data)):  # a compressed header may unpack to any size
        path.write_bytes(other)
        card = build_sarlo80(tmp_path / "d", shards, size=SIZE)
        assert card["samples"]["read"] == 16 and any("damaged" in line and path.name in line for line in card["read"])
    whole = write_shard(tmp_path / "shard-00001.tar", sample(50), sample(51)).read_bytes()
    with tarfile.open(path) as archive:
        end = [member.offset for member in archive][4]
    path.write_bytes(whole[:end])  # cut between two members
    assert any("no end mark" in line for line in build_sarlo80(tmp_path / "d", shards, size=SIZE)["read"])


def test_a_shard_that_kills_its_worker_is_counted_and_the_others_are_read(shards, tmp_path, monkeypatch):
    read = sarlo80._sample

    def die(sample, size):
        if sample["__key__"] == "00000009":
            os._exit(9)
        return read(sample, size)

    monkeypatch.setattr(sarlo80, "_sample", die)
    card = build_sarlo80(tmp_path / "d", shards, size=SIZE, workers=2)
    assert card["samples"]["read"] == 16 and any("process that read it died: shard-00001.tar" in line for line in card["read"])


def test_shards_of_the_hub_are_streamed_by_commit_and_checked_by_digest(shards, tmp_path, monkeypatch):
    requested, cut = {}, tmp_path / "shard-00000.tar"
    whole = {file.name: file.read_bytes() for file in tmp_path.glob("*.tar")}

    class Hub:
        def dataset_info(self, name, revision=None):
            requested.update(name=name, revision=revision)
            return SimpleNamespace(sha="c0ffee")

        def list_repo_tree(self, name, path, recursive, revision, repo_type):
            assert (revision, repo_type, path) == ("c0ffee", "dataset", "train")
            files = sorted(tmp_path.glob("*.tar"), reverse=True)
            digests = [hashlib.sha256(whole[file.name]).hexdigest() for file in files]
            return [SimpleNamespace(path=f"train/{f.name}", size=9, lfs=SimpleNamespace(sha256=d)) for f, d in zip(files, digests)]

    monkeypatch.setattr(sarlo80, "HfApi", Hub)
    monkeypatch.setattr(sarlo80, "hf_hub_url", lambda name, path, repo_type, revision: f"file:{tmp_path / Path(path).name}")
    cut.write_bytes(whole[cut.name][: len(whole[cut.name]) // 2])
    with pytest.raises(InputError, match="1 shards did not arrive .*shard-00000.tar.*; call again"):
        build_sarlo80(tmp_path / "d", "ONERA/SARLO-80/train", "main", size=SIZE)
    cut.write_bytes(whole[cut.name])
    card = build_sarlo80(tmp_path / "d", "ONERA/SARLO-80/train", "main", size=SIZE)
    assert requested == {"name": "ONERA/SARLO-80", "revision": "main"} and card["revision"] == "c0ffee" and card["samples"]["read"] == 24


@pytest.mark.parametrize(
    ("spec", "revision", "message"),
    [
        ("pipe:cat /etc/passwd", "", "is of a kind not opened here"),
        ("https://a/b.tar::pipe:id", "", "is of a kind not opened here"),
        ("ftp://a/b.tar", "", "is of a kind not opened here"),
        ("none/*.tar", "", "no such file"),
        ("none/x.tar", "", "no such file"),
        ("", "", "no such file"),
        ("HERE/shard-00000.tar", "main", "belongs to a data set of the hub"),
    ],
)
def test_shards_that_cannot_be_found_are_one_sentence(spec, revision, message, shards, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        build_sarlo80(tmp_path / "d", spec.replace("HERE", str(tmp_path)), revision, size=SIZE)
    assert "\n" not in str(caught.value) and not (tmp_path / "d").exists()


def test_a_hub_out_of_reach_says_what_to_fetch(tmp_path, monkeypatch):
    class Hub:
        def dataset_info(self, name, revision=None):
            raise ConnectionError("no route to host")

    monkeypatch.setattr(sarlo80, "HfApi", Hub)
    with pytest.raises(InputError, match="the hub cannot be reached for it .no route to host.; .*give them as a pattern"):
        list_shards("ONERA/SARLO-80")


def test_splits_by_place_hold_each_a_tenth_or_more():
    sizes = {f"p{i}": 10 for i in range(30)} | {"largest": 500}
    splits = prepare.place_splits(sizes, 0)
    assert splits["largest"] == "train" and set(splits.values()) == {"train", "val", "test"}
    for split in ("val", "test"):
        assert 80 <= sum(sizes[name] for name, own in splits.items() if own == split) < 90
    assert prepare.place_splits(sizes, 0) == splits != prepare.place_splits(sizes, 1)
    assert set(prepare.place_splits({"a": 1, "b": 1}, 0).values()) == {"train"}
    assert sorted(prepare.place_splits({"a": 1, "b": 1, "c": 9}, 0).values()) == ["test", "train", "val"]


def test_the_command_shows_licence_and_counts(shards, tmp_path):
    write_shard(tmp_path / "shard-00001.tar", sample(50, sar_png=_claims(10**5)), sample(51))
    words = ["dataset", "sarlo80", "--shards", shards, "--out", str(tmp_path / "d"), "--size", str(SIZE), "--unseen", "harbour"]
    done = CliRunner().invoke(app, [*words, "--workers", "1"], catch_exceptions=False)
    assert done.exit_code == 0 and "licence: CC-BY-SA-4.0" in done.stdout and "! 1 x has a PNG that is not" in done.stdout
    assert load_card(tmp_path / "d")["groups"]["unseen"] == ["harbour"]
    with pytest.raises(InputError, match="--sensor is for the twin world and changes nothing about sarlo80"):
        CliRunner().invoke(app, [*words, "--sensor", "umbra"], catch_exceptions=False)

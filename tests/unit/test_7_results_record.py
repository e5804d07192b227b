"""Records of notebooks and their manifests."""

from __future__ import annotations

import hashlib
import io
import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from nbconvert.filters import markdown2html
from PIL import Image

from sarnb.errors import InputError
from sarnb.results import (
    BOX,
    VERDICT,
    Record,
    claim_folder,
    compact_png,
    figure_faults,
    figure_file,
    file_problems,
    folder_problems,
    write_atomically,
    write_findings,
)

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def notebooks(tmp_path_factory, monkeypatch):
    """Two notebooks, the second built on the first."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("00_one", "01_two"):
        (folder / f"{name}.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["x = 1"]}]}))
    (folder / "graph.yaml").write_text("00_one: []\n01_two: [00_one]\n")
    monkeypatch.setenv("SARNB_NOTEBOOKS", str(folder))
    return folder


def _figure() -> Figure:
    figure = Figure()
    figure.subplots().plot([0, 1])
    return figure


def _record(folder, producer="00_one", profile="smoke", value=1.0):
    record = Record(producer, folder, profile, 0, {"SEED": 0})
    record.figure(_figure(), f"{producer}_figure", "a rising line")
    record.table(pd.DataFrame({"value": [value, 2.123456789]}), f"{producer}_table", "two numbers")
    (folder / "models").mkdir(parents=True, exist_ok=True)
    (folder / "models" / f"{producer}.bin").write_bytes(b"weights")
    record.artefact(f"models/{producer}.bin", "weights")
    return record.close()


def test_a_record_writes_figures_tables_manifest_and_index(tmp_path):
    paths = _record(tmp_path / "r")
    assert {path.rpartition(".")[2] for path in paths} == {"svg", "csv", "md", "tex", "bin"}
    manifest = json.loads((tmp_path / "r/manifest/00_one.json").read_text())
    for entry in manifest["artefacts"]:
        assert hashlib.sha256((tmp_path / "r" / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    for key in ("producer", "profile", "seed", "parameters", "git", "packages", "device", "started", "finished", "notebook_sha256"):
        assert key in manifest
    text = (tmp_path / "r/index.md").read_text()
    assert "[figures/00_one_figure.svg]" in text and "two numbers" in text and "smoke: not a result" in text
    assert file_problems(tmp_path / "r", "00_one") == ([], []) and folder_problems(tmp_path / "r") == []


def test_smoke_stamps_figures_and_tables_and_csv_stays_parseable(tmp_path):
    _record(real := tmp_path / "real", profile="study")
    assert list(pd.read_csv(real / "tables/00_one_table.csv").columns) == ["value"]
    assert "not a result" not in (real / "index.md").read_text() + (real / "figures/00_one_figure.svg").read_text()
    tmp_path = tmp_path / "smoke"
    _record(tmp_path)
    assert "smoke: not a result" in (tmp_path / "figures/00_one_figure.svg").read_text()
    raw = pd.read_csv(tmp_path / "tables/00_one_table.csv")
    assert list(raw.columns) == ["value", "stamp"] and set(raw["stamp"]) == {"smoke: not a result"}
    assert pd.read_csv(tmp_path / "tables/00_one_table.csv")["value"].tolist() == [1.0, 2.12346]
    for ending in ("md", "tex"):
        assert "smoke: not a result" in (tmp_path / f"tables/00_one_table.{ending}").read_text()


def test_a_table_longer_than_a_page_is_a_csv_alone(tmp_path):
    record = Record("00_one", tmp_path / "r", "quick", 0, {})
    for rows in (100, 101):
        record.table(pd.DataFrame({"n": range(rows)}), f"of_{rows}", "Numbers")
    paths = record.close()
    assert [path for path in paths if "of_101" in path] == ["tables/of_101.csv"]
    assert [path for path in paths if "of_100" in path] == ["tables/of_100.csv", "tables/of_100.md", "tables/of_100.tex"]
    assert len(pd.read_csv(tmp_path / "r/tables/of_101.csv")) == 101


def test_a_learned_word_is_seen_in_a_table_s_page(tmp_path):
    record = Record("00_one", tmp_path / "r", "quick", 0, {})
    record.table(pd.DataFrame({"prompt": ["a <SAR> image"]}), "words", "Prompts")
    record.close()
    assert "a &lt;SAR&gt; image" in markdown2html((tmp_path / "r/tables/words.md").read_text())  # no tag, which a browser would drop


@pytest.mark.parametrize(("draw", "ending"), [("imshow", "png"), ("plot", "svg"), ("pcolormesh", "svg")])
def test_each_figure_is_one_file_and_images_are_pixels(draw, ending):
    figure = Figure()
    getattr(figure.subplots(), draw)(np.eye(8))
    assert figure_file(figure, "a")[0] == ending


def test_a_drawing_of_very_many_marks_is_a_png_as_large_as_a_notebook_shows_it():
    figure = Figure(figsize=(4, 3), dpi=90)
    figure.add_axes((0, 0, 1, 1)).plot(np.random.default_rng(0).normal(size=(200, 100)))
    figure.set_facecolor("0.9")
    ending, content = figure_file(figure, "a")
    width = Image.open(io.BytesIO(content)).width  # with the numbers next to the axes; 480 and more by the theme's resolution
    assert ending == "png" and 360 <= width < 480


def _compact(image):
    """The pixels of a picture, as matplotlib would hand it over, before and after, and the sizes of the two files."""
    raw = io.BytesIO()
    Image.fromarray(image).convert("RGBA").save(raw, format="PNG")
    content = compact_png(raw.getvalue())
    first, second = (np.asarray(Image.open(file).convert("RGB")).astype(int) for file in (raw, io.BytesIO(content)))
    return first, second, len(raw.getvalue()), len(content)


@pytest.mark.parametrize("shape", [(160, 160), (160, 160, 3)])
def test_a_png_of_few_colours_keeps_every_pixel(shape):
    image = np.random.default_rng(0).choice([0, 7, 200, 201, 254, 255], shape).astype(np.uint8)
    before, after, old, new = _compact(image)
    assert new < old
    np.testing.assert_array_equal(after, before)


def test_a_png_of_greys_is_two_levels_off_at_most():
    before, after, old, new = _compact(np.random.default_rng(0).integers(0, 256, (160, 160)).astype(np.uint8))
    assert 0 < np.abs(after - before).max() <= 2  # 64 levels are 4 or 5 apart
    assert new < 0.5 * old
    assert len(np.unique(after)) == 64 and {0, 255} <= set(np.unique(after))


def test_a_png_of_colours_errs_as_a_palette_must():
    """256 cells of uniform colours have the side 255 / 256^(1/3), and a colour is d / sqrt(12) from the middle of its cell."""
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    image[:, :90] = 255
    before, after, old, new = _compact(image)
    white = (before == 255).all(axis=-1)
    assert (after[white] == 255).all(), "the page stays white"
    assert ((after - before)[~white] ** 2).mean() < 1.3 * (255 / 256 ** (1 / 3)) ** 2 / 12
    assert new < 0.45 * old


def test_a_png_that_shines_through_keeps_its_alpha():
    raw, pixels = io.BytesIO(), np.full((4, 4, 4), 128, np.uint8)
    Image.fromarray(pixels).save(raw, format="PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(compact_png(raw.getvalue())))), pixels)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    first, second = ([tmp_path / name / path for path in _record(tmp_path / name)] for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def _texts(*texts, figsize=(6, 6)):
    """A figure of texts (x, y, text, degrees), each starting at its point, in shares of the figure."""
    figure = Figure(figsize=figsize, dpi=90)
    for x, y, text, angle in texts:
        figure.text(x, y, text, rotation=angle, rotation_mode="anchor")
    return figure


@pytest.mark.parametrize(
    ("texts", "faults"),
    [
        ([(0.1, 0.5, "one", 0), (0.1, 0.6, "two", 0)], 0),
        ([(0.1, 0.5, "one", 0), (0.12, 0.51, "two", 0)], 1),
        ([(0.1, 0.5, "one", 0), (0.12, 0.51, "two", 0), (0.11, 0.5, "three", 0)], 3),
        # Parallel slanted lines lie apart, although the upright boxes around them overlap; a crossing one does not.
        ([(0.1, 0.1, "a long label of a tick", 45), (0.2, 0.1, "a long label of a tick", 45)], 0),
        ([(0.1, 0.1, "a long label of a tick", 45), (0.1, 0.2, "a long label of a tick", -20)], 1),
        ([(0.1, 0.5, "one", 0), (0.1, 0.5, "   ", 0)], 0),
    ],
)
def test_texts_that_overlap_are_distinguished_from_those_that_do_not(texts, faults):
    found = figure_faults(_texts(*texts))
    assert len(found) == faults and all("overlap" in fault for fault in found)


def test_labels_of_ticks_outside_of_the_axes_do_not_count_and_crowded_ones_do():
    figure = Figure(figsize=(4, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1])
    axis.set(xticks=[0, 0.5, 1, 1.01, 1.02])
    axis.set(xlim=(0, 1))  # ticks move the limits
    assert figure_faults(figure) == []
    axis.set(xticks=[0, 1, 1.01], xticklabels=["nothing", "one", "one and a bit"])
    assert figure_faults(figure) == ["the texts 'one' and 'one and a bit' overlap"]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(0.15, 0.7, {"0.2", "0.3", "0.5"}), (0.008, 0.12, {"0.01", "0.02", "0.05", "0.1"}), (0.01, 20, {"10^{-1}", "10^{0}"})],
)
def test_labels_of_a_short_logarithmic_axis_do_not_run_into_each_other(low, high, labels):
    figure = Figure(figsize=(2.4, 2), dpi=90, layout="constrained")
    axis = figure.subplots()
    axis.plot([low, high], [0, 1])
    axis.set(xscale="log", xlim=(low, high))
    figure_file(figure, "a")
    assert figure_faults(figure) == []
    ticks = [*axis.xaxis.get_major_ticks(), *axis.xaxis.get_minor_ticks()]
    shown = {tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high} - {""}
    assert len(shown) >= 2 and all(any(label in text for text in shown) for label in labels)


def test_a_figure_larger_than_a_screen_is_reported_with_its_size():
    figure = _texts((0, 0, "bottom", 0), (0, 0.99, "top", 0), figsize=(2, 20))
    (fault,) = figure_faults(figure)
    assert "tall" in fault and 0.98 * 1800 < int(fault.split()[0]) <= 1800


def test_the_index_opens_with_what_the_last_notebook_found_and_names_are_no_markdown(tmp_path):
    for producer, sentence in (("00_one", "A first finding."), ("01_two", "Three of `a` are $x$ by <SAR>.")):
        record = Record(producer, tmp_path, "study", 0, {})
        record.figure(_texts((0.1, 0.5, "one", 0), (0.1, 0.5, "two", 0)), f"{producer}_figure", "two texts in one place")
        record.found([sentence])
        record.close()
        manifest = json.loads((tmp_path / f"manifest/{producer}.json").read_text())
        assert manifest["found"] == [sentence]
        assert manifest["figure_faults"] == [f"{producer}_figure: the texts 'one' and 'two' overlap"]
    title, _, box, *rest = (tmp_path / "index.md").read_text().splitlines()
    assert title.startswith("# Results") and box == "> **What we found**"
    text = "\n".join(rest)
    assert text.index(r"> - Three of \`a\` are \$x\$ by \<SAR>.") < text.index("## 00_one") < text.index("> - A first finding.")
    assert text.count("Three of") == 1 and folder_problems(tmp_path) == []


def test_smoke_is_not_written_over_study_and_changes_nothing(tmp_path):
    _record(tmp_path, profile="study")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="'study' with the stamp '', 'smoke' must not be written over"):
        Record("00_one", tmp_path, "smoke", 0, {})
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_notebook_knows_a_profile_of_the_users_own_by_the_claim_of_its_run(tmp_path):
    claim_folder(tmp_path, "mine", "a trial", "")
    assert Record("00_one", tmp_path, "mine", 0, {}).stamp == "a trial"
    with pytest.raises(InputError, match="'mine' with the stamp 'a trial', 'mine' with '' must not"):
        claim_folder(tmp_path, "mine", "", "")


def test_a_results_folder_keeps_to_its_data(tmp_path):
    claim_folder(tmp_path, "quick", "", "/a/sar")
    with pytest.raises(InputError, match="of the data folder /a/sar, not of /b/sar"):
        claim_folder(tmp_path, "quick", "", "/b/sar")


def test_earlier_results_stay_until_a_record_is_closed_and_what_it_no_longer_makes_is_removed(tmp_path):
    _record(tmp_path)
    record = Record("00_one", tmp_path, "smoke", 0, {})
    record.table(pd.DataFrame({"value": [7.0]}), "00_one_table", "another")
    assert pd.read_csv(tmp_path / "tables/00_one_table.csv")["value"].iloc[0] == 1.0 and folder_problems(tmp_path) == []
    record.close()
    assert pd.read_csv(tmp_path / "tables/00_one_table.csv")["value"].iloc[0] == 7.0 and folder_problems(tmp_path) == []
    assert not (tmp_path / "figures/00_one_figure.svg").exists()
    with pytest.raises(InputError, match="00_one has recorded one of this name"):  # two notebooks cannot share it
        Record("01_two", tmp_path, "smoke", 0, {}).figure(_figure(), "00_one_table", "x")
    for name in ("../x", "", "a b", "a/b"):
        with pytest.raises(InputError, match="plain file name"):
            Record("00_one", tmp_path, "smoke", 0, {}).figure(_figure(), name, "x")


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sarnb.data.files.Path.replace", full)
    with pytest.raises(InputError, match="x.txt: cannot be saved .No space left on device."):
        write_atomically(path, "new")
    assert path.read_text() == "old" and list(tmp_path.glob(".x*")) == []


def _found(folder, producer, *sentences, profile="quick"):
    record = Record(producer, folder, profile, 3, {"SEED": 3})
    record.found(sentences)
    record.close()


def test_a_page_opens_with_the_verdict_whatever_stood_between_its_marks(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"# Title\n{BOX}\nold words\n{BOX}\nthe rest\n")
    with pytest.raises(InputError, match=f"{VERDICT} has recorded no findings"):
        write_findings(tmp_path / "r", page)
    _found(tmp_path / "r", VERDICT, "The token <SAR> costs $2.", "Nothing else.")
    _found(tmp_path / "r", "13_more", "More.")
    for _ in range(2):  # again: the same page
        write_findings(tmp_path / "r", page)
        top, box, rest = page.read_text().split(BOX)
        assert (top, rest) == ("# Title\n", "\nthe rest\n") and "old words" not in box
        assert "> - The token \\<SAR> costs \\$2.\n> - Nothing else.\n" in box and "profile `quick`, seed 3" in box
    index = (tmp_path / "r/index.md").read_text()
    assert index.index("Nothing else.") < index.index(f"## {VERDICT}") < index.index("More.")
    page.write_text("no marks")
    with pytest.raises(InputError, match="0 lines"):
        write_findings(tmp_path / "r", page)
    assert page.read_text() == "no marks"
    _found(tmp_path / "s", VERDICT, "A smoke run.", profile="smoke")
    with pytest.raises(InputError, match="not a result"):
        write_findings(tmp_path / "s", page)

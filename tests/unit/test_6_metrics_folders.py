"""``evaluate`` on folders of every storage, and what it says of sets that cannot or should not be compared."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image
from tiny import tiny_tokenizer
from typer.testing import CliRunner

from sarnb.cli import app
from sarnb.comparison import compare_folders, sizes_table
from sarnb.data.dataset import load_set
from sarnb.data.imagefolder import load, read_captions, read_folder
from sarnb.errors import InputError
from sarnb.metrics import METRICS
from sarnb.metrics.describe import measure
from sarnb.metrics.evaluation import REFERENCE_FLOOR, evaluate
from sarnb.metrics.folders import LEAST_FOR_INTERVAL, Options, compare, shown_name
from sarnb.model.judge import build_judge, load_judge

QUICK = Options(resamples=20, halvings=5)


def speckle(count: int, seed: int = 0, scale: float = 40.0, size: int = 48) -> np.ndarray:
    """Rayleigh amplitude over smooth scenes, float64 [N, H, W], never above 250."""
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.gamma(8.0, scale / 8.0, (count, 4, 4)), np.ones((1, size // 4, size // 4)))
    return np.minimum(scene * rng.rayleigh(0.8, scene.shape), 250.0)


def write(folder: Path, images: np.ndarray, form: str = "png8", names: list[str] | None = None) -> Path:
    """Images in one of the storages; complex ones get a random phase."""
    phase = np.exp(2j * np.pi * np.random.default_rng(9).random(images.shape))
    for index, image in enumerate(images):
        path = folder / (names[index] if names else f"{index:03d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        match form:
            case "png8":
                Image.fromarray(np.rint(image).astype(np.uint8)).save(path.with_suffix(".png"))
            case "png16":
                Image.fromarray(np.rint(image * 200).astype(np.uint16)).save(path.with_suffix(".png"))
            case "tiff":
                with rasterio.open(
                    path.with_suffix(".tif"), "w", driver="GTiff", count=1, height=image.shape[0], width=image.shape[1], dtype="float32"
                ) as target:
                    target.write(image.astype(np.float32)[None])
            case "npy":
                np.save(path.with_suffix(".npy"), (image * phase[index]).astype(np.complex64))
    return folder


def command(real: Path, fake: Path, out: Path, *more: str):
    """``evaluate`` in one process, which has to end well."""
    words = ["evaluate", "--real", str(real), "--fake", str(fake), "--out", str(out), "--workers", "1", *more]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def pooled(table: pd.DataFrame, strategy: str) -> pd.Series:
    return table[(table["strategy"] == strategy) & (table["split"] == "pooled") & (table["class"] == "all")].set_index("metric")["value"]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("form", ["png16", "npy"])
def test_every_storage_gives_the_numbers_of_the_same_amplitudes(tmp_path: Path, form: str) -> None:
    images = speckle(24)
    found = {}
    for name in ("tiff", form):
        real, fake = write(tmp_path / name / "real", images[:12], name), write(tmp_path / name / "fake", images[12:], name)
        found[name] = compare(read_folder(real), read_folder(fake), QUICK)
    package, theirs = (pooled(found[name].table, "fake") for name in (form, "tiff"))
    for metric in ("amplitude_kl", "amplitude_cv", "texture_distance"):
        assert package[metric] == pytest.approx(theirs[metric], rel=0.02, abs=2e-3), metric


def test_8_bit_folders_give_what_evaluate_gives(tmp_path: Path) -> None:
    rows = [{"file_name": f"{k:03d}.png", "text": "a", "label": "ab"[k % 2], "group": "seen"} for k in range(12)]
    folders = [write(tmp_path / name, speckle(12, seed)) for seed, name in enumerate(("real", "fake"))]
    for folder in folders:
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = compare(*map(read_folder, folders), QUICK).table
    expected = evaluate("fake", 0, *(measure(load_set(folder)) for folder in folders), None, 20, 0)
    own = table[table["strategy"] == "fake"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own.drop(columns=["lo", "hi"]), expected.drop(columns=["lo", "hi"]))
    large = own["class"] == "all"
    assert own.loc[large, "lo"].equals(expected.loc[large, "lo"]) and own.loc[~large, "lo"].isna().all()


def test_chunks_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [write(tmp_path / name, speckle(11, seed)) for seed, name in enumerate(("real", "fake"))]
    first = compare(*map(read_folder, folders), QUICK).table
    monkeypatch.setattr("sarnb.metrics.folders.CHUNK", 2)
    second = compare(*(read_folder(folder, workers=2) for folder in folders), Options(resamples=20, halvings=5, workers=2)).table
    pd.testing.assert_frame_equal(first, second)


def test_the_command_prints_and_writes_the_same_numbers(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "real", speckle(20)), write(tmp_path / "generated", speckle(14, 5))
    done = command(real, fake, tmp_path / "out", "--resamples", "20")
    table = pd.read_csv(tmp_path / "out/evaluation.csv")
    value = pooled(table, "generated")["amplitude_kl"]
    report = (tmp_path / "out/evaluation.md").read_text()
    assert f"{value:.3g} [" in done.stdout and f"{value:.3g} [" in report
    assert "20 real and 14 generated images of 48 x 48 px" in done.stdout
    assert (
        "not computed: clip_cosine" in done.stdout and "no judge was given" in done.stdout and "clip_accuracy" not in set(table["metric"])
    )
    assert "Only 14 generated images: no Fréchet distance" in done.stdout and "texture_frechet: 20 real and 14" in report
    for name in METRICS:
        assert name in report, "every measure has a value or a reason"
    for phrase in ("real 8-bit: as stored", "256 bins", "20 resamples", "Amplitude laws", "rayleigh"):
        assert phrase in report, phrase
    figures = {path.stem: path for path in (tmp_path / "out/figures").iterdir()}
    assert set(figures) == {"images", "amplitude", "log_cumulants", "texture", "floor"}
    assert all(f"(figures/{path.name})" in report for path in figures.values())


def test_the_command_with_a_judge_gives_its_measures(tmp_path: Path) -> None:
    rows = [{"file_name": f"{k:03d}.png", "label": ("forest", "city")[k % 2], "group": "seen"} for k in range(16)]
    rows = [row | {"text": f"a radar image of a {row['label']} {k}"} for k, row in enumerate(rows)]
    folders = [write(tmp_path / name, speckle(16, seed)) for seed, name in enumerate(("real", "fake"))]
    for folder in folders:
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_judge(tiny_tokenizer("<|endoftext|>"), seed=1).save(tmp_path / "judge")
    done = command(*folders, tmp_path / "out", "--resamples", "5", "--clip", str(tmp_path / "judge"))
    assert "no judge was given" not in done.stdout
    package = pooled(pd.read_csv(tmp_path / "out/evaluation.csv"), "fake")
    meaning = [name for name, metric in METRICS.items() if name.startswith("clip_")]
    assert len(meaning) == 7 and set(meaning) <= set(package.index)
    direct = evaluate("fake", 0, *map(load_set, folders), load_judge(tmp_path / "judge"), 0)
    expected = pooled(direct, "fake")
    assert package[meaning].tolist() == pytest.approx(expected[meaning].tolist(), rel=1e-4, abs=1e-6)


def test_real_against_itself_is_below_its_floor(tmp_path: Path) -> None:
    real = write(tmp_path / "real", speckle(40))
    copy = shutil.copytree(real, tmp_path / "copy")
    found = compare(read_folder(real), read_folder(copy), QUICK)
    kl = [pooled(found.table, name)["amplitude_kl"] for name in ("copy", REFERENCE_FLOOR)]
    assert kl[0] == pytest.approx(0, abs=1e-12) and kl[1] > 1e-4
    assert any("40 of 40 generated images are real images too" in line for line in found.cautions)


def test_different_normalisations_are_noticed_and_own_scales_mend_them(tmp_path: Path) -> None:
    images = speckle(40)
    real, fake = write(tmp_path / "real", images[:20]), write(tmp_path / "fake", images[20:] / 2.5)
    sides = read_folder(real), read_folder(fake)
    plain, own = compare(*sides, QUICK), compare(*sides, Options(resamples=20, halvings=5, scale="own"))
    assert any(line.startswith("Normalisations differ") for line in plain.cautions)
    assert not any(line.startswith("Normalisations differ") for line in own.cautions)
    kl = [pooled(one.table, "fake")["amplitude_kl"] for one in (plain, own)]
    assert kl[1] < 0.2 * kl[0], "scaled alike, the same law is found again; levels stay filled in spite of the stretch"


def test_scaled_8_bit_values_fill_their_levels(tmp_path: Path) -> None:
    folder = read_folder(write(tmp_path / "a", speckle(4) / 5))
    scale = compare(folder, folder, Options(resamples=0, scale="own")).scales["real", "unstated", "8-bit"]
    counts = np.bincount(load(folder.images[0], scale, (48, 48)).ravel(), minlength=256)[:200]
    assert scale.scale < 60 and (counts[10:120] == 0).mean() < 0.2, "256 levels out of 50: without noise four of five are empty"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("forms", [("npy", "tiff"), ("tiff", "npy")])
def test_brightness_shows_whatever_the_storages_are(tmp_path: Path, forms: tuple[str, str]) -> None:
    images, kl = speckle(24), []
    for name, form in (("same", forms[0]), ("other", forms[1])):
        real, fake = write(tmp_path / name / "real", images[:12] / 2, forms[0]), write(tmp_path / name / "fake", images[12:], form)
        found = compare(read_folder(real), read_folder(fake), QUICK)
        assert len({scale.scale for scale in found.scales.values()}) == 1, "one scale, the real set's"
        assert any(line.startswith("Normalisations differ") for line in found.cautions)
        kl.append(pooled(found.table, "fake")["amplitude_kl"])
    assert kl[1] == pytest.approx(kl[0], rel=1e-3) and kl[0] > 0.3
    assert any("brightness is compared as if both were in one unit" in line for line in found.cautions)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_8_bit_real_set_gives_no_scale_and_that_is_said(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "real", speckle(12)), write(tmp_path / "fake", speckle(12, 1), "tiff")
    assert any(
        "differences of brightness are not measured" in line for line in compare(read_folder(real), read_folder(fake), QUICK).cautions
    )


def test_levels_that_8_bits_left_empty_are_filled_and_reported(tmp_path: Path) -> None:
    images = speckle(40)
    curve = np.rint((np.arange(256) / 255) ** 0.8 * 255)
    real, fake = write(tmp_path / "real", images[:20]), write(tmp_path / "fake", curve[np.rint(images[20:]).astype(int)])
    found = compare(read_folder(real), read_folder(fake), QUICK)
    assert any("are empty, or nearly so, in the generated images" in line for line in found.cautions)
    assert pooled(found.table, "fake")["amplitude_kl"] < 0.3


def test_captions_that_the_judge_cuts_are_counted(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, speckle(4, seed)) for seed, name in enumerate(("real", "fake"))]
    text = "a radar image of a city abcdefghijklmnop"  # the tokenizer reads 16 words and spells what it does not know
    for folder in folders:
        rows = [{"file_name": f"{k:03d}.png", "text": text + "xy"[k % 2], "label": "city"} for k in range(4)]
        (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = compare(*map(read_folder, folders), QUICK, build_judge(tiny_tokenizer("<|endoftext|>"), seed=1))
    (line,) = (line for line in found.cautions if line.startswith("The judge's captions"))
    assert "2 of 2 texts are longer than the 16 tokens that are read" in line and "2 of them then read like another one" in line


def test_images_in_two_sets_are_counted_and_spoil_no_threshold(tmp_path: Path) -> None:
    train, fresh = speckle(30, 3), speckle(20, 4)
    noisy = np.clip(train + np.random.default_rng(0).normal(0, 3, train.shape), 0, 255)
    real = write(tmp_path / "real", np.concatenate([noisy[:3], fresh[:17], fresh[:1]]))
    fake, known = write(tmp_path / "fake", np.concatenate([noisy[10:18], fresh[17:19]])), write(tmp_path / "train", train)
    found = compare(read_folder(real), read_folder(fake), QUICK, train=read_folder(known))
    for words in (
        "3 of 21 real images are training images too",
        "8 of 10 generated images are training",
        "2 of 21 real images are there twice",
    ):
        assert any(line.startswith(words) for line in found.cautions), words
    assert pooled(found.table, "fake")["memorised_fraction"] == 0.8


def test_places_that_are_in_two_sets_by_other_passes_are_reported_where_they_raise_a_threshold(tmp_path: Path) -> None:
    """Layout twice, speckle anew: nothing but the threshold tells, and it hides what is as near."""
    layouts = np.kron(np.random.default_rng(0).gamma(4.0, 10.0, (30, 12, 12)), np.ones((1, 8, 8)))
    passes = [np.minimum(layouts * np.random.default_rng(seed).rayleigh(0.8, layouts.shape), 250) for seed in range(3)]
    fake, known = write(tmp_path / "fake", passes[1][:10]), write(tmp_path / "train", passes[0][:15])
    for count in (0, 5):
        real = write(tmp_path / f"real{count}", np.concatenate([passes[2][:count], passes[2][15 : 30 - count], passes[1][20 : 20 + count]]))
        found = compare(read_folder(real), read_folder(fake), QUICK, train=read_folder(known))
        lines = [line for line in found.cautions if line.startswith("Real images are so near to")]
        reported = [[words in line for line in lines] for words in ("training images that memorised_", "each other that duplicate_")]
        assert reported == ([[False, True], [True, False]] if count else [[], []])
        assert (pooled(found.table, "fake")["memorised_fraction"] == 1.0) == (count == 0)


def test_any_folder_and_class_name_has_rows_and_figures_of_its_own(tmp_path: Path) -> None:
    for name in ("reference", "reference vs reference", "optical as grey", "_hidden"):  # legends hide what begins with a line
        assert shown_name(tmp_path / name) == f"generated {name}"
    places, name = [f"{label}/{k}" for label in ("all", "$\\frac$") for k in range(4)], "a$b$c|d"
    real, fake = write(tmp_path / "real", speckle(8), names=places), write(tmp_path / name, speckle(8, 1), names=places)
    found = compare_folders(real, fake, tmp_path / "out", replace(QUICK, resamples=0))
    assert set(found.table["strategy"]) == {name, REFERENCE_FLOOR}
    assert not found.table.duplicated(["strategy", "split", "class", "metric"]).any()
    assert {"all", "all (class)", "$\\frac$"} == set(found.table["class"])
    svg, report = (tmp_path / "out/figures/texture.svg").read_text(), (tmp_path / "out/evaluation.md").read_text()
    assert f">{name}<" in svg, "as it is written, in the legend too"
    sizes = report[report.index("## Images") : report.index("## Protocol")].splitlines()
    assert [line.replace(r"\|", "").count("|") for line in sizes if line.startswith("|")] == [4] * 5


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_intensities_are_compared_as_amplitudes_and_8_bit_drawings_stay(tmp_path: Path) -> None:
    images, fake = speckle(24), write(tmp_path / "fake", speckle(12, 5))
    sets = write(tmp_path / "amplitude", images, "tiff"), write(tmp_path / "intensity", images**2, "tiff")
    tables = []
    for real, quantity in zip(sets, ("amplitude", "intensity")):
        done = command(real, fake, tmp_path / f"out-{quantity}", "--resamples", "0", "--quantity", quantity)
        tables.append(pooled(pd.read_csv(tmp_path / f"out-{quantity}" / "evaluation.csv"), "fake"))
    assert "! real intensity: 24 of 24 images, float: intensity, as requested" in done.stdout
    assert tables[1].tolist() == pytest.approx(tables[0].tolist(), rel=1e-3, abs=1e-6)


def test_sensors_are_reported_and_can_be_chosen(tmp_path: Path) -> None:
    names = [f"{label}/{k}" for label in ("sea", "city") for k in range(10)]
    real, fake = write(tmp_path / "x/real", speckle(20), names=names), write(tmp_path / "x/fake", speckle(20, 1), names=names)
    for folder, second in ((real, "B"), (fake, "C")):
        lines = [f"{name}.png,{'A' if k % 2 else second}" for k, name in enumerate(names)]
        (folder / "index.csv").write_text("file,sensor\n" + "\n".join(lines))
    sides = read_folder(real), read_folder(fake)
    lines = compare(*sides, QUICK).cautions
    assert any("different sensors, real: A 10, B 10; generated: A 10, C 10" in line and "--sensor (A)" in line for line in lines)
    one = compare(*sides, Options(resamples=20, halvings=5, sensor="A"))
    assert len(one.real) == 10 and not any("sensors" in line for line in one.cautions)
    with pytest.raises(InputError, match="no image of the sensor 'D'; it has A, B"):
        compare(*sides, Options(sensor="D"))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("named", ["", "C"])
def test_images_of_no_real_sensor_are_not_scaled_by_a_mixture_of_sensors(tmp_path: Path, named: str) -> None:
    images = speckle(24)
    images[6:12] *= 100
    real, fake = write(tmp_path / "x/real", images[:12], "tiff"), write(tmp_path / "x/fake", images[12:], "tiff")
    (real / "index.csv").write_text("file,sensor\n" + "\n".join(f"{k:03d}.tif,{'A' if k < 6 else 'B'}" for k in range(12)))

    def name_all(sensor: str) -> None:
        (fake / "index.csv").write_text("file,sensor\n" + "\n".join(f"{k:03d}.tif,{sensor}" for k in range(12)))

    name_all(named)
    with pytest.raises(InputError, match=f"fake: its float images are of the sensor '{named or 'unstated'}', .*A .*, B .*--scale own"):
        compare(read_folder(real), read_folder(fake), QUICK)
    assert pooled(compare(read_folder(real), read_folder(fake), replace(QUICK, scale="own")).table, "fake")["amplitude_kl"] < 0.02
    name_all("A")
    assert pooled(compare(read_folder(real), read_folder(fake), QUICK).table, "fake")["amplitude_kl"] < 0.02


def test_classes_of_one_side_are_named_and_left_out(tmp_path: Path) -> None:
    real = write(tmp_path / "real", speckle(12), names=[f"{'abc'[k % 3]}/{k}" for k in range(12)])
    fake = write(tmp_path / "fake", speckle(12, 1), names=[f"{'abd'[k % 3]}/{k}" for k in range(12)])
    found = compare(read_folder(real), read_folder(fake), QUICK)
    assert "Only on the real side, and therefore left out: c (4), 4 of 12 images." in found.cautions
    assert "Only on the generated side, and therefore left out: d (4), 4 of 12 images." in found.cautions
    assert sizes_table(found).to_numpy().tolist() == [["a", 4, 4], ["b", 4, 4], ["all", 8, 8]]
    other = write(tmp_path / "other", speckle(4, 2), names=[f"z/{k}" for k in range(4)])
    with pytest.raises(
        InputError, match="no class in common: .*; give labels by --captions, or compare without classes by --ignore-classes"
    ):
        compare(read_folder(real), read_folder(other), QUICK)
    assert len(compare(read_folder(real), read_folder(other), Options(resamples=0, by_class=False)).fake) == 4


def test_captions_describe_images_and_name_those_that_are_missing(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "real", speckle(8)), write(tmp_path / "fake", speckle(8, 1), names=[f"g{k}" for k in range(8)])
    rows = [{"file_name": f"{k:03d}.png", "label": "ab"[k % 2]} for k in range(8)] + [
        {"file_name": f"g{k}.png", "label": "ab"[k % 2], "text": f"a picture of {k}", "look": "left"} for k in range(8)
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = read_captions(path, (fake, real))
    found = compare(read_folder(real, given), read_folder(fake, given), QUICK)
    assert found.fake.captions[3] == "a picture of 3" and found.fake.looks[0] == "left" and found.real.labels[:2] == ("a", "b")
    path.write_text("\n".join(map(json.dumps, [*rows, {"file_name": "none.png"}, {"file_name": "nor.png"}])))
    with pytest.raises(InputError, match="line 17: 'none.png' is no image of .*fake or .*real \\(2 of 18 captions are without an image\\)"):
        read_captions(path, (fake, real))
    path.write_text("")
    with pytest.raises(InputError, match="has no rows"):
        read_captions(path, (fake, real))


def test_small_sets_have_values_but_no_intervals(tmp_path: Path) -> None:
    real, fake = write(tmp_path / "real", speckle(20)), write(tmp_path / "fake", speckle(LEAST_FOR_INTERVAL - 1, 1))
    found = compare(read_folder(real), read_folder(fake), QUICK)
    package = found.table[found.table["strategy"] == "fake"]
    assert package["value"].notna().all() and package[["lo", "hi"]].isna().all(axis=None)
    assert any("Only 9 generated images: too few for intervals (10 needed)" in line for line in found.cautions)
    assert found.table.loc[found.table["strategy"] == REFERENCE_FLOOR, "lo"].notna().any()


def test_the_least_number_for_an_interval_is_where_coverage_begins_to_fail() -> None:
    rng = np.random.default_rng(0)
    coverage = {}
    for count in (4, LEAST_FOR_INTERVAL):  # percentile intervals of a mean, in closed form of its resampling: by simulation
        samples = rng.normal(size=(2000, count))
        means = np.take_along_axis(samples[:, None], rng.integers(0, count, (2000, 200, count)), axis=2).mean(2)
        low, high = np.quantile(means, [0.025, 0.975], axis=1)
        coverage[count] = ((low <= 0) & (high >= 0)).mean()
    assert coverage[4] < 0.82 < 0.88 < coverage[LEAST_FOR_INTERVAL]


def test_all_zero_and_saturated_images_are_reported(tmp_path: Path) -> None:
    images = np.rint(speckle(12, 1)).astype(np.uint8)
    images[:2], images[2:, :20] = 0, 255
    real, fake = write(tmp_path / "real", speckle(12)), write(tmp_path / "fake", images)
    lines = compare(read_folder(real), read_folder(fake), QUICK).cautions
    assert any("2 of 12 generated images have one value only" in line for line in lines)
    assert any("of the generated pixels are zero" in line for line in lines) and any(
        "of the generated pixels are saturated" in line for line in lines
    )
    with pytest.raises(InputError, match="every image has one value only"):
        read_folder(write(tmp_path / "black", np.zeros((3, 48, 48))))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: np.save(d / "z.npy", np.full((48, 48), np.nan, np.float32)), r"z.npy: has no pixel of data"),
        (lambda d: (d / "z.png").write_bytes(b"no picture"), r"z.png: cannot be read as an image"),
        (
            lambda d: Image.fromarray(np.zeros((40, 48), np.uint8)).save(d / "z.png"),
            r"2 different sizes, such as 40 x 48 px \(z.png\) and 48 x 48 px .*--size 40",
        ),
        (
            lambda d: [path.unlink() for path in sorted(d.iterdir())[1:]],
            r"1 image\(s\) as the generated set; a comparison of sets needs at least 2",
        ),
        (lambda d: [path.unlink() for path in d.iterdir()], r"holds no image of a form read here"),
        (lambda d: (d / "below").mkdir() or (d / "below/metadata.jsonl").write_text("{}"), r"lies below"),
    ],
)
def test_bad_folders_are_reported_in_one_sentence(tmp_path: Path, damage, message: str) -> None:
    real, fake = write(tmp_path / "real", speckle(4)), write(tmp_path / "fake", speckle(4, 1))
    damage(fake)
    with pytest.raises(InputError, match=message) as caught:
        compare_folders(real, fake, tmp_path / "out", QUICK)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_bad_options(tmp_path: Path) -> None:
    real = write(tmp_path / "real", speckle(4))
    with pytest.raises(InputError, match="there is no such folder"):
        compare_folders(tmp_path / "none", real, tmp_path / "out", QUICK)
    with pytest.raises(InputError, match="lies in .* what this call reads"):
        compare_folders(real, real, real / "out", QUICK)
    with pytest.raises(InputError, match="smaller than the 64 px to compare"):
        compare(read_folder(real), read_folder(real), Options(size=64))
    with pytest.raises(InputError, match="no readable dual encoder"):
        compare_folders(real, real, tmp_path / "out", QUICK, clip=str(tmp_path / "judge"))
    for wrong in ({"scale": "both"}, {"size": 8}, {"resamples": -1}):
        with pytest.raises(InputError):
            Options(**wrong)
    assert not (tmp_path / "out").exists()


REAL = os.environ.get("SARNB_REAL_DATA", "")


@pytest.mark.skipif(not REAL, reason="set SARNB_REAL_DATA to a folder of real radar images in class folders")
def test_real_cities_are_nearer_to_cities_than_to_water_and_another_sensor_is_named() -> None:
    if not all((Path(REAL) / name).is_dir() for name in ("city", "water")):
        pytest.skip("the folder holds no cities and water")
    city, water = (read_folder(Path(REAL) / name) for name in ("city", "water"))
    sensors = [{image.sensor for image in folder.images} for folder in (city, water)]
    if not {"Sentinel-1", "RADARSAT"} <= sensors[0] or "Sentinel-1" not in sensors[1]:
        pytest.skip("the folder tells no sensors Sentinel-1 and RADARSAT")

    def of(folder, sensor, half=None):
        own = folder.where(lambda image: image.sensor == sensor)
        return own if half is None else replace(own, images=own.images[half::2])

    options, first = Options(size=128, resamples=0), of(city, "Sentinel-1", 0)
    others = {"city": of(city, "Sentinel-1", 1), "water": of(water, "Sentinel-1"), "RADARSAT": of(city, "RADARSAT")}
    found = {name: compare(first, other, options) for name, other in others.items()}
    kl = {name: pooled(one.table, one.name)["amplitude_kl"] for name, one in found.items()}
    assert kl["city"] < kl["water"]
    warned = {name: any("hold different sensors" in line for line in one.cautions) for name, one in found.items()}
    assert warned == {"city": False, "water": False, "RADARSAT": True}

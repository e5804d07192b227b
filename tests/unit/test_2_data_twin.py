"""The twin data set: the same for any number of workers, resumable, no scene in two splits, readable by others."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from sarnb.data import twin
from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import ImageSet, load_card, load_set
from sarnb.data.files import CARD, README, height_levels, height_metres, ordered_map, write_rows, write_set
from sarnb.data.twin import SplitSpec, build_twin, ground_radar, sample_radar, twin_sample
from sarnb.errors import InputError
from sarnb.train.finetune import partners_of
from sarnb.world.backscatter import CODE
from sarnb.world.optical import default_sun
from sarnb.world.radar import PRESETS, amplitude, simulate
from sarnb.world.scene import CLASSES, COMPOSITIONS, COVERS, SEEN, UNSEEN, Scene, make_scene

SIZE = 48
SMALL = {"train": SplitSpec(SEEN, 36), "val": SplitSpec(("city",), 2), "test": SplitSpec(("river+forest", "stadium", "coast"), 3)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("twin") / "data"
    build_twin(out, SMALL, size=SIZE, seed=5, workers=1)
    return out


def double(value: int) -> int:
    return 2 * value


def fail_at_three(value: int) -> int:
    if value == 3:
        raise InputError("three")
    return value


def test_ordered_map_keeps_the_order_and_passes_errors_on() -> None:
    for workers in (1, 3):
        assert list(ordered_map(double, range(7), workers)) == [0, 2, 4, 6, 8, 10, 12]
        with pytest.raises(InputError, match="three"):
            list(ordered_map(fail_at_three, range(7), workers))
    assert list(ordered_map(double, [], 2)) == []


def test_seeds_do_not_meet_between_sets() -> None:
    names = ("train", "val", "test", "judge", "optical", "facts")
    seeds = {twin.scene_seed(seed, name, index) for seed in (0, 1) for name in names for index in range(300)}
    assert len(seeds) == 2 * len(names) * 300 and max(seeds) < 2**48
    assert twin.scene_seed(0, "train", 0) == twin.scene_seed(0, "train", 0)


def test_groups_and_study_splits() -> None:
    assert [twin.scene_group(kind) for kind in ("city", "airport", "river+forest")] == ["seen", "unseen", "composition"]
    shown = ("airport", "river+forest")
    assert [twin.scene_group(kind, shown) for kind in ("city", "airport", "river+forest")] == ["unseen", "seen", "seen"]
    splits = twin.study_splits(64, 16, 3, 50)
    for split in ("train", "val"):
        assert not set(splits[split].kinds) & {*UNSEEN, *COMPOSITIONS}, "the study may not show what it asks about"
        assert set(splits[split].kinds) == set(SEEN)
    assert splits["test"].count == 3 * len(CLASSES + COMPOSITIONS) and set(UNSEEN) < set(splits["judge"].kinds)
    assert [index for piece in twin.chunks(70) for index in piece] == list(range(70))


def imbalance(values: Iterable[object]) -> int:
    """How much more often the commonest value comes than the rarest."""
    counts = Counter(values).values()
    return max(counts) - min(counts)


@pytest.mark.parametrize(
    ("count", "totals"), [(21, (17, 2, 2)), (60, (48, 6, 6)), (64, (52, 6, 6)), (170, (136, 17, 17)), (1_200, (960, 120, 120))]
)
def test_general_splits_are_80_10_10_with_every_kind_equally_often(count: int, totals: tuple[int, ...]) -> None:
    splits = twin.general_splits(count)
    assert tuple(spec.count for spec in splits.values()) == totals
    shown = {name: [spec.scene(index)[0] for index in range(spec.count)] for name, spec in splits.items()}
    assert imbalance(kind for kinds in shown.values() for kind in kinds) <= 1 and set(shown["train"]) == set(twin.EVERYTHING)
    assert all(imbalance(kinds) <= 1 for kinds in shown.values())
    assert not {*shown["val"]} & {*shown["test"]} or count > 85, "few held-out scenes show different kinds"


@pytest.mark.parametrize("count", [*range(21, 90), 1_199])
def test_sides_of_illumination_are_balanced_in_every_split_and_kind(count: int) -> None:
    for spec in (*twin.general_splits(count).values(), *twin.study_splits(count, count // 2, 3, 10 + count).values()):
        scenes = [spec.scene(index) for index in range(spec.count)]
        assert abs(sum(1 if turn % 2 else -1 for _, turn in scenes)) <= 1
        for kind in spec.kinds:
            assert abs(sum(1 if turn % 2 else -1 for name, turn in scenes if name == kind)) <= 1


def test_optical_scenes_are_balanced_and_independent_of_workers_and_count() -> None:
    kinds = ("city", "river+forest", "airport")
    images, captions, labels = twin.twin_optical(35, seed=2, size=SIZE, workers=1, kinds=kinds)
    again, captions_again, _ = twin.twin_optical(34, seed=2, size=SIZE, workers=2, kinds=kinds)
    assert images.dtype == np.uint8 and images.shape == (35, SIZE, SIZE, 3)
    assert np.array_equal(images[:34], again) and captions[:34] == captions_again
    assert labels[:4] == ["city", "river+forest", "airport", "city"] and all(len(texts) == 3 for texts in captions)
    assert not np.array_equal(images[0], images[3])
    with pytest.raises(InputError, match="moon"):
        twin.twin_optical(3, seed=0, kinds=("moon",))


@pytest.mark.slow
def test_same_bytes_for_two_workers_and_after_a_kill(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_twin(tmp_path / "two", SMALL, size=SIZE, seed=5, workers=2)
    assert contents(tmp_path / "two") == contents(built)

    drawn, real = [], twin._draw_chunk

    def dying(piece: range, **options: object) -> None:
        drawn.append(piece.start)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        real(piece, **options)

    monkeypatch.setattr(twin, "_draw_chunk", dying)
    with pytest.raises(KeyboardInterrupt):
        build_twin(tmp_path / "killed", SMALL, size=SIZE, seed=5, workers=1)
    with pytest.raises(InputError, match="unfinished"):
        load_card(tmp_path / "killed")
    build_twin(tmp_path / "killed", SMALL, size=SIZE, seed=5, workers=1)
    assert drawn[:3] == [0, 32, 32], "the finished chunk must not be drawn again"
    assert contents(tmp_path / "killed") == contents(built)


def test_a_finished_set_is_reused_a_lost_image_drawn_again_and_another_set_replaced(tmp_path: Path) -> None:
    splits = {"train": SplitSpec(("city",), 2)}
    card = build_twin(tmp_path / "d", splits, size=SIZE, seed=1)
    marked = tmp_path / "d/train/000000.png"
    before = marked.stat().st_mtime_ns
    assert build_twin(tmp_path / "d", splits, size=SIZE, seed=1) == card and marked.stat().st_mtime_ns == before
    whole = contents(tmp_path / "d")
    (tmp_path / "d/train/000001.png").unlink()
    build_twin(tmp_path / "d", splits, size=SIZE, seed=1)
    assert contents(tmp_path / "d") == whole
    other = build_twin(tmp_path / "d", splits, size=SIZE, seed=2)
    assert other["fingerprint"] != card["fingerprint"] and marked.stat().st_mtime_ns != before
    shutil.rmtree(tmp_path / "d/train")
    assert build_twin(tmp_path / "d", splits, size=SIZE, seed=2)["complete"] and marked.is_file()


def test_notes_put_into_what_a_killed_call_left_stay_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {"train": SplitSpec(("city",), 2)}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(twin, "_draw_chunk", Mock(side_effect=KeyboardInterrupt))
        build_twin(tmp_path / "d", splits, size=SIZE, seed=1, workers=1)
    (tmp_path / "d/notes.txt").write_text("mine")
    for seed in (1, 2):
        with pytest.raises(InputError, match="holds notes.txt, not written here"):
            build_twin(tmp_path / "d", splits, size=SIZE, seed=seed, workers=1)
    (tmp_path / "d/notes.txt").rename(tmp_path / "notes.txt")
    assert build_twin(tmp_path / "d", splits, size=SIZE, seed=1, workers=1)["complete"]


def test_the_scales_are_those_of_the_training_amplitudes(built: Path) -> None:
    card, train, test = load_card(built), load_set(built / "train"), load_set(built / "test")
    radar = ground_radar("airborne-x")

    def amplitudes(images: ImageSet, kinds: tuple[str, ...], view: str) -> np.ndarray:
        turns = [side == "right" for side in images.column("look")]
        samples = zip(images.labels, images.column("seed"), turns, strict=True)
        return np.stack([getattr(twin_sample(k, s, sample_radar(radar, s, t), SIZE), view) for k, s, t in samples])

    for view, fitted in (("sar", card), ("satellite", card["satellite"])):
        sar = amplitudes(train, SEEN, view)
        assert fitted["mu"] == pytest.approx(sar.mean(dtype=np.float64), rel=1e-6)
        assert fitted["sigma"] == pytest.approx(sar.std(dtype=np.float64), rel=1e-6)
        for images, kinds in ((train, SEEN), (test, SMALL["test"].kinds)):
            unit = np.clip(amplitudes(images, kinds, view) / (fitted["mu"] + 3 * fitted["sigma"]), 0, 1)
            stored = images.images if view == "sar" else images.satellite()
            assert np.abs(stored - 255 * unit).max() <= 0.5 + 1e-3
    for split, images in (("train", train), ("test", test)):
        unit = images.images / 255
        reported = card["statistics"][split]
        assert reported["mean"] == pytest.approx(unit.mean()) and reported["clipped"] == pytest.approx((unit == 1).mean())
        assert reported["cv"] == pytest.approx(np.mean([image.std() / image.mean() for image in unit]))


def test_rows_tell_the_truth_about_the_scene(built: Path) -> None:
    train, test = load_set(built / "train"), load_set(built / "test")
    assert train.labels[:8] == SEEN and set(train.column("group")) == {"seen"}
    assert test.labels == ("river+forest", "stadium", "coast") and test.column("group") == ("composition", "unseen", "seen")
    assert [len(train.where(label="city", look=side)) for side in ("left", "right")] == [3, 2]
    assert set(train.column("incidence")) == {30.0, 40.0, 50.0}
    for images in (train, test):
        for row, text in zip(images.rows, images.captions, strict=True):
            assert text in row["captions"] and len(row["captions"]) == 3 and isinstance(row["counts"], dict)
            assert {row["look"], row["shadow"]} == {"left", "right"}
            texts = " ".join(row["captions"])
            assert set(re.findall(r"(?:from|radar on) the (left|right)", texts)) == {row["look"]}
            assert set(re.findall(r"shadows (?:to|on) the (left|right)", texts)) <= {row["shadow"]}
            scene = make_scene(row["label"], row["seed"], SIZE)
            sun = default_sun(scene)
            assert (row["counts"], row["season"]) == (scene.counts, scene.season)
            assert (row["sun_azimuth"], row["sun_elevation"]) == pytest.approx((sun.azimuth, sun.elevation), abs=0.005)
        optical, masks = images.optical(), images.masks()
        assert optical.shape == (len(images), SIZE, SIZE, 3) and masks.max() < len(COVERS)
    sample = twin_sample("stadium", test.rows[1]["seed"], sample_radar(ground_radar("airborne-x"), test.rows[1]["seed"], 0), SIZE)
    assert np.array_equal(test.optical()[1], sample.optical) and np.array_equal(test.masks()[1], sample.mask)
    assert test.heights().dtype == np.float32 and np.abs(test.heights()[1] - sample.height).max() <= 0.051
    assert test.satellite().shape == (3, SIZE // 4, SIZE // 4)


def test_heights_in_16_bits() -> None:
    heights = np.array([[-1000.0, -3.0, 0.0, 48.26, 5553.5]])
    assert height_levels(heights).dtype == np.uint16
    np.testing.assert_allclose(height_metres(height_levels(heights)), heights, atol=0.0501)
    assert height_levels(np.array([-2000.0, 9000.0])).tolist() == [0, 65535]


def test_the_satellite_view_shows_the_same_scene_from_the_same_side() -> None:
    """Averaged over 4 x 4 cells the two agree far better than with the view from the other side, or of another scene."""
    agree, other_side, other_scene = [], [], []
    views = {}
    for seed in range(6):
        radar = replace(ground_radar("airborne-x"), incidence_deg=35.0)
        fine, coarse = (twin_sample("city", seed, replace(radar, look=look), 64) for look in ("left", "right"))
        power = (fine.sar**2).reshape(16, 4, 16, 4).mean(axis=(1, 3))
        views[seed] = np.log(power), np.log(fine.satellite**2), np.log(coarse.satellite**2)
    for seed, (fine, same, opposite) in views.items():
        agree.append(np.corrcoef(fine.ravel(), same.ravel())[0, 1])
        other_side.append(np.corrcoef(fine.ravel(), opposite.ravel())[0, 1])
        other_scene.append(np.corrcoef(fine.ravel(), views[(seed + 1) % 6][1].ravel())[0, 1])
    assert np.mean(agree) > 0.4 and np.mean(agree) > np.mean(other_side) + 0.15 and abs(np.mean(other_scene)) < 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"val": SplitSpec(SEEN, 8)}}, "give train"),
        ({"splits": {"train": SplitSpec(SEEN, 8), "extra": SplitSpec(SEEN, 8)}}, "splits are"),
        ({"size": 24}, "size is 24 px; give 32 or more"),
        ({"size": 60}, "size is 60 px; give 32 or more, and a multiple of 8"),
        ({"seed": -1}, "seed is -1"),
        ({"workers": 0}, "workers is 0"),
        ({"sensor": "radarsat"}, "unknown sensor 'radarsat'"),
    ],
)
def test_impossible_requests_write_nothing(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        build_twin(tmp_path / "out", **{"splits": SMALL, **options})
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="cannot show 8 kinds"):
        SplitSpec(SEEN, 7)


def test_a_general_set_counts_every_shown_kind_as_seen_and_has_each_scene_once(tmp_path: Path) -> None:
    card = build_twin(tmp_path / "d", twin.general_splits(60), size=32, seed=3, workers=1)
    assert card["totals"] == {"train": 48, "val": 6, "test": 6}
    assert sorted(card["groups"]["seen"]) == sorted(twin.EVERYTHING) and not card["groups"]["unseen"]
    sets = {split: load_set(tmp_path / "d" / split) for split in card["totals"]}
    for split, images in sets.items():
        assert set(images.column("group")) == {"seen"} and Counter(images.labels) == card["counts"][split]
        assert Counter(images.column("look")) == {side: card["totals"][split] // 2 for side in ("left", "right")}
    assert len({seed for images in sets.values() for seed in images.column("seed")}) == 60
    assert len({picture.tobytes() for images in sets.values() for picture in images.optical()}) == 60


@pytest.mark.slow
def test_sets_of_other_sensors_show_the_same_scenes(tmp_path: Path) -> None:
    splits = {"train": SplitSpec(("city", "coast"), 4)}
    sets = {}
    for sensor in ("airborne-x", "umbra", "sentinel-1"):
        build_twin(tmp_path / sensor, splits, sensor, size=32, seed=2, workers=1)
        sets[sensor] = load_set(tmp_path / sensor / "train")
    first = sets["airborne-x"]
    for sensor, images in sets.items():
        for truth in ("masks", "optical", "heights"):
            assert np.array_equal(getattr(images, truth)(), getattr(first, truth)())
        for column in ("seed", "look", "label", "counts"):
            assert images.column(column) == first.column(column)
        assert set(images.column("sensor")) == {sensor}
    assert not np.array_equal(sets["umbra"].images, first.images)
    assert "C band" in sets["sentinel-1"].rows[0]["captions"][2] and "22.0 m" in sets["sentinel-1"].rows[0]["captions"][2]


def test_rows_are_written_one_at_a_time(tmp_path: Path) -> None:
    written = []

    def rows():
        for number in range(3):
            written.append(sum(len(path.read_bytes()) for path in tmp_path.iterdir()) if number else 0)
            yield {"text": "x" * 100_000}

    write_rows(tmp_path / "metadata.jsonl", rows())
    assert written[0] == 0 < written[1] < written[2], "a row is on the disk before the next one is drawn"
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.jsonl"]


def test_image_sets_select_and_refuse(built: Path, tmp_path: Path) -> None:
    train = load_set(built / "train")
    part = train.subset([3, 1])
    assert part.ids == ("000003.png", "000001.png") and np.array_equal(part.images, train.images[[3, 1]])
    assert part.where(label=("forest", "city")).labels == ("forest",) and len(part.where(label="coast")) == 0
    assert part.all_captions()[0] == train.rows[3]["captions"]
    with pytest.raises(InputError, match="no column 'colour'"):
        train.column("colour")
    write_set(tmp_path / "s", train.images[:2], [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    copy = load_set(tmp_path / "s")
    assert copy.captions == ("a", "b") and copy.optical() is None and np.array_equal(copy.images, train.images[:2])
    Image.fromarray(train.images[0][:20]).save(tmp_path / "s/000001.png")
    with pytest.raises(InputError, match="different sizes"):
        load_set(tmp_path / "s")
    (tmp_path / "s/000001.png").write_bytes(b"x")
    with pytest.raises(InputError, match="000001.png: cannot be read"):
        load_set(tmp_path / "s")
    with pytest.raises(InputError, match="has no metadata.jsonl"):
        load_set(tmp_path)
    with pytest.raises(InputError, match="2 images but 1 metadata rows"):
        write_set(tmp_path / "t", train.images[:2], [{}])


@pytest.mark.parametrize("by_card", [False, True])
def test_hugging_face_datasets_reads_it(by_card: bool, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    named = {"path": str(built)} if by_card else {"path": "imagefolder", "data_dir": str(built)}
    loaded = datasets.load_dataset(**named, cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 36, "validation": 2, "test": 3}
    first, own = loaded["test"][0], load_set(built / "test")
    assert np.array_equal(np.asarray(first["image"]), own.images[0]) and first["text"] == own.captions[0]
    assert np.array_equal(np.asarray(first["optical"]), own.optical()[0])
    assert np.array_equal(np.asarray(first["mask"]), own.masks()[0])
    assert json.loads(first["counts"]) == own.rows[0]["counts"]
    assert np.array_equal(np.asarray(first["satellite"]), own.satellite()[0])
    np.testing.assert_allclose(height_metres(np.asarray(first["height"])), own.heights()[0])
    assert np.array_equal(np.asarray(loaded["train"][7]["image"]), load_set(built / "train").images[7])
    assert (built / README).stat().st_size > 1000 and json.loads((built / CARD).read_text())["complete"]


# Every preset on the common ground grid: geometry, resolution and noise as the sensor has them, speckle of its own.


def flat_field(size: int = 128) -> Scene:
    """Level grass: what varies in its images is speckle alone."""
    zero = np.zeros((size, size), np.float32)
    cover = np.full((size, size), CODE["grass"], np.uint8)
    return Scene("crop fields", zero, zero, cover, zero, np.zeros((0, 5), np.float32), twin.GROUND_SPACING_M, "summer")


def width_at_half(correlation: np.ndarray) -> float:
    """The lag, in cells, at which a falling correlation crosses one half."""
    after = int(np.argmax(correlation < 0.5))
    high, low = correlation[after - 1], correlation[after]
    return after - 1 + (high - 0.5) / (high - low)


def view(kind: str, seed: int, sensor: str, size: int = 64, turn: int = 0) -> np.ndarray:
    """Amplitude of a scene as the data set of that sensor shows it."""
    return twin_sample(kind, seed, sample_radar(ground_radar(sensor), seed, turn), size).sar


@pytest.mark.parametrize("sensor", PRESETS)
def test_every_preset_lies_on_the_ground_grid(sensor: str) -> None:
    radar, preset = ground_radar(sensor), PRESETS[sensor]
    assert radar.geometry == "ground" and radar.spacing_m == (twin.GROUND_SPACING_M, twin.GROUND_SPACING_M)
    for name in ("name", "band", "frequency_ghz", "incidence_deg", "looks", "nesz_db", "polarisation"):
        assert getattr(radar, name) == getattr(preset, name)
    assert all(mine >= theirs for mine, theirs in zip(radar.resolution_m, preset.resolution_m))
    sample = twin_sample("city", 3, sample_radar(radar, 3, 1), SIZE)
    assert sample.sar.shape == (SIZE, SIZE) and sample.sar.dtype == np.float32 and sample.sar.min() >= 0
    assert sample.row["look"] == "right"
    np.testing.assert_array_equal(amplitude(simulate(*twin.redraw_scene(sample.row, SIZE))), sample.sar)


def test_coarse_resolutions_are_kept_and_fine_ones_are_cut_to_the_grid() -> None:
    assert ground_radar("sentinel-1").resolution_m == PRESETS["sentinel-1"].resolution_m
    assert ground_radar("airborne-x") == PRESETS["airborne-x"]
    assert ground_radar("umbra").resolution_m == pytest.approx((1.1875 * 2, 1.1875 * 2), rel=1e-3)  # Taylor, -35 dB, nbar 5
    assert ground_radar("terrasar-x").resolution_m == pytest.approx((1.1875 * 2, 3.3), rel=1e-3)
    with pytest.raises(InputError, match="unknown sensor 'radarsat'"):
        ground_radar("radarsat")


def test_sentinel_1_is_as_coarse_in_the_image_as_its_resolution_says() -> None:
    """Speckle correlates over the resolution: about ten cells for Sentinel-1 at 2 m, about one for the airborne radar."""
    widths = {}
    for sensor in ("airborne-x", "sentinel-1"):
        slc = simulate(flat_field(), ground_radar(sensor), 1).slc
        correlation = [abs(np.vdot(slc[:, : 128 - lag], slc[:, lag:])) / np.sum(abs(slc[:, lag:]) ** 2) for lag in range(30)]
        widths[sensor] = width_at_half(np.array(correlation))
    ratio = PRESETS["sentinel-1"].resolution_m[0] / PRESETS["airborne-x"].resolution_m[0]
    assert widths["sentinel-1"] / widths["airborne-x"] == pytest.approx(ratio, rel=0.2)


def test_the_satellite_view_is_coarse_averages_four_looks_and_depends_on_the_side_only() -> None:
    """Coefficient of variation of the intensity is 1 / sqrt(looks): measured on level grass, with its own texture added."""
    cells = simulate(flat_field(512), twin.satellite_radar("left"), 2).intensity[::2, ::2]
    one = simulate(flat_field(512), ground_radar("airborne-x"), 2).intensity[::3, ::3]
    assert cells.std() / cells.mean() == pytest.approx(0.5, abs=0.06)
    assert one.std() / one.mean() > 0.95
    radar = twin.satellite_radar("right")
    assert radar.look == "right" and radar.spacing_m == (8.0, 8.0) and min(radar.resolution_m) > 8.0
    assert radar.nesz_db == PRESETS["terrasar-x"].nesz_db
    samples = [twin_sample("river", 4, sample_radar(ground_radar(sensor), 4, 0), SIZE) for sensor in ("airborne-x", "sentinel-1")]
    assert np.array_equal(samples[0].satellite, samples[1].satellite)


def test_two_sensors_do_not_share_their_speckle() -> None:
    views = {sensor: [np.log(view("crop fields", seed, sensor) + 1e-6) for seed in range(4)] for sensor in ("airborne-x", "umbra")}
    together = [np.corrcoef(np.diff(a).ravel(), np.diff(b).ravel())[0, 1] for a, b in zip(*views.values())]
    assert np.mean(together) < 0.15  # with one seed for both it is 0.5
    seeds = {twin.speckle_seed(seed, sensor) for sensor in (*PRESETS, "satellite") for seed in (0, 1, 2**48 - 1)}
    assert len(seeds) == 3 * (len(PRESETS) + 1)
    with pytest.raises(InputError, match="the sensor 'ers'"):
        twin.speckle_seed(0, "ers")


def test_views_are_of_one_scene() -> None:
    """A coarse view of the scene agrees in the large with the fine ones, and not with those of another scene."""

    def coarse(seed: int, sensor: str) -> np.ndarray:
        return np.log((view("coast", seed, sensor) ** 2).reshape(4, 16, 4, 16).mean(axis=(1, 3))).ravel()

    same = [np.corrcoef(coarse(s, "airborne-x"), coarse(s, other))[0, 1] for s in range(4) for other in ("umbra", "sentinel-1")]
    assert np.mean(same) > 0.7


def test_a_scene_from_both_sides_differs_in_the_side_alone(tmp_path: Path) -> None:
    splits = {"train": SplitSpec(("city", "forest"), 7, both_sides=True), "test": SplitSpec(("city",), 3)}
    card = build_twin(tmp_path / "d", splits, size=64, seed=4, workers=1)
    rows = load_set(tmp_path / "d" / "train").rows
    assert [row["look"] for row in rows] == ["left", "right"] * 3 + ["left"]
    assert [row["label"] for row in rows] == ["city", "city", "forest", "forest", "city", "city", "forest"]
    assert "two images in a row are one scene" in " ".join(card["notes"])
    for left, right in zip(rows[0:6:2], rows[1:6:2]):
        same = [name for name in left if left[name] == right.get(name)]
        assert {"seed", "season", "counts", "incidence", "sun_azimuth"} <= set(same) and right["second_pass"]
        (scene, _, first), (again, radar, second) = twin.redraw_scene(left, 64), twin.redraw_scene(right, 64)
        assert np.array_equal(scene.height, again.height) and first != second and radar.look == "right"
        captions = [[text.replace("right", "left") for text in row["captions"]] for row in (left, right)]
        assert captions[0] == captions[1] and left["captions"] != right["captions"]
    # The file is the image of the row: also of a second pass.
    image = amplitude(simulate(*twin.redraw_scene(rows[1], 64)))
    levels = Normalisation(card["mu"], card["sigma"]).apply(image[None])[0]
    assert np.array_equal(levels, load_set(tmp_path / "d" / "train").images[1])
    assert partners_of(load_set(tmp_path / "d" / "train")).tolist() == [1, 0, 3, 2, 5, 4, -1]
    assert (partners_of(load_set(tmp_path / "d" / "test")) == -1).all()
    images = load_set(tmp_path / "d" / "train")
    for gone in ("look", "seed", "label"):  # as own images and products have it: nothing says which show one scene
        bare = dataclasses.replace(images, rows=tuple({key: value for key, value in row.items() if key != gone} for row in rows))
        assert (partners_of(bare) == -1).all(), gone

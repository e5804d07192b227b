"""The twin data set: the same for any number of workers, resumable, no scene in two splits, readable by others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sarnb.data import twin
from sarnb.data.dataset import ImageSet, load_card, load_set
from sarnb.data.files import write_set
from sarnb.data.pool import ordered_map
from sarnb.data.scenes import SplitSpec, chunks, scene_group, scene_seed, study_splits
from sarnb.data.twin import build_twin, ground_radar, sample_radar, twin_optical, twin_sample
from sarnb.errors import InputError
from sarnb.world.radar import PRESETS
from sarnb.world.scene import CLASSES, COMPOSITIONS, COVERS, SEEN, UNSEEN

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
    names = ("train", "val", "test", "judge", "optical")
    seeds = {scene_seed(seed, name, index) for seed in (0, 1) for name in names for index in range(300)}
    assert len(seeds) == 2 * len(names) * 300 and max(seeds) < 2**48
    assert scene_seed(0, "train", 0) == scene_seed(0, "train", 0)


def test_groups_and_study_splits() -> None:
    assert [scene_group(kind) for kind in ("city", "airport", "river+forest")] == ["seen", "unseen", "composition"]
    splits = study_splits(64, 16, 3, 50)
    assert splits["train"].kinds == splits["val"].kinds == SEEN
    assert splits["test"].count == 3 * len(CLASSES + COMPOSITIONS) and set(UNSEEN) < set(splits["judge"].kinds)
    assert [index for piece in chunks(70) for index in piece] == list(range(70))


def test_optical_scenes_are_balanced_and_independent_of_workers_and_count() -> None:
    kinds = ("city", "river+forest", "airport")
    images, captions, labels = twin_optical(35, seed=2, size=SIZE, workers=1, kinds=kinds)
    again, captions_again, _ = twin_optical(34, seed=2, size=SIZE, workers=2, kinds=kinds)
    assert images.dtype == np.uint8 and images.shape == (35, SIZE, SIZE, 3)
    assert np.array_equal(images[:34], again) and captions[:34] == captions_again
    assert labels[:4] == ["city", "river+forest", "airport", "city"] and all(len(texts) == 3 for texts in captions)
    assert not np.array_equal(images[0], images[3])
    with pytest.raises(InputError, match="moon"):
        twin_optical(3, seed=0, kinds=("moon",))


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


def test_a_finished_set_is_reused_and_another_one_replaced(tmp_path: Path) -> None:
    splits = {"train": SplitSpec(("city",), 2)}
    card = build_twin(tmp_path / "d", splits, size=SIZE, seed=1)
    marked = tmp_path / "d/train/000000.png"
    before = marked.stat().st_mtime_ns
    assert build_twin(tmp_path / "d", splits, size=SIZE, seed=1) == card and marked.stat().st_mtime_ns == before
    other = build_twin(tmp_path / "d", splits, size=SIZE, seed=2)
    assert other["fingerprint"] != card["fingerprint"] and marked.stat().st_mtime_ns != before
    shutil.rmtree(tmp_path / "d/train")
    assert build_twin(tmp_path / "d", splits, size=SIZE, seed=2)["complete"] and marked.is_file()


def test_the_scale_is_that_of_the_training_amplitudes(built: Path) -> None:
    card, train, test = load_card(built), load_set(built / "train"), load_set(built / "test")
    radar = ground_radar("airborne-x")

    def amplitudes(images: ImageSet, kinds: tuple[str, ...]) -> np.ndarray:
        seeds = images.column("seed")
        turns = [index // len(kinds) for index in range(len(images))]
        return np.stack(
            [twin_sample(k, s, sample_radar(radar, s, t), SIZE).sar for k, s, t in zip(images.labels, seeds, turns, strict=True)]
        )

    sar = amplitudes(train, SEEN)
    assert card["mu"] == pytest.approx(sar.mean(dtype=np.float64), rel=1e-6)
    assert card["sigma"] == pytest.approx(sar.std(dtype=np.float64), rel=1e-6)
    for images, kinds in ((train, SEEN), (test, SMALL["test"].kinds)):
        unit = np.clip(amplitudes(images, kinds) / (card["mu"] + 3 * card["sigma"]), 0, 1)
        assert np.abs(images.images - 255 * unit).max() <= 0.5 + 1e-3


def test_rows_tell_the_truth_about_the_scene(built: Path) -> None:
    train, test = load_set(built / "train"), load_set(built / "test")
    assert train.labels[:8] == SEEN and set(train.column("group")) == {"seen"}
    assert test.labels == ("river+forest", "stadium", "coast") and test.column("group") == ("composition", "unseen", "seen")
    assert [len(train.where(label="city", look=side)) for side in ("left", "right")] == [3, 2]
    assert set(train.column("incidence")) == {30.0, 40.0, 50.0}
    for images in (train, test):
        for row, text in zip(images.rows, images.captions, strict=True):
            assert text in row["captions"] and len(row["captions"]) == 3 and isinstance(row["counts"], dict)
            assert not {"left", "right"} - {row["look"]} & set(" ".join(row["captions"]).replace(",", "").split())
        optical, masks = images.optical(), images.masks()
        assert optical.shape == (len(images), SIZE, SIZE, 3) and masks.max() < len(COVERS)
    sample = twin_sample("stadium", test.rows[1]["seed"], sample_radar(ground_radar("airborne-x"), test.rows[1]["seed"], 0), SIZE)
    assert np.array_equal(test.optical()[1], sample.optical) and np.array_equal(test.masks()[1], sample.mask)


def test_slant_range_presets_are_put_on_the_ground_and_every_sensor_keeps_the_grid() -> None:
    umbra = ground_radar("umbra")
    assert umbra.geometry == "ground" and umbra.resolution_m[0] == pytest.approx(1.0 / np.sin(np.deg2rad(45.0)))
    for sensor in PRESETS:
        sample = twin_sample("city", 3, sample_radar(ground_radar(sensor), 3, 1), SIZE)
        assert sample.sar.shape == sample.mask.shape == sample.height.shape == (SIZE, SIZE)
        assert sample.sar.min() >= 0 and sample.row["look"] == "right"
    with pytest.raises(InputError, match="unknown sensor 'radarsat'"):
        ground_radar("radarsat")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"val": SplitSpec(SEEN, 8)}, "give train"),
        ({"train": SplitSpec(SEEN, 8), "extra": SplitSpec(SEEN, 8)}, "splits are"),
        ({"train": SplitSpec(("airport",), 8)}, "would show airport"),
        ({"train": SplitSpec(SEEN, 8), "val": SplitSpec(("river+forest",), 1)}, "'val' would show river"),
    ],
)
def test_impossible_splits_are_refused(splits: dict[str, SplitSpec], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        build_twin(tmp_path / "out", splits)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="cannot show 8 kinds"):
        SplitSpec(SEEN, 7)


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(InputError, match="no data set of sarnb"):
        build_twin(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


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


def test_hugging_face_datasets_reads_it(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(built), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 36, "validation": 2, "test": 3}
    first, own = loaded["test"][0], load_set(built / "test")
    assert np.array_equal(np.asarray(first["image"]), own.images[0]) and first["text"] == own.captions[0]
    assert np.array_equal(np.asarray(first["optical"]), own.optical()[0])
    assert np.array_equal(np.asarray(first["mask"]), own.masks()[0])
    assert json.loads(first["counts"]) == own.rows[0]["counts"]

"""Augmentation: what a flip and new speckle leave as it was, how sets are mixed, and the classifier's training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torchmetrics.functional.classification import multiclass_jaccard_index, multiclass_recall

from sarnb.data.dataset import ImageSet
from sarnb.data.files import write_png
from sarnb.errors import InputError
from sarnb.metrics import augmentation
from sarnb.metrics.conditioning import iou_table
from sarnb.metrics.describe import RAYLEIGH_CV
from sarnb.metrics.geometry import block_scene
from sarnb.world import speckle
from sarnb.world.backscatter import COVERS
from sarnb.world.radar import PRESETS, amplitude, simulate

RATIOS = (1.2, 1.2)


def image_set(labels, images=None, seed: int = 0, name: str = "own") -> ImageSet:
    """A set of these labels: noise images, or those given."""
    if images is None:
        images = np.random.default_rng(seed).integers(0, 256, (len(labels), 64, 64), dtype=np.uint8)
    return ImageSet(Path(name), images, tuple({"file_name": f"{number}.png", "label": label} for number, label in enumerate(labels)))


def field(rng, shape=(256, 256), looks: int = 1) -> np.ndarray:
    """Intensity of fully developed speckle of mean 1, correlated as the sensor does it."""
    return sum(np.abs(speckle.impulse_response(speckle.circular_gaussian(shape, rng), RATIOS, "taylor")) ** 2 for _ in range(looks)) / looks


def test_an_azimuth_flip_leaves_shadows_where_they_fall_and_a_range_flip_does_not():
    scene, radar = block_scene(), PRESETS["airborne-x"]
    seen = simulate(scene, radar, 0)
    image = np.uint8(np.clip(60 * amplitude(seen), 0, 255))[None]
    columns = np.arange(image.shape[2])

    def darkness(pixels):  # mean column of the middle rows, weighted by how much darker than the meadow it is
        return np.average(columns, weights=np.clip(np.median(pixels) - np.median(pixels[0, 40:56], axis=0), 0, None))

    middle = (image.shape[2] - 1) / 2
    assert np.average(columns, weights=seen.shadow.sum(0)) > middle + 4  # the radar looks from the left
    assert darkness(image) > middle < darkness(augmentation.flip_azimuth(image))
    assert darkness(image[:, :, ::-1]) < middle
    turned = replace(scene, **{name: getattr(scene, name)[::-1] for name in ("height", "ground", "cover", "tint")})
    assert (simulate(turned, radar, 0).shadow[::-1] == seen.shadow).mean() > 0.98  # a mirrored scene, seen from the same side
    assert (augmentation.flip_azimuth(image) == image[:, ::-1]).all() and (augmentation.flip_azimuth(image, 2) == image[:, :, ::-1]).all()


@pytest.mark.parametrize("looks", [1, 4])
def test_new_speckle_on_flat_ground_has_the_law_of_the_sensor(looks):
    """CV of L looks of amplitude: sqrt(L G(L)^2 / G(L + 1/2)^2 - 1), 0.5227 of one; the mean intensity stays."""
    rng = np.random.default_rng(looks)
    flat = np.full((1, 256, 256), 80, np.uint8)
    drawn = augmentation.redraw_speckle(flat, RATIOS, looks, rng)[0].astype(float)
    lgamma = torch.lgamma(torch.tensor([looks, looks + 0.5], dtype=torch.float64)).numpy()
    theory = np.sqrt(looks * np.exp(2 * (lgamma[0] - lgamma[1])) - 1)
    assert theory == pytest.approx(RAYLEIGH_CV, rel=1e-3) if looks == 1 else theory < 0.3
    assert drawn.std() / drawn.mean() == pytest.approx(theory, rel=0.02)
    assert np.sqrt((drawn**2).mean()) == pytest.approx(80, rel=0.02)
    neighbours = np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]
    own = np.sqrt(field(rng, looks=looks))
    assert neighbours == pytest.approx(np.corrcoef(own[:, :-1].ravel(), own[:, 1:].ravel())[0, 1], abs=0.03)


def test_speckle_that_is_there_is_exchanged_and_points_stay():
    rng = np.random.default_rng(0)
    image = np.rint(np.clip(60 * np.sqrt(field(rng)), 0, 255)).astype(np.uint8)
    image[100:103, 100:103] = 255
    drawn = augmentation.redraw_speckle(image[None], RATIOS, 1, rng)[0]
    assert (drawn[100:103, 100:103] == 255).all()
    apart = np.ones(image.shape, bool)
    apart[90:113, 90:113] = False
    old, new = image[apart].astype(float), drawn[apart].astype(float)
    assert new.mean() == pytest.approx(old.mean(), rel=0.02) and new.std() / new.mean() == pytest.approx(RAYLEIGH_CV, rel=0.05)
    assert np.corrcoef(old, new)[0, 1] < 0.35 and (old != new).mean() > 0.85


def test_few_images_are_a_part_of_more_and_too_few_are_said():
    pool = image_set(["city"] * 6 + ["forest"] * 4 + ["coast"])
    two, four = (augmentation.few_shot(pool, ["city", "forest"], count, seed=1) for count in (2, 4))
    assert set(two.ids) < set(four.ids) and sorted(two.labels) == ["city"] * 2 + ["forest"] * 2
    assert augmentation.few_shot(pool, ["city"], 3, seed=2).ids != augmentation.few_shot(pool, ["city"], 3, seed=3).ids
    with pytest.raises(InputError, match="4 images of the class 'forest', 5 are requested; lower AUGMENT_SHOTS"):
        augmentation.few_shot(pool, ["city", "forest"], 5, seed=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mixture_has_the_share_and_equal_classes(share):
    own = image_set(["city", "city", "forest"])
    drawn = [image_set(["city", "forest", "coast"], seed=1), image_set(["city"], seed=2)]
    mixture = augmentation.mix(own, drawn, share, ["forest", "city"])
    made = np.array([False] * 3 + [True] * 3)
    assert mixture.truth.tolist() == [1, 1, 0, 1, 0, 1] and mixture.chance.sum() == pytest.approx(1)
    assert mixture.chance[made].sum() == pytest.approx(share)
    assert np.bincount(mixture.truth, mixture.chance) == pytest.approx([0.5, 0.5])
    assert mixture.chance[0] == mixture.chance[1] and mixture.chance[3] == mixture.chance[5]


def test_a_class_without_synthetic_images_keeps_its_own():
    mixture = augmentation.mix(image_set(["city", "forest"]), [image_set(["city"])], 1.0, ["city", "forest"])
    assert mixture.chance.tolist() == [0.0, 0.5, 0.5]


@pytest.mark.parametrize(
    "own, drawn, share, message",
    [
        (["city"], [["coast"]], 0.5, "drawn: shows none of the classes city; give synthetic images of them"),
        (["coast"], [], 0.0, "own: has no image of the class 'city'"),
        (["city"], [], 1.5, "the share of synthetic images is 1.5; give a number from 0 to 1"),
    ],
)
def test_what_cannot_be_mixed_is_said(own, drawn, share, message):
    with pytest.raises(InputError, match=message):
        augmentation.mix(image_set(own), [image_set(labels, name="drawn") for labels in drawn], share, ["city"])


def test_cells_hold_mean_intensity_and_its_variation():
    rng = np.random.default_rng(0)
    flat = np.full((1, 64, 64), 51, np.uint8)
    power, variation = augmentation.cell_features(flat)[0]
    assert power.numpy() == pytest.approx(np.log(0.04 + augmentation.FLOOR)) and variation.numpy() == pytest.approx(0)
    rough = np.rint(255 * np.clip(0.2 * np.sqrt(rng.exponential(size=(1, 1024, 1024))), 0, 1)).astype(np.uint8)
    assert float(augmentation.cell_features(rough)[0, 1].mean()) == pytest.approx(0.04 / (0.04 + augmentation.FLOOR), abs=0.02)
    with pytest.raises(InputError, match="at least 64 px a side"):
        augmentation.cell_features(flat[:, :32, :32])


def two_classes(count: int, seed: int) -> ImageSet:
    """Bright squares on the left or on the right half, in speckle: easy to tell apart."""
    rng = np.random.default_rng(seed)
    labels = [("city", "forest")[number % 2] for number in range(count)]
    images = np.rint(np.clip(40 * np.sqrt(rng.exponential(size=(count, 64, 64))), 0, 255)).astype(np.uint8)
    for image, label in zip(images, labels):
        if label == "city":
            image[24:40, 24:40] = 255
    return image_set(labels, images)


def covered(count: int, seed: int, folder: Path) -> ImageSet:
    """Squares of bright roofs on dark water in speckle, with their maps as files: easy to read."""
    rng = np.random.default_rng(seed)
    maps = np.full((count, 64, 64), COVERS.index("water"), np.uint8)
    for code in maps:
        top, left = 8 * rng.integers(1, 6, 2)
        code[top : top + 16, left : left + 16] = COVERS.index("roof")
    level = np.where(maps == COVERS.index("roof"), 120, 20)
    images = np.rint(np.clip(level * np.sqrt(rng.exponential(size=maps.shape)), 0, 255)).astype(np.uint8)
    own = image_set(["city"] * count, images)
    for row, code in zip(own.rows, maps):
        row["mask"] = f"mask-{row['file_name']}"
        write_png(folder / row["mask"], code)
    return replace(own, root=folder)


@pytest.mark.slow
def test_a_segmenter_reads_land_cover_and_gains_by_pairs(tmp_path, monkeypatch):
    for name in ("pool", "held"):
        (tmp_path / name).mkdir()
    pool, held = covered(12, 0, tmp_path / "pool"), covered(6, 1, tmp_path / "held")
    pairs = pool.images, pool.masks()
    read = augmentation.train_covers(*pairs, 0, 40)(held.images)
    place, fit = tmp_path / "covers", augmentation._fit
    assert np.array_equal(augmentation.train_covers(*pairs, 0, 40, place=place)(held.images), read)
    monkeypatch.setattr(augmentation, "_fit", None)  # what is kept is read back
    assert np.array_equal(augmentation.train_covers(*pairs, 0, 40, place=place)(held.images), read)
    monkeypatch.setattr(augmentation, "_fit", fit)
    shorter = augmentation.train_covers(*pairs, 0, 2, place=place)(held.images)
    assert not np.array_equal(shorter, read), "of other settings it is trained again"
    assert read.shape == held.images.shape and read.dtype == np.uint8 and (read == held.masks()).mean() > 0.95
    assert (read.reshape(6, 32, 2, 32, 2).max((2, 4)) == read.reshape(6, 32, 2, 32, 2).min((2, 4))).all()  # one code a cell
    settings = {"classes": ["city"], "count": 8, "seeds": [0, 1], "steps": 25, "covers": True}
    alone = augmentation.seed_recalls(pool, held, **settings)
    truth, guess = (torch.from_numpy(codes.astype(int)) for codes in (held.masks(), read))
    iou = multiclass_jaccard_index(guess, truth, len(COVERS), average="none")[[COVERS.index("water"), COVERS.index("roof")]]
    assert iou_table(held.masks(), read)["iou"].to_numpy() == pytest.approx(iou.numpy(), rel=1e-6)
    assert alone.shape == (2, 2) and alone.mean() > 0.8
    assert np.array_equal(alone, augmentation.seed_recalls(pool, held, **settings, workers=2))
    flipped = augmentation.seed_recalls(pool, held, **settings, augment=augmentation.copies)
    assert flipped.mean() > 0.8  # the maps are flipped with their images
    wrong = replace(pool, images=255 - pool.images)  # a simulator that has roofs dark and water bright
    assert augmentation.seed_recalls(pool, held, **settings, synthetic=[wrong], share=1.0).mean() < 0.5


def test_the_classifier_learns_and_every_way_of_running_it_gives_the_same():
    pool, held, classes = two_classes(16, 0), two_classes(40, 1), ["city", "forest"]
    settings = {"classes": classes, "count": 6, "seeds": [0, 1], "steps": 20}
    alone = augmentation.seed_recalls(pool, held, **settings)
    assert alone.shape == (2, 2) and alone.min() > 0.8
    assert (augmentation.seed_recalls(pool, held, **settings, workers=2) == alone).all()
    own = augmentation.mix(augmentation.few_shot(pool, classes, 6, 1), [], 0.0, classes)
    guess = augmentation.train_classifier(own, 1, 20, held.images, 2)
    assert augmentation.recalls(np.array([label == "forest" for label in held.labels]).astype(int), guess, 2).tolist() == alone[1].tolist()
    wrong = replace(pool, rows=pool.rows[1:] + pool.rows[:1])  # the two classes exchanged
    assert augmentation.seed_recalls(pool, held, **settings, synthetic=[wrong], share=1.0).max() < 0.2


def test_copies_keep_their_classes_in_turn():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    two, four = (augmentation.copies(images, np.random.default_rng(0), ratios) for ratios in (None, RATIOS))
    assert two.shape == (6, 64, 64) and (two[:3] == images).all() and (two[3:] == images[:, ::-1]).all()
    assert four.shape == (12, 64, 64) and (four[:6] == two).all() and (four[9:] == four[6:9, ::-1]).all()


def test_gains_are_those_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    found = {(5, name): rng.uniform(size=(6, 3)) + shift for name, shift in (("alone", 0.0), ("drawn", 2.0), ("other", 0.0), ("bad", -2.0))}
    table = augmentation.gain_table(found, "alone").set_index("images")
    alone = found[5, "alone"].mean(1)
    tests = {name: stats.ttest_rel(found[5, name].mean(1), alone) for name in ("drawn", "other", "bad")}
    smallest = sorted(test.pvalue for test in tests.values())
    assert table["p_holm"].dropna().min() == pytest.approx(3 * smallest[0])
    for name, test in tests.items():
        low, high = test.confidence_interval()
        assert (table.loc[name, ["gain lo", "gain hi"]].to_numpy(float)) == pytest.approx([low, high])
    assert table["verdict"].to_dict() == {"alone": "", "drawn": "helps", "other": "not distinguished", "bad": "hurts"}
    same = augmentation.gain_table({(5, "alone"): found[5, "alone"], (5, "again"): found[5, "alone"]}, "alone")
    assert same["p_holm"].tolist()[1] == 1 and same["gain"].tolist()[1] == 0
    with pytest.raises(InputError, match="give AUGMENT_SEEDS at least two"):
        augmentation.gain_table({(5, "alone"): found[5, "alone"][:1]}, "alone")


def test_recalls_are_those_of_torchmetrics():
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 5, (2, 200))
    own = augmentation.recalls(truth, guess, 5)
    theirs = multiclass_recall(torch.from_numpy(guess), torch.from_numpy(truth), 5, average="none")
    assert own == pytest.approx(theirs.numpy(), abs=1e-6)
    assert own.mean() == pytest.approx(
        float(multiclass_recall(torch.from_numpy(guess), torch.from_numpy(truth), 5, average="macro")), abs=1e-6
    )
    assert np.isnan(augmentation.recalls(np.array([0]), np.array([0]), 2)[1])

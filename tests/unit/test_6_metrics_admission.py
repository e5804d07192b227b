"""Corruptions do what they say, and the measures of the catalogue see those that they claim to, on simulated SAR images."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from sarnb.data.amplitude import Normalisation
from sarnb.data.dataset import ImageSet
from sarnb.data.images import read_image
from sarnb.data.twin import ground_radar, sample_radar
from sarnb.errors import InputError
from sarnb.metrics import KEY_METRICS, METRICS, amplitude
from sarnb.metrics import admission as corruptions
from sarnb.metrics.admission import (
    BLIND,
    BY_CLASS,
    CLAIMS,
    COPIES,
    CORRUPTIONS,
    FAILS,
    FEW,
    PASSES,
    PIXELS,
    admission_table,
    admission_verdicts,
    failed_claims,
    trust_sentences,
)
from sarnb.metrics.describe import RAYLEIGH_CV
from sarnb.world import radar
from sarnb.world.scene import make_scene

CLASSES = ("city", "forest", "crop fields", "industrial")
PER_CLASS = 40
SIZE = 64


def simulated(first: int, count: int = PER_CLASS) -> ImageSet:
    """SAR images of the twin world, sides in turn."""
    levels, rows = [], []
    for number in range(count):
        for kind in CLASSES:
            seed = first + len(rows)
            side = sample_radar(ground_radar("airborne-x"), seed, number)
            levels.append(radar.amplitude(radar.simulate(make_scene(kind, seed, size=SIZE), side, seed)))
            rows.append(
                {
                    "file_name": f"{seed}.png",
                    "text": f"a radar image of {kind}, number {number}",
                    "label": kind,
                    "group": "seen",
                    "look": side.look,
                }
            )
    scale = Normalisation.fit(levels)
    return ImageSet(Path("simulated"), np.stack([scale.apply(level) for level in levels]), tuple(rows))


class TemplateJudge:
    """Knows classes by the spread of their band-passed logarithm: the text of a class is the mean of its training images."""

    def __init__(self, train: ImageSet) -> None:
        raw = self._describe(train.images)
        self.mean, self.spread = raw.mean(0), raw.std(0) + 1e-9
        unit = self._unit((raw - self.mean) / self.spread)
        self.classes = {kind: self._unit(unit[np.array(train.labels) == kind].mean(0, keepdims=True))[0] for kind in CLASSES}

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self._unit((self._describe(images) - self.mean) / self.spread))

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        rows = []
        for text in texts:  # a little of its own for every caption, so that captions of a class differ
            own = np.random.default_rng(zlib.crc32(text.encode())).normal(0, 0.01, len(self.mean))
            rows.append(next(vector for kind, vector in self.classes.items() if kind in text) + own)
        return torch.from_numpy(self._unit(np.array(rows)))

    @staticmethod
    def _describe(images: np.ndarray) -> np.ndarray:
        log = np.log(images.astype(float) + 2.0)
        scales = [gaussian_filter(log, (0, s, s)) for s in (0, 1, 2, 4, 8)]
        bands = [a - b for a, b in zip(scales, scales[1:])]
        return np.stack(
            [f(band, axis=(1, 2)) for band in bands for f in (np.std, stats.skew)] + [log.mean((1, 2)), log.std((1, 2))], axis=1
        )

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return simulated(100)


@pytest.fixture(scope="module")
def table(images: ImageSet) -> pd.DataFrame:
    train = simulated(5000, 8)
    return admission_table(images, TemplateJudge(train), train, cuts=1)


def test_every_measure_of_the_catalogue_makes_its_claim() -> None:
    assert set(CLAIMS) == {*METRICS, *BY_CLASS}
    assert all(CLAIMS.values()), "a measure that claims to see nothing has no place in the table"
    assert {kind for claimed in CLAIMS.values() for kind in claimed} == {*CORRUPTIONS, COPIES}


def test_claims_of_key_measures_hold_on_simulated_images(table: pd.DataFrame) -> None:
    verdicts = admission_verdicts(table)
    assert set(table["metric"]) == {*METRICS, *BY_CLASS}
    own = verdicts[verdicts["metric"].isin(KEY_METRICS) & ~verdicts["metric"].str.startswith("clip")]  # the others are the judge's
    failed = own[own["verdict"] == FAILS]
    assert failed.empty, "\n" + table.merge(failed[["metric", "corruption"]]).round(4).to_string()


def test_every_claim_stays_in_the_table_and_a_failure_too(table: pd.DataFrame) -> None:
    verdicts = admission_verdicts(table)
    claimed = verdicts[verdicts["claimed"]]
    assert set(zip(claimed["metric"], claimed["corruption"])) == {(name, kind) for name, own in CLAIMS.items() for kind in own}
    assert set(claimed["verdict"]) == {PASSES, FAILS}, "the entropy of pairs cannot tell white noise from a little blur"
    row = claimed.set_index(["metric", "corruption"]).loc[("texture_entropy", "white noise")]
    assert row["above floor"] and not row["behind blur"] and row["verdict"] == FAILS


def test_histograms_do_not_know_where_a_pixel_lies(table: pd.DataFrame) -> None:
    for kind in ("white noise", "shuffled patches"):
        part = table[(table["metric"] == "amplitude_kl") & (table["corruption"] == kind)]
        assert part["error"].nunique() == 1, "the grey values are the same, so the distance is that of the floor to the last digit"


def test_what_a_measure_cannot_see_it_does_not_see(table: pd.DataFrame) -> None:
    verdicts = admission_verdicts(table).set_index(["metric", "corruption"])["verdict"]
    for metric in ("amplitude_kl", "texture_contrast"):  # a mirrored image has the same pixels and the same pairs of pixels
        assert verdicts[metric, "flipped side"] == BLIND
    assert verdicts["amplitude_js", "swapped class"] == BLIND, "the pool of pixels stays the same"


def test_a_measure_that_fails_is_named(table: pd.DataFrame) -> None:
    turned = table.copy()
    chosen = (turned["metric"] == "amplitude_kl") & (turned["corruption"] == "blur")
    turned.loc[chosen, ["error", "best", "worst"]] = turned.loc[chosen, ["error", "best", "worst"]].to_numpy()[::-1]
    verdicts = admission_verdicts(turned)
    assert verdicts.set_index(["metric", "corruption"]).loc[("amplitude_kl", "blur"), "verdict"] == FAILS
    assert "blur" in failed_claims(verdicts)["amplitude_kl"] and "amplitude_kl" not in failed_claims(admission_verdicts(table))


def test_key_measures_with_a_failed_claim_are_named_and_no_others() -> None:
    rows = [
        ("amplitude_kl", "blur", FAILS),
        ("amplitude_kl", "gamma", PASSES),
        ("texture_distance", "blur", PASSES),
        ("texture_distance", "flipped side", BLIND),
        ("amplitude_js", "blur", FAILS),
        ("amplitude_kl by class", "blur", FAILS),
    ]
    verdicts = pd.DataFrame(rows, columns=["metric", "corruption", "verdict"]).assign(n=FEW)
    two = ("amplitude_kl", "texture_distance")
    assert failed_claims(verdicts, two) == {"amplitude_kl": ["blur"]}
    first, second = trust_sentences(verdicts, two)
    assert "left out of the average rank: amplitude_kl (does not see blur as it claims)." in first
    assert second == "Ranked, as far as they can be computed: texture_distance."
    assert "carries no weight" in trust_sentences(verdicts, two[:1])[0]
    assert trust_sentences(verdicts, two[1:])[0].startswith("No claim failed")
    assert trust_sentences(verdicts.assign(n=8), two)[-1].startswith("Only 8 images were damaged")


def test_per_class_limits_the_images(images: ImageSet) -> None:
    one = [CORRUPTIONS["gamma"]]
    limited = admission_table(images, corruptions=one, cuts=1, per_class=4)
    direct = admission_table(images.subset(range(16)), corruptions=one, cuts=1)  # the classes take turns: the first four of each
    pd.testing.assert_frame_equal(limited, direct)


def flat(count: int = 2, scale: float = 40.0, size: int = 128) -> np.ndarray:
    return np.random.default_rng(0).rayleigh(scale, (count, size, size)).clip(0, 255).round().astype(np.uint8)


def test_exchanged_speckle_has_the_law_it_is_given() -> None:
    images = flat()
    four = corruptions.exchange_speckle(images, corruptions.multilook_law(4.0))
    looks = amplitude.local_enl(four)
    assert looks == pytest.approx(4.0, rel=0.25), "the mean over 7 px hides a little of the speckle"
    normal = corruptions.exchange_speckle(images, corruptions.gaussian_law)
    speckle = normal[0] / corruptions.uniform_filter(images[0].astype(float), corruptions.WINDOW)
    assert speckle.mean() == pytest.approx(1.0, abs=0.02) and speckle.std() == pytest.approx(RAYLEIGH_CV, abs=0.03)
    assert abs(stats.skew(speckle, axis=None)) < 0.35 < stats.skew(images[0], axis=None)
    half = corruptions.exchange_speckle(images, corruptions.gaussian_law, 0.5).astype(float)
    assert half == pytest.approx((images.astype(float) + normal) / 2, abs=1.01), "half of the way lies half-way"


def test_multilook_law_is_that_of_the_amplitude_of_looks() -> None:
    p = np.linspace(0.01, 0.99, 99)
    one = corruptions.multilook_law(1.0)(p)
    expected = stats.rayleigh.ppf(p)
    assert one / one.mean() == pytest.approx(expected / expected.mean())


def test_shuffled_patches_are_the_same_patches() -> None:
    images = np.arange(2 * 40 * 48, dtype=np.int64).reshape(2, 40, 48) % 251
    mixed = corruptions.shuffle_patches(images.astype(np.uint8), 16, np.random.default_rng(0))
    for before, after in zip(images, mixed):
        cut = lambda image: sorted(image[r : r + 16, c : c + 16].tobytes() for r in (0, 16) for c in (0, 16, 32))  # noqa: E731
        assert cut(before.astype(np.uint8)) == cut(after) and not np.array_equal(before, after)
        assert np.array_equal(before[32:], after[32:]), "a border that holds no whole patch stays"
    noise = corruptions.shuffle_patches(np.tile(np.arange(256, dtype=np.uint8), (1, 64, 1)), 1, np.random.default_rng(0))[0] / 255
    assert np.array_equal(np.bincount((noise.ravel() * 255).astype(int)), np.full(256, 64)), "the grey values stay"
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(noise.size), "white"


def test_random_phases_keep_the_amplitude_spectrum_and_nothing_else() -> None:
    field = gaussian_filter(np.random.default_rng(1).normal(0, 40, (64, 64)), 1.0, mode="wrap")
    image = (128 + field).round().astype(np.uint8)
    drawn = corruptions.randomise_phase(image[None], np.random.default_rng(0))[0].astype(float)
    before, after = (np.fft.fft2(own) for own in (image.astype(float), drawn))
    assert np.abs(np.abs(before) - np.abs(after)).max() < 6 * 64 * 0.29 * np.sqrt(2), "but for rounding to 8 bits"
    assert abs(np.corrcoef(image.ravel(), drawn.ravel())[0, 1]) < 0.3 and drawn.mean() == pytest.approx(image.mean(), abs=0.1)


def test_blur_equals_scipy_and_gamma_is_a_power() -> None:
    images = flat(1, size=32)
    assert np.abs(corruptions.blur(images, 1.0)[0] - gaussian_filter(images[0].astype(float), 1.0)).max() <= 0.51
    assert corruptions.change_gamma(np.array([[[0, 64, 255]]], np.uint8), 0.5).tolist() == [[[0, 128, 255]]]


def test_corruptions_of_the_set(images: ImageSet) -> None:
    rng = np.random.default_rng(0)
    flipped = corruptions.flip(images, 0.5, rng)
    turned = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped.images, images.images)]
    assert sum(turned) == len(images) // 2 and flipped.rows == images.rows
    swapped = corruptions.swap_classes(images, 1.0, rng)
    source = [next(k for k, image in enumerate(images.images) if np.array_equal(image, pixels)) for pixels in swapped.images]
    assert all(images.labels[k] != label for k, label in zip(source, swapped.labels)) and swapped.labels == images.labels
    assert [row["look"] for row in swapped.rows] == [images.rows[k]["look"] for k in source], "the side is that of the pixels"
    copied = corruptions.duplicate(images, 0.5, rng)
    assert len({image.tobytes() for image in copied.images}) == len(images) // 2 and copied.labels == images.labels


def test_bad_input(images: ImageSet) -> None:
    with pytest.raises(InputError, match="two classes"):
        corruptions.swap_classes(images.where(label="city"), 1.0, np.random.default_rng(0))
    with pytest.raises(InputError, match="at least 1"):
        admission_table(images, cuts=0)
    with pytest.raises(InputError, match="no class with two"):
        admission_table(images.subset([0, 1]))
    alone = admission_table(images.where(label="city"), corruptions=[CORRUPTIONS["swapped class"]], cuts=1)
    assert set(alone["strength"]) == {0.0}, "one class cannot be swapped: only the floor is there"


REAL = os.environ.get("SARNB_REAL_DATA", "")


@pytest.mark.skipif(not REAL, reason="set SARNB_REAL_DATA to a folder of real radar images in class folders")
def test_claims_about_pixels_hold_on_real_chips() -> None:
    """Single-look chips of one size and sensor; damage to speckle is known there, for the speckle is that of one look."""
    wanted = [name for name in ("vehicle_2s1", "vehicle_bmp2", "vehicle_d7", "vehicle_zsu234") if (Path(REAL) / name).is_dir()]
    if not wanted:
        pytest.skip("the folder holds no MSTAR chips")
    paths = [path for label in wanted for path in sorted((Path(REAL) / label).iterdir())[:24]]
    rows = tuple({"text": path.name, "label": path.parent.name} for path in paths)
    chips = ImageSet(Path(REAL), np.stack([read_image(path).amplitude for path in paths]), rows)
    assert np.median(amplitude.local_enl(chips.images)) == pytest.approx(1.1, abs=0.2), "single look"
    kinds = [CORRUPTIONS[name] for name in PIXELS]
    verdicts = admission_verdicts(admission_table(chips, corruptions=kinds, cuts=1))
    failed = verdicts[(verdicts["verdict"] == FAILS) & verdicts["metric"].isin(KEY_METRICS)]
    assert failed.empty and (verdicts["verdict"] == PASSES).sum() >= 60, failed.to_string()

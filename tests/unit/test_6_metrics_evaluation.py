"""The evaluation table on small synthetic sets: columns, anchors, reasons, and that corruption is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.catalogue import METRICS
from sarnb.metrics.evaluation import ANCHORS, COLUMNS, REAL_VS_REAL, anchors, combine, evaluate, halves, left_out
from sarnb.metrics.measured import join, measure

CLASSES = {"city": ("seen", 60.0), "forest": ("seen", 30.0), "airport": ("unseen", 15.0)}


class MeanJudge:
    """Knows the three classes by brightness and contrast."""

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        flat = torch.from_numpy(images.astype(np.float32)).flatten(1)
        return self._unit(flat.mean(1), flat.std(1))

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        means = torch.tensor([next((m for name, (_, m) in CLASSES.items() if name in text), 5.0) for text in texts])
        return self._unit(means * 1.2533, means * 0.6551)

    @staticmethod
    def _unit(mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
        features = torch.stack([mean - 45, spread - 20, torch.full_like(mean, 10.0)], dim=1)
        return torch.nn.functional.normalize(features, dim=1)


def speckle_set(per_class: int = 6, seed: int = 0, looks: int = 1, classes: tuple[str, ...] = tuple(CLASSES)) -> ImageSet:
    rng = np.random.default_rng(seed)
    images, rows = [], []
    for label in classes:
        group, scale = CLASSES[label]
        for index in range(per_class):
            side = ("left", "right")[index % 2]
            image = scale * np.sqrt(2 * rng.gamma(looks, 1 / looks, (48, 48)))
            if side == "left":  # shadow to the right of a bright wall
                image[:, 20:22], image[:, 22:28] = 220, 1
            else:
                image[:, 20:22], image[:, 14:20] = 220, 1
            images.append(np.clip(image, 0, 255).astype(np.uint8))
            text = f"a radar image of {label}, {index} things"
            rows.append({"file_name": f"{len(rows)}.png", "text": text, "label": label, "group": group, "look": side})
    columns = [tuple(row[name] for row in rows) for name in ("file_name", "text", "label")]
    return ImageSet(Path("set"), columns[0], np.stack(images), columns[1], columns[2], tuple(rows))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    real, fake, train = speckle_set(8), speckle_set(6, seed=1, looks=3), speckle_set(8, seed=9)
    return evaluate("wrong law", 2, real, fake, MeanJudge(), resamples=30, train=train)


def test_columns_rows_and_intervals(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS
    assert set(table["metric"]) == set(METRICS)
    assert not table.duplicated(["split", "class", "metric"]).any()
    assert np.isfinite(table[["value", "lo", "hi"]]).all(axis=None)
    assert ((table["lo"] <= table["value"]) & (table["value"] <= table["hi"])).all()
    kl = table[table["metric"] == "amplitude_kl"]
    assert set(zip(kl["split"], kl["class"])) == {
        ("pooled", "all"), ("seen", "all"), ("seen", "city"), ("seen", "forest"), ("unseen", "all"), ("unseen", "airport"),
    }
    assert kl.set_index(["split", "class"]).loc[("pooled", "all"), "n"] == 18


def test_same_arguments_same_table() -> None:
    real, fake = speckle_set(3), speckle_set(3, seed=1)
    pd.testing.assert_frame_equal(evaluate("a", 0, real, fake, resamples=10), evaluate("a", 0, measure(real), measure(fake), resamples=10))
    assert not evaluate("a", 0, real, fake, resamples=10).equals(evaluate("a", 0, real, fake, resamples=10, bootstrap_seed=1))


def test_floor_lies_below_a_wrong_speckle_law(table: pd.DataFrame) -> None:
    floor = anchors(speckle_set(16), MeanJudge(), resamples=0)
    assert set(floor["strategy"]) == {REAL_VS_REAL}
    value = {name: frame[(frame["split"] == "pooled")].set_index("metric")["value"] for name, frame in (("floor", floor), ("wrong", table))}
    lower = [name for name, metric in METRICS.items() if metric.better == "lower" and metric.family in ("amplitude", "texture")]
    for name in lower:
        assert value["floor"][name] < value["wrong"][name], name
    assert value["floor"]["amplitude_enl"] == pytest.approx(1.0, abs=0.2)
    assert value["wrong"]["amplitude_enl"] > 2
    assert value["floor"]["look_accuracy"] == 1.0
    assert "no optical images" in left_out(floor)["reason"].str.cat()


def test_optical_as_grey_is_the_mean_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    real = speckle_set(4)
    monkeypatch.setattr(ImageSet, "optical", lambda self: np.repeat(self.images[..., None] // 2, 3, axis=3))
    rows = anchors(real, resamples=0)
    assert set(rows["strategy"]) == set(ANCHORS)
    ours = rows[(rows["strategy"] == ANCHORS[1]) & (rows["split"] == "pooled")].set_index("metric")["value"]
    direct = evaluate("x", 0, real, replace(real, images=real.images // 2), resamples=0)
    expected = direct[direct["split"] == "pooled"].set_index("metric")["value"]
    assert ours["amplitude_wasserstein"] == expected["amplitude_wasserstein"] > 0


def test_each_class_counts_the_same() -> None:
    real = speckle_set(4, classes=("city", "forest"))
    many = real.subset([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7])  # three times as many cities
    table = evaluate("a", 0, real, many, resamples=0)
    assert table[(table["metric"] == "amplitude_kl") & (table["split"] == "pooled")]["value"].item() == pytest.approx(0, abs=1e-12)


def test_what_is_left_out_has_a_reason() -> None:
    real, fake = speckle_set(3), speckle_set(3, seed=1, classes=("city", "forest"))
    plain = replace(fake, rows=tuple({"label": row["label"]} for row in fake.rows))
    table = evaluate("a", 0, real, plain, resamples=5)
    reasons = left_out(combine([table, table]))
    assert len(reasons) == 2 * len(left_out(table))
    reasons = left_out(table).set_index(["class", "metric"])["reason"]
    assert "no generated images" in reasons["airport", "all"]
    assert reasons["all", "clip_accuracy"].iloc[0] == "no judge was given"
    assert "no look side" in reasons["all", "look_accuracy"].iloc[0]
    assert "16 of each needed" in reasons["all", "texture_frechet"].iloc[0]
    assert "clip_accuracy" not in set(table["metric"])


def test_a_copied_training_set_is_noticed() -> None:
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (12, 32, 32)).astype(np.uint8) for _ in range(2)]
    real, train = (replace(speckle_set(4), images=stack) for stack in pictures)
    copied = evaluate("copy", 0, real, train, resamples=5, train=train)
    assert (copied[copied["metric"] == "memorised_fraction"]["value"] == 1).all()


def test_measured_parts_join_to_the_whole_and_subsets_are_those_of_the_images() -> None:
    images, judge = speckle_set(3), MeanJudge()
    whole = measure(images, judge)
    joined = join(measure(images.subset([k]), judge, minimum=1) for k in range(len(images)))
    some = [4, 0, 7]
    for one, other in ((joined, whole), (whole.subset(some), measure(images.subset(some), judge))):
        assert (one.size, one.labels, one.looks, one.captions) == (other.size, other.labels, other.looks, other.captions)
        for name in ("histograms", "descriptors", "enl", "side_features", "thumbnails", "features", "caption_features"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-7, err_msg=name)
    with pytest.raises(InputError, match="join"):
        join([whole, measure(images)])
    with pytest.raises(InputError, match="join"):
        join([])


def test_halves() -> None:
    labels = ("a",) * 5 + ("b",) * 2 + ("c",)
    first, second = halves(labels, seed=0)
    assert sorted([*first, *second]) == list(range(8))
    assert [labels[index] for index in second].count("a") == 2
    np.testing.assert_array_equal(first, halves(labels, seed=0)[0])


def test_bad_input() -> None:
    real = speckle_set(2)
    with pytest.raises(InputError, match="at least 2"):
        evaluate("a", 0, real, real.subset([0]))
    with pytest.raises(InputError, match="cut both to one size"):
        evaluate("a", 0, real, replace(real, images=np.zeros((6, 64, 64), np.uint8)))
    with pytest.raises(InputError, match="no class in common"):
        evaluate("a", 0, real.where(label="city"), real.where(label="forest"))
    with pytest.raises(InputError, match="no class with two"):
        anchors(real.subset([0, 2]))


def test_all_black_images_leave_out_ratios_only() -> None:
    real = speckle_set(3, classes=("city",))
    table = evaluate("black", 0, real, replace(real, images=np.zeros_like(real.images)), resamples=5)
    assert "amplitude_kl" in set(table["metric"])
    assert {"amplitude_cv", "amplitude_enl"}.isdisjoint(table["metric"])
    assert {"amplitude_cv", "amplitude_enl"} <= set(left_out(table)["metric"])

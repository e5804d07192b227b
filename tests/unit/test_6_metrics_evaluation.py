"""The evaluation table on small synthetic sets: columns, anchors, reasons, and that corruption is seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sarnb.data.dataset import ImageSet
from sarnb.data.imagefolder import default_caption
from sarnb.errors import InputError
from sarnb.metrics import METRICS, amplitude, distribution, geometry, semantic, texture
from sarnb.metrics.describe import join, measure
from sarnb.metrics.evaluation import (
    ANCHORS,
    COLUMNS,
    FROZEN_DECODER,
    LEAST_HALVINGS,
    OPTICAL_AS_GREY,
    REFERENCE_FLOOR,
    TUNED_DECODER,
    anchors,
    class_readings,
    combine,
    evaluate,
    floor,
    halves,
    left_out,
    look_reader,
    uniform_textures,
)

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
    return ImageSet(Path("set"), np.stack(images), tuple(rows))


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
        ("pooled", "all"),
        ("seen", "all"),
        ("seen", "city"),
        ("seen", "forest"),
        ("unseen", "all"),
        ("unseen", "airport"),
    }
    assert kl.set_index(["split", "class"]).loc[("pooled", "all"), "n"] == 18


def direct(real: ImageSet, fake: ImageSet, train: ImageSet, judge: MeanJudge, sides: list[np.ndarray]) -> dict[str, float]:
    """Every measure of the images ``sides`` (of real, of fake) by the pure functions, all images counting the same."""
    counts = [amplitude.histogram(part.images[side]).sum(0) for part, side in zip((real, fake), sides)]
    expected = {
        f"amplitude_{name}": getattr(amplitude, function)(*counts)
        for name, function in (
            ("kl", "kl"),
            ("reverse_kl", "reverse_kl"),
            ("js", "jensen_shannon"),
            ("wasserstein", "wasserstein"),
            ("ks", "kolmogorov_smirnov"),
        )
    }
    expected["log_cumulant_distance"] = amplitude.log_cumulant_distance(*counts)
    expected["amplitude_cv"] = amplitude.coefficient_of_variation(counts[1])
    expected["amplitude_kappa2"], expected["amplitude_kappa3"] = amplitude.log_cumulants(counts[1])[1:]
    expected["amplitude_enl"] = amplitude.local_enl(fake.images[sides[1]]).mean()

    whole = [texture.glcm_descriptors(part.images) for part in (real, fake)]
    standard = [((rows - whole[0].mean(0)) / whole[0].std(0))[side] for rows, side in zip(whole, sides)]
    gaps = np.abs(standard[0].mean(0) - standard[1].mean(0))
    described = [name.split(" ")[0] for name in texture.descriptor_names()]
    own = {name: gaps[[other == name for other in described]].mean() for name in texture.PROPERTIES}
    expected |= {f"texture_{name}": gap for name, gap in own.items()} | {"texture_distance": np.mean(list(own.values()))}
    expected["texture_frechet"] = distribution.frechet_distance(*standard)

    black = [(part.images[side] == 0).mean((1, 2)) for part, side in zip((real, fake), sides)]
    shares = [pd.Series(share).groupby(np.array(part.labels)[side]).mean().mean() for share, part, side in zip(black, (real, fake), sides)]
    expected["zero_share"], expected["zero_share_distance"] = shares[1], abs(shares[0] - shares[1])
    features = [semantic.embed_images(judge, part.images) for part in (real, fake)]
    pair = [rows[side] for rows, side in zip(features, sides)]
    expected["clip_frechet_distance"] = distribution.frechet_distance(*pair)
    kernels = [(a @ b.T + 1) ** 3 for a, b in ((pair[0], pair[0]), (pair[1], pair[1]), (pair[0], pair[1]))]
    alone = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
    expected["clip_kid"] = sum(alone) - 2 * kernels[2].mean()
    expected["clip_precision"], expected["clip_recall"] = (distribution.manifold_hits(*two).mean() for two in (pair, pair[::-1]))
    names = sorted(CLASSES)
    prompts, truth = semantic.embed_texts(judge, [default_caption(name) for name in names]), [names.index(x) for x in fake.labels]
    scores = {
        "clip_cosine": (features[1] * prompts[truth]).sum(1),
        "clip_accuracy": semantic.zero_shot(features[1], prompts) == truth,
        "clip_retrieval_r1": semantic.retrieval_r1(features[1], semantic.embed_texts(judge, fake.captions), fake.captions),
        "look_accuracy": geometry.look_correct(
            geometry.side_features(fake.images)
            @ geometry.fit_look_reader(geometry.side_features(real.images), [row["look"] for row in real.rows]),
            [row["look"] for row in fake.rows],
        ),
    }
    views = [distribution.thumbnails(part.images) for part in (fake, train, real)]
    scores["memorised_fraction"] = distribution.memorised(*views)
    scores["duplicate_fraction"] = distribution.duplicated(views[0], views[2])
    return {**expected, **{name: score[sides[1]].mean() for name, score in scores.items()}}


def test_every_row_is_what_the_pure_functions_give_for_its_images() -> None:
    real, fake, train = speckle_set(10), speckle_set(9, seed=1, looks=3), speckle_set(6, seed=9)
    # some copies, some blur and some mirrored images, so that no measure is at an end of its scale
    fake.images[3:5], fake.images[10], fake.images[20] = train.images[3:5], fake.images[12], fake.images[20, :, ::-1]
    table = evaluate("mixed", 0, real, fake, MeanJudge(), resamples=0, train=train)
    assert set(table["metric"]) == set(METRICS)
    cells = table.groupby(["split", "class"], sort=False)
    assert len(cells) == 6
    for (split, label), part in cells:
        sides = [
            np.array([i for i, row in enumerate(images.rows) if split in ("pooled", row["group"]) and label in ("all", row["label"])])
            for images in (real, fake)
        ]
        expected = direct(real, fake, train, MeanJudge(), sides)
        assert set(METRICS) - set(part["metric"]) <= {"texture_frechet", "clip_frechet_distance"}
        assert (len(part) == len(METRICS)) == (label == "all" and split != "unseen")
        for row in part.itertuples():
            assert row.value == pytest.approx(expected[row.metric], rel=1e-6, abs=1e-9), (split, label, row.metric)
    whole = table[table["split"] == "pooled"].set_index("metric")["value"]
    assert abs(whole["amplitude_kl"] - whole["amplitude_reverse_kl"]) > 0.01, "an exchange of the two would be seen"
    assert whole["clip_precision"] != whole["clip_recall"] and whole["memorised_fraction"] > 0 and whole["duplicate_fraction"] > 0


def test_same_arguments_same_table() -> None:
    real, fake = speckle_set(3), speckle_set(3, seed=1)
    pd.testing.assert_frame_equal(evaluate("a", 0, real, fake, resamples=10), evaluate("a", 0, measure(real), measure(fake), resamples=10))
    assert not evaluate("a", 0, real, fake, resamples=10).equals(evaluate("a", 0, real, fake, resamples=10, bootstrap_seed=1))


def test_floor_lies_below_a_wrong_speckle_law(table: pd.DataFrame) -> None:
    floor = anchors(speckle_set(16), MeanJudge())
    assert set(floor["strategy"]) == {REFERENCE_FLOOR}
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
    rows = anchors(real, decoded={TUNED_DECODER: replace(real, images=real.images // 4), FROZEN_DECODER: real})
    assert set(rows["strategy"]) == set(ANCHORS)
    value = rows[rows["split"] == "pooled"].set_index(["strategy", "metric"])["value"]
    for name, images in ((OPTICAL_AS_GREY, real.images // 2), (TUNED_DECODER, real.images // 4), (FROZEN_DECODER, real.images)):
        found = []  # by hand: one half as it is, the other half as the anchor shows it
        for number in range(LEAST_HALVINGS):
            first, second = halves(real.labels, (0, number))
            own = evaluate("x", 0, real.subset(first), replace(real, images=images).subset(second), resamples=0)
            found.append(own[(own["split"] == "pooled") & (own["metric"] == "amplitude_wasserstein")]["value"].item())
        assert value[name, "amplitude_wasserstein"] == pytest.approx(np.median(found))
    assert (rows["n"] <= len(real) // 2).all()


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


def test_the_floor_is_the_median_of_halvings_at_the_compared_number_in_the_unit_of_the_values() -> None:
    real = measure(speckle_set(8))
    drawn = ["city"] * 2 + ["forest"] * 3 + ["airport"] * 9  # of airports half of the real ones are the most
    table = floor(real, seed=7, drawn=drawn, halvings=30).set_index(["split", "class", "metric"])
    labels, kl, distance = np.array(real.labels), [], []
    standard = (real.descriptors - real.descriptors.mean(0)) / real.descriptors.std(0)
    for number in range(30):
        reference, other = halves(real.labels, (7, number), Counter(drawn))
        assert Counter(labels[other]) == {"city": 2, "forest": 3, "airport": 4} and len(reference) + len(other) == 24
        means = [[part[labels[part] == name] for name in CLASSES] for part in (reference, other)]
        p, q = (np.mean([real.histograms[own].sum(0) / real.histograms[own].sum() for own in side], axis=0) for side in means)
        kl.append(np.sum((p + 1e-6) * np.log((p + 1e-6) / (q + 1e-6))) / (1 + 256e-6))
        a, b = (np.mean([standard[own].mean(0) for own in side], axis=0) for side in means)
        distance.append(np.abs(a - b).mean())
    for metric, values in (("amplitude_kl", kl), ("texture_distance", distance)):
        row = table.loc[("pooled", "all", metric)]
        assert row["value"] == pytest.approx(np.median(values)) and row["n"] == 9
        assert [row["lo"], row["hi"]] == pytest.approx(np.quantile(values, [0.025, 0.975]).tolist())


def test_a_class_named_as_the_rows_of_whole_splits_has_rows_of_its_own() -> None:
    sets = [
        replace(part, labels=tuple({"city": "all", "forest": "unlabelled"}.get(name, name) for name in part.labels))
        for part in (measure(speckle_set(4)), measure(speckle_set(4, seed=1)))
    ]
    table, plain = evaluate("a", 0, *sets, resamples=0), evaluate("a", 0, speckle_set(4), speckle_set(4, seed=1), resamples=0)
    assert not table.duplicated(["split", "class", "metric"]).any()
    assert {"all", "all (class)", "unlabelled (class)", "airport"} == set(table["class"])
    kl = [part[part["metric"] == "amplitude_kl"].set_index(["split", "class"])["value"] for part in (table, plain)]
    assert kl[0]["seen", "all (class)"] == pytest.approx(kl[1]["seen", "city"]) and kl[0]["seen", "all"] == pytest.approx(
        kl[1]["seen", "all"]
    )


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


def test_a_class_competes_with_classes_and_a_composition_with_all() -> None:
    class Fixed:
        def embed_texts(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([["city" in text, "forest" in text] for text in texts], dtype=torch.float32)

        def embed_images(self, images: np.ndarray) -> torch.Tensor:  # a texture without a scene is neither
            return torch.zeros(len(images), 2)

    angles = np.deg2rad([40, 50, 10])  # from the axis of the city; that of city and forest lies at 45
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    part = replace(measure(speckle_set(1)), features=features, labels=("city", "city+forest", ""))
    table = class_readings(part, Fixed(), ["city", "forest", "city+forest"], compositions={"city+forest"})
    assert table["class"].tolist() == ["city", "city+forest", ""] and table["called"].tolist()[:2] == ["city", "city+forest"]
    assert table["cosine"].tolist() == pytest.approx([np.cos(angles[0]), np.cos(np.deg2rad(5)), np.nan], nan_ok=True)
    assert class_readings(part, Fixed(), ["city", "forest", "city+forest"])["called"].tolist() == ["city+forest", "city+forest", "city"]
    table = class_readings(replace(part, features=features[[2, 2, 2]]), Fixed(), ["city", "forest", "city+forest"], {"city+forest"})
    assert table["called"][1] == "city"  # one part is not both


def test_a_uniform_texture_is_no_composition_and_one_part_is_not_both() -> None:
    """The judge sees bright columns as a river and bright rows as a road, and calls every texture a forest a little."""

    class Stripes:
        def embed_images(self, images: np.ndarray) -> torch.Tensor:
            values = images.astype(np.float64)
            return torch.tensor(np.stack([values.mean(1).std(1), values.mean(2).std(1), np.full(len(images), 40.0)], axis=1))

        def embed_texts(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([["river" in text, "road" in text, "forest" in text] for text in texts], dtype=torch.float64)

    flat = uniform_textures((64, 64), each=4, seed=5)
    both, column = flat.copy(), flat.copy()
    both[:, :, 20:40], column[:, :, 20:40] = 255, 255
    both[:, 20:40] = 255
    labels, mixed = ["river", "road", "forest", "river+road", "forest+road"], {"river+road", "forest+road"}
    for images, name in ((flat, "forest"), (column, "river"), (both, "river+road")):
        rows = tuple({"label": "river+road", "group": "composition", "look": "left"} for _ in images)
        assert set(class_readings(measure(ImageSet(Path("."), images, rows), Stripes()), Stripes(), labels, mixed)["called"]) == {name}


def test_the_reader_of_the_side_learns_from_decoded_images_too():
    rng = np.random.default_rng(0)
    data = speckle_set(per_class=4)
    real = measure(data)
    shapes = rng.standard_normal((2, 108))  # what tells the side in undamaged images, and what tells it in decoded ones
    signs = np.array([1.0 if look == "left" else -1.0 for look in real.looks])[:, None]
    clean, decoded = (signs * shape + 0.1 * rng.standard_normal((len(real), 108)) for shape in shapes)
    alone = look_reader(replace(real, side_features=clean))
    both = look_reader(replace(real, side_features=clean, decoded_side=decoded))
    assert (np.sign(clean @ both) == signs[:, 0]).all() and (np.sign(decoded @ both) == signs[:, 0]).all()
    assert np.abs(decoded @ alone).mean() < 0.5 * np.abs(decoded @ both).mean()
    half = replace(real, decoded_side=decoded).subset([2, 0])
    assert np.array_equal(half.decoded_side, decoded[[2, 0]])

"""Sensors and decoders: what is nearer is called nearer, and a gain has the right sign."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_set

from sarnb.errors import InputError
from sarnb.metrics.image_statistics import measure
from sarnb.metrics.tradeoff import decoder_sentences, decoder_table, sensor_halves, sensor_sentences, sensor_table


def images(seed, scale=60.0, count=12):
    """Rayleigh amplitudes of 32 px, half of them forest, half city."""
    rng = np.random.default_rng(seed)
    return replace(tiny_set(count), images=np.clip(rng.rayleigh(scale, (count, 32, 32)), 0, 255).astype(np.uint8))


def part(seed, scale=60.0, count=12):
    return measure(images(seed, scale, count))


def test_images_are_nearest_to_the_sensor_they_imitate():
    sensors = {"bright": part(0), "dark": part(1, 25.0)}
    table = sensor_table({"drawn": part(2), "misled": part(3, 25.0)}, sensors, resamples=10)
    assert set(table["metric"]) == {"amplitude_kl", "texture_distance", "look_accuracy"}
    kl = table[table["metric"] == "amplitude_kl"].set_index(["strategy", "sensor"])["value"]
    assert kl["drawn", "bright"] < 0.05 < kl["drawn", "dark"] and kl["misled", "dark"] < 0.05 < kl["misled", "bright"]
    words = sensor_sentences(table, "bright")
    assert "drawn: by amplitude_kl nearest to bright, the sensor of the study." in words
    assert any(line.startswith("misled: by amplitude_kl nearer to dark") for line in words)


def test_equal_laws_with_equal_numbers_tie_however_many_images_a_sensor_has():
    """A large set of one law and a small one of the same law, cut alike, are equally near to a third; uncut, the large one is nearer."""
    cut = {"large": sensor_halves(images(0, count=96), 4)[0], "small": sensor_halves(images(1, count=16), 4)[0]}
    assert len(cut["large"].labels) == len(cut["small"].labels) == 8
    drawn = {"drawn": part(2, count=8)}
    table = sensor_table(drawn, cut, resamples=50)
    kl = table[table["metric"] == "amplitude_kl"].set_index("sensor")
    assert kl.loc["large", "n"] == kl.loc["small", "n"] == 8
    assert kl["lo"].max() <= kl["hi"].min(), "the intervals overlap"
    assert any("not told apart from" in line for line in sensor_sentences(table, "large") if "amplitude_kl" in line)
    gap = lambda sensors: np.ptp(sensor_table(drawn, sensors, resamples=2).query("metric == 'amplitude_kl'")["value"])  # noqa: E731
    assert gap(cut) < 0.5 * gap({"large": part(0, count=192), "small": part(1, count=4)})


def test_halves_of_a_sensor_share_no_image_and_are_at_their_floor():
    first, second = sensor_halves(images(5, count=40), 8)
    assert not {tuple(row) for row in first.histograms} & {tuple(row) for row in second.histograms}
    table = sensor_table({"real": second}, {"own": first, "dark": part(1, 25.0, 16)}, resamples=10).query("metric == 'amplitude_kl'")
    assert table.set_index("sensor")["value"]["own"] < 0.1 * table.set_index("sensor")["value"]["dark"]
    with pytest.raises(InputError, match="two images"):
        sensor_halves(images(5, count=2), 8)


def test_a_better_decoder_gains_and_a_like_one_does_not():
    real = part(0)
    frozen = {"a": part(1, 30.0), "b": part(2)}
    table = decoder_table(real, frozen, {"a": part(3), "b": part(4)}, None, permutations=500).set_index(["metric", "strategy"])
    row = table.loc["amplitude_kl", "a"]
    assert row["gain"] == pytest.approx(row["frozen"] - row["adapted"]) and row["gain"] > 0.1 and row["verdict"] == "better"
    worse = decoder_table(real, {"a": part(3)}, {"a": frozen["a"]}, None, permutations=500).set_index("metric")
    assert worse.loc["amplitude_kl", "verdict"] == "worse" and worse.loc["amplitude_kl", "gain"] == pytest.approx(-row["gain"])
    lines = decoder_sentences(worse.reset_index())
    assert "better for 0, worse for 1, not told apart for 0 of 1" in lines[0]
    assert lines[-1].startswith("The frozen decoder wins: amplitude_kl for a")


def test_the_same_images_gain_nothing():
    same = {"a": part(1)}
    table = decoder_table(part(0), same, same, None, permutations=50)
    assert (table["gain"] == 0).all() and (table["p"] == 1).all() and (table["verdict"] == "not told apart").all()
    assert decoder_sentences(table)[-1] == "The frozen decoder wins nowhere."

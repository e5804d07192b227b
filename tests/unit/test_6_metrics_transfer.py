"""Sensors and decoders: what is nearer is called nearer, and a gain has the right sign."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_set

from sarnb.metrics.measured import measure
from sarnb.metrics.transfer import decoder_sentences, decoder_table, sensor_sentences, sensor_table


def part(seed, scale=60.0, count=12):
    rng = np.random.default_rng(seed)
    return measure(replace(tiny_set(count), images=np.clip(rng.rayleigh(scale, (count, 32, 32)), 0, 255).astype(np.uint8)))


def test_images_are_nearest_to_the_sensor_they_imitate():
    sensors = {"bright": part(0), "dark": part(1, 25.0)}
    table = sensor_table({"drawn": part(2), "misled": part(3, 25.0)}, sensors, resamples=10)
    assert set(table["metric"]) == {"amplitude_kl", "texture_distance", "look_accuracy"}
    kl = table[table["metric"] == "amplitude_kl"].set_index(["strategy", "sensor"])["value"]
    assert kl["drawn", "bright"] < 0.05 < kl["drawn", "dark"] and kl["misled", "dark"] < 0.05 < kl["misled", "bright"]
    words = sensor_sentences(table, "bright")
    assert "drawn: by amplitude_kl nearest to bright, the sensor of the study." in words
    assert any(line.startswith("misled: by amplitude_kl nearer to dark") for line in words)


def test_a_better_decoder_gains_and_a_like_one_does_not():
    real = part(0)
    frozen = {"a": part(1, 30.0), "b": part(2)}
    table = decoder_table(real, frozen, {"a": part(3), "b": part(4)}, None, permutations=500).set_index(
        ["metric", "strategy"]
    )
    row = table.loc["amplitude_kl", "a"]
    assert row["gain"] == pytest.approx(row["frozen"] - row["adapted"]) and row["gain"] > 0.1 and row["verdict"] == "better"
    worse = decoder_table(real, {"a": part(3)}, {"a": frozen["a"]}, None, permutations=500).set_index("metric")
    assert worse.loc["amplitude_kl", "verdict"] == "worse" and worse.loc["amplitude_kl", "gain"] == pytest.approx(
        -row["gain"]
    )
    assert "better for 0, worse for 1, not told apart for 0 of 1" in decoder_sentences(worse.reset_index())[0]


def test_the_same_images_gain_nothing():
    same = {"a": part(1)}
    table = decoder_table(part(0), same, same, None, permutations=50)
    assert (table["gain"] == 0).all() and (table["p"] == 1).all() and (table["verdict"] == "not told apart").all()

"""The typed profile: shipped ones load, every kind of mistake is one clear sentence."""

from __future__ import annotations

import dataclasses

import pytest

from sarnb.errors import InputError
from sarnb.profile import SENSORS, Profile, load_profile, profile_names, read_yaml


def test_shipped_profiles_carry_their_name_and_only_smoke_is_stamped():
    assert profile_names() == ["paper", "quick", "smoke", "study"]
    for profile, name in zip(map(load_profile, profile_names()), profile_names()):
        assert (profile.name, profile.stamp) == (name, "smoke: not a result" if name == "smoke" else "")


def test_study_has_several_training_seeds_and_paper_is_sdxl():
    assert len(load_profile("study").train_seeds) >= 2
    paper = load_profile("paper")
    assert (paper.image_size, paper.source) == (1024, "sarlo80") and "stable-diffusion-xl" in paper.foundation


def test_strategies_that_notebooks_train_exist_and_the_hybrid_comes_first():
    from sarnb.model.strategy import find_strategy

    for profile in map(load_profile, profile_names()):
        for name in (*profile.text_strategies, *profile.hybrid_strategies, *profile.seeded_strategies):
            assert find_strategy(name).name == name
        assert profile.hybrid_strategies[0] == "hybrid"
    # The main table's rows that only the notebook on the hybrid trains.
    for name in ("study", "paper"):
        assert {"hybrid+prior", "unet-full+te-full+token"} <= set(load_profile(name).hybrid_strategies)


def test_sensors_are_the_presets_of_the_radar():
    from sarnb.world.radar import PRESETS

    assert set(SENSORS) == set(PRESETS)


def test_parameters_are_upper_case_with_profile_and_results():
    profile = load_profile("quick")
    values = profile.parameters("results/quick")
    assert values["PROFILE"] == "quick" and values["RESULTS"] == "results/quick" and "NAME" not in values
    assert values["RANKS"] == [4, 16, 64]
    assert len(values) == len(dataclasses.fields(Profile)) + 1


@pytest.mark.parametrize(
    "change, words",
    [
        ({"train_steps": "many"}, "train_steps is 'many', it must be a whole number"),
        ({"train_steps": 2.0}, "train_steps is 2.0, it must be a whole number"),
        ({"train_steps": True}, "train_steps is True, it must be a whole number"),
        ({"train_steps": 0}, "at least 1"),
        ({"lr_token": 3}, "at most 1"),
        ({"lr_token": float("nan")}, "it must be a number"),
        ({"ema_decay": 1.0}, "at most 0.99999"),
        ({"ranks": []}, "non-empty list"),
        ({"ranks": 16}, "non-empty list"),
        ({"ranks": [4, 4]}, "twice"),
        ({"ranks": [4, "x"]}, "whole number"),
        ({"sensor": "sonar"}, "must be one of airborne-x"),
        ({"image_size": 48}, "multiple of 32"),
        ({"seed": 2**32}, "at most 4294967295"),
        ({"train_seeds": [0, -1]}, "at least 0"),
        ({"batch_size": 10**6}, "above train_images"),
        ({"warmup_steps": 10**6}, "above train_steps"),
        ({"name": "../x"}, "names a folder"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_key_value_and_mend(change, words):
    with pytest.raises(InputError) as error:
        load_profile("quick", **change)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("seed: 1\nseed: 2\n", "comes twice"),
        ("a: [1\n", "YAML"),
        ("- 1\n", "key: value"),
        ("seed: 1\n", "'name' is missing"),
        ("name: x\ncolour: 1\n", "unknown key 'colour'"),
    ],
)
def test_a_broken_file_names_itself(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        load_profile(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="unknown profile 'fast'.*paper, quick, smoke, study"):
        load_profile("fast")


def test_scientific_numbers_without_a_point_are_numbers():
    assert read_yaml("1e-4") == 1e-4 and read_yaml("[4, 16]") == [4, 16] and read_yaml("1.5e3") == 1500.0

"""A strategy is tuned, trained and drawn in one call, never twice; samples on the way, and the way of the word."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_pipeline, tiny_set

import sarnb.train.training as training
from sarnb.errors import DivergedError, InputError
from sarnb.model.strategy import find_strategy
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.training import differing_settings, rates_of, tune_rates

RATES = FinetuneConfig(steps=50, batch_size=4, warmup_steps=10, precision="fp32", lr_unet_full=1e-2, lr_token=2e-2)


def test_a_strategy_has_the_rates_of_its_own_components():
    assert rates_of(find_strategy("hybrid"), RATES) == {"lr_unet_full": 1e-2, "lr_text_lora": 3e-4, "lr_token": 2e-2}
    assert rates_of(find_strategy("scratch"), RATES) == {"lr_unet_scratch": 4e-4}
    for rate, name in training.ALONE.items():
        assert list(rates_of(find_strategy(name), RATES)) == [rate]


@pytest.fixture
def sets(monkeypatch):
    """Tiny sets and foundation in place of files."""
    monkeypatch.setattr(training, "load_set", lambda folder: tiny_set(4, seed=folder.name == "val"))
    monkeypatch.setattr(training, "load_foundation", lambda spec: tiny_pipeline())


def trained_as(monkeypatch, losses: dict[float, float]) -> list[tuple[str, FinetuneConfig]]:
    """Replace the training: its held-out loss follows from its one rate (it is the rate itself if not said); what was requested of it."""
    requested = []

    def finetune(pipe, strategy, data, config, folder, val, cache):
        requested.append((strategy.name, config))
        (rate,) = rates_of(strategy, config).values()
        loss = losses.get(rate, rate)
        if np.isnan(loss):
            raise DivergedError("the loss is nan")
        return type("Result", (), {"history": pd.DataFrame({"step": [0, config.steps], "held_out": [9.0, loss]})})()

    def errors(pipe, latents, captions, timesteps, *_):
        (rate,) = rates_of(find_strategy(requested[-1][0]), requested[-1][1]).values()
        return np.full((1, len(timesteps)), losses.get(rate, rate))

    monkeypatch.setattr(training, "finetune", finetune)
    monkeypatch.setattr(training, "held_out_errors", errors)
    return requested


def test_the_lowest_held_out_losses_win_without_a_judge_and_a_diverged_rate_loses(sets, monkeypatch, tmp_path):
    requested = trained_as(monkeypatch, {5e-3: 0.4, 1e-2: 0.3, 2e-2: float("nan")})
    call = lambda: tune_rates(find_strategy("unet-full"), "x", tmp_path, tmp_path / "trials", RATES, (0.5, 1, 2), 8)  # noqa: E731
    choice = call()
    assert choice.config == RATES and choice.table["chosen"].tolist() == [False, True, False]
    assert choice.table["held_out"].tolist() == [0.4, 0.3, np.inf]
    assert [(config.steps, config.warmup_steps) for _, config in requested] == [(8, 2)] * 3
    assert call().table.equals(choice.table) and len(requested) == 3  # read back


def test_a_real_trial_leaves_no_checkpoint(sets, tmp_path):
    choice = tune_rates(find_strategy("token"), "x", tmp_path, tmp_path / "trials", RATES, (1e-6, 1.0), 3)
    assert np.isfinite(choice.table["held_out"]).all()
    assert not list((tmp_path / "trials").rglob("checkpoint*"))
    assert len(list((tmp_path / "trials").rglob("trial.json"))) == len(choice.table) >= 2


def test_one_factor_is_no_trial_and_senseless_grids_are_refused(tmp_path):
    choice = tune_rates(find_strategy("unet-full"), "nowhere", tmp_path, tmp_path, RATES, (2.0,), 8)
    assert choice.config.lr_unet_full == 2e-2 and choice.table["chosen"].tolist() == [True]
    for factors in ((), (0.0, 1.0)):
        with pytest.raises(InputError, match="factors"):
            tune_rates(find_strategy("unet-full"), "nowhere", tmp_path, tmp_path, RATES, factors, 8)


def test_strategies_train_a_component_that_they_share_at_one_rate(sets, monkeypatch, tmp_path):
    requested = trained_as(
        monkeypatch, {5e-3: 0.9, 1e-2: 0.4, 2e-2: 0.8, 5e-5: 0.3, 1e-4: 0.2, 2e-4: 0.4, 1.5e-4: 0.9, 3e-4: 0.5, 6e-4: 0.7}
    )
    names = ("hybrid", "unet-full", "hybrid+prior", "unet-full+te-full+token")
    other = replace(RATES, lr_unet_lora=7.0)  # a notebook that says other rates than it uses
    chosen = {
        name: tune_rates(find_strategy(name), "x", tmp_path, tmp_path / "trials", config, (0.5, 1, 2), 8).config
        for name, config in zip(names, (RATES, other, RATES, RATES))
    }
    assert {config.lr_unet_full for config in chosen.values()} == {1e-2}
    assert chosen["unet-full+te-full+token"].lr_text_full == 1e-4 and chosen["hybrid"].lr_text_lora == 3e-4
    tried = [(name, *rates_of(find_strategy(name), config).values()) for name, config in requested]
    assert len(tried) == len(set(tried)) == 13  # three factors for each of four components, one more for the word, whatever shares them
    differing = differing_settings({name: chosen[name] for name in ("hybrid", "unet-full+te-full+token")})
    # Full text encoders have no rank. All that both train, they train alike.
    assert set(differing["setting"]) == {"text", "rank", "alpha", "lr_text_lora", "lr_text_full"}
    assert differing.set_index("setting").loc["rank"].tolist() == [16, "none"]
    assert differing_settings({name: chosen[name] for name in ("hybrid", "hybrid+prior")})["setting"].tolist() == ["prior"]
    assert set(differing_settings({"hybrid": RATES, "unet-full": replace(RATES, steps=7)})["setting"]) >= {"steps", "token", "init"}


def test_the_score_is_the_mean_of_two_accuracies_and_the_loss_by_bands():
    losses = {"low noise": [0.2, 0.1, np.inf], "middle noise": [0.1, 0.2, np.inf], "high noise": [0.01, 0.01, np.inf]}
    table = pd.DataFrame({"left out": [0.25, 0.5, 0.0], "trained": [1.0, 0.5, 0.0]} | losses)
    bands = [(0.5 + 1 + 1) / 3, (1 + 0.5 + 1) / 3, 0.0]
    by_hand = [np.mean([*accuracies, band]) for *accuracies, band in zip(table["left out"], table["trained"], bands)]
    np.testing.assert_allclose(training.score_trials(table), by_hand)
    table["left out"] = np.nan  # too few classes to leave any out
    np.testing.assert_allclose(training.score_trials(table), [np.mean(pair) for pair in zip(table["trained"], bands)])


def test_classes_that_a_trial_did_not_see_decide_and_the_grid_grows_towards_them(sets, monkeypatch, tmp_path):
    classes = ("city", "coast", "forest", "river")
    several = tiny_set(8)
    several = replace(several, rows=tuple({**row, "label": label} for row, label in zip(several.rows, classes * 2)))
    monkeypatch.setattr(training, "load_set", lambda folder: several)
    requested, shown = trained_as(monkeypatch, dict.fromkeys((5e-3, 1e-2, 2e-2, 4e-2, 8e-2), 0.5)), []
    finetune = training.finetune
    monkeypatch.setattr(training, "finetune", lambda *args: shown.append(args[2].labels) or finetune(*args))

    def grade(pipe, strategy, drawn):  # the judge knows what was left out the better, the nearer the rate is to four times its start
        return 1 - abs(np.log2(requested[-1][1].lr_unet_full / 4e-2)) / 8 if drawn == ("coast", "river") else 0.5

    choice = tune_rates(find_strategy("unet-full"), "x", tmp_path, tmp_path / "trials", RATES, (0.5, 1, 2), 8, grade)
    assert choice.table["factor"].tolist() == [0.5, 1, 2, 4, 8] and choice.config.lr_unet_full == 4e-2
    assert set(shown) == {("city", "forest") * 2}
    assert choice.remark == "the highest score chose lr_unet_full times 4 of 0.5, 1, 2, 4, 8 (inside the grid)."


def test_a_grid_grows_three_times_at_most_and_its_end_is_remarked(sets, monkeypatch, tmp_path):
    trained_as(monkeypatch, {})  # the lower the rate, the lower the loss
    choice = tune_rates(find_strategy("unet-full"), "x", tmp_path, tmp_path / "trials", RATES, (0.1, 1.0), 8)
    np.testing.assert_allclose(choice.table["factor"], [1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert choice.table["chosen"].tolist() == [True] + 4 * [False]
    assert "(the smallest: the best rate may lie beyond)" in choice.remark
    untried = tune_rates(find_strategy("unet-full"), "x", tmp_path, tmp_path / "trials", RATES, (1.0,), 8)
    assert untried.remark == "nothing was tried, its rates are those of the profile times 1."

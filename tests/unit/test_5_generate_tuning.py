"""The learning-rate grid: every rate of a strategy scaled, the lowest held-out loss chosen, trials not done twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_pipeline, tiny_set

import sarnb.train.training as module
from sarnb.errors import DivergedError, InputError
from sarnb.model.strategy import find_strategy
from sarnb.train.finetune import FinetuneConfig, PriorSet
from sarnb.train.training import RateChoice, rates_of, scaled, tune_rates

CONFIG = FinetuneConfig(steps=50, batch_size=4, warmup_steps=10, precision="fp32", lr_unet_full=1e-2, lr_token=2e-2)


def test_a_strategy_scales_its_own_rates_only():
    hybrid = find_strategy("hybrid")
    assert rates_of(hybrid, CONFIG) == {"lr_unet_full": 1e-2, "lr_text_lora": 3e-4, "lr_token": 2e-2}
    assert rates_of(find_strategy("scratch"), CONFIG) == {"lr_unet_scratch": 4e-4}
    half = scaled(hybrid, CONFIG, 0.5)
    assert (half.lr_unet_full, half.lr_text_lora, half.lr_token) == (5e-3, 1.5e-4, 1e-2)
    assert (half.lr_unet_lora, half.lr_text_full, half.steps) == (CONFIG.lr_unet_lora, CONFIG.lr_text_full, 50)


@pytest.fixture
def sets(monkeypatch):
    """Tiny sets and foundation in place of files."""
    monkeypatch.setattr(module, "load_set", lambda folder: tiny_set(4, seed=folder.name == "val"))
    monkeypatch.setattr(module, "load_foundation", lambda spec: tiny_pipeline())


def trained_as(monkeypatch, losses: dict[float, float]) -> list[FinetuneConfig]:
    """Replace the training: its held-out loss follows from the rate; the configurations it was asked for."""
    asked = []

    def finetune(pipe, strategy, data, config, folder, val, cache, prior):
        asked.append(config)
        loss = losses[config.lr_unet_full]
        if np.isnan(loss):
            raise DivergedError("the loss is nan")
        return type("Result", (), {"history": pd.DataFrame({"step": [0, config.steps], "held_out": [9.0, loss]})})()

    monkeypatch.setattr(module, "finetune", finetune)
    return asked


def test_the_lowest_held_out_loss_wins_and_a_diverged_rate_loses(sets, monkeypatch, tmp_path):
    asked = trained_as(monkeypatch, {5e-3: 0.4, 1e-2: 0.3, 2e-2: float("nan")})
    call = lambda: tune_rates(find_strategy("unet-full"), "x", tmp_path, tmp_path / "trials", CONFIG, (0.5, 1, 2), 8)  # noqa: E731
    choice = call()
    assert choice.config == CONFIG and choice.table["chosen"].tolist() == [False, True, False]
    assert choice.table["held_out"].tolist() == [0.4, 0.3, np.inf]
    assert [(config.steps, config.warmup_steps) for config in asked] == [(8, 2)] * 3
    assert call().table.equals(choice.table) and len(asked) == 3  # read back


def test_a_real_trial_leaves_no_checkpoint(sets, tmp_path):
    choice = tune_rates(find_strategy("token"), "x", tmp_path, tmp_path / "trials", CONFIG, (1e-6, 1.0), 3)
    assert np.isfinite(choice.table["held_out"]).all()
    assert not list((tmp_path / "trials").rglob("checkpoint*")) and len(list((tmp_path / "trials").rglob("trial.json"))) == 2


def test_one_factor_is_no_trial_and_senseless_grids_are_refused(tmp_path):
    choice = tune_rates(find_strategy("unet-full"), "nowhere", tmp_path, tmp_path, CONFIG, (2.0,), 8)
    assert choice.config.lr_unet_full == 2e-2 and choice.table["chosen"].tolist() == [True]
    for factors in ((), (0.0, 1.0)):
        with pytest.raises(InputError, match="factors"):
            tune_rates(find_strategy("unet-full"), "nowhere", tmp_path, tmp_path, CONFIG, factors, 8)


def test_prior_pictures_take_part_in_the_trials(sets, tmp_path):
    prior = PriorSet(np.full((2, 16, 16, 3), 90, np.uint8), ("an aerial photograph of a city",) * 2)
    strategy = replace(find_strategy("hybrid+prior"), rank=4)
    with pytest.raises(InputError, match="draw them first"):
        tune_rates(strategy, "x", tmp_path, tmp_path / "trials", CONFIG, (0.5, 1.0), 2)
    choice = tune_rates(strategy, "x", tmp_path, tmp_path / "trials", CONFIG, (0.5, 1.0), 2, prior)
    assert np.isfinite(choice.table["held_out"]).all()


@pytest.mark.parametrize(
    "chosen, words",
    [
        (0, "the chosen factor 0.3 is the smallest of the grid: the best rate may lie beyond (0.3, 1, 3)."),
        (1, "the chosen factor 1 is inside the grid (0.3, 1, 3)."),
        (2, "the chosen factor 3 is the largest of the grid: the best rate may lie beyond (0.3, 1, 3)."),
    ],
)
def test_a_choice_at_an_end_of_the_grid_is_remarked(chosen, words):
    table = pd.DataFrame({"factor": [0.3, 1.0, 3.0], "chosen": [place == chosen for place in range(3)]})
    assert RateChoice(CONFIG, table).remark == words


def test_one_factor_is_no_choice():
    table = pd.DataFrame({"factor": [1.0], "chosen": [True]})
    assert RateChoice(CONFIG, table).remark == "nothing was tried, its rates are those of the profile times 1."

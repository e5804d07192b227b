"""The judge trains once: complete is read back, cut short goes on, other data start anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny_set, tiny_tokenizer

from sarnb.errors import InputError
from sarnb.model.judge import DualEncoder
from sarnb.train import judge as module
from sarnb.train.judge import judge_config, train_judge
from sarnb.train.loop import batch_ids


@pytest.fixture(autouse=True)
def _tiny_words(monkeypatch):
    monkeypatch.setattr("sarnb.model.judge.foundation_tokenizer", lambda spec: tiny_tokenizer("<|endoftext|>"))


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr(module, "train_clip", refuse)


def weights(judge: DualEncoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in judge.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


CONFIG = judge_config(2, checkpoint_every=1)


def test_a_finished_judge_is_read_back(tmp_path, no_training):
    first = train_judge(tiny_set(), "embedded", CONFIG, tmp_path, batch_size=4)
    assert {path.name for path in tmp_path.iterdir()} >= {"record.json", "history.csv", "dual_encoder.safetensors"}
    assert not list(tmp_path.glob("training-*")), "the optimiser's state is not kept"
    no_training()
    again = train_judge(tiny_set(), "embedded", CONFIG, tmp_path, batch_size=4)
    assert same(weights(first.judge), weights(again.judge)) and again.record == first.record | {"config": again.record["config"]}
    assert again.history["step"].tolist() == first.history["step"].tolist() == [1, 2]


def test_a_batch_holds_an_image_once(tmp_path):
    run = train_judge(tiny_set(6), "embedded", judge_config(1), tmp_path, batch_size=64)
    assert (run.record["batch_size"], run.record["batch_asked"], run.record["images"]) == (6, 64, 6)


def test_one_cut_short_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    whole = weights(train_judge(tiny_set(), "embedded", CONFIG, tmp_path / "whole", batch_size=4).judge)

    def killed_at_the_second_step(count, size, seed, step):
        if step:
            raise KeyboardInterrupt
        return batch_ids(count, size, seed, step)

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("sarnb.train.judge.batch_ids", killed_at_the_second_step)
        with pytest.raises(KeyboardInterrupt):
            train_judge(tiny_set(), "embedded", CONFIG, cut, batch_size=4)
    assert not (cut / "record.json").exists() and list(cut.glob("training-*/checkpoint.safetensors"))
    assert same(whole, weights(train_judge(tiny_set(), "embedded", CONFIG, cut, batch_size=4).judge))


def test_other_images_or_settings_replace_it_and_what_another_run_left(tmp_path):
    first = train_judge(tiny_set(), "embedded", judge_config(1), tmp_path, batch_size=4)
    (tmp_path / "training-0000").mkdir()
    other = train_judge(tiny_set(seed=1), "embedded", judge_config(1), tmp_path, batch_size=4)
    assert other.record["key"] != first.record["key"] and not list(tmp_path.glob("training-*"))
    longer = train_judge(tiny_set(seed=1), "embedded", CONFIG, tmp_path, batch_size=4)
    assert longer.history["step"].max() == 2


def test_a_damaged_one_is_trained_again(tmp_path):
    first = train_judge(tiny_set(), "embedded", judge_config(1), tmp_path, batch_size=4)
    file = tmp_path / "dual_encoder.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    again = train_judge(tiny_set(), "embedded", judge_config(1), tmp_path, batch_size=4)
    assert same(weights(first.judge), weights(again.judge))


def test_wrong_captions_are_part_of_the_training_and_of_its_identity(tmp_path):
    data = tiny_set()
    captions = [f"a {label} seen from the {row['look']}" for row, label in zip(data.rows, data.labels)]
    told = replace(data, rows=tuple({**row, "captions": [caption]} for row, caption in zip(data.rows, captions)))
    run = train_judge(told, "embedded", CONFIG, tmp_path, batch_size=4)
    assert run.history["contrary_r1"].between(0, 1).all() and run.record["captions_with_negatives"] == run.record["captions"] == 4
    plain = train_judge(told, "embedded", CONFIG, tmp_path, batch_size=4, negatives=0)
    assert plain.record["key"] != run.record["key"] and "contrary_r1" not in plain.history
    assert not same(weights(run.judge), weights(plain.judge))


def test_what_cannot_be_learned_from_is_refused(tmp_path):
    data = tiny_set(4)
    with pytest.raises(InputError, match="1 different caption"):
        rows = tuple({**row, "captions": ["a radar image"]} for row in data.rows)
        train_judge(replace(data, rows=rows), "embedded", CONFIG, tmp_path)
    with pytest.raises(InputError, match="1 image"):
        train_judge(data.subset([0]), "embedded", CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_schedule_fits_any_number_of_steps():
    for steps in (1, 4, 400, 20000):
        config = judge_config(steps)
        assert config.warmup_steps < steps and config.log_every >= 1

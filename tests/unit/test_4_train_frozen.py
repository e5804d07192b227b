"""What does not train takes less memory during the steps, and nothing else changes."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny import tiny_pipeline, tiny_set
from torch import nn

import sarnb.train.finetune as module
from sarnb.model.foundation import components, fingerprint
from sarnb.model.strategy import find_strategy
from sarnb.train.finetune import FinetuneConfig, finetune
from sarnb.train.loop import Watcher
from sarnb.train.machine import Frozen

CONFIG = FinetuneConfig(steps=2, batch_size=4, precision="bf16", held_out_images=2, held_out_timesteps=2, log_every=1)


@pytest.mark.parametrize("name", ["unet-lora-r4", "hybrid-r4"])
def test_training_gives_the_same_bits_as_at_full_precision(name, monkeypatch, tmp_path):
    def train(out):
        result = finetune(pipe := tiny_pipeline(), find_strategy(name), tiny_set(), CONFIG, out, val=tiny_set(2, seed=1))
        return result.history[["loss", "held_out"]].to_numpy().tolist(), {key: fingerprint(net) for key, net in components(pipe).items()}

    compact = train(tmp_path / "compact")
    monkeypatch.setattr(Frozen, "compact", lambda self: contextlib.nullcontext())
    assert str(train(tmp_path / "full")) == str(compact)


def test_half_the_bytes_during_the_steps_and_all_of_them_for_watchers(monkeypatch, tmp_path):
    seen, original = {"steps": set(), "watch": set()}, module.noise_prediction_loss

    def types(pipe):
        layers = [layer for layer in pipe.unet.modules() if isinstance(layer, nn.Linear)]
        return {(p.dtype, p.requires_grad) for layer in layers for p in layer.parameters(recurse=False)}

    def spy(*args):
        seen["steps"] |= types(pipe)
        return original(*args)

    monkeypatch.setattr(module, "noise_prediction_loss", spy)
    pipe = tiny_pipeline()
    watcher = Watcher(1, lambda step: seen["watch"].update(types(pipe)))
    finetune(pipe, find_strategy("unet-lora-r4"), tiny_set(), CONFIG, tmp_path, watchers=[watcher])
    assert seen["steps"] == {(torch.bfloat16, False), (torch.float32, True)}
    assert seen["watch"] == types(pipe) == {(torch.float32, False), (torch.float32, True)}
    assert pipe.unet.dtype == torch.float32


def test_in_float32_nothing_is_halved():
    pipe = tiny_pipeline()
    with Frozen(pipe.unet, [pipe.vae], "fp32").compact():
        assert {p.dtype for p in pipe.unet.parameters()} == {torch.float32}

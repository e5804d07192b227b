"""Number formats, attention and frozen parts follow the hardware, and change no result."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny import tiny_pipeline, tiny_set
from torch import nn

import sarnb.train.finetune as module
from sarnb.model.foundation import components, encode_prompts, fingerprint
from sarnb.model.strategy import find_strategy
from sarnb.train.finetune import FinetuneConfig, finetune
from sarnb.train.loop import Watcher
from sarnb.train.machine import SHORT, Frozen, plain_attention, resolve_precision


@pytest.mark.parametrize(
    "cuda, native, cpu, expected",
    [
        (True, True, {}, "bf16"),
        (True, False, {"amx_bf16": True}, "fp32"),  # the card decides, not the CPU next to it
        (False, False, {"amx_bf16": True, "avx512_bf16": False}, "bf16"),
        (False, False, {"amx_bf16": False, "avx512_bf16": True}, "bf16"),
        (False, False, {"avx2": True}, "fp32"),
    ],
)
def test_auto_takes_what_the_hardware_is_good_at(cuda, native, cpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert resolve_precision("auto") == expected
    assert [resolve_precision(name) for name in ("fp32", "bf16")] == ["fp32", "bf16"]  # who asks for one gets it


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="fp8.*auto, fp32, bf16"):
        resolve_precision("fp8")


# Plain attention computes what the fused kernel computes, and leaves nothing behind.


def ways(pipe) -> set[str]:
    """How the networks attend, by the names of processors and implementations."""
    towers = {tower.config._attn_implementation for tower in (pipe.text_encoder, pipe.text_encoder_2)}
    return {type(processor).__name__ for processor in pipe.unet.attn_processors.values()} | towers


def loss_and_gradients(pipe) -> list[torch.Tensor]:
    """Of a sum over the noise prediction, through UNet and both text encoders."""
    networks = (pipe.unet, pipe.text_encoder, pipe.text_encoder_2)
    for network in networks:
        network.requires_grad_(True).zero_grad()
    draw = torch.Generator().manual_seed(0)
    hidden, pooled = encode_prompts(pipe, ["SAR image of a city", "a"])
    latents = torch.randn((2, pipe.unet.config.in_channels, 4, 4), generator=draw)
    wanted = {"text_embeds": pooled, "time_ids": torch.ones(2, 6)}
    loss = pipe.unet(latents, torch.tensor([10, 900]), hidden, added_cond_kwargs=wanted).sample.square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for network in networks for p in network.parameters() if p.grad is not None)]


def test_values_and_gradients_are_those_of_the_fused_kernel():
    pipe = tiny_pipeline()
    fused = loss_and_gradients(pipe)
    with plain_attention(pipe.unet, pipe.text_encoder, pipe.text_encoder_2, tokens=77):
        plain = loss_and_gradients(pipe)
    assert len(fused) == len(plain) > 50
    for one, other in zip(fused, plain):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5 * float(one.abs().max()) + 1e-9)


def test_it_is_plain_inside_and_as_before_outside_even_after_an_error():
    pipe = tiny_pipeline()
    before = ways(pipe)
    upcast = [part.upcast_softmax for part in pipe.unet.modules() if hasattr(part, "upcast_softmax")]
    with pytest.raises(KeyError), plain_attention(pipe.unet, pipe.text_encoder, pipe.text_encoder_2, tokens=SHORT):
        assert ways(pipe) == {"AttnProcessor", "eager"}
        raise KeyError
    assert ways(pipe) == before != {"AttnProcessor", "eager"}
    assert [part.upcast_softmax for part in pipe.unet.modules() if hasattr(part, "upcast_softmax")] == upcast


def test_long_sequences_keep_the_kernel_that_saves_memory():
    pipe = tiny_pipeline()
    before = ways(pipe)
    with plain_attention(pipe.unet, tokens=SHORT + 1):
        assert ways(pipe) == before


@pytest.mark.parametrize("name", ["unet-lora-r4", "token", "te-full"])
@pytest.mark.slow
def test_trainings_attend_plainly_in_all_that_gradients_pass(name, monkeypatch, tmp_path):
    seen, original, pipe = [], module.diffusion_loss, tiny_pipeline()
    before = ways(pipe)

    def spy(*arguments):
        seen.append(ways(pipe))
        return original(*arguments)

    monkeypatch.setattr(module, "diffusion_loss", spy)
    finetune(pipe, find_strategy(name), tiny_set(), FinetuneConfig(steps=1, batch_size=2), tmp_path)
    assert seen == [{"AttnProcessor", "eager"}] and ways(pipe) == before


# What does not train takes less memory during the steps, and nothing else changes.


FROZEN = FinetuneConfig(steps=2, batch_size=4, precision="bf16", held_out_images=2, held_out_timesteps=2, log_every=1)


@pytest.mark.parametrize("name", ["unet-lora-r4", "hybrid-r4"])
@pytest.mark.slow
def test_training_gives_the_same_bits_as_at_full_precision(name, monkeypatch, tmp_path):
    def train(out):
        result = finetune(pipe := tiny_pipeline(), find_strategy(name), tiny_set(), FROZEN, out, val=tiny_set(2, seed=1))
        return result.history[["loss", "held_out"]].to_numpy().tolist(), {key: fingerprint(net) for key, net in components(pipe).items()}

    compact = train(tmp_path / "compact")
    monkeypatch.setattr(Frozen, "compact", lambda self: contextlib.nullcontext())
    assert str(train(tmp_path / "full")) == str(compact)


@pytest.mark.slow
def test_half_the_bytes_during_the_steps_and_all_of_them_for_watchers(monkeypatch, tmp_path):
    seen, original = {"steps": set(), "watch": set()}, module.diffusion_loss

    def types(pipe):
        layers = [layer for layer in pipe.unet.modules() if isinstance(layer, nn.Linear)]
        return {(p.dtype, p.requires_grad) for layer in layers for p in layer.parameters(recurse=False)}

    def spy(*args):
        seen["steps"] |= types(pipe)
        return original(*args)

    monkeypatch.setattr(module, "diffusion_loss", spy)
    pipe = tiny_pipeline()
    watcher = Watcher(1, lambda step: seen["watch"].update(types(pipe)))
    finetune(pipe, find_strategy("unet-lora-r4"), tiny_set(), FROZEN, tmp_path, watchers=[watcher])
    assert seen["steps"] == {(torch.bfloat16, False), (torch.float32, True)}
    assert seen["watch"] == types(pipe) == {(torch.float32, False), (torch.float32, True)}
    assert pipe.unet.dtype == torch.float32


def test_in_float32_nothing_is_halved():
    pipe = tiny_pipeline()
    with Frozen(pipe.unet, [pipe.vae], "fp32").compact():
        assert {p.dtype for p in pipe.unet.parameters()} == {torch.float32}

"""Plain attention computes what the fused kernel computes, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_pipeline, tiny_set

import sarnb.train.finetune as module
from sarnb.model.foundation import encode_prompts
from sarnb.model.strategy import find_strategy
from sarnb.train.finetune import FinetuneConfig, finetune
from sarnb.train.machine import SHORT, plain_attention


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
def test_trainings_attend_plainly_in_all_that_gradients_pass(name, monkeypatch, tmp_path):
    seen, original, pipe = [], module.noise_prediction_loss, tiny_pipeline()
    before = ways(pipe)

    def spy(*arguments):
        seen.append(ways(pipe))
        return original(*arguments)

    monkeypatch.setattr(module, "noise_prediction_loss", spy)
    finetune(pipe, find_strategy(name), tiny_set(), FinetuneConfig(steps=1, batch_size=2), tmp_path)
    assert seen == [{"AttnProcessor", "eager"}] and ways(pipe) == before

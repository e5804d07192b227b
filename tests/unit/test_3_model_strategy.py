"""What each strategy trains: counted by hand, started without effect, refused where it makes no sense."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_pipeline
from torch import nn

from sarnb.errors import InputError
from sarnb.model.foundation import components, encode_prompts
from sarnb.model.strategy import STRATEGIES, Strategy, component_counts, find_strategy, prepare, seeds_of

PROMPT = ["a radar image of a city"]


def predict(pipe):
    """What the whole network makes of a fixed input."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        hidden, pooled = encode_prompts(pipe, PROMPT)
        conditions = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
        latents = torch.randn((1, 4, 4, 4), generator=generator)
        return pipe.unet(latents, 500, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample


def lora_size(module: nn.Module, endings: tuple[str, ...], rank: int, skip: str = "-") -> int:
    """Two matrices for each attention projection: rank * (inputs + outputs)."""
    return sum(
        rank * (layer.in_features + layer.out_features)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(endings) and skip not in name
    )


def test_the_table_of_the_design_is_complete():
    assert {"zero-shot", "scratch", "token", "te-lora", "te-full", "unet-lora-r4", "unet-lora", "unet-lora-r64"} < set(STRATEGIES)
    assert {"unet-lora+te-lora+token", "unet-full", "unet-full+te-full+token", "hybrid"} < set(STRATEGIES)
    hybrid = STRATEGIES["hybrid"]
    assert (hybrid.unet, hybrid.text, hybrid.token) == ("full", "lora", True)


def test_ranks_by_name():
    assert find_strategy("unet-lora-r8").rank == 8
    assert find_strategy("unet-lora-r4").alpha == 4
    with pytest.raises(InputError, match="unknown strategy 'best'.*hybrid"):
        find_strategy("best")
    with pytest.raises(InputError, match="unknown strategy"):
        find_strategy("unet-full-r8")
    with pytest.raises(InputError, match="rank is 0"):
        find_strategy("unet-lora-r0")


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 0},
        {"alpha": 0},
        {"unet": "some"},
        {"text": "scratch"},
        {"vae": "scratch"},
        {"vae": "full", "unet": "lora"},
        {"prior": 1.0},
        {"conv": True},
        {"dora": True},
        {"unet": "full", "conv": True},
    ],
)
def test_impossible_strategies(values):
    with pytest.raises(InputError, match="strategy x"):
        Strategy("x", **values)


def test_a_rank_larger_than_the_layer():
    with pytest.raises(InputError, match="rank 64 is larger than the layer .*choose at most 32"):
        prepare(tiny_pipeline(), find_strategy("unet-lora-r64"))


def test_trained_parameters_are_those_counted_by_hand():
    unet_targets, text_targets = ("to_q", "to_k", "to_v", "to_out.0"), ("q_proj", "k_proj", "v_proj", "out_proj")
    plain = tiny_pipeline()
    whole = {name: sum(p.numel() for p in part.parameters()) for name, part in components(plain).items()}
    unet = lora_size(plain.unet, unet_targets, 4)
    # The first encoder's last layer feeds nothing in SDXL, so it gets no LoRA.
    text = lora_size(plain.text_encoder, text_targets, 4, "layers.1."), lora_size(plain.text_encoder_2, text_targets, 4)
    attention = [m for n, m in plain.unet.named_modules() if isinstance(m, nn.Linear) and n.endswith(unet_targets)]
    lengths = sum(layer.out_features for layer in attention)  # DoRA: one length for each output
    blocks = [m for n, m in plain.unet.named_modules() if n.endswith(("conv1", "conv2", "conv_shortcut"))]
    # A k x k kernel to rank 4, then 1 x 1 from there.
    convolutions = sum(4 * (c.in_channels * c.kernel_size[0] * c.kernel_size[1] + c.out_channels) for c in blocks)
    expected = {
        "token": (0, 16, 24),
        "te-lora-r4": (0, *text),
        "unet-lora-r4": (unet, 0, 0),
        "unet-dora-r4": (unet + lengths, 0, 0),
        "unet-lora-conv-r4": (unet + convolutions, 0, 0),
        "unet-lora+te-lora+token-r4": (unet, text[0] + 16, text[1] + 24),
        "unet-full": (whole["unet"], 0, 0),
        "scratch": (whole["unet"], 0, 0),
        "hybrid-r4": (whole["unet"], text[0] + 16, text[1] + 24),
    }
    for name, counts in expected.items():
        pipe = tiny_pipeline()
        groups = prepare(pipe, find_strategy(name))
        table = component_counts(pipe).set_index("component")
        assert table["trains"].drop("of which <SAR>", errors="ignore").tolist() == [*counts, 0], name
        assert list(table.index)[:4] == ["unet", "text_encoder", "text_encoder_2", "vae"]
        assert sum(p.numel() for group in groups.values() for p in group) == sum(counts)
        if "token" in groups:
            assert table.loc["of which <SAR>", "trains"] == sum(p.numel() for p in groups["token"]) == 16 + 24
        if name == "unet-full":
            assert table.loc["unet", "total"] == table.loc["unet", "trains"] and table.loc["unet", "share"] == 1


def test_every_parameter_that_trains_gets_a_gradient():
    # None is dead weight, which would also hang training on several processes.
    for name in ("unet-full+te-full+token", "unet-lora+te-lora+token-r4", "unet-dora-r4", "unet-lora-conv-r4"):
        pipe = tiny_pipeline()
        groups = prepare(pipe, find_strategy(name))
        hidden, pooled = encode_prompts(pipe, ["a <SAR> image of a city"])
        conditions = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
        noise = pipe.unet(torch.ones(1, 4, 4, 4), 500, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample
        noise.square().sum().backward()
        assert all(p.grad is not None for group in groups.values() for p in group), name


@pytest.mark.parametrize("name", ["token", "te-lora-r4", "unet-lora-r4", "unet-lora-conv-r4", "unet-full+te-full+token", "hybrid-r4"])
def test_a_prepared_pipeline_predicts_as_before(name):
    before = predict(tiny_pipeline())
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy(name), seed=1)
    assert torch.equal(predict(pipe), before)


def test_random_starts_depend_on_the_seed_alone():
    def start(name, seed):
        pipe = tiny_pipeline()
        torch.manual_seed(torch.seed())
        return torch.cat([p.detach().flatten() for p in prepare(pipe, find_strategy(name), seed)["unet"]])

    for name in ("scratch", "unet-lora-r4"):
        assert torch.equal(start(name, 0), start(name, 0))
        assert not torch.equal(start(name, 0), start(name, 1))
    assert not torch.equal(predict(tiny_pipeline()), predict(_scratched()))


def test_a_pipeline_is_prepared_once():
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy("te-lora-r4"))
    with pytest.raises(InputError, match="adapted already"):
        prepare(pipe, find_strategy("unet-full"))


def _scratched():
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy("scratch"))
    return pipe


def test_repeated_strategies_train_with_every_seed_and_others_with_the_first():
    repeated = ("unet-lora-r16", "hybrid")
    assert seeds_of("hybrid", [4, 1, 2], repeated) == [4, 1, 2] == seeds_of("unet-lora-r16", (4, 1, 2), repeated)
    assert seeds_of("token", [4, 1, 2], repeated) == [4] == seeds_of("hybrid", [4, 1, 2], ())
    assert seeds_of("hybrid", [4], repeated) == [4]
    with pytest.raises(InputError, match="no training seed"):
        seeds_of("hybrid", [], repeated)
    with pytest.raises(InputError, match="unknown strategy 'hybird'"):
        seeds_of("token", [0], ["hybird"])

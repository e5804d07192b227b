"""Counts of what trains, against PyTorch's own numbers and sums by hand."""

from __future__ import annotations

import pytest
from tiny import tiny_pipeline
from torch import nn

from sarnb.model.strategy import UNET_TARGETS, component_counts, find_strategy, linear_layers, lora_parameters, prepare


def test_full_fine_tuning_trains_the_unet_and_nothing_else():
    pipe = tiny_pipeline()
    prepare(pipe, find_strategy("unet-full"))
    table = component_counts(pipe).set_index("component")
    assert table.loc["unet", "trains"] == sum(p.numel() for p in pipe.unet.parameters()) == table.loc["unet", "total"]
    assert table["trains"].drop("unet").sum() == 0 and list(table.index) == ["unet", "text_encoder", "text_encoder_2", "vae"]
    assert table.loc["unet", "share"] == 1


def test_the_hybrid_lists_the_two_rows_of_the_word():
    pipe = tiny_pipeline()
    groups = prepare(pipe, find_strategy("hybrid-r4"))
    table = component_counts(pipe).set_index("component")
    assert table.loc["of which <SAR>", "trains"] == 16 + 24
    assert table["trains"].drop("of which <SAR>").sum() == sum(p.numel() for group in groups.values() for p in group)


@pytest.mark.parametrize("rank", [1, 4])
def test_the_formula_for_lora_counts_what_peft_makes(rank):
    layers = linear_layers(tiny_pipeline().unet, UNET_TARGETS)
    pipe = tiny_pipeline()
    groups = prepare(pipe, find_strategy(f"unet-lora-r{rank}"))
    assert lora_parameters(layers, rank) == sum(p.numel() for p in groups["unet"])
    assert set(layers["layer"].str.endswith(UNET_TARGETS)) == {True}


def test_linear_layers_by_hand():
    net = nn.ModuleDict({"to_q": nn.Linear(3, 5), "to_k": nn.Conv2d(3, 5, 1), "other": nn.Linear(3, 5)})
    table = linear_layers(net, ("to_q", "to_k"))
    assert table.to_dict("records") == [{"layer": "to_q", "inputs": 3, "outputs": 5, "weights": 15}]
    assert lora_parameters(table, 2) == 16

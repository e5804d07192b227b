"""What a strategy trains, counted: per component, and per layer that LoRA adapts."""

from __future__ import annotations

import pandas as pd
from diffusers import StableDiffusionXLPipeline
from torch import nn

from sarnb.model.foundation import components


def component_counts(pipe: StableDiffusionXLPipeline) -> pd.DataFrame:
    """Parameters of each component of a pipeline that ``prepare`` set up.

    Columns: component, trains, total, share. What strategies add (LoRA matrices, the learned word's rows) is part of its
    component's total; the word's rows of both encoders are listed once more as their own row, ``of which <SAR>``.
    """
    rows, token = [], 0
    for name, module in components(pipe).items():
        named = list(module.named_parameters())
        trains = sum(p.numel() for _, p in named if p.requires_grad)
        token += sum(p.numel() for key, p in named if p.requires_grad and "trainable_tokens" in key)
        rows.append((name, trains, sum(p.numel() for _, p in named)))
    if token:
        rows.append(("of which <SAR>", token, token))
    table = pd.DataFrame(rows, columns=["component", "trains", "total"])
    table["share"] = table["trains"] / table["total"]
    return table


def linear_layers(module: nn.Module, targets: tuple[str, ...]) -> pd.DataFrame:
    """The linear layers of an unadapted network whose names end in one of ``targets``: layer, inputs, outputs, weights."""
    rows = [
        (name, layer.in_features, layer.out_features, layer.weight.numel())
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(targets)
    ]
    return pd.DataFrame(rows, columns=["layer", "inputs", "outputs", "weights"])


def lora_parameters(layers: pd.DataFrame, rank: int) -> int:
    """Parameters of LoRA of one rank on ``linear_layers``: the sum of r (inputs + outputs), Hu et al. 2021, section 4.1."""
    return int(rank * (layers["inputs"] + layers["outputs"]).sum())

"""What a profile costs at SDXL's size, before it is run: trainings, steps, images, memory, GPU hours and disk.

Counts come from the profile, sizes from SDXL's shapes on the meta device, and hours from rates that the user measured
(``tests/benchmarks/sdxl_gpu.py``) or took from a publication.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from torch import nn

from sarnb.errors import InputError
from sarnb.model.foundation import components, sdxl_pipeline
from sarnb.model.strategy import Strategy, find_strategy, prepare, seeds_of, trained_count
from sarnb.profile import Profile
from sarnb.train.finetune import FinetuneConfig
from sarnb.train.training import ALONE, rates_of

#: Images a second of one H100 at 1024 px that are published: a step of LoKr at batch 1 takes 0.606 s (SimpleTuner's
#: documentation), an image of 30 steps 2.50 s (diffusers' documentation). None is known of the autoencoder and of the judge.
PUBLISHED = {"train": 1 / 0.606, "draw": 1 / 2.50}
KINDS = ("train", "draw", "vae", "judge")
START_WORDS = 3  # short trainings of the token from other words, in notebook 08
COMPARED = 2  # strategies whose length of training notebooks 05 and 06 vary
OF_AUTOENCODERS = 2  # UNets that show what a tuned autoencoder does to them, in notebook 04


def parse_rates(words: list[str]) -> dict[str, float]:
    """``kind=images per second`` words over the published rates; raises ``InputError`` for another kind, or no positive number."""
    rates = dict(PUBLISHED)
    for word in words:
        kind, _, text = word.partition("=")
        try:
            rates[kind] = float(text)
        except ValueError:
            rates[kind] = float("nan")
        if kind not in KINDS or not 0 < rates[kind] < float("inf"):
            raise InputError(f"--rate {word}: write KIND=NUMBER, the images a second of one GPU; the kinds are {', '.join(KINDS)}")
    return rates


def trained_strategies(profile: Profile) -> dict[str, int]:
    """Name of each strategy that notebooks 05 to 09 train -> its number of trainings, one a seed."""
    names = ["unet-full", "scratch", *(f"unet-lora-r{rank}" for rank in profile.ranks), *profile.text_strategies, "token"]
    return {
        name: len(seeds_of(name, profile.train_seeds, profile.seeded_strategies))
        for name in dict.fromkeys([*names, *profile.hybrid_strategies])
    }


def state_bytes(pipe: StableDiffusionXLPipeline, strategy: Strategy, optimizer: str, average: bool) -> int:
    """Bytes on the graphics card of what a training holds at every step, activations left out.

    What trains: weights, gradients and, with ``average``, their moving average in 4 bytes each; AdamW's two moments in 4, or in
    1 with "adamw8bit". What is frozen: 4 bytes, the linear layers of the UNet 2, as ``sarnb.train.machine.Frozen`` holds them;
    networks that no step calls, as their outputs are cached, none.

    Parameters
    ----------
    pipe : a pipeline that ``prepare`` set up for the strategy, on any device.
    """
    called = {"unet"} | (set() if "text" in strategy.caches else {"text_encoder", "text_encoder_2"})
    per_trained = 4 + 4 + (2 if optimizer == "adamw8bit" else 8) + 4 * average
    total = 0
    for name, network in components(pipe).items():
        total += per_trained * trained_count(network)
        for module in network.modules() if name in called else ():
            size = 2 if name == "unet" and isinstance(module, nn.Linear) else 4
            total += size * sum(p.numel() for p in module.parameters(recurse=False) if not p.requires_grad)
    return total


def cost_table(profile: Profile, rates: Mapping[str, float], classes: int) -> pd.DataFrame:
    """A row for each group of trainings and for drawing and data; NaN where there is no rate, or nothing of the kind.

    Parameters
    ----------
    rates : kind -> images a second of one GPU.
    classes : number of classes of the test images, each of which is drawn.

    Returns
    -------
    table : columns what, trainings, steps (of each), images (of all), trained (parameters), state [GiB] (see
        ``state_bytes``), GPU hours, disk [GB] (of what is kept: finished models, drawings, data).
    """
    rows = []

    def add(what: str, kind: str, trainings: int, steps: int, batch: int, **more: float) -> None:
        images = trainings * steps * batch
        hours = images / rates[kind] / 3600 if kind in rates else float("nan")
        rows.append({"what": what, "trainings": trainings, "steps": steps, "images": images, "GPU hours": hours} | more)

    config, strategies = FinetuneConfig.of(profile), trained_strategies(profile)
    for name, trainings in strategies.items():
        strategy, pipe = find_strategy(name), sdxl_pipeline()
        with torch.device("meta"):
            prepare(pipe, strategy)
        trained = sum(trained_count(network) for network in components(pipe).values())
        size = {"trained": trained, "disk [GB]": 4e-9 * trained * trainings}
        size["state [GiB]"] = state_bytes(pipe, strategy, profile.optimizer, profile.ema_decay > 0) / 2**30
        add(name, "train", trainings, profile.train_steps, profile.batch_size, **size)
    tried = {rate for name in strategies for rate in rates_of(find_strategy(name), config)} & ALONE.keys()
    trials = len(tried) * len(profile.lr_factors) * (len(profile.lr_factors) > 1) + START_WORDS  # grids that grow have more
    add("trials of rates and start words", "train", trials, profile.tune_steps, profile.batch_size)
    if len(profile.curve_steps) > 1:
        add("lengths of training", "train", COMPARED, sum(profile.curve_steps), profile.batch_size)
    add("UNets on tuned autoencoders", "train", OF_AUTOENCODERS, profile.vae_unet_steps, profile.batch_size)
    add("control networks", "train", len(profile.control_kinds) + 1, profile.control_steps, profile.batch_size)
    add("model of three sensors", "train", 1, profile.train_steps, profile.batch_size)
    add("autoencoders (crops)", "vae", len(profile.vae_strategies), profile.vae_steps, profile.vae_batch)
    add("losses of autoencoders (crops)", "vae", len(profile.vae_ablation) + 2, profile.vae_ablation_steps, profile.vae_batch)
    add("judge", "judge", 1, profile.clip_steps, profile.clip_batch)
    drawn = (sum(strategies.values()) + 1) * classes * profile.generate_per_class  # one: zero-shot
    pixels = 1e-9 * profile.image_size**2  # speckle is noise: a grey PNG of it has about a byte a pixel
    hours = drawn / rates["draw"] / 3600
    rows.append({"what": "drawings for the evaluation", "images": drawn, "GPU hours": hours, "disk [GB]": drawn * pixels})
    shown = profile.train_images + profile.val_images + classes * profile.test_per_class
    rows.append({"what": "data", "images": shown, "disk [GB]": shown * pixels})
    table = pd.DataFrame(rows)
    whole = ["trainings", "steps", "images", "trained"]
    table[whole] = table[whole].astype("Int64")
    return table[["what", "trainings", "steps", "images", "trained", "state [GiB]", "GPU hours", "disk [GB]"]]

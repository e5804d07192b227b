"""SDXL's numbers of trained parameters: what each strategy trains on the meta device, against sums by hand.

The sums use the published configuration only (widths, depths, context), never the modules that they check.
"""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from typer.testing import CliRunner

from sarnb.cli import app
from sarnb.cost import cost_table, parse_rates, state_bytes
from sarnb.errors import InputError
from sarnb.model.foundation import components, sdxl_pipeline
from sarnb.model.strategy import STRATEGIES, Strategy, find_strategy, prepare, trained_count
from sarnb.profile import load_profile

CONTEXT, TIME = 2048, 1280  # both text encoders side by side; width of the time embedding
FIRST, SECOND = (768, 12), (1280, 32)  # width and layers of the text encoders
TOKENS, ADDED = 77, 2816  # positions; pooled text 1280 and six micro-conditions of 256

#: Residual blocks (inputs, outputs); those of the way up also take what the way down left, in the reverse order.
DOWN = [(320, 320), (320, 320), (320, 640), (640, 640), (640, 1280), (1280, 1280)]
MIDDLE = [(1280, 1280)] * 2
UP = [
    (1280 + 1280, 1280),
    (1280 + 1280, 1280),
    (1280 + 640, 1280),
    (1280 + 640, 640),
    (640 + 640, 640),
    (640 + 320, 640),
    (640 + 320, 320),
    (320 + 320, 320),
    (320 + 320, 320),
]
RESIDUAL = DOWN + MIDDLE + UP
#: Transformers (width, depth): 2 + 3 of depth 2 at the middle level; 2 + 1 + 3 of depth 10 at the lowest.
TRANSFORMERS = [(640, 2)] * 5 + [(1280, 10)] * 6
RESAMPLERS = [320, 640, 1280, 640]  # strided convolutions down, convolutions after enlarging up


def dense(inputs: int, outputs: int) -> int:
    """Weights and biases of a linear layer."""
    return inputs * outputs + outputs


def convolution(inputs: int, outputs: int, side: int = 3) -> int:
    return inputs * outputs * side**2 + outputs


def residual(inputs: int, outputs: int) -> int:
    """Two normalisations (scale and shift), two convolutions, the time's projection, and a shortcut where widths differ."""
    shortcut = convolution(inputs, outputs, 1) if inputs != outputs else 0
    return 2 * inputs + convolution(inputs, outputs) + dense(TIME, outputs) + 2 * outputs + convolution(outputs, outputs) + shortcut


def transformer(width: int, depth: int) -> int:
    """Normalisation and two projections round ``depth`` blocks: self-attention, cross-attention, gated feed-forward."""
    itself = 3 * width**2 + dense(width, width)
    cross = width**2 + 2 * CONTEXT * width + dense(width, width)
    feed_forward = dense(width, 8 * width) + dense(4 * width, width)
    return 2 * width + 2 * dense(width, width) + depth * (itself + cross + feed_forward + 3 * 2 * width)


def unet() -> int:
    embeddings = dense(320, TIME) + dense(TIME, TIME) + dense(ADDED, TIME) + dense(TIME, TIME)
    ends = convolution(4, 320) + 2 * 320 + convolution(320, 4)
    blocks = sum(residual(*block) for block in RESIDUAL) + sum(transformer(*block) for block in TRANSFORMERS)
    return embeddings + ends + blocks + sum(convolution(width, width) for width in RESAMPLERS)


def unet_lora(rank: int) -> int:
    """r (inputs + outputs) of eight projections a block: q, k, v, out of both attentions; k and v of cross-attention read the text."""
    return sum(depth * rank * (6 * 2 * width + 2 * (CONTEXT + width)) for width, depth in TRANSFORMERS)


def unet_lora_conv(rank: int) -> int:
    """k x k to r channels, then 1 x 1: r (k² inputs + outputs)."""
    return sum(rank * (9 * i + o) + rank * (9 * o + o) + (rank * (i + o) if i != o else 0) for i, o in RESIDUAL)


def dora_lengths() -> int:
    """One length for each output of eight projections a block, all as wide as the block."""
    return sum(depth * 8 * width for width, depth in TRANSFORMERS)


def text_lora(width: int, layers: int, rank: int) -> int:
    return layers * 4 * rank * 2 * width


def text_full(width: int, layers: int) -> int:
    """Attention 4 (w² + w), feed-forward of four widths, two normalisations; and the positions. The words stay frozen."""
    layer = 4 * dense(width, width) + dense(width, 4 * width) + dense(4 * width, width) + 2 * 2 * width
    return layers * layer + TOKENS * width


# The first encoder is read before its last layer, which therefore does not train; the second one's feeds the pooled text.
TE_LORA = (text_lora(FIRST[0], FIRST[1] - 1, 16), text_lora(*SECOND, 16))
TE_FULL = (text_full(FIRST[0], FIRST[1] - 1), text_full(*SECOND) + 2 * SECOND[0] + SECOND[0] ** 2)
EXPECTED = {
    "zero-shot": (0, 0, 0),
    "scratch": (unet(), 0, 0),
    "token": (0, FIRST[0], SECOND[0]),
    "te-lora": (0, *TE_LORA),
    "te-full": (0, *TE_FULL),
    "unet-lora-r4": (unet_lora(4), 0, 0),
    "unet-lora": (unet_lora(16), 0, 0),
    "unet-lora-r64": (unet_lora(64), 0, 0),
    "unet-lora-conv": (unet_lora(16) + unet_lora_conv(16), 0, 0),
    "unet-dora": (unet_lora(16) + dora_lengths(), 0, 0),
    "unet-lora+te-lora+token": (unet_lora(16), TE_LORA[0] + FIRST[0], TE_LORA[1] + SECOND[0]),
    "unet-full": (unet(), 0, 0),
    "unet-full+te-full+token": (unet(), TE_FULL[0] + FIRST[0], TE_FULL[1] + SECOND[0]),
    "hybrid": (unet(), TE_LORA[0] + FIRST[0], TE_LORA[1] + SECOND[0]),
    "hybrid+prior": (unet(), TE_LORA[0] + FIRST[0], TE_LORA[1] + SECOND[0]),
}


def sdxl_prepared(strategy: Strategy) -> StableDiffusionXLPipeline:
    """SDXL on the meta device, set up for the training of ``strategy``."""
    pipe = sdxl_pipeline()
    with torch.device("meta"):
        prepare(pipe, strategy)
    return pipe


def sdxl_trained(strategy: Strategy) -> dict[str, int]:
    """Parameters of each component that ``strategy`` trains, counted on the meta device."""
    pipe = sdxl_prepared(strategy)
    return {name: trained_count(part) for name, part in components(pipe).items()}


def test_the_sum_for_the_unet_is_the_published_number():
    assert unet() == 2_567_463_684 and EXPECTED.keys() == STRATEGIES.keys()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.slow
def test_a_strategy_trains_what_the_sum_says(name):
    assert sdxl_trained(STRATEGIES[name]) == dict(zip(("unet", "text_encoder", "text_encoder_2", "vae"), (*EXPECTED[name], 0)))


def test_the_largest_rank_is_that_of_the_narrowest_layer():
    assert sdxl_trained(find_strategy("unet-lora-r640"))["unet"] == unet_lora(640)
    with pytest.raises(InputError, match="rank 641 is larger than the layer .*choose at most 640"):
        sdxl_trained(find_strategy("unet-lora-r641"))


@pytest.mark.parametrize("profile", ["study", "paper"])
@pytest.mark.slow
def test_every_autoencoder_strategy_of_a_profile_fits_sdxl(profile):
    for name in load_profile(profile).vae_strategies:
        trained = sdxl_trained(find_strategy(name))
        assert trained["vae"] > 0 and sum(trained.values()) == trained["vae"]


# What a training holds on the card.


def unet_linear() -> int:
    """Of the UNet's parameters those in linear layers: embeddings, the time's projections, and all of transformers but normalisations."""
    embeddings = dense(320, TIME) + dense(TIME, TIME) + dense(ADDED, TIME) + dense(TIME, TIME)
    times = sum(dense(TIME, outputs) for _, outputs in RESIDUAL)
    return embeddings + times + sum(transformer(width, depth) - 2 * width - depth * 6 * width for width, depth in TRANSFORMERS)


WORDS = 49408
#: The text encoders' parameters: what te-full trains, the words, and the first one's unread last layer with its normalisation.
TEXTS = sum(TE_FULL) + WORDS * (FIRST[0] + SECOND[0]) + text_full(FIRST[0], 1) - TOKENS * FIRST[0] + 2 * FIRST[0]
FROZEN_UNET = 4 * unet() - 2 * unet_linear()  # linear layers in 2 bytes
STATES = {  # strategy -> bytes with AdamW in 8 bits and a moving average: 14 each that trains; frozen ones that a step calls besides
    "unet-full": 14 * unet(),
    "unet-lora": 14 * unet_lora(16) + FROZEN_UNET,
    "te-lora": 14 * sum(TE_LORA) + FROZEN_UNET + 4 * TEXTS,
    "hybrid": 14 * (unet() + sum(TE_LORA) + FIRST[0] + SECOND[0]) + 4 * TEXTS,
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.slow
def test_the_state_of_a_training_is_what_the_sum_says(name):
    strategy = STRATEGIES[name]
    pipe = sdxl_prepared(strategy)
    words = (FIRST[0] + SECOND[0]) * strategy.token  # the learned word's row of each table, whose start stays next to it
    assert state_bytes(pipe, strategy, "adamw8bit", True) == STATES[name] + 4 * words
    trained = sum(map(sum, zip(EXPECTED[name])))
    assert state_bytes(pipe, strategy, "adamw", False) == STATES[name] + 4 * words + (16 - 14) * trained


@pytest.mark.slow
def test_a_cost_is_counts_over_rates():
    small = {"ranks": [4], "text_strategies": ["te-lora"], "hybrid_strategies": ["hybrid"], "seeded_strategies": ["hybrid"]}
    paper = load_profile("paper", **small)
    table = cost_table(paper, parse_rates(["train=2", "vae=8"]), classes=10).set_index("what")
    hybrid = table.loc["hybrid"]
    assert (hybrid["trainings"], hybrid["steps"], hybrid["images"]) == (3, 15000, 3 * 15000 * 16)
    assert hybrid["GPU hours"] == pytest.approx(3 * 15000 * 16 / 2 / 3600)
    assert hybrid["trained"] == sum(EXPECTED["hybrid"]) and hybrid["disk [GB]"] == pytest.approx(3 * 4e-9 * sum(EXPECTED["hybrid"]))
    # unet-full, scratch, unet-lora-r4, te-lora, token: one training each; their five rates by three factors, and three words
    assert table["trainings"].iloc[:6].tolist() == [1, 1, 1, 1, 1, 3]
    assert table.loc["trials of rates and start words", "trainings"] == 5 * 3 + 3
    assert table.loc["autoencoders (crops)", "GPU hours"] == pytest.approx(7 * 10000 * 16 / 8 / 3600)
    assert pd.isna(table.loc["judge", "GPU hours"])
    drawn = (5 + 3 + 1) * 10 * 100
    assert table.loc["drawings for the evaluation", "images"] == drawn
    assert table.loc["drawings for the evaluation", "GPU hours"] == pytest.approx(drawn * 2.5 / 3600)
    assert table.loc["data", "disk [GB]"] == pytest.approx((80000 + 2000 + 10 * 200) * 1024**2 / 1e9)
    words = ["cost", "--gpus", "8", "--rate", "train=2", "--param", "TRAIN_STEPS=2000", "--param", "RANKS=[4]"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "hours on 8 GPUs" in done.stdout and "not counted, for want of a rate: autoencoders (crops)" in done.stdout


@pytest.mark.parametrize("word", ["train", "train=0", "train=-1", "train=x", "speed=2", "train=nan"])
def test_a_rate_that_is_none_is_refused(word):
    with pytest.raises(InputError, match="--rate .*: write KIND=NUMBER, the images a second"):
        parse_rates([word])

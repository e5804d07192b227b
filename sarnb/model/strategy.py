"""What trains, as data: a ``Strategy`` says it, ``prepare`` makes the pipeline so.

LoRA adds a product of two thin matrices to a frozen weight (Hu et al. 2021, arXiv 2106.09685), here with the factor that makes
a step of equal rate as long at every rank, W + (α/√r)·B·A (Kalajdzievski 2023, arXiv 2312.03732).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from sarnb.errors import InputError
from sarnb.model.foundation import ENCODERS, components
from sarnb.model.token import TOKEN, add_token, train_token
from sarnb.model.vae import add_vae_lora, unfreeze

UNET_MODES = ("frozen", "lora", "full", "scratch")
TEXT_MODES = ("frozen", "lora", "full")
VAE_MODES = ("frozen", "lora", "lora-encoder", "lora-decoder", "decoder", "full")
UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # attention projections, as diffusers' own LoRA scripts
CONV_TARGETS = ("conv1", "conv2", "conv_shortcut")  # of the residual blocks, where texture is made
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Strategy:
    """One way of adapting the foundation."""

    name: str
    unet: str = "frozen"  # "frozen", "lora", "full", or "scratch": full from random weights
    text: str = "frozen"  # both text encoders: "frozen", "lora" or "full"
    token: bool = False  # a learned <SAR> word
    vae: str = "frozen"  # LoRA on "lora-encoder", "lora-decoder" or both ("lora"), all of "decoder", or "full"
    rank: int = 16  # of every LoRA
    alpha: float = 8  # LoRA's factor is alpha / sqrt(rank)
    init: str = "image"  # word whose embedding <SAR> starts from
    conv: bool = False  # the UNet's LoRA adapts the convolutions of its residual blocks too
    dora: bool = False  # LoRA with a learned length of every output's weights (Liu et al. 2024, arXiv 2402.09353)
    prior: float = 0.0  # share of each batch that shows the foundation's own optical pictures (Ruiz et al. 2023)

    def __post_init__(self) -> None:
        for field, modes in (("unet", UNET_MODES), ("text", TEXT_MODES), ("vae", VAE_MODES)):
            if getattr(self, field) not in modes:
                raise InputError(f"strategy {self.name}: {field} is {getattr(self, field)!r}; choose {', '.join(modes)}")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise InputError(f"strategy {self.name}: rank is {self.rank}; give a whole number from 1 up")
        if not self.alpha > 0:
            raise InputError(f"strategy {self.name}: alpha is {self.alpha}; give a positive number")
        if not 0 <= self.prior < 1:
            raise InputError(f"strategy {self.name}: prior is {self.prior}; give a share from 0 up to, not including, 1")
        if (self.conv and self.unet != "lora") or (self.dora and not self.has_lora):
            raise InputError(f"strategy {self.name}: conv and dora change a LoRA; set unet (or for dora text) to 'lora' as well")
        if self.vae != "frozen" and (self.unet != "frozen" or self.text != "frozen" or self.token):
            raise InputError(
                f"strategy {self.name}: the autoencoder trains by itself, on images and not on noise; leave unet and text "
                "frozen and token out, and fine-tune those with the trained autoencoder afterwards"
            )

    @property
    def trains(self) -> bool:
        """Whether anything trains."""
        return self.unet != "frozen" or self.text != "frozen" or self.token or self.vae != "frozen"

    @property
    def has_lora(self) -> bool:
        """Whether the UNet or the text encoders get LoRA matrices."""
        return "lora" in (self.unet, self.text)

    @property
    def has_rank(self) -> bool:
        """Whether any component gets LoRA matrices, the autoencoder included."""
        return self.has_lora or self.vae.startswith("lora")

    @property
    def keeps_latents(self) -> bool:
        """Whether the encoder of the autoencoder, and with it every latent, stays as it is."""
        return self.vae in ("frozen", "decoder", "lora-decoder")

    @property
    def caches(self) -> tuple[str, ...]:
        """What may be computed once: latents while the VAE's encoder is frozen, text embeddings while both encoders are."""
        fixed = {"latents": self.keeps_latents, "text": self.text == "frozen" and not self.token}
        return tuple(name for name, kept in fixed.items() if kept)


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("zero-shot"),
        Strategy("scratch", unet="scratch"),
        Strategy("token", token=True),
        Strategy("te-lora", text="lora"),
        Strategy("te-full", text="full"),
        Strategy("unet-lora-r4", unet="lora", rank=4),
        Strategy("unet-lora", unet="lora"),
        Strategy("unet-lora-r64", unet="lora", rank=64),
        Strategy("unet-lora-conv", unet="lora", conv=True),
        Strategy("unet-dora", unet="lora", dora=True),
        Strategy("unet-lora+te-lora+token", unet="lora", text="lora", token=True),
        Strategy("unet-full", unet="full"),
        Strategy("unet-full+te-full+token", unet="full", text="full", token=True),
        Strategy("hybrid", unet="full", text="lora", token=True),
        Strategy("hybrid+prior", unet="full", text="lora", token=True, prior=0.25),
    )
}

VAE_STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("vae-frozen"),
        Strategy("vae-lora", vae="lora", alpha=16),
        Strategy("vae-lora-encoder", vae="lora-encoder", alpha=16),
        Strategy("vae-lora-decoder", vae="lora-decoder", alpha=16),
        Strategy("vae-decoder", vae="decoder"),
        Strategy("vae-full", vae="full"),
    )
}


def find_strategy(name: str) -> Strategy:
    """The strategy of that name; a LoRA strategy takes another rank by its ending, as in ``unet-lora-r8``.

    Raises
    ------
    InputError
        There is no such strategy; the message lists the names.
    """
    known = STRATEGIES | VAE_STRATEGIES
    if name in known:
        return known[name]
    match = re.fullmatch(r"(.+)-r(\d+)", name)
    if match and match[1] in known and known[match[1]].has_rank:
        return replace(known[match[1]], name=name, rank=int(match[2]))
    raise InputError(f"unknown strategy {name!r}; choose one of {', '.join(known)}, or a LoRA strategy with its rank (unet-lora-r8)")


def seeds_of(name: str, seeds: Sequence[int], repeated: Sequence[str]) -> list[int]:
    """The training seeds of a strategy: all of ``seeds`` if it is among ``repeated``, else the first.

    The spread over trainings matters where strategies are near each other; elsewhere one training is enough. Raises
    ``InputError`` for a name among ``repeated`` that is no strategy, and for no seed.
    """
    if not seeds:
        raise InputError("there is no training seed; give at least one")
    several = [find_strategy(other).name for other in repeated]
    return list(seeds) if name in several else list(seeds[:1])


def prepare(pipe: StableDiffusionXLPipeline, strategy: Strategy, seed: int = 0) -> dict[str, list[nn.Parameter]]:
    """Set the pipeline up for training, in place; component ("unet", "text", "token", "vae") -> its trainable parameters.

    Random starts (LoRA, scratch) depend on ``seed`` and the component only. Parameters that train are float32. Where both
    text encoders train fully, their embedding tables stay frozen: no caption holds most words, and decay alone would
    move those rows.

    Raises
    ------
    InputError
        A rank larger than a layer and a pipeline that was prepared before.
    """
    if any(isinstance(module, BaseTunerLayer) for part in components(pipe).values() for module in part.modules()):
        raise InputError(f"strategy {strategy.name}: this pipeline is adapted already; load a fresh foundation")
    for module in components(pipe).values():
        module.requires_grad_(False)
    _prepare_unet(pipe, strategy, seed)
    if strategy.token:
        add_token(pipe, strategy.init)
    for stream, (tokenizer, encoder) in enumerate(ENCODERS, start=2):
        with seeded(seed, stream):
            _prepare_encoder(getattr(pipe, encoder), getattr(pipe, tokenizer), strategy, with_last_layer=stream == 3)
    if strategy.vae.startswith("lora"):
        with seeded(seed, 4):
            add_vae_lora(pipe.vae, strategy.vae, strategy.rank, strategy.alpha)
    elif strategy.vae != "frozen":
        unfreeze(pipe.vae, strategy.vae)
    trainable = trainable_parameters(pipe)
    for parameter in (parameter for group in trainable.values() for parameter in group):
        parameter.data = parameter.data.float()
    return trainable


def trainable_parameters(pipe: StableDiffusionXLPipeline) -> dict[str, list[nn.Parameter]]:
    """Component ("unet", "text", "token", "vae") -> parameters that require a gradient; components without any are left out."""
    groups: dict[str, list[nn.Parameter]] = {"unet": [], "text": [], "token": [], "vae": []}
    for part, module in components(pipe).items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                key = "token" if "trainable_tokens" in name else part if part in ("unet", "vae") else "text"
                groups[key].append(parameter)
    return {key: group for key, group in groups.items() if group}


def component_counts(pipe: StableDiffusionXLPipeline) -> pd.DataFrame:
    """Parameters of each component of a pipeline that ``prepare`` set up: columns component, trains, total, share.

    What strategies add (LoRA matrices, the learned word's rows) is part of its component's total; the word's rows of both
    encoders are listed once more as their own row, ``of which <SAR>``.
    """
    counts = {name: (trained_count(part), sum(p.numel() for p in part.parameters())) for name, part in components(pipe).items()}
    if token := sum(p.numel() for p in trainable_parameters(pipe).get("token", ())):
        counts["of which <SAR>"] = (token, token)
    table = pd.DataFrame([(name, *both) for name, both in counts.items()], columns=["component", "trains", "total"])
    return table.assign(share=table["trains"] / table["total"])


def trained_count(module: nn.Module) -> int:
    """How many of a network's parameters train."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


@contextlib.contextmanager
def seeded(seed: int, stream: int) -> Iterator[None]:
    """Global random numbers that depend on (seed, stream) inside the block, and are put back after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + stream)
        yield


def _prepare_unet(pipe: StableDiffusionXLPipeline, strategy: Strategy, seed: int) -> None:
    if strategy.unet == "lora":
        targets = UNET_TARGETS + (CONV_TARGETS if strategy.conv else ())
        _check_rank(pipe.unet, targets, strategy)
        with seeded(seed, 1):
            pipe.unet.add_adapter(_lora(strategy, targets))
    elif strategy.unet == "full":
        pipe.unet.requires_grad_(True)
    elif strategy.unet == "scratch":
        with seeded(seed, 1):
            fresh = UNet2DConditionModel.from_config(pipe.unet.config)
        pipe.unet.load_state_dict(fresh.state_dict())
        pipe.unet.requires_grad_(True)


def _prepare_encoder(encoder, tokenizer, strategy: Strategy, with_last_layer: bool) -> None:
    """Both SDXL encoders are read at their penultimate layer; only the second one's last layer is used, for pooling.

    So the first one's last layer gets no gradient: it is left out of what trains, and of what is counted.
    """
    layers = encoder.config.num_hidden_layers - (0 if with_last_layer else 1)
    if strategy.text == "lora":
        _check_rank(encoder, TEXT_TARGETS, strategy)
        ids = {"token_embedding": [tokenizer.convert_tokens_to_ids(TOKEN)]} if strategy.token else None
        encoder.add_adapter(
            _lora(
                strategy,
                TEXT_TARGETS,
                layers_to_transform=list(range(layers)),
                layers_pattern="layers",
                trainable_token_indices=ids,
            )
        )
        return
    if strategy.token:
        train_token(encoder, tokenizer)
    if strategy.text == "full":
        last = (f"encoder.layers.{layers}.", "final_layer_norm")
        for name, parameter in encoder.named_parameters():
            unused = not with_last_layer and name.removeprefix("text_model.").startswith(last)
            if "token_embedding" not in name and not unused:
                parameter.requires_grad_(True)


def _lora(strategy: Strategy, targets: tuple[str, ...], **more) -> LoraConfig:
    """A starts with a spread that the rank does not change (PEFT's own, that of a linear layer), as rank-stable scaling supposes."""
    return LoraConfig(
        r=strategy.rank,
        lora_alpha=strategy.alpha,
        target_modules=list(targets),
        use_rslora=True,
        use_dora=strategy.dora,
        **more,
    )


def _check_rank(module: nn.Module, targets: tuple[str, ...], strategy: Strategy) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and name.endswith(targets):
            outputs = layer.weight.shape[0]
            inputs = layer.weight.numel() // outputs
            if strategy.rank > min(inputs, outputs):
                raise InputError(
                    f"strategy {strategy.name}: rank {strategy.rank} is larger than the layer {name} "
                    f"({inputs} to {outputs}); choose at most {min(inputs, outputs)}"
                )

"""The autoencoder: its round trip, what of it trains, LoRA on its convolutions, and how near it comes to fp16's limit.

LoRA of a convolution (Hu et al. 2021, arXiv 2106.09685) is a thin convolution A, [r, in, k, k], and a 1x1 convolution
B, [out, r, 1, 1]: together they add B·A, read as [out, in·k·k], to the flattened kernel.
"""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sarnb.errors import InputError
from sarnb.model.foundation import fingerprint, to_images, to_pixels

LORA_FILE = "vae_lora.safetensors"
PARTS = {"encoder": ("encoder", "quant_conv"), "decoder": ("decoder", "post_quant_conv")}
DOWN, UP = ".lora.down.weight", ".lora.up.weight"


def downsampling(vae: AutoencoderKL) -> int:
    """Pixels a latent cell, along each axis."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray, batch_size: int = 16, tile: int = 0) -> np.ndarray:
    """Images after encoding to the posterior mean and decoding: uint8 [N, H, W] or [N, H, W, 3] → uint8 [N, H, W, 3].

    Grey goes into all three channels. On the graphics card where there is one; the autoencoder stays there. ``tile`` > 0
    encodes and decodes in blended tiles of that many px, as diffusers does: memory then grows with the tile and not with
    the image.

    Raises
    ------
    InputError
        Sides or tiles that the autoencoder cannot divide.
    """
    factor = downsampling(vae)
    sides = (("image height", images.shape[1], factor), ("image width", images.shape[2], factor), ("tile", tile, 4 * factor))
    for what, side, unit in sides:  # tiles overlap by a quarter, which has to hold whole latent cells too
        if side % unit:
            raise InputError(f"round trip: {what} is {side} px, the autoencoder needs multiples of {unit}; crop or pad")
    vae.to("cuda" if torch.cuda.is_available() else "cpu")
    own, pieces = {name: getattr(vae, name) for name in ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")}, []
    if tile:
        vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size = True, tile, tile // factor
    try:
        for start in range(0, len(images), batch_size):
            pixels = to_pixels(images[start : start + batch_size]).to(vae.device, vae.dtype)
            pieces.append(to_images(vae.decode(vae.encode(pixels).latent_dist.mean).sample))
    finally:
        for name, value in own.items():
            setattr(vae, name, value)
    return np.concatenate(pieces)


def adaptable_layers(vae: AutoencoderKL, parts: tuple[str, ...] = ("encoder", "decoder")) -> dict[str, nn.Module]:
    """Every convolution and attention projection of the parts, by name; both 1x1 convolutions at the latents belong."""
    tops = {top for part in parts for top in PARTS[part]}
    return {
        name: layer for name, layer in vae.named_modules() if name.partition(".")[0] in tops and isinstance(layer, (nn.Conv2d, nn.Linear))
    }


def largest_rank(layer: nn.Module) -> int:
    """The rank of a layer's weight, read as a matrix of outputs by inputs, at most."""
    outputs = layer.weight.shape[0]
    return min(outputs, layer.weight.numel() // outputs)


def add_vae_lora(vae: AutoencoderKL, mode: str, rank: int, alpha: float) -> None:
    """Add LoRA to the part that ``mode`` names: "lora" (both parts), "lora-encoder" or "lora-decoder".

    Layers too thin for ``rank``, such as the last one with its three outputs, get their largest rank; the factor
    alpha / sqrt(rank) is the same everywhere.

    Raises
    ------
    InputError
        No layer is as wide as ``rank``.
    """
    parts = {"lora": tuple(PARTS), "lora-encoder": ("encoder",), "lora-decoder": ("decoder",)}[mode]
    layers = adaptable_layers(vae, parts)
    widest = max(map(largest_rank, layers.values()))
    if rank > widest:
        raise InputError(f"rank {rank} is larger than every layer of this autoencoder; choose at most {widest}")
    thin = {name: largest_rank(layer) for name, layer in layers.items() if largest_rank(layer) < rank}
    vae.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=list(layers),
            use_rslora=True,
            rank_pattern={f"^{name}": own for name, own in thin.items()},
            alpha_pattern={f"^{name}": alpha * (own / rank) ** 0.5 for name, own in thin.items()},
        )
    )


def unfreeze(vae: AutoencoderKL, mode: str) -> None:
    """Let the weights of the "decoder" or of everything ("full") train."""
    for part in PARTS["decoder"] if mode == "decoder" else PARTS["encoder"] + PARTS["decoder"]:
        if (module := getattr(vae, part)) is not None:
            module.requires_grad_(True)


@torch.no_grad()
def apply_lora(vae: AutoencoderKL, path: Path) -> AutoencoderKL:
    """Multiply the LoRA of ``path`` into the weights of its own autoencoder, in place.

    Raises
    ------
    InputError
        A file that is missing, damaged or holds anything else, and a LoRA that was trained on another autoencoder: same shapes are not
        enough.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            wanted = (file.metadata() or {}).get("vae", "")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy it again or train the autoencoder again") from error
    layers = [name.removeprefix("vae.").removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    if not layers or {f"vae.{name}{ending}" for name in layers for ending in (DOWN, UP)} != set(tensors):
        raise InputError(f"{path}: holds no LoRA of an autoencoder ('vae.<layer>{DOWN}' and '{UP}'); give the file {LORA_FILE}")
    if wanted != (found := fingerprint(vae)):
        raise InputError(
            f"{path}: a LoRA for the autoencoder {wanted[:16] or '(not named)'}, but this one is {found[:16]}; "
            "load it on the autoencoder it was trained on (in float32), or train it again"
        )
    for name in layers:  # down is A, up is B with LoRA's factor in it
        weight = vae.get_submodule(name).weight
        change = tensors[f"vae.{name}{UP}"].flatten(1) @ tensors[f"vae.{name}{DOWN}"].flatten(1)
        weight += change.view_as(weight).to(weight)
    return vae


LARGEST_HALF = 65504.0  # of IEEE 754 binary16


@torch.no_grad()
def activation_peaks(vae: AutoencoderKL, images: np.ndarray, factor: float = 1.0) -> pd.DataFrame:
    """Largest absolute output of every layer over a round trip of images uint8 [N, H, W, 3]; rows (layer, peak, share), largest first.

    ``share``: of what fp16 holds; 1 and more overflow to infinity. ``factor``: of the residual stream, see ``scale_for_half``.
    """
    vae = vae if factor == 1 else scale_for_half(vae, factor)
    peaks: dict[str, float] = {}
    names = {module: name for name, module in vae.named_modules() if name}

    def keep(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            peaks[names[module]] = max(peaks.get(names[module], 0.0), float(output.abs().max()))

    with contextlib.ExitStack() as hooks:
        for module in names:
            hooks.callback(module.register_forward_hook(keep).remove)
        reconstruct(vae, images, batch_size=1)
    table = pd.DataFrame({"layer": peaks.keys(), "peak": peaks.values()})
    table["share"] = table["peak"] / LARGEST_HALF
    return table.sort_values("peak", ascending=False, ignore_index=True)


@torch.no_grad()
def scale_for_half(vae: AutoencoderKL, factor: float) -> AutoencoderKL:
    """A copy whose decoder works on a residual stream ``factor`` times as large, and draws the same pictures.

    The layers that write to the stream (first convolution, second convolutions of the blocks, attention's output) are
    multiplied, and the biases of those that carry it (shortcuts, upsampling); first convolutions too, as the
    normalisation after them does not see it. What is left is the normalisations' epsilon, 1e-6 under the root.

    Raises
    ------
    InputError
        A factor that is not above 0 and at most 1.
    """
    if not 0 < factor <= 1:
        raise InputError(f"factor is {factor}; give a number above 0, at most 1")
    scaled = copy.deepcopy(vae)
    for name, layer in scaled.decoder.named_modules():
        own = name.rpartition(".")[2]
        if name == "conv_in" or own in ("conv1", "conv2") or name.endswith("to_out.0"):
            layer.weight *= factor
            layer.bias *= factor
        elif own == "conv_shortcut" or name.endswith("upsamplers.0.conv"):
            layer.bias *= factor
    return scaled

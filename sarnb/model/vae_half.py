"""Half precision: how near an autoencoder's activations come to what 16 bits hold, and an exact way to bring them down.

SDXL's autoencoder overflows in fp16. Fine-tuned weights that do not are published (madebyollin/sdxl-vae-fp16-fix); here the
same is reached without training, because every reader of the decoder's residual stream but linear ones is a group
normalisation, which does not see a common factor.
"""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL
from torch import nn

from sarnb.errors import InputError
from sarnb.model.foundation import to_pixels

LARGEST_HALF = 65504.0  # of IEEE 754 binary16


@torch.no_grad()
def activation_peaks(vae: AutoencoderKL, images: np.ndarray) -> pd.DataFrame:
    """Largest absolute output of every layer over a round trip of uint8 images; rows (layer, peak, share), largest first.

    ``share``: of what fp16 holds; 1 and more overflow to infinity.
    """
    peaks: dict[str, float] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, torch.Tensor):
                peaks[name] = max(peaks.get(name, 0.0), float(output.abs().max()))

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in vae.named_modules() if name]
    try:
        for image in images:
            vae.decode(vae.encode(to_pixels(image[None]).to(vae.device, vae.dtype)).latent_dist.mean)
    finally:
        for hook in hooks:
            hook.remove()
    table = pd.DataFrame({"layer": peaks.keys(), "peak": peaks.values()})
    table["share"] = table["peak"] / LARGEST_HALF
    return table.sort_values("peak", ascending=False, ignore_index=True)


@torch.no_grad()
def scale_for_half(vae: AutoencoderKL, factor: float) -> AutoencoderKL:
    """A copy whose decoder works on a residual stream ``factor`` times as large, and draws the same pictures.

    The layers that write to the stream (first convolution, second convolutions of the blocks, attention's output) are
    multiplied, and the biases of those that carry it (shortcuts, upsampling); first convolutions too, as the
    normalisation after them does not see it. What is left is the normalisations' epsilon, 1e-6 under the root.
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

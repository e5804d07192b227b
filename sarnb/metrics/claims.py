"""Which corruptions each measure claims to see; `sarnb.metrics.admission` holds the claims against real images.

A claim is no more than this: undamaged images score better than any damaged ones, and the score worsens with the damage.
What a measure does not claim here it may still notice, but nobody should rely on it. Claims of SAR-CLIP's measures need a
judge that tells classes apart (see `sarnb.metrics.judging`): they fail, as they must, with one that cannot.
"""

from __future__ import annotations

BLUR, GAUSSIAN, LOOKS, GAMMA = "blur", "gaussian speckle", "more looks", "gamma"
FLIPPED, SWAPPED, DUPLICATES, COPIES = "flipped side", "swapped class", "duplicates", "training copies"
PIXELS = (BLUR, GAUSSIAN, LOOKS, GAMMA)

BY_CLASS = ("amplitude_kl by class", "texture_distance by class")
"""Means over the classes' own values: pooled figures cannot see that classes were exchanged."""

CLAIMS: dict[str, tuple[str, ...]] = {
    "amplitude_kl": PIXELS,
    "amplitude_reverse_kl": PIXELS,
    "amplitude_js": PIXELS,
    "amplitude_wasserstein": PIXELS,
    "amplitude_ks": PIXELS,
    "log_cumulant_distance": PIXELS,
    "amplitude_cv": (BLUR, LOOKS, GAMMA),  # the Gaussian law has the coefficient of variation of the right one
    "amplitude_enl": PIXELS,
    "amplitude_kappa2": PIXELS,
    "amplitude_kappa3": (GAUSSIAN, LOOKS, GAMMA),  # blur takes the left tail at once, and more blur then changes little
    "texture_distance": PIXELS,
    # the differences of neighbours: an exponent that lifts the shadows lowers the lights, and the two nearly cancel
    "texture_contrast": (BLUR, GAUSSIAN, LOOKS),
    "texture_dissimilarity": PIXELS,
    # how often levels meet, whatever their distance: a law of speckle of the same spread looks the same
    "texture_homogeneity": (BLUR, LOOKS, GAMMA),
    "texture_energy": (BLUR, LOOKS, GAMMA),
    "texture_correlation": (BLUR, LOOKS),  # unchanged by a law or curve that keeps the order of brightness, or nearly so
    "texture_entropy": (BLUR, LOOKS, GAMMA),
    "texture_frechet": PIXELS,
    "clip_cosine": (SWAPPED,),
    "clip_accuracy": (SWAPPED,),
    "clip_retrieval_r1": (SWAPPED,),
    # half a pixel of blur moves the features less than two sets of eight images a class differ
    "clip_frechet_distance": (LOOKS, GAMMA),
    "clip_kid": (LOOKS, GAMMA),
    "clip_precision": (LOOKS,),  # an exponent brings images together, and so nearer to some real one
    "clip_recall": (DUPLICATES,),
    "memorised_fraction": (COPIES,),
    "duplicate_fraction": (DUPLICATES,),
    "look_accuracy": (FLIPPED,),
    "amplitude_kl by class": (*PIXELS, SWAPPED),
    # half of the way to the Gaussian law moves the texture less than two sets of eight images a class differ
    "texture_distance by class": (BLUR, LOOKS, GAMMA, SWAPPED),
}

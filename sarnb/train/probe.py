"""Asking a denoiser which caption explains an image: its noise-prediction error under several wordings.

The difference of the errors is an estimate of a log-likelihood ratio, which makes a classifier of any text-to-image
diffusion model (Li et al. 2023, Your diffusion model is secretly a zero-shot classifier, arXiv 2303.16203).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from diffusers import StableDiffusionXLPipeline

from sarnb.errors import InputError
from sarnb.train.cache import LatentCache
from sarnb.train.held_out import held_out_errors


def wording_errors(
    pipe: StableDiffusionXLPipeline,
    latents: Mapping[str, LatentCache],
    captions: Mapping[str, Sequence[str]],
    timesteps: Sequence[int],
    batch_size: int = 16,
    precision: str = "auto",
) -> pd.DataFrame:
    """Errors of every image at every timestep under every wording: columns images, wording, scene, timestep, error.

    ``latents``: kind of image ("radar", "optical") → N scenes in the same order; ``captions``: wording → N texts. Noise
    depends on scene and timestep only, so that rows which differ in the model, the wording or the kind of image are paired.
    """
    rows = []
    for kind, cache in latents.items():
        for wording, texts in captions.items():
            if len(texts) != len(cache.mean):
                raise InputError(
                    f"probe: {len(cache.mean)} {kind} images but {len(texts)} captions in wording {wording}; give one each"
                )
            errors = held_out_errors(pipe, cache, texts, timesteps, batch_size, precision)
            for (scene, column), error in np.ndenumerate(errors):
                rows.append((kind, wording, scene, int(timesteps[column]), float(error)))
    return pd.DataFrame(rows, columns=["images", "wording", "scene", "timestep", "error"])

"""What the foundation knew before: its own optical pictures, drawn once, for strategies with prior preservation.

Ruiz et al. 2023 (DreamBooth) train on a model's own pictures next to the new ones, so that what the new ones lack is not
forgotten. Here these are the classes in optical, those that no radar image shows among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionXLPipeline

from sarnb.data.dataset import load_set
from sarnb.data.files import content_key, kept
from sarnb.data.imagefolder import label_words
from sarnb.generate.sample import generate
from sarnb.model.export import foundation_fingerprint
from sarnb.model.strategy import Strategy
from sarnb.train.finetune import PriorSet
from sarnb.world.captions import prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS

PRIOR_PICTURES = 128  # of all classes together; this project's choice
PICTURES = "images.npy"


def prior_prompts(labels: Sequence[str], count: int) -> list[str]:
    """``count`` prompts for optical pictures; the classes of ``labels`` take turns."""
    known = {*CLASSES, *COMPOSITIONS}
    words = [label_words(label) for label in labels]
    texts = [prompt(word, "optical") if word in known else f"an aerial photograph of {word}" for word in words]
    return [texts[index % len(texts)] for index in range(count)]


def draw_prior(
    pipe: StableDiffusionXLPipeline,
    labels: Sequence[str],
    count: int,
    folder: Path,
    steps: int = 20,
    guidance_scale: float = 4.0,
    batch_size: int = 16,
) -> PriorSet:
    """``count`` pictures of the classes ``labels``, drawn by the foundation ``pipe`` or read back from ``folder``.

    Of several processes that want the same pictures one draws them and the others wait.

    Raises ``InputError`` for what ``generate`` refuses and a full disk.
    """
    texts = prior_prompts(labels, count)
    wanted = {"foundation": foundation_fingerprint(pipe), "texts": texts, "steps": steps, "guidance_scale": guidance_scale}
    place = Path(folder) / f"prior-{content_key(json.dumps(wanted))}"

    def make() -> dict:
        images = generate(pipe, texts, range(count), steps, guidance_scale, batch_size, label="prior pictures")
        place.mkdir(exist_ok=True)
        np.save(place / PICTURES, images)
        return {}

    return PriorSet(kept(place, wanted, make, lambda _: np.load(place / PICTURES)), tuple(texts))


def prior_set(pipe: StableDiffusionXLPipeline, strategy: Strategy, data_dir: Path, folder: Path) -> PriorSet | None:
    """What ``strategy`` shows of the foundation ``pipe`` next to the radar images; None without prior preservation.

    ``PRIOR_PICTURES`` pictures of all classes of the test split of ``data_dir``, those hidden from fine-tuning among them
    (only their names are read there), kept in ``folder``.
    """
    if not strategy.prior:
        return None
    labels = [label for label in dict.fromkeys(load_set(Path(data_dir) / "test").labels) if label] or ["scene"]
    return draw_prior(pipe, labels, PRIOR_PICTURES, folder)

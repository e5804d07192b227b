"""The prompts of the study, one request in several wordings, and the foundation's own pictures of its classes.

Ruiz et al. 2023 (DreamBooth) train on a model's own pictures next to the new ones, so that what the new ones lack is not
forgotten. Here these are the classes in optical, those that no radar image shows among them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import StableDiffusionXLPipeline

from sarnb.data.dataset import load_set
from sarnb.data.files import content_key, kept
from sarnb.data.imagefolder import label_words
from sarnb.generate.sample import evaluation_text, generate, group_of
from sarnb.model.export import foundation_fingerprint
from sarnb.model.strategy import Strategy
from sarnb.model.token import TOKEN, with_token
from sarnb.train.finetune import PriorSet
from sarnb.world.captions import LENGTHS, caption, prompt
from sarnb.world.radar import PRESETS
from sarnb.world.scene import CLASSES, COMPOSITIONS, make_scene

PRIOR_PICTURES = 128  # of all classes together; this project's choice
PICTURES = "images.npy"


def optical_text(label: str) -> str:
    """The optical prompt of a class, of a composition, or of a label of the user's own.

    >>> optical_text("river+forest"), optical_text("sea_ships")
    ('an aerial photograph of a river through a forest', 'an aerial photograph of sea ships')
    """
    words = label_words(label)
    return prompt(words, "optical") if words in CLASSES or words in COMPOSITIONS else f"an aerial photograph of {words}"


def prompt_table(labels: Sequence[str], groups: Mapping[str, str] | None = None, sensor: str = "airborne-x") -> pd.DataFrame:
    """Every prompt of every label: columns class, group, optical, radar, with side (here left), with token.

    Parameters
    ----------
    groups : as for ``evaluation_prompts``, the groups of labels that the twin world does not know.
    sensor : whose look the prompt ``with side`` names.
    """
    columns = {
        "class": list(labels),
        "group": [(groups or {}).get(label) or group_of(label) for label in labels],
        "optical": [optical_text(label) for label in labels],
        "radar": [evaluation_text(label, sensor=sensor) for label in labels],
        "with side": [evaluation_text(label, look="left", sensor=sensor) for label in labels],
        "with token": [evaluation_text(label, TOKEN, sensor=sensor) for label in labels],
    }
    return pd.DataFrame(columns)


def caption_variants(label: str, sensor: str = "airborne-x", seed: int = 0) -> dict[str, str]:
    """One class in several wordings: name -> prompt. Lengths and physics come from captions of one scene of the class.

    "nothing", "radar image of" and "<SAR>" name the class only; "short", "mid" and "long" tell more of the scene and not that
    a radar took it any further than their lead does; "+ physics" adds band, side, incidence and (long) resolution. A label that
    the twin world does not know has no scene: then only the first three, and "short + physics".
    """
    words = prompt(label, "sar").removeprefix("a radar image of ") if label in CLASSES or label in COMPOSITIONS else label_words(label)
    named = {
        "nothing": words,
        "radar image of": evaluation_text(label, sensor=sensor),
        "<SAR>": evaluation_text(label, TOKEN, sensor=sensor),
    }
    if label not in CLASSES and label not in COMPOSITIONS:
        return named | {"short + physics": evaluation_text(label, look="left", sensor=sensor)}
    scene, radar = make_scene(label, seed), replace(PRESETS[sensor], look="left")
    named |= {length: caption(scene, "sar", length, None, seed) for length in LENGTHS}
    return named | {f"{length} + physics": caption(scene, "sar", length, radar, seed) for length in ("mid", "long")}


def wordings(prompt: str) -> dict[str, str]:
    """A request with the learned word, with the words it stands for, and with neither: name of the wording → prompt.

    >>> list(wordings("a radar image of a city").values())
    ['a <SAR> image of a city', 'a radar image of a city', 'an image of a city', 'an aerial photograph of a city']
    """
    base = with_token(prompt)
    with_article = re.compile(rf"\ban? {re.escape(TOKEN)} image")
    kinds = {f"{TOKEN} image": "a", "radar image": "a", "image": "an", "aerial photograph": "an"}
    return {kind: with_article.sub(f"{article} {kind}", base).replace(f"{TOKEN} image", kind) for kind, article in kinds.items()}


def prior_set(pipe: StableDiffusionXLPipeline, strategy: Strategy, data_dir: Path, folder: Path) -> PriorSet | None:
    """What ``strategy`` shows of the foundation ``pipe`` next to the radar images; None without prior preservation.

    ``PRIOR_PICTURES`` pictures of all classes of the test split of ``data_dir``, which take turns, those hidden from fine-tuning
    among them (only their names are read there). They are drawn once into ``folder``; of several processes that want the same
    pictures one draws them and the others wait.

    Raises
    ------
    InputError
        What ``generate`` refuses, and a full disk.
    """
    if not strategy.prior:
        return None
    test = load_set(Path(data_dir) / "test")
    labels, side = [label for label in dict.fromkeys(test.labels) if label] or ["scene"], int(test.images.shape[1])
    texts = [optical_text(labels[number % len(labels)]) for number in range(PRIOR_PICTURES)]
    wanted = {"foundation": foundation_fingerprint(pipe), "texts": texts, "steps": 20, "guidance_scale": 4.0, "size": side}
    place = Path(folder) / f"prior-{content_key(json.dumps(wanted))}"

    def make() -> dict:
        images = generate(pipe, texts, range(len(texts)), wanted["steps"], wanted["guidance_scale"], size=side, label="prior pictures")
        place.mkdir(exist_ok=True)
        np.save(place / PICTURES, images)
        return {}

    return PriorSet(kept(place, wanted, make, lambda _: np.load(place / PICTURES)), tuple(texts))

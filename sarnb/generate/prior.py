"""What the foundation knew before: its own optical pictures, drawn once, for strategies with prior preservation.

Ruiz et al. 2023 (DreamBooth) train on a model's own pictures beside the new ones, so that what the new ones lack is not
forgotten. Here these are the classes in optical, those that no radar image shows among them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionXLPipeline
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sarnb.data.dataset import load_set
from sarnb.data.files import content_key, locked, saving
from sarnb.data.imagefolder import label_words
from sarnb.generate.sample import generate
from sarnb.model.export import foundation_fingerprint
from sarnb.model.strategy import Strategy
from sarnb.train.finetune import PriorSet
from sarnb.world.captions import prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS

PRIOR_PICTURES = 128  # of all classes together; ours


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
    key = content_key(foundation_fingerprint(pipe), json.dumps([texts, steps, guidance_scale]))
    path = Path(folder) / f"prior-{key}.safetensors"
    images = _stored(path)
    if images is None:
        with saving(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.parent):
                images = _stored(path)  # another process may have drawn them meanwhile
                if images is None:
                    images = generate(pipe, texts, range(count), steps, guidance_scale, batch_size, label="prior pictures")
                    _store(images, path)
    return PriorSet(images, tuple(texts))


def _stored(path: Path) -> np.ndarray | None:
    """The pictures of a file; None where it is missing or damaged."""
    try:
        return load_file(path)["images"]
    except (OSError, SafetensorError, KeyError):
        return None


def _store(images: np.ndarray, path: Path) -> None:
    """Write the pictures atomically; ``OSError`` where they cannot be written."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file({"images": np.ascontiguousarray(images)}, temporary)
        temporary.replace(path)
    except SafetensorError as error:  # what the format's writer makes of a full disk
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def prior_set(pipe: StableDiffusionXLPipeline, strategy: Strategy, data_dir: Path, folder: Path) -> PriorSet | None:
    """What ``strategy`` shows of the foundation ``pipe`` beside the radar images; None without prior preservation.

    ``PRIOR_PICTURES`` pictures of all classes of the test split of ``data_dir``, those hidden from fine-tuning among them
    (only their names are read there), kept in ``folder``.
    """
    if not strategy.prior:
        return None
    labels = [label for label in dict.fromkeys(load_set(Path(data_dir) / "test").labels) if label] or ["scene"]
    return draw_prior(pipe, labels, PRIOR_PICTURES, folder)

"""The foundation's model card in the hub's format, written from its recipe and training curves."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sarnb.errors import InputError
from sarnb.manifest import write_atomically

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [sdxl, remote-sensing, synthetic, teaching]
---

# sarnb embedded foundation ({status})

A miniature SDXL (128 x 128 px, VAE downsampling 8, {channels} latent channels) pretrained on captioned *optical*
scenes of the twin world, a procedural generator. It has never seen a radar image. It exists so that the fine-tuning
study runs on a laptop; it draws nothing but the twin world's classes.

```python
from diffusers import DiffusionPipeline
import sarnb
pipe = DiffusionPipeline.from_pretrained(sarnb.foundation_path())
image = pipe("an aerial photograph of a harbour", num_inference_steps=20, guidance_scale=4).images[0]
```

## Data
{scenes:,} optical scenes, all twelve classes and the compositions, with short, mid and long captions, from seed {seed};
for the VAE also {textures:,} dead-leaves and power-law noise pictures. Everything is drawn by `sarnb.world`.

## Recipe
`sarnb.foundation.recipe.pretrain_foundation` with `recipe.json`; the curves are in `curves/`. All captions also shaped
the tokenizer, those of radar images included, without their images.

{stages}

## Measures and limits
{measures}

## Licence
Apache-2.0, like the code.
"""


MEASURES = re.compile(r"(?<=^## Measures and limits\n).*?(?=\n\n## Licence$)", re.DOTALL | re.MULTILINE)
NOT_MEASURED = "Not measured yet: notebook 00 does it."
LIMITS = "Known limits: small objects and counts are unreliable, and so is everything outside the twin world."


def write_measures(folder: Path, aims: pd.DataFrame) -> None:
    """Puts what notebook 00 measured into the card of the foundation in ``folder``, in the place of earlier measures.

    Args:
        aims: of `sarnb.metrics.targets`: columns aim, set, asked, value, lo, hi, n, verdict.

    Raises:
        InputError: a folder without a card that has a section for the measures.
    """
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not MEASURES.search(card):
        raise InputError(f"{path}: is no model card of a foundation, it has no section 'Measures and limits'; export it again")
    write_atomically(path, MEASURES.sub(lambda _: _measures(aims), card))


def _measures(aims: pd.DataFrame | None) -> str:
    if aims is None:
        return f"{NOT_MEASURED} {LIMITS}"
    rows = [
        "On held-out scenes, by notebook 00; in brackets 95 % bootstrap intervals over the pictures, where there are several.",
        "",
        "| aim | set | value | verdict |",
        "|---|---|---|---|",
    ]
    for row in aims.itertuples():
        value = f"{row.value:.3g}" + ("" if np.isnan(row.lo) else f" [{row.lo:.3g}, {row.hi:.3g}], n = {row.n}")
        rows.append(f"| {row.aim} | {row.set} | {value} | {row.verdict} |")
    return "\n".join([*rows, "", LIMITS])


def foundation_card(recipe: dict, curves: Path) -> str:
    """Text of the card. ``recipe``: the recipe as a dictionary; ``curves``: folder of the stages' history tables.

    Weights that were trained without a GPU are marked as interim.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.processor() or platform.machine()}"
    rows = ["| stage | steps | minutes | last loss | images/s |", "|---|---|---|---|---|"]
    for path in sorted(curves.glob("*.csv")):
        history = pd.read_csv(path)
        rows.append(
            f"| {path.stem} | {int(history['step'].max())} | {history['seconds'].sum() / 60:.0f} "
            f"| {history['loss'].iloc[-1]:.4f} | {history['images_per_second'].median():.0f} |"
        )
    threads = torch.get_num_threads()
    rows += ["", f"Hardware: {device}" + ("." if torch.cuda.is_available() else f", {threads} CPU threads.")]
    return CARD.format(
        status="final" if torch.cuda.is_available() else "CPU, interim",
        channels=recipe["model"]["latent_channels"],
        scenes=recipe["scenes"],
        textures=recipe["textures"],
        seed=recipe["seed"],
        stages="\n".join(rows),
        measures=_measures(None),
    )

"""The foundation's model card in the hub's format, written from its recipe and training curves."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sarnb.data.files import saving, settle, write_text
from sarnb.errors import InputError
from sarnb.model.export import model_card

MEASURES = re.compile(r"(?<=^## Measures and limits\n).*?(?=\n\n## Licence$)", re.DOTALL | re.MULTILINE)
MEASURED = "measures.csv"
LIMITS = "Known limits: small objects and counts are unreliable, and so is everything outside the twin world."


def foundation_card(recipe: dict, curves: Path) -> str:
    """Text of the card; weights that were trained without a GPU are marked as interim.

    Parameters
    ----------
    recipe : the recipe as a dictionary.
    curves : folder of the stages' history tables.
    """
    gpu, rows = torch.cuda.is_available(), []
    for path in sorted(curves.glob("*.csv")):
        history = pd.read_csv(path)
        minutes, rate = history["seconds"].sum() / 60, history["images_per_second"].median()
        rows.append(f"| {path.stem} | {history['step'].max()} | {minutes:.0f} | {history['loss'].iloc[-1]:.4f} | {rate:.0f} |")
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} CPU threads"
    hardware = torch.cuda.get_device_name() if gpu else cpu
    tags = ["sdxl", "remote-sensing", "synthetic", "teaching"]
    values = {"gpu": gpu, "hardware": hardware, "stages": "\n".join(rows), "limits": LIMITS}
    return model_card("foundation", tags, "apache-2.0", **recipe, **values)


def write_measures(folder: Path, targets: pd.DataFrame) -> None:
    """Put what notebook 00 measured into the card of the foundation in ``folder``, in the place of earlier measures, and beside it.

    The table itself becomes ``measures.csv``.

    Parameters
    ----------
    targets : columns aim, set, asked, value, lo, hi, n, verdict.

    Raises
    ------
    InputError
        A folder without a card that has a section for the measures.
    """
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not MEASURES.search(card):
        raise InputError(f"{path}: is no model card of a foundation, it has no section 'Measures and limits'; export it again")
    lines = [
        "On held-out scenes, by notebook 00; in brackets 95 % bootstrap intervals over the pictures, where there are several.",
        "",
        "| aim | set | value | verdict |",
        "|---|---|---|---|",
    ]
    for row in targets.itertuples():
        value = f"{row.value:.3g}" + ("" if np.isnan(row.lo) else f" [{row.lo:.3g}, {row.hi:.3g}], n = {row.n}")
        lines.append(f"| {row.aim} | {row.set} | {value} | {row.verdict} |")
    with saving(path):
        write_text(path, MEASURES.sub(lambda _: "\n".join([*lines, "", LIMITS]), card))
        targets.to_csv(folder / MEASURED, index=False)
        settle(folder, path.name)

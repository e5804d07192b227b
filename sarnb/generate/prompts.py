"""The prompts of the study: one wording a class and purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from sarnb.generate.sample import evaluation_text, group_of
from sarnb.model.token import TOKEN
from sarnb.world.captions import prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS


def optical_text(label: str) -> str:
    """The optical prompt of a class, of a composition, or of a label of the user's own.

    >>> optical_text("river+forest"), optical_text("sea_ships")
    ('an aerial photograph of a river through a forest', 'an aerial photograph of sea ships')
    """
    if label in CLASSES or label in COMPOSITIONS:
        return prompt(label, "optical")
    return f"an aerial photograph of {' '.join(label.replace('_', ' ').split())}"


def prompt_table(
    labels: Sequence[str], groups: Mapping[str, str] | None = None, sensor: str = "airborne-x", token: str = TOKEN
) -> pd.DataFrame:
    """Every prompt of every label: columns class, group, optical, radar, with side, with token.

    ``groups``: as for ``evaluation_prompts``, the groups of labels that the twin world does not know. ``sensor``: whose
    look the prompt ``with side`` names (left here).
    """
    rows = [
        {
            "class": label,
            "group": (groups or {}).get(label) or group_of(label),
            "optical": optical_text(label),
            "radar": evaluation_text(label, sensor=sensor),
            "with side": evaluation_text(label, look="left", sensor=sensor),
            "with token": evaluation_text(label, token, sensor=sensor),
        }
        for label in labels
    ]
    return pd.DataFrame(rows)

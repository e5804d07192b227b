"""What this study asked of its embedded foundation, and what it reaches of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.aims import REACHED, UNKNOWN, verdict
from sarnb.metrics.bootstrap import interval

BEFORE, LATER = "before training", "later"


@dataclass(frozen=True)
class FoundationAim:
    """The mean of ``measure`` over pictures: at least ``asked`` or, if ``most``, at most; if ``beyond``, ``asked`` itself will not do.

    ``when`` it was set: before the first weights were trained, or later, with a measure that came later.
    """

    measure: str
    asked: float
    most: bool = False
    beyond: bool = False
    when: str = BEFORE


FOUNDATION_AIMS = (  # held-out pictures; they are not adjusted to what comes out
    FoundationAim("class accuracy of scenes", 0.95),
    FoundationAim("R@1 within 64, long captions", 0.60),
    FoundationAim("optical scenes, PSNR in dB", 27.0),
    FoundationAim("optical scenes, SSIM", 0.80),
    FoundationAim("dead leaves, PSNR in dB", 24.0),
    FoundationAim("single-look radar, error of the CV", 0.25, most=True),
    FoundationAim("class accuracy of what was drawn", 0.85),
    FoundationAim("class accuracy of the worst class drawn", 0.60),
    FoundationAim("compositions drawn, both parts", 0.60),
    FoundationAim("compositions drawn, named", 0.60, when=LATER),  # a second rule, as the one above misses true scenes, too
    FoundationAim("recall", 0.30),
    FoundationAim("copies: nearer to training than 99 % of scenes", 0.01, most=True, when=LATER),  # was: no memorised picture
    FoundationAim("more ships where three are asked than none", 0.5, beyond=True),  # one half is chance
    FoundationAim("the sea on the side that is asked", 0.5, beyond=True),
)


def foundation_aims(values: Mapping[str, np.ndarray | float], resamples: int, seed: int) -> pd.DataFrame:
    """What the foundation reaches of `FOUNDATION_AIMS`: columns aim, set, asked, value, lo, hi, n, verdict.

    Args:
        values: measure -> one number a picture [N], whose mean is the value, or a single number, which has no interval. An aim
            whose measure is not given is not known.

    Raises:
        InputError: a measure that no aim is set for.
    """
    unknown = set(values) - {aim.measure for aim in FOUNDATION_AIMS}
    if unknown:
        raise InputError(f"foundation aims: no aim for {', '.join(sorted(unknown))}; name a measure of FOUNDATION_AIMS")
    rows = []
    for aim in FOUNDATION_AIMS:
        several = np.atleast_1d(np.asarray(values.get(aim.measure, np.nan), dtype=float))
        value, lo, hi = interval(np.mean, [several], resamples, seed) if len(several) > 1 else (float(several[0]), np.nan, np.nan)
        words = f"{aim.measure}: {'at most' if aim.most else 'above' if aim.beyond else 'at least'} {aim.asked:g}"
        bound = np.nextafter(aim.asked, np.inf) if aim.beyond else aim.asked
        rows.append((words, aim.when, aim.asked, value, lo, hi, len(several), verdict(aim.most, bound, value, lo, hi)))
    return pd.DataFrame(rows, columns=["aim", "set", "asked", "value", "lo", "hi", "n", "verdict"])


def foundation_sentence(table: pd.DataFrame) -> str:
    """How many aims are reached, and which are not, with what came out, from `foundation_aims`."""
    missed = table[~table["verdict"].isin([REACHED, UNKNOWN])]
    rest = "; ".join(f"{row.aim} ({row.value:.3g})" for row in missed.itertuples())
    return f"The foundation reaches {(table['verdict'] == REACHED).sum()} of {len(table)} aims" + (f"; not: {rest}." if rest else ".")

"""Which prompt does what, measured on what is drawn: wordings, quantities that a prompt asks for, and what to recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval
from sarnb.metrics.describe import image_statistics
from sarnb.metrics.geometry import LookReader, look_side

RESPONSES = (
    {  # quantity -> what is measured, the sign that more of it gives in a radar image, the least change that counts (ours)
        "side": ("evidence for the left side", 1, 0.05),
        "incidence": ("mean level", -1, 0.01),  # backscatter falls with incidence
        "resolution": ("correlation of neighbouring pixels", 1, 0.01),  # a coarser cell covers more pixels
    }
)


def neighbour_correlation(images: np.ndarray) -> np.ndarray:
    """Correlation of horizontally and vertically neighbouring pixels, the mean of both: uint8 [N, H, W] -> [N]; 0 if constant."""
    stack = np.asarray(images, np.float64)
    centred = stack - stack.mean((1, 2), keepdims=True)
    power = (centred**2).mean((1, 2))
    beside = 0.5 * ((centred[:, :, 1:] * centred[:, :, :-1]).mean((1, 2)) + (centred[:, 1:] * centred[:, :-1]).mean((1, 2)))
    return np.divide(beside, power, out=np.zeros(len(stack)), where=power > 0)


def response(quantity: str, images: np.ndarray, reader: LookReader | None = None) -> np.ndarray:
    """What a quantity is read from, one value a picture: uint8 [N, H, W] -> [N]; units in RESPONSES (levels in [0, 1])."""
    if quantity == "side":
        return look_side(images, reader)
    if quantity == "incidence":
        return np.asarray(images, np.float64).mean((1, 2)) / 255.0
    if quantity == "resolution":
        return neighbour_correlation(images)
    raise InputError(f"steering: {quantity!r} is unknown; use one of {', '.join(RESPONSES)}.")


def wording_table(
    pictures: Mapping[str, np.ndarray],
    asked: Sequence[str],
    read: Mapping[str, Sequence[str]],
    real_cv: float,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """What is drawn for the same classes from the same noise in several wordings.

    Args:
        pictures: wording -> grey images uint8 [N, H, W]. asked: class of each. read: wording -> class that the judge reads in
            each; empty without a judge. real_cv: coefficient of variation of real radar images.

    Returns:
        columns wording, n, read rightly, lo, hi (95 %), mean level, cv, enl, cv gap (to real).
    """
    rows = []
    for name, images in pictures.items():
        statistics = image_statistics(images).mean()
        found = (np.nan, np.nan, np.nan)
        if name in read:
            hits = (np.asarray(read[name], dtype=object) == np.asarray(asked, dtype=object)).astype(float)
            found = interval(np.mean, [hits], resamples, seed)
        rows.append(
            (
                name,
                len(images),
                *found,
                statistics["mean"],
                statistics["cv"],
                statistics["enl"],
                abs(statistics["cv"] - real_cv),
            )
        )
    return pd.DataFrame(rows, columns=["wording", "n", "read rightly", "lo", "hi", "mean level", "cv", "enl", "cv gap"])


def steering_table(
    pictures: Mapping[str, tuple[np.ndarray, np.ndarray]],
    other_noise: np.ndarray,
    reader: LookReader | None,
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Does the picture follow the prompt? The same noise, the least and the most of a quantity.

    Args:
        pictures: quantity -> (least, most), grey uint8 [N, H, W] each, pair by pair from the same noise. other_noise: the
            pictures of the first set drawn from other noise, uint8 [N, H, W]. reader: of the side, calibrated on real images.

    Returns:
        columns quantity, measured, n, change of the picture and change by other noise (root mean square, grey levels),
        response (most minus least, mean over pairs) with lo and hi (95 %), verdict: an effect has an interval without 0 and is
        as large as RESPONSES asks.
    """
    rows = []
    for quantity, (least, most) in pictures.items():
        measured, sign, least_change = RESPONSES[quantity]
        gain = response(quantity, most, reader) - response(quantity, least, reader)
        value, lo, hi = interval(np.mean, [gain], resamples, seed)
        unseen = lo <= 0 <= hi or abs(value) < least_change
        verdict = "no effect seen" if unseen else "steers" if value * sign > 0 else "steers the wrong way"
        rows.append(
            (quantity, measured, len(least), _change(least, most), _change(least, other_noise), value, lo, hi, verdict)
        )
    columns = [
        "quantity",
        "measured",
        "n",
        "change of the picture",
        "change by other noise",
        "response",
        "lo",
        "hi",
        "verdict",
    ]
    return pd.DataFrame(rows, columns=columns)


def _change(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.sqrt(((first.astype(np.float64) - second) ** 2).mean()))


def attention_shares(shares: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """Mean share of the attention that a group of words draws: columns words, share, lowest, highest, n; strongest first.

    ``shares``: words -> their share in each picture.
    """
    rows = [
        (name, float(np.mean(values)), float(np.min(values)), float(np.max(values)), len(values))
        for name, values in shares.items()
        if len(values)
    ]
    return pd.DataFrame(rows, columns=["words", "share", "lowest", "highest", "n"]).sort_values(
        "share", ascending=False, ignore_index=True
    )


def recommendations(
    wordings: pd.DataFrame, prompts: Mapping[str, str], steering: pd.DataFrame, guidance: pd.DataFrame, real_cv: float
) -> pd.DataFrame:
    """What to write for which purpose, with the figures it rests on: columns purpose, recommendation, example, evidence.

    Args:
        wordings, steering: tables of this module. prompts: wording -> an example. guidance: columns scale and cv, one row a picture.
    """
    rows = []
    if wordings["read rightly"].notna().any():
        best, worst = wordings.loc[wordings["read rightly"].idxmax()], wordings.loc[wordings["read rightly"].idxmin()]
        tied = wordings.loc[wordings["hi"] >= best["lo"], "wording"].drop(best.name, errors="ignore").tolist()
        alike = best["read rightly"] == worst["read rightly"]
        rows.append(
            (
                "the class is recognised",
                "none: all wordings alike" if alike else best["wording"],
                "" if alike else prompts[best["wording"]],
                f"{_share(best)} of {best['n']} pictures read rightly, {worst['wording']}: {_share(worst)}; "
                f"not told apart from {', '.join(tied) if tied else 'no other wording'}",
            )
        )
    near = wordings.loc[wordings["cv gap"].idxmin()]
    rows.append(
        (
            "amplitudes near real radar",
            near["wording"],
            prompts[near["wording"]],
            f"coefficient of variation {near['cv']:.3f}, real radar {real_cv:.3f}; "
            f"others {wordings['cv'].min():.3f} to {wordings['cv'].max():.3f}",
        )
    )
    for row in steering.to_dict("records"):
        advice = {
            "steers": "say it: the picture follows",
            "no effect seen": "say it in training; the untuned model does not follow",
            "steers the wrong way": "beware: the untuned model moves the other way",
        }[row["verdict"]]
        rows.append(
            (
                f"a chosen {row['quantity']}",
                advice,
                "",
                f"{row['measured']} changes by {row['response']:+.3f} [{row['lo']:+.3f}, {row['hi']:+.3f}] over {row['n']} pairs; "
                f"the picture changes by {row['change of the picture']:.1f} grey levels, by other noise {row['change by other noise']:.1f}",
            )
        )
    gaps = (guidance.groupby("scale")["cv"].mean() - real_cv).abs()
    rows.append(
        (
            "guidance scale by amplitude",
            f"s = {gaps.idxmin():g}",
            "",
            "gap of the coefficient of variation to real radar: "
            + ", ".join(f"{gap:.3f} at s = {scale:g}" for scale, gap in gaps.items()),
        )
    )
    return pd.DataFrame(rows, columns=["purpose", "recommendation", "example", "evidence"])


def _share(row: pd.Series) -> str:
    return f"{row['read rightly']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]"

"""Which prompt does what, measured on what is drawn: wordings, quantities that a prompt asks for, and what to recommend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sarnb.errors import InputError
from sarnb.metrics.bootstrap import interval, percentile_interval, stratified_weights, weighted_mean
from sarnb.metrics.describe import image_statistics
from sarnb.metrics.geometry import LookReader, look_side
from sarnb.metrics.semantic import Judge, zero_shot

# What a model knows of a class before it has seen radar: its pictures read by a zero-shot classifier.


def read_classes(judge: Judge, images: np.ndarray, prompts: Mapping[str, str]) -> np.ndarray:
    """The label [N] whose prompt is nearest to each picture, uint8 [N, H, W] or [N, H, W, 3], by the judge's cosine.

    ``prompts``: label -> the sentence that stands for it. Raises InputError without a prompt or a picture.
    """
    if not prompts or not len(images):
        raise InputError("read_classes: no prompt or no picture; give at least one of each")
    with torch.inference_mode():
        pictures = judge.embed_images(images)
        texts = judge.embed_texts(list(prompts.values()))
    nearest = zero_shot(_array(pictures), _array(texts))
    return np.array(list(prompts), dtype=object)[nearest]


def _array(features: torch.Tensor) -> np.ndarray:
    return torch.as_tensor(features).detach().to("cpu", torch.float64).numpy()


def accuracy_table(readings: Mapping[str, tuple[Sequence[str], Sequence[str]]], labels: Sequence[str]) -> pd.DataFrame:
    """Share of the pictures of each class that are read rightly, one column a set of pictures, and a last row ``all``.

    ``readings``: name of the set -> (labels asked for, labels read). NaN where a set has no picture of a class; ``all`` is
    the share over all pictures of the set.
    """
    table = pd.DataFrame({"class": [*labels, "all"]})
    for name, (asked, read) in readings.items():
        asked, hits = np.array(asked, dtype=object), np.array(asked, dtype=object) == np.array(read, dtype=object)
        shares = [hits[asked == label].mean() if (asked == label).any() else np.nan for label in labels]
        table[name] = [*shares, hits.mean()]
    return table


def accuracy_intervals(readings: Mapping[str, tuple[Sequence[str], Sequence[str]]], resamples: int, seed: int) -> pd.DataFrame:
    """Share read rightly over all pictures of each set, with its 95 % bootstrap interval: columns pictures, value, lo, hi, n."""
    rows = []
    for name, (asked, read) in readings.items():
        hits = (np.array(asked, dtype=object) == np.array(read, dtype=object)).astype(float)
        rows.append((name, *interval(np.mean, [hits], resamples, seed), len(hits)))
    return pd.DataFrame(rows, columns=["pictures", "value", "lo", "hi", "n"])


def confusion(asked: Sequence[str], read: Sequence[str], labels: Sequence[str]) -> pd.DataFrame:
    """Share of the pictures asked as the row's class that are read as the column's; a row without a picture is NaN."""
    counts = pd.crosstab(pd.Categorical(asked, labels), pd.Categorical(read, labels), dropna=False)
    counts = counts.reindex(index=labels, columns=labels, fill_value=0)
    table = counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    return table.rename_axis(index="asked for", columns="read as")


# Does a picture show what its prompt asked for: the parts of a composition, a number, a side?

LEAD = "an aerial photograph of"


@dataclass(frozen=True)
class Contrast:
    """Two prompts that differ in one fact only."""

    question: str
    first: str
    second: str


CONTRASTS: tuple[Contrast, ...] = (  # in the words of the foundation's captions, except for "no ships"
    Contrast("three ships or none", f"{LEAD} a harbour with two piers and three ships", f"{LEAD} a harbour with two piers and no ships"),
    Contrast("nine ships or one", f"{LEAD} a harbour with two piers and nine ships", f"{LEAD} a harbour with two piers and one ship"),
    Contrast("sea left or right", f"{LEAD} a coast with the sea to the west", f"{LEAD} a coast with the sea to the east"),
    Contrast("river down or across", f"{LEAD} a river flowing north to south", f"{LEAD} a river flowing west to east"),
    Contrast("winter or summer", f"{LEAD} crop fields in winter", f"{LEAD} crop fields in summer"),
)


def told_apart(judge: Judge, first: np.ndarray, second: np.ndarray, contrast: Contrast) -> np.ndarray:
    """Float [N]: 1 where the judge finds the first prompt more in the picture of the first prompt than in that of the second.

    first, second : uint8 [N, H, W, 3], drawn from the two prompts with the same seeds. With the margin
    m(x) = cos(x, first prompt) - cos(x, second prompt), a pair counts 1 if m(first picture) > m(second picture), one half
    if they are equal: the area under the ROC curve for pairs, 0.5 for a model that does not listen. Raises ``InputError``
    if the numbers differ.
    """
    if len(first) != len(second) or not len(first):
        raise InputError(f"{contrast.question}: {len(first)} and {len(second)} pictures; draw both prompts with the same seeds")
    texts = np.asarray(judge.embed_texts([contrast.first, contrast.second]), dtype=float)
    margins = [np.asarray(judge.embed_images(part), dtype=float) @ (texts[0] - texts[1]) for part in (first, second)]
    return 0.5 * (1 + np.sign(margins[0] - margins[1]))


def sea_on_the_left(images: np.ndarray) -> np.ndarray:
    """Float [N]: by how much more blue than red the left half of a picture is than its right half, in [-1, 1].

    A detector without any learning: in the twin world's photographs (uint8 [N, H, W, 3]) water is the only large blue thing.
    """
    blueness = (images[..., 2].astype(float) - images[..., 0]) / 255
    half = images.shape[2] // 2
    return 0.5 * (blueness[:, :, :half].mean(axis=(1, 2)) - blueness[:, :, half:].mean(axis=(1, 2)))


def obedience_table(scores: Mapping[str, np.ndarray], resamples: int, seed: int) -> pd.DataFrame:
    """One row a question: columns question, n, obeyed (share, 0.5 is chance), lo, hi (95 % bootstrap over pairs)."""
    rows = []
    for question, values in scores.items():
        value, lo, hi = interval(np.mean, [np.asarray(values, dtype=float)], resamples, seed)
        rows.append((question, len(values), value, lo, hi))
    return pd.DataFrame(rows, columns=["question", "n", "obeyed", "lo", "hi"])


def parts_found(judge: Judge, images: np.ndarray, parts: Sequence[tuple[str, ...]], prompts: Mapping[str, str]) -> np.ndarray:
    """Bool [N]: all parts of a picture's composition are among the nearest prompts, one more of them than it has parts.

    ``parts`` [N]: the classes that the picture should show; ``prompts``: class → the sentence that stands for it.
    Raises ``InputError`` for another number of pictures and a part without a prompt.
    """
    unknown = sorted({part for several in parts for part in several} - set(prompts))
    if len(parts) != len(images) or unknown:
        raise InputError(
            f"parts found: {len(images)} pictures, {len(parts)} compositions, no prompt for {', '.join(unknown) or 'none'}; "
            "give the parts of each picture and a prompt for each part"
        )
    cosines = np.asarray(judge.embed_images(images), dtype=float) @ np.asarray(judge.embed_texts(list(prompts.values())), dtype=float).T
    names = np.array(list(prompts), dtype=object)
    order = np.argsort(-cosines, axis=1)
    return np.array([set(several) <= set(names[row[: len(several) + 1]]) for several, row in zip(parts, order)])


# What tuning gained, scene by scene: paired comparisons of noise-prediction errors, with intervals over scenes.


def error_change(
    before: pd.DataFrame, after: Mapping[str, pd.DataFrame], images: str, wording: str, resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Relative change of the error at each timestep, Σ after / Σ before - 1 over scenes: columns model, timestep, value, lo, hi.

    Scenes are resampled whole, with both of their errors, so the interval is that of the paired comparison.

    Parameters
    ----------
    before, after : tables of ``sarnb.train.held_out.wording_errors`` on the same scenes; of ``after`` one a model.
    images, wording : the kind of image and the wording of its prompt, as in these tables.
    """
    rows = []
    for model, table in after.items():
        old, new = (_by_scene(part, images, wording) for part in (before, table))
        if old.shape != new.shape:
            raise InputError(f"error change: {model} has other scenes or timesteps than before; measure the same")
        for column in old.columns:
            pairs = np.column_stack([old[column], new[column]])
            value = interval(lambda part: part[:, 1].sum() / part[:, 0].sum() - 1.0, [pairs], resamples, seed)
            rows.append((model, int(column), *value))
    return pd.DataFrame(rows, columns=["model", "timestep", "value", "lo", "hi"])


def caption_choice(tables: Mapping[str, pd.DataFrame], resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """How often the own wording explains an image better: columns model, images, scenes, right, lo, hi, gap.

    An image of kind K is right where its error, mean over timesteps, is lower under wording K than under every other; two
    equal errors are half right. ``gap``: mean of (lowest other error - own) / own.
    """
    rows = []
    for model, table in tables.items():
        means = table.groupby(["images", "wording", "scene"])["error"].mean()
        for kind in dict.fromkeys(table["images"]):
            own = means[kind, kind].to_numpy()
            wordings = [wording for wording in dict.fromkeys(table["wording"]) if wording != kind]
            others = np.min([means[kind, wording].to_numpy() for wording in wordings], axis=0)
            right = np.where(own < others, 1.0, np.where(own == others, 0.5, 0.0))
            share = interval(np.mean, [right], resamples, seed)
            rows.append((model, kind, len(own), *share, float(np.mean((others - own) / own))))
    return pd.DataFrame(rows, columns=["model", "images", "scenes", "right", "lo", "hi", "gap"])


def _by_scene(table: pd.DataFrame, images: str, wording: str) -> pd.DataFrame:
    """One row a scene, one column a timestep."""
    part = table[(table["images"] == images) & (table["wording"] == wording)]
    if part.empty:
        raise InputError(f"error change: no {images} images under the wording {wording}; measure them first")
    return part.pivot(index="scene", columns="timestep", values="error")


# First-order statistics of speckle, set by set, with intervals over images: what the grain of an image is like.

STATISTICS = {"mean": "mean level", "cv": "coefficient of variation", "enl": "looks in 8 px windows"}


def speckle_table(sets: Mapping[str, np.ndarray], resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Mean over images of each statistic of one image: columns set, statistic, images, value, lo, hi.

    ``sets``: name -> uint8 [N, H, W]. The equivalent number of looks (Oliver and Quegan 2004) is the median of an image's
    windows, which see speckle and little of the scene; 1 for single-look speckle, more for a smoother grain.
    """
    rows = []
    for name, images in sets.items():
        statistics = image_statistics(images)
        base, resampled = stratified_weights(["all"] * len(images), resamples, seed)
        for column, title in STATISTICS.items():
            values = statistics[column].to_numpy()
            value = float(weighted_mean(values, base))
            rows.append((name, title, len(images), value, *percentile_interval(weighted_mean(values, resampled), value)))
    return pd.DataFrame(rows, columns=["set", "statistic", "images", "value", "lo", "hi"])


# How much of a picture survives the autoencoder's round trip.


def round_trip(original: np.ndarray, decoded: np.ndarray) -> pd.DataFrame:
    """One row a picture: PSNR [dB], SSIM, and the coefficient of variation before and after.

    original, decoded : uint8 [N, H, W, 3]. PSNR and SSIM (Wang et al. 2004, 7 px windows) by scikit-image on the
    range 0 to 255; the coefficient of variation σ/μ on the mean of the channels. Raises ``InputError`` if the
    shapes differ or a picture is black.
    """
    if original.shape != decoded.shape:
        raise InputError(f"round trip: {original.shape} before and {decoded.shape} after; decode the same pictures")
    if not original.any(axis=(1, 2, 3)).all():
        raise InputError("round trip: a picture is all zero, its coefficient of variation is not defined; leave it out")
    rows = []
    for before, after in zip(original, decoded):
        grey = before.mean(axis=-1), after.mean(axis=-1)
        rows.append(
            {
                "psnr_db": peak_signal_noise_ratio(before, after, data_range=255),
                "ssim": structural_similarity(before, after, channel_axis=-1, data_range=255),
                "cv_before": float(grey[0].std() / grey[0].mean()),
                "cv_after": float(grey[1].std() / grey[1].mean()),
            }
        )
    return pd.DataFrame(rows)


def linear_code_psnr(fit: np.ndarray, images: np.ndarray, block: int, numbers: Sequence[int]) -> dict[int, float]:
    """What the best linear code of blocks reaches: the yardstick of an autoencoder with as many latent channels.

    Principal components of the ``block`` x ``block`` px blocks of ``fit``, of which the first k code those of ``images``
    (both uint8 [N, H, W, C], sides multiples of ``block``). Returns k → mean PSNR of a picture in dB, for k in ``numbers``.
    Raises ``InputError`` for sides that are no multiples and more numbers than a block has values.
    """
    values = block * block * images.shape[-1]
    if any(side % block for side in (*fit.shape[1:3], *images.shape[1:3])) or max(numbers) > values:
        raise InputError(f"blocks of {block} px: give images whose sides they divide, and at most {values} numbers a block")
    known, wanted = _blocks(fit, block), _blocks(images, block)
    mean = known.mean(axis=0)
    _, components = np.linalg.eigh(np.cov((known - mean).T))
    inside = ((wanted - mean) @ components[:, ::-1]) ** 2  # energy by component, the strongest first
    lost = inside.sum(axis=1, keepdims=True) - np.cumsum(inside, axis=1)  # of each block, after its first k components
    errors = lost.reshape(len(images), -1, values).mean(axis=1) / values
    return {k: float(np.mean(10 * np.log10(255**2 / np.maximum(errors[:, k - 1], 1e-12)))) for k in numbers}


def _blocks(images: np.ndarray, block: int) -> np.ndarray:
    """float64 [blocks, values of a block]."""
    count, height, width, channels = images.shape
    cut = images.reshape(count, height // block, block, width // block, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(-1, block * block * channels).astype(np.float64)


RESPONSES = {  # quantity -> what is measured, the sign that more of it gives in a radar image, the least change that counts (ours)
    "side": ("evidence for the left side", 1, 0.05),
    "incidence": ("mean level", -1, 0.01),  # backscatter falls with incidence
    "resolution": ("correlation of neighbouring pixels", 1, 0.01),  # a coarser cell covers more pixels
}


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
        rows.append((quantity, measured, len(least), _change(least, most), _change(least, other_noise), value, lo, hi, verdict))
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
    return pd.DataFrame(rows, columns=["words", "share", "lowest", "highest", "n"]).sort_values("share", ascending=False, ignore_index=True)


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
            "gap of the coefficient of variation to real radar: " + ", ".join(f"{gap:.3f} at s = {scale:g}" for scale, gap in gaps.items()),
        )
    )
    return pd.DataFrame(rows, columns=["purpose", "recommendation", "example", "evidence"])


def _share(row: pd.Series) -> str:
    return f"{row['read rightly']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]"

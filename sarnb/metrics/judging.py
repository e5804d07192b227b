"""How good is the judge? Class, side and caption of held-out real images, as SAR-CLIP tells them.

Every figure is a mean of one score an image, so that its interval comes from redrawing images inside their class, and
each class counts the same, as in the evaluation of generated images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.generate.sample import evaluation_text
from sarnb.metrics.bootstrap import interval, percentile_interval, stratified_weights, weighted_mean
from sarnb.metrics.image_statistics import COMPOSITION
from sarnb.metrics.semantic import GALLERY, Judge, cosine, embed_images, embed_texts, label_prompt, retrieval_r1, zero_shot
from sarnb.metrics.targets import verdict
from sarnb.world.hard_negatives import FACTS, contrary

COLUMNS = ("measure", "split", "class", "value", "lo", "hi", "n", "chance")
ACCURACY, LOOK, RETRIEVAL, COSINE = "class accuracy", "look-side accuracy", "retrieval R@1", "cosine with the own caption"
SIDES = ("left", "right")
AIMS = {ACCURACY: 0.90, LOOK: 0.95}  # what this study asks of its judge on held-out images, over the single classes; ours


@dataclass(frozen=True)
class Judged:
    """What the judge says of N images of K classes.

    `names`: the classes, single ones before compositions. `truth`, `guess` int [N]: index into `names`. `candidates`
    bool [K, K]: classes that an image of a class may be called. `splits`: seen, unseen or composition, length N.
    `images`, `captions` [N, D], `prompts` [K, D]: unit features. `texts`: the caption of each image.
    """

    names: tuple[str, ...]
    truth: np.ndarray
    guess: np.ndarray
    candidates: np.ndarray
    splits: tuple[str, ...]
    images: np.ndarray
    captions: np.ndarray
    prompts: np.ndarray
    texts: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """The class of each image."""
        return [self.names[index] for index in self.truth]


def judge_images(judge: Judge, data: ImageSet) -> Judged:
    """Embed images, captions and class prompts, and guess the class of each image.

    A class competes with classes and a composition with compositions, because "a river" is not wrong for a river through
    a forest. Raises InputError for a set with an image that has no label.
    """
    if not all(data.labels):
        raise InputError(f"{data.root}: images without a class label cannot be judged by class; label them all")
    groups = {label: row.get("group") or "seen" for label, row in zip(data.labels, data.rows)}
    order = list(dict.fromkeys(data.labels))
    names = tuple(sorted(order, key=lambda label: (groups[label] == COMPOSITION, order.index(label))))
    mixed = np.array([groups[label] == COMPOSITION for label in names])
    candidates = mixed[None] == mixed[:, None]
    truth = np.array([names.index(label) for label in data.labels])
    images, prompts = embed_images(judge, data.images), embed_texts(judge, [label_prompt(label) for label in names])
    return Judged(
        names=names,
        truth=truth,
        guess=zero_shot(images, prompts, candidates[truth]),
        candidates=candidates,
        splits=tuple(groups[label] for label in data.labels),
        images=images,
        captions=embed_texts(judge, data.captions),
        prompts=prompts,
        texts=tuple(data.captions),
    )


def confusion(judged: Judged) -> np.ndarray:
    """Share [K, K] of the images of a class (row) that were called each class (column); NaN where it could not be."""
    counts = np.zeros((len(judged.names),) * 2)
    np.add.at(counts, (judged.truth, judged.guess), 1.0)
    return np.where(judged.candidates, counts / counts.sum(1, keepdims=True), np.nan)


def class_similarity(judged: Judged) -> np.ndarray:
    """Mean cosine [K, K] of the images of a class (row) with the prompt of each class (column)."""
    similarity = judged.images @ judged.prompts.T
    return np.stack([similarity[judged.truth == index].mean(0) for index in range(len(judged.names))])


def pair_cosines(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of images with their own caption [N], and of all pairs of an image and a caption of another class [M]."""
    others = judged.truth[:, None] != judged.truth[None]
    return cosine(judged.images, judged.captions), (judged.images @ judged.captions.T)[others]


def look_scores(judge: Judge, judged: Judged, looks: Sequence[object], sensor: str) -> np.ndarray:
    """Whether of the two prompts of an image's class, "… from the left" and "… right", the true one is nearer: [N].

    1 or 0, and one half for equal cosines. Raises InputError where a side is not known: the radar did not tell it.
    """
    if not len(looks) or any(look not in SIDES for look in looks):
        raise InputError("look side: the data do not say for every image from where it was illuminated; leave this measure out")
    prompts = [embed_texts(judge, [evaluation_text(name, None, side, sensor) for name in judged.names]) for side in SIDES]
    left, right = (cosine(judged.images, features[judged.truth]) for features in prompts)
    towards = np.where(np.asarray(looks, dtype=object) == "left", left - right, right - left)
    return 0.5 * (1.0 + np.sign(towards))


def judge_table(
    judged: Judged,
    looks: np.ndarray | None = None,
    resamples: int = 200,
    seed: int = 0,
    facts: Mapping[str, np.ndarray] | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """The measures of the judge by split and class, with 95 % intervals, and sentences on what could not be measured.

    `looks`: what `look_scores` gave, None where sides are unknown. `facts`: what `fact_scores` gave. Columns: measure, split,
    class ("all" and each), value, lo, hi, n (images that were asked), chance (what a guess would reach; NaN where there is no
    such thing).
    """
    right = (judged.guess == judged.truth).astype(float)
    rivals = judged.candidates.sum(1)[judged.truth]
    scores = [(ACCURACY, right, 1.0 / rivals), (COSINE, cosine(judged.images, judged.captions), np.full(len(right), np.nan))]
    missing = []
    if looks is None:
        missing.append("Look-side accuracy is left out: the data do not say from which side they were illuminated.")
    else:
        scores.append((LOOK, looks, np.full(len(right), 0.5)))
    try:
        found = retrieval_r1(judged.images, judged.captions, judged.texts)
        scores.append((RETRIEVAL, found, np.full(len(right), 1.0 / GALLERY)))
    except InputError as error:
        missing.append(f"Retrieval R@1 is left out: {error}")
    scores += [(MEASURES[fact], values, np.full(len(right), 0.5)) for fact, values in (facts or {}).items()]
    if len(set(rivals)) == 1 and rivals[0] < 2:
        missing.append("There is one class only, so class accuracy is 1 whatever the judge does.")
    rows = []
    for measure, score, chance in scores:
        for split, label, chosen in _parts(judged):
            chosen = chosen & np.isfinite(score)
            if not chosen.any():
                continue
            names = np.asarray(judged.labels, dtype=object)[chosen]
            base, resampled = stratified_weights(list(names), resamples, seed)
            value = float(weighted_mean(score[chosen], base))
            lo, hi = percentile_interval(weighted_mean(score[chosen], resampled), value)
            rows.append((measure, split, label, value, lo, hi, int(chosen.sum()), float(base @ chance[chosen])))
    return pd.DataFrame(rows, columns=list(COLUMNS)), missing


def judge_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence for each measure and split over its classes, then what the judge may be asked: sides, and, last, classes."""
    lines = []
    for row in table[table["class"] == "all"].itertuples():
        guess = "" if np.isnan(row.chance) else f"; a guess reaches {row.chance:.3f}"
        lines.append(f"{row.measure} ({row.split}, {row.n} images): {row.value:.3f} [{row.lo:.3f}, {row.hi:.3f}]{guess}.")
    pooled = table[(table["split"] == "pooled") & (table["class"] == "all")].set_index("measure")
    if LOOK in pooled.index and pooled.loc[LOOK, "lo"] <= 0.5:
        lines.append("The judge cannot tell the side of illumination; the look reader of sarnb.metrics.geometry measures it instead.")
    if pooled.loc[ACCURACY, "lo"] > pooled.loc[ACCURACY, "chance"]:
        lines.append("The judge tells classes apart better than a guess, so its measures of other images carry meaning.")
    else:
        lines.append("The judge cannot be told from a guess, so its measures of other images mean nothing in this run.")
    return lines


def aims_table(judged: Judged, looks: np.ndarray | None, resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """What the judge reaches of `AIMS` over the single classes: columns aim, asked, value, lo, hi, n, verdict."""
    single = np.array([split != COMPOSITION for split in judged.splits])
    scores = {ACCURACY: (judged.guess == judged.truth).astype(float), LOOK: looks}
    rows = []
    for name, asked in AIMS.items():
        score = scores[name]
        if score is None or not single.any():
            continue
        base, resampled = stratified_weights(list(np.asarray(judged.labels, dtype=object)[single]), resamples, seed)
        value = float(base @ score[single])
        lo, hi = percentile_interval(resampled @ score[single], value)
        rows.append((name, asked, value, lo, hi, int(single.sum()), verdict(False, asked, value, lo, hi)))
    return pd.DataFrame(rows, columns=["aim", "asked", "value", "lo", "hi", "n", "verdict"])


def _parts(judged: Judged) -> list[tuple[str, str, np.ndarray]]:
    """(split, class, images) of all row groups: the whole set, each split, and each class inside its split."""
    splits = np.asarray(judged.splits, dtype=object)
    parts = [("pooled", "all", np.ones(len(splits), bool))]
    for split in [name for name in ("seen", "unseen", COMPOSITION) if name in judged.splits]:
        inside = splits == split
        parts.append((split, "all", inside))
        parts += [(split, judged.names[k], inside & (judged.truth == k)) for k in dict.fromkeys(judged.truth[inside])]
    return parts


# Is the judge as sure as it is right? Temperature scaling and the reliability diagram.

BINS = 10  # of equal width on the certainty, 0 to 1
SCALES = (1e-2, 1e4)  # between which the factor is searched


def class_probabilities(similarity: np.ndarray, scale: float, candidates: np.ndarray | None = None) -> np.ndarray:
    """softmax of ``scale`` times the cosines [N, K] over the candidates bool [N, K] (all if None): float [N, K]."""
    return np.exp(_log_probabilities(similarity, scale, candidates))


def _log_probabilities(similarity: np.ndarray, scale: float, candidates: np.ndarray | None) -> np.ndarray:
    logits = scale * np.asarray(similarity, np.float64)
    return log_softmax(logits if candidates is None else np.where(candidates, logits, -np.inf), axis=1)


def log_loss(similarity: np.ndarray, truth: np.ndarray, scale: float, candidates: np.ndarray | None = None) -> float:
    """Mean negative log-probability of the true classes int [N], in nats."""
    return float(-_log_probabilities(similarity, scale, candidates)[np.arange(len(truth)), truth].mean())


def fit_scale(similarity: np.ndarray, truth: np.ndarray, candidates: np.ndarray | None = None) -> float:
    """The factor t of least log loss, the inverse of the temperature; convex in t, searched on SCALES.

    Raises:
        InputError: no image.
    """
    if not len(truth):
        raise InputError("calibration: no image; give held-out images with their classes.")
    found = minimize_scalar(
        lambda log_t: log_loss(similarity, truth, float(np.exp(log_t)), candidates),
        bounds=np.log(SCALES),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def reliability(certainty: np.ndarray, correct: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """The reliability diagram: images by certainty, in bins of equal width that hold any.

    Args:
        certainty: probability [N] of the class that was called. correct: whether it was the true one [N].

    Returns:
        columns low, high (ends of the bin), certainty (mean), accuracy, lo, hi (95 % Wilson interval), n.
    """
    place = np.clip((np.asarray(certainty) * bins).astype(int), 0, bins - 1)
    rows = []
    for index in np.unique(place):
        inside = place == index
        n, share = int(inside.sum()), float(np.mean(np.asarray(correct, float)[inside]))
        rows.append((index / bins, (index + 1) / bins, float(np.mean(certainty[inside])), share, *wilson(share, n), n))
    return pd.DataFrame(rows, columns=["low", "high", "certainty", "accuracy", "lo", "hi", "n"])


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Score interval of a share of n (Wilson 1927), 95 % by default."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def calibration_error(certainty: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean over images of |accuracy - certainty| of their bin, 0 to 1 (Naeini et al. 2015)."""
    table = reliability(certainty, correct, bins)
    return float(((table["accuracy"] - table["certainty"]).abs() * table["n"]).sum() / table["n"].sum())


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found.

    ``scale``: fitted on all images. ``table``: columns factor, scale, log loss [nats], calibration error, n, for the judge's
    own factor and the fitted one. ``certainty`` [N], ``correct`` [N]: with the factor of the half that the image was not in.
    """

    scale: float
    table: pd.DataFrame
    certainty: np.ndarray
    correct: np.ndarray


def calibrate(
    similarity: np.ndarray,
    truth: np.ndarray,
    folds: tuple[np.ndarray, np.ndarray],
    own_scale: float,
    candidates: np.ndarray | None = None,
) -> Calibration:
    """Fit the factor and examine it on images that it was not fitted on: fitted on one half, examined on the other, and back.

    Args:
        similarity: cosines [N, K] of images and class prompts. truth: int [N]. folds: indices of two halves, all images.
        own_scale: the factor that the judge learned in its contrastive training. candidates: bool [N, K].
    """
    guess = similarity.argmax(1) if candidates is None else np.where(candidates, similarity, -np.inf).argmax(1)
    correct, everyone = guess == truth, np.arange(len(truth))
    crossed = np.full(len(truth), own_scale)
    for fitted, examined in (folds, folds[::-1]):
        if len(fitted) and len(examined):
            crossed[examined] = fit_scale(similarity[fitted], truth[fitted], None if candidates is None else candidates[fitted])
    rows, certainty = [], np.empty(0)
    for name, scales in (("as trained", np.full(len(truth), own_scale)), ("fitted on the other half", crossed)):
        probabilities = class_probabilities(similarity * scales[:, None], 1.0, candidates)
        certainty = probabilities[everyone, guess]
        loss = log_loss(similarity * scales[:, None], truth, 1.0, candidates)
        rows.append((name, float(scales.mean()), loss, calibration_error(certainty, correct), len(truth)))
    table = pd.DataFrame(rows, columns=["factor", "scale", "log loss [nats]", "calibration error", "n"])
    return Calibration(fit_scale(similarity, truth, candidates), table, certainty, correct)


# Does the judge know single facts? Every caption against the same caption with one fact wrong.

MEASURES = {
    "side": "own caption before wrong side",
    "count": "own caption before wrong count",
    "relation": "own caption before wrong direction",
}


def fact_scores(judge: Judge, data: ImageSet, features: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """For each fact, how often an image is nearer to its caption than to the caption with this fact wrong: float [N].

    Args:
        data: images with captions; all captions of an image are asked. features: the judge's unit vectors of them [N, D].
        seed: which wrong count or direction is written.

    Returns:
        fact -> share of an image's captions, ties one half; NaN where no caption of the image tells the fact. A fact that
        no caption tells is left out.

    Raises:
        InputError: features of another number of images.
    """
    if len(features) != len(data):
        raise InputError(f"fact scores: {len(features)} feature vectors for {len(data)} images; embed the same images.")
    pairs = [
        (index, fact, text, wrong)
        for index, several in enumerate(data.all_captions())
        for text in several
        for fact in FACTS
        if (wrong := contrary(text, fact, seed)) is not None
    ]
    if not pairs:
        return {}
    texts = list(dict.fromkeys(text for pair in pairs for text in pair[2:]))
    vectors, place = embed_texts(judge, texts), {text: row for row, text in enumerate(texts)}
    rows = np.array([index for index, *_ in pairs])
    own, other = (vectors[[place[pair[column]] for pair in pairs]] for column in (2, 3))
    won = 0.5 * (1.0 + np.sign((features[rows] * (own - other)).sum(1)))
    facts = np.array([fact for _, fact, *_ in pairs])
    scores = {}
    for fact in (name for name in FACTS if name in facts):
        asked = facts == fact
        count = np.bincount(rows[asked], minlength=len(data)).astype(float)
        total = np.bincount(rows[asked], weights=won[asked], minlength=len(data))
        scores[fact] = np.divide(total, count, out=np.full(len(data), np.nan), where=count > 0)
    return scores


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa of two readings of the same N things: 1 = they agree, 0 = no more than by chance (Cohen 1960).

    NaN where both always give one and the same answer, because chance then agrees always.

    >>> kappa(np.array(["a", "a", "b", "b"]), np.array(["a", "b", "b", "b"]))
    0.5
    """
    answers, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    table = np.zeros((len(answers),) * 2)
    np.add.at(table, tuple(codes.reshape(2, -1)), 1.0)
    everything, by_chance = float(len(first)) ** 2, float(table.sum(0) @ table.sum(1))
    return (len(first) * float(np.trace(table)) - by_chance) / (everything - by_chance) if by_chance < everything else float("nan")


def agreement_table(readings: Mapping[str, tuple[np.ndarray, np.ndarray]], resamples: int, seed: int) -> pd.DataFrame:
    """Agreement of the judge with the truth: a row a question, with 95 % bootstrap intervals of kappa over images.

    Args:
        readings: question -> (truth [N], what the judge says [N]), values of any one kind.

    Returns:
        columns question, n, answers (different true ones), agreement (share), kappa, lo, hi.
    """
    rows = []
    for question, (truth, said) in readings.items():
        truth, said = np.asarray(truth).astype(str), np.asarray(said).astype(str)
        pairs = np.stack([truth, said], axis=1)
        value, lo, hi = interval(lambda part: kappa(part[:, 0], part[:, 1]), [pairs], resamples, seed)
        rows.append((question, len(truth), len(set(truth)), float((truth == said).mean()), value, lo, hi))
    return pd.DataFrame(rows, columns=["question", "n", "answers", "agreement", "kappa", "lo", "hi"])

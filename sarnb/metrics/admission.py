"""Is a measure fit to judge? Real images are damaged in rising strength, and the measure has to notice.

Protocol. The real images are cut into two random halves, class by class. One stays the reference, the other is compared with
it as it is (strength 0: the floor) and after each corruption; this is done for several cuts. The error of a measure is its
value (lower is better), its negative (higher is better), or its distance from the value of the reference (match). A measure
passes a corruption if its error, averaged over the cuts, never falls as the strength rises (a share may reach its end), and
if the worst floor of all cuts lies below the best error of all cuts at every strength. What `CLAIMS` says of a measure has to
pass; the rest is shown, not claimed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.errors import InputError
from sarnb.metrics.catalogue import KEY_METRICS, METRICS
from sarnb.metrics.claims import BY_CLASS, CLAIMS
from sarnb.metrics.corruptions import CORRUPTIONS, Corruption
from sarnb.metrics.evaluation import evaluate, halves
from sarnb.metrics.measured import Measured, join, measure
from sarnb.metrics.semantic import Judge, embed_texts

COLUMNS = ("metric", "corruption", "strength", "value", "error", "best", "worst", "n")
FEW = 64  # damaged images, below which two halves of real images may differ as much as light damage does
PASSES, FAILS, SEES, BLIND = "passes", "fails", "sees it unclaimed", "blind, as said"


def admission_table(
    images: ImageSet,
    judge: Judge | None = None,
    train: ImageSet | None = None,
    corruptions: Iterable[Corruption] = tuple(CORRUPTIONS.values()),
    cuts: int = 3,
    seed: int = 0,
    per_class: int | None = None,
) -> pd.DataFrame:
    """Every measure at every strength of every corruption.

    Args:
        images: real images, uint8 [N, H, W] with labels; two or more a class for measures by class.
        judge: SAR-CLIP; without it its measures are left out. train: training images, for the check of memorisation.
        corruptions: what to try. cuts: number of random halvings. seed: of the halves and of what a corruption draws.
        per_class: use so many images of a class at most, the first ones; None: all.

    Returns:
        columns COLUMNS, one row a metric, corruption and strength (0 = undamaged): mean ``value`` and mean ``error`` over
        the cuts, the ``best`` and ``worst`` error among them, and ``n``, the images in the half that is damaged. A corruption
        that the images do not admit, such as swapped classes where there is one class, has no rows.

    Raises:
        InputError: fewer than one cut, or no class with two images.
    """
    if cuts < 1:
        raise InputError(f"admission: {cuts} cuts; give at least 1.")
    if per_class is not None:
        images = images.subset(_first_of_class(images.labels, per_class))
    rows: list[tuple] = []
    for cut in range(cuts):
        first, second = halves(images.labels, seed + cut)
        if not len(second):
            raise InputError(f"{images.root}: no class with two images, so there are no two halves; give more real images.")
        reference, other = measure(images.subset(first), judge, "real images"), images.subset(second)
        bench = _Bench(reference, judge, train, None if judge is None else embed_texts(judge, other.captions), {})
        own, clean = _values(reference, reference, judge, train), bench.values(other)
        for kind in corruptions:
            for strength, values in [(0.0, clean), *_damaged(kind, other, bench, seed + cut)]:
                rows += [(name, kind.name, strength, value, _error(name, value, own), len(other))
                         for name, value in values.items()]
    frame = pd.DataFrame(rows, columns=["metric", "corruption", "strength", "value", "error", "n"])
    parts = frame.groupby(["metric", "corruption", "strength"], sort=False)
    table = parts.agg(value=("value", "mean"), error=("error", "mean"), best=("error", "min"), worst=("error", "max"),
                      n=("n", "min"))
    return table.reset_index()[list(COLUMNS)]


def admission_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Does each measure see each corruption, and does it claim to?

    Returns:
        rows (metric, corruption, claimed, monotone, above floor, reach, verdict, n) from a table of `admission_table`.
        ``reach``: the error at the greatest strength less the floor, over the same of the corruption that the measure sees
        most clearly (1 at most). ``verdict``: PASSES or FAILS what is claimed, SEES or BLIND where nothing is.
    """
    rows = []
    for metric, own in table.groupby("metric", sort=False):
        parts = [(kind, part) for kind, part in own.groupby("corruption", sort=False) if len(part) > 1]
        gains = {kind: part["error"].iloc[-1] - part["error"].iloc[0] for kind, part in parts}
        most = max(gains.values(), default=0.0)
        for kind, part in parts:
            errors, floor = part["error"].to_numpy(), part["worst"].iloc[0]
            monotone = bool((np.diff(errors) >= 0).all())
            above = bool((part["best"].iloc[1:] > floor).all())
            claimed = kind in CLAIMS[metric]
            seen = monotone and above
            verdict = (PASSES if seen else FAILS) if claimed else (SEES if seen else BLIND)
            reach = gains[kind] / most if most > 0 else 0.0
            rows.append((metric, kind, claimed, monotone, above, reach, verdict, part["n"].iloc[0]))
    columns = ["metric", "corruption", "claimed", "monotone", "above floor", "reach", "verdict", "n"]
    return pd.DataFrame(rows, columns=columns)


def admission_sentences(verdicts: pd.DataFrame) -> list[str]:
    """What the verdicts say: how many claims hold, which do not and how, and which measures could not be put to the test."""
    claimed = verdicts[verdicts["claimed"]]
    held = claimed[claimed["verdict"] == PASSES]
    lines = [f"{len(held)} of {len(claimed)} claims hold, of {claimed['metric'].nunique()} measures."]
    for _, row in claimed[claimed["verdict"] == FAILS].iterrows():
        found = (("its errors are not in order", row["monotone"]), ("a floor reaches them", row["above floor"]))
        faults = [word for word, fine in found if not fine]
        lines.append(f"{row['metric']} does not see {row['corruption']} as it claims: {' and '.join(faults)}.")
    if len(held) < len(claimed) and verdicts["n"].min() < FEW:
        lines.append(f"Only {verdicts['n'].min()} images were damaged: two halves of so few real ones differ as much as light damage "
                     "does, so that a failure says more of this set than of the measure.")
    tried = set(verdicts["corruption"])
    untested = [name for name in dict.fromkeys(verdicts["metric"]) if not tried & set(CLAIMS[name])]
    if untested:
        lines.append(f"No corruption was tried that {' or '.join(untested)} claims to see.")
    return lines


def failed_claims(verdicts: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS) -> dict[str, list[str]]:
    """Measure -> corruptions that it claims to see and does not, for those of ``metrics`` that fail any."""
    failed = verdicts[verdicts["verdict"] == FAILS]
    kinds = {name: failed.loc[failed["metric"] == name, "corruption"].tolist() for name in metrics}
    return {name: own for name, own in kinds.items() if own}


def trust_sentences(verdicts: pd.DataFrame, metrics: Sequence[str] = KEY_METRICS) -> list[str]:
    """Which of the key measures failed their admission, and that the average rank goes without them."""
    failed = failed_claims(verdicts, metrics)
    if not failed:
        return [f"No claim failed of the key measures {', '.join(metrics)}: all of them are ranked."]
    words = "; ".join(f"{name} (does not see {', '.join(kinds)} as it claims)" for name, kinds in failed.items())
    kept = [name for name in metrics if name not in failed]
    if not kept:
        return [f"Every key measure failed a claim: {words}. They are ranked all the same, and that rank carries no weight."]
    return [
        f"Read with care in the tables, and left out of the average rank: {words}.",
        f"Ranked, as far as they can be computed: {', '.join(kept)}.",
    ]


def _first_of_class(labels: tuple[str, ...], count: int) -> list[int]:
    taken: Counter = Counter()
    chosen = []
    for index, label in enumerate(labels):
        taken[label] += 1
        if taken[label] <= count:
            chosen.append(index)
    return chosen


@dataclass(frozen=True)
class _Bench:
    """The reference of one cut, and the statistics of every image measured before: many damaged sets share images."""

    reference: Measured
    judge: Judge | None
    train: ImageSet | None
    caption_features: np.ndarray | None  # of the damaged half; its captions stay
    known: dict[bytes, Measured]

    def values(self, images: ImageSet) -> dict[str, float]:
        """Measure -> value of a set beside the reference."""
        keys = [image.tobytes() for image in images.images]
        fresh = [keys.index(key) for key in dict.fromkeys(keys) if key not in self.known]
        if fresh:
            measured = measure(images.subset(fresh), self.judge, minimum=1)
            self.known.update((keys[index], measured.subset([place])) for place, index in enumerate(fresh))
        whole = join(self.known[key] for key in keys)
        sides = tuple(row.get("look") if row.get("look") in ("left", "right") else None for row in images.rows)
        groups = tuple(row.get("group") or "seen" for row in images.rows)
        fake = replace(whole, labels=images.labels, groups=groups, captions=images.captions, looks=sides,
                       caption_features=self.caption_features)
        return _values(self.reference, fake, self.judge, self.train)


def _damaged(kind: Corruption, images: ImageSet, bench: _Bench, seed: int) -> list[tuple[float, dict[str, float]]]:
    """(strength, values) for every strength; nothing where the images do not admit the corruption."""
    found = []
    for strength in kind.strengths:
        try:
            damaged = kind.apply(images, strength, np.random.default_rng(seed))
        except InputError:
            return []
        found.append((strength, bench.values(damaged)))
    return found


def _values(real: Measured, fake: Measured, judge: Judge | None, train: ImageSet | None) -> dict[str, float]:
    """Measure -> value over all classes; "NAME by class": the mean over the classes' own values."""
    table = evaluate("", 0, real, fake, judge, 0, 0, train)
    pooled = table[(table["split"] == "pooled") & (table["class"] == "all")].set_index("metric")["value"]
    single = table[(table["class"] != "all")]
    values = {name: float(pooled[name]) for name in METRICS if name in pooled.index}
    for name in BY_CLASS:
        own = single.loc[single["metric"] == name.removesuffix(" by class"), "value"]
        if len(own):
            values[name] = float(own.mean())
    return values


def _error(name: str, value: float, reference: dict[str, float]) -> float:
    better = METRICS[name.removesuffix(" by class")].better
    if better == "match":
        return abs(value - reference[name])
    return value if better == "lower" else -value

"""Which scenes a set holds: their kinds, and seeds that never meet between two sets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sarnb.errors import InputError
from sarnb.world.scene import CLASSES, COMPOSITIONS, SEEN, parts_of

CHUNK = 32  # scenes a work item
EVERYTHING = CLASSES + COMPOSITIONS
HELD_OUT_SHARE = 0.1  # of a general set, for val and for test each


@dataclass(frozen=True)
class SplitSpec:
    """What one split holds: ``count`` scenes, the ``kinds`` taken in turn. Raises InputError for unknown kinds."""

    kinds: tuple[str, ...]
    count: int

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        if self.count < len(self.kinds):
            least = len(self.kinds)
            raise InputError(f"a split of {self.count} scenes cannot show {least} kinds; give at least {least} scenes")


def study_splits(train_images: int, val_images: int, test_per_class: int, judge_images: int) -> dict[str, SplitSpec]:
    """The study's splits: train and val show seen classes only, test and judge every class and composition."""
    return {
        "train": SplitSpec(SEEN, train_images),
        "val": SplitSpec(SEEN, val_images),
        "test": SplitSpec(EVERYTHING, test_per_class * len(EVERYTHING)),
        "judge": SplitSpec(EVERYTHING, judge_images),
    }


def general_splits(count: int) -> dict[str, SplitSpec]:
    """``count`` scenes of every class and composition, in train, val and test: 80, 10 and 10 %.

    For other purposes than this study, whose splits hold kinds back. Raises InputError if a split could not show all kinds.
    """
    kinds = len(EVERYTHING)
    if count < 3 * kinds:
        raise InputError(f"n is {count}; give at least {3 * kinds}, so that train, val and test show each of the {kinds} kinds")
    held_out = max(kinds, int(count * HELD_OUT_SHARE))
    counts = {"train": count - 2 * held_out, "val": held_out, "test": held_out}
    return {split: SplitSpec(EVERYTHING, number) for split, number in counts.items()}


def check_request(size: int, seed: int, workers: int = 1) -> None:
    """Raise InputError for an image size (px), a seed or a number of processes with which no data set can be made."""
    if size < 32 or size % 8:
        raise InputError(f"size is {size} px; give 32 or more, and a multiple of 8")
    if seed < 0:
        raise InputError(f"seed is {seed}; give a whole number of 0 or more")
    if workers < 1:
        raise InputError(f"workers is {workers}; give 1 or more processes")


def scene_seed(seed: int, stream: str, index: int) -> int:
    """Seed in [0, 2^48) of scene ``index`` of the set named ``stream``.

    The stream's name is hashed in, so that train, val, test, judge and the foundation's optical scenes share none.
    """
    words = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(16))


def scene_group(kind: str, shown: Sequence[str] = SEEN) -> str:
    """'seen', 'unseen' or 'composition': how the kind stands to a training set that shows the kinds ``shown``.

    >>> scene_group("airport"), scene_group("airport", shown=("airport", "city"))
    ('unseen', 'seen')
    """
    if kind in shown:
        return "seen"
    return "composition" if "+" in kind else "unseen"


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise InputError if a kind is neither a class nor a composition of classes that the twin world draws."""
    if not kinds:
        raise InputError("no scene kind was given; name at least one, for example 'city'")
    for kind in kinds:
        parts_of(kind)


def chunks(count: int) -> list[range]:
    """``range(count)`` in pieces of CHUNK: work items whose borders do not depend on the number of workers."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

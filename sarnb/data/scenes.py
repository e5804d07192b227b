"""Which scenes a set holds: their kinds, and seeds that never meet between two sets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sarnb.errors import InputError
from sarnb.world.scene import CLASSES, COMPOSITIONS, SEEN, parts_of

CHUNK = 32  # scenes a work item


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
    everything = CLASSES + COMPOSITIONS
    return {
        "train": SplitSpec(SEEN, train_images),
        "val": SplitSpec(SEEN, val_images),
        "test": SplitSpec(everything, test_per_class * len(everything)),
        "judge": SplitSpec(everything, judge_images),
    }


def scene_seed(seed: int, stream: str, index: int) -> int:
    """Seed in [0, 2^48) of scene ``index`` of the set named ``stream``.

    The stream's name is hashed in, so that train, val, test, judge and the foundation's optical scenes share none.
    """
    words = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(16))


def scene_group(kind: str) -> str:
    """'seen', 'unseen' or 'composition': how the kind stands to the radar training set."""
    if "+" in kind:
        return "composition"
    return "seen" if kind in SEEN else "unseen"


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise InputError if a kind is neither a class nor a composition of classes that the twin world draws."""
    if not kinds:
        raise InputError("no scene kind was given; name at least one, for example 'city'")
    for kind in kinds:
        parts_of(kind)


def chunks(count: int) -> list[range]:
    """``range(count)`` in pieces of CHUNK: work items whose borders do not depend on the number of workers."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

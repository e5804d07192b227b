"""Captions that are wrong in one fact: another side, another count, another direction or arrangement.

A caption and its hard negative share every other word, so that a contrastive loss which meets both must learn the fact itself and
not the class alone (hard negative captions; Yuksekgonul et al., ICLR 2023). The hard negative is made from the words, not from
the scene: whatever image the caption is true of, the hard negative is false of it. It works for any caption that uses the
grammar of ``sarnb.world.captions``; a caption that tells none of the facts has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from sarnb.errors import InputError
from sarnb.world.captions import number_words

OBJECTS: tuple[str, ...] = (
    "aircraft",
    "blocks",
    "bridges",
    "buildings",
    "houses",
    "parcels",
    "piers",
    "runways",
    "sheds",
    "ships",
    "tanks",
)
"""Plural names of what scenes count."""
COUNT_RATIO = 1.5  # a wrong count is at least so many times larger or smaller, for an image must be able to tell
_LADDER = (*range(1, 13), 15, 20, 50, 150)  # one number for each wording of a count
_RANGES = {number_words(n, "").strip(): (n, n) for n in range(1, 13)} | {
    "about fifteen": (13, 17),
    "about twenty": (18, 24),
    "dozens of": (25, 99),
    "over a hundred": (100, 999),
}
_NAMES = {name.removesuffix("s"): name for name in OBJECTS} | {name: name for name in OBJECTS}
_COUNT = re.compile(rf"\b({'|'.join(_RANGES)}) ({'|'.join(sorted(_NAMES, key=len, reverse=True))})\b")
_SIDE = re.compile(r"\b((?:from|on|to) the) (left|right)\b")
_OTHER_SIDE = {"left": "right", "right": "left"}
_POINTS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
_COMPASS = "|".join(sorted(_POINTS, key=len, reverse=True))
_LINE = re.compile(rf"\b({_COMPASS}) to ({_COMPASS})\b")
_TOWARDS = re.compile(rf"\bto the ({_COMPASS})\b")
_EXCLUSIVE = (
    ("along curved streets", "along straight streets"),
    ("a running track around the pitch", "stands close to the pitch"),
)


def _turned(point: str, eighths: int) -> str:
    """The compass point so many eighths of a turn clockwise."""
    return _POINTS[(_POINTS.index(point) + eighths) % len(_POINTS)]


def _wrong_side(text: str, rng: np.random.Generator) -> str:
    """Every left is right: also the shadows turn, so that the sentence does not contradict itself."""
    return _SIDE.sub(lambda match: f"{match[1]} {_OTHER_SIDE[match[2]]}", text)


def _wrong_count(text: str, rng: np.random.Generator) -> str:
    """One of the counts is another, near enough to be mistaken and far enough to be seen."""
    found = list(_COUNT.finditer(text))
    if not found:
        return text
    match = found[rng.integers(len(found))]
    low, high = _RANGES[match[1]]
    fewer = [n for n in _LADDER if low >= COUNT_RATIO * n][-2:]
    more = [n for n in _LADDER if n >= COUNT_RATIO * high][:2]
    wrong = number_words(int(rng.choice(fewer + more)), _NAMES[match[2]])
    return text[: match.start()] + wrong + text[match.end() :]


def _wrong_relation(text: str, rng: np.random.Generator) -> str:
    """One of the directions is turned by a quarter or a half, or one arrangement is exchanged for its alternative."""
    turn = int(rng.choice((2, 4, 6)))
    options = [_LINE.sub(lambda match: _line(_turned(match[1], 2)), text, count=1)]
    options.append(_TOWARDS.sub(lambda match: f"to the {_turned(match[1], turn)}", text, count=1))
    for first, second in _EXCLUSIVE:
        options.append(text.replace(first, second) if first in text else text.replace(second, first))
    options = [option for option in options if option != text]
    return options[rng.integers(len(options))] if options else text


def _line(point: str) -> str:
    """The wording of the line through a point, as ``canvas.heading`` writes it."""
    start = point if point in ("east", "north-west", "north", "north-east") else _turned(point, 4)
    return f"{start} to {_turned(start, 4)}"


_MAKERS: dict[str, Callable[[str, np.random.Generator], str]] = {
    "side": _wrong_side,
    "count": _wrong_count,
    "relation": _wrong_relation,
}
FACTS: tuple[str, ...] = tuple(_MAKERS)
"""What a hard negative is wrong in."""


def hard_negative(text: str, fact: str, seed: int = 0) -> str | None:
    """The caption with one fact wrong; None where it does not tell the fact.

    Deterministic in its arguments. Raises ``InputError`` for an unknown fact.

    >>> hard_negative("a radar image of a city, illuminated from the left", "side")
    'a radar image of a city, illuminated from the right'
    """
    if fact not in _MAKERS:
        raise InputError(f"a hard negative of {fact!r} is unknown; use one of {', '.join(FACTS)}")
    wrong = _MAKERS[fact](text, np.random.default_rng((seed, FACTS.index(fact), *text.encode())))
    return None if wrong == text else wrong


def hard_negatives(text: str, draws: int = 2, seed: int = 0) -> tuple[str, ...]:
    """Wrong captions of whatever ``text`` describes: of each fact that it tells up to ``draws`` different ones."""
    wrong = [hard_negative(text, fact, seed + draw) for fact in FACTS for draw in range(draws)]
    return tuple(dict.fromkeys(caption for caption in wrong if caption is not None))


def hard_negative_table(captions: Iterable[str], draws: int = 2, seed: int = 0) -> dict[str, tuple[str, ...]]:
    """``hard_negatives`` of every different caption, in order: what ``train_clip`` takes as ``negatives``."""
    return {text: hard_negatives(text, draws, seed) for text in dict.fromkeys(captions)}


def mirrored_caption(text: str) -> str | None:
    """The caption of the picture turned left for right, which is the turned scene seen from the other side.

    Sides and, because columns run from west to east, east and west change places; None where the caption tells no side.

    >>> mirrored_caption("a coast with the sea to the north-east, viewed from the left")
    'a coast with the sea to the north-west, viewed from the right'
    """
    if not _SIDE.search(text):
        return None
    text = _SIDE.sub(lambda match: f"{match[1]} {_OTHER_SIDE[match[2]]}", text)
    text = _LINE.sub(lambda match: _line(_across_north(match[1])), text)
    return _TOWARDS.sub(lambda match: f"to the {_across_north(match[1])}", text)


def _across_north(point: str) -> str:
    """The compass point with east and west exchanged."""
    return _POINTS[-_POINTS.index(point) % len(_POINTS)]


def mirror_table(captions: Iterable[str]) -> dict[str, str]:
    """``mirrored_caption`` of every different caption that has one: what ``train_clip`` takes as ``mirrors``."""
    found = {text: mirrored_caption(text) for text in dict.fromkeys(captions)}
    return {text: turned for text, turned in found.items() if turned is not None}

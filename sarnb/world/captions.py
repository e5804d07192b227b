"""Words for a scene: captions of three lengths for either modality, canonical prompts, and captions that are wrong in one fact."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sarnb.errors import InputError
from sarnb.world.scene import CLASSES, Scene, parts_of

if TYPE_CHECKING:
    from sarnb.world.radar import Radar

LENGTHS: tuple[str, ...] = ("short", "mid", "long")
"""Caption lengths, as SARLO-80 has them."""
MODALITIES: tuple[str, ...] = ("optical", "sar")
"""The camera and the radar."""

_NOUNS: dict[str, tuple[str, ...]] = {  # the first is canonical; every variant keeps the class word
    "city": ("a city", "a dense city", "a city with a street grid"),
    "suburb": ("a suburb", "a residential suburb", "a quiet suburb", "a suburb with small houses"),
    "industrial": ("an industrial area", "an industrial estate", "an industrial area with large sheds"),
    "forest": ("a forest", "a dense forest", "forest canopy"),
    "crop fields": (
        "crop fields",
        "agricultural crop fields",
        "a patchwork of crop fields",
        "crop fields with furrows",
    ),
    "coast": ("a coast", "a sandy coast", "a coast with a beach"),
    "mountains": ("mountains", "steep mountains", "mountains with rocky ridges"),
    "river": ("a river", "a meandering river", "a winding river", "a wide river"),
    "airport": ("an airport", "a commercial airport", "an airport with a runway"),
    "harbour": ("a harbour", "a sea harbour", "a harbour with piers"),
    "solar farm": ("a solar farm", "a large solar farm", "a solar farm with rows of panels"),
    "stadium": ("a stadium", "a large stadium", "an oval stadium", "a sports stadium"),
}
_PAIRS: dict[str, str] = {
    "river+forest": "a river through a forest",
    "city+coast": "a city on the coast",
    "crop fields+mountains": "crop fields below mountains",
    "suburb+river": "a suburb on a river",
    "industrial+forest": "an industrial area beside a forest",
}
_PAIR_VARIANTS: dict[str, tuple[str, ...]] = {  # the same seen from the other class; radar captions only
    "river+forest": ("a river through a forest", "a forest with a river through it", "a river in a forest"),
    "city+coast": ("a city on the coast", "a coast with a city", "a city by a coast"),
    "crop fields+mountains": ("crop fields below mountains", "mountains above crop fields", "crop fields beside mountains"),
    "suburb+river": ("a suburb on a river", "a river through a suburb", "a suburb along a river"),
    "industrial+forest": (
        "an industrial area beside a forest",
        "a forest beside an industrial area",
        "an industrial area by a forest",
    ),
}
_LEADS: dict[str, tuple[str, ...]] = {  # the first is canonical
    "optical": ("an aerial photograph of", "an aerial photo of", "an aerial view of", "an optical image of"),
    "sar": ("a radar image of", "a SAR image of", "a synthetic aperture radar image of", "a radar view of"),
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SINGULAR = {"aircraft": "aircraft"}
_COUNTED: dict[str, str] = {  # relations of the counted objects, with room for their numbers; radar captions only
    "with ships moored at the piers": "{ships} moored at {piers}",
    "with aircraft parked at the terminal": "{aircraft} parked at the terminal",
    "along curved streets": "{houses} along curved streets",
    "along straight streets": "{houses} along straight streets",
    "with a container yard": "{sheds} beside a container yard",
}
# What a radar caption says of the acquisition; of each the first is the favoured wording.
_SEEN_BY = ("seen by radar", "imaged by radar", "in a radar image", "in a SAR image")
_SIDES = ("illuminated from the {look}", "viewed from the {look}", "seen from the {look}", "with the radar on the {look}")
_SHADOWS = ("with shadows to the {away}", "with shadows on the {away}")
_ANGLES = ("incidence {angle:.0f} degrees", "incidence of {angle:.0f} degrees", "{angle:.0f} degrees incidence")
_RESOLUTIONS = ("{metres:.1f} m resolution", "resolution {metres:.1f} m")
_MOST_PIECES = 48  # words, digits and marks; a longer radar caption gives up its last detail, for the 64 tokens of the text encoders


def noun(kind: str) -> str:
    """The canonical words for a class or composition, with its article: "a city", "a river through a forest"."""
    parts = parts_of(kind)
    if len(parts) == 1:
        return _NOUNS[parts[0]][0]
    for key in ("+".join(parts), "+".join(reversed(parts))):
        if key in _PAIRS:
            return _PAIRS[key]
    return f"{_NOUNS[parts[0]][0]} beside {' and '.join(_NOUNS[part][0] for part in parts[1:])}"


def prompt(kind: str, modality: str, radar: Radar | None = None, token: str | None = None) -> str:
    """The canonical evaluation prompt of a class; ``token`` takes the place of the modality's word.

    >>> prompt("city", "sar"), prompt("crop fields", "optical"), prompt("city", "sar", token="<SAR>")
    ('a radar image of a city', 'an aerial photograph of crop fields', 'a <SAR> image of a city')
    """
    _check(modality, "short")
    lead = f"a {token} image of" if token else _LEADS[modality][0]
    look = f", illuminated from the {radar.look}" if radar is not None and modality == "sar" else ""
    return f"{lead} {noun(kind)}{look}"


def caption(scene: Scene, modality: str, length: str, radar: Radar | None = None, seed: int = 0) -> str:
    """A caption of a scene, at most 54 words, the same for the same arguments.

    ``short`` names the class, and half the time is the canonical ``prompt``; ``mid`` adds an object count or a relation
    and the season (optical) or the acquisition (SAR, when ``radar`` is given: band, side and incidence); ``long`` adds
    all that is known, the resolution included. The photograph's captions are one sentence shape, which the foundation
    was pretrained on; the radar's come in several (see ``_radar_caption``).

    Raises
    ------
    InputError
        An unknown modality or length.
    """
    _check(modality, length)
    classes = [CLASSES.index(part) for part in parts_of(scene.kind)]
    rng = np.random.default_rng((scene.seed, seed, LENGTHS.index(length), MODALITIES.index(modality), *classes))
    if modality == "sar":
        return _radar_caption(scene, length, radar, rng)
    if length == "short" and rng.random() < 0.5:
        return prompt(scene.kind, modality)
    words = f"{_favoured(_LEADS[modality], rng)} {_subject(scene, rng, modality, length != 'short')}"
    if length == "short":
        return words
    details = _details(scene, rng, 1 if length == "mid" else 3)
    words += "".join(f" {detail}" if k == 0 else f", {detail}" for k, detail in enumerate(details))
    season = f"{'taken ' if rng.random() < 0.3 else ''}in {scene.season}"
    return f"{words}, {season}" if details else f"{words} {season}"


def _check(modality: str, length: str) -> None:
    """Raise ``InputError`` unless modality and length are known."""
    if modality not in MODALITIES:
        raise InputError(f"caption modality {modality!r} is unknown; use one of {', '.join(MODALITIES)}.")
    if length not in LENGTHS:
        raise InputError(f"caption length {length!r} is unknown; use one of {', '.join(LENGTHS)}.")


def _favoured(choices: Sequence[str], rng: np.random.Generator) -> str:
    """One of the wordings, the first, which is canonical, twice as often as another."""
    return choices[max(0, int(rng.integers(-1, len(choices))))]


def _details(scene: Scene, rng: np.random.Generator, most: int) -> list[str]:
    """Up to ``most`` phrases of counts and relations; a relation that repeats a counted object is left out."""
    details = []
    counted = [name for name in scene.counts if scene.counts[name] > 0]
    if counted and (most > 1 or rng.random() < 0.6):
        details.append("with " + " and ".join(number_words(scene.counts[name], name) for name in counted[:2]))
    else:
        counted = []
    relations = [r for r in scene.relations if not any(name.rstrip("s") in r for name in counted)]
    for k in rng.permutation(len(relations)):
        if len(details) < most:
            details.append(in_number(relations[k], scene.counts))
    return details


def number_words(n: int, plural: str) -> str:
    """A count in words: "one bridge", "twelve fields", "dozens of houses"."""
    if n >= 100:
        return f"over a hundred {plural}"
    if n > 24:
        return f"dozens of {plural}"
    if n > 12:
        return f"about {'fifteen' if n < 18 else 'twenty'} {plural}"
    return f"{_NUMBERS[n]} {_SINGULAR.get(plural, plural[:-1]) if n == 1 else plural}"


def in_number(words: str, counts: Mapping[str, int]) -> str:
    """The words with each counted object in the number that is counted: none, one or several.

    >>> in_number("an airport with a runway", {"runways": 2}), in_number("a harbour with piers", {"piers": 1})
    ('an airport with two runways', 'a harbour with a pier')
    """
    for name, n in counts.items():
        one = _SINGULAR.get(name, name[:-1])
        if n == 0:
            words = re.sub(rf" with (?:an? )?(?:\w+ )?(?:{name}|{one})\b.*| at the {name}\b", "", words)
        elif n == 1 and one != name:
            words = re.sub(rf"\b(with|along|crossed by) ((?:large |small |storage )?){name}\b", rf"\1 a \2{one}", words)
            words = words.replace(f"the {name}", f"the {one}")
        elif n > 1:
            words = re.sub(rf"\ban? {one}\b", number_words(n, name), words)
    return words


def _radar_caption(scene: Scene, length: str, radar: Radar | None, rng: np.random.Generator) -> str:
    """A caption of the radar image: what is there (subject), that radar saw it (medium), and how (clauses).

    The sentence begins with the medium ("a radar image of a harbour with three ships, …", half the time), with the subject
    ("a harbour with three ships, seen by radar, …"), or with the side ("illuminated from the left, a radar image of …").
    """
    stated = radar if length != "short" or rng.random() < 0.5 else None  # a short caption tells the side half the time
    if length == "short" and rng.random() < 0.5:
        return prompt(scene.kind, "sar", stated)
    most = {"short": int(rng.random() < 0.5), "mid": 1 + int(rng.random() < 0.3), "long": 3}[length]
    details = _radar_details(scene, rng, most)
    noun_words = _subject(scene, rng, "sar", plain=length != "short" or bool(details))
    clauses = _acquisition(stated, length, rng) if stated is not None else {}
    shape = ("medium", "subject", "side")[int(np.searchsorted((0.5, 0.8), rng.random(), side="right"))]
    lead, seen_by = _favoured(_LEADS["sar"], rng), _favoured(_SEEN_BY, rng)
    if "band" in clauses and rng.random() < 0.3:
        band = clauses.pop("band")
        lead = f"{'an' if band[0] == 'X' else 'a'} {band} {lead.removeprefix('a ')}"
        seen_by = f"seen by {band} radar"
    elif "band" in clauses and rng.random() < 0.3:
        clauses["band"] = f"acquired in {clauses['band']}"
    front = clauses.pop("side") + ", " if shape == "side" and "side" in clauses else ""
    rest = [clauses[name] for name in clauses]
    if rng.random() < 0.4:
        rest = [rest[k] for k in rng.permutation(len(rest))]

    def sentence(chosen: list[str]) -> str:
        subject = noun_words + "".join(f" {detail}" if k == 0 else f", {detail}" for k, detail in enumerate(chosen))
        medium = f"{subject}{',' if chosen else ''} {seen_by}" if shape == "subject" else f"{lead} {subject}"
        return front + ", ".join([medium, *rest])

    while details and len(re.findall(r"[a-z]+|\d|[^\sa-z\d]", sentence(details).lower())) > _MOST_PIECES:
        details.pop()
    return sentence(details)


def _subject(scene: Scene, rng: np.random.Generator, modality: str, plain: bool) -> str:
    """The class in words; ``plain``: without a "with" of its own, because details with theirs follow."""
    choices = _NOUNS.get(scene.kind) or (_PAIR_VARIANTS.get(scene.kind) if modality == "sar" else None)
    if choices is None and modality == "optical":
        return noun(scene.kind)
    choices = [words for words in choices or (noun(scene.kind),) if not plain or " with " not in words]
    return in_number(_favoured(choices, rng), scene.counts)


def _radar_details(scene: Scene, rng: np.random.Generator, most: int) -> list[str]:
    """Phrases of up to ``most`` facts: counts, counted relations ("three ships moored at two piers") and other relations.

    No object is named twice. What one has ("with …") comes as one phrase or as several, before or behind the rest.
    """
    numbers = {name: number_words(n, name) for name, n in scene.counts.items() if n > 0}
    relations = [scene.relations[k] for k in rng.permutation(len(scene.relations))]
    things: list[str] = []
    others: list[str] = []
    said: set[str] = set()
    for relation in relations:
        names = set(re.findall(r"{(\w+)}", _COUNTED.get(relation, "")))
        if most and names and names <= set(numbers) and not said and rng.random() < 0.5:
            things.append(_COUNTED[relation].format_map(numbers))
            said, relations = names, [other for other in relations if other != relation]
    left = [name for name in numbers if name not in said]
    left = [left[k] for k in rng.permutation(len(left))][: 1 if rng.random() < 0.5 else 2]
    facts = len(things)
    if facts < most and left and (most > 1 or rng.random() < 0.6):
        things += [numbers[name] for name in left]
        said, facts = said | set(left), facts + 1
    for relation in relations:
        if facts < most and not any(name.rstrip("s") in relation for name in said):
            words = in_number(relation, scene.counts)
            (things if words.startswith("with ") else others).append(words.removeprefix("with "))
            facts += 1
    phrases = _having(things, rng)
    return others + phrases if rng.random() < 0.3 else phrases + others


def _having(things: list[str], rng: np.random.Generator) -> list[str]:
    """ "with a, b and c" as one phrase, or "with a", "with b" as several; none for no things."""
    if len(things) < 2:
        return [f"with {thing}" for thing in things]
    if any(" and " in thing for thing in things) or rng.random() < 0.3:  # a second "and" would be ambiguous
        return [f"with {thing}" for thing in things]
    return [f"with {', '.join(things[:-1])} and {things[-1]}"]


def _acquisition(radar: Radar, length: str, rng: np.random.Generator) -> dict[str, str]:
    """Clauses by what they tell: the side for a short caption; band, side and incidence for mid; the resolution for long."""
    facts = {
        "look": radar.look,
        "away": {"left": "right", "right": "left"}[radar.look],
        "angle": radar.incidence_deg,
        "metres": max(radar.resolution_m),
    }
    side, shadows, angle, resolution = (_favoured(choices, rng).format(**facts) for choices in (_SIDES, _SHADOWS, _ANGLES, _RESOLUTIONS))
    draws = rng.random(2)
    if length == "short":
        return {"side": side}
    clauses = {"band": f"{radar.band.split()[0]} band", "side": side, "angle": angle}
    if draws[0] < 0.25:
        clauses["side"] += f" at {radar.incidence_deg:.0f} degrees incidence"
        del clauses["angle"]
    if draws[1] < 0.25:
        clauses["side"] += f" {shadows}"
    return clauses | ({"resolution": resolution} if length == "long" else {})


# Hard negatives: captions that are wrong in one fact: another side, another count, another direction or arrangement.
#
# A caption and its hard negative share every other word, so that a contrastive loss which meets both must learn the fact itself and
# not the class alone (Yuksekgonul et al., ICLR 2023). The hard negative is made from the words, not from the scene: whatever image
# the caption is true of, the hard negative is false of it. A caption that tells none of the facts has none.

OBJECTS: tuple[str, ...] = tuple("aircraft blocks bridges buildings houses parcels piers runways sheds ships tanks".split())
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


def _wrong_side(text: str, rng: np.random.Generator | None = None) -> str:
    """Every left is right: also the shadows turn, so that the sentence does not contradict itself."""
    return _SIDE.sub(lambda match: f"{match[1]} {_OTHER_SIDE[match[2]]}", text)


def _wrong_count(text: str, rng: np.random.Generator) -> str:
    """One of the counts is another, near enough to be mistaken and far enough to be seen."""
    found = list(_COUNT.finditer(text))
    if not found:
        return text
    match = found[rng.integers(len(found))]
    low, high = _RANGES[match[1]]
    spans = {n: next((a, b) for a, b in _RANGES.values() if a <= n <= b) for n in _LADDER}  # what each wording may mean
    fewer = [n for n in _LADDER if low >= COUNT_RATIO * spans[n][1]][-2:]
    more = [n for n in _LADDER if spans[n][0] >= COUNT_RATIO * high][:2]
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


_MAKERS = {"side": _wrong_side, "count": _wrong_count, "relation": _wrong_relation}
NEGATIVE_KINDS: tuple[str, ...] = tuple(_MAKERS)
"""What a hard negative is wrong in."""


def hard_negative(text: str, fact: str, seed: int = 0) -> str | None:
    """The caption with one fact wrong; None where it does not tell the fact.

    Deterministic in its arguments.

    Raises
    ------
    InputError
        An unknown fact.

    >>> hard_negative("a radar image of a city, illuminated from the left", "side")
    'a radar image of a city, illuminated from the right'
    """
    if fact not in _MAKERS:
        raise InputError(f"a hard negative of {fact!r} is unknown; use one of {', '.join(NEGATIVE_KINDS)}")
    wrong = _MAKERS[fact](text, np.random.default_rng((seed, NEGATIVE_KINDS.index(fact), *text.encode())))
    return None if wrong == text else wrong


def hard_negatives(text: str, draws: int = 2, seed: int = 0) -> tuple[str, ...]:
    """Wrong captions of whatever ``text`` describes: of each fact that it tells up to ``draws`` different ones."""
    wrong = [hard_negative(text, fact, seed + draw) for fact in NEGATIVE_KINDS for draw in range(draws)]
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
    text = _LINE.sub(lambda match: _line(_across_north(match[1])), _wrong_side(text))
    return _TOWARDS.sub(lambda match: f"to the {_across_north(match[1])}", text)


def _across_north(point: str) -> str:
    """The compass point with east and west exchanged."""
    return _POINTS[-_POINTS.index(point) % len(_POINTS)]


def mirror_table(captions: Iterable[str]) -> dict[str, str]:
    """``mirrored_caption`` of every different caption that has one: what ``train_clip`` takes as ``mirrors``."""
    found = {text: mirrored_caption(text) for text in dict.fromkeys(captions)}
    return {text: turned for text, turned in found.items() if turned is not None}

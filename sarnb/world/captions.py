"""Words for a scene: captions of three lengths for either modality, and the canonical evaluation prompt of a class."""

from __future__ import annotations

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
        "crop fields", "agricultural crop fields", "a patchwork of crop fields", "crop fields with furrows",
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
_LEADS: dict[str, tuple[str, ...]] = {  # the first is canonical
    "optical": ("an aerial photograph of", "an aerial photo of", "an aerial view of", "an optical image of"),
    "sar": ("a radar image of", "a SAR image of", "a synthetic aperture radar image of", "a radar view of"),
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_SINGULAR = {"aircraft": "aircraft"}


def noun(kind: str) -> str:
    """The canonical words for a class or composition, with its article: "a city", "a river through a forest"."""
    parts = parts_of(kind)
    if len(parts) == 1:
        return _NOUNS[parts[0]][0]
    for key in ("+".join(parts), "+".join(reversed(parts))):
        if key in _PAIRS:
            return _PAIRS[key]
    return f"{_NOUNS[parts[0]][0]} beside {_NOUNS[parts[1]][0]}"


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
    and the season (optical) or the acquisition (SAR, when ``radar`` is given); ``long`` adds all that is known.
    Raises ``InputError`` for an unknown modality or length.
    """
    _check(modality, length)
    classes = [CLASSES.index(part) for part in parts_of(scene.kind)]
    rng = np.random.default_rng((scene.seed, seed, LENGTHS.index(length), MODALITIES.index(modality), *classes))
    look = radar if modality == "sar" and rng.random() < 0.5 else None
    if length == "short" and rng.random() < 0.5:
        return prompt(scene.kind, modality, look)
    lead = _LEADS[modality][_draw(rng, len(_LEADS[modality]))]
    words = f"{lead} {_noun_variant(scene, rng, length)}"
    if length == "short":
        return words + (f", illuminated from the {look.look}" if look is not None else "")
    details = _details(scene, rng, 1 if length == "mid" else 3)
    words += "".join(f" {detail}" if k == 0 else f", {detail}" for k, detail in enumerate(details))
    if modality == "optical":
        season = f"{'taken ' if rng.random() < 0.3 else ''}in {scene.season}"
        return f"{words}, {season}" if details else f"{words} {season}"
    if radar is None:
        return words
    return f"{words}, {'acquired in ' if rng.random() < 0.3 else ''}{_physics(radar, full=length == 'long')}"


def _check(modality: str, length: str) -> None:
    """Raise ``InputError`` unless modality and length are known."""
    if modality not in MODALITIES:
        raise InputError(f"caption modality {modality!r} is unknown; use one of {', '.join(MODALITIES)}.")
    if length not in LENGTHS:
        raise InputError(f"caption length {length!r} is unknown; use one of {', '.join(LENGTHS)}.")


def _draw(rng: np.random.Generator, n: int) -> int:
    """An index below ``n`` that favours 0, the canonical wording."""
    return int(max(0, rng.integers(-1, n)))


def _noun_variant(scene: Scene, rng: np.random.Generator, length: str) -> str:
    """The canonical noun or a variant of it; longer captions bring their own "with", so there it is left out."""
    choices = [words for words in _NOUNS.get(scene.kind, ()) if length == "short" or " with " not in words]
    return choices[_draw(rng, len(choices))] if choices else noun(scene.kind)


def _details(scene: Scene, rng: np.random.Generator, most: int) -> list[str]:
    """Up to ``most`` phrases of counts and relations; a relation that repeats a counted object is left out."""
    details = []
    counted = [name for name in scene.counts if scene.counts[name] > 0]
    if counted and (most > 1 or rng.random() < 0.6):
        details.append("with " + " and ".join(_number(scene.counts[name], name) for name in counted[:2]))
    else:
        counted = []
    relations = [r for r in scene.relations if not any(name.rstrip("s") in r for name in counted)]
    for k in rng.permutation(len(relations)):
        if len(details) < most:
            details.append(relations[k])
    return details


def _number(n: int, plural: str) -> str:
    """A count in words: "one bridge", "twelve fields", "dozens of houses"."""
    if n >= 100:
        return f"over a hundred {plural}"
    if n > 24:
        return f"dozens of {plural}"
    if n > 12:
        return f"about {'fifteen' if n < 18 else 'twenty'} {plural}"
    return f"{_NUMBERS[n]} {_SINGULAR.get(plural, plural[:-1]) if n == 1 else plural}"


def _physics(radar: Radar, full: bool) -> str:
    """The acquisition in words: band, side of the illumination, incidence, and the resolution when ``full``."""
    band = radar.band.split()[0]
    words = f"{band} band, illuminated from the {radar.look}, incidence {radar.incidence_deg:.0f} degrees"
    return words + (f", {max(radar.resolution_m):.1f} m resolution" if full else "")

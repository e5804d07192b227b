"""One request in several wordings: with the learned word, with the words it stands for, and with neither."""

from __future__ import annotations

import re

from sarnb.model.token import TOKEN, with_token

_MODALITIES = ((TOKEN, "a"), ("radar", "a"), ("", "an"), ("aerial", "an"))


def wordings(prompt: str) -> dict[str, str]:
    """Name of the wording → prompt.

    >>> list(wordings("a radar image of a city").values())
    ['a <SAR> image of a city', 'a radar image of a city', 'an image of a city', 'an aerial photograph of a city']
    """
    base = with_token(prompt)
    phrase = re.compile(rf"(?:\ban? )?{re.escape(TOKEN)} image")
    found = {}
    for word, article in _MODALITIES:
        noun = "photograph" if word == "aerial" else "image"
        name = " ".join(filter(None, (word, noun)))
        found[name] = phrase.sub(lambda match: f"{article} {name}" if match[0].startswith("a") else name, base)
    return found

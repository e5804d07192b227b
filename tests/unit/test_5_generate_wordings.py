"""Wordings of a prompt."""

from __future__ import annotations

from sarnb.generate.prompts import wordings


def test_wordings_differ_in_the_kind_of_image_only():
    expected = ["a <SAR> image of a city", "a radar image of a city", "an image of a city", "an aerial photograph of a city"]
    for prompt in expected[:2]:
        assert list(wordings(prompt).values()) == expected
    assert wordings("ships in a port") == {
        "<SAR> image": "<SAR> image, ships in a port",
        "radar image": "radar image, ships in a port",
        "image": "image, ships in a port",
        "aerial photograph": "aerial photograph, ships in a port",
    }

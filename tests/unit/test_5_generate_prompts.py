"""The prompts of the study: one wording a purpose, and the class in the same words everywhere."""

from __future__ import annotations

from sarnb.generate.prompts import optical_text, prompt_table
from sarnb.world.captions import noun, prompt
from sarnb.world.scene import CLASSES, COMPOSITIONS


def test_optical_text_of_known_and_own_labels() -> None:
    assert [optical_text(label) for label in CLASSES] == [prompt(label, "optical") for label in CLASSES]
    assert optical_text("sea_ships") == "an aerial photograph of sea ships"


def test_prompts_differ_in_the_modality_words_only() -> None:
    table = prompt_table([*CLASSES, *COMPOSITIONS]).set_index("class")
    assert table["group"].tolist() == ["seen"] * 8 + ["unseen"] * 4 + ["composition"] * 5
    for label, row in table.iterrows():
        assert row["optical"] == f"an aerial photograph of {noun(label)}"
        assert row["radar"] == f"a radar image of {noun(label)}"
        assert row["with side"] == f"a radar image of {noun(label)}, illuminated from the left"
        assert row["with token"] == f"a <SAR> image of {noun(label)}"


def test_groups_of_own_labels_are_taken() -> None:
    table = prompt_table(["water", "city"], {"water": "unseen", "city": "seen"})
    assert table["group"].tolist() == ["unseen", "seen"]

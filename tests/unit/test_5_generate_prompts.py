"""The prompts of the study: one wording a purpose, and the class in the same words everywhere."""

from __future__ import annotations

from sarnb.generate.prompts import caption_variants, optical_text, prompt_table, steering_prompts
from sarnb.metrics.prompting import RESPONSES
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


def test_variants_name_the_class_and_tell_what_their_name_says():
    variants = caption_variants("harbour", seed=3)
    assert list(variants) == ["nothing", "radar image of", "<SAR>", "short", "mid", "long", "mid + physics", "long + physics"]
    assert variants["nothing"] == "a harbour" and variants["<SAR>"] == "a <SAR> image of a harbour"
    for name, text in variants.items():
        assert "harbour" in text and ("incidence" in text) == ("physics" in name) and ("resolution" in text) == (name == "long + physics")
    assert caption_variants("river+forest")["nothing"] == "a river through a forest"
    own = caption_variants("sea_ships")
    assert own["nothing"] == "sea ships" and own["short + physics"].endswith("illuminated from the left") and len(own) == 4


def test_steering_prompts_differ_in_their_phrase_only():
    for phrases in steering_prompts("city").values():
        assert len(set(phrases)) == 2 and {text.partition(", ")[0] for text in phrases} == {"a radar image of a city"}
    assert set(steering_prompts("city")) == set(RESPONSES)

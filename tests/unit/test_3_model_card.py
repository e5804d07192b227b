"""The foundation's model card: what it tells is what was measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sarnb import foundation_path
from sarnb.errors import InputError
from sarnb.foundation.card import foundation_card, write_measures
from sarnb.graph import foundation_digest
from sarnb.settings import repository

AIMS = pd.DataFrame(
    [
        ("recall: at least 0.3", "later", 0.3, 0.25, np.nan, np.nan, 1, "not reached"),
        ("SSIM: at least 0.8", "before training", 0.8, 0.91234, 0.9, 0.95, 24, "reached"),
    ],
    columns=["aim", "set", "asked", "value", "lo", "hi", "n", "verdict"],
)


@pytest.fixture()
def folder(tmp_path):
    pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.0], "seconds": [30, 30], "images_per_second": [5, 5]}).to_csv(tmp_path / "unet.csv")
    recipe = {"model": {"latent_channels": 16}, "scenes": 24, "textures": 16, "seed": 3}
    (tmp_path / "README.md").write_text(foundation_card(recipe, tmp_path))
    return tmp_path


def test_measures_take_the_place_of_those_before_and_leave_the_rest(folder):
    before = (folder / "README.md").read_text()
    assert "Not measured yet" in before and "| unet | 2 | 1 | 1.0000 | 5 |" in before
    write_measures(folder, AIMS.assign(value=0.1))
    write_measures(folder, AIMS)
    card = (folder / "README.md").read_text()
    assert "| recall: at least 0.3 | later | 0.25 | not reached |" in card
    assert "| SSIM: at least 0.8 | before training | 0.912 [0.9, 0.95], n = 24 | reached |" in card
    assert "Not measured yet" not in card and "0.1 " not in card and "Known limits" in card
    head, tail = "## Measures and limits", "## Licence"
    assert card.partition(head)[0] == before.partition(head)[0] and card.partition(tail)[2] == before.partition(tail)[2]


@pytest.mark.parametrize("text", [None, "# another model\n"])
def test_what_is_no_card_of_a_foundation_is_left_alone(tmp_path, text):
    if text:
        (tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match="no section 'Measures and limits'"):
        write_measures(tmp_path, AIMS)
    assert not text or (tmp_path / "README.md").read_text() == text


def test_the_card_does_not_make_a_study_outdated_and_the_weights_do(folder):
    (folder / "unet").mkdir()
    digests = []
    for weights, aims in (("a", AIMS), ("a", AIMS.assign(value=0.0)), ("b", AIMS)):
        (folder / "unet" / "weights.safetensors").write_text(weights)
        write_measures(folder, aims)
        foundation_digest.cache_clear()
        digests.append(foundation_digest(str(folder)))
    assert digests[0] == digests[1] != digests[2]


def test_the_shipped_card_tells_what_the_committed_study_measured(tmp_path):
    table = repository() / "results" / "study" / "tables" / "foundation_aims.csv"
    if not table.is_file():
        pytest.skip("the package stands without its study")
    shipped = (foundation_path() / "README.md").read_text()
    (tmp_path / "README.md").write_text(shipped)
    write_measures(tmp_path, pd.read_csv(table))
    assert (tmp_path / "README.md").read_text() == shipped

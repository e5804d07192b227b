"""What was made of the same key is read back; all else, and what is damaged, is made."""

from __future__ import annotations

import json

import pytest

from sarnb.data.files import NOTE, kept
from sarnb.errors import InputError


@pytest.fixture
def ask(tmp_path):
    """Asks for a result of some key; ``ask.made`` counts how often it was made."""

    def ask(key=None, fails=None, alone=True):
        folder = tmp_path / "results" / "one"

        def make():
            ask.made += 1
            folder.mkdir(exist_ok=True)
            (folder / "result").write_text(f"number {ask.made}")
            if fails:
                raise fails
            return {"cost": ask.made}

        return kept(folder, key or {"steps": (1, 2)}, make, lambda note: ((folder / "result").read_text(), note["cost"]), alone=alone)

    ask.made, ask.folder = 0, tmp_path / "results" / "one"
    return ask


@pytest.mark.parametrize("alone", [True, False])
def test_the_same_key_is_read_back_and_another_is_made(ask, alone):
    assert ask(alone=alone) == ask(alone=alone) == ("number 1", 1)
    assert ask({"steps": [1, 3]}, alone=alone) == ("number 2", 2)
    assert json.loads((ask.folder / NOTE).read_text()) == {"steps": [1, 3], "cost": 2}


@pytest.mark.parametrize("text", ["", "[]", '{"steps": [1, 2]}', '{"steps": [1, 2], "cost"'])
def test_a_damaged_note_or_result_is_made_again(ask, text):
    ask()
    (ask.folder / NOTE).write_text(text)
    assert ask() == ("number 2", 2)
    (ask.folder / "result").unlink()
    assert ask() == ("number 3", 3)


def test_work_that_failed_is_no_result(ask):
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(fails=RuntimeError("out of memory"))
    with pytest.raises(InputError, match="one: could not be written.*No space left"):
        ask(fails=OSError(28, "No space left on device"))
    assert not (ask.folder / NOTE).exists() and ask() == ("number 3", 3)

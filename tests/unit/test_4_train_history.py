"""Questions to a training history."""

from __future__ import annotations

import math

import pandas as pd

from sarnb.train.loop import first_step_below, last

HISTORY = pd.DataFrame({"step": [0, 5, 10, 15], "loss": [None, 0.9, 0.8, 0.7], "held_out": [1.0, None, 0.6, 0.4]})


def test_last_and_first_step_below():
    assert last(HISTORY) == 0.4 and last(HISTORY.iloc[:2]) == 1.0 and last(HISTORY, "loss") == 0.7
    assert first_step_below(HISTORY, 0.6) == 10 and first_step_below(HISTORY, 2.0) == 0
    assert first_step_below(HISTORY, 0.1) is None


def test_a_history_without_held_out_loss():
    bare = HISTORY.drop(columns="held_out")
    assert math.isnan(last(bare)) and first_step_below(bare, 1.0) is None

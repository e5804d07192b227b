"""One figure of all held-out losses."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sarnb.plots.held_out import held_out_curves


def test_every_measured_strategy_has_its_curve_and_the_others_none():
    steps = [0, 10, 20, 30]
    first = pd.DataFrame({"step": steps, "held_out": [4.0, np.nan, 2.0, 1.0], "loss": 1.0})
    second = pd.DataFrame({"step": steps, "held_out": [5.0, 4.5, np.nan, 4.0]})
    figure = held_out_curves({"unet-full": first, "token": second, "zero-shot": pd.DataFrame({"step": steps})})
    whole, half = ({line.get_label(): line.get_xydata().tolist() for line in axis.lines} for axis in figure.axes)
    assert whole == {"unet-full": [[0, 4], [20, 2], [30, 1]], "token": [[0, 5], [10, 4.5], [30, 4]]}
    assert half == {"unet-full": [[20, 2], [30, 1]], "token": [[30, 4]]}
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2


def test_without_any_measurement_the_figure_says_so():
    axis = held_out_curves({"scratch": pd.DataFrame({"step": [1, 2], "loss": [1.0, 0.9]})}).axes[0]
    assert not axis.lines and "not measured" in axis.texts[0].get_text()

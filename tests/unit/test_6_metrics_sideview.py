"""Predicted walls and shadows against the closed forms of a block, and against the masks of the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.metrics.geometry import block_scene, range_line, shadow_marks, wall_marks
from sarnb.world.backscatter import CODE
from sarnb.world.radar import PRESETS, simulate
from sarnb.world.scene import make_scene

RADAR = PRESETS["airborne-x"]


@pytest.mark.parametrize("incidence", [30.0, 40.0, 55.0])
@pytest.mark.parametrize("look", ["left", "right"])
def test_a_block_lies_where_the_two_formulae_put_it(incidence: float, look: str) -> None:
    scene = block_scene(height=20.0, depth=16, width=24, size=96, spacing=2.0)  # cells 40 to 55 along range, 36 to 59 along azimuth
    radar = replace(RADAR, incidence_deg=incidence, look=look)
    tangent = np.tan(np.radians(incidence))
    walls, shadows = wall_marks(scene, radar), shadow_marks(scene, radar)
    near, far, sign = (40.0, 56.0, 1.0) if look == "left" else (56.0, 40.0, -1.0)
    assert walls["row"].tolist() == shadows["row"].tolist() == list(range(36, 60))
    assert np.allclose(walls["height"], 20.0) and np.allclose(walls["foot"], near) and np.allclose(walls["edge"], near)
    assert np.allclose(walls["layover"], near - sign * 20.0 / tangent / 2.0)
    assert np.allclose(shadows["end"], far + sign * 20.0 * tangent / 2.0)
    assert np.allclose(shadows["length"], 20.0 * tangent)


@pytest.mark.parametrize("look", ["left", "right"])
def test_the_simulator_agrees_to_a_pixel(look: str) -> None:
    scene, radar = block_scene(), replace(RADAR, look=look)
    image = simulate(scene, radar, 0)
    wall, shadow = wall_marks(scene, radar).iloc[12], shadow_marks(scene, radar).iloc[12]
    row = int(wall["row"])
    cells = {"layover": np.flatnonzero(image.layover[row]), "shadow": np.flatnonzero(image.shadow[row])}
    outer = (cells["layover"].min(), cells["shadow"].max() + 1) if look == "left" else (cells["layover"].max() + 1, cells["shadow"].min())
    assert outer == pytest.approx((wall["layover"], shadow["end"]), abs=1.0)


def share(mask: np.ndarray, rows: np.ndarray, position: np.ndarray) -> float:
    """Share of the places inside the image at which a mask holds."""
    column = np.floor(position).astype(int)
    inside = (column >= 0) & (column < mask.shape[1])
    return float(mask[rows[inside], column[inside]].mean())


def test_predictions_border_the_masks_of_a_city() -> None:
    scene = make_scene("city", 3)
    image, walls, shadows = simulate(scene, RADAR, 0), wall_marks(scene, RADAR, 12.0), shadow_marks(scene, RADAR)
    tops = {step: share(image.layover, walls["row"].to_numpy(), walls["layover"].to_numpy() + step) for step in (-1, 1)}
    assert len(walls) > 100 and tops[1] > 0.9 and tops[-1] < 0.25, "layover begins at the tops, within a pixel"
    ends = {step: share(image.shadow, shadows["row"].to_numpy(), shadows["end"].to_numpy() + step) for step in (-1, 1)}
    assert len(shadows) > 100 and ends[1] < 0.1 and ends[-1] > 0.5, "before its end a shadow may be filled by layover, never after it"


def test_a_second_block_in_the_shadow_ends_it_on_its_wall() -> None:
    scene = block_scene(height=20.0)
    height = scene.height.copy()
    height[:, 60:64] = 10.0  # 8 m behind the block, whose shadow is 16.8 m long
    shadows = shadow_marks(replace(scene, height=height), replace(RADAR, incidence_deg=40.0)).query("row == 48")
    cot = 1 / np.tan(np.radians(40.0))
    lit_from = 20.0 - 8.0 * cot  # metres on the second wall
    assert shadows["end"].iloc[0] == pytest.approx(60 - lit_from * cot / 2.0)
    assert shadows["length"].iloc[0] == pytest.approx(8.0)


def test_hidden_walls_low_steps_and_trees_are_left_out() -> None:
    scene = block_scene(height=20.0)
    height, cover = scene.height.copy(), scene.cover.copy()
    height[:30, 10:14] = 4.0  # too low
    height[:30, 70:74], cover[:30, 70:74] = 15.0, CODE["forest"]
    height[40:50, 58:60] = 3.0
    height[40:50, 60:62] = 8.5  # a step of 5.5 m in the dark, 10 m behind the block of 20 m
    walls = wall_marks(replace(scene, height=height, cover=cover), replace(RADAR, incidence_deg=60.0))
    assert set(walls["edge"]) == {40.0}


def test_range_line_knows_its_dark_cells() -> None:
    line = range_line(block_scene(height=20.0), replace(RADAR, incidence_deg=45.0), 48)
    assert np.flatnonzero(line["dark"]).tolist() == list(range(56, 66))  # 20 m of shadow, 2 m a cell
    assert line["ground"][0] == 1.0 and line["height"][48] == 20.0
    assert not range_line(block_scene(), RADAR, 5)["dark"].any()
    with pytest.raises(InputError, match="rows 0 to 95"):
        range_line(block_scene(), RADAR, 96)


def test_a_block_has_to_fit() -> None:
    with pytest.raises(InputError, match="half as long"):
        block_scene(depth=60)

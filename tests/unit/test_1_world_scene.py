"""Scenes: valid in every class, deterministic, in metres, with counts and relations that the arrays bear out."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from sarnb.errors import InputError
from sarnb.world.canvas import Canvas, cells, count_cells
from sarnb.world.captions import noun
from sarnb.world.scene import CLASSES, CODE, COMPOSITIONS, COVERS, SEASONS, SEEN, UNSEEN, Scene, make_scene


def share(scene: Scene, *covers: str) -> float:
    """Share of the patch under the given land covers."""
    return float(np.isin(scene.cover, [CODE[name] for name in covers]).mean())


def digest(scene: Scene) -> str:
    """SHA-256 over all that a scene holds."""
    arrays = (scene.height, scene.ground, scene.cover, scene.tint, scene.points)
    words = repr((scene.kind, scene.season, scene.counts, scene.relations, scene.spacing)).encode()
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays) + words).hexdigest()


def test_classes_split_into_seen_and_unseen():
    assert len(CLASSES) == 12 and SEEN + UNSEEN == CLASSES and len(UNSEEN) == 4
    assert len(COMPOSITIONS) >= 4 and all(part in SEEN for pair in COMPOSITIONS for part in pair.split("+"))
    assert len(COVERS) <= 20 and len(set(COVERS)) == len(COVERS)


@pytest.mark.parametrize("kind", CLASSES + COMPOSITIONS + ("solar farm+airport",))
@pytest.mark.parametrize(("size", "spacing"), [(128, 2.0), (32, 0.5), (64, 8.0)])
def test_every_class_makes_a_valid_scene(kind, size, spacing):
    scene = make_scene(kind, 4, size, spacing)
    for name, dtype in (("height", np.float32), ("ground", np.float32), ("cover", np.uint8), ("tint", np.float32)):
        array = getattr(scene, name)
        assert array.shape == (size, size) and array.dtype == dtype
    assert np.isfinite(scene.height).all() and (scene.height - scene.ground).min() > -1e-3
    assert scene.cover.max() < len(COVERS) and np.abs(scene.tint).max() <= 1
    assert scene.points.dtype == np.float32 and scene.points.shape[1] == 5
    assert ((scene.points[:, :2] >= 0) & (scene.points[:, :2] <= size - 1)).all()
    row, col = scene.points[:, :2].round().astype(int).T
    assert (scene.points[:, 2] >= (scene.height - scene.ground)[row, col] - 1e-3).all()  # metal on an object, not inside it
    assert scene.season in SEASONS and all(n >= 0 for n in scene.counts.values())


@pytest.mark.parametrize("kind", ["city", "mountains", "harbour", "river+forest"])
def test_same_arguments_same_bytes_and_another_seed_differs(kind):
    first = digest(make_scene(kind, 11))
    make_scene("stadium", 3)
    assert digest(make_scene(kind, 11)) == first != digest(make_scene(kind, 12))


def test_same_bytes_in_another_process():
    code = (
        "from sarnb.world.scene import make_scene; import hashlib; s = make_scene('suburb', 5, 64);"
        "print(hashlib.sha256(s.height.tobytes() + s.cover.tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    scene = make_scene("suburb", 5, 64)
    assert out == hashlib.sha256(scene.height.tobytes() + scene.cover.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("kind", "covers", "low", "high"),
    [
        ("city", ("roof",), 0.25, 0.8),
        ("suburb", ("tile",), 0.05, 0.3),
        ("industrial", ("metal",), 0.12, 0.7),
        ("forest", ("forest",), 0.6, 1.0),
        ("crop fields", ("crop",), 0.5, 1.0),
        ("coast", ("water",), 0.15, 0.8),
        ("mountains", ("rock", "snow"), 0.35, 1.0),
        ("river", ("water",), 0.07, 0.4),
        ("airport", ("paint",), 0.005, 0.1),
        ("harbour", ("water",), 0.2, 0.8),
        ("solar farm", ("solar",), 0.12, 0.6),
        ("stadium", ("paint",), 0.005, 0.05),
    ],
)
def test_the_defining_cover_of_each_class_is_there(kind, covers, low, high):
    shares = [share(make_scene(kind, seed), *covers) for seed in range(12)]
    assert low <= min(shares) and max(shares) <= high


def test_heights_are_plausible_metres():
    for seed in range(6):
        city, suburb, hills = make_scene("city", seed), make_scene("suburb", seed), make_scene("mountains", seed)
        roofs = (city.height - city.ground)[city.cover == CODE["roof"]]
        assert 8 <= roofs.min() and roofs.max() <= 55 and roofs.max() > 15
        houses = (suburb.height - suburb.ground)[suburb.cover == CODE["tile"]]
        assert 4.9 <= houses.min() and houses.max() <= 8.7
        assert 60 < np.ptp(hills.ground) < 200
        assert np.ptp(city.ground) < 15


def test_water_is_level():
    for kind in ("river", "coast", "harbour"):
        scene = make_scene(kind, 8)
        surface = scene.height[scene.cover == CODE["water"]]
        assert np.percentile(surface, 99) - np.percentile(surface, 1) < 0.8


def test_tank_count_is_the_number_of_connected_round_roofs():
    checked = 0
    for seed in range(20):
        scene = make_scene("industrial", seed)
        above = scene.height - scene.ground
        values, sizes = np.unique(np.round(above[scene.cover == CODE["metal"]], 2), return_counts=True)
        if not scene.counts.get("tanks"):
            continue
        # All tanks of a scene have one height, which is by far the commonest height of any metal there.
        tank = (np.abs(above - values[np.argmax(sizes)]) < 0.02) & (scene.cover == CODE["metal"])
        labels, n = ndimage.label(tank)
        assert abs(int(np.sum(np.bincount(labels.ravel())[1:] >= 40)) - scene.counts["tanks"]) <= 1
        checked += 1
    assert checked >= 5


def test_sea_lies_where_the_relation_says():
    points = ("east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east")
    bearings = dict(zip(points, range(0, 360, 45)))
    for seed in range(12):
        scene = make_scene("coast", seed)
        (phrase,) = [r for r in scene.relations if r.startswith("with the sea to the ")]
        rows, cols = np.nonzero(scene.cover == CODE["water"])
        seen = np.degrees(np.arctan2(rows.mean() - 63.5, cols.mean() - 63.5))
        reported = bearings[phrase.removeprefix("with the sea to the ")]
        assert abs((seen - reported + 180) % 360 - 180) < 45


def test_composition_holds_both_classes():
    for seed in range(5):
        scene = make_scene("river+forest", seed)
        assert share(scene, "water") > 0.07 and share(scene, "forest") > 0.4
        assert share(make_scene("city+coast", seed), "roof") > 0.04


@pytest.mark.parametrize("kind", ["city+river+forest", "river+forest+city", "forest+city+river"])
def test_three_classes_share_a_patch_whatever_their_order(kind):
    shares = [[share(make_scene(kind, seed), cover) for cover in ("roof", "water", "forest")] for seed in range(5)]
    assert np.mean(shares, axis=0).min() > 0.04 and noun(kind).count(" a ") == 2
    with pytest.raises(InputError, match="two or three different ones"):
        make_scene("city+river+forest+coast", 0)


def test_canvas_noise_has_unit_variance_and_the_requested_scale():
    canvas = Canvas(np.random.default_rng(0), 256, 1.0, "summer")
    fine, coarse = canvas.noise(8.0), canvas.noise(64.0)
    assert abs(fine.std() - 1) < 0.1 and abs(fine.mean()) < 0.1
    assert np.abs(np.diff(fine, axis=0)).mean() > 4 * np.abs(np.diff(coarse, axis=0)).mean()


def test_frame_and_place_are_inverse():
    canvas = Canvas(np.random.default_rng(0), 33, 2.0, "summer")
    u, v = canvas.frame(0.7, 5.0, -3.0)
    x, y = canvas.place(0.7, u, v, 5.0, -3.0)
    np.testing.assert_allclose(x, canvas.x, atol=1e-4)
    np.testing.assert_allclose(y, canvas.y, atol=1e-4)


def test_cells_split_metres_evenly_and_are_counted():
    metres = np.arange(0, 40, 1, dtype=np.float32)[None, :]
    index, offset = cells(metres, 10.0)
    assert index.max() == 3 and np.abs(offset).max() <= 5
    np.testing.assert_allclose(index * 10 + 5 + offset, metres, atol=1e-4)
    assert count_cells(index, np.zeros_like(index), metres < 25, 6) == 2


def test_lone_crowns_are_round_trees_of_the_requested_height():
    canvas = Canvas(np.random.default_rng(3), 128, 1.0, "summer")
    planted = canvas.crowns(np.ones((128, 128), bool), 20.0, 12.0, keep=0.12)
    labels, n = ndimage.label(canvas.above > 0)
    assert 0 < n <= planted and 10 < canvas.above.max() <= 12.0


@pytest.mark.parametrize(
    ("kind", "seed", "size", "spacing", "word"),
    [
        ("village", 0, 64, 2.0, "solar farm"),
        ("city+city", 0, 64, 2.0, "city"),
        ("city+river+coast+forest", 0, 64, 2.0, "city"),
        ("city", 0, 31, 2.0, "32"),
        ("city", 0, 64, 0.0, "spacing"),
        ("city", 0, 64, float("nan"), "spacing"),
        ("city", -1, 64, 2.0, "seed"),
    ],
)
def test_bad_input_is_one_clear_error(kind, seed, size, spacing, word):
    with pytest.raises(InputError, match=word):
        make_scene(kind, seed, size, spacing)


def test_scene_refuses_numbers_that_are_not_finite_unknown_covers_and_shapes_that_differ():
    scene = make_scene("forest", 0, 32)
    broken = scene.height.copy()
    broken[3, 3] = np.nan
    for change in ({"height": broken}, {"tint": broken}, {"points": np.full((1, 5), np.inf)}):
        with pytest.raises(InputError, match="NaN or infinite"):
            dataclasses.replace(scene, **change)
    for code in (len(COVERS), 1.5):
        with pytest.raises(InputError, match="cover must hold"):
            dataclasses.replace(scene, cover=np.full((32, 32), code))
    for change in ({"cover": scene.cover[:-1]}, {"spacing": -1.0}, {"points": np.zeros((2, 3))}):
        with pytest.raises(InputError):
            dataclasses.replace(scene, **change)

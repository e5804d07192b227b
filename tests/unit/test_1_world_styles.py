"""Styles of the twin world: right light, right places, words that say them, and nothing that only a radar does."""

from dataclasses import replace

import numpy as np
import pytest

from sarnb.errors import InputError
from sarnb.world.backscatter import CODE
from sarnb.world.captions import LENGTHS, caption, hard_negative
from sarnb.world.scene import CLASSES, make_scene
from sarnb.world.styles import STYLES, check_styles, draw_styles, render_style, style_caption, wrong_style

LIT = [name for name in STYLES if STYLES[name].lit]


def flat(height: np.ndarray, cover: str = "grass", tint: float = 0.0):
    """A scene of one cover with the given surface, 2 m cells; what stands on it is of concrete."""
    scene = make_scene("forest", seed=5, size=height.shape[0])
    shape = height.shape
    layers = {"height": height.astype(np.float32), "ground": np.zeros(shape, np.float32)}
    return replace(
        scene, **layers, cover=np.where(height > 0, CODE["concrete"], CODE[cover]).astype(np.uint8), tint=np.full(shape, tint, np.float32)
    )


def tower(rows: slice, columns: slice, size: int = 64) -> np.ndarray:
    height = np.zeros((size, size))
    height[rows, columns] = 20.0
    return height


@pytest.mark.parametrize("style", STYLES)
def test_pictures_are_uint8_repeatable_and_not_empty(style: str) -> None:
    scene = make_scene("harbour", seed=3, size=64)
    picture = render_style(scene, style)
    assert picture.dtype == np.uint8 and picture.shape == (64, 64, 3) and picture.std() > 8
    assert np.array_equal(picture, render_style(scene, style))


def test_no_two_styles_draw_alike() -> None:
    scene = make_scene("airport", seed=3, size=64)
    pictures = {style: render_style(scene, style).astype(float) for style in STYLES}
    least = min(np.abs(pictures[a] - pictures[b]).mean() for a in STYLES for b in STYLES if a < b)
    assert least > 5


@pytest.mark.parametrize("style", STYLES)
def test_flat_ground_has_no_speckle(style: str) -> None:
    """Single-look amplitude has a coefficient of variation of 0.52 at any brightness; grain of a print does not grow with it."""
    grey = render_style(flat(np.zeros((64, 64))), style).astype(float).mean(axis=2)
    if style not in ("contours", "pencil"):  # lines on paper
        assert grey.std() / grey.mean() < 0.2


def test_grain_of_film_is_added_not_multiplied() -> None:
    spread = {}
    for cover in ("asphalt", "sand"):
        grey = render_style(flat(np.zeros((128, 128)), cover), "film").astype(float).mean(axis=2)
        spread[cover] = grey.mean(), grey.std()
    (dark, below), (bright, above) = spread["asphalt"], spread["sand"]
    assert bright > 1.8 * dark and 0.85 < above / below < 1.25  # speckle's would grow as the mean does


@pytest.mark.parametrize("style", [name for name in STYLES if name not in ("night",)])
def test_a_tower_stands_where_it_stands(style: str) -> None:
    """No layover: towards the light nothing changes beyond the filters' reach; radar would move the roof there."""
    with_tower = render_style(flat(tower(slice(24, 40), slice(24, 40))), style, "left").astype(float)
    without = render_style(flat(np.zeros((64, 64))), style, "left").astype(float)
    if "height" in style:  # the range of heights sets the greys
        without = without - without[0, 0] + with_tower[0, 0]
    changed = np.abs(with_tower - without).max(axis=2) > 30
    assert changed[22:42, 22:42].any()
    near = changed.copy()
    near[20:44, 20:] = False  # the tower and what lies behind it, seen from the left
    if STYLES[style].lit:
        assert not near.any()
    elif style != "pencil":  # its hatching follows the photograph's shadow
        assert not changed[44:, :].any()  # the sun stands in the south: no shadow on that side either


@pytest.mark.parametrize("style", LIT)
def test_light_comes_from_the_side_that_is_said(style: str) -> None:
    """The shadow of a tower lies on the far side, h / tan(elevation) long; the mirrored scene under the other side is the mirror image."""
    height = tower(slice(24, 40), slice(28, 36))
    left, right = (render_style(flat(height), style, side).astype(float).mean(axis=2) for side in ("left", "right"))
    open_ground = np.median(left)
    assert (left[28:36, 38:44] < 0.85 * open_ground).all() and (left[28:36, 20:26] > 0.85 * open_ground).all()
    assert (right[28:36, 20:26] < 0.85 * open_ground).all() and (right[28:36, 38:44] > 0.85 * open_ground).all()
    cells = (left[32] < 0.85 * open_ground)[36:].sum()
    assert 20 / np.tan(np.radians(40)) / 2 - 2 <= cells <= 20 / np.tan(np.radians(16)) / 2 + 2
    if style == "relief":  # grain apart, which oblique has from the photograph
        assert np.abs(left - right[:, ::-1]).max() <= 1


@pytest.mark.parametrize("style", STYLES)
def test_captions_say_the_style_and_the_content(style: str) -> None:
    for kind in CLASSES:
        scene = make_scene(kind, seed=4, size=64)
        for length in LENGTHS:
            words = style_caption(scene, style, length, "right", seed=1)
            plain = caption(scene, "optical", length, seed=1)
            assert words.startswith(STYLES[style].leads) and (kind in words or kind.rstrip("s") in words)
            assert ("from the right" in words) == STYLES[style].lit
            assert (hard_negative(words, "side") == words.replace("right", "left")) or not STYLES[style].lit
            if style == "photograph":
                assert words == plain


def test_every_wording_belongs_to_one_style() -> None:
    leads = [lead for style in STYLES.values() for lead in style.leads]
    assert len(leads) == len(set(leads))
    assert not [a for a in leads for b in leads if a != b and b.startswith(a)]
    assert not [lead for lead in leads if "radar" in lead or "sar" in lead.lower().split()]


def test_draw_of_styles_has_the_shares_and_is_independent_of_the_turn_of_classes() -> None:
    drawn = draw_styles(24_000, seed=1)
    names = np.array([name for name, _ in drawn])
    assert abs((names == "photograph").mean() - 0.25) < 0.015
    shares = {name: (names == name).mean() for name in STYLES if name != "photograph"}
    one = 0.75 / (len(shares) + len(LIT))
    for name, share in shares.items():
        assert abs(share - (2 if name in LIT else 1) * one) < 0.006
    sides = np.array([side for _, side in drawn])
    for name in LIT:
        assert abs((sides[names == name] == "left").mean() - 0.5) < 0.04
    kinds = np.arange(len(names)) % len(CLASSES)
    table = np.array([[(names[kinds == k] == name).mean() for name in STYLES] for k in range(len(CLASSES))])
    assert np.ptp(table, axis=0).max() < 0.06
    assert drawn[:100] == draw_styles(100, seed=1) and drawn != draw_styles(24_000, seed=2)


@pytest.mark.parametrize(
    ("names", "word"),
    [(["photograph", "oil"], "'oil' is unknown"), (["relief"], "photograph is missing"), (["photograph", "relief", "relief"], "twice")],
)
def test_style_lists_that_cannot_be_are_refused(names: list[str], word: str) -> None:
    with pytest.raises(InputError, match=word):
        check_styles(names)


def test_unknown_style_or_side_is_refused() -> None:
    scene = make_scene("city", seed=1, size=32)
    with pytest.raises(InputError, match="'oil' is unknown"):
        render_style(scene, "oil")
    with pytest.raises(InputError, match="light from 'up'"):
        render_style(scene, "relief", "up")


def test_a_wrong_style_changes_the_lead_alone() -> None:
    scene = make_scene("airport", seed=4, size=64)
    for style in STYLES:
        text = style_caption(scene, style, "mid", "left")
        drawn = {wrong_style(text, list(STYLES), seed) for seed in range(200)}
        own = STYLES[style].leads
        assert not any(wrong.startswith(own) for wrong in drawn) and len(drawn) > 30
        content = text.split(" of ", 1)[1] if style != "contours" else text[text.index("an airport") if "an airport" in text else 0 :]
        assert all(wrong.endswith(content[-20:]) for wrong in drawn)
    assert wrong_style("a pencil sketch of a city", ["photograph", "pencil"]).startswith(STYLES["photograph"].leads)
    for text, names in (("a city", ["photograph", "pencil"]), ("a pencil sketch of a city", ["pencil"])):
        with pytest.raises(InputError, match="no other style"):
            wrong_style(text, names)

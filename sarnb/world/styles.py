"""The same scene in many optical styles: photographs, maps, drawings and lit reliefs, from the scene's own layers.

A foundation that has seen one style cannot part what a picture shows from how it is drawn; one that has seen many can, and
keeps the content when radar becomes one style more. None of these styles is radar-like: no multiplicative speckle, no range
geometry, no layover (the tests measure it). Style, scene and side of the light are drawn independently of one another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from sarnb.errors import InputError
from sarnb.world.backscatter import CODE, COVERS
from sarnb.world.captions import LENGTHS, caption
from sarnb.world.optical import Sun, cast_shadow, default_sun, render_optical, shading
from sarnb.world.scene import Scene

SIDES: tuple[str, ...] = ("left", "right")
"""Where the light of a lit style comes from; columns run from west (left) to east (right)."""
_GREY = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601 luma
_LEVELS = tuple[tuple[float, float, float], ...]


def _ramp(value: np.ndarray, colours: _LEVELS) -> np.ndarray:
    """``value`` [H, W] in [0, 1] through equally spaced colours, float32 [H, W, 3]."""
    place = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(value, place, [colour[k] for colour in colours]) for k in range(3)], axis=-1).astype(np.float32)


def _by_cover(values: dict[str, float | tuple[float, float, float]]) -> np.ndarray:
    """A table over the cover codes, float32 [covers] or [covers, 3]."""
    return np.array([values[name] for name in COVERS], np.float32)


_NEAR_INFRARED = _by_cover(  # reflectance, 0 to 1: what lives is bright, water is black
    {
        "water": 0.02, "grass": 0.62, "crop": 0.72, "bare": 0.30, "sand": 0.42, "forest": 0.66, "asphalt": 0.16, "concrete": 0.36,
        "roof": 0.24, "tile": 0.34, "metal": 0.45, "rock": 0.26, "snow": 0.84, "solar": 0.10, "track": 0.32, "paint": 0.8,
    }
)  # fmt: skip
_WARMTH = _by_cover(  # surface temperature on a clear evening, 0 cold to 1 warm
    {
        "water": 0.32, "grass": 0.28, "crop": 0.22, "bare": 0.55, "sand": 0.66, "forest": 0.16, "asphalt": 0.92, "concrete": 0.78,
        "roof": 0.84, "tile": 0.72, "metal": 0.06, "rock": 0.6, "snow": 0.0, "solar": 0.97, "track": 0.8, "paint": 0.7,
    }
)  # fmt: skip
_MAP = _by_cover(
    {
        "water": (150, 196, 232), "grass": (206, 232, 176), "crop": (244, 226, 150), "bare": (222, 204, 178), "sand": (250, 238, 196),
        "forest": (126, 178, 116), "asphalt": (120, 120, 126), "concrete": (198, 198, 200), "roof": (196, 124, 110),
        "tile": (214, 96, 84), "metal": (146, 110, 178), "rock": (176, 164, 150), "snow": (248, 250, 255), "solar": (60, 72, 160),
        "track": (232, 130, 60), "paint": (255, 255, 255),
    }
)  # fmt: skip
_BUILT = np.isin(np.arange(len(COVERS)), [CODE[name] for name in ("roof", "tile", "metal", "concrete", "asphalt")])
_THERMAL: _LEVELS = ((10, 6, 46), (86, 16, 120), (186, 48, 98), (240, 112, 42), (252, 196, 66), (252, 252, 196))
_ALTITUDE: _LEVELS = ((48, 18, 110), (40, 100, 170), (46, 164, 130), (150, 206, 80), (248, 226, 70), (214, 90, 40))


def _luma(picture: np.ndarray) -> np.ndarray:
    """Brightness of a picture [H, W, 3], float32 [H, W] in [0, 255]."""
    return picture.astype(np.float32) @ _GREY


def _altitude(scene: Scene) -> np.ndarray:
    """Height between the lowest and the highest cell, by rank for a half so that flat scenes show their buildings; [H, W] in [0, 1]."""
    height = ndimage.gaussian_filter(scene.height, 0.5)
    low, high = np.percentile(height, (0.5, 99.5))
    return np.clip((height - low) / max(high - low, 4.0), 0, 1)


def _edges(scene: Scene) -> np.ndarray:
    """Where the cover changes or the surface jumps, float32 [H, W] in [0, 1]."""
    change = np.zeros(scene.cover.shape, np.float32)
    for axis in (0, 1):
        change = np.maximum(change, np.abs(np.diff(scene.cover.astype(np.int16), axis=axis, append=scene.cover.take([-1], axis))) > 0)
    slope_row, slope_col = np.gradient(ndimage.gaussian_filter(scene.height, 0.6), scene.spacing)
    return np.clip(np.maximum(0.75 * change, np.hypot(slope_row, slope_col) / 1.2), 0, 1).astype(np.float32)


def _side_sun(side: str, elevation: float) -> Sun:
    return Sun(azimuth=270.0 if side == "left" else 90.0, elevation=elevation)


def _photograph(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    return render_optical(scene)


def _grey(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    return _luma(render_optical(scene))[..., None]


def _infrared(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Colour-infrared film: near infrared, red and green as red, green and blue."""
    photo = render_optical(scene).astype(np.float32)
    light = np.clip(_luma(photo) / np.maximum(ndimage.uniform_filter(_luma(photo), 9), 8), 0.4, 1.6)
    near = 255 * _NEAR_INFRARED[scene.cover] * light * (1 + 0.18 * scene.tint)
    return np.stack([near, 0.85 * photo[..., 0], 0.85 * photo[..., 1]], axis=-1)


def _thermal(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Temperatures by material in false colours, blurred as a thermal camera's coarse cells are."""
    warmth = ndimage.gaussian_filter(_WARMTH[scene.cover] + 0.08 * scene.tint, 1.2)
    return _ramp(np.clip(warmth + rng.uniform(-0.05, 0.05), 0, 1), _THERMAL)


def _relief(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Hillshade with cast shadows, on one grey."""
    sun = _side_sun(side, rng.uniform(28, 40))
    dark = np.clip(cast_shadow(scene.height, scene.spacing, sun) / 1.5, 0, 1)
    return (172 * (0.32 + 0.68 * shading(scene.height, scene.spacing, sun)) * (1 - 0.6 * dark))[..., None]


def _oblique(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """A photograph in low, warm light."""
    sun = _side_sun(side, rng.uniform(16, 26))
    dark = np.clip(cast_shadow(scene.height, scene.spacing, sun) / 1.5, 0, 1)[..., None]
    photo = render_optical(scene, sun).astype(np.float32)
    return photo * (1 - 0.45 * dark) * np.array((1.12, 0.98, 0.80), np.float32)


def _height_map(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    return (20 + 225 * _altitude(scene))[..., None]


def _false_height(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    return _ramp(_altitude(scene), _ALTITUDE)


def _contours(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Brown lines of equal height on tinted paper, water in blue."""
    smooth = ndimage.gaussian_filter(scene.height, 0.8)
    step = max((smooth.max() - smooth.min()) / 9, 1.0)
    level = np.floor(smooth / step)
    line = np.zeros(level.shape, bool)
    for axis in (0, 1):
        line |= np.diff(level, axis=axis, append=level.take([-1], axis)) != 0
    paper = np.where((scene.cover == CODE["water"])[..., None], (176, 210, 236), (250, 244, 226))
    paper = np.where((scene.cover == CODE["forest"])[..., None], (214, 232, 196), paper)
    return np.where(line[..., None], (146, 92, 48), paper)


def _land_cover(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    return _MAP[scene.cover]


def _pencil(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Edges of cover and height as strokes on paper, with light hatching where it is dark."""
    stroke = ndimage.gaussian_filter(_edges(scene), 0.5)
    rows, columns = np.indices(scene.cover.shape)
    hatch = ((rows + columns) % 4 == 0) * np.clip((110 - _luma(render_optical(scene))) / 110, 0, 1)
    return (246 - 190 * np.clip(stroke, 0, 1) - 70 * hatch)[..., None]


def _blueprint(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    line = ndimage.gaussian_filter(_edges(scene), 0.4)[..., None]
    return (1 - line) * np.array((24, 62, 140), np.float32) + line * np.array((232, 240, 255), np.float32)


def _film(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """A toned print with grain that is added: as strong in the dark as in the light, which speckle is not."""
    grain = ndimage.gaussian_filter(rng.standard_normal(scene.cover.shape), 0.5)
    tone = np.array((1.0, 0.88, 0.70), np.float32)
    return (34 + 0.72 * _luma(render_optical(scene)) + 9 * grain / grain.std())[..., None] * tone


def _faded(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Old colour film of an autumn flight: low contrast, red cast."""
    photo = render_optical(replace(scene, season="autumn")).astype(np.float32)
    return (photo * 0.62 + 62) * np.array((1.10, 0.94, 0.82), np.float32)


def _night(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Moonlight, and lamps along what is built."""
    lamps = (rng.random(scene.cover.shape) < 0.012 * _BUILT[scene.cover]).astype(np.float32)
    glow = 5 * ndimage.gaussian_filter(lamps, 0.9) + 12 * ndimage.gaussian_filter(lamps, 3.5)
    moon = _luma(render_optical(scene))[..., None] * np.array((0.26, 0.31, 0.46), np.float32)
    return moon + 190 * np.minimum(glow, 1.2)[..., None] * np.array((1.0, 0.80, 0.45), np.float32)


def _snow(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """Everything but water, trees and walls under snow."""
    bare = np.isin(scene.cover, [CODE["water"], CODE["forest"]])[..., None]
    white = 232 * (0.45 + 0.55 * shading(scene.height, scene.spacing, default_sun(scene)))[..., None]
    dark = np.clip(cast_shadow(scene.height, scene.spacing, default_sun(scene)) / 1.5, 0, 1)[..., None]
    photo = render_optical(replace(scene, season="winter")).astype(np.float32)
    kept = np.where(bare, 0.0, 0.82)
    return ((1 - kept) * photo + kept * white) * (1 - 0.25 * dark * np.array((1.2, 1.0, 0.6), np.float32))


def _coarse(scene: Scene, side: str, rng: np.random.Generator) -> np.ndarray:
    """A satellite photograph with cells four times as large, brought up smoothly."""
    photo = render_optical(scene).astype(np.float32)
    rows, columns = (length // 4 for length in photo.shape[:2])
    cells = photo[: 4 * rows, : 4 * columns].reshape(rows, 4, columns, 4, 3).mean((1, 3))
    zoom = (photo.shape[0] / rows, photo.shape[1] / columns, 1)
    return ndimage.zoom(cells, zoom, order=1, mode="nearest", grid_mode=True)


@dataclass(frozen=True)
class Style:
    """How a scene is drawn: the wordings of a caption's lead, the first one canonical; ``lit``: a side of light is part of it."""

    leads: tuple[str, ...]
    draw: Callable[[Scene, str, np.random.Generator], np.ndarray]
    lit: bool = False


STYLES: dict[str, Style] = {
    "photograph": Style(("an aerial photograph of", "an aerial photo of", "an aerial view of", "an optical image of"), _photograph),
    "grey": Style(("a grey photograph of", "a black and white photograph of", "a grey aerial photo of"), _grey),
    "infrared": Style(("a colour infrared photograph of", "a colour infrared image of", "an infrared photo of"), _infrared),
    "thermal": Style(("a thermal image of", "a thermal map of", "a heat image of"), _thermal),
    "relief": Style(("a relief of", "a shaded relief of", "a hillshade image of"), _relief, lit=True),
    "oblique": Style(("a photograph in low light of", "a low sun photograph of", "an aerial photo in low sun of"), _oblique, lit=True),
    "height": Style(("a height map of", "a grey height map of", "an elevation map of"), _height_map),
    "coloured height": Style(("a coloured height map of", "a false colour height map of", "a height map in colours of"), _false_height),
    "contours": Style(("a contour map of", "a map of contour lines of", "a topographic map of"), _contours),
    "land cover": Style(("a land cover map of", "a map in flat colours of", "a land use map of"), _land_cover),
    "pencil": Style(("a pencil drawing of", "a pencil sketch of", "a drawing of"), _pencil),
    "blueprint": Style(("a blueprint of", "a blue plan of", "a line plan of"), _blueprint),
    "film": Style(("a grainy film photograph of", "an old grainy photograph of", "a toned film print of"), _film),
    "faded": Style(("a faded colour film of", "a faded autumn photograph of", "an old colour print of"), _faded),
    "night": Style(("a night photograph of", "an aerial view at night of", "a night view with lights of"), _night),
    "snow": Style(("a snow photograph of", "a photograph under snow of", "an aerial view in snow of"), _snow),
    "satellite": Style(("a satellite photograph of", "a coarse satellite photo of", "a low resolution photo of"), _coarse),
}
"""The styles by name; the photograph comes first."""
_LIGHTS = ("lit from the {side}", "with light from the {side}", "illuminated from the {side}")
PHOTOGRAPHS, LIT = 0.25, 2.0  # see ``draw_styles``


def check_styles(names: Sequence[str]) -> None:
    """Raise ``InputError`` for an unknown style, a repeated one, or a list without the photograph."""
    unknown = [name for name in names if name not in STYLES]
    if unknown:
        raise InputError(f"style {unknown[0]!r} is unknown; use some of {', '.join(STYLES)}")
    if len(set(names)) != len(names):
        raise InputError(f"styles {', '.join(names)}: one of them stands there twice; name each once")
    if "photograph" not in names:
        raise InputError(f"styles {', '.join(names)}: the photograph is missing, which every other style is compared with; add it")


def render_style(scene: Scene, style: str, side: str = "left") -> np.ndarray:
    """A scene in a style.

    Parameters
    ----------
    style : a key of ``STYLES``.
    side : where the light comes from, of a lit style; the others do not use it.

    Returns
    -------
    uint8 [H, W, 3], red green blue; the same arguments give the same bytes.

    Raises
    ------
    InputError
        An unknown style or side.
    """
    if style not in STYLES:
        raise InputError(f"style {style!r} is unknown; use one of {', '.join(STYLES)}")
    if side not in SIDES:
        raise InputError(f"light from {side!r} is unknown; use left or right")
    rng = np.random.default_rng((scene.seed, 7003, list(STYLES).index(style)))
    picture = np.broadcast_to(STYLES[style].draw(scene, side, rng), (*scene.cover.shape, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def style_caption(scene: Scene, style: str, length: str, side: str = "left", seed: int = 0) -> str:
    """The photograph's caption with the words of the style in place of "an aerial photograph of"; a lit style says its side.

    Raises
    ------
    InputError
        An unknown style, length or side.
    """
    if style not in STYLES:
        raise InputError(f"style {style!r} is unknown; use one of {', '.join(STYLES)}")
    words = caption(scene, "optical", length, seed=seed)
    if style == "photograph":
        return words
    leads = STYLES[style].leads
    rng = np.random.default_rng((scene.seed, seed, 7004, list(STYLES).index(style), LENGTHS.index(length)))
    lead = next(lead for lead in STYLES["photograph"].leads if words.startswith(lead))
    words = leads[max(0, rng.integers(-1, len(leads)))] + words.removeprefix(lead)
    if style == "snow" or style == "faded":  # the season is the style's own
        words = words.replace(f" in {scene.season}", " in winter" if style == "snow" else " in autumn")
    if STYLES[style].lit:
        words += ", " + _LIGHTS[max(0, rng.integers(-1, len(_LIGHTS)))].format(side=side)
    return words


def wrong_style(text: str, names: Sequence[str], seed: int = 0) -> str:
    """The caption with the words of another of the styles: a hard negative.

    It is false of what the caption is true of, but for the pairs of which one is the other in a plainer word (a coloured height map is
    a height map, a view at night is a view).

    The seasons of "snow" and "faded" and the side of a lit style stay as they are.

    Raises
    ------
    InputError
        The caption begins with the words of no style, or there is no other one.

    >>> wrong_style("a pencil drawing of a city", ["photograph", "pencil"])[:8]
    'an aeria'
    """
    own = next(((name, lead) for name, style in STYLES.items() for lead in style.leads if text.startswith(lead)), None)
    others = [name for name in names if own and name != own[0]]
    if own is None or not others:
        raise InputError(f"caption {text[:40]!r}: has no other style among {', '.join(names)}; write it with ``style_caption``")
    rng = np.random.default_rng((seed, 7006, *text.encode()))
    leads = STYLES[others[rng.integers(len(others))]].leads
    return leads[rng.integers(len(leads))] + text.removeprefix(own[1])


def draw_styles(count: int, seed: int, names: Sequence[str] = tuple(STYLES)) -> list[tuple[str, str]]:
    """(style, side of light) of ``count`` pictures, independent of what they show.

    A share ``PHOTOGRAPHS`` of them are photographs; of the rest a lit style takes ``LIT`` times the share of another.
    Picture i depends on (seed, i) only. Raises as ``check_styles``.
    """
    check_styles(names)
    others = [name for name in names if name != "photograph"]
    names_rng, sides_rng = (np.random.default_rng((seed, 7005, stream)) for stream in (0, 1))
    weights = np.array([LIT if STYLES[name].lit else 1.0 for name in others])
    bounds = PHOTOGRAPHS + (1 - PHOTOGRAPHS) * np.cumsum(weights) / weights.sum() if others else np.ones(0)
    chosen = np.searchsorted(np.concatenate([[PHOTOGRAPHS if others else 1.0], bounds[:-1]]), names_rng.random(count), side="right")
    ordered = ["photograph", *others]
    return [(ordered[place], SIDES[side]) for place, side in zip(chosen, (sides_rng.random(count) < 0.5).astype(int), strict=True)]

"""Side-looking geometry read back from the image: which side was the scene illuminated from?

A raised object is bright on the side that faces the radar (layover, double bounce) and casts a shadow away from it.
Going away from the radar along range one meets bright, then dark; "left" means near range is column 0. A closed canopy
shows the reverse at short distance (the shadow of one crown ends at the bright face of the next), so one fixed rule cannot
serve all classes: ``fit_look_reader`` learns from real images of known side how much each distance and contrast counts.
Every feature changes sign when the image is mirrored, so neither side can be preferred. Method: this project's own.

Where the scene is known, its own heights say where walls and shadows have to be. In ground-range projection a point at ground
position y and height z arrives at p = y - z / tan(theta). Positions are in columns of the scene's grid, cell c reaching from c to
c + 1; heights count from the median of the bare ground, as in the simulator, so that flat ground stays where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.ndimage import uniform_filter

from sarnb.data.dataset import ImageSet
from sarnb.data.twin import GROUND_SPACING_M, ground_radar
from sarnb.errors import InputError
from sarnb.metrics import image_stack
from sarnb.metrics.bootstrap import score_interval
from sarnb.world.backscatter import CODE
from sarnb.world.radar import Radar
from sarnb.world.scene import Scene

LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # pixels along range between bright and dark
BRIGHT, DARK = (0.0, 1.0, 2.0), (0.0, 1.0)  # thresholds in standard deviations of log amplitude
SMOOTHING = ((3, 1), (3, 3))  # averaging windows (azimuth, range) in pixels against speckle
RIDGE = 30.0
CALIBRATION_MINIMUM = 8  # real images of known side
_COLUMNS = [(size, bright, dark, lag) for size in SMOOTHING for bright in BRIGHT for dark in DARK for lag in LAGS]
_STRONG = [index for index, column in enumerate(_COLUMNS) if column[:3] == ((3, 3), 2.0, 1.0) and column[3] <= 8]


def side_features(images: np.ndarray) -> np.ndarray:
    """Bright-before-dark asymmetries of images: uint8 [N, H, W] -> float64 [N, 108], each in [-1, 1].

    z is the log amplitude, averaged over a small window and standardised in the image; b = max(z - t, 0) and
    d = max(-z - u, 0). With C(l) = sum of b(r, c) d(r, c + l), a feature is (C(l) - C(-l)) / (C(l) + C(-l)); positive =
    dark lies to the right of bright. Columns: smoothing, t, u, lag. A constant image gives zeros.

    Raises
    ------
    InputError
        Images of fewer than 32 columns.
    """
    stack = image_stack(images)
    if stack.shape[2] < 32:
        raise InputError(f"look side: images {stack.shape[2]} px wide, 32 needed; give wider images.")
    return np.stack([_asymmetries(image) for image in stack])


def _asymmetries(image: np.ndarray) -> np.ndarray:
    log = np.log(image.astype(np.float32) + 2.0)
    features = []
    for size in SMOOTHING:
        z = uniform_filter(log, size)
        z = (z - z.mean()) / max(float(z.std()), 1e-4)
        # rows one after the other with a neutral border between them: a lag is then one shift of the whole image
        z = np.pad(z, ((0, 0), (0, max(LAGS)))).ravel()
        bright = np.stack([np.maximum(z - threshold, 0.0) for threshold in BRIGHT])
        dark = np.stack([np.maximum(-z - threshold, 0.0) for threshold in DARK])
        after = np.stack([bright[:, :-lag] @ dark[:, lag:].T for lag in LAGS], axis=-1)
        before = np.stack([bright[:, lag:] @ dark[:, :-lag].T for lag in LAGS], axis=-1)
        features.append(((after - before) / (after + before + 1e-3)).ravel())
    return np.concatenate(features).astype(np.float64)


def fit_look_reader(features: np.ndarray, looks: Sequence[str | None], ridge: float = RIDGE) -> np.ndarray:
    """Calibrate a linear reader on real images of known side, by ridge regression on +1 (left) and -1 (right).

    Parameters
    ----------
    features : ``side_features`` of real images [N, 108].
    looks : their sides; None where unknown.
    ridge : penalty, for features scaled to unit mean square.

    Returns
    -------
    weights [108]: ``features @ weights`` is the evidence, about +1 for a clear left, -1 for a clear right.

    Raises
    ------
    InputError
        Fewer than 8 images of known side.
    """
    sides = _signs(looks)
    known = np.isfinite(sides)
    if known.sum() < CALIBRATION_MINIMUM:
        raise InputError(f"look side: {known.sum()} real images of known side, {CALIBRATION_MINIMUM} needed to calibrate the reader.")
    chosen = features[known]
    scale = np.sqrt((chosen**2).mean(0)) + 1e-6
    scaled = chosen / scale
    normal = scaled.T @ scaled + ridge * np.eye(scaled.shape[1])
    return np.linalg.solve(normal, scaled.T @ sides[known]) / scale


def look_side(images: np.ndarray, reader: np.ndarray | None = None) -> np.ndarray:
    """Evidence for the illumination side: uint8 [N, H, W] -> float [N]; above 0 left, below 0 right.

    Without a calibrated reader it is the plain rule "a bright object, then its dark shadow within 8 pixels", which suits
    separate raised objects (city, industry, harbour) and fails on closed canopy.
    """
    features = side_features(images)
    return features[:, _STRONG].mean(1) if reader is None else features @ reader


def look_correct(scores: np.ndarray, looks: Sequence[str | None]) -> np.ndarray:
    """1 where the side read back equals the requested one, 0 where not, NaN where none was requested: float [N].

    A score of exactly 0 (no evidence) counts one half, as a guess would.
    """
    return 0.5 * (1.0 + np.sign(scores) * _signs(looks))


def _signs(looks: Sequence[str | None]) -> np.ndarray:
    for look in looks:
        if look not in ("left", "right", None):
            raise InputError(f"look side: {look!r}; use 'left', 'right' or leave it out.")
    return np.array([np.nan if look is None else (1.0 if look == "left" else -1.0) for look in looks])


# Shadows and layover against the scene itself, for images whose scene is known: held-out real ones, or conditioned ones.

REACH = 8  # px on either side of a predicted edge that are looked at
LEAST_MARKS = 12  # range lines with a wall, or with a shadow, below which an image has no figure
BUILT = ("roof", "tile", "metal", "concrete")  # covers of what has walls
MEASURES = {
    "layover side": "share of images whose walls are brighter on the side that faces the radar",
    "shadow contrast": "lit ground over predicted shadow, mean intensity, dB",
    "shadow offset": "where shadows end behind where they should; above 0 too long, m",
    "shadow offset, absolute": "distance of the shadow ends from the truth, m",
}


def layover_evidence(image: np.ndarray, scene: Scene, radar: Radar) -> float:
    """Mean ln amplitude where walls are laid over, less that where they would be if the radar looked from the other side.

    image uint8 [H, W]. Above 0 where layover and double bounce lie on the side that faces the radar; the sign turns round
    with the look. Walls of buildings only; NaN with fewer than LEAST_MARKS range lines of either kind.
    """
    other = replace(radar, look="left" if radar.look == "right" else "right")
    levels = [_laid_over(image, scene, side) for side in (radar, other)]
    return float(levels[0].mean() - levels[1].mean()) if min(map(len, levels)) >= LEAST_MARKS else float("nan")


def _laid_over(image: np.ndarray, scene: Scene, radar: Radar) -> np.ndarray:
    """Mean ln amplitude of each range line between the top and the foot of a wall, at most REACH px from the foot."""
    walls = wall_marks(scene, radar)
    log = np.log(image_stack(image[None])[0].astype(np.float64) + 0.5)
    built = np.isin(scene.cover, [CODE[name] for name in BUILT])
    found = []
    for row, edge, foot, top in zip(walls["row"], walls["edge"], walls["foot"], walls["layover"]):
        near = -1 if radar.look == "left" else 1
        inside = int(edge) if near < 0 else int(edge) - 1  # the cell behind the wall
        width = int(min(REACH, max(2, round(abs(foot - top)))))
        first, last = sorted((int(round(foot)), int(round(foot)) + near * width))
        if built[row, inside] and first >= 0 and last <= log.shape[1]:
            found.append(log[row, first:last].mean())
    return np.array(found)


def shadow_profile(image: np.ndarray, scene: Scene, radar: Radar) -> tuple[np.ndarray, int]:
    """Mean intensity [2 REACH] across the predicted ends of the shadows, from dark to lit, and the number of range lines.

    Only shadows of at least REACH px that end on open ground are used: all of the first half should be dark, and the edge is
    sharp, while among trees it is not.
    """
    shadows = shadow_marks(scene, radar)
    shadows = shadows[shadows["length"] >= REACH * scene.spacing]
    intensity = image_stack(image[None])[0].astype(np.float64) ** 2
    raised = np.isin(scene.cover, [CODE[name] for name in RAISED])
    ends = shadows["end"]
    if radar.look == "right":
        intensity, raised, ends = intensity[:, ::-1], raised[:, ::-1], intensity.shape[1] - ends
    lines = []
    for row, end in zip(shadows["row"], ends):
        start = int(round(end)) - REACH
        if 0 <= start and start + 2 * REACH <= intensity.shape[1] and not raised[row, start : start + 2 * REACH].any():
            lines.append(intensity[row, start : start + 2 * REACH])
    return (np.mean(lines, axis=0) if lines else np.full(2 * REACH, np.nan)), len(lines)


def change_point(profile: np.ndarray) -> float:
    """Place of the step from dark to lit in a profile of mean intensities [n], in px from its middle; NaN without one.

    The split that maximises -k ln(mean before) - (n - k) ln(mean behind), among those with the darker part before.
    """
    count = len(profile)
    places = np.arange(1, count)
    before = np.cumsum(profile)[:-1] / places
    behind = (profile.sum() - np.cumsum(profile)[:-1]) / (count - places)
    with np.errstate(divide="ignore"):
        gain = -places * np.log(np.maximum(before, 1e-9)) - (count - places) * np.log(np.maximum(behind, 1e-9))
    gain = np.where(before < behind, gain, -np.inf)
    return float(places[gain.argmax()] - count / 2) if np.isfinite(gain).any() else float("nan")


def truth_scores(images: ImageSet, sensor: str) -> pd.DataFrame:
    """One row an image: class, walls and shadows (range lines used), and the scores; NaN where the scene does not give any.

    Parameters
    ----------
    images : images with scene truth (heights and masks), whose rows have ``look`` and ``incidence`` (degrees).
    sensor : the radar preset of the data set.

    Raises
    ------
    InputError
        No scene truth, or a row without look or incidence.
    """
    heights, covers = images.heights(), images.masks()
    if heights is None or covers is None:
        raise InputError(
            f"{images.root}: its images have no scene truth (heights, masks) to hold shadows and layover against; leave this measure out"
        )
    rows = []
    for image, height, cover, row, label in zip(images.images, heights, covers, images.rows, images.labels):
        if row.get("look") not in ("left", "right") or not row.get("incidence"):
            raise InputError(f"{images.root}: {row.get('file_name')} has no look or incidence; make the data set again")
        scene = known_scene(height, cover, GROUND_SPACING_M)
        radar = replace(ground_radar(sensor), look=row["look"], incidence_deg=float(row["incidence"]))
        evidence = layover_evidence(image, scene, radar)
        profile, lines = shadow_profile(image, scene, radar)
        known = lines >= LEAST_MARKS and np.isfinite(profile).all()
        offset = change_point(profile) * GROUND_SPACING_M if known else np.nan
        dark, lit = (profile[:REACH].mean(), profile[REACH:].mean()) if known else (np.nan, np.nan)
        contrast = 10.0 * np.log10(max(lit, 1e-9) / max(dark, 1e-9)) if known else np.nan
        rows.append((label, lines, np.nan if np.isnan(evidence) else float(evidence > 0), contrast, offset, abs(offset)))
    return pd.DataFrame(rows, columns=["class", "shadow lines", *MEASURES])


def truth_table(scores: pd.DataFrame, resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Mean of every score over the images that have one, each class counting the same, with 95 % intervals.

    Returns columns measure, value, lo, hi, n (images with a value), meaning; a measure that no image has is left out.
    """
    rows = []
    for name, meaning in MEASURES.items():
        values = scores[name].to_numpy(float)
        if known := int(np.isfinite(values).sum()):
            rows.append((name, *score_interval(values, list(scores["class"]), resamples, seed), known, meaning))
    return pd.DataFrame(rows, columns=["measure", "value", "lo", "hi", "n", "meaning"])


# ---- where a side-looking radar has to put walls and shadows ----

LEAST_HEIGHT = 5.0  # m: lower steps are left out, they are a pixel or two


def block_scene(height: float = 30.0, depth: int = 16, width: int = 24, size: int = 96, spacing: float = 2.0) -> Scene:
    """One flat-roofed block on a level meadow with a paved yard before it: the clearest case of layover and shadow.

    ``height`` in metres; ``depth`` along range and ``width`` along azimuth in cells; the block stands in the middle of
    ``size`` x ``size`` cells.

    Raises
    ------
    InputError
        The block does not fit with a quarter of the scene free on each side.
    """
    if not (0 < depth <= size // 2 and 0 < width <= size // 2 and height > 0):
        raise InputError(f"block of {depth} x {width} cells and {height} m in {size} cells: make it at most half as long as the scene")
    top, left = (size - width) // 2, (size - depth) // 2
    above, cover = np.zeros((size, size), np.float32), np.full((size, size), CODE["grass"], np.uint8)
    cover[top : top + width, left - 4 : left] = CODE["asphalt"]
    cover[top : top + width, left + depth : left + depth + 4] = CODE["asphalt"]
    above[top : top + width, left : left + depth] = height
    cover[top : top + width, left : left + depth] = CODE["roof"]
    return known_scene(above, cover, spacing)


RAISED = ("roof", "tile", "metal", "forest")  # covers whose surface is not the ground


def known_scene(height: np.ndarray, cover: np.ndarray, spacing: float) -> Scene:
    """What the geometry needs of a scene, from its surface height [m] and land cover codes, both [H, W]."""
    bare = ~np.isin(cover, [CODE[name] for name in RAISED])
    level = float(np.median(height[bare])) if bare.any() else float(np.median(height))
    flat = np.full(height.shape, level, np.float32)
    return Scene(
        kind="known",
        height=height.astype(np.float32),
        ground=flat,
        cover=cover,
        tint=np.zeros_like(flat),
        points=np.zeros((0, 5), np.float32),
        spacing=spacing,
        season="summer",
    )


def range_line(scene: Scene, radar: Radar, row: int) -> pd.DataFrame:
    """The surface along one row as the radar meets it, near range first.

    Columns: ground (distance of the cell centres from the near border) and height (above the median ground), both in
    metres; dark (no ray reaches the middle of the cell).

    Raises
    ------
    InputError
        The scene has no such row.
    """
    z, cot = _from_near(scene, radar)
    if not 0 <= row < len(z):
        raise InputError(f"range line {row}: the scene has the rows 0 to {len(z) - 1}")
    dark = _heights_above_rays(z, cot, scene.spacing)[row] < 0
    return pd.DataFrame({"ground": (np.arange(z.shape[1]) + 0.5) * scene.spacing, "height": z[row] * scene.spacing, "dark": dark})


def wall_marks(scene: Scene, radar: Radar, least: float = LEAST_HEIGHT) -> pd.DataFrame:
    """Walls of ``least`` metres or more that face the radar and whose top it sees; the rough edges of trees are none.

    Columns: row; edge (where the wall stands, in columns of the scene); foot (image column of its foot, where the double
    bounce arrives too); layover (image column of its top, height / tan(theta) nearer to the radar); height in metres.
    """
    z, cot = _from_near(scene, radar)
    over = _heights_above_rays(z, cot, scene.spacing)
    solid = (scene.cover[:, ::-1] if radar.look == "right" else scene.cover) != CODE["forest"]
    row, col = np.nonzero((np.diff(z, axis=1) * scene.spacing >= least) & (over[:, 1:] > 0) & solid[:, 1:])
    low, high = z[row, col], z[row, col + 1]
    edge, foot, top = (_to_image(col + 1.0 - level * cot, z.shape[1], radar) for level in (0.0, low, high))
    return pd.DataFrame({"row": row, "edge": edge, "foot": foot, "layover": top, "height": (high - low) * scene.spacing})


def shadow_marks(scene: Scene, radar: Radar, least: float = LEAST_HEIGHT) -> pd.DataFrame:
    """Shadows as long as one of ``least`` metres height casts, or longer, that end inside the scene.

    Columns: row; end (image column of the first point that is lit again; on a level yard h tan(theta) behind the wall);
    length in metres along the ground.
    """
    z, cot = _from_near(scene, radar)
    over = _heights_above_rays(z, cot, scene.spacing)
    change = np.diff((over < 0).astype(int), axis=1)  # the first column is never dark
    start_row, starts = np.nonzero(change == 1)
    rows = []
    for r, c in np.argwhere(change == -1) + [0, 1]:  # c: the first lit cell behind the shadow
        start = starts[(start_row == r) & (starts < c)].max() + 1
        wall = (z[r, c] - z[r, c - 1]) * scene.spacing >= least
        excess = over[r, c]  # of the cell's middle over the last ray, in cells
        y = float(c) if wall else float(np.clip(c + 0.5 - excess / cot, c - 0.5, c + 0.5))
        level = max(z[r, c - 1], z[r, c] - excess + 0.5 * cot) if wall else z[r, c]  # a wall is lit from there up
        rows.append((r, y - level * cot, (y - start) * scene.spacing))
    table = pd.DataFrame(rows, columns=["row", "end", "length"])
    table = table[table["length"] >= least / cot].reset_index(drop=True)
    table["end"] = _to_image(table["end"].to_numpy(), z.shape[1], radar)
    return table


def _from_near(scene: Scene, radar: Radar) -> tuple[np.ndarray, float]:
    """Heights [rows, cols] in cells above the median ground with near range at column 0, and 1 / tan(theta)."""
    z = (scene.height.astype(np.float64) - np.median(scene.ground)) / scene.spacing
    return (z[:, ::-1] if radar.look == "right" else z), float(1 / np.tan(np.deg2rad(radar.incidence_deg)))


def _heights_above_rays(z: np.ndarray, cot: float, spacing: float) -> np.ndarray:
    """How far, in cells, the middle of each cell rises above the last ray that passes all nearer ones: below 0 is shadow.

    A cell blocks with its far edge where a wall falls there, else with its middle, for a slope has no edge.
    """
    column = np.arange(z.shape[1])
    falls = np.diff(z, axis=1, append=z[:, -1:]) * spacing <= -LEAST_HEIGHT / 2
    blocks = np.maximum.accumulate(z + (column + np.where(falls, 1.0, 0.5)) * cot, axis=1)
    before = np.concatenate([np.full((len(z), 1), -np.inf), blocks[:, :-1]], axis=1)
    return z + (column + 0.5) * cot - before


def _to_image(position: np.ndarray, columns: int, radar: Radar) -> np.ndarray:
    """Columns counted from near range -> columns of the image."""
    return columns - position if radar.look == "right" else position

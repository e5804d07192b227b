"""Shadows and layover against the scene itself, for images whose scene is known: held-out real ones, or conditioned ones.

The walls and shadow ends that the heights predict (`sarnb.data.sideview`) are looked up in the image. Averaging along all
walls of an image beats the speckle. Method: this project's own; the change point is the maximum-likelihood one for
exponential intensity (single-look speckle), as in Hinkley, Biometrika 57 (1970) 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from sarnb.data.dataset import ImageSet
from sarnb.data.sensors import GROUND_SPACING_M, ground_radar
from sarnb.data.sideview import shadow_marks, wall_marks
from sarnb.errors import InputError
from sarnb.metrics.bootstrap import percentile_interval, stratified_weights, weighted_mean
from sarnb.metrics.checks import image_stack
from sarnb.world.covers import CODE
from sarnb.world.radar import Radar
from sarnb.world.scene import Scene

REACH = 8  # px on either side of a predicted edge that are looked at
LEAST_MARKS = 12  # range lines with a wall, or with a shadow, below which an image has no figure
BUILT = ("roof", "tile", "metal", "concrete")  # covers of what has walls
RAISED = ("roof", "tile", "metal", "forest")  # covers whose surface is not the ground
MEASURES = {
    "layover side": "share of images whose walls are brighter on the side that faces the radar",
    "shadow contrast": "lit ground over predicted shadow, mean intensity, dB",
    "shadow offset": "where shadows end behind where they should; above 0 too long, m",
    "shadow offset, absolute": "distance of the shadow ends from the truth, m",
}


def known_scene(height: np.ndarray, cover: np.ndarray, spacing: float = GROUND_SPACING_M) -> Scene:
    """What the geometry needs of a scene, from its surface height [m] and land cover codes, both [H, W]."""
    bare = ~np.isin(cover, [CODE[name] for name in RAISED])
    level = float(np.median(height[bare])) if bare.any() else float(np.median(height))
    flat = np.full(height.shape, level, np.float32)
    return Scene(kind="known", height=height.astype(np.float32), ground=flat, cover=cover, tint=np.zeros_like(flat),
                 points=np.zeros((0, 5), np.float32), spacing=spacing, season="summer")


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


def truth_scores(images: ImageSet, sensor: str, spacing: float = GROUND_SPACING_M) -> pd.DataFrame:
    """One row an image: class, walls and shadows (range lines used), and the scores; NaN where the scene does not give any.

    Args:
        images: images with scene truth (heights and masks), whose rows tell `look` and `incidence` (degrees).
        sensor: the radar preset of the data set. spacing: metres a pixel.

    Raises:
        InputError: no scene truth, or a row without look or incidence.
    """
    heights, covers = images.heights(), images.masks()
    if heights is None or covers is None:
        raise InputError(f"{images.root}: its images have no scene truth (heights, masks) to hold shadows and layover against; "
                         "leave this measure out")
    rows = []
    for image, height, cover, row, label in zip(images.images, heights, covers, images.rows, images.labels):
        if row.get("look") not in ("left", "right") or not row.get("incidence"):
            raise InputError(f"{images.root}: {row.get('file_name')} tells no look or incidence; make the data set again")
        scene = known_scene(height, cover, spacing)
        radar = replace(ground_radar(sensor), look=row["look"], incidence_deg=float(row["incidence"]))
        evidence = layover_evidence(image, scene, radar)
        profile, lines = shadow_profile(image, scene, radar)
        known = lines >= LEAST_MARKS and np.isfinite(profile).all()
        offset = change_point(profile) * spacing if known else np.nan
        dark, lit = (profile[:REACH].mean(), profile[REACH:].mean()) if known else (np.nan, np.nan)
        contrast = 10.0 * np.log10(max(lit, 1e-9) / max(dark, 1e-9)) if known else np.nan
        rows.append((label, lines, np.nan if np.isnan(evidence) else float(evidence > 0), contrast, offset, abs(offset)))
    return pd.DataFrame(rows, columns=["class", "shadow lines", *MEASURES])


def truth_table(scores: pd.DataFrame, resamples: int = 200, seed: int = 0) -> pd.DataFrame:
    """Mean of every score over the images that have one, each class counting the same, with 95 % intervals.

    Returns columns measure, value, lo, hi, n (images with a value), meaning; a measure that no image has is left out.
    """
    base, resampled = stratified_weights(list(scores["class"]), resamples, seed)
    rows = []
    for name, meaning in MEASURES.items():
        values = scores[name].to_numpy(float)
        value = float(weighted_mean(values, base))
        if np.isfinite(value):
            ends = percentile_interval(weighted_mean(values, resampled), value)
            rows.append((name, value, *ends, int(np.isfinite(values).sum()), meaning))
    return pd.DataFrame(rows, columns=["measure", "value", "lo", "hi", "n", "meaning"])


def truth_anchors(
    images: ImageSet, sensor: str, spacing: float = GROUND_SPACING_M, resamples: int = 200, seed: int = 0
) -> pd.DataFrame:
    """The scores of real images, of the same with their side told wrong, and of the optical twin as grey, below each other.

    Columns images, then those of `truth_table`. The first is what can be reached at most, the others what blindness gives.
    """
    turned = {"left": "right", "right": "left"}
    mirrored = tuple({**row, "look": turned.get(row.get("look"))} for row in images.rows)
    sets = {"real": images, "real, other side told": replace(images, rows=mirrored)}
    optical = images.optical()
    if optical is not None:
        sets["optical as grey"] = replace(images, images=np.rint(optical.mean(axis=3)).astype(np.uint8))
    parts = []
    for name, part in sets.items():
        table = truth_table(truth_scores(part, sensor, spacing), resamples, seed)
        table.insert(0, "images", name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)

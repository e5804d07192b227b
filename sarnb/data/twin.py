"""The twin world as a data set: optical scenes for the foundation, radar images with scene truth for the study."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sarnb.world
from sarnb.data.amplitude import Normalisation, moments
from sarnb.data.dataset import load_card
from sarnb.data.files import CARD, METADATA, SPLITS, check_target, saving, write_json, write_png, write_rows
from sarnb.data.pool import ordered_map
from sarnb.data.scenes import SplitSpec, check_kinds, chunks, scene_group, scene_seed
from sarnb.errors import InputError
from sarnb.world.captions import LENGTHS, caption
from sarnb.world.optical import render_optical
from sarnb.world.radar import PRESETS, Radar, amplitude, simulate
from sarnb.world.scene import CLASSES, COMPOSITIONS, SEEN, make_scene

FORMAT = 1  # raised when the written files change their meaning: older sets are then built again
INCIDENCE_STEPS_DEG = (-10.0, 0.0, 10.0)  # about the preset's incidence: a set shows three of them


def _optical_chunk(
    indices: range, seed: int, size: int, spacing: float, kinds: tuple[str, ...]
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """Optical images uint8 [n, size, size, 3] and their captions, one of each length."""
    images = np.empty((len(indices), size, size, 3), np.uint8)
    captions = []
    for slot, index in enumerate(indices):
        own_seed = scene_seed(seed, "optical", index)
        scene = make_scene(kinds[index % len(kinds)], own_seed, size=size, spacing=spacing)
        images[slot] = render_optical(scene)
        captions.append(tuple(caption(scene, "optical", length, seed=own_seed) for length in LENGTHS))
    return images, captions


def twin_optical(
    count: int,
    seed: int,
    size: int = 128,
    spacing: float = 2.0,
    workers: int = 2,
    kinds: Sequence[str] = CLASSES + COMPOSITIONS,
) -> tuple[np.ndarray, list[tuple[str, str, str]], list[str]]:
    """Captioned optical scenes in memory, for the foundation's pretraining.

    Parameters: ``count`` scenes; ``size`` in px; ``spacing`` in metres a pixel; ``kinds`` are taken in turn, so that
    they are balanced to within one scene. Scene i depends on (seed, i) only: a longer set begins with the shorter one,
    and the number of workers changes nothing.

    Returns images uint8 [count, size, size, 3] (size² · 3 bytes each: 20,000 at 128 px take 0.98 GB), captions as
    (short, mid, long) of each image, and the kind of each image. Raises InputError for an unknown kind.
    """
    kinds = tuple(kinds)
    check_kinds(kinds)
    images = np.empty((count, size, size, 3), np.uint8)
    captions: list[tuple[str, str, str]] = []
    work = partial(_optical_chunk, seed=seed, size=size, spacing=spacing, kinds=kinds)
    for part, texts in ordered_map(work, chunks(count), workers, "optical scenes"):
        images[len(captions) : len(captions) + len(part)] = part
        captions.extend(texts)
    return images, captions, [kinds[index % len(kinds)] for index in range(count)]


@dataclass(frozen=True)
class TwinSample:
    """One scene in both modalities on one grid (rows north to south, columns west to east).

    ``optical`` uint8 [H, W, 3]; ``sar`` amplitude float32 [H, W], sqrt of sigma0; ``mask`` land-cover codes uint8 [H, W]
    (index into COVERS); ``height`` float32 [H, W], metres; ``row``: the metadata but for the file names.
    """

    optical: np.ndarray
    sar: np.ndarray
    mask: np.ndarray
    height: np.ndarray
    row: dict[str, Any]


def ground_radar(sensor: str) -> Radar:
    """The preset ``sensor`` on a ground-range grid, where radar and optical image share every pixel.

    A slant-range preset keeps its pixel spacing; its range resolution is projected to the ground, r / sin(incidence).
    Raises InputError for an unknown preset.
    """
    if sensor not in PRESETS:
        raise InputError(f"unknown sensor '{sensor}'; choose of {', '.join(PRESETS)}")
    radar = PRESETS[sensor]
    if radar.geometry == "ground":
        return radar
    across, along = radar.resolution_m
    return replace(radar, geometry="ground", resolution_m=(across / math.sin(math.radians(radar.incidence_deg)), along))


def sample_radar(radar: Radar, seed: int, turn: int) -> Radar:
    """The radar of one scene: sides take turns (``turn`` even: left), the incidence is drawn from the seed."""
    step = np.random.default_rng([seed, 1]).choice(INCIDENCE_STEPS_DEG)
    return replace(radar, look=("left", "right")[turn % 2], incidence_deg=float(radar.incidence_deg + step))


def twin_sample(kind: str, seed: int, radar: Radar, size: int = 128) -> TwinSample:
    """Draw one scene, photograph it and image it by radar. Deterministic in its arguments."""
    scene = make_scene(kind, seed, size=size, spacing=radar.spacing_m[0])
    texts = [caption(scene, "sar", length, radar=radar, seed=seed) for length in LENGTHS]
    row = {
        "text": texts[int(np.random.default_rng([seed, 2]).integers(len(texts)))],
        "captions": texts,
        "label": kind,
        "group": scene_group(kind),
        "look": radar.look,
        "incidence": radar.incidence_deg,
        "sensor": radar.name,
        "seed": seed,
        "season": scene.season,
        "counts": {name: int(number) for name, number in scene.counts.items()},
    }
    sar = np.asarray(amplitude(simulate(scene, radar, seed)), np.float32)
    return TwinSample(render_optical(scene), sar, scene.cover, scene.height, row)


def build_twin(
    out: Path,
    splits: dict[str, SplitSpec],
    sensor: str = "airborne-x",
    size: int = 128,
    seed: int = 0,
    workers: int = 2,
) -> dict[str, Any]:
    """Write the twin data set (layout in ``sarnb.data``) and return its card.

    ``splits``: see ``study_splits``; train and val may hold seen classes only, and no scene is in two splits. The
    amplitude scale is fitted on the train split's radar images and used for all. The files are the same for any
    number of workers. A killed call is continued by the next one, chunk by chunk; a finished set of the same
    parameters and the same code of ``sarnb.world`` is returned at once, any other one made here is replaced.

    Raises InputError for impossible splits, an unknown sensor, a folder that holds something else, or a full disk.
    """
    _check_splits(splits)
    radar = ground_radar(sensor)
    out = check_target(out)
    fingerprint = _fingerprint(splits, radar, size, seed)
    card = _load_own_card(out, fingerprint)
    if card is not None and card["complete"]:
        return card
    with saving(out):
        if card is None:
            card = _start(out, splits, radar, size, seed, fingerprint)
        for split in (name for name in SPLITS if name in splits):
            if not (out / split).is_dir():
                _build_split(out, split, splits[split], radar, size, seed, workers, card)
        shutil.rmtree(out / ".work", ignore_errors=True)
        card["complete"] = True
        write_json(out / CARD, card)
    return load_card(out)


def _check_splits(splits: dict[str, SplitSpec]) -> None:
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown or "train" not in splits:
        raise InputError(f"splits are {', '.join(splits)}; give train, and of the others only {', '.join(SPLITS[1:])}")
    for split in ("train", "val"):
        shown = [kind for kind in (splits[split].kinds if split in splits else ()) if kind not in SEEN]
        if shown:
            raise InputError(f"split '{split}' would show {', '.join(shown)}; fine-tuning may see only {', '.join(SEEN)}")


def _fingerprint(splits: dict[str, SplitSpec], radar: Radar, size: int, seed: int) -> str:
    """Hash of everything the files depend on, the code of the twin world included."""
    folder = Path(sarnb.world.__file__).parent
    code = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.py"))}
    described = {
        "format": FORMAT,
        "splits": {name: asdict(spec) for name, spec in splits.items()},
        "radar": asdict(radar),
        "size": size,
        "seed": seed,
        "world": code,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _load_own_card(out: Path, fingerprint: str) -> dict[str, Any] | None:
    """The card of a finished or begun set with this fingerprint; None where there is none."""
    try:
        card = json.loads((out / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(card, dict) and card.get("fingerprint") == fingerprint
    if whole and card.get("complete"):
        whole = all((out / split / METADATA).is_file() for split in card["totals"])
    return card if whole else None


def _start(out: Path, splits: dict[str, SplitSpec], radar: Radar, size: int, seed: int, fingerprint: str) -> dict[str, Any]:
    """Clear what another call left and write the card of a begun set."""
    for name in (*SPLITS, ".work"):
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    counts = {
        name: dict(sorted(Counter(spec.kinds[index % len(spec.kinds)] for index in range(spec.count)).items()))
        for name, spec in splits.items()
    }
    kinds = sorted({kind for part in counts.values() for kind in part})
    card = {
        "kind": "twin",
        "complete": False,
        "source": "the twin world (sarnb.world): simulated, no measured radar data",
        "licence": "Apache-2.0",
        "has_truth": True,
        "sensor": radar.name,
        "radar": asdict(radar),
        "incidences_deg": [radar.incidence_deg + step for step in INCIDENCE_STEPS_DEG],
        "spacing_m": radar.spacing_m,
        "size": size,
        "seed": seed,
        "labels": kinds,
        "groups": {group: [kind for kind in kinds if scene_group(kind) == group] for group in ("seen", "unseen", "composition")},
        "counts": counts,
        "totals": {name: spec.count for name, spec in splits.items()},
        "mu": None,
        "sigma": None,
        "notes": [
            "Radar amplitude A / (mu + 3 sigma), clipped to [0, 1], 8 bit; mu and sigma over all pixels of train.",
            "Ground range: optical image, mask and radar image share one grid.",
        ],
        "fingerprint": fingerprint,
    }
    write_json(out / CARD, card)
    return card


def _build_split(
    out: Path, split: str, spec: SplitSpec, radar: Radar, size: int, seed: int, workers: int, card: dict[str, Any]
) -> None:
    """Two passes: simulate (amplitudes to .npy chunks, truth to PNG), then scale to 8 bits; at last one rename."""
    work = out / ".work" / split
    for name in ("optical", "mask", "chunks"):
        (work / name).mkdir(parents=True, exist_ok=True)
    pieces = chunks(spec.count)
    draw = partial(_draw_chunk, work=work, split=split, spec=spec, radar=radar, size=size, seed=seed)
    for _ in ordered_map(draw, [piece for piece in pieces if not _rows_file(work, piece).is_file()], workers, f"{split}: scenes"):
        pass
    records = [json.loads(_rows_file(work, piece).read_text(encoding="utf-8")) for piece in pieces]
    if split == "train":
        scale = Normalisation.from_moments(tuple(part) for record in records for part in record["moments"])
        card.update(mu=scale.mu, sigma=scale.sigma)
        write_json(out / CARD, card)
    scale = Normalisation(card["mu"], card["sigma"])
    for _ in ordered_map(partial(_scale_chunk, work=work, scale=scale), pieces, workers, f"{split}: files"):
        pass
    write_rows(work / METADATA, [row for record in records for row in record["rows"]])
    shutil.rmtree(work / "chunks")
    work.replace(out / split)


def _rows_file(work: Path, piece: range) -> Path:
    return work / "chunks" / f"{piece.start:06d}.json"


def _draw_chunk(piece: range, work: Path, split: str, spec: SplitSpec, radar: Radar, size: int, seed: int) -> None:
    """Draw the scenes of a chunk. Its JSON file is written last, so that it marks the chunk as done."""
    amplitudes, rows, parts = [], [], []
    for index in piece:
        own_seed = scene_seed(seed, split, index)
        turn, kind = divmod(index, len(spec.kinds))
        sample = twin_sample(spec.kinds[kind], own_seed, sample_radar(radar, own_seed, turn), size)
        name = f"{index:06d}.png"
        write_png(work / "optical" / name, sample.optical)
        write_png(work / "mask" / name, sample.mask)
        amplitudes.append(sample.sar)
        parts.append(moments(sample.sar))
        rows.append({"file_name": name, **sample.row, "optical_file_name": f"optical/{name}", "mask_file_name": f"mask/{name}"})
    np.save(work / "chunks" / f"{piece.start:06d}.npy", np.stack(amplitudes))
    write_json(_rows_file(work, piece), {"rows": rows, "moments": parts})


def _scale_chunk(piece: range, work: Path, scale: Normalisation) -> None:
    for index, image in zip(piece, np.load(work / "chunks" / f"{piece.start:06d}.npy"), strict=True):
        write_png(work / f"{index:06d}.png", scale.apply(image))

"""The twin world as a data set: optical scenes for the foundation, radar images with scene truth for the study."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sarnb.world
from sarnb.data import files
from sarnb.data.amplitude import Normalisation, moments
from sarnb.data.dataset import GROUPS, TRUTH, load_card, write_card
from sarnb.data.files import CARD, METADATA, SPLITS, WRITTEN
from sarnb.errors import InputError
from sarnb.world.captions import LENGTHS, caption
from sarnb.world.optical import default_sun, render_optical
from sarnb.world.radar import PRESETS, Radar, amplitude, simulate
from sarnb.world.scene import CLASSES, COMPOSITIONS, SEEN, Scene, make_scene, parts_of
from sarnb.world.speckle import broadening

# Which scenes a set holds: their kinds, and seeds that never meet between two sets.

CHUNK = 32  # scenes a work item
EVERYTHING = CLASSES + COMPOSITIONS


@dataclass(frozen=True)
class SplitSpec:
    """What one split holds: ``count`` images, the ``kinds`` taken in turn.

    With ``both_sides`` every scene is imaged twice, from the left and then from the right, by two passes with speckle of their own:
    the two images differ in the side alone, and fine-tuning can bring them together (``sarnb.train.loop.pair_sides``).

    Raises
    ------
    InputError
        Unknown kinds.
    """

    kinds: tuple[str, ...]
    count: int
    both_sides: bool = False

    def __post_init__(self) -> None:
        check_kinds(self.kinds)
        if self.count < len(self.kinds):
            least = len(self.kinds)
            raise InputError(f"a split of {self.count} scenes cannot show {least} kinds; give at least {least} scenes")

    def scene(self, index: int) -> tuple[str, int]:
        """Kind and turn of a scene (even: lit from the left), both balanced to within one in the split, turns in each kind too.

        All kinds come from the left, then all from the right, and so on. A pair of turns that the split does not fill would
        leave it one-sided, so in it the sides alternate from scene to scene. With ``both_sides`` images 2i and 2i + 1 are one scene.
        """
        if self.both_sides:
            return self.kinds[index // 2 % len(self.kinds)], index % 2
        turn, number = divmod(index, len(self.kinds))
        whole = index < self.count - self.count % (2 * len(self.kinds))
        return self.kinds[number], turn if whole else turn + number


def study_splits(
    train_images: int, val_images: int, test_per_class: int, judge_images: int, both_sides: bool = False
) -> dict[str, SplitSpec]:
    """The study's splits: train and val show seen classes only, test and judge every class and composition.

    ``both_sides``: train shows half as many scenes, each from both sides.
    """
    return {
        "train": SplitSpec(SEEN, train_images, both_sides),
        "val": SplitSpec(SEEN, val_images),
        "test": SplitSpec(EVERYTHING, test_per_class * len(EVERYTHING)),
        "judge": SplitSpec(EVERYTHING, judge_images),
    }


def general_splits(count: int) -> dict[str, SplitSpec]:
    """``count`` scenes in train, val and test, to the nearest scene 80, 10 and 10 %, all classes and compositions in turn.

    Val and test go on where the split before stopped, so that the set holds every kind equally often to within one scene; of
    fewer than 17 scenes a split shows as many kinds. For other purposes than this study, whose splits hold kinds back.

    Raises
    ------
    InputError
        The split train could not show all kinds.
    """
    kinds, held_out = len(EVERYTHING), (count + 5) // 10
    counts = {"train": count - 2 * held_out, "val": held_out, "test": held_out}
    if counts["train"] < kinds:
        raise InputError(f"n is {count}; give 21 or more, so that train, 80 % of them, shows each of the {kinds} kinds")
    splits, done = {}, 0
    for split, number in counts.items():
        first = done % kinds
        splits[split] = SplitSpec((EVERYTHING[first:] + EVERYTHING[:first])[:number], number)
        done += number
    return splits


def check_request(size: int, seed: int, workers: int = 1) -> None:
    """Raise InputError for an image size (px), a seed or a number of processes with which no data set can be made."""
    if size < 32 or size % 8:
        raise InputError(f"size is {size} px; give 32 or more, and a multiple of 8")
    if seed < 0:
        raise InputError(f"seed is {seed}; give a whole number of 0 or more")
    if workers < 1:
        raise InputError(f"workers is {workers}; give 1 or more processes")


def scene_seed(seed: int, stream: str, index: int) -> int:
    """Seed in [0, 2^48) of scene ``index`` of the set named ``stream``.

    The stream's name is hashed in, so that train, val, test, judge and the foundation's optical scenes share none.
    """
    words = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), index]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(16))


def scene_group(kind: str, shown: Sequence[str] = SEEN) -> str:
    """'seen', 'unseen' or 'composition': how the kind stands to a training set that shows the kinds ``shown``.

    >>> scene_group("airport"), scene_group("airport", shown=("airport", "city"))
    ('unseen', 'seen')
    """
    if kind in shown:
        return "seen"
    return "composition" if "+" in kind else "unseen"


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise InputError if a kind is neither a class nor a composition of classes that the twin world draws."""
    if not kinds:
        raise InputError("no scene kind was given; name at least one, for example 'city'")
    for kind in kinds:
        parts_of(kind)


def chunks(count: int) -> list[range]:
    """``range(count)`` in pieces of CHUNK: work items whose borders do not depend on the number of workers."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


# One scene through several radars: every preset on the common ground grid, and the coarse satellite view.

GROUND_SPACING_M = 2.0  # the grid of every data set: the scenes are drawn on it, whichever sensor looks at them
INCIDENCE_STEPS_DEG = (-10.0, 0.0, 10.0)  # about the preset's incidence: a set shows three of them
SATELLITE_FACTOR = 4  # scene cells a cell of the satellite view, along each axis
SATELLITE_LOOKS = 4


def ground_radar(sensor: str) -> Radar:
    """The preset ``sensor`` on the common ground grid, where all radars and the optical image share every pixel.

    The scene and the image then have one extent in metres, so that sets of different sensors show the same scenes. What
    makes the sensor stays: band, polarisation, incidence, looks, noise floor and resolution. A slant-range resolution is
    projected to the ground, r / sin(incidence). A resolution finer than the grid carries (TerraSAR-X, Umbra) becomes the
    finest it carries, 1.19 cells with the Taylor window: the band is cut to the grid, as a processor does, and not
    multi-looked. A coarser one (Sentinel-1) is kept, so its image is oversampled by the impulse response itself instead of
    being enlarged by interpolation.

    Raises
    ------
    InputError
        An unknown preset.
    """
    if sensor not in PRESETS:
        raise InputError(f"unknown sensor '{sensor}'; choose of {', '.join(PRESETS)}")
    radar = PRESETS[sensor]
    across, along = radar.resolution_m
    if radar.geometry == "slant":
        across /= math.sin(math.radians(radar.incidence_deg))
    finest = broadening(radar.window) * GROUND_SPACING_M
    resolution = (max(across, finest), max(along, finest))
    return replace(radar, geometry="ground", resolution_m=resolution, spacing_m=(GROUND_SPACING_M, GROUND_SPACING_M))


def sample_radar(radar: Radar, seed: int, turn: int) -> Radar:
    """The radar of one scene: from the left where ``turn`` is even, else from the right; the incidence is drawn from the seed."""
    step = np.random.default_rng([seed, 1]).choice(INCIDENCE_STEPS_DEG)
    return replace(radar, look=("left", "right")[turn % 2], incidence_deg=float(radar.incidence_deg + step))


def satellite_radar(look: str) -> Radar:
    """The sensor of the satellite view: TerraSAR-X at its own incidence (35 degrees) from the side ``look``.

    Four times coarser than the ground grid (spacing 8 m, resolution 9.5 x 13.2 m in range and azimuth), four looks,
    TerraSAR-X's noise floor. Factor and looks are this project's choice, made so that the view shows where things are
    and not what they look like. It does not depend on the other sensor: sets of several sensors have the same views.
    """
    coarse = ground_radar("terrasar-x").scaled(SATELLITE_FACTOR)
    return replace(coarse, name="satellite", look=look, looks=SATELLITE_LOOKS)


def speckle_seed(seed: int, sensor: str, second: bool = False) -> int:
    """Seed for ``simulate`` of the scene ``seed`` (below 2^48) seen by ``sensor``, a preset or "satellite".

    With one seed for all, two sensors would share their speckle, which no two passes do, and so would a ``second`` pass of one
    sensor. The first preset has the scene's own seed; those of the others lie above all scene seeds.

    Raises
    ------
    InputError
        A sensor of another name.

    >>> speckle_seed(7, "airborne-x"), speckle_seed(7, "terrasar-x") == 7 + 2**48
    (7, True)
    """
    names = (*PRESETS, "satellite")
    if sensor not in names:
        raise InputError(f"no speckle is set aside for the sensor '{sensor}'; use a radar named {', '.join(names)}")
    return seed + (names.index(sensor) + second * len(names) << 48)


def world_facts(sensor: str, size: int) -> dict[str, Any]:
    """What the twin world shows by a sensor: hash of the captions and 4 x 4 mean amplitudes of one scene of each kind.

    It tells whether a model learned from this world, whatever was rewritten in the code since; see ``same_world``.
    """
    seeds = [scene_seed(0, "facts", number) for number in range(len(EVERYTHING))]
    radars = [sample_radar(ground_radar(sensor), seed, turn) for turn, seed in enumerate(seeds)]
    samples = [twin_sample(*each, size) for each in zip(EVERYTHING, seeds, radars)]
    texts = hashlib.sha256(json.dumps([sample.row["captions"] for sample in samples]).encode()).hexdigest()
    means = [sample.sar.reshape(4, size // 4, 4, size // 4).mean(axis=(1, 3)).round(5).tolist() for sample in samples]
    return {"sensor": sensor, "size": size, "captions": texts, "means": means}


def same_world(known: dict[str, Any]) -> bool:
    """Whether ``world_facts`` of today are those that are ``known``; amplitudes within 1 %, as processors round differently."""
    now = world_facts(known["sensor"], known["size"])
    return now["captions"] == known["captions"] and np.allclose(now["means"], known["means"], rtol=0.01, atol=1e-5)


# The data set: chunks of scenes, drawn and scaled by workers, that a later call continues after a kill.

FORMAT = 2  # raised when the written files change their meaning: older sets are then built again
VIEWS = ("sar", "satellite")  # the two amplitudes of a sample, each with a scale of its own


def twin_optical(
    count: int, seed: int, size: int = 128, spacing: float = 2.0, workers: int = 2, kinds: Sequence[str] = EVERYTHING
) -> tuple[np.ndarray, list[tuple[str, ...]], list[str]]:
    """Captioned optical scenes in memory, for the foundation's pretraining.

    Scene i depends on (seed, i) only: a longer set begins with the shorter one, and the number of workers changes nothing.

    Parameters
    ----------
    count, seed : number of scenes, and the seed of the set.
    size, spacing : of an image, in px and in metres a pixel.
    kinds : taken in turn, so that they are balanced to within one scene.

    Returns
    -------
    images : uint8 [count, size, size, 3] (size² · 3 bytes each: 20,000 at 128 px take 0.98 GB).
    captions : (short, mid, long) of each image.
    labels : the kind of each image.

    Raises
    ------
    InputError
        An unknown kind.
    """
    check_kinds(kinds)
    labels = [kinds[index % len(kinds)] for index in range(count)]
    images = np.empty((count, size, size, 3), np.uint8)
    captions: list[tuple[str, ...]] = []
    items = [(labels[index], scene_seed(seed, "optical", index)) for index in range(count)]
    draw = partial(_optical_scene, size=size, spacing=spacing)
    for image, texts in files.ordered_map(draw, items, workers, "optical scenes", CHUNK):
        images[len(captions)] = image
        captions.append(texts)
    return images, captions, labels


def _optical_scene(named: tuple[str, int], size: int, spacing: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """Optical image uint8 [size, size, 3] and its captions of each length, of a scene given by kind and seed."""
    scene = make_scene(*named, size=size, spacing=spacing)
    return render_optical(scene), tuple(caption(scene, "optical", length, seed=named[1]) for length in LENGTHS)


@dataclass(frozen=True)
class TwinSample:
    """One scene in both modalities on one grid (rows north to south, columns west to east).

    ``optical`` uint8 [H, W, 3]; ``sar`` amplitude float32 [H, W], sqrt of sigma0; ``mask`` land-cover codes uint8 [H, W]
    (index into COVERS); ``height`` float32 [H, W], metres; ``satellite`` amplitude float32 [H/4, W/4] of the coarse view
    from the same side (see ``satellite_radar``); ``row``: the metadata but for the file names. ``redraw_scene`` leads from
    such a row to the complex image.
    """

    optical: np.ndarray
    sar: np.ndarray
    mask: np.ndarray
    height: np.ndarray
    satellite: np.ndarray
    row: dict[str, Any]


def twin_sample(kind: str, seed: int, radar: Radar, size: int = 128, second: bool = False) -> TwinSample:
    """Draw one scene, photograph it and image it by radar. Deterministic in its arguments.

    ``radar``: of ``ground_radar``, with the side and incidence of the scene. ``second``: another pass over a scene that a set shows
    already, with speckle of its own; its row says so.
    """
    scene = make_scene(kind, seed, size=size, spacing=GROUND_SPACING_M)
    texts = [caption(scene, "sar", length, radar=radar, seed=seed) for length in LENGTHS]
    sun = default_sun(scene)
    row = {
        "text": texts[int(np.random.default_rng([seed, 2]).integers(len(texts)))],
        "captions": texts,
        "label": kind,
        "group": scene_group(kind),
        "look": radar.look,
        "shadow": {"left": "right", "right": "left"}[radar.look],  # the way radar shadows fall: away from the radar
        "incidence": radar.incidence_deg,
        "sensor": radar.name,
        "sun_azimuth": round(sun.azimuth, 2),
        "sun_elevation": round(sun.elevation, 2),
        "seed": seed,
        "season": scene.season,
        "counts": {name: int(number) for name, number in scene.counts.items()},
    } | ({"second_pass": True} if second else {})
    image = simulate(scene, radar, speckle_seed(seed, radar.name, second))
    coarse = simulate(scene, satellite_radar(radar.look), speckle_seed(seed, "satellite", second))
    return TwinSample(render_optical(scene), amplitude(image), scene.cover, scene.height, amplitude(coarse), row)


def build_twin(
    out: Path, splits: dict[str, SplitSpec], sensor: str = "airborne-x", size: int = 128, seed: int = 0, workers: int = 2
) -> dict[str, Any]:
    """Write the twin data set (layout in ``sarnb.data``) and return its card.

    Sets of one seed show the same scenes in the same order whatever the sensor, and no scene is in two splits. The
    amplitude scales of the radar images and of the satellite views are fitted on the train split and used for all. A kind
    that train shows is of group "seen". The files are the same for any number of workers, and memory does not grow with
    the number of scenes. A killed call is continued by the next one, chunk by chunk; a finished set of the same parameters
    and the same code of ``sarnb.world`` is returned at once, any other one made here is replaced.

    Parameters
    ----------
    out : the folder.
    splits : of ``study_splits`` or ``general_splits``, or your own.
    sensor : a preset, put on the ground grid.
    size : side of an image in px.
    seed, workers : of the set, and processes that draw it.

    Raises
    ------
    InputError
        Impossible splits, an unknown sensor, an impossible size, seed or number of workers, a folder that holds something
        else, or a full disk.
    """
    if "train" not in splits or set(splits) - set(SPLITS):
        raise InputError(f"splits are {', '.join(splits)}; give train, and of the others only {', '.join(SPLITS[1:])}")
    check_request(size, seed, workers)
    radar = ground_radar(sensor)
    out = files.check_out(out, "data set")
    fingerprint = _fingerprint(splits, radar, size, seed)
    card = files.begun(out, fingerprint)
    if card.get("complete"):
        return card
    with files.saving(out):
        if not card:
            card = _start(out, splits, radar, size, seed, fingerprint)
        for split in (name for name in SPLITS if name in splits):
            if not (out / split).is_dir():
                _build_split(out, split, splits[split], radar, size, seed, workers, card)
        shutil.rmtree(out / ".work", ignore_errors=True)
        write_card(out, {**card, "complete": True})
        files.release(out)
    return load_card(out)


def _fingerprint(splits: dict[str, SplitSpec], radar: Radar, size: int, seed: int) -> str:
    """Hash of everything the files depend on, the code of the twin world included."""
    folder = Path(sarnb.world.__file__).parent
    code = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.py"))}
    described = {
        "format": FORMAT,
        "splits": {name: asdict(spec) for name, spec in splits.items()},
        "radar": asdict(radar),
        "incidence_steps": INCIDENCE_STEPS_DEG,
        "satellite": asdict(satellite_radar("left")),
        "size": size,
        "seed": seed,
        "world": code,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _start(out: Path, splits: dict[str, SplitSpec], radar: Radar, size: int, seed: int, fingerprint: str) -> dict[str, Any]:
    """Clear what another call left and write the card of a begun set."""
    files.clear(files.claim(out, "data set", names=WRITTEN))
    for name in (*SPLITS, ".work"):  # of a call that was cut short
        shutil.rmtree(out / name, ignore_errors=True)
    counts = {name: dict(sorted(Counter(spec.scene(index)[0] for index in range(spec.count)).items())) for name, spec in splits.items()}
    kinds = sorted({kind for part in counts.values() for kind in part})
    groups = {kind: scene_group(kind, splits["train"].kinds) for kind in kinds}
    satellite = satellite_radar("left")
    notes = [
        "Radar amplitude A / (mu + 3 sigma), clipped to [0, 1], 8 bit; mu and sigma over all pixels of train.",
        "Ground range: optical image, mask, height and radar image share one grid, whichever the sensor.",
        "The satellite view is a coarser multi-look image of the same scene from the same side, scaled by a mu and sigma of its own.",
        "Each split draws its scenes from seeds of its own: no scene is in two splits.",
    ]
    for name in (name for name, spec in splits.items() if spec.both_sides):
        notes.append(f"Of {name}, two images in a row are one scene seen from the left and from the right.")
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
        "groups": {group: [kind for kind in kinds if groups[kind] == group] for group in GROUPS},
        "counts": counts,
        "totals": {name: spec.count for name, spec in splits.items()},
        "mu": None,
        "sigma": None,
        "satellite": dict.fromkeys(("mu", "sigma"))
        | {name: getattr(satellite, name) for name in ("incidence_deg", "resolution_m", "spacing_m", "looks")},
        "statistics": {},
        "notes": notes,
        "fingerprint": fingerprint,
    }
    files.write_json(out / CARD, card)
    return card


def _build_split(out: Path, split: str, spec: SplitSpec, radar: Radar, size: int, seed: int, workers: int, card: dict[str, Any]) -> None:
    """Two passes: simulate (amplitudes to .npy chunks, truth to PNG), then scale to 8 bits; at last one rename.

    Nothing is held but the chunk at hand: moments are merged, rows are copied from the chunks' files to the metadata.
    """
    work = out / ".work" / split
    for name in (*TRUTH, "chunks"):
        (work / name).mkdir(parents=True, exist_ok=True)
    pieces = chunks(spec.count)
    shown = tuple(card["groups"]["seen"])
    draw = partial(_draw_chunk, work=work, split=split, spec=spec, radar=radar, size=size, seed=seed, shown=shown)
    left = [piece for piece in pieces if not _chunk_file(work, piece, "json").is_file()]
    for _ in files.ordered_map(draw, left, workers, f"{split}: scenes"):
        pass
    fitted = {"sar": card, "satellite": card["satellite"]}  # where the card has the scale of each view
    if split == "train":
        for view, place in fitted.items():
            parts = (tuple(part) for record in _records(work, pieces) for part in record["moments"][view])
            scale = Normalisation.from_moments(parts)
            place.update(mu=scale.mu, sigma=scale.sigma)
    scales = {view: Normalisation(place["mu"], place["sigma"]) for view, place in fitted.items()}
    sums = files.ordered_map(partial(_scale_chunk, work=work, scales=scales), pieces, workers, f"{split}: files")
    count, *totals = (sum(values) for values in zip(*sums))  # in the order of the chunks
    card["statistics"][split] = dict(zip(("mean", "cv", "clipped"), (total / count for total in totals)))
    files.write_json(out / CARD, card)
    files.write_rows(work / METADATA, (row for record in _records(work, pieces) for row in record["rows"]))
    shutil.rmtree(work / "chunks")
    work.replace(out / split)


def _chunk_file(work: Path, piece: range, ending: str) -> Path:
    """Of a chunk: "json" what ``_draw_chunk`` noted, "sar.npy" and "satellite.npy" the amplitudes."""
    return work / "chunks" / f"{piece.start:06d}.{ending}"


def _records(work: Path, pieces: Sequence[range]) -> Iterator[dict[str, Any]]:
    """What ``_draw_chunk`` noted of each chunk, one in memory at a time."""
    for piece in pieces:
        yield json.loads(_chunk_file(work, piece, "json").read_text(encoding="utf-8"))


def _draw_chunk(piece: range, work: Path, split: str, spec: SplitSpec, radar: Radar, size: int, seed: int, shown: tuple[str, ...]) -> None:
    """Draw the scenes of a chunk. Its JSON file is written last, so that it marks the chunk as done."""
    amplitudes: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS}
    rows = []
    for index in piece:
        own_seed = scene_seed(seed, split, index // 2 if spec.both_sides else index)
        (kind, turn), name = spec.scene(index), f"{index:06d}.png"
        sample = twin_sample(kind, own_seed, sample_radar(radar, own_seed, turn), size, second=spec.both_sides and turn == 1)
        files.write_png(work / "optical" / name, sample.optical)
        files.write_png(work / "mask" / name, sample.mask)
        files.write_png(work / "height" / name, files.height_levels(sample.height))
        amplitudes["sar"].append(sample.sar)
        amplitudes["satellite"].append(sample.satellite)
        truths = {f"{truth}_file_name": f"{truth}/{name}" for truth in TRUTH}
        rows.append({"file_name": name, **sample.row, "group": scene_group(kind, shown), **truths})
    for view, images in amplitudes.items():
        np.save(_chunk_file(work, piece, f"{view}.npy"), np.stack(images))
    parts = {view: [moments(image) for image in images] for view, images in amplitudes.items()}
    files.write_json(_chunk_file(work, piece, "json"), {"rows": rows, "moments": parts})


def _scale_chunk(piece: range, work: Path, scales: dict[str, Normalisation]) -> tuple[int, float, float, float]:
    """Write the 8-bit images of a chunk. Returns (images, sums over them of mean, coefficient of variation, share at 255)."""
    images = {view: scales[view].apply(np.load(_chunk_file(work, piece, f"{view}.npy"))) for view in VIEWS}
    for index, image, coarse in zip(piece, images["sar"], images["satellite"], strict=True):
        files.write_png(work / f"{index:06d}.png", image)
        files.write_png(work / "satellite" / f"{index:06d}.png", coarse)
    unit = images["sar"] / 255.0
    means, spreads = unit.mean(axis=(1, 2)), unit.std(axis=(1, 2))
    variation = np.divide(spreads, means, out=np.zeros_like(means), where=means > 0)
    return len(piece), float(means.sum()), float(variation.sum()), float((images["sar"] == 255).mean(axis=(1, 2)).sum())


def redraw_scene(row: Mapping[str, Any], size: int) -> tuple[Scene, Radar, int]:
    """The scene, the radar and the speckle seed of a twin image: what the 8-bit file no longer shows.

    ``simulate(*redraw_scene(row, size))`` gives the image again, complex and with its layover and shadow.

    Parameters
    ----------
    row : the image's row of the metadata.
    size : side of the image in px.

    Raises
    ------
    InputError
        The row is not of the twin world.
    """
    wanted = ("label", "seed", "sensor", "look", "incidence")
    missing = [name for name in wanted if row.get(name) is None]
    if missing:
        raise InputError(f"image {row.get('file_name', '?')}: its row has no {missing[0]!r}; only twin images can be drawn again")
    radar = replace(ground_radar(row["sensor"]), look=row["look"], incidence_deg=float(row["incidence"]))
    seed = int(row["seed"])
    scene = make_scene(row["label"], seed, size=size, spacing=radar.spacing_m[0])
    return scene, radar, speckle_seed(seed, radar.name, bool(row.get("second_pass")))

"""SARLO-80 (ONERA, CC-BY-SA-4.0) or shards in its layout as a data set of amplitudes: streamed, checked, split by place.

A shard is a tar file; a sample in it is ``KEY.sar.png`` (8-bit amplitude), ``KEY.sar.npy`` (complex64), ``KEY.sicd.xml`` and
``KEY.meta.json`` (captions SHORT, MID and LONG, spacing, incidence, place). Nearly all bytes are the complex arrays, so they
are passed over where there is a PNG. Nothing is unpacked under a name that a shard gives.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import multiprocessing
import re
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from braceexpand import braceexpand
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring
from huggingface_hub import HfApi, hf_hub_url
from PIL import Image
from webdataset.tariterators import group_by_keys, url_opener

from sarnb.data.amplitude import Normalisation, moments
from sarnb.data.files import ordered_map, write_json
from sarnb.data.imagefolder import some
from sarnb.data.prepare import UNCLEAR, Found, build_set
from sarnb.errors import InputError, first_line

LICENCE = "CC-BY-SA-4.0"
FORMAT = 1  # raised when the written files change their meaning
LENGTHS = ("SHORT", "MID", "LONG")  # of captions, in the order in which their words are searched for the class
MEMBERS = ("sar.png", "sar.npy", "sicd.xml", "meta.json")
PLACES = ("place", "city", "location", "umbra_pass", "city_id_satellite_pass")  # keys of meta.json; the first that is there names it
INCIDENCES = ("sicd_deg", "ellipsoid_deg", "terrain_deg")  # keys of its incidence_angles, the acquisition's own first
KEYWORDS: dict[str, tuple[str, ...]] = {  # class -> words of captions that name it; a plural in s counts too
    "airport": ("airport", "airfield", "airbase", "runway", "taxiway", "airplane", "aircraft", "hangar"),
    "harbour": ("harbour", "harbor", "port", "dock", "pier", "quay", "marina", "wharf", "shipyard", "jetty"),
    "solar farm": ("solar farm", "solar panel", "solar park", "photovoltaic"),
    "stadium": ("stadium", "arena", "racetrack"),
    "industrial": ("industrial", "factory", "factories", "warehouse", "refinery", "storage tank", "power plant", "quarry", "depot"),
    "suburb": ("suburb", "suburban", "residential", "houses", "neighborhood", "neighbourhood", "village"),
    "city": ("city", "cities", "urban", "downtown", "skyscraper", "high-rise", "city block"),
    "crop fields": ("crop", "farmland", "agricultural", "field", "orchard", "plantation", "vineyard"),
    "forest": ("forest", "woodland", "wooded", "trees", "jungle"),
    "coast": ("coast", "coastal", "coastline", "beach", "shore", "shoreline", "seaside"),
    "mountains": ("mountain", "mountainous", "ridge", "hill", "canyon", "valley", "volcano"),
    "river": ("river", "riverbank", "stream", "creek", "canal"),
}


@dataclass(frozen=True)
class Shard:
    """One tar file: where it is opened, its ``name``, and size in bytes and SHA-256 where they are known beforehand."""

    url: str
    name: str
    bytes: int = 0
    sha256: str = ""


def build_sarlo80(
    out: Path,
    shards: str,
    revision: str = "",
    unseen: Sequence[str] = (),
    size: int = 1024,
    seed: int = 0,
    workers: int = 1,
    quantity: str = "",
    part: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Write the data set of the shards, a shard at a time, and return its card; see ``prepare.build_set`` for the splits.

    Parameters
    ----------
    out : the folder; a killed call is continued by the next one, finished shards are not read again.
    shards, revision : see ``list_shards``.
    unseen : classes, or words of captions, that are held out: neither train nor val shows an image whose captions name one.
    size : side of an image in px; samples of another size are passed over.
    seed : draws the split of the places.
    workers : processes, a shard each. The files are the same for any number.
    quantity : "complex" takes the modulus of the complex array, each scaled by its own mu + 3 sigma; "" the PNG where there is one.
    part : (k, n) reads every n-th shard from the k-th on, such as one of n machines does, and makes no set yet.

    Raises
    ------
    InputError
        No shard is found, the hub is out of reach, or no sample is left.
    """
    if quantity not in ("", "complex"):
        raise InputError(f"--quantity {quantity}: SARLO-80 has 8-bit amplitudes and complex samples; give complex, or leave it out")
    if part and not 1 <= part[0] <= part[1]:
        raise InputError(f"--part {part[0]}/{part[1]}: write K/N with K from 1 to N, such as 2/8 for the second of eight machines")
    found, commit = list_shards(shards, revision)
    named = shards if commit else f"{len(found)} shards given as {'addresses' if found[0].url.startswith('https:') else 'files'}"
    table, held = keyword_table(unseen)
    settings = {"format": FORMAT, "shards": [asdict(shard) for shard in found], "size": size, "quantity": quantity}
    facts = {
        "kind": "sarlo80",
        "source": f"SARLO-80 ({named})",
        "revision": commit or None,
        "licence": LICENCE,
        "sensor": "Umbra",
        "size": size,
        "mu": None,
        "sigma": None,
        "keywords": {kind: ", ".join(words) for kind, words in table.items()},
        "held_out": list(held),
        "columns": {
            "place": "where the scene lies; splits are by place",
            "incidence": "incidence angle at the scene centre, degrees",
            "side_of_track": "side of its track to which the radar looks",
            "spacing_m": "in azimuth and slant range, metres",
            "storage, mu, sigma": "8-bit as published; or complex, whose amplitude mu + 3 sigma became 255",
            "source": "shard and key of the sample",
        },
    }
    own = list(enumerate(found))[part[0] - 1 :: part[1]] if part else list(enumerate(found))
    read = partial(_read_all, numbered=own, size=size, workers=workers, complex_only=bool(quantity), table=table, held=held, facts=facts)
    return build_set(out, {**settings, "seed": seed, "table": table, "held": held}, read, seed, held, bool(part))


def list_shards(spec: str, revision: str = "") -> tuple[list[Shard], str]:
    """The shards that ``spec`` names, in order, and the commit of the hub that they are of ("" for files).

    Parameters
    ----------
    spec : files as a pattern with braces and stars (``shards/{train,val}/*.tar``), https addresses with braces, or a data set
        of the hub, ``owner/name``, or the part of it below a path, ``owner/name/train/chunk_000``.
    revision : branch, tag or commit of the hub's data set.

    Raises
    ------
    InputError
        Nothing is found, the hub cannot be reached, or an address of another kind (no commands, no other protocols).
    """
    if "::" in spec or (scheme := re.match(r"([\w.+-]+):", spec)) and scheme[1] != "https":
        raise InputError(f"--shards {spec!r}: is of a kind not opened here; give files as a pattern, https addresses or a hub id")
    names = list(braceexpand(spec))
    files = sorted({name for pattern in names for name in glob(str(Path(pattern).expanduser()), recursive=True) if Path(name).is_file()})
    local = bool(files) or spec.startswith("https:")
    if local and revision:
        raise InputError(f"--revision {revision}: belongs to a data set of the hub, and {spec} is none; leave it out")
    if spec.startswith("https:"):
        return [Shard(name, PurePosixPath(name).name) for name in names], ""
    if files:
        return [Shard(str(Path(name).resolve()), Path(name).name, Path(name).stat().st_size) for name in files], ""
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)/?", spec)
    if not hub or Path(spec).suffix == ".tar" or Path(spec.split("/")[0]).exists() or ".." in spec:
        raise InputError(f"--shards {spec!r}: no such file; give a pattern such as 'shards/*.tar', or a data set of the hub as owner/name")
    try:
        commit = HfApi().dataset_info(hub[1], revision=revision or None).sha
        entries = HfApi().list_repo_tree(hub[1], hub[2].strip("/") or None, recursive=True, revision=commit, repo_type="dataset")
        tars = sorted((entry for entry in entries if entry.path.endswith(".tar")), key=lambda entry: entry.path)
    except Exception as error:  # the client raises anything from a refusal to what the network raises
        raise InputError(
            f"--shards {spec}: the hub cannot be reached for it ({first_line(error)}); check name and network, or fetch its .tar files "
            "elsewhere ('hf download … --repo-type dataset') and give them as a pattern"
        ) from error
    if not tars:
        raise InputError(f"--shards {spec}: the hub's data set holds no .tar there; give another revision or path")
    urls = [hf_hub_url(hub[1], entry.path, repo_type="dataset", revision=commit) for entry in tars]
    return [
        Shard(url, entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "") for url, entry in zip(urls, tars, strict=True)
    ], commit


# The class of a sample, by the words of its captions.


def keyword_table(unseen: Sequence[str] = ()) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Class -> its words, and the classes held out; a word of ``unseen`` that no class has becomes a class of its own.

    Raises
    ------
    InputError
        A word of ``unseen`` that is empty or stands for unclear images.

    >>> keyword_table(["runway", "bridge"])[1]
    ('airport', 'bridge')
    """
    table, held = dict(KEYWORDS), []
    for word in (" ".join(name.lower().split()) for name in unseen):
        if not word or word == UNCLEAR:
            raise InputError(f"--unseen {','.join(unseen)!r}: {word!r} is no concept; name classes or words, such as harbour,airport")
        kind = next((kind for kind, words in KEYWORDS.items() if word == kind or word in words), word)
        table.setdefault(kind, (word,))
        held.append(kind)
    return table, tuple(dict.fromkeys(held))


def named_in(text: str, table: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Class -> those of its words that stand in the text.

    >>> named_in("Docks and a pier by the river; sportsmen", {"harbour": ("dock", "pier", "port"), "river": ("river",)})["river"]
    {'river'}
    """
    padded = " ".join(["", *re.findall(r"[^\W_]+(?:-[^\W_]+)*", text.lower()), ""])
    found = {kind: {word for word in words if f" {word} " in padded or f" {word}s " in padded} for kind, words in table.items()}
    return {kind: words for kind, words in found.items() if words}


def class_of(captions: Sequence[str], table: Mapping[str, Sequence[str]]) -> str:
    """The class that most words of the first caption name; at a tie or where none does, of the next one; else UNCLEAR.

    >>> class_of(["A view.", "A harbour with docks in a city."], KEYWORDS), class_of(["A forest by a river."], KEYWORDS)
    ('harbour', 'unclear')
    """
    for text in captions:
        named = Counter({kind: len(words) for kind, words in named_in(text, table).items()}).most_common(2)
        if named and (len(named) == 1 or named[0][1] > named[1][1]):
            return named[0][0]
    return UNCLEAR


# Reading: a shard a worker, each into a folder of its own with a note that is written last.


def _read_all(
    work: Path,
    numbered: Sequence[tuple[int, Shard]],
    size: int,
    workers: int,
    complex_only: bool,
    table: Mapping[str, Sequence[str]],
    held: Sequence[str],
    facts: Mapping[str, Any],
) -> tuple[list[Found], dict[str, Any]]:
    """Read the shards that are not noted in ``work`` yet; the images with their rows, and the facts of the card."""
    work.mkdir(exist_ok=True)
    place = partial(_note, work, size=size, complex_only=complex_only)
    left = [item for item in numbered if not place(item).is_file()]
    task = partial(_read_shard, work=work, size=size, complex_only=complex_only)
    try:
        for _ in ordered_map(task, left, workers, "shards"):
            pass
    except BrokenProcessPool:  # a worker was killed, and with it the others: one at a time, so that one shard fails alone
        for item in (item for item in left if not place(item).is_file()):
            try:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
                    pool.submit(task, item).result()
            except BrokenProcessPool:
                write_json(place(item), {"rows": [], "skipped": {"the process that read it died": [item[1].name]}, "sha256": ""})
    if lost := [item[1].name for item in numbered if not place(item).is_file()]:
        raise InputError(
            f"{len(lost)} shards did not arrive with the SHA-256 that the hub states ({some(lost)}); call again, the others are kept"
        )
    found: list[Found] = []
    skipped: dict[str, list[str]] = {}
    words: Counter[str] = Counter()
    leaking = 0
    for item in numbered:
        note = json.loads(place(item).read_text(encoding="utf-8"))
        for reason, names in note["skipped"].items():
            skipped.setdefault(reason, []).extend(names)
        for name, row in note["rows"]:
            named = named_in(" ".join(row["captions"]), table)
            words.update(f"{kind}: {word}" for kind, own in named.items() for word in own)
            row = {"text": row["captions"][zlib.crc32(row["source"].encode()) % len(row["captions"])], **row}
            row["label"] = class_of(row["captions"], table)
            if row["label"] not in held and any(kind in named for kind in held):
                leaking += 1  # it would show the concept to a training under another name
                continue
            found.append((place(item).with_suffix("") / name, row))
    read = [f"{len(names)} x {reason}: {some(names)}" for reason, names in skipped.items()]
    if leaking:
        read.append(f"{leaking} samples of other classes whose captions name {', '.join(held)} are left out")
    labels = Counter(row["label"] for _, row in found)
    read += [f"no sample is of the held-out class {kind}" for kind in held if not labels[kind]]
    notes = [
        "A class is the one that most words of the shortest caption name, see keywords; at a tie the longer captions decide.",
        "Places are those that the metadata names; neighbouring scenes under different names are not recognised.",
        "Which edge of an image is near range is not stated in SARLO-80, so look is not known; side_of_track is.",
    ]
    counts = {"read": sum(labels.values()), "skipped": sum(map(len, skipped.values())), "left_out": leaking}
    return found, {**facts, "samples": counts, "keyword_counts": dict(sorted(words.items())), "notes": [*notes, *read], "read": read}


def _note(work: Path, item: tuple[int, Shard], size: int, complex_only: bool) -> Path:
    """Where the note of a shard lies: a name by its place, its address and how it is read."""
    key = hashlib.sha256(repr((item[1], size, complex_only, FORMAT)).encode()).hexdigest()[:12]
    return work / f"{item[0]:05d}-{key}.json"


def _read_shard(item: tuple[int, Shard], work: Path, size: int, complex_only: bool) -> None:
    """Write the images of a shard into a folder, and at last its note: rows, what was skipped and why, SHA-256 of the bytes."""
    note, shard = _note(work, item, size, complex_only), item[1]
    folder = note.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows: list[tuple[str, dict[str, Any]]] = []
    skipped: dict[str, list[str]] = {}

    def skip(name: str, reason: str) -> bool:
        skipped.setdefault(reason, []).append(f"{shard.name}/{name}")
        return True  # go on with the next sample

    def failed(error: Exception) -> bool:
        return skip("", f"cannot be opened or read ({first_line(error)})")

    streams = url_opener([{"url": shard.url}], handler=failed)
    digest = hashlib.sha256()
    members = (member for opened in streams for member in _members(opened["stream"], shard, digest, size, complex_only, skip))
    for sample in group_by_keys(members, keys=_key, handler=failed):
        key = sample["__key__"]
        try:
            image, row = _sample(sample, size)
        except Exception as error:  # decoders raise anything on damaged bytes
            skip(key, first_line(error) if isinstance(error, InputError) else f"cannot be decoded ({type(error).__name__})")
            continue
        name = f"{len(rows):06d}.png"
        (folder / name).write_bytes(image)
        rows.append((name, {**row, "source": f"{shard.name}/{key}"}))
    found = digest.hexdigest()
    if shard.sha256 and found != shard.sha256:  # it did not arrive whole: without a note the next call reads it again
        return
    write_json(note, {"rows": rows, "skipped": skipped, "sha256": found})


def _members(stream: Any, shard: Shard, digest: Any, size: int, complex_only: bool, skip: Any) -> Iterator[dict[str, Any]]:
    """The wanted files of a tar stream, for ``group_by_keys``; all bytes go into ``digest``. Others are skipped by name.

    A compressed tar is read as damaged: what its headers claim may unpack to any size.
    """
    limit, tail = 2**20 + 16 * size * size, b""

    def noted(count: int) -> bytes:
        nonlocal tail
        data = stream.read(count)
        digest.update(data)
        tail = (tail + data)[-512:] if len(data) < 512 else data[-512:]
        return data

    try:
        with tarfile.open(fileobj=_Reader(noted), mode="r|", bufsize=2**18) as archive:  # type: ignore[call-overload]
            for member in archive:
                archive.members = []  # a shard may hold millions
                kind = _key(member.name)[1]
                name, path = ascii(member.name)[1:-1], PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts or "\\" in member.name:
                    skip(name, "has a path that leads out of the shard")
                elif not member.isfile():
                    member.isdir() or skip(name, "is a link or a device")
                elif kind in MEMBERS and member.size > limit:
                    skip(name, f"has more than {limit} bytes")
                elif kind in MEMBERS and not (kind == "sar.png" and complex_only):
                    data = archive.extractfile(member)
                    yield {"fname": member.name, "data": data.read() if data else b"", "__url__": shard.url}
            while noted(2**20):
                pass
        if any(tail) or not tail:
            skip("", "has no end mark, so it was cut short; what stood before is kept")
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        skip("", f"is cut short or damaged ({first_line(error)}); what stood before is kept")


class _Reader:
    """A file object with nothing but ``read``, as ``tarfile`` needs of a stream."""

    def __init__(self, read: Any) -> None:
        self.read = read


def _key(name: str) -> tuple[str, str]:
    """Key and kind of a member; keys may have dots.

    >>> _key("train/0.8m_7.sar.png"), _key("README.md")
    (('train/0.8m_7', 'sar.png'), ('README', 'md'))
    """
    kind = next((kind for kind in MEMBERS if name.endswith(f".{kind}")), "")
    stem, _, ending = name.rpartition(".")
    return (name[: -len(kind) - 1], kind) if kind else (stem, ending)


def _sample(sample: Mapping[str, Any], size: int) -> tuple[bytes, dict[str, Any]]:
    """The 8-bit PNG of a sample and its row; InputError says what is wrong with it."""
    if "meta.json" not in sample:
        raise InputError("has no meta.json")
    meta = json.loads(sample["meta.json"])
    if not isinstance(meta, dict):
        raise InputError("has a meta.json that is no JSON object")
    given = meta.get("caption") or meta.get("captions") or {}
    texts = [given.get(length) or given.get(length.lower()) for length in LENGTHS] if isinstance(given, dict) else []
    captions = [" ".join(text.split()) for text in texts if isinstance(text, str) and text.strip()]
    if not captions:
        raise InputError("has no caption")
    place = next((" ".join(str(meta[name]).split()) for name in PLACES if meta.get(name) and isinstance(meta[name], (str, int))), "")
    if not place:
        raise InputError("names no place")
    side, angles = "", [meta.get("incidence_angles")] if not isinstance(meta.get("incidence_angles"), dict) else []
    angles += [meta["incidence_angles"].get(name) for name in INCIDENCES] if not angles else []
    if "sicd.xml" in sample:
        try:
            described = fromstring(sample["sicd.xml"], forbid_dtd=True)
        except DefusedXmlException as error:
            raise InputError("has a sicd.xml with entities or a document type, which is refused") from error
        side = {"L": "left", "R": "right"}.get(described.findtext("{*}SCPCOA/{*}SideOfTrack", ""), "")
        angles.append(described.findtext("{*}SCPCOA/{*}IncidenceAng"))
    known = [angle for angle in map(_number, angles) if angle is not None and 0 < angle < 90]
    image, storage, scale = (_png if "sar.png" in sample else _modulus)(sample, size)
    return image, {
        "captions": captions,
        "place": place,
        "incidence": known[0] if known else None,
        "side_of_track": side or None,
        "sensor": "Umbra",
        "spacing_m": [_number(meta.get("spacing_eff_az")), _number(meta.get("spacing_eff_rg"))],
        "storage": storage,
        "mu": scale and scale.mu,
        "sigma": scale and scale.sigma,
    }


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _png(sample: Mapping[str, Any], size: int) -> tuple[bytes, str, Normalisation | None]:
    """The PNG as published, decoded once to know that it is whole; its size is judged before its pixels are."""
    try:
        image = Image.open(io.BytesIO(sample["sar.png"]), formats=("PNG",))
    except Image.DecompressionBombError as error:
        raise InputError(f"has a PNG that is not {size} x {size} px of 8-bit grey") from error
    if image.size != (size, size) or image.mode != "L":
        raise InputError(f"has a PNG that is not {size} x {size} px of 8-bit grey")
    image.load()
    low, high = image.getextrema()
    if low == high:
        raise InputError("is constant")
    return sample["sar.png"], "8-bit", None


def _modulus(sample: Mapping[str, Any], size: int) -> tuple[bytes, str, Normalisation | None]:
    """The modulus of the complex array, A / (mu + 3 sigma) by its own mu and sigma, as PNG. Nothing pickled is loaded."""
    if "sar.npy" not in sample:
        raise InputError("has no image of the wanted kind")
    file = io.BytesIO(sample["sar.npy"])
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    if shape != (size, size) or dtype.kind != "c":  # before anything of the size that it claims is made; objects are pickled
        raise InputError(f"has an NPY that is no complex array of {size} x {size} px")
    file.seek(0)
    amplitude = np.abs(np.load(file, allow_pickle=False))
    if not np.isfinite(amplitude).all() or amplitude.min() == amplitude.max():
        raise InputError("has an NPY that is constant or not finite")
    scale = Normalisation.from_moments([moments(amplitude)])
    buffer = io.BytesIO()
    Image.fromarray(scale.apply(amplitude)).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue(), "complex", scale

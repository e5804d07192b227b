"""Shards in SARLO-80's layout: what the tests of its reader, and of the whole study on it, are fed with."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

TEXTS = {
    "city": ("A dense city.", "Urban blocks in a city.", "A long view of a city with urban streets."),
    "harbour": ("A harbour with docks.", "Ships at the docks of a harbour.", "A harbour."),
    "forest": ("A forest.", "Dense woodland.", "Trees of a forest."),
}
SICD = '<SICD xmlns="urn:SICD:1.3.0"><SCPCOA><SideOfTrack>L</SideOfTrack><IncidenceAng>33.5</IncidenceAng></SCPCOA></SICD>'


def complex_image(number: int, size: int) -> np.ndarray:
    """Single-look speckle, complex64 [size, size]."""
    rng = np.random.default_rng(number)
    return (rng.normal(size=(size, size)) + 1j * rng.normal(size=(size, size))).astype(np.complex64)


def grey_image(number: int, size: int) -> np.ndarray:
    return np.clip(40 * np.abs(complex_image(number, size)), 0, 255).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def sample(number: int, kind: str = "city", place: str = "Rome", size: int = 32, **changed: bytes | None) -> dict[str, bytes]:
    """Members of one sample; ``changed`` by kind with "_" for ".", None to leave one out."""
    meta = {
        "city": place,
        "caption": dict(zip(("SHORT", "MID", "LONG"), TEXTS[kind])),
        "spacing_eff_az": 0.8,
        "spacing_eff_rg": 0.81,
        "incidence_angles": {"terrain_deg": None, "ellipsoid_deg": 41.0, "sicd_deg": 40.5},
    }
    parts = {
        "sar_png": png(grey_image(number, size)),
        "sar_npy": npy(complex_image(number, size)),
        "sicd_xml": SICD.encode(),
        "meta_json": json.dumps(meta).encode(),
    }
    return {f"{number:08d}.{name.replace('_', '.')}": data for name, data in (parts | changed).items() if data is not None}


def write_shard(path: Path, *samples: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w") as archive:
        for info in extra:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
        for name, data in (item for sample in samples for item in sample.items()):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path

"""Speed and memory of the readers of products and shards, alone on a machine: ``pytest -s --benchmark-only`` with this file."""

from __future__ import annotations

import io
import json
import resource
import tarfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from PIL import Image
from rasterio.windows import Window

from sarnb.data.patches import import_products
from sarnb.data.sarlo80 import build_sarlo80

SIDE, CORES = 20_000, 2


def _cpu() -> float:
    """Processor seconds of this process and of its workers that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def test_tiling_a_large_geotiff(benchmark, tmp_path):
    """20,000 x 20,000 px of 16 bits into patches of 1024 px: 40 Mpixel/s or more on two cores, in 1 GB or less."""
    block = np.random.default_rng(0).rayleigh(300, (2000, 2000)).astype(np.uint16) + 1
    shape = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "uint16", "tiled": True, "blockxsize": 512, "blockysize": 512}
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.8, 0, 5e5, 0, -0.8, 5e6)}
    with rasterio.Env(GDAL_CACHEMAX=64), rasterio.open(tmp_path / "large.tif", "w", driver="GTiff", **shape, **where) as file:
        for top in range(0, SIDE, 2000):
            for left in range(0, SIDE, 2000):
                file.write(block, 1, window=Window(left, top, 2000, 2000))
    before, memory, done = _cpu(), [0.0], threading.Event()

    def watch() -> None:
        """Note the largest memory of this process and its workers; what they share is counted once."""
        while not done.wait(0.2):
            with suppress(psutil.Error):
                family = [psutil.Process(), *psutil.Process().children(recursive=True)]
                memory[0] = max(memory[0], sum(process.memory_full_info().pss for process in family) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work = {"files": [tmp_path / "large.tif"], "out": tmp_path / "set", "quantity": "amplitude", "workers": CORES}
    card = benchmark.pedantic(import_products, kwargs=work, rounds=1)
    done.set()
    watcher.join()
    pixels, seconds = sum(card["totals"][split] for split in ("train", "val", "test")) * 1024**2 / 1e6, _cpu() - before
    benchmark.extra_info |= {
        "Mpixel/s": pixels / benchmark.stats.stats.mean,
        f"Mpixel/s of processor time, {CORES} cores": CORES * pixels / seconds,
        "MB, this process and its workers": memory[0],
    }
    print(benchmark.extra_info)
    assert 0 < memory[0] <= 1024


@pytest.mark.parametrize("kinds", [("sar.png",), ("sar.npy", "sar.png")])
def test_reading_shards(benchmark, tmp_path, kinds):
    """1024 x 1024 px samples: 200 a second or more on two cores, of shards of amplitudes; and with the complex arrays passed over."""
    image = np.random.default_rng(0).rayleigh(60, (1024, 1024)).clip(0, 255).astype(np.uint8)
    png, npy = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(png, format="PNG")
    np.save(npy, image.astype(np.complex64))
    data = {"sar.png": png.getvalue(), "sar.npy": npy.getvalue()}
    texts = dict.fromkeys(("SHORT", "MID", "LONG"), "A city.")
    count = 60 if "sar.npy" in kinds else 200  # a shard of SARLO-80 has 169; of complex ones they would take gigabytes
    for shard in range(4):
        with tarfile.open(Path(tmp_path, f"{shard}.tar"), "w") as archive:
            for number in range(count):
                meta = json.dumps({"city": f"{shard} {number % 7}", "caption": texts}).encode()
                for kind, content in [(kind, data[kind]) for kind in kinds] + [("meta.json", meta)]:
                    info = tarfile.TarInfo(f"{number:08d}.{kind}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    before = _cpu()
    work = {"out": tmp_path / "set", "shards": f"{tmp_path}/*.tar", "workers": CORES}
    card = benchmark.pedantic(build_sarlo80, kwargs=work, rounds=1)
    seconds = _cpu() - before
    assert card["samples"]["read"] == 4 * count
    benchmark.extra_info |= {
        "samples/s": 4 * count / benchmark.stats.stats.mean,
        f"samples/s of processor time, {CORES} cores": CORES * 4 * count / seconds,
    }
    print(benchmark.extra_info)

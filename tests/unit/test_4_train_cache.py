"""Caches on disk: mapped and not read, made by one process, whole or not there."""

from __future__ import annotations

import signal

import crash_workers as workers
import numpy as np
import psutil
import pytest
import torch
from tiny import tiny_pipeline, tiny_set

import sarnb.train.cache as module
from sarnb.errors import InputError
from sarnb.train.cache import LatentCache, cache_latents, tensor_store

ROWS, SHAPE = 3000, (4, 64, 64)  # 197 MB a tensor


def big_pieces():
    for start in range(0, ROWS, 100):
        number = torch.arange(start, start + 100.0).view(-1, 1, 1, 1)
        yield {"mean": number.expand(100, *SHAPE).clone(), "std": torch.zeros(100, *SHAPE)}


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def test_neither_making_nor_reading_takes_the_set_into_memory(tmp_path):
    before, peaks = resident_mb(), []

    def watched():
        for piece in big_pieces():
            yield piece
            peaks.append(resident_mb())

    tensors = tensor_store(tmp_path, "latents", {}, watched, ROWS)
    latents = LatentCache(**tensors, vae="a")
    drawn = latents.sample(np.array([2999, 7]), torch.Generator().manual_seed(0))
    assert drawn[:, 0, 0, 0].tolist() == [2999.0, 7.0]
    size = sum(value.nbytes for value in tensors.values()) / 1e6
    assert size > 390 and max(peaks) - before < size / 2 and resident_mb() - before < size / 4
    both = latents.joined(latents)
    assert both.sample(np.array([ROWS + 5]), torch.Generator().manual_seed(0)).mean() == 5.0
    assert resident_mb() - before < size / 4  # joining copies nothing either


def test_joined_latents_are_those_of_a_copy_of_both():
    rng = torch.Generator().manual_seed(0)
    one, two = (LatentCache(torch.randn(n, 2, 3, 3, generator=rng), torch.rand(n, 2, 3, 3, generator=rng), "a") for n in (4, 3))
    copied = LatentCache(torch.cat([one.mean, two.mean]), torch.cat([one.std, two.std]), "a")
    ids = np.array([6, 0, 3, 4, 4])
    ours, theirs = (cache.sample(ids, torch.Generator().manual_seed(1)) for cache in (one.joined(two), copied))
    assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match="made by the autoencoder b"):
        one.joined(LatentCache(two.mean, two.std, "b"))


def files_of(folder) -> list[str]:
    """Names of all files of the one table in a folder, without that of the table."""
    (table,) = folder.iterdir()
    return sorted(path.name for path in table.iterdir())


def test_the_files_are_numpys_own(tmp_path):
    made = {"a": torch.arange(12.0).view(6, 2), "b": torch.arange(6).view(6, 1).half()}
    pieces = lambda: ({name: value[start : start + 4] for name, value in made.items()} for start in (0, 4))  # noqa: E731
    found = tensor_store(tmp_path, "x", {"vae": "v"}, pieces, 6)
    (table,) = tmp_path.glob("x-*")
    for name, value in made.items():
        assert torch.equal(found[name], value) and np.array_equal(np.load(table / f"{name}.npy"), value.numpy())


def test_of_several_processes_one_makes_the_files(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    writers = [workers.PROCESSES.Process(target=workers.write_table, args=(folder, log)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    made = [line.split() for line in log.read_text().splitlines()]
    assert [number for _, number in made] == list("01234") and len({writer for writer, _ in made}) == 1
    assert files_of(folder) == ["kept.json", "x.npy", "y.npy"]


def test_a_killed_writer_leaves_nothing_that_is_taken_for_a_cache(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    writer = workers.PROCESSES.Process(target=workers.write_table, args=(folder, log, 3))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL and files_of(folder) == ["x.npy", "y.npy"]
    workers.write_table(folder, log)  # its lock died with it
    assert files_of(folder) == ["kept.json", "x.npy", "y.npy"] and len(log.read_text().splitlines()) == 4 + 5


@pytest.mark.parametrize("size", [0, 4, 40, -3])
@pytest.mark.parametrize("name", ["x.npy", "kept.json"])
def test_a_cut_file_is_made_again(tmp_path, name, size):
    folder, log = tmp_path / "cache", tmp_path / "log"
    workers.write_table(folder, log)
    (path,) = folder.glob(f"*/{name}")
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    workers.write_table(folder, log)
    assert path.read_bytes() == whole and len(log.read_text().splitlines()) == 10


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(InputError, match="latents-.*could not be written.*No space left.*free some space"):
        cache_latents(tiny_pipeline(), tiny_set().images, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_with_missing_rows_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="2 rows were made where 3 were announced"):
        tensor_store(tmp_path, "t", {}, lambda: iter([{"x": torch.zeros(2, 1)}]), 3)
    assert list(tmp_path.iterdir()) == []

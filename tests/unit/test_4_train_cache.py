"""Caches on disk: mapped and not read, made by one process, whole or not there."""

from __future__ import annotations

import signal

import lives
import numpy as np
import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_pipeline, tiny_set

import sarnb.train.cache as module
from sarnb.errors import InputError
from sarnb.train.cache import LatentCache, cache_latents, stored_rows

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

    tensors = stored_rows(tmp_path / "latents.safetensors", watched, ROWS)
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


def test_the_file_is_plain_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    made = {"a": torch.arange(12.0).view(6, 2), "b": torch.arange(6).view(6, 1).half()}
    stored_rows(path, lambda: ({name: value[start : start + 4] for name, value in made.items()} for start in (0, 4)), 6, {"vae": "v"})
    assert all(torch.equal(value, made[name]) for name, value in load_file(path).items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"vae": "v"}


def test_of_several_processes_one_makes_the_file(tmp_path):
    path, log = tmp_path / "cache" / "t.safetensors", tmp_path / "log"
    writers = [lives.PROCESSES.Process(target=lives.write_table, args=(path, log)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    made = [line.split() for line in log.read_text().splitlines()]
    assert [number for _, number in made] == list("01234") and len({writer for writer, _ in made}) == 1
    assert [file.name for file in path.parent.iterdir()] == ["t.safetensors"]


def test_a_killed_writer_leaves_nothing_that_is_taken_for_a_cache(tmp_path):
    path, log = tmp_path / "cache" / "t.safetensors", tmp_path / "log"
    writer = lives.PROCESSES.Process(target=lives.write_table, args=(path, log, 3))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL and not path.exists() and len(list(path.parent.iterdir())) == 1
    lives.write_table(path, log)  # its lock died with it
    assert [file.name for file in path.parent.iterdir()] == ["t.safetensors"]


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_cut_file_is_made_again(tmp_path, size):
    path, log = tmp_path / "t.safetensors", tmp_path / "log"
    lives.write_table(path, log)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    lives.write_table(path, log)
    assert path.read_bytes() == whole and len(log.read_text().splitlines()) == 10


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(InputError, match="latents-.*could not be saved.*No space left.*free some disk space"):
        cache_latents(tiny_pipeline(), tiny_set().images, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_with_missing_rows_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="2 rows were made where 3 were announced"):
        stored_rows(tmp_path / "t.safetensors", lambda: [{"x": torch.zeros(2, 1)}], 3)
    assert list(tmp_path.iterdir()) == []

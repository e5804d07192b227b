"""Caches on disk: the right file for the right content, mapped and not read, made by one process, whole or not there."""

from __future__ import annotations

import signal
from unittest.mock import Mock

import crash_workers as workers
import numpy as np
import psutil
import pytest
import torch
from tiny import tiny_pipeline, tiny_set

import sarnb.train.cache as module
from sarnb.errors import InputError
from sarnb.train.cache import LatentCache, cache_latents, cache_text, content_key, tensor_store, text_cache_bytes

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
    package, theirs = (cache.sample(ids, torch.Generator().manual_seed(1)) for cache in (one.joined(two), copied))
    assert torch.equal(package, theirs)
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_writer_leaves_nothing_that_is_taken_for_a_cache(tmp_path):
    folder, log = tmp_path / "cache", tmp_path / "log"
    writer = workers.PROCESSES.Process(target=workers.write_table, args=(folder, log, 3))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL and files_of(folder) == ["x.npy", "y.npy"]
    workers.write_table(folder, log)  # its lock died with it
    assert files_of(folder) == ["kept.json", "x.npy", "y.npy"] and len(log.read_text().splitlines()) == 4 + 5


@pytest.mark.parametrize("size", [None, 0, 40, -3])
@pytest.mark.parametrize("name", ["x.npy", "kept.json"])
def test_a_damaged_file_is_made_again(tmp_path, name, size):
    folder, log = tmp_path / "cache", tmp_path / "log"
    workers.write_table(folder, log)
    (path,) = folder.glob(f"*/{name}")
    whole = path.read_bytes()
    path.write_bytes(b"\xff" * 8 + whole[8:] if size is None else whole[:size])  # another header, or cut
    workers.write_table(folder, log)
    assert path.read_bytes() == whole and len(log.read_text().splitlines()) == 10


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "posix_fallocate", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="latents-.*could not be written.*No space left.*free some space"):
        cache_latents(tiny_pipeline(), tiny_set().images, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_table_with_missing_rows_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="2 rows were made where 3 were announced"):
        tensor_store(tmp_path, "t", {}, lambda: iter([{"x": torch.zeros(2, 1)}]), 3)
    assert list(tmp_path.iterdir()) == []


def test_latents_of_other_images_or_weights_have_another_file_and_are_drawn_anew_at_each_step(tmp_path):
    pipe, images = tiny_pipeline(), tiny_set().images
    latents = cache_latents(pipe, images, tmp_path)
    assert torch.equal(latents.mean, cache_latents(pipe, images, None).mean)
    changed = images.copy()
    changed[0, 0, 0] ^= 1
    cache_latents(pipe, changed, tmp_path)
    cache_latents(tiny_pipeline(seed=1), images, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3 and content_key("ab", "c") != content_key("a", "bc")
    many = torch.stack([latents.sample(np.array([0]), torch.Generator().manual_seed(s)) for s in range(400)])
    assert not torch.equal(many[0], many[1])
    torch.testing.assert_close(many.mean(dim=0), latents.mean[:1], atol=0.25 * float(latents.std.max()), rtol=0)


# Cached text embeddings: the right file for the right captions, encoders and tokenizers, whole and mapped, or made anew.


CAPTIONS = ["a radar image of a city", "forest", "a radar image of a forest of a city", "image"]


@pytest.fixture
def encoded(monkeypatch) -> list[list[str]]:
    """The batches of captions that the encoders compute."""
    requested: list[list[str]] = []
    encode = module.encode_prompts

    def noted(pipe, prompts):
        requested.append(prompts)
        return encode(pipe, prompts)

    monkeypatch.setattr(module, "encode_prompts", noted)
    return requested


def nudge(encoder) -> None:
    (place,) = [p for name, p in encoder.named_parameters() if "position_embedding" in name]
    with torch.no_grad():
        place[0, 3] += 1e-3


def compute_otherwise(pipe, name: str, **config) -> None:
    """The same weights in a network of another configuration."""
    old = getattr(pipe, name)
    new = type(old)(type(old.config).from_dict(old.config.to_dict() | config)).eval()
    new.load_state_dict(old.state_dict())
    setattr(pipe, name, new)


CHANGES = {
    "a weight of the first encoder": lambda pipe: nudge(pipe.text_encoder),
    "a weight of the second encoder": lambda pipe: nudge(pipe.text_encoder_2),
    "a word of the first tokenizer": lambda pipe: pipe.tokenizer.add_tokens("<new>"),
    "a word of the second tokenizer": lambda pipe: pipe.tokenizer_2.add_tokens("<new>"),
    "the padding": lambda pipe: setattr(pipe.tokenizer_2, "pad_token", "<|endoftext|>"),
    "the activation of the first encoder": lambda pipe: compute_otherwise(pipe, "text_encoder", hidden_act="gelu"),
    "the heads of the second encoder": lambda pipe: compute_otherwise(pipe, "text_encoder_2", num_attention_heads=4),
    "the number of places": lambda pipe: [setattr(words, "model_max_length", 12) for words in (pipe.tokenizer, pipe.tokenizer_2)],
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_pipeline_has_another_file(change, encoded, tmp_path):
    """With the rows that it would make without a cache, not those that the first one left."""
    left = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    pipe = tiny_pipeline()
    CHANGES[change](pipe)
    found, fresh = cache_text(pipe, CAPTIONS, tmp_path), cache_text(pipe, CAPTIONS, None)
    assert len(encoded) == 3 and len(list(tmp_path.iterdir())) == 2
    assert torch.equal(found.hidden, fresh.hidden) and torch.equal(found.pooled, fresh.pooled)
    assert "word" in change or not torch.equal(found.hidden, left.hidden)


@pytest.mark.parametrize("captions", [CAPTIONS[:-1], [*CAPTIONS, "radar"], [*CAPTIONS[:-1], "an image"]])
def test_other_captions_have_another_file(captions, encoded, tmp_path):
    cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    found = cache_text(tiny_pipeline(), captions, tmp_path)
    assert len(encoded) == len(list(tmp_path.iterdir())) == 2 and sorted(found.rows) == sorted(["", *captions])


def test_order_and_repetition_of_captions_make_no_difference(encoded, tmp_path):
    first = cache_text(tiny_pipeline(), CAPTIONS, tmp_path)
    again = cache_text(tiny_pipeline(), [*reversed(CAPTIONS), *CAPTIONS, ""], tmp_path)
    assert len(encoded) == 1 and len(list(tmp_path.iterdir())) == 1 and again.rows == first.rows
    assert torch.equal(first.hidden, again.hidden) and torch.equal(first.pooled, again.pooled)  # read, not encoded again
    assert len(set(encoded[0])) == len(encoded[0]) == len(CAPTIONS) + 1  # each once, and the empty one


@pytest.mark.parametrize("batch_size", [64, 2])
def test_rows_are_what_the_diffusers_pipeline_encodes(batch_size, encoded, tmp_path):
    pipe = tiny_pipeline()
    texts = cache_text(pipe, CAPTIONS, tmp_path, batch_size)
    assert [len(batch) for batch in encoded] == ([5] if batch_size == 64 else [2, 2, 1])
    requested = ["forest", "", CAPTIONS[0], "forest"]
    hidden, pooled = texts.look_up(requested)
    assert hidden.shape == (4, 16, 16 + 24) and pooled.shape == (4, 24)
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    for row, caption in enumerate(requested):
        expected, _, expected_pooled, _ = pipe.encode_prompt(caption, do_classifier_free_guidance=False)
        torch.testing.assert_close(hidden[row], expected[0])
        torch.testing.assert_close(pooled[row], expected_pooled[0])
    assert (hidden[0] - hidden[1]).abs().max() > 0.1 and torch.equal(hidden[0], hidden[3])


def test_an_encoder_that_fails_half_way_leaves_no_file(monkeypatch, encoded, tmp_path):
    encode = module.encode_prompts

    def fails(pipe, prompts):
        if len(encoded) == 2:
            raise RuntimeError("out of memory")
        return encode(pipe, prompts)

    monkeypatch.setattr(module, "encode_prompts", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache_text(tiny_pipeline(), CAPTIONS, tmp_path, batch_size=1)
    assert list(tmp_path.iterdir()) == []
    encoded.clear()
    assert len(cache_text(tiny_pipeline(), CAPTIONS, tmp_path).hidden) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_and_format_are_known_before(dtype, tmp_path):
    pipe = tiny_pipeline()
    pipe.text_encoder.to(dtype), pipe.text_encoder_2.to(dtype)
    texts = cache_text(pipe, [*CAPTIONS, *CAPTIONS], tmp_path)
    assert texts.hidden.dtype == texts.pooled.dtype == dtype
    assert text_cache_bytes(pipe, [*CAPTIONS, *CAPTIONS]) == texts.hidden.nbytes + texts.pooled.nbytes

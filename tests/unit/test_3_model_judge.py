"""The judge before and after its training: the foundation's words with weights of its own, or a CLIP of open_clip."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_set, tiny_tokenizer

from sarnb import foundation_path
from sarnb.errors import InputError
from sarnb.model.judge import (
    CONFIG,
    WEIGHTS,
    DualEncoder,
    build_judge,
    foundation_tokenizer,
    load_judge,
    load_open_clip,
    start_judge,
)
from sarnb.train.judge import judge_config, train_judge


def test_the_words_are_the_foundations(tmp_path):
    by_name, by_folder = foundation_tokenizer("embedded"), foundation_tokenizer(str(foundation_path()))
    text = "a radar image of a city, illuminated from the left"
    assert by_name(text).input_ids == by_folder(text).input_ids
    assert by_name.get_vocab() == by_folder.get_vocab()
    with pytest.raises(InputError, match="nothing_here.*tokenizer"):
        foundation_tokenizer(str(tmp_path / "nothing_here"))


def test_the_start_depends_on_the_seed_only_and_reads_texts_of_full_length():
    tokenizer = tiny_tokenizer("<|endoftext|>")
    first, again, other = (build_judge(tokenizer, seed) for seed in (3, 3, 4))
    state = first.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    assert not torch.equal(state["image.stem.weight"], other.state_dict()["image.stem.weight"])
    assert first.texts[0].config.max_position_embeddings == tokenizer.model_max_length
    assert first.embed_texts(["radar " * 40]).shape == (1, 128)


def test_a_judge_that_is_read_back_is_frozen_and_the_same(tmp_path):
    judge = build_judge(tiny_tokenizer("<|endoftext|>"), 1)
    judge.save(tmp_path / "judge")
    found = load_judge(tmp_path / "judge")
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in judge.state_dict().items())
    images, texts = np.zeros((1, 32, 32), np.uint8), ["radar", "a city"]
    assert torch.equal(found.embed_images(images), judge.embed_images(images))
    assert torch.equal(found.embed_texts(texts), judge.embed_texts(texts))
    with pytest.raises(InputError, match="no readable dual encoder"):
        DualEncoder.load(tmp_path)


# A CLIP of open_clip.

CONFIGURATION = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random CLIP in the layout that open_clip writes and reads."""
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    place = tmp_path_factory.mktemp("openclip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.model.CLIP(**CONFIGURATION)
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic", "resize_mode": "squash"}
    (place / CONFIG).write_text(json.dumps({"model_cfg": CONFIGURATION, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), place / WEIGHTS)
    return place


def test_features_are_those_of_open_clip(folder):
    import open_clip

    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    texts = ["a radar image of a city, illuminated from the left", "a forest"]
    judge = load_judge(folder)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        expected = model.encode_image(preprocess(Image.fromarray(image[0]))[None], normalize=True)
        words = model.encode_text(tokenizer(texts), normalize=True)
    torch.testing.assert_close(judge.embed_images(image), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(judge.embed_texts(texts), words, atol=1e-5, rtol=0)


def test_grey_images_of_another_size_are_resized(folder):
    grey = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 256, (2, 8, 8), dtype=np.uint8), 8, 1), 8, 2)
    features = load_judge(folder).embed_images(grey)
    assert features.shape == (2, 16) and torch.allclose(features.norm(dim=1), torch.ones(2))


def test_it_trains_is_saved_and_read_back(folder, tmp_path):
    start = start_judge(str(folder), "embedded")
    run = train_judge(tiny_set(), "embedded", judge_config(2, start=str(folder)), tmp_path, batch_size=4, start=str(folder))
    image = np.zeros((1, 32, 32), np.uint8)
    again = load_judge(tmp_path)
    assert torch.equal(again.embed_images(image), run.judge.embed_images(image))
    assert not torch.equal(again.embed_images(image), start.embed_images(image)) and run.record["start"] == str(folder)


def test_what_is_not_there_is_one_sentence(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such folder"):
        load_open_clip(str(tmp_path / "nothing"))
    (tmp_path / CONFIG).write_text((folder / CONFIG).read_text())
    with pytest.raises(InputError, match="cannot load it"):
        load_open_clip(str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(InputError, match="open_clip_torch"):
        load_open_clip("ViT-L-14:openai")

"""What a notebook's study asks of its judge and of its reader of the side."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from tiny import tiny_pipeline, tiny_set

import sarnb.study as module
from sarnb.metrics.geometry import side_features
from sarnb.metrics.report import headline_anchors
from sarnb.model.strategy import find_strategy
from sarnb.study import Study

CLASSES = ("city", "forest", "river", "coast")


@pytest.fixture
def study(monkeypatch):
    """A study without a notebook: what its parameters say, and its images by split."""
    made = object.__new__(Study)
    made.values, made.seed = SimpleNamespace(sensor="airborne-x", sampling_steps=2, guidance_scale=3.0, foundation="none"), 0
    made.card = {"size": 16}
    return made


def test_a_trial_is_graded_by_what_the_judge_recognises(study, monkeypatch):
    requested = []

    def draw(pipe, texts, seeds, *_, **__):  # a grey level says which class is drawn; coasts come out as forests
        requested.extend(texts)
        named = [next(number for number, label in enumerate(CLASSES) if label in text) for text in texts]
        levels = np.array([1 if number == 3 else number for number in named], np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (len(texts), 8, 8, 3))

    monkeypatch.setattr(module, "generate", draw)
    monkeypatch.setattr(module, "to_grey", lambda images: images[..., 0])
    monkeypatch.setattr(module, "embed_images", lambda judge, images: np.eye(4)[images[:, 0, 0]])
    monkeypatch.setattr(
        module, "embed_texts", lambda judge, texts: np.array([[label in text for label in CLASSES] for text in texts], float)
    )
    study.judge = "judge"
    monkeypatch.setattr(Study, "images", lambda self, split: SimpleNamespace(labels=[*CLASSES, "city+coast"]))
    assert study.grade(None, find_strategy("unet-full"), ("city", "coast")) == 0.5
    assert study.grade(None, find_strategy("unet-full"), ("river",)) == 1.0
    assert sum("from the left" in text for text in requested) == sum("from the right" in text for text in requested) == len(requested) / 2
    requested.clear()
    study.grade(None, find_strategy("token"), ("river",))
    assert all("<SAR>" in text for text in requested) and len(requested) == module.GRADED


def test_the_reader_of_the_side_knows_what_the_decoder_leaves(study, monkeypatch):
    rng = np.random.default_rng(0)

    def lit(count):
        """Bright blocks with a shadow away from the radar, in speckle."""
        images = np.full((count, 64, 64), 60.0)
        looks = ["left" if number % 2 else "right" for number in range(count)]
        for image, look in zip(images, looks):
            for row, column in rng.integers(12, 52, (6, 2)):
                image[row - 3 : row + 3, column - 3 : column] = 240 if look == "left" else 4
                image[row - 3 : row + 3, column : column + 3] = 4 if look == "left" else 240
        return (images * rng.rayleigh(0.8, images.shape)).clip(0, 255).astype(np.uint8), looks

    def blurred(images):
        return np.stack([gaussian_filter(image.astype(float), 1.5) for image in images]).astype(np.uint8)

    images, looks = lit(80)
    data = tiny_set(80)
    known = replace(data, images=images, rows=tuple({**row, "look": look} for row, look in zip(data.rows, looks)))
    monkeypatch.setattr(Study, "images", lambda self, split: known if split == "judge" else None)
    monkeypatch.setattr(module, "foundation_vae", lambda spec: "the foundation's")
    monkeypatch.setattr(module, "encode_posterior", lambda vae, images: (torch.as_tensor(images),))
    monkeypatch.setattr(module, "normalise_latents", lambda vae, latents: latents)
    monkeypatch.setattr(module, "decode_latents", lambda vae, latents: np.repeat(blurred(latents.numpy())[..., None], 3, axis=3))
    study.tuned_decoder = None
    reader = study.look_reader()
    again, sides = lit(60)
    signs = np.array([1 if look == "left" else -1 for look in sides])
    for seen in (again, blurred(again)):
        assert (np.sign(side_features(seen) @ reader) == signs).mean() > 0.9
    known = replace(known, rows=tuple({key: value for key, value in row.items() if key != "look"} for row in known.rows))
    assert study.look_reader() is None


def test_anchors_are_computed_once_for_all_notebooks_and_read_back_to_the_bit(study, monkeypatch, tmp_path):
    study.samples, study.card, study.values.bootstrap_resamples = tmp_path, {"name": "tiny"}, 10
    rng = np.random.default_rng(0)
    data = tiny_set(12)
    test = replace(data, images=(60 * rng.rayleigh(size=(12, 32, 32))).clip(0, 255).astype(np.uint8))
    blurred = {"reference, tuned decoder": replace(test, images=test.images // 2)}
    labels = test.labels[:6]
    counted = []
    monkeypatch.setattr(module, "headline_anchors", lambda *given: counted.append(1) or headline_anchors(*given))
    first, second = (study._anchors(test, labels, blurred) for _ in range(2))
    assert len(counted) == 1
    wanted = headline_anchors(test, labels, 10, 0, blurred)
    for table in (first, second):
        pd.testing.assert_frame_equal(table, wanted, check_exact=True)
        assert [tuple(row) for row in table.attrs["left_out"]] == wanted.attrs["left_out"]
    study._anchors(test, labels, {})
    study._anchors(replace(test, images=test.images[::-1]), labels, blurred)
    study.seed = 1
    study._anchors(test, labels, blurred)
    assert len(counted) == 4, "other decoders, images and seeds have other anchors"


def test_the_foundations_drawings_are_drawn_once_for_all_notebooks(study, monkeypatch, tmp_path):
    study.samples, pipe, drawn = tmp_path, tiny_pipeline(), []
    monkeypatch.setattr(module, "load_foundation", lambda spec: pipe)

    def draw(pipe, texts, seeds, *_, **__):
        drawn.append(texts)
        return np.stack([np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8) for seed in seeds])

    monkeypatch.setattr(module, "generate", draw)
    first, second = (study._before(["a city", "a forest"], (3, 4)) for _ in range(2))
    assert len(drawn) == 1 and first.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(first, draw(pipe, [], (3, 4)))
    np.testing.assert_array_equal(second, first)
    study._before(["a city", "a forest"], (3, 5))
    study.values.guidance_scale = 4.0
    study._before(["a city", "a forest"], (3, 4))
    assert len(drawn) == 4, "other noise and another sampler draw anew"

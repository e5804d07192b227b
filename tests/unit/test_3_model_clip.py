"""The dual encoder: its loss, its files, and that it learns what is there to be learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sarnb.errors import InputError
from sarnb.model.clip import DualEncoder, build_dual_encoder
from sarnb.model.foundation import FoundationConfig
from sarnb.model.tokenizer import train_tokenizer
from sarnb.train.clip import contrastive_loss, shifted, train_clip
from sarnb.train.loop import LoopConfig

SMALL = FoundationConfig(text_width=32, text_layers=1, max_tokens=12)
CAPTIONS = ["a picture of rows", "a picture of columns"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(CAPTIONS * 5, 560, 12, tmp_path_factory.mktemp("tokenizer"))


def test_contrastive_loss_of_a_perfect_and_a_blind_batch():
    unit = torch.eye(4)
    assert contrastive_loss(unit, unit, torch.tensor(4.6)) < 1e-6
    same = torch.ones(4, 4) / 2
    torch.testing.assert_close(contrastive_loss(same, same, torch.tensor(1.0)), torch.tensor(4.0).log())


def test_no_word_is_lost_by_the_tokenizer(tokenizer):
    text = "a zebra, 42 & ünïcode"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert tokenizer("a picture").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.tokenize("picture") == ["picture</w>"]


def test_shift_moves_and_never_mirrors():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    moved = shifted(image, np.random.default_rng(0), reach=3)
    rolls = [np.roll(image[0], (r, c), axis=(0, 1)) for r in range(-3, 4) for c in range(-3, 4)]
    assert any(np.array_equal(moved[0], roll) for roll in rolls)


def test_it_learns_to_tell_rows_from_columns(tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    upright = rng.random(24) < 0.5
    stripes = 150 * (np.indices((32, 32)) // 4 % 2)
    images = (rng.integers(0, 60, (24, 32, 32)) + stripes[upright.astype(int)]).astype(np.uint8)
    encoder = build_dual_encoder(tokenizer, config=SMALL)
    captions = [(CAPTIONS[int(b)],) for b in upright]
    train_clip(encoder, images, captions, LoopConfig(steps=60, learning_rate=3e-4, precision="fp32"), tmp_path, batch_size=4)
    nearest = (encoder.embed_images(images) @ encoder.embed_texts(CAPTIONS).T).argmax(dim=1).numpy()
    assert (nearest == upright).mean() > 0.9
    encoder.save(tmp_path / "saved")
    again = DualEncoder.load(tmp_path / "saved")
    assert torch.equal(again.embed_images(images), encoder.embed_images(images))
    assert torch.equal(again.embed_texts(CAPTIONS), encoder.embed_texts(CAPTIONS))


def test_missing_encoder_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no readable dual encoder"):
        DualEncoder.load(tmp_path)


def test_captions_must_match_the_images(tokenizer, tmp_path):
    encoder = build_dual_encoder(tokenizer, config=SMALL)
    with pytest.raises(InputError, match="3 images but captions for 1"):
        train_clip(encoder, np.zeros((3, 32, 32), np.uint8), [("a",)], LoopConfig(steps=1), tmp_path)

"""The dual encoder: its loss, its files, and that it learns what is there to be learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sarnb.errors import InputError
from sarnb.foundation.tokenizer import train_tokenizer
from sarnb.model.foundation import FoundationConfig, to_pixels
from sarnb.model.judge import DualEncoder, build_dual_encoder
from sarnb.train.judge import (
    caption_table,
    contrary_r1,
    contrastive_loss,
    drawn_negatives,
    retrieval_r1,
    separation_loss,
    shifted,
    train_clip,
)
from sarnb.train.state import LoopConfig

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


def test_negatives_are_columns_of_their_own_image_only():
    rng = np.random.default_rng(3)
    images, texts, wrong = (rng.normal(size=shape) for shape in ((3, 5), (3, 5), (3, 2, 5)))
    images, texts, wrong = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts, wrong))
    present = np.array([[True, True], [True, False], [False, False]])
    expected = 0.0
    for row in range(3):
        columns = [images[row] @ text for text in texts] + [images[row] @ w for w, there in zip(wrong[row], present[row]) if there]
        expected += np.log(sum(np.exp(2.0 * c) for c in columns)) - 2.0 * columns[row]
        expected += np.log(sum(np.exp(2.0 * image @ texts[row]) for image in images)) - 2.0 * images[row] @ texts[row]
    tensors = [torch.from_numpy(x) for x in (images, texts)]
    scale = torch.tensor(2.0, dtype=torch.float64).log()
    value = contrastive_loss(*tensors, scale, torch.from_numpy(wrong), torch.from_numpy(present))
    assert value.item() == pytest.approx(expected / 6)
    absent = contrastive_loss(*tensors, scale, torch.from_numpy(wrong), torch.zeros(3, 2, dtype=bool))
    assert absent.item() == pytest.approx(contrastive_loss(*tensors, scale).item())
    assert contrastive_loss(*tensors, scale, torch.from_numpy(wrong)).item() > value.item()


def test_separation_parts_equal_texts_and_leaves_distant_ones_alone():
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    wrong = torch.tensor([[[0.8, 0.6], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    present = torch.tensor([[True, False], [True, False]])
    near = 0.7 - (0.2**2 + 0.6**2) ** 0.5  # the second pair is 1.41 apart and costs nothing
    assert separation_loss(texts, wrong, present).item() == pytest.approx(near / 2, abs=1e-5)
    assert separation_loss(texts, wrong, torch.zeros(2, 2, dtype=bool)).item() == 0
    close = torch.tensor([[1.0, 1e-3]], requires_grad=True)
    separation_loss(close, torch.tensor([[[1.0, 0.0]]]), torch.ones(1, 1, dtype=bool)).backward()
    assert close.grad[0, 1] < -0.5, "nearly equal texts are pushed apart, where the cosine has no slope"


def test_drawn_negatives_are_different_and_those_that_lack_are_absent():
    ids, present = drawn_negatives([[7, 8, 9], [5], []], 2, np.random.default_rng(0))
    assert present.tolist() == [[True, True], [True, False], [False, False]]
    assert len(set(ids[0])) == 2 and set(ids[0]) <= {7, 8, 9} and ids[1, 0] == 5


def test_table_of_captions_holds_each_text_once_and_only_what_concerns_the_images():
    negatives = {"a": ("b", "x"), "c": ("a",), "b": (), "of no image": ("y",)}
    table = caption_table([("a", "b"), ("b",)], negatives, {"b": "c", "of no image": "z"})
    words = [[table.texts[row] for row in several] for several in table.captions]
    assert words == [["a", "b"], ["b"]] and sorted(table.texts) == ["a", "b", "c", "x"]
    named = {table.texts[row]: [table.texts[wrong] for wrong in several] for row, several in table.negatives.items()}
    assert named == {"a": ["b", "x"], "c": ["a"]}, "the caption of a mirror image has wrong ones too"
    assert {table.texts[row]: table.texts[turned] for row, turned in table.mirrors.items()} == {"b": "c"}
    apart = caption_table([("a",)], text_only={"p": ("a", "q"), "no wrong one": ()})
    assert sorted(apart.texts) == ["a", "p", "q"]
    assert {apart.texts[row]: [apart.texts[wrong] for wrong in several] for row, several in apart.text_only.items()} == {"p": ["a", "q"]}


def test_recall_counts_images_that_prefer_their_own_text():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.0, 0.6], [0.0, 0.0, 1.0]])
    assert retrieval_r1(images, texts).item() == pytest.approx(2 / 3)  # the second is nearest to none
    wrong = torch.tensor([[[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]])
    present = torch.tensor([[True, False], [True, True], [False, False]])  # the first meets no equal, the third none at all
    assert contrary_r1(images, texts, wrong, present).item() == pytest.approx(1 / 2)
    assert contrary_r1(images, texts, wrong, torch.zeros(3, 2, dtype=bool)).isnan()


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


def test_negatives_teach_what_a_batch_of_one_cannot(tokenizer, tmp_path):
    rng = np.random.default_rng(1)
    upright = np.arange(16) % 2
    images = (rng.integers(0, 60, (16, 32, 32)) + 150 * (np.indices((32, 32)) // 4 % 2)[upright]).astype(np.uint8)
    captions, config = [(CAPTIONS[bit],) for bit in upright], LoopConfig(steps=80, learning_rate=3e-4, precision="fp32")
    encoder = build_dual_encoder(tokenizer, config=SMALL)
    wrong = {CAPTIONS[0]: (CAPTIONS[1],), CAPTIONS[1]: (CAPTIONS[0],)}
    history = train_clip(encoder, images, captions, config, tmp_path, batch_size=1, negatives=wrong)
    nearest = (encoder.embed_images(images) @ encoder.embed_texts(CAPTIONS).T).argmax(dim=1).numpy()
    assert (nearest == upright).mean() > 0.9 and history["contrary_r1"].iloc[-1] > 0.9
    assert history["retrieval_r1"].eq(1).all(), "alone in its batch an image finds its caption without knowing anything"


def test_words_of_no_picture_are_parted(tokenizer, tmp_path):
    images, captions = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8), [(text,) for text in CAPTIONS * 2]
    pair, gaps = ["a picture from the left", "a picture from the right"], []
    for number, apart in enumerate((None, {pair[0]: (pair[1],)})):
        encoder, config = build_dual_encoder(tokenizer, config=SMALL), LoopConfig(steps=40, learning_rate=1e-3, precision="fp32")
        train_clip(encoder, images, captions, config, tmp_path / str(number), batch_size=4, separation=1.0, text_only=apart)
        gaps.append(torch.dist(*encoder.embed_texts(pair)).item())
    assert gaps[0] < 0.35 < 0.6 < gaps[1], f"distances of unit vectors {gaps}, margin 0.7"


def test_mirrored_pictures_join_the_batch_with_their_captions(tokenizer, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    encoder, seen = build_dual_encoder(tokenizer, config=SMALL), []
    monkeypatch.setattr("sarnb.train.judge.shifted", lambda chosen, rng: chosen)
    monkeypatch.setattr("sarnb.train.judge.to_pixels", lambda batch: seen.append(batch) or to_pixels(batch))
    captions = [(CAPTIONS[0],), (CAPTIONS[1],), (CAPTIONS[0],), (CAPTIONS[1],)]
    train_clip(encoder, images, captions, LoopConfig(steps=1, precision="fp32"), tmp_path, batch_size=8, mirrors={CAPTIONS[0]: "a picture"})
    (batch,) = seen  # four pictures, and the two whose caption has a mirrored one
    assert batch.shape == (6, 32, 32)
    turned = {image.tobytes() for image in batch[4:]}
    assert turned == {np.ascontiguousarray(images[i][:, ::-1]).tobytes() for i in (0, 2)}


def test_without_negatives_nothing_changes(tokenizer, tmp_path):
    images, captions = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8), [(text,) for text in CAPTIONS * 2]
    weights = []
    for number, wrong in enumerate((None, {}, {"of no image": ("a picture",)})):
        encoder = build_dual_encoder(tokenizer, config=SMALL)
        config, out = LoopConfig(steps=2, precision="fp32"), tmp_path / str(number)
        history = train_clip(encoder, images, captions, config, out, batch_size=2, negatives=wrong)
        weights.append(torch.cat([value.flatten() for value in encoder.state_dict().values()]))
        assert "contrary_r1" not in history
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_missing_encoder_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no readable dual encoder"):
        DualEncoder.load(tmp_path)


def test_captions_must_match_the_images(tokenizer, tmp_path):
    encoder = build_dual_encoder(tokenizer, config=SMALL)
    with pytest.raises(InputError, match="3 images but captions for 1"):
        train_clip(encoder, np.zeros((3, 32, 32), np.uint8), [("a",)], LoopConfig(steps=1), tmp_path)

"""Contrastive training learns what is there to be learned; the judge trains once: complete is read back, cut short goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tiny import tiny_set, tiny_tokenizer

from sarnb.data import twin
from sarnb.errors import InputError
from sarnb.foundation.recipe import train_tokenizer
from sarnb.model.foundation import FoundationConfig, to_pixels
from sarnb.model.judge import DualEncoder, build_dual_encoder
from sarnb.train import judge as module
from sarnb.train.judge import (
    contrastive_loss,
    drawn_negatives,
    hard_negative_r1,
    judge_config,
    separation_loss,
    shifted,
    ship_judge,
    shipped_judge,
    train_clip,
    train_judge,
)
from sarnb.train.loop import batch_ids
from sarnb.train.state import LoopConfig

SMALL = FoundationConfig(text_width=32, text_layers=1, max_tokens=12)
CAPTIONS = ["a picture of rows", "a picture of columns"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(CAPTIONS * 5, 560, 12, tmp_path_factory.mktemp("tokenizer"))


def striped(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[str]]]:
    """Noisy rows or columns: pictures uint8 [count, 32, 32], which of ``CAPTIONS`` they are, and that caption."""
    upright = np.arange(count) % 2
    stripes = 150 * (np.indices((32, 32)) // 4 % 2)[upright]
    images = (np.random.default_rng(seed).integers(0, 60, (count, 32, 32)) + stripes).astype(np.uint8)
    return images, upright, [(CAPTIONS[bit],) for bit in upright]


def read_rightly(encoder: DualEncoder, images: np.ndarray, upright: np.ndarray) -> float:
    nearest = (encoder.embed_images(images) @ encoder.embed_texts(CAPTIONS).T).argmax(dim=1).numpy()
    return (nearest == upright).mean()


def noisy() -> tuple[np.ndarray, list[tuple[str]]]:
    """Four pictures without content, with both captions in turn."""
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8), [(text,) for text in CAPTIONS * 2]


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
    every = contrastive_loss(*tensors, scale, torch.from_numpy(wrong), torch.ones(3, 2, dtype=bool))
    assert every.item() > value.item()


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
    (first, second), (only, lacking), none = drawn_negatives([("x", "y", "z"), ("w",), ()], 2, np.random.default_rng(0))
    assert first != second and {first, second} <= {"x", "y", "z"} and (only, lacking) == ("w", None) and none == [None, None]


def test_hard_negatives_are_beaten_only_by_images_nearer_to_their_own_text():
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.0, 0.6], [0.0, 0.0, 1.0]])
    wrong = torch.tensor([[[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]])
    present = torch.tensor([[True, False], [True, True], [False, False]])  # the first meets no equal, the third none at all
    assert hard_negative_r1(images, texts, wrong, present).item() == pytest.approx(1 / 2)
    assert hard_negative_r1(images, texts, wrong, torch.zeros(3, 2, dtype=bool)).isnan()


def test_no_word_is_lost_by_the_tokenizer(tokenizer):
    text = "a zebra, 42 & ünïcode"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")
    assert tokenizer("a picture").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.tokenize("picture") == ["picture</w>"]


def test_shift_moves_and_never_mirrors():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    moved = shifted(np.repeat(image, 200, axis=0), np.random.default_rng(0), reach=3)
    rolls = [np.roll(image[0], (r, c), axis=(0, 1)) for r in range(-3, 4) for c in range(-3, 4)]
    places = {next(k for k, roll in enumerate(rolls) if np.array_equal(own, roll)) for own in moved}  # StopIteration: mirrored
    assert len(places) > 40, "of 49"


@pytest.mark.slow
def test_it_learns_to_tell_rows_from_columns(tokenizer, tmp_path):
    images, upright, captions = striped(24, 0)
    encoder, config = build_dual_encoder(tokenizer, SMALL), LoopConfig(steps=60, learning_rate=3e-4, precision="fp32")
    history = train_clip(encoder, images, captions, config, tmp_path, batch_size=4)
    assert read_rightly(encoder, images, upright) > 0.9 and history["retrieval_r1"].between(0, 1).all()


@pytest.mark.slow
def test_negatives_teach_what_a_batch_of_one_cannot(tokenizer, tmp_path):
    images, upright, captions = striped(16, 1)
    encoder, config = build_dual_encoder(tokenizer, SMALL), LoopConfig(steps=80, learning_rate=3e-4, precision="fp32")
    wrong = {CAPTIONS[0]: (CAPTIONS[1],), CAPTIONS[1]: (CAPTIONS[0],)}
    history = train_clip(encoder, images, captions, config, tmp_path, batch_size=1, negatives=wrong)
    assert read_rightly(encoder, images, upright) > 0.9 and history["hard_negative_r1"].iloc[-1] > 0.9
    assert history["retrieval_r1"].eq(1).all(), "alone in its batch an image finds its caption without knowing anything"


@pytest.mark.slow
def test_words_of_no_picture_are_parted(tokenizer, tmp_path):
    (images, captions), config = noisy(), LoopConfig(steps=40, learning_rate=1e-3, precision="fp32")
    pair, gaps = ["a picture from the left", "a picture from the right"], []
    for number, apart in enumerate((None, {pair[0]: (pair[1],)})):
        encoder, out = build_dual_encoder(tokenizer, SMALL), tmp_path / str(number)
        train_clip(encoder, images, captions, config, out, batch_size=4, separation=1.0, text_only=apart)
        gaps.append(torch.dist(*encoder.embed_texts(pair)).item())
    assert gaps[0] < 0.35 < 0.6 < gaps[1], f"distances of unit vectors {gaps}, margin 0.7"


def test_mirrored_pictures_join_the_batch_with_their_captions_and_the_hard_negatives_of_these(tokenizer, tmp_path, monkeypatch):
    (images, captions), seen, met = noisy(), [], []
    monkeypatch.setattr(module, "shifted", lambda chosen, rng: chosen)
    monkeypatch.setattr(module, "to_pixels", lambda batch: seen.append(batch) or to_pixels(batch))
    monkeypatch.setattr(module, "drawn_negatives", lambda several, *rest: met.extend(several) or drawn_negatives(several, *rest))
    encoder, config = build_dual_encoder(tokenizer, SMALL), LoopConfig(steps=1, precision="fp32")
    mirrors, wrong = {CAPTIONS[0]: "a picture", "of no image": "z"}, {"a picture": ("a row",), CAPTIONS[1]: ()}
    train_clip(encoder, images, captions, config, tmp_path, batch_size=8, mirrors=mirrors, negatives=wrong)
    (batch,) = seen  # four pictures, and the two whose caption has a mirrored one
    assert batch.shape == (6, 32, 32) and met == [(), (), (), (), ("a row",), ("a row",)]
    turned = {image.tobytes() for image in batch[4:]}
    assert turned == {np.ascontiguousarray(images[i][:, ::-1]).tobytes() for i in (0, 2)}


def test_without_negatives_nothing_changes(tokenizer, tmp_path):
    (images, captions), weights = noisy(), []
    for number, wrong in enumerate((None, {}, {"of no image": ("a picture",)})):
        encoder, config = build_dual_encoder(tokenizer, SMALL), LoopConfig(steps=2, precision="fp32")
        history = train_clip(encoder, images, captions, config, tmp_path / str(number), batch_size=2, negatives=wrong)
        weights.append(torch.cat([value.flatten() for value in encoder.state_dict().values()]))
        assert "hard_negative_r1" not in history
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_captions_must_match_the_images(tokenizer, tmp_path):
    with pytest.raises(InputError, match="3 images but captions for 1"):
        images = np.zeros((3, 32, 32), np.uint8)
        train_clip(build_dual_encoder(tokenizer, SMALL), images, [("a",)], LoopConfig(steps=1), tmp_path)


# The judge: a training that is kept.


@pytest.fixture(autouse=True)
def _tiny_words(monkeypatch):
    monkeypatch.setattr("sarnb.model.judge.foundation_tokenizer", lambda spec: tiny_tokenizer("<|endoftext|>"))


def weights(judge: DualEncoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in judge.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


CONFIG = judge_config(2, checkpoint_every=1)


def test_a_finished_judge_is_read_back(tmp_path, monkeypatch):
    first = train_judge(tiny_set(), "embedded", CONFIG, tmp_path, batch_size=4)
    assert {path.name for path in tmp_path.iterdir()} >= {"record.json", "history.csv", "dual_encoder.safetensors"}
    assert not list(tmp_path.glob("training-*")), "the optimiser's state is not kept"
    monkeypatch.setattr(module, "train_clip", Mock(side_effect=AssertionError("trained again")))
    again = train_judge(tiny_set(), "embedded", CONFIG, tmp_path, batch_size=4)
    assert same(weights(first.judge), weights(again.judge)) and again.record == first.record | {"config": again.record["config"]}
    assert again.history["step"].tolist() == first.history["step"].tolist() == [1, 2]


def test_a_batch_holds_an_image_once(tmp_path):
    run = train_judge(tiny_set(6), "embedded", judge_config(1), tmp_path, batch_size=64)
    assert (run.record["batch_size"], run.record["images"]) == (6, 6)


def test_one_cut_short_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    whole = weights(train_judge(tiny_set(), "embedded", CONFIG, tmp_path / "whole", batch_size=4).judge)

    def killed_at_the_second_step(count, size, seed, step):
        if step:
            raise KeyboardInterrupt
        return batch_ids(count, size, seed, step)

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr("sarnb.train.judge.batch_ids", killed_at_the_second_step)
        with pytest.raises(KeyboardInterrupt):
            train_judge(tiny_set(), "embedded", CONFIG, cut, batch_size=4)
    assert not (cut / "record.json").exists() and list(cut.glob("training-*/checkpoint.safetensors"))
    assert same(whole, weights(train_judge(tiny_set(), "embedded", CONFIG, cut, batch_size=4).judge))


def test_other_images_or_settings_replace_it_and_what_another_run_left(tmp_path):
    first = train_judge(tiny_set(), "embedded", judge_config(1), tmp_path, batch_size=4)
    (tmp_path / "training-0000").mkdir()
    other = train_judge(tiny_set(seed=1), "embedded", judge_config(1), tmp_path, batch_size=4)
    assert other.record["key"] != first.record["key"] and not list(tmp_path.glob("training-*"))
    longer = train_judge(tiny_set(seed=1), "embedded", CONFIG, tmp_path, batch_size=4)
    assert longer.history["step"].max() == 2


def test_a_damaged_one_is_trained_again(tmp_path):
    first = train_judge(tiny_set(), "embedded", judge_config(1), tmp_path, batch_size=4)
    file = tmp_path / "dual_encoder.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    again = train_judge(tiny_set(), "embedded", judge_config(1), tmp_path, batch_size=4)
    assert same(weights(first.judge), weights(again.judge))


def test_wrong_captions_are_part_of_the_training_and_of_its_identity(tmp_path):
    data = tiny_set()
    captions = [f"a {label} seen from the {row['look']}" for row, label in zip(data.rows, data.labels)]
    reported = replace(data, rows=tuple({**row, "captions": [caption]} for row, caption in zip(data.rows, captions)))
    run = train_judge(reported, "embedded", CONFIG, tmp_path, batch_size=4)
    assert run.history["hard_negative_r1"].between(0, 1).all() and run.record["captions_with_negatives"] == run.record["captions"] == 4
    plain = train_judge(reported, "embedded", CONFIG, tmp_path, batch_size=4, negatives=0)
    assert plain.record["key"] != run.record["key"] and "hard_negative_r1" not in plain.history
    assert not same(weights(run.judge), weights(plain.judge))


def test_what_cannot_be_learned_from_is_refused(tmp_path):
    data = tiny_set(4)
    with pytest.raises(InputError, match="1 different caption"):
        rows = tuple({**row, "captions": ["a radar image"]} for row in data.rows)
        train_judge(replace(data, rows=rows), "embedded", CONFIG, tmp_path)
    with pytest.raises(InputError, match="1 image"):
        train_judge(data.subset([0]), "embedded", CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_schedule_fits_any_number_of_steps():
    for steps in (1, 4, 400, 20000):
        config = judge_config(steps)
        assert config.warmup_steps < steps and config.log_every >= 1


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A judge of a twin world in a package's folder, and the card of its data set."""
    results, card = tmp_path_factory.mktemp("results"), {"kind": "twin", "sensor": "airborne-x", "size": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sarnb.model.judge.foundation_tokenizer", lambda spec: tiny_tokenizer("<|endoftext|>"))
        train_judge(tiny_set(), "embedded", CONFIG, results / "models/sar_clip", batch_size=4)
    for name, text in {"data/card.json": json.dumps(card), "tables/judge_measures.csv": MEASURES}.items():
        (results / name).parent.mkdir()
        (results / name).write_text(text)
    return results, ship_judge(results, results / "package"), card


MEASURES = "measure,split,class,value,lo,hi,n,chance\nclass accuracy,pooled,all,0.9,0.8,1,8,0.1\nclass accuracy,seen,city,1,1,1,4,0.1\n"


def test_the_shipped_judge_judges_the_world_that_it_learned_from(shipped, tmp_path):
    results, place, card = shipped
    found, own = shipped_judge(card, tmp_path / "sar_clip", place), DualEncoder.load(results / "models/sar_clip")
    assert same(weights(found.judge), {name: value.half().float() for name, value in weights(own).items()})
    text = (place / "README.md").read_text()
    assert "class accuracy |" in text and "city" not in text and "2 steps" in text and found.record["config"]["steps"] == 2
    assert found.history["step"].tolist() == [1, 2] and (tmp_path / "sar_clip/record.json").is_file(), "later notebooks find it there"
    assert (
        2 * (place / "dual_encoder.safetensors").stat().st_size
        < 1.2 * (results / "models/sar_clip/dual_encoder.safetensors").stat().st_size
    )
    assert shipped_judge(card, tmp_path / "none", tmp_path / "nothing") is None


@pytest.mark.parametrize("other", [{"kind": "folder"}, {"sensor": "sentinel-1"}, {"size": 128}])
def test_other_data_have_no_shipped_judge(shipped, other, tmp_path):
    assert shipped_judge({**shipped[2], **other}, tmp_path / "sar_clip", shipped[1]) is None and not (tmp_path / "sar_clip").exists()


@pytest.mark.parametrize(("factor", "word", "fits"), [(1.0001, "", True), (1.05, "", False), (1.0, "!", False)])
def test_another_world_has_no_shipped_judge(shipped, factor, word, fits, tmp_path, monkeypatch):
    """Rounding of another processor passes; other grey levels or words do not."""
    amplitude, caption = twin.amplitude, twin.caption
    monkeypatch.setattr(twin, "amplitude", lambda image: factor * amplitude(image))
    monkeypatch.setattr(twin, "caption", lambda *args, **more: caption(*args, **more) + word)
    assert (shipped_judge(shipped[2], tmp_path / "sar_clip", shipped[1]) is not None) == fits


def test_what_is_no_judge_of_a_twin_world_is_not_shipped(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/card.json").write_text('{"kind": "folder"}')
    with pytest.raises(InputError, match="holds no judge of a twin world"):
        ship_judge(tmp_path, tmp_path / "package")

"""What a training did to words and weights: against tokens, angles, lengths and changes that are known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_pipeline, tiny_set

from sarnb.errors import InputError
from sarnb.model import inspect
from sarnb.model.foundation import ENCODERS
from sarnb.model.strategy import find_strategy, prepare
from sarnb.model.token import TOKEN, add_token, embedding_table
from sarnb.train.finetune import FinetuneConfig, finetune


def started(word="image"):
    """A foundation whose new word starts from ``word``."""
    pipe = tiny_pipeline()
    add_token(pipe, word)
    return pipe


def test_nearest_words_of_known_angles():
    pipe = tiny_pipeline()
    table = torch.zeros(len(pipe.tokenizer), 2)
    table[:, 0] = 1.0  # as near as can be, but no words
    angles = {"city": 10, "forest": 40, "image": 60, "of": 90, "radar": 170, "sar": 180}
    assert set(inspect.word_entries(pipe.tokenizer, len(table))) == set(angles)
    for word, degrees in angles.items():
        index = pipe.tokenizer.convert_tokens_to_ids(f"{word}</w>")
        # Length must not matter.
        table[index] = (1 + index) * torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    found = inspect.nearest_words(table, pipe.tokenizer, torch.tensor([[5.0, 0.0]]), count=3)
    assert list(found["word"]) == ["city", "forest", "image"] and list(found["rank"]) == [1, 2, 3]
    assert found["cosine"].tolist() == pytest.approx([math.cos(math.radians(angle)) for angle in (10, 40, 60)], abs=1e-6)
    assert len(inspect.nearest_words(table, pipe.tokenizer, torch.tensor([1.0, 0.0]), count=99)) == len(angles)


def test_an_untrained_word_lies_on_the_word_it_starts_from():
    start, trained = started("city"), started("forest")
    near, travel = inspect.token_neighbours(start, trained, count=3)
    first = near[near["rank"] == 1].set_index(["encoder", "when"])["word"]
    for _, encoder in ENCODERS:
        assert first[encoder, "start"] == "city" and first[encoder, "learned"] == "forest"
    assert TOKEN not in set(near["word"])
    tables = [getattr(start, name).get_input_embeddings().weight for _, name in ENCODERS]
    city, forest = (start.tokenizer.convert_tokens_to_ids(word) for word in ("city</w>", "forest</w>"))
    expected = [float((table[city] - table[forest]).norm()) for table in tables]
    assert travel["distance from its start"].tolist() == pytest.approx(expected, rel=1e-5)
    assert travel["norm learned"].tolist() == pytest.approx([float(table[forest].norm()) for table in tables], rel=1e-5)


def test_the_way_of_a_word_by_lengths_angles_and_the_nearest_word(tmp_path):
    pipe = tiny_pipeline()
    table = embedding_table(pipe.text_encoder)
    city, forest = (table[pipe.tokenizer.convert_tokens_to_ids(f"{word}</w>")] for word in ("city", "forest"))
    files = {}
    for step, row in enumerate((city, 0.1 * city + 0.9 * forest, 3 * forest)):
        files[10 * step] = tmp_path / f"{step}.safetensors"
        wide = torch.cat([row, torch.zeros(8)])  # the widths of the two encoders are 16 and 24
        save_file({"clip_l": row[None].clone(), "clip_g": wide[None]}, files[10 * step])
    way = inspect.path_table(pipe, files)
    first = way[way["encoder"] == "text_encoder"]
    assert len(way) == 6 and first["step"].tolist() == [0, 10, 20] and first["word"].tolist() == ["city", "forest", "forest"]
    assert first["distance"].iloc[0] == 0 and first["distance"].iloc[2] == pytest.approx(float((3 * forest - city).norm()), rel=1e-5)
    assert first["cosine"].iloc[0] == pytest.approx(1.0)
    assert first["cosine"].iloc[2] == pytest.approx(float(city @ forest / city.norm() / forest.norm()), abs=1e-5)
    assert first["norm"].iloc[2] == pytest.approx(3 * float(forest.norm()), rel=1e-5) and first["word cosine"].iloc[2] == pytest.approx(1.0)
    assert torch.equal(inspect.path_rows(files)["text_encoder_2"][2, :16], 3 * forest)
    with pytest.raises(InputError, match="no file"):
        inspect.path_rows({})


def test_a_learned_word_changes_its_two_rows_only(tmp_path):
    trained = tiny_pipeline()
    finetune(trained, find_strategy("token"), tiny_set(4), FinetuneConfig(steps=2, batch_size=2, precision="fp32"), tmp_path)
    table = inspect.weight_difference(started(), trained).set_index("network")
    assert table["changed tensors"].tolist() == [0] * 4 and (table["tensors"] > 10).all()
    assert table["changed rows"].to_dict() == {"unet": 0, "text_encoder": 1, "text_encoder_2": 1, "vae": 0}
    assert table.loc["text_encoder", "embedding rows"] == len(trained.tokenizer)


def test_every_other_change_is_seen():
    touched = started()
    with torch.no_grad():
        touched.unet.conv_in.weight[0, 0, 0, 0] += 1e-6
        touched.text_encoder.get_input_embeddings().weight.mul_(1 - 1e-4)  # as weight decay on the whole table would
        touched.vae.decoder.conv_out.bias.add_(1.0)
    table = inspect.weight_difference(started(), touched).set_index("network")
    assert table["changed tensors"].to_dict() == {"unet": 1, "text_encoder": 0, "text_encoder_2": 0, "vae": 1}
    assert table.loc["text_encoder", "changed rows"] == table.loc["text_encoder", "embedding rows"]
    assert table.loc["text_encoder_2", "changed rows"] == 0


def test_adapters_are_no_change_of_the_same_tensors():
    adapted = tiny_pipeline()
    prepare(adapted, find_strategy("hybrid-r4"))
    with pytest.raises(InputError, match="strategies without LoRA"):
        inspect.weight_difference(started(), adapted)

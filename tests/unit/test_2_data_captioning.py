"""Captions by an image-text model, on a random BLIP in a local folder, and by class where there is no photograph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor
from typer.testing import CliRunner

from sarnb.cli import app
from sarnb.data import prepare
from sarnb.data.dataset import load_set
from sarnb.data.files import write_png
from sarnb.data.prepare import describer, write_captions
from sarnb.errors import InputError

WORDS = "a an the of in on with photo aerial view city river forest field water road ship house green grey large".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(tokenizer), "encoder_hidden_size": 32, "max_position_embeddings": 64, **ends, **sizes}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 8, **sizes}))
    network.generation_config.update(**ends)
    network.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def source(tmp_path) -> Path:
    rng, rows = np.random.default_rng(0), []
    for number in range(6):
        coloured = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((10, 10, 1)))
        for kind, picture in (("sar", rng.integers(0, 256, (32, 32))), ("optical", coloured)):
            (tmp_path / "in" / kind).mkdir(parents=True, exist_ok=True)
            write_png(tmp_path / f"in/{kind}/{number}.png", picture.astype(np.uint8))
        row = {"file_name": f"sar/{number}.png", "label": ("city", "sea_ships")[number % 2], "look": "left", "incidence": 34.6}
        rows.append(row | ({"optical_file_name": f"optical/{number}.png"} if number else {}))
    (tmp_path / "in/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "in"


def _texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_photograph_is_described_as_alone_and_the_physics_follows(model, source, tmp_path):
    assert write_captions(source, tmp_path / "c.jsonl", str(model), batch=4) == (5, 1)
    texts, say = _texts(tmp_path / "c.jsonl"), describer(str(model))
    physics = ", illuminated from the left, incidence 35 degrees"
    assert texts[0] == f"a radar image of a city{physics}"  # it has no photograph
    for number in range(1, 6):
        (sentence,) = say([Image.open(source / f"optical/{number}.png")])
        assert texts[number] == f"a radar image of {prepare.LEAD.sub('', sentence, count=1).rstrip('. ')}{physics}"
    assert all(set(text.split(",")[0].split()[4:]) <= {*WORDS} for text in texts[1:])
    words = ["dataset", str(source), "--captions", str(tmp_path / "c.jsonl"), "--size", "32", "--out", str(tmp_path / "set")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0 and {text for split in ("train", "val", "test") for text in load_set(tmp_path / "set" / split).captions} <= {
        *texts
    }


@pytest.mark.parametrize("lead", ["an aerial view of ", "a photo of ", "The satellite image showing ", ""])
def test_each_image_has_the_words_of_its_photograph_which_become_those_of_a_radar_image(lead, source, tmp_path, monkeypatch):
    def say(pictures):
        return [f"{lead}{np.asarray(picture).mean():.3f} houses." for picture in pictures]

    monkeypatch.setattr(prepare, "describer", lambda model: say)
    write_captions(source, tmp_path / "c.jsonl", "some/model", batch=2)
    for number, text in list(enumerate(_texts(tmp_path / "c.jsonl")))[1:]:
        mean = np.asarray(Image.open(source / f"optical/{number}.png")).mean()
        assert text == f"a radar image of {mean:.3f} houses, illuminated from the left, incidence 35 degrees"


def test_a_stopped_call_goes_on_where_it_was(model, source, tmp_path, monkeypatch):
    write_captions(source, tmp_path / "whole.jsonl", str(model), batch=2)
    seen: list[int] = []

    def counting(name):
        say = describer(name)

        def counted(pictures):
            if len(seen) == 1:
                raise KeyboardInterrupt
            seen.append(len(pictures))
            return say(pictures)

        return counted

    monkeypatch.setattr(prepare, "describer", counting)
    with pytest.raises(KeyboardInterrupt):
        write_captions(source, tmp_path / "c.jsonl", str(model), batch=2)
    partial = tmp_path / ".c.jsonl.partial"
    partial.write_text(partial.read_text() + '{"file_name": "sar/3.png", "te')  # as a killed process leaves it
    assert not (tmp_path / "c.jsonl").exists()
    monkeypatch.undo()
    requested: list[int] = []
    monkeypatch.setattr(prepare, "_photograph", lambda image, read=prepare._photograph: requested.append(1) or read(image))
    write_captions(source, tmp_path / "c.jsonl", str(model), batch=2)
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and len(requested) == 3 and not partial.exists()
    write_captions(source, tmp_path / "c.jsonl", str(model), batch=2)
    assert len(requested) == 3


def test_what_cannot_be_captioned_is_one_sentence(model, source, tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"file_name": "sar/1.png", "text": "written by hand"}')
    with pytest.raises(InputError, match="mine.jsonl: sar/1.png is captioned by None, not 'class'"):
        write_captions(source, mine)
    with pytest.raises(InputError, match="--model .*none: is no image-text model"):
        write_captions(source, tmp_path / "c.jsonl", str(tmp_path / "none"))
    (source / "optical/3.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="3.png: cannot be read as a photograph"):
        write_captions(source, tmp_path / "c.jsonl", str(model))
    assert mine.read_text() == '{"file_name": "sar/1.png", "text": "written by hand"}' and not (tmp_path / "c.jsonl").exists()
    assert write_captions(source, tmp_path / "d.jsonl") == (0, 6)
    assert _texts(tmp_path / "d.jsonl")[1] == "a radar image of sea ships, illuminated from the left, incidence 35 degrees"

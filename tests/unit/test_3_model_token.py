"""The learned word: its own row and nothing else, pooled behind it, read by plain diffusers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_pipeline

from sarnb.errors import InputError
from sarnb.model.foundation import encode_prompts
from sarnb.model.token import ROW_KEYS, TOKEN, add_token, load_token, save_token, token_row, with_token

PROMPTS = ["a <SAR> image of a city", "a <SAR> image of a forest"]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a radar image of a city", "a <SAR> image of a city"),
        ("a SAR image of a city, incidence 40 degrees", "a <SAR> image of a city, incidence 40 degrees"),
        ("a synthetic aperture radar image of a river", "a <SAR> image of a river"),
        ("an SAR view of a forest", "a <SAR> image of a forest"),
        ("ships in a port", "<SAR> image, ships in a port"),
        ("a <SAR> image of a city", "a <SAR> image of a city"),
    ],
)
def test_with_token(caption, expected):
    assert with_token(caption) == expected


def test_row_starts_as_the_mean_of_its_word_and_no_other_row_changes():
    pipe = tiny_pipeline()
    before = {name: getattr(pipe, name).get_input_embeddings().weight.clone() for _, name in ROW_KEYS.values()}
    state = torch.get_rng_state()
    add_token(pipe, init="image city")
    assert torch.equal(torch.get_rng_state(), state)
    for tokenizer_name, name in ROW_KEYS.values():
        tokenizer, table = getattr(pipe, tokenizer_name), getattr(pipe, name).get_input_embeddings().weight
        image, city = (tokenizer.convert_tokens_to_ids(word) for word in ("image</w>", "city</w>"))
        assert torch.equal(table[:-1], before[name])
        torch.testing.assert_close(table[-1], (before[name][image] + before[name][city]) / 2)
        assert tokenizer(PROMPTS[0]).input_ids.count(len(table) - 1) == 1


def test_pooled_embedding_reads_what_follows_the_token():
    # SDXL's configurations pool at the highest id, which a new word would become.
    pipe = tiny_pipeline()
    assert pipe.text_encoder_2.config.eos_token_id == 2
    plain = encode_prompts(pipe, ["a radar image of a city"])[1]
    add_token(pipe, init="radar")
    assert torch.equal(encode_prompts(pipe, ["a radar image of a city"])[1], plain)
    learned = encode_prompts(pipe, PROMPTS)[1]
    torch.testing.assert_close(learned[:1], plain)  # the word starts as "radar"
    assert (learned[0] - learned[1]).abs().max() > 1e-3


def test_file_is_read_by_load_token_and_by_diffusers(tmp_path):
    pipe = tiny_pipeline()
    add_token(pipe)
    for _, encoder in ROW_KEYS.values():
        with torch.no_grad():
            getattr(pipe, encoder).get_input_embeddings().weight[-1] += torch.randn(1)
    path = save_token(pipe, tmp_path / "learned_embeds.safetensors")
    expected = encode_prompts(pipe, PROMPTS)

    package = tiny_pipeline()
    assert load_token(package, path) == TOKEN
    theirs = tiny_pipeline()
    rows = load_file(path)
    assert {key: tuple(row.shape) for key, row in rows.items()} == {"clip_l": (1, 16), "clip_g": (1, 24)}
    for key, (tokenizer, encoder) in ROW_KEYS.items():
        tokenizer, encoder = getattr(theirs, tokenizer), getattr(theirs, encoder)
        theirs.load_textual_inversion(rows[key], token=TOKEN, tokenizer=tokenizer, text_encoder=encoder)
        getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id
    for other in (package, theirs):
        assert all(torch.equal(a, b) for a, b in zip(encode_prompts(other, PROMPTS), expected))


def test_refusals(tmp_path):
    pipe = tiny_pipeline()
    with pytest.raises(InputError, match="init word"):
        add_token(pipe, init=" ")
    add_token(pipe)
    with pytest.raises(InputError, match="vocabulary already"):
        add_token(pipe)
    path = save_token(pipe, tmp_path / "token.safetensors")
    assert token_row(pipe.text_encoder, pipe.tokenizer).shape == (1, 16)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="token.safetensors: not a readable"):
        load_token(tiny_pipeline(), path)

"""What a training changed, to the bit."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_pipeline, tiny_set

from sarnb.errors import InputError
from sarnb.model.inspect import changed_weights
from sarnb.model.strategy import find_strategy, prepare
from sarnb.model.token import add_token
from sarnb.train.finetune import FinetuneConfig, finetune


def started():
    pipe = tiny_pipeline()
    add_token(pipe, "image")
    return pipe


def test_a_learned_word_changes_its_two_rows_only(tmp_path):
    trained = tiny_pipeline()
    finetune(trained, find_strategy("token"), tiny_set(4), FinetuneConfig(steps=2, batch_size=2, precision="fp32"), tmp_path)
    table = changed_weights(started(), trained).set_index("network")
    assert table["changed tensors"].tolist() == [0] * 4 and (table["tensors"] > 10).all()
    assert table["changed rows"].to_dict() == {"unet": 0, "text_encoder": 1, "text_encoder_2": 1, "vae": 0}
    assert table.loc["text_encoder", "embedding rows"] == len(trained.tokenizer)


def test_every_other_change_is_seen():
    touched = started()
    with torch.no_grad():
        touched.unet.conv_in.weight[0, 0, 0, 0] += 1e-6
        touched.text_encoder.get_input_embeddings().weight.mul_(1 - 1e-4)  # as weight decay on the whole table would
        touched.vae.decoder.conv_out.bias.add_(1.0)
    table = changed_weights(started(), touched).set_index("network")
    assert table["changed tensors"].to_dict() == {"unet": 1, "text_encoder": 0, "text_encoder_2": 0, "vae": 1}
    assert table.loc["text_encoder", "changed rows"] == table.loc["text_encoder", "embedding rows"]
    assert table.loc["text_encoder_2", "changed rows"] == 0


def test_adapters_are_no_change_of_the_same_tensors():
    adapted = tiny_pipeline()
    prepare(adapted, find_strategy("hybrid-r4"))
    with pytest.raises(InputError, match="strategies without LoRA"):
        changed_weights(started(), adapted)

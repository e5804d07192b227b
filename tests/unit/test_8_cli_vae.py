"""The command line trains an autoencoder as it trains every other strategy."""

from __future__ import annotations

import numpy as np
from tiny import tiny_pipeline

from sarnb.cli import finetune
from sarnb.data.files import write_png, write_rows
from sarnb.model.export import foundation_vae, load_vae
from sarnb.model.foundation import fingerprint


def test_finetune_command_trains_the_decoder(tmp_path, capsys):
    foundation, data = tmp_path / "foundation", tmp_path / "data" / "train"
    tiny_pipeline().save_pretrained(foundation)
    data.mkdir(parents=True)
    names = [f"{number}.png" for number in range(4)]
    for name, image in zip(names, np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)):
        write_png(data / name, image)
    write_rows(data / "metadata.jsonl", [{"file_name": name, "text": "x"} for name in names])
    finetune("vae-decoder", data.parent, tmp_path / "model", "smoke", str(foundation), steps=1, seed=3, tracker=[], param=[])
    assert "vae-decoder, 1 steps" in capsys.readouterr().out
    before, after = foundation_vae(str(foundation)), load_vae(tmp_path / "model", str(foundation))
    assert fingerprint(before.encoder) == fingerprint(after.encoder) and fingerprint(before.decoder) != fingerprint(after.decoder)

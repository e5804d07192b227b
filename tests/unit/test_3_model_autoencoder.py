"""A foundation with another autoencoder, and float32 where fp16 overflows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tiny import tiny_pipeline, tiny_set

from sarnb import split_foundation
from sarnb.errors import InputError
from sarnb.graph import foundation_digest
from sarnb.model.export import foundation_fingerprint, foundation_vae
from sarnb.model.foundation import components, decode_latents, encode_posterior, fingerprint, load_foundation
from sarnb.model.judge import foundation_tokenizer


@pytest.fixture
def foundation(tmp_path):
    """A foundation on disk, and two autoencoders in the layouts of a hub's model and of a pipeline."""
    tiny_pipeline().save_pretrained(tmp_path / "base")
    other = tiny_pipeline(seed=1).vae
    other.register_to_config(force_upcast=False, scaling_factor=0.25)
    other.save_pretrained(tmp_path / "fix")
    other.save_pretrained(tmp_path / "model" / "vae")
    return tmp_path


@pytest.mark.parametrize("name", ["fix", "model"])
def test_another_autoencoder_and_nothing_else(foundation, name):
    spec = f"{foundation / 'base'}+vae={foundation / name}"
    plain, other = load_foundation(str(foundation / "base")), load_foundation(spec)
    changed = {part for part, net in components(plain).items() if fingerprint(net) != fingerprint(getattr(other, part))}
    assert changed == {"vae"} and fingerprint(other.vae) == fingerprint(tiny_pipeline(seed=1).vae)
    assert other.vae.config.scaling_factor == 0.25 and not other.vae.config.force_upcast
    assert not any(p.requires_grad for p in other.vae.parameters()) and not other.vae.training
    assert foundation_fingerprint(plain) != foundation_fingerprint(other)  # a checkpoint of one does not fit the other
    assert fingerprint(foundation_vae(spec)) == fingerprint(other.vae)
    assert foundation_tokenizer(spec).get_vocab() == plain.tokenizer.get_vocab()


def test_the_identity_of_a_run_follows_both_folders(foundation):
    base, fix = str(foundation / "base"), foundation / "fix"
    before = foundation_digest(f"{base}+vae={fix}")
    assert before != foundation_digest(base)
    (fix / "config.json").write_text((fix / "config.json").read_text().replace("0.25", "0.5"))
    foundation_digest.cache_clear()
    assert foundation_digest(f"{base}+vae={fix}") != before
    assert foundation_digest("a/b+vae=c/d") == "a/b+vae=c/d" and split_foundation("a/b") == ("a/b", "")


def test_autoencoders_that_do_not_fit_or_are_not_there(foundation):
    config = dict(tiny_pipeline().vae.config) | {"latent_channels": 6}
    AutoencoderKL.from_config(config).save_pretrained(foundation / "wide")
    with pytest.raises(InputError, match="wide.*6 channels.*works on 4"):
        load_foundation(f"{foundation / 'base'}+vae={foundation / 'wide'}")
    with pytest.raises(InputError, match="autoencoder .*nothing'.*cannot be loaded"):
        load_foundation(f"{foundation / 'base'}+vae={foundation / 'nothing'}")
    weights = foundation / "fix" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    with pytest.raises(InputError, match="autoencoder .*fix'.*cannot be loaded"):
        load_foundation(f"{foundation / 'base'}+vae={foundation / 'fix'}")


def test_an_autoencoder_that_overflows_in_fp16_works_in_float32(foundation):
    pipe = tiny_pipeline()
    with torch.no_grad():  # a residual stream beyond 65504, as in SDXL; the last normalisation brings it back
        for part in (pipe.vae.encoder, pipe.vae.decoder):
            part.conv_in.weight *= 1e4
            part.conv_in.bias *= 1e4
            for block in part.mid_block.resnets:  # fp16 holds each of the two, but not their sum
                block.conv2.bias += 6e4
    pipe.save_pretrained(foundation / "loud")
    spec, images = str(foundation / "loud"), tiny_set(2).images
    half, whole = load_foundation(spec, torch.float16).vae, load_foundation(spec).vae
    whole.load_state_dict({name: value.half().float() for name, value in whole.state_dict().items()})  # what fp16 holds
    mean, std = encode_posterior(half, images)
    expected = encode_posterior(whole, images)
    assert half.dtype == torch.float16 and torch.equal(mean, expected[0]) and torch.equal(std, expected[1])
    assert mean.isfinite().all()
    np.testing.assert_array_equal(decode_latents(half, mean), decode_latents(whole, mean))
    half.register_to_config(force_upcast=False)
    assert not encode_posterior(half, images)[0].isfinite().all()  # so the overflow is real


def test_what_does_not_overflow_stays_in_fp16(foundation):
    vae = load_foundation(f"{foundation / 'base'}+vae={foundation / 'fix'}", torch.float16).vae
    seen = []
    vae.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert encode_posterior(vae, tiny_set(2).images)[0].isfinite().all() and seen == [torch.float16]

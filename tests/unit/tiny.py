"""A miniature SDXL with random weights and a tiny image set: what the model and training tests run on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sarnb import foundation_path
from sarnb.data.dataset import ImageSet, load_set
from sarnb.data.files import write_png, write_set
from sarnb.model.foundation import components, encode_prompts, freeze
from sarnb.settings import repository

MERGES = (
    "i m|im a|ima g|imag e</w>|r a|ra d|rad a|rada r</w>|o f</w>|c i|ci t|cit y</w>|f o|fo r|for e|fore s|fores t</w>|S A|s a|sa r</w>"
).split("|")


def tiny_tokenizer(pad_token: str) -> CLIPTokenizer:
    """CLIP tokenizer that knows four words whole and spells the rest."""
    letters = list("abcdefghijklmnopqrstuvwxyzSA<>|_-.,0123456789")
    words = letters + [letter + "</w>" for letter in letters] + ["".join(merge.split()) for merge in MERGES]
    words += ["!", "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    merges = [tuple(merge.split()) for merge in MERGES]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=16, pad_token=pad_token)


def tiny_pipeline(seed: int = 0) -> StableDiffusionXLPipeline:
    """The parts of SDXL, each a few thousand parameters: 16x16 px images, 4x4 latents of 4 channels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = tiny_tokenizer("<|endoftext|>"), tiny_tokenizer("!")
        common = dict(
            vocab_size=len(tokenizer),
            num_attention_heads=2,
            num_hidden_layers=2,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=1,
        )
        # eos_token_id 2 is what SDXL's own configs say: it makes CLIP pool at the highest id.
        first = CLIPTextConfig(hidden_size=16, intermediate_size=32, eos_token_id=2, **common)
        second = CLIPTextConfig(hidden_size=24, intermediate_size=48, projection_dim=24, eos_token_id=2, **common)
        unet = UNet2DConditionModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(16, 32),
            norm_num_groups=8,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            transformer_layers_per_block=1,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            cross_attention_dim=16 + 24,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            sample_size=16,
            scaling_factor=0.5,
        )
        pipe = StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(first).eval(),
            text_encoder_2=CLIPTextModelWithProjection(second).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet.eval(),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
            ),
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )
        return freeze(pipe)


def tiny_set(count: int = 12, seed: int = 0) -> ImageSet:
    """Random grey 16x16 px images of two classes, three captions each."""
    rng = np.random.default_rng(seed)
    rows = tuple(
        {
            "file_name": f"{number:06d}.png",
            "text": f"a radar image of a {label}",
            "label": label,
            "group": "seen",
            "look": "left" if number % 4 < 2 else "right",
            "captions": [f"a radar image of a {label}", f"a SAR image of a {label}", f"a radar image of a {label} of a {label}"],
        }
        for number, label in enumerate(("forest", "city")[number % 2] for number in range(count))
    )
    return ImageSet(Path("."), rng.integers(0, 256, (count, 16, 16), dtype=np.uint8), rows)


def all_weights(pipe: StableDiffusionXLPipeline) -> dict[str, torch.Tensor]:
    """Copies of the weights of all networks, by component and name."""
    parts = components(pipe).items()
    return {f"{part}.{name}": value.detach().clone().contiguous() for part, net in parts for name, value in net.state_dict().items()}


def outputs(pipe: StableDiffusionXLPipeline, prompt: str = "a radar image of a city") -> list[torch.Tensor]:
    """What the networks make of a prompt: text embeddings of the first and second encoder, pooled embedding, noise prediction."""
    hidden, pooled = encode_prompts(pipe, [prompt])
    conditions = {"text_embeds": pooled, "time_ids": torch.ones(1, 6)}
    latents = torch.linspace(-1, 1, 64).view(1, 4, 4, 4)
    noise = pipe.unet(latents, 500, encoder_hidden_states=hidden, added_cond_kwargs=conditions).sample
    return [*hidden.split([16, 24], dim=-1), pooled, noise]


def tiny_twin(folder: Path, count: int = 12, seed: int = 0) -> ImageSet:
    """``tiny_set`` written as a split of a twin data set, with a map, a satellite view and a photograph of each image."""
    rng, data = np.random.default_rng((seed, 1)), tiny_set(count, seed)
    shapes = {"mask": (16, (16, 16)), "satellite": (256, (4, 4)), "optical": (256, (16, 16, 3))}
    rows = [{key: value for key, value in row.items() if key != "file_name"} for row in data.rows]
    for name, (levels, shape) in shapes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows):
            write_png(folder / name / f"{number:06d}.png", rng.integers(0, levels, shape, dtype=np.uint8))
            row[f"{name}_file_name"] = f"{name}/{number:06d}.png"
    write_set(folder, data.images, rows)
    return load_set(folder)


SDXL_CONFIGS = json.loads((Path(__file__).parent / "recorded" / "sdxl_configs.json").read_text(encoding="utf-8"))
#: Widths, and depths where they are large, of a random SDXL that is small enough for two cores; every other key is as published.
SDXL_WIDTHS = {
    "text_encoder/config.json": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "projection_dim": 32,
    },
    "text_encoder_2/config.json": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "projection_dim": 64,
    },
    "unet/config.json": {
        "attention_head_dim": [1, 2, 2],
        "block_out_channels": [32, 64, 64],
        "cross_attention_dim": 32 + 64,
        "projection_class_embeddings_input_dim": 64 + 6 * 256,
        "transformer_layers_per_block": [1, 2, 2],
    },
    "vae/config.json": {"block_out_channels": [32, 32, 32, 32]},
}


def clip_words(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt`` in the layout and of the size of CLIP's: 49,408 words, of which the common ones of captions.

    The bytes, the bytes that end a word, one word a merge, start and end of text. The merges are those of the embedded
    foundation; the rest of the places is filled with pairs of bytes that no English text holds.
    """
    own = json.loads((foundation_path() / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    letters = list(bytes_to_unicode().values())
    rare = [letter for letter in letters if ord(letter) > 126]
    merges = [tuple(pair) for pair in own["merges"]]
    merges += [(a, b + end) for end in ("", "</w>") for a in rare for b in rare]
    merges += [(a + b, c) for a in rare[:20] for b in rare for c in rare]
    merges = merges[: 49408 - 2 * len(letters) - 2]
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: row for row, word in enumerate(words)}
    assert len(vocab) == 49408
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")


def sdxl_folder(folder: Path, side: int = 64, seed: int = 0) -> Path:
    """A random SDXL of ``SDXL_WIDTHS`` for ``side`` px, in every folder, file and key as stabilityai/stable-diffusion-xl-base-1.0."""
    sizes = {"unet/config.json": {"sample_size": side // 8}, "vae/config.json": {"sample_size": side}}
    for name, values in SDXL_CONFIGS.items():
        own = values | SDXL_WIDTHS.get(name, {}) | sizes.get(name, {})
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
            network = kind(CLIPTextConfig.from_pretrained(folder / part))
            weights = {name if name.startswith("text_") else f"text_model.{name}": value for name, value in network.state_dict().items()}
            save_file({name: value.contiguous() for name, value in weights.items()}, folder / part / "model.safetensors")
        for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
            network = kind.from_config(kind.load_config(folder / part))
            weights = {name: value.contiguous() for name, value in network.state_dict().items()}
            save_file(weights, folder / part / "diffusion_pytorch_model.safetensors")
    for name in ("tokenizer", "tokenizer_2"):
        clip_words(folder / name)
    return folder


def run_profile(results: Path, *words: str, profile: str = "smoke") -> subprocess.CompletedProcess:
    """What ``./run_all.sh --profile`` does, with all results below ``results``."""
    variables = {**os.environ, "SARNB_RESULTS": str(results), "PYTHONPATH": str(repository())}
    variables.pop("SARNB_NOTEBOOKS", None)
    return subprocess.run(
        [sys.executable, "-m", "sarnb", "run", "--profile", profile, *words], capture_output=True, text=True, env=variables
    )

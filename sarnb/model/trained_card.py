"""The model card that lies beside trained weights."""

from __future__ import annotations

from sarnb.model.strategy import Strategy
from sarnb.model.token import EMBEDDING_FILE, TOKEN
from sarnb.model.vae import LORA_FILE as VAE_LORA_FILE


def trained_card(strategy: Strategy, record: dict) -> str:
    """Markdown: what was trained, how to load it with plain diffusers, on what, at what cost, and what it is not for."""
    prompt = f"a {TOKEN} image of a city" if strategy.token else "a radar image of a city"
    return "\n".join(
        [
            "---",
            "library_name: diffusers",
            "pipeline_tag: text-to-image",
            "tags: [text-to-image, synthetic-aperture-radar, stable-diffusion-xl]",
            "---",
            "",
            f"# {strategy.name}: radar images from text",
            "",
            f"An SDXL-shaped foundation fine-tuned to draw synthetic aperture radar (SAR) images. {_what_trained(strategy)}",
            "",
            "## Use",
            "",
            "```python",
            *_usage(strategy, bool(record.get("merged"))),
            f'image = pipe("{prompt}", num_inference_steps=25).images[0]  # grey: the mean of the three channels',
            "```",
            "",
            "## Training",
            "",
            "| what | value |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in _facts(record)),
            "",
            "## Limits",
            "",
            "Drawn images are not measurements: no pixel shows a place, and amplitudes are relative to the training set's",
            "normalisation. Look direction, sensor and resolution are those of the training images.",
            "",
        ]
    )


def _what_trained(strategy: Strategy) -> str:
    modes = {
        "lora": f"LoRA of rank {strategy.rank} on {{}}.",
        "full": "All weights of {} trained.",
        "scratch": "All weights of {} trained from a random start.",
    }
    sentences = [modes[strategy.unet].format("the UNet")] if strategy.unet != "frozen" else []
    if strategy.text != "frozen":
        tables = ", their embedding tables apart" if strategy.text == "full" else ""
        sentences.append(modes[strategy.text].format(f"both text encoders{tables}"))
    if strategy.token:
        sentences.append(f'A learned word {TOKEN}, started from "{strategy.init}".')
    if strategy.vae != "frozen":
        parts = {"lora": "the autoencoder", "lora-encoder": "the autoencoder's encoder", "lora-decoder": "the autoencoder's decoder"}
        whole = {"decoder": "the autoencoder's decoder", "full": "the autoencoder"}
        sentences.append(modes["lora" if strategy.vae in parts else "full"].format((parts | whole)[strategy.vae]))
        kept = "still fit" if strategy.keeps_latents else "have moved, so a UNet has to be trained on the new ones"
        sentences.append(f"Latents of the foundation {kept}.")
    return " ".join(sentences)


def _usage(strategy: Strategy, merged: bool) -> list[str]:
    """Lines of Python that assemble the pipeline with nothing but diffusers and transformers.

    ``merged``: a LoRA of the autoencoder is multiplied into the folder ``vae`` already.
    """
    imports, parts, after = ["from diffusers import StableDiffusionXLPipeline"], ["FOUNDATION"], []
    if strategy.unet in ("full", "scratch"):
        imports[0] += ", UNet2DConditionModel"
        parts.append('unet=UNet2DConditionModel.from_pretrained(HERE + "/unet")')
    if strategy.text == "full":
        imports.append("from transformers import CLIPTextModel, CLIPTextModelWithProjection")
        parts.append('text_encoder=CLIPTextModel.from_pretrained(HERE + "/text_encoder")')
        parts.append('text_encoder_2=CLIPTextModelWithProjection.from_pretrained(HERE + "/text_encoder_2")')
    if merged or strategy.vae in ("decoder", "full"):
        imports[0] += ", AutoencoderKL"
        parts.append('vae=AutoencoderKL.from_pretrained(HERE + "/vae")')
    elif strategy.vae != "frozen":
        imports.append("from sarnb.model.vae import apply_lora  # diffusers reads no LoRA of an AutoencoderKL")
        after.append(f'apply_lora(pipe.vae, HERE + "/{VAE_LORA_FILE}")')
    if strategy.has_lora:
        after.append("pipe.load_lora_weights(HERE)")
    if strategy.token:
        imports.append("from safetensors.torch import load_file")
        after += [
            f'rows = load_file(HERE + "/{EMBEDDING_FILE}")',
            f'pipe.load_textual_inversion(rows["clip_l"], "{TOKEN}", pipe.tokenizer, pipe.text_encoder)',
            f'pipe.load_textual_inversion(rows["clip_g"], "{TOKEN}", pipe.tokenizer_2, pipe.text_encoder_2)',
            "# SDXL's eos_token_id is a placeholder (2) that would pool at the new word; pool at the end of the text:",
            "for encoder in (pipe.text_encoder, pipe.text_encoder_2):",
            '    getattr(encoder, "text_model", encoder).eos_token_id = pipe.tokenizer.eos_token_id',
        ]
    where = 'FOUNDATION, HERE = "the foundation\'s folder or hub id", "this folder"'
    return [*imports, "", where, f"pipe = StableDiffusionXLPipeline.from_pretrained({', '.join(parts)})", *after]


def _facts(record: dict) -> list[tuple[str, object]]:
    config, cost = record.get("config", {}), record.get("cost", {})
    start = ("autoencoder", record["vae"][:16]) if "vae" in record else ("foundation", record.get("foundation", "not recorded"))
    facts: list[tuple[str, object]] = [(f"{start[0]} (fingerprint)", start[1])]
    facts.append(("training set (fingerprint)", record.get("data", "not recorded")))
    told = ("steps", "batch_size", "crop", "losses", "seed", "ema_decay", "min_snr_gamma", "noise_offset")
    facts += [(name, config[name]) for name in told if name in config]
    facts += [(name, value) for name, value in config.items() if name.startswith("lr_")]
    facts += [(name, cost[name]) for name in ("trainable_parameters", "seconds", "peak_memory_mb", "device") if name in cost]
    return facts

"""Trained models on disk, in the forms that other tools read; never pickle.

``unet/``, ``vae/``, ``text_encoder*/``, ``controlnet/`` and ``adapter/`` are diffusers folders, ``pytorch_lora_weights.safetensors`` and
``learned_embeds.safetensors`` are what ``load_lora_weights`` and ``load_textual_inversion`` take; ``vae_lora.safetensors`` is
for ``sarnb.model.export.load_vae``, as diffusers reads no LoRA of an autoencoder. ``record.json`` is written last: with it
a model is whole.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sarnb import foundation_path, split_foundation
from sarnb.data.dataset import CARDS
from sarnb.data.files import claim, clear, content_key, release, replace_folder, write_json
from sarnb.errors import InputError
from sarnb.model.control import NETWORKS
from sarnb.model.foundation import ENCODERS, components, fingerprint, load_foundation, read_autoencoder, settings_of
from sarnb.model.strategy import Strategy
from sarnb.model.token import EMBEDDING_FILE, TOKEN, embedding_table, load_token, save_token
from sarnb.model.vae import LORA_FILE as VAE_LORA_FILE
from sarnb.model.vae import apply_lora

RECORD, CARD, STAGING = "record.json", "README.md", ".saving"
LORA_FILE = "pytorch_lora_weights.safetensors"
MODEL = "model"  # what a folder of one is to ``sarnb.data.files``, and what may be in it
MODEL_FILES = (
    *(f"{name}/*" for name in ("unet", "vae", *(encoder for _, encoder in ENCODERS), *NETWORKS, STAGING)),
    LORA_FILE,
    EMBEDDING_FILE,
    VAE_LORA_FILE,
    CARD,
    RECORD,
)
ENCODER_CLASSES = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


def foundation_fingerprint(pipe: StableDiffusionXLPipeline) -> str:
    """Sixteen hex digits that tell foundations apart: by the weights of their networks, and by ``settings_of`` where they have any."""
    settings = json.dumps(settings_of(pipe), sort_keys=True) if settings_of(pipe) else ""
    return hashlib.sha256(("".join(map(fingerprint, components(pipe).values())) + settings).encode()).hexdigest()[:16]


def lora_layers(module: nn.Module, text: bool) -> dict[str, Tensor]:
    """LoRA matrices of a network under the names of diffusers' scripts; empty where there are none.

    LoRA's factor is multiplied into the second matrix, for readers that assume that it is 1 or alpha / rank. The text
    encoder's prefix ``text_model.`` is always there, as in transformers 4; version 5 dropped it for the first encoder.
    """
    factors = {name: layer.scaling["default"] for name, layer in module.named_modules() if "default" in getattr(layer, "scaling", {})}
    weights = {}
    for name, value in module.named_parameters():
        layer, found, matrix = name.partition(".lora_")
        if found:
            key = f"text_model.{layer.removeprefix('text_model.')}" if text else layer
            matrix = matrix.replace(".default.weight", "" if matrix.startswith("magnitude") else ".weight")  # DoRA's lengths
            weights[f"{key}.lora_{matrix}"] = value.detach().float().cpu() * (factors[layer] if matrix.startswith("B") else 1)
    if not weights:
        return {}
    # diffusers' mapping leaves convolutions under peft's names, and its reader then overlooks all others.
    names = {".lora_A.": ".lora.down.", ".lora_B.": ".lora.up."}
    converted = convert_state_dict_to_diffusers(weights)
    return {next((key.replace(old, new) for old, new in names.items() if old in key), key): value for key, value in converted.items()}


def save_trained(
    pipe: StableDiffusionXLPipeline,
    strategy: Strategy,
    out: Path,
    record: dict | None = None,
    companions: Mapping[str, Path] | None = None,
    network: nn.Module | None = None,
) -> Path:
    """Write what ``strategy`` trained into the folder ``out``, with a model card and a record.

    ``network``: a control network, which is written instead; ``strategy`` is then how the model that it steers was tuned.

    ``record`` is that of ``finetune`` (foundation, data, configuration) with anything else worth keeping, such as the cost.
    ``companions``: name in ``out`` → file or folder that is copied there and belongs to this model; where it is not there, what an
    earlier model had under that name is removed. All is written into a folder of its own and renamed into place when
    it is whole, the record last: until then an earlier model stays as it is.

    Raises
    ------
    InputError
        Nothing trained, ``out`` holds files of these names that were not made here, or the disk is full.
    """
    if not strategy.trains and network is None:
        raise InputError(f"strategy {strategy.name} trains nothing; there is nothing to save")
    staging = out / STAGING
    try:
        claim(out, MODEL, names=(*MODEL_FILES, *(pattern for name in companions or () for pattern in (name, f"{name}/*"))))
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        if network is None:
            _write_weights(pipe, strategy, staging, record or {})
        else:
            network.save_pretrained(staging / (record or {})["control"]["network"], safe_serialization=True)
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        record = {"strategy": asdict(strategy), **(record or {})}
        record["files"] = {path.relative_to(staging).as_posix(): path.stat().st_size for path in files}
        (staging / CARD).write_text(trained_card(strategy, record), encoding="utf-8")
        (staging / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for name, path in (companions or {}).items():
            if path.exists():
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, staging / name)
        (out / RECORD).unlink(missing_ok=True)  # from here on nothing takes space; a process that dies leaves no model that seems whole
        clear(out)
        for path in sorted(staging.iterdir(), key=lambda path: path.name == RECORD):
            if (out / path.name).is_dir():  # of a call that was cut short
                shutil.rmtree(out / path.name)
            os.replace(path, out / path.name)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{out}: the model could not be saved ({error}); free some disk space and run again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):
            release(out)
    return out


def read_record(folder: Path) -> dict:
    """The record of a saved model.

    Raises
    ------
    InputError
        The folder holds no whole model.
    """
    path = Path(folder) / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        Strategy(**record["strategy"])
        return record
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there, so {folder} holds no finished model; train it, or give another folder") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error}); train or copy the model again") from error


def load_trained(foundation: str, folder: Path, fuse: bool = False) -> StableDiffusionXLPipeline:
    """The foundation with the trained parts of ``folder``, frozen and ready for ``generate``.

    ``fuse`` multiplies LoRA into the weights: the same images but for rounding, faster.

    Raises
    ------
    InputError
        A folder without a finished model, damaged weights, and a model that was trained on another foundation (an autoencoder: on
        another autoencoder; the other networks had no part in it).
    """
    folder = Path(folder)
    record = read_record(folder)
    if "control" in record:
        raise InputError(f"{folder}: holds a control network, not a model that draws; give it next to the model that it steers")
    strategy = Strategy(**record["strategy"])
    _check_weights(folder, record)
    pipe = load_foundation(foundation)
    _check_start(folder, record, strategy, foundation, pipe)
    if strategy.unet in ("full", "scratch"):
        pipe.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=pipe.unet.dtype)
    if strategy.text == "full":
        for _, name in ENCODERS:
            setattr(pipe, name, ENCODER_CLASSES[name].from_pretrained(folder / name, dtype=pipe.unet.dtype))
    if strategy.has_lora:
        _load_lora(pipe, folder, fuse)
    if strategy.token:
        load_token(pipe, folder / EMBEDDING_FILE)
    if (folder / "vae").is_dir():
        pipe.vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=pipe.vae.dtype)
    elif strategy.vae != "frozen":
        apply_lora(pipe.vae, folder / VAE_LORA_FILE)
    for module in components(pipe).values():
        module.eval().requires_grad_(False)
    return pipe


def model_key(model: Path | None, foundation: str) -> str:
    """Sixteen hex digits that tell apart what control networks steer: a trained model by its training, or the foundation itself."""
    if model is None:
        return foundation_fingerprint(load_foundation(foundation))
    record = {name: value for name, value in read_record(model).items() if name not in ("cost", "files")}
    return content_key(json.dumps(record, sort_keys=True))


def load_control(folder: Path, steered: str = "") -> tuple[str, nn.Module]:
    """Kind and network of a trained control, frozen, float32.

    ``steered``: ``model_key`` of the model that it is to steer.

    Raises
    ------
    InputError
        A folder without a finished control, damaged weights, and another model than the one that it was trained with.
    """
    folder, record = Path(folder), read_record(Path(folder))
    if "control" not in record:
        raise InputError(f"{folder}: holds a model, no control network; train one with 'finetune --control KIND'")
    _check_weights(folder, record)
    if steered and record["foundation"] != steered:
        name = record["strategy"]["name"]
        raise InputError(f"{folder}: steers another model of {name} than this one; give that model, or train the control again")
    kind, network = record["control"]["kind"], record["control"]["network"]
    return kind, NETWORKS[network].from_pretrained(folder / network, torch_dtype=torch.float32).eval().requires_grad_(False)


def _check_start(folder: Path, record: dict, strategy: Strategy, foundation: str, pipe: StableDiffusionXLPipeline) -> None:
    """A model belongs to what it was trained on: an autoencoder to the autoencoder, anything else to the whole foundation."""
    if strategy.vae == "frozen":
        what, wanted, found = "foundation", record.get("foundation"), foundation_fingerprint(pipe)
    else:
        what, wanted, found = "autoencoder", record.get("vae", "")[:16], fingerprint(pipe.vae)[:16]
    if wanted and wanted != found:
        raise InputError(
            f"{folder}: trained on the {what} {wanted}, but that of {foundation!r} is {found}; "
            "load it with its own foundation or train it again"
        )


def _write_weights(pipe: StableDiffusionXLPipeline, strategy: Strategy, folder: Path, record: dict) -> None:
    if strategy.unet in ("full", "scratch"):
        pipe.unet.save_pretrained(folder / "unet", safe_serialization=True)
    if strategy.text == "full":
        for tokenizer, name in ENCODERS:
            _save_encoder(getattr(pipe, name), getattr(pipe, tokenizer), folder / name, strategy.token)
    if strategy.has_lora:
        StableDiffusionXLPipeline.save_lora_weights(
            folder,
            unet_lora_layers=lora_layers(pipe.unet, text=False),
            text_encoder_lora_layers=lora_layers(pipe.text_encoder, text=True),
            text_encoder_2_lora_layers=lora_layers(pipe.text_encoder_2, text=True),
            weight_name=LORA_FILE,
        )
    if strategy.token:
        save_token(pipe, folder / EMBEDDING_FILE)
    if strategy.vae.startswith("lora"):
        weights = {f"vae.{name}": value.contiguous() for name, value in lora_layers(pipe.vae, text=False).items()}
        about = {"format": "pt", "vae": record.get("vae", ""), "strategy": strategy.name, "rank": str(strategy.rank)}
        save_file(weights, folder / VAE_LORA_FILE, metadata=about)
    elif strategy.vae != "frozen":
        pipe.vae.save_pretrained(folder / "vae", safe_serialization=True)


def _save_encoder(encoder, tokenizer, folder: Path, token: bool) -> None:
    """A text encoder as a transformers folder that versions 4 and 5 read, without the learned word's row.

    The row lives in its own file; the table is as it was, for it does not train.
    """
    weights = {
        name.replace(".base_layer", "").replace(".token_adapter", ""): value.detach().float().cpu()
        for name, value in encoder.state_dict().items()
        if "trainable_tokens" not in name
    }
    table = next(name for name in weights if name.endswith("token_embedding.weight"))
    rows = len(embedding_table(encoder)) - int(token)
    weights[table] = weights[table][:rows]
    if not isinstance(encoder, CLIPTextModelWithProjection):
        weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in weights.items()}
    config = copy.deepcopy(encoder.config)
    config.vocab_size = rows
    config.architectures = [type(encoder).__name__]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _load_lora(pipe: StableDiffusionXLPipeline, folder: Path, fuse: bool) -> None:
    # diffusers warns for each component that has no keys in the file, which is no fault of a text-only LoRA.
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng(devices=[]):  # injecting adapters draws random starts that the file then replaces
            pipe.load_lora_weights(folder, weight_name=LORA_FILE)
            if fuse:
                pipe.fuse_lora(components=["unet", "text_encoder", "text_encoder_2"])
                pipe.unload_lora_weights()
    finally:
        diffusers_logging.set_verbosity(level)


def _check_weights(folder: Path, record: dict) -> None:
    for name, size in record.get("files", {}).items():
        path = folder / name
        try:
            if path.stat().st_size != size:
                raise InputError(
                    f"{path}: truncated or changed, {path.stat().st_size} bytes where the record says {size}; "
                    "copy it again or train the model again"
                )
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({error}); copy it again or train the model again") from error


# The model card that lies next to trained weights.


def model_card(template: str, tags: list[str], licence: str | None = None, **values: object) -> str:
    """The text of a model card in the hub's format.

    Parameters
    ----------
    template : file name in ``sarnb/cards`` without its ending: a Jinja2 template with ``{{ card_data }}`` as front matter.
    tags, licence : of the front matter, in the hub's own words.
    values : what the template asks for.
    """
    data = ModelCardData(license=licence, library_name="diffusers", pipeline_tag="text-to-image", tags=tags)
    return ModelCard.from_template(data, template_path=str(CARDS / f"{template}.md"), **values).content + "\n"


def trained_card(strategy: Strategy, record: dict) -> str:
    """Markdown: what was trained, how to load it with plain diffusers, on what, at what cost, and what it is not for."""
    config, cost = record.get("config", {}), record.get("cost", {})
    names = ("steps", "batch_size", "crop", "losses", "seed", "ema_decay", "min_snr_gamma", "noise_offset")
    names += tuple(name for name in config if name.startswith("lr_"))
    if "vae" in record:
        facts = {"autoencoder (fingerprint)": record["vae"][:16]}
    else:
        facts = {"foundation (fingerprint)": record.get("foundation", "not recorded")}
    facts["training set (fingerprint)"] = record.get("data", "not recorded")
    facts |= {name: config[name] for name in names if name in config}
    facts |= {name: cost[name] for name in ("trainable_parameters", "seconds", "peak_memory_mb", "device") if name in cost}
    facts |= {"captions": " ".join(cost["remarks"])} if cost.get("remarks") else {}
    facts |= {f"foundation's {name}": value for name, value in record.get("settings", {}).items()}
    if "control" in record:
        facts |= record["control"]
    return model_card(
        "trained",
        ["text-to-image", "synthetic-aperture-radar", "stable-diffusion-xl"],
        strategy=strategy,
        merged=bool(record.get("merged")),
        token=TOKEN,
        embedding_file=EMBEDDING_FILE,
        vae_lora_file=VAE_LORA_FILE,
        control=record.get("control"),
        facts=facts,
    )


# Trained autoencoders on disk: load one, and write one as a folder that plain diffusers loads.


def load_vae(folder: Path, foundation: str = "embedded") -> AutoencoderKL:
    """The trained autoencoder of ``folder``, frozen, float32, LoRA multiplied in.

    ``folder``: of ``save_trained`` or of ``write_vae``. ``foundation``: what it was trained from, which only a LoRA needs.

    Raises
    ------
    InputError
        A folder without a finished autoencoder, damaged weights, and a LoRA for another autoencoder.
    """
    folder = Path(folder)
    strategy = Strategy(**read_record(folder)["strategy"])
    if strategy.vae == "frozen":
        raise InputError(f"{folder}: {strategy.name} trained no autoencoder; give the folder of a VAE strategy")
    if strategy.vae.startswith("lora") and (folder / VAE_LORA_FILE).exists():
        vae = apply_lora(foundation_vae(foundation), folder / VAE_LORA_FILE)
    else:
        vae = read_autoencoder(str(folder), pipeline=True)
    return vae.eval().requires_grad_(False)


def foundation_vae(foundation: str = "embedded") -> AutoencoderKL:
    """The autoencoder alone of a foundation: "embedded", a local diffusers folder, a single file or a hub id; frozen, float32.

    Of ``FOUNDATION+vae=VAE`` it is the VAE named behind the foundation.
    """
    base, other = split_foundation(foundation)
    source = other or str(foundation_path() if base == "embedded" else base)
    return read_autoencoder(source, pipeline=not other).eval().requires_grad_(False)


def write_vae(vae: AutoencoderKL, trained: Path, folder: Path, **about: object) -> Path:
    """Write a plain autoencoder into ``folder/vae``, with record and model card: what any diffusers user can load.

    ``AutoencoderKL.from_pretrained(folder, subfolder="vae")`` and ``load_vae(folder)`` read it. Its record is that of the
    model in ``trained``, with what ``about`` adds.

    Raises
    ------
    InputError
        The disk is full.
    """
    folder, record = Path(folder), read_record(trained) | about | {"merged": True}
    staging = folder.resolve().with_name(f".{folder.resolve().name}{STAGING}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        vae.save_pretrained(staging / "vae", safe_serialization=True)
        (staging / CARD).write_text(trained_card(Strategy(**record["strategy"]), record), encoding="utf-8")
        record["files"] = {f"vae/{path.name}": path.stat().st_size for path in sorted((staging / "vae").iterdir())}
        write_json(staging / RECORD, record)
        replace_folder(staging, folder, MODEL)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: the autoencoder could not be saved ({error}); free some disk space and run again") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder

"""The foundation: load an SDXL of any size, build a miniature one, and the few things every caller does with it.

The object is always diffusers' own ``StableDiffusionXLPipeline``: two CLIP text towers, VAE, UNet, scheduler. A loaded one
is checked for being whole, for the libraries start missing weights at random, with a warning that scrolls by.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sarnb import foundation_path, split_foundation
from sarnb.errors import InputError, first_line

ENCODERS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
SINGLE = (".safetensors", ".ckpt")
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def check_whole(pipe: StableDiffusionXLPipeline, folder: Path, parts: Iterable[str]) -> None:
    """Raise ``InputError`` unless one of the ``parts`` finds its weights, and no others, in its files in a local diffusers folder.

    Files of other formats are not looked into. The prefix ``text_model.`` plays no part: transformers 5 dropped it. What CLIP
    has besides a text tower may stand in a text encoder's file.
    """
    for part in parts:
        stored: set[str] = set()
        for path in (folder / part).glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                stored |= {name.removeprefix("text_model.") for name in file.keys()}
        wanted = {name.removeprefix("text_model.") for name, _ in getattr(pipe, part).named_parameters()}
        surplus = sorted(name for name in stored - wanted if not name.startswith(BESIDE_TEXT) and not name.endswith("position_ids"))
        for names, what in ((sorted(wanted - stored), "missing"), (surplus, "there and not used")):
            if stored and names:
                raise InputError(
                    f"{folder / part}: {len(names)} weights are {what}, such as {names[0]}, so the file belongs to another "
                    f"network than its config.json; put the two of one model there"
                )


def check_words(pipe: StableDiffusionXLPipeline, where: str) -> None:
    """Raise ``InputError`` if a tokenizer writes ids, or sequences, that its text encoder has no row for."""
    for tokenizer, encoder in ((getattr(pipe, a), getattr(pipe, b)) for a, b in ENCODERS):
        rows, words = encoder.get_input_embeddings().num_embeddings, len(tokenizer)
        places, length = encoder.config.max_position_embeddings, tokenizer.model_max_length
        if words > rows or length > places:
            raise InputError(
                f"{where}: a tokenizer of {words} words and {length} places does not match its text encoder of {rows} words and "
                f"{places} places; take both from one model"
            )


CONDITIONS = ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
BESIDE_TEXT = ("text_projection.", "logit_scale", "vision_model.", "visual_projection.")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
#: Keys of a scheduler's configuration that not every class reads, and the value that says the same as leaving the key out.
NEUTRAL = {
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "trained_betas": None,
    "use_flow_sigmas": False,
    "timestep_spacing": "linspace",
    "steps_offset": 0,
    "clip_sample": False,
    "thresholding": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "snr_shift_scale": 1.0,
}


#: What networks of the same weights can differ in, for no shape tells it; with the embedded foundation's values.
SHAPELESS: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 16, "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "act_fn": "silu"}
    | {"norm_num_groups": 32, "norm_eps": 1e-5, "attention_head_dim": [1, 2, 4], "num_attention_heads": None, "dropout": 0.0}
    | {"mid_block_scale_factor": 1, "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False, "downsample_padding": 1}
    | {"timestep_post_act": None, "time_embedding_act_fn": None, "upcast_attention": False},
    "vae": {"act_fn": "silu", "norm_num_groups": 4, "force_upcast": True},
    **dict.fromkeys(("text_encoder", "text_encoder_2"), {"hidden_act": "gelu", "num_attention_heads": 4, "layer_norm_eps": 1e-5}),
}


def check_settings(pipe: StableDiffusionXLPipeline, where: str) -> None:
    """Raise ``InputError`` for settings of a foundation that change its loss or its pictures and are not followed here.

    Followed are the prediction type, the noise schedule (betas, zero terminal SNR, number of timesteps), everything that the
    scheduler's own class reads when it draws, the autoencoder's ``scaling_factor``, ``latents_mean``, ``latents_std`` and
    ``force_upcast`` (it always works in float32), and the pipeline's ``force_zeros_for_empty_prompt``.
    """
    scheduler, vae, unet = pipe.scheduler.config, pipe.vae.config, pipe.unet.config
    name, read = type(pipe.scheduler).__name__, inspect.signature(type(pipe.scheduler).__init__).parameters
    kind, channels = scheduler.get("prediction_type", "epsilon"), vae.latent_channels
    seeded = hasattr(pipe.scheduler, "alphas_cumprod") and name != "DPMSolverSDEScheduler"  # its noise is one of the whole batch
    statistics = [vae.get("latents_mean"), vae.get("latents_std")]
    paired = statistics == [None, None] or all(
        isinstance(value, (list, tuple)) and len(value) == channels and all(map(_is_number, value)) for value in statistics
    )
    paired = paired and all(value > 0 for value in statistics[1] or ())
    no_noise = "noise cannot be predicted where there is nothing else (Lin et al. 2024); set prediction_type to v_prediction"
    rules: list[tuple[str, Mapping[str, Any], str, bool, str]] = [  # file, its values, key, whether it is followed, what to do
        ("scheduler", {"_class_name": name}, "_class_name", seeded, "choose one with a table of betas, such as EulerDiscreteScheduler"),
        ("scheduler", scheduler, "prediction_type", kind in PREDICTIONS, f"choose {', '.join(PREDICTIONS)}"),
        ("scheduler", scheduler, "use_flow_sigmas", not scheduler.get("use_flow_sigmas"), "flow matching is another training"),
        ("scheduler", scheduler, "rescale_betas_zero_snr", kind != "epsilon" or not scheduler.get("rescale_betas_zero_snr"), no_noise),
        (
            "scheduler",
            scheduler,
            "timestep_type",
            kind != "v_prediction" or scheduler.get("timestep_type") != "continuous",
            "the preconditioning of EDM is another training",
        ),
        ("vae", vae, "shift_factor", not vae.get("shift_factor"), "SDXL's pipeline does not read it; leave it out"),
        ("vae", vae, "scaling_factor", _is_number(vae.get("scaling_factor")) and vae.scaling_factor > 0, "give a positive number"),
        ("vae", vae, "latents_mean", paired, f"give latents_mean and latents_std with {channels} numbers each (std above 0), or neither"),
        ("unet", unet, "in_channels", unet.in_channels == channels, f"the autoencoder's latents have {channels} channels"),
        ("unet", unet, "out_channels", unet.out_channels == channels, f"the autoencoder's latents have {channels} channels"),
        ("unet", unet, "addition_embed_type", unet.addition_embed_type == "text_time", "SDXL's is text_time"),
        ("unet", unet, "time_cond_proj_dim", unet.time_cond_proj_dim is None, "guidance as an input is not trained; give another"),
    ]
    rules += [("unet", unet, k, unet.get(k) is None, "SDXL's pipeline has no such condition") for k in CONDITIONS]
    unread = f"{name} does not read it; choose a scheduler that does, or leave the key out"
    rules += [("scheduler", scheduler, k, k in read or scheduler.get(k, v) == v, unread) for k, v in NEUTRAL.items()]
    for part in ("scheduler", "vae", "unet", ""):
        owner = getattr(pipe, part) if part else pipe
        flags = [key for key, value in inspect.signature(type(owner).__init__).parameters.items() if isinstance(value.default, bool)]
        given = {key: owner.config.get(key, False) for key in flags}  # null, as SDXL's upcast_attention is, means false
        rules += [(part, owner.config, key, isinstance(value, bool | None), "write true or false") for key, value in given.items()]
    for part, values, key, followed, mend in rules:
        if not followed:
            file = f"{part}/{'scheduler_config' if part == 'scheduler' else 'config'}.json" if part else "model_index.json"
            raise InputError(f"foundation {where!r}: {file} has {key} = {values.get(key)!r}, which is not followed here: {mend}")
    check_schedule(pipe, where)


def check_schedule(pipe: StableDiffusionXLPipeline, where: str) -> None:
    """Raise ``InputError`` for a scheduler that cannot draw, or whose signal does not fall from 1 towards 0 (black pictures)."""
    levels, count = pipe.scheduler.alphas_cumprod, pipe.scheduler.config.num_train_timesteps
    falling = len(levels) == count > 0 and levels[0] > 0 and levels[-1] < 1
    falling = falling and all(bool(((values >= 0) & (values <= 1)).all()) for values in (levels, pipe.scheduler.betas))
    try:
        copy.deepcopy(pipe.scheduler).set_timesteps(4)
        wrong = "" if falling and bool((levels.diff() <= 0).all()) else "its betas do not take the signal from 1 towards 0"
    except (ValueError, TypeError, IndexError, NotImplementedError) as error:
        wrong = first_line(error)
    if wrong:
        raise InputError(f"foundation {where!r}: scheduler/scheduler_config.json: {wrong} ({count} timesteps); mend its values")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def settings_of(pipe: StableDiffusionXLPipeline) -> dict[str, Any]:
    """The settings that tell foundations of the same weights apart, by name: those that differ from the embedded foundation's.

    Of the scheduler what its class reads, of the autoencoder how latents are scaled, of the pipeline the empty prompt, of each
    network what is in SHAPELESS, of a tokenizer the tokens of padding and end where
    its encoder's configuration tells others, and the sides that are padded and cut.
    """
    scheduler, usual, vae = pipe.scheduler, build_scheduler(), pipe.vae.config
    defaults = {name: value.default for name, value in inspect.signature(type(scheduler).__init__).parameters.items()}
    known = {name: usual.config.get(name, default) for name, default in defaults.items()}
    own = {name: value for name, value in scheduler.config.items() if name in known}
    known |= {"_class_name": type(usual).__name__, "scaling_factor": 0.13025 if vae.latent_channels == 4 else 1.0}
    own |= {"_class_name": type(scheduler).__name__, "scaling_factor": vae.scaling_factor}
    known |= {"latents_mean": None, "latents_std": None, "force_zeros_for_empty_prompt": True}
    own |= {name: vae.get(name) for name in ("latents_mean", "latents_std")}
    own |= {"force_zeros_for_empty_prompt": pipe.config.force_zeros_for_empty_prompt}
    for part, usually in SHAPELESS.items():
        known |= {f"{part}.{key}": value for key, value in usually.items()}
        config = getattr(pipe, part).config
        own |= {f"{part}.{key}": json.loads(json.dumps(getattr(config, key, value))) for key, value in usually.items()}
    for name, encoder in ENCODERS:
        words, tower = getattr(pipe, name), getattr(pipe, encoder).config
        known |= {f"{name}.pad_token_id": tower.pad_token_id, f"{encoder}.eos_token_id": words.eos_token_id}
        own |= {f"{name}.pad_token_id": words.pad_token_id, f"{encoder}.eos_token_id": tower.eos_token_id}
        known |= {f"{name}.sides": "right, right"}
        own |= {f"{name}.sides": f"{words.padding_side}, {words.truncation_side}"}
    return {name: value for name, value in sorted(own.items()) if value != known[name]}


def read_autoencoder(source: str, pipeline: bool = False) -> AutoencoderKL:
    """The autoencoder, in float32, of a hub id, a single .safetensors file, or a folder (of it, or of a pipeline or model with ``vae/``).

    A single file holds weights only, of the autoencoder alone or of all networks. Its configuration is that of the folder ``x/``
    of ``x.safetensors``, else SDXL's: left to itself, diffusers takes a lone autoencoder for that of Stable Diffusion 1.5, whose
    latents are scaled otherwise.

    Parameters
    ----------
    pipeline : the hub id is that of a whole pipeline.

    Raises
    ------
    InputError
        Nothing is there, or the weights are damaged.
    """
    path = Path(source)
    try:
        if path.suffix in SINGLE:
            folder = path.with_suffix("")
            own = (folder / "vae" / "config.json").is_file() or (folder / "config.json").is_file()
            inside = {"subfolder": "vae"} if (folder / "vae" / "config.json").is_file() or not own else {}
            return AutoencoderKL.from_single_file(path, config=str(folder) if own else SDXL, **inside).float()
        below = {"subfolder": "vae"} if pipeline or (path / "vae").is_dir() else {}
        return AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32, **below)
    except (OSError, KeyError, SafetensorError, SingleFileComponentError, ValueError, RuntimeError) as error:
        hint = ""
        if path.suffix in SINGLE:
            hint = f" (with its configuration in {path.with_suffix('')}/config.json, if the hub is out of reach)"
        raise InputError(
            f"autoencoder {source!r}: cannot be loaded ({first_line(error)}); give a diffusers folder, a single .safetensors file{hint} or "
            "a hub id that can be reached"
        ) from error


def on_card(function: Callable) -> Callable:
    """``function`` with its first argument, a network or a pipeline, on the graphics card while it runs, where there is one.

    A pipeline whose UNet is there stays as it is: it trains, and what no step calls may wait in the CPU's memory.
    """

    @functools.wraps(function)
    def called(first: Any, *args: Any, **kwargs: Any) -> Any:
        networks = [first] if isinstance(first, nn.Module) else list(components(first).values())
        moves = torch.cuda.is_available() and networks[0].device.type != "cuda"
        places = {network: network.device for network in networks if moves}
        try:
            for network in places:
                nn.Module.to(network, "cuda")
            return function(first, *args, **kwargs)
        finally:
            for network, place in places.items():
                nn.Module.to(network, place)

    return called


@dataclass(frozen=True)
class FoundationConfig:
    """Sizes of a miniature SDXL; the defaults are those of the embedded foundation."""

    image_size: int = 128  # px
    latent_channels: int = 16
    vae_channels: tuple[int, ...] = (16, 48, 64, 128)  # four levels: downsampling 8, as SDXL
    vae_layers: int = 1
    unet_channels: tuple[int, ...] = (96, 160, 256)  # attention from the second level on, as SDXL
    unet_layers: int = 1
    head_width: int = 64  # channels of one attention head, as SDXL
    text_width: int = 128  # each of the two towers; the UNet attends to both side by side
    text_layers: int = 3
    max_tokens: int = 64
    time_embedding: int = 32  # per micro-conditioning number


def build_text_tower(config: FoundationConfig, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A randomly started CLIP text tower with projection."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            projection_dim=config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=max(1, config.text_width // 32),
            max_position_embeddings=config.max_tokens,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_vae(config: FoundationConfig) -> AutoencoderKL:
    """A randomly started convolutional VAE; without attention, so that crops train what whole images use.

    Every residual block starts as the identity (Goyal et al. 2017): half a decibel better after the same short training.
    """
    levels = len(config.vae_channels)
    vae = AutoencoderKL(
        block_out_channels=config.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config.vae_layers,
        latent_channels=config.latent_channels,
        norm_num_groups=4,
        sample_size=config.image_size,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    for name, module in vae.named_modules():
        if name.endswith(".conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return vae


def build_unet(config: FoundationConfig) -> UNet2DConditionModel:
    """A randomly started UNet with SDXL's block types and text-time conditioning."""
    levels = len(config.unet_channels)
    return UNet2DConditionModel(
        sample_size=config.image_size // 8,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        layers_per_block=config.unet_layers,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        cross_attention_dim=2 * config.text_width,
        attention_head_dim=[max(1, width // config.head_width) for width in config.unet_channels],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=config.time_embedding,
        projection_class_embeddings_input_dim=config.text_width + 6 * config.time_embedding,
    )


def build_scheduler() -> DPMSolverMultistepScheduler:
    """SDXL's schedule, scaled-linear β from 0.00085 to 0.012, and noise prediction; the sampler is DPM-Solver++ 2M (Lu et al. 2022).

    It follows the equation that SDXL's Euler sampler follows, in steps of equal log(α/σ), of which it needs about half as many:
    notebook 00 shows how far either is from the solution, notebook 05 what the measures say.
    """
    return DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_lu_lambdas=True)


def first_tower(tower: CLIPTextModelWithProjection) -> CLIPTextModel:
    """The same tower without its projection, as SDXL's first text encoder has none."""
    plain = CLIPTextModel(tower.config)
    names = plain.state_dict().keys()
    weights = {name.removeprefix("text_model."): value for name, value in tower.state_dict().items()}
    plain.load_state_dict({name: weights[name.removeprefix("text_model.")] for name in names})
    return plain


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    text_encoder_2: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionXLPipeline:
    """The parts as one pipeline, everything in evaluation mode and frozen."""
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        add_watermarker=False,
    )
    return freeze(pipe)


def freeze(pipe: StableDiffusionXLPipeline) -> StableDiffusionXLPipeline:
    """No gradients and no dropout anywhere; the progress bar only where a person watches."""
    for module in components(pipe).values():
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def components(pipe: StableDiffusionXLPipeline) -> dict[str, nn.Module]:
    """The four networks by the names that diffusers gives them."""
    return {name: getattr(pipe, name) for name in ("unet", "text_encoder", "text_encoder_2", "vae")}


def sdxl_components(device: str = "meta") -> dict[str, nn.Module]:
    """The four networks of SDXL base 1.0 (Podell et al. 2023) by diffusers' names, as its published configuration says.

    On the meta device shapes only, elsewhere random weights in float32.
    """
    with torch.device(device):
        unet = UNet2DConditionModel(  # 2,567,463,684 parameters
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            transformer_layers_per_block=[1, 2, 10],
            attention_head_dim=[5, 10, 20],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=1024,
            scaling_factor=0.13025,
        )
        large = CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        huge = CLIPTextConfig(
            vocab_size=49408,
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
        )
        return {"unet": unet, "text_encoder": CLIPTextModel(large), "text_encoder_2": CLIPTextModelWithProjection(huge), "vae": vae}


def sdxl_pipeline(device: str = "meta") -> StableDiffusionXLPipeline:
    """A pipeline of SDXL's shapes without its knowledge: its words mean nothing. For counts and for speed."""
    words = [f"word{number}</w>" for number in range(49408 - 3)] + ["!", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[], model_max_length=77)
    return assemble(tokenizer=tokenizer, **sdxl_components(device))


def load_foundation(spec: str = "embedded") -> StableDiffusionXLPipeline:
    """Load ``"embedded"``, a local diffusers folder, a single-file checkpoint, or a hub id, in float32.

    ``"FOUNDATION+vae=VAE"`` takes another autoencoder than the foundation's own, see ``read_autoencoder``; its
    normalisation of latents comes with it. A single file holds weights only: the configurations and tokenizers are those of
    a diffusers folder of its name next to it (``x/`` for ``x.safetensors``), else the hub's.

    Raises
    ------
    InputError
        Nothing is there, weights are damaged, missing or another network's, a tokenizer does not match its encoder, or the
        autoencoder does not fit the UNet.
    """
    base, vae = split_foundation(spec)
    path = foundation_path() if base == "embedded" else Path(base)
    single = path.suffix in SINGLE
    if not sys.stderr.isatty():  # their bars would fill a log with thousands of lines
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
    other = {"vae": read_autoencoder(vae)} if vae else {}
    try:
        if single:
            pipe = _load_single_file(path, other)
        else:
            source = str(path) if path.exists() else base
            pipe = StableDiffusionXLPipeline.from_pretrained(source, dtype=torch.float32, add_watermarker=False, **other)
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError, KeyError) as error:
        hint = ""
        if single:
            hint = f" (with a diffusers folder {path.with_suffix('')} of its configurations and tokenizers, if the hub is out of reach)"
        raise InputError(
            f'foundation {spec!r}: cannot be loaded from {path} ({first_line(error)}); give "embedded", a diffusers folder, '
            f"a single .safetensors file{hint} or a hub id that can be reached"
        ) from error
    check_words(pipe, base)
    if path.is_dir():
        check_whole(pipe, path, [part for part in components(pipe) if part not in other])
    channels, wanted = pipe.vae.config.latent_channels, pipe.unet.config.in_channels
    if vae and channels != wanted:
        raise InputError(
            f"autoencoder {vae!r}: its latents have {channels} channels, but the foundation's UNet works on {wanted}; "
            "give an autoencoder of the same kind"
        )
    check_settings(pipe, spec)
    named = path / "scheduler" / "scheduler_config.json"
    said = json.loads(named.read_text(encoding="utf-8")).get("_class_name") if named.is_file() else None
    if said not in (None, type(pipe.scheduler).__name__):
        raise InputError(
            f"foundation {spec!r}: {named} has _class_name = {said!r}, model_index.json {type(pipe.scheduler).__name__!r}, which is what "
            "diffusers loads; write one name in both"
        )
    return freeze(pipe)


def _load_single_file(path: Path, other: dict[str, nn.Module]) -> StableDiffusionXLPipeline:
    """A checkpoint of one file, as other tools write SDXL. Raises ``ValueError`` where weights are missing."""
    folder = path.with_suffix("")
    config = {"config": str(folder)} if (folder / "model_index.json").is_file() else {}
    try:
        pipe = StableDiffusionXLPipeline.from_single_file(path, dtype=torch.float32, add_watermarker=False, **config, **other)
    except (KeyError, SingleFileComponentError) as error:
        raise ValueError(f"weights are missing: {error}") from error
    # diffusers leaves the text encoders' missing weights on the meta device and says nothing.
    missing = [f"{part}.{name}" for part, net in components(pipe).items() for name, p in net.named_parameters() if p.is_meta]
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    if path.suffix == ".safetensors":  # trainers mark what a model predicts: by empty tensors, or as the ModelSpec standard says
        with safe_open(path, framework="pt") as file:
            marks, about = set(file.keys()), (file.metadata() or {}).get("modelspec.prediction_type", "")
        own = pipe.scheduler.config
        says: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in marks or about in ("v", "v_prediction") else {}
        says |= {"prediction_type": "epsilon"} if about == "epsilon" else {}
        says |= {"rescale_betas_zero_snr": True} if "ztsnr" in marks else {}
        for key, value in says.items():
            if own.get(key, NEUTRAL[key]) != value:
                raise ValueError(
                    f"the file says {key} {value!r}, its configuration {own.get(key, NEUTRAL[key])!r}; set it in "
                    f"{folder / 'scheduler' / 'scheduler_config.json'}"
                )
    return pipe


def encode_prompts(pipe: StableDiffusionXLPipeline, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """Token embeddings [B, T, D1 + D2] (both penultimate layers, concatenated) and pooled embedding [B, P], as SDXL.

    Differentiable with respect to both text encoders.
    """
    hidden, pooled = [], None
    for tokenizer, encoder in ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)):
        ids = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids
        output = encoder(ids.to(encoder.device), output_hidden_states=True)
        hidden.append(output.hidden_states[-2])
        pooled = output[0]
    return torch.cat(hidden, dim=-1), pooled


def cut_prompts(pipe: Any, prompts: Iterable[str]) -> str:
    """One sentence on the ``prompts`` that are longer than the text encoders read, and on those that become equal; "" if none is.

    ``pipe``: a pipeline, or a judge, which has one tokenizer.
    """
    different = list(dict.fromkeys(prompts))
    cut: dict[str, int] = {}
    heads = []
    for tokenizer in (getattr(pipe, name) for name, _ in ENCODERS if hasattr(pipe, name)):
        ids = tokenizer(different, verbose=False).input_ids  # with start and end of text
        cut |= {text: tokenizer.model_max_length for text, own in zip(different, ids) if len(own) > tokenizer.model_max_length}
        heads.append([tuple(own[: tokenizer.model_max_length - 1]) for own in ids])
    if not cut:
        return ""
    seen = Counter(zip(*heads))
    alike = sum(seen[own] > 1 for text, own in zip(different, zip(*heads)) if text in cut)
    first, length = next(iter(cut.items()))
    same = f"; {alike} of them then read like another one" if alike else ""
    return (
        f"{len(cut)} of {len(different)} texts are longer than the {length} tokens that are read, and were cut, such as "
        f"{first[:60]!r}{same}."
    )


def time_ids(pipe: StableDiffusionXLPipeline, count: int) -> Tensor:
    """SDXL's micro-conditioning [count, 6]: original size, crop corner, target size; constant for every image."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    row = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32, device=pipe.unet.device)
    return row.repeat(count, 1)


def to_pixels(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W] or [N, H, W, 3] → float [N, 3, H, W] in [-1, 1]; grey is repeated over the channels.

    In memory the channels of a pixel lie together, as convolutions on a CPU like it; what they give then lies so, too.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(images)).float() / 127.5 - 1
    pixels = tensor.unsqueeze(1).expand(-1, 3, -1, -1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
    return pixels.contiguous(memory_format=torch.channels_last)


def to_images(pixels: Tensor) -> np.ndarray:
    """float [N, 3, H, W] in [-1, 1] → uint8 [N, H, W, 3], the modulus of what lies below -1, and 255 for what lies above 1.

    A brightness has no sign, and a decoder that draws the grain of dark areas swings below zero. Cut there, as diffusers does
    for photographs, a share of the speckle becomes exactly black; the modulus is an amplitude again, as that of a complex
    sample is.
    """
    scaled = ((pixels.float() + 1).abs() * 127.5).clamp(max=255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """VAE latents [N, C, h, w] → the latents that the UNet sees, by the VAE's own configuration."""
    mean, std = _latent_statistics(vae, latents)
    return (latents - mean) / std * vae.config.scaling_factor


def denormalise_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Inverse of ``normalise_latents``, [N, C, h, w]."""
    mean, std = _latent_statistics(vae, latents)
    return latents / vae.config.scaling_factor * std + mean


def _latent_statistics(vae: AutoencoderKL, latents: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = vae.config.latents_mean, vae.config.latents_std
    if mean is None or std is None:
        mean, std = [0.0], [1.0]
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(std).view(1, -1, 1, 1)


LARGEST_BATCH = 2 * 1024**2  # pixels that an autoencoder codes at once, or one image


@on_card
@torch.no_grad()
def encode_posterior(vae: AutoencoderKL, images: np.ndarray, batch_size: int = 32) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation [N, C, h, w] of uint8 images [N, H, W] or [N, H, W, 3], not normalised.

    Raises
    ------
    InputError
        The VAE cannot divide the image size.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if images.shape[1] % factor or images.shape[2] % factor:
        raise InputError(f"images of {images.shape[2]} x {images.shape[1]} px: the VAE needs multiples of {factor}; crop or pad them")
    means, stds = [], []
    batch_size = max(1, min(batch_size, LARGEST_BATCH // (images.shape[1] * images.shape[2])))
    for start in range(0, len(images), batch_size):
        pixels = to_pixels(images[start : start + batch_size]).to(vae.device, vae.dtype)
        posterior = vae.encode(pixels).latent_dist
        means.append(posterior.mean.float().cpu())
        stds.append(posterior.std.float().cpu())
    return torch.cat(means), torch.cat(stds)


@on_card
@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor, batch_size: int = 32) -> np.ndarray:
    """Normalised latents [N, C, h, w] → uint8 images [N, H, W, 3]."""
    cell = 4 ** (len(vae.config.block_out_channels) - 1)  # pixels
    batch_size = max(1, min(batch_size, LARGEST_BATCH // (cell * latents.shape[2] * latents.shape[3])))
    raw = (denormalise_latents(vae, piece.to(vae.device, vae.dtype)) for piece in latents.split(batch_size))
    if vae.device.type == "cpu":  # the layout in which its convolutions are fastest there
        raw = (piece.contiguous(memory_format=torch.channels_last) for piece in raw)
    return np.concatenate([to_images(vae.decode(piece).sample) for piece in raw])


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of a network's state: tells two sets of weights apart.

    The bytes of a frozen network are read once. Its digest is remembered until a tensor is replaced or written to in place,
    for which torch counts versions, or a training starts: fused optimisers do not count. (Nor does writing into
    ``parameter.data``; assign to it instead.)
    """
    state = sorted(module.state_dict().items())
    # A weak reference keeps a storage's address from being given to another one, so equal references mean the same storage.
    mark = [(name, value.dtype, value.shape, value._version, StorageWeakRef(value.untyped_storage())) for name, value in state]
    frozen = not any(parameter.requires_grad for parameter in module.parameters())
    if frozen and module in _fingerprints and _fingerprints[module][0] == mark:
        return _fingerprints[module][1]
    digest = hashlib.sha256()
    for name, value in state:
        value = value.detach().cpu().contiguous()
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    if frozen:
        _fingerprints[module] = mark, digest.hexdigest()
    return digest.hexdigest()


def forget_fingerprints() -> None:
    """Read every network anew when ``fingerprint`` is next called; the training loop calls it as it starts."""
    _fingerprints.clear()


_fingerprints: WeakKeyDictionary[nn.Module, tuple[list[tuple], str]] = WeakKeyDictionary()

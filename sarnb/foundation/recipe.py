"""Pretraining of the embedded foundation, stage by stage, on optical pictures only. Each stage resumes.

scenes and textures → linear code → VAE;  scenes and captions → text towers;  scenes and captions → UNet.
"""

from __future__ import annotations

import copy
import json
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTokenizer

from sarnb.data.files import ordered_map, release, replace_folder, saving, write_text
from sarnb.data.twin import scene_seed
from sarnb.errors import InputError
from sarnb.foundation.vae import bypass_norms, fit_linear, fold_latent_statistics, pretrain_vae, start_linear
from sarnb.model.export import model_card
from sarnb.model.foundation import (
    FoundationConfig,
    assemble,
    build_unet,
    build_vae,
    encode_posterior,
    encode_prompts,
    first_tower,
    normalise_latents,
    time_ids,
    to_pixels,
)
from sarnb.model.judge import DualEncoder, build_dual_encoder
from sarnb.train.diffusion import diffusion_loss, drop_captions
from sarnb.train.judge import train_clip
from sarnb.train.loop import MicroBatch, batch_ids, pair_sides, step_generator, train_loop
from sarnb.train.machine import plain_attention
from sarnb.train.state import LoopConfig
from sarnb.train.vae_losses import PerceptualFeatures
from sarnb.world.captions import LENGTHS, caption, hard_negative_table
from sarnb.world.optical import texture_pictures
from sarnb.world.radar import PRESETS
from sarnb.world.scene import CLASSES, COMPOSITIONS, make_scene
from sarnb.world.styles import SIDES, STYLES, check_styles, draw_styles, render_style, style_caption, wrong_style

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's split of a text into words, numbers and runs of punctuation.
WORDS = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
Captions = list[tuple[str, ...]]
SHARD = "14MB"  # largest file of the weights: a repository takes such files without large file storage
MEASURES = re.compile(r"(?<=^## Measures and limits\n).*?(?=\n\n## Licence$)", re.DOTALL | re.MULTILINE)
MEASURED = "measures.csv"
LIMITS = "Known limits: small objects and counts are unreliable, and so is everything outside the twin world."
STAGES = ("linear", "vae", "text", "unet")  # their curves, in order
CYCLES = (  # what has one value a cycle, the steps first
    ("vae_steps", "vae_rates", "vae_crops"),
    ("text_steps", "text_rates", "text_negatives", "text_separation"),
    ("unet_steps", "unet_high_noise"),
)


@dataclass(frozen=True)
class FoundationRecipe:
    """Everything that decides the embedded foundation's weights."""

    model: FoundationConfig = field(default_factory=FoundationConfig)
    seed: int = 0
    scenes: int = 16_000  # captioned optical scenes, all classes and compositions
    textures: int = 12_000  # dead leaves and power-law noise, 64 px
    vae_batch: int = 16  # crops
    vae_scenes: float = 0.75  # share of scenes among them, the rest are textures
    linear_steps: int = 1_200  # of the autoencoder's linear skeleton, from its computed start; 0: a random start
    linear_rate: float = 3e-4
    vae_crops: tuple[int, ...] = (64,)  # px, one cosine cycle each
    vae_steps: tuple[int, ...] = (3_000,)
    vae_rates: tuple[float, ...] = (4e-4,)
    vae_kl: float = 5e-5
    vae_perceptual: float = 0.03
    latent_balance: float = 0.5  # of the latents' variances: 0 all alike, 1 as their channels weigh in the pixels
    vocabulary: int = 1_400  # tokens
    text_steps: tuple[int, ...] = (350, 260)  # contrastive, of both text towers and the image tower; cycles
    text_rates: tuple[float, ...] = (1e-3, 5e-4)
    text_negatives: tuple[int, ...] = (0, 2)  # hard negatives: captions wrong in one fact (count, relation) that an image meets
    text_separation: tuple[float, ...] = (0.0, 1.0)  # weight of parting them from the true one; else "west" is nearly "east"
    text_batch: int = 64
    unet_steps: tuple[int, ...] = (2_000, 11_000)  # one cosine cycle each: warm restarts, Loshchilov & Hutter 2017
    unet_batch: int = 32
    unet_rate: float = 4e-4
    unet_ema: float = 0.999
    min_snr_gamma: float = 5.0
    unet_high_noise: tuple[float, ...] = (6.0, 3.0)  # largest weight of the steps in which layout is settled; 1: all alike
    side_pairs: float = 0.5  # share of the lit pictures followed by the same one lit from the other side, under the same noise
    caption_dropout: float = 0.1
    styles: tuple[str, ...] = ("photograph",)  # of ``sarnb.world.styles``

    def __post_init__(self) -> None:
        check_styles(self.styles)
        for steps, *others in CYCLES:
            for name in others:
                if len(getattr(self, name)) != len(getattr(self, steps)):
                    raise InputError(
                        f"foundation recipe: {name} has {len(getattr(self, name))} values for the "
                        f"{len(getattr(self, steps))} cycles of {steps}; give one value a cycle"
                    )

    def loop(self, steps: int, rate: float, **changes: Any) -> LoopConfig:
        """What all stages share: a cosine from the peak rate, checkpoints every few minutes."""
        values = {"schedule": "cosine", "warmup_steps": 50, "checkpoint_every": 200, "seed": self.seed} | changes
        return LoopConfig(steps=steps, learning_rate=rate, **values)


def pretrain_foundation(
    recipe: FoundationRecipe,
    first: Pictures,
    sar_captions: list[str],
    out: Path,
    everything: Callable[[], Pictures] | None = None,
    start: tuple[StableDiffusionXLPipeline, DualEncoder] | None = None,
) -> tuple[StableDiffusionXLPipeline, DualEncoder]:
    """All stages in order: the pipeline, and its text towers with the image tower.

    Parameters
    ----------
    first : the pictures; where they are not all, ``everything`` waits for those that are drawn while the first stage trains.
    sar_captions : shape the tokenizer, so that the words of radar are not torn to pieces later, and are parted from their
        hard negatives, so that left and right are two words for the text towers, as for any towers that have read the web.
        No SAR image is seen.
    start : a foundation to go on from; its autoencoder stays as it is.
    """
    everything = everything or (lambda: first)
    if start is None:
        features = PerceptualFeatures() if recipe.vae_perceptual else None
        vae, shown, unet = vae_stage(recipe, first.images, out, features), everything(), None
        encoder = text_stage(recipe, shown.images, shown.captions, sar_captions, out)
    else:
        vae, unet = start[0].vae, start[0].unet
        encoder = text_stage(recipe, first.images, first.captions, sar_captions, out, start[1])
        shown = everything()
    return unet_stage(recipe, shown.images, shown.captions, vae, encoder, out, shown.partners, unet), encoder


def radar_captions(count: int, seed: int) -> list[str]:
    """``count`` captions of radar images of all kinds and sensors: words for the tokenizer, without any image."""
    kinds, radars = CLASSES + COMPOSITIONS, list(PRESETS.values())
    texts = []
    for index in range(count):
        scene = make_scene(kinds[index % len(kinds)], seed=scene_seed(seed, "words", index), size=64)
        radar = replace(radars[index % len(radars)], look=("left", "right")[index // len(kinds) % 2])
        texts.append(caption(scene, "sar", LENGTHS[index % len(LENGTHS)], radar=radar, seed=index))
    return texts


@dataclass(frozen=True)
class Pictures:
    """Captioned pictures of scenes, in one style or in many.

    ``images`` uint8 [N, H, W, 3]; ``captions`` one or more each; ``partners`` int [N]: the picture of the same scene in the same
    style lit from the other side, -1 where there is none.
    """

    images: np.ndarray
    captions: Captions
    partners: np.ndarray

    def part(self, count: int) -> Pictures:
        """The first ``count`` pictures; a partner behind them counts as none."""
        return Pictures(self.images[:count], self.captions[:count], np.where(self.partners[:count] < count, self.partners[:count], -1))


def styled_pictures(recipe: FoundationRecipe, count: int, first: int = 0, workers: int = 2) -> Pictures:
    """Scenes ``first`` to ``first + count`` of the recipe, each in one style; of a lit style also lit from the other side.

    The kind of scene, its style and its side are drawn independently of one another, and a picture depends on (seed, index) only.
    """
    kinds = CLASSES + COMPOSITIONS
    drawn = draw_styles(first + count, recipe.seed, recipe.styles)[first:]
    items = []
    for index, (style, side) in enumerate(drawn, start=first):
        items.append((kinds[index % len(kinds)], scene_seed(recipe.seed, "optical", index), style, side))
    pieces = [items[start : start + 32] for start in range(0, count, 32)]
    images: list[np.ndarray] = []
    captions: Captions = []
    partners: list[int] = []
    for piece in ordered_map(partial(_styled, size=recipe.model.image_size), pieces, workers, "pictures"):
        for image, words, paired in piece:
            partners.append(len(images) + 1 if paired > 0 else len(images) - 1 if paired < 0 else -1)
            images.append(image)
            captions.append(words)
    return Pictures(np.stack(images), captions, np.array(partners))


def _styled(items: list[tuple[str, int, str, str]], size: int) -> list[tuple[np.ndarray, tuple[str, ...], int]]:
    """(picture, captions, 1 if its partner follows, -1 if its partner is the one before, else 0) of scenes given by kind and seed."""
    drawn = []
    for kind, seed, style, side in items:
        scene = make_scene(kind, seed, size=size)
        sides = [side, SIDES[side == SIDES[0]]] if STYLES[style].lit else [side]
        for k, light in enumerate(sides):
            words = tuple(style_caption(scene, style, length, light, seed) for length in LENGTHS)
            drawn.append((render_style(scene, style, light), words, (1, -1)[k] if len(sides) > 1 else 0))
    return drawn


def vae_stage(recipe: FoundationRecipe, scenes: np.ndarray, out: Path, features: nn.Module | None) -> AutoencoderKL:
    """A general VAE: the best linear code first, then scenes uint8 [N, H, W, 3] for what is to be drawn and textures for all else."""
    torch.manual_seed(recipe.seed)
    vae = build_vae(recipe.model)
    if recipe.linear_steps:
        pixels = to_pixels(scenes[:: max(1, len(scenes) // 64)][:64])
        start_linear(vae, pixels)
        warmup = min(50, recipe.linear_steps)
        changes = {"warmup_steps": warmup, "weight_decay": 0.0, "ema_decay": 0.99, "precision": "fp32"}
        loop = recipe.loop(recipe.linear_steps, recipe.linear_rate, **changes)
        fit_linear(vae, scenes, loop, out / "linear", batch_size=recipe.vae_batch, crop=recipe.vae_crops[0])
        bypass_norms(vae, pixels)
    textures = texture_pictures(recipe.textures, recipe.seed)
    cycles = zip(recipe.vae_steps, recipe.vae_rates, recipe.vae_crops, strict=True)
    for cycle, (steps, rate, crop) in enumerate(cycles, start=1):
        pretrain_vae(
            vae,
            scenes,
            textures,
            recipe.loop(steps, rate, weight_decay=0.0, ema_decay=0.998),
            out / f"vae-{cycle}",
            batch_size=recipe.vae_batch,
            crop=crop,
            kl=recipe.vae_kl,
            perceptual=recipe.vae_perceptual,
            features=features,
            scene_share=recipe.vae_scenes,
        )
    fold_latent_statistics(vae, scenes[:512], recipe.latent_balance)
    return vae


def text_stage(
    recipe: FoundationRecipe, scenes: np.ndarray, captions: Captions, sar_captions: list[str], out: Path, start: DualEncoder | None = None
) -> DualEncoder:
    """The tokenizer, then both text towers with an image tower, on scenes uint8 [N, H, W, 3].

    The contrastive loss alone leaves words apart no more than its pictures need: "west" and "east" then came out with
    nearly the same vectors, and no UNet could learn the side of the sea from them. ``text_separation`` parts them.
    ``start`` goes on from trained towers, with their tokenizer.
    """
    words = [caption for several in captions for caption in several]
    if start is None:
        tokenizer = train_tokenizer(words + sar_captions, recipe.vocabulary, recipe.model.max_tokens, out / "tokenizer")
        encoder = build_dual_encoder(tokenizer, towers=2, config=recipe.model, seed=recipe.seed)
    else:
        encoder = start
    table = hard_negative_table(words) if any(recipe.text_negatives) else {}
    if len(recipe.styles) > 1:  # the style is one more statement that a caption can be wrong in
        table = {text: (*several, wrong_style(text, recipe.styles)) for text, several in table.items()}
    radar_table = hard_negative_table(sar_captions) if any(recipe.text_separation) else {}
    cycles = zip(recipe.text_steps, recipe.text_rates, recipe.text_negatives, recipe.text_separation, strict=True)
    for cycle, (steps, rate, negatives, separation) in enumerate(cycles, start=1):
        changes = {"warmup_steps": min(30, steps), "ema_decay": 0.99, "checkpoint_every": 50}
        loop = recipe.loop(steps, rate, seed=recipe.seed + cycle - 1, **changes)
        train_clip(
            encoder,
            scenes,
            captions,
            loop,
            out / f"text-{cycle}",
            batch_size=recipe.text_batch,
            label=f"text towers, cycle {cycle}",
            negatives=table if negatives else None,
            negatives_per_image=max(1, negatives),
            separation=separation,
            text_only=radar_table if separation else None,
        )
    encoder.save(out / "encoder")
    return encoder


def train_tokenizer(captions: Iterable[str], vocabulary_size: int, max_length: int, folder: Path) -> CLIPTokenizer:
    """Learn merges from ``captions`` and save a tokenizer that ``CLIPTokenizer.from_pretrained(folder)`` opens.

    All 256 bytes are in the vocabulary, with and without the end-of-word mark, so that an unknown word falls into
    pieces and none is lost (Sennrich et al. 2016; the layout is CLIP's: Radford et al. 2021).
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(alphabet) - 2,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    merges = [line for line in (folder / "merges.txt").read_text().splitlines() if not line.startswith("#")]
    symbols = alphabet + [symbol + "</w>" for symbol in alphabet]
    symbols += [merge.replace(" ", "") for merge in merges] + [START, END]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys(symbols))}
    result = CLIPTokenizer(
        vocab=vocabulary,
        merges=[tuple(merge.split(" ")) for merge in merges],
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=max_length,
    )
    result.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    return result


def unet_stage(
    recipe: FoundationRecipe,
    scenes: np.ndarray,
    captions: Captions,
    vae: AutoencoderKL,
    encoder: DualEncoder,
    out: Path,
    partners: np.ndarray,
    start: UNet2DConditionModel | None = None,
) -> StableDiffusionXLPipeline:
    """The UNet: noise prediction on cached latents, one cosine cycle after another; a new one, or on from ``start``.

    Captions of all lengths, each dropped now and then for guidance. The pictures and the noise of a cycle go on where the
    cycle before stopped. ``partners`` (see ``Pictures``) brings the two sides of a light together in a batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = build_unet(recipe.model) if start is None else start
    pipe = assemble(vae, first_tower(encoder.texts[0]), encoder.texts[1], encoder.tokenizer, unet)
    mean, std = encode_posterior(vae, scenes)
    seed, size, before = recipe.seed, recipe.unet_batch, 0
    tokens = max(mean.shape[2] * mean.shape[3], pipe.tokenizer.model_max_length)

    def loss(high_noise: float, before: int, modules: dict[str, nn.Module], step: int, micro: MicroBatch) -> Tensor:
        step += before
        rng, generator = np.random.default_rng((seed, 51, step)), step_generator(seed, step)
        chosen = batch_ids(len(mean), size, seed, step)
        chosen, source = pair_sides(chosen, partners, recipe.side_pairs, np.random.default_rng((seed, 53, step)))
        prompts = [captions[i][rng.integers(len(captions[i]))] for i in chosen]
        dropped = torch.rand(size, generator=generator) < recipe.caption_dropout
        draw = torch.randn(mean[chosen].shape, generator=generator)[source]
        latents = normalise_latents(pipe.vae, mean[chosen] + std[chosen] * draw)
        noise = torch.randn(latents.shape, generator=generator)[source]
        steps = torch.randint(0, 1000, (size,), generator=generator)[source]
        device = pipe.unet.device
        latents, noise, steps, dropped = (micro.of(values).to(device) for values in (latents, noise, steps, dropped))
        with torch.no_grad():
            hidden, pooled = (values.to(device) for values in encode_prompts(pipe, micro.of(prompts)))
            hidden, pooled = drop_captions(hidden, pooled, torch.zeros_like(hidden), torch.zeros_like(pooled), dropped)
        conditions = hidden, pooled, time_ids(pipe, len(steps))
        weighting = recipe.min_snr_gamma, high_noise
        return diffusion_loss(modules["unet"], pipe.scheduler, latents, *conditions, noise, steps, *weighting)

    cycles = zip(recipe.unet_steps, recipe.unet_high_noise, strict=True)
    for cycle, (steps, high_noise) in enumerate(cycles, start=1):
        loop = recipe.loop(steps, recipe.unet_rate, warmup_steps=200, ema_decay=recipe.unet_ema)
        unet.train().requires_grad_(True)
        with plain_attention(unet, tokens=tokens):
            part = partial(loss, high_noise, before)
            train_loop({"unet": unet}, part, loop, out / f"unet-{cycle}", batch_size=size, label=f"UNet, cycle {cycle}")
        unet.eval().requires_grad_(False)
        before += steps
    return pipe


def stage_history(runs: Path, stage: str) -> pd.DataFrame:
    """The training history of one stage; cycles (folders ``<stage>-1``, ``<stage>-2`` …) in a row, steps counted through."""
    paths = sorted(runs.glob(f"{stage}-*/history.csv"), key=lambda path: int(path.parent.name.rpartition("-")[2]))
    tables, before = [], 0
    for path in paths or [runs / stage / "history.csv"]:
        table = pd.read_csv(path)
        tables.append(table.assign(step=table["step"] + before))
        before = int(tables[-1]["step"].max())
    return pd.concat(tables, ignore_index=True)


def export_foundation(pipe: StableDiffusionXLPipeline, encoder: DualEncoder, recipe: FoundationRecipe, runs: Path, folder: Path) -> None:
    """Save in half precision (safetensors only) with the recipe, the training curves of ``runs``, judge and model card.

    ``judge`` is the image tower with the second text tower, which share a space; it tells the class of an optical
    picture.
    """
    staging = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    copy.deepcopy(pipe).to(torch.float16).save_pretrained(staging, safe_serialization=True, max_shard_size=SHARD)
    # transformers 5 dropped the prefix of CLIPTextModel's names; version 4 looks for it, and 5 reads both.
    weights = staging / "text_encoder" / "model.safetensors"
    names = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(weights).items()}
    save_file(names, weights, metadata={"format": "pt"})
    for config in (staging / "model_index.json", *staging.glob("*/config.json")):
        values = json.loads(config.read_text())
        if "_name_or_path" in values:  # the folder that it was loaded from says nothing to others
            values["_name_or_path"] = ""
        if config.parent.name.startswith("text_encoder"):  # transformers loads in the type named here, diffusers in float32
            values["dtype"] = "float32"
        config.write_text(json.dumps(values, indent=2) + "\n")
    judge = DualEncoder([encoder.texts[1]], encoder.tokenizer)
    judge.image, judge.log_scale = encoder.image, encoder.log_scale
    copy.deepcopy(judge).half().save(staging / "judge")
    (staging / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    (staging / "curves").mkdir()
    for stage in (stage for stage in STAGES if list(runs.glob(f"{stage}*/history.csv"))):
        stage_history(runs, stage).to_csv(staging / "curves" / f"{stage}.csv", index=False)
    (staging / "README.md").write_text(foundation_card(asdict(recipe), staging / "curves"))
    replace_folder(staging, folder, "foundation")


def carry_history(folder: Path, start: Path) -> None:
    """Put what the foundation in ``start`` went through in front of the curves of the one in ``folder``, which goes on from it.

    A stage that was trained on has both curves in a row; one that was not keeps the start's. ``recipe.json`` then holds the settings
    of the stages that were trained on, and the start's whole recipe as ``start``. The card is written anew.
    """
    own, before = (json.loads((place / "recipe.json").read_text()) for place in (folder, start))
    for stage in STAGES:
        old, new = (place / "curves" / f"{stage}.csv" for place in (start, folder))
        if not old.is_file():
            continue
        table = pd.read_csv(old)
        if new.is_file():
            later = pd.read_csv(new)
            table = pd.concat([table, later.assign(step=later["step"] + table["step"].max())], ignore_index=True)
        else:  # what the recipe says of this stage was not done
            own = {name: value for name, value in own.items() if not name.startswith(f"{stage}_")}
        table.to_csv(new, index=False)
    (folder / "recipe.json").write_text(json.dumps(own | {"start": before}, indent=1) + "\n")
    (folder / "README.md").write_text(foundation_card(before | own | {"start": before}, folder / "curves"))
    release(folder, "recipe.json", "README.md", "curves/*")


def retrain_foundation(recipe: FoundationRecipe, out: Path, workers: int = 2) -> Path:
    """The whole recipe from nothing: draw the scenes, train all stages, export; the folder of the new pipeline.

    Resumes where it was killed. Needs the extra packages of ``sarnb.train.vae_losses.PerceptualFeatures``.
    """
    made = pretrain_foundation(recipe, styled_pictures(recipe, recipe.scenes, workers=workers), radar_captions(1_500, recipe.seed), out)
    export_foundation(*made, recipe, out, out / "pipeline")
    return out / "pipeline"


# The model card in the hub's format, written from the recipe and the training curves.


def foundation_card(recipe: dict, curves: Path) -> str:
    """Text of the card; weights that were trained without a GPU are marked as interim.

    Parameters
    ----------
    recipe : the recipe as a dictionary.
    curves : folder of the stages' history tables.
    """
    gpu, rows = torch.cuda.is_available(), []
    for path in sorted(curves.glob("*.csv")):
        history = pd.read_csv(path)
        minutes, rate = history["seconds"].sum() / 60, history["images_per_second"].median()
        rows.append(f"| {path.stem} | {history['step'].max()} | {minutes:.0f} | {history['loss'].iloc[-1]:.4f} | {rate:.0f} |")
    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} CPU threads"
    hardware = torch.cuda.get_device_name() if gpu else cpu
    tags = ["sdxl", "remote-sensing", "synthetic", "teaching"]
    values = {"gpu": gpu, "hardware": hardware, "stages": "\n".join(rows), "limits": LIMITS}
    return model_card("foundation", tags, "apache-2.0", **recipe, **values)


def write_measures(folder: Path, targets: pd.DataFrame) -> None:
    """Put what notebook 00 measured into the card of the foundation in ``folder``, in the place of earlier measures, and next to it.

    The table itself becomes ``measures.csv``.

    Parameters
    ----------
    targets : columns target, set, goal, value, lo, hi, n, verdict.

    Raises
    ------
    InputError
        A folder without a card that has a section for the measures.
    """
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not MEASURES.search(card):
        raise InputError(f"{path}: is no model card of a foundation, it has no section 'Measures and limits'; export it again")
    lines = [
        "On held-out scenes, by notebook 00; in brackets 95 % bootstrap intervals over the pictures, where there are several.",
        "",
        "| target | set | value | verdict |",
        "|---|---|---|---|",
    ]
    for row in targets.itertuples():
        value = f"{row.value:.3g}" + ("" if np.isnan(row.lo) else f" [{row.lo:.3g}, {row.hi:.3g}], n = {row.n}")
        lines.append(f"| {row.target} | {row.set} | {value} | {row.verdict} |")
    with saving(path):
        write_text(path, MEASURES.sub(lambda _: "\n".join([*lines, "", LIMITS]), card))
        targets.to_csv(folder / MEASURED, index=False)
        release(folder, path.name)

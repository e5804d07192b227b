"""The typed profile: everything that sizes a run, as data.

``quick.yaml`` gives every value; any other profile says only its name and what differs from it. The notebooks receive the values as
upper-case parameters (``train_steps`` → ``TRAIN_STEPS``); no code asks for the name of a profile.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from sarnb.errors import InputError

FOLDER = Path(__file__).parent / "profiles"
BASE = "quick"  # what the others differ from
SENSORS = ("airborne-x", "terrasar-x", "sentinel-1", "umbra")
SOURCES = ("twin", "sarlo80")
LARGEST_SEED = 2**32 - 1  # what every generator of random numbers takes
SIZE_STEP = 32  # px: the autoencoder's downsampling by 8, twice halved in the UNet
OPTIMIZERS = ("adamw", "adamw8bit")
SCHEDULES = ("constant", "cosine", "linear")
CONDITIONS = ("map", "satellite", "optical")


def _value(meaning: str, low: float | None = None, high: float | None = None, choices: tuple = ()) -> Any:
    """A profile field with its one-line meaning and its allowed range (for lists: of every item)."""
    return field(metadata={"meaning": meaning, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Profile:
    """The values of one profile.

    Raises
    ------
    InputError
        A value of the wrong type, out of its range, or at odds with another one.
    """

    name: str = _value("name of the profile; its results go to results/<name>")
    stamp: str = _value("text put on every artefact; empty for real results")
    seed: int = _value("seed of the data, the generation and the bootstrap", 0, LARGEST_SEED)
    data: str = _value("folder of the user's own images; empty = the profile's source")
    unseen: str = _value("classes of these images that train does not show, with commas between")
    source: str = _value("where the images come from when no folder is given", choices=SOURCES)
    foundation: str = _value("'embedded', a hub id or a local diffusers folder; +vae=... behind it names another autoencoder")
    style_foundations: str = _value("folders, by commas, of foundations of few and many styles for notebook 12; empty = left out")
    sensor: str = _value("preset of the simulated radar", choices=SENSORS)
    image_size: int = _value("side of an image [px]", 32, 4096)
    train_images: int = _value("SAR images that fine-tuning sees", 1)
    both_sides: bool = _value("each scene of the twin world's train split imaged from the left and from the right; half as many scenes")
    val_images: int = _value("held-out images of the seen classes", 1)
    test_per_class: int = _value("real test images per class and composition", 2)
    judge: str = _value("the SAR-CLIP judge: 'shipped' where it fits; or its start, 'small' = nothing, or open_clip's ViT-L-14:openai")
    judge_images: int = _value("images that train the SAR-CLIP judge", 2)
    train_steps: int = _value("optimizer steps of each fine-tuning", 1)
    batch_size: int = _value("images per optimizer step", 1)
    accumulate: int = _value("micro-batches that share out the batch of one step", 1)
    gradient_checkpointing: bool = _value("activations computed twice instead of stored, for less memory")
    compiled: bool = _value("the UNet is compiled before it trains, on a CUDA card: slower start, faster steps")
    optimizer: str = _value("optimizer of fine-tuning", choices=OPTIMIZERS)
    lr_unet_full: float = _value("learning rate of the full UNet", 0, 1)
    lr_unet_scratch: float = _value("learning rate of the UNet that starts from random weights", 0, 1)
    lr_unet_lora: float = _value("learning rate of the UNet's LoRA", 0, 1)
    lr_text_full: float = _value("learning rate of full text encoders", 0, 1)
    lr_text_lora: float = _value("learning rate of the text encoders' LoRA", 0, 1)
    lr_token: float = _value("learning rate of the <SAR> token", 0, 1)
    lr_factors: tuple[float, ...] = _value("grid of factors on a strategy's rates; one = nothing is tried", 1e-4, 1e4)
    tune_steps: int = _value("optimizer steps of one trial of the grid", 1)
    curve_steps: tuple[int, ...] = _value("lengths of training that notebooks 05 and 06 compare; one = not varied", 1)
    warmup_steps: int = _value("steps of linear learning-rate warm-up", 0)
    ema_decay: float = _value("decay of the weight average; 0 = off", 0, 0.99999)
    schedule: str = _value("learning rate after the warm-up: " + ", ".join(SCHEDULES), choices=SCHEDULES)
    high_noise: float = _value("largest weight of the timesteps at which layout is settled; 1 = all alike", 1, 100)
    noise_offset: float = _value("deviation of a further noise that is constant over a channel; 0 = none", 0, 1)
    ranks: tuple[int, ...] = _value("LoRA ranks of the sweep", 1, 1024)
    text_strategies: tuple[str, ...] = _value("strategies that the notebook on text encoders trains")
    hybrid_strategies: tuple[str, ...] = _value("strategies that the notebook on the hybrid trains, the hybrid first")
    vae_strategies: tuple[str, ...] = _value("strategies that the notebook on the autoencoder trains, LoRA ranks in their names")
    vae_steps: int = _value("optimizer steps of each training of the autoencoder", 1)
    vae_batch: int = _value("crops per optimizer step of the autoencoder", 1)
    vae_crop: int = _value("side of a crop for the autoencoder [px]", 32, 4096)
    vae_point_share: float = _value("share of the autoencoder's crops that carry corner reflectors", 0, 1)
    vae_losses: str = _value("loss terms of the autoencoder, joined by +")
    vae_ablation: tuple[str, ...] = _value("losses that are compared by short trainings of the decoder")
    vae_full_ablation: str = _value("loss of short trainings of the whole autoencoder, without and with kl")
    vae_ablation_steps: int = _value("optimizer steps of each of these", 1)
    lr_vae_lora: float = _value("learning rate of the autoencoder's LoRA", 0, 1)
    lr_vae_full: float = _value("learning rate of the autoencoder's full weights", 0, 1)
    vae_images: int = _value("held-out images whose round trip is measured", 8)
    vae_tile: int = _value("side of the tiles in which the autoencoder works on whole images [px]; 0 = whole", 0)
    vae_unet_steps: int = _value("optimizer steps of the UNets that show what a tuned autoencoder does to them", 1)
    control_base: str = _value("strategy whose model the control networks steer")
    control_kinds: tuple[str, ...] = _value("conditions that a ControlNet is trained for: " + ", ".join(CONDITIONS), choices=CONDITIONS)
    control_steps: int = _value("optimizer steps of each control network, and of the pixel networks next to them", 1)
    control_learning_rate: float = _value("learning rate of the control networks", 0, 1)
    control_images: int = _value("held-out scenes that are drawn by their conditions", 8)
    train_seeds: tuple[int, ...] = _value("seeds of the trainings", 0, LARGEST_SEED)
    seeded_strategies: tuple[str, ...] = _value("strategies that train with every seed; the others train with the first")
    generate_per_class: int = _value("images generated per class, strategy and training seed", 1)
    sampling_steps: int = _value("denoising steps of the sampler", 1, 1000)
    guidance_scale: float = _value("classifier-free guidance; 1 = off", 1, 50)
    sensor_images: int = _value("training images of each of the three sensors that one model learns", 1)
    scene_size: tuple[int, ...] = _value("height and width of the large scene [px]", 32, 65536)
    clip_steps: int = _value("optimizer steps of the judge", 1)
    clip_batch: int = _value("image-caption pairs per step of the judge", 2)
    augment_shots: tuple[int, ...] = _value("reference images a class that the classifiers of notebook 13 have", 1)
    augment_seeds: tuple[int, ...] = _value("seeds of these classifiers: few images, first weights and batches", 0, LARGEST_SEED)
    augment_steps: int = _value("optimizer steps of each of these classifiers", 1)
    augment_sensors: tuple[str, ...] = _value("other sensors whose simulated images train classifiers too", choices=SENSORS)
    checkpoint_every: int = _value("steps between two checkpoints", 1)
    sample_every: int = _value("steps between two small grids of samples during training; 0 = none", 0)
    bootstrap_resamples: int = _value("resamples behind an interval", 10)
    workers: int = _value("processes that draw the twin world", 1, 1024)
    threads: int = _value("torch threads per notebook; 0 = cores / notebooks side by side", 0, 1024)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for item in dataclasses.fields(self):
            object.__setattr__(self, item.name, _checked(self, item, hints[item.name]))
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise InputError(f"profile name {self.name!r}: use letters, digits, '-', '_' and '.', it names a folder")
        if self.image_size % SIZE_STEP:
            raise InputError(f"image_size is {self.image_size}, it must be a multiple of {SIZE_STEP} px, as the networks need")
        if self.batch_size % self.accumulate:
            raise InputError(f"profile {self.name}: accumulate {self.accumulate} does not divide batch_size {self.batch_size}")
        if len(self.scene_size) != 2:
            raise InputError(f"scene_size is {list(self.scene_size)}; give two numbers, height and width in px")
        for small, large in (("batch_size", "train_images"), ("warmup_steps", "train_steps"), ("clip_batch", "judge_images")):
            if getattr(self, small) > getattr(self, large):
                values = f"{small} {getattr(self, small)} is above {large} {getattr(self, large)}"
                raise InputError(f"profile {self.name}: {values}; lower it")

    def parameters(self, results: str) -> dict[str, Any]:
        """The notebook parameters: every field in upper case, ``name`` as PROFILE, and RESULTS, the results folder."""
        values = {key.upper(): list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}
        return {"PROFILE": values.pop("NAME"), "RESULTS": results, **values}


def profile_names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str | Path, /, **overrides: Any) -> Profile:
    """Read a shipped profile by name, or a YAML file by path, with some values overridden, those that are None apart.

    What a file does not say is as in the profile ``quick``.

    Raises
    ------
    InputError
        Unknown profile, broken YAML, no name, unknown key, wrong value.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"unknown profile {str(name)!r}: choose one of {', '.join(profile_names())}, or give a .yaml file")
    values = read_yaml_file(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold 'key: value' lines, found {type(values).__name__}")
    if "name" not in values:
        raise InputError(f"{path}: key 'name' is missing; it names the folder of the profile's results")
    base = read_yaml_file(FOLDER / f"{BASE}.yaml")
    overrides = {key: value for key, value in overrides.items() if value is not None}
    values = {**base, **values, **overrides}
    known = [item.name for item in dataclasses.fields(Profile)]
    if unknown := [str(key) for key in values if key not in known]:
        raise InputError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    try:
        return Profile(**values)
    except InputError as error:
        raise InputError(str(error) if overrides else f"{path}: {error}") from None


def _checked(profile: Profile, item: dataclasses.Field, kind: Any) -> Any:
    """One field's value, converted to its type, or an InputError that names field and value."""
    value = getattr(profile, item.name)
    sentence = f"{item.name} is {value!r}"
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not value:
            kinds = {int: "whole numbers", float: "numbers", str: "texts"}[get_args(kind)[0]]
            raise InputError(f"{sentence}, it must be a non-empty list of {kinds} ({item.metadata['meaning']})")
        if len(set(map(str, value))) != len(value):
            raise InputError(f"{sentence}, nothing may come twice ({item.metadata['meaning']})")
        return tuple(_scalar(v, get_args(kind)[0], item, sentence) for v in value)
    return _scalar(value, kind, item, sentence)


def _scalar(value: Any, kind: type, item: dataclasses.Field, sentence: str) -> Any:
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    accepted: dict[type, Any] = {int: int, float: (int, float), str: str, bool: bool}
    fits = isinstance(value, accepted[kind]) and isinstance(value, bool) == (kind is bool)
    if not fits or value != value:
        raise InputError(f"{sentence}, it must be {words[kind]} ({item.metadata['meaning']})")
    low, high, choices = (item.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        raise InputError(f"{sentence}, it must be one of {', '.join(choices)}")
    if low is not None and value < low:
        raise InputError(f"{sentence}, it must be at least {low} ({item.metadata['meaning']})")
    if high is not None and value > high:
        raise InputError(f"{sentence}, it must be at most {high} ({item.metadata['meaning']})")
    return kind(value)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-4 is a number, as in YAML 1.2 (PyYAML reads it as a text), and a key may not come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} comes twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789."))


def read_yaml(text: str) -> Any:
    """Parses YAML text safely."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def read_yaml_file(path: Path) -> Any:
    """What a YAML file holds.

    Raises
    ------
    InputError
        The file is no YAML.
    """
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML ({' '.join(str(error).split())}); mend the file") from None

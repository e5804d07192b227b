"""The state of a training under way: its settings, how it starts, its checkpoint, and weights that processes share out.

A checkpoint is a single safetensors file, renamed into place: either the old state or the new one, never half of each.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import FullyShardedDataParallelPlugin, ProjectConfiguration
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from sarnb.errors import InputError
from sarnb.model.foundation import forget_fingerprints

CHECKPOINT = "checkpoint.safetensors"
TRACKERS = "trackers"  # folder next to the checkpoint
OPTIMIZERS = ("adamw", "adamw8bit")
SCHEDULES = ("constant", "cosine", "linear")
DECAY = 0.4  # share of a linear schedule's steps in which the rate goes down
COUNTS = ("steps", "accumulate", "batch_size", "crop", "held_out_images", "held_out_timesteps", "collapse_patience")  # from 1 up
COUNTS += ("checkpoint_every", "log_every")


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int  # optimiser steps
    learning_rate: float = 1e-4  # peak rate, where a parameter group names none
    warmup_steps: int = 0  # linear rise from 0
    schedule: str = "constant"  # after the warm-up: "constant", "cosine" down to a tenth, or "linear" to 0 over the last 40 %
    weight_decay: float = 0.01  # decoupled, AdamW
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW
    optimizer: str = "adamw"  # or "adamw8bit": moments in 8 bits, on CUDA, by the package bitsandbytes
    ema_decay: float = 0.0  # moving average of the weights; 0 is none
    max_grad_norm: float = 1.0  # global norm at which gradients are clipped
    accumulate: int = 1  # micro-batches that share out the batch of one optimiser step, for less memory
    checkpoint_every: int = 200  # steps; also saved at the end
    validate_every: int = 0  # steps between held-out losses; 0 is only at start and end
    log_every: int = 10  # steps averaged into one row of the history
    precision: str = "auto"  # "auto", "fp32" or "bf16"
    seed: int = 0  # part of the run's identity

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in COUNTS and value < 1:
                raise InputError(f"{field.name} is {value}; give at least 1")
            if field.name.startswith(("lr_", "learning_rate")) and not value > 0:
                raise InputError(f"{field.name} is {value}; give a positive number")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; give a number from 0 up to, not including, 1")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer is {self.optimizer!r}; choose {' or '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}; choose {', '.join(SCHEDULES)}")

    @classmethod
    def values(cls, profile: Any, seed: int | None = None, prefix: str = "") -> dict[str, Any]:
        """What a profile says of these settings, by the same names or by those with ``prefix``, which come first.

        ``seed`` is that of the profile's first training if None; ``steps`` is for the caller to give.
        """
        names = {field.name for field in dataclasses.fields(cls)} - {"steps", "seed"}
        found = {name: next((key for key in (prefix + name, name) if hasattr(profile, key)), None) for name in names}
        values = {name: getattr(profile, key) for name, key in found.items() if key is not None}
        return values | {"seed": profile.train_seeds[0] if seed is None else seed}


def rate_factor(step: int, config: LoopConfig) -> float:
    """Factor on the peak learning rate at ``step`` (0-based)."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return min(1.0, (config.steps - step) / (DECAY * config.steps))
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def check_trackers(names: Sequence[str]) -> None:
    """Raises ``InputError`` for a tracker that accelerate does not know, or whose package is not installed.

    accelerate itself leaves out what is not installed without a word.
    """
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise InputError(f"unknown tracker {name!r}; choose one of {', '.join(known)}")
        if name not in installed:
            raise InputError(f"tracker {name!r} needs its package, which is not installed; pip install {name}, or drop it")


class TrainState:
    """A training under way: networks on their device, optimiser, moving average, and what the last checkpoint holds.

    ``modules`` are the networks themselves, which are saved, ``prepared`` the same as accelerate wrapped them, which are
    called; ``empty`` are twins of networks whose weights are shared out among processes, ``peaks`` the peak rates of the
    parameter groups, ``rows`` the history, ``done`` the finished steps, and ``pending`` the losses since the last row.

    The arguments are those of ``sarnb.train.loop.train_loop``.

    Raises
    ------
    InputError
        A tracker that is not there, nothing that trains, a batch that cannot be shared out, an optimiser that cannot work here, or
        another run's checkpoint.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        config: LoopConfig,
        out: Path,
        identity: str,
        batch_size: int,
        groups: list[dict] | None,
        trackers: Sequence[str],
        label: str,
    ) -> None:
        check_trackers(trackers)
        forget_fingerprints()
        self.modules, self.config, self.out, self.batch_size, self.label = modules, config, out, batch_size, label
        self.identity = f"{identity}|{config}"
        self.parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError(f"{label} trains nothing: no parameter requires a gradient")
        self.accelerator = Accelerator(
            mixed_precision="no",  # ``autocast`` chooses the format by the hardware
            gradient_accumulation_steps=config.accumulate,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / TRACKERS)),
        )
        if trackers:
            self.accelerator.init_trackers("sarnb")
        shares = self.accelerator.num_processes * config.accumulate
        if shares > 1 and batch_size % shares:
            raise InputError(
                f"{label}: a batch of {batch_size} images cannot be shared out to {self.accelerator.num_processes} process(es) with "
                f"{config.accumulate} micro-batch(es) each; give a multiple of {shares}"
            )
        groups = groups or [{"params": self.parameters, "lr": config.learning_rate}]
        plugin = sharding()
        self.empty: dict[str, nn.Module] = {}
        if plugin is not None:
            if config.optimizer != "adamw":
                raise InputError(f'optimizer is "{config.optimizer}", which cannot work on weights that FSDP shares out; choose "adamw"')
            before = [p for module in modules.values() for p in module.parameters()]
            self.empty = shard(modules, plugin, self.accelerator)
            after = dict(zip(map(id, before), (p for module in modules.values() for p in module.parameters()), strict=True))
            self.parameters = [after[id(p)] for p in self.parameters]
            groups = [group | {"params": [after[id(p)] for p in group["params"]]} for group in groups]
        self.optimizer = make_optimizer(groups, config, fused=plugin is None)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.average = [p.detach().clone() for p in self.parameters] if config.ema_decay else None
        self.done, self.rows = 0, []
        load_checkpoint(self)
        if plugin is None:
            *prepared, self.optimizer = self.accelerator.prepare(*modules.values(), self.optimizer)
        else:
            prepared, self.optimizer = modules.values(), self.accelerator.prepare_optimizer(self.optimizer)
        self.prepared = dict(zip(modules, prepared))
        if self.average is not None:
            self.average = [value.to(p.device) for value, p in zip(self.average, self.parameters)]
        self.pending: list[dict[str, Tensor]] = []
        self.tick = 0.0  # when the last row was written


def make_optimizer(groups: list[dict], config: LoopConfig, fused: bool = True) -> torch.optim.Optimizer:
    """AdamW over parameter groups, as training makes it; ``fused`` is for weights that are not shared out among processes.

    Raises
    ------
    InputError
        An 8-bit optimiser whose package or graphics card is not there.
    """
    how = {"betas": config.betas, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        # One pass over all weights instead of one for each operation: AdamW is a tenth of a full fine-tuning's step otherwise.
        return torch.optim.AdamW(groups, fused=fused or None, **how)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise InputError('optimizer is "adamw8bit", which needs the package bitsandbytes; install it, or choose "adamw"') from error
    if not torch.cuda.is_available():
        raise InputError('optimizer is "adamw8bit", which needs a CUDA graphics card; choose "adamw"')
    return AdamW8bit(groups, **how)


def trained_tensors(modules: dict[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Parameters that train, and all buffers that are saved, by ``module.name``; frozen weights are not repeated."""
    tensors = {}
    for key, module in modules.items():
        buffers = module.state_dict().keys() - {name for name, _ in module.named_parameters()}
        state = module.state_dict(keep_vars=True)
        for name, value in state.items():
            if name in buffers or value.requires_grad:
                tensors[f"{key}.{name}"] = value.detach()
    return tensors


def save_checkpoint(state: TrainState) -> None:
    """Write the state after its finished steps, atomically.

    Where weights are shared out among processes, all of them call it and the main one writes. The file names what is trained
    (strategy, foundation, seed, configuration): a run of another identity refuses it.

    Raises
    ------
    InputError
        The file cannot be written; the previous checkpoint then still stands.
    """
    tensors = {f"weights.{name}": value for name, value in trained_tensors(state.modules).items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        for name, value in moments.items():  # bitsandbytes puts those in 8 bits into a dictionary of their own
            parts = value if isinstance(value, dict) else {name: value}
            tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(part) for key, part in parts.items()}
    tensors |= {f"average.{index}": value for index, value in enumerate(state.average or [])}
    tensors = {name: whole(value.detach()).cpu().contiguous().clone() for name, value in tensors.items()}
    if not state.accelerator.is_main_process:
        return
    path, temporary = state.out / CHECKPOINT, state.out / f"{CHECKPOINT}.tmp"
    metadata = {"step": str(state.done), "identity": state.identity, "extra": json.dumps({"history": state.rows})}
    try:
        state.out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path}: the checkpoint after step {state.done} could not be saved ({error}); "
            "free some disk space and run again, the last checkpoint still stands"
        ) from error


def load_checkpoint(state: TrainState) -> None:
    """Restore in place what the checkpoint holds, where there is one.

    Raises
    ------
    InputError
        The file is damaged or belongs to another run.
    """
    path = state.out / CHECKPOINT
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise InputError(f"{path}: damaged checkpoint ({error}); delete it to start this run again") from error
    if metadata["identity"] != state.identity:
        raise InputError(
            f"{path}: this checkpoint belongs to another run ({metadata['identity']}, wanted {state.identity}); "
            "delete its folder or choose another one"
        )
    for name, value in trained_tensors(state.modules).items():
        value.copy_(shared_like(tensors[f"weights.{name}"], value))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            own = shared_like(value, parameter := parameters[int(index)])
            if own.shape == parameter.shape and own.stride() != parameter.stride():  # fused AdamW goes through memory in its order
                own = torch.empty_like(parameter, dtype=own.dtype).copy_(own)
            moments.setdefault(int(index), {})[key] = int(own) if key == "step" and state.config.optimizer == "adamw8bit" else own
    state.optimizer.load_state_dict({"state": moments, "param_groups": state.optimizer.state_dict()["param_groups"]})
    for index, value in enumerate(state.average or []):
        value.copy_(shared_like(tensors[f"average.{index}"], value))
    state.done, state.rows = int(metadata["step"]), json.loads(metadata["extra"])["history"]


# Networks whose weights are shared out among processes: fully sharded data parallel (Zhao et al. 2023), by torch's FSDP2.
# accelerate's own preparation takes one network; a strategy trains up to three (the UNet and both text encoders) with one
# optimiser. So its configuration is read, and torch is called directly. Weights are then DTensors, of which every process holds
# its part; checkpoints and exports hold whole tensors, the same as those of one process.


def sharding() -> FullyShardedDataParallelPlugin | None:
    """What ``accelerate launch`` was given for FSDP, or None.

    Raises
    ------
    InputError
        accelerate's configuration says the first version of FSDP.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise InputError(f"accelerate's configuration says fsdp_version {version}; set fsdp_version: 2")
    return FullyShardedDataParallelPlugin()


def shard(modules: dict[str, nn.Module], plugin: FullyShardedDataParallelPlugin, accelerator: Accelerator) -> dict[str, nn.Module]:
    """Share out the weights of ``modules`` in place; their empty twins on the meta device, for ``gathered``.

    The parts of the classes in the configuration's ``fsdp_transformer_layer_cls_to_wrap`` are gathered one at a time: blocks
    that are called as a whole, for within them adapters read the weights of their layers directly.
    """
    # Text encoders hand out views of what they computed; nobody writes into them, which is what torch warns of.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    blocks, empty = plugin.transformer_cls_names_to_wrap or (), {}
    for name, module in modules.items():
        shells = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in module.parameters()}
        empty[name] = copy.deepcopy(module, shells)
        for part in [part for part in module.modules() if type(part).__name__ in blocks]:
            fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh)
        for part in module.modules():  # transformers looks up by class which outputs it hands out; FSDP makes new classes
            if getattr(part, "_can_record_outputs", None):
                _CAN_RECORD_REGISTRY[part] = part._can_record_outputs
    return empty


def gathered(module: nn.Module, empty: nn.Module) -> nn.Module:
    """The empty twin of a sharded network with its whole weights; every process has to call it."""
    empty.load_state_dict({name: whole(value) for name, value in module.state_dict().items()}, assign=True)
    return empty


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be shared out; every process has to call it.

    ``full_tensor`` does the same, but over gloo by a coalesced gather, which in torch 2.13 now and then ends in a segmentation
    fault. FSDP shares out the first axis in equal parts, of which the last may be short or empty: so parts of one length are
    gathered, and what is too much stands at the end.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.placements != (Shard(0),):
        return tensor.full_tensor()
    part, rows, sides = tensor.to_local(), tensor.shape[0], tensor.shape[1:]
    length = -(-rows // tensor.device_mesh.size())
    own = part.new_zeros(length, *sides)
    own[: len(part)] = part
    together = part.new_empty(length * tensor.device_mesh.size(), *sides)
    torch.distributed.all_gather_into_tensor(together, own, group=tensor.device_mesh.get_group())
    return together[:rows]


def local(tensor: Tensor) -> Tensor:
    """The own part of a tensor that may be shared out along its first axis, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor shared out as ``reference`` of the same shape is, if it is."""
    if not isinstance(reference, DTensor) or tensor.shape != reference.shape:
        return tensor
    return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)

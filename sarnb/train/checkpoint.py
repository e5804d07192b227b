"""One file that holds a training run: weights, optimiser, moving average and step; and weights that processes share out.

A single safetensors file, renamed into place, is either the old state or the new one, never half of each.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from sarnb.errors import InputError

NAME = "checkpoint.safetensors"


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


def save_checkpoint(
    out: Path,
    step: int,
    identity: str,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: list[torch.Tensor] | None,
    extra: dict | None = None,
    writes: bool = True,
) -> Path:
    """Write the state after ``step`` finished steps, atomically.

    Where weights are shared out among processes, all of them call it and the one that ``writes`` writes.

    ``identity`` names what is trained (strategy, foundation, seed, configuration): a run of another identity refuses
    the file. Raises ``InputError`` when it cannot be written; the previous checkpoint then still stands.
    """
    tensors = {f"weights.{name}": value for name, value in trained_tensors(modules).items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    for index, value in enumerate(average or []):
        tensors[f"average.{index}"] = value
    tensors = {name: whole(value.detach()).cpu().contiguous().clone() for name, value in tensors.items()}
    if not writes:
        return out / NAME
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / (NAME + ".tmp")
    metadata = {"step": str(step), "identity": identity, "extra": json.dumps(extra or {})}
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, out / NAME)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{out / NAME}: the checkpoint after step {step} could not be saved ({error}); "
            "free some disk space and run again, the last checkpoint still stands"
        ) from error
    return out / NAME


def load_checkpoint(
    out: Path,
    identity: str,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    average: list[torch.Tensor] | None,
) -> tuple[int, dict]:
    """Restore in place; (finished steps, extra), or (0, {}) where there is no checkpoint.

    Raises ``InputError`` if the file is damaged or belongs to another run.
    """
    path = out / NAME
    if not path.exists():
        return 0, {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise InputError(f"{path}: damaged checkpoint ({error}); delete it to start this run again") from error
    if metadata["identity"] != identity:
        raise InputError(
            f"{path}: this checkpoint belongs to another run ({metadata['identity']}, wanted {identity}); "
            "delete its folder or choose another one"
        )
    for name, value in trained_tensors(modules).items():
        value.copy_(shared_like(tensors[f"weights.{name}"], value))
    states: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = shared_like(value, parameters[int(index)])
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    for index, value in enumerate(average or []):
        value.copy_(shared_like(tensors[f"average.{index}"], value))
    return int(metadata["step"]), json.loads(metadata["extra"])


# Networks whose weights are shared out among processes: fully sharded data parallel (Zhao et al. 2023), by torch's FSDP2.
# accelerate's own preparation takes one network; a strategy trains up to three (the UNet and both text encoders) with one
# optimiser. So its configuration is read, and torch is asked directly. Weights are then DTensors, of which every process holds
# its part; checkpoints and exports hold whole tensors, the same as those of one process.


def sharding() -> FullyShardedDataParallelPlugin | None:
    """What ``accelerate launch`` was told of FSDP, or None. Raises ``InputError`` for the first version of FSDP."""
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
    """The own part of a tensor that may be shared out, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor shared out as ``reference`` of the same shape is, if it is."""
    if not isinstance(reference, DTensor) or tensor.shape != reference.shape:
        return tensor
    return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)

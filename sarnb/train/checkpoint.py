"""One file that holds a training run: weights, optimiser, moving average and step.

A single safetensors file, renamed into place, is either the old state or the new one, never half of each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sarnb.errors import InputError
from sarnb.train.shards import shared_like, whole

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

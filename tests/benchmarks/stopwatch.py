"""One training in a process of its own, with the time of every optimiser step: ``python stopwatch.py RECORD SCRIPT ARGS…``.

SCRIPT is a path (such as an example script of diffusers), or the word ``sarnb`` with a JSON of what to train. RECORD gets
a JSON: wall clock and processor time at each optimiser step, seconds in the parts of a step, peak memory.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path


def clocks() -> tuple[float, float]:
    """(wall clock, processor time of this process) in seconds."""
    return time.perf_counter(), time.process_time()


def train(wish: dict) -> None:
    """Fine-tune the embedded foundation as ``wish`` says: strategy, or control for it, data, out, config."""
    from sarnb.data.dataset import load_set
    from sarnb.model.export import save_trained
    from sarnb.model.foundation import load_foundation
    from sarnb.model.strategy import find_strategy
    from sarnb.train.control import ControlConfig, finetune_control
    from sarnb.train.finetune import FinetuneConfig, finetune

    pipe, strategy, out = load_foundation(), find_strategy(wish["strategy"]), Path(wish["out"])
    more = load_set(Path(wish["data"])), (ControlConfig if wish["control"] else FinetuneConfig)(**wish["config"]), out / "training"
    if wish["control"]:
        result = finetune_control(pipe, strategy, wish["control"], *more, cache=out / "cache")
    else:
        result = finetune(pipe, strategy, *more, cache=out / "cache")
    save_trained(pipe, strategy, out, result.record, network=result.network)


def timed_parts(parts: dict[str, float]) -> None:
    """Add up in ``parts`` the processor seconds of the networks' forward, of backward, and of AdamW, from now on."""
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    def timed(owner, method: str, part: str):
        call = getattr(owner, method)

        def around(*args, **kwargs):
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                parts[part] = parts.get(part, 0.0) + time.process_time() - start

        setattr(owner, method, around)

    for network in (UNet2DConditionModel, ControlNetModel):
        timed(network, "forward", "forward")
    timed(torch.Tensor, "backward", "backward")
    timed(torch.optim.AdamW, "step", "optimiser")


def main(record: str, script: str, *arguments: str) -> None:
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(1)
    steps, parts, at = [], {}, []

    def stamp(*_) -> None:
        steps.append(clocks())
        at.append(dict(parts))

    timed_parts(parts)
    register_optimizer_step_post_hook(stamp)
    start = clocks()
    if script == "sarnb":
        train(json.loads(arguments[0]))
    else:
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
    from sarnb.settings import process_peak_mb

    values = {"start": start, "steps": steps, "parts": at, "end": clocks(), "peak_mb": process_peak_mb()}
    Path(record).write_text(json.dumps(values))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What strategies cost, in one table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sarnb.generate.run import StrategyRun


def cost_table(runs: Sequence[StrategyRun]) -> pd.DataFrame:
    """A row a run: trained parameters, seconds and images/s of training, peak memory [MB], size of what trains [MB],
    caches that applied, and images/s of sampling. Empty where nothing trains.

    Times of two notebooks compare only where they ran on the same machine with the same company.
    """
    rows = [
        {
            "strategy": run.strategy.name,
            "seed": run.seed,
            "trainable parameters": run.cost["trainable_parameters"],
            "training seconds": run.cost["seconds"],
            "training images/s": run.cost.get("images_per_second"),
            "peak memory MB": run.cost.get("peak_memory_mb"),
            "weights MB": run.cost["checkpoint_bytes"] / 1e6,
            "caches": " + ".join(run.cost["caches"]) or "none",
            "precision": run.cost.get("precision", ""),
            "sampling images/s": run.cost["sampling_images_per_second"],
        }
        for run in runs
    ]
    return pd.DataFrame(rows)

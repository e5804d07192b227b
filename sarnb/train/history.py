"""Questions to a training history, the table that ``train_loop`` returns."""

from __future__ import annotations

import pandas as pd


def last(history: pd.DataFrame, column: str = "held_out") -> float:
    """The last value of a column, NaN if there is none."""
    known = history[column].dropna() if column in history else pd.Series(dtype=float)
    return float(known.iloc[-1]) if len(known) else float("nan")


def first_step_below(history: pd.DataFrame, level: float, column: str = "held_out") -> int | None:
    """The first step at which ``column`` was measured at or below ``level``; None if it never was."""
    if column not in history:
        return None
    reached = history.loc[history[column] <= level, "step"]
    return int(reached.iloc[0]) if len(reached) else None

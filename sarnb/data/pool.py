"""Work in several processes with results in order: the same answer for any number of workers."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int, label: str = "") -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in the order of the items.

    ``function`` must be a module-level function (or a ``functools.partial`` of one) whose result depends on the item
    alone. With one worker, or one item, nothing is forked. A worker that dies raises ``BrokenProcessPool`` instead of
    hanging. The progress bar shows on a terminal only.
    """
    bar = tqdm(total=len(items), desc=label, disable=not sys.stderr.isatty() or not label, leave=False)
    workers = min(workers, len(items))
    with bar:
        if workers <= 1:
            for item in items:
                yield function(item)
                bar.update()
            return
        # fork: a notebook needs no guarded main module, and the workers run numpy only, so torch's threads do not matter
        method = "fork" if sys.platform == "linux" else "spawn"
        context = multiprocessing.get_context(method)
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_follow, initargs=(os.getpid(),))
        try:
            for result in pool.map(function, items):
                yield result
                bar.update()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow(parent: int) -> None:
    """End this worker soon after its parent was killed; without it the worker would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

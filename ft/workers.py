"""The cores that this process may use, and processes that work for it and end with it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from ft.errors import DataError

Key = TypeVar("Key")
Result = TypeVar("Result")

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its control group where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            text = " ".join((_CGROUP / name).read_text(encoding="ascii") for name in names)
            quota, period = map(float, text.split())
        except (OSError, ValueError):  # no such group, or a quota of "max"
            continue
        if quota > 0:
            cores = min(cores, math.ceil(quota / period))
    return max(cores, 1)


def process_pool(
    jobs: int, initializer: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Gives a pool of `jobs` spawned processes, which end with this one however that ends.

    Those of the standard library go on with what they have when this one is killed, and then wait for ever.

    Args:
        initializer: called with `arguments` in each process before its first task.
    """
    return ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (initializer, arguments))


def each_done(
    work: Callable[[Key], Result], keys: Sequence[Key], jobs: int, initializer: Callable[..., None]
) -> Iterator[tuple[Key, Result]]:
    """Gives each key with what `work` makes of it, as it is done: by `jobs` processes, or by this one alone.

    Args:
        initializer: called in each process before its first key.
    Raises:
        DataError: a process was killed.
        Exception: what `work` raises.
    """
    if jobs == 1 or len(keys) < 2:
        yield from ((key, work(key)) for key in keys)
        return
    pool = process_pool(min(jobs, len(keys)), initializer)
    try:
        waiting = {pool.submit(work, key): key for key in keys}
        for future in as_completed(waiting):
            yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise DataError(
            f"a process was killed, perhaps for lack of memory; expected room for {jobs} of them, so lower `jobs`"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)

"""Processes that work for this one and end with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any


def process_pool(
    jobs: int, initializer: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """A pool of `jobs` spawned processes, which end with this one however that ends.

    Those of the standard library go on with what they have when this one is killed, and then wait for ever.

    Args:
        initializer: called with `arguments` in each process before its first task.
    """
    return ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (initializer, arguments))


def _begin(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)

"""Asking a long run to stop at its next good moment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_stop_signals(ask: Callable[[], None]) -> Iterator[None]:
    """Calls `ask` at the first Ctrl-C, and at SIGTERM, by which schedulers end jobs; a second Ctrl-C ends at once.

    Outside the main thread it does nothing: whoever runs the block there handles signals.
    """
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: Any) -> None:
        ask()
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

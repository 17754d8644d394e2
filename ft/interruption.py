"""Interruptions that wait until what they would break off half done is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_held = 0
_waiting = False


def interrupt() -> None:
    """Raises KeyboardInterrupt, now or at the end of what holds it back. For signal handlers, in the main thread."""
    global _waiting
    if _held:
        _waiting = True
    else:
        raise KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[None]:
    """Lets `interrupt` wait for the end of the block, in the main thread: between a file that is made and the moment
    in which somebody is sure to remove it, Python knows of no guard against signals.
    """
    global _held, _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _waiting and not _held:
            _waiting = False
            raise KeyboardInterrupt

"""Interruptions by signals, which wait until what they would break off half done is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_held = 0
_waiting = False


def _interrupt() -> None:
    """Raises KeyboardInterrupt, now or at the end of what holds it back."""
    global _waiting
    if _held:
        _waiting = True
    else:
        raise KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[None]:
    """Lets an interruption wait for the end of the block, in the main thread.

    Between a file that is made and the moment in which somebody is sure to remove it, Python knows of no other guard.
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


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Makes SIGTERM and a closed terminal end this like Ctrl-C, once: nothing half done is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        for each in taken:  # a second one would break off the cleaning up
            signal.signal(each, signal.SIG_IGN)
        _interrupt()

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    # Those that are ignored, as by nohup, stay so.
    taken = [each for each in numbers if before[each] in (signal.SIG_DFL, signal.default_int_handler)]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        if not interrupted:  # else this process ends, whatever else comes
            for number, handler in before.items():
                signal.signal(number, handler)

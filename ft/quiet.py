"""Keeps C libraries from printing on stderr what no option of theirs turns off."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Stderr:
    """The variable `stderr` of the C library, which stands on a discarding stream while anyone is inside.

    Python's own stderr and every other use of file descriptor 2 go on meanwhile, in all threads: only what C code
    prints through `stderr` is lost. Where the variable is not known to be writable (not glibc, not macOS), nothing
    changes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._variable: Any = None
        self._silence: int | None = None
        self._usual: int | None = None
        self._looked = False

    def enter(self) -> None:
        with self._lock:
            if not self._looked:
                self._looked = True
                self._look()
            self._inside += 1
            if self._inside == 1 and self._variable is not None:
                self._usual, self._variable.value = self._variable.value, self._silence

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._variable is not None:
                self._variable.value = self._usual

    def _look(self) -> None:
        try:
            library = ctypes.CDLL(None)
            # __stderrp is that of macOS. musl has none, and keeps its stderr in memory that cannot be written.
            name = "stderr" if hasattr(library, "gnu_get_libc_version") else "__stderrp"
            variable = ctypes.c_void_p.in_dll(library, name)
            library.fopen.restype = ctypes.c_void_p
            silence = library.fopen(b"/dev/null", b"w")
        except (OSError, TypeError, ValueError, AttributeError):  # CDLL(None) is a TypeError on Windows
            return
        if silence:
            self._variable, self._silence = variable, silence


_stderr = _Stderr()


@contextmanager
def quiet() -> Iterator[None]:
    """What C code prints through its `stderr` inside is dropped; may be nested, and used by several threads."""
    _stderr.enter()
    try:
        yield
    finally:
        _stderr.leave()

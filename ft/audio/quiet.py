"""Keeps C libraries from printing what no option of theirs turns off: mpg123 on stderr, libsndfile on stdout."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_GLIBC, _MACOS = ("stdout", "stderr"), ("__stdoutp", "__stderrp")


class _Streams:
    """The variables `stdout` and `stderr` of the C library, which stand on a discarding stream while anyone is inside.

    Python's own streams and every other use of the file descriptors go on meanwhile, in all threads: only what C code
    prints through these variables is lost. Where they are not known to be writable (neither glibc nor macOS; musl keeps
    them in memory that is not), nothing changes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._variables: list[Any] | None = None
        self._usual: list[int | None] = []
        self._silence: int | None = None

    def enter(self) -> None:
        with self._lock:
            if self._variables is None:
                self._variables = self._look()
            self._inside += 1
            if self._inside == 1:
                self._usual = [variable.value for variable in self._variables]
                for variable in self._variables:
                    variable.value = self._silence

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for variable, usual in zip(self._variables or (), self._usual, strict=True):
                    variable.value = usual

    def _look(self) -> list[Any]:
        try:
            library = ctypes.CDLL(None)
            names = _GLIBC if hasattr(library, "gnu_get_libc_version") else _MACOS
            variables = [ctypes.c_void_p.in_dll(library, name) for name in names]
            library.fopen.restype = ctypes.c_void_p
            self._silence = library.fopen(b"/dev/null", b"w")
        except (OSError, TypeError, ValueError, AttributeError):  # CDLL(None) is a TypeError on Windows
            return []
        return variables if self._silence else []


_streams = _Streams()


@contextmanager
def quiet() -> Iterator[None]:
    """What C code prints through its `stdout` and `stderr` inside is dropped; may be nested, in several threads."""
    _streams.enter()
    try:
        yield
    finally:
        _streams.leave()

"""Keeps C libraries quiet: mpg123 prints on stderr and libsndfile on stdout what no option of theirs turns off, and
what a call back into Python raises would be printed and lost.
"""

from __future__ import annotations

import ctypes
import functools
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

_GLIBC, _MACOS = ("stdout", "stderr"), ("__stdoutp", "__stderrp")


_lock = threading.Lock()
_inside = 0
_usual: list[int | None] = []
"""Where the variables stand while nobody is inside."""


@functools.cache
def _variables() -> tuple[list[Any], int | None]:
    """The variables `stdout` and `stderr` of the C library, and a stream that discards.

    There are none where they are not known to be writable: neither glibc nor macOS; musl keeps them in memory that is
    not.
    """
    try:
        library = ctypes.CDLL(None)
        names = _GLIBC if hasattr(library, "gnu_get_libc_version") else _MACOS
        variables = [ctypes.c_void_p.in_dll(library, name) for name in names]
        library.fopen.restype = ctypes.c_void_p
        silence = library.fopen(b"/dev/null", b"w")
    except (OSError, TypeError, ValueError, AttributeError):  # CDLL(None) is a TypeError on Windows
        return [], None
    return (variables if silence else []), silence


@contextmanager
def quiet() -> Iterator[None]:
    """What C code prints through its `stdout` and `stderr` inside is dropped; may be nested, in several threads.

    Python's own streams and every other use of the file descriptors go on meanwhile, in all threads.
    """
    global _inside, _usual
    variables, silence = _variables()
    with _lock:
        _inside += 1
        if _inside == 1:
            _usual = [variable.value for variable in variables]
            for variable in variables:
                variable.value = silence
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for variable, usual in zip(variables, _usual, strict=True):
                    variable.value = usual


class FileView(io.RawIOBase):
    """A file from `begin` up to `end`, behind a few other bytes; nothing that a damaged header asks of it raises."""

    def __init__(self, file: BinaryIO, end: int, before: bytes = b"", begin: int = 0) -> None:
        self._file, self._before, self._at = file, before, 0
        self._size, self._shift = end - begin + len(before), begin - len(before)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._before[self._at : self._at + len(view)]
        if not data:
            try:
                self._file.seek(self._at + self._shift)
                data = self._file.read(max(0, min(len(view), self._size - self._at)))
            except OSError:
                return 0
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

"""Keeps C libraries quiet: mpg123 prints on stderr and libsndfile on stdout what no option of theirs turns off, and
what a call back into Python raises would be printed and lost.
"""

from __future__ import annotations

import ctypes
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

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

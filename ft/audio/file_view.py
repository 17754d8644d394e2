"""A file as libraries see it that call back: an exception inside such a call would be printed, and lost."""

from __future__ import annotations

import io
from typing import Any, BinaryIO


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

"""Shared libraries that a program file asks for, and which of them the loader lacks."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB = 1, 5
_LONGEST_NAME = 256


def first_missing(names: Iterable[str]) -> str | None:
    """Gives the first of the libraries that cannot be loaded; None where all can.

    The libraries are loaded, and stay so: call it for such as are about to be used.
    """
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            return name
    return None


def needed_libraries(path: Path) -> list[str]:
    """Names of the libraries that a 64-bit ELF file asks for, e.g. `libcublas.so.13`, without loading it.

    Empty for another kind of file or none at all.
    """
    try:
        with path.open("rb") as file:
            return _needed(file)
    except (OSError, struct.error):
        return []


def _needed(file: BinaryIO) -> list[str]:
    if file.read(6) != b"\x7fELF\x02\x01":  # 64 bits, little-endian
        return []
    file.seek(32)
    (headers,) = struct.unpack("<Q", file.read(8))
    file.seek(54)
    size, count = struct.unpack("<HH", file.read(4))
    loads, dynamic = [], (0, 0)
    for index in range(count):
        file.seek(headers + index * size)
        kind, _, offset, address, _, length, _, _ = struct.unpack("<IIQQQQQQ", file.read(56))
        if kind == _LOAD:
            loads.append((address, offset, length))
        elif kind == _DYNAMIC:
            dynamic = (offset, length)
    file.seek(dynamic[0])
    entries = list(struct.iter_unpack("<qQ", file.read(dynamic[1] // 16 * 16)))
    texts = next((value for tag, value in entries if tag == _STRTAB), 0)
    start = next((offset + texts - address for address, offset, length in loads if 0 <= texts - address < length), 0)
    names = []
    for tag, value in entries:
        if tag == _NEEDED and start:
            file.seek(start + value)
            names.append(file.read(_LONGEST_NAME).split(b"\0")[0].decode(errors="replace"))
    return names

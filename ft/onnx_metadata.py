"""The metadata of an ONNX file, read and added to with nothing but the standard library.

An ONNX file is one protocol-buffer message (onnx.proto, ModelProto): fields one after the other, each a tag and a
value. Only field 14 (`metadata_props`, pairs of texts) is read; the graph is skipped by its length, so that a file of
gigabytes takes no longer than a small one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from ft.errors import CheckpointError
from ft.files import what_it_is

METADATA_PROPS = 14
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Key and value of each entry. Raises CheckpointError where the file is no ONNX model."""
    entries = {}
    if (what := what_it_is(path)) is not None:
        raise CheckpointError(f"{path}: {what}; expected an ONNX model")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            while file.tell() < size:
                field, value = _field(file, size, wanted=METADATA_PROPS)
                if field == METADATA_PROPS:
                    key, text = _pair(value)
                    entries[key] = text
    except ValueError as error:
        raise CheckpointError(f"{path}: not an ONNX model ({error})") from error
    return entries


def append_onnx_metadata(path: Path, entries: Mapping[str, str]) -> None:
    """Adds keys to the end of a file whose other bytes, the checked graph, stay as they are.

    A protocol-buffer message may say its repeated fields anywhere, so they are simply written behind the rest.
    """
    with path.open("ab") as file:
        for key, value in entries.items():
            pair = b"".join(_bytes_field(number, text) for number, text in ((1, key), (2, value)))
            file.write(_tagged(METADATA_PROPS, pair))


def _bytes_field(number: int, text: str) -> bytes:
    return _tagged(number, text.encode("utf-8"))


def _tagged(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | BYTES) + _encoded(len(value)) + value


def _encoded(number: int) -> bytes:
    """A number as `_varint` reads it."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _pair(message: bytes) -> tuple[str, str]:
    """A StringStringEntryProto: key in field 1, value in field 2."""
    import io

    parts = {1: b"", 2: b""}
    file = io.BytesIO(message)
    while file.tell() < len(message):
        field, value = _field(file, len(message), wanted=None)
        parts[field] = value
    return parts[1].decode("utf-8"), parts[2].decode("utf-8")


def _field(file: BinaryIO, size: int, wanted: int | None) -> tuple[int, bytes]:
    """Number and bytes of the next field; the bytes are empty where it is not `wanted` (None: every one)."""
    tag = _varint(file)
    field, kind = tag >> 3, tag & 7
    if kind == VARINT:
        _varint(file)
        return field, b""
    if kind not in (FIXED64, BYTES, FIXED32) or field == 0:
        raise ValueError(f"wire type {kind} at byte {file.tell()}")
    length = {FIXED64: 8, FIXED32: 4}.get(kind) or _varint(file)
    if file.tell() + length > size:
        raise ValueError(f"it ends at byte {size} within a field of {length} bytes")
    if kind == BYTES and wanted in (None, field):
        return field, file.read(length)
    file.seek(length, os.SEEK_CUR)
    return field, b""


def _varint(file: BinaryIO) -> int:
    """Seven bits per byte, low ones first, the eighth bit says that another byte follows."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")

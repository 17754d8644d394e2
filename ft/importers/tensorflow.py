"""Tensors of a TensorFlow checkpoint (`NAME.index` and `NAME.data-00000-of-00001`), read without TensorFlow.

The index is a table of LevelDB: a footer with the place of the index block, and blocks of entries whose keys are told
from what they share with the one before (LevelDB, doc/table_format.md; TensorFlow, tensor_bundle.proto). It names no
code.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAGIC = bytes.fromhex("57fb808b247547db")
"""The last bytes of an index."""
FOOTER = 48
FLOAT32 = 1
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE = 1, 2, 3, 4, 5
"""Fields of `BundleEntryProto`,"""
_AXES = 2
"""and of `TensorShapeProto`."""


def read_bundle(index: bytes, data: bytes) -> dict[str, NDArray[np.float32]]:
    """Gives the float32 tensors of a bundle by their names; others, as counters of steps, are left out.

    Raises:
        ValueError: it is no bundle, is compressed, has several files of data, or is damaged.
    """
    if len(index) < FOOTER or not index.endswith(MAGIC):
        raise ValueError("no index of a TensorFlow checkpoint")
    try:
        _, _, at, size = _varints(index[-FOOTER:], 4)
        tensors = {}
        for _, handle in _entries(index, at, size):
            for key, value in _entries(index, *_varints(handle, 2)):
                if key and (found := _tensor(value, data)) is not None:
                    tensors[key.decode()] = found
    except (IndexError, struct.error) as error:
        raise ValueError("a damaged index of a TensorFlow checkpoint") from error
    return tensors


def _tensor(entry: bytes, data: bytes) -> NDArray[np.float32] | None:
    numbers, parts = _fields(entry)
    if numbers.get(_DTYPE) != FLOAT32:
        return None
    if numbers.get(_SHARD):
        raise ValueError("its tensors lie in several files, expected one")
    axes = [axis for shape in parts.get(_SHAPE, []) for axis in _fields(shape)[1].get(_AXES, [])]
    shape = [_fields(axis)[0].get(1, 0) for axis in axes]
    offset, size = numbers.get(_OFFSET, 0), numbers.get(_SIZE, 0)
    if size != 4 * math.prod(shape) or offset + size > len(data):
        raise ValueError("a tensor goes beyond the end of its data")
    return np.frombuffer(data, "<f4", size // 4, offset).reshape(shape)


def _entries(index: bytes, at: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block."""
    block = index[at : at + size]
    if index[at + size] != 0:
        raise ValueError("its index is compressed, expected a plain one")
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]
    key, place = b"", 0
    while place < end:
        (shared, own, length), place = _varints_at(block, place, 3)
        key, place = key[:shared] + block[place : place + own], place + own
        yield key, block[place : place + length]
        place += length


def _fields(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The fields of a protocol-buffer message by their numbers: those that are numbers, and those with a length."""
    numbers: dict[int, int] = {}
    parts: dict[int, list[bytes]] = {}
    place = 0
    while place < len(message):
        (tag,), place = _varints_at(message, place, 1)
        if tag & 7 == 0:
            (numbers[tag >> 3],), place = _varints_at(message, place, 1)
        elif tag & 7 == 2:
            (length,), place = _varints_at(message, place, 1)
            parts.setdefault(tag >> 3, []).append(message[place : place + length])
            place += length
        elif tag & 7 == 5:
            place += 4
        else:
            raise ValueError("a field of an unknown kind in its index")
    return numbers, parts


def _varints(data: bytes, count: int) -> list[int]:
    return _varints_at(data, 0, count)[0]


def _varints_at(data: bytes, place: int, count: int) -> tuple[list[int], int]:
    """So many numbers from a place on, and the place behind them."""
    numbers = []
    for _ in range(count):
        number = shift = 0
        while True:
            byte = data[place]
            place += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        numbers.append(number)
    return numbers, place

"""Ways to damage bytes, each drawn from a seeded `random.Random`."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

HEADER = 512
"""Bytes at the beginning in which half of all edits lie: where a format says what it is."""
STRANGE = (0, 1, 2, 3, 7, 255, 1 << 15, 1 << 16, 10_000_000, (1 << 31) - 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)
CUT = 0.9
"""A truncated file has at most this share of its bytes."""


def position(rng: random.Random, data: bytes) -> int:
    end = min(len(data), HEADER) if rng.random() < 0.5 else len(data)
    return rng.randrange(max(end, 1))


def piece(rng: random.Random, data: bytes) -> tuple[int, int]:
    """Beginning and end of a piece, mostly a small one."""
    start = position(rng, data)
    return start, min(len(data), start + int(rng.choice((4, 64, 1024, 16384)) * rng.random()) + 1)


def flip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if damaged:
            damaged[position(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: int(len(data) * CUT * rng.random())]


def remove(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = piece(rng, data)
    return data[:start] + data[end:]


def duplicate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = piece(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 2, 16)) + data[end:]


def swap(rng: random.Random, data: bytes, other: bytes) -> bytes:
    (a, b), (c, d) = sorted((piece(rng, data), piece(rng, data)))
    if b > c:
        return data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def zeros(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = piece(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def noise(rng: random.Random, data: bytes, other: bytes) -> bytes:
    start, end = piece(rng, data)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def number(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """A number of a header becomes a strange one."""
    kind = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    start = rng.randrange(max(min(len(data), 128), 1)) & ~1
    value = rng.choice(STRANGE) << rng.choice((0, 0, 0, 32)) if kind[1] == "Q" else rng.choice(STRANGE)
    raw = struct.pack(kind, value & ((1 << 8 * struct.calcsize(kind)) - 1))
    return data[:start] + raw + data[start + len(raw) :]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one file, the end of another one."""
    return data[: position(rng, data)] + other[position(rng, other) :]


def surround(rng: random.Random, data: bytes, other: bytes) -> bytes:
    junk = rng.randbytes(rng.choice((1, 16, 4096)))
    return rng.choice((junk + data, data + junk, data + data, other[:HEADER] + data))


def replace(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Nothing of the file is left."""
    return rng.choice((b"", bytes(1000), rng.randbytes(rng.choice((1, 100, 50_000))), data[: rng.randrange(200)]))


def keep(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data


Damage = Callable[[random.Random, bytes, bytes], bytes]
KINDS: dict[str, tuple[Damage, float]] = {
    "keep": (keep, 0.3),
    "flip": (flip, 3),
    "truncate": (truncate, 1.5),
    "remove": (remove, 1),
    "duplicate": (duplicate, 1),
    "swap": (swap, 0.5),
    "zeros": (zeros, 1),
    "noise": (noise, 1.5),
    "number": (number, 2.5),
    "splice": (splice, 1),
    "surround": (surround, 0.5),
    "replace": (replace, 0.3),
}
"""Each with its weight."""


def damage(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, list[str]]:
    """`data` after one to three of `KINDS`, and which; whole files and those that are only cut stay what they are."""
    names = list(KINDS)
    weights = [weight for _, weight in KINDS.values()]
    done = rng.choices(names, weights, k=rng.choice((1, 1, 2, 3)))
    if "keep" in done:
        done = ["keep"]
    elif done[0] == "truncate" or "replace" in done:
        done = done[:1] if done[0] == "truncate" else ["replace"]
    for name in done:
        data = KINDS[name][0](rng, data, other)
    return data, done

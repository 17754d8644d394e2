"""MPEG audio (MP3, MP2) as its bytes have it: where tags begin, how many frames there are, and what a header counts.

libsndfile ends where mpg123 gives up finding the next frame, or where the format changes (as it seems to wherever a
damaged part looks like a header), and says nothing of it; so what it gave is compared with the frames that are there.

Sources: ISO/IEC 11172-3 and 13818-3 (headers); Xing's VBR header SDK; ID3v1, ID3v2.4; APE tags 2.0; Lyrics3 2.00.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

_FRONT = 4_096
"""Bytes in which the count of an MP3's frames stands, once what tells of its title is skipped."""
APPENDED = 1 << 14
"""Bytes behind the sound that may be tags of unknown kinds, or junk."""
_CHUNK = 1 << 20
_LONGEST = 2_881
"""Bytes of the longest frame."""
_HEADER = re.compile(rb"\xff[\xe2-\xff][\x10-\xef]")
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""In Hz, by the bits of the version: 1, 2 and 2.5."""
_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""By version (2.5 as 2) and layer."""


@dataclass(frozen=True)
class Frames:
    """The frames of a file."""

    seconds: float
    behind: int
    """Bytes behind the last of them that are no tag."""


def count_frames(file: BinaryIO) -> Frames:
    """Goes through the whole file."""
    last, seconds = _tag_before(file), 0.0
    for position, size, length in _frames(file):
        last, seconds = position + size, seconds + length
    return Frames(seconds, max(0, tags_begin(file) - last))


def first_frame(file: BinaryIO) -> int:
    """Where the first frame begins; 0 where there is none."""
    return next((position for position, size, _ in _frames(file) if size), 0)


def _frames(file: BinaryIO) -> Iterator[tuple[int, int, float]]:
    """Position, bytes and seconds of each frame, one behind the other; where one does not follow the other, on from the
    next place where two of a kind do. An ID3v2 tag in between is told of by its end, and 0 bytes."""
    position, end = _tag_before(file), tags_begin(file)
    kind = None
    buffer, base = b"", position
    while position + 4 <= end:
        at = position - base
        if at + _LONGEST + 4 > len(buffer) and base + len(buffer) < end:
            file.seek(position)
            buffer, base, at = file.read(min(_CHUNK, end - position)), position, 0
        size, length, own = _frame(buffer[at : at + 3])
        if size and (own == kind or _frame(buffer[at + size : at + size + 3])[2] == own):
            yield position, size, length
            position, kind = position + size, own
            continue
        kind = None
        if buffer[at : at + 3] == b"ID3" and at + 10 <= len(buffer):
            position += 10 + _syncsafe(buffer[at + 6 : at + 10])
            yield position, 0, 0.0
            continue
        found = _HEADER.search(buffer, at + 1)
        tag = buffer.find(b"ID3", at + 1, found.start() if found else len(buffer))
        position = base + (tag if tag >= 0 else found.start() if found else max(at + 1, len(buffer) - 2))


@lru_cache(4096)
def _frame(head: bytes) -> tuple[int, float, tuple[int, int, int] | None]:
    """Bytes and seconds of the frame with this header, and what does not change in a stream; (0, 0, None) of none."""
    if len(head) < 3 or head[0] != 0xFF or head[1] < 0xE0:
        return 0, 0.0, None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bits, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version not in _RATES or layer > 3 or not 0 < bits < 15 or rate_index > 2:
        return 0, 0.0, None
    rate = _RATES[version][rate_index]
    rest = 1000 * _KBITS[1 if version == 3 else 2, layer][bits - 1]
    if layer == 1:
        return 4 * (12 * rest // rate + padding), 384 / rate, (version, layer, rate)
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * rest // rate + padding, samples / rate, (version, layer, rate)


def tags_begin(file: BinaryIO) -> int:
    """Where the tags begin that stand behind the sound; the file's length where there are none."""
    end = file.seek(0, io.SEEK_END)
    for _ in range(8):  # there are not more kinds
        before = _without_tag(file, end)
        if before == end:
            break
        end = before
    return end


def _without_tag(file: BinaryIO, end: int) -> int:
    """Where the tag begins that ends at `end`; `end` where none does."""
    file.seek(max(0, end - 355))
    tail = file.read(min(end, 355))
    if tail[-128:-125] == b"TAG" and len(tail) >= 128:
        return end - (355 if tail[:4] == b"TAG+" and len(tail) == 355 else 128)
    if tail[-32:-24] == b"APETAGEX":
        header = 32 if tail[-9] & 0x80 else 0
        return _checked(
            file, end - int.from_bytes(tail[-20:-16], "little") - header, end, b"APETAGEX" if header else b""
        )
    if tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
        return _checked(file, end - int(tail[-15:-9]) - 15, end, b"LYRICSBEGIN")
    if tail[-9:] == b"LYRICSEND":
        start = max(0, end - 5_120)
        file.seek(start)
        found = file.read(end - start).rfind(b"LYRICSBEGIN")
        return end if found < 0 else start + found
    if tail[-10:-7] == b"3DI":
        return _checked(file, end - _syncsafe(tail[-4:]) - 20, end, b"ID3")
    return end


def _checked(file: BinaryIO, begin: int, end: int, name: bytes) -> int:
    """`begin` where that is in the file and the tag's name is there; otherwise `end`."""
    if not 0 < begin < end:
        return end
    file.seek(begin)
    return begin if file.read(len(name)) == name else end


def _tag_before(file: BinaryIO) -> int:
    """Where the ID3v2 tags end that stand before the sound."""
    position = 0
    while True:
        file.seek(position)
        head = file.read(10)
        if head[:3] != b"ID3" or len(head) < 10:
            return position
        position += 10 + _syncsafe(head[6:]) + (10 if head[5] & 0x10 else 0)


def _syncsafe(four: bytes) -> int:
    """A number of ID3v2: four bytes of seven bits."""
    return four[0] << 21 | four[1] << 14 | four[2] << 7 | four[3]


def says_its_frames(file: BinaryIO) -> tuple[bool, bool]:
    """Whether an MP3 says how many frames it has, in a tag of Xing or LAME, or of Fraunhofer (VBRI); and whether the
    bytes that the tag tells of, if it does, are there.

    Without it libsndfile's count is an estimate by the size of the file. A tag of one that others were appended to
    does not count: libsndfile would end behind the first.
    """
    begin = _tag_before(file)
    file.seek(begin)
    front = file.read(_FRONT)
    there = file.seek(0, io.SEEK_END) - begin
    sound = tags_begin(file) - begin
    at = max(front.find(b"Xing"), front.find(b"Info"))
    if at < 0:
        return b"VBRI" in front, True
    tag = front[at : at + 16].ljust(16, b"\0")
    noted = int.from_bytes(tag[12:16], "big") if tag[7] & 3 == 3 else 0
    appended = noted > 0 and sound - noted > max(APPENDED, sound // 50)
    return bool(tag[7] & 1) and not appended, there >= noted


def counting_frame(rate: int, channels: int) -> bytes:
    """A frame of layer III that holds no sound, but a Xing tag with a count that no file reaches."""
    version, index = next((version, rates.index(rate)) for version, rates in _RATES.items() if rate in rates)
    # Bit rate 9 is 128 kbit/s of version 1, and 80 kbit/s of the others, whose frames are half as long.
    mode = 3 if channels == 1 else 0
    header = bytes([0xFF, 0xE0 | version << 3 | 1 << 1 | 1, 9 << 4 | index << 2, mode << 6])
    side = {(3, 2): 32, (3, 1): 17, (2, 2): 17, (2, 1): 9}[max(version, 2), channels]
    tag = b"Xing" + (1).to_bytes(4, "big") + (1 << 30).to_bytes(4, "big")
    return (header + bytes(side) + tag).ljust(_frame(header[:3])[0], b"\0")

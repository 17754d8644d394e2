"""How many bytes a file's own header promises, beside those that are there.

libsndfile shortens a sound to what the file holds and says nothing, and FFmpeg ends where the packets end; a download
that broke off would pass for a whole song.

Sources: EA IFF 85 and Apple's AIFF 1.3; Sony's Wave64; Apple's CAF 1.0; Sun's .au header; MIDI 1.0 (sample dump);
RFC 3533 (Ogg); ISO/IEC 14496-12 (boxes); RFC 8794 (EBML); Microsoft's ASF 01.20.03.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ft.audio.wav import UNKNOWN_SIZES, WavHeaderError, read_wav_header

_PAGE = 65_307
"""Bytes of the longest Ogg page."""
_W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
_ASF = (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c"))
_BOXES = frozenset(b"ftyp styp moov mdat moof mfra sidx ssix meta uuid free skip wide pnot udta emsg prft PICT".split())
_CHUNKS = 10_000
"""More than any file has; a header of nonsense may claim more."""


@dataclass(frozen=True)
class Extent:
    """Bytes of sound (of everything, in a container of packets)."""

    promised: int
    present: int

    @property
    def cut(self) -> bool:
        return self.present < self.promised


def extent(file: BinaryIO) -> Extent | None:
    """What the header promises; None where it promises nothing, or is not known here."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    if len(head) < 16:
        return None
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _wav(file, length)
    if head[:4] == b"RIFF":  # AVI
        return _everything(_chunks(file, length, 0, "<4sI", align=2), length, (b"RIFF",))
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _chunk(_chunks(file, length, 12, ">4sI", align=2), length, b"SSND", before_sound=8)
    if head[:4] == b"FORM":  # 8SVX, 16SV
        return _chunk(_chunks(file, length, 12, ">4sI", align=2), length, b"BODY")
    if head[:4] == b"caff":
        return _chunk(_chunks(file, length, 8, ">4sq"), length, b"data")
    if head[:4] == b"riff":
        return _chunk(_chunks(file, length, 40, "<16sQ", align=8, inclusive=True), length, _W64_DATA)
    if head[:4] in (b".snd", b"dns."):
        offset, size = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
        return None if size in UNKNOWN_SIZES else Extent(size, max(0, length - offset))
    if head[:2] == b"\xf0\x7e" and head[3] == 1:
        return _sample_dump(head, length)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _boxes(file, length)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _ebml(file, length)
    if head[:4] == b"\x30\x26\xb2\x75":
        return _everything(_chunks(file, length, 0, "<16sQ", inclusive=True), length, _ASF)
    return None


def _wav(file: BinaryIO, length: int) -> Extent | None:
    file.seek(0)
    try:
        header = read_wav_header(file)
    except WavHeaderError:
        return None
    size = header.data_size(length)
    return None if size is None else Extent(size, max(0, length - header.offset))


def _chunks(
    file: BinaryIO, length: int, position: int, layout: str, align: int = 1, inclusive: bool = False
) -> Iterator[tuple[bytes, int, int]]:
    """Name, bytes and place of the bodies of chunks that stand one after another.

    Args:
        inclusive: sizes count the chunk's own header.
    """
    header = struct.calcsize(layout)
    for _ in range(_CHUNKS):
        file.seek(position)
        found = file.read(header)
        if len(found) < header:
            return
        kind, size = struct.unpack(layout, found)
        position += header
        size -= header if inclusive else 0
        yield kind, size, position
        position += size
        position += -position % align
        if size < 0 or position > length:
            return


def _chunk(chunks: Iterable[tuple[bytes, int, int]], length: int, name: bytes, before_sound: int = 0) -> Extent | None:
    """The chunk of this name, which holds so many other bytes before the sound."""
    for kind, size, begin in chunks:
        if kind == name:
            found = Extent(max(0, size - before_sound), max(0, length - begin - before_sound))
            return None if size < 0 or size in UNKNOWN_SIZES else found
    return None


def _everything(chunks: Iterable[tuple[bytes, int, int]], length: int, names: Collection[bytes]) -> Extent | None:
    """Chunks of these names one after another; what stands behind them counts for nothing."""
    for kind, size, begin in chunks:
        if kind not in names or size in UNKNOWN_SIZES or not 0 <= size < 1 << 62:
            return None
        if begin + size > length:
            return Extent(begin + size, length)
    return None


def _sample_dump(head: bytes, length: int) -> Extent | None:
    """MIDI Sample Dump: packets of 127 bytes, of which 120 hold samples in words of 7 bits."""
    width = (head[6] + 6) // 7
    if not 2 <= width <= 4:
        return None
    samples = head[10] | head[11] << 7 | head[12] << 14
    return Extent(-(-samples // (120 // width)) * 127, max(0, length - 21))


def _boxes(file: BinaryIO, length: int) -> Extent | None:
    """The boxes of MP4 and QuickTime; the last may have the size 0, which is up to the end."""
    position = 0
    for _ in range(_CHUNKS):
        file.seek(position)
        found = file.read(16)
        if len(found) < 8:
            return None
        size, kind = struct.unpack(">I4s", found[:8])
        if kind not in _BOXES:
            return None  # most often a tag behind the file
        if size == 1 and len(found) == 16:
            size = struct.unpack(">Q", found[8:])[0]
        if size < 8:
            return None
        position += size
        if position > length:
            return Extent(position, length)
    return None


def _ebml(file: BinaryIO, length: int) -> Extent | None:
    """The segment of Matroska and WebM; one that was streamed has a size of all ones."""
    position = 0
    for name in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        file.seek(position)
        found = file.read(12)
        if len(found) < 12 or found[:4] != name or found[4] == 0:
            return None
        width = 9 - found[4].bit_length()
        ones = (1 << (7 * width)) - 1
        size = int.from_bytes(found[4 : 4 + width], "big") & ones
        if size == ones or (position == 0 and size > length):
            return None
        position += 4 + width + size
    return Extent(position, length) if position > length else None


def ogg_end(file: BinaryIO) -> tuple[int, bool]:
    """Where the last whole page of an Ogg file ends, and whether it says that its stream ends there."""
    length = file.seek(0, os.SEEK_END)
    start = max(0, length - 2 * _PAGE)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS")
    while at >= 0:
        segments = tail[at + 26] if at + 26 < len(tail) else 0
        lacing = tail[at + 27 : at + 27 + segments]
        end = at + 27 + segments + sum(lacing)
        if at + 27 <= len(tail) and len(lacing) == segments and end <= len(tail):
            return start + end, bool(tail[at + 5] & 4)
        at = tail.rfind(b"OggS", 0, at)
    return length, False


def ogg_is_chain(file: BinaryIO) -> bool:
    """Whether a second stream begins behind the first one, as in recordings of a radio; read page by page."""
    length = file.seek(0, os.SEEK_END)
    position, begun = 0, False
    while position < length:
        file.seek(position)
        page = file.read(27 + 255)
        if len(page) < 27 or page[:4] != b"OggS":
            return False
        begins = bool(page[5] & 2)
        if begins and begun:
            return True
        begun = begun or not begins
        position += 27 + page[26] + sum(page[27 : 27 + page[26]])
    return False

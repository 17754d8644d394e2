"""WAV headers, read and written as streams carry them: from front to back, and before anyone knows the length.

Sources: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (RIFF, WAVE); Microsoft,
Multiple Channel Audio Data and WAVE Files (EXTENSIBLE); EBU Tech 3306 and ITU-R BS.2088 (RF64, BW64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ft.options import BitDepth

UNKNOWN_SIZE = 0xFFFF_FFFF
"""What ffmpeg and others write where a size is not known."""
_SOX = 0x7FFF_F000
UNKNOWN_SIZES = frozenset((0, UNKNOWN_SIZE, 0xFFFF_FFF0, 0x7FFF_FFFF, 0x8000_0000, *range(_SOX - 32, _SOX + 1)))
"""What stands for a size that is not known: nothing at all, ffmpeg's, that of arecord, and sox's, which it rounds down
to whole samples of all channels."""
_WRAP = 1 << 32

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
_NAMES = {PCM: "PCM", FLOAT: "float"}
_WIDTHS = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}
_PIECE = 1 << 16
_FORMAT_BYTES = 1 << 12
"""More than any fmt or ds64 chunk has that is of use here; what a header says beyond is skipped, never allocated."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class WavHeaderError(Exception):
    """No WAV header, a broken one, or one of samples that are not read here; the text says what was found."""


@dataclass(frozen=True)
class WavHeader:
    """What stands before the samples.

    Attributes:
        tag: PCM, FLOAT, or another number of a coding.
        bits: of a sample, as it is stored.
        size: bytes of samples as the header has it, None where it is not known.
        offset: of the first sample in the stream, in bytes.
        is_64: whether `size` is one of 64 bits, which cannot have wrapped.
        riff_size: as the header has it.
    """

    sample_rate: int
    channels: int
    tag: int
    bits: int
    size: int | None
    offset: int = 0
    is_64: bool = False
    riff_size: int = UNKNOWN_SIZE

    @property
    def frame(self) -> int:
        """Bytes of one sample of all channels."""
        return self.bits // 8 * self.channels

    @property
    def bit_depth(self) -> BitDepth:
        """In which stems of it are written."""
        if self.tag == FLOAT:
            return "float"
        return "16" if self.bits <= 16 else "24"

    @property
    def is_long(self) -> bool:
        """Whether the samples are integers of 64 bits."""
        return (self.tag, self.bits) == (PCM, 64)

    def readable(self) -> WavHeader:
        """Itself. Raises WavHeaderError where `decode` does not know the samples."""
        if self.is_long:
            raise WavHeaderError("64-bit integers, which are not read")
        if self.bits not in _WIDTHS.get(self.tag, ()):
            raise WavHeaderError(f"WAV of {_NAMES.get(self.tag, f'coding {self.tag:#06x}')}, {self.bits} bits")
        if self.channels == 0:
            raise WavHeaderError("a WAV header of no channels")
        return self

    def data_size(self, length: int) -> int | None:
        """Bytes of samples that a file of `length` bytes promises; None where nothing is promised.

        A writer that did not expect 4 GB leaves a size that lacks a multiple of them.
        """
        rest = max(0, length - self.offset)
        if self.size is None:
            return 0 if self.riff_size == length - 8 < UNKNOWN_SIZE else None
        if self.is_64 or rest < self.size:
            return self.size
        return self.size + (rest - self.size) // _WRAP * _WRAP

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """Samples (channels, samples) of whole frames, full scale at 1."""
        flat: NDArray[np.float32]
        if self.tag == FLOAT:
            flat = np.frombuffer(data, f"<f{self.bits // 8}").astype(np.float32)
        elif self.bits == 8:  # the only one without a sign
            flat = (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
        elif self.bits == 24:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            flat = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)
        else:
            full = np.float32(1 << (self.bits - 1))
            flat = np.frombuffer(data, f"<i{self.bits // 8}").astype(np.float32) / full
        return np.ascontiguousarray(flat.reshape(-1, self.channels).T)


def read_wav_header(stream: Readable) -> WavHeader:
    """Reads up to the first sample, forward only. Chunks before it that are not needed are skipped.

    Raises:
        WavHeaderError: no WAV, or cut short.
    """
    head = read_exactly(stream, 12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        raise WavHeaderError("no WAV header")
    is_64 = head[:4] != b"RIFF"
    position, size_64 = 12, None
    form: bytes | None = None
    while True:
        chunk = read_exactly(stream, 8)
        if len(chunk) < 8:
            raise WavHeaderError("a WAV header that breaks off")
        kind, size = struct.unpack("<4sI", chunk)
        position += 8
        if kind == b"data":
            break
        body = read_exactly(stream, min(size, _FORMAT_BYTES)) if kind in (b"fmt ", b"ds64") else b""
        if kind == b"fmt ":
            form = body
        elif kind == b"ds64" and is_64 and len(body) >= 16:
            size_64 = struct.unpack("<Q", body[8:16])[0]
        rest = size - len(body) + size % 2
        if _skip(stream, rest) < rest:
            raise WavHeaderError("a WAV header that breaks off")
        position += size + size % 2
    if form is None or len(form) < 16:
        raise WavHeaderError("a WAV header without its fmt chunk")
    known: int | None = None if size in UNKNOWN_SIZES else size
    wide = is_64 and size_64 is not None and size == UNKNOWN_SIZE
    if wide:
        known = None if size_64 in (0, (1 << 64) - 1) else size_64
    riff_size = struct.unpack("<I", head[4:8])[0]
    return _header(form, known, position, wide, riff_size)


def _header(form: bytes, size: int | None, offset: int, is_64: bool, riff_size: int) -> WavHeader:
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == EXTENSIBLE and len(form) >= 26:
        tag = struct.unpack("<H", form[24:26])[0]
    if bits not in _WIDTHS.get(tag, ()) and channels and tag == PCM and frame % channels == 0:
        bits = frame // channels * 8  # e.g. 20 bits, which lie at the top of three bytes
    return WavHeader(rate, channels, tag, bits, size, offset, is_64, riff_size)


def read_exactly(stream: Readable, size: int) -> bytes:
    """`size` bytes, or fewer at the end; a pipe gives what it has, which may be less than asked for."""
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(size - len(data), _PIECE))
        if not piece:
            break
        data += piece
    return bytes(data)


def _skip(stream: Readable, size: int) -> int:
    """Reads over `size` bytes; gives back how many there were."""
    left = size
    while left > 0:
        piece = stream.read(min(left, _PIECE))
        if not piece:
            break
        left -= len(piece)
    return size - left


def streamed_header(sample_rate: int, channels: int, bit_depth: BitDepth) -> bytes:
    """The 44 bytes before the samples of a WAV stream that ends when it ends; float ones have 32 bits.

    There is no `fact` chunk: all it could hold is the length that is not known.

    >>> header = streamed_header(44100, 2, "16")
    >>> len(header), header[:4], header[-8:]
    (44, b'RIFF', b'data\\xff\\xff\\xff\\xff')
    """
    size, tag = {"16": (2, PCM), "24": (3, PCM), "float": (4, FLOAT)}[bit_depth]
    frame = size * channels
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        UNKNOWN_SIZE,
        b"WAVE",
        b"fmt ",
        16,
        tag,
        channels,
        sample_rate,
        sample_rate * frame,
        frame,
        8 * size,
        b"data",
        UNKNOWN_SIZE,
    )

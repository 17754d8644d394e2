"""WAV: headers as streams carry them, from front to back and before anyone knows the length; files of any length; and
samples as their formats hold them.

Files are not left to libsndfile because it puts the time of day into float ones (in a PEAK chunk), must know beforehand
whether a file will pass 4 GB, and does not say why a disk refuses to be written.

Sources: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (RIFF, WAVE); Microsoft,
Multiple Channel Audio Data and WAVE Files (EXTENSIBLE); EBU Tech 3306 and ITU-R BS.2088 (RF64, BW64).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ft.options import BitDepth

Array = NDArray[np.float32]

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
_STEPS = {"16": 1 << 15, "24": 1 << 23}
"""Quantisation steps from 0 to full scale."""
_LIMIT = 0xFFFF_FFFF - (1 << 16)
"""Bytes of sound that fit into a WAV file; longer ones become RF64, which has the same name and larger fields."""
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

    def decode(self, data: bytes) -> Array:
        """Samples (channels, samples) of whole frames, full scale at 1."""
        flat: Array
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
    head = _read_exactly(stream, 12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        raise WavHeaderError("no WAV header")
    is_64 = head[:4] != b"RIFF"
    position, size_64 = 12, None
    form: bytes | None = None
    while True:
        chunk = _read_exactly(stream, 8)
        if len(chunk) < 8:
            raise WavHeaderError("a WAV header that breaks off")
        kind, size = struct.unpack("<4sI", chunk)
        position += 8
        if kind == b"data":
            break
        body = _read_exactly(stream, min(size, _FORMAT_BYTES)) if kind in (b"fmt ", b"ds64") else b""
        if kind == b"fmt ":
            form = body
        elif kind == b"ds64" and is_64 and len(body) >= 16:
            size_64 = struct.unpack("<Q", body[8:16])[0]
        rest = size - len(body) + size % 2
        if sum(map(len, _pieces(stream, rest))) < rest:
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


def _read_exactly(stream: Readable, size: int) -> bytes:
    """`size` bytes, or fewer at the end."""
    return b"".join(_pieces(stream, size))


def _pieces(stream: Readable, size: int) -> Iterator[bytes]:
    """`size` bytes as they come; a pipe gives what it has, which may be less than asked for."""
    while size > 0 and (piece := stream.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece


def streamed_header(sample_rate: int, channels: int, bit_depth: BitDepth) -> bytes:
    """The 44 bytes before the samples of a WAV stream that ends when it ends; float ones have 32 bits.

    There is no `fact` chunk: all it could hold is the length that is not known.

    >>> header = streamed_header(44100, 2, "16")
    >>> len(header), header[:4], header[-8:]
    (44, b'RIFF', b'data\\xff\\xff\\xff\\xff')
    """
    size, tag = {"16": (2, PCM), "24": (3, PCM), "float": (4, FLOAT)}[bit_depth]
    frame = size * channels
    riff = struct.pack("<4sI4s", b"RIFF", UNKNOWN_SIZE, b"WAVE")
    form = struct.pack("<HHIIHH", tag, channels, sample_rate, sample_rate * frame, frame, 8 * size)
    return riff + struct.pack("<4sI", b"fmt ", len(form)) + form + struct.pack("<4sI", b"data", UNKNOWN_SIZE)


def quantised(block: Array, bit_depth: BitDepth) -> NDArray[np.int16 | np.int32]:
    """Values at full scale 1 as integers, rounded to the nearest step and held within them; 24 bit ones fill the upper
    24 bits of 32, as libsndfile takes them.

    libsndfile itself would scale by one step less than it reads with, and so change the level.
    """
    steps = _STEPS[bit_depth]
    values = np.clip(np.rint(block.astype(np.float64) * steps), -steps, steps - 1)
    if bit_depth == "16":
        return values.astype(np.int16)
    return values.astype(np.int32) << 8


def pcm(block: Array, bit_depth: BitDepth) -> NDArray[Any]:
    """A block (channels, samples) in the bytes of a WAV file: sample by sample, little-endian."""
    frames = np.ascontiguousarray(block.T)
    if bit_depth == "float":
        return frames.astype("<f4", copy=False)
    values = quantised(frames, bit_depth)
    if bit_depth == "16":
        return values.astype("<i2", copy=False)
    bytes_ = values.astype("<i4", copy=False).view(np.uint8)
    return np.ascontiguousarray(bytes_.reshape(-1, 4)[:, 1:])


class WavFile:
    """Writes a WAV file block by block. Its header is put right by `finish`: RF64 where the sound passes 4 GB."""

    def __init__(
        self, path: Path, channels: int, sample_rate: int, bit_depth: BitDepth, samples: int | None = None
    ) -> None:
        """Creates the file.

        Args:
            samples: how many there will be, where that is known. Where it is not, 36 bytes are kept for what RF64
                needs; else a header of integers is the usual one of 44 bytes.
        Raises:
            OSError: as do the methods.
        """
        self.channels, self.sample_rate, self.bit_depth = channels, sample_rate, bit_depth
        self._size = 0
        self._frame = channels * {"16": 2, "24": 3, "float": 4}[bit_depth]
        self._roomy = samples is None or samples * self._frame > _LIMIT
        self._file = path.open("wb")
        try:
            self._file.write(self._header())
        except BaseException:
            self.close()
            raise

    def write(self, block: Array) -> None:
        """Appends a block (channels, samples)."""
        data = pcm(block, self.bit_depth)
        self._file.write(data.data)
        self._size += data.nbytes

    def finish(self) -> None:
        """Completes the file and closes it."""
        if self._size % 2:
            self._file.write(b"\0")  # chunks begin at even places
        self._file.seek(0)
        self._file.write(self._header())
        self._file.close()

    def close(self) -> None:
        """Closes the file as it is."""
        with suppress(OSError):  # that what is buffered cannot be written does not matter any more
            self._file.close()

    def _header(self) -> bytes:
        is_long = self._size > _LIMIT
        usual = streamed_header(self.sample_rate, self.channels, self.bit_depth)
        samples = self._size // self._frame
        format_chunk, fact = usual[12:36], b""
        if self.bit_depth == "float":  # asked for wherever the samples are no integers
            fact = struct.pack("<4sII", b"fact", 4, min(samples, UNKNOWN_SIZE))
        # All that follows the first 8 bytes: WAVE, the reserve, the chunks, the beginning of the data and the data.
        riff = 4 + 36 * self._roomy + len(format_chunk) + len(fact) + 8 + self._size + self._size % 2
        reserve = b""
        if is_long:
            reserve = struct.pack("<4sIQQQI", b"ds64", 28, riff, self._size, samples, 0)
        elif self._roomy:
            reserve = struct.pack("<4sI28x", b"JUNK", 28)
        kind, riff, size = (b"RF64", UNKNOWN_SIZE, UNKNOWN_SIZE) if is_long else (b"RIFF", riff, self._size)
        start = struct.pack("<4sI4s", kind, riff, b"WAVE")
        return start + reserve + format_chunk + fact + struct.pack("<4sI", b"data", size)

"""WAV files of any length, and samples as their formats hold them.

Sources: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (RIFF, WAVE); EBU Tech 3306
(RF64). They are not left to libsndfile because it puts the time of day into float files (in a PEAK chunk), must know
beforehand whether a file will pass 4 GB, and does not say why a disk refuses to be written.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft.audio.wav import streamed_header
from ft.options import BitDepth

Array = NDArray[np.float32]

_STEPS = {"16": 1 << 15, "24": 1 << 23}
"""Quantisation steps from 0 to full scale."""
_LIMIT = 0xFFFF_FFFF - (1 << 16)
"""Bytes of sound that fit into a WAV file; longer ones become RF64, which has the same name and larger fields."""
_UNKNOWN = 0xFFFF_FFFF


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
            fact = struct.pack("<4sII", b"fact", 4, min(samples, _UNKNOWN))
        # All that follows the first 8 bytes: WAVE, the reserve, the chunks, the beginning of the data and the data.
        riff = 4 + 36 * self._roomy + len(format_chunk) + len(fact) + 8 + self._size + self._size % 2
        reserve = b""
        if is_long:
            reserve = struct.pack("<4sIQQQI", b"ds64", 28, riff, self._size, samples, 0)
        elif self._roomy:
            reserve = struct.pack("<4sI28x", b"JUNK", 28)
        kind, riff, size = (b"RF64", _UNKNOWN, _UNKNOWN) if is_long else (b"RIFF", riff, self._size)
        start = struct.pack("<4sI4s", kind, riff, b"WAVE")
        return start + reserve + format_chunk + fact + struct.pack("<4sI", b"data", size)

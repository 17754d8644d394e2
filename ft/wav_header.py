"""WAV headers as streams carry them: written before anyone knows how long the sound will be.

Source: Microsoft and IBM, Multimedia Programming Interface and Data Specifications 1.0 (RIFF, WAVE).
"""

from __future__ import annotations

import struct

from ft.options import BitDepth

UNKNOWN_SIZE = 0xFFFF_FFFF
"""What ffmpeg, sox and others write where a size is not known; 0 is the other custom."""

PCM, FLOAT = 1, 3


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

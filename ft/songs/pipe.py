"""One stem to a stream, such as stdout, as it is made."""

from __future__ import annotations

import select
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from ft.audio.source import reason
from ft.audio.wav import streamed_header
from ft.audio.wav_file import pcm
from ft.errors import AudioError, EngineError
from ft.options import BitDepth

Array = NDArray[np.float32]
Encoding = Literal["16", "24", "float", "f32le", "s16le"]

_DEPTHS: dict[str, BitDepth] = {"16": "16", "24": "24", "float": "float", "f32le": "float", "s16le": "16"}
_RAW = ("f32le", "s16le")


class StemPipe:
    """Writes WAV of unknown length, or bare samples (`f32le`, `s16le`), and flushes after each block.

    A gain for all the stem could only be known at its end, so values above full scale are cut off in integer formats;
    `clipped` counts them, over all channels.
    """

    def __init__(self, stream: BinaryIO, stem: str, channels: int, sample_rate: int, encoding: Encoding) -> None:
        # Past the buffer: what is left in it when a reader goes away would be tried again when Python exits, and fail.
        self._stream: Any = getattr(stream, "raw", stream)
        self._buffered = stream
        self.stem = stem
        self.clipped = 0
        self.samples = 0
        """Written so far, of each channel."""
        self._depth = _DEPTHS[encoding]
        self._header = b"" if encoding in _RAW else streamed_header(sample_rate, channels, self._depth)

    def write(self, stems: Mapping[str, Array]) -> None:
        """Writes the block (channels, samples) of its stem; before the first one the header.

        Raises:
            AudioError: whoever reads the stream went away, or the stream cannot be written.
            EngineError: values that are not finite.
        """
        block = stems[self.stem]
        if not np.isfinite(block).all():
            raise EngineError(f"stdout: {self.stem} has values that are not finite; the model or its engine is broken")
        if self._depth != "float":
            self.clipped += int(np.count_nonzero(np.abs(block) > 1))
        try:
            self._buffered.flush()
            self._write_all(self._header + pcm(block, self._depth).tobytes())
            self._stream.flush()
        except BrokenPipeError as error:
            raise AudioError(
                f"stdout: the reader went away before the end; expected it to read {self.stem} to the end"
            ) from error
        except OSError as error:
            raise AudioError(f"stdout: cannot write: {reason(error)}") from error
        self._header = b""
        self.samples += block.shape[1]

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = self._stream.write(rest)
            if written is None:  # a pipe that another program made non-blocking is full
                select.select([], [self._stream], [])
                continue
            rest = rest[written:]

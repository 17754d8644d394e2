"""A sound that comes down a pipe: WAV or bare samples, in pieces as they arrive; and WAV files read the same way."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ft.audio.source import BLOCK_SAMPLES, Array, AudioSource, Broken, reason, without_first
from ft.audio.wav import FLOAT, PCM, WavHeader, WavHeaderError, read_wav_header
from ft.errors import AudioError
from ft.files import STDIN

PIPE_SAMPLES = 4096
"""Samples of a block at most; of what is there already, fewer are given at once."""
_RAW = "Bare samples need `raw`, e.g. `raw` f32le `rate` 44100 `channels` 2"

_CODINGS = "expected PCM of 8, 16, 24 or 32 bits, or float of 32 or 64"
_TO_24 = "ffmpeg -i FILE -c:a pcm_s24le song.wav"


@dataclass(frozen=True)
class RawFormat:
    """What samples without a header are, interleaved."""

    encoding: Literal["f32le", "s16le"]
    sample_rate: int
    channels: int

    def header(self) -> WavHeader:
        tag, bits = {"f32le": (FLOAT, 32), "s16le": (PCM, 16)}[self.encoding]
        return WavHeader(self.sample_rate, self.channels, tag, bits, None)


def open_pipe(stream: BinaryIO, raw: RawFormat | None = None, **chosen: Any) -> AudioSource:
    """Opens a stream that can be read once, from front to back. Waits for its header.

    Args:
        raw: what the samples are where no header says it.
        chosen: `start`, `duration` and `allow_truncated`, as in `open_source`.
    Raises:
        AudioError: no WAV, or one of more than two channels, without samples, or of samples that are not read here.
    """
    if raw is not None:
        return PipeSource(stream, raw.header(), **chosen)
    watched = _First(stream)
    try:
        header = read_wav_header(watched).readable()
    except WavHeaderError as error:
        raise AudioError(_not_wav(bytes(watched.front), str(error))) from error
    except OSError as error:
        raise AudioError(f"{STDIN}: cannot be read ({reason(error)})") from error
    return PipeSource(stream, header, **chosen)


class _PcmSource(AudioSource):
    """Interleaved samples behind a header, of which so many bytes are expected."""

    def __init__(self, path: Path, header: WavHeader, size: int | None, **chosen: Any) -> None:
        self._header, self._size = header, size
        total = None if size is None else size // header.frame
        super().__init__(path, header.sample_rate, header.channels, header.bit_depth, total, **chosen)

    def _frames(self, read: Callable[[int], bytes | None], samples: int, left: int | None) -> Iterator[Array]:
        """Decodes what `read(size)` gives, b"" at the end.

        Args:
            samples: of a block at most.
            left: bytes up to the end; None where that is the stream's.
        """
        frame, kept = self._header.frame, b""
        bounded = left is not None
        while left is None or left > 0:
            want = samples * frame - len(kept)
            try:
                data = read(want if left is None else min(want, left))
            except OSError as error:
                raise Broken(reason(error)) from error
            if data is None:
                raise Broken("a stream that does not wait")
            if not data:
                break
            if left is not None:
                left -= len(data)
            data = kept + data if kept else data
            whole = len(data) // frame * frame
            kept = data[whole:]
            if whole:
                yield self._header.decode(data[:whole])
        if kept and not bounded:
            raise Broken(f"{len(kept)} bytes at the end; a sample of all channels takes {frame}")


class PipeSource(_PcmSource):
    """A stream whose next byte is that of the first sample; `close` leaves it open."""

    repeatable = False

    def __init__(self, stream: BinaryIO, header: WavHeader, **chosen: Any) -> None:
        self._stream, self._used = stream, False
        super().__init__(STDIN, header, header.size, **chosen)

    def _decode(self, first: int) -> Generator[Array, None, None]:
        if self._used:
            raise AudioError(f"{STDIN}: a pipe can be read once only")
        self._used = True
        # read1 gives what has come; read of a buffered stream would wait until all that was asked for is there.
        read = getattr(self._stream, "read1", self._stream.read)
        yield from without_first(self._frames(read, PIPE_SAMPLES, self._size), first)


class WavSource(_PcmSource):
    """A WAV file whose header says less than is there: one that was streamed, or longer than 32 bits can say."""

    def __init__(self, path: Path, **chosen: Any) -> None:
        with path.open("rb") as file:
            try:
                header = read_wav_header(file).readable()
            except WavHeaderError as error:
                raise AudioError(f"{path}: {error}; {_CODINGS}. Convert it first, e.g. {_TO_24}") from error
            length = file.seek(0, 2)
        size = header.data_size(length)
        there = max(0, length - header.offset)
        if size is None:
            size = there // header.frame * header.frame
        super().__init__(path, header, size, **chosen)

    def _decode(self, first: int) -> Generator[Array, None, None]:
        try:
            file = self.info.path.open("rb")
        except OSError as error:
            raise Broken(reason(error)) from error
        with file:
            skipped = first * self._header.frame
            file.seek(self._header.offset + skipped)
            left = None if self._size is None else self._size - skipped
            yield from self._frames(file.read, BLOCK_SAMPLES, left)


class _First:
    """A stream that remembers its first bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.front = bytearray()

    def read(self, size: int) -> bytes:
        data = self._stream.read(size) or b""
        if len(self.front) < 16:
            self.front += data[: 16 - len(self.front)]
        return data


def _not_wav(front: bytes, found: str) -> str:
    if not front:
        return f"{STDIN}: nothing came; expected WAV. {_RAW}"
    if found != "no WAV header":
        return f"{STDIN}: {found}; {_CODINGS}"
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in front)
    return f"{STDIN}: begins with {front[:8].hex(' ')} ({_kind(front)}{shown!r}); expected WAV. {_RAW}"


def _kind(front: bytes) -> str:
    kinds = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\xff\xfb": "MP3", b"FORM": "AIFF", b"RIFX": "RIFX"}
    for magic, name in kinds.items():
        if front.startswith(magic):
            return f"{name}, "
    return "MP4, " if front[4:8] == b"ftyp" else ""

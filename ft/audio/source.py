"""What every sound is that can be read: what it says of itself, and its blocks.

`ft/audio/open.py` chooses who reads a file.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.errors import AudioError
from ft.options import BitDepth

Array = NDArray[np.float32]

BLOCK_SAMPLES = 1 << 16
MAX_CHANNELS = 2
LARGEST = 1e15
"""300 dB above full scale; of more than that squares overflow in single precision, and only damaged files hold it."""


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


AUDIO_SUFFIXES = _suffixes(
    "8svx aif aifc aiff au avr bwf caf flac htk iff ircam mp2 mp3 nist oga ogg opus paf pvf raw rf64 sd2 sds sf snd "
    "sph svx voc w64 wav wave wve xi"
)
"""Suffixes of files that libsndfile reads by itself; .raw is named as what it cannot read alone."""
MEDIA_SUFFIXES = _suffixes(
    "3g2 3gp aac ac3 amr ape asf avi dff divx dsf dts eac3 f4v flv m2ts m4a m4b m4r m4v mka mkv mov mp4 mpc mpeg mpg "
    "ogv qt ra rm rmvb spx tak tta vob weba webm wma wmv wv"
)
"""Suffixes of files that FFmpeg reads, through PyAV. Not .ts and .mts, which are programs more often than films."""
READABLE = "WAV, FLAC, OGG, MP3 or another format that libsndfile reads"
INSTALL_MEDIA = "pip install 'frame-transformer[media]'"
RATES = (1_000, 768_000)
_ALLOW = "`allow_truncated` separates what is there"


@dataclass(frozen=True)
class AudioInfo:
    """What a file says about itself."""

    path: Path
    sample_rate: int
    channels: int
    samples: int | None
    """Samples of the part that is read; None where nobody knows before its end. Of a video as its
    container rounds it."""
    bit_depth: BitDepth
    """In which its stems are written: its own, or 16 where the format has none of these (MP3, OGG)."""
    offset: float = 0.0
    """Seconds by which the sound starts later than the file, as it may in a video: its first sample belongs there. Of
    the whole sound, whatever part of it is read."""

    @property
    def seconds(self) -> float | None:
        return None if self.samples is None else self.samples / self.sample_rate


class Broken(Exception):
    """What decodes met something that it cannot decode; everything before it was given."""


class AudioSource(ABC):
    """A sound that is read in blocks; a context manager that gives its files back.

    Args:
        sample_rate, channels, bit_depth: as in `AudioInfo`.
        total: samples of the whole sound as its header promises them; None where it does not.
        offset: as in `AudioInfo`.
        start, duration: the part of it that is wanted, in seconds.
        allow_truncated: take what is there of a sound that ends too early, and warn.
    Raises:
        AudioError: nothing that can be separated, or `start` lies behind the end.
    """

    repeatable = True
    """Whether `blocks` can be called again."""
    _slack = 0
    """Samples by which the promised count may be too high."""

    def __init__(
        self,
        path: Path,
        sample_rate: int,
        channels: int,
        bit_depth: BitDepth,
        total: int | None,
        *,
        offset: float = 0.0,
        start: float = 0.0,
        duration: float | None = None,
        allow_truncated: bool = False,
    ) -> None:
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{path}: {channels} channels; expected 1 or 2. Mix it down first, e.g. ffmpeg -ac 2")
        if not RATES[0] <= sample_rate <= RATES[1]:
            raise AudioError(f"{path}: a sample rate of {sample_rate} Hz; expected {RATES[0]} to {RATES[1]}")
        if total == 0:
            raise AudioError(f"{path}: holds no samples; expected at least one")
        self.warnings: list[str] = []
        """What happened while reading that did not end it."""
        self._path, self._rate = path, sample_rate
        self._allow_truncated = allow_truncated
        self._total = total
        self._start = start
        self._first = round(start * sample_rate)
        self._stop = None if duration is None else self._first + max(1, round(duration * sample_rate))
        if total is not None and self._first >= total:
            raise AudioError(f"{path}: `start` {start:g}: the sound ends after {round(total / sample_rate, 2):g} s")
        samples = None if total is None else min(total, self._stop or total) - self._first
        self.info = AudioInfo(path, sample_rate, channels, samples, bit_depth, offset)

    @abstractmethod
    def _decode(self, first: int) -> Generator[Array, None, None]:
        """Blocks (channels, samples) from sample `first` to the end. Raises Broken."""

    def close(self) -> None:  # noqa: B027  (most open nothing before `blocks`)
        """Gives back what is open."""

    def blocks(self) -> Generator[Array, None, None]:
        """The sound in blocks (channels, samples), float32, full scale at 1; from the beginning at each call.

        Raises:
            AudioError: damaged or shorter than its header promises, or values that are not finite.
        """
        position, broken = self._first, None
        blocks = self._decode(position)
        try:
            while self._stop is None or position < self._stop:
                try:
                    block = next(blocks)
                except StopIteration:
                    break
                except Broken as error:
                    broken = str(error)
                    break
                if self._stop is not None:
                    block = block[:, : self._stop - position]
                if (bad := first_bad(block)) is not None:
                    at, what = (position + bad[0]) / self._rate, bad[1]
                    raise AudioError(f"{self._path}: {what} after {at:.1f} s; expected none")
                position += block.shape[1]
                if block.shape[1]:
                    yield block
        finally:
            blocks.close()
        if self._stop is not None and position >= self._stop:
            return
        short = self._total is None or position < self._total - self._slack
        if short and broken is not None:
            of = "" if self._total is None else f" of {self._total / self._rate:.1f} s"
            self._truncated(f"damaged or cut off after {position / self._rate:.1f} s{of} ({broken})")
        elif short and self._total is not None:
            self._truncated(ends_after(position, self._total, self._rate))
        if position == self._first:
            if self._first:
                raise AudioError(f"{self._path}: `start` {self._start:g}: the sound ends before")
            raise AudioError(f"{self._path}: holds no samples; expected at least one")

    def part(self, first: int, samples: int) -> Array:
        """Gives so many samples (channels, samples) from sample `first` of the whole sound on, fewer at its end.

        Unlike `blocks` it goes there at once wherever the file allows that, and checks nothing. A container whose clock
        is coarse or has gaps may lead to a place some samples beside.

        Raises:
            AudioError: nothing can be read there.
        """
        blocks, left = [], samples
        with closing(self._decode_near(first)) as near:
            try:
                while left > 0 and (block := next(near, None)) is not None:
                    blocks.append(block[:, :left])
                    left -= blocks[-1].shape[1]
            except Broken as error:
                if not blocks:
                    raise AudioError(f"{self._path}: cannot be read at sample {first} ({error})") from error
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((self.info.channels, 0), np.float32)

    def _decode_near(self, first: int) -> Generator[Array, None, None]:
        """Gives what `_decode` gives; quicker, where that is not quick."""
        return self._decode(first)

    def _truncated(self, what: str) -> None:
        """Raises AudioError, or warns where that was allowed."""
        if not self._allow_truncated:
            raise AudioError(f"{self._path}: {what}. {_ALLOW}")
        warning = f"{self._path}: {what}"
        if warning not in self.warnings:
            self.warnings.append(warning)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def without_first(blocks: Iterable[Array], samples: int) -> Iterator[Array]:
    """The blocks (channels, samples), of which so many samples at the beginning are left out."""
    for block in blocks:
        dropped = min(samples, block.shape[1])
        samples -= dropped
        if dropped < block.shape[1]:
            yield block[:, dropped:]


def ends_after(found: int, expected: int | None, rate: int) -> str:
    """Says that a sound is shorter than its header has it; counts of samples where seconds would look alike.

    >>> ends_after(141120, 220500, 44100)
    'ends after 3.2 s; its header says 5.0 s'
    >>> ends_after(220499, 220500, 44100)
    'ends after 220499 samples; its header says 220500'
    """
    if expected is None:
        return f"ends too early, after {found / rate:.1f} s"
    short, long = f"{found / rate:.1f} s", f"{expected / rate:.1f} s"
    if short == long:
        short, long = f"{found} samples", f"{expected}"
    return f"ends after {short}; its header says {long}"


def first_bad(block: Array) -> tuple[int, str] | None:
    """Where in (channels, samples) the first sample is that cannot be sound, and what it is; None where all can."""
    good = np.abs(block) <= LARGEST
    if good.all():
        return None
    index = int(good.all(axis=0).argmin())
    return index, f"values beyond {LARGEST:g}" if np.isfinite(block[:, index]).all() else "values that are not finite"


def peak_of(block: Array) -> float:
    """The largest absolute value; 0 of nothing."""
    return max(float(block.max(initial=0)), -float(block.min(initial=0)))


def reason(error: Exception) -> str:
    """The cause alone, without the path that the callers name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, soundfile.LibsndfileError):
        return str(error.error_string).rstrip(".")
    return re.sub(r"\s+", " ", str(error)).rstrip(".")

"""One stem on its way: from blocks of sound to a part that is whole and only lacks its name."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.audio.formats import StemFormat, encoder_settings
from ft.audio.source import BLOCK_SAMPLES, peak_of, reason
from ft.audio.wav import WavFile, quantised
from ft.dsp import StreamingResampler
from ft.errors import AudioError, EngineError
from ft.files import sound_name

Array = NDArray[np.float32]

_TAIL_SAMPLES = 4096
_ENCODER_SAMPLES = 4096
"""Given to an encoder at once; libvorbis takes its memory from the stack."""
_SYSTEM_ERROR = 2


class StemSound:
    """The sound of one stem at the rate of the files, whether or not it becomes one, and its highest value."""

    def __init__(self, name: str, channels: int, sample_rate: int, format: StemFormat) -> None:
        """
        Args:
            name: for errors.
        """
        self.name, self.channels = name, channels
        self.peak = 0.0
        self.samples = 0
        """At the rate of the files."""
        self._came = 0
        self._resampler = StreamingResampler(sample_rate, format.sample_rate, channels)

    def write(self, block: Array) -> None:
        """Takes a block (channels, samples). Raises EngineError where it holds values that are not finite."""
        self._came += block.shape[1]
        self._take(self._resampler.push(block))

    def finish(self) -> None:
        """Takes the rest: as many samples as the song has at the rate of the files, rounded, but at least one."""
        self._take(self._resampler.finish())
        if self._came and not self.samples:  # soxr gives as many, but none for a single sample to a quarter of its rate
            self._take(np.zeros((self.channels, 1), np.float32))

    def _take(self, block: Array) -> None:
        """Measures a block at the rate of the files."""
        if block.shape[1]:
            peak = peak_of(block)
            if not math.isfinite(peak):
                raise EngineError(f"{self.name}: values that are not finite came; the model or its engine is broken")
            self.peak = max(self.peak, peak)
            self.samples += block.shape[1]


class StemPart(StemSound):
    """One file on its way: its parts, and what is known of it. All methods but `close` may raise OSError."""

    def __init__(self, path: Path, part: Path, channels: int, sample_rate: int, format: StemFormat) -> None:
        """`part`: where it grows; its raw sound does beside that, with the suffix `.raw.part`."""
        super().__init__(str(path), channels, sample_rate, format)
        self.path, self.part, self.format = path, part, format
        self.raw = part.with_suffix(".raw.part")
        self.go_on: Callable[[], None] = go_on
        """Called before each block is encoded; what it raises ends that."""
        self._raw: BinaryIO | None = None
        self._wav: WavFile | None = None

    def open(self) -> None:
        """Makes the part that grows first."""
        if self.format.clips:
            self._raw = self.raw.open("w+b")
        else:
            self._wav = WavFile(self.part, self.channels, self.format.sample_rate, "float")

    def encode(self, gain: float) -> None:
        """Makes the part that becomes the file."""
        if self._wav is not None:
            self._wav.finish()
            return
        assert self._raw is not None
        self._raw.flush()
        self._raw.seek(0)
        depth = self.format.bit_depth
        if self.format.name == "wav":
            assert depth is not None
            self._wav = WavFile(self.part, self.channels, self.format.sample_rate, depth, self.samples)
            for frames in self._frames(self._raw, BLOCK_SAMPLES, gain):
                self._wav.write(frames.T)
            self._wav.finish()
            return
        self.part.open("wb").close()  # for an error that says why, which libsndfile's do not
        settings = encoder_settings(self.format, self.channels)
        serial = 0
        try:
            with soundfile.SoundFile(
                sound_name(self.part), "w", self.format.sample_rate, self.channels, **settings
            ) as sound:
                for frames in self._frames(self._raw, _ENCODER_SAMPLES, gain):
                    serial = zlib.crc32(frames.data, serial)
                    sound.write(frames if depth is None else quantised(frames, depth))
        except soundfile.LibsndfileError:
            require_room(self.part)
            raise
        require_room(self.part)
        if settings["format"] == "OGG":
            set_serial(self.part, serial)

    def check(self) -> None:
        """Raises AudioError unless the part is whole: its header says what it should, and its end can be read."""
        expected = (self.samples, self.format.sample_rate, self.channels)
        with soundfile.SoundFile(sound_name(self.part)) as sound:
            found = (sound.frames, sound.samplerate, sound.channels)
            if found == expected:
                tail = min(self.samples, _TAIL_SAMPLES)
                sound.seek(self.samples - tail)
                found = (self.samples - tail + len(sound.read(tail + 1)), *found[1:])
        if found != expected:
            raise AudioError(
                f"{self.path}: not whole after writing: (samples, Hz, channels) are {found}; expected {expected}. "
                "Nothing was kept"
            )

    def remove_raw(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self.raw.unlink()
            self._raw = None

    def close(self) -> None:
        """Closes the parts as they are."""
        if self._wav is not None:
            self._wav.close()
        if self._raw is not None:
            with suppress(OSError):  # that what is buffered cannot be written does not matter any more
                self._raw.close()

    def _take(self, block: Array) -> None:
        super()._take(block)
        if block.shape[1] == 0:
            return
        if self._wav is not None:
            self._wav.write(block)
        elif self._raw is not None:
            self._raw.write(np.ascontiguousarray(block.T, dtype=np.float32).data)

    def _frames(self, raw: BinaryIO, samples: int, gain: float) -> Iterator[Array]:
        """The sound (samples, channels) in blocks."""
        while len(values := np.fromfile(raw, np.float32, samples * self.channels)):
            self.go_on()
            values *= np.float32(gain)
            yield values.reshape(-1, self.channels)


def set_serial(path: Path, serial: int) -> None:
    """Gives the one stream of an Ogg file another serial number (32 bit), in place of the one that libsndfile drew.

    Raises:
        AudioError: the file is no Ogg file, or ends within a page.
        OSError: it cannot be changed.
    """
    from mutagen.ogg import OggPage, error

    with path.open("r+b") as file, suppress(EOFError):
        while True:
            start = file.tell()
            try:
                page = OggPage(file)
            except error as wrong:
                raise AudioError(f"{path}: not made of whole Ogg pages") from wrong
            page.serial = serial
            file.seek(start)
            file.write(page.write())


def cause(error: OSError | soundfile.LibsndfileError) -> str:
    """Why a file cannot be written, without its name.

    libsndfile says no more than "System error" where the system refused. Its number is the last one of this thread that
    was kept for calls of libsndfile.
    """
    if isinstance(error, soundfile.LibsndfileError) and error.code == _SYSTEM_ERROR:
        number = getattr(getattr(soundfile, "_ffi", None), "errno", 0)
        if number:
            return os.strerror(number)
    return reason(error)


def go_on() -> None:
    """Lets what asks before it goes on do so."""


def require_room(part: Path) -> None:
    """Raises OSError where a file cannot grow any more.

    libsndfile does not tell why a disk refuses to be written, and while it closes a file not even that. A disk that was
    full then is still full now.
    """
    with part.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        missing = 4096
        try:
            while missing:
                missing -= file.write(bytes(missing))
        finally:
            file.truncate(size)

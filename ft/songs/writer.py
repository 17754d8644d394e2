"""Stem files, in the parts that `ft.songs.parts.Outputs` gives their names; and one stem to a stream, as it is made.

Rate, channels and length are kept exactly by wav and flac. The others keep the length of what they are given exactly,
too, wherever a decoder heeds what their headers say of it (libsndfile does; ffmpeg rounds Vorbis files of less than a
second up to its blocks of 64 or 128 samples), and begin at the same sample; where their sample rate is another, the
length is that of the song at their rate, rounded. The same stems give the same bytes.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ft.audio.encode import StemPart, StemSound, go_on
from ft.audio.formats import StemFormat
from ft.audio.source import reason
from ft.audio.tags import Tags, write_tags
from ft.audio.wav import pcm, streamed_header
from ft.errors import AudioError, Cancelled, EngineError
from ft.options import BitDepth
from ft.songs.parts import part_of, told

Array = NDArray[np.float32]
Encoding = Literal["16", "24", "float", "f32le", "s16le"]

_CHECK_SECONDS = 0.05
_DEPTHS: dict[str, BitDepth] = {"16": "16", "24": "24", "float": "float", "f32le": "float", "s16le": "16"}
_RAW = ("f32le", "s16le")


class StemWriter:
    """Writes the stems of one song into the parts of files that are claimed.

    Whether an integer or lossy format would clip is known only at the end, and then all stems get one gain. So the
    sound first grows as raw float32 in a second part, 4 bytes a sample; `finish` reads it once more and makes the
    files. Float WAV needs no gain and grows in its own format. Memory does not grow with length, and nothing is
    computed twice.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        channels: int,
        sample_rate: int,
        format: StemFormat,
        *,
        tags: Tags | None = None,
    ) -> None:
        """
        Args:
            files: of each stem, where it will be; stems without one are not written.
            sample_rate: of the blocks, in Hz; the files have the format's.
            tags: of the song, put into all files with the stem in the title; what a format cannot hold is left out.
        """
        self.files = dict(files)
        self.format = format
        self.tags = tags
        self.gain = 1.0
        """What the stems were multiplied by, after `finish`."""
        self.warnings: list[str] = []
        """What a user should know, after `finish`."""
        self._stems = {
            stem: StemPart(path, part_of(path), channels, sample_rate, format) for stem, path in self.files.items()
        }
        self._sounds: dict[str, StemSound] = {**self._stems}
        """The loudest sample of these stems, and of those that are not written."""
        self._new_sound = partial(StemSound, channels=channels, sample_rate=sample_rate, format=format)

    def __enter__(self) -> Self:
        """Opens the parts. Raises AudioError where one cannot be made."""
        with ExitStack() as stack:
            for stem in self._stems.values():
                stack.callback(stem.close)
                with told(stem.path):
                    stem.open()
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    @property
    def peaks(self) -> dict[str, float]:
        """The largest absolute value of each stem so far, written or not, at the rate of the files."""
        return {name: sound.peak for name, sound in self._sounds.items()}

    def write(self, stems: Mapping[str, Array]) -> None:
        """Appends one block (channels, samples) of each stem.

        Stems without a file may be among them. They count for the gain, so that a stem has the same level whichever
        others are written.

        Raises:
            AudioError: a file cannot be written.
            EngineError: values that are not finite.
        """
        for name, stem in self._stems.items():
            with told(stem.path):
                stem.write(stems[name])
        if self.format.clips:
            for name in stems.keys() - self._stems.keys():
                if name not in self._sounds:
                    self._sounds[name] = self._new_sound(name)
                self._sounds[name].write(stems[name])

    def finish(self, check: Callable[[], None] = go_on) -> None:
        """Makes the files, whole in their parts.

        Args:
            check: called from this thread again and again until they are, at least with every block or ten times a
                second; what it raises ends this.
        Raises:
            AudioError: a file cannot be written.
        """
        for sound in self._sounds.values():
            check()
            with told(Path(sound.name)):
                sound.finish()
        peak = max(self.peaks.values(), default=0.0)
        if self.format.clips and peak > 1:
            self.gain = 1 / peak
        if self.format.bit_depth is None:
            self._make_at_once(check)
        else:
            for stem in self._stems.values():
                stem.go_on = check
                self._make(stem)
        check()

    def _make(self, stem: StemPart) -> None:
        with told(stem.path):
            stem.encode(self.gain)
            if self.tags is not None:
                self._tag(stem, self.tags)
            stem.check()
            stem.remove_raw()

    def _make_at_once(self, check: Callable[[], None]) -> None:
        """Lossy encoders take a thirtieth of the song's length for each stem; each gets a thread."""
        is_over = threading.Event()

        def go_on_unless_over() -> None:
            if is_over.is_set():
                raise Cancelled("not written, as another stem failed or the process is to end")

        for stem in self._stems.values():
            stem.go_on = go_on_unless_over
        with ThreadPoolExecutor(max(len(self._stems), 1), "encoder") as pool:
            try:
                waiting = {pool.submit(self._make, stem) for stem in self._stems.values()}
                while waiting:
                    check()
                    done, waiting = wait(waiting, _CHECK_SECONDS, FIRST_COMPLETED)
                    for each in done:
                        each.result()
            except BaseException:
                is_over.set()
                raise

    def _tag(self, stem: StemPart, tags: Tags) -> None:
        """A song is worth more than its tags: those that a format refuses only give a warning."""
        name = next(name for name, part in self._stems.items() if part is stem)
        try:
            write_tags(stem.part, self.format.name, tags.of_stem(name))
        except OSError:
            raise
        except Exception as error:
            self.warnings.append(f"{stem.path}: without tags, which cannot be written: {reason(error)}")


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

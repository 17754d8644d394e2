"""Stem files: written whole or not at all.

Rate, channels and length are kept exactly by wav and flac. The others keep the length of what they are given exactly,
too, wherever a decoder heeds what their headers say of it (libsndfile does; ffmpeg rounds Vorbis files of less than a
second up to its blocks of 64 or 128 samples), and begin at the same sample; where their sample rate is another, the
length is that of the song at their rate, rounded. The same stems give the same bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.audio.encode import StemPart, StemSound, cause
from ft.audio.formats import StemFormat
from ft.audio.source import reason
from ft.audio.tags import Tags, write_tags
from ft.errors import AudioError, Cancelled
from ft.songs.parts import remove, remove_parts

__all__ = ["StemWriter", "remove_parts"]

Array = NDArray[np.float32]

_CHECK_SECONDS = 0.05


class StemWriter:
    """Writes the stems of one song as files that get their names together, when all of them are whole.

    Whether an integer or lossy format would clip is known only at the end, and then all stems get one gain. So the
    sound first grows as raw float32 in a hidden file beside the final one, 4 bytes a sample; `commit` reads it once
    more and makes the files. Float WAV needs no gain and grows in its own format. Memory does not grow with length, and
    nothing is computed twice. Left without `commit`, nothing remains, folders that were made included.

    What a killed process leaves are files that `remove_parts` finds, and whole stems of which some are missing.
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
        """What the stems were multiplied by, after `commit`."""
        self.warnings: list[str] = []
        """What a user should know, after `commit`."""
        self._stems = {stem: StemPart(path, channels, sample_rate, format) for stem, path in self.files.items()}
        self._sounds = {name: stem.sound for name, stem in self._stems.items()}
        """Of these, and of stems that are not written."""
        self._new_sound = partial(StemSound, channels=channels, sample_rate=sample_rate, format=format)
        self._is_whole = False
        """Whether all files have their names, which they lose again where anything fails before the end of `with`."""

    def __enter__(self) -> Self:
        """Claims the files. Raises AudioError where another run is writing one of them, or it cannot be made."""
        remove_parts(self.files.values())
        try:
            for stem in self._in_order():
                with _told(stem.path):
                    _check_place(stem.path)
                self._open(stem)
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._clean(is_kept=self._is_whole and kind is None)

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
            with _told(stem.path):
                stem.write(stems[name])
        if self.format.clips:
            for name in stems.keys() - self._stems.keys():
                if name not in self._sounds:
                    self._sounds[name] = self._new_sound(name)
                self._sounds[name].push(stems[name])

    def commit(self, check: Callable[[], None] | None = None) -> None:
        """Makes the files and gives them their names.

        Args:
            check: called from this thread again and again until the first file gets its name, at least with every block
                or ten times a second; what it raises ends this.
        Raises:
            AudioError: a file cannot be written; then none of them is there after the end of `with`.
        """
        check = check or _nothing
        for name, sound in self._sounds.items():
            check()
            if name not in self._stems:
                sound.finish()
                continue
            with _told(self._stems[name].path):
                self._stems[name].finish()
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
        for stem in self._stems.values():
            with _told(stem.path):
                _check_place(stem.path)
                assert stem.claim is not None
                stem.claim.place()
        self._is_whole = True

    def _in_order(self) -> list[StemPart]:
        """The same in every run, so that of two runs that want the same files one gets them all."""
        return sorted(self._stems.values(), key=lambda stem: stem.path)

    def _open(self, stem: StemPart) -> None:
        try:
            stem.open()
        except OSError as error:
            raise AudioError(f"{stem.path.parent}: cannot write there: {reason(error)}") from error

    def _make(self, stem: StemPart) -> None:
        with _told(stem.path):
            stem.encode(self.gain)
            if self.tags is not None:
                self._tag(stem, self.tags)
            stem.check()
            stem.remove_raw()
            stem.settle()  # now, so that little time passes between the first name and the last

    def _make_at_once(self, check: Callable[[], None]) -> None:
        """Lossy encoders take a thirtieth of the song's length for each stem; each gets a thread."""
        is_over = threading.Event()

        def go_on() -> None:
            if is_over.is_set():
                raise Cancelled("not written, as another stem failed or the process is to end")

        for stem in self._stems.values():
            stem.go_on = go_on
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

    def _clean(self, is_kept: bool = False) -> None:
        with ExitStack() as stack:
            for stem in self._in_order():  # the first claim last, which made the folders
                stack.callback(stem.discard)
            for stem in self._stems.values():
                if not is_kept and stem.claim is not None and stem.claim.is_at(stem.path):
                    stack.callback(remove, stem.path)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Makes errors of writing an AudioError of one line that names the file."""
    try:
        yield
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"{path}: cannot write: {cause(error)}") from error


def _nothing() -> None:
    pass


def _check_place(path: Path) -> None:
    """Raises AudioError where a folder has the name of a file, and OSError where the name cannot be one."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; expected to write a file there. Rename it, or choose another `output`")

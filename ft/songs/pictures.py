"""Pictures of a song's mask and of the spectrograms of its stems, in PNG: seconds to the right, frequency upwards.

All stems are in dB below the peak of the mixture; the mask is that of the instrumental, 0..1. Both are the mean of the
channels. A picture is of one size for a song of any length, and so is what is kept for it: in a longer song each column
is the mean of more frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig
from ft.errors import AudioError, ConfigError
from ft.plots import DECIBELS, MASK, decibels, mean_power, save_panels
from ft.songs.parts import Claim, part_name, remove, remove_parts

__all__ = ["Pictures", "remove_parts"]

Array = NDArray[np.float32]
Spec = NDArray[np.complex64]

COLUMNS = 2048
"""At most; there are half as many at least of a song of more frames. An even number."""
_MASK = "mask"
_TITLES = {_MASK: "mask of the instrumental"}
_HEIGHT = 4.0


class Columns:
    """The means of so many frames each that a song of any length has `COLUMNS` columns at most."""

    def __init__(self, bins: int) -> None:
        self.frames = 0
        self.frames_per_column = 1
        self._sums = np.zeros((COLUMNS, bins), np.float32)

    def add(self, frames: Array) -> None:
        """The next frames (frames, bins)."""
        while len(frames):
            if self.frames == COLUMNS * self.frames_per_column:
                self._sums[: COLUMNS // 2] = self._sums[::2] + self._sums[1::2]
                self._sums[COLUMNS // 2 :] = 0
                self.frames_per_column *= 2
            taken = frames[: COLUMNS * self.frames_per_column - self.frames]
            columns = (self.frames + np.arange(len(taken))) // self.frames_per_column
            starts = np.flatnonzero(np.diff(columns, prepend=-1))
            self._sums[columns[starts]] += np.add.reduceat(taken, starts, axis=0)
            self.frames += len(taken)
            frames = frames[len(taken) :]

    def means(self) -> Array:
        """(columns, bins)."""
        begins = np.arange(0, self.frames, self.frames_per_column)
        counts = np.minimum(self.frames - begins, self.frames_per_column)
        means: Array = np.divide(self._sums[: len(counts)], counts[:, None], dtype=np.float32)
        return means


class Pictures:
    """Draws pictures while a song is separated; they get their names together, when all of them are whole.

    Left without `commit`, nothing remains; what a killed process left goes when pictures are begun in the same folder.
    """

    def __init__(self, files: Mapping[str, Path], audio: ModelConfig) -> None:
        """
        Args:
            files: of each picture, by `mask` or the name of a stem.
            audio: of the spectra.
        Raises:
            ConfigError: matplotlib is not installed.
        """
        if find_spec("matplotlib") is None:
            raise ConfigError("--images: pictures need matplotlib: pip install 'frame-transformer[plots]'")
        self.files = dict(files)
        self.audio = audio
        self._columns = {name: Columns(audio.n_fft // 2 + 1) for name in files}
        self._peak = 0.0
        """The power of the mixture where that is highest."""
        self._claims: dict[str, Claim] = {}
        self._drawn: set[str] = set()

    def __enter__(self) -> Self:
        """Claims the pictures. Raises AudioError where another run is drawing one of them, or it cannot be made."""
        remove_parts(self.files.values())
        try:
            for name, path in sorted(self.files.items(), key=lambda item: item[1]):
                with _told(path):
                    self._claims[name] = Claim(path.with_name(f"{part_name(path)}.part"), path)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add(self, mask: Array, spec: Spec) -> None:
        """The next frames of a song.

        Args:
            mask: of the instrumental (channels, frames, bins), 0..1.
            spec: the mixture's spectrogram of the same shape.
        """
        self._peak = max(self._peak, float(mean_power(spec).max(initial=0)))
        for name, columns in self._columns.items():
            if name == _MASK:
                values: Array = mask.mean(axis=0)
            else:
                values = mean_power(spec * (mask if name == "instrumental" else 1 - mask))
            columns.add(values)

    def values(self, name: str) -> Array:
        """What a picture shows: (columns, bins), in dB or, of the mask, 0..1."""
        means = self._columns[name].means()
        return means if name == _MASK else decibels(means, self._peak)

    def finish(self, check: Callable[[], None] | None = None) -> None:
        """Draws the pictures, so that they only lack their names. Raises AudioError.

        Args:
            check: called before each; what it raises ends this.
        """
        for name, claim in self._claims.items():
            if name in self._drawn:
                continue
            if check is not None:
                check()
            rate, scale = self.audio.sample_rate, MASK if name == _MASK else DECIBELS
            seconds = self._columns[name].frames * self.audio.hop_length / rate
            panels = {_TITLES.get(name, name): self.values(name)}
            with _told(self.files[name]):
                save_panels(claim.part, panels, seconds, rate / self.audio.n_fft, scale, _HEIGHT)
            self._drawn.add(name)

    def commit(self, check: Callable[[], None] | None = None) -> None:
        """Finishes and gives all pictures their names.

        Raises:
            AudioError: a picture cannot be written; none of these is there then.
        """
        self.finish(check)
        for name, claim in self._claims.items():
            with _told(self.files[name]):
                claim.place()
        for claim in self._claims.values():
            claim.close()
        self._claims = {}

    def close(self) -> None:
        """Removes what was not committed, and the folders made for it."""
        with ExitStack() as stack:
            for claim in self._claims.values():  # the first one last, which made the folders
                stack.callback(claim.close)
            for name, claim in self._claims.items():
                if claim.is_at(self.files[name]):
                    stack.callback(remove, self.files[name])
            self._claims = {}


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Makes errors of writing an AudioError of one line that names the picture."""
    try:
        yield
    except OSError as error:
        raise AudioError(f"{path}: cannot write the picture: {error.strerror or error}") from error

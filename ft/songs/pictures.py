"""Pictures of a song's mask and of the spectrograms of its stems, in PNG: seconds to the right, frequency upwards.

They are made of the sound of the mixture and of the stems, at the song's rate, whatever the model reads. All stems are
in dB below the peak of the mixture. A mask is the magnitude of a stem over that of the mixture, 0..1: the
instrumental's, or where a model has none that of each stem. Both are the mean of the channels. A picture is of one size
for a song of any length, and so is what is kept for it: in a longer song each column is the mean of more frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft.audio.encode import go_on
from ft.dsp import BlockQueue, StreamingStft, magnitude
from ft.plots import DECIBELS, HOP_LENGTH, MASK, N_FFT, check_matplotlib, decibels, mean_power, save_panels
from ft.songs.parts import part_of, told

Array = NDArray[np.float32]
Spec = NDArray[np.complex64]

COLUMNS = 2048
"""At most; there are half as many at least of a song of more frames. An even number."""
_MASK = "mask"
_HEIGHT = 4.0
_TINY = np.finfo(np.float32).tiny


class Columns:
    """The means of so many frames each that a song of any length has `COLUMNS` columns at most."""

    def __init__(self) -> None:
        self.frames = 0
        self.frames_per_column = 1
        self._sums = np.zeros((COLUMNS, N_FFT // 2 + 1), np.float32)

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
    """Draws pictures while a song is separated, into the parts of files that are claimed (`ft.songs.parts.Outputs`)."""

    def __init__(self, files: Mapping[str, Path], sample_rate: int) -> None:
        """
        Args:
            files: of each picture, by `mask` or the name of a stem.
            sample_rate: of the song, in Hz.
        Raises:
            ConfigError: matplotlib is not installed.
        """
        check_matplotlib()
        self.files = dict(files)
        self._rate = sample_rate
        self._peak = 0.0
        """The power of the mixture where that is highest."""
        self._stft: StreamingStft | None = None
        """The panels of the mixture and of all stems, one behind the other."""
        self._heard = BlockQueue()
        self._stems: dict[str, Columns] = {}
        self._masks: dict[str, Columns] = {}

    def heard(self, blocks: Iterable[Array]) -> Iterator[Array]:
        """Gives the blocks of the mixture (channels, samples), and keeps each until the stems of it are added."""
        for block in blocks:
            self._heard.append(block)
            yield block

    def add(self, stems: Mapping[str, Array]) -> None:
        """Draws the next block (channels, samples) of every stem, after what `heard` gave of the mixture."""
        if self._stft is None:
            self._stems = {name: Columns() for name in stems}
            masked = [name for name in stems if name == "instrumental"] or stems
            self._masks = {name: Columns() for name in masked}
            channels = len(next(iter(stems.values())))
            self._stft = StreamingStft((1 + len(stems)) * channels, N_FFT, HOP_LENGTH)
        mixture = self._heard.take(next(iter(stems.values())).shape[1])
        self._add(self._stft.push(np.concatenate((mixture, *(stems[name] for name in self._stems)))))

    def _add(self, spec: Spec) -> None:
        mixture, *stems = np.split(spec, 1 + len(self._stems))
        self._peak = max(self._peak, float(mean_power(mixture).max(initial=0)))
        whole = np.maximum(magnitude(mixture), _TINY)
        for (name, columns), stem in zip(self._stems.items(), stems, strict=True):
            columns.add(mean_power(stem))
            if name in self._masks:
                self._masks[name].add(np.minimum(magnitude(stem) / whole, 1).mean(axis=0))

    def panels(self, picture: str) -> dict[str, Array]:
        """What a picture shows, by titles: (columns, bins), in dB or, of masks, 0..1."""
        if picture == _MASK:
            return {f"mask of the {name}": columns.means() for name, columns in self._masks.items()}
        return {picture: decibels(self._stems[picture].means(), self._peak)}

    def finish(self, check: Callable[[], None] = go_on) -> None:
        """Draws the pictures into their parts, once all was added. Raises AudioError.

        Args:
            check: called before each; what it raises ends this.
        """
        assert self._stft is not None
        self._add(self._stft.finish())
        seconds = next(iter(self._stems.values())).frames * HOP_LENGTH / self._rate
        for name, path in self.files.items():
            check()
            scale = MASK if name == _MASK else DECIBELS
            with told(path):
                save_panels(part_of(path), self.panels(name), seconds, self._rate / N_FFT, scale, _HEIGHT)

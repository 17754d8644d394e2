"""What one audio file is: its length, level, clipping, silence, channels and fingerprint, in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.audio.open import open_source
from ft.data.fingerprint import Fingerprint, Fingerprinter
from ft.dsp import BlockQueue
from ft.errors import AudioError

Array = NDArray[np.float32]
Channels = Literal["mono", "equal", "one silent", "stereo"]

WINDOW_SECONDS = 0.1
"""Clipping and silence are looked for in parts of this length."""
FULL_SCALE = 32766 / 32768
CLIPPED_RUN = 3
"""Samples at full scale in a row that count as clipped; one alone may be a peak that was normalised to it."""
SILENCE_DB = -60.0
"""Level of a window, in dB of full scale, below which it is silent."""
EQUAL_DB = -60.0
"""Level of the difference of both channels, in dB of their sum, below which a file is mono in two channels."""


@dataclass(frozen=True)
class Measure:
    """What was found in one file that could be read to its end."""

    seconds: float
    sample_rate: int
    channels: Channels
    """mono: one channel; equal: two of the same sound; one silent: two, of which one is below -60 dB of full scale."""
    peak: float
    """Largest absolute value, full scale at 1."""
    rms: float
    clipped: float
    """Share of the windows with `CLIPPED_RUN` samples at full scale in a row, 0 to 1."""
    silent: float
    """Share of the windows below `SILENCE_DB`."""
    digest: str
    """Is equal where two files decode to the same samples."""
    fingerprint: Fingerprint


def measure(path: Path) -> Measure:
    """Reads a file once from its beginning to its end.

    Raises:
        AudioError: it cannot be read: no audio, damaged, cut off, empty, more than two channels, not finite.
    """
    with open_source(path) as source, closing(source.blocks()) as blocks:
        return _measured(blocks, source.info.sample_rate, source.info.channels)


def try_measure(path: Path) -> Measure | str:
    """Gives what `measure` does, or the line that says why not; worker processes run it."""
    try:
        return measure(path)
    except AudioError as error:
        return str(error)


def _measured(blocks: Iterator[Array], sample_rate: int, channels: int) -> Measure:
    printer, digest = Fingerprinter(sample_rate), hashlib.blake2b(digest_size=16)
    windows = _Windows(round(sample_rate * WINDOW_SECONDS), channels)
    samples, peak = 0, 0.0
    for block in blocks:
        samples += block.shape[1]
        peak = max(peak, float(np.abs(block).max(initial=0)))
        printer.push(block)
        digest.update(block.T.tobytes())
        windows.push(block)
    windows.finish()
    energy = windows.energy / max(samples, 1)  # of each channel
    return Measure(
        seconds=samples / sample_rate,
        sample_rate=sample_rate,
        channels=_channels(energy, windows.side / max(samples, 1)),
        peak=peak,
        rms=float(np.sqrt(energy.mean())),
        clipped=windows.clipped / max(windows.count, 1),
        silent=windows.silent / max(windows.count, 1),
        digest=digest.hexdigest(),
        fingerprint=printer.finish(),
    )


def _channels(energy: NDArray[np.float64], side: float) -> Channels:
    if len(energy) == 1:
        return "mono"
    quiet = 10 ** (SILENCE_DB / 10)
    if energy.min() < quiet <= energy.max():
        return "one silent"
    return "equal" if side <= energy.sum() * 10 ** (EQUAL_DB / 10) else "stereo"


class _Windows:
    """Counts windows that are clipped or silent, and sums energies."""

    def __init__(self, size: int, channels: int) -> None:
        self.size = max(size, 1)
        self.count = self.clipped = self.silent = 0
        self.energy = np.zeros(channels)
        self.side = 0.0
        """Energy of left minus right."""
        self._waiting = BlockQueue()

    def push(self, block: Array) -> None:
        self._waiting.append(block)
        self._count(self._waiting.take(self._waiting.size // self.size * self.size), self.size)

    def finish(self) -> None:
        """Counts the rest as one window more."""
        size = self._waiting.size
        self._count(self._waiting.take(size), size)

    def _count(self, part: Array, size: int) -> None:
        if not part.shape[1]:
            return
        windows = part.reshape(len(part), -1, size)
        square = np.einsum("cws,cws->cw", windows, windows, dtype=np.float64)
        self.energy += square.sum(axis=1)
        if len(part) == 2:
            side = part[0] - part[1]
            self.side += float(np.dot(side, side))
        self.count += windows.shape[1]
        self.silent += int((square.mean(axis=0) / size < 10 ** (SILENCE_DB / 10)).sum())
        full = np.abs(part) >= FULL_SCALE
        if full.any():
            run = full[:, CLIPPED_RUN - 1 :].copy()
            for step in range(CLIPPED_RUN - 1):
                run &= full[:, step : step + run.shape[1]]
            self.clipped += len(np.unique(np.nonzero(run)[1] // size))

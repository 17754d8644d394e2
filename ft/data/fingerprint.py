"""Audio fingerprints: whether two files hold the same recording, wherever it begins in them.

The landmarks of A. Wang, "An Industrial-Strength Audio Search Algorithm", ISMIR 2003: peaks of the spectrogram, taken
in pairs. A pair is named by its two frequencies and the time between them, none of which change with gain, encoding or
what stands before; where many pairs of two files agree on one delay, the files share their sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from ft.dsp import StreamingStft, magnitude

Array = NDArray[np.float32]

SAMPLE_RATE = 11025
N_FFT, HOP_LENGTH = 1024, 256
FRAME_SECONDS = HOP_LENGTH / SAMPLE_RATE
BINS = slice(8, 464)
"""86 Hz to 5 kHz, which encoders of low bitrates keep too."""
NEAR_FRAMES, NEAR_BINS = 12, 16
"""Reach to each side within which a peak is the largest value: 0.28 s and 172 Hz."""
FLOOR = 1e-3
"""Least magnitude of a peak; full scale is N_FFT / 4, so 108 dB below it."""
FAN_OUT = 3
"""Peaks behind a peak that it is paired with."""
MAX_FRAMES = 64
"""Between two peaks of a pair, exclusive: 6 bits."""
CHUNK_FRAMES = 512
"""Spectra that are waited for before peaks are looked for: 12 s."""
COMMON = 200
"""A landmark that so many places of the library share says nothing, as a tone's does."""
MIN_MATCHES = 20
"""Landmarks that agree on one delay. Chance gives two or three."""
MIN_SHARE = 0.05
"""Least share of the landmarks of the file that has fewer."""


@dataclass(frozen=True)
class Fingerprint:
    """Landmarks of one sound in the order of time: what each is, and at which frame of `FRAME_SECONDS` it begins."""

    hashes: NDArray[np.uint32]
    frames: NDArray[np.int32]


@dataclass(frozen=True)
class Match:
    """Two files, by their places in the list, that share a recording."""

    first: int
    second: int
    share: float
    """Share of the landmarks of the file with fewer that agree on the delay, 0 to 1. Encoding and cutting lose some: a
    copy as it is has 1, one through MP3 at 64 kbit/s about a half."""
    offset: float
    """Seconds by which the recording begins later in the second file."""
    seconds: float
    """Time from the first common landmark to the last."""


class Fingerprinter:
    """Makes the fingerprint of a sound that comes in blocks, in memory that grows by about a megabyte an hour."""

    def __init__(self, sample_rate: int) -> None:
        self._resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="LQ")
        self._stft = StreamingStft(1, N_FFT, HOP_LENGTH)
        self._waiting = np.zeros((0, BINS.stop - BINS.start), np.float32)
        """Magnitudes (frames, bins) of which peaks are still to be found, behind those of the reach before them."""
        self._before = 0
        self._frame = 0
        """Number of the first row of `_waiting`."""
        self._peaks: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def push(self, block: Array) -> None:
        """Takes a block (channels, samples) of any size."""
        self._take(block.mean(axis=0), last=False)

    def finish(self) -> Fingerprint:
        """Gives the fingerprint of all that came in; an empty one of silence."""
        self._take(np.zeros(0, np.float32), last=True)
        if not self._peaks:
            return Fingerprint(np.zeros(0, np.uint32), np.zeros(0, np.int32))
        frames, bins = (np.concatenate(each) for each in zip(*self._peaks, strict=True))
        return _landmarks(frames, bins)

    def _take(self, mono: Array, last: bool) -> None:
        resampled = self._resampler.resample_chunk(np.ascontiguousarray(mono, np.float32), last=last)
        specs = [self._stft.push(resampled[None])]
        if last and self._stft.samples:
            specs.append(self._stft.finish())
        rows = [magnitude(spec)[0, :, BINS] for spec in specs if spec.shape[1]]
        self._waiting = np.concatenate((self._waiting, *rows))
        if last or len(self._waiting) >= CHUNK_FRAMES:
            self._find(last)

    def _find(self, last: bool) -> None:
        """Gives the peaks of the rows that have their whole reach around them."""
        rows = self._waiting
        end = len(rows) if last else len(rows) - NEAR_FRAMES
        if end <= self._before:
            return
        largest = _sliding_max(_sliding_max(rows, NEAR_FRAMES).T, NEAR_BINS).T
        found = (rows == largest) & (rows > FLOOR)
        frames, bins = np.nonzero(found[self._before : end])
        self._peaks.append((frames + self._frame + self._before, bins))
        kept = max(end - NEAR_FRAMES, 0)
        self._waiting, self._before, self._frame = rows[kept:], end - kept, self._frame + kept


def fingerprint(waveform: Array, sample_rate: int) -> Fingerprint:
    """Gives the fingerprint of a whole waveform (channels, samples)."""
    printer = Fingerprinter(sample_rate)
    printer.push(waveform)
    return printer.finish()


def find_matches(prints: Sequence[Fingerprint]) -> list[Match]:
    """Gives all pairs of sounds that share a recording, those with the most in common first.

    Each sound is looked up in an index of those behind it, so that memory is that of the index: 12 bytes a landmark,
    about 2 MB an hour.
    """
    sizes = np.array([len(each.hashes) for each in prints])
    if not sizes.sum():
        return []
    hashes = np.concatenate([each.hashes for each in prints])
    order = np.argsort(hashes, kind="stable")  # within a hash by the place of the file
    index = hashes[order]
    files = np.repeat(np.arange(len(prints), dtype=np.int32), sizes)[order]
    frames = np.concatenate([each.frames for each in prints])[order]
    matches = []
    for number, each in enumerate(prints):
        matches += _matches_of(number, each, sizes, index, files, frames)
    return sorted(matches, key=lambda match: (-match.share, match.first, match.second))


def _matches_of(
    number: int,
    each: Fingerprint,
    sizes: NDArray[np.int64],
    index: NDArray[np.uint32],
    files: NDArray[np.int32],
    frames: NDArray[np.int32],
) -> list[Match]:
    """Gives the matches of one sound with those behind it in the list."""
    start, stop = np.searchsorted(index, each.hashes), np.searchsorted(index, each.hashes, side="right")
    counts = np.where(stop - start > COMMON, 0, stop - start)
    own = np.repeat(each.frames, counts)
    places = np.repeat(start - np.concatenate(([0], np.cumsum(counts)[:-1])), counts) + np.arange(counts.sum())
    behind = files[places] > number
    own, places = own[behind], places[behind]
    if not len(own):
        return []
    # A delay between two frames falls to either, so that two neighbours are counted as one.
    keys = (files[places].astype(np.int64) << 32) + (frames[places].astype(np.int64) - own + (1 << 31))
    unique, count = np.unique(keys, return_counts=True)
    pairs = count + np.where(np.diff(unique, append=0) == 1, np.append(count[1:], 0), 0)
    matches = []
    others = unique >> 32
    first = np.concatenate(([0], np.nonzero(np.diff(others))[0] + 1))
    for begin, end in zip(first, np.append(first[1:], len(others)), strict=True):
        best = begin + int(pairs[begin:end].argmax())
        other = int(others[begin])
        fewer = int(min(sizes[number], sizes[other]))
        if pairs[best] < MIN_MATCHES or pairs[best] < MIN_SHARE * fewer:
            continue
        common = own[(keys == unique[best]) | (keys == unique[best] + 1)]
        matches.append(
            Match(
                number,
                other,
                min(1.0, int(pairs[best]) / fewer),
                float((unique[best] & 0xFFFFFFFF) - (1 << 31)) * FRAME_SECONDS,
                float(common.max() - common.min()) * FRAME_SECONDS,
            )
        )
    return matches


def _landmarks(frames: NDArray[np.int64], bins: NDArray[np.int64]) -> Fingerprint:
    """Each peak with the next few behind it: 9 bits of each frequency and 6 of the frames between them."""
    hashes, begins = [], []
    for step in range(1, FAN_OUT + 1):
        apart = frames[step:] - frames[:-step]
        good = (apart > 0) & (apart < MAX_FRAMES)
        first, second = bins[:-step][good], bins[step:][good]
        hashes.append((first << 15) | (second << 6) | apart[good])
        begins.append(frames[:-step][good])
    begin = np.concatenate(begins)
    order = np.argsort(begin, kind="stable")
    return Fingerprint(np.concatenate(hashes)[order].astype(np.uint32), begin[order].astype(np.int32))


def _sliding_max(rows: Array, reach: int) -> Array:
    """Gives the maximum of each value and its neighbours up to `reach` rows away on both sides."""
    width = 2 * reach + 1
    padded = np.pad(rows, ((reach, reach), (0, 0)))  # magnitudes are not below 0
    covered = 1
    while covered * 2 <= width:  # of 1, 2, 4 ... rows
        padded = np.maximum(padded[:-covered], padded[covered:])
        covered *= 2
    rest = width - covered
    return np.maximum(padded[: len(rows)], padded[rest : rest + len(rows)])

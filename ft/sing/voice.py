"""A recording taken apart by the WORLD vocoder: pitch, envelope, breath, and where its syllables are."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ft.errors import DataError

FRAME_SECONDS = 0.005
F0_FLOOR, F0_CEIL = 65.0, 800.0
CLOSURE_FRAMES = 10


@dataclass(frozen=True)
class Syllable:
    """Frames of a recording, `start <= nucleus_start <= centre < nucleus_end <= end`; the nucleus can be held."""

    start: int
    nucleus_start: int
    centre: int
    nucleus_end: int
    end: int


@dataclass(frozen=True)
class Voice:
    """A recording in WORLD's parameters, one row per 5 ms.

    Attributes:
        waveform: `(samples,)`, mono.
        f0: `(frames,)` in Hz, 0 where unvoiced.
        envelope: `(frames, fft_size // 2 + 1)`, power.
        aperiodicity: as `envelope`, share of noise, 0 to 1; float32.
        envelope_db: `envelope` in dB; float32.
    """

    waveform: np.ndarray
    sample_rate: int
    f0: np.ndarray
    envelope: np.ndarray
    aperiodicity: np.ndarray
    syllables: tuple[Syllable, ...]

    @cached_property
    def envelope_db(self) -> np.ndarray:
        return (10 * np.log10(self.envelope + 1e-16)).astype(np.float32)


def load_world() -> Any:
    """Gives the compiled part of pyworld.

    The package around it imports `pkg_resources`, which setuptools 82 and later no longer have and which this needs
    nothing of, so the compiled module is loaded by itself.
    """
    package = importlib.util.find_spec("pyworld")
    if package is None or package.submodule_search_locations is None:
        raise DataError('Singing needs pyworld, which is not installed: pip install "frame-transformer[train]"')
    spec = importlib.machinery.PathFinder.find_spec("pyworld", list(package.submodule_search_locations))
    if spec is None or spec.loader is None:
        raise DataError("pyworld is installed without its compiled module: pip install --force-reinstall pyworld")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def analyse(waveform: np.ndarray, sample_rate: int) -> Voice:
    """Takes a mono recording of speech apart.

    Args:
        waveform: `(samples,)`.
    """
    samples = np.ascontiguousarray(waveform, dtype=np.float64)
    f0, times, aperiodicity = find_pitch(samples, sample_rate)
    envelope = load_world().cheaptrick(samples, f0, times, sample_rate)
    f0 = np.where(aperiodicity[:, 1] < 0.5, f0, 0.0)  # D4C marks what Harvest took for voice and is not
    aperiodicity = aperiodicity.astype(np.float32)
    return Voice(samples, sample_rate, f0, envelope, aperiodicity, tuple(find_syllables(f0, envelope, sample_rate)))


def find_pitch(
    waveform: np.ndarray, sample_rate: int, ceil: float = F0_CEIL
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F0 in Hz (0 where Harvest finds none), its times in seconds, and D4C's aperiodicity, one row per 5 ms.

    Harvest looks only within the range that DIO, five times as fast, found: its time grows with the octaves.
    """
    world = load_world()
    period = FRAME_SECONDS * 1000
    rough, _ = world.dio(waveform, sample_rate, f0_floor=F0_FLOOR, f0_ceil=ceil, frame_period=period)
    low, high = np.percentile(rough[rough > 0], [3, 97]) if (rough > 0).sum() > 20 else (F0_FLOOR, ceil)
    low, high = max(F0_FLOOR, 0.8 * low), min(ceil, 1.25 * high)
    f0, times = world.harvest(waveform, sample_rate, f0_floor=low, f0_ceil=high, frame_period=period)
    return f0, times, world.d4c(waveform, f0, times, sample_rate)


def find_syllables(f0: np.ndarray, envelope: np.ndarray, sample_rate: int) -> list[Syllable]:
    """Syllables around the peaks of voiced energy between 200 Hz and 4 kHz, parted where it is lowest.

    Consonants of up to 250 ms stay with the vowel they lead to.
    """
    frequencies = np.linspace(0, sample_rate / 2, envelope.shape[1])
    band = (frequencies > 200) & (frequencies < 4000)
    level = 10 * np.log10(smooth(envelope[:, band].mean(axis=1), 5) + 1e-16)
    whole = 10 * np.log10(smooth(envelope.mean(axis=1), 3) + 1e-16)
    voiced = f0 > 0
    if not voiced.any():
        return []
    floor = float(np.percentile(whole[voiced], 95)) - 45
    sounding = _closed(whole > floor, CLOSURE_FRAMES)
    peaks = _peaks(np.where(voiced, level, -200.0), distance=24, depth=3.0)
    peaks = [peak for peak in peaks if level[peak] > np.percentile(level[voiced], 90) - 22]
    syllables = []
    for index, peak in enumerate(peaks):
        first = _lowest(whole, peaks[index - 1], peak) if index else 0
        last = _lowest(whole, peak, peaks[index + 1]) if index + 1 < len(peaks) else len(f0) - 1
        held = voiced & (level > level[peak] - 7)
        nucleus_start, nucleus_end = _run(held, peak, first, last)
        if nucleus_end - nucleus_start < 8:
            continue
        start, end = _run(sounding, peak, max(first, nucleus_start - 50), min(last, nucleus_end + 40))
        steady = np.log(envelope[nucleus_start:nucleus_end, band] + 1e-16)
        flux = smooth(np.abs(np.diff(steady, axis=0)).mean(axis=1), 7)
        inner = slice(len(flux) // 4, max(len(flux) - len(flux) // 4, len(flux) // 4 + 1))
        centre = nucleus_start + inner.start + int(np.argmin(flux[inner]))
        syllables.append(Syllable(start, nucleus_start, centre, nucleus_end, end))
    return syllables


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Gives the mean of `width` (odd) values around each."""
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.ones(width) / width, mode="valid")


def _peaks(values: np.ndarray, distance: int, depth: float) -> list[int]:
    """Local maxima, highest first, that lie `distance` from the ones before and have a valley of `depth` between."""
    inner = values[1:-1]
    candidates = 1 + np.flatnonzero((inner >= values[:-2]) & (inner > values[2:]) & (inner > -200))
    taken: list[int] = []
    for peak in candidates[np.argsort(-values[candidates], kind="stable")]:
        below = max((other for other in taken if other < peak), default=None)
        above = min((other for other in taken if other > peak), default=None)
        near = [other for other in (below, above) if other is not None]
        valleys = [values[min(peak, other) : max(peak, other)].min() for other in near]
        if all(abs(other - peak) >= distance for other in near) and all(v <= values[peak] - depth for v in valleys):
            taken.append(int(peak))
    return sorted(taken)


def _closed(mask: np.ndarray, most: int) -> np.ndarray:
    """Gives the mask with gaps of up to `most` filled: lips that close for a stop are part of the syllable."""
    edges = np.flatnonzero(np.diff(np.concatenate([[1], mask.astype(int), [1]])))
    filled = mask.copy()
    for start, end in edges.reshape(-1, 2):
        filled[start:end] |= end - start <= most
    return filled


def _lowest(values: np.ndarray, start: int, end: int) -> int:
    return start + int(np.argmin(values[start:end]))


def _run(mask: np.ndarray, inside: int, first: int, last: int) -> tuple[int, int]:
    """Gives the longest run `[start, end)` of true values that holds `inside`, within `[first, last]`."""
    before = np.flatnonzero(~mask[first:inside])
    after = np.flatnonzero(~mask[inside : last + 1])
    start = first + int(before[-1]) + 1 if len(before) else first
    return start, inside + int(after[0]) if len(after) else last + 1

"""BSSEval: an estimate taken apart into the target, what a filter did to it, interference and artifacts.

Version 3 (Vincent, Gribonval, Févotte, "Performance measurement in blind audio source separation", 2006) as mir_eval
computes its `bss_eval_sources`, and version 4 (Stöter, Liutkus, Ito, "The 2018 Signal Separation Evaluation Campaign")
as museval does. The estimate is projected onto all references delayed by 0 to 511 samples, and onto those of its own
source alone:

    own = projection on its source      interference = all - own
    all = projection on every source    artifacts = estimate - all

Both libraries would take minutes for each row of a table. On one thread, for a minute of sound, museval 0.4.1 takes
13 s (and 4.6 GB for a song of four minutes) and mir_eval 0.8.2 as much for one channel, and it removes the function in
its next version. Here correlations are summed in blocks and energies are read from spectra, which takes 1.7 and 0.8 s;
the figures are the same (`tests/test_bss.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]

FILTER_LENGTH = 512
"""Samples of the filters that a source may have passed; that of BSSEval and of both libraries."""
MAX_SOURCES = 8
"""Their orders are tried one by one."""
_RESIDUAL = 1e-6
"""Largest share of the right side that filters may miss."""
_LARGEST_FILTER = 1e4
"""Filters beyond it cancel each other, and more than their figures are worth is lost in rounding."""
_RIDGE = 1e-10
_BLOCK_FFT = 1 << 15
_BATCH = 8


@dataclass(frozen=True)
class BssScores:
    """Version 3, each in dB and (sources,); infinite where what they divide by is nothing."""

    sdr: Float
    sir: Float
    sar: Float
    permutation: NDArray[np.intp]
    """Which estimate belongs to each reference; the scores are in the order of the references."""


@dataclass(frozen=True)
class BssWindows:
    """Version 4, each in dB and (sources, windows); NaN in windows in which a reference or an estimate is silent."""

    sdr: Float
    isr: Float
    sir: Float
    sar: Float

    def medians(self) -> dict[str, Float]:
        """The median over the windows of each (sources,), without those that are NaN; NaN where all of them are."""
        used = ~np.isnan(self.sdr).any(axis=0)
        empty = np.full(len(self.sdr), np.nan)
        scores = {"sdr": self.sdr, "isr": self.isr, "sir": self.sir, "sar": self.sar}
        return {name: np.median(each[:, used], axis=1) if used.any() else empty for name, each in scores.items()}


class BssReferences:
    """References, and what depends on them alone: how their delayed copies correlate.

    Args:
        references: (sources, channels, samples).
    Raises:
        ValueError: another shape, values that are not finite, or a silent reference.
    """

    def __init__(self, references: ArrayLike) -> None:
        self.references = _checked(references, "reference")
        sources, channels, _ = self.references.shape
        self._flat = self.references.reshape(sources * channels, -1)
        own = _correlations(self._flat, self._flat)
        lags = np.subtract.outer(np.arange(FILTER_LENGTH), np.arange(FILTER_LENGTH)) + FILTER_LENGTH - 1
        size = sources * channels * FILTER_LENGTH
        # (reference, reference, delay, delay) -> (reference and delay, reference and delay)
        self._gram = own[:, :, lags].swapaxes(1, 2).reshape(size, size)

    def v3(self, estimates: ArrayLike, *, permute: bool = True) -> BssScores:
        """Version 3 of estimates of the references' shape; see `bss_eval`."""
        estimates = self._estimates(estimates)
        sources = len(self.references)
        every, own = self._filters(estimates)
        sdr, sir, sar = np.empty((3, sources, sources))  # each (estimate, reference)
        for estimate in range(sources):
            wanted: Sequence[int] = range(sources) if permute else (estimate,)
            energies = self._whole_energies(estimates[estimate], every[estimate], own[estimate], wanted)
            for reference, (by_own, by_all, beside_own, interference, artifacts) in zip(wanted, energies, strict=True):
                sdr[estimate, reference] = _decibels(by_own, beside_own)
                sir[estimate, reference] = _decibels(by_own, interference)
                sar[estimate, reference] = _decibels(by_all, artifacts)
        orders = list(itertools.permutations(range(sources))) if permute else [tuple(range(sources))]
        index = np.arange(sources)
        best = max(orders, key=lambda order: float(np.mean(sir[list(order), index])))
        chosen = np.array(best, np.intp)
        return BssScores(sdr[chosen, index], sir[chosen, index], sar[chosen, index], chosen)

    def v4(self, estimates: ArrayLike, window: int, hop: int) -> BssWindows:
        """Version 4 of estimates of the references' shape, in windows of `window` samples; see `bss_eval_v4`."""
        estimates = self._estimates(estimates)
        sources, channels, samples = self.references.shape
        window, hop = min(int(window), samples), int(hop)
        starts = range(0, samples - window + 1, hop)
        n_fft = fast_length(window + FILTER_LENGTH - 1)
        every, own = (np.fft.rfft(each, n_fft) for each in self._filters(estimates))
        weights = np.full(n_fft // 2 + 1, 2.0)  # a bin stands for its negative frequency, too
        weights[0] = 1
        if n_fft % 2 == 0:
            weights[-1] = 1
        scores = np.full((4, sources, len(starts)), np.nan)
        for index, start in enumerate(starts):
            part = slice(start, start + window)
            true, estimate = self.references[..., part], estimates[..., part]
            if _silent(true) or _silent(estimate):
                continue
            true, estimate = (np.fft.rfft(each.astype(np.float64), n_fft) for each in (true, estimate))
            for source in range(sources):
                by_all = _filtered(every[source], true.reshape(sources * channels, -1))
                by_own = _filtered(own[source, source], true[source])
                target = _energy(true[source], weights)
                scores[:, source, index] = (
                    _decibels(target, _energy(estimate[source] - true[source], weights)),
                    _decibels(target, _energy(by_own - true[source], weights)),
                    _decibels(_energy(by_own, weights), _energy(by_all - by_own, weights)),
                    _decibels(_energy(by_all, weights), _energy(estimate[source] - by_all, weights)),
                )
        return BssWindows(*scores)

    def _estimates(self, estimates: ArrayLike) -> NDArray:
        values = _checked(estimates, "estimate")
        if values.shape != self.references.shape:
            raise ValueError(f"estimates of shape {values.shape}, references of {self.references.shape}; expected one")
        return values

    def _filters(self, estimates: NDArray) -> tuple[Float, Float]:
        """Finds the filters that give the projections of each estimate.

        Returns:
            On all references (estimate, channel, reference channel, sample), those of all sources in a row; on one
            source (estimate, source, channel, reference channel, sample).
        """
        sources, channels, _ = estimates.shape
        length = FILTER_LENGTH
        cross = _correlations(self._flat, estimates.reshape(sources * channels, -1))[..., length - 1 :]
        # (reference, estimate, delay) -> (reference and delay, estimate)
        cross = cross.swapaxes(1, 2).reshape(-1, sources * channels)
        every = _solved(self._gram, cross).T.reshape(sources, channels, sources * channels, length)
        own = np.empty((sources, sources, channels, channels, length))
        for source in range(sources):
            part = slice(source * channels * length, (source + 1) * channels * length)
            solved = _solved(self._gram[part, part], cross[part])
            own[:, source] = solved.T.reshape(sources, channels, channels, length)
        return every, own

    def _whole_energies(self, estimate: NDArray, every: Float, own: Float, wanted: Sequence[int]) -> list[list[float]]:
        """Sums the parts of one estimate (channels, samples) over all samples and the tail of the filters.

        Returns:
            For each wanted source: own, all, the estimate beside its own, interference and artifacts.
        """
        _, channels, samples = self.references.shape
        sums = np.zeros((len(wanted), 5))
        spectra_all, spectra_own = np.fft.rfft(every, _BLOCK_FFT), np.fft.rfft(own, _BLOCK_FFT)
        step = _BLOCK_FFT - FILTER_LENGTH + 1
        for start in range(0, samples + FILTER_LENGTH - 1, step):
            # What the filters give for these samples hangs on those before them, too (overlap-save).
            spectra = np.fft.rfft(_cut(self._flat, start - FILTER_LENGTH + 1, start + step), _BLOCK_FFT)
            ours = _cut(estimate, start, start + step)
            by_all = np.fft.irfft(_filtered(spectra_all, spectra), _BLOCK_FFT)[:, -step:]
            for row, source in enumerate(wanted):
                part = spectra[source * channels : (source + 1) * channels]
                by_own = np.fft.irfft(_filtered(spectra_own[source], part), _BLOCK_FFT)[:, -step:]
                parts = (by_own, by_all, ours - by_own, by_all - by_own, ours - by_all)
                # Not by BLAS, whose threads wait for each other longer than this takes.
                sums[row] += [np.einsum("cs,cs->", each, each) for each in parts]
        energies: list[list[float]] = sums.tolist()
        return energies


def bss_eval(references: ArrayLike, estimates: ArrayLike) -> BssScores:
    """BSSEval version 3 of sources of one channel, each matched with the estimate that gives the best mean SIR.

    Args:
        references, estimates: (sources, samples), both the same; one source may be (samples,).
    Raises:
        ValueError: other shapes, more than 8 sources, values that are not finite, or a silent reference or estimate.
    """
    true, ours = np.atleast_2d(np.asarray(references)), np.atleast_2d(np.asarray(estimates))
    if true.ndim != 2 or true.shape != ours.shape:
        raise ValueError(f"references of {true.shape}, estimates of {ours.shape}; expected (sources, samples) of both")
    return BssReferences(true[:, None]).v3(ours[:, None])


def bss_eval_v4(references: ArrayLike, estimates: ArrayLike, window: int, hop: int | None = None) -> BssWindows:
    """BSSEval version 4 of sources of one or more channels, with the same filters for all windows.

    Estimates stay with the references of the same number. Windows that would end behind the last sample are left out,
    but for that of a sound shorter than one.

    Args:
        references, estimates: (sources, channels, samples), both the same.
        window, hop: in samples; museval takes one second for both, and the hop is the window by default.
    Raises:
        ValueError: other shapes, values that are not finite, or a silent reference or estimate.
    """
    return BssReferences(references).v4(estimates, window, hop or window)


def fast_length(length: int) -> int:
    """The smallest number of at least `length` without prime factors but 2, 3 and 5, for which FFTs are fast.

    >>> fast_length(44611)
    45000
    """
    best = 1 << (length - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-length // three)
            best = min(best, three << (rest - 1).bit_length())
            three *= 3
        five *= 5
    return best


def _checked(values: ArrayLike, name: str) -> NDArray:
    """Gives an array (sources, channels, samples) of finite sound. Raises ValueError."""
    array = np.asarray(values)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"{name}s of shape {array.shape}; expected (sources, channels, samples)")
    if len(array) > MAX_SOURCES:
        raise ValueError(f"{len(array)} {name}s; expected at most {MAX_SOURCES}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}s with values that are not finite; expected none")
    if _silent(array):
        raise ValueError(f"a silent {name}; BSSEval is defined for sound in all of them")
    return array


def _silent(sources: NDArray) -> bool:
    """Whether a source (sources, channels, samples) is silence once its channels are added, as both libraries ask."""
    return bool((~sources.sum(axis=1).any(axis=1)).any())


def _correlations(left: NDArray, right: NDArray) -> Float:
    """Sums over t of left[t] * right[t + lag], for lags of less than the filters' length to both sides.

    Args:
        left, right: (signals, samples).
    Returns:
        (left signals, right signals, lags), the first of which is 1 - FILTER_LENGTH.
    """
    reach = FILTER_LENGTH - 1
    step = _BLOCK_FFT - 2 * reach
    total = np.zeros((len(left), len(right), _BLOCK_FFT // 2 + 1), np.complex128)
    starts = range(0, left.shape[1], step)
    for first in range(0, len(starts), _BATCH):
        batch = starts[first : first + _BATCH]
        here = np.fft.rfft(np.stack([_cut(left, at, at + step) for at in batch]), _BLOCK_FFT)
        there = np.fft.rfft(np.stack([_cut(right, at - reach, at + step + reach) for at in batch]), _BLOCK_FFT)
        for row, column in np.ndindex(total.shape[:2]):
            total[row, column] += np.einsum("nf,nf->f", here[:, row].conj(), there[:, column])
    return np.fft.irfft(total, _BLOCK_FFT)[..., : 2 * reach + 1]


def _cut(signals: NDArray, start: int, stop: int) -> Float:
    """Samples start to stop in double precision, zeros where there are none."""
    cut = np.zeros((len(signals), stop - start))
    first, last = max(start, 0), min(stop, signals.shape[1])
    if first < last:
        cut[:, first - start : last - start] = signals[:, first:last]
    return cut


def _filtered(filters: Complex, spectra: Complex) -> Complex:
    """Spectra (inputs, bins) through filters (outputs, inputs, bins), summed over the inputs: (outputs, bins)."""
    return np.einsum("oif,if->of", filters, spectra)


def _energy(spectra: Complex, weights: Float) -> float:
    """Sums the energy of signals by their spectra (channels, bins), by Parseval's theorem, but for a common factor."""
    return float(np.sum((spectra.real**2 + spectra.imag**2) * weights))


def _solved(gram: Float, cross: Float) -> Float:
    """The filters (unknowns, signals) of the projections.

    Channels that are the same, as of a voice in the middle, leave them undetermined, but not the projections. A ridge
    100 dB below the references then takes a tenth of the time of the least squares of both libraries. The tiny number
    on the diagonal otherwise is museval's.
    """
    identity = np.eye(len(gram))
    try:
        filters = np.asarray(np.linalg.solve(gram + np.finfo(np.float64).eps * identity, cross), np.float64)
        # A matrix that is singular but for rounding gives filters of up to 1e16, which are finite and solve nothing.
        missed = np.linalg.norm(gram @ filters - cross)
        if missed <= _RESIDUAL * np.linalg.norm(cross) and np.abs(filters).max() <= _LARGEST_FILTER:
            return filters
    except np.linalg.LinAlgError:
        pass
    return np.asarray(np.linalg.solve(gram + _RIDGE * np.mean(np.diag(gram)) * identity, cross), np.float64)


def _decibels(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return float("inf")
    return float(10 * np.log10(numerator / denominator)) if numerator else float("-inf")

"""Distances of spectrograms, as the field's training framework MSST computes them (ZFTurbo,
Music-Source-Separation-Training, utils/metrics.py), which MVSep's tables are made with.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from ft.dsp import window_of

Array = NDArray[np.float32]

L1_FFT, L1_HOP = 2048, 1024
MEL_FFT, MEL_HOP, MEL_BANDS = 4096, 1024, 512
RANGE_DB = 80.0
"""Bands this far below the loudest one of all frames and channels count as that."""
_QUIETEST = 1e-10
_FRAMES = 256
"""So many frames are transformed at once."""


def l1_freq(estimate: ArrayLike, target: ArrayLike) -> float:
    """MSST's `l1_freq`, 0 to 100: 100 / (1 + 10 d), where d is the mean absolute difference of the magnitudes.

    Of an STFT without a window function (n_fft 2048, hop 1024, centred, mirrored at the ends). Nothing in it is
    logarithmic, and it depends on the level of the song: the same error in a quieter song scores higher.

    Args:
        estimate, target: (channels, samples).
    Raises:
        ValueError: different shapes.
    """
    ours, true = np.asarray(estimate, np.float32), np.asarray(target, np.float32)
    if ours.shape != true.shape or ours.ndim != 2 or 0 in ours.shape:
        raise ValueError(f"estimate of shape {ours.shape}, target of {true.shape}; expected one (channels, samples)")
    total, count = 0.0, 0
    for mine, right in zip(_magnitudes(ours, "l1"), _magnitudes(true, "l1"), strict=True):
        total += float(np.sum(np.abs(mine - right), dtype=np.float64))
        count += right.size
    return 100 / (1 + 10 * total / count)


def bleedless_fullness(estimate: Array, target: Array) -> tuple[float, float]:
    """MSST's `bleedless` and `fullness`, each 0 to 100, of two sounds by their `mel_levels`; MSST takes 44100 Hz.

    100 / (1 + d), where d is the mean in dB by which bands of the estimate are louder (bleedless) or quieter
    (fullness) than those of the target, over the bands that are so.
    """
    difference = estimate - target
    louder, quieter = difference[difference > 0], difference[difference < 0]
    excess = float(louder.mean(dtype=np.float64)) if louder.size else 0.0
    lack = -float(quieter.mean(dtype=np.float64)) if quieter.size else 0.0
    return 100 / (1 + excess), 100 / (1 + lack)


def log_frequency_l1(estimate: Array, target: Array) -> float:
    """The mean absolute difference in dB of two sounds' `mel_levels`, all bands together; 0 is the best."""
    return float(np.mean(np.abs(estimate - target), dtype=np.float64))


def mel_levels(waveform: Array, sample_rate: int) -> Array:
    """Levels (channels, frames, 512) in dB of the mel bands of (channels, samples).

    Hann window of 4096, hop 1024, centred, zeros beyond the ends; magnitudes summed by `mel_bands`; 20 log10 of at
    least 1e-10, and at most 80 dB below the largest one.
    """
    bands = mel_bands(sample_rate)
    parts = [np.matmul(block, bands.T) for block in _magnitudes(np.asarray(waveform, np.float32), "mel")]
    levels: Array = 20 * np.log10(np.maximum(np.concatenate(parts, axis=1), np.float32(_QUIETEST)))
    return np.maximum(levels, levels.max() - np.float32(RANGE_DB))


@functools.cache
def mel_bands(sample_rate: int) -> Array:
    """Triangles (512, bins) on Slaney's mel scale, each of an area of 1, as librosa's `filters.mel` has them.

    The scale is linear up to 1 kHz (15 mel) and logarithmic above, 27 mel to a factor of 6.4 (Slaney, "Auditory
    Toolbox", 1998).
    """
    hertz = np.arange(MEL_FFT // 2 + 1) * sample_rate / MEL_FFT
    top = sample_rate / 2
    highest = 15 + 27 * np.log(top / 1000) / np.log(6.4) if top > 1000 else top * 3 / 200
    mel = np.linspace(0, highest, MEL_BANDS + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    width = np.diff(edges)
    rise = (hertz - edges[:-2, None]) / width[:-1, None]
    fall = (edges[2:, None] - hertz) / width[1:, None]
    triangles = np.clip(np.minimum(rise, fall), 0, None)
    return (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def _magnitudes(waveform: Array, kind: Literal["l1", "mel"]) -> Iterator[Array]:
    """Blocks (channels, frames, bins) of the magnitudes of a centred STFT."""
    n_fft, hop = (L1_FFT, L1_HOP) if kind == "l1" else (MEL_FFT, MEL_HOP)
    window = np.ones(n_fft, np.float32) if kind == "l1" else window_of(n_fft)
    mode: Literal["reflect", "constant"] = "reflect" if kind == "l1" and waveform.shape[1] > 1 else "constant"
    padded = np.pad(waveform, ((0, 0), (n_fft // 2, n_fft // 2)), mode=mode)
    frames = sliding_window_view(padded, n_fft, axis=1)[:, ::hop]
    for start in range(0, frames.shape[1], _FRAMES):
        # The factor is asked for and undone because NumPy is several times faster so; see `ft.dsp.spectra`.
        block = frames[:, start : start + _FRAMES] * (window * np.float32(n_fft))
        yield np.abs(np.fft.rfft(block, norm="forward")).astype(np.float32, copy=False)

"""Augmentation of waveforms, (channels, samples) float32, drawn from a NumPy generator."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Waveform = NDArray[np.float32]

FILTER_POINTS = 8
REVERB_SECONDS = (0.2, 1.4)
WIDEN_SECONDS, WIDEN_DB = (0.003, 0.03), (-20.0, 0.0)
"""How late the copy is that widens a voice, and its level."""
PAUSE_SHARE, PAUSE_FADE_SECONDS = (0.2, 0.8), 0.05


def change_speed(waveform: Waveform, factor: float, samples: int) -> Waveform:
    """Gives the first `samples` of `waveform` played `factor` times as fast, so higher by 12 log2(factor) semitones.

    `waveform` holds at least `samples * factor` samples; a shorter result is padded with silence.
    """
    import soxr

    faster = soxr.resample(np.ascontiguousarray(waveform.T), factor, 1.0, quality="LQ").T
    return fit(faster.astype(np.float32), samples)


def fit(waveform: Waveform, samples: int) -> Waveform:
    """`waveform` cut or padded with silence at its end to `samples`."""
    if waveform.shape[1] >= samples:
        return waveform[:, :samples]
    return np.pad(waveform, ((0, 0), (0, samples - waveform.shape[1])))


def random_filter(rng: np.random.Generator, waveform: Waveform, spread_db: float, sample_rate: int) -> Waveform:
    """`waveform` through a zero-phase filter whose gain is a smooth random curve over log frequency."""
    size = fast_size(waveform.shape[1])
    spectrum = spectrum_of(waveform, size)
    octaves = np.log2(np.linspace(0, sample_rate / 2, spectrum.shape[1]) / 50 + 1)
    points = np.linspace(0, octaves[-1], FILTER_POINTS)
    gain_db = np.interp(octaves, points, rng.normal(0, spread_db, FILTER_POINTS))
    spectrum *= (10 ** (gain_db / 20)).astype(np.float32)
    return waveform_of(spectrum, size)[:, : waveform.shape[1]]


def reverberate(rng: np.random.Generator, waveform: Waveform, sample_rate: int) -> Waveform:
    """`waveform` with the decaying noise of a random room added, other noise in each channel."""
    seconds = rng.uniform(*REVERB_SECONDS)
    delay = int(rng.uniform(0.0, 0.03) * sample_rate)
    time = np.arange(int(seconds * sample_rate), dtype=np.float32) / sample_rate
    tail = rng.standard_normal((waveform.shape[0], len(time)), dtype=np.float32)
    size = fast_size(waveform.shape[1] + tail.shape[1])
    response = spectrum_of(tail * np.exp(np.float32(-6.9 / seconds) * time), size)
    # Rooms are darker than noise: a first-order fall from a random corner frequency.
    frequency = np.linspace(0, sample_rate / 2, response.shape[1], dtype=np.float32)
    response /= np.sqrt(1 + (frequency / np.float32(rng.uniform(1500, 8000))) ** 2)
    wet = waveform_of(spectrum_of(waveform, size) * response, size)[:, : waveform.shape[1]]
    wet = np.pad(wet, ((0, 0), (delay, 0)))[:, : waveform.shape[1]]
    level = rms(waveform) / max(rms(wet), 1e-9) * 10 ** (rng.uniform(-24, -6) / 20)
    return waveform + (wet * level).astype(np.float32)


def pan(rng: np.random.Generator, waveform: Waveform, width: float) -> Waveform:
    """Gives a stereo `waveform` moved to one side by a random share of at most `width`."""
    side = rng.uniform(-width, width)
    gains = np.array([[min(1.0, 1 - side)], [min(1.0, 1 + side)]], np.float32)
    return waveform * gains if waveform.shape[0] == 2 else waveform


def mono(waveform: Waveform) -> Waveform:
    """Both channels the mean of `waveform`, as a mono song comes to a stereo network."""
    return np.repeat(waveform.mean(axis=0, keepdims=True), waveform.shape[0], axis=0)


def widen(rng: np.random.Generator, waveform: Waveform, sample_rate: int) -> Waveform:
    """Gives a stereo `waveform` with a late, softer copy of its middle added on the left and taken from the right.

    The middle stays as it is; the copy is what lies beside it, as doubled voices do.
    """
    if waveform.shape[0] != 2:
        return waveform
    delay = int(rng.uniform(*WIDEN_SECONDS) * sample_rate)
    gain = np.float32(10 ** (rng.uniform(*WIDEN_DB) / 20))
    late = np.pad(waveform.mean(axis=0), (delay, 0))[: waveform.shape[1]] * gain
    return waveform + np.stack((late, -late))


def pause(rng: np.random.Generator, waveform: Waveform, sample_rate: int) -> Waveform:
    """`waveform` silent over a fifth to four fifths of its length, which may reach beyond either end."""
    samples = waveform.shape[1]
    length = int(rng.uniform(*PAUSE_SHARE) * samples)
    start = int(rng.integers(-length // 2, max(samples - length // 2, 1 - length // 2)))
    time = np.arange(samples, dtype=np.float32)
    outside = np.maximum(start - time, time - (start + length)) / np.float32(PAUSE_FADE_SECONDS * sample_rate)
    return waveform * np.clip(outside, 0, 1)


def rms(waveform: Waveform) -> float:
    """Root mean square over everything."""
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) if waveform.size else 0.0


def spectrum_of(waveform: Waveform, size: int) -> NDArray[np.complex64]:
    """Spectrum of `waveform` padded to `size`; torch's FFT takes a quarter of the time of NumPy's."""
    return torch.fft.rfft(torch.from_numpy(np.ascontiguousarray(waveform)), size).numpy()


def waveform_of(spectrum: NDArray[np.complex64], size: int) -> Waveform:
    return torch.fft.irfft(torch.from_numpy(spectrum), size).numpy()


def fast_size(samples: int) -> int:
    """Gives the smallest 2^a or 3 * 2^a that is not less: the FFT of a prime length is slow."""
    power = 1 << (samples - 1).bit_length()
    return 3 * power // 4 if 3 * power // 4 >= samples else power

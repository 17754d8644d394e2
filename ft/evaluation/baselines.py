"""What every separator is measured against: the worst that counts, what needs no training, and what a mask can reach.

All take and give waveforms (channels, samples); the instrumental is the rest of the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig, Spectrogram
from ft.dsp import StreamingResampler, istft, left_right, magnitude, mid_side, stft, window_of

Array = NDArray[np.float32]

REPET_FFT, REPET_HOP = 2048, 1024
REPET_SIMILAR = 50
"""Frames of which the median is taken, at most."""
REPET_CELL_SECONDS = 1.0
"""At most one frame of each such part of the song counts, as similar frames lie beside each other."""
REPET_HIGH_PASS = 100.0
"""Hz, below which nothing is vocals."""
_TINY = 1e-9
_BLOCK = 256


def repet_sim(mixture: Array, sample_rate: int) -> dict[str, Array]:
    """Vocals as what does not repeat: REPET-SIM (Rafii and Pardo, "Music/voice separation using the similarity
    matrix", 2012).

    The instrumental's magnitude in a frame is the median of the most similar frames of the song, of which there are
    up to 50, one for each second of it, and never more than the mixture's; n_fft 2048, hop 1024. Similarity is the
    cosine of the magnitudes, the mean of the channels, which also get one mask.
    """
    specs = stft(mixture, REPET_FFT, REPET_HOP)
    size = np.ascontiguousarray(magnitude(specs).mean(axis=0).T)  # (frames, bins)
    unit = size / np.maximum(np.linalg.norm(size, axis=1, keepdims=True), _TINY)
    cell = max(1, round(REPET_CELL_SECONDS * sample_rate / REPET_HOP))
    mask = np.empty_like(size)
    for start in range(0, len(size), _BLOCK):
        similar = _most_similar(unit[start : start + _BLOCK] @ unit.T, cell)
        repeating = np.stack([np.median(size[frames], axis=0) for frames in similar])
        part = size[start : start + _BLOCK]
        mask[start : start + _BLOCK] = (np.minimum(repeating, part) + _TINY) / (part + _TINY)
    mask[:, : int(REPET_HIGH_PASS * REPET_FFT / sample_rate) + 1] = 1
    vocals = istft((1 - mask.T) * specs, REPET_FFT, REPET_HOP, mixture.shape[1])
    return {"vocals": vocals, "instrumental": mixture - vocals}


def _most_similar(similarity: Array, cell: int) -> NDArray[np.intp]:
    """Gives the best frames of the best cells of each row of (rows, frames), (rows, up to REPET_SIMILAR)."""
    rows, frames = similarity.shape
    cells = -(-frames // cell)
    padded = np.full((rows, cells * cell), -1, np.float32)
    padded[:, :frames] = similarity
    padded = padded.reshape(rows, cells, cell)
    best = padded.argmax(axis=2)
    count = min(REPET_SIMILAR, cells)
    top = np.argpartition(-padded.max(axis=2), count - 1, axis=1)[:, :count]
    return top * cell + np.take_along_axis(best, top, axis=1)


def ideal_mask(
    mixture: Array,
    stems: Mapping[str, Array],
    sample_rate: int,
    config: ModelConfig,
    kind: Literal["ratio", "phase"] = "ratio",
) -> dict[str, Array]:
    """Estimates each stem by the mask that knows the truth, at a model's own STFT, band and stereo: its ceiling.

    The instrumental is what the vocals leave of the mixture.

    Args:
        stems: the true ones, `vocals` and `instrumental` among them.
        config: the model's; above the bins that it reads the masks are nothing, unless it extends its own to there.
        kind: `ratio` is |S| / (|S| + |R|) of a stem and the rest of the song; `phase` is Re(S / X) cut to 0..1, the
            best real mask of that range (Erdogan et al., "Phase-sensitive and recognition-boosted speech separation",
            2015).
    """
    front = config.front
    assert isinstance(front, Spectrogram)
    window = window_of(front.n_fft, front.win_length, front.window)
    stft_of = partial(stft, n_fft=front.n_fft, hop_length=front.hop_length, window=window, ends=front.ends)
    seen = _as_seen(mixture, sample_rate, config)
    spec = stft_of(seen)
    total = stems["vocals"] + stems["instrumental"]
    estimates = {}
    for stem in stems:
        if stem == "instrumental":
            continue
        own = stft_of(_as_seen(stems[stem], sample_rate, config))
        if kind == "ratio":
            size, rest = magnitude(own), magnitude(stft_of(_as_seen(total - stems[stem], sample_rate, config)))
            mask = size / np.maximum(size + rest, _TINY)
        else:
            mask = np.clip((own * spec.conj()).real / np.maximum(np.square(magnitude(spec)), _TINY**2), 0, 1)
        if (band := band_of(config)) is not None:
            mask[:, band:] = 0
        wave = istft(mask * spec, front.n_fft, front.hop_length, seen.shape[1], window)
        estimates[stem] = _as_heard(wave, sample_rate, config, mixture.shape[1])
    return {**estimates, "instrumental": mixture - estimates["vocals"]}


def band_of(config: ModelConfig) -> int | None:
    """Says how many bins a model's masks have; None for all, its own or those that it extends."""
    front, above = config.front, config.output.above
    assert isinstance(front, Spectrogram)
    return None if isinstance(above, int) or front.used_bins == front.all_bins else front.used_bins


def _as_seen(wave: Array, sample_rate: int, config: ModelConfig) -> Array:
    """A song's waveform at the model's rate, as the channels that the model sees."""
    wave = _resampled(wave, sample_rate, config.sample_rate)
    return mid_side(wave) if config.is_mid_side and len(wave) == 2 else wave


def _as_heard(wave: Array, sample_rate: int, config: ModelConfig, samples: int) -> Array:
    """The inverse, of so many samples."""
    wave = left_right(wave) if config.is_mid_side and len(wave) == 2 else wave
    wave = _resampled(wave, config.sample_rate, sample_rate)[:, :samples]
    return np.pad(wave, ((0, 0), (0, samples - wave.shape[1])))


def _resampled(wave: Array, from_rate: int, to_rate: int) -> Array:
    resampler = StreamingResampler(from_rate, to_rate, len(wave))
    return np.concatenate((resampler.push(wave), resampler.finish()), axis=1) if from_rate != to_rate else wave

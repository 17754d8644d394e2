"""What every separator is measured against: the worst that counts, what needs no training, and what a mask can reach.

All take and give waveforms (channels, samples); the instrumental is the rest of the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.config import AudioConfig
from ft.dsp import StreamingResampler, istft, left_right, magnitude, mid_side, stft
from ft.stems import STEMS

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


def silence(mixture: Array) -> dict[str, Array]:
    """Silence for both stems."""
    return dict.fromkeys(STEMS, np.zeros_like(mixture))


def the_mixture(mixture: Array) -> dict[str, Array]:
    """The mixture for both stems."""
    return dict.fromkeys(STEMS, mixture)


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
    audio: AudioConfig,
    kind: Literal["ratio", "phase"] = "ratio",
) -> dict[str, Array]:
    """Stems by the mask that knows the truth, at a model's own STFT, band and stereo: the ceiling of such models.

    Args:
        stems: the true `vocals` and `instrumental`.
        audio: the model's; above `audio.bins` the mask is nothing unless the model extends its own to there.
        kind: `ratio` is |V| / (|V| + |I|); `phase` is Re(V / X) cut to 0..1, the best real mask of that range (Erdogan
            et al., "Phase-sensitive and recognition-boosted speech separation", 2015).
    """
    waves = {"mixture": mixture, **{stem: stems[stem] for stem in STEMS}}
    seen = {name: _as_seen(wave, sample_rate, audio) for name, wave in waves.items()}
    specs = {name: stft(wave, audio.n_fft, audio.hop_length) for name, wave in seen.items()}
    if kind == "ratio":
        size = {stem: magnitude(specs[stem]) for stem in STEMS}
        mask = size["vocals"] / np.maximum(size["vocals"] + size["instrumental"], _TINY)
    else:
        power = np.square(magnitude(specs["mixture"]))
        mask = np.clip((specs["vocals"] * specs["mixture"].conj()).real / np.maximum(power, _TINY**2), 0, 1)
    if not audio.extend_mask:
        mask[:, audio.bins :] = 0
    vocals = istft(mask * specs["mixture"], audio.n_fft, audio.hop_length, seen["mixture"].shape[1])
    vocals = _as_heard(vocals, sample_rate, audio, mixture.shape[1])
    return {"vocals": vocals, "instrumental": mixture - vocals}


def _as_seen(wave: Array, sample_rate: int, audio: AudioConfig) -> Array:
    """A song's waveform at the model's rate, as the channels that the model sees."""
    wave = _resampled(wave, sample_rate, audio.sample_rate)
    return mid_side(wave) if _is_mid_side(wave, audio) else wave


def _as_heard(wave: Array, sample_rate: int, audio: AudioConfig, samples: int) -> Array:
    """The inverse, of so many samples."""
    wave = left_right(wave) if _is_mid_side(wave, audio) else wave
    wave = _resampled(wave, audio.sample_rate, sample_rate)[:, :samples]
    return np.pad(wave, ((0, 0), (0, samples - wave.shape[1])))


def _is_mid_side(wave: Array, audio: AudioConfig) -> bool:
    return audio.stereo == "mid-side" and len(wave) == 2


def _resampled(wave: Array, from_rate: int, to_rate: int) -> Array:
    resampler = StreamingResampler(from_rate, to_rate, len(wave))
    return np.concatenate((resampler.push(wave), resampler.finish()), axis=1) if from_rate != to_rate else wave

"""Turns sources into WAV files, from which a random segment is read without decoding the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

from ft.errors import AudioError
from ft.files import atomic_write

SAMPLE_RATE = 44_100


def read(path: Path) -> np.ndarray:
    """Gives the file at 44.1 kHz, `(samples, channels)` float32."""
    try:
        waveform, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: no readable audio ({error}); expected Ogg, Opus or WAV.") from error
    return soxr.resample(waveform, sample_rate, SAMPLE_RATE) if sample_rate != SAMPLE_RATE else waveform


def duration(path: Path) -> float:
    """Seconds of audio in a file."""
    try:
        return float(soundfile.info(path).duration)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: no readable audio ({error}); expected Ogg, Opus or WAV.") from error


def write(waveform: np.ndarray, target: Path, subtype: str = "PCM_16") -> float:
    """Writes a WAV file whole or not at all, and returns the gain that kept an integer file from clipping.

    Args:
        waveform: `(samples, channels)` at 44.1 kHz.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    gain = 1.0 if subtype == "FLOAT" or peak <= 1.0 else 0.999 / peak
    with atomic_write(target) as part:
        soundfile.write(part, waveform * np.float32(gain), SAMPLE_RATE, subtype=subtype, format="WAV")
    return gain


def without_silence(
    waveform: np.ndarray, threshold_db: float = -50.0, longest_seconds: float = 1.0, kept_seconds: float = 0.25
) -> np.ndarray:
    """Gives the waveform without silences longer than `longest_seconds`, so that no random segment of it is empty.

    Silent are blocks of 20 ms whose energy is `threshold_db` below that of the loudest. `kept_seconds` of a silence
    stay at either end, with fades of 5 ms, so that a note or a breath dies away as it did.

    Args:
        waveform: `(samples, channels)` at 44.1 kHz.
    """
    block = SAMPLE_RATE // 50
    blocks = len(waveform) // block
    energy = np.square(waveform[: blocks * block]).reshape(blocks, -1).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max(initial=0.0) * 10 ** (threshold_db / 10))
    if len(loud) == 0:
        return waveform[:0]
    kept = round(kept_seconds * SAMPLE_RATE / block)
    gaps = np.flatnonzero(np.diff(loud) > longest_seconds * SAMPLE_RATE / block)
    starts = np.concatenate([loud[:1], loud[gaps + 1]]) - kept
    ends = np.concatenate([loud[gaps], loud[-1:]]) + 1 + kept
    fade = np.linspace(0, 1, block // 4, dtype=np.float32)[:, None]
    parts = []
    for start, end in zip(starts, ends, strict=True):
        part = waveform[max(start, 0) * block : end * block].copy()
        part[: len(fade)] *= fade
        part[-len(fade) :] *= fade[::-1]
        parts.append(part)
    return np.concatenate(parts)

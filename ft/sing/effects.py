"""What is done to vocals in a studio: a place between the loudspeakers, echo, chorus, plate reverb, compression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Room:
    """Effects of one song; a gain of None is an effect that is not there.

    Attributes:
        ratio: of the compressor, 1 for none.
        slap_db, slap_seconds: one echo (or several, each as much quieter), from one side to the other.
        chorus_db: copies at 15 to 25 ms that waver, left and right.
        plate_db, plate_seconds: energy of the reverberation to that of the dry sound, and its time to fall by 60 dB.
        cutoff_hz: of the high-pass.
    """

    ratio: float = 1.0
    slap_db: float | None = None
    slap_seconds: float = 0.1
    chorus_db: float | None = None
    plate_db: float | None = None
    plate_seconds: float = 1.0
    cutoff_hz: float = 0.0

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Room:
        return cls(
            ratio=float(rng.uniform(1.3, 3)) if rng.random() < 0.5 else 1.0,
            slap_db=float(rng.uniform(-20, -9)) if rng.random() < 0.3 else None,
            slap_seconds=float(rng.uniform(0.07, 0.16) if rng.random() < 0.6 else rng.uniform(0.2, 0.45)),
            chorus_db=float(rng.uniform(-14, -5)) if rng.random() < 0.2 else None,
            plate_db=float(rng.uniform(-24, -9)) if rng.random() < 0.6 else None,
            plate_seconds=float(rng.uniform(0.5, 2.5)),
            cutoff_hz=float(rng.uniform(60, 140)) if rng.random() < 0.6 else 0.0,
        )


def panned(waveform: np.ndarray, pan: float) -> np.ndarray:
    """`(2, samples)` of the same power; -1 is left, 1 is right."""
    angle = (pan + 1) * np.pi / 4
    return np.stack([np.cos(angle) * waveform, np.sin(angle) * waveform]) * np.float32(np.sqrt(2))


def late(waveform: np.ndarray, sample_rate: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Delayed by what wavers between 0 and twice `seconds`, as nobody is twice at the same time."""
    if not seconds:
        return waveform
    knots = int(len(waveform) / sample_rate / 0.4) + 2
    delay = sample_rate * seconds * rng.uniform(0, 2, knots)
    at = np.arange(len(waveform), dtype=np.float64)
    smooth = np.interp(at, np.linspace(0, len(waveform) - 1, knots), delay)
    return np.interp(at - smooth, at, waveform).astype(np.float32)


def compressed(waveform: np.ndarray, sample_rate: int, ratio: float) -> np.ndarray:
    """What is louder than 12 dB below the loudest is made quieter; 5 ms attack, 80 ms release. `(..., samples)`."""
    if ratio == 1:
        return waveform
    hop = sample_rate // 200
    mono = np.abs(waveform.reshape(-1, waveform.shape[-1])).max(axis=0)
    peaks = np.pad(mono, (0, -len(mono) % hop)).reshape(-1, hop).max(axis=1)
    level, followed = 0.0, []
    release = float(np.exp(-0.005 / 0.08))
    for peak in peaks.tolist():
        level = max(peak, level * release)
        followed.append(level)
    over = np.maximum(20 * np.log10(np.array(followed) / max(max(followed), 1e-9) + 1e-9) + 12, 0)
    gain = 10 ** (-over * (1 - 1 / ratio) / 20)
    at = np.arange(waveform.shape[-1]) / hop - 0.5
    return waveform * np.interp(at, np.arange(len(gain)), gain).astype(np.float32)


def produced(waveform: np.ndarray, sample_rate: int, room: Room, rng: np.random.Generator) -> np.ndarray:
    """Gives the effects of `room` on `(2, samples)`; as long as before."""
    waveform = compressed(waveform.astype(np.float32), sample_rate, room.ratio)
    dry = waveform.copy()
    if room.chorus_db is not None:
        copies = [late(waveform[side] * 0.5 + waveform.mean(0) * 0.5, sample_rate, 0.01, rng) for side in (0, 1)]
        shift = round(0.012 * sample_rate)
        dry[:, shift:] += np.float32(10 ** (room.chorus_db / 20)) * np.stack(copies)[:, :-shift]
    if room.slap_db is not None:
        shift = round(room.slap_seconds * sample_rate)
        echo, side = waveform.mean(axis=0), float(rng.uniform(-1, 1))
        for repeat in range(1, 4):
            if repeat * shift < len(echo):
                gain = np.float32(10 ** (repeat * room.slap_db / 20))
                dry[:, repeat * shift :] += gain * panned(echo[: -repeat * shift], side * (-1) ** repeat)
    if room.plate_db is not None or room.cutoff_hz:
        dry = _convolved(dry, _response(sample_rate, room, rng))
    return dry


def _response(sample_rate: int, room: Room, rng: np.random.Generator) -> np.ndarray:
    """`(2, samples)`: the dry sound, and noise that dies away, sooner where it is higher, another left than right."""
    length = round((0.05 + (room.plate_seconds if room.plate_db is not None else 0.1)) * sample_rate)
    response = np.zeros((2, length))
    if room.plate_db is not None:
        seconds = np.arange(length) / sample_rate
        before = round(rng.uniform(0.005, 0.04) * sample_rate)
        edges = (200, 1000, 3500, 8000, 16000)
        spectrum = np.fft.rfft(rng.standard_normal((2, length)))
        frequencies = np.fft.rfftfreq(length, 1 / sample_rate)
        for low, high, share in zip(edges, edges[1:], (1.0, 0.9, 0.6, 0.35), strict=False):
            band = np.fft.irfft(spectrum * ((frequencies >= low) & (frequencies < high)), length)
            response += band * 10 ** (-3 * seconds / (room.plate_seconds * share))
        response = np.roll(response, before, axis=1)
        response[:, :before] = 0
        response *= 10 ** (room.plate_db / 20) / np.sqrt(np.square(response).sum(axis=1, keepdims=True))
    response[:, 0] += 1
    if room.cutoff_hz:
        frequencies = np.fft.rfftfreq(2 * length, 1 / sample_rate)
        slope = frequencies**2 / (frequencies**2 + room.cutoff_hz**2)
        response = np.fft.irfft(np.fft.rfft(response, 2 * length) * slope, 2 * length)[:, :length]
    return response


def _convolved(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    samples = waveform.shape[1]
    size = 1 << (samples + response.shape[1] - 2).bit_length()
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response.astype(np.float32), size)
    return np.fft.irfft(spectrum, size)[:, :samples].astype(np.float32)

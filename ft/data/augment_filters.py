"""Filters of a mixing desk: low-pass, high-pass, shelves and peaks, as a sound engineer turns them.

Second-order sections of R. Bristow-Johnson, "Cookbook formulae for audio EQ biquad filter coefficients" (1998, now a
W3C note), applied as their exact frequency response: one transform there and back, whatever their number.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.data.augment import Waveform, spectrum_of, waveform_of

Kind = Literal["low-pass", "high-pass", "low-shelf", "high-shelf", "peak"]

TAIL_SECONDS = 0.25
"""The response of the lowest high-pass dies away in so much silence behind the sound; else it would come round to the
beginning."""
FREQUENCIES: dict[Kind, tuple[float, float]] = {
    "low-pass": (3000.0, 16000.0),
    "high-pass": (30.0, 300.0),
    "low-shelf": (60.0, 400.0),
    "high-shelf": (1500.0, 8000.0),
    "peak": (150.0, 8000.0),
}
"""Hz, drawn evenly over the logarithm: what leaves most of a voice or an instrument there."""
MOST = 2
"""Sections of one draw."""


def equalise(rng: np.random.Generator, waveform: Waveform, most_db: float, sample_rate: int) -> Waveform:
    """`waveform` (channels, samples) through one or two random sections.

    Args:
        most_db: largest gain or loss of shelves and peaks.
    """
    size = _size(waveform.shape[1] + int(TAIL_SECONDS * sample_rate))
    turn = np.linspace(0, np.pi, size // 2 + 1, dtype=np.float32)  # radians per sample
    response = np.ones(len(turn), np.complex64)
    kinds: list[Kind] = list(FREQUENCIES)
    for _ in range(int(rng.integers(1, MOST + 1))):
        kind = kinds[int(rng.integers(len(kinds)))]
        low, high = FREQUENCIES[kind]
        hz = min(float(np.exp(rng.uniform(np.log(low), np.log(high)))), 0.45 * sample_rate)
        quality = float(rng.uniform(0.5, 2.0)) if kind == "peak" else 2**-0.5
        response *= biquad_response(kind, 2 * np.pi * hz / sample_rate, quality, rng.uniform(-most_db, most_db), turn)
    return waveform_of(spectrum_of(waveform, size) * response, size)[:, : waveform.shape[1]]


def _size(samples: int) -> int:
    """Gives the smallest even number of factors 2, 3 and 5 of a few forms that is not less."""
    shift = max(samples.bit_length() - 4, 1)
    return min(part << shift for part in (8, 9, 10, 12, 15, 16) if part << shift >= samples)


def biquad_response(
    kind: Kind, corner: float, quality: float, gain_db: float, turn: NDArray[np.float32]
) -> NDArray[np.complex64]:
    """Frequency response of one section at the angles `turn`.

    Args:
        corner, turn: radians per sample, 0 to pi.
        quality: Q of the cookbook.
        gain_db: of shelves and peaks; others have none.
    """
    gain = 10 ** (gain_db / 40)
    cosine, alpha = np.cos(corner), np.sin(corner) / (2 * quality)
    root = 2 * np.sqrt(gain) * alpha
    if kind in ("low-pass", "high-pass"):
        sign = 1 if kind == "low-pass" else -1
        b = np.array([(1 - sign * cosine) / 2, sign * (1 - sign * cosine), (1 - sign * cosine) / 2])
        a = np.array([1 + alpha, -2 * cosine, 1 - alpha])
    elif kind == "peak":
        b = np.array([1 + alpha * gain, -2 * cosine, 1 - alpha * gain])
        a = np.array([1 + alpha / gain, -2 * cosine, 1 - alpha / gain])
    else:
        sign = 1 if kind == "low-shelf" else -1
        plus, minus = gain + 1, gain - 1
        b = gain * np.array(
            [
                plus - sign * minus * cosine + root,
                sign * 2 * (minus - sign * plus * cosine),
                plus - sign * minus * cosine - root,
            ]
        )
        a = np.array(
            [
                plus + sign * minus * cosine + root,
                -sign * 2 * (minus + sign * plus * cosine),
                plus + sign * minus * cosine - root,
            ]
        )
    step = np.exp(-1j * turn.astype(np.float64))
    response = (b[0] + step * (b[1] + step * b[2])) / (a[0] + step * (a[1] + step * a[2]))
    return response.astype(np.complex64)

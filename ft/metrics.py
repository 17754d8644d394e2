"""Figures of merit of separated sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_TINY = 1e-10
"""Energy added to both sides, so that silence has a value."""


def sdr(estimate: ArrayLike, target: ArrayLike) -> float:
    """Global signal-to-distortion ratio in dB: ten times the log10 of target energy over error energy.

    Over all channels and samples at once, as in the music demixing challenge of 2021 (Mitsufuji et al.). An estimate of
    silence scores 0.

    >>> sdr([0.0, 0.0], [1.0, -1.0])
    0.0
    >>> round(sdr([0.9, -0.9], [1.0, -1.0]), 3)
    20.0

    Raises:
        ValueError: different shapes.
    """
    estimate, target = np.asarray(estimate), np.asarray(target)
    if estimate.shape != target.shape:
        raise ValueError(f"estimate of shape {estimate.shape}, target of {target.shape}; expected the same")
    error = _energy(np.subtract(target, estimate, dtype=np.float64))
    return float(10 * np.log10((_energy(target) + _TINY) / (error + _TINY)))


def _energy(values: np.ndarray) -> float:
    return float(np.sum(np.square(values, dtype=np.float64)))

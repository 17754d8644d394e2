"""Measures of separation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FLOOR = 1e-12


def sdr(target: NDArray[np.floating], estimate: NDArray[np.floating]) -> float:
    """Global signal-to-distortion ratio in dB: energy of the target over energy of the error.

    The definition of the Sound Demixing Challenge 2021 (Mitsufuji et al. 2022, section 2.3), over the whole song and
    all channels; silence as the estimate scores 0.

    >>> round(sdr(np.ones((1, 4)), np.full((1, 4), 0.9)), 6)
    20.0
    """
    error = np.sum(np.square(target - estimate, dtype=np.float64))
    return float(10 * np.log10((np.sum(np.square(target, dtype=np.float64)) + FLOOR) / (error + FLOOR)))

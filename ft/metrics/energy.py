"""Ratios of energies over a whole song."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TINY = 1e-10
"""Energy added to both sides, so that silence has a value."""
_BLOCK = 1 << 20
"""Samples whose products are held in double precision at once."""


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
    estimate, target = _pair(estimate, target)
    error = _energy(np.subtract(target, estimate, dtype=np.float64))
    return float(10 * np.log10((_energy(target) + _TINY) / (error + _TINY)))


def si_sdr(estimate: ArrayLike, target: ArrayLike) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., "SDR - half-baked or well done?", 2019).

    The target is scaled to be the projection of the estimate onto it, all channels by one factor; then as `sdr`. The
    mean is not removed. Infinite for an estimate that is the target times a number.

    >>> round(si_sdr([0.5, -0.5, 0.05], [1.0, -1.0, 0.0]), 3)
    23.01

    Raises:
        ValueError: different shapes, or an estimate or target of silence, for which there is no such scale.
    """
    estimate, target = _pair(estimate, target)
    own, true = _energy(estimate), _energy(target)
    if own == 0 or true == 0:
        raise ValueError(f"the {'estimate' if own == 0 else 'target'} is silent; SI-SDR takes sound in both")
    scale = _product(estimate, target) / true
    error = _energy(np.subtract(scale * target.astype(np.float64), estimate, dtype=np.float64))
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.float64(scale**2 * true) / error))


def _pair(estimate: ArrayLike, target: ArrayLike) -> tuple[NDArray, NDArray]:
    """Both as arrays. Raises ValueError for different shapes."""
    estimate, target = np.asarray(estimate), np.asarray(target)
    if estimate.shape != target.shape:
        raise ValueError(f"estimate of shape {estimate.shape}, target of {target.shape}; expected the same")
    return estimate, target


def _energy(values: NDArray) -> float:
    return _product(values, values)


def _product(left: NDArray, right: NDArray) -> float:
    """The inner product, summed in double precision."""
    first, second = left.reshape(-1), right.reshape(-1)
    parts = range(0, first.size, _BLOCK)
    return float(sum(_dot(first[at : at + _BLOCK], second[at : at + _BLOCK]) for at in parts))


def _dot(left: NDArray, right: NDArray) -> np.float64:
    return np.sum(np.multiply(left, right, dtype=np.float64))

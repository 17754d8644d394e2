"""Figures of merit of separated sound.

Those of two signals take (estimate, target) of the same shape, usually (channels, samples); those of the BSSEval family
take (references, estimates) of all sources, because what is interference hangs on all of them.
"""

from __future__ import annotations

from ft.metrics.bss import BssReferences, BssScores, BssWindows, bss_eval, bss_eval_v4
from ft.metrics.energy import sdr, si_sdr
from ft.metrics.spectral import bleedless_fullness, l1_freq, log_frequency_l1, mel_levels

__all__ = [
    "BssReferences",
    "BssScores",
    "BssWindows",
    "bleedless_fullness",
    "bss_eval",
    "bss_eval_v4",
    "l1_freq",
    "log_frequency_l1",
    "mel_levels",
    "sdr",
    "si_sdr",
]

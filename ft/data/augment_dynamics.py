"""What mastering does to a mixture: compression and soft clipping, as gains over time.

Both are nonlinear in the mixture, but the gain that they come to, sample by sample, can be applied to each stem: the
stems then still sum to the mixture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ft.data.augment import Waveform, rms

HOP_SECONDS = 0.005
ATTACK_SECONDS, RELEASE_SECONDS = 0.01, 0.15
RATIOS = (2.0, 8.0)
THRESHOLDS_DB = (-6.0, 6.0)
"""Thresholds are relative to the crop's own level."""


def compressor_gain(mixture: Waveform, threshold_db: float, ratio: float, sample_rate: int) -> NDArray[np.float32]:
    """Gain of each sample (samples,), at most 1, of a feed-forward compressor without make-up gain.

    The level is that of short blocks over all channels, the knee is hard, and the gain in dB is smoothed with one time
    constant for attack and one for release: Giannoulis, Massberg and Reiss, "Digital Dynamic Range Compressor Design",
    JAES 60(6), 2012, section 2.

    Args:
        mixture: (channels, samples).
        threshold_db: in dB of the mixture's own RMS.
        ratio: dB of input for one of output above it.
    """
    samples, hop = mixture.shape[1], max(round(HOP_SECONDS * sample_rate), 1)
    level = rms(mixture)
    blocks = -(-samples // hop)
    if level == 0 or blocks < 2:
        return np.ones(samples, np.float32)
    padded = np.pad(mixture, ((0, 0), (0, blocks * hop - samples))).reshape(len(mixture), blocks, hop)
    power = np.einsum("cbs,cbs->b", padded, padded) / (len(mixture) * hop)
    level_db = 10 * np.log10(power / level**2 + 1e-12)
    wanted = (1 / ratio - 1) * np.maximum(level_db - threshold_db, 0)
    attack, release = (math.exp(-HOP_SECONDS / seconds) for seconds in (ATTACK_SECONDS, RELEASE_SECONDS))
    smooth, now = np.empty(blocks), 0.0
    for number, value in enumerate(wanted.tolist()):
        keep = attack if value < now else release
        now = keep * now + (1 - keep) * value
        smooth[number] = now
    gain = 10 ** (smooth / 20)
    return np.interp(np.arange(samples), (np.arange(blocks) + 0.5) * hop, gain).astype(np.float32)


def soft_clip_gain(mixture: Waveform, drive_db: float) -> NDArray[np.float32]:
    """Gain of each sample (channels, samples), at most 1, of tanh applied to the mixture.

    Args:
        drive_db: by how much the largest sample stands above that at which the curve would end; small ones keep their
            level.
    """
    peak = float(np.abs(mixture).max(initial=0))
    if peak == 0:
        return np.ones_like(mixture)
    driven = np.abs(mixture) * np.float32(10 ** (drive_db / 20) / peak)
    return np.where(driven > 1e-3, np.tanh(driven) / np.maximum(driven, 1e-3), 1).astype(np.float32)

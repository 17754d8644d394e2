"""How an exported file compares with PyTorch, by what it takes and computes in: the figures under `ft_gate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from export import verify_waveform
from export.example import Song
from export.gate import judge
from export.limits import limits_of
from export.verify import LIMIT, verify
from ft.config import ModelConfig
from ft.models.frame_transformer import FrameTransformer

Limits = tuple[float | None, float | None]
"""Mask SNR and SDR loss in dB, where they are not the usual ones."""


def compare_masks(
    part: Path, model: FrameTransformer, config: ModelConfig, precision: str, limits: Limits, song: Song | None
) -> dict[str, Any]:
    """The figures of a graph that takes magnitudes; `song` is for lower precisions.

    Raises:
        ExportError: the file does not pass.
    """
    if song is not None:
        return judge(part, model, config, precision, limits_of(precision, *limits), song)
    parities = verify(part, model, config)
    worst = max(parity.distance for parity in parities)
    return {
        "relative_l2": worst,
        "relative_l2_limit": LIMIT,
        "finite": True,
        "shapes": [{"shape": list(parity.shape), "relative_l2": parity.distance} for parity in parities],
        "engines": {f"onnxruntime {onnxruntime.__version__} cpu": {"relative_l2": worst}},
    }


def compare_waveforms(
    part: Path, model: FrameTransformer, config: ModelConfig, precision: str, limits: Limits, song: Song | None
) -> dict[str, Any]:
    """The same for a graph that takes waveforms. Raises ExportError."""
    if song is None:
        return verify_waveform.verify_waveform(part, model, config, verify_waveform.LIMIT)
    allowed = limits_of(precision, *limits)
    figures = verify_waveform.verify_waveform(part, model, config, allowed.mask_snr_db)
    # Its network is judged in PyTorch, since the graph shows no mask.
    return {**judge(None, model, config, precision, allowed, song), **figures}

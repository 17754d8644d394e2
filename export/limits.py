"""The limits of an export: what lower precision may lose, and the opsets. Nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_FILE = 1_900_000_000
"""Bytes of weights above which they lie in a file beside the graph; a protocol buffer ends at 2 GiB."""
NATIVE_OPSET, OLDEST_OPSET = 23, 20
"""Versions of ONNX: attention and rotary embedding are one node each from the first on, Gelu from the second."""


@dataclass(frozen=True)
class Limits:
    """What is let through, both in decibels."""

    snr_db: float
    """At least: energy of what the network gives in float32 over that of the error."""
    sdr_loss_db: float
    """At most: by how much the SDR of a stem of the example falls."""


EQUAL = 1e-5
"""Largest relative L2 distance of float32 from PyTorch; another order of adding gives about 1e-6, and
nearly 1e-5 behind a norm over all samples of a window."""
STEMS_SNR_DB = 80.0
"""Decibels that each stem of a float32 graph with transforms inside has at least; about 120 are usual."""
LIMITS = {"fp16": Limits(45.0, 0.02), "bf16": Limits(30.0, 0.1), "int8": Limits(25.0, 0.2)}


def limits_of(precision: str, snr_db: float | None = None, sdr_loss_db: float | None = None) -> Limits:
    """The usual limits of a precision, with those that are given in their place."""
    usual = LIMITS[precision]
    return Limits(
        usual.snr_db if snr_db is None else snr_db,
        usual.sdr_loss_db if sdr_loss_db is None else sdr_loss_db,
    )

"""Real sound for the tests of objectives: two items of the example song, where somebody sings."""

from __future__ import annotations

import soundfile
import torch
from torch import Tensor

from ft.data.loading import Batch
from ft.files import example_folder

START, SAMPLES = 1079296, 8704


def vocals_and_mixture() -> tuple[Tensor, Tensor]:
    """Two tensors (2 items, 2 channels, 8704 samples)."""
    stems = []
    for name in ("vocals", "mixture"):
        waveform, _ = soundfile.read(
            example_folder() / f"{name}.flac", dtype="float32", start=START, frames=2 * SAMPLES
        )
        stems.append(torch.from_numpy(waveform.reshape(2, SAMPLES, 2)).transpose(1, 2).contiguous())
    return stems[0], stems[1]


def batch_of(vocals: Tensor, mixture: Tensor) -> Batch:
    """A batch of them as workers deliver it."""
    ones = torch.ones(len(mixture))
    return Batch({"instrumental": mixture - vocals, "vocals": vocals}, 0 * ones, ones)

"""Pitch without tempo, and tempo without pitch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ft.data.augment import Waveform, fit


@dataclass(frozen=True)
class Stretch:
    """A change of both; the default changes nothing."""

    tempo: float = 1.0
    """Above 1 is faster."""
    semitones: float = 0.0

    @property
    def changes(self) -> bool:
        return self != Stretch()

    def needed(self, samples: int) -> int:
        """Samples from which `stretch` makes `samples`."""
        return math.ceil(samples * self.tempo)


def stretch(waveform: Waveform, change: Stretch, samples: int, sample_rate: int) -> Waveform:
    """Gives the first `samples` of `waveform` (channels, samples) at another tempo and pitch; silence behind its end.

    By Signalsmith Stretch, which is nonlinear: the stretched sum of two sounds is not the sum of both stretched. Stems
    of one mixture are therefore stretched alone and added.
    """
    from python_stretch.Signalsmith import Stretch as Signalsmith

    stretcher = Signalsmith(0)  # its seed: the same sound gives the same result
    stretcher.preset(waveform.shape[0], float(sample_rate))
    stretcher.setTransposeSemitones(change.semitones)
    stretcher.timeFactor = change.tempo
    return fit(np.asarray(stretcher.process(np.ascontiguousarray(waveform)), np.float32), samples)

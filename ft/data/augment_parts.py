"""The augmentation of a configuration beyond the first set: what is done to each part of a mixture, and to the whole.

The mixture stays the sum of its parts: what is done to a part is done before they are added, gains over time are
applied to all alike, and what a codec adds to the mixture goes to all but the vocals. No random number is drawn for
what is off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import import_module

import numpy as np

from ft.data import augment
from ft.data.augment import Waveform
from ft.data.augment_codec import through_random_codec
from ft.data.augment_dynamics import RATIOS, THRESHOLDS_DB, compressor_gain, soft_clip_gain
from ft.data.augment_filters import equalise
from ft.train_config import Augment

CHOIR_PAN = 0.7
CHOIR_DB = (-9.0, 0.0)
"""Level of the other voices of a choir."""


@dataclass(frozen=True)
class Stretch:
    """A change of tempo and pitch, each without the other; the default changes nothing."""

    tempo: float = 1.0
    """Above 1 is faster."""
    semitones: float = 0.0

    def needed(self, samples: int) -> int:
        """Samples from which `stretch` makes `samples`."""
        return math.ceil(samples * self.tempo)


def stretch(waveform: Waveform, change: Stretch, samples: int, sample_rate: int) -> Waveform:
    """Gives the first `samples` of `waveform` (channels, samples) at another tempo and pitch; silence behind its end.

    By Signalsmith Stretch, which is nonlinear: the stretched sum of two sounds is not the sum of both stretched. Stems
    of one mixture are therefore stretched alone and added.
    """
    if change == Stretch():
        return augment.fit(waveform, samples)
    from python_stretch.Signalsmith import Stretch as Signalsmith

    stretcher = Signalsmith(0)  # its seed: the same sound gives the same result
    stretcher.preset(waveform.shape[0], float(sample_rate))
    stretcher.setTransposeSemitones(change.semitones)
    stretcher.timeFactor = change.tempo
    return augment.fit(np.asarray(stretcher.process(np.ascontiguousarray(waveform)), np.float32), samples)


class Parts:
    """Draws and applies what `options` ask for.

    Args:
        sample_rate: of the waveforms, in Hz.
    Raises:
        ModuleNotFoundError: pitch or tempo are asked for and python-stretch is not installed.
    """

    def __init__(self, options: Augment, sample_rate: int) -> None:
        self.options, self.sample_rate = options, sample_rate
        if self.stretches:
            import_module("python_stretch")  # so that it is missed at the start, not by a worker process

    @property
    def apart(self) -> bool:
        """Whether anything is done to the stems of a real song each for itself."""
        options = self.options
        each = (options.gain, options.swap_channels, options.polarity, options.equaliser, options.codec)
        return any(each) or self.stretches or bool(options.choir) or bool(options.pause)

    @property
    def stretches(self) -> bool:
        return bool(self.options.pitch or self.options.tempo)

    def stretch(self, rng: np.random.Generator) -> Stretch:
        """Gives a change of tempo and pitch, each with its probability."""
        options, tempo, semitones = self.options, 1.0, 0.0
        if chance(rng, options.tempo):
            tempo = 1 + float(rng.uniform(-options.tempo_percent, options.tempo_percent)) / 100
        if chance(rng, options.pitch):
            semitones = float(rng.uniform(-options.pitch_semitones, options.pitch_semitones))
        return Stretch(tempo, semitones)

    def part(self, rng: np.random.Generator, waveform: Waveform) -> Waveform:
        """Vocals or instrumental (channels, samples) with their channels swapped, turned over, filtered and encoded."""
        options = self.options
        if chance(rng, options.swap_channels):
            waveform = waveform[::-1]
        if chance(rng, options.polarity):
            waveform = -waveform
        if chance(rng, options.equaliser):
            waveform = equalise(rng, waveform, options.equaliser_db, self.sample_rate)
        if chance(rng, options.codec):
            waveform = through_random_codec(rng, waveform, self.sample_rate)
        return waveform

    def gain(self, rng: np.random.Generator) -> np.float32:
        """Gives a factor on the level of vocals or instrumental."""
        if not chance(rng, self.options.gain):
            return np.float32(1)
        return np.float32(10 ** (rng.uniform(-self.options.gain_db, self.options.gain_db) / 20))

    def choir(self, rng: np.random.Generator, vocals: Waveform) -> Waveform:
        """Vocals that sing along with themselves: copies a few cents and milliseconds apart, each at its own side.

        The level stays that of the one voice. A copy that is faster ends by as much before the others.
        """
        options = self.options
        if not chance(rng, options.choir):
            return vocals
        samples, total = vocals.shape[1], vocals
        for _ in range(int(rng.integers(1, options.choir_voices + 1))):
            factor = 2 ** (rng.uniform(-options.choir_cents, options.choir_cents) / 1200)
            delay = int(rng.uniform(0, options.choir_ms) / 1000 * self.sample_rate)
            voice = augment.pan(rng, augment.change_speed(vocals, factor, samples), CHOIR_PAN)
            voice = np.pad(voice, ((0, 0), (delay, 0)))[:, :samples]
            total = total + voice * np.float32(10 ** (rng.uniform(*CHOIR_DB) / 20))
        return total * np.float32(augment.rms(vocals) / max(augment.rms(total), 1e-9))

    def widened(self, rng: np.random.Generator, vocals: Waveform) -> Waveform:
        """Vocals that are wider than they were."""
        return augment.widen(rng, vocals, self.sample_rate) if chance(rng, self.options.widen) else vocals

    def paused(self, rng: np.random.Generator, vocals: Waveform) -> Waveform:
        """Vocals that rest for a while."""
        return augment.pause(rng, vocals, self.sample_rate) if chance(rng, self.options.pause) else vocals

    def song(self, rng: np.random.Generator, stems: Mapping[str, Waveform]) -> tuple[dict[str, Waveform], float]:
        """Gives the stems of a real song changed each for itself, and the largest of the gains."""
        gains = {name: self.gain(rng) for name in sorted(stems, key="vocals".__ne__)}
        changed = {}
        for name, gain in gains.items():
            sings = name == "vocals"
            waveform = self.part(rng, self.choir(rng, stems[name]) if sings else stems[name])
            changed[name] = (self.paused(rng, waveform) if sings else waveform) * gain
        return changed, float(max(gains.values()))

    def whole(self, rng: np.random.Generator, stems: dict[str, Waveform]) -> dict[str, Waveform]:
        """Gives the stems as mastering of their mixture and a codec leave them.

        What compression and clipping do to the mixture is done to each by the same gain. The codec is applied to the
        mixture alone and the vocals stay as they are, so that its noise is part of the others, like everything in the
        mixture that is not the voice.
        """
        options = self.options
        if chance(rng, options.compress):
            drawn = rng.uniform(*THRESHOLDS_DB), rng.uniform(*RATIOS)
            gain = compressor_gain(mixed(stems), *drawn, self.sample_rate)
            stems = {name: waveform * gain for name, waveform in stems.items()}
        if chance(rng, options.clip):
            clip = soft_clip_gain(mixed(stems), rng.uniform(0, options.clip_db))
            stems = {name: waveform * clip for name, waveform in stems.items()}
        if chance(rng, options.mixture_codec):
            mixture = mixed(stems)
            others = [name for name in stems if name != "vocals"]
            noise = (through_random_codec(rng, mixture, self.sample_rate) - mixture) / np.float32(len(others))
            stems |= {name: stems[name] + noise for name in others}
        return stems


def mixed(stems: Mapping[str, Waveform]) -> Waveform:
    """Gives the sum of stems."""
    return reduce(np.add, stems.values())


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Says whether something of this probability happens; nothing is drawn for 0."""
    return probability > 0 and float(rng.random()) < probability

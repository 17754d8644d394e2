"""How somebody sings, and the pitch contour that follows from it.

The contour is that of Saitou, Unoki and Akagi (2005, "Development of an F0 control model based on F0 dynamic
characteristics for singing-voice synthesis"): steps with overshoot, vibrato, and fine fluctuation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ft.sing.score import Score
from ft.sing.voice import FRAME_SECONDS


@dataclass(frozen=True)
class Style:
    """How somebody sings; drawn once per song.

    Attributes:
        formants: factor on the frequencies of the envelope.
        onset_hz: natural frequency of the step from note to note.
        damping: below 1 overshoots.
        vibrato_cents, vibrato_hz: how deep and fast the vibrato of long notes is.
        drift_cents: size of slow wandering off the note.
        ring_db: boost around 3 kHz, the singer's formant.
        effort_db: more (or less) above 1 kHz than usual, per octave.
        breath: exponent on aperiodicity, below 1 is breathier.
    """

    formants: float
    onset_hz: float
    damping: float
    vibrato_cents: float
    vibrato_hz: float
    drift_cents: float
    scoop_share: float
    scoop_cents: float
    ring_db: float
    effort_db: float
    breath: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Style:
        tuned = rng.random() < 0.3  # as after pitch correction
        return cls(
            formants=float(np.exp(rng.normal(0, 0.06))),
            onset_hz=float(rng.uniform(8, 14) if tuned else rng.uniform(3.5, 7)),
            damping=float(rng.uniform(0.8, 1.0) if tuned else rng.uniform(0.5, 0.8)),
            vibrato_cents=float(rng.choice([0, 25, 50, 85], p=[0.2, 0.35, 0.3, 0.15]) * rng.uniform(0.7, 1.2)),
            vibrato_hz=float(rng.uniform(4.8, 6.4)),
            drift_cents=float(rng.uniform(1, 4) if tuned else rng.uniform(6, 18)),
            scoop_share=float(rng.uniform(0.1, 0.5)),
            scoop_cents=float(rng.uniform(60, 250)),
            ring_db=float(rng.uniform(0, 5)),
            effort_db=float(rng.normal(0, 1.2)),
            breath=float(rng.uniform(0.6, 1.2)),
        )


def pitch_cents(score: Score, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Cents (100 x MIDI) of each frame."""
    aim = np.zeros(score.frames)
    vibrato = np.zeros(score.frames)
    extra = np.zeros(score.frames)
    before = 0
    for start, end, cents in score.notes:
        aim[before:end] = cents  # a rest before a note aims at the note
        before = end
        length = (end - start) * FRAME_SECONDS
        seconds = np.arange(end - start) * FRAME_SECONDS
        if start in score.starts or rng.random() < style.scoop_share:
            extra[start:end] -= style.scoop_cents * rng.uniform(0.3, 1.2) * np.exp(-seconds / rng.uniform(0.04, 0.1))
        if length > 0.35 and style.vibrato_cents:
            delay = rng.uniform(0.12, 0.35)
            rise = np.clip((seconds - delay) / 0.3, 0, 1)
            rate = style.vibrato_hz * (1 + 0.04 * _wander(len(seconds), 0.3, rng))
            phase = 2 * np.pi * (np.cumsum(rate) * FRAME_SECONDS + rng.random())
            vibrato[start:end] = style.vibrato_cents * rng.uniform(0.6, 1.2) * rise * np.sin(phase)
        if length > 0.5 and rng.random() < 0.12:  # a fall at the end
            extra[start:end] -= 250 * np.clip((seconds - length + 0.15) / 0.15, 0, 1) ** 2
    aim[before:] = aim[before - 1] if before else 0
    moved = _second_order(aim, style.onset_hz, style.damping)
    drift = style.drift_cents * _wander(score.frames, 0.4, rng)
    fine = 3.0 * _wander(score.frames, 0.02, rng)
    return moved + vibrato + extra + drift + fine


def _wander(frames: int, memory_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit variance that forgets within `memory_seconds`."""
    keep = float(np.exp(-FRAME_SECONDS / memory_seconds))
    noise = rng.standard_normal(frames) * np.sqrt(1 - keep**2)
    out = np.empty(frames)
    value = float(rng.standard_normal())
    for index in range(frames):
        value = keep * value + noise[index]
        out[index] = value
    return out


def _second_order(aim: np.ndarray, hz: float, damping: float) -> np.ndarray:
    omega = 2 * np.pi * hz
    out = np.empty(len(aim))
    value, speed = float(aim[0]), 0.0
    steps = 4  # of 1.25 ms, for stability
    for index, target in enumerate(aim):
        for _ in range(steps):
            speed += FRAME_SECONDS / steps * (omega**2 * (target - value) - 2 * damping * omega * speed)
            value += FRAME_SECONDS / steps * speed
        out[index] = value
    return out

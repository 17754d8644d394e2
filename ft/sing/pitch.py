"""The pitch contour that follows from a score and a style.

The contour is that of Saitou, Unoki and Akagi (2005, "Development of an F0 control model based on F0 dynamic
characteristics for singing-voice synthesis"): steps with overshoot, vibrato, and fine fluctuation.
"""

from __future__ import annotations

import numpy as np

from ft.sing.score import Score
from ft.sing.style import Style
from ft.sing.voice import FRAME_SECONDS


def pitch_cents(score: Score, style: Style, rng: np.random.Generator, chord: int | None = None) -> np.ndarray:
    """Cents (100 x MIDI) of each frame.

    Args:
        chord: which of the notes' other pitches is sung instead of the melody.
    """
    aim = np.zeros(score.frames)
    vibrato = np.zeros(score.frames)
    extra = np.zeros(score.frames)
    before = 0
    for note in score.notes:
        start, end = note.start, note.end
        cents = note.cents if chord is None else note.chord[chord]
        aim[before:end] = cents  # a rest before a note aims at the note
        before = end
        length = (end - start) * FRAME_SECONDS
        seconds = np.arange(end - start) * FRAME_SECONDS
        if start in score.starts or rng.random() < style.scoop_share:
            extra[start:end] -= style.scoop_cents * rng.uniform(0.3, 1.2) * np.exp(-seconds / rng.uniform(0.04, 0.1))
        if length > 0.35 and style.vibrato_cents:
            delay = rng.uniform(0.12, 0.35)
            rise = np.clip((seconds - delay) / 0.3, 0, 1)
            rate = style.vibrato_hz * (1 + 0.05 * wander(len(seconds), 0.3, rng))
            phase = 2 * np.pi * (np.cumsum(rate) * FRAME_SECONDS + rng.random())
            depth = style.vibrato_cents * rng.uniform(0.6, 1.2) * (1 + 0.2 * wander(len(seconds), 0.4, rng))
            vibrato[start:end] = depth * rise * np.sin(phase)
        if length > 0.5 and rng.random() < 0.12:  # a fall at the end
            extra[start:end] -= 250 * np.clip((seconds - length + 0.15) / 0.15, 0, 1) ** 2
    aim[before:] = aim[before - 1] if before else 0
    moved = _second_order(aim, style.onset_hz, style.damping)
    drift = style.drift_cents * wander(score.frames, 0.4, rng)
    fine = 3.0 * wander(score.frames, 0.02, rng) + style.jitter_cents * rng.standard_normal(score.frames)
    return moved + vibrato + extra + drift + fine


def wander(frames: int, memory_seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit variance that forgets within `memory_seconds`."""
    keep = float(np.exp(-FRAME_SECONDS / memory_seconds))
    value = float(rng.standard_normal())
    out = []
    for noise in (rng.standard_normal(frames) * np.sqrt(1 - keep**2)).tolist():  # lists: faster than arrays here
        value = keep * value + noise
        out.append(value)
    return np.array(out)


def _second_order(aim: np.ndarray, hz: float, damping: float) -> np.ndarray:
    omega = 2 * np.pi * hz
    steps = 4  # of 1.25 ms, for stability
    period = FRAME_SECONDS / steps
    value, speed = float(aim[0]), 0.0
    out = []
    for target in aim.tolist():  # lists: faster than arrays here
        for _ in range(steps):
            speed += period * (omega**2 * (target - value) - 2 * damping * omega * speed)
            value += period * speed
        out.append(value)
    return np.array(out)

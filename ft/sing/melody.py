"""Random melodies with the habits of songs: scales, steps more than leaps, phrases that breathe and come back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
}
# Rhythms of one or two beats, and how often they are drawn.
RHYTHMS = ((1.0,), (0.5, 0.5), (1.5, 0.5), (2.0,), (0.5, 1.0, 0.5), (0.75, 0.25), (0.5, 0.25, 0.25), (1 / 3,) * 3)
RHYTHM_WEIGHTS = np.array([0.26, 0.26, 0.12, 0.12, 0.08, 0.06, 0.06, 0.04])
STEPS = np.arange(-4, 5)
STEP_WEIGHTS = np.array([0.02, 0.04, 0.10, 0.24, 0.20, 0.24, 0.10, 0.04, 0.02])
REACH_SEMITONES = 10


@dataclass(frozen=True)
class Note:
    """`pitch` in semitones (MIDI, 69 = 440 Hz). A note that is no `syllable` is sung on the syllable before it."""

    pitch: float
    seconds: float
    syllable: bool = True


@dataclass(frozen=True)
class Phrase:
    """Notes sung in one breath, and the rest after them."""

    notes: tuple[Note, ...]
    rest_seconds: float


def phrases(rng: np.random.Generator, centre: float) -> Iterator[Phrase]:
    """Endless phrases of one song around `centre` (MIDI): one tempo, one scale, phrases of which some return."""
    beat = 60.0 / rng.uniform(66, 140)
    pace = rng.uniform(0.5, 1.0)  # some songs have many words
    scale = SCALES[str(rng.choice(list(SCALES)))]
    root = round(centre) - int(rng.integers(0, 12))
    middle = int(np.argmin([abs(_pitch(root, scale, degree) - centre) for degree in range(-14, 28)])) - 14
    lines = [_line(rng, int(rng.integers(5, 13)), middle, len(scale)) for _ in range(3)]
    while True:
        line = lines[int(rng.choice(3, p=[0.5, 0.3, 0.2]))]
        if rng.random() < 0.5:
            line = _varied(rng, line)
        notes = []
        for index, (degree, beats) in enumerate(line):
            seconds = beats * beat * pace
            # A short note after another is now and then sung on the same syllable.
            syllable = index == 0 or seconds > 0.4 or rng.random() > 0.2
            notes.append(Note(_pitch(root, scale, degree), seconds, syllable))
        last = notes[-1]
        notes[-1] = replace(last, seconds=max(last.seconds, rng.uniform(0.3, 1.8)))
        yield Phrase(tuple(notes), max(0.25, beat * float(rng.choice([0.5, 1.0, 2.0, 3.0], p=[0.3, 0.35, 0.2, 0.15]))))


def _pitch(root: int, scale: tuple[int, ...], degree: int) -> float:
    octave, step = divmod(degree, len(scale))
    return float(root + 12 * octave + scale[step])


def _line(rng: np.random.Generator, notes: int, middle: int, size: int) -> list[tuple[int, float]]:
    """Scale degrees and beats of a phrase that rises, falls, and ends on the root, third or fifth."""
    rhythm: list[float] = []
    while len(rhythm) < notes:
        rhythm += RHYTHMS[int(rng.choice(len(RHYTHMS), p=RHYTHM_WEIGHTS))]
    degree = middle + int(rng.integers(-2, 3))
    reach = round(REACH_SEMITONES * size / 12)
    line = []
    for index, beats in enumerate(rhythm):
        line.append((degree, beats))
        arc = 0.6 if index < len(rhythm) / 2 else -0.6
        weights = STEP_WEIGHTS * np.exp(STEPS * (0.25 * arc - 0.12 * (degree - middle)))
        degree += int(rng.choice(STEPS, p=weights / weights.sum()))
        degree = int(np.clip(degree, middle - reach, middle + reach))
    final = line[-1][0]
    rest_points = (0, 2, 4) if size == 7 else (0, 2, 3)
    nearest = min(range(final - size, final + size + 1), key=lambda d: (d % size not in rest_points, abs(d - final)))
    line[-1] = (nearest, line[-1][1])
    return line


def _varied(rng: np.random.Generator, line: list[tuple[int, float]]) -> list[tuple[int, float]]:
    moved = rng.random(len(line)) < 0.25
    moved[-1] = False
    return [
        (degree + int(rng.choice([-1, 1])) * int(move), beats)
        for (degree, beats), move in zip(line, moved, strict=True)
    ]

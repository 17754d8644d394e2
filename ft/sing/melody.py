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
# Rhythms of spoken verses, in beats: nearly every half beat has a syllable.
VERSE_RHYTHMS = ((0.5, 0.5), (0.25,) * 4, (0.5, 0.25, 0.25), (0.75, 0.25), (1 / 3,) * 3, (1.0,))
VERSE_WEIGHTS = np.array([0.32, 0.22, 0.18, 0.12, 0.10, 0.06])
VERSE_STEPS = np.exp(-1.2 * np.abs(STEPS))
# What may be sung along with a note, in degrees of the scale from it: thirds, a fourth below, octaves.
CHORD = (2, -2, -3, 7, -7)


@dataclass(frozen=True)
class Note:
    """`pitch` in semitones (MIDI, 69 = 440 Hz). A note that is no `syllable` is sung on the syllable before it.

    Attributes:
        chord: pitches of the same scale for other singers, one for each interval of `CHORD`.
        beat: whether it falls on a beat, and so is stressed.
    """

    pitch: float
    seconds: float
    syllable: bool = True
    chord: tuple[float, ...] = ()
    beat: bool = False


@dataclass(frozen=True)
class Phrase:
    """Notes sung in one breath, and the rest after them."""

    notes: tuple[Note, ...]
    rest_seconds: float


def phrases(rng: np.random.Generator, centre: float, verse: bool = False) -> Iterator[Phrase]:
    """Endless phrases of one song around `centre` (MIDI): one tempo, one scale, phrases of which some return.

    Args:
        verse: rhythmic speech: short notes of nearly the same pitch.
    """
    beat = 60.0 / rng.uniform(66, 140)
    pace = rng.uniform(0.75, 1.1) if verse else rng.uniform(0.5, 1.0)  # some songs have many words
    airy = rng.uniform(0.5, 1.8)  # and some leave time between them
    scale = SCALES[str(rng.choice(list(SCALES)))]
    root = round(centre) - int(rng.integers(0, 12))
    middle = int(np.argmin([abs(_pitch(root, scale, degree) - centre) for degree in range(-14, 28)])) - 14
    sizes = (9, 21) if verse else (4, 13)
    lines = [_line(rng, int(rng.integers(*sizes)), middle, len(scale), verse) for _ in range(3)]
    while True:
        line = lines[int(rng.choice(3, p=[0.5, 0.3, 0.2]))]
        if rng.random() < 0.5:
            line = _varied(rng, line)
        notes = []
        time = 0.0
        for index, (degree, beats) in enumerate(line):
            seconds = beats * beat * pace
            # A short note after another is now and then sung on the same syllable.
            syllable = index == 0 or seconds > 0.4 or rng.random() > (0.02 if verse else 0.2)
            around = [degree + (step if abs(step) < 7 else step // 7 * len(scale)) for step in CHORD]
            chord = tuple(_pitch(root, scale, other) for other in around)
            notes.append(Note(_pitch(root, scale, degree), seconds, syllable, chord, time % 1 < 0.1))
            time += beats
        if not verse and rng.random() < 0.15:
            notes = _with_run(rng, notes, root, scale)
        last = notes[-1]
        notes[-1] = replace(last, seconds=max(last.seconds, rng.uniform(0.3, 0.5 if verse else 1.8)))
        pause = beat * float(rng.choice([0.5, 1.0, 2.0, 3.0], p=[0.3, 0.35, 0.2, 0.15]))
        yield Phrase(tuple(notes), min(max(0.25, airy * pause), 2.5))


def _with_run(rng: np.random.Generator, notes: list[Note], root: int, scale: tuple[int, ...]) -> list[Note]:
    """Gives the longest note broken into a run down (or up) the scale on one syllable, as singers ornament it."""
    at = max(range(len(notes)), key=lambda index: notes[index].seconds)
    note = notes[at]
    steps = int(rng.integers(3, 6))
    each = rng.uniform(0.09, 0.16)
    if note.seconds < 0.3 + steps * each:
        return notes
    ladder = sorted(root + 12 * octave + step for octave in range(-3, 5) for step in scale)
    place = int(np.argmin([abs(pitch - note.pitch) for pitch in ladder]))
    way = int(rng.choice([-1, -1, 1]))
    held = replace(note, seconds=note.seconds - steps * each)
    run = [
        replace(note, pitch=float(ladder[place + way * step]), seconds=each, syllable=False, beat=False)
        for step in range(1, steps + 1)
    ]
    return [*notes[:at], held, *run, *notes[at + 1 :]]


def _pitch(root: int, scale: tuple[int, ...], degree: int) -> float:
    octave, step = divmod(degree, len(scale))
    return float(root + 12 * octave + scale[step])


def _line(rng: np.random.Generator, notes: int, middle: int, size: int, verse: bool) -> list[tuple[int, float]]:
    """Scale degrees and beats of a phrase that rises, falls, and ends on the root, third or fifth."""
    rhythm: list[float] = []
    while len(rhythm) < notes:
        if verse:
            rhythm += VERSE_RHYTHMS[int(rng.choice(len(VERSE_RHYTHMS), p=VERSE_WEIGHTS))]
        else:
            rhythm += RHYTHMS[int(rng.choice(len(RHYTHMS), p=RHYTHM_WEIGHTS))]
    degree = middle + int(rng.integers(-2, 3))
    reach = round(REACH_SEMITONES * size / 12)
    line = []
    for index, beats in enumerate(rhythm):
        line.append((degree, beats))
        arc = 0.6 if index < len(rhythm) / 2 else -0.6
        weights = (VERSE_STEPS if verse else STEP_WEIGHTS) * np.exp(STEPS * (0.25 * arc - 0.12 * (degree - middle)))
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

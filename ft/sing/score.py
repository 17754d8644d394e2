"""What is to be sung: which frame of the recording when, how loud, and which pitch is aimed at.

Vowels start on the beat and are held by wandering slowly through the steady part of what was spoken; consonants keep
their length and come before the beat.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ft.sing.melody import Note, phrases
from ft.sing.voice import FRAME_SECONDS, Syllable, Voice

EDGE_FRAMES = 6
SHORTEST_VOWEL_SECONDS = 0.07
MOST_GAIN_DB = 8.0


@dataclass
class Score:
    """What is to be sung, frame by frame: where in the recording, how loud, and which pitch is aimed at."""

    source: list[np.ndarray] = field(default_factory=list)  # frame of the recording, NaN in rests
    level: list[np.ndarray] = field(default_factory=list)  # dB
    frames: int = 0
    notes: list[tuple[int, int, float]] = field(default_factory=list)  # first frame, end, cents (100 x MIDI)
    starts: list[int] = field(default_factory=list)  # the first frame of the first note of each phrase
    rests: list[tuple[int, int]] = field(default_factory=list)  # first frame, end

    def add(self, source: np.ndarray, level: float) -> None:
        self.source.append(source)
        self.level.append(np.full(len(source), level))
        self.frames += len(source)


def write_score(voice: Voice, seconds: float, centre: float, rng: np.random.Generator) -> Score:
    """Sets the syllables of a voice to random phrases around `centre` (MIDI), at least `seconds` of them."""
    score = Score()
    score.add(np.full(20, np.nan), 0.0)
    syllables = voice.syllables
    loudness = np.array([_loudness(voice, syllable) for syllable in syllables])
    gains = np.clip(np.median(loudness) - loudness, -MOST_GAIN_DB, MOST_GAIN_DB)
    index = int(rng.integers(len(syllables)))
    lengths = np.array([s.nucleus_end - s.nucleus_start for s in syllables])
    for phrase in phrases(rng, centre):
        if score.frames * FRAME_SECONDS >= seconds:
            break
        groups = _groups(phrase.notes)
        first = len(score.notes)
        swell = rng.uniform(-3, 3)
        for number, notes in enumerate(groups):
            # Words stay in order; a long note prefers the longer vowel of the next three.
            ahead = [(index + step) % len(syllables) for step in range(3)]
            wanted = sum(note.seconds for note in notes) > 0.7
            index = max(ahead, key=lambda i: lengths[i]) if wanted else ahead[0]
            syllable = syllables[index]
            following = syllables[(index + 1) % len(syllables)]
            last = number == len(groups) - 1
            place = number / max(len(groups) - 1, 1)
            level = gains[index] + swell * (place - 0.5) + rng.normal(0, 1.2)
            _add_syllable(score, syllable, notes, level, 0 if last else _onset(following), rng)
            index = (index + 1) % len(syllables)
        score.starts.append(score.notes[first][0])
        rest = round(phrase.rest_seconds / FRAME_SECONDS)
        score.rests.append((score.frames, score.frames + rest))
        score.add(np.full(rest, np.nan), 0.0)
    return score


def _groups(notes: tuple[Note, ...]) -> list[list[Note]]:
    groups: list[list[Note]] = []
    for note in notes:
        if note.syllable or not groups:
            groups.append([])
        groups[-1].append(note)
    return groups


def _onset(syllable: Syllable) -> int:
    return syllable.nucleus_start - syllable.start


def _loudness(voice: Voice, syllable: Syllable) -> float:
    nucleus = voice.envelope[syllable.nucleus_start : syllable.nucleus_end].mean(axis=1)
    return float(10 * np.log10(np.median(nucleus) + 1e-16))


def _add_syllable(
    score: Score, syllable: Syllable, notes: list[Note], level: float, next_onset: int, rng: np.random.Generator
) -> None:
    score.add(np.arange(syllable.start, syllable.nucleus_start, dtype=float), level)
    beats = [round(note.seconds / FRAME_SECONDS) for note in notes]
    coda = syllable.end - syllable.nucleus_end
    shortest = round(SHORTEST_VOWEL_SECONDS / FRAME_SECONDS)
    if sum(beats) - coda - next_onset < shortest:
        coda = max(0, min(coda, sum(beats) - next_onset - shortest))
    vowel = max(sum(beats) - coda - next_onset, shortest)
    begin = score.frames
    for position, (note, frames) in enumerate(zip(notes, beats, strict=True)):
        end = begin + frames if position + 1 < len(notes) else score.frames + vowel + coda
        score.notes.append((begin, max(end, begin + 1), 100 * note.pitch))
        begin = max(end, begin + 1)
    score.add(held_frames(syllable, vowel, rng), level)
    score.add(np.arange(syllable.nucleus_end, syllable.nucleus_end + coda, dtype=float), level)


def held_frames(syllable: Syllable, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Where in the recording each frame of a vowel comes from: in at its pace, a slow wander, out at its pace."""
    start, end = syllable.nucleus_start, syllable.nucleus_end - 1
    spoken = end - start + 1
    if frames <= spoken * 1.3:
        return np.linspace(start, end, frames)
    edge = min(EDGE_FRAMES, spoken // 4)
    middle = frames - 2 * edge
    reach = max(1.0, 0.2 * (spoken - 2 * edge))
    time = np.arange(middle)
    wander = sum(np.sin(2 * np.pi * (time / rng.uniform(40, 220) + rng.random())) for _ in range(3)) / 3
    approach = min(16, middle // 4)
    into = np.clip(time / max(approach, 1), 0, 1)
    out = np.clip((middle - 1 - time) / max(2 * approach, 1), 0, 1)
    at = syllable.centre + reach * wander
    at = (start + edge) * (1 - into) + at * into
    at = (end - edge) * (1 - out) + at * out
    at = np.clip(at, start, end)
    return np.concatenate([start + np.arange(edge), at, end - np.arange(edge)[::-1]])

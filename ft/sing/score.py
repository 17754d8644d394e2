"""What is to be sung: which frame of the recording when, how loud, and which pitch is aimed at.

Vowels start on the beat and are held by wandering slowly through the steady part of what was recorded; consonants keep
their length and come before the beat.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ft.sing.melody import Note, phrases
from ft.sing.style import Style
from ft.sing.voice import FRAME_SECONDS, Syllable, Voice

EDGE_FRAMES = 6
SHORTEST_VOWEL_SECONDS = 0.07
MOST_GAIN_DB = 8.0
FREE_SHIFT_SEMITONES = 1.5


@dataclass(frozen=True)
class SungNote:
    """Frames `start` to `end`, the pitch aimed at in cents (100 x MIDI), and those of others who sing along."""

    start: int
    end: int
    cents: float
    chord: tuple[float, ...] = ()


@dataclass
class Score:
    """What is to be sung, frame by frame: where in the recording, how loud, and which pitch is aimed at."""

    source: list[np.ndarray] = field(default_factory=list)  # frame of the recording, NaN in rests
    level: list[np.ndarray] = field(default_factory=list)  # dB
    frames: int = 0
    notes: list[SungNote] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the first frame of the first note of each phrase
    rests: list[tuple[int, int]] = field(default_factory=list)  # first frame, end

    def add(self, source: np.ndarray, level: float) -> None:
        self.source.append(source)
        self.level.append(np.full(len(source), level))
        self.frames += len(source)


def write_score(
    voice: Voice, seconds: float, centre: float, style: Style, rng: np.random.Generator, near: float = 0.0
) -> Score:
    """Sets the syllables of a voice to random phrases around `centre` (MIDI), at least `seconds` of them.

    Args:
        near: how much it matters that a syllable was recorded near the pitch that it is to be sung at: 0 for speech,
            whose words stay in order, 1 for recordings of single sung notes.
    """
    score = Score()
    score.add(np.full(20, np.nan), 0.0)
    chooser = _Chooser(voice, near, rng)
    for phrase in phrases(rng, centre, style.mode == "verse"):
        if score.frames * FRAME_SECONDS >= seconds:
            break
        groups = _groups(phrase.notes)
        first = len(score.notes)
        swell = rng.uniform(-1, 1) * style.dynamics_db
        chosen = [chooser.next(notes) for notes in groups]
        for number, notes in enumerate(groups):
            place = number / max(len(groups) - 1, 1)
            level = chooser.gains_db[chosen[number]] + swell * (place - 0.5) + rng.normal(0, 0.4 * style.dynamics_db)
            level += 0.4 * style.dynamics_db * notes[0].beat
            following = voice.syllables[chosen[number + 1]] if number + 1 < len(groups) else None
            onset = following.nucleus_start - following.start if following else 0
            _add_syllable(score, voice.syllables[chosen[number]], notes, level, onset, rng)
        score.starts.append(score.notes[first].start)
        rest = round(phrase.rest_seconds / FRAME_SECONDS)
        score.rests.append((score.frames, score.frames + rest))
        score.add(np.full(rest, np.nan), 0.0)
    return score


class _Chooser:
    """Chooses syllables: in order, or near in pitch; long ones for long notes; those with a hiss a little oftener."""

    def __init__(self, voice: Voice, near: float, rng: np.random.Generator) -> None:
        syllables = voice.syllables
        self.near, self.rng = near, rng
        self.pitches = np.array([_pitch(voice, syllable) for syllable in syllables])
        self.seconds = np.array([(s.nucleus_end - s.nucleus_start) * FRAME_SECONDS for s in syllables])
        self.hiss = np.array([_unvoiced_seconds(voice, syllable) > 0.06 for syllable in syllables])
        loudness = np.array([_loudness(voice, syllable) for syllable in syllables])
        self.gains_db = np.clip(np.median(loudness) - loudness, -MOST_GAIN_DB, MOST_GAIN_DB)
        self.used = np.full(len(syllables), -1000)
        self.count = 0
        self.after = int(rng.integers(len(syllables)))

    def next(self, notes: list[Note]) -> int:
        """Gives the syllable for a group of notes."""
        steps = (np.arange(len(self.pitches)) - self.after) % len(self.pitches)
        cost = np.minimum(steps, 8) * (0.5 if self.near else 1.0)
        cost = cost + self.near * 2.0 * np.maximum(np.abs(self.pitches - notes[0].pitch) - FREE_SHIFT_SEMITONES, 0)
        wanted = min(sum(note.seconds for note in notes), 0.7)
        cost += np.clip(wanted - self.seconds, 0, 0.5) * 4 - 1.2 * self.hiss
        cost += 3.0 * (self.count - self.used < 5) + self.rng.uniform(0, 1.0, len(cost))
        index = int(np.argmin(cost))
        self.count += 1
        self.used[index] = self.count
        self.after = (index + 1) % len(cost)
        return index


def _groups(notes: tuple[Note, ...]) -> list[list[Note]]:
    groups: list[list[Note]] = []
    for note in notes:
        if note.syllable or not groups:
            groups.append([])
        groups[-1].append(note)
    return groups


def _pitch(voice: Voice, syllable: Syllable) -> float:
    """Median pitch of the nucleus, MIDI."""
    f0 = voice.f0[syllable.nucleus_start : syllable.nucleus_end]
    return float(12 * np.log2(np.median(f0[f0 > 0]) / 440) + 69) if (f0 > 0).any() else 60.0


def _unvoiced_seconds(voice: Voice, syllable: Syllable) -> float:
    return float((voice.f0[syllable.start : syllable.end] == 0).sum() * FRAME_SECONDS)


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
        end = max(end, begin + 1)
        score.notes.append(SungNote(begin, end, 100 * note.pitch, tuple(100 * pitch for pitch in note.chord)))
        begin = end
    score.add(held_frames(syllable, vowel, rng), level)
    score.add(np.arange(syllable.nucleus_end, syllable.nucleus_end + coda, dtype=float), level)


def held_frames(syllable: Syllable, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Says where in the recording each frame of a vowel comes from: in at its pace, a slow wander, out at its pace."""
    start, end = syllable.nucleus_start, syllable.nucleus_end - 1
    spoken = end - start + 1
    if frames <= spoken * 1.3:
        return np.linspace(start, end, frames)
    edge = min(EDGE_FRAMES, spoken // 4)
    middle = frames - 2 * edge
    reach = max(1.0, 0.25 * (spoken - 2 * edge))
    time = np.arange(middle)
    wander = sum(np.sin(2 * np.pi * (time / rng.uniform(25, 160) + rng.random())) for _ in range(3)) / 3
    approach = min(16, middle // 4)
    into = np.clip(time / max(approach, 1), 0, 1)
    out = np.clip((middle - 1 - time) / max(2 * approach, 1), 0, 1)
    at = syllable.centre + reach * wander
    at = (start + edge) * (1 - into) + at * into
    at = (end - edge) * (1 - out) + at * out
    at = np.clip(at, start, end)
    return np.concatenate([start + np.arange(edge), at, end - np.arange(edge)[::-1]])

"""Music rendered from MIDI files, part by part, so that its stems are exact."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ft.errors import AudioError
from ft.library.recipes import Written, save
from ft.library.sound import SAMPLE_RATE

PEAK = 0.89
TAIL_DB = -66.0
# General MIDI, counted from 0: basses; and choirs, voices, "lead 6 (voice)" and "pad 4 (choir)", which are left out, as
# nothing of an instrumental may sound like a voice.
BASSES = range(32, 40)
VOICES = (52, 53, 54, 85, 91)
STEMS = ("drums", "bass", "other")
INSTALL = 'pip install "frame-transformer[train]"'


def missing() -> str | None:
    """Gives what is missing to render MIDI files, in one line; None where nothing is."""
    if importlib.util.find_spec("symusic") is None:
        return f"symusic is not installed ({INSTALL})"
    return None


def render(library: Path, folder: str, file: Path, soundfont: Path, source: str, licence: str) -> list[Written]:
    """A song and its stems: `<folder>/<song>.wav` and `train/stems/<last of folder>/<song>/{drums,bass,other}.wav`.

    The song is the sum of its stems, of which silent ones are left out. Tracks of voices are left out of all.

    Raises:
        AudioError: no MIDI file.
    """
    from symusic import Score

    try:
        score: Any = Score(str(file))
    except (RuntimeError, ValueError) as error:
        raise AudioError(f"{file}: no readable MIDI file ({error}).") from error
    stems = {}
    for stem in STEMS:
        part = score.copy()
        part.tracks = [track for track in score.tracks if track.notes and _stem(track) == stem]
        if part.tracks:
            stems[stem] = np.asarray(_synthesizer(soundfont).render(part, stereo=True)).T
    if not stems:
        return []
    samples = max(map(len, stems.values()))
    stems = {name: np.pad(stem, ((0, samples - len(stem)), (0, 0))) for name, stem in stems.items()}
    song = np.sum(list(stems.values()), axis=0)
    sounding = np.flatnonzero(np.abs(song).max(axis=1) > np.abs(song).max() * 10 ** (TAIL_DB / 20))
    ends = slice(int(sounding[0]), int(sounding[-1]) + 1)
    gain = np.float32(PEAK / max(np.abs(wave).max() for wave in (song, *stems.values())))
    beside = f"train/stems/{Path(folder).name}/{file.stem}"
    written = [save(library, f"{folder}/{file.stem}.wav", gain * song[ends], source, licence)]
    return written + [
        save(library, f"{beside}/{name}.wav", gain * stem[ends], source, licence) for name, stem in stems.items()
    ]


def _stem(track: Any) -> str | None:
    if track.is_drum:
        return "drums"
    if track.program in VOICES:
        return None
    return "bass" if track.program in BASSES else "other"


@cache
def _synthesizer(soundfont: Path) -> Any:
    from symusic import Synthesizer

    return Synthesizer(str(soundfont), SAMPLE_RATE, 0)

"""Songs from a recording: who sings what, one song after another."""

from __future__ import annotations

import numpy as np

from ft.sing.effects import Room, late, panned, produced
from ft.sing.score import write_score
from ft.sing.style import Style, draw_parts
from ft.sing.throat import breaths, render
from ft.sing.voice import Voice, analyse

PEAK = 0.89
SONG_SECONDS = 30.0
# How much of a recording a singer knows, and how many songs are made of it: taking it apart is what takes time.
SPOKEN_SECONDS, SUNG_SECONDS, SONGS_PER_EXCERPT = 14.0, 35.0, 3
LEAST_SYLLABLES, LEAST_TREBLE_DB = 8, -48.0


def sing_songs(recording: np.ndarray, sample_rate: int, seconds: float, seed: int, sung: bool = False) -> np.ndarray:
    """Half a minute of one song after another, each with its own style, from parts of a mono recording.

    Args:
        sung: the recording is of single sung notes, which are used near their own pitch.

    Returns:
        `(samples, 2)` float32, about `seconds` long, peak 0.89; empty where the recording cannot be sung with, because
        it has too few syllables or next to nothing above 8 kHz.
    """
    if _treble_db(recording, sample_rate) < LEAST_TREBLE_DB:
        return np.zeros((0, 2), np.float32)
    rng = np.random.default_rng(seed)
    songs = max(1, round(seconds / SONG_SECONDS))
    excerpt = min(round((SUNG_SECONDS if sung else SPOKEN_SECONDS) * sample_rate), len(recording))
    voice, made = None, []
    for song in range(songs):
        if voice is None or song % SONGS_PER_EXCERPT == 0:
            start = int(rng.integers(0, len(recording) - excerpt + 1))
            voice = analyse(recording[start : start + excerpt], sample_rate)
        made.append(sing(voice, seconds / songs, rng, sung))
    return np.concatenate(made)


def sing(voice: Voice, seconds: float, rng: np.random.Generator, sung: bool = False) -> np.ndarray:
    """One song of at least `seconds` with the syllables of `voice`; empty where it has fewer than eight.

    Returns:
        `(samples, 2)` float32 at the rate of the voice, peak 0.89.
    """
    if len(voice.syllables) < LEAST_SYLLABLES:
        return np.zeros((0, 2), np.float32)
    style = Style.drawn(rng)
    score = write_score(voice, seconds, _centre(voice, style, rng, sung), style, rng, 1.0 if sung else 0.0)
    mixed = np.zeros((2, 0), np.float32)
    for index, part in enumerate(draw_parts(style, rng)):
        waveform = render(voice, score, part.style, rng, part.chord)
        if index == 0:
            waveform += breaths(score, len(waveform), voice.sample_rate, rng) * np.sqrt(np.mean(waveform**2))
        waveform = late(waveform.astype(np.float32), voice.sample_rate, part.late_seconds, rng)
        placed = panned(waveform, part.pan) * np.float32(10 ** (part.gain_db / 20))
        mixed = placed if mixed.shape[1] == 0 else mixed + placed
    out = produced(mixed, voice.sample_rate, Room.drawn(rng), rng)
    return (out * np.float32(PEAK / np.abs(out).max())).T.astype(np.float32)


def _centre(voice: Voice, style: Style, rng: np.random.Generator, sung: bool) -> float:
    """Gives the pitch (MIDI) that the melody lies around: what a speaker sings comfortably, or where the notes are."""
    pitches = 12 * np.log2(voice.f0[voice.f0 > 0] / 440) + 69
    if sung:
        low, high = np.percentile(pitches, [20, 80])
        return float(np.clip(rng.uniform(low - 1, high + 2), 45, 76))
    spoken = float(np.median(pitches)) + 12 * np.log2(style.formants)
    if style.mode == "verse":
        return float(np.clip(spoken + rng.uniform(-1, 5), 41, 70))
    return float(np.clip(spoken + rng.uniform(2, 11 if spoken < 52 else 8), 45, 76))


def _treble_db(recording: np.ndarray, sample_rate: int) -> float:
    """Gives the share of 8 to 12 kHz in the energy of a recording."""
    blocks = recording[: len(recording) // 2048 * 2048].reshape(-1, 2048)
    power = np.square(np.abs(np.fft.rfft(blocks * np.hanning(2048)))).sum(axis=0)
    frequencies = np.fft.rfftfreq(2048, 1 / sample_rate)
    treble = power[(frequencies >= 8000) & (frequencies < 12000)].sum()
    return float(10 * np.log10((treble + 1e-20) / (power.sum() + 1e-20)))

"""Singing made from recordings: melodies, syllables, the pitch that is sung, and what stays of the recording."""

from __future__ import annotations

import importlib.util
from itertools import islice

import numpy as np
import pytest

from ft.errors import DataError
from ft.library import sound
from ft.sing import singer
from ft.sing.melody import SCALES, phrases
from ft.sing.pitch import Style, pitch_cents
from ft.sing.score import Score, held_frames
from ft.sing.voice import FRAME_SECONDS, Syllable, Voice, analyse, find_syllables, load_world

RATE = 44100
STEADY = Style(
    formants=1.0,
    onset_hz=6.0,
    damping=0.7,
    vibrato_cents=0.0,
    vibrato_hz=5.5,
    drift_cents=0.0,
    scoop_share=0.0,
    scoop_cents=0.0,
    ring_db=0.0,
    effort_db=0.0,
    breath=1.0,
)


@pytest.fixture(scope="module")
def recording(example) -> np.ndarray:
    return sound.read(example / "vocals.flac")[: 16 * RATE].mean(axis=1)


@pytest.fixture(scope="module")
def voice(recording) -> Voice:
    return analyse(recording, RATE)


def share_held(waveform: np.ndarray) -> float:
    """The share of voiced 100 ms whose pitch stays within a semitone."""
    f0, _ = load_world().harvest(waveform.astype(float), RATE, f0_floor=65.0, f0_ceil=1000.0, frame_period=5.0)
    frames = f0[: len(f0) // 20 * 20].reshape(-1, 20)
    cents = 1200 * np.log2(frames[(frames > 0).all(axis=1)])
    return float((np.ptp(cents, axis=1) < 100).mean())


def treble_db(waveform: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return 10 * np.log10(power[(frequencies > 5000) & (frequencies < 12000)].sum() / power.sum())


@pytest.mark.parametrize("seed", range(5))
def test_melodies_stay_in_a_scale_and_near_their_centre(seed):
    song = list(islice(phrases(np.random.default_rng(seed), 60.0), 20))
    assert song == list(islice(phrases(np.random.default_rng(seed), 60.0), 20))
    pitches = np.array([note.pitch for phrase in song for note in phrase.notes])
    assert np.abs(pitches - 60).max() <= 19
    assert abs(np.median(pitches) - 60) < 6
    classes = {int(pitch) % 12 for pitch in pitches}
    assert any(classes <= {(root + step) % 12 for step in scale} for root in range(12) for scale in SCALES.values())
    steps = np.concatenate([np.abs(np.diff([note.pitch for note in phrase.notes])) for phrase in song])
    assert (steps <= 4).mean() > 0.6
    for phrase in song:
        assert phrase.notes[0].syllable
        assert phrase.rest_seconds >= 0.25
        assert all(note.seconds > 0 for note in phrase.notes)
        assert phrase.notes[-1].seconds >= 0.3


def test_different_seeds_give_different_songs():
    first, second = (list(islice(phrases(np.random.default_rng(seed), 60.0), 3)) for seed in (0, 1))
    assert first != second


def test_finds_the_syllables_that_are_there():
    frames, bins = 300, 1025
    f0, level = np.zeros(frames), np.full(frames, 1e-10)
    for start in (40, 120, 220):
        f0[start : start + 40] = 150
        level[start : start + 40] = np.hanning(42)[1:-1] + 0.2
        level[start - 15 : start] = 1e-3  # a consonant before each
    envelope = np.repeat(level[:, None], bins, axis=1)
    found = find_syllables(f0, envelope, RATE)
    assert len(found) == 3
    for syllable, start in zip(found, (40, 120, 220), strict=True):
        assert syllable.start == pytest.approx(start - 15, abs=3)
        assert start <= syllable.nucleus_start < syllable.centre < syllable.nucleus_end <= start + 40
    assert find_syllables(np.zeros(frames), envelope, RATE) == []


@pytest.mark.parametrize("frames", [10, 38, 60, 200, 600])
def test_a_vowel_is_held_within_itself(frames):
    syllable = Syllable(start=90, nucleus_start=100, centre=118, nucleus_end=140, end=150)
    at = held_frames(syllable, frames, np.random.default_rng(0))
    assert len(at) == frames
    assert at[0] == 100
    assert at[-1] == 139
    assert at.min() >= 100
    assert at.max() <= 139
    if frames > 60:  # the long middle lies around the steady frame, and moves
        middle = at[40:-40]
        assert abs(middle.mean() - 118) < 6
        assert middle.std() > 0.3
        assert np.abs(np.diff(middle)).max() < 1.5


def test_the_pitch_arrives_at_each_note_and_overshoots():
    score = Score(frames=400, notes=[(0, 200, 6000.0), (200, 400, 6700.0)], starts=[])
    cents = pitch_cents(score, STEADY, np.random.default_rng(0))
    assert len(cents) == 400
    assert cents[100:200].mean() == pytest.approx(6000, abs=10)
    assert cents[320:360].mean() == pytest.approx(6700, abs=10)
    assert cents[200:260].max() > 6715
    assert np.abs(np.diff(cents)).max() < 250


def test_vibrato_sets_in_late_and_has_its_rate():
    style = Style(**{**vars(STEADY), "vibrato_cents": 60.0})
    score = Score(frames=600, notes=[(0, 600, 6000.0)], starts=[])
    cents = pitch_cents(score, style, np.random.default_rng(0)) - 6000
    assert np.abs(cents[:20]).max() < 15
    tail = cents[200:] - cents[200:].mean()
    spectrum = np.abs(np.fft.rfft(tail * np.hanning(len(tail))))
    assert np.fft.rfftfreq(len(tail), FRAME_SECONDS)[spectrum.argmax()] == pytest.approx(5.5, abs=0.6)
    assert 20 < np.ptp(tail) / 2 < 90


@pytest.fixture(scope="module")
def sung(voice) -> np.ndarray:
    return singer.sing(voice, 15, np.random.default_rng(3))


def test_sings_longer_than_it_was_asked_to_and_without_faults(sung):
    assert sung.dtype == np.float32
    assert 15 <= len(sung) / RATE < 30
    assert np.isfinite(sung).all()
    assert np.abs(sung).max() == pytest.approx(singer.PEAK, abs=1e-3)
    sharp = np.abs(np.diff(sung, 2))
    blocks = sharp[: len(sharp) // 441 * 441].reshape(-1, 441).max(axis=1)
    clicks = blocks[1:-1] > 8 * np.maximum(blocks[:-2], blocks[2:]) + 0.02
    assert not clicks.any()


def test_sings_the_same_again_and_something_else_with_another_seed(voice, sung):
    np.testing.assert_array_equal(singer.sing(voice, 15, np.random.default_rng(3)), sung)
    other = singer.sing(voice, 15, np.random.default_rng(4))
    samples = min(len(sung), len(other))
    assert np.abs(other[:samples] - sung[:samples]).max() > 0.1


def test_holds_its_pitch_as_singers_do(sung):
    assert 0.43 <= share_held(sung) <= 0.96


def test_is_no_duller_than_what_it_was_made_from(recording, sung):
    assert treble_db(sung) > treble_db(recording) - 6
    assert -32 < treble_db(sung) < -8


def test_there_are_pauses(sung):
    level = np.sqrt(np.square(sung[: len(sung) // 2205 * 2205]).reshape(-1, 2205).mean(axis=1))
    assert 0.03 < (level < 0.01 * level.max()).mean() < 0.5


def test_a_hiss_is_the_recording_itself():
    frames = 200
    samples = round(frames * FRAME_SECONDS * RATE)
    waveform = np.random.default_rng(0).normal(0, 0.1, samples)
    voice = Voice(waveform, RATE, np.zeros(frames), np.ones((frames, 5)), np.ones((frames, 5)), ())
    source = np.concatenate([np.full(50, np.nan), np.arange(20.0, 80.0), np.full(50, 100.0)])
    level = np.full(len(source), 6.0)
    resynthesis = np.zeros(round(len(source) * FRAME_SECONDS * RATE))
    out = singer.with_consonants(resynthesis, voice, source, level, np.zeros(len(source), bool))
    first, origin = round(50 * FRAME_SECONDS * RATE), round(20 * FRAME_SECONDS * RATE)
    inner = slice(round(0.01 * RATE), round(0.28 * RATE))
    np.testing.assert_allclose(out[first:][inner], waveform[origin:][inner] * 10 ** (6 / 20), rtol=1e-6)
    assert np.all(out[:first] == 0)
    assert np.all(out[round(111 * FRAME_SECONDS * RATE) :] == 0)  # held frames are resynthesised
    voiced = singer.with_consonants(resynthesis, voice, source, level, np.ones(len(source), bool))
    assert np.all(voiced == 0)


def test_songs_come_one_after_another(recording, monkeypatch):
    drawn = []
    monkeypatch.setattr(singer, "analyse", lambda part, rate: len(part) / rate)
    monkeypatch.setattr(
        singer, "sing", lambda part, seconds, rng: drawn.append((part, seconds)) or np.ones(7, np.float32)
    )
    assert len(singer.sing_songs(np.tile(recording, 2), RATE, 90, 0)) == 21
    assert drawn == [(25.0, 30.0)] * 3


def test_a_voice_that_cannot_sing_is_left_out(recording):
    spectrum = np.fft.rfft(recording)
    spectrum[np.fft.rfftfreq(len(recording), 1 / RATE) > 7000] = 0
    assert len(singer.sing_songs(np.fft.irfft(spectrum), RATE, 10, 0)) == 0
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    assert len(singer.sing_songs(noise, RATE, 10, 0)) == 0


def test_without_pyworld_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r'pyworld.*pip install "frame-transformer\[train\]"'):
        load_world()

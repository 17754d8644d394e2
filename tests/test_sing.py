"""Singing made from recordings: melodies, syllables, the pitch that is sung, and what stays of the recording."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from ft.errors import DataError
from ft.library import sound
from ft.sing import effects, singer, throat
from ft.sing.melody import CHORD, SCALES, phrases
from ft.sing.pitch import pitch_cents
from ft.sing.score import Score, SungNote, held_frames, write_score
from ft.sing.style import MODES, Style, draw_parts
from ft.sing.voice import FRAME_SECONDS, Syllable, Voice, analyse, find_pitch, find_syllables, load_world

RATE = 44100
STEADY = Style()


@pytest.fixture(scope="module")
def recording(example) -> np.ndarray:
    return sound.read(example / "vocals.flac")[: 16 * RATE].mean(axis=1)


@pytest.fixture(scope="module")
def voice(recording) -> Voice:
    return analyse(recording, RATE)


@pytest.mark.parametrize("seed", range(5))
def test_melodies_stay_in_a_scale_and_near_their_centre(seed):
    song, again, other = (list(islice(phrases(np.random.default_rng(s), 60.0), 20)) for s in (seed, seed, seed + 1))
    assert song == again != other
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
    score = Score(frames=400, notes=[SungNote(0, 200, 6000.0), SungNote(200, 400, 6700.0)], starts=[])
    cents = pitch_cents(score, STEADY, np.random.default_rng(0))
    assert len(cents) == 400
    assert cents[100:200].mean() == pytest.approx(6000, abs=10)
    assert cents[320:360].mean() == pytest.approx(6700, abs=10)
    assert cents[200:260].max() > 6715
    assert np.abs(np.diff(cents)).max() < 250


def test_vibrato_sets_in_late_and_has_its_rate():
    style = Style(**{**vars(STEADY), "vibrato_cents": 60.0})
    score = Score(frames=600, notes=[SungNote(0, 600, 6000.0)], starts=[])
    cents = pitch_cents(score, style, np.random.default_rng(0)) - 6000
    assert np.abs(cents[:20]).max() < 15
    tail = cents[200:] - cents[200:].mean()
    spectrum = np.abs(np.fft.rfft(tail * np.hanning(len(tail))))
    assert np.fft.rfftfreq(len(tail), FRAME_SECONDS)[spectrum.argmax()] == pytest.approx(5.5, abs=0.6)
    assert 20 < np.ptp(tail) / 2 < 90


@pytest.fixture(scope="module")
def score(voice) -> Score:
    return write_score(voice, 12, 58.0, STEADY, np.random.default_rng(3))


@pytest.fixture(scope="module")
def dry(voice, score) -> np.ndarray:
    return throat.render(voice, score, STEADY, np.random.default_rng(3))


def pitch_of(waveform: np.ndarray) -> np.ndarray:
    f0, _, aperiodicity = find_pitch(waveform.astype(float), RATE, 1000.0)
    return np.where(aperiodicity[:, 1] < 0.5, f0, 0.0)


def test_each_held_note_has_the_pitch_of_the_score(score, dry):
    f0 = pitch_of(dry)
    off = []
    for note in score.notes:
        middle = f0[(note.start + note.end) // 2 : note.end - 8]
        if note.end - note.start > 50 and (middle > 0).sum() > 5:
            off.append(abs(1200 * np.log2(np.median(middle[middle > 0]) / 440) + 6900 - note.cents))
    assert len(off) > 5
    assert np.median(off) < 15
    assert np.percentile(off, 80) < 40


def test_another_part_sings_its_own_notes_of_the_scale(voice, score):
    f0 = pitch_of(throat.render(voice, score, STEADY, np.random.default_rng(3), CHORD.index(7)))
    notes = [note for note in score.notes if note.end - note.start > 60]
    octaves = [np.log2(np.median(at[at > 0]) / 440) * 1200 + 6900 - note.cents
               for note in notes if ((at := f0[note.start + 30 : note.end - 10]) > 0).sum() > 10]  # fmt: skip
    assert np.median(octaves) == pytest.approx(1200, abs=20)


def test_rests_are_silent_and_notes_are_not(score, dry):
    loud = np.sqrt(np.mean(dry**2))
    for start, end in score.rests:
        rest = dry[round((start * FRAME_SECONDS + 0.06) * RATE) : round((end * FRAME_SECONDS - 0.03) * RATE)]
        assert np.sqrt(np.mean(rest**2)) < 0.01 * loud
    assert 0.03 < sum(end - start for start, end in score.rests) / score.frames < 0.5


def test_consonants_are_kept(voice, score):
    """What has no pitch in the syllables is sung as long as it was recorded."""
    source = np.concatenate(score.source)
    lengths, used = [], []
    for syllable in voice.syllables:
        frames = np.arange(syllable.start, syllable.nucleus_start)
        unvoiced = frames[voice.f0[frames] == 0]
        if len(unvoiced) > 4:
            times = (np.round(source[~np.isnan(source)]) == unvoiced[0]).sum()
            lengths += [len(unvoiced)] * times
            used += [np.isin(np.round(source[~np.isnan(source)]), unvoiced).sum() / times] * bool(times)
    assert lengths
    assert np.mean(used) == pytest.approx(np.mean(lengths), rel=0.5)


def test_a_sung_note_is_chosen_near_its_pitch():
    """From a chromatic scale, each note takes a syllable within a few semitones; speech keeps its order instead."""
    frames = 40 * 36
    pitches = np.repeat(45.0 + np.arange(36), 40)
    f0 = 440 * 2 ** ((pitches - 69) / 12)
    syllables = tuple(Syllable(40 * n, 40 * n + 5, 40 * n + 18, 40 * n + 35, 40 * n + 40) for n in range(36))
    scale = Voice(np.zeros(frames * 220), RATE, f0, np.ones((frames, 5)), np.zeros((frames, 5)), syllables)
    shifts = {}
    for near in (0.0, 1.0):
        score = write_score(scale, 20, 60.0, STEADY, np.random.default_rng(1), near)
        at = np.concatenate(score.source)
        recorded = np.array([pitches[int(at[min(note.start + 3, len(at) - 1)])] for note in score.notes])
        shifts[near] = np.median(np.abs(recorded - [note.cents / 100 for note in score.notes]))
    assert shifts[1.0] <= 3
    assert shifts[0.0] > 4


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_sings_without_faults(voice, mode, monkeypatch):
    drawn = Style.drawn(np.random.default_rng(1))
    monkeypatch.setattr(singer.Style, "drawn", lambda rng: replace(drawn, mode=mode))
    sung = singer.sing(voice, 4, np.random.default_rng(3))
    assert sung.dtype == np.float32
    assert 4 <= len(sung) / RATE < 20
    assert sung.shape[1] == 2
    assert np.isfinite(sung).all()
    assert np.abs(sung).max() == pytest.approx(singer.PEAK, abs=1e-3)
    voiced = (pitch_of(sung.mean(axis=1)) > 0).mean()
    assert voiced < 0.2 if mode == "whisper" else voiced > 0.3


@pytest.fixture(scope="module")
def sung(voice) -> np.ndarray:
    return singer.sing(voice, 4, np.random.default_rng(3))


def test_sings_the_same_again_and_something_else_with_another_seed(voice, sung):
    np.testing.assert_array_equal(singer.sing(voice, 4, np.random.default_rng(3)), sung)
    other = singer.sing(voice, 4, np.random.default_rng(4))
    samples = min(len(sung), len(other))
    assert np.abs(other[:samples] - sung[:samples]).max() > 0.1


def test_does_not_click(dry):
    sharp = np.abs(np.diff(dry / np.abs(dry).max(), 2))
    blocks = sharp[: len(sharp) // 441 * 441].reshape(-1, 441).max(axis=1)
    clicks = blocks[1:-1] > 8 * np.maximum(blocks[:-2], blocks[2:]) + 0.04
    assert not clicks.any()


def test_is_as_steady_and_as_bright_as_singing(dry):
    """By the share of voiced 100 ms whose pitch stays within a semitone, and that of 5 to 12 kHz in the energy."""
    f0 = pitch_of(dry)
    frames = f0[: len(f0) // 20 * 20].reshape(-1, 20)
    cents = 1200 * np.log2(frames[(frames > 0).all(axis=1)])
    assert 0.43 <= (np.ptp(cents, axis=1) < 100).mean() <= 0.98
    power, frequencies = np.abs(np.fft.rfft(dry)) ** 2, np.fft.rfftfreq(len(dry), 1 / RATE)
    treble = power[(frequencies > 5000) & (frequencies < 12000)].sum()
    assert -32 < 10 * np.log10(treble / power.sum()) < -8


def test_a_longer_throat_has_lower_formants(voice, score, dry):
    def centre(waveform: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(waveform)) ** 2
        frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
        inside = (frequencies > 300) & (frequencies < 4000)
        return float((frequencies * power)[inside].sum() / power[inside].sum())

    longer, shorter = (
        throat.render(voice, score, replace(STEADY, formants=factor), np.random.default_rng(3))
        for factor in (0.85, 1.2)
    )
    assert centre(longer) < centre(dry) < centre(shorter)


def side_to_mid_db(waveform: np.ndarray) -> float:
    left, right = waveform
    return float(10 * np.log10(np.square(left - right).sum() / np.square(left + right).sum() + 1e-12))


def test_doubles_left_and_right_are_as_wide_as_in_songs(dry):
    rng = np.random.default_rng(0)
    lead = effects.panned(dry, 0.0)
    doubles = [effects.panned(effects.late(dry, RATE, 0.025, rng), pan) for pan in (-0.9, 0.9)]
    assert side_to_mid_db(lead) < -100
    assert -12 < side_to_mid_db(lead + 0.7 * doubles[0] + 0.7 * doubles[1]) < -2
    assert np.square(lead).sum() == pytest.approx(2 * np.square(dry).sum(), rel=1e-4)


def test_effects_keep_the_length_and_the_dry_sound():
    click = np.zeros((2, RATE), np.float32)
    click[:, 1000] = 0.5
    plain = effects.produced(click, RATE, effects.Room(), np.random.default_rng(0))
    np.testing.assert_array_equal(plain, click)
    room = effects.Room(plate_db=-10, plate_seconds=0.8, slap_db=-12, slap_seconds=0.2, chorus_db=-9, cutoff_hz=80)
    wet = effects.produced(click, RATE, room, np.random.default_rng(0))
    assert wet.shape == click.shape
    assert wet[0, 1000] == pytest.approx(0.5, abs=0.05)
    assert np.abs(wet[:, :1000]).max() < 1e-3
    assert np.square(wet[:, 1300:]).sum() / 0.5 == pytest.approx(10 ** (-10 / 10) + 10 ** (-12 / 10), rel=0.8)
    assert side_to_mid_db(wet) > -25


def test_a_compressor_leaves_what_is_quiet():
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 220 * time) * np.where(time < 0.5, 1.0, 0.1)
    out = effects.compressed(tone.astype(np.float32), RATE, 3.0)
    assert np.abs(out[4000:20000]).max() == pytest.approx(10 ** (-8 / 20), rel=0.05)
    np.testing.assert_allclose(out[35000:], tone[35000:], atol=2e-3)


def test_parts_are_drawn_of_every_kind():
    drawn = [draw_parts(STEADY, np.random.default_rng(seed)) for seed in range(60)]
    assert {len(parts) for parts in drawn} >= {1, 2, 3, 4}
    for part in (part for parts in drawn for part in parts):
        assert -1 <= part.pan <= 1
        assert 0.8 <= part.style.formants <= 1.25
        assert part.chord is None or 0 <= part.chord < len(CHORD)


def test_a_hiss_is_the_recording_itself():
    frames = 200
    samples = round(frames * FRAME_SECONDS * RATE)
    waveform = np.random.default_rng(0).normal(0, 0.1, samples)
    voice = Voice(waveform, RATE, np.zeros(frames), np.ones((frames, 5)), np.ones((frames, 5)), ())
    source = np.concatenate([np.full(50, np.nan), np.arange(20.0, 80.0), np.full(50, 100.0)])
    level = np.full(len(source), 6.0)
    resynthesis = np.zeros(round(len(source) * FRAME_SECONDS * RATE))
    out = throat.with_consonants(resynthesis, voice, source, level, np.zeros(len(source), bool))
    first, origin = round(50 * FRAME_SECONDS * RATE), round(20 * FRAME_SECONDS * RATE)
    inner = slice(round(0.01 * RATE), round(0.28 * RATE))
    np.testing.assert_allclose(out[first:][inner], waveform[origin:][inner] * 10 ** (6 / 20), rtol=1e-6)
    assert np.all(out[:first] == 0)
    assert np.all(out[round(111 * FRAME_SECONDS * RATE) :] == 0)  # held frames are resynthesised
    voiced = throat.with_consonants(resynthesis, voice, source, level, np.ones(len(source), bool))
    assert np.all(voiced == 0)


def test_songs_come_one_after_another(recording, monkeypatch):
    drawn = []
    monkeypatch.setattr(singer, "analyse", lambda part, rate: len(part) / rate)
    monkeypatch.setattr(
        singer, "sing", lambda part, seconds, rng, sung: drawn.append((part, seconds)) or np.ones((7, 2), np.float32)
    )
    assert len(singer.sing_songs(np.tile(recording, 3), RATE, 90, 0)) == 21
    assert drawn == [(singer.SPOKEN_SECONDS, 30.0)] * 3
    drawn.clear()
    singer.sing_songs(np.tile(recording, 3), RATE, 90, 0, sung=True)
    assert drawn == [(singer.SUNG_SECONDS, 30.0)] * 3


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

"""Augmentation keeps what it should keep."""

from __future__ import annotations

import numpy as np
import pytest

from ft.data import augment

RATE = 44100


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(int(RATE * seconds)) / RATE
    return np.tile((0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32), (2, 1))


def pitch(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform[0] * np.hanning(waveform.shape[1]), 1 << 18))
    return float(spectrum.argmax()) * RATE / (1 << 18)


@pytest.mark.parametrize("semitones", [-4, 0, 3])
def test_speed_moves_the_pitch(semitones):
    factor = 2 ** (semitones / 12)
    changed = augment.change_speed(tone(440, 2.0), factor, RATE)
    assert changed.shape == (2, RATE) and changed.dtype == np.float32
    assert pitch(changed) == pytest.approx(440 * factor, rel=2e-3)


def test_filter_of_no_spread_changes_nothing():
    noise = np.random.default_rng(0).standard_normal((2, 5000)).astype(np.float32)
    same = augment.random_filter(np.random.default_rng(1), noise, 0.0, RATE)
    assert np.abs(same - noise).max() < 1e-5
    changed = augment.random_filter(np.random.default_rng(1), noise, 6.0, RATE)
    assert np.abs(changed - noise).max() > 0.1 and np.isfinite(changed).all()


def test_reverb_adds_a_tail_that_starts_later():
    click = np.zeros((2, RATE), np.float32)
    click[:, 100] = 1
    wet = augment.reverberate(np.random.default_rng(0), click, RATE)
    assert np.array_equal(wet[:, :100], click[:, :100]) or np.abs(wet[:, :100]).max() < 1e-4
    assert wet[0, 100] == pytest.approx(1, abs=0.3)
    assert augment.rms(wet[:, 2000:10000]) > augment.rms(wet[:, 30000:40000]) > 0


def test_pan_keeps_the_louder_side():
    for seed in range(20):
        moved = augment.pan(np.random.default_rng(seed), tone(100), 0.5)
        peaks = np.abs(moved).max(axis=1)
        assert peaks.max() == pytest.approx(0.5, abs=1e-3) and peaks.min() + 1e-3 >= 0.25


def test_a_widened_voice_keeps_its_middle_and_gets_a_side():
    mono = np.tile(np.random.default_rng(0).standard_normal(RATE).astype(np.float32), (2, 1))
    for seed in range(5):
        wide = augment.widen(np.random.default_rng(seed), mono, RATE)
        np.testing.assert_allclose(wide.mean(axis=0), mono[0], atol=1e-6)
        side = augment.rms(wide[0] - wide[1]) / augment.rms(wide[0] + wide[1])
        assert 10 ** (-21 / 20) < side < 1.05
    assert np.array_equal(augment.widen(np.random.default_rng(0), mono[:1], RATE), mono[:1])


def test_a_pause_is_silent_inside_and_whole_outside():
    shares = []
    for seed in range(30):
        gain = augment.pause(np.random.default_rng(seed), np.ones((2, 3 * RATE), np.float32), RATE)[0]
        assert gain.min() >= 0 and gain.max() <= 1
        assert np.abs(np.diff(gain)).max() < 2 / (augment.PAUSE_FADE_SECONDS * RATE)
        shares.append(np.mean(gain == 0))
    assert 0.2 < np.mean(shares) < 0.6 and max(shares) <= 0.8


@pytest.mark.parametrize("samples", [1, 2, 3, 1000, 132096, 131072])
def test_fast_size_holds_the_samples(samples):
    size = augment.fast_size(samples)
    assert size >= samples and size < 2 * samples + 2

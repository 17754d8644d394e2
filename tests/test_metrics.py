"""Ratios of energies and distances of spectrograms.

Figures named after MSST were computed once on the signals of `pair` by a transcript of its functions
(ZFTurbo/Music-Source-Separation-Training, utils/metrics.py at commit 2127d5e) with PyTorch 2.13, librosa 0.11 and
`amplitude_to_DB` of torchaudio 2.11.
"""

import numpy as np
import pytest
import soundfile

from ft.metrics import bleedless_fullness, l1_freq, log_frequency_l1, mel_levels, sdr, si_sdr
from ft.metrics.spectral import mel_bands

MSST = {
    "vocals": {"sdr": 4.674440, "si_sdr": 3.148701, "l1_freq": 22.161686, "bleedless": 9.728250, "fullness": 29.501101},
    "instrumental": {
        "sdr": 9.488226,
        "si_sdr": 21.008587,
        "l1_freq": 19.508950,
        "bleedless": 13.516336,
        "fullness": 22.867287,
    },
}


@pytest.fixture(scope="module")
def pair(example):
    """Three seconds of each stem in single precision, and an estimate that is scaled, mixed and bent."""
    part = {"start": 441000, "frames": 3 * 44100, "dtype": "float64"}
    vocals, music = (soundfile.read(example / f"{stem}.flac", **part)[0].T for stem in ("vocals", "instrumental"))
    bent = {
        "vocals": np.tanh(3 * (0.8 * vocals + 0.3 * music)) / 3,
        "instrumental": np.tanh(3 * (0.7 * music + 0.1 * np.roll(vocals, 7, axis=1))) / 3,
    }
    true = {"vocals": vocals, "instrumental": music}
    return {stem: (bent[stem].astype(np.float32), true[stem].astype(np.float32)) for stem in true}


@pytest.mark.parametrize("metric", [sdr, si_sdr, l1_freq])
def test_other_shapes_are_refused(metric):
    with pytest.raises(ValueError, match="expected"):
        metric(np.zeros(3), np.zeros((1, 3)))


def test_sdr_of_silence_is_zero_and_that_of_the_truth_finite_however_long_the_signal():
    target = np.ones(3_000_000, np.float32)
    assert sdr(np.zeros_like(target), target) == pytest.approx(0, abs=1e-12)
    assert sdr(0.9 * target, target) == pytest.approx(20, abs=1e-5)
    assert 100 < sdr(target, target) < np.inf
    assert sdr(np.zeros(5), np.zeros(5)) == 0


def test_si_sdr_ignores_the_level_and_sees_what_is_orthogonal():
    rng = np.random.default_rng(0)
    target, noise = rng.standard_normal((2, 2, 5000))
    noise -= target * (noise * target).sum() / (target**2).sum()
    noise *= np.linalg.norm(target) / np.linalg.norm(noise) / 10
    for level in (1, 0.01, -3):
        assert si_sdr(level * (target + noise), target) == pytest.approx(20)
    assert si_sdr(2 * target, target) > 250
    for silent in ((0 * target, target), (target, 0 * target)):
        with pytest.raises(ValueError, match="is silent"):
            si_sdr(*silent)


@pytest.mark.parametrize("stem", MSST)
def test_figures_are_those_of_msst(pair, stem):
    estimate, target = pair[stem]
    bleedless, fullness = bleedless_fullness(*(mel_levels(wave, 44100) for wave in (estimate, target)))
    found = {
        "sdr": sdr(estimate, target),
        "si_sdr": si_sdr(estimate, target),
        "l1_freq": l1_freq(estimate, target),
        "bleedless": bleedless,
        "fullness": fullness,
    }
    # MSST adds 1e-8 to every product of SI-SDR; which tiny differences are above 0 hangs on the rounding of an FFT.
    assert found == pytest.approx(MSST[stem], rel=2e-4)


def test_bleed_and_loss_are_told_apart_in_decibels(pair):
    _, target = pair["vocals"]
    noise = 0.01 * np.random.default_rng(0).standard_normal(target.shape).astype(np.float32)
    true, noisy, half = (mel_levels(wave, 44100) for wave in (target, target + noise, 0.5 * target))
    assert bleedless_fullness(true, true) == (100, 100) and log_frequency_l1(true, true) == 0
    louder, quieter = bleedless_fullness(noisy, true), bleedless_fullness(half, true)
    assert louder[0] < 20 < 40 < louder[1]
    assert quieter == pytest.approx((100, 100 / (1 + 20 * np.log10(2))), rel=0.01)
    assert log_frequency_l1(half, true) == pytest.approx(20 * np.log10(2), rel=0.01)


def test_spectral_distances_take_any_length():
    for samples in (1, 100, 5000):
        wave = np.random.default_rng(0).standard_normal((1, samples)).astype(np.float32)
        assert l1_freq(wave, wave) == 100
        assert 0 < l1_freq(0 * wave, wave) < 100
        assert np.isfinite(bleedless_fullness(mel_levels(0 * wave, 44100), mel_levels(wave, 44100))).all()


def test_mel_bands_are_those_of_librosa():
    """Of `librosa.filters.mel(sr=44100, n_fft=4096, n_mels=512)`, librosa 0.11.0."""
    bands = mel_bands(44100)
    assert bands.shape == (512, 2049)
    assert bands.sum() == pytest.approx(47.536896, rel=1e-6)
    assert bands.max(axis=1)[[0, 100, 511]] == pytest.approx([0.0793980137, 0.1041853651, 0.0055473633], rel=1e-5)
    assert bands[300].sum() == pytest.approx(0.0928897932, rel=1e-5) and bands[511].argmax() == 2032

"""What separators are measured against."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from ft.config import ModelConfig, Output, Spectrogram
from ft.evaluation import baselines
from ft.metrics import sdr
from ft.stems import STEMS

MODEL = ModelConfig(front=Spectrogram(bins=512), output=Output(above=32))


def seen_as(model: ModelConfig, output: Output | None = None, **front) -> ModelConfig:
    return replace(model, front=replace(model.front, **front), output=output or model.output)


@pytest.fixture(scope="module")
def song(example):
    part = {"start": 441000, "frames": 4 * 44100, "dtype": "float32"}
    stems = {stem: soundfile.read(example / f"{stem}.flac", **part)[0].T for stem in STEMS}
    return stems["vocals"] + stems["instrumental"], stems


def test_ideal_masks_are_ceilings_and_keep_the_sum(song):
    mixture, stems = song
    scores = {}
    for kind in ("ratio", "phase"):
        found = baselines.ideal_mask(mixture, stems, 44100, MODEL, kind)
        scores[kind] = sdr(found["vocals"], stems["vocals"])
        assert np.abs(found["vocals"] + found["instrumental"] - mixture).max() < 1e-6
    assert 5 < scores["ratio"] < scores["phase"] < 14
    assert sdr(mixture, stems["vocals"]) < 0


def test_each_part_has_a_mask_of_its_own_beside_the_same_vocals(song):
    mixture, stems = song
    parts = {"drums": np.roll(stems["instrumental"], 5000, axis=1) / 2}
    parts["other"] = stems["instrumental"] - parts["drums"]
    for kind in ("ratio", "phase"):
        found = baselines.ideal_mask(mixture, {**stems, **parts}, 44100, MODEL, kind)
        alone = baselines.ideal_mask(mixture, stems, 44100, MODEL, kind)
        assert all(np.array_equal(found[stem], alone[stem]) for stem in STEMS)
        assert all(sdr(found[stem], part) > sdr(mixture, part) + 1 for stem, part in parts.items())


def test_a_short_window_is_the_models(song):
    mixture, stems = song
    short = seen_as(MODEL, Output(), n_fft=4096, hop_length=256, win_length=1024, bins=None)
    found = baselines.ideal_mask(mixture, stems, 44100, short, "phase")
    assert sdr(found["vocals"], stems["vocals"]) > 8
    assert np.abs(found["vocals"] - baselines.ideal_mask(mixture, stems, 44100, MODEL, "phase")["vocals"]).max() > 0.01


def test_ideal_mask_has_the_band_of_the_model(song):
    mixture, stems = song
    low = baselines.ideal_mask(mixture, stems, 44100, seen_as(MODEL, Output(), bins=32))["vocals"]
    spectrum = np.abs(np.fft.rfft(low.mean(axis=0)))
    border = len(spectrum) * 40 // 1024
    assert spectrum[border:].max() < 3e-3 * spectrum[:border].max()


def test_mid_and_side_get_masks_of_their_own(song):
    mixture, stems = song
    seen = seen_as(MODEL, stereo="mid-side")
    found = baselines.ideal_mask(mixture, stems, 44100, seen)
    mid = {stem: wave.mean(axis=0, keepdims=True) for stem, wave in stems.items()}
    alone = baselines.ideal_mask(mixture.mean(axis=0, keepdims=True), mid, 44100, MODEL)
    assert np.abs(found["vocals"].mean(axis=0) - alone["vocals"][0]).max() < 1e-5
    assert np.abs(found["vocals"] - baselines.ideal_mask(mixture, stems, 44100, MODEL)["vocals"]).max() > 0.01
    mono = baselines.ideal_mask(mixture[:1], {stem: wave[:1] for stem, wave in stems.items()}, 44100, seen)
    assert mono["vocals"].shape == (1, mixture.shape[1])


def test_ideal_mask_works_at_the_rate_of_the_model(song):
    mixture, stems = song
    other = replace(seen_as(MODEL, Output(), bins=1024), sample_rate=22050)
    found = baselines.ideal_mask(mixture, stems, 44100, other)
    assert found["vocals"].shape == mixture.shape
    assert sdr(found["vocals"], stems["vocals"]) > 4


def test_repet_sim_finds_a_voice_over_a_loop():
    rate = 8000
    loop = np.tile(0.3 * np.random.default_rng(0).standard_normal((2, rate)), 12)
    time = np.arange(loop.shape[1]) / rate
    voice = 0.3 * np.sin(2 * np.pi * 600 * time + 3 * np.sin(2 * np.pi * 0.37 * time)) * (time > 5) * (time < 8)
    mixture = (loop + voice).astype(np.float32)
    found = baselines.repet_sim(mixture, rate)
    assert sdr(found["vocals"], np.stack([voice, voice])) > 6
    assert sdr(found["instrumental"], loop) > 12
    assert np.abs(found["vocals"] + found["instrumental"] - mixture).max() < 1e-5


def test_baselines_take_any_length():
    for samples in (1, 100, 3000):
        mixture = np.random.default_rng(0).standard_normal((1, samples)).astype(np.float32)
        stems = dict.fromkeys(STEMS, mixture / 2)
        for found in (
            baselines.repet_sim(mixture, 44100),
            baselines.ideal_mask(mixture, stems, 48000, MODEL),
        ):
            assert all(np.isfinite(found[stem]).all() and found[stem].shape == mixture.shape for stem in found)

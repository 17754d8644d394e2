"""Separation: what goes in comes out, wherever it was cut, at every rate, in mono and stereo, long and short."""

import weakref

import numpy as np
import pytest
from stubs import StubEngine, all_ones, each_frame_alone, noise, streamed, stub_config, with_neighbours

from ft.dsp import istft, magnitude, stft
from ft.errors import AudioError, ConfigError, EngineError
from ft.metrics import sdr
from ft.separate import Separator
from ft.separate.front import Level

RATE = 8000
SHORT = {"segment_seconds": 0.5, "context_seconds": 0.05, "overlap": 0.1}
"""Windows of 125 frames of the stub model, so that a second holds several."""


def music(samples: int, rate: int, channels: int = 2) -> np.ndarray:
    """Tones well inside the band of the stub model."""
    seconds = np.arange(samples) / rate
    tones = [0.2 * np.sin(2 * np.pi * f * seconds + c) for c in range(channels) for f in (330, 440, 550 + 110 * c)]
    return np.stack([sum(tones[3 * c : 3 * c + 3]) for c in range(channels)]).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 2, 31, 32, 33, 64, 1000, 4000, 4001, 20_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_all_ones_mask_returns_the_mixture(samples, channels):
    mixture = noise(samples, channels)
    config = stub_config(extend_mask=1)  # the last bin, which the network does not see, follows the one below
    stems = Separator(StubEngine(all_ones, config), **SHORT).separate(mixture, RATE)
    assert list(stems) == ["vocals", "instrumental"]
    np.testing.assert_allclose(stems["vocals"], mixture, atol=1e-5)
    np.testing.assert_allclose(stems["instrumental"], 0, atol=1e-5)


@pytest.mark.parametrize("settings", [SHORT, {**SHORT, "overlap": 0.0}, {**SHORT, "context_seconds": 0.0}, {}])
@pytest.mark.parametrize("samples", [700, 8000, 30_011])
def test_a_mask_of_each_frame_alone_gives_what_no_windows_give(settings, samples):
    mixture = noise(samples)
    spec = stft(mixture, 64, 32)
    mask = np.zeros(spec.shape, np.float32)
    mask[:, :32] = each_frame_alone(magnitude(spec)[None, :, :32])[0]
    expected = istft(spec * mask, 64, 32, samples)
    stems = Separator(StubEngine(each_frame_alone), **settings).separate(mixture, RATE)
    np.testing.assert_allclose(stems["vocals"], expected, atol=1e-5)


def test_context_hides_the_borders_of_windows():
    mixture = noise(30_000)
    reach = 6
    whole = Separator(StubEngine(with_neighbours(reach)), segment_seconds=60, context_seconds=0).separate(mixture, RATE)
    parts = {}
    for context_frames in (0, reach):
        settings = {**SHORT, "context_seconds": context_frames * 32 / RATE}
        parts[context_frames] = Separator(StubEngine(with_neighbours(reach)), **settings).separate(mixture, RATE)
    np.testing.assert_allclose(parts[reach]["vocals"], whole["vocals"], atol=1e-5)
    assert np.abs(parts[0]["vocals"] - whole["vocals"]).max() > 1e-3  # without context the borders are heard


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 44100])
@pytest.mark.parametrize("normalize", ["track", "window"])
def test_the_result_does_not_depend_on_the_blocks(rate, normalize):
    mixture = noise(rate * 2 + 7)
    separator = Separator(StubEngine(with_neighbours(3), stub_config(normalize=normalize)), **SHORT)
    whole = streamed(separator, mixture, rate, mixture.shape[1])
    for size in (61, 1000, 7001):
        parts = streamed(separator, mixture, rate, size)
        for stem, expected in whole.items():
            np.testing.assert_allclose(parts[stem], expected, atol=1e-5)


def test_blocks_of_one_sample_and_empty_ones():
    mixture = noise(900)
    separator = Separator(StubEngine(with_neighbours(3)), **SHORT)
    expected = separator.separate(mixture, RATE)
    parts = streamed(separator, mixture, RATE, 1)
    np.testing.assert_allclose(parts["vocals"], expected["vocals"], atol=1e-5)
    blocks = [mixture[:, :0], mixture[:, :500], mixture[:, 500:500], mixture[:, 500:]]
    vocals = np.concatenate([part["vocals"] for part in separator.stream(blocks, RATE)], axis=1)
    np.testing.assert_allclose(vocals, expected["vocals"], atol=1e-5)


def test_a_stream_of_nothing_gives_nothing():
    assert list(Separator(StubEngine(all_ones)).stream([], RATE)) == []
    parts = list(Separator(StubEngine(all_ones)).stream([np.zeros((2, 0), np.float32)], RATE))
    assert sum(part["vocals"].shape[1] for part in parts) == 0


@pytest.mark.parametrize("batch_size", [2, 3, 64])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_result_does_not_depend_on_the_batch_size(batch_size, channels):
    mixture = noise(30_000)
    engine = StubEngine(with_neighbours(3), stub_config(channels=channels))
    one = Separator(engine, **SHORT).separate(mixture, RATE)
    alone = engine.frames_run
    many = Separator(engine, **SHORT, batch_size=batch_size).separate(mixture, RATE)
    assert engine.frames_run == 2 * alone  # no window is padded to fill a batch
    assert max(batch.shape[0] for batch in engine.batches) > (2 if channels == 1 else 1)
    np.testing.assert_allclose(many["vocals"], one["vocals"], atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000, 5000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 3, 999, 20_001])
def test_stems_have_the_mixtures_shape_and_sum_to_it_at_every_rate(rate, channels, samples):
    mixture = noise(samples, channels)
    stems = Separator(StubEngine(each_frame_alone), **SHORT).separate(mixture, rate)
    for stem in stems.values():
        assert stem.shape == mixture.shape and stem.dtype == np.float32
    np.testing.assert_allclose(stems["vocals"] + stems["instrumental"], mixture, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 44100, 48000])
def test_resampling_neither_moves_nor_changes_vocals(rate):
    mixture = music(3 * rate, rate) * np.hanning(3 * rate).astype(np.float32)
    stems = Separator(StubEngine(all_ones), **SHORT).separate(mixture, rate)
    assert sdr(stems["vocals"], mixture) > 90


def test_vocals_hold_nothing_above_the_models_band():
    rate = 32_000
    seconds = np.arange(2 * rate) / rate
    low, high = 0.3 * np.sin(2 * np.pi * 440 * seconds), 0.3 * np.sin(2 * np.pi * 9000 * seconds)
    mixture = np.stack([low + high] * 2).astype(np.float32)
    stems = Separator(StubEngine(all_ones), **SHORT).separate(mixture, rate)
    inner = slice(1000, -1000)
    np.testing.assert_allclose(stems["vocals"][0, inner], low[inner], atol=1e-3)
    np.testing.assert_allclose(stems["instrumental"][0, inner], high[inner], atol=1e-3)


def test_mono_stays_mono_and_is_the_same_as_two_equal_channels():
    mono = noise(10_000, 1)
    engine = StubEngine(with_neighbours(3))
    separator = Separator(engine, **SHORT)
    one, two = separator.separate(mono, RATE), separator.separate(np.repeat(mono, 2, axis=0), RATE)
    assert one["vocals"].shape == (1, 10_000)
    assert all(batch.shape[1] == 2 for batch in engine.batches)
    np.testing.assert_allclose(two["vocals"], np.repeat(one["vocals"], 2, axis=0), atol=1e-6)


def test_what_a_stereo_network_makes_of_mono_is_averaged():
    def left_only(batch):
        return np.stack((np.ones_like(batch[:, 0]), np.zeros_like(batch[:, 1])), axis=1)

    mono = noise(10_000, 1)
    stems = Separator(StubEngine(left_only, stub_config(extend_mask=1)), **SHORT).separate(mono, RATE)
    np.testing.assert_allclose(stems["vocals"], mono / 2, atol=1e-5)


def test_a_mono_network_separates_each_channel_of_stereo():
    mixture = noise(10_000)
    separator = Separator(StubEngine(each_frame_alone, stub_config(channels=1)), **SHORT)
    both = separator.separate(mixture, RATE)
    for channel in range(2):
        alone = separator.separate(mixture[channel : channel + 1], RATE)
        np.testing.assert_allclose(both["vocals"][channel], alone["vocals"][0], atol=1e-6)


def tone_above_the_network(samples: int) -> np.ndarray:
    """The highest bin of the stub model's 33 alone, half the sample rate; its network sees 32."""
    signs = np.where(np.arange(samples) % 2, -0.25, 0.25).astype(np.float32)
    return np.stack((signs, signs))


def test_the_mask_is_that_of_the_stem_the_configuration_names():
    mixture = music(10_000, RATE) * np.hanning(10_000).astype(np.float32)
    vocals = Separator(StubEngine(each_frame_alone), **SHORT)
    instrumental = Separator(
        StubEngine(lambda batch: 1 - each_frame_alone(batch), stub_config("instrumental")), **SHORT
    )
    for stem, expected in vocals.separate(mixture, RATE).items():
        np.testing.assert_allclose(instrumental.separate(mixture, RATE)[stem], expected, atol=1e-4)


def test_the_last_bin_is_outside_the_mask_stem_as_in_the_original():
    """Networks of all bins but the last one: its mask is 0, so that it stays with the other stem."""
    above = tone_above_the_network(10_000)
    spectra = {}
    for stem, config in (("vocals", stub_config()), ("instrumental", stub_config("instrumental"))):
        stems = Separator(StubEngine(all_ones, config), **SHORT).separate(above, RATE)
        spectra[stem] = {name: magnitude(stft(stems[name], 64, 32))[:, :, 5:-5] for name in stems}
    np.testing.assert_allclose(spectra["vocals"]["instrumental"], spectra["instrumental"]["vocals"], atol=1e-3)
    assert (spectra["instrumental"]["vocals"][:, 32] > 2 * spectra["instrumental"]["instrumental"][:, 32]).all()


@pytest.mark.parametrize("mask_stem", ["vocals", "instrumental"])
def test_a_network_of_half_the_band_leaves_the_rest_to_the_instrumental(mask_stem):
    seconds = np.arange(RATE) / RATE
    mixture = np.stack([np.sin(2 * np.pi * 3300 * seconds)] * 2).astype(np.float32)
    wide = {"n_fft": 128, "hop_length": 64, "bins": 32, "extend_mask": 0}
    keeps = all_ones if mask_stem == "vocals" else np.zeros_like
    stems = Separator(StubEngine(keeps, stub_config(mask_stem, **wide)), **SHORT).separate(mixture, RATE)
    inner = slice(500, -500)
    np.testing.assert_allclose(stems["vocals"][:, inner], 0, atol=1e-3)
    extended = stub_config(mask_stem, **{**wide, "extend_mask": 4})
    stems = Separator(StubEngine(keeps, extended), **SHORT).separate(mixture, RATE)
    np.testing.assert_allclose(stems["vocals"], mixture, atol=1e-4)


def test_extended_masks_are_the_mean_of_the_highest_bins_of_each_frame_and_channel():
    def highest_bins(batch):
        mask = np.zeros_like(batch)
        mask[:, 0, -1] = 1.0  # of the two highest bins one is 1: a mean of 0.5, in the left channel only
        return mask

    mixture = tone_above_the_network(4000)
    stems = Separator(StubEngine(highest_bins, stub_config(extend_mask=2)), **SHORT).separate(mixture, RATE)
    spec = magnitude(stft(stems["vocals"], 64, 32))[:, 32, 5:-5]
    full = magnitude(stft(mixture, 64, 32))[:, 32, 5:-5]
    np.testing.assert_allclose(spec[1], 0, atol=1e-4)
    assert 0.5 * full.mean() < spec[0].mean() < 0.8 * full.mean()  # half of it and a leak of the bin below


def test_track_scaling_reads_the_peak_of_the_whole_song():
    engine = StubEngine(all_ones, stub_config(normalize="track"))
    mixture = noise(20_000) * np.linspace(0.01, 1, 20_000, dtype=np.float32)
    peak = magnitude(stft(mixture, 64, 32)).max()
    Separator(engine, **SHORT).separate(mixture, RATE)
    assert len(engine.batches) > 3
    first = magnitude(stft(mixture, 64, 32))[:, :32, : engine.batches[0].shape[3]] / peak
    np.testing.assert_allclose(engine.batches[0][0], first, atol=1e-6)
    assert max(batch.max() for batch in engine.batches) <= 1


def test_reading_the_peak_does_not_hold_the_song():
    """At no time are more than three of the blocks alive."""
    alive: list[weakref.ref] = []
    most = 0

    def blocks():
        nonlocal most
        for seed in range(12):
            block = noise(RATE // 4, seed=seed).astype(np.float32)
            alive.append(weakref.ref(block))
            most = max(most, sum(reference() is not None for reference in alive))
            yield block

    separator = Separator(StubEngine(all_ones, stub_config(normalize="track")))
    assert separator.levels(blocks(), RATE)[0].scale > 0
    assert len(alive) == 12 and most <= 3


def test_a_stream_without_a_peak_scales_by_what_came_so_far():
    engine = StubEngine(all_ones, stub_config(normalize="track"))
    mixture = noise(20_000) * np.linspace(
        1, 0.01, 20_000, dtype=np.float32
    )  # loudest first: every window knows the peak
    separator = Separator(engine, **SHORT)
    list(separator.stream([mixture], RATE))
    running = engine.batches[:]
    engine.batches.clear()
    list(separator.stream([mixture], RATE, separator.levels([mixture], RATE)))
    for one, other in zip(running, engine.batches, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    engine.batches.clear()
    list(separator.stream([mixture[:, ::-1]], RATE))
    assert all(batch.max() == pytest.approx(1, abs=0.3) for batch in engine.batches)  # each near its own peak so far


def test_a_given_peak_is_used_and_louder_values_are_clipped():
    engine = StubEngine(all_ones, stub_config(normalize="track"))
    list(Separator(engine, **SHORT).stream([noise(8000)], RATE, [Level(1e-3)]))
    assert all(batch.max() == 1 for batch in engine.batches)


def test_window_scaling_gives_each_window_its_own_peak():
    engine = StubEngine(all_ones)
    mixture = noise(20_000) * np.linspace(0.01, 1, 20_000, dtype=np.float32)
    spec = magnitude(stft(mixture, 64, 32))
    Separator(engine, **SHORT).separate(mixture, RATE)
    frames = engine.batches[0].shape[3]
    expected = spec[:, :32, :frames] / spec[:, :, :frames].max()  # the peak counts the bins above the network's too
    np.testing.assert_allclose(engine.batches[0][0], expected, atol=1e-6)
    assert Separator(engine).levels(iter([mixture]), RATE) == (None,)


@pytest.mark.parametrize("normalize", ["track", "window"])
def test_silence_stays_silence(normalize):
    engine = StubEngine(each_frame_alone, stub_config(normalize=normalize))
    stems = Separator(engine, **SHORT).separate(np.zeros((2, 9000), np.float32), RATE)
    assert all(not batch.any() for batch in engine.batches)
    assert not stems["vocals"].any() and not stems["instrumental"].any()


@pytest.mark.parametrize("seconds", [1, 30, 100.3])
def test_frames_run_at_most_1_35_times_the_songs_at_the_default_settings(seconds):
    engine = StubEngine(all_ones)
    mixture = noise(round(seconds * RATE))
    for batch_size in (1, 4):
        engine.batches.clear()
        Separator(engine, batch_size=batch_size).separate(mixture, RATE)
        assert engine.frames_run <= 1.35 * stft(mixture, 64, 32).shape[2]


def test_two_runs_are_equal():
    mixture = noise(20_000)
    separator = Separator(StubEngine(with_neighbours(3)), **SHORT)
    first, second = separator.separate(mixture, 11025), separator.separate(mixture, 11025)
    assert np.array_equal(first["vocals"], second["vocals"])


def test_the_engine_works_while_blocks_are_read():
    """Blocks that lie a few windows ahead are read before the first stems are asked for, and no more than a few."""
    read = 0

    def blocks():
        nonlocal read
        for _ in range(400):
            read += 1
            yield noise(400)

    stream = Separator(StubEngine(all_ones), **SHORT).stream(blocks(), RATE)
    next(stream)
    assert 10 < read < 100
    stream.close()


def test_a_stream_left_early_ends_its_thread():
    import threading

    before = threading.active_count()
    stream = Separator(StubEngine(all_ones), **SHORT).stream((noise(400) for _ in range(400)), RATE)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_progress_counts_the_seconds():
    calls = []
    mixture = noise(20_000)
    Separator(StubEngine(all_ones), **SHORT).separate(mixture, RATE, progress=lambda *call: calls.append(call))
    assert calls[-1] == (2.5, 2.5)
    assert calls == sorted(calls) and len(calls) > 3


@pytest.mark.parametrize(
    ("mixture", "text"),
    [
        (np.zeros(100, np.float32), r"shape \(100,\); expected \(channels, samples\)"),
        (np.zeros((3, 100), np.float32), "1 or 2 channels"),
        (np.zeros((100, 2), np.float32), "1 or 2 channels"),
        (np.zeros((2, 0), np.float32), r"shape \(2, 0\)"),
        (np.full((2, 100), np.nan, np.float32), "not finite"),
        (np.zeros((2, 100), np.int16), "samples of type int16; expected float32"),
    ],
)
def test_what_is_no_mixture_is_refused(mixture, text):
    with pytest.raises(AudioError, match=text):
        Separator(StubEngine(all_ones)).separate(mixture, RATE)


def test_a_stream_that_changes_its_channels_is_refused():
    with pytest.raises(AudioError, match="with 2, as before"):
        list(Separator(StubEngine(all_ones)).stream([noise(10), noise(10, 1)], RATE))


def test_an_error_of_the_source_reaches_the_caller():
    def blocks():
        yield noise(9000)
        raise OSError("cable unplugged")

    with pytest.raises(OSError, match="cable unplugged"):
        list(Separator(StubEngine(all_ones), **SHORT).stream(blocks(), RATE))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mask_that_is_not_finite_names_the_engine(value):
    def broken(batch):
        mask = np.ones_like(batch)
        mask[0, 0, 3, 5] = value
        return mask

    with pytest.raises(EngineError, match=r"stub \(fp32 on cpu\).*not finite"):
        Separator(StubEngine(broken), **SHORT).separate(noise(9000), RATE)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "`batch_size` 0"),
        ({"overlap": 1.0}, "overlap: 1"),
        ({"segment_seconds": 1.0}, "`segment_seconds` 1: "),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        Separator(StubEngine(all_ones), **options)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_sample_rate_of_nothing_is_refused(rate):
    with pytest.raises(AudioError, match="sample rate"):
        Separator(StubEngine(all_ones)).separate(noise(10), rate)

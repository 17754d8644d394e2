"""Separation by models that take waveforms: what comes out is what masks give, wherever the song was cut."""

import numpy as np
import pytest
from networks import changed
from stubs import StubEngine, WaveformStub, all_ones, each_frame_alone, noise, streamed, stub_config, with_neighbours

from engines.base import Inputs
from ft.dsp import magnitude, stft
from ft.errors import EngineError
from ft.metrics import sdr
from ft.separate import Separator

RATE = 8000
MID_SIDE = {"normalize": "track", "stereo": "mid-side"}
SHORT = {"segment_seconds": 0.5, "context_seconds": 0.05, "overlap": 0.1}
"""Windows of 125 frames of the stub model, so that a second holds several."""


def both(mask, config, settings) -> tuple[Separator, Separator]:
    """The same model with masks and with waveforms."""
    return Separator(StubEngine(mask, config), **settings), Separator(WaveformStub(mask, config), **settings)


@pytest.mark.parametrize("samples", [1, 31, 32, 33, 64, 1000, 4000, 4001, 20_011])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    "audio", [{}, {"hop_length": 16}, {"hop_length": 21}, {"normalize": "track"}, MID_SIDE], ids=str
)
def test_vocals_are_those_of_masks(samples, channels, audio):
    mixture = noise(samples, channels)
    ordinary, waveform = both(each_frame_alone, stub_config(**audio), SHORT)
    expected, found = ordinary.separate(mixture, RATE), waveform.separate(mixture, RATE)
    assert list(found) == ["vocals", "instrumental"]
    np.testing.assert_allclose(found["vocals"], expected["vocals"], atol=1e-5)
    np.testing.assert_allclose(found["vocals"] + found["instrumental"], mixture, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {**SHORT, "overlap": 0.0},
        {**SHORT, "overlap": 0.5},
        {**SHORT, "context_seconds": 0.0},
        {**SHORT, "context_seconds": 0.0, "overlap": 0.0},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("hop_length", [32, 16, 21])
def test_no_border_is_heard_whatever_the_windows(settings, hop_length):
    mixture = noise(30_011)
    config = stub_config(hop_length=hop_length)
    whole = Separator(WaveformStub(each_frame_alone, config), segment_seconds=60, context_seconds=0)
    parts = Separator(WaveformStub(each_frame_alone, config), **settings)
    expected = whole.separate(mixture, RATE)["vocals"]
    assert len(whole.engine.batches) == 1
    # Without context a fade meets samples that lack a window's outer frames, and is near instead of exact.
    exact = settings.get("context_seconds") != 0 or settings["overlap"] == 0
    np.testing.assert_allclose(parts.separate(mixture, RATE)["vocals"], expected, atol=1e-5 if exact else 1e-3)
    assert settings == {} or len(parts.engine.batches) > 5


def test_where_neighbours_agree_their_fade_is_exact_and_else_it_is_near():
    """Without context two windows give two masks; faded as sound they differ little from masks that are faded."""
    mixture = noise(30_000)
    found = {}
    for context_frames in (0, 7):  # one more than the mask reaches, for the frame that overlaps the last kept one
        settings = {**SHORT, "context_seconds": context_frames * 32 / RATE, "overlap": 0.3}
        ordinary, waveform = both(with_neighbours(6), stub_config(), settings)
        expected = ordinary.separate(mixture, RATE)["vocals"]
        found[context_frames] = sdr(waveform.separate(mixture, RATE)["vocals"], expected)
    assert found[7] > 110
    assert 35 < found[0] < 90


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 44100])
@pytest.mark.parametrize("normalize", ["track", "window"])
def test_the_result_does_not_depend_on_the_blocks(rate, normalize):
    mixture = noise(rate * 2 + 7)
    separator = Separator(WaveformStub(with_neighbours(3), stub_config(normalize=normalize)), **SHORT)
    whole = streamed(separator, mixture, rate, mixture.shape[1])["vocals"]
    assert whole.shape == mixture.shape
    for size in (61, 7001):
        np.testing.assert_allclose(streamed(separator, mixture, rate, size)["vocals"], whole, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_result_does_not_depend_on_the_batch_size(channels):
    mixture = noise(30_000)
    engine = WaveformStub(with_neighbours(3), stub_config(channels=channels))
    one = Separator(engine, **SHORT).separate(mixture, RATE)
    many = Separator(engine, **SHORT, batch_size=3).separate(mixture, RATE)
    assert max(len(batch["scale"]) for batch in engine.batches) == (6 if channels == 1 else 3)
    np.testing.assert_allclose(many["vocals"], one["vocals"], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("normalize", ["track", "window"])
@pytest.mark.parametrize("known", [True, False])
def test_magnitudes_are_scaled_as_for_masks(channels, normalize, known):
    """A mono network sees the channels of a song one by one, and both have one scale all the same."""
    mixture = noise(20_000) * np.linspace(0.01, 1, 20_000, dtype=np.float32) * np.float32([[1], [0.2]])
    settings = SHORT if normalize == "track" else {**SHORT, "context_seconds": 0.1}
    config = stub_config(channels=channels, normalize=normalize)
    ordinary, waveform = both(lambda batch: np.sqrt(batch), config, settings)
    levels = ordinary.levels([mixture], RATE) if known else None
    expected, found = (streamed(model, mixture, RATE, 500, levels)["vocals"] for model in (ordinary, waveform))
    is_one = known and normalize == "track"
    assert sdr(found, expected) > (100 if is_one else 40)  # windows with scales of their own disagree where they fade
    scales = {float(scale) for batch in waveform.engine.batches for scale in batch["scale"]}
    if normalize == "track" and known:
        assert scales == {magnitude(stft(mixture, 64, 32)).max()}
    elif normalize == "window" and channels == 2:
        assert scales == {0.0}
    else:
        assert len(scales) > 3 and min(scales) > 0


def test_mono_is_given_twice_and_averaged():
    def left_only(batch):
        return np.stack((np.ones_like(batch[:, 0]), np.zeros_like(batch[:, 1])), axis=1)

    mono = noise(10_000, 1)
    separator = Separator(WaveformStub(left_only, stub_config(extend_mask=1)), **SHORT)
    np.testing.assert_allclose(separator.separate(mono, RATE)["vocals"], mono / 2, atol=1e-5)
    assert all(np.array_equal(batch["waveform"][:, 0], batch["waveform"][:, 1]) for batch in separator.engine.batches)


def test_the_mask_stem_and_the_order_of_the_stems_do_not_matter():
    mixture = noise(9000)
    config = stub_config("instrumental", extend_mask=4)
    ordinary, waveform = both(each_frame_alone, config, SHORT)
    expected = ordinary.separate(mixture, RATE)["vocals"]
    np.testing.assert_allclose(waveform.separate(mixture, RATE)["vocals"], expected, atol=1e-5)
    turned = WaveformStub(each_frame_alone, changed(config, stems=("instrumental",), rest="vocals", of="stems"))
    found = Separator(turned, **SHORT).separate(mixture, RATE)
    assert list(found) == ["instrumental", "vocals"]
    np.testing.assert_allclose(found["vocals"], expected, atol=1e-5)


def test_silence_and_nothing():
    separator = Separator(WaveformStub(each_frame_alone), **SHORT)
    assert not separator.separate(np.zeros((2, 9000), np.float32), RATE)["vocals"].any()
    assert list(separator.stream([], RATE)) == []


def test_windows_hold_the_frames_that_other_models_see():
    engine, ordinary = WaveformStub(all_ones), StubEngine(all_ones)
    mixture = noise(20_000)
    for each in (engine, ordinary):
        Separator(each, **SHORT).separate(mixture, RATE)
    found = [batch["waveform"].shape for batch in engine.batches]
    size = engine.config.size
    assert found == [(len(batch), 2, size("waveform", batch.shape[3])) for batch in ordinary.batches]


def test_memory_does_not_grow_with_the_song():
    """What is held between two windows has the size of a fade."""
    separator = Separator(WaveformStub(all_ones), **SHORT)
    sizes = []
    for seconds in (2, 8):
        blocks = (noise(400, seed=index) for index in range(seconds * RATE // 400))
        done = [part["vocals"].shape[1] for part in separator.stream(blocks, RATE)]
        assert sum(done) == seconds * RATE
        sizes.append(max(done))
    assert sizes[0] == sizes[1] < RATE


WAVEFORM, SCALE = noise(640)[None], np.zeros(1, np.float32)


@pytest.mark.parametrize(
    ("waveform", "scale"),
    [
        (WAVEFORM[..., :639], SCALE),
        (WAVEFORM[..., :32], SCALE),
        (WAVEFORM[:, :1], SCALE),
        (WAVEFORM[0], SCALE),
        (WAVEFORM.astype(np.float64), SCALE),
        (WAVEFORM, np.zeros(2, np.float32)),
        (WAVEFORM, np.zeros(1)),
        (WAVEFORM[:0], SCALE[:0]),
    ],
    ids=lambda array: str(array.shape),
)
def test_what_is_no_waveform_is_refused(waveform, scale):
    with WaveformStub(all_ones) as engine, pytest.raises(EngineError, match=r"of shape .* expected \(batch"):
        engine.run({"waveform": waveform, "scale": scale})


def test_each_kind_of_model_refuses_what_the_other_takes():
    batch: Inputs = {"waveform": WAVEFORM, "scale": SCALE}
    with WaveformStub(all_ones) as engine, pytest.raises(EngineError, match="takes waveform and scale; magnitude was"):
        engine.run({"magnitude": np.zeros((1, 2, 32, 5), np.float32)})
    with StubEngine(all_ones) as engine, pytest.raises(EngineError, match="takes magnitude; waveform, scale was given"):
        engine.run(batch)

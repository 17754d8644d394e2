"""Models that hear mid and side: what they are given and what becomes of their masks."""

import numpy as np
import pytest
import torch
from stubs import StubEngine, WaveformStub, all_ones, each_frame_alone, noise, stub_config, with_neighbours

from ft.config import IO
from ft.dsp import left_right, mid_side
from ft.errors import ConfigError
from ft.metrics import sdr
from ft.models import signal
from ft.models.signal import Signal
from ft.separate import Separator
from ft.separate.front import Level, make_front
from ft.windows import Window

RATE = 8000
MID_SIDE = {"stereo": "mid-side", "normalize": "track"}


def mid_only(batch: np.ndarray) -> np.ndarray:
    mask = np.ones_like(batch)
    mask[:, 1] = 0
    return mask


def test_both_ways_undo_each_other_and_agree_with_those_of_training():
    song = noise(100)
    np.testing.assert_allclose(left_right(mid_side(song)), song, atol=1e-7)
    np.testing.assert_allclose(signal.mid_side(torch.tensor(song)).numpy(), mid_side(song), atol=1e-7)
    np.testing.assert_allclose(signal.left_right(torch.tensor(song)).numpy(), left_right(song), atol=1e-7)
    assert np.abs(mid_side(np.stack((song[0], song[0])))[1]).max() == 0


def test_the_mask_of_the_middle_keeps_what_both_sides_share():
    song = noise(9000)
    stems = Separator(StubEngine(mid_only, stub_config(**MID_SIDE))).separate(song, RATE)
    both = np.broadcast_to(song.mean(axis=0), song.shape)
    # The bin above the network's is silent in the vocals: what is left of it is far below the rest.
    assert sdr(stems["vocals"], both) > 15
    assert np.abs(stems["vocals"][0] - stems["vocals"][1]).max() < 1e-6
    np.testing.assert_allclose(stems["vocals"] + stems["instrumental"], song, atol=1e-6)


def test_a_mono_song_is_all_middle():
    mono = noise(9000, 1)
    config = stub_config(**MID_SIDE)
    single, double = (Separator(StubEngine(each_frame_alone, config)) for _ in range(2))
    found = single.separate(mono, RATE)["vocals"]
    expected = double.separate(np.repeat(mono, 2, axis=0), RATE)["vocals"]
    assert found.shape == mono.shape
    np.testing.assert_allclose(np.repeat(found, 2, axis=0), expected, atol=1e-6)


@pytest.mark.parametrize("dither", [0.0, 1e-5])
def test_a_song_without_a_side_hears_its_middle_of_before_in_its_place(dither):
    """Whether it has one channel or two that are equal, but for what a lossy format makes of them."""
    mono, seen = noise(10 * RATE, 1), []

    def look(batch):
        seen.append(batch)
        return each_frame_alone(batch)

    other = np.random.default_rng(1).uniform(-dither, dither, mono.shape).astype(np.float32)
    for song in (mono, np.concatenate((mono, mono + other))):
        Separator(StubEngine(look, stub_config(**MID_SIDE))).separate(song, RATE)
    assert len(seen) == 2
    mid, side = seen[0][0]
    second = round(RATE / stub_config().front.hop_length)
    np.testing.assert_allclose(side[:, second:], 0.3 * mid[:, :-second], atol=1e-6)
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_model_with_transforms_inside_hears_that_side_too(channels):
    def side_rules(batch):
        mask = np.clip(2 * batch[:, 1:] / np.maximum(batch[:, :1], 1e-6), 0, 1)
        return np.repeat(mask, 2, axis=1)

    mono, config = np.repeat(noise(10 * RATE, 1), channels, axis=0), stub_config(**MID_SIDE)
    outside, inside = (
        Separator(engine(side_rules, config)).separate(mono, RATE)["vocals"] for engine in (StubEngine, WaveformStub)
    )
    assert 0.1 < np.abs(outside).mean() / np.abs(mono).mean() < 0.9
    assert sdr(inside, outside) > 25


def test_a_quiet_side_is_heard_as_it_is():
    mono, quiet, seen = noise(9000, 1), 0.01 * noise(9000, 2)[1:], []
    engine = StubEngine(lambda batch: seen.append(batch) or each_frame_alone(batch), stub_config(**MID_SIDE))
    Separator(engine).separate(left_right(np.concatenate((mono, quiet))), RATE)
    assert 0 < seen[0][0, 1].max() < 0.03 * seen[0][0, 0].max()


def test_training_hears_songs_without_a_side_as_separation_does():
    spec = torch.complex(*torch.randn(2, 3, 2, 33, 50, generator=torch.Generator().manual_seed(0)))
    spec[1, 1] = 0
    spec[2, 1] *= 1e-5
    config = stub_config(**MID_SIDE)
    found = Signal(config).inputs(spec, signal.Level(torch.full((3,), 5.0)))
    for item, song in zip(found.numpy(), spec.numpy().swapaxes(2, 3), strict=True):
        window = Window(song, slice(0, 50), 0, 0)
        (wanted,) = make_front(config, IO[0], RATE).inputs(window, Level(5.0)).values()
        np.testing.assert_allclose(item, wanted[0], atol=1e-6)
    assert found[1, 1].any() and torch.allclose(found[0], (spec[0, :, :32].abs() / 5).clamp(max=1))


@pytest.mark.parametrize("postprocess", [False, True])
def test_streamed_equals_whole(postprocess):
    song = noise(30_000)
    settings = {"segment_seconds": 1.0, "context_seconds": 0.1, "overlap": 0.1, "postprocess": postprocess}
    separator = Separator(StubEngine(with_neighbours(3), stub_config(**MID_SIDE)), **settings)
    blocks = (song[:, start : start + 777] for start in range(0, song.shape[1], 777))
    streamed = np.concatenate([part["vocals"] for part in separator.stream(blocks, RATE, [Level(5.0)])], axis=1)
    whole = np.concatenate([part["vocals"] for part in separator.stream([song], RATE, [Level(5.0)])], axis=1)
    np.testing.assert_allclose(streamed, whole, atol=1e-6)


@pytest.mark.parametrize("hop_length", [16, 32, 20])
@pytest.mark.parametrize("stereo", ["left-right", "mid-side"])
def test_a_training_spectrum_goes_back_to_its_waveform(stereo, hop_length):
    transforms = Signal(stub_config(hop_length=hop_length, stereo=stereo))
    waveform = torch.tensor(noise(64 + hop_length * 30))[None]
    back = transforms.waveform(transforms.transformed(waveform), waveform.shape[-1])
    inner = slice(48, -48)  # beyond it the windows are near zero
    torch.testing.assert_close(back[..., inner], waveform[..., inner], atol=1e-5, rtol=0)
    assert back.abs().max() < 2 * waveform.abs().max()


def test_one_channel_has_no_middle():
    with pytest.raises(ConfigError, match="mid-side"):
        stub_config(channels=1, stereo="mid-side")


def test_a_mask_of_everything_gives_the_song_but_for_its_top_bin():
    song = noise(9000)
    vocals = Separator(StubEngine(all_ones, stub_config(**MID_SIDE))).separate(song, RATE)["vocals"]
    assert sdr(vocals, song) > 12

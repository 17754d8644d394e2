"""The transforms: exact where they claim to be, whole or as streams."""

import numpy as np
import pytest
import torch

from ft.dsp import (
    StreamingFrames,
    StreamingIstft,
    StreamingResampler,
    StreamingStft,
    frame_count,
    istft,
    stft,
    window_of,
)

SIZES = [(64, 32), (64, 16), (64, 21), (1024, 512)]


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("samples", [1, 2, 31, 32, 33, 64, 65, 513, 1000, 1024, 5000])
def test_istft_restores_every_sample(n_fft, hop, samples):
    waveform = noise(samples)
    spec = stft(waveform, n_fft, hop)
    assert spec.shape == (2, n_fft // 2 + 1, frame_count(samples, hop)) and spec.dtype == np.complex64
    restored = istft(spec, n_fft, hop, samples)
    assert restored.shape == waveform.shape and restored.dtype == np.float32
    np.testing.assert_allclose(restored, waveform, atol=3e-6)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("samples", [1024, 1025, 4096, 5000])
def test_stft_is_that_of_torch(n_fft, hop, samples):
    waveform = noise(samples)
    window = torch.hann_window(n_fft)
    expected = torch.stft(torch.from_numpy(waveform), n_fft, hop, window=window, return_complex=True).numpy()
    spec = stft(waveform, n_fft, hop)
    assert spec.shape[2] - expected.shape[2] == (samples % hop > 0)  # one frame more behind a part of a hop
    np.testing.assert_allclose(spec[:, :, : expected.shape[2]], expected, atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("samples", [5, 40, 700, 3001])
@pytest.mark.parametrize("size", [1, 13, 1000])
def test_streams_equal_the_whole(n_fft, hop, samples, size):
    waveform = noise(samples)
    forward, backward = StreamingStft(2, n_fft, hop), StreamingIstft(2, n_fft, hop)
    frames = [forward.push(waveform[:, start : start + size]) for start in range(0, samples, size)]
    frames.append(forward.finish())
    blocks = [backward.push(part) for part in frames]
    blocks.append(backward.finish(samples))
    assert np.array_equal(np.concatenate(frames, axis=1).swapaxes(1, 2), stft(waveform, n_fft, hop))
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), waveform, atol=3e-6)


def test_an_empty_stream_has_no_frames():
    forward = StreamingStft(1, 64, 32)
    assert forward.push(noise(0, 1)).shape == (1, 0, 33)
    assert forward.finish().shape == (1, 0, 33)


def test_a_stream_holds_no_more_than_a_frame_and_a_hop():
    forward = StreamingFrames(1, 64, 32)
    for _ in range(50):
        forward.push(noise(100, 1))
    assert forward._buffer.shape[1] <= 64 + 32


def test_window_is_periodic():
    np.testing.assert_allclose(window_of(512), torch.hann_window(512).numpy(), rtol=0, atol=3e-7)


@pytest.mark.parametrize("rates", [(48000, 44100), (22050, 44100), (96000, 44100), (44100, 48000)])
@pytest.mark.parametrize("size", [997, 100_000])
def test_resampling_there_and_back_keeps_place_and_length(rates, size):
    rate, other = rates
    seconds = np.arange(rate) / rate
    tone = (np.sin(2 * np.pi * 3000 * seconds) * np.hanning(rate)).astype(np.float32)[None]
    there, back = StreamingResampler(rate, other, 1), StreamingResampler(other, rate, 1)
    blocks = [back.push(there.push(tone[:, start : start + size])) for start in range(0, rate, size)]
    blocks += [back.push(there.finish()), back.finish()]
    result = np.concatenate(blocks, axis=1)
    assert result.shape == tone.shape
    np.testing.assert_allclose(result, tone, atol=1e-6)


def test_equal_rates_pass_unchanged():
    waveform = noise(100)
    resampler = StreamingResampler(44100, 44100, 2)
    assert np.array_equal(resampler.push(waveform), waveform)
    assert resampler.finish().shape == (2, 0)

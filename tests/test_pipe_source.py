"""Sound that comes down a pipe."""

from __future__ import annotations

import io
import os
import struct
import threading

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from stems import noise
from test_media import read

from ft.audio.pipe import PIPE_SAMPLES, STDIN, RawFormat, open_pipe
from ft.audio.wav import UNKNOWN_SIZE, streamed_header
from ft.errors import AudioError

RATE = 8000


def wav(waveform: np.ndarray, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform.T, RATE, format=format, subtype=subtype)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0].T


def refusal(data: bytes, raw: RawFormat | None = None, **chosen) -> str:
    with pytest.raises(AudioError) as caught:
        read(open_pipe(io.BytesIO(data), raw, **chosen))
    text = str(caught.value)
    assert text.startswith("-: ") and "\n" not in text
    return text


class Trickle(io.RawIOBase):
    """A pipe that gives pieces of the sizes it is told, over and over."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes, self._turn = data, sizes, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        size = min(len(buffer), self._sizes[self._turn % len(self._sizes)])
        self._turn += 1
        piece, self._data = self._data[:size], self._data[size:]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_is_what_libsndfile_makes_of_the_same_file(format, subtype, channels):
    data = wav(noise(10_000, channels), subtype, format)
    source = open_pipe(io.BytesIO(data))
    assert not source.repeatable
    assert (source.info.path, source.info.sample_rate, source.info.samples) == (STDIN, RATE, 10_000)
    assert np.array_equal(read(source), decoded(data)) and source.warnings == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=8), st.booleans(), st.sampled_from(["PCM_16", "PCM_24"]))
def test_pieces_of_any_size_give_the_same_sound(sizes, buffered, subtype):
    data = wav(noise(3000), subtype)
    stream = Trickle(data, sizes)
    source = open_pipe(io.BufferedReader(stream, 1000) if buffered else stream)
    assert np.array_equal(read(source), decoded(data))


@pytest.mark.parametrize("size", [0, UNKNOWN_SIZE, 0x7FFFF000, 0x80000000])
@pytest.mark.parametrize("bit_depth", ["16", "24", "float"])
def test_unknown_sizes_are_no_truncation(bit_depth, size):
    header = bytearray(streamed_header(RATE, 2, bit_depth))
    header[40:44] = struct.pack("<I", size)
    width = {"16": 2, "24": 3, "float": 4}[bit_depth]
    source = open_pipe(io.BytesIO(header + bytes(2 * width * 9000)))
    assert source.info.samples is None and source.info.bit_depth == bit_depth
    assert read(source).shape == (2, 9000) and source.warnings == []


def test_what_stands_behind_the_samples_is_no_sound():
    data = wav(noise(500))
    assert read(open_pipe(io.BytesIO(data + b"LIST" + bytes(400)))).shape == (2, 500)


@pytest.mark.parametrize("missing", [1, 4, 1000, 11_000])
def test_a_promise_that_is_not_kept_is_truncation(missing):
    data = wav(noise(3000))[:-missing]
    assert "its header says" in refusal(data)
    source = open_pipe(io.BytesIO(data), allow_truncated=True)
    found = read(source)
    assert found.shape[1] == 3000 - -(-missing // 4) and len(source.warnings) == 1
    assert np.array_equal(found, decoded(wav(noise(3000)))[:, : found.shape[1]])


@pytest.mark.parametrize("encoding", ["f32le", "s16le"])
@pytest.mark.parametrize("channels", [1, 2])
def test_bare_samples(encoding, channels):
    kind = {"f32le": "<f4", "s16le": "<i2"}[encoding]
    full = 1 if encoding == "f32le" else 32768
    samples = (noise(5001, channels).T * (full - 1 if full > 1 else 1)).astype(kind)
    source = open_pipe(io.BytesIO(samples.tobytes()), RawFormat(encoding, 44100, channels))
    assert (source.info.sample_rate, source.info.channels, source.info.samples) == (44100, channels, None)
    assert source.info.bit_depth == ("float" if encoding == "f32le" else "16")
    assert np.array_equal(read(source), samples.T.astype(np.float32) / np.float32(full))


def test_odd_bytes_at_the_end_of_bare_samples_are_truncation():
    raw = RawFormat("f32le", 44100, 2)
    assert "5 bytes at the end; a sample of all channels takes 8" in refusal(bytes(8 * 100 + 5), raw)
    source = open_pipe(io.BytesIO(bytes(8 * 100 + 5)), raw, allow_truncated=True)
    assert read(source).shape == (2, 100) and len(source.warnings) == 1


@pytest.mark.parametrize(("start", "duration"), [(0.0, 0.5), (0.3, None), (0.7, 0.1), (1.9, 5.0)])
def test_a_part(start, duration):
    data = wav(noise(2 * RATE))
    stop = None if duration is None else round((start + duration) * RATE)
    expected = decoded(data)[:, round(start * RATE) : stop]
    source = open_pipe(io.BytesIO(data), start=start, duration=duration)
    assert source.info.samples == expected.shape[1]
    assert np.array_equal(read(source), expected)


def test_a_start_behind_the_end():
    assert "`start` 3: the sound ends after 1 s" in refusal(wav(noise(RATE)), start=3.0)
    assert "`start` 3: the sound ends before" in refusal(streamed_header(RATE, 2, "16") + bytes(4000), start=3.0)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "nothing came; expected WAV. Bare samples need `raw`"),
        (b"fLaC\x00\x00\x00\x22" + bytes(100), "begins with 66 4c 61 43 00 00 00 22 (FLAC, "),
        (b"hello, world, this is text\n", "'hello, world'); expected WAV. Bare samples need `raw`"),
        (bytes(1000), "begins with 00 00 00 00"),
        (wav(noise(10))[:30], "a WAV header that breaks off"),
        (wav(noise(0)), "holds no samples"),
        (streamed_header(RATE, 2, "16"), "holds no samples"),
        (wav(noise(10, 6)), "6 channels; expected 1 or 2"),
        (streamed_header(100, 2, "16") + bytes(400), "a sample rate of 100 Hz"),
        (wav(noise(100), "ULAW"), "WAV of coding 0x0007, 8 bits; expected PCM"),
        (streamed_header(RATE, 1, "float") + np.float32([0, np.nan]).tobytes(), "not finite after 0.0 s"),
    ],
)
def test_what_cannot_be_read_gets_one_line(data, expected):
    assert expected in refusal(data)


def test_a_pipe_is_read_once():
    source = open_pipe(io.BytesIO(wav(noise(100))))
    read(source)
    with pytest.raises(AudioError, match="once only"):
        next(source.blocks())


@pytest.mark.parametrize("buffered", [True, False])
def test_what_has_come_is_given_before_more_comes(buffered):
    """A writer that waits for each answer gets one: nothing here waits for a whole block."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", -1 if buffered else 0) as stream, os.fdopen(writing, "wb", 0) as sink:
        sink.write(streamed_header(RATE, 1, "16"))
        source = open_pipe(stream)
        blocks = source.blocks()
        for samples in (1, 10, 1000):
            sink.write(bytes(2 * samples))
            found: list[np.ndarray] = []
            reader = threading.Thread(target=lambda found=found: found.append(next(blocks)), daemon=True)
            reader.start()
            reader.join(10)
            assert not reader.is_alive() and found[0].shape == (1, samples)
        sink.write(bytes(2 * 20_000))
        assert next(blocks).shape[1] <= PIPE_SAMPLES

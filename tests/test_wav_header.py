"""WAV headers: what is read of them and what is written."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from ft.audio.wav import UNKNOWN_SIZE, WavHeader, WavHeaderError, read_wav_header, streamed_header


def written(subtype: str, channels: int = 2, format: str = "WAV", samples: int = 77) -> tuple[bytes, np.ndarray]:
    """A file of noise as libsndfile writes it, and its samples as libsndfile reads them."""
    noise = np.random.default_rng(5).uniform(-1, 1, (samples, channels))
    file = io.BytesIO()
    soundfile.write(file, noise, 22050, format=format, subtype=subtype)
    file.seek(0)
    return file.getvalue(), soundfile.read(file, dtype="float32", always_2d=True)[0].T


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("bit_depth", "subtype", "size"), [("16", "PCM_16", 2), ("24", "PCM_24", 3), ("float", "FLOAT", 4)]
)
def test_a_streamed_header_is_read_by_libsndfile_and_here(bit_depth, subtype, size, channels):
    data = streamed_header(48000, channels, bit_depth) + bytes(size * channels * 9)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert (file.samplerate, file.channels, file.subtype, file.frames) == (48000, channels, subtype, 9)
    header = read_wav_header(io.BytesIO(data)).readable()
    assert (header.sample_rate, header.channels, header.bit_depth, header.size) == (48000, channels, bit_depth, None)
    assert header.data_size(len(data)) is None


def test_chunks_before_the_samples_are_skipped_however_large():
    data, expected = written("PCM_16")
    odd = b"junk" + struct.pack("<I", 100_001) + bytes(100_002)
    stream = io.BytesIO(data[:12] + odd + data[12:36] + b"bext" + struct.pack("<I", 3) + b"abc\0" + data[36:])
    header = read_wav_header(stream)
    assert header.offset == 44 + len(odd) + 12
    assert np.array_equal(header.decode(stream.read(header.size or 0)), expected)


def test_a_file_that_says_it_is_empty_throughout_is_empty():
    data, _ = written("PCM_16", samples=0)
    assert read_wav_header(io.BytesIO(data)).data_size(len(data)) == 0


@pytest.mark.parametrize("gigabytes", [4, 8, 12])
def test_a_size_that_wrapped_is_unwrapped_by_the_length_of_the_file(gigabytes):
    size = (gigabytes << 30) + 4000
    header = WavHeader(44100, 2, 1, 16, size & UNKNOWN_SIZE, 44)
    assert header.data_size(44 + size) == size
    assert header.data_size(44 + size + 30) == size  # a chunk behind the samples
    assert header.data_size(44 + 3000) == 4000  # cut off
    assert WavHeader(44100, 2, 1, 16, 4000, 44, is_64=True).data_size(44 + size) == 4000


@pytest.mark.parametrize("size", [0, 5, 12, 20, 36, 43])
def test_headers_that_break_off(size):
    data, _ = written("PCM_16")
    with pytest.raises(WavHeaderError):
        read_wav_header(io.BytesIO(data[:size]))


def test_a_chunk_that_claims_gigabytes_takes_no_memory():
    data, _ = written("PCM_16")
    claims = data[:16] + struct.pack("<I", 0xFFFFFFF0) + data[20:]
    with pytest.raises(WavHeaderError, match="breaks off"):
        read_wav_header(io.BytesIO(claims))


def test_codings_that_are_not_decoded_here_are_named():
    data, _ = written("ULAW")
    with pytest.raises(WavHeaderError, match="coding 0x0007, 8 bits"):
        read_wav_header(io.BytesIO(data)).readable()

"""Audio files: what is read of them."""

import numpy as np
import pytest
import soundfile

from ft.audio import audio_info, read_audio, read_blocks
from ft.errors import AudioError


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def write(path, waveform, rate=8000, subtype="PCM_16", **settings):
    soundfile.write(path, waveform.T, rate, subtype=subtype, **settings)
    return path


@pytest.mark.parametrize(
    ("name", "subtype", "bit_depth"),
    [
        ("a.wav", "PCM_16", "16"),
        ("a.wav", "PCM_24", "24"),
        ("a.wav", "PCM_32", "24"),
        ("a.wav", "FLOAT", "float"),
        ("a.wav", "DOUBLE", "float"),
        ("a.wav", "PCM_U8", "16"),
        ("a.flac", "PCM_24", "24"),
        ("a.ogg", "VORBIS", "16"),
        ("a.mp3", "MPEG_LAYER_III", "16"),
    ],
)
def test_headers(tmp_path, name, subtype, bit_depth):
    path = write(tmp_path / name, noise(9000, 1), 22050, subtype)
    info = audio_info(path)
    assert (info.sample_rate, info.channels, info.bit_depth) == (22050, 1, bit_depth)
    assert info.samples == sum(block.shape[1] for block in read_blocks(path))
    assert info.seconds == pytest.approx(9000 / 22050, rel=0.2)  # MP3 pads


def test_blocks_are_the_file(tmp_path):
    waveform = noise(1000)
    path = write(tmp_path / "a.wav", waveform, subtype="FLOAT")
    blocks = list(read_blocks(path, samples=300))
    assert [block.shape for block in blocks] == [(2, 300), (2, 300), (2, 300), (2, 100)]
    assert np.array_equal(np.concatenate(blocks, axis=1), waveform)
    assert np.array_equal(read_audio(path)[0], waveform) and read_audio(path)[1] == 8000


def test_files_that_cannot_be_separated_are_named(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no audio")
    raw = tmp_path / "sound.raw"
    raw.write_bytes(bytes(100))
    empty = write(tmp_path / "empty.wav", noise(0))
    surround = write(tmp_path / "surround.wav", noise(100, 6))
    for path, expected in (
        (tmp_path / "nowhere.wav", "nowhere.wav: no such file; expected WAV, FLAC"),
        (tmp_path, "not a file; expected WAV, FLAC"),
        (text, r"notes.txt: not audio that can be read \(Format not recognised\); expected WAV, FLAC"),
        (raw, "sound.raw: not audio that can be read"),
        (empty, "empty.wav: holds no samples; expected at least one"),
        (surround, "surround.wav: 6 channels; expected 1 or 2. Mix it down first, e.g. ffmpeg -ac 2"),
    ):
        with pytest.raises(AudioError, match=expected) as caught:
            audio_info(path)
        assert "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_refused(tmp_path):
    waveform = noise(20_000)
    waveform[1, 12_345] = np.nan
    path = write(tmp_path / "a.wav", waveform, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav: values that are not finite after 1\.5 s"):
        list(read_blocks(path, samples=1000))

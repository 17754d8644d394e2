"""MP3 files, of which libsndfile may give less than there is and say nothing."""

import re

import numpy as np
import pytest
import soundfile
from test_audio import cut, write
from test_media import read, refusal

from ft.audio.open import open_source, read_audio


@pytest.fixture(scope="module")
def song(example):
    """The first four seconds of the example (channels, samples)."""
    return soundfile.read(example / "mixture.flac", frames=4 * 48000, dtype="float32", always_2d=True)[0].T


@pytest.mark.parametrize("before", [b"", b"ID3\4\0\0\0\0\1\0".ljust(138, b"\0"), b"junk" * 40])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [48000, 44100, 24000, 22050, 16000, 8000])
def test_an_mp3_without_a_count_of_frames_is_read_to_its_end(tmp_path, song, rate, channels, before):
    """libsndfile ends where it estimates the end by the first frame, which is wrong wherever the bit rate varies."""
    silence = np.zeros((2, 48000), np.float32)
    waveform = np.concatenate([song[:, :48000], silence, song[:, :48000]], axis=1)[:channels]
    path = write(tmp_path / "a.mp3", waveform, rate, "MPEG_LAYER_III", bitrate_mode="VARIABLE")
    expected, _ = read_audio(path)
    data = path.read_bytes()
    path.write_bytes(before + data[data.index(data[:2], 4) :])  # without the frame that holds the count
    source = open_source(path)
    assert source.info.samples is None
    found = read(source)
    assert 0 <= found.shape[1] - expected.shape[1] < 4 * 1152  # what the encoder added stays
    lags = range(found.shape[1] - expected.shape[1] + 1)
    assert min(np.abs(found[:, lag : lag + expected.shape[1]] - expected).max() for lag in lags) < 1e-4


def test_an_mp3_may_count_a_frame_too_many_but_lack_none(tmp_path, song):
    path = write(tmp_path / "a.mp3", song, 48000, "MPEG_LAYER_III")
    data = bytearray(path.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 1).to_bytes(4, "big")
    path.write_bytes(data)
    assert 0 <= read(open_source(path)).shape[1] - song.shape[1] < 1152
    assert "`allow_truncated`" in refusal(cut(path, 0.99))


def test_mp3_files_that_were_joined_are_read_to_the_end_of_the_last(tmp_path, song):
    path = write(tmp_path / "a.mp3", song, 48000, "MPEG_LAYER_III")
    path.write_bytes(path.read_bytes() * 3)
    assert read(open_source(path)).shape[1] >= 3 * song.shape[1]


@pytest.fixture(scope="module", params=["counted", "uncounted"])
def mp3(request, song, tmp_path_factory) -> bytes:
    """An MP3 that says how many frames it has, and one that does not."""
    path = write(tmp_path_factory.mktemp("mp3") / "a.mp3", song, 48000, "MPEG_LAYER_III")
    data = path.read_bytes()
    return data if request.param == "counted" else data[data.index(data[:2], 4) :]


APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (70_032).to_bytes(4, "little") + (1).to_bytes(4, "little")
ID3V1 = b"TAGA title of thirty letters".ljust(128, b" ")
TAGS = {
    "ID3v1": ID3V1,
    "ID3v1 enhanced": b"TAG+".ljust(227, b"A") + ID3V1,
    "APE": APE + b"\0\0\0\xa0" + bytes(8) + b"\xff\xfb\x90d" * 17_500 + APE + b"\0\0\0\x80" + bytes(8),
    "Lyrics3": b"LYRICSBEGIN" + b"IND00002la" * 300 + b"003011LYRICS200" + ID3V1,
    "Lyrics3 1": b"LYRICSBEGIN" + b"la" * 2000 + b"LYRICSEND" + ID3V1,
    "ID3v2": b"ID3\4\0\x10\0\0\1\0" + bytes(128) + b"3DI\4\0\x10\0\0\1\0",
    "junk": np.random.default_rng(1).bytes(500),
    "more junk": np.random.default_rng(2).bytes(9000),
    "zeros": bytes(9000),
}


@pytest.mark.parametrize("tag", TAGS)
def test_what_stands_behind_an_mp3_is_no_damage(tmp_path, mp3, tag):
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3)
    expected, _ = read_audio(path)
    path.write_bytes(mp3 + TAGS[tag])
    source = open_source(path)
    found = read(source)
    assert source.warnings == [] and 0 <= found.shape[1] - expected.shape[1] < 2 * 1152
    assert np.array_equal(found[:, : expected.shape[1]], expected)


def frames_of(data: bytes) -> list[int]:
    """Where the frames of an MP3 begin, the first one not."""
    headers = (at for at in range(1, len(data) - 2) if data[at : at + 2] == b"\xff\xfb")
    return [at for at in headers if data[at + 2] >> 4 in range(1, 15)]


def test_one_bad_frame_of_an_mp3_is_passed_over(tmp_path, mp3):
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3)
    expected, _ = read_audio(path)
    starts = frames_of(mp3)
    at = starts[len(starts) // 2]
    path.write_bytes(mp3[:at] + bytes(4) + mp3[at + 4 :])
    with open_source(path, allow_truncated=True) as source:
        found = np.concatenate(list(source.blocks()), axis=1)
    assert abs(found.shape[1] - expected.shape[1]) < 3 * 1152


def test_an_mp3_of_which_the_decoder_loses_the_rest_is_refused(tmp_path, mp3, capfd):
    """What looks like a header of another format is where libsndfile ends without a word."""
    starts = frames_of(mp3)
    first, last = starts[len(starts) // 4], starts[len(starts) // 4 + 1]
    path = tmp_path / "a.mp3"
    path.write_bytes(mp3[:first] + b"\0\0\0\0\xff\xf5\x12\xff".ljust(last - first, b"\0") + mp3[last:])
    assert "`allow_truncated`" in refusal(path)
    source = open_source(path, allow_truncated=True)
    assert 0.2 < read(source).shape[1] / 192_000 < 0.3
    assert len(source.warnings) == 1 and "1.0 s" in source.warnings[0]
    assert capfd.readouterr() == ("", "")


def test_an_mp3_whose_count_is_far_too_low_is_not_cut_silently(tmp_path, song):
    path = write(tmp_path / "a.mp3", song, 48000, "MPEG_LAYER_III")
    data = bytearray(path.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[at : at + 4] = (20).to_bytes(4, "big")
    path.write_bytes(data)
    assert re.search(r"damaged: 0\.\d s of about 4\.\d s can be decoded", refusal(path))
    assert read(open_source(path, duration=0.2)).shape == (2, 9600)


def test_an_mp3_without_a_count_that_ends_in_zeros_is_refused(tmp_path, song):
    """As a download leaves it for which all room was taken beforehand."""
    path = write(tmp_path / "a.mp3", song, 48000, "MPEG_LAYER_III")
    data = path.read_bytes()
    data = data[data.index(data[:2], 4) :]
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    assert "bytes without sound" in refusal(path)

"""Audio files: what is read of them."""

import ctypes
import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from stems import noise
from test_media import encode, read, refusal

from ft.audio.open import audio_info, open_source, read_audio, read_blocks
from ft.audio.quiet import quiet
from ft.audio.wav import streamed_header
from ft.errors import AudioError


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


LOSSLESS = [
    ("a.wav", "WAV"),
    ("a.rf64", "RF64"),
    ("a.w64", "W64"),
    ("a.aiff", "AIFF"),
    ("a.au", "AU"),
    ("a.caf", "CAF"),
    ("a.flac", "FLAC"),
    ("a.avr", "AVR"),
    ("a.voc", "VOC"),
    ("a.svx", "SVX"),
]
COMPRESSED = [("a.mp3", "MP3", "MPEG_LAYER_III"), ("a.ogg", "OGG", "VORBIS"), ("a.opus", "OGG", "OPUS")]


def cut(path, share, name=None):
    """The first part of a file, as a download that broke off leaves it."""
    data = path.read_bytes()
    found = path.with_name(name or f"cut-{path.name}")
    found.write_bytes(data[: int(len(data) * share)])
    return found


@pytest.fixture(scope="module")
def song(example):
    """The first four seconds of the example (channels, samples)."""
    return soundfile.read(example / "mixture.flac", frames=4 * 48000, dtype="float32", always_2d=True)[0].T


@pytest.mark.parametrize(("name", "format"), LOSSLESS)
def test_lossless_files_keep_every_sample(tmp_path, song, name, format):
    mono = format == "SVX"
    waveform = song[:1] if mono else song
    path = write(tmp_path / name, waveform, 48000, format=format)
    source = open_source(path)
    assert (source.info.samples, source.info.sample_rate) == (waveform.shape[1], 48000)
    assert source.repeatable and source.warnings == []
    found = read(source)
    assert found.shape == waveform.shape
    assert np.abs(found - waveform).max() < 1 / 30000
    assert np.array_equal(found, read(open_source(path)))


@pytest.mark.parametrize(("name", "format"), LOSSLESS)
def test_truncated_lossless_files_are_refused_or_told_of(tmp_path, song, name, format):
    whole = write(tmp_path / name, song[:1] if format == "SVX" else song, 48000, format=format)
    path = cut(whole, 0.6)
    text = refusal(path)
    assert "`allow_truncated`" in text
    with open_source(path, allow_truncated=True) as source:
        found = np.concatenate(list(source.blocks()), axis=1)
        again = np.concatenate(list(source.blocks()), axis=1)
    expected, _ = read_audio(whole)
    assert 0.45 < found.shape[1] / expected.shape[1] < 0.75
    assert np.array_equal(found, expected[:, : found.shape[1]]) and np.array_equal(found, again)
    assert len(source.warnings) == 1 and source.warnings[0].startswith(str(path))


@pytest.mark.parametrize("name", [name for name, format in LOSSLESS if format not in ("FLAC", "CAF")])
def test_truncation_that_a_header_shows_is_told_before_any_sound(tmp_path, song, name):
    path = cut(write(tmp_path / name, song[:1], 48000, format=dict(LOSSLESS)[name]), 0.99)
    with pytest.raises(AudioError, match="ends"):
        open_source(path)


@pytest.mark.parametrize(("name", "format", "subtype"), COMPRESSED)
def test_compressed_files_keep_their_length_and_truncated_ones_are_told_of(
    tmp_path, song, name, format, subtype, capfd
):
    whole = write(tmp_path / name, song, 48000, subtype, format=format)
    expected, _ = read_audio(whole)
    assert expected.shape == song.shape and open_source(whole).info.samples == song.shape[1]
    path = cut(whole, 0.8)
    assert "`allow_truncated`" in refusal(path)
    source = open_source(path, allow_truncated=True)
    found = read(source)
    assert 0.1 < found.shape[1] / expected.shape[1] < 0.95 and len(source.warnings) == 1
    assert capfd.readouterr().err == ""  # mpg123 prints on its own


@pytest.mark.parametrize(
    ("name", "format", "subtype"), [*COMPRESSED, ("a.flac", "FLAC", "PCM_16"), ("a.wav", "WAV", "PCM_16")]
)
def test_a_part_is_that_part_of_the_whole(tmp_path, song, name, format, subtype):
    path = write(tmp_path / name, song, 48000, subtype, format=format)
    expected, _ = read_audio(path)
    for start, duration in ((0.0, 1.5), (1.23456, None), (2.5, 0.75), (3.5, 10.0), (3.9999, 1e-9)):
        source = open_source(path, start=start, duration=duration)
        first = round(start * 48000)
        samples = max(1, round(duration * 48000)) if duration else 1 << 40
        part = expected[:, first : first + samples]
        assert source.info.samples == part.shape[1]
        assert np.array_equal(read(source), part)


IN_WAV = ["IMA_ADPCM", "MS_ADPCM", "ULAW", "ALAW", "GSM610", "G721_32", "NMS_ADPCM_32"]
NOT_OF_LIBSNDFILE = ["libmp3lame", "mp2", "g722", "ac3"]


@pytest.mark.parametrize("coding", [*IN_WAV, *NOT_OF_LIBSNDFILE])
def test_compressed_sound_in_wav_is_whole_unless_it_is_cut(tmp_path, song, coding):
    """Its bytes are no count of samples, and the estimate of libsndfile's is none either."""
    path = tmp_path / "a.wav"
    if coding in NOT_OF_LIBSNDFILE:
        path = encode(path, [song[:1]], coding, "wav")
    else:
        write(path, song[:1], 48000, coding)
    source = open_source(path)
    found = read(source)
    assert 0 <= found.shape[1] - song.shape[1] < 5000 and source.warnings == []
    assert source.info.samples in (None, found.shape[1])
    assert "`allow_truncated`" in refusal(cut(path, 0.6))


def test_compressed_wav_whose_length_was_left_open_is_whole(tmp_path, song):
    path = encode(tmp_path / "a.wav", [song[:1]], "mp2", "wav")
    whole = read(open_source(path))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = data[4:8] = b"\xff" * 4
    path.write_bytes(data)
    assert np.array_equal(read(open_source(path)), whole)


def test_a_sample_dump_that_does_not_fill_its_last_packet_is_whole(tmp_path):
    path = write(tmp_path / "a.sds", noise(5001, 1))
    assert read(open_source(path)).shape == (1, 5001)


@pytest.mark.parametrize("format", ["RIFF", "RF64"])
def test_64_bit_integers_are_named(tmp_path, format):
    form = struct.pack("<HHIIHH", 1, 2, 8000, 8000 * 16, 16, 64)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 1600) + bytes(1600)
    path = tmp_path / "a.wav"
    path.write_bytes(format.encode() + struct.pack("<I", len(body)) + body)
    assert "a.wav: 64-bit integers, which are not read; expected PCM of 8, 16, 24" in refusal(path)


def test_a_start_behind_the_end_says_where_the_end_is(tmp_path):
    path = write(tmp_path / "a.wav", noise(8000))
    assert refusal(path, start=1.5).endswith("`start` 1.5: the sound ends after 1 s")


def test_a_part_that_is_whole_is_not_truncated(tmp_path, song):
    for name, subtype in (("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.ogg", "VORBIS")):
        path = cut(write(tmp_path / name, song, 48000, subtype), 0.7)
        source = open_source(path, duration=0.5)
        assert read(source).shape == (2, 24000) and source.warnings == []
        assert "`allow_truncated`" in refusal(path, duration=3.9)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("bit_depth", ["16", "24", "float"])
def test_streamed_wav_files_are_read_to_their_end(tmp_path, song, bit_depth, size):
    header = bytearray(streamed_header(48000, 2, bit_depth))
    header[40:44] = size.to_bytes(4, "little")
    subtype = {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}[bit_depth]
    plain = write(tmp_path / "plain.wav", song, 48000, subtype)
    expected, _ = read_audio(plain)
    samples = plain.read_bytes()[-expected.size * (int(bit_depth) // 8 if bit_depth != "float" else 4) :]
    path = tmp_path / "streamed.wav"
    path.write_bytes(bytes(header) + samples)
    source = open_source(path)
    assert (source.info.samples, source.info.bit_depth) == (song.shape[1], bit_depth)
    if bit_depth != "float":  # libsndfile writes a PEAK chunk behind nothing; only integers end with their samples
        assert np.array_equal(read(source), expected) and source.warnings == []
        assert np.array_equal(read(open_source(path, start=1.0, duration=0.5)), expected[:, 48000:72000])


def test_wav_files_beyond_4_gb_whose_size_wrapped_are_not_cut(tmp_path):
    """A sparse file: nothing of it is on the disk."""
    size = (1 << 32) + 4000
    path = tmp_path / "long.wav"
    header = bytearray(streamed_header(44100, 2, "16"))
    header[4:8], header[40:44] = (4036).to_bytes(4, "little"), (4000).to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(44 + size)
        file.seek(44 + size - 4)
        file.write(b"\x00\x40\x00\xc0")
    source = open_source(path, start=size / 4 / 44100 - 0.01)
    assert open_source(path).info.samples == size // 4
    assert np.array_equal(read(source)[:, -1], np.float32([0.5, -0.5]))


def test_flac_without_a_count_of_samples_is_read_to_its_end(tmp_path, song):
    path = write(tmp_path / "a.flac", song, 48000)
    expected, _ = read_audio(path)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO
    data[22:26] = bytes(4)
    path.write_bytes(data)
    source = open_source(path)
    assert source.info.samples is None and source.info.seconds is None
    assert np.array_equal(read(source), expected)
    assert "`start` 99: the sound ends before" in refusal(path, start=99)


def test_flac_is_given_up_to_the_block_that_is_damaged(tmp_path, song):
    path = write(tmp_path / "a.flac", song, 48000)
    expected, _ = read_audio(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    assert "damaged or cut off after" in refusal(path)
    found = read(open_source(path, allow_truncated=True))
    assert found.shape[1] % 4096 == 0 and 0.3 < found.shape[1] / expected.shape[1] < 0.7
    assert np.array_equal(found, expected[:, : found.shape[1]])


@pytest.mark.parametrize(
    ("name", "format", "subtype"), [*COMPRESSED, ("a.flac", "FLAC", "PCM_16"), ("a.wav", "WAV", "PCM_16")]
)
def test_a_tag_behind_the_file_is_no_truncation(tmp_path, song, name, format, subtype):
    path = write(tmp_path / name, song, 48000, subtype, format=format)
    expected, _ = read_audio(path)
    with path.open("ab") as file:
        file.write(b"TAGA title of thirty letters".ljust(128, b" "))
    source = open_source(path)
    assert np.array_equal(read(source), expected) and source.warnings == []


def test_several_ogg_streams_in_one_file_are_not_cut_silently(tmp_path, song):
    path = write(tmp_path / "a.ogg", song, 48000, "VORBIS")
    path.write_bytes(path.read_bytes() * 2)
    assert "several Ogg streams" in refusal(path)


@pytest.mark.parametrize(
    ("rate", "expected"), [(999, "a sample rate of 999 Hz"), (10_000_000, "10000000 Hz; expected 1000 to 768000")]
)
def test_absurd_rates_are_refused(tmp_path, rate, expected):
    assert expected in refusal(write(tmp_path / "a.wav", noise(2000), rate))


def test_promises_of_billions_of_samples_take_no_memory(tmp_path):
    wav = write(tmp_path / "a.wav", noise(4000))
    data = bytearray(wav.read_bytes())
    data[40:44] = (4_000_000_000).to_bytes(4, "little")
    wav.write_bytes(data)
    assert "its header says 125000.0 s" in refusal(wav)
    flac = write(tmp_path / "a.flac", noise(4000))
    data = bytearray(flac.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    flac.write_bytes(data)
    tracemalloc.start()
    try:
        assert "its header says" in refusal(flac)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "suffix", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "caf", "m4a", "mp4", "wma", "raw", "txt"]
)
@pytest.mark.parametrize("kind", ["empty", "page", "pointer", "random", "text", "zeros"])
def test_what_is_no_audio_gets_one_line_under_any_suffix(tmp_path, capfd, suffix, kind):
    content = {
        "empty": b"",
        "page": b"\n<!doctype html><title>404</title>" * 100,
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "random": np.random.default_rng(3).bytes(20_000),
        "text": b"a list of songs\n" * 1000,
        "zeros": bytes(20_000),
    }[kind]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    named = {"empty": "an empty file", "page": "an HTML page", "pointer": "a Git LFS pointer"}
    assert f"a.{suffix}: {named.get(kind, '')}" in (text := refusal(path)) and "expected" in text
    assert capfd.readouterr() == ("", "")


def test_audio_under_a_wrong_suffix_is_read_all_the_same(tmp_path, song):
    path = write(tmp_path / "a.flac", song, 48000).rename(tmp_path / "a.mp3")
    assert read(open_source(path)).shape == song.shape


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
def test_names_that_are_no_utf_8(tmp_path, song):
    for name, subtype in (("a.wav", "PCM_16"), ("a.ogg", "VORBIS")):
        path = write(tmp_path / name, song, 48000, subtype)
        odd = path.rename(path.with_name(os.fsdecode(b"caf\xe9 \xff" + name.encode())))
        assert read(open_source(odd)).shape == song.shape


def test_sounds_that_are_odd_but_whole_are_read(tmp_path):
    square = np.sign(np.sin(np.arange(4000) / 20)).astype(np.float32)[None]
    for waveform in (np.zeros((2, 5000)), np.full((1, 1), 0.25), np.full((2, 3000), -0.5), square):
        path = write(tmp_path / "a.wav", waveform.astype(np.float32), subtype="FLOAT")
        assert np.array_equal(read_audio(path)[0], waveform)


def test_c_libraries_are_quiet_while_python_is_not(capfd):
    library = ctypes.CDLL(None)
    library.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]

    def say(text: bytes) -> None:
        for name in ("stdout", "stderr"):
            stream = ctypes.c_void_p.in_dll(library, name)
            library.fputs(text, stream)
            library.fflush(stream)

    say(b"before\n")
    with quiet(), quiet():
        say(b"inside\n")
        os.write(1, b"python\n")
        os.write(2, b"python\n")
    say(b"after\n")
    assert capfd.readouterr() == ("before\npython\nafter\n",) * 2


def test_what_libsndfile_prints_of_damage_is_not_seen(tmp_path, song, capfd):
    """In a MIDI sample dump it prints a line on stdout for each packet that is not as expected."""
    path = write(tmp_path / "a.sds", song[:1, :5000], 48000, format="SDS")
    data = bytearray(path.read_bytes())
    data[21 + 127 * 3 : 21 + 127 * 3 + 4] = b"\x33\x03\x33\x03"
    path.write_bytes(data)
    with open_source(path, allow_truncated=True) as source:
        assert next(source.blocks()).size
    assert capfd.readouterr() == ("", "")

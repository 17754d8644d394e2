"""What FFmpeg reads: m4a, wma, and the tracks of videos."""

from __future__ import annotations

import builtins
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from stubs import StubEngine, each_frame_alone

from ft.audio.open import audio_info, open_source
from ft.audio.source import INSTALL_MEDIA
from ft.errors import AudioError
from ft.separate import Separator
from ft.songs import separate_file

RATE = 48000
PICTURES = {"webm": "libvpx", "flv": "flv"}


@pytest.fixture(scope="module")
def song(example):
    return soundfile.read(example / "mixture.flac", frames=2 * RATE + 123, dtype="float32", always_2d=True)[0].T


def encode(
    path: Path,
    tracks: list[np.ndarray],
    codec: str,
    format: str | None = None,
    *,
    rate: int = RATE,
    video: bool = False,
    late: float = 0.0,
    gap: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """A file with these tracks (channels, samples), and a picture that moves where `video`.

    Args:
        late: seconds at which the tracks start, and `gap` the seconds that are missing after the first of sound.
    """
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        picture = container.add_stream(PICTURES.get(format, "mpeg4"), rate=10) if video else None
        streams = []
        for waveform in tracks:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(waveform)]
            streams.append(container.add_stream(codec, rate=rate, layout=layout, bit_rate=192_000))
        if picture is not None:
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
            for number in range(10):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        for waveform, stream in zip(tracks, streams, strict=True):
            layout = stream.layout.name
            if not stream.codec_context.is_open:
                stream.codec_context.open()
            size = stream.codec_context.frame_size or 1024
            convert = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate)
            for start in range(0, waveform.shape[1], size):
                piece = np.ascontiguousarray(waveform[:, start : start + size])
                frame = av.AudioFrame.from_ndarray(piece, "fltp", layout)
                frame.rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = start + round(rate * (late + (gap if start >= rate else 0)))
                for converted in convert.resample(frame):
                    container.mux(stream.encode(converted))
            container.mux(stream.encode(None))
    return path


def read(source) -> np.ndarray:
    with source:
        return np.concatenate(list(source.blocks()), axis=1)


def refusal(path: Path, **chosen) -> str:
    with pytest.raises(AudioError) as caught:
        read(open_source(path, **chosen))
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    return text


def error_share(found: np.ndarray, expected: np.ndarray) -> float:
    """Energy of the difference, as a share of that which was expected; near 2 where one is shifted."""
    return float(np.square(found - expected).sum() / np.square(expected).sum())


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "codec", "format", "bit_depth"),
    [
        ("a.m4a", "alac", "ipod", "24"),
        ("a.mov", "pcm_s16le", "mov", "16"),
        ("a.mov", "pcm_s24le", "mov", "24"),
        ("a.mov", "pcm_f32le", "mov", "float"),
        ("a.avi", "pcm_s16le", "avi", "16"),
        ("a.mka", "flac", "matroska", "16"),
        ("a.mp4", "flac", "mp4", "16"),
    ],
)
def test_lossless_tracks_keep_every_sample(tmp_path, song, name, codec, format, bit_depth, channels):
    path = encode(tmp_path / name, [song[:channels]], codec, format)
    source = open_source(path)
    assert (source.info.sample_rate, source.info.channels, source.info.bit_depth) == (RATE, channels, bit_depth)
    assert source.repeatable
    found = read(source)
    assert found.shape == (channels, song.shape[1])
    assert np.abs(found - song[:channels]).max() < 1 / 30000
    assert np.array_equal(found, read(open_source(path))) and source.warnings == []


@pytest.mark.parametrize("rate", [48000, 44100])
@pytest.mark.parametrize("samples", [2048, 30_000, 48_000, 50_003, 96_123])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_aac_in_mp4_has_the_samples_that_were_encoded(tmp_path, song, samples, rate, options):
    """Neither the encoder's priming nor its padding, although FFmpeg notes the length in milliseconds."""
    path = encode(tmp_path / "a.m4a", [song[:, :samples]], "aac", "ipod", rate=rate, options=options)
    source = open_source(path)
    found = read(source)
    assert source.info.samples == samples == found.shape[1]
    if samples > 10_000:
        assert error_share(found[:, :20_000], song[:, :20_000]) < 0.2


@pytest.mark.parametrize(("name", "codec", "format"), [("a.webm", "libopus", "webm"), ("a.mp3", "libmp3lame", "mov")])
def test_paddings_that_are_noted_are_left_out(tmp_path, song, name, codec, format):
    path = encode(tmp_path / name, [song], codec, "webm" if format == "webm" else "mp3")
    path = path.rename(path.with_suffix(".mkv"))
    found = read(open_source(path, track=1))
    assert found.shape == song.shape and error_share(found, song) < 0.2


def test_wma_and_adts_are_read(tmp_path, song):
    for name, codec, format in (("a.wma", "wmav2", "asf"), ("a.aac", "aac", "adts")):
        found = read(open_source(encode(tmp_path / name, [song], codec, format)))
        assert abs(found.shape[1] - song.shape[1]) < 2 * 2048  # neither notes how long the sound is


@pytest.mark.parametrize(
    ("name", "codec", "format"),
    [
        ("a.mkv", "flac", "matroska"),
        ("a.mkv", "aac", "matroska"),
        ("a.webm", "libopus", "webm"),
        ("a.mp4", "aac", "mp4"),
        ("a.mov", "pcm_s16le", "mov"),
        ("a.m2ts", "aac", "mpegts"),
        ("a.flv", "aac", "flv"),
    ],
)
def test_sound_that_starts_later_than_its_video_is_whole(tmp_path, song, name, codec, format):
    source = open_source(encode(tmp_path / name, [song], codec, format, video=True, late=1.5))
    found = read(source)
    assert source.warnings == [] and 0 <= found.shape[1] - song.shape[1] < 2048
    assert source.info.offset == pytest.approx(1.5, abs=0.03)  # AAC's encoder puts 1024 samples before the sound
    if source.info.samples is not None:
        assert source.info.samples == pytest.approx(found.shape[1], abs=1100)
    assert open_source(source.info.path, start=0.5).info.offset == source.info.offset


@pytest.mark.parametrize("late", [0.0, 0.4])
@pytest.mark.parametrize(
    ("name", "codec", "format"),
    [
        ("a.m4a", "alac", "ipod"),
        ("a.mka", "flac", "matroska"),
        ("a.mka", "libmp3lame", "matroska"),
        ("a.webm", "libopus", "webm"),
        ("a.avi", "pcm_s16le", "avi"),
        ("a.mpg", "mp2", "mpeg"),
    ],
)
def test_any_place_of_a_sound_is_reached_to_the_sample(tmp_path, song, name, codec, format, late):
    """Also where the clock counts milliseconds."""
    source = open_source(encode(tmp_path / name, [np.tile(song, 4)], codec, format, late=late))
    whole = read(source)
    for first in (0, 100, 30_000, 200_017, whole.shape[1] - 3000):
        part = source.part(first, 5000)
        assert np.abs(part - whole[:, first : first + 5000]).max() < 1e-4
    assert source.part(whole.shape[1] + RATE, 100).shape == (2, 0)


def test_the_record_of_a_song_says_where_its_sound_belongs(tmp_path, song):
    path = encode(tmp_path / "a.mkv", [song], "flac", "matroska", video=True, late=1.5)
    with Separator(StubEngine(each_frame_alone)) as separator:
        record = separate_file(separator, path, tmp_path / "out")
    assert json.loads(record.to_json())["offset_seconds"] == 1.5 and record.audio_seconds == song.shape[1] / RATE


def test_sound_with_a_gap_in_its_clock_is_whole(tmp_path, song):
    path = encode(tmp_path / "a.mka", [song], "flac", "matroska", gap=2.0)
    assert b"00:00:04.0" in path.read_bytes()  # so much of it there is not
    source = open_source(path)
    assert read(source).shape == song.shape and source.warnings == [] and source.info.offset == 0
    for status in ("done", "skipped"):  # the container promises more than there is in the stems
        with Separator(StubEngine(each_frame_alone), skip_existing=True) as separator:
            assert separate_file(separator, path, tmp_path / "out").status == status


def test_what_mkvmerge_notes_of_a_track_is_its_length(tmp_path, song):
    path = encode(tmp_path / "a.mka", [song], "flac", "matroska", late=1.5)
    data = path.read_bytes()
    assert data.count(b"00:00:03.50") == 1 and open_source(path).info.seconds == pytest.approx(2, abs=0.01)
    path.write_bytes(data.replace(b"Lavf", b"libe").replace(b"00:00:03.50", b"00:00:02.00"))
    source = open_source(path)
    assert source.info.seconds == pytest.approx(2, abs=0.01) and read(source).shape == song.shape
    path.write_bytes(data.replace(b"00:00:03.50", b"00:00:03.90"))
    assert "ends after 2.0 s; its header says 2.4 s" in refusal(path)


def test_an_encoders_delay_that_a_container_counts_is_not_missing(tmp_path, song):
    source = open_source(encode(tmp_path / "a.mka", [song], "libmp3lame", "matroska", rate=8000))
    assert read(source).shape == song.shape and source.warnings == []


def test_the_tracks_of_a_video(tmp_path, song):
    path = encode(tmp_path / "a.mkv", [song, -0.5 * song[:, :RATE]], "flac", "matroska", video=True)
    assert np.abs(read(open_source(path)) - song).max() < 1 / 30000
    assert np.array_equal(read(open_source(path)), read(open_source(path, track=1)))
    second = read(open_source(path, track=2))
    assert second.shape == (2, RATE) and np.abs(second + 0.5 * song[:, :RATE]).max() < 1 / 30000
    assert "`track` 3: it has 2 audio tracks; expected 1 to 2" in refusal(path, track=3)
    silent = encode(tmp_path / "silent.mp4", [], "aac", "mp4", video=True)
    assert "holds no audio track" in refusal(silent)
    surround = encode(tmp_path / "surround.m4a", [np.zeros((6, 9000), np.float32)], "aac", "ipod")
    assert "6 channels; expected 1 or 2" in refusal(surround)


def test_a_part_is_that_part_of_the_whole(tmp_path, song):
    path = encode(tmp_path / "a.m4a", [song], "aac", "ipod")
    expected = read(open_source(path))
    for start, duration in ((0.0, 0.5), (0.123, None), (1.0, 0.25), (1.5, 9.0)):
        source = open_source(path, start=start, duration=duration)
        stop = None if duration is None else round(start * RATE) + round(duration * RATE)
        part = expected[:, round(start * RATE) : stop]
        assert source.info.samples == part.shape[1] and np.array_equal(read(source), part)
    assert "`start` 9: the sound ends after 2 s" in refusal(path, start=9.0)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ("name", "codec", "format", "options"),
    [
        ("a.m4a", "aac", "ipod", {"movflags": "faststart"}),
        ("a.mkv", "aac", "matroska", {}),
        ("a.webm", "libopus", "webm", {}),
        ("a.avi", "pcm_s16le", "avi", {}),
        ("a.wma", "wmav2", "asf", {}),
    ],
)
def test_truncated_files_are_refused_or_told_of(tmp_path, song, name, codec, format, options, share, capfd):
    path = encode(tmp_path / name, [song], codec, format, options=options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "`allow_truncated`" in refusal(path)
    source = open_source(path, allow_truncated=True)
    found = read(source)
    assert 0.3 < found.shape[1] / song.shape[1] <= 1.02
    assert len(source.warnings) == 1 and source.warnings[0].startswith(str(path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "codec", "format"),
    [
        ("a.m4a", "aac", "ipod"),
        ("a.mkv", "flac", "matroska"),
        ("a.avi", "pcm_s16le", "avi"),
        ("a.wma", "wmav2", "asf"),
        ("a.aac", "aac", "adts"),
    ],
)
def test_a_tag_behind_the_file_is_no_truncation(tmp_path, song, name, codec, format):
    path = encode(tmp_path / name, [song], codec, format)
    expected = read(open_source(path))
    with path.open("ab") as file:
        file.write(b"TAGA title of thirty letters".ljust(128, b" "))
    source = open_source(path)
    assert np.array_equal(read(source), expected) and source.warnings == []


def test_an_mp4_without_its_index_is_refused(tmp_path, song):
    path = encode(tmp_path / "a.m4a", [song], "aac", "ipod")  # the index stands at the end
    path.write_bytes(path.read_bytes()[:10_000])
    for allowed in (False, True):
        text = refusal(path, allow_truncated=allowed)
        assert "ends after 10000 bytes; its header says" in text and "expected the whole file" in text


def test_a_track_that_lacks_packets_is_told_of(tmp_path, song):
    """The file is as long as it says, but its sound is not."""
    path = encode(tmp_path / "a.m4a", [song], "aac", "ipod", options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at + (len(data) - at) // 2 :] = b"\xff" * (len(data) - at - (len(data) - at) // 2)
    path.write_bytes(data)
    with open_source(path, allow_truncated=True) as source:
        assert sum(block.shape[1] for block in source.blocks()) < song.shape[1] and source.warnings


def test_a_file_is_recognised_under_any_suffix(tmp_path, song):
    path = encode(tmp_path / "a.m4a", [song], "alac", "ipod")
    for suffix in ("mp3", "wav", "xyz"):
        path = path.rename(path.with_suffix(f".{suffix}"))
        assert read(open_source(path)).shape == song.shape


def test_names_are_never_taken_for_addresses_and_playlists_never_followed(tmp_path, song, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = encode(tmp_path / "a.m4a", [song], "alac", "ipod").rename(tmp_path / "http:x.m4a")
    assert read(open_source(Path(odd.name))).shape == song.shape
    for content in (
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp:x.m4a\n",
        "ffconcat version 1.0\nfile http:x.m4a\n",
    ):
        (tmp_path / "list.mp4").write_text(content)
        refusal(tmp_path / "list.mp4")


def test_without_pyav_the_line_says_how_to_get_it(tmp_path, monkeypatch):
    usual = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "av" or name.startswith("av."):
            raise ImportError(name)
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("a.m4a", "a.txt"):
        path = tmp_path / name
        path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(3000) if name == "a.m4a" else b"words " * 100)
        with pytest.raises(AudioError) as caught:
            audio_info(path)
        assert INSTALL_MEDIA in str(caught.value) and "\n" not in str(caught.value)

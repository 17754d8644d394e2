"""What each format can hold, measured on the files that libsndfile writes with the settings."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from ft.audio.formats import (
    DEFAULT_BITRATES,
    encoder_settings,
    format_notes,
    nearest_rate,
    stem_format,
)
from ft.audio.open import read_audio
from ft.audio.source import AudioInfo
from ft.errors import AudioError, ConfigError
from ft.options import SeparateOptions

RATES = (1000, 7999, 8000, 11025, 16000, 22050, 32000, 37800, 44100, 48000, 65535, 88200, 96000, 192_000, 200_000)
RATES += (200_001, 352_800, 384_000, 655_350, 768_000)


def info(rate: int = 44100, channels: int = 2, bit_depth: str = "16") -> AudioInfo:
    return AudioInfo(Path("song.wav"), rate, channels, 1000, bit_depth)


def encoded(path: Path, options: SeparateOptions, sound: np.ndarray, rate: int) -> float:
    """kbit/s of a sound (samples, channels) as a file."""
    format = stem_format(options, info(rate, sound.shape[1]))
    settings = encoder_settings(format, sound.shape[1])
    with soundfile.SoundFile(path, "w", format.sample_rate, sound.shape[1], **settings) as file:
        for start in range(0, len(sound), 4096):
            file.write(sound[start : start + 4096])
    return path.stat().st_size * 8 / (len(sound) / format.sample_rate) / 1000


@pytest.fixture(scope="module")
def music(example) -> np.ndarray:
    """Ten seconds (samples, channels) at 48 kHz."""
    waveform, rate = read_audio(example / "mixture.flac")
    return np.ascontiguousarray(soxr.resample(waveform.T[10 * rate : 20 * rate], rate, 48000, "VHQ"))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("name", "bitrates", "error"),
    [
        ("mp3", (64, 80, 96, 112, 128, 160, 192, 224, 256, 320), 0.05),
        ("opus", (24, 48, 96, 160, 256), 0.15),
        ("ogg", (64, 96, 128, 192, 240), 0.25),
    ],
)
def test_a_file_has_the_bitrate_that_was_asked_for(tmp_path, music, name, channels, bitrates, error):
    sizes = []
    for bitrate in bitrates:
        options = SeparateOptions(format=name, bitrate=bitrate)
        size = encoded(tmp_path / "a", options, np.ascontiguousarray(music[:240_000, :channels]), 48000)
        assert stem_format(options, info(48000, channels)).bitrate == bitrate
        assert size == pytest.approx(bitrate, rel=error)
        sizes.append(size)
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("name", "error"), [("mp3", 0.05), ("opus", 0.15), ("ogg", 0.25)])
def test_the_default_bitrate_is_that_of_the_help(tmp_path, music, name, error):
    bitrate = stem_format(SeparateOptions(format=name), info()).bitrate
    help = SeparateOptions.__dataclass_fields__["bitrate"].metadata["shown"]
    assert f"{name} {bitrate}" in help and bitrate == DEFAULT_BITRATES[name]
    assert encoded(tmp_path / "a", SeparateOptions(format=name), music, 48000) == pytest.approx(bitrate, rel=error)


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 32000])
@pytest.mark.parametrize("bitrate", [64, 128, 320])
def test_mp3_has_its_bitrates_at_low_sample_rates_too(tmp_path, music, rate, bitrate):
    """The nearest that MPEG has there, and files whose length decoders know."""
    sound = soxr.resample(music[:240_000], 48000, rate)
    options = SeparateOptions(format="mp3", bitrate=bitrate)
    expected = stem_format(options, info(rate)).bitrate
    assert expected == min(bitrate, 64 if rate < 16000 else 160 if rate < 32000 else 320)
    # The first frame holds the header, which counts in five seconds.
    assert encoded(tmp_path / "a", options, sound, rate) == pytest.approx(expected, rel=0.1)
    assert soundfile.info(tmp_path / "a").frames == len(sound)


@pytest.mark.parametrize("name", ["wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_rate_that_is_read_can_be_written_or_is_refused(tmp_path, name, channels):
    """In a file that says it has this rate; at no rate does an encoder crash."""
    sound = np.zeros((100, channels), np.float32)
    for rate in RATES:
        try:
            format = stem_format(SeparateOptions(format=name), info(rate, channels))
        except AudioError as error:
            assert name == "flac" and (rate > 655_350 or rate % 10), error
            continue
        assert name not in ("wav", "flac") or format.sample_rate == rate
        if name != "wav":
            settings = encoder_settings(format, channels)
            with soundfile.SoundFile(tmp_path / "a", "w", format.sample_rate, channels, **settings) as file:
                file.write(sound)
            found = soundfile.info(tmp_path / "a")
            assert (found.samplerate, found.channels, found.frames) == (format.sample_rate, channels, 100)


def test_the_nearest_rate_is_the_lowest_that_loses_nothing():
    for name, rate in itertools.product(("opus", "mp3", "ogg"), range(1000, 768_000, 1777)):
        nearest = nearest_rate(name, rate)
        assert nearest_rate(name, nearest) == nearest
        assert nearest >= rate or nearest == {"opus": 48000, "mp3": 48000, "ogg": 192_000}[name]
    assert [nearest_rate("opus", rate) for rate in (8000, 11025, 44100, 48000, 96000)] == [8000, 12000, *[48000] * 3]
    assert [nearest_rate("mp3", rate) for rate in (1000, 37800, 44100, 88200)] == [8000, 44100, 44100, 48000]


def test_depth_is_the_inputs_unless_it_is_chosen():
    for depth in ("16", "24", "float"):
        assert stem_format(SeparateOptions(), info(bit_depth=depth)).bit_depth == depth
        assert stem_format(SeparateOptions(bit_depth="24"), info(bit_depth=depth)).bit_depth == "24"
        expected = "24" if depth == "float" else depth
        assert stem_format(SeparateOptions(format="flac"), info(bit_depth=depth)).bit_depth == expected
        assert stem_format(SeparateOptions(format="opus"), info(bit_depth=depth)).bit_depth is None
    assert not stem_format(SeparateOptions(bit_depth="float"), info()).clips
    assert all(
        stem_format(SeparateOptions(format=name), info()).clips for name in ("wav", "flac", "ogg", "opus", "mp3")
    )


@pytest.mark.parametrize(
    ("name", "bitrate", "message"),
    [
        ("mp3", 63, "`bitrate` 63: expected 64 to 320 kbit/s for mp3"),
        ("mp3", 321, "`bitrate` 321: expected 64 to 320 kbit/s for mp3"),
        ("mp3", 200, "`bitrate` 200: mp3 has no such rate; expected one of 64, 80, 96, "),
        ("opus", 5, "`bitrate` 5: expected 6 to 512 kbit/s for opus"),
        ("opus", 1000, "`bitrate` 1000: expected 6 to 512 kbit/s for opus"),
        ("ogg", 7, "`bitrate` 7: expected 8 to 500 kbit/s for ogg"),
        ("ogg", 501, "`bitrate` 501: expected 8 to 500 kbit/s for ogg"),
    ],
)
def test_a_bitrate_that_no_sound_can_have_is_refused(name, bitrate, message):
    with pytest.raises(ConfigError) as error:
        SeparateOptions(format=name, bitrate=bitrate)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_what_a_format_cannot_hold_of_one_song_is_noted():
    """A library has some mono songs, and some of other rates; they do not fail for it."""

    def notes(options: SeparateOptions, song: AudioInfo) -> list[str]:
        return format_notes(stem_format(options, song), options, song)

    assert notes(SeparateOptions(), info(37000)) == []
    assert notes(SeparateOptions(format="mp3"), info()) == []
    assert notes(SeparateOptions(format="opus"), info()) == ["opus cannot hold 44100 Hz; the stems have 48000 Hz"]
    high = SeparateOptions(format="ogg", bitrate=320)
    assert notes(high, info()) == []
    assert notes(high, info(channels=1)) == ["ogg cannot hold 44100 Hz mono in 320 kbit/s; the stems have 240 kbit/s"]
    assert len(notes(SeparateOptions(format="mp3"), info(22050))) == 1
    assert len(notes(SeparateOptions(format="mp3"), info(10000))) == 2


def test_flac_says_what_it_cannot_hold():
    for rate in (768_000, 65_537):
        with pytest.raises(AudioError, match=rf"song\.wav: {rate} Hz; .*`format` wav"):
            stem_format(SeparateOptions(format="flac"), info(rate))

"""Stem files: what is written."""

import threading
import wave

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from stems import KINDS, STEMS, names, noise, writer_of, written

import ft.audio.wav
import ft.songs.parts
import ft.songs.writer
from ft.audio.encode import set_serial
from ft.audio.open import read_audio
from ft.audio.source import BLOCK_SAMPLES
from ft.audio.tags import Tags
from ft.errors import AudioError, Cancelled, EngineError


@pytest.mark.parametrize("name", ["wav", "flac"])
@pytest.mark.parametrize(("bit_depth", "subtype", "step"), [("16", "PCM_16", 2**-15), ("24", "PCM_24", 2**-23)])
def test_integer_stems_are_rounded_to_the_nearest_step_of_their_own_scale(tmp_path, name, bit_depth, subtype, step):
    stems = {"vocals": noise(100_000), "instrumental": noise(100_000, seed=1)}
    writer = writer_of(tmp_path / "song", name, bit_depth, rate=44100)
    for stem, path in written(writer, stems).items():
        assert soundfile.info(path).subtype == subtype and soundfile.info(path).samplerate == 44100
        found, _ = soundfile.read(path, dtype="float64", always_2d=True)
        assert np.abs(found.T - stems[stem]).max() <= step / 2
    assert writer.gain == 1
    assert names(tmp_path / "song") == [f"instrumental.{name}", f"vocals.{name}"]


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_16_bit_input_comes_back_bit_for_bit(tmp_path, name):
    steps = np.arange(-(2**15), 2**15, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", steps, 8000)
    waveform, _ = read_audio(tmp_path / "a.wav")
    stems = {"vocals": waveform, "instrumental": np.zeros_like(waveform)}
    files = written(writer_of(tmp_path / "song", name, channels=1), stems)
    assert np.array_equal(soundfile.read(files["vocals"], dtype="int16")[0], steps)


@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_channels_and_length_are_kept(tmp_path, name, bit_depth, channels):
    """Of one sample, of odd lengths, and around the frames of the encoders."""
    for samples in (1, 2, 575, 576, 1151, 4097, 24001):
        waveform = noise(samples, channels)
        writer = writer_of(tmp_path, name, bit_depth, channels, 48000, ("vocals",))
        path = written(writer, {"vocals": waveform})["vocals"]
        found, rate = read_audio(path)
        assert (found.shape, rate) == (waveform.shape, 48000)
        if name in ("wav", "flac"):
            step = {"16": 2**-15, "24": 2**-23, "float": 0}[bit_depth]
            assert np.abs(found - waveform).max() <= step / 2


@given(samples=st.integers(1, 3000), rate=st.sampled_from([1000, 11025, 37800, 44100, 96000, 768_000]))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("name", ["opus", "mp3", "ogg"])
def test_a_rate_the_format_cannot_hold_gives_the_length_at_the_nearest(tmp_path_factory, name, samples, rate):
    writer = writer_of(tmp_path_factory.mktemp("song"), name, None, 1, rate, ("vocals",))
    path = written(writer, {"vocals": noise(samples, 1)}, 997)["vocals"]
    info = soundfile.info(path)
    expected = max(int(samples * info.samplerate / rate + 0.5), 1)
    assert (info.samplerate, info.frames) == (writer.format.sample_rate, expected)


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_stems_begin_at_the_same_sample_and_sound_like_it(tmp_path, example, name, channels):
    waveform = read_audio(example / "mixture.flac")[0][:channels, 200_000:300_000]
    path = written(writer_of(tmp_path, name, None, channels, 44100, ("vocals",)), {"vocals": waveform})["vocals"]
    found, rate = read_audio(path)
    if rate != 44100:
        import soxr

        waveform = soxr.resample(waveform.T, 44100, rate, "VHQ").T.reshape(channels, -1)
    assert found.shape == waveform.shape

    def error(shift: int) -> float:
        part = slice(5000, -5000)
        return float(np.square(np.roll(found, shift, 1)[:, part] - waveform[:, part]).mean())

    power = float(np.square(waveform).mean())
    assert error(0) < 0.02 * power
    assert all(error(0) < error(shift) for shift in (-2, -1, 1, 2))


@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
def test_the_same_stems_give_the_same_bytes(tmp_path, name, bit_depth):
    block, bytes_ = {"vocals": noise(30_000), "instrumental": noise(30_000, seed=1)}, []
    tags = Tags({"TITLE": ("Caesium",)})
    for folder in ("a", "b"):
        files = written(writer_of(tmp_path / folder, name, bit_depth, rate=48000, tags=tags), block)
        bytes_.append([path.read_bytes() for path in files.values()])
    assert bytes_[0] == bytes_[1]
    assert bytes_[0][0] != bytes_[0][1]


def test_what_would_clip_is_lowered_by_one_gain_for_all_stems(tmp_path):
    stems = {"vocals": 4 * noise(5000), "instrumental": noise(5000, seed=1)}
    peak = np.abs(stems["vocals"]).max()
    assert peak > 1
    for name, bit_depth, gain in (("wav", "16", 1 / peak), ("flac", "24", 1 / peak), ("wav", "float", 1)):
        writer = writer_of(tmp_path / bit_depth, name, bit_depth)
        for stem, path in written(writer, stems).items():
            np.testing.assert_allclose(read_audio(path)[0], gain * stems[stem], atol=5e-5)
        assert writer.gain == pytest.approx(gain)


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_lossy_stems_are_lowered_too_as_their_encoders_would_clip(tmp_path, name):
    tone = np.sin(2 * np.pi * 440 / 48000 * np.arange(48000, dtype=np.float32))[None]
    stems = {"vocals": 2 * tone, "instrumental": 0.5 * tone}
    writer = writer_of(tmp_path, name, None, 1, 48000)
    files = written(writer, stems)
    assert writer.gain == pytest.approx(0.5)
    for stem, path in files.items():
        found = read_audio(path)[0][:, 4800:-4800]
        assert np.abs(found).max() == pytest.approx(np.abs(stems[stem]).max() / 2, rel=0.03)


def test_the_peak_counts_at_the_rate_of_the_file(tmp_path):
    """Full scale squares overshoot when they are resampled; that is what would clip."""
    square = np.tile(np.repeat(np.float32([1, -1]), 50), (1, 100))
    writer = writer_of(tmp_path, "opus", None, 1, 44100, ("vocals",))
    written(writer, {"vocals": square})
    assert writer.peaks["vocals"] > 1.05 and writer.gain == pytest.approx(1 / writer.peaks["vocals"])


def test_full_scale_does_not_count_as_clipping(tmp_path):
    square = np.tile(np.float32([1, -1]), (2, 100))
    writer = writer_of(tmp_path / "song")
    files = written(writer, {"vocals": square, "instrumental": 0 * square})
    assert writer.gain == 1
    np.testing.assert_allclose(read_audio(files["vocals"])[0], square, atol=2**-15)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "16"), ("wav", "float"), ("opus", None)])
def test_values_that_are_not_finite_never_become_a_file(tmp_path, value, name, bit_depth):
    """Not through a resampler either."""
    block = noise(100)
    block[1, 50] = value
    writer = writer_of(tmp_path / "song", name, bit_depth, rate=44100)
    with pytest.raises(EngineError, match=r"vocals\.\w+: values that are not finite"):
        written(writer, {"vocals": block, "instrumental": noise(100)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "bit_depth", "rate"), [("wav", "16", 8000), ("flac", "24", 8000), ("opus", None, 44100)]
)
def test_a_stem_alone_is_the_file_that_it_is_beside_the_other(tmp_path, name, bit_depth, rate):
    """At the level that both get, where the other one would clip: so the stems of two runs make up the mixture."""
    stems = {"vocals": noise(20_000), "instrumental": np.tile(np.repeat(np.float32([1, -1]), 50), (2, 200))}
    if rate == 8000:
        stems["instrumental"] *= 1.5
    both = writer_of(tmp_path / "both", name, bit_depth, rate=rate)
    together = written(both, stems)
    assert both.gain < 0.99 and both.peaks["vocals"] < 1
    for stem, path in together.items():
        alone = writer_of(tmp_path / stem, name, bit_depth, rate=rate, stems=(stem,))
        assert written(alone, stems)[stem].read_bytes() == path.read_bytes()
        assert names(tmp_path / stem) == [f"{stem}.{name}"]
        assert (alone.gain, alone.peaks) == (both.gain, both.peaks)


@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "16"), ("wav", "24"), ("flac", "16"), ("mp3", None)])
def test_writing_can_be_stopped_at_any_moment(tmp_path, name, bit_depth):
    """Before each block of each stem, from the thread that asked for the files; nothing is left then."""
    calls, limit, threads = 0, -1, set()

    def check() -> None:
        nonlocal calls
        calls += 1
        threads.add(threading.current_thread())
        if calls == limit:
            raise Cancelled("stop")

    block = {stem: noise(4 * BLOCK_SAMPLES) for stem in STEMS}
    with writer_of(tmp_path / "whole", name, bit_depth, rate=48000) as writer:
        writer.write(block)
        writer.commit(check)
    assert calls >= (4 if name == "mp3" else 10) and threads == {threading.current_thread()}
    for last in (1, 2, 3, calls if name != "mp3" else 4):
        calls, limit = 0, last
        with writer_of(tmp_path / "new" / "song", name, bit_depth, rate=48000) as writer:
            writer.write(block)
            with pytest.raises(Cancelled):
                writer.commit(check)
        assert names(tmp_path) == ["whole"]


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_serial_numbers_are_those_of_the_sound_on_every_page(tmp_path, name):
    """And the pages are still whole to one who looks at their checksums."""
    from mutagen.ogg import OggPage

    path = written(writer_of(tmp_path, name, None, 1, 48000, ("v",)), {"v": noise(100_000, 1)})["v"]
    serials = []
    for serial in (None, 0, 0xFFFF_FFFF):
        if serial is not None:
            set_serial(path, serial)
        with path.open("rb") as file:
            pages = []
            while file.tell() < path.stat().st_size:
                start = file.tell()
                pages.append(OggPage(file))
                file.seek(start)
                assert file.read(pages[-1].size) == pages[-1].write()
        serials.append({page.serial for page in pages})
        assert len(pages) > 3 and read_audio(path)[0].shape == (1, 100_000)
    assert len(serials[0]) == 1 and serials[1:] == [{0}, {0xFFFF_FFFF}]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AudioError, match="not made of whole Ogg pages"):
        set_serial(path, 1)


@pytest.mark.parametrize("bit_depth", ["16", "24", "float"])
def test_sound_too_long_for_wav_becomes_rf64(tmp_path, monkeypatch, bit_depth):
    monkeypatch.setattr(ft.audio.wav, "_LIMIT", 1000)
    for samples, expected in ((100, "WAV"), (1001, "RF64")):
        waveform = noise(samples, 1)
        files = written(writer_of(tmp_path, bit_depth=bit_depth, channels=1, stems=("v",)), {"v": waveform})
        assert soundfile.info(files["v"]).format == expected
        np.testing.assert_allclose(read_audio(files["v"])[0], waveform, atol=2**-15)


@pytest.mark.parametrize(("bit_depth", "size"), [("16", 44), ("24", 44)])
def test_the_header_of_integers_is_the_plain_one(tmp_path, bit_depth, size):
    """44 bytes, which every program reads, Python's own module among them."""
    waveform = noise(101, 1)
    path = written(writer_of(tmp_path, bit_depth=bit_depth, channels=1, stems=("v",)), {"v": waveform})["v"]
    width = int(bit_depth) // 8
    assert path.stat().st_size == size + 101 * width + 101 * width % 2
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, width, 8000)
        assert file.getnframes() == 101


def test_other_programs_read_float_wav_and_rf64(tmp_path, monkeypatch):
    import av

    for limit in (1 << 32, 1000):
        monkeypatch.setattr(ft.audio.wav, "_LIMIT", limit)
        waveform = 3 * noise(5001)
        path = written(writer_of(tmp_path, bit_depth="float", stems=("v",)), {"v": waveform})["v"]
        with av.open(str(path)) as file:
            blocks = [frame.to_ndarray().reshape(-1, 2).T for frame in file.decode(audio=0)]
        assert np.array_equal(np.concatenate(blocks, axis=1), waveform)

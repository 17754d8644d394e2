"""Audio files: what is read, what is written, and that nothing is left half done."""

import numpy as np
import pytest
import soundfile

import ft.audio
from ft.audio import StemWriter, audio_info, read_audio, read_blocks
from ft.errors import AudioError

STEMS = ("vocals", "instrumental")


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


@pytest.mark.parametrize(("bit_depth", "subtype", "step"), [("16", "PCM_16", 2**-15), ("24", "PCM_24", 2**-23)])
def test_integer_stems_are_rounded_to_the_nearest_step_of_their_own_scale(tmp_path, bit_depth, subtype, step):
    stems = {"vocals": noise(100_000), "instrumental": noise(100_000, seed=1)}
    with StemWriter(tmp_path / "song", STEMS, 2, 44100, bit_depth) as writer:
        for start in range(0, 100_000, 7777):
            writer.write({stem: waveform[:, start : start + 7777] for stem, waveform in stems.items()})
        writer.commit()
    assert writer.gain == 1
    for stem, path in writer.files.items():
        assert soundfile.info(path).subtype == subtype and soundfile.info(path).samplerate == 44100
        written, _ = soundfile.read(path, dtype="float64", always_2d=True)
        assert np.abs(written.T - stems[stem]).max() <= step / 2
    assert sorted(path.name for path in (tmp_path / "song").iterdir()) == ["instrumental.wav", "vocals.wav"]


def test_16_bit_input_comes_back_bit_for_bit(tmp_path):
    steps = np.arange(-(2**15), 2**15, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", steps, 8000)
    waveform, _ = read_audio(tmp_path / "a.wav")
    with StemWriter(tmp_path / "song", STEMS, 1, 8000, "16") as writer:
        writer.write({"vocals": waveform, "instrumental": np.zeros_like(waveform)})
        writer.commit()
    assert np.array_equal(soundfile.read(writer.files["vocals"], dtype="int16")[0], steps)


def test_what_would_clip_is_lowered_by_one_gain_for_all_stems(tmp_path):
    stems = {"vocals": 4 * noise(5000), "instrumental": noise(5000, seed=1)}
    peak = np.abs(stems["vocals"]).max()
    assert peak > 1
    for bit_depth, gain in (("16", 1 / peak), ("24", 1 / peak), ("float", 1)):
        with StemWriter(tmp_path / bit_depth, STEMS, 2, 8000, bit_depth) as writer:
            writer.write(stems)
            writer.commit()
        assert writer.gain == pytest.approx(gain)
        for stem, path in writer.files.items():
            np.testing.assert_allclose(read_audio(path)[0], gain * stems[stem], atol=5e-5)


def test_full_scale_does_not_count_as_clipping(tmp_path):
    square = np.tile(np.float32([1, -1]), (2, 100))
    with StemWriter(tmp_path / "song", STEMS, 2, 8000, "16") as writer:
        writer.write({"vocals": square, "instrumental": 0 * square})
        writer.commit()
    assert writer.gain == 1
    np.testing.assert_allclose(read_audio(writer.files["vocals"])[0], square, atol=2**-15)


def test_parts_grow_beside_the_final_place_and_names_come_at_the_end(tmp_path):
    folder = tmp_path / "song"
    block = noise(100_000)
    with StemWriter(folder, STEMS, 2, 8000, "16") as writer:
        sizes = []
        for _ in range(3):
            writer.write({"vocals": block, "instrumental": block})
            assert sorted(path.name for path in folder.iterdir()) == ["instrumental.wav.part", "vocals.wav.part"]
            sizes.append((folder / "vocals.wav.part").stat().st_size)
        assert sizes == sorted(sizes) and sizes[0] < sizes[2]
        writer.commit()
    assert sorted(path.name for path in folder.iterdir()) == ["instrumental.wav", "vocals.wav"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_ends_early_leaves_nothing(tmp_path, error):
    with pytest.raises(error), StemWriter(tmp_path / "new" / "song", STEMS, 2, 8000, "16") as writer:
        writer.write({"vocals": noise(10), "instrumental": noise(10)})
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays_until_the_new_is_whole(tmp_path):
    folder = tmp_path / "song"
    folder.mkdir()
    (folder / "vocals.wav").write_text("old")
    with pytest.raises(ValueError), StemWriter(folder, STEMS, 2, 8000, "16") as writer:
        writer.write({"vocals": noise(10), "instrumental": noise(10)})
        raise ValueError
    assert [path.name for path in folder.iterdir()] == ["vocals.wav"]
    assert (folder / "vocals.wav").read_text() == "old"


def test_a_failure_in_one_stem_leaves_neither(tmp_path, monkeypatch):
    convert = StemWriter._convert

    def fails_for_the_second(self, file, path):
        if path.name.startswith("instrumental"):
            raise OSError(28, "No space left on device")
        convert(self, file, path)

    monkeypatch.setattr(StemWriter, "_convert", fails_for_the_second)
    with (
        pytest.raises(AudioError, match=r"instrumental\.wav: cannot write: No space left on device"),
        StemWriter(tmp_path / "song", STEMS, 2, 8000, "16") as writer,
    ):
        writer.write({"vocals": noise(10), "instrumental": noise(10)})
        writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(AudioError, match=r"song: cannot write there: Not a directory"),
        StemWriter(tmp_path / "file" / "song", STEMS, 2, 8000, "16"),
    ):
        pass


def test_sound_too_long_for_wav_becomes_rf64(tmp_path, monkeypatch):
    monkeypatch.setattr(ft.audio, "_WAV_LIMIT", 1000)
    for samples, expected in ((100, "WAV"), (1000, "RF64")):
        waveform = noise(samples)
        with StemWriter(tmp_path / "song", STEMS, 2, 8000, "float") as writer:
            writer.write({"vocals": waveform, "instrumental": waveform})
            writer.commit()
        assert soundfile.info(writer.files["vocals"]).format == expected
        assert np.array_equal(read_audio(writer.files["vocals"])[0], waveform)

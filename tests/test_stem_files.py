"""Stem files: what is written, and that nothing is left half done."""

import numpy as np
import pytest
import soundfile

import ft.stem_files
from ft.audio import read_audio
from ft.errors import AudioError
from ft.stem_files import StemWriter

STEMS = ("vocals", "instrumental")


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


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
    monkeypatch.setattr(ft.stem_files, "_WAV_LIMIT", 1000)
    for samples, expected in ((100, "WAV"), (1000, "RF64")):
        waveform = noise(samples)
        with StemWriter(tmp_path / "song", STEMS, 2, 8000, "float") as writer:
            writer.write({"vocals": waveform, "instrumental": waveform})
            writer.commit()
        assert soundfile.info(writer.files["vocals"]).format == expected
        assert np.array_equal(read_audio(writer.files["vocals"])[0], waveform)

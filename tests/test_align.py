"""Aligning pairs: the delay to the sample, what is made of sign and level, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ft.data.align import Pair, chunks, find_alignment
from ft.data.prepare import align_folder, find_pairs
from ft.data.scan import Scan
from ft.data.sources import songs_from_sources
from ft.errors import DataError
from ft.train_config import Source

RATE = 44100


@pytest.fixture(scope="module")
def song(example) -> dict[str, np.ndarray]:
    """Twelve seconds, (samples, channels)."""
    return {
        stem: soundfile.read(example / f"{stem}.flac", dtype="float32", frames=12 * RATE)[0]
        for stem in ("mixture", "instrumental", "vocals")
    }


@pytest.fixture
def pair(song, tmp_path):
    """Writes a pair whose mixture is late by `delay` samples and whose instrumental is `level` times as loud."""

    def write(delay: int = 0, level: float = 1.0, folder: str = "song", **others) -> Pair:
        sides = {"mixture": others.get("mixture", song["mixture"]), "instrumental": song["instrumental"] * level}
        sides |= {name: value for name, value in others.items() if name in sides}
        late = "mixture" if delay > 0 else "instrumental"
        sides[late] = np.concatenate((np.zeros((abs(delay), 2), np.float32), sides[late]))
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name, waveform in sides.items():
            soundfile.write(tmp_path / folder / f"{name}.wav", waveform, RATE, subtype="FLOAT")
        return Pair(folder, tmp_path / folder / "mixture.wav", tmp_path / folder / "instrumental.wav")

    return write


@pytest.mark.parametrize("delay", [-20000, -1, 0, 7, 12345, 20000])
def test_delay_is_found_to_the_sample(pair, delay):
    found = find_alignment(pair(delay), max_delay=0.5)
    assert found.delay == delay
    assert found.gain == 1
    assert found.residual_db < -40


def test_polarity_and_level_are_named_and_mended(pair, song, tmp_path):
    found = find_alignment(pair(100, level=-0.5))
    assert found.delay == 100
    assert found.gain == pytest.approx(-2, rel=1e-3)
    assert "+6.02 dB" in str(found) and "polarity" in str(found)
    assert align_folder(tmp_path, tmp_path / "out") == []
    vocals, _ = soundfile.read(tmp_path / "out" / "song" / "vocals.wav", dtype="float32")
    assert np.abs(vocals - song["vocals"][: len(vocals)]).max() < 0.01


def test_written_songs_are_whole_and_what_training_reads(pair, song, tmp_path):
    pair(-5000)
    told: list[str] = []
    assert align_folder(tmp_path, tmp_path / "out", report=told.append) == []
    assert "-5000 samples" in told[0]
    files = {path.stem: soundfile.read(path, dtype="float32")[0] for path in (tmp_path / "out" / "song").iterdir()}
    assert set(files) == {"mixture", "instrumental", "vocals"}
    assert len({len(waveform) for waveform in files.values()}) == 1
    assert np.array_equal(files["mixture"], song["mixture"][: len(files["mixture"])])
    assert np.array_equal(files["vocals"], files["mixture"] - files["instrumental"])
    from ft.config import ModelConfig

    assert len(songs_from_sources([Source(str(tmp_path / "out"))], Scan(ModelConfig()))) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert align_folder(tmp_path / "out", tmp_path / "out", report=told.append) == []
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_pairs_that_do_not_fit_are_named_and_not_written(pair, song, tmp_path):
    rng = np.random.default_rng(0)
    pair(folder="fits")
    pair(folder="other", instrumental=rng.normal(0, 0.1, (10 * RATE, 2)).astype(np.float32))
    pair(folder="silent", instrumental=np.zeros((RATE, 2), np.float32))
    pair(folder="vocals", instrumental=song["vocals"])
    edit = np.concatenate((song["instrumental"][: 3 * RATE], song["instrumental"][3 * RATE + 900 :]))
    pair(folder="edit", instrumental=edit)
    bad = align_folder(tmp_path, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fits"]
    named = dict(zip(("edit", "other", "silent", "vocals"), sorted(bad), strict=True))
    assert all(message.startswith(f"{name}: ") for name, message in named.items())
    assert "changes within the song" in named["edit"]
    assert "no delay" in named["other"]
    assert "silent" in named["silent"]
    assert "are left" in named["vocals"]


def test_pairs_of_two_folders_go_by_name_and_number(tmp_path, write_constant):
    for name in ("mixtures/a.wav", "mixtures/b.wav", "instruments/x.wav", "instruments/y.wav"):
        write_constant(name, 0.1, 0.1)
    assert [(pair.song, pair.instrumental.name) for pair in find_pairs(tmp_path)] == [("a", "x.wav"), ("b", "y.wav")]
    write_constant("instruments/z.wav", 0.1, 0.1)
    with pytest.raises(DataError, match=r"2 files in mixtures/ and 3 in instruments/"):
        find_pairs(tmp_path)
    with pytest.raises(DataError, match="no pairs"):
        find_pairs(write_constant("empty/a.wav", 0, 0).parent)


def test_pairs_of_inner_folders_keep_names_of_their_own(tmp_path, write_constant):
    for name in ("mixtures/d1/01.wav", "mixtures/d2/01.wav", "instruments/d1/01.wav", "instruments/d2/01.wav"):
        write_constant(name, 0.1, 0.1)
    assert [pair.song for pair in find_pairs(tmp_path)] == ["d1_01", "d2_01"]
    for name in ("mixtures/a.wav", "instruments/a.wav", "instruments/b.wav"):
        write_constant(f"same/{name}", 0.1, 0.1)
    soundfile.write(tmp_path / "same/mixtures/a.flac", np.zeros((100, 2)), RATE)
    with pytest.raises(DataError, match=r"a\.flac and .*a\.wav: both would be a"):
        find_pairs(tmp_path / "same")


def test_full_disk_leaves_nothing(pair, tmp_path, monkeypatch):
    pair()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ft.audio.wav.WavFile.write", full)
    with pytest.raises(DataError, match="No space left"):
        align_folder(tmp_path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_chunks_keep_every_sample():
    sound = np.arange(100, dtype=np.float32)[None]
    cut = list(chunks([sound[:, :3], sound[:, 3:50], sound[:, 50:]], 16, skip=5))
    assert [part.shape[1] for part in cut] == [16] * 5 + [15]
    assert np.array_equal(np.concatenate(cut, axis=1), sound[:, 5:])


def test_command_exits_with_1_where_a_pair_does_not_fit(pair, tmp_path: Path):
    from click.testing import CliRunner

    from ft.cli import main

    pair(folder="silent", instrumental=np.zeros((RATE, 2), np.float32))
    result = CliRunner().invoke(main, ["data", "prepare", "align", str(tmp_path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "silent: silent" in result.output


@pytest.mark.parametrize("mono", ["mixture", "instrumental"])
def test_one_channel_beside_two_is_refused_where_sides_are_heard(pair, song, mono, tmp_path):
    """What is beside the middle of the music would be taken for vocals."""
    folder = pair().mixture.parent
    soundfile.write(folder / f"{mono}.wav", song[mono].mean(axis=1), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=rf"song: {mono}\.wav is mono and .* stereo"):
        find_alignment(find_pairs(tmp_path)[0])
    for name in ("mixture", "instrumental"):
        middle = song[name].mean(axis=1, keepdims=True)
        soundfile.write(folder / f"{name}.wav", middle.repeat(1 + (name != mono), axis=1), RATE, subtype="FLOAT")
    assert find_alignment(find_pairs(tmp_path)[0]).delay == 0

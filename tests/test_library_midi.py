"""MIDI songs of the library: rendered part by part."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from library_material import RATE, make_deb, tree

from ft.errors import AudioError
from ft.library import build_library, midi, sound
from ft.library.sources import Package, Sources


class Sines:
    """Instead of a soundfont: each track a sine of its own, as long as its last note."""

    def render(self, score, stereo):
        score = score.to("second")
        wave = np.zeros((2, round(score.end() * RATE)), np.float32)
        for track in score.tracks:
            end = round(track.end() * RATE)
            wave[:, :end] += np.sin(np.arange(end) * (0.01 + 0.001 * track.program)).astype(np.float32)
        return wave


@pytest.fixture
def song(tmp_path) -> Path:
    from symusic import Note, Score, Track

    score = Score(480)
    for program, is_drum, beats in ((0, True, 4), (33, False, 3), (5, False, 5), (24, False, 2), (52, False, 30)):
        track = Track("", program, is_drum)
        track.notes.append(Note(0, 480 * beats, 60, 100))
        score.tracks.append(track)
    score.dump_midi(tmp_path / "song.mid")
    return tmp_path / "song.mid"


def test_a_midi_song_is_the_sum_of_its_stems_and_has_no_voices(tmp_path, song, monkeypatch):
    monkeypatch.setattr(midi, "_synthesizer", lambda soundfont: Sines())
    written = midi.render(tmp_path, "train/instrumentals/tunes", song, Path("font.sf2"), "tunes: song.mid", "GPL-2")
    stems = {name: sound.read(tmp_path / f"train/stems/tunes/song/{name}.wav") for name in ("drums", "bass", "other")}
    assert [file.path for file in written] == [
        "train/instrumentals/tunes/song.wav",
        *(f"train/stems/tunes/song/{name}.wav" for name in stems),
    ]
    whole = sound.read(tmp_path / "train/instrumentals/tunes/song.wav")
    np.testing.assert_allclose(sum(stems.values()), whole, atol=4 / 32768)
    assert len(whole) / RATE == pytest.approx(2.5, abs=0.01)  # five beats at 120 a minute, not the voice's thirty
    assert np.abs(stems["drums"][round(2.1 * RATE) :]).max() == 0
    assert np.abs(stems["bass"][round(1.4 * RATE) : round(1.49 * RATE)]).max() > 0.1


def test_a_file_that_is_no_midi_is_named(tmp_path):
    (tmp_path / "x.mid").write_bytes(b"no song")
    with pytest.raises(AudioError, match=r"x\.mid: no readable MIDI"):
        midi.render(tmp_path, "train/instrumentals/tunes", tmp_path / "x.mid", Path("font.sf2"), "", "")


def test_midi_songs_are_rendered_once_or_left_out_with_a_word(tmp_path, song, monkeypatch, caplog):
    packages = tmp_path / "packages"
    packages.mkdir()
    make_deb(
        packages / "songs_1.0_all.deb",
        {"usr/share/songs/song.mid": song.read_bytes(), "usr/share/doc/songs/copyright": b"free"},
    )
    make_deb(packages / "font_1.0_all.deb", {"usr/share/font.sf2": b"a font"})
    entry = {
        "folder": "train/instrumentals/songs",
        "licence": "GPL-2",
        "attribution": "all",
        "exclude": (),
        "seconds": 1,
    }
    listed = [
        Package(name=name, file=f"{name}_1.0_all.deb", kind=kind, **entry,
                sha256=hashlib.sha256((packages / f"{name}_1.0_all.deb").read_bytes()).hexdigest())
        for name, kind in (("songs", "midi"), ("font", "soundfont"))
    ]  # fmt: skip
    sources = Sources(1, 1.0, tuple(listed[:1]), listed[1], ())
    monkeypatch.setattr(midi, "missing", lambda: "symusic is not installed")
    build_library(tmp_path / "library", tmp_path, packages, jobs=1, sources=sources)
    assert tree(tmp_path / "library") == set()
    assert "songs: left out, as symusic is not installed" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(midi, "_synthesizer", lambda soundfont: Sines())
    for _ in range(2):
        build_library(tmp_path / "library", tmp_path, packages, jobs=1, sources=sources)
        assert len(tree(tmp_path / "library")) == 4
    assert (tmp_path / "library/licences/songs.txt").read_text() == "free"
    assert "font_1.0_all.deb" in (tmp_path / "library/SOURCES.md").read_text()

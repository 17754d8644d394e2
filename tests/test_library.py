"""The training library: built whole, from the sources that are meant, and only once."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from ft.cli import main
from ft.errors import AudioError, DataError
from ft.library import build_library, midi, sound
from ft.library.build import share_seconds
from ft.library.deb import extract_audio
from ft.library.sources import Package, Sources, load_sources

RATE = 44100
PACKAGE = "tunes_1.0_all.deb"


def make_deb(path: Path, files: dict[str, bytes]) -> None:
    """A Debian package that holds `files`, in this order."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", data.getvalue())):
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))


def encoded(waveform: np.ndarray, sample_rate: int, suffix: str = "OGG") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format=suffix, subtype="VORBIS", compression_level=0.0)
    return buffer.getvalue()


MIXED = {
    "voice": "vocadito/solo.wav",
    "level_db": -5,
    "start": 4,
    "tracks": ["train/instrumentals/tunes/tune.wav", "train/instrumentals/tunes/mono.wav"],
}


KEPT = ("pairs/kept", "mixed/tune", "mixed/mono")


class Material:
    """An audio folder, a folder of packages and the list that names them, all in small."""

    def __init__(self, folder: Path, example: Path) -> None:
        self.audio, self.packages, self.listed = folder / "audio", folder / "packages", folder / "sources.yaml"
        self.packages.mkdir(parents=True)
        mixture, _ = soundfile.read(example / "mixture.flac", dtype="float32", always_2d=True)
        vocals, _ = soundfile.read(example / "vocals.flac", dtype="float32", always_2d=True)
        groups = []
        for kind, songs in (("pair", ["kept"]), ("stem", ["one", "two"])):
            for number, song in enumerate(songs):
                for index, stem in enumerate(("vocals", "drums", "other")):
                    start = (2 * number + index) * RATE
                    self._put(f"eif/{song}/{stem}.ogg", encoded(mixture[start : start + (3 + number) * RATE], RATE))
            names = [f"eif/{song}/{stem}.ogg" for song in songs for stem in ("vocals", "drums", "other")]
            groups.append((kind, "CC0 1.0", "the band", names))
        for kind, name in (("sung", "voices/a/singer.ogg"), ("spoken", "voices/speaker.ogg")):
            self._put(name, encoded(vocals[: 2 * RATE, 0], RATE))
            groups.append((kind, "CC BY 4.0", f"the {kind} one", [name]))
        self._put("vocadito/solo.wav", b"")
        soundfile.write(self.audio / "vocadito/solo.wav", vocals[: 2 * RATE : 2, 0], RATE // 2)
        groups.append(("validation", "CC BY 4.0", "solo", ["vocadito/solo.wav"]))
        self.groups = [
            {"kind": kind, "licence": licence, "attribution": who, "files": {name: self._sum(name) for name in names}}
            for kind, licence, who, names in groups
        ]
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("music/mono.ogg", encoded(mixture[: 21 * RATE, 0], RATE))
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (15 * 48000, 2))
        make_deb(
            self.packages / PACKAGE,
            {
                "usr/share/tunes/tune.ogg": encoded(mixture[: 22 * RATE], RATE),
                "usr/share/tunes/other/tune.ogg": encoded(mixture[: 21 * 48000], 48000),
                "usr/share/tunes/too_short.ogg": encoded(noise, 48000),
                "usr/share/tunes/too_small.ogg": encoded(np.zeros((30 * RATE, 2)), RATE),
                "usr/share/tunes/readme.txt": b"x" * 500_000,
                "usr/share/tunes/more.pk3": inner.getvalue(),
                "usr/share/doc/tunes/copyright": b"GPL-2+, by everybody\n",
            },
        )
        make_deb(
            self.packages / "letters_1.0_all.deb",
            {f"usr/share/letters/en/alpha/a-{n}.ogg": encoded(vocals[n * RATE : (n + 1) * RATE], RATE) for n in (5, 6)},
        )
        self.exclude: list[str] = []

    def _put(self, name: str, content: bytes) -> None:
        (self.audio / name).parent.mkdir(parents=True, exist_ok=True)
        (self.audio / name).write_bytes(content)

    def _sum(self, name: str) -> str:
        return hashlib.sha256((self.audio / name).read_bytes()).hexdigest()

    def sources(self) -> Sources:
        packages = [
            {
                "name": file.partition("_")[0],
                "file": file,
                "sha256": hashlib.sha256((self.packages / file).read_bytes()).hexdigest(),
                "folder": folder,
                "kind": kind,
                "licence": "GPL-2+",
                "attribution": "everybody",
                "exclude": self.exclude,
                "seconds": 60,
            }
            for file, folder, kind in (
                (PACKAGE, "train/instrumentals/tunes", "music"),
                ("letters_1.0_all.deb", "train/vocals/spoken", "clips"),
            )
        ]
        table = {"recipe": 1, "audio_seconds": 30, "packages": packages, "audio": self.groups, "mixed": MIXED}
        self.listed.write_text(yaml.safe_dump(table))
        return load_sources(self.listed)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, example: Path) -> Material:
    return Material(tmp_path_factory.mktemp("made"), example)


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory, made: Material) -> Path:
    library = tmp_path_factory.mktemp("built") / "library"
    build_library(library, made.audio, made.packages, jobs=1, sources=made.sources())
    return library


@pytest.fixture
def material(tmp_path: Path, made: Material) -> Material:
    """Material of its own for each test."""
    copied = copy.copy(made)
    copied.audio, copied.packages = tmp_path / "audio", tmp_path / "packages"
    copied.listed, copied.exclude = tmp_path / "sources.yaml", []
    shutil.copytree(made.audio, copied.audio)
    shutil.copytree(made.packages, copied.packages)
    return copied


@pytest.fixture
def built(tmp_path: Path, built_once: Path) -> Path:
    """A library of its own for each test."""
    return shutil.copytree(built_once, tmp_path / "library")


def tree(library: Path) -> set[str]:
    return {str(path.relative_to(library)) for path in library.rglob("*.wav")}


def test_builds_the_tree_and_says_what_it_holds(built, material):
    assert tree(built) == {
        "train/instrumentals/tunes/tune.wav",
        "train/instrumentals/tunes/other-tune.wav",
        "train/instrumentals/tunes/mono.wav",
        *(f"train/instrumentals/eif{part}/{song}.wav" for part in ("", "_drums", "_other") for song in ("one", "two")),
        "train/instrumentals/eif_cross/one_drums_two_other.wav",
        "train/instrumentals/eif_cross/two_drums_one_other.wav",
        *(f"train/pairs/{s}/{part}.wav" for s in ("one", "two") for part in ("mixture", "instrumental", "vocals")),
        "train/vocals/eif/one.wav",
        "train/vocals/eif/two.wav",
        "train/vocals/sung/a_singer.wav",
        "train/vocals/spoken/speaker.wav",
        "train/vocals/spoken/letters_en_1.wav",
        "validation/vocals/solo.wav",
        *(f"validation/{s}/{part}.wav" for s in KEPT for part in ("mixture", "instrumental", "vocals")),
    }  # fmt: skip
    for path in built.rglob("*.wav"):
        info = soundfile.info(path)
        assert info.samplerate == RATE
        assert info.subtype == ("FLOAT" if {"pairs", "mixed"} & set(path.parts) else "PCM_16")
        assert info.channels == 2 or "vocals" in path.parts
    assert soundfile.info(built / "train/instrumentals/tunes/other-tune.wav").duration == pytest.approx(21, abs=0.01)
    assert soundfile.info(built / "validation/vocals/solo.wav").duration == pytest.approx(2, abs=0.01)
    assert (built / "licences/tunes.txt").read_text() == "GPL-2+, by everybody\n"

    manifest = json.loads((built / "MANIFEST.json").read_text())
    assert {file["path"] for file in manifest["files"]} == tree(built)
    assert all(file["seconds"] > 0 and file["licence"] and file["source"] for file in manifest["files"])
    sums = {source["name"]: source["sha256"] for source in manifest["sources"]}
    assert sums["voices/speaker.ogg"] == material._sum("voices/speaker.ogg")
    assert len(sums[PACKAGE]) == 64
    page = (built / "SOURCES.md").read_text()
    assert "| voices/speaker.ogg | CC BY 4.0 | the spoken one |" in page
    assert f"| {PACKAGE} | GPL-2+ | everybody |" in page
    assert not list(built.rglob("*.part"))


def test_the_pair_is_exactly_its_stems(built, material):
    parts = {}
    for name in ("mixture", "instrumental", "vocals"):
        parts[name], _ = soundfile.read(built / f"validation/pairs/kept/{name}.wav", dtype="float32")
    stems = [sound.read(material.audio / f"eif/kept/{stem}.ogg") for stem in ("vocals", "drums", "other")]
    np.testing.assert_array_equal(parts["mixture"], parts["instrumental"] + parts["vocals"])
    np.testing.assert_array_equal(parts["instrumental"], stems[1] + stems[2])
    np.testing.assert_array_equal(parts["vocals"], stems[0])


def test_a_mixed_song_is_a_voice_in_the_middle_at_its_level(built):
    parts = {}
    for name in ("mixture", "instrumental", "vocals"):
        parts[name], _ = soundfile.read(built / f"validation/mixed/tune/{name}.wav", dtype="float32")
    np.testing.assert_array_equal(parts["mixture"], parts["instrumental"] + parts["vocals"])
    np.testing.assert_array_equal(parts["vocals"][:, 0], parts["vocals"][:, 1])
    level = 10 * np.log10(np.mean(parts["vocals"] ** 2) / np.mean(parts["instrumental"] ** 2))
    assert level == pytest.approx(-5, abs=0.01)
    track, _ = soundfile.read(built / "train/instrumentals/tunes/tune.wav", dtype="float32")
    np.testing.assert_array_equal(parts["instrumental"], track[4 * RATE : 6 * RATE])


def test_the_validation_song_is_never_trained_on(built):
    manifest = json.loads((built / "MANIFEST.json").read_text())
    trained = [file for file in manifest["files"] if file["path"].startswith("train/")]
    assert len(trained) > 10
    assert not [file for file in trained if "kept" in file["path"] or "kept" in file["source"]]
    shipped = load_sources()
    kinds = {file.kind for file in shipped.audio if "caesium" in file.path}
    assert kinds == {"pair"}
    assert not [package for package in shipped.packages if package.folder.partition("/")[0] not in SPLITS]


SPLITS = ("train", "validation", "test")


def test_the_shipped_list_is_whole():
    shipped = load_sources()
    assert len(shipped.audio) == 12 + 1 + 98
    assert len(shipped.packages) == 12
    for entry in (*shipped.audio, *shipped.packages):
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.licence
        assert entry.attribution
        assert "{" not in entry.attribution
    assert len({entry.sha256 for entry in (*shipped.audio, *shipped.packages)}) == 12 + 1 + 98 + 12
    forbidden = ("NC", "ND", "research")
    assert not [entry for entry in shipped.audio if any(word in entry.licence.split("-") for word in forbidden)]


@pytest.mark.parametrize("where", ["voice", "package"])
def test_another_file_than_the_one_meant_is_refused(tmp_path, material, where):
    sources = material.sources()
    path = material.audio / "voices/speaker.ogg" if where == "voice" else material.packages / PACKAGE
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(DataError) as refused:
        build_library(tmp_path / "library", material.audio, material.packages, jobs=1, sources=sources)
    for part in (str(path), expected, found):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)
    folder = "train/vocals/spoken" if where == "voice" else "train/instrumentals/tunes"
    assert not (tmp_path / "library" / folder).exists()
    assert not (tmp_path / "library/MANIFEST.json").exists()


def test_running_again_reads_and_writes_nothing(tmp_path, built, material):
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*.wav")}
    sources = material.sources()
    shutil.rmtree(material.audio)
    shutil.rmtree(material.packages)
    hours = build_library(built, material.audio, material.packages, jobs=1, sources=sources)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*.wav")} == before
    assert hours["train/instrumentals/tunes"] == pytest.approx(64 / 3600, abs=0.001)


def test_what_was_lost_or_cut_short_is_built_again_and_nothing_else(built, material):
    lost, cut = built / "train/vocals/sung/a_singer.wav", built / "validation/pairs/kept/vocals.wav"
    whole = {path: sound.read(path) for path in (lost, cut)}
    others = {path: path.stat().st_mtime_ns for path in (built / "train/instrumentals").rglob("*.wav")}
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:1000])
    build_library(built, material.audio, material.packages, jobs=1, sources=material.sources())
    for path, waveform in whole.items():
        np.testing.assert_array_equal(sound.read(path), waveform)
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_a_track_that_is_now_excluded_goes(built, material):
    material.exclude.append("mono")
    build_library(built, material.audio, material.packages, jobs=1, sources=material.sources())
    assert "train/instrumentals/tunes/mono.wav" not in tree(built)
    assert "train/instrumentals/tunes/tune.wav" in tree(built)


def test_an_interrupted_write_leaves_no_file(tmp_path, material, monkeypatch):
    library, whole = tmp_path / "library", soundfile.write

    def stopped(path, waveform, *rest, **options):
        if Path(path).name.startswith("speaker"):
            whole(path, waveform[:1000], *rest, **options)
            assert Path(path).exists()
            raise KeyboardInterrupt
        whole(path, waveform, *rest, **options)

    monkeypatch.setattr(soundfile, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_library(library, material.audio, material.packages, jobs=1, sources=material.sources())
    assert list((library / "train/vocals/spoken").iterdir()) == []
    assert not (library / "MANIFEST.json").exists()
    monkeypatch.undo()
    build_library(library, material.audio, material.packages, jobs=1, sources=material.sources())
    assert soundfile.info(library / "train/vocals/spoken/speaker.wav").duration == pytest.approx(2, abs=0.01)


def test_two_processes_write_what_one_does(tmp_path, built, material):
    seen = []
    build_library(
        tmp_path / "second",
        material.audio,
        material.packages,
        jobs=2,
        sources=material.sources(),
        progress=lambda done, total: seen.append((done, total)),
    )
    for name in tree(built):
        np.testing.assert_array_equal(sound.read(tmp_path / "second" / name), sound.read(built / name), name)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == pytest.approx(
        sum(f["seconds"] for f in json.loads((built / "MANIFEST.json").read_text())["files"])
    )


def test_packages_are_downloaded_by_name(tmp_path, material, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apt-get").write_text(f'#!/bin/sh\ntest "$1" = download && cp "{material.packages}/$2"_* .\n')
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    build_library(tmp_path / "library", material.audio, jobs=1, sources=material.sources())
    assert "train/instrumentals/tunes/tune.wav" in tree(tmp_path / "library")


def test_without_apt_get_it_says_what_to_do(tmp_path, material, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"no apt-get here.*--packages"):
        build_library(tmp_path / "library", material.audio, jobs=1, sources=material.sources())


def test_a_file_that_is_no_package_is_named(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(b"no package")
    with pytest.raises(DataError, match=r"x\.deb: no Debian package"):
        list(extract_audio(path, tmp_path / "into"))


@pytest.mark.parametrize("compression", ["xz", "gzip", "none"])
def test_reads_what_dpkg_writes(tmp_path, compression):
    root = tmp_path / "root"
    control = "Package: tunes\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody\nDescription: tunes\n"
    files = {
        "DEBIAN/control": control,
        "usr/a.ogg": "a" * 999,
        "usr/doc/b.opus": "b" * 2001,
        "usr/share/doc/t/copyright": "free",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    path = tmp_path / "tunes.deb"
    if shutil.which("dpkg-deb"):
        subprocess.run(["dpkg-deb", f"-Z{compression}", "--build", root, path], check=True, capture_output=True)
    else:
        make_deb(path, {name: content.encode() for name, content in files.items()})
    found = {
        str(file.relative_to(tmp_path / "into")): file.read_text() for file in extract_audio(path, tmp_path / "into")
    }
    assert found == {"usr/a.ogg": "a" * 999, "usr/doc/b.opus": "b" * 2001}
    assert (tmp_path / "into/COPYRIGHT").read_text() == "free"
    assert [file.name for file in extract_audio(path, tmp_path / "large", min_bytes=1000)] == ["b.opus"]


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


def test_midi_songs_are_rendered_once_or_left_out_with_a_word(tmp_path, material, song, monkeypatch, caplog):
    make_deb(
        material.packages / "songs_1.0_all.deb",
        {"usr/share/songs/song.mid": song.read_bytes(), "usr/share/doc/songs/copyright": b"free"},
    )
    make_deb(material.packages / "font_1.0_all.deb", {"usr/share/font.sf2": b"a font"})
    entry = {
        "folder": "train/instrumentals/songs",
        "licence": "GPL-2",
        "attribution": "all",
        "exclude": (),
        "seconds": 1,
    }
    packages = [
        Package(name=name, file=f"{name}_1.0_all.deb", kind=kind, **entry,
                sha256=hashlib.sha256((material.packages / f"{name}_1.0_all.deb").read_bytes()).hexdigest())
        for name, kind in (("songs", "midi"), ("font", "soundfont"))
    ]  # fmt: skip
    sources = Sources(1, 1.0, tuple(packages[:1]), packages[1], ())
    monkeypatch.setattr(midi, "missing", lambda: "symusic is not installed")
    build_library(tmp_path / "library", material.audio, material.packages, jobs=1, sources=sources)
    assert tree(tmp_path / "library") == set()
    assert "songs: left out, as symusic is not installed" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(midi, "_synthesizer", lambda soundfont: Sines())
    for _ in range(2):
        build_library(tmp_path / "library", material.audio, material.packages, jobs=1, sources=sources)
        assert len(tree(tmp_path / "library")) == 4
    assert (tmp_path / "library/licences/songs.txt").read_text() == "free"
    assert "font_1.0_all.deb" in (tmp_path / "library/SOURCES.md").read_text()


def test_silence_is_cut_and_sound_is_kept():
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE).astype(np.float32)[:, None]
    gap = np.zeros((3 * RATE, 1), np.float32)
    short = np.zeros((RATE // 2, 1), np.float32)
    kept = sound.without_silence(np.concatenate([gap, tone, short, tone, gap, tone, gap]))
    assert len(kept) / RATE == pytest.approx(6 + 0.5 + 4 * 0.25, abs=0.1)
    assert np.sum(kept**2) == pytest.approx(3 * np.sum(tone**2), rel=0.01)
    assert len(sound.without_silence(gap)) == 0


def test_integer_files_do_not_clip(tmp_path):
    waveform = np.array([[0.5], [2.0], [-1.0]], np.float32)
    gain = sound.write(waveform, tmp_path / "loud.wav")
    read, _ = soundfile.read(tmp_path / "loud.wav", always_2d=True)
    assert gain == pytest.approx(0.4995)
    np.testing.assert_allclose(read, waveform * gain, atol=1e-4)


def test_voices_share_the_time_as_far_as_they_reach():
    shares = share_seconds(600, [1, 100, 2, 50])
    assert shares[0] == 4
    assert shares[2] == 8
    assert shares[3] == 200
    assert shares[1] == pytest.approx(600 - 4 - 8 - 200)


def test_the_command_names_what_is_missing(tmp_path):
    result = CliRunner().invoke(main, ["library", str(tmp_path / "out"), "--audio", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "eif/caesium/drums.ogg: missing, expected a file with SHA-256" in result.output

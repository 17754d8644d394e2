"""The training library: built whole, from the sources that are meant, and only once."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from library_material import KEPT, PACKAGE, RATE, Material, make_deb, tree

from ft.cli import main
from ft.errors import DataError
from ft.library import build_library, sound
from ft.library.build import share_seconds
from ft.library.deb import extract_audio
from ft.library.sources import load_sources


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
    assert len(shipped.packages) == 17
    for entry in (*shipped.audio, *shipped.packages):
        assert len(bytes.fromhex(entry.sha256)) == 32
        assert entry.licence
        assert entry.attribution
        assert "{" not in entry.attribution
    assert len({entry.sha256 for entry in (*shipped.audio, *shipped.packages)}) == 12 + 1 + 98 + 17
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
    with pytest.raises(DataError, match=r"no apt-get here.*`packages`"):
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

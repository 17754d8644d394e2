"""Fingerprints: copies are found however they were stored, and different music is not."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import soxr

from ft.data.fingerprint import CHUNK_FRAMES, HOP_LENGTH, Fingerprinter, _sliding_max, find_matches, fingerprint

RATE = 44100


@pytest.fixture(scope="module")
def stems(example) -> dict[str, np.ndarray]:
    """The example song (channels, samples)."""
    return {
        stem: np.ascontiguousarray(soundfile.read(example / f"{stem}.flac", dtype="float32")[0].T)
        for stem in ("mixture", "vocals", "instrumental")
    }


def encoded(waveform: np.ndarray, form: str, subtype: str, level: float) -> np.ndarray:
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", RATE, len(waveform), format=form, subtype=subtype, compression_level=level
    ) as encoder:
        for start in range(0, waveform.shape[1], 4096):
            encoder.write(waveform[:, start : start + 4096].T)
    file.seek(0)
    return np.ascontiguousarray(soundfile.read(file, dtype="float32")[0].T)


@pytest.mark.parametrize(
    ("name", "least"),
    [("itself", 1.0), ("quieter", 0.9), ("mono", 0.9), ("swapped", 0.99), ("24 bit at 48 kHz", 0.9), ("22 kHz", 0.9),
     ("mp3", 0.3), ("ogg", 0.3), ("cut", 0.12), ("excerpt of 8 s", 0.12)],
)  # fmt: skip
def test_copies_are_found(name, least, stems):
    song = stems["mixture"][:, : 18 * RATE]
    copy = {
        "itself": lambda: song,
        "quieter": lambda: song * np.float32(0.05),
        "mono": lambda: song.mean(axis=0, keepdims=True),
        "swapped": lambda: song[::-1],
        "24 bit at 48 kHz": lambda: soxr.resample(song.T, RATE, 48000).T,
        "22 kHz": lambda: soxr.resample(song.T, RATE, 22050).T,
        "mp3": lambda: encoded(song[:, : 8 * RATE], "MP3", "MPEG_LAYER_III", 0.9),  # about 60 kbit/s
        "ogg": lambda: encoded(song[:, : 8 * RATE], "OGG", "VORBIS", 0.9),
        "cut": lambda: song[:, 100_077:],
        "excerpt of 8 s": lambda: song[:, 400_033 : 400_033 + 8 * RATE],
    }[name]()
    rate = {"24 bit at 48 kHz": 48000, "22 kHz": 22050}.get(name, RATE)
    offset = {"cut": -100_077 / RATE, "excerpt of 8 s": -400_033 / RATE}.get(name, 0.0)
    (match,) = find_matches([fingerprint(song, RATE), fingerprint(np.ascontiguousarray(copy), rate)])
    assert (match.first, match.second) == (0, 1)
    assert least <= match.share <= 1
    assert match.offset == pytest.approx(offset, abs=0.06)
    assert match.seconds == pytest.approx(copy.shape[1] / rate, rel=0.2)


def test_parts_of_a_mixture_are_found_in_it(stems):
    prints = [fingerprint(stems[stem], RATE) for stem in ("mixture", "vocals", "instrumental")]
    found = {(match.first, match.second) for match in find_matches(prints)}
    assert found == {(0, 1), (0, 2)}  # vocals and instrumental have nothing in common


def test_different_music_does_not_match(stems):
    """Other parts of one song, the same a semitone higher, noise, silence."""
    song = stems["mixture"]
    noise = np.random.default_rng(0).standard_normal((2, 10 * RATE)).astype(np.float32) * np.float32(0.1)
    sounds = [
        stems["vocals"],
        stems["instrumental"],
        soxr.resample(song.T, 1.06, 1.0).T,  # a semitone
        noise,
        noise[:, ::-1],
        np.zeros((2, RATE), np.float32),
        np.zeros((2, 0), np.float32),
    ]
    assert find_matches([fingerprint(np.ascontiguousarray(sound), RATE) for sound in sounds]) == []


@pytest.mark.parametrize("size", [50, 777, 44100])
def test_blocks_of_any_size_give_the_same(size, stems):
    song = stems["mixture"][:, : 3 * RATE]
    whole, printer = fingerprint(song, RATE), Fingerprinter(RATE)
    for start in range(0, song.shape[1], size):
        printer.push(song[:, start : start + size])
    parts = printer.finish()
    assert np.array_equal(parts.hashes, whole.hashes) and np.array_equal(parts.frames, whole.frames)
    assert len(whole.hashes) > 20


def test_long_sounds_are_worked_through_in_chunks(stems):
    """The landmarks of a sound of several chunks are those of its parts: nothing is lost or doubled where they meet."""
    song = np.tile(stems["mixture"], 3)
    assert song.shape[1] / RATE > 1.5 * CHUNK_FRAMES * HOP_LENGTH / 11025
    printer = Fingerprinter(RATE)
    for start in range(0, song.shape[1], 65536):
        printer.push(song[:, start : start + 65536])
        assert len(printer._waiting) < CHUNK_FRAMES + 200
    parts, whole = printer.finish(), fingerprint(song, RATE)
    assert np.array_equal(parts.hashes, whole.hashes) and np.array_equal(parts.frames, whole.frames)


@pytest.mark.parametrize("reach", [0, 1, 5, 12])
def test_sliding_maximum(reach):
    rows = np.random.default_rng(0).random((40, 3), dtype=np.float32)
    expected = [rows[max(row - reach, 0) : row + reach + 1].max(axis=0) for row in range(40)]
    assert np.array_equal(_sliding_max(rows, reach), expected)

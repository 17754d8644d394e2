"""The files of training folders: found, read once, and named where they cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.audio import AUDIO_SUFFIXES, read_blocks
from ft.config import AudioConfig
from ft.dsp import StreamingResampler, StreamingStft, magnitude
from ft.errors import AudioError, DataError
from ft.files import atomic_write
from ft.train_config import Source

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class AudioFile:
    """A readable file and what a scan found out about it."""

    path: Path
    samples: int
    sample_rate: int
    peak: float | None = None
    """Largest magnitude of its spectrogram at the model's rate; known where the scale is the track's."""


@dataclass(frozen=True)
class Song:
    """A real pair."""

    mixture: AudioFile
    instrumental: AudioFile


@dataclass(frozen=True)
class Pool(Generic[Entry]):
    """Files or songs with the probability of each."""

    entries: tuple[Entry, ...]
    probabilities: NDArray[np.float64] | None
    """None where all are alike, and an epoch visits each once."""

    def draw(self, rng: np.random.Generator) -> Entry:
        return self.entries[int(rng.choice(len(self.entries), p=self.probabilities))]


def audio_files(folder: str | Path) -> list[Path]:
    """All audio files below `folder`, sorted. Raises DataError where there is no folder or nothing in it."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with audio files")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{folder}: no audio files in it; expected files such as .wav, .flac or .ogg")
    return files


class Scan:
    """What is known of each file, kept in a JSON file so that a peak is computed once.

    Args:
        cache: JSON file to read and keep; keyed by path, size, time of change, rate and STFT.
    """

    def __init__(self, audio: AudioConfig, cache: Path | None = None) -> None:
        self.audio = audio
        self.cache = cache
        self.known: dict[str, list[float]] = {}
        if cache and cache.is_file():
            self.known = json.loads(cache.read_text(encoding="utf-8"))

    def read(self, paths: Sequence[Path], need_peak: bool, progress: bool = False) -> list[AudioFile]:
        """The files, opened once each.

        Raises:
            DataError: files that cannot be read or are empty; up to five are named.
        """
        from tqdm import tqdm

        files, bad, new = [], [], False
        for path in tqdm(paths, desc="scan", unit="file", disable=not progress or None, leave=False):
            try:
                info = soundfile.info(path)
                if info.frames == 0 or info.channels > 2:
                    bad.append(f"{path} ({info.frames} samples, {info.channels} channels)")
                    continue
                peak = None
                if need_peak:
                    key = self._key(path)
                    if key not in self.known:
                        self.known[key] = [self._peak(path)]
                        new = True
                    peak = self.known[key][0]
            except (AudioError, soundfile.SoundFileError, RuntimeError, TypeError) as error:  # TypeError: a .raw file
                bad.append(f"{path} ({error})")
                continue
            files.append(AudioFile(path, info.frames, info.samplerate, peak))
        if bad:
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise DataError(f"cannot be read: {', '.join(bad[:5])}{more}; mend or remove them")
        if new and self.cache:
            with atomic_write(self.cache) as part:
                part.write_text(json.dumps(self.known), encoding="utf-8")
        return files

    def _key(self, path: Path) -> str:
        stat = path.stat()
        transform = (self.audio.sample_rate, self.audio.n_fft, self.audio.hop_length)
        return "|".join(map(str, (path.resolve(), stat.st_size, stat.st_mtime_ns, *transform)))

    def _peak(self, file: Path) -> float:
        """Largest STFT magnitude, block by block."""
        info = soundfile.info(file)
        resampler = StreamingResampler(info.samplerate, self.audio.sample_rate, info.channels)
        stft = StreamingStft(info.channels, self.audio.n_fft, self.audio.hop_length)
        peak = 0.0
        for block in read_blocks(file):
            peak = max(peak, float(magnitude(stft.push(resampler.push(block))).max(initial=0)))
        for spec in (stft.push(resampler.finish()), stft.finish()):
            peak = max(peak, float(magnitude(spec).max(initial=0)))
        return peak


def pool_from_sources(
    sources: Sequence[Source], scan: Scan, need_peak: bool = False, progress: bool = False
) -> Pool[AudioFile]:
    """The files of several folders with their probabilities. Raises DataError."""
    groups = [(source, scan.read(audio_files(source.folder), need_peak, progress)) for source in sources]
    return _pool(groups)


def music_from_sources(
    instrumentals: Sequence[Source], pairs: Sequence[Source], scan: Scan, need_peak: bool, progress: bool = False
) -> Pool[AudioFile | Song]:
    """Instrumentals and real pairs in one pool, from which items are drawn. Raises DataError."""
    groups: list[tuple[Source, Sequence[AudioFile | Song]]] = []
    for source in instrumentals:
        groups.append((source, scan.read(audio_files(source.folder), need_peak, progress)))
    for source in pairs:
        groups.append((source, songs_from_sources([source], scan, need_peak)))
    return _pool(groups)


def _pool(groups: Sequence[tuple[Source, Sequence[Entry]]]) -> Pool[Entry]:
    entries = tuple(entry for _, found in groups for entry in found)
    if all(source.weight is None for source, _ in groups):
        return Pool(entries, None)
    weights = [1.0 if source.weight is None else source.weight / len(found) for source, found in groups for _ in found]
    return Pool(entries, np.array(weights) / sum(weights))


def songs_from_sources(sources: Sequence[Source], scan: Scan, need_peak: bool = False) -> list[Song]:
    """Every folder below `sources` that holds `mixture.*` and `instrumental.*`. Raises DataError."""
    songs = []
    for source in sources:
        files = audio_files(source.folder)
        mixtures = [path for path in files if path.stem == "mixture"]
        if not mixtures:
            raise DataError(f"{source.folder}: no song in it; expected folders with mixture.* and instrumental.*")
        for mixture in mixtures:
            partner = [path for path in files if path.parent == mixture.parent and path.stem == "instrumental"]
            if not partner:
                raise DataError(f"{mixture.parent}: a mixture without instrumental.*; expected both")
            pair = scan.read([mixture, partner[0]], need_peak)
            if pair[0].samples != pair[1].samples:
                raise DataError(
                    f"{mixture.parent}: mixture has {pair[0].samples} samples and instrumental {pair[1].samples}; "
                    "expected two files of one length"
                )
            songs.append(Song(*pair))
    return songs

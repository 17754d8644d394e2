"""The files of training folders: found, read once, and named where they cannot be used."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ft.audio.media import NoMedia, NoSound, import_av
from ft.audio.open import open_source, read_blocks
from ft.audio.sound_file import SoundFile
from ft.audio.source import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from ft.config import AudioConfig
from ft.data.patches import SUFFIX, PatchPart, check_geometry, read_patch_info
from ft.dsp import StreamingResampler, StreamingStft, magnitude, mid_side
from ft.errors import AudioError, DataError
from ft.files import atomic_write, files_below
from ft.progress import is_watched
from ft.train_config import Source, TrainConfig

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")
SCAN = "scan.json"
"""Name of the file, in the folder of a run or a cache, that keeps what is known of its files."""


@dataclass(frozen=True)
class AudioFile:
    """A readable file and what a scan found out about it."""

    path: Path
    samples: int
    sample_rate: int
    peak: float | None = None
    """Largest magnitude of its spectrogram at the model's rate; known where the scale is the track's."""
    patch: PatchPart | None = None
    """Says what is meant of a patch file; its samples and rate are those of the waveform that it stands for."""
    by_libsndfile: bool = True
    """Whether libsndfile reads it, at any place at once; otherwise it is read as `open_source` chooses."""


@dataclass(frozen=True)
class Song:
    """A real pair."""

    mixture: AudioFile
    instrumental: AudioFile


@dataclass(frozen=True)
class Remix:
    """A stem, and the files of other stems of which one each is added to it."""

    stem: AudioFile
    others: tuple[tuple[AudioFile, ...], ...]

    def draw(self, rng: np.random.Generator) -> tuple[AudioFile, ...]:
        """The stem and one file of each other, which may be of any song."""
        return self.stem, *(files[int(rng.integers(len(files)))] for files in self.others)


@dataclass(frozen=True)
class Pool(Generic[Entry]):
    """Files or songs with the probability of each."""

    entries: tuple[Entry, ...]
    probabilities: NDArray[np.float64] | None
    """None where all are alike, and an epoch visits each once."""

    def draw(self, rng: np.random.Generator) -> Entry:
        return self.entries[int(rng.choice(len(self.entries), p=self.probabilities))]


def check_sources(train: TrainConfig) -> None:
    """Looks whether a training has the folders that its examples need; no file is opened.

    Raises:
        DataError: too few are named, or some are not there.
    """
    if train.cache is not None:
        folders = [train.cache.folder]
    else:
        folders = [source.folder for source in (*train.instrumentals, *train.pairs, *train.vocals)]
        if not (train.instrumentals or train.pairs):
            raise DataError("train.instrumentals: none; name a folder, e.g. `set` train.instrumentals=music/")
        separates = train.task == "separate"  # else any music will do
        if separates and not (train.vocals or train.pairs):
            raise DataError("train.vocals: none; name a folder, e.g. `set` train.vocals=voices/")
        if separates and train.voxaug.force and not train.vocals:
            raise DataError(
                "train.vocals: none, and train.voxaug.force takes pairs as instrumentals only; name a folder of "
                "vocals, or `set` train.voxaug.force=false"
            )
    check_folders(folders)


def check_folders(folders: Sequence[str | Path]) -> None:
    """Raises DataError where some of the folders that a configuration names are not there."""
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        others = f", and {len(missing) - 1} more of the configuration are missing" if missing[1:] else ""
        raise DataError(f"{missing[0]}: no such folder{others}; expected what train: names")


def audio_files(folder: str | Path) -> list[Path]:
    """All files below `folder` that separation reads, sorted; without PyAV a warning says what that leaves out.

    Raises:
        DataError: no such folder, or nothing in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with audio files")
    found = sorted(path for path in files_below(folder) if path.suffix.lower() in AUDIO_SUFFIXES | MEDIA_SUFFIXES)
    found = _once_each(folder, found)
    left_out = unread_media(found)
    hint = ""
    if left_out:
        hint = f"{len(left_out)} of {len(found)} files left out: {next(iter(left_out.values()))}"
        logger.warning("%s: %s", folder, hint)
    files = [path for path in found if path not in left_out]
    if not files:
        raise DataError(
            f"{folder}: no audio files in it; expected files such as .wav, .flac or .ogg. {hint}".rstrip(". ")
        )
    return files


def _once_each(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The files without those that FFmpeg would read of a song that is there in another format too, and without
    stems in one file, whose first track is the mixture."""
    there = {(path.parent, path.stem.lower()) for path in files if path.suffix.lower() in AUDIO_SUFFIXES}
    kept = [
        path
        for path in files
        if path.suffix.lower() in AUDIO_SUFFIXES
        or ((path.parent, path.stem.lower()) not in there and not path.name.lower().endswith(".stem.mp4"))
    ]
    if count := len(files) - len(kept):
        logger.warning(
            "%s: %d files left out: stems in one file, or songs that lie there as .wav or the like", folder, count
        )
    return kept


def unread_media(files: Sequence[Path]) -> dict[Path, str]:
    """Finds the files that only FFmpeg reads, and says why it does not where PyAV is missing."""
    media = [path for path in files if path.suffix.lower() in MEDIA_SUFFIXES]
    try:
        if media:
            import_av()
    except NoMedia as error:
        return dict.fromkeys(media, str(error))
    return {}


def patch_files(folder: str | Path) -> list[Path]:
    """All patch files (`ft.data.patches`) below `folder`, sorted; none where there is no such folder."""
    return sorted(path for path in files_below(folder) if path.name.endswith(SUFFIX))


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
            self.known = _known(cache)

    def read(self, paths: Sequence[Path], need_peak: bool, progress: bool = False) -> list[AudioFile]:
        """The files, opened once each; videos without sound are left out with a warning.

        Of a file that ends before its header says, what is there is taken.

        Raises:
            DataError: files that cannot be read or are empty; up to five are named.
        """
        from tqdm import tqdm

        files, bad, without_sound = [], [], []
        known = len(self.known)
        try:
            for path in tqdm(paths, desc="scan", unit="file", disable=not (progress and is_watched()), leave=False):
                try:
                    files.append(self._read(path, need_peak))
                except NoSound:
                    without_sound.append(path)
                except AudioError as error:
                    bad.append(str(error))
        finally:  # also of a folder in which one file is bad, or that was interrupted: a peak takes long
            if len(self.known) > known and self.cache:
                with atomic_write(self.cache) as part:
                    part.write_text(json.dumps(self.known), encoding="utf-8")
        if bad:
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise DataError(f"cannot be read: {', '.join(bad[:5])}{more}; mend or remove them")
        if without_sound:
            logger.warning("%d videos left out, which hold no sound: %s", len(without_sound), without_sound[0])
        return files

    def _read(self, path: Path, need_peak: bool) -> AudioFile:
        """One file. Raises AudioError."""
        with open_source(path, allow_truncated=True) as source:
            info, by_libsndfile = source.info, isinstance(source, SoundFile)
        samples = info.samples
        if samples is None or not by_libsndfile:  # a video's container rounds it
            samples = int(self._once(path, "samples", _count))
        peak = self._once(path, self._transform(), self._peak) if need_peak else None
        return AudioFile(path, samples, info.sample_rate, peak, by_libsndfile=by_libsndfile)

    def _once(self, path: Path, what: str, find_out: Callable[[Path], float]) -> float:
        """What is kept of the file, or found out now."""
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{what}"
        if key not in self.known:
            self.known[key] = [find_out(path)]
        return self.known[key][0]

    def read_patch(self, path: Path) -> AudioFile | Song:
        """A patch file, opened once: a pair, or music or vocals alone. Raises DataError."""
        info = read_patch_info(path)
        check_geometry(path, info, self.audio)
        samples = self.audio.n_fft + (info.frames - 1) * self.audio.hop_length
        parts = [PatchPart(array, self.audio.hop_length) for array in ("X", "Y")]
        mixture, instrumental = (AudioFile(path, samples, self.audio.sample_rate, info.peak, part) for part in parts)
        return Song(mixture, instrumental) if info.is_pair else mixture

    def _transform(self) -> str:
        audio = self.audio
        return "|".join(map(str, (audio.sample_rate, audio.n_fft, audio.hop_length, audio.stereo)))

    def _peak(self, file: Path) -> float:
        """Largest STFT magnitude, block by block."""
        with open_source(file, allow_truncated=True) as source:
            info = source.info
        resampler = StreamingResampler(info.sample_rate, self.audio.sample_rate, info.channels)
        stft = StreamingStft(info.channels, self.audio.n_fft, self.audio.hop_length)
        both = self.audio.stereo == "mid-side" and info.channels == 2
        peak = 0.0
        for block in _resampled(file, resampler):
            spec = stft.push(mid_side(block) if both else block)
            peak = max(peak, float(magnitude(spec).max(initial=0)))
        return max(peak, float(magnitude(stft.finish()).max(initial=0)))


def _count(file: Path) -> int:
    """Samples, by reading them all. Raises AudioError."""
    return sum(block.shape[1] for block in read_blocks(file, allow_truncated=True))


def _known(cache: Path) -> dict[str, list[float]]:
    """What a scan kept; nothing where the file is damaged, as all of it can be found out again."""
    try:
        values = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    items = values.items() if isinstance(values, dict) else ()
    return {key: [float(peak[0])] for key, peak in items if isinstance(peak, list) and _are_numbers(peak)}


def _are_numbers(values: list[object]) -> bool:
    return len(values) == 1 and isinstance(values[0], int | float)


def _resampled(file: Path, resampler: StreamingResampler) -> Iterator[NDArray[np.float32]]:
    for block in read_blocks(file, allow_truncated=True):
        yield resampler.push(block)
    yield resampler.finish()


def pool_from_sources(
    sources: Sequence[Source], scan: Scan, need_peak: bool = False, progress: bool = False
) -> Pool[AudioFile]:
    """The files of several folders, of audio or of patches, with their probabilities. Raises DataError."""
    groups = []
    for source in sources:
        found = _sounds(source, scan, need_peak, progress)
        groups.append((source, [entry.mixture if isinstance(entry, Song) else entry for entry in found]))
    return _pool(groups)


def _sounds(source: Source, scan: Scan, need_peak: bool, progress: bool) -> Sequence[AudioFile | Song]:
    """What a folder holds; one with patch files is a folder of these, in which those with `Y` are pairs."""
    if patches := patch_files(source.folder):
        return [scan.read_patch(path) for path in patches]
    return scan.read(source_files(source), need_peak, progress)


def music_from_sources(
    instrumentals: Sequence[Source], pairs: Sequence[Source], scan: Scan, need_peak: bool, progress: bool = False
) -> Pool[AudioFile | Remix | Song]:
    """Instrumentals, stems of several songs and pairs in one pool, from which items are drawn. Raises DataError."""
    groups: list[tuple[Source, Sequence[AudioFile | Remix | Song]]] = []
    for source in instrumentals:
        if len(source.stems) > 1:
            groups.append((source, remixes(source, scan, need_peak, progress)))
        else:
            groups.append((source, _sounds(source, scan, need_peak, progress)))
    for source in pairs:
        groups.append((source, songs_from_sources([source], scan, need_peak)))
    return _pool(groups)


def source_files(source: Source) -> list[Path]:
    """The files of a source, sorted; of its stems where it names some. Raises DataError where there is none."""
    files = audio_files(source.folder)
    if not source.stems:
        return files
    found = [path for path in files if path.stem in source.stems]
    if not found:
        names = ", ".join(sorted({path.stem for path in files})[:5])
        raise DataError(
            f"{source.folder}: no {' or '.join(source.stems)} in it; expected files of that name, not {names}"
        )
    return found


def remixes(source: Source, scan: Scan, need_peak: bool, progress: bool = False) -> list[Remix]:
    """One remix for each file of the first stem that a source names. Raises DataError."""
    stems = [
        scan.read(source_files(dataclasses.replace(source, stems=(stem,))), need_peak, progress)
        for stem in source.stems
    ]
    return [Remix(file, tuple(tuple(files) for files in stems[1:])) for file in stems[0]]


def _pool(groups: Sequence[tuple[Source, Sequence[Entry]]]) -> Pool[Entry]:
    entries = tuple(entry for _, found in groups for entry in found)
    if all(source.weight is None for source, _ in groups):
        return Pool(entries, None)
    weights = [1.0 if source.weight is None else source.weight / len(found) for source, found in groups for _ in found]
    return Pool(entries, np.array(weights) / sum(weights))


def songs_from_sources(sources: Sequence[Source], scan: Scan, need_peak: bool = False) -> list[Song]:
    """Every folder below `sources` that holds `mixture.*` and `instrumental.*`, or every patch. Raises DataError."""
    songs: list[Song] = []
    for source in sources:
        if patches := patch_files(source.folder):
            found = [scan.read_patch(path) for path in patches]
            songs += [entry for entry in found if isinstance(entry, Song)]
            if single := [entry for entry in found if isinstance(entry, AudioFile)]:
                raise DataError(f"{single[0].path}: a patch without Y; expected pairs of X and Y")
            continue
        files = audio_files(source.folder)
        mixtures = [path for path in files if path.stem == "mixture"]
        if not mixtures:
            raise DataError(f"{source.folder}: no song in it; expected folders with mixture.* and instrumental.*")
        for mixture in mixtures:
            partner = [path for path in files if path.parent == mixture.parent and path.stem == "instrumental"]
            if not partner:
                raise DataError(f"{mixture.parent}: a mixture without instrumental.*; expected both")
            pair = scan.read([mixture, partner[0]], need_peak)
            if len(pair) < 2:
                raise DataError(f"{mixture.parent}: a video without sound; expected sound in both files")
            lengths = [f"{file.samples} samples at {file.sample_rate} Hz" for file in pair]
            if lengths[0] != lengths[1]:
                raise DataError(
                    f"{mixture.parent}: mixture has {lengths[0]} and instrumental {lengths[1]}; expected two files of "
                    "one length and rate"
                )
            songs.append(Song(*pair))
    return songs

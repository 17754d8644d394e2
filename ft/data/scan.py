"""The files of training folders: found, read once, and named where they cannot be used."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.audio.media import NoMedia, NoSound, import_av
from ft.audio.open import open_source, read_blocks
from ft.audio.sound_file import SoundFile
from ft.audio.source import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from ft.config import ModelConfig, Spectrogram
from ft.data.patches import SUFFIX, PatchPart, check_geometry, read_patch_info
from ft.dsp import StreamingResampler, StreamingStft, magnitude, mid_side, window_of
from ft.errors import AudioError, DataError
from ft.files import atomic_write, files_below
from ft.progress import is_watched
from ft.train_config import Source

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

SCAN = "scan.json"
"""Name of the file, in the folder of a run or a cache, that keeps what is known of its files."""


@dataclass(frozen=True)
class AudioFile:
    """A readable file and what a scan found out about it."""

    path: Path
    samples: int
    sample_rate: int
    peak: float | None = None
    """Largest magnitude of its spectrogram at the model's rate, or sample; known where the scale is the track's."""
    patch: PatchPart | None = None
    """Says what is meant of a patch file; its samples and rate are those of the waveform that it stands for."""
    by_libsndfile: bool = True
    """Whether libsndfile reads it, at any place at once; otherwise it is read as `open_source` chooses."""


def audio_files(folder: str | Path) -> list[Path]:
    """Gives all files below `folder` that separation reads, sorted; without PyAV a warning says what that leaves out.

    Raises:
        DataError: no such folder, or nothing in it.
    """
    folder = Path(folder)
    found = _once_each(folder, sounds_below(folder))
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


def sounds_below(folder: Path) -> list[Path]:
    """Gives all audio files and films below a folder, sorted. Raises DataError where there is no such folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one with audio files")
    return sorted(path for path in files_below(folder) if path.suffix.lower() in AUDIO_SUFFIXES | MEDIA_SUFFIXES)


def _once_each(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Gives the files without those that FFmpeg would read of a song that is there in another format too, and without
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
    """Gives all patch files (`ft.data.patches`) below `folder`, sorted; none where there is no such folder."""
    return sorted(path for path in files_below(folder) if path.name.endswith(SUFFIX))


class Scan:
    """What is known of each file, kept in a JSON file so that a peak is computed once.

    Args:
        cache: JSON file to read and keep; keyed by path, size, time of change, rate and STFT.
    """

    def __init__(self, config: ModelConfig, cache: Path | None = None) -> None:
        self.config, self.front = config, config.front
        self.has_peaks = config.front.scale == "track-peak"
        self.cache = cache
        self.known: dict[str, list[float]] = {}
        if cache and cache.is_file():
            self.known = _known(cache)

    def read(self, paths: Sequence[Path], need_peak: bool, progress: bool = False) -> list[AudioFile]:
        """Gives the files, opened once each; videos without sound are left out with a warning.

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
        """Gives what is kept of the file, or found out now."""
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{what}"
        if key not in self.known:
            self.known[key] = [find_out(path)]
        return self.known[key][0]

    def read_patch(self, path: Path) -> dict[str, AudioFile]:
        """Gives what a patch file holds, opened once: `mixture` and of a pair `instrumental`. Raises DataError."""
        info = read_patch_info(path)
        hop_length, samples = check_geometry(path, info, self.config)
        arrays: dict[str, Literal["X", "Y"]] = {"mixture": "X", **({"instrumental": "Y"} if info.is_pair else {})}
        return {
            name: AudioFile(path, samples, self.config.sample_rate, info.peak, PatchPart(array, hop_length))
            for name, array in arrays.items()
        }

    def _transform(self) -> str:
        front = self.front
        if not isinstance(front, Spectrogram):
            return f"{self.config.sample_rate}|samples"
        values = {name: getattr(front, name) for name in ("win_length", "window", "ends")}
        changed = [value for name, value in values.items() if value != getattr(Spectrogram, name)]
        return "|".join(map(str, (self.config.sample_rate, front.n_fft, front.hop_length, front.stereo, *changed)))

    def _peak(self, file: Path) -> float:
        """Largest STFT magnitude or sample, block by block."""
        with open_source(file, allow_truncated=True) as source:
            info = source.info
        blocks = _resampled(file, StreamingResampler(info.sample_rate, self.config.sample_rate, info.channels))
        if isinstance(self.front, Spectrogram):
            blocks = self._magnitudes(blocks, info.channels, self.front)
        return max((float(np.abs(block).max(initial=0)) for block in blocks), default=0.0)

    def _magnitudes(self, blocks: Iterator[Array], channels: int, front: Spectrogram) -> Iterator[Array]:
        stft = StreamingStft(
            channels, front.n_fft, front.hop_length, window_of(front.n_fft, front.win_length, front.window), front.ends
        )
        both = self.config.is_mid_side and channels == 2
        for block in blocks:
            yield magnitude(stft.push(mid_side(block) if both else block))
        yield magnitude(stft.finish())


def _count(file: Path) -> int:
    """Samples, by reading them all. Raises AudioError."""
    return sum(block.shape[1] for block in read_blocks(file, allow_truncated=True))


def _known(cache: Path) -> dict[str, list[float]]:
    """Gives what a scan kept; nothing where the file is damaged, as all of it can be found out again."""
    try:
        return {key: [float(value)] for key, (value,) in json.loads(cache.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _resampled(file: Path, resampler: StreamingResampler) -> Iterator[Array]:
    for block in read_blocks(file, allow_truncated=True):
        yield resampler.push(block)
    yield resampler.finish()


def source_files(source: Source) -> list[Path]:
    """Gives the files of a source, sorted; of its stems where it names some. Raises DataError where there is none."""
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

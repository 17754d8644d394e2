"""What training items are drawn from: files, songs whose stems are known, and stems of several songs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig
from ft.data.scan import AudioFile, Scan, audio_files, patch_files, source_files
from ft.errors import DataError
from ft.stems import MIXTURE, STEMS, recipe, stem_of
from ft.train_config import Source, TrainConfig

Entry = TypeVar("Entry")
Signs = Mapping[str, int]
"""Sounds by name, to be added or subtracted."""
VOCALS, INSTRUMENTAL = STEMS


@dataclass(frozen=True)
class Song:
    """Sounds of one length that belong together, and how its stems are made of them."""

    files: Mapping[str, AudioFile]
    stems: Mapping[str, Signs]

    @classmethod
    def of(cls, stem: str, file: AudioFile) -> Song:
        """Makes one of a file that is a stem."""
        return cls({stem: file}, {stem: {stem: 1}})

    @property
    def file(self) -> AudioFile:
        """One of its files, whose length and rate all have."""
        return next(iter(self.files.values()))

    def peak(self, stem: str | None = None) -> float:
        """Gives the largest magnitude that the mixture or a stem can have; 0 where it is not known."""
        if stem is None and MIXTURE in self.files:
            names: Collection[str] = [MIXTURE]
        else:
            names = self.stems[stem] if stem else {name for signs in self.stems.values() for name in signs}
        return sum(self.files[name].peak or 0.0 for name in names)


@dataclass(frozen=True)
class Remix:
    """A file of a stem, and pools of which one file each is added to it."""

    names: tuple[str, ...]
    """Names of its stem and theirs; equal ones become one sound."""
    file: AudioFile
    others: tuple[Pool[AudioFile], ...]

    def draw(self, rng: np.random.Generator) -> list[Song]:
        """Gives the file and one of each other, which may be of any song."""
        files = [self.file, *(pool.draw(rng) for pool in self.others)]
        return [Song.of(name, file) for name, file in zip(self.names, files, strict=True)]


@dataclass(frozen=True)
class Pool(Generic[Entry]):
    """Files or songs with the probability of each."""

    entries: tuple[Entry, ...]
    probabilities: NDArray[np.float64] | None
    """None where all are alike, and an epoch visits each once."""

    def draw(self, rng: np.random.Generator) -> Entry:
        return self.entries[int(rng.choice(len(self.entries), p=self.probabilities))]


Music = AudioFile | Remix | Song


def data_stems(train: TrainConfig, config: ModelConfig) -> tuple[str, ...]:
    """Names the stems of which every training item is the sum, the vocals last: those of the folders, or the model's.

    >>> data_stems(TrainConfig(instrumentals=(Source("music"),)), ModelConfig(stems=("drums",), rest=None))
    ('instrumental', 'vocals')
    """
    if train.instrumentals or train.vocals:
        return INSTRUMENTAL, VOCALS
    names = tuple(train.stems) or config.all_stems
    return tuple(sorted(names, key=VOCALS.__eq__))


def check_sources(train: TrainConfig, config: ModelConfig) -> None:
    """Looks whether a training has the folders and stems that its examples need; no file is opened.

    Raises:
        DataError: too few are named, some are not there, or they cannot give the stems of the model.
    """
    separates = train.task == "separate"  # else any music will do
    names = data_stems(train, config)
    what = "train.stems" if train.stems else "train.instrumentals and train.vocals"
    check_stems(what, names, config.stems if separates else ())
    if train.cache is not None:
        check_folders([train.cache.folder])
        return
    if not (train.instrumentals or train.pairs or train.stems):
        raise DataError("train.instrumentals: none; name a folder, e.g. `set` train.instrumentals=music/")
    if separates and not (train.vocals or train.pairs or train.stems):
        raise DataError("train.vocals: none; name a folder, e.g. `set` train.vocals=voices/")
    if separates and train.voxaug.force and not (train.vocals or train.stems):
        raise DataError(
            "train.vocals: none, and train.voxaug.force takes pairs as instrumentals only; name a folder of "
            "vocals, or `set` train.voxaug.force=false"
        )
    stems = [source for sources in train.stems.values() for source in sources]
    check_folders([source.folder for source in (*train.instrumentals, *train.pairs, *train.vocals, *stems)])
    for source in train.pairs:
        _check_songs(source, names, config)


def check_validation(train: TrainConfig, config: ModelConfig) -> None:
    """Looks whether the folders of validation are there, and can give the stems of the model. Raises DataError."""
    sets = train.validation
    check_folders([source.folder for source in (*sets.pairs, *sets.instrumentals, *sets.vocals, *sets.songs)])
    if sets.vocals and train.task == "separate":
        check_stems("train.validation.instrumentals and vocals", STEMS, config.stems)
    for source in (*sets.pairs, *sets.songs):
        _check_songs(source, config.all_stems, config)


def check_stems(where: str | Path, found: Collection[str], wanted: Collection[str]) -> None:
    """Raises DataError for a wanted stem that cannot be made of what was found."""
    for stem in wanted:
        if not recipe(stem, found):
            raise DataError(f"{where}: no {stem}, and nothing to make it of; found {', '.join(sorted(found))}")


def check_folders(folders: Sequence[str | Path]) -> None:
    """Raises DataError where some of the folders that a configuration names are not there."""
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        others = f", and {len(missing) - 1} more of the configuration are missing" if missing[1:] else ""
        raise DataError(f"{missing[0]}: no such folder{others}; expected what train: names")


def _check_songs(source: Source, names: Sequence[str], config: ModelConfig) -> None:
    if not patch_files(source.folder):
        for folder, found in _found_songs(source, names):
            _song_stems(folder, found, names, config.rest)


def pool_from_sources(
    sources: Sequence[Source], scan: Scan, need_peak: bool = False, progress: bool = False
) -> Pool[AudioFile]:
    """Gives the files of several folders, of audio or of patches, with their probabilities. Raises DataError."""
    groups = []
    for source in sources:
        found = _sounds(source, scan, need_peak, progress)
        groups.append((source, [entry.file if isinstance(entry, Song) else entry for entry in found]))
    return _pool(groups)


def _sounds(source: Source, scan: Scan, need_peak: bool, progress: bool) -> Sequence[AudioFile | Song]:
    """Gives what a folder holds; one with patch files is a folder of these, in which those with `Y` are pairs."""
    if patches := patch_files(source.folder):
        return [_of_patch(scan.read_patch(path)) for path in patches]
    return scan.read(source_files(source), need_peak, progress)


def _of_patch(files: Mapping[str, AudioFile]) -> AudioFile | Song:
    """Gives a pair, or music or vocals alone."""
    return Song(files, _recipes(files, STEMS, None)) if len(files) > 1 else files[MIXTURE]


def music_from_sources(train: TrainConfig, scan: Scan, need_peak: bool = False, progress: bool = False) -> Pool[Music]:
    """Makes one pool of instrumentals, stems of several songs and whole songs. Raises DataError."""
    groups: list[tuple[Source, Sequence[Music]]] = []
    names = data_stems(train, scan.config)
    for source in train.instrumentals:
        if len(source.stems) > 1:
            alone = [dataclasses.replace(source, weight=None, stems=(stem,)) for stem in source.stems]
            groups.append((source, _remixes([INSTRUMENTAL] * len(alone), [[one] for one in alone], scan, need_peak)))
        else:
            groups.append((source, _sounds(source, scan, need_peak, progress)))
    if apart := [name for name in names if name in train.stems and name != VOCALS]:
        first, *others = (train.stems[name] for name in apart)
        groups += [(source, _remixes(apart, [[source], *others], scan, need_peak, progress)) for source in first]
    for source in train.pairs:
        groups.append((source, songs_from_sources([source], scan, names, need_peak)))
    return _pool(groups)


def _remixes(
    names: Sequence[str], stems: Sequence[Sequence[Source]], scan: Scan, need_peak: bool, progress: bool = False
) -> list[Remix]:
    """One remix for each file of the first stem."""
    first, *others = (pool_from_sources(sources, scan, need_peak, progress) for sources in stems)
    return [Remix(tuple(names), file, tuple(others)) for file in first.entries]


def _pool(groups: Sequence[tuple[Source, Sequence[Entry]]]) -> Pool[Entry]:
    entries = tuple(entry for _, found in groups for entry in found)
    if all(source.weight is None for source, _ in groups):
        return Pool(entries, None)
    weights = [1.0 if source.weight is None else source.weight / len(found) for source, found in groups for _ in found]
    return Pool(entries, np.array(weights) / sum(weights))


def songs_from_sources(
    sources: Sequence[Source], scan: Scan, names: Sequence[str] = (), need_peak: bool = False
) -> list[Song]:
    """Every song's folder below `sources`, or every patch, with the stems of these `names`; none: those of the model.

    Raises:
        DataError: no songs, or some without the stems or of files of several lengths or rates.
    """
    songs: list[Song] = []
    names = names or scan.config.all_stems
    for source in sources:
        patches = patch_files(source.folder)
        for path in patches:
            song = _of_patch(scan.read_patch(path))
            if isinstance(song, AudioFile):
                raise DataError(f"{path}: a patch without Y; expected pairs of X and Y")
            check_stems(path, song.files, names)
            songs.append(song)
        if not patches:
            songs += [_read(scan, folder, found, names, need_peak) for folder, found in _found_songs(source, names)]
    return songs


def _read(scan: Scan, folder: Path, found: Mapping[str, Path], names: Sequence[str], need_peak: bool) -> Song:
    stems = _song_stems(folder, found, names, scan.config.rest)
    needed = {MIXTURE, *(name for signs in stems.values() for name in signs)}
    paths = {name: path for name, path in found.items() if name in needed}
    read = scan.read([*paths.values()], need_peak)
    if len(read) < len(paths):
        raise DataError(f"{folder}: a video without sound; expected sound in all files")
    lengths = [
        f"{name} {file.samples} samples at {file.sample_rate} Hz" for name, file in zip(paths, read, strict=True)
    ]
    for length, file in zip(lengths, read, strict=True):
        if (file.samples, file.sample_rate) != (read[0].samples, read[0].sample_rate):
            raise DataError(f"{folder}: {lengths[0]} and {length}; expected files of one length and rate")
    return Song(dict(zip(paths, read, strict=True)), stems)


def _found_songs(source: Source, names: Sequence[str]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """The folders of songs, and their files by what their names stand for. Raises DataError where there is none."""
    by_folder: dict[Path, list[Path]] = {}
    for path in audio_files(source.folder):
        by_folder.setdefault(path.parent, []).append(path)
    songs: set[Path] = set()
    for folder, paths in sorted(by_folder.items()):
        found: dict[str, Path] = {}
        for path in sorted(paths, key=lambda path: path.stem not in (*names, MIXTURE)):  # plain names go first
            name = path.stem if path.stem in names else stem_of(path.stem, [folder.resolve().name])
            if name is not None:
                found.setdefault(name, path)
        if found.keys() & {MIXTURE, *STEMS, *names} and not songs & {*folder.parents}:
            songs.add(folder)
            yield folder, {name: found[name] for name in sorted(found, key=MIXTURE.__ne__)}
    if not songs:
        raise DataError(f"{source.folder}: no song in it; expected folders of mixture.*, {'.*, '.join(names)}.*")


def _song_stems(folder: Path, found: Collection[str], names: Sequence[str], rest: str | None) -> dict[str, Signs]:
    """Says how a song's stems are made of its files. Raises DataError where they cannot be."""
    stems = _recipes(found, names, rest)
    check_stems(folder, found, [name for name in names if not stems[name]])
    return stems


def _recipes(found: Collection[str], names: Sequence[str], rest: str | None) -> dict[str, Signs]:
    """Says how stems are made of what there is, where they can be."""
    if {MIXTURE, INSTRUMENTAL} <= {*found} and {*names} == {*STEMS}:
        found = [name for name in found if name != VOCALS]  # the mixture stays as it is, also where it was mastered
    stems: dict[str, Signs] = {name: recipe(name, found) for name in names}
    if rest in stems and not stems[rest]:
        total = Counter(next([*whole] for whole in ([MIXTURE], STEMS, found) if {*whole} <= {*found}))
        for signs in stems.values():
            total.subtract(signs)
        stems[rest] = {name: sign for name, sign in total.items() if sign}
    return stems

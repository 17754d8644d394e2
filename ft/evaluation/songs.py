"""The songs of `ft evaluate`: folders of true stems, and folders of estimates that something else wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft.audio.open import read_audio
from ft.audio.source import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from ft.errors import AudioError
from ft.files import walk_once
from ft.metrics import sdr
from ft.stems import ALIASES, MIXTURE, STEMS, recipe, stem_of, stem_of_song

Array = NDArray[np.float32]
Found = dict[str | None, list[Path]]
"""Files by the stems that their names stand for; None where it is no stem's name."""


@dataclass(frozen=True)
class SongFolder:
    """Says where a song is."""

    path: Path
    name: str
    """Names of its folder and those above it, up to the one that was named, by /; more where two would be one."""
    unique: bool = True
    """No other song's folder has this one's name, so that estimates can be known by it alone."""


@dataclass(frozen=True)
class Made:
    """Says which files the stems of a song, or of estimates of it, were made of."""

    files: dict[str, str] = field(default_factory=dict)
    """The names of those that were read, by what they stand for."""
    recipes: dict[str, dict[str, int]] = field(default_factory=dict)
    """What each stem is the sum of, with signs."""
    longer: dict[str, int] = field(default_factory=dict)
    """Samples by which a file was longer than the song, and was cut; less than 0 where silence was added."""


@dataclass(frozen=True)
class Estimates:
    """What something made of a song, and why stems are missing."""

    stems: dict[str, Array]
    problems: dict[str, str] = field(default_factory=dict)
    made: Made = field(default_factory=Made)


@dataclass(frozen=True)
class SongSound:
    """A song read whole: what a separator gets, and what it should give."""

    mixture: Array
    stems: dict[str, Array]
    """`vocals`, `instrumental` and what else was asked for, each of the mixture's shape."""
    sample_rate: int
    residual_db: float
    """The energy of what the stems miss of the mixture, below that of the mixture."""
    made: Made


def find_song_folders(folders: Sequence[Path]) -> list[SongFolder]:
    """Gives the songs in folders, each itself a song or searched with all that is in it; sorted, each once.

    A song is a folder that holds audio whose name stands for mixture, vocals or instrumental (`ft.stems`). Where two
    would have one name, the folder they were found in stands before it, or if that is not enough the whole path.

    Raises:
        AudioError: no such folder, or no song in one.
    """
    songs: dict[Path, list[str]] = {}
    paths: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            what = "not a folder" if folder.exists() else "no such folder"
            raise AudioError(f"{folder}: {what}; expected a song's folder, or one of such folders")
        found = list(_search(folder))
        if not found:
            raise AudioError(f"{folder}: no song in it; expected folders of vocals.* and its other stems")
        for path in found:
            inside = path.relative_to(folder).as_posix()
            whole = path.resolve()
            longer = whole.parts[-2:] if inside == "." else (folder.resolve().name, inside)
            names = [whole.name if inside == "." else inside, "/".join(longer)]
            songs.setdefault(whole, [*names, whole.relative_to(whole.anchor).as_posix()])
            paths.setdefault(whole, path)
    own = Counter(whole.name for whole in songs)
    for _ in range(2):  # first the folder before those that are alike, then the path before those that still are
        taken = Counter(names[0] for names in songs.values())
        for names in songs.values():
            if taken[names[0]] > 1:
                names[:] = names[1:] if len(names) > 1 else names
    return [SongFolder(paths[whole], names[0], own[whole.name] == 1) for whole, names in songs.items()]


def read_song(folder: Path, stems: Collection[str] = (), more: Collection[str] = ()) -> SongSound:
    """Reads the mixture and true stems of a folder: vocals and instrumental, and others by name.

    The instrumental may be the sum of its parts, a stem what the other one leaves of the mixture, and the mixture the
    sum of both. A mono file among stereo ones counts for both channels.

    Args:
        stems: others that there must be.
        more: others that are read where they can be made of the files.
    Raises:
        AudioError: a stem is missing or cannot be read, a file has no stem's name, or their lengths or rates differ.
    """
    files = _Files(folder, _by_stem(folder, partial(stem_of, titles=[folder.resolve().name])))
    wanted = dict.fromkeys((*STEMS, *stems, *(stem for stem in more if recipe(stem, files.paths))))
    found = {stem: files.stem(stem) for stem in wanted}
    total = found["vocals"] + found["instrumental"]
    mixture = files.read(MIXTURE) if MIXTURE in files.paths else total
    channels = max(len(mixture), len(total))
    mixture, total = _spread(mixture, channels), _spread(total, channels)
    found = {stem: _spread(sound, channels) for stem, sound in found.items()}
    return SongSound(mixture, found, files.rate, sdr(total, mixture), files.made)


def read_estimates(folder: Path, song: SongFolder, sound: SongSound, alone: bool, tolerance: float = 0) -> Estimates:
    """Reads the stems that something wrote for a song, from where `find_estimates` finds them.

    Args:
        tolerance: samples by which a file may be longer or shorter than the song: its end is cut, or is silent.
    """
    try:
        files = _Files(*find_estimates(folder, song, alone), sound, tolerance)
    except AudioError as error:
        return Estimates({}, dict.fromkeys(sound.stems, str(error)))
    estimates = Estimates({}, {}, files.made)
    for stem in sound.stems:
        try:
            estimates.stems[stem] = _spread(files.stem(stem), len(sound.mixture))
        except AudioError as error:
            estimates.problems[stem] = str(error)
    return estimates


def find_estimates(folder: Path, song: SongFolder, alone: bool) -> tuple[Path, Found]:
    """Finds the stems that something wrote for a song: the folder they are in, and its files by stem.

    They are searched for in FOLDER/<song>, with the folders above it or, if its name is unique, without them, in what
    tools make of a song's `mixture.*`, FOLDER/<song>/mixture, and among files that begin with the song's name in FOLDER
    itself; then the same in each folder of FOLDER, as Demucs has one for each model. To a song `alone` belongs all that
    is in FOLDER itself, or in FOLDER/mixture, and has the name of no other song.

    Raises:
        AudioError: there are none, or two folders of FOLDER have some.
    """
    own = song.path.resolve().name
    names = dict.fromkeys([song.name, own] if song.unique else [song.name])

    def look(base: Path) -> Iterator[tuple[Path, Found]]:
        for place in (base / name / inner for name in names for inner in ("", MIXTURE)):
            yield place, _by_stem(place, partial(stem_of, titles=[own, MIXTURE]))
        if song.unique:
            among_others = _by_stem(base, partial(stem_of_song, title=own))
            yield base, {stem: paths for stem, paths in among_others.items() if stem is not None}

    def look_closer() -> Iterator[tuple[Path, Found]]:
        for place in (folder, folder / MIXTURE):
            yield place, _by_stem(place, lambda name: stem_of_song(name, "") or stem_of_song(name, MIXTURE))

    def first(places: Iterable[tuple[Path, Found]]) -> tuple[Path, Found] | None:
        return next((found for found in places if set(found[1]) - {MIXTURE, None}), None)

    if found := first(chain(look(folder), look_closer() if alone else ())):
        return found
    inner = [found for base in sorted(_listed(folder)) if (found := first(look(base)))]
    if len(inner) > 1:
        raise AudioError(f"{inner[0][0]} and {inner[1][0]}: of one song; expected `estimates` for each of the two")
    if not inner:
        raise AudioError(
            f"{folder / [*names][-1]}: no folder of stems, and no {own}_(Vocals).* or the like in {folder}"
        )
    return inner[0]


def _search(folder: Path) -> Iterator[Path]:
    for place, inner, _ in walk_once(folder):
        if set(_by_stem(place, partial(stem_of, titles=[place.resolve().name]))) & {MIXTURE, *STEMS}:
            inner.clear()
            yield place


def _by_stem(folder: Path, stem_of_name: Callable[[str], str | None]) -> Found:
    """Gives the audio files of a folder, but for hidden ones. Raises AudioError for a folder not to be read."""
    found: Found = {}
    for path in sorted(_listed(folder)):
        audio = path.suffix.lower() in AUDIO_SUFFIXES | MEDIA_SUFFIXES and not path.name.startswith(".")
        if audio and path.is_file():
            found.setdefault(stem_of_name(path.stem), []).append(path)
    return found


def _listed(folder: Path) -> list[Path]:
    """Gives what is in a folder, nothing where it is none. Raises AudioError for one not to be read."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise AudioError(f"{folder}: cannot be read ({error.strerror})") from error


class _Files:
    """The files of one song, read once each, all of one rate and length.

    Args:
        song: whose rate and length that is; without it they are those of the first file.
        tolerance: samples by which a file may be longer or shorter.
    Raises:
        AudioError: a file has no stem's name, or two have the same.
    """

    def __init__(self, folder: Path, found: Found, song: SongSound | None = None, tolerance: float = 0) -> None:
        if strange := found.get(None):
            more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
            raise AudioError(
                f"{strange[0]}{more}: no stem's name; expected one of {', '.join(ALIASES)}: rename it, or move it away"
            )
        for paths in found.values():
            if len(paths) > 1:
                raise AudioError(f"{folder}: {paths[0].name} and {paths[1].name}; expected one file for each stem")
        self.paths = {stem: paths[0] for stem, paths in found.items() if stem is not None}
        self.made = Made()
        self.rate = song.sample_rate if song else 0
        self._folder, self._song, self._tolerance = folder, song, tolerance
        self._samples = song.mixture.shape[1] if song else 0
        self._like = "the song"
        self._sounds: dict[str, Array] = {}

    def stem(self, stem: str) -> Array:
        """A stem, made of what there is. Raises AudioError."""
        signs = recipe(stem, self.paths)
        if not signs:
            raise AudioError(f"{self._folder}: no {stem}.*, and no other files to make it of")
        if self._song and set(signs) < (whole := set(self._song.made.recipes[stem])):
            missing = ", ".join(sorted(whole - set(signs)))
            raise AudioError(f"{self._folder}: no {missing}.*, which the song has; the others are not its {stem}")
        total = sum(sign * self.read(name) for name, sign in signs.items())
        self.made.recipes[stem] = signs
        return np.asarray(total)

    def read(self, name: str) -> Array:
        """One file. Raises AudioError where it is not like the others."""
        if name not in self._sounds:
            self._sounds[name] = self._read(self.paths[name])
            self.made.files[name] = self.paths[name].name
        return self._sounds[name]

    def _read(self, path: Path) -> Array:
        sound, rate = read_audio(path)
        if not self.rate:
            self.rate, self._samples, self._like = rate, sound.shape[1], path.name
        if rate != self.rate:
            raise AudioError(f"{path}: {rate} Hz; {self._like} has {self.rate} Hz")
        longer = sound.shape[1] - self._samples
        if abs(longer) > self._tolerance:
            problem = f"{path}: {sound.shape[1]} samples; {self._like} has {self._samples}"
            near = self._song and abs(longer) <= rate
            raise AudioError(f"{problem}; `length_tolerance` {abs(longer)} would do" if near else problem)
        if longer:
            self.made.longer[path.name] = longer
            sound = np.pad(sound[:, : self._samples], ((0, 0), (0, max(-longer, 0))))
        if self._song and len(sound) > len(self._song.mixture):
            raise AudioError(f"{path}: {len(sound)} channels; the song has {len(self._song.mixture)}")
        return sound


def _spread(sound: Array, channels: int) -> Array:
    return np.repeat(sound, channels, axis=0) if len(sound) < channels else sound

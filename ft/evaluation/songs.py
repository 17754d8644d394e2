"""The songs of `ft evaluate`: folders of true stems, and folders of estimates that something else wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft.audio import AUDIO_SUFFIXES, MEDIA_SUFFIXES, read_audio
from ft.errors import AudioError
from ft.files import walk_once
from ft.metrics import sdr

Array = NDArray[np.float32]

STEMS = ("vocals", "instrumental")
INSTRUMENTALS = ("instrumental", "accompaniment", "no_vocals")
"""Names that the field gives to all but the vocals: ours, that of Spleeter and museval, that of Demucs."""
_MARKS = ("mixture", "vocals", *INSTRUMENTALS)
"""A folder with a file of one of these names is a song; every further one is a part of its instrumental."""


@dataclass(frozen=True)
class SongFolder:
    """Where a song is."""

    path: Path
    name: str
    """Of the folder, with those above it up to the one that was named, by /; with more where two would have one."""
    unique: bool = True
    """No other song's folder has this one's name, so that estimates can be known by it alone."""


@dataclass(frozen=True)
class SongSound:
    """A song read whole: what a separator gets, and what it should give."""

    mixture: Array
    stems: dict[str, Array]
    """`vocals` and `instrumental`, each of the mixture's shape."""
    sample_rate: int
    residual_db: float
    """The energy of what the stems miss of the mixture, below that of the mixture."""


def find_songs(folders: Sequence[Path]) -> list[SongFolder]:
    """The songs in folders, each itself a song or searched with all that is in it; sorted, each once.

    A song is a folder that holds audio named mixture, vocals or instrumental. Where two would have one name, the folder
    they were found in stands before it, or if that is not enough the whole path.

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


def read_song(folder: Path) -> SongSound:
    """The mixture and true stems of a folder.

    The instrumental is `instrumental.*` (or accompaniment, no_vocals), or the sum of every other stem; the mixture
    `mixture.*`, or the sum of both. A mono file among stereo ones counts for both channels.

    Raises:
        AudioError: a stem is missing or cannot be read, or their lengths or rates differ.
    """
    files = _one_each(folder)
    if "vocals" not in files:
        raise AudioError(f"{folder}: no vocals.*; expected vocals and the other stems of the song")
    names = _instrumental_names(files)
    if not names:
        raise AudioError(f"{folder}: no stem but vocals; expected instrumental.* or those whose sum it is")
    wanted = ["vocals", *names, *(["mixture"] if "mixture" in files else [])]
    sounds: dict[str, Array] = {}
    rate = samples = 0
    for name in wanted:
        sounds[name], own_rate = read_audio(files[name])
        rate, samples = rate or own_rate, samples or sounds[name].shape[1]
        _check_alike(files[name], sounds[name], own_rate, samples, rate, files["vocals"].name)
    channels = max(len(sound) for sound in sounds.values())
    stems = {"vocals": sounds["vocals"], "instrumental": _sum([sounds[name] for name in names])}
    stems = {stem: _spread(sound, channels) for stem, sound in stems.items()}
    total = stems["vocals"] + stems["instrumental"]
    mixture = _spread(sounds["mixture"], channels) if "mixture" in sounds else total
    return SongSound(mixture, stems, rate, sdr(total, mixture))


def read_estimates(
    folder: Path, song: SongFolder, sound: SongSound, alone: bool
) -> tuple[dict[str, Array], dict[str, str]]:
    """The stems that something wrote for a song, and why those that are missing are.

    They are searched for in FOLDER/<song>, with the folders above it or, if its name is unique, without them, and in
    what `ft separate` makes of a song's `mixture.*`, FOLDER/<song>/mixture; for a song `alone` also in FOLDER itself.
    """
    own = song.path.resolve().name
    known_by = [song.name, own] if song.unique else [song.name]
    places = [each for name in known_by for each in (folder / name, folder / name / "mixture")]
    places += [folder] if alone else []
    place = next((each for each in places if each.is_dir() and set(_stem_files(each)) - {"mixture"}), None)
    if place is None:
        return {}, dict.fromkeys(STEMS, f"{folder / known_by[-1]}: no folder of stems")
    estimates, problems = {}, {}
    for stem in STEMS:
        try:
            estimates[stem] = _read_estimate(place, stem, song, sound)
        except AudioError as error:
            problems[stem] = str(error)
    return estimates, problems


def _read_estimate(folder: Path, stem: str, song: SongFolder, sound: SongSound) -> Array:
    files = _one_each(folder)
    names = _instrumental_names(files) if stem == "instrumental" else [stem] * (stem in files)
    if not names:
        raise AudioError(f"{folder}: no {stem}.*")
    if stem == "instrumental" and names[0] not in INSTRUMENTALS:
        parts_of_song = set(_instrumental_names(_one_each(song.path)))
        if set(names) < parts_of_song and (missing := ", ".join(sorted(parts_of_song - set(names)))):
            raise AudioError(f"{folder}: no {missing}.*, which the song has; the others are not its instrumental")
    channels, samples = sound.mixture.shape
    parts = []
    for name in names:
        part, rate = read_audio(files[name])
        _check_alike(files[name], part, rate, samples, sound.sample_rate, "the song")
        if len(part) > channels:
            raise AudioError(f"{files[name]}: {len(part)} channels; the song has {channels}")
        parts.append(part)
    return _spread(_sum(parts), channels)


def _search(folder: Path) -> Iterator[Path]:
    for place, inner, _ in walk_once(folder):
        if set(_stem_files(place)) & set(_MARKS):
            inner.clear()
            yield place


def _stem_files(folder: Path) -> dict[str, list[Path]]:
    """The audio files of a folder by the stems they are named for. Raises AudioError for a folder not to be read."""
    found: dict[str, list[Path]] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise AudioError(f"{folder}: cannot be read ({error.strerror})") from error
    for path in paths:
        if path.suffix.lower() in AUDIO_SUFFIXES | MEDIA_SUFFIXES and path.is_file():
            found.setdefault(path.stem.lower(), []).append(path)
    return found


def _one_each(folder: Path) -> dict[str, Path]:
    """The same, one file for each. Raises AudioError for two of one stem."""
    for paths in (found := _stem_files(folder)).values():
        if len(paths) > 1:
            raise AudioError(f"{folder}: {paths[0].name} and {paths[1].name}; expected one file for each stem")
    return {name: path for name, (path,) in found.items()}


def _instrumental_names(files: Mapping[str, Path]) -> list[str]:
    """The stems whose sum is the instrumental: itself, or all that are no vocals."""
    whole = [name for name in INSTRUMENTALS if name in files]
    return whole[:1] or [name for name in files if name not in _MARKS]


def _check_alike(path: Path, sound: Array, rate: int, samples: int, expected_rate: int, other: str) -> None:
    """Raises AudioError where a rate or a length is not what is expected."""
    if rate != expected_rate:
        raise AudioError(f"{path}: {rate} Hz; {other} has {expected_rate} Hz")
    if sound.shape[1] != samples:
        raise AudioError(f"{path}: {sound.shape[1]} samples; {other} has {samples}")


def _sum(sounds: Sequence[Array]) -> Array:
    total = sounds[0]
    for sound in sounds[1:]:
        total = total + sound
    return total


def _spread(sound: Array, channels: int) -> Array:
    return np.repeat(sound, channels, axis=0) if len(sound) < channels else sound

"""What was named on the command line: the songs it stands for, and the files that each gets."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Literal

from ft.audio.source import AUDIO_SUFFIXES, MEDIA_SUFFIXES, READABLE
from ft.errors import AudioError
from ft.files import STDIN
from ft.options import SeparateOptions
from ft.songs.marks import MARKER as MARKER
from ft.songs.marks import OUTPUT_FOLDER, MarkPlaces, is_output
from ft.songs.names import Identity, Names, check_outputs, identity

logger = logging.getLogger(__name__)

SUFFIXES = AUDIO_SUFFIXES | MEDIA_SUFFIXES
_EMPTY = f": no audio files in this folder, output folders left out; expected {READABLE}"


@dataclass(frozen=True)
class Song:
    """An input and the files that it gets."""

    path: Path
    """`STDIN` for standard input."""
    folder: PurePath = field(default_factory=PurePath)
    """Where the input stands below the folder that was searched; "." for a file named directly."""
    files: dict[str, Path] = field(default_factory=dict)
    """The file of each stem."""
    images: dict[str, Path] = field(default_factory=dict)
    """With `options.images` the picture of the mask, as "mask", and that of each stem."""
    marks: tuple[Path, ...] = ()
    """Empty files that mark the folders of its files as no places to search."""
    error: str | None = None
    """Why it cannot be separated, as far as is known before: a folder without audio, or one that may not be read, or a
    file that another song would get too."""

    @property
    def outputs(self) -> list[Path]:
        """All its files, the images last."""
        return [*self.files.values(), *self.images.values()]


def find_songs(
    paths: Sequence[Path], output_dir: Path, stems: Sequence[str], options: SeparateOptions, model: str
) -> list[Song]:
    """The songs that files and folders stand for, each once, with the files they get below `output_dir`.

    Folders are searched for audio and video with all that is in them, in the order of their names; not, however, what
    is hidden, `output_dir`, a folder that an earlier run made for its stems, or one called `separated`. Links to
    folders are followed, each folder is searched once. No audio file is opened.

    Args:
        stems: those of the model; `options.stem` may choose one of them.
        model: what stands for {model} in the names.
    Raises:
        AudioError: nothing but folders without audio.
        ConfigError: the model has no such stem, or the template of names leads out of `output_dir`.
    """
    inputs = list(_unique(_found(paths, output_dir)))
    empty = [song for song in inputs if song.error is not None and song.error.endswith(_EMPTY)]
    if inputs and len(empty) == len(inputs):
        said = _EMPTY if len(empty) == 1 else _EMPTY.replace("this folder", "these folders")
        raise AudioError(f"{', '.join(str(song.path) for song in empty)}{said}")
    if not inputs:
        raise AudioError(
            f"{', '.join(map(str, paths))}: nothing to separate: output folders ('{OUTPUT_FOLDER}', `output` and those "
            "of earlier runs) are not searched; name the files, or choose another `output`"
        )
    names = Names.of(options, stems, model)
    return failures_first(checked([(with_files(song, output_dir, names), output_dir) for song in inputs]))


def checked(songs: Sequence[tuple[Song, Path]]) -> list[Song | None]:
    """Makes the songs of one call, each given with its output folder, ready to be written.

    One that is there twice is None the second time. One that cannot be written, as another would get the same file, has
    that as its `error`.
    """
    doubles, problems = check_outputs([(song.path, song.outputs) for song, _ in songs])
    kept = [song for number, (song, _) in enumerate(songs) if number not in doubles]
    inputs = [song.path for song in kept if song.path != STDIN]
    places = MarkPlaces(inputs, (file for song in kept for file in song.files.values()), SUFFIXES)
    ready: list[Song | None] = []
    for number, (song, folder) in enumerate(songs):
        if number in doubles:
            ready.append(None)
        elif number in problems:
            ready.append(replace(song, files={}, images={}, error=problems[number]))
        else:
            ready.append(replace(song, marks=places.of(folder, song.files.values()) if song.files else ()))
    return ready


def failures_first(songs: Sequence[Song | None]) -> list[Song]:
    """Puts what is known to fail before all else, so that it is told before the work begins."""
    return sorted(filter(None, songs), key=lambda song: song.error is None)


def with_files(song: Song, output_dir: Path, names: Names) -> Song:
    """The song with the files that it gets below `output_dir`."""
    if song.error is not None:
        return song
    title = "stdin" if song.path == STDIN else song.path.stem
    folder = song.folder
    if folder == PurePath() and "{folder}" in names.template and song.path != STDIN:
        folder = PurePath(song.path.absolute().parent.name)  # so that songs of one name in several folders differ
    files, images = names.of_song(title, folder, song.path.suffix[1:])
    return Song(
        song.path,
        song.folder,
        {stem: output_dir / file for stem, file in files.items()},
        {kind: output_dir / file for kind, file in images.items()},
    )


def existing(song: Song) -> Literal["none", "some", "all"]:
    """How many of a song's files and images are there.

    An empty file, which no song and no image is, counts as missing. What others hold is not looked at.

    Raises:
        AudioError: one of them is a folder or cannot be looked at, or the song itself is known to be unreadable.
    """
    if song.error is not None:
        raise AudioError(song.error)
    there = [_is_there(song, path) for path in song.outputs]
    return "all" if all(there) else "some" if any(there) else "none"


def to_do(song: Song, options: SeparateOptions) -> bool:
    """Whether a song's files are to be written; False where they are all there and that is enough.

    Raises:
        AudioError: some are there, and `options` say neither to replace them nor to go on without; or as `existing`.
    """
    there = existing(song)
    if there == "none" or options.force:
        return True
    if not options.skip_existing:
        first = next(path for path in song.outputs if _is_there(song, path))
        raise AudioError(f"{song.path}: {first} is there already; `force` replaces it, `skip_existing` leaves it")
    return there != "all"


def _is_there(song: Song, path: Path) -> bool:
    try:
        if path.is_dir():
            raise AudioError(f"{song.path}: {path} is a folder; expected a file or nothing. Choose another `output`")
        status = path.stat()
        return status.st_size > 0 or not stat.S_ISREG(status.st_mode)
    except PermissionError as error:
        raise AudioError(f"{song.path}: {path}: {error.strerror}; choose another `output`") from error
    except OSError:  # too long a name, or a file where a folder should be: the writer says so
        return False


def _unique(songs: Iterator[Song]) -> Iterator[Song]:
    """The songs without those that were named before, by whatever path to their folder."""
    folders: dict[Path, Identity | Path] = {}
    seen = set()
    for song in songs:
        parent = song.path.parent
        if parent not in folders:
            folders[parent] = identity(parent) or parent.absolute()
        key = (folders[parent], song.path.name)
        if key not in seen:
            seen.add(key)
            yield song


def _found(paths: Sequence[Path], output_dir: Path) -> Iterator[Song]:
    output = identity(output_dir)
    for path in paths:
        if path == STDIN or not _is_folder(path):
            yield Song(path)
            continue
        if _is_output(path, identity(path), output):
            logger.info("%s: an output folder, which is not searched", path)
            continue
        songs = _search(path, output)
        if not songs:
            yield Song(path, error=f"{path}{_EMPTY}")
        yield from songs


def _search(root: Path, output: Identity | None) -> list[Song]:
    """The audio below a folder, sorted. Links to folders come last, so that a song keeps its real place."""
    found: list[Song] = []
    seen: set[Identity | None] = set()
    real, links = [PurePath()], list[PurePath]()
    while real or links:
        relative = real.pop() if real else links.pop(0)
        folder = root / relative
        this = identity(folder)
        if this in seen:
            continue
        if relative.parts and _is_output(folder, this, output):
            if this != output:
                logger.info("%s: an output folder, which is not searched", folder)
            continue
        if this is not None:
            seen.add(this)
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name.startswith("."):
                        continue
                    if _is_folder(entry):
                        (links if entry.is_symlink() else real).append(relative / entry.name)
                    elif PurePath(entry.name).suffix.lower() in SUFFIXES and _is_song(entry):
                        found.append(Song(folder / entry.name, relative))
        except OSError as error:  # said of this folder alone: the others go on
            found.append(Song(folder, relative, error=f"{folder}: cannot be searched: {error.strerror}"))
    return sorted(found, key=lambda song: song.path.parts)


def _is_folder(entry: Path | os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, a name beyond all length, or behind a folder that may not be entered
        return False


def _is_song(entry: os.DirEntry[str]) -> bool:
    """A file, or a link that leads nowhere, which is told of when it is opened; no pipe and no device."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


def _is_output(folder: Path, this: Identity | None, output: Identity | None) -> bool:
    return (this is not None and this == output) or is_output(folder)

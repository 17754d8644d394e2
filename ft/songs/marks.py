"""Marks in folders of stems, so that no later search takes stems for songs: where they go, and for how long."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ft.songs.names import identity, real_path

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from ft.songs.inputs import Song

logger = logging.getLogger(__name__)

MARKER = ".ft-output"
"""An empty file in a folder of stems, so that a later search leaves the folder out."""
OUTPUT_FOLDER = "separated"
"""Needs no mark: no folder of this name is searched."""
_ATTEMPTS = 10
_ENTRIES = 10_000
"""Looked at in a folder to see whether it holds sound; one with more is a home and no output folder."""


class MarkPlaces:
    """Chooses the folders to mark for the songs of one call: never one that holds, or may hold, anything to separate.

    That is the output folder, or the folders in which a song's files are, where the output folder holds inputs of this
    call or other sound that was there before. Folders with a mark keep it, so that a run that was killed goes on as it
    began.
    """

    def __init__(self, inputs: Iterable[Path], outputs: Iterable[Path], suffixes: Collection[str]) -> None:
        """
        Args:
            inputs: files that are to be separated or copied.
            outputs: what becomes of them, which is no sound to be searched for.
            suffixes: of names that a search takes for songs.
        """
        self._outputs, self._suffixes = set(outputs), suffixes
        above: set[Path] = set()
        for folder in {path.parent for path in inputs}:
            real = real_path(folder)
            above |= {real, *real.parents}
        self._above_inputs = {identity(folder) for folder in above}
        self._known: dict[Path, bool] = {}

    def of(self, output_dir: Path, files: Iterable[Path]) -> tuple[Path, ...]:
        """The folders to mark for a song with these files below an output folder; none where none may be."""
        folders = (output_dir,), dict.fromkeys(file.parent for file in files)
        return next(filter(None, (tuple(filter(self._may_be_marked, each)) for each in folders)), ())

    def _may_be_marked(self, folder: Path) -> bool:
        if folder not in self._known:
            this = identity(folder)
            self._known[folder] = this is None or (
                this not in self._above_inputs and (is_output(folder) or not self._holds_songs(folder))
            )
        return self._known[folder]

    def _holds_songs(self, root: Path) -> bool:
        folders, left = [root], _ENTRIES
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        left -= 1
                        path = folder / entry.name
                        if left < 0:
                            return True
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            if not is_output(path):
                                folders.append(path)
                        elif path.suffix.lower() in self._suffixes and path not in self._outputs:
                            return True
            except OSError:  # what cannot be searched now cannot be later
                continue
        return False


def is_output(folder: Path) -> bool:
    """Whether it is called like an output folder, or marked as one."""
    return OUTPUT_FOLDER in (folder.name, real_path(folder).name) or os.path.lexists(folder / MARKER)


@contextmanager
def marking(song: Song) -> Iterator[None]:
    """Marks the folders of a song's files before anything is in them, for the time it takes to write these and on.

    Where nothing but the mark is in a folder at the end, as when the song failed, the mark goes again, and so do the
    folders that were made for it. It stays as long as another song is being written there, of this process or, where
    the file system has locks, of another one. A folder that cannot be marked is none that could not be written to: no
    error is raised, the writer of the files says what is wrong.
    """
    with ExitStack() as stack:
        for folder in song.marks:
            stack.enter_context(_marked(folder))
        yield


@dataclass
class _Use:
    """Of a folder by the songs that are being written there now."""

    songs: int = 0
    made: list[Path] = field(default_factory=list)
    """Folders that were made for the mark, innermost first."""
    descriptor: int | None = None
    """Of the mark, with a shared lock while it is needed."""


_uses: dict[Path, _Use] = {}
_lock = threading.Lock()


@contextmanager
def _marked(folder: Path) -> Iterator[None]:
    key = folder.absolute()
    with _lock:
        use = _uses.setdefault(key, _Use())
        use.songs += 1
    try:
        with _lock:
            if use.descriptor is None:
                _mark(folder, use)
        yield
    finally:
        with _lock:
            use.songs -= 1
            if use.songs == 0:
                del _uses[key]
                _unmark(folder, use)


def _mark(folder: Path, use: _Use) -> None:
    """Makes the mark, with the folders to it. Another process may be removing both."""
    for _ in range(_ATTEMPTS):
        try:
            use.made += [path for path in (folder, *folder.parents) if not path.exists() and path not in use.made]
            folder.mkdir(parents=True, exist_ok=True)
            use.descriptor = os.open(folder / MARKER, os.O_RDONLY | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.debug("%s: cannot be marked as an output folder: %s", folder, error)
            return
        if _lock_mark(use.descriptor, alone=False) is None or _is_at(use.descriptor, folder / MARKER):
            return
        os.close(use.descriptor)
        use.descriptor = None


def _unmark(folder: Path, use: _Use) -> None:
    """Removes a mark that is alone, and the folders that were made for it."""
    needed = use.descriptor is not None and _lock_mark(use.descriptor, alone=True) is False
    with suppress(OSError, ValueError):
        if sys.platform == "win32" and use.descriptor is not None:
            os.close(use.descriptor)  # an open file cannot be removed there
            use.descriptor = None
        if not needed and [path.name for path in folder.iterdir()] == [MARKER]:
            (folder / MARKER).unlink()
    if use.descriptor is not None:
        os.close(use.descriptor)
    for made in use.made:
        with suppress(OSError):
            made.rmdir()  # as far as they are empty


def _lock_mark(descriptor: int, *, alone: bool) -> bool | None:
    """Whether the mark could be locked, shared or for this process alone; None where there are no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    status = os.fstat(descriptor)
    return identity(path) == (status.st_dev, status.st_ino)

"""Files that get their names together, when all of them are whole, each written by one run at a time.

A file grows in a part, a hidden one beside it whose name is the same in every run, so that what a killed run left is
found. A lock, in a file of its own beside the part, tells a run that another one is writing the same. The system ends a
lock with its process: parts that nobody has locked are nobody's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import soundfile
from filelock import lock_descriptor

from ft.audio.encode import cause
from ft.audio.source import reason
from ft.errors import AudioError
from ft.files import sync_file, sync_folder

logger = logging.getLogger(__name__)

_PART = re.compile(r"(\.ft-[0-9a-f]{12})\.(?:part|raw\.part|lock)")
_ATTEMPTS, _PAUSE = 10, 0.03
"""So often a lock is asked for, seconds apart: `remove_parts` holds those of what is nobody's for a moment."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a folder has a time that differs from the last one's on every file system."""
_empty: dict[Path, int] = {}
"""When folders changed last that held no parts then."""


class Outputs:
    """The files of one song: claimed by `with`, made in their parts, named by `commit`.

    Left without `commit`, or by an error after it, nothing remains: parts, files that got their names, folders that
    were made. The claim holds against other threads as well as against other processes; where a file system has no
    locks, every claim is granted. What a killed process leaves are files that `remove_parts` finds, and whole files of
    which some are missing.
    """

    def __init__(self, paths: Iterable[Path], marks: Iterable[Path] = ()) -> None:
        """
        Args:
            paths: of the files.
            marks: empty files in folders on the way to these, made before the first file gets its name; one that cannot
                be made is left out.
        """
        self.paths = sorted(dict.fromkeys(paths))  # in every run, so that of two that want the same one gets them all
        self.marks = tuple(marks)
        self._locks: dict[Path, int] = {}
        self._made: list[Path] = []
        """Folders and marks, the outermost first, and a mark behind its folder: they are removed from the end."""
        self._placed: dict[Path, os.stat_result] = {}
        self._is_whole = False

    def __enter__(self) -> Self:
        """Claims the files. Raises AudioError where another run is writing one of them, or it cannot be made."""
        remove_parts(self.paths)
        try:
            for path in self.paths:
                _check_place(path)
            for path in self.paths:
                self._claim(path)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_whole = self._is_whole and kind is None
        self._close()

    def commit(self) -> None:
        """Gives all parts their names, once their bytes are on the disk. Raises AudioError."""
        for path in self.paths:
            with told(path):
                sync_file(part_of(path))
        for mark in self.marks:
            try:
                if not os.path.lexists(mark):
                    mark.touch()
                    self._made.insert(self._made.index(mark.parent) + 1 if mark.parent in self._made else 0, mark)
            except (OSError, ValueError) as error:
                logger.debug("%s: cannot be made: %s", mark, error)
        for path in self.paths:
            _check_place(path)
            with told(path):
                self._placed[path] = part_of(path).stat()  # before it has the name, should anything interrupt this
                part_of(path).replace(path)
        for folder in dict.fromkeys(path.parent for path in self.paths):
            sync_folder(folder)
        self._is_whole = True

    def _claim(self, path: Path) -> None:
        lock = part_of(path, "lock")
        descriptor: int | None = None
        try:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    time.sleep(_PAUSE)
                try:
                    self._made += [folder for folder in reversed(lock.parents) if not folder.exists()]
                    lock.parent.mkdir(parents=True, exist_ok=True)
                    descriptor, _ = _locked(lock)
                except FileNotFoundError:  # another song that failed took away the folder it had made
                    if attempt == _ATTEMPTS - 1:
                        raise
                if descriptor is not None:
                    self._locks[lock] = descriptor
                    return
        except OSError as error:
            raise AudioError(f"{path.parent}: cannot write there: {reason(error)}") from error
        raise AudioError(f"{path}: another run is writing it; wait for it, or choose another `output`")

    def _close(self) -> None:
        with ExitStack() as stack:  # from the last line to the first, whatever fails or interrupts
            for path in self._made if not self._is_whole else []:
                stack.callback(_remove_alone, path)
            for lock, descriptor in self._locks.items():
                stack.callback(_unlock, lock, descriptor)
            for lock in self._locks:
                stack.callback(remove, lock.with_suffix(".part"))
                stack.callback(remove, lock.with_suffix(".raw.part"))
            for path, status in self._placed.items():
                if not self._is_whole and _is(status, path):
                    stack.callback(remove, path)
            self._locks, self._placed, self._made = {}, {}, []


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Makes errors of writing an AudioError of one line that names the file."""
    try:
        yield
    except (OSError, soundfile.LibsndfileError) as error:
        raise AudioError(f"{path}: cannot write: {cause(error)}") from error


def part_of(path: Path, kind: str = "part") -> Path:
    """The hidden file beside another in which that grows, its raw sound as `raw.part`, or which is locked as `lock`.

    It is short: a name as long as allowed has room for no suffix.

    >>> [part_of(Path("song/vocals.wav"), kind).name for kind in ("part", "raw.part", "lock")]
    ['.ft-3b77e4cea6b1.part', '.ft-3b77e4cea6b1.raw.part', '.ft-3b77e4cea6b1.lock']
    """
    return path.with_name(f".ft-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}.{kind}")


def remove_parts(files: Iterable[Path]) -> None:
    """Removes what killed runs left in the folders of these files, whatever they wrote there; never what is in use."""
    for folder in dict.fromkeys(path.parent for path in files):
        with suppress(OSError):
            _sweep(folder)


def remove(path: Path) -> None:
    """Removes a file, or a folder where it is empty."""
    with suppress(OSError):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def _sweep(folder: Path) -> None:
    changed = folder.stat().st_mtime_ns
    if _empty.get(folder) == changed:  # thousands of songs may be skipped in a folder of thousands of files
        return
    with os.scandir(folder) as entries:
        found = [match for entry in entries if (match := _PART.fullmatch(entry.name))]
    if not found:
        if time.time_ns() - changed > _SETTLED:
            _empty[folder] = changed
        return
    parts: dict[Path, list[Path]] = {}
    for match in found:
        parts.setdefault(folder / f"{match[1]}.lock", []).append(folder / match[0])
    for lock, locked in parts.items():
        with suppress(OSError):
            _remove_unused(lock, locked)


def _remove_unused(lock: Path, parts: list[Path]) -> None:
    """Removes parts unless their lock is held, or nobody can know."""
    descriptor, is_locked = _locked(lock)
    if descriptor is None:
        return
    for path in parts if is_locked else []:
        if path != lock:
            remove(path)
    if is_locked or lock not in parts:
        _unlock(lock, descriptor)
    else:
        os.close(descriptor)


def _locked(lock: Path) -> tuple[int | None, bool]:
    """A descriptor of a lock, made where it is missing, None where it is held; and whether it could be locked."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    is_kept, is_locked = False, True
    try:
        try:
            if not lock_descriptor(descriptor, blocking=False):
                return None, True
        except OSError as error:
            logger.debug("%s: cannot be locked (%s); another run that writes there would not be noticed", lock, error)
            is_locked = False
        is_kept = _is(os.fstat(descriptor), lock)  # else another run ended meanwhile, and removed it
        return (descriptor if is_kept else None), is_locked
    finally:
        if not is_kept:
            os.close(descriptor)


def _unlock(lock: Path, descriptor: int) -> None:
    """Removes a lock that is held, unless it is another's of the same name."""
    is_there = _is(os.fstat(descriptor), lock)
    if os.name == "nt":  # removes no open file
        os.close(descriptor)
    if is_there:
        remove(lock)
    if os.name != "nt":
        os.close(descriptor)


def _remove_alone(path: Path) -> None:
    """Removes an empty folder, or a mark with which nothing else is in its folder."""
    with suppress(OSError):
        if path.is_dir() or [*path.parent.iterdir()] == [path]:
            remove(path)


def _check_place(path: Path) -> None:
    """Raises AudioError where a folder has the name of a file, or where the name cannot be one."""
    with told(path), suppress(FileNotFoundError, NotADirectoryError):
        path.lstat()
        if path.is_dir():
            raise AudioError(
                f"{path}: is a folder; expected to write a file there. Rename it, or choose another `output`"
            )


def _is(status: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(status, path.stat())
    except OSError:
        return False

"""Parts: the hidden files in which others grow until they are whole, each written by one run at a time.

The part of a file has the same name in every run, so that what a killed run left is found. So two runs that write the
same file meet at its part, and a lock on that tells the later one to leave it alone. The system ends the lock with its
process: what is not locked is nobody's.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import struct
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ft.errors import AudioError
from ft.files import sync_file, sync_folder

if sys.platform == "win32":
    import ctypes
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

_PART = re.compile(r"(\.ft-[0-9a-f]{12})(\.raw)?\.part")
_ATTEMPTS, _PAUSE = 10, 0.03
"""So often a lock is asked for, seconds apart: `remove_parts` holds those of what is nobody's for a moment."""
_LOCKED = 1 << 62, 1
"""First byte, and their number."""
_SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a folder has a time that differs from the last one's on every file system."""
_empty: dict[Path, int] = {}
"""When folders changed last that held no parts then."""


class Claim:
    """The right to write a file, which one run at a time has, and the part in which that grows.

    It holds against other threads as well as against other processes. The part may be opened, truncated and written by
    its name meanwhile, but not replaced. Where a file system has no locks, every claim is granted.
    """

    def __init__(self, part: Path, path: Path) -> None:
        """Makes the part, empty, and the folders that are missing.

        Raises:
            AudioError: another run has the claim.
            OSError: the part cannot be made.
        """
        self.part, self.path = part, path
        self._made: list[Path] = []
        self._descriptor: int | None = None
        self._status: os.stat_result | None = None
        try:
            self._descriptor = self._take()
            if self._descriptor is None:
                raise AudioError(f"{path}: another run is writing it; wait for it, or choose another `output`")
            self._status = os.fstat(self._descriptor)
            os.ftruncate(self._descriptor, 0)
        except BaseException:
            self.close()
            raise

    def is_at(self, path: Path) -> bool:
        """Whether this path is the file that was claimed; False for another's of the same name."""
        return self._status is not None and _is(self._status, path)

    def place(self) -> None:
        """Gives the part its name. Raises OSError."""
        sync_file(self.part)
        try:
            self.part.replace(self.path)
        except OSError:
            if self._descriptor is None:
                raise
            self._let_go()  # Windows renames no open file, nor do some shares; elsewhere the claim goes on
            self.part.replace(self.path)
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Ends the claim: removes the part unless it got its name, and the folders made for it where they are empty."""
        is_there = self.is_at(self.part)
        if os.name == "nt":
            self._let_go()
        if is_there:
            remove(self.part)
        self._let_go()
        for folder in reversed(self._made):
            remove(folder)

    def _take(self) -> int | None:
        """The descriptor of the part, locked; None where another run has it."""
        folder, missing = self.part.parent, 2
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE)
            try:
                self._made += [path for path in (*reversed(folder.parents), folder) if not path.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                descriptor, _ = _locked(self.part)
            except FileNotFoundError:  # another song that failed took away the folder it had made
                missing -= 1
                if missing < 0:
                    raise
                continue
            if descriptor is not None:
                return descriptor
        return None

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def part_name(path: Path) -> str:
    """What the names of the parts of a file begin with: short, as a name as long as allowed has room for no suffix.

    >>> part_name(Path("song/vocals.wav"))
    '.ft-3b77e4cea6b1'
    """
    return ".ft-" + hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]


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
        parts.setdefault(folder / f"{match[1]}.part", []).append(folder / match[0])
    for guard, guarded in parts.items():
        with suppress(OSError):
            _remove_unused(guard, guarded)


def _remove_unused(guard: Path, parts: list[Path]) -> None:
    """Removes parts unless the one that stands for all of them is locked, or nobody can know."""
    descriptor, is_locked = _locked(guard)
    if descriptor is None:
        return
    if os.name == "nt":  # removes no open file
        os.close(descriptor)
    if is_locked or guard not in parts:
        for path in [*(path for path in parts if is_locked and path != guard), guard]:
            remove(path)
    if os.name != "nt":
        os.close(descriptor)


def _locked(part: Path) -> tuple[int | None, bool]:
    """A descriptor of a part, made where it is missing, None where it is in use; and whether it could be locked."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    is_kept, is_locked = False, True
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
                return None, True
            logger.debug("%s: cannot be locked (%s); another run that writes it would not be noticed", part, error)
            is_locked = False
        is_kept = _is(os.fstat(descriptor), part)  # else another run ended meanwhile, and removed or renamed it
        return (descriptor if is_kept else None), is_locked
    finally:
        if not is_kept:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Locks an open file, without waiting. Raises OSError.

    That is a byte behind any end: on Windows, and on SMB shares under Linux, nobody can read or write what is locked,
    not even the one who locked it by another descriptor.
    """
    if sys.platform == "win32":
        if not ctypes.windll.kernel32.LockFile(msvcrt.get_osfhandle(descriptor), 0, _LOCKED[0] >> 32, 1, 0):
            raise PermissionError(errno.EACCES, "locked")
    elif sys.platform == "linux":
        wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, *_LOCKED, 0)  # struct flock
        try:  # a lock that ends with this descriptor, and not with any of the file
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # WSL 1 and others know no such locks
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is(status: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(status, path.stat())
    except OSError:
        return False

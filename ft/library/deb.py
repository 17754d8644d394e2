"""Reads Debian packages with the standard library: an `ar` archive that holds a tar archive."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from ft.errors import DataError

AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60
COPYRIGHT = "COPYRIGHT"
SUFFIXES = (".ogg", ".opus")


def extract_audio(
    package: Path, into: Path, min_bytes: int = 0, suffixes: tuple[str, ...] = SUFFIXES
) -> Iterator[Path]:
    """Extracts the Ogg and Opus files (or those of other suffixes) of a package, and its copyright file.

    Game archives (`.pk3`, which are zip files) inside the package are searched too.

    Args:
        into: an empty folder; files keep their path below it, the copyright file becomes `COPYRIGHT`.
        min_bytes: smaller files are left out.
    Yields:
        each audio file, as soon as it is there.
    Raises:
        DataError: no Debian package.
    """
    with package.open("rb") as stream, _open_data(stream, package) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isfile() or ".." in path.parts:
                continue
            if path.match("usr/share/doc/*/copyright"):
                _copy(archive.extractfile(member), into / COPYRIGHT)
            elif path.suffix == ".pk3":
                inner = into / path.name
                _copy(archive.extractfile(member), inner)
                yield from _extract_zip(inner, into, min_bytes, suffixes)
                inner.unlink()
            elif path.suffix in suffixes and member.size >= min_bytes:
                target = into / path.relative_to(path.anchor)
                _copy(archive.extractfile(member), target)
                yield target


def _open_data(stream: IO[bytes], package: Path) -> tarfile.TarFile:
    # An ar member: a header of 60 bytes (name in the first 16, size at 48), its content, padding to an even offset.
    if stream.read(len(AR_MAGIC)) == AR_MAGIC:
        while len(header := stream.read(AR_HEADER_BYTES)) == AR_HEADER_BYTES:
            name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
            if name.startswith("data.tar"):
                return tarfile.open(fileobj=stream, mode="r|*")
            stream.seek(size + size % 2, 1)
    raise DataError(f"{package}: no Debian package, expected an ar archive with a data.tar in it. Download it again.")


def _extract_zip(archive: Path, into: Path, min_bytes: int, suffixes: tuple[str, ...]) -> Iterator[Path]:
    with zipfile.ZipFile(archive) as inner:
        for entry in inner.infolist():
            path = PurePosixPath(entry.filename)
            if path.suffix in suffixes and entry.file_size >= min_bytes and ".." not in path.parts:
                yield Path(inner.extract(entry, into))


def _copy(content: IO[bytes] | None, target: Path) -> None:
    if content is None:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)

"""Files that are written whole or not at all, and the place of the shipped model."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from ft.errors import CheckpointError, FtError

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "default"
FP32_MODEL, INT8_MODEL = "default-fp32", "default-int8"
SHIPPED_MODELS = {DEFAULT_MODEL: "default.onnx", FP32_MODEL: "default.onnx", INT8_MODEL: "default.int8.onnx"}
"""Names that stand for files in `ft/assets`: the shipped model, in fp32 and in int8 for CPUs.

`default` is the fp32 file wherever a file is read, exported or measured; what runs it, `engines.load_engine`, takes the
one of both that suits the machine.
"""
STDIN = Path("-")
"""Stands for standard input, and in place of an output for standard output."""
PART_SUFFIX = ".part"
NAME = re.compile(r"[\w-]+")
"""What the name of a model of the catalogue looks like."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that knows of no syncing; all else means that bytes are lost."""
_LFS_POINTER = b"version https://git-lfs"
_HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--)", re.IGNORECASE)


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Gives the path of a `.part` beside `path`, which takes that name when the block ends well.

    The bytes are on the disk before the rename, so that a crash leaves the old file or the new one and never half of
    one. Where the block raises, the `.part` is removed and `path` stays as it was. Missing folders are made. The
    file's permissions are those that the umask gives. What is no file, as /dev/stdout or a pipe, is written to and not
    replaced.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path = Path(path)
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            with Path(folder, path.name).open("rb") as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART_SUFFIX)
    part.unlink(missing_ok=True)  # of a run that was killed
    part.touch()
    mode = part.stat().st_mode
    try:
        yield part
        if part.stat().st_mode != mode:  # safetensors puts a file of mode 600 in its place
            part.chmod(mode)
        move_into_place(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_writable(path: str | Path) -> None:
    """Tries before the work whether `atomic_write` can write there after it; leaves nothing behind, no folder either.

    Raises:
        FtError: it cannot; the line names the path and the reason.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if _is_stream(path):  # not opened, as that waits for whoever reads a pipe
            path.stat()
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        folder = next(each for each in path.absolute().parents if os.path.lexists(each))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FtError(f"{path}: cannot be written ({error.strerror or error})") from error


def _is_stream(path: Path) -> bool:
    """Neither a file nor a folder, nor the place of one: /dev/stdout, a pipe."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file() and not path.is_dir())


def move_into_place(part: Path, path: Path) -> None:
    """Gives the finished file `part` the name `path`, once its bytes are on the disk. Raises OSError."""
    sync_file(part)
    part.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Waits until the bytes of a file are on the disk, where its file system can say so.

    Raises:
        OSError: they cannot be written.
    """
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
            logger.debug("%s: cannot be synced: %s", path, error)


def sync_folder(folder: Path) -> None:
    """Writes the names in a folder to the disk, where that is possible: not on Windows, nor on many network shares."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # the file has its name by now
        logger.debug("%s: cannot be synced: %s", folder, error)


def sound_name(path: Path) -> str | bytes:
    """A path as soundfile takes it, which cannot encode a name that is no UTF-8; Windows has no such names."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def what_it_is(path: str | Path) -> str | None:
    """Says what lies where a download or a clone should have brought a file; None where nothing of that kind does.

    Raises:
        OSError: it cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     song = Path(folder, "song.flac")
    ...     for content in (b"", b"version https://git-lfs.github.com/spec/v1\\n", b"<!DOCTYPE html>", b"fLaC"):
    ...         size = song.write_bytes(content)
    ...         print(what_it_is(song))
    an empty file
    a Git LFS pointer, not the file (git lfs pull fetches it)
    an HTML page, not the file (download it again)
    None
    """
    with Path(path).open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file"
    if head.startswith(_LFS_POINTER):
        return "a Git LFS pointer, not the file (git lfs pull fetches it)"
    return "an HTML page, not the file (download it again)" if _HTML.match(head) else None


def walk_once(folder: str | Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` in order, linked folders included, each folder once: links may lead in a circle."""
    seen: set[str] = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        inner.sort()
        if os.path.realpath(place) in seen:
            inner.clear()
            continue
        seen.add(os.path.realpath(place))
        yield Path(place), inner, names


def files_below(folder: str | Path) -> Iterator[Path]:
    """Every file below a folder, linked folders included."""
    for place, _, names in walk_once(folder):
        yield from (place / name for name in sorted(names) if (place / name).is_file())


def example_folder() -> Path:
    """The folder of the example song: its `mixture`, `vocals` and `instrumental`."""
    return Path(str(resources.files("ft") / "assets" / "caesium"))


def model_path(source: str | Path) -> Path:
    """The file of a model: `source` itself, or that of a name in `SHIPPED_MODELS` or of a fetched model.

    Raises:
        CheckpointError: there is no such file.
    """
    if str(source) in SHIPPED_MODELS:
        with resources.as_file(resources.files("ft") / "assets" / SHIPPED_MODELS[str(source)]) as path:
            if not path.is_file():
                raise CheckpointError(f"{path}: the shipped model is missing; install the package again")
            return path
    path = Path(source)
    if not path.is_file() and NAME.fullmatch(str(source)) and pulled_model(str(source)).is_file():
        return pulled_model(str(source))
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise CheckpointError(
            f"{path}: {found}; expected a checkpoint (.safetensors), an exported .onnx, 'default', or the name of a "
            "model that was fetched (`ft models` lists them, `ft pull` fetches one)"
        )
    return path


def models_folder() -> Path:
    """The folder of fetched models: `FT_MODELS` of the environment, or one in the user's cache."""
    from platformdirs import user_cache_path

    own = os.environ.get("FT_MODELS")
    return Path(own) if own else user_cache_path("frame-transformer", appauthor=False) / "models"


def pulled_model(name: str, folder: Path | None = None) -> Path:
    """The file of a fetched model, there or not, in a folder or in that of the user's models."""
    return (folder or models_folder()) / name / f"{name}.onnx"

"""Fetching a published model: download, check, convert, and put into place, whole or not at all.

Nothing of an archive is installed or executed, and PyTorch is not needed: the weights are put beside the graph of the
catalogue, which was compared with PyTorch with these very weights, and their SHA-256 says that they are these.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ft import __version__
from ft.catalogue import Entry, Source
from ft.checkpoint import LAYOUT_KEY, read_metadata
from ft.errors import CheckpointError, one_line
from ft.files import PART_SUFFIX
from ft.importers.spleeter import converted
from ft.importers.tensorflow import read_bundle

logger = logging.getLogger(__name__)

BLOCK = 1 << 20
SECONDS = 30
"""How long a host may be silent."""
TRIES = 4
"""How often a download that broke off is taken up again."""


def pull(
    entry: Entry, folder: Path | None = None, force: bool = False, progress: Callable[[float], None] | None = None
) -> Path:
    """Fetches a model of the catalogue; returns its file, which is there before unless `force`.

    A download that breaks off stays as `NAME.part` beside the models, and the next call goes on with it.

    Args:
        folder: of the models; None for that of the user.
        progress: called with the share that is done, 0 to 1.
    Raises:
        CheckpointError: the host cannot be reached, the file is another than the catalogue says, or it cannot be
            written. Nothing is left but what can be gone on with.
    """
    place = entry.place(folder)
    if place.is_file() and not force:
        return place
    archive = place.parent.with_name(f"{entry.name}{PART_SUFFIX}")
    making = place.parent.with_name(f"{entry.name}.new{PART_SUFFIX}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        download(entry.source, archive, progress or (lambda _: None))
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        _make(entry, archive, making / place.name)
        shutil.rmtree(place.parent, ignore_errors=True)
        making.rename(place.parent)
        archive.unlink()
    except OSError as error:
        archive.unlink(missing_ok=True)
        raise CheckpointError(f"{place}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return place


def download(source: Source, path: Path, progress: Callable[[float], None]) -> None:
    """Writes what a URL gives to `path`, going on where that ends.

    Raises:
        CheckpointError: the host cannot be reached, or gives something else than the catalogue says.
        OSError: it cannot be written.
    """
    for left in reversed(range(TRIES)):
        try:
            _append(source, path, progress)
            break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            had = path.stat().st_size if path.exists() else 0
            refused = isinstance(error, urllib.error.HTTPError) or not had
            if left and not refused:
                logger.info("%s: broke off after %.0f MB; going on", source.url, had / 1e6)
                continue
            kept = f"; {had / 1e6:.0f} MB are kept, and the same command goes on with them" if had else ""
            raise CheckpointError(f"{source.url}: cannot be fetched: {one_line(error)}{kept}") from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        path.unlink()
        raise CheckpointError(
            f"{source.url}: has the SHA-256 {found[:16]}…, expected {source.sha256[:16]}…; it is damaged or another "
            "file, and was removed"
        )


def _append(source: Source, path: Path, progress: Callable[[float], None]) -> None:
    had = path.stat().st_size if path.exists() else 0
    if had > source.bytes:
        path.unlink()
        had = 0
    if had == source.bytes:
        return
    headers = {"User-Agent": f"frame-transformer/{__version__}", **({"Range": f"bytes={had}-"} if had else {})}
    request = urllib.request.Request(source.url, headers=headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        done = had if goes_on else 0
        with path.open("ab" if goes_on else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                done += len(block)
                progress(min(done / source.bytes, 1.0))
    if done < source.bytes:
        raise ConnectionError(f"it ended after {done} of {source.bytes} bytes")


def _make(entry: Entry, archive: Path, place: Path) -> None:
    """Writes graph and weights. Raises CheckpointError for weights that are not those of the catalogue."""
    try:
        with zipfile.ZipFile(archive) as opened:
            index, data = (opened.read(f"{entry.source.inside}.{end}") for end in ("index", "data-00000-of-00001"))
        _, state = converted(read_bundle(index, data))
        layout = json.loads(read_metadata(entry.graph)[LAYOUT_KEY])
        digest = hashlib.sha256()
        with place.with_name(f"{place.name}.data").open("wb") as file:
            for name in layout:
                values = np.ascontiguousarray(state[name], "<f4").tobytes()
                digest.update(values)
                file.write(values)
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{entry.source.url}: holds no {entry.name}: {one_line(error)}") from error
    if digest.hexdigest() != entry.weights:
        raise CheckpointError(
            f"{entry.source.url}: holds other weights than the graph of {entry.name} was compared with"
        )
    shutil.copyfile(entry.graph, place)

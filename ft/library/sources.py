"""What the training library is built from: the list in `sources.yaml`, and the check that a file is the one meant."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ft.errors import DataError


@dataclass(frozen=True)
class SourceFile:
    """A file of the audio folder. `kind` is explained in `sources.yaml`."""

    path: str
    sha256: str
    kind: str
    licence: str
    attribution: str


@dataclass(frozen=True)
class Package:
    """A Debian package. `folder` is where its audio goes, below the library."""

    name: str
    file: str
    sha256: str
    folder: str
    kind: str
    licence: str
    attribution: str
    exclude: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Mixed:
    """Songs that never were: one voice over each of several tracks of the library."""

    voice: str
    tracks: tuple[str, ...]
    level_db: float
    start: float


@dataclass(frozen=True)
class Sources:
    """Everything a library is built from."""

    recipe: int
    audio_seconds: float
    packages: tuple[Package, ...]
    soundfont: Package | None
    audio: tuple[SourceFile, ...]
    mixed: Mixed | None = None

    def of_kind(self, *kinds: str) -> tuple[SourceFile, ...]:
        return tuple(file for file in self.audio if file.kind in kinds)


def load_sources(path: Path | None = None) -> Sources:
    """Gives the list of sources in `path`, or the one that comes with this package."""
    listed = path or resources.files("ft.library").joinpath("sources.yaml")
    table: dict[str, Any] = yaml.safe_load(listed.read_text("utf-8"))
    packages = tuple(_package(entry) for entry in table["packages"])
    soundfont = _package(table["soundfont"]) if "soundfont" in table else None
    audio = []
    for group in table["audio"]:
        for name, value in group["files"].items():
            entry = value if isinstance(value, dict) else {"sha256": value}
            attribution = group["attribution"].format(by=entry.get("by", "not named"))
            audio.append(SourceFile(name, entry["sha256"], group["kind"], group["licence"], attribution))
    mixed = table.get("mixed")
    songs = Mixed(**{**mixed, "tracks": tuple(mixed["tracks"])}) if mixed else None
    return Sources(table["recipe"], table["audio_seconds"], packages, soundfont, tuple(audio), songs)


def _package(entry: dict[str, Any]) -> Package:
    return Package(**{**entry, "exclude": tuple(entry["exclude"])})


def verify(path: Path, sha256: str, hint: str) -> None:
    """Does nothing where the file has this SHA-256.

    Raises:
        DataError: it is missing or differs; the text names the file, both sums, and `hint`.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing, expected a file with SHA-256 {sha256}. {hint}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(f"{path}: SHA-256 is {found}, expected {sha256}. {hint}")


def fetch_package(package: Package, packages: Path | None, downloads: Path) -> Path:
    """The verified file of a package, from the folder `packages` or else downloaded with apt-get into `downloads`.

    Raises:
        DataError: it is not there, cannot be downloaded, or is another file than expected.
    """
    if packages is not None:
        path = packages / package.file
        verify(path, package.sha256, f"Put {package.file} of Debian 12 there, or leave out `packages`.")
        return path
    path = downloads / package.file
    if not path.exists():
        _download(package.name, downloads)
    verify(
        path,
        package.sha256,
        f"This apt-get has another {package.name}; put {package.file} in a folder and name it with `packages`.",
    )
    return path


def _download(name: str, downloads: Path) -> None:
    hint = "Download the packages on a Debian machine, put them in a folder and name it with `packages`."
    apt_get = shutil.which("apt-get")
    if apt_get is None:
        raise DataError(f"{name}: no apt-get here to download it with. {hint}")
    downloads.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([apt_get, "download", name], cwd=downloads, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(f"{name}: apt-get download failed: {reason} Run apt-get update first. {hint}")

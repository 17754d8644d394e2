"""Says what a library holds: `MANIFEST.json` for programs, `SOURCES.md` for readers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from ft.files import atomic_write
from ft.library.recipes import Written
from ft.library.sound import SAMPLE_RATE
from ft.library.sources import Sources


def hours_per_folder(files: list[Written]) -> dict[str, float]:
    """Hours of audio in each folder, in the order of their names."""
    seconds: dict[str, float] = {}
    for file in files:
        folder = str(PurePosixPath(file.path).parent)
        seconds[folder] = seconds.get(folder, 0.0) + file.seconds
    return {folder: round(seconds[folder] / 3600, 3) for folder in sorted(seconds)}


def write_manifest(library: Path, files: list[Written], sources: Sources) -> None:
    """Writes `MANIFEST.json` and `SOURCES.md` into the library."""
    packages = [package for package in sources.packages if any(file.source.startswith(package.name) for file in files)]
    if sources.soundfont is not None and any(package.kind == "midi" for package in packages):
        packages.append(sources.soundfont)
    named = {package.file: package for package in packages} | {file.path: file for file in sources.audio}
    listed = [
        {"name": name, "sha256": entry.sha256, "licence": entry.licence, "attribution": entry.attribution}
        for name, entry in named.items()
    ]
    hours = hours_per_folder(files)
    manifest = {
        "recipe": sources.recipe,
        "sample_rate": SAMPLE_RATE,
        "hours": hours,
        "sources": listed,
        "files": [asdict(file) for file in sorted(files, key=lambda file: file.path)],
    }
    write_text(library / "MANIFEST.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write_text(library / "SOURCES.md", _sources_page(hours, listed))


def _sources_page(hours: dict[str, float], listed: list[dict[str, str]]) -> str:
    lines = [
        "# Sources of this library",
        "",
        "Everything here is derived: decoded, resampled to 44.1 kHz, some of it mixed, cut or resynthesised. The",
        "licences of the Debian packages, which name the authors of each file, are in `licences/`.",
        "",
        "| folder | hours |",
        "|---|---|",
        *(f"| {folder} | {value:.2f} |" for folder, value in hours.items()),
        "",
        "| source | licence | attribution |",
        "|---|---|---|",
        *(f"| {entry['name']} | {entry['licence']} | {entry['attribution']} |" for entry in listed),
    ]
    return "\n".join(lines) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(text, "utf-8")

"""Where the stems of songs go, and what is told of those that were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ft.errors import AudioError


@dataclass(frozen=True)
class SeparatedFile:
    """What `ft.separate.Separator.separate_file` wrote."""

    files: dict[str, Path]
    """The file of each stem."""
    audio_seconds: float
    wall_seconds: float
    gain: float
    """By which all stems were multiplied so that none clips; 1 where none would have."""
    warnings: tuple[str, ...]

    @property
    def times_real_time(self) -> float:
        return self.audio_seconds / self.wall_seconds


def song_folder(path: Path, output_dir: Path, stems: Sequence[str]) -> Path:
    """Where the stems of a song go. Raises AudioError where one of them would replace the song itself."""
    folder = output_dir / path.stem
    for stem in stems:
        file = folder / f"{stem}.wav"
        if file.exists() and file.samefile(path):  # also where names differ by case only and the system ignores that
            raise AudioError(f"{path}: would be replaced by its own {stem}; choose another folder with -o")
    return folder


def check_names(paths: Sequence[Path]) -> None:
    """Raises AudioError where two songs would write to the same folder."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem.casefold(), path)
        if other is not path:
            raise AudioError(
                f"{other} and {path}: both are called '{path.stem}', so one would replace the other; "
                "separate them one at a time, with another -o"
            )

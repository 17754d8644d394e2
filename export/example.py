"""The song by which an export is judged. Nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.base import Array
from ft.audio.open import read_audio
from ft.errors import AudioError, ExportError
from ft.files import example_folder


@dataclass(frozen=True)
class Song:
    """A mixture with its true stems, (channels, samples) each."""

    mixture: Array
    stems: dict[str, Array]
    sample_rate: int


def read_example(folder: Path | None = None) -> Song:
    """Mixture, vocals and instrumental of a folder, or of the example that ships. Raises ExportError."""
    folder = folder or example_folder()
    sounds = {}
    for name in ("mixture", "vocals", "instrumental"):
        files = sorted(folder.glob(f"{name}.*"))
        if not files:
            raise ExportError(f"{folder}: no {name}.*; `example` takes a folder with mixture, vocals and instrumental")
        try:
            sounds[name], sample_rate = read_audio(files[0])
        except AudioError as error:
            raise ExportError(str(error)) from error
    return Song(sounds.pop("mixture"), sounds, sample_rate)

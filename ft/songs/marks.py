"""Marks in folders of stems, so that no later search takes stems for songs: which folders get one."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from ft.songs.names import identity, real_path

MARKER = ".ft-output"
"""An empty file in a folder of stems, so that a later search leaves the folder out."""
OUTPUT_FOLDER = "separated"
"""Needs no mark: no folder of this name is searched."""
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
        """The marks for a song with these files below an output folder; none where none may be."""
        folders = (output_dir,), dict.fromkeys(file.parent for file in files)
        marked = next(filter(None, (tuple(filter(self._may_be_marked, each)) for each in folders)), ())
        return tuple(folder / MARKER for folder in marked)

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

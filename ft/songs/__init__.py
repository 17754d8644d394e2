"""From files to files: which songs were meant, the names of their stems, and that these are whole or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft.songs.run import separate_file as separate_file
    from ft.songs.run import separate_files as separate_files


def __getattr__(name: str) -> Any:
    if name in ("separate_file", "separate_files"):
        from ft.songs import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Builds the training library from packages of music and a folder of voices; `ft library` on the command line."""

from ft.library.build import build_library

__all__ = ["build_library"]

"""What a campaign runs: a job for the worker, and how it is told from others."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

MEMORY = 3 << 30
"""Bytes of address space that a run may take beyond what an ordinary one has."""


@dataclass(frozen=True)
class Case:
    """One damaged file."""

    seed: int
    kind: str
    """Of the whole file that was damaged."""
    damage: tuple[str, ...]
    name: str
    """That its lines must hold."""
    files: Mapping[str, bytes]
    """Name -> content of what is written; the first one is the input."""
    must: str = ""
    """`done` or `fail` where that is known beforehand."""


class Campaign(Protocol):
    """A kind of cases."""

    together: int
    """Cases of one run of `ft`."""
    seconds: float
    """That one run may take at most."""

    def case(self, seed: int) -> Case:
        """The case of a number, always the same."""
        ...

    def job(self, cases: list[Case], folder: Path) -> dict[str, Any]:
        """What the worker is to run; the files of `cases` are in `folder`, and the output goes to `folder/out`."""
        ...


def generator(kind: str, seed: int) -> random.Random:
    return random.Random(f"{kind} {seed}")

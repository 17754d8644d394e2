"""The log of a run: JSON Lines always, TensorBoard where it is asked for."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft.errors import CheckpointError
from ft.files import atomic_write

if TYPE_CHECKING:
    from ft.training.board import Board

LOG = "log.jsonl"


class TrainingLog:
    """Appends lines of values to `log.jsonl` of a folder; without a folder it writes nothing.

    Args:
        board: makes the `ft.training.board.Board` that gets the same values, once a step is known; None: there is none.
    """

    def __init__(self, folder: Path | None, board: Callable[[Path, int], Board] | None = None) -> None:
        self.path = folder and folder / LOG
        self._make_board = board
        self.board: Board | None = None

    def begin(self, step: int) -> None:
        """Opens the log of a run that stands at `step`: lines of steps that will be taken again, and those that a crash
        cut, go. Raises ConfigError where TensorBoard is not installed."""
        if self.path is not None and self.path.exists():
            kept = [line for line in self.path.read_text("utf-8", "replace").splitlines() if _step(line) <= step]
            with atomic_write(self.path) as part:
                part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        if self.path is not None and self._make_board is not None:
            self.board = self._make_board(self.path.parent, step)

    def write(self, step: int, epoch: int, **values: Any) -> None:
        """One line: step, epoch, time (seconds since 1970) and the values; a number that is not finite becomes null."""
        if self.path is None:
            return
        line: dict[str, Any] = {"step": step, "epoch": epoch, "time": round(time.time(), 1)}
        line |= {name: None if _not_finite(value) else value for name, value in values.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        if self.board is not None:
            numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
            self.board.scalars(numbers, step)

    def close(self) -> None:
        """Ends the board, if there is one."""
        if self.board is not None:
            self.board.close()


def _step(line: str) -> float:
    """Gives the step of a line; infinity for one that is not whole."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)

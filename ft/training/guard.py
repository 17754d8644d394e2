"""What happens when a loss or a gradient is not finite: the batch is named, and the run stops or skips it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ft.errors import FtError

logger = logging.getLogger(__name__)

MOST_NAMED = 8
"""Items and files of a batch that a message names."""
LOWEST_SCALE = 1.0
"""Gradients of float16 that overflow at this scale of the loss do so of themselves."""

Key = tuple[int, int, int]
"""Epoch, index and frames of an item."""


class TrainingError(FtError):
    """A run cannot go on."""


class Guard:
    """Judges the figures of each step.

    Args:
        on_nan: `stop` or `skip`, and `limit` how many batches in a row may be skipped.
        items: what the batches are made of, asked only to name what a bad one came from.
    """

    def __init__(self, on_nan: str, limit: int, items: Any) -> None:
        self.on_nan, self.limit, self.items = on_nan, limit, items
        self.in_a_row = 0

    def passes(self, loss: float, norm: float, scale: float | None) -> bool:
        """Says whether the step may be taken: both are finite.

        Args:
            norm: of the gradient, before it is clipped.
            scale: of a float16 loss, whose gradients overflow now and then until it has been lowered; None elsewhere.
        Raises:
            TrainingError: float16 overflows at every scale.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            return True
        if scale is not None and scale < LOWEST_SCALE:
            raise TrainingError(
                f"float16 gradients overflow at a loss scale of {scale:g}; use train.precision: bfloat16 or float32"
            )
        return False

    def refuse(self, what: str, step: int, epoch: int, suspects: Sequence[str]) -> str:
        """Gives the line to log for a batch that is skipped.

        Args:
            what: e.g. `the loss is nan`.
            suspects: of each process, what `name` said.
        Raises:
            TrainingError: the run is to stop, or skipped too many.
        """
        self.in_a_row += 1
        named = "; ".join(filter(None, suspects))
        text = f"{what} at step {step}, epoch {epoch}{f' ({named})' if named else ''}"
        if self.on_nan == "stop":
            raise TrainingError(
                f"{text}; the last saved state is whole: lower train.learning_rate or mend the files, and go on with "
                "`resume`, or pass over such batches with train.on_nan: skip"
            )
        if self.in_a_row > self.limit:
            raise TrainingError(
                f"{text}, after {self.limit} batches skipped in a row (train.nan_limit); the last saved state is "
                "whole: lower train.learning_rate and go on with `resume`"
            )
        return text

    def name(self, keys: Sequence[Key]) -> str:
        """Indices of the items of a batch and the files they came from; the broken ones alone where items are to blame.

        Items are made again for it, as nothing of a batch is kept.
        """
        broken = [key for key in keys if not _is_finite(self.items.item(*key))]
        chosen = broken or list(keys)
        files = [str(path) for key in chosen for path in self._files(key)]
        indices = some([str(index) for _, index, _ in chosen])
        verdict = "not finite themselves: " if broken else ""
        return f"{verdict}items {indices}" + (f" of {some(list(dict.fromkeys(files)))}" if files else "")

    def _files(self, key: Key) -> Sequence[Any]:
        # Items out of a cache do not know where they came from.
        return self.items.files(*key) if hasattr(self.items, "files") else ()


def some(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """Gives the first names, and how many more there are.

    >>> some(["1", "2", "3"], most=2)
    '1, 2 and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_finite(item: Any) -> bool:
    return bool(np.isfinite(item.mixture).all() and math.isfinite(item.peak))

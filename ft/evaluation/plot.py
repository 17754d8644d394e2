"""The picture of an evaluation: for each metric and stem the rows as boxes, with a dot for each song."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ft.errors import FtError
from ft.evaluation.evaluate import Evaluation
from ft.evaluation.scores import METRICS, shown_metrics
from ft.files import atomic_write
from ft.plots import check_matplotlib

_COLOURS = {"baseline": "0.6", "engine": "tab:blue", "estimates": "tab:orange"}
_FEW = 5
"""Fewer songs than this get dots alone."""


def save_plot(path: Path, evaluation: Evaluation) -> None:
    """Writes a PNG.

    Raises:
        ConfigError: matplotlib is not installed.
        FtError: no song has a figure.
        OSError: the file cannot be written.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    stems, rows = evaluation.stems, evaluation.rows[::-1]  # the first one at the top
    shown = shown_metrics(evaluation.options.metrics)
    songs = sum(song.error is None for song in evaluation.songs)
    if not songs:
        raise FtError(f"{path}: no song has a figure to draw")
    size = (max(3.0 * len(shown), 6.0) + 1.5, (0.4 * len(rows) + 1.2) * len(stems))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(stems), len(shown), sharey=True, squeeze=False)
    for stem, line in zip(stems, panels, strict=True):
        for metric, axes in zip(shown, line, strict=True):
            for height, row in enumerate(rows):
                values = evaluation.values(row.name, stem, metric)
                colour = _COLOURS[row.kind]
                if len(values) >= _FEW:
                    axes.boxplot([values], positions=[height], orientation="horizontal", widths=0.6, showfliers=False)
                spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(len(values))
                axes.plot(values, height + spread, "o", color=colour, markersize=4, alpha=0.8)
            axes.set_yticks(range(len(rows)), [row.name for row in rows])
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.grid(axis="x", alpha=0.3)
            better = "" if METRICS[metric].better == "higher" else ", lower is better"
            axes.set_xlabel(f"{METRICS[metric].title}, {METRICS[metric].unit}{better}")
        line[0].set_title(f"{stem}, {songs} song{'s' * (songs > 1)}", loc="left")
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=100)

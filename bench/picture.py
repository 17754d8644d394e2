"""Pictures of reports: how many times real time each engine runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.machine import slug
from ft.files import atomic_write
from ft.plots import check_matplotlib

Found = dict[str, Any]


def picture_name(machine: str) -> str:
    """Names the file for a machine."""
    return f"benchmarks-{slug(machine)}.png"


def picture_digest(reports: Sequence[Found]) -> str:
    """Hashes what a picture shows, for the picture's metadata."""
    return hashlib.sha256(json.dumps([report["rows"] for report in reports], sort_keys=True).encode()).hexdigest()


def save_picture(path: Path, reports: Sequence[Found]) -> None:
    """Bars of times real time for each model and batch. Raises ConfigError without matplotlib."""
    check_matplotlib()
    from matplotlib.figure import Figure

    groups: dict[tuple[str, int], list[Found]] = {}
    for row in (row for report in reports for row in report["rows"] if row["status"] in ("ok", "wrong")):
        groups.setdefault((row["model"], row["batch"]), []).append(row)
    height = sum(0.28 * len(group) + 0.8 for group in groups.values())
    figure = Figure(figsize=(9, max(height, 2)), layout="constrained")
    if groups:
        ratios = [len(group) + 2 for group in groups.values()]
        panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=ratios)[:, 0]
        for axes, ((model, batch), group) in zip(panels, groups.items(), strict=True):
            group = sorted(group, key=speed)
            names = [f"{row['engine']} {row['precision']} {row['device']}" for row in group]
            colours = ["C7" if row["engine"] == "baseline" else "C0" for row in group]
            bars = axes.barh(range(len(group)), [speed(row) for row in group], color=colours)
            told = [number(speed(row)) if row["status"] == "ok" else "WRONG" for row in group]
            axes.bar_label(bars, told, padding=3, fontsize=8)
            axes.set_yticks(range(len(group)), names, fontsize=8)
            axes.margins(x=0.12)
            axes.set_title(f"{model}, batch {batch}", loc="left", fontsize=10)
        panels[-1].set_xlabel("times real time, windows of the network")
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=100, metadata={"Description": picture_digest(reports)})


def speed(row: Mapping[str, Any]) -> float:
    """Times real time; 0 of a row without a time."""
    return float(row["times_real_time"]) if row["status"] == "ok" else 0.0


def number(value: float | None) -> str:
    """Three digits, or more where they stand before the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

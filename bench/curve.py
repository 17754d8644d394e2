"""The curve of a training run, from the log that it wrote.

python -m bench.curve runs/small/log.jsonl -o bench/results/small-training.png
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from ft.files import atomic_write


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by name, from the lines of `log.jsonl`."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        for name, value in values.items():
            if "/" in name:
                curves.setdefault(name, []).append((values["step"], value))
    return curves


@click.command()
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="PNG to write.")
def main(log: Path, output: Path) -> None:
    """Draws the losses and the SDR over the steps, and prints the best SDR."""
    from matplotlib.figure import Figure

    curves = read_log(log)
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, part, unit in zip(panels, ("loss", "sdr"), ("loss", "SDR in dB"), strict=True):
        for name, points in curves.items():
            if part in name:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 60 else "")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
        axes.legend()
    panels[-1].set_xlabel("optimizer steps")
    with atomic_write(output) as file:
        figure.savefig(file, format="png", dpi=100)
    for name, points in curves.items():
        if "sdr" in name:
            step, value = max(points, key=lambda point: point[1])
            print(f"{name}: best {value:.2f} dB at step {step}, last {points[-1][1]:.2f} dB at step {points[-1][0]}")


if __name__ == "__main__":
    main()

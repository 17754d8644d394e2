"""The page of contests, made from bench/results/contests/*.json, which `python -m bench.contest --json` writes.

python -m bench.contest_page

Writes docs/CONTESTS.md. Nothing in it is typed by hand; a test compares it with what this module gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from ft.files import atomic_write

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "bench" / "results" / "contests"
PAGE = ROOT / "docs" / "CONTESTS.md"

INTRODUCTION = """\
# Contests

Made by `python -m bench.contest_page` from what `python -m bench.contest` wrote into `bench/results/contests/`.

- All rows of a table begin with the same seed (where none is named), see the same free audio
  (`bench/contests/small.yaml`; sources and licences: `ft/library/sources.yaml`) and are trained once, for the same
  number of steps or the same seconds of training. The learning rate falls to its end over them. What is scored is the
  average of the last weights; nothing is chosen by a score.
- These are minutes of training. The tables say what learns faster, not how good it gets in days. Where a row has
  another seed, its distance from the first one is what chance makes of one run; smaller differences say nothing.
- *SDR* is global: ten times the log10 of the energy of the reference over that of the error, both channels together,
  over the whole song. `caesium` (n = 1) shares its artist and singer with the three songs of the training data; the
  others (n = 5) are mixtures of a singer and music that are not in it.
- *GFLOP a step* counts products and convolutions, forward and backward, and not those of recurrent layers. *ms a step*
  and *x real time*, the separation of {seconds} seconds in PyTorch in float32 with its transforms, were taken of all
  rows one after the other once all were trained.
"""
SPEED_SECONDS = 60
"""Seconds of a song, by which the speed of a network is measured."""


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as a Markdown table, in the order of the rows."""
    songs = list(results[0]["sdr"]) if results else []
    first, others = songs[0], songs[1:]
    lines = [
        "| row | configuration | parameters | steps | GFLOP a step | ms a step | x real time on the CPU | "
        f"{first} vocals | instrumental | held out, mean of {len(others)} |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        held_out = [row["sdr"][song]["vocals"] for song in others if "vocals" in row["sdr"][song]]
        mean = f"{fmean(held_out):.2f} dB" if held_out else "-"
        steps = f"{row['steps']}" + (f", {row['pretraining_steps']} of denoising" if row["pretraining_steps"] else "")
        configuration = _configuration({**row.get("arguments", {}), **row["set"]})
        lines.append(
            f"| {row['name']} | {configuration} | {row['parameters'] / 1e6:.1f} M | {steps} | "
            f"{row['gflop_per_step']:.0f} | {1000 * row['seconds_per_step']:.0f} | {row['times_real_time']:.0f} x | "
            f"{row['sdr'][first]['vocals']:.2f} dB | {row['sdr'][first]['instrumental']:.2f} dB | {mean} |"
        )
    return "\n".join(lines)


def _configuration(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name.rpartition('.')[2]}: {json.dumps(value)}`" for name, value in values.items()) or "base"


def section(report: Mapping[str, Any]) -> str:
    """One contest: how it was run, where, and its table."""
    ((unit, count),) = report["budget"].items()
    name, machine = report["contest"], report["machine"]
    threads = report["rows"][0]["threads"]
    command = f"python -m bench.contest bench/contests/{name}.yaml -o runs/{name} --{unit} {count:g}"
    everywhere = f" All rows: {_configuration(report['set'])}." if report["set"] else ""
    return (
        f"## {name.capitalize()}: `{command}`, {report['date']}\n\n"
        f"{machine['name']} ({', '.join(machine['features'])}), {threads} thread{'s' * (threads > 1)}.{everywhere}\n\n"
        f"{table(report['rows'])}\n"
    )


def page(reports: Path = REPORTS) -> str:
    """The whole page, of all reports in a folder."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(reports.glob("*.json"))]
    return "\n".join([INTRODUCTION.format(seconds=SPEED_SECONDS), *(section(report) for report in found)])


@click.command()
def main() -> None:
    """Write docs/CONTESTS.md."""
    with atomic_write(PAGE) as part:
        part.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

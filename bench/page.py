"""The page of results and the table in README, made from bench/results/*.json.

python -m bench.page

Writes docs/BENCHMARKS.md, a picture for each machine beside it, and what stands between the two marks in README.md.
Nothing in them is typed by hand; the tests compare them with what this module gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bench.picture import number, picture_name, save_picture, speed
from bench.report import RESULTS, rates_line, read_report
from ft.errors import ConfigError, FtError
from ft.files import atomic_write

Found = dict[str, Any]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "BENCHMARKS.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

INTRODUCTION = """\
# Measured

Made by `python -m bench.page` from the files in `bench/results/`, which `ft bench` and `python -m bench.bars` wrote.

- A row runs in a process of its own; all rows of a table run in turn, every other round backwards, after a run that
  does not count. Times are medians; *p95* is the 95th percentile. NumPy goes in and NumPy comes out, so that the way
  to a GPU and back is in every time.
- *x real time* is the sound in the window (all its frames, without context) over that time; on a GPU over the time of
  one of 16 batches in a row, where copies hide behind computing.
- *First mask* goes from opening the model, imports included, to its first result. *RAM* is the peak of the process.
- *SNR* is that of the mask against PyTorch in fp32 on the CPU, for windows of the example song. A row below 60 dB in
  fp32, 45 in fp16, 30 in bf16 or 25 in int8 is **WRONG** and has no time.
- *Matrix rate* is the share of what `torch.mm` of 4096 x 4096 (int8: `torch._int_mm`) reached in the same rounds and
  precision, the network's products and convolutions counted; fp16 on a CPU is taken against fp32, in which it is
  computed there. *Bandwidth* is the share of a copy's rate that the weights and activations need, each product reading
  and writing once.
- *baseline* is the network as its formulas read, in PyTorch and in the original's layout (`tests/oracle.py`).
"""
COLUMNS = (
    "engine",
    "precision",
    "device",
    "batch",
    "ms",
    "p95",
    "x real time",
    "first mask s",
    "RAM MB",
    "SNR dB",
    "matrix rate",
)
GPU_COLUMNS = ("GPU MB", "bandwidth")


def machines(reports: Sequence[Found]) -> dict[str, list[Found]]:
    """Reports by the name of their machine, in order."""
    found: dict[str, list[Found]] = {}
    for report in sorted(reports, key=lambda report: (report["machine"]["name"], report["command"])):
        found.setdefault(report["machine"]["name"], []).append(report)
    return found


def page(reports: Sequence[Found]) -> str:
    """Gives the whole page, in Markdown."""
    parts = [INTRODUCTION]
    for name, group in machines(reports).items():
        parts.append(f"\n## {name}\n")
        parts.append(f"![Times real time of each engine]({picture_name(name)})\n")
        for report in group:
            parts.append("\n".join(_report(report)) + "\n")
    return "\n".join(parts)


def _report(report: Found) -> Iterator[str]:
    machine, versions = report["machine"], report["versions"]
    yield f"### `{report['command']}`, {report['date']}"
    yield ""
    yield (
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['features']) or 'no known extensions'}), "
        f"{machine['memory_gb']:g} GB, {machine['system']}"
        + "".join(f"; {gpu['name']}, {gpu['memory_gb']:g} GB" for gpu in machine["gpus"])
        + (f", driver {machine['driver']}" if machine.get("driver") else "")
        + "."
    )
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    load = f"Load of the machine {report.get('load')}; {report.get('rounds')} rounds."
    yield f"Measured rates: {rates_line(report)}. {load}"
    yield ""
    if report.get("bars"):
        yield from _table(("bar", "figure", "wanted", "verdict", "note"), [_bar(bar) for bar in report["bars"]])
    for model in dict.fromkeys(row["model"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["model"] == model]
        frames = sorted({row["frames"] for row in rows if row["frames"]})
        yield f"**{model}**" + (f", windows of {', '.join(map(str, frames))} frames" if frames else "")
        yield ""
        on_gpu = any(row["device"] != "cpu" and row["status"] == "ok" for row in rows)
        columns = COLUMNS + (GPU_COLUMNS if on_gpu else ())
        cells = [_row(row, len(columns)) for row in rows if row["status"] != "unusable"]
        if cells:
            yield from _table(columns, cells)
        for reason, names in _unusable(rows).items():
            yield f"Cannot run here: {', '.join(names)}: {reason}"
            yield ""
    if report.get("end_to_end"):
        yield "**File to files**, by share of processor time"
        yield ""
        parts = list(report["end_to_end"][0]["shares"])
        columns = ("model", "engine", "precision", "device", "kHz", "x real time", "x its engine alone", *parts)
        yield from _table(columns, [_end_to_end(row) for row in report["end_to_end"]])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def _row(row: Found, columns: int) -> list[str]:
    """A row has no figures, but for the SNR, where it is wrong or failed."""
    latency = row.get("latency_ms", {})
    told = {"ok": number(latency.get("median")), "wrong": "**WRONG**", "failed": f"failed: {row.get('reason')}"}
    return [
        row["engine"],
        row["precision"],
        row["device"],
        str(row["batch"]),
        told[row["status"]],
        number(latency.get("p95")),
        number(row.get("times_real_time")),
        number(row.get("first_output_seconds")),
        str(row.get("peak_ram_mb", "")),
        number(row.get("snr_db")),
        _share(row.get("matmul_share")),
        "" if row.get("device_memory_mb") is None else str(row["device_memory_mb"]),
        _share(row.get("bandwidth_share")),
    ][:columns]


def _bar(bar: Found) -> list[str]:
    figure = "nothing" if bar["figure"] is None else f"{bar['figure']:.4g} {bar['unit']}".strip()
    return [bar["name"], figure, f"{bar['kind']} {bar['limit']:g}", "met" if bar["met"] else "**missed**", bar["note"]]


def _end_to_end(row: Found) -> list[str]:
    head = [row["model"], row["engine"], row["precision"], row["device"], f"{row['sample_rate'] / 1000:g}"]
    return [
        *head,
        number(row["times_real_time"]),
        f"{row['ratio_to_engine']:.2f}",
        *(_share(value) for value in row["shares"].values()),
    ]


def _unusable(rows: Sequence[Found]) -> dict[str, list[str]]:
    """Rows that cannot run, each once, by reason."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if row["status"] == "unusable":
            found.setdefault(row["reason"], {})[f"{row['engine']} {row['precision']} on {row['device']}"] = None
    return {reason: list(names) for reason, names in found.items()}


def short_table(reports: Sequence[Found]) -> str:
    """Gives the table for README: windows one at a time, the fastest first; on a GPU the best batch."""
    lines = []
    for name, group in machines(reports).items():
        rows = []
        for model in dict.fromkeys(row["model"] for report in group for row in report["rows"]):
            rows += _fastest(model, [row for report in group for row in report["rows"] if row["model"] == model])
        lines += [f"{name}, one window of 256 frames at a time (on a GPU the best batch):", ""]
        columns = ("model", "engine", "precision", "x real time", "x PyTorch eager fp32", "SNR of the mask")
        lines += _table(columns, rows)
    lines.append("All rows, with memory, first output and whole separations: [docs/BENCHMARKS.md](docs/BENCHMARKS.md).")
    return "\n".join(lines)


def _fastest(model: str, rows: Sequence[Found]) -> list[list[str]]:
    best: dict[tuple[str, str, str], Found] = {}
    for row in rows:
        if row["status"] == "unusable" or (row["device"] == "cpu" and row["batch"] != 1):
            continue
        key = row["engine"], row["precision"], row["device"]
        if key not in best or speed(row) > speed(best[key]):
            best[key] = row
    plain = {device: row for (engine, precision, device), row in best.items() if (engine, precision) == EAGER}
    cells = []
    for row in sorted(best.values(), key=speed, reverse=True):
        name = row["engine"] if row["device"] == "cpu" else f"{row['engine']}, {row['device']}"
        if row["status"] != "ok":
            cells.append([model, name, row["precision"], "**WRONG**" if row["status"] == "wrong" else "failed", "", ""])
            continue
        other = plain.get(row["device"])
        ratio = f"{speed(row) / speed(other):.2f}" if other and speed(other) else ""
        snr = "" if row["snr_db"] is None else f"{row['snr_db']:.0f} dB"
        cells.append([model, name, row["precision"], number(row["times_real_time"]), ratio, snr])
    return cells


EAGER = ("torch", "fp32")


def fill_readme(text: str, table: str) -> str:
    """README with the table between its marks. Raises ConfigError where it has no marks, or several."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(
            f"{README.name}: expected {BEGIN} and {END}, once each, with the table between them; add them"
        )
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{table}\n{END}", text, flags=re.S)


def read_reports(folder: Path = RESULTS) -> list[Found]:
    """Gives all reports of a folder. Raises ConfigError for a file that is none."""
    return [read_report(path) for path in sorted(folder.glob("*.json"))]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


@click.command()
def main() -> None:
    """Writes the page, the pictures and the table."""
    try:
        reports = read_reports()
        before = README.read_text(encoding="utf-8")
        after = fill_readme(before, short_table(reports))
    except FtError as error:
        raise click.ClickException(str(error)) from error
    with atomic_write(PAGE) as part:
        part.write_text(page(reports), encoding="utf-8")
    print(PAGE)
    for name, group in machines(reports).items():
        picture = PAGE.parent / picture_name(name)
        save_picture(picture, group)
        print(picture)
    if after != before:
        with atomic_write(README) as part:
            part.write_text(after, encoding="utf-8")
        print(README)


if __name__ == "__main__":
    main()

"""Reports on the disk: one JSON file for each run on a machine, in bench/results/, from which the page is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft.errors import ConfigError
from ft.files import atomic_write

Found = dict[str, Any]

RESULTS = Path(__file__).parent / "results"

REPORT = {"machine": dict, "versions": dict, "date": str, "command": str, "rates": list, "rows": list}
"""What every report has; `end_to_end` and `bars` are there where they were measured."""
MACHINE = {"name": str, "cpu": str, "features": list, "cores": int, "memory_gb": float, "gpus": list, "system": str}
ROW = {"model": str, "engine": str, "precision": str, "device": str, "status": str}
STATUSES = ("ok", "wrong", "failed", "unusable")
OK_ROW = {
    "batch": int,
    "frames": int,
    "latency_ms": dict,
    "times_real_time": float,
    "runs": int,
    "first_output_seconds": float,
    "peak_ram_mb": int,
}
END_TO_END = {
    "model": str,
    "engine": str,
    "precision": str,
    "device": str,
    "sample_rate": int,
    "audio_seconds": float,
    "seconds": float,
    "times_real_time": float,
    "ratio_to_engine": float,
    "shares": dict,
}
BAR = {"name": str, "kind": str, "limit": float, "met": bool}


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Checks a report and writes it. Raises ConfigError where it is not one."""
    check_report(path, report)
    with atomic_write(path) as part:
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def read_report(path: Path) -> Found:
    """Gives a report. Raises ConfigError where the file holds something else."""
    try:
        report: Found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a report of ft bench: {error}") from error
    check_report(path, report)
    return report


def check_report(path: Path, report: Mapping[str, Any]) -> None:
    """Raises ConfigError that names what is missing or of a wrong kind."""
    _check(path, "report", report, REPORT)
    _check(path, "machine", report["machine"], MACHINE)
    for row in report["rows"]:
        name = f"row {row.get('engine')} {row.get('precision')}"
        _check(path, name, row, ROW)
        if row["status"] not in STATUSES:
            raise ConfigError(f"{path}: {name}: status {row['status']}; expected one of {', '.join(STATUSES)}")
        if row["status"] == "ok":
            _check(path, name, row, OK_ROW)
            _check(path, name, row["latency_ms"], {"median": float, "p95": float})
        elif "latency_ms" in row or not row.get("reason"):
            raise ConfigError(f"{path}: {name}: {row['status']}; expected a reason and no time")
    for row in report.get("end_to_end", []):
        _check(path, f"end to end of {row.get('model')}", row, END_TO_END)
    for bar in report.get("bars", []):
        _check(path, f"bar {bar.get('name')}", bar, BAR)


def rates_line(report: Mapping[str, Any]) -> str:
    """Gives the rates of the machine that shares are taken of, and why others were not measured."""
    return ", ".join(f"{rate['what']} on {rate['device']} {_rate(rate)}" for rate in report["rates"])


def _rate(rate: Mapping[str, Any]) -> str:
    value = rate["giga_per_second"]
    if value is None:
        return f"not measured ({rate['reason']})"
    unit = "B/s" if rate["what"] == "copy" else "op/s" if rate["what"] == "int8" else "FLOP/s"
    return f"{value / 1000:.1f} T{unit}" if value >= 1000 else f"{value:.0f} G{unit}"


def _check(path: Path, name: str, found: Any, expected: Mapping[str, type]) -> None:
    if not isinstance(found, Mapping):
        raise ConfigError(f"{path}: {name}: a {type(found).__name__}; expected an object")
    for key, kind in expected.items():
        value = found.get(key)
        right = isinstance(value, (int, float)) if kind is float else isinstance(value, kind)
        if not right or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(f"{path}: {name}: {key} is {value!r}; expected a {kind.__name__}")

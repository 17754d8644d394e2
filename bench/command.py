"""What `ft bench` does: the rows of `bench.compare`, then whole songs by every engine that ran."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.compare import compare
from bench.machine import use_cores
from bench.picture import number as digits
from bench.report import rates_line
from bench.rows import check_batches, check_engines, read_model_file
from bench.speed import as_lines, end_to_end, make_song
from bench.worker import WorkerError
from engines import RUNTIMES
from ft.errors import ConfigError
from ft.files import FP32_MODEL, INT8_MODEL

logger = logging.getLogger(__name__)

Found = dict[str, Any]

OTHER_RATE = 48000
"""Hz of one more song, so that resampling is seen too."""


def run_bench(
    sources: Sequence[str],
    *,
    runtimes: str = "all",
    batches: str = "1,4,16",
    frames: int = 256,
    rounds: int = 10,
    seconds: int = 60,
    cores: int | None = None,
    baseline: str = "",
) -> Found:
    """Gives the report, JSON-ready (`bench.report`).

    Args:
        sources: model files; `default-fp32` and `default-int8` are the shipped ones, taken where there are none. One in
            low precision needs its fp32 one beside it.
        runtimes: `all`, or names with commas between them.
        batches: numbers with commas between them.
        frames: of a window.
        rounds: in each of which every row runs once.
        seconds: of the song for the whole separations; 0 leaves them out.
        cores: that this process and all that it starts may use; None leaves that as it is.
        baseline: Python file of a plain implementation, for one more row.
    Raises:
        ConfigError: an unknown engine, a batch that is none, a low precision without its original.
        CheckpointError: no such model.
    """
    if baseline and not Path(baseline).is_file():
        raise ConfigError(f"`baseline` {baseline}: no such file; expected a Python file of a plain implementation")
    if rounds < 1 or frames < 1:
        raise ConfigError(f"rounds {rounds}, frames {frames}; expected 1 or more of each")
    sources = list(dict.fromkeys(sources)) or [FP32_MODEL, INT8_MODEL]
    names, sizes = check_engines(runtimes), check_batches(batches)
    if cores is not None:
        use_cores(cores)
    models = [read_model_file(source) for source in sources]
    report = compare(models, names, sizes, frames, rounds, baseline=baseline)
    found: list[Found] = []
    if seconds:
        with tempfile.TemporaryDirectory() as folder:
            songs = [make_song(Path(folder), seconds), make_song(Path(folder), seconds, OTHER_RATE)]
            rows = list(_songs(report["rows"]))
            for number, row in enumerate(rows, 1):
                model = next(model for model in models if model.name == row["model"])
                # The other rate costs as much again, and the first engine shows what it takes.
                for song in songs[:1] if found else songs:
                    logger.info("%s, row %d of %d: %s, %s", song.name, number, len(rows), model.name, row["engine"])
                    try:
                        found.append(end_to_end(model, song, rounds, runtime=row["engine"], device=row["device"]))
                    except WorkerError as error:
                        logger.warning("%s, %s, file to files: %s", model.name, row["engine"], error)
    return {**report, "command": f"ft bench {' '.join(sources)}".strip(), "end_to_end": found}


def _songs(rows: Sequence[Found]) -> Iterator[Found]:
    """One right row for each model, engine of `ft separate` and device; of PyTorch that in fp32."""
    seen = set()
    for row in rows:
        key = row["model"], row["engine"], row["device"]
        whole = row["engine"] != "torch" or row["precision"] == "fp32"
        if row["status"] == "ok" and row["engine"] in RUNTIMES and whole and key not in seen:
            seen.add(key)
            yield row


def report_lines(report: Found) -> Iterator[str]:
    """Gives the report for the terminal."""
    yield f"{report['machine']['name']}, load {report['load']}, {report['rounds']} rounds"
    if report["rates"]:
        yield f"rates: {rates_line(report)}"
    yield (
        f"{'model':20} {'engine':24} {'':5}{'device':7}{'batch':>5}{'ms':>9}{'p95':>9}{'x real':>8}{'first s':>9}"
        f"{'RAM MB':>8}{'GPU MB':>8}{'SNR dB':>8}{'matrix':>8}"
    )
    for row in report["rows"]:
        head = f"{row['model']:20} {row['engine']:24} {row['precision']:5}{row['device']:7}{row['batch'] or '':>5}"
        if row["status"] != "ok":
            yield f"{head}  {row['status'].upper() if row['status'] == 'wrong' else row['status']}: {row['reason']}"
            continue
        latency, memory, share = row["latency_ms"], row["device_memory_mb"], row["matmul_share"]
        yield (
            f"{head}{digits(latency['median']):>9}{digits(latency['p95']):>9}{digits(row['times_real_time']):>8}"
            f"{digits(row['first_output_seconds']):>9}{row['peak_ram_mb']:>8}{'' if memory is None else memory:>8}"
            f"{digits(row['snr_db']):>8}{'' if share is None else f'{share:.0%}':>8}"
        )
    if report["end_to_end"]:
        yield ""
        yield from as_lines(report["end_to_end"])

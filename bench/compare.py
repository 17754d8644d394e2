"""`ft bench`: every engine on every model, side by side in one run.

All rows of one batch size are open at once, each in a process of its own, and run in turn for some rounds, forwards and
backwards, so that whatever else the machine does meets all of them. A row whose mask is wrong has no time, and one that
fails, however late, leaves the others as they are.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import rows as table
from bench.machine import describe_machine, describe_versions, device_memory_mb, load_average, today
from bench.rows import Array, Model, Rate, Row
from bench.runners import Spec
from bench.worker import Worker, WorkerError, fresh_compilations, in_turn
from engines.devices import find_gpus

logger = logging.getLogger(__name__)

Found = dict[str, Any]

STREAMED = 16
"""Batches in a row on a GPU, where the copies of one hide behind the computing of another."""


@dataclass
class Running:
    """A row in its process."""

    row: Row
    worker: Worker
    facts: Found
    first: float
    snr: float | None
    device_memory: float | None
    seconds: list[float] = field(default_factory=list)


def compare(
    models: Sequence[Model],
    engines: Sequence[str],
    batches: Sequence[int],
    frames: int,
    rounds: int,
    *,
    baseline: str = "",
) -> Found:
    """Measures everything and gives the report, JSON-ready. See docs/BENCHMARKS.md for what its figures mean.

    Raises:
        ConfigError: a model in low precision without the fp32 one that it is compared with.
    """
    originals = table.references(models)
    found: list[Found] = []
    rates: list[Found] = []
    with tempfile.TemporaryDirectory() as folder, fresh_compilations(Path(folder)):
        for group in _groups(models, originals):
            for batch in batches:
                logger.info("%s, batch %d", ", ".join(model.name for model in group), batch)
                group_rows, group_rates = measure(
                    group, originals[group[0].path], engines, batch, frames, rounds, Path(folder), baseline
                )
                found += group_rows
                rates += group_rates
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "date": today(),
        "load": load_average(),
        "rounds": rounds,
        "rates": _middle(rates),
        "rows": [row for number, row in enumerate(found) if row not in found[:number]],  # none twice
    }


def measure(
    models: Sequence[Model],
    original: Model,
    engines: Sequence[str],
    batch: int,
    frames: int,
    rounds: int,
    folder: Path,
    baseline: str = "",
) -> tuple[list[Found], list[Found]]:
    """Rows and matrix rates of one batch size, for models of one network."""
    gpus = find_gpus()
    gpu = "cuda:0" if gpus.found else None
    planned = list(table.plan_rows(models, engines, batch, frames, gpu, gpus.reason, baseline))
    finished = {
        number: _head(row) | {"status": "unusable", "reason": row.reason}
        for number, row in enumerate(planned)
        if row.spec is None
    }
    unusable = len(finished)
    if unusable == len(planned):
        return list(finished.values()), []
    inputs = table.model_inputs(original.config, batch, frames)
    np.save(folder / "batch.npy", inputs)
    running: dict[int, Running] = {}
    with ExitStack() as stack:
        reference = _reference_mask(original, batch, frames, folder)
        for number, row in enumerate(planned):
            if row.spec is None:
                continue
            done, rows = len(running) + len(finished) - unusable + 1, len(planned) - unusable
            logger.info("batch %d, row %d of %d: %s %s on %s", batch, done, rows, row.engine, row.precision, row.device)
            worker = stack.enter_context(Worker(row.spec))
            result = start(row, worker, folder, reference)
            if isinstance(result, Running):
                running[number] = result
            else:
                worker.close()
                finished[number] = result
            logger.info("%s", _log_line(result, row))
        used = dict.fromkeys(rate for entry in running.values() for rate in table.rates_used(entry.row))
        meters, missing = _rate_workers(used, stack)
        calls: dict[int | Rate, Callable[[], float]] = {}
        for number, entry in running.items():
            calls[number] = entry.worker.seconds
        for key, (worker, _) in meters.items():
            calls[key] = lambda worker=worker: worker.seconds(warm=0)  # type: ignore[misc]

        def leave(key: int | Rate, error: WorkerError) -> None:
            if isinstance(key, int):
                finished[key] = give_up(running.pop(key), error)
            else:
                missing[key] = _no_rate(key, meters[key][0], error)

        times = in_turn(calls, rounds, leave, f"batch {batch}")
        rates = {key: work / statistics.median(times[key]) for key, (_, work) in meters.items() if key in times}
        for number, entry in running.items():
            try:
                finished[number] = finish(entry, times[number], rates)
            except WorkerError as error:
                finished[number] = give_up(entry, error)
    listed = [{"rate": key, "per_second": rate} for key, rate in rates.items()]
    listed += [{"rate": key, "reason": reason} for key, reason in missing.items()]
    return [finished[number] for number in sorted(finished)], listed


def start(row: Row, worker: Worker, folder: Path, reference: Array | None) -> Running | Found:
    """Opens a row and looks at its first mask: ready to be timed, or the row of what is wrong."""
    assert row.spec is not None
    before = device_memory_mb(row.spec.device)
    try:
        facts = worker.ask("open", batch=str(folder / "batch.npy"))
    except WorkerError as error:
        return _head(row) | {"status": "unusable", "reason": str(error)}
    head = _head(row, facts)
    try:
        first = facts["seconds"] + worker.ask("run", save=str(folder / "mask.npy"))["seconds"]
        after = device_memory_mb(row.spec.device)
    except WorkerError as error:
        return head | {"status": "failed", "reason": str(error)}
    snr = None
    if reference is not None:
        snr = table.mask_snr(np.load(folder / "mask.npy"), reference)
        wrong = table.judge(snr, row.precision)
        if wrong is not None:
            value = None if np.isnan(snr) else round(snr, 2)
            return head | {"status": "wrong", "reason": wrong, "snr_db": value}
    memory = after - before if before is not None and after is not None else None
    return Running(row, worker, facts, first, snr, memory)


def finish(entry: Running, seconds: Sequence[float], rates: Mapping[Rate, float]) -> Found:
    """Gives the whole row of one that ran. Raises WorkerError."""
    row, spec = entry.row, entry.row.spec
    assert spec is not None
    streamed = entry.worker.ask("stream", count=STREAMED)["seconds"] if spec.device != "cpu" else None
    peak = entry.worker.ask("memory")["peak_mb"]
    return (
        _head(row, entry.facts)
        | {"status": "ok"}
        | table.summarise(row, seconds, streamed)
        | {
            "first_output_seconds": round(entry.first, 3),
            "peak_ram_mb": round(peak),
            "device_memory_mb": None if entry.device_memory is None else round(entry.device_memory),
            "snr_db": None if entry.snr is None else round(entry.snr, 2),
        }
        | table.shares(row, statistics.median(seconds), dict(rates))
    )


def give_up(entry: Running, error: WorkerError) -> Found:
    """The row of one that ran at first and failed later; its process ends, so that what it holds is free again."""
    entry.worker.close()
    found = _head(entry.row, entry.facts) | {"status": "failed", "reason": str(error)}
    logger.warning("%s", _log_line(found, entry.row))
    return found


def _reference_mask(original: Model, batch: int, frames: int, folder: Path) -> Array | None:
    """Computes what PyTorch gives in fp32 on the CPU; None, with a warning, where there is no PyTorch."""
    with Worker(Spec("torch", original.path, batch=batch, frames=frames)) as worker:
        try:
            worker.ask("open", batch=str(folder / "batch.npy"))
            worker.ask("run", save=str(folder / "reference.npy"))
        except WorkerError as error:
            logger.warning("no mask is compared with PyTorch's: %s", error)
            return None
    mask: Array = np.load(folder / "reference.npy")
    return mask


def _rate_workers(used: Iterable[Rate], stack: ExitStack) -> tuple[dict[Rate, tuple[Worker, int]], dict[Rate, str]]:
    """Processes that measure these rates, with the work of one run, and why others cannot be measured."""
    found, missing = {}, {}
    for name, device in used:
        if (name, device) == ("copy", "cpu"):
            continue
        spec = Spec("copy", device=device) if name == "copy" else Spec("matmul", precision=name, device=device)
        worker = stack.enter_context(Worker(spec))
        try:
            work = worker.ask("open")["work"]
            worker.ask("run")
        except WorkerError as error:
            missing[name, device] = _no_rate((name, device), worker, error)
            continue
        found[name, device] = worker, work
    return found, missing


def _no_rate(rate: Rate, worker: Worker, error: WorkerError) -> str:
    """Goes on without one; gives the reason."""
    worker.close()
    logger.info("no %s rate of %s: %s", *rate, error)
    return str(error)


def _groups(models: Sequence[Model], originals: Mapping[str, Model]) -> Iterator[list[Model]]:
    """Models that are compared with the same one."""
    for path in dict.fromkeys(original.path for original in originals.values()):
        yield [model for model in models if originals[model.path].path == path]


def _head(row: Row, facts: Found | None = None) -> Found:
    """Says what a row is, and the version of an engine that was opened."""
    return {
        "model": row.model.name,
        "engine": row.engine,
        "precision": row.precision,
        "device": row.device,
        "batch": row.spec and row.spec.batch,
        "frames": row.spec and row.spec.frames,
        **({} if facts is None else {"version": facts.get("version", "")}),
    }


def _log_line(result: Running | Found, row: Row) -> str:
    name = f"{row.engine} {row.precision}"
    if isinstance(result, Running):
        snr = "not compared" if result.snr is None else f"{result.snr:.1f} dB"
        return f"{name}: first mask after {result.first:.2f} s, {snr}"
    return f"{name}: {result['status']}: {result['reason']}"


def _middle(rates: Iterable[Found]) -> list[Found]:
    """The median of each rate over the groups, in units of 10^9 a second; None and the reason where there is none."""
    by_key: dict[Rate, list[Found]] = {}
    for rate in rates:
        by_key.setdefault(rate["rate"], []).append(rate)
    found = []
    for (name, device), each in by_key.items():
        values = [rate["per_second"] for rate in each if "per_second" in rate]
        middle = round(statistics.median(values) / 1e9, 1) if values else None
        reason = {} if values else {"reason": each[0]["reason"]}
        found.append({"what": name, "device": device, "giga_per_second": middle, **reason})
    return found

"""`ft bench`: every engine on every model, side by side in one run.

All rows of one batch size are open at once, each in a process of its own, and run in turn for some rounds, forwards and
backwards, so that whatever else the machine does meets all of them. A row whose mask is wrong has no time, and one that
fails, however late, leaves the others as they are.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from bench import rows as table
from bench.machine import describe_machine, describe_versions, device_memory_mb, load_average
from bench.rows import Contender, ModelFile, Rate
from bench.runners import Array, Spec
from bench.worker import Worker, WorkerError, fresh_compilations, in_turn
from engines.devices import find_gpus

logger = logging.getLogger(__name__)

Found = dict[str, Any]
Rates = dict[Rate, list[float | str]]
"""Operations or bytes a second in each group of rows, or why they were not measured."""

STREAMED = 16
"""Batches in a row on a GPU, where the copies of one hide behind the computing of another."""


@dataclass
class Running:
    """A row in its process."""

    row: Contender
    worker: Worker
    facts: Found
    first: float
    snr: float | None
    device_memory: float | None


def compare(
    models: Sequence[ModelFile],
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
    rates: Rates = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, fresh_compilations(Path(folder)):
        for group in _groups(models, originals):
            for batch in batches:
                logger.info("%s, batch %d", ", ".join(model.name for model in group), batch)
                planned = list(table.contenders(group, engines, batch, frames, find_gpus().reason, baseline))
                found += measure(planned, originals[group[0].path], rounds, Path(folder), rates)
    return {
        "machine": describe_machine(),
        "versions": describe_versions(),
        "date": date.today().isoformat(),
        "load": load_average(),
        "rounds": rounds,
        "rates": [_middle(rate, each) for rate, each in rates.items()],
        "rows": [row for number, row in enumerate(found) if row not in found[:number]],  # none twice
    }


def measure(planned: Sequence[Contender], original: ModelFile, rounds: int, folder: Path, rates: Rates) -> list[Found]:
    """The rows of one batch size, for models of one network; adds to `rates`."""
    finished = {
        number: _head(row) | {"status": "unusable", "reason": row.reason}
        for number, row in enumerate(planned)
        if row.reason
    }
    usable = [number for number in range(len(planned)) if number not in finished]
    if not usable:
        return list(finished.values())
    batch, frames = planned[usable[0]].spec.batch, planned[usable[0]].spec.frames
    np.save(folder / "batch.npy", table.model_inputs(original.config, batch, frames))
    running: dict[int, Running] = {}
    with ExitStack() as stack:
        reference = _reference_mask(Spec("torch", original.path, batch=batch, frames=frames), folder)
        for done, number in enumerate(usable, 1):
            row = planned[number]
            logger.info("batch %d, row %d of %d: %s on %s", batch, done, len(usable), _name(row), row.spec.device)
            worker = stack.enter_context(Worker(row.spec))
            result = start(row, worker, folder, reference)
            if isinstance(result, Running):
                running[number] = result
                snr = "not compared" if result.snr is None else f"{result.snr:.1f} dB"
                logger.info("%s: first mask after %.2f s, %s", _name(row), result.first, snr)
            else:
                worker.close()
                finished[number] = result
                logger.info("%s: %s: %s", _name(row), result["status"], result["reason"])
        used = dict.fromkeys(rate for entry in running.values() for rate in table.rates_used(entry.row.spec))
        meters = _rate_workers(used, stack, rates)
        calls: dict[int | Rate, Callable[[], float]] = {}
        for number, entry in running.items():
            calls[number] = entry.worker.seconds
        for key, (worker, _) in meters.items():
            calls[key] = lambda worker=worker: worker.seconds(warm=0)  # type: ignore[misc]

        def leave(key: int | Rate, error: WorkerError) -> None:
            if isinstance(key, int):
                finished[key] = give_up(running.pop(key), error)
            else:
                rates[key].append(_no_rate(key, meters.pop(key)[0], error))

        times = in_turn(calls, rounds, leave, f"batch {batch}")
        reached = {key: work / statistics.median(times[key]) for key, (_, work) in meters.items()}
        for number, entry in running.items():
            try:
                finished[number] = finish(entry, times[number], reached)
            except WorkerError as error:
                finished[number] = give_up(entry, error)
    for key, rate in reached.items():
        rates[key].append(rate)
    return [finished[number] for number in sorted(finished)]


def start(row: Contender, worker: Worker, folder: Path, reference: Array | None) -> Running | Found:
    """Opens a row and looks at its first mask: ready to be timed, or the row of what is wrong."""
    before = device_memory_mb(row.spec.device)
    try:
        facts = worker.ask("open", batch=str(folder / "batch.npy"))
    except WorkerError as error:
        return _head(row) | {"status": "unusable", "reason": str(error)}
    head = _head(row, facts)
    try:
        first = facts["seconds"] + worker.ask("run", save=str(folder / "mask.npy"))["seconds"]
    except WorkerError as error:
        return head | {"status": "failed", "reason": str(error)}
    after = device_memory_mb(row.spec.device)
    snr = None
    if reference is not None:
        snr = table.mask_snr(np.load(folder / "mask.npy"), reference)
        wrong = table.judge(snr, row.spec.precision)
        if wrong is not None:
            value = None if np.isnan(snr) else round(snr, 2)
            return head | {"status": "wrong", "reason": wrong, "snr_db": value}
    memory = after - before if before is not None and after is not None else None
    return Running(row, worker, facts, first, snr, memory)


def finish(entry: Running, seconds: Sequence[float], rates: Mapping[Rate, float]) -> Found:
    """Gives the whole row of one that ran. Raises WorkerError.

    Args:
        seconds: of single batches, each finished before the next.
    """
    row, spec, median = entry.row, entry.row.spec, statistics.median(seconds)
    # On a GPU the time of one in a row of batches, where the engine hides copies behind computing.
    streamed = median if spec.device == "cpu" else entry.worker.ask("stream", count=STREAMED)["seconds"]
    sound = spec.batch * spec.frames / row.model.config.frame_rate
    latency = {"median": median, "p95": float(np.percentile(seconds, 95)), "best": min(seconds)}
    return {
        **_head(row, entry.facts),
        "status": "ok",
        "latency_ms": {name: _rounded(1e3 * value) for name, value in latency.items()},
        "times_real_time": _rounded(sound / streamed),
        "runs": len(seconds),
        "first_output_seconds": round(entry.first, 3),
        "peak_ram_mb": round(entry.worker.ask("memory")["peak_mb"]),
        "device_memory_mb": None if entry.device_memory is None else round(entry.device_memory),
        "snr_db": None if entry.snr is None else round(entry.snr, 2),
        **table.shares(row, median, rates),
    }


def give_up(entry: Running, error: WorkerError) -> Found:
    """The row of one that ran at first and failed later; its process ends, so that what it holds is free again."""
    entry.worker.close()
    logger.warning("%s: failed: %s", _name(entry.row), error)
    return _head(entry.row, entry.facts) | {"status": "failed", "reason": str(error)}


def _reference_mask(spec: Spec, folder: Path) -> Array | None:
    """Computes what PyTorch gives in fp32 on the CPU; None, with a warning, where there is no PyTorch."""
    with Worker(spec) as worker:
        try:
            worker.ask("open", batch=str(folder / "batch.npy"))
            worker.ask("run", save=str(folder / "reference.npy"))
        except WorkerError as error:
            logger.warning("no mask is compared with PyTorch's: %s", error)
            return None
    mask: Array = np.load(folder / "reference.npy")
    return mask


def _rate_workers(used: Mapping[Rate, None], stack: ExitStack, rates: Rates) -> dict[Rate, tuple[Worker, int]]:
    """Processes that measure these rates, with the work of one run; why others cannot be measured goes into `rates`."""
    found = {}
    for name, device in used:
        if (name, device) == ("copy", "cpu"):
            continue
        spec = Spec("copy", device=device) if name == "copy" else Spec("matmul", precision=name, device=device)
        worker = stack.enter_context(Worker(spec))
        try:
            found[name, device] = worker, worker.ask("open")["work"]
            worker.ask("run")
        except WorkerError as error:
            found.pop((name, device), None)
            rates[name, device].append(_no_rate((name, device), worker, error))
    return found


def _no_rate(rate: Rate, worker: Worker, error: WorkerError) -> str:
    """Goes on without one; gives the reason."""
    worker.close()
    logger.info("no %s rate of %s: %s", *rate, error)
    return str(error)


def _groups(models: Sequence[ModelFile], originals: Mapping[str, ModelFile]) -> Iterator[list[ModelFile]]:
    """Models that are compared with the same one."""
    for path in dict.fromkeys(original.path for original in originals.values()):
        yield [model for model in models if originals[model.path].path == path]


def _head(row: Contender, facts: Found | None = None) -> Found:
    """Says what a row is, and the version of an engine that was opened."""
    spec = row.spec
    return {
        "model": row.model.name,
        "engine": spec.runtime,
        "precision": spec.precision,
        "device": spec.device,
        "batch": None if row.reason else spec.batch,
        "frames": None if row.reason else spec.frames,
        **({} if facts is None else {"version": facts.get("version", "")}),
    }


def _name(row: Contender) -> str:
    return f"{row.spec.runtime} {row.spec.precision}"


def _middle(rate: Rate, each: Sequence[float | str]) -> Found:
    """The median of a rate over the groups, in units of 10^9 a second; None and the reason where there is none."""
    values = [value for value in each if isinstance(value, float)]
    middle = round(statistics.median(values) / 1e9, 1) if values else None
    return {"what": rate[0], "device": rate[1], "giga_per_second": middle, **({} if values else {"reason": each[0]})}


def _rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")

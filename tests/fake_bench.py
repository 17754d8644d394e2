"""Workers of the benchmark that compute nothing, and what a report has at least."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import compare, worker
from bench.rows import ModelFile
from bench.runners import Runner, Spec
from bench.worker import Worker, WorkerError
from engines.devices import Gpu, Gpus

FAKE_GPU = Gpus((Gpu(0, "NVIDIA Test", (9, 0), 1 << 37),), "580.1", "13.0")


class FakeRunner(Runner):
    """Halves the magnitudes, as exactly as its precision allows."""

    error = {"fp32": 1e-7, "fp16": 1e-4, "bf16": 1e-2, "int8": 2e-2}  # noqa: RUF012

    def open(self) -> dict[str, Any]:
        if self.spec.kind in ("matmul", "copy"):
            return {"work": 10**9}
        if self.spec.runtime == "openvino":
            raise RuntimeError("openvino is\nnot installed; pip install it")
        return {"name": self.spec.runtime, "version": "1.0", "device": self.spec.device}

    def run(self, batch):
        if self.spec.kind in ("matmul", "copy"):
            return None
        if self.spec.kind == "torch-compile":
            return self.broken(batch)
        noise = np.random.default_rng(0).standard_normal(batch.shape)
        return (batch / 2 * (1 + self.error[self.spec.precision] * noise)).astype(np.float32)

    def broken(self, batch):
        return batch[:, ::-1] / 3


class FakeWorker:
    """A worker without a process."""

    ended: list[Spec] = []  # noqa: RUF012

    def __init__(self, spec: Spec) -> None:
        self.open = True
        self.handler = worker._Handler(worker.make_runner(spec))

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        assert self.open
        try:
            return getattr(self.handler, do)(**values)
        except Exception as error:
            raise WorkerError(" ".join(str(error).split())) from error

    seconds = Worker.seconds
    __enter__ = Worker.__enter__
    __exit__ = Worker.__exit__

    def close(self) -> None:
        self.open = False
        self.ended.append(self.handler.runner.spec)


def fail_in_run(monkeypatch: pytest.MonkeyPatch, number: int, **wanted: Any) -> list[Spec]:
    """Lets the runners with these values fail in that run and in no other; the list fills with those that then ran."""
    runs: dict[int, int] = {}
    later: list[Spec] = []
    run = FakeRunner.run

    def counted(self, batch):
        runs[id(self)] = runs.get(id(self), 0) + 1
        if all(getattr(self.spec, key) == value for key, value in wanted.items()):
            if runs[id(self)] > number:
                later.append(self.spec)
            if runs[id(self)] == number:
                raise RuntimeError("the GPU fell\noff the bus")
        return run(self, batch)

    monkeypatch.setattr(FakeRunner, "run", counted)
    return later


def use_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `bench.compare` have runners that compute nothing, in this process."""
    monkeypatch.setattr(FakeWorker, "ended", [])
    monkeypatch.setattr(compare, "Worker", FakeWorker)
    monkeypatch.setattr(worker, "make_runner", FakeRunner)


def lower(model: ModelFile, precision: str) -> ModelFile:
    """As a file that was exported in `precision`."""
    path = model.path.replace(".onnx", f"-{precision}.onnx")
    return dataclasses.replace(model, precision=precision, path=path, name=Path(path).name)


EMPTY_REPORT: dict[str, Any] = {
    "machine": {
        "name": "Test CPU, 2 cores",
        "cpu": "Test CPU",
        "features": ["avx2"],
        "cores": 2,
        "memory_gb": 8.0,
        "gpus": [],
        "driver": None,
        "system": "Linux",
    },
    "versions": {"torch": "2.13"},
    "date": "2026-01-02",
    "command": "ft bench default",
    "load": 0.1,
    "rounds": 10,
    "rates": [],
    "rows": [],
}


def timed_row(engine: str, precision: str = "fp32", speed: float = 10.0, **values: Any) -> dict[str, Any]:
    """A row that ran."""
    return {
        "model": "shipped",
        "engine": engine,
        "precision": precision,
        "device": "cpu",
        "batch": 1,
        "frames": 256,
        "status": "ok",
        "latency_ms": {"median": 1000 / speed, "p95": 1234.5, "best": 1.0},
        "times_real_time": speed,
        "runs": 10,
        "first_output_seconds": 0.5,
        "peak_ram_mb": 321,
        "device_memory_mb": None,
        "snr_db": 101.0,
        "matmul_share": 0.5,
        "bandwidth_share": None,
        **values,
    }


def row_without_time(engine: str, precision: str = "fp32", **values: Any) -> dict[str, Any]:
    """A row with what is known before it runs, and what else is given."""
    head = ("model", "engine", "precision", "device", "batch", "frames")
    return {**{key: timed_row(engine, precision)[key] for key in head}, **values}


WRONG = {"status": "wrong", "reason": "its mask has 1.5 dB", "snr_db": 1.5}


def song_row(engine: str, speed: float, ratio: float) -> dict[str, Any]:
    """A separation from file to files."""
    return {
        "model": "m",
        "engine": engine,
        "precision": "fp32",
        "device": "cpu",
        "sample_rate": 44100,
        "audio_seconds": 60.0,
        "seconds": 60 / speed,
        "times_real_time": speed,
        "ratio_to_engine": ratio,
        "shares": {"decode": 0.1, "network": 0.9},
    }

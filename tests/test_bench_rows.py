"""`ft bench`: which rows there are, what makes one wrong, and how they are measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench import command, compare, machine, rows, worker
from bench.report import check_report, read_report, write_report
from bench.rows import Model, Row
from bench.runners import Runner, Spec
from bench.worker import Worker, WorkerError, in_turn
from engines.devices import Gpu, Gpus
from ft.cli import main
from ft.errors import ConfigError

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

    def __init__(self, spec: Spec) -> None:
        self.handler = worker._Handler(worker.make_runner(spec))

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        try:
            return getattr(self.handler, do)(**values)
        except Exception as error:
            raise WorkerError(" ".join(str(error).split())) from error

    seconds = Worker.seconds
    __enter__ = Worker.__enter__
    __exit__ = Worker.__exit__

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch):
    """Runners that compute nothing, in this process."""
    monkeypatch.setattr(compare, "Worker", FakeWorker)
    monkeypatch.setattr(worker, "make_runner", FakeRunner)
    return monkeypatch


@pytest.fixture
def tiny(tiny_onnx: Path) -> Model:
    return rows.read_model(str(tiny_onnx))


def lower(model: Model, precision: str) -> Model:
    """As a file that was exported in `precision`."""
    path = model.path.replace(".onnx", f"-{precision}.onnx")
    return dataclasses.replace(model, precision=precision, path=path, name=Path(path).name)


def by_engine(report: dict[str, Any], **wanted: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (row["engine"], row["precision"]): row
        for row in report["rows"]
        if all(row[key] == value for key, value in wanted.items())
    }


def test_every_engine_has_a_row_or_a_reason(tiny):
    planned = list(rows.plan_rows([tiny], rows.ENGINES, 4, 256, None, "no GPU found"))
    assert {row.engine for row in planned} == set(rows.ENGINES)
    assert all((row.spec is None) == (row.reason == "no GPU found") for row in planned)
    runnable = {(row.engine, row.precision) for row in planned if row.spec}
    both = {(name, precision) for name in ("torch", "torch-compile") for precision in ("fp32", "bf16")}
    assert runnable == {("onnxruntime", "fp32"), ("openvino", "fp32")} | both
    assert {row.spec.batch for row in planned if row.spec} == {4}


def test_a_gpu_adds_its_rows_in_both_precisions(tiny):
    planned = list(rows.plan_rows([tiny], rows.ENGINES, 1, 256, "cuda:0"))
    on_gpu = {(row.engine, row.precision) for row in planned if row.spec and row.spec.device == "cuda:0"}
    kinds = ("torch", "torch-compile", "torch-cudagraph", "torch-compile-cudagraph")
    torch = {(name, precision) for name in kinds for precision in ("fp32", "fp16")}
    assert on_gpu == {("onnxruntime", "fp32"), ("tensorrt", "fp32")} | torch
    assert not [row for row in planned if row.spec is None]


def test_low_precision_runs_in_engines_only_and_plans_in_tensorrt_only(tiny):
    planned = list(rows.plan_rows([lower(tiny, "int8")], rows.ENGINES, 1, 256, "cuda:0"))
    assert {row.engine for row in planned} == {"onnxruntime", "openvino", "tensorrt"}
    assert {row.precision for row in planned} == {"int8"}
    plan = dataclasses.replace(lower(tiny, "fp16"), path="model.plan")
    assert {row.engine for row in rows.plan_rows([plan], rows.ENGINES, 1, 256, "cuda:0")} == {"tensorrt"}


def test_a_model_that_takes_waveforms_is_listed_with_the_reason(tiny):
    (row,) = rows.plan_rows([dataclasses.replace(tiny, io="waveform")], rows.ENGINES, 1, 256, None)
    assert row.spec is None and "waveforms" in row.reason


def test_low_precision_is_compared_with_the_fp32_model_of_its_network(tiny):
    int8, other = lower(tiny, "int8"), rows.read_model("default")
    found = rows.references([other, int8, tiny])
    assert found[int8.path] is tiny and found[tiny.path] is tiny and found[other.path] is other
    with pytest.raises(ConfigError, match="int8, and none of the models is the fp32 one"):
        rows.references([other, int8])


def test_inputs_are_windows_of_the_example(tiny):
    inputs = rows.model_inputs(tiny.config, 3, 16)
    audio = tiny.config.audio
    assert inputs.shape == (3, audio.channels, audio.bins, 16) and inputs.dtype == np.float32
    assert inputs.min() >= 0 and 0.05 < inputs.max() <= 1
    longer = rows.model_inputs(tiny.config, 1, 48)
    assert np.array_equal(np.concatenate(list(inputs), axis=2), longer[0])


@pytest.mark.parametrize("precision", rows.SNR_LIMITS_DB)
def test_a_mask_is_judged_by_its_precision(precision):
    assert rows.judge(rows.SNR_LIMITS_DB[precision], precision) is None
    assert f"fewer than {rows.SNR_LIMITS_DB[precision]:g}" in rows.judge(rows.SNR_LIMITS_DB[precision] - 0.1, precision)
    mask = np.ones((1, 2, 3, 4), np.float32)
    assert rows.mask_snr(mask, mask) > 100 and rows.judge(rows.mask_snr(mask, mask), precision) is None
    mask[0, 0, 0, 0] = np.nan
    assert "not finite" in rows.judge(rows.mask_snr(mask, np.ones_like(mask)), precision)


def test_a_wrong_mask_has_no_time_and_the_others_do(fake, tiny):
    report = compare.compare([tiny], ("onnxruntime", "openvino", "torch", "torch-compile"), (1, 2), 16, 2)
    on_cpu = by_engine(report, batch=2, device="cpu")
    wrong = on_cpu["torch-compile", "fp32"]
    assert wrong["status"] == "wrong" and "latency_ms" not in wrong and "times_real_time" not in wrong
    assert "fewer than 60" in wrong["reason"] and wrong["snr_db"] < 60
    missing = on_cpu["openvino", "fp32"]
    assert missing["status"] == "unusable" and missing["reason"] == "openvino is not installed; pip install it"
    right = on_cpu["onnxruntime", "fp32"]
    assert right["status"] == "ok" and right["snr_db"] > 100 and right["runs"] == 2
    audio = tiny.config.audio
    sound = 2 * 16 * audio.hop_length / audio.sample_rate
    assert right["times_real_time"] == pytest.approx(sound / right["latency_ms"]["median"] * 1e3, rel=2e-3)
    assert on_cpu["torch", "bf16"]["snr_db"] < 60  # fewer than fp32 needs, and enough for bf16
    no_gpu = [row for row in report["rows"] if row["status"] == "unusable" and row["device"] == "cuda"]
    assert len(no_gpu) == 5  # each engine and precision once, not once for each batch


def test_values_that_are_not_finite_are_wrong(fake, tiny):
    fake.setattr(FakeRunner, "broken", lambda self, batch: np.full_like(batch, np.nan))
    report = compare.compare([tiny], ("torch-compile",), (1,), 16, 1)
    row = by_engine(report, device="cpu")["torch-compile", "fp32"]
    assert row["status"] == "wrong" and "not finite" in row["reason"] and row["snr_db"] is None


def test_a_failing_engine_is_told_from_a_missing_one(fake, tiny):
    def fail(self, batch):
        raise RuntimeError("out of registers")

    fake.setattr(FakeRunner, "broken", fail)
    report = compare.compare([tiny], ("torch", "torch-compile"), (1,), 16, 1)
    row = by_engine(report, device="cpu")["torch-compile", "fp32"]
    assert (row["status"], row["reason"]) == ("failed", "out of registers")
    assert by_engine(report, device="cpu")["torch", "fp32"]["status"] == "ok"


def test_a_gpu_row_has_the_memory_that_it_took(fake, tiny):
    fake.setattr(compare, "find_gpus", lambda: FAKE_GPU)
    used = iter(range(1000, 10**6, 250))
    fake.setattr(compare, "device_memory_mb", lambda device: None if device == "cpu" else float(next(used)))
    report = compare.compare([tiny], ("onnxruntime", "torch-cudagraph"), (1,), 16, 2)
    found = by_engine(report, device="cuda:0", status="ok")
    assert set(found) == {("onnxruntime", "fp32"), ("torch-cudagraph", "fp32"), ("torch-cudagraph", "fp16")}
    assert {row["device_memory_mb"] for row in found.values()} == {250}
    assert all(row["matmul_share"] is not None for row in found.values())
    assert {rate["device"] for rate in report["rates"]} == {"cpu", "cuda:0"}


def test_shares_are_of_the_rate_in_the_same_precision(tiny):
    work = rows.count(tiny.config.network, 2, 16)
    rates = {("fp32", "cpu"): 1e9, ("int8", "cpu"): 4e9, ("fp16", "cuda:0"): 8e9, ("copy", "cuda:0"): 1e8}

    def share(precision, device):
        spec = Spec("engine", tiny.path, precision=precision, device=device, batch=2, frames=16)
        return rows.shares(Row("onnxruntime", precision, tiny, spec), 0.5, rates)

    assert share("fp32", "cpu") == {"matmul_share": round(work.flops / 0.5 / 1e9, 4), "bandwidth_share": None}
    assert share("int8", "cpu")["matmul_share"] == round(work.flops / 0.5 / 4e9, 4)
    assert share("fp16", "cpu")["matmul_share"] == share("fp32", "cpu")["matmul_share"]
    assert share("bf16", "cpu")["matmul_share"] is None  # no such rate could be measured
    on_gpu = share("fp16", "cuda:0")
    assert on_gpu["bandwidth_share"] == round(2 * (work.weights + work.activations) / 0.5 / 1e8, 4)


def test_rounds_go_forwards_and_backwards():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    times = in_turn(calls, 3)
    assert "".join(order) == "abccbaabc"
    assert times["b"] == [2, 5, 8]


def test_a_worker_is_a_process_of_its_own(tiny, tmp_path):
    inputs = rows.model_inputs(tiny.config, 1, 8)
    np.save(tmp_path / "batch.npy", inputs)
    np.save(tmp_path / "other.npy", inputs / 2)
    with Worker(Spec("engine", tiny.path, runtime="onnxruntime", frames=8)) as process:
        facts = process.ask("open", batch=str(tmp_path / "batch.npy"))
        assert (facts["name"], facts["device"]) == ("onnxruntime", "cpu")
        assert process.seconds() > 0
        process.ask("run", save=str(tmp_path / "mask.npy"))
        process.ask("give", batch=str(tmp_path / "other.npy"))
        process.ask("run", save=str(tmp_path / "second.npy"))
        assert 20 < process.ask("memory")["peak_mb"] < machine.peak_memory_mb() + 500
        process._process.kill()
        with pytest.raises(WorkerError, match="its process ended with -9"):
            process.ask("run")
    assert np.load(tmp_path / "mask.npy").shape == inputs.shape
    assert not np.array_equal(np.load(tmp_path / "mask.npy"), np.load(tmp_path / "second.npy"))


def test_a_worker_says_in_one_line_why_it_cannot(tiny):
    with Worker(Spec("engine", tiny.path, runtime="nonsense")) as process:
        with pytest.raises(WorkerError, match=r"^runtime nonsense; expected auto, .*") as error:
            process.ask("open")
        assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for an NVIDIA GPU")
@pytest.mark.parametrize("kind", rows.TORCH_KINDS)
def test_pytorch_in_its_ways_gives_the_same_mask_on_a_gpu(tiny, tmp_path, kind):
    """Twice with other values, so that a captured graph is seen to read its input."""
    first, second = rows.model_inputs(tiny.config, 2, 64)[:, None]
    np.save(tmp_path / "batch.npy", first)
    with Worker(Spec("torch", tiny.path, frames=64)) as plain:
        plain.ask("open", batch=str(tmp_path / "batch.npy"))
        plain.ask("run", save=str(tmp_path / "expected.npy"))
    np.save(tmp_path / "other.npy", second)
    with Worker(Spec(kind, tiny.path, precision="fp16", device="cuda:0", frames=64)) as process:
        process.ask("open", batch=str(tmp_path / "other.npy"))
        process.ask("run")
        process.ask("give", batch=str(tmp_path / "batch.npy"))
        process.ask("run", save=str(tmp_path / "mask.npy"))
    snr = rows.mask_snr(np.load(tmp_path / "mask.npy"), np.load(tmp_path / "expected.npy"))
    assert rows.judge(snr, "fp16") is None


@pytest.mark.parametrize("arguments", [["--engines", "fastest"], ["--batch", "1,x"], ["--batch", "0"]])
def test_wrong_options_are_refused_in_one_line(arguments):
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1 and "expected" in result.output


def test_the_command_writes_what_it_prints(fake, tiny_onnx, tmp_path):
    fake.setattr(command, "end_to_end", lambda model, song, rounds, **options: dict(END_TO_END))
    arguments = ["bench", str(tiny_onnx), "--engines", "onnxruntime,torch-compile", "--batch", "1", "--rounds", "1"]
    files = ["--json", str(tmp_path / "report.json"), "--plot", str(tmp_path / "plot.png"), "--song-seconds", "1"]
    result = CliRunner().invoke(main, [*arguments, "--frames", "16", *files])
    assert result.exit_code == 0, result.output
    assert "WRONG: its mask has" in result.output and "unusable: no GPU" in result.output
    report = read_report(tmp_path / "report.json")
    assert [row["engine"] for row in report["rows"] if row["status"] == "ok"] == ["onnxruntime"]
    assert len(report["end_to_end"]) == 2  # the model's rate and another
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


END_TO_END = {
    "model": "tiny.onnx",
    "engine": "onnxruntime",
    "precision": "fp32",
    "device": "cpu",
    "sample_rate": 44100,
    "audio_seconds": 60.0,
    "seconds": 1.0,
    "times_real_time": 60.0,
    "ratio_to_engine": 1.1,
    "shares": {"decode": 0.1, "network": 0.9},
}


def test_a_report_that_is_none_is_refused(fake, tiny, tmp_path):
    report = {**compare.compare([tiny], ("onnxruntime", "torch-compile"), (1,), 16, 1), "command": "ft bench"}
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == json.loads(json.dumps(report))
    timed = next(row for row in report["rows"] if row["status"] == "ok")
    wrong = next(row for row in report["rows"] if row["status"] == "wrong")
    for change, message in (
        ({"machine": {}}, "machine: name is None"),
        ({"rows": [{**timed, "status": "fine"}]}, "status fine"),
        ({"rows": [{**timed, "runs": True}]}, "runs is True"),
        ({"rows": [{**wrong, "latency_ms": {"median": 1}}]}, "a reason and no time"),
        ({"rows": [{key: value for key, value in timed.items() if key != "peak_ram_mb"}]}, "peak_ram_mb is None"),
        ({"bars": [{"name": "fast", "kind": "at least", "limit": 2}]}, "met is None"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_report(tmp_path, {**report, **change})
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="not a report"):
        read_report(tmp_path / "broken.json")

"""`ft bench`: which rows there are, what makes one wrong, and the processes that run them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_bench import lower

from bench import machine, rows
from bench.rows import Contender, ModelFile
from bench.runners import Spec
from bench.worker import Worker, WorkerError, in_turn, make_runner
from ft.errors import ConfigError


@pytest.fixture
def tiny(tiny_onnx: Path) -> ModelFile:
    return rows.read_model_file(str(tiny_onnx))


def planned(*models: ModelFile, engines=rows.ENGINES, no_gpu: str = "") -> list[tuple[str, str, str, str]]:
    """Engine, precision, device and reason of each row, all of windows of 4 times 256 frames."""
    found = list(rows.contenders(models, engines, 4, 256, no_gpu))
    assert {(row.spec.batch, row.spec.frames) for row in found} == {(4, 256)}
    return [(row.spec.runtime, row.spec.precision, row.spec.device, row.reason) for row in found]


def test_every_engine_has_a_row_or_a_reason(tiny):
    found = planned(tiny, no_gpu="no GPU found")
    assert {engine for engine, *_ in found} == set(rows.ENGINES)
    both = {(name, precision, "cpu", "") for name in ("torch", "torch-compile") for precision in ("fp32", "bf16")}
    engines = {(name, "fp32", "cpu", "") for name in ("onnxruntime", "openvino")}
    assert {row for row in found if row[2] == "cpu"} == engines | both
    assert {row[3] for row in found if row[2] == "cuda"} == {"no GPU found"}


def test_a_gpu_adds_its_rows_in_both_precisions(tiny):
    found = planned(tiny)
    kinds = ("torch", "torch-compile", "torch-cudagraph", "torch-compile-cudagraph")
    torch = {(name, precision) for name in kinds for precision in ("fp32", "fp16")}
    on_gpu = {(engine, precision) for engine, precision, device, _ in found if device == "cuda:0"}
    assert on_gpu == {("onnxruntime", "fp32"), ("tensorrt", "fp32")} | torch
    assert {row[3] for row in found} == {""}


def test_low_precision_runs_in_engines_only_and_plans_in_tensorrt_only(tiny):
    found = planned(lower(tiny, "int8"))
    assert {row[:2] for row in found} == {(name, "int8") for name in ("onnxruntime", "openvino", "tensorrt")}
    plan = dataclasses.replace(lower(tiny, "fp16"), path="model.plan")
    assert {row[0] for row in planned(plan)} == {"tensorrt"}


def test_a_model_that_takes_waveforms_is_listed_with_the_reason(tiny):
    waveform = dataclasses.replace(tiny, io="waveform")
    plan = dataclasses.replace(waveform, path="model.plan")
    for model, no_gpu, engines, expected in (
        (waveform, "no GPU found", rows.ENGINES, ("onnxruntime", "cpu")),
        (waveform, "", ("torch", "openvino"), ("onnxruntime", "cpu")),  # it is not for want of a GPU
        (plan, "no GPU found", rows.ENGINES, ("tensorrt", "cuda")),
    ):
        ((engine, _, device, reason),) = planned(model, engines=engines, no_gpu=no_gpu)
        assert (engine, device) == expected and "waveforms" in reason


def test_a_model_that_takes_waveforms_is_no_reference(tiny):
    waveform = dataclasses.replace(tiny, io="waveform", path="waveform.onnx")
    int8 = lower(tiny, "int8")
    assert rows.references([waveform, tiny, int8])[int8.path] is tiny
    with pytest.raises(ConfigError, match="none of the models is the fp32 one"):
        rows.references([waveform, int8])


def test_low_precision_is_compared_with_the_fp32_model_of_its_network(tiny):
    int8, other = lower(tiny, "int8"), rows.read_model_file("default")
    found = rows.references([other, int8, tiny])
    assert found[int8.path] is tiny and found[tiny.path] is tiny and found[other.path] is other
    with pytest.raises(ConfigError, match="int8, and none of the models is the fp32 one"):
        rows.references([other, int8])


def test_inputs_are_windows_of_the_example(tiny):
    inputs = rows.model_inputs(tiny.config, 3, 16)
    (spec,) = tiny.config.reads
    assert inputs.shape == spec.sized(3, 16) and inputs.dtype == np.float32
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


def test_shares_are_of_the_rate_in_the_same_precision(tiny):
    work = rows.count_work(tiny.config, 2, 16)
    rates = {("fp32", "cpu"): 1e9, ("int8", "cpu"): 4e9, ("fp16", "cuda:0"): 8e9, ("copy", "cuda:0"): 1e8}

    def share(precision, device):
        spec = Spec("engine", tiny.path, precision=precision, device=device, batch=2, frames=16)
        return rows.shares(Contender(tiny, spec), 0.5, rates)

    assert share("fp32", "cpu") == {"matmul_share": round(work.flops / 0.5 / 1e9, 4), "bandwidth_share": None}
    assert share("int8", "cpu")["matmul_share"] == round(work.flops / 0.5 / 4e9, 4)
    assert share("fp16", "cpu")["matmul_share"] == share("fp32", "cpu")["matmul_share"]
    assert share("bf16", "cpu")["matmul_share"] is None  # no such rate could be measured
    on_gpu = share("fp16", "cuda:0")
    assert on_gpu["bandwidth_share"] == round(2 * work.values / 0.5 / 1e8, 4)


def test_rounds_go_forwards_and_backwards():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    times = in_turn(calls, 3)
    assert "".join(order) == "abccbaabc"
    assert times["b"] == [2, 5, 8]


def test_a_call_that_fails_leaves_the_rounds():
    order: list[str] = []
    left: list[tuple[str, str]] = []

    def call(name: str) -> float:
        order.append(name)
        if name == "b" and order.count("b") == 2:
            raise WorkerError("gone")
        return float(len(order))

    calls = {name: lambda name=name: call(name) for name in "abc"}
    times = in_turn(calls, 3, lambda name, error: left.append((name, str(error))))
    assert "".join(order) == "abccbaac"
    assert left == [("b", "gone")] and {name: len(values) for name, values in times.items()} == {"a": 3, "c": 3}
    order.clear()
    with pytest.raises(WorkerError, match="gone"):
        in_turn(calls, 3)


def test_a_worker_is_a_process_of_its_own(tiny, tmp_path):
    inputs = rows.model_inputs(tiny.config, 1, 8)
    np.save(tmp_path / "batch.npy", inputs)
    with Worker(Spec("engine", tiny.path, runtime="onnxruntime", frames=8)) as process:
        facts = process.ask("open", batch=str(tmp_path / "batch.npy"))
        assert (facts["name"], facts["device"]) == ("onnxruntime", "cpu")
        assert process.seconds() > 0
        process.ask("run", save=str(tmp_path / "mask.npy"))
        assert 20 < process.ask("memory")["peak_mb"] < machine.peak_memory_mb() + 500
        process._process.kill()
        with pytest.raises(WorkerError, match="its process ended with -9"):
            process.ask("run")
    assert np.load(tmp_path / "mask.npy").shape == inputs.shape


def test_a_worker_says_in_one_line_why_it_cannot(tiny):
    with Worker(Spec("engine", tiny.path, runtime="nonsense")) as process:
        with pytest.raises(WorkerError, match=r"^runtime nonsense; expected auto, .*") as error:
            process.ask("open")
        assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for an NVIDIA GPU")
@pytest.mark.parametrize("kind", rows.TORCH_KINDS)
def test_pytorch_in_its_ways_gives_the_same_mask_on_a_gpu(tiny, kind):
    """Twice with other values, so that a captured graph is seen to read its input."""
    first, second = rows.model_inputs(tiny.config, 2, 64)[:, None]
    plain = make_runner(Spec("torch", tiny.path, frames=64))
    runner = make_runner(Spec(kind, tiny.path, precision="fp16", device="cuda:0", frames=64))
    plain.open()
    runner.open()
    runner.run(second)
    assert rows.judge(rows.mask_snr(runner.run(first), plain.run(first)), "fp16") is None

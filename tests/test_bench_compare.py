"""`ft bench`: how rows are measured, and that one which fails, however late, costs the others nothing."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fake_bench import FAKE_GPU, FakeRunner, FakeWorker, fail_in_run, lower, song_row, use_fakes

from bench import command, compare, rows, runners, worker
from bench.report import check_report, rates_line, read_report, write_report
from bench.rows import ModelFile
from bench.runners import Runner, Spec
from ft.cli import main
from ft.errors import ConfigError, EngineError


@pytest.fixture
def fake(monkeypatch):
    use_fakes(monkeypatch)
    return monkeypatch


@pytest.fixture
def tiny(tiny_onnx: Path) -> ModelFile:
    return rows.read_model_file(str(tiny_onnx))


def by_engine(report: dict[str, Any], **wanted: Any) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (row["engine"], row["precision"]): row
        for row in report["rows"]
        if all(row[key] == value for key, value in wanted.items())
    }


def test_a_model_that_takes_waveforms_is_listed_once_and_starts_nothing(fake, tiny):
    waveform = dataclasses.replace(lower(tiny, "fp16"), io="waveform")  # needs no fp32 one: no mask is compared
    fake.setattr(compare, "Worker", None)
    report = compare.compare([waveform], rows.ENGINES, (1, 4), 16, 2)
    assert [(row["engine"], row["device"], row["status"]) for row in report["rows"]] == [
        ("onnxruntime", "cpu", "unusable")
    ]
    assert report["rates"] == []


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
    sound = 2 * 16 / tiny.config.frame_rate
    assert right["times_real_time"] == pytest.approx(sound / right["latency_ms"]["median"] * 1e3, rel=2e-3)
    assert on_cpu["torch", "bf16"]["snr_db"] < 60  # fewer than fp32 needs, and enough for bf16
    no_gpu = [row for row in report["rows"] if row["status"] == "unusable" and row["device"] == "cuda"]
    assert len(no_gpu) == 5  # each engine and precision once, not once for each batch


def out_of_registers(self, batch):
    raise RuntimeError("out of registers")


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (lambda self, batch: np.full_like(batch, np.nan), ("wrong", "its mask has values that are not finite")),
        (out_of_registers, ("failed", "out of registers")),
    ],
)
def test_a_failing_engine_is_told_from_a_missing_one(fake, tiny, broken, expected):
    fake.setattr(FakeRunner, "broken", broken)
    on_cpu = by_engine(compare.compare([tiny], ("torch", "torch-compile"), (1,), 16, 1), device="cpu")
    row = on_cpu["torch-compile", "fp32"]
    assert (row["status"], row["reason"]) == expected and row.get("snr_db") is None
    assert on_cpu["torch", "fp32"]["status"] == "ok"


def ended_at_the_end_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> list[Spec]:
    """Fills with the specs whose processes had ended when the first row was finished."""
    found: list[Spec] = []
    finish = compare.finish

    def look(*args: Any) -> dict[str, Any]:
        found.extend(spec for spec in FakeWorker.ended if spec not in found)
        return finish(*args)

    monkeypatch.setattr(compare, "finish", look)
    return found


def test_an_engine_that_fails_late_leaves_the_others_their_times(fake, tiny):
    """In the third run of its process: the first is looked at, the second is the warm-up of the first round."""
    later = fail_in_run(fake, 3, kind="engine", runtime="onnxruntime")
    ended = ended_at_the_end_of_the_rounds(fake)
    report = compare.compare([tiny], ("onnxruntime", "torch"), (1,), 16, 4)
    on_cpu = by_engine(report, device="cpu")
    lost = on_cpu["onnxruntime", "fp32"]
    assert (lost["status"], lost["reason"]) == ("failed", "the GPU fell off the bus")
    assert lost["version"] == "1.0" and "latency_ms" not in lost
    assert later == []  # it is not asked again
    assert "onnxruntime" in {spec.runtime for spec in ended}  # what it held was free for the others
    for precision in ("fp32", "bf16"):
        right = on_cpu["torch", precision]
        assert right["status"] == "ok" and right["runs"] == 4 and right["matmul_share"] is not None
    check_report(Path("report"), {**report, "command": "ft bench"})


def test_an_engine_that_fails_on_many_batches_in_a_row_leaves_the_others_theirs(fake, tiny):
    fake.setattr(compare, "find_gpus", lambda: FAKE_GPU)
    fake.setattr(compare, "device_memory_mb", lambda device: None)

    def fail(self, batch, count):
        if self.spec.precision == "fp16":
            raise RuntimeError("out of memory")
        Runner.stream(self, batch, count)

    fake.setattr(FakeRunner, "stream", fail)
    found = by_engine(compare.compare([tiny], ("torch",), (1,), 16, 2), device="cuda:0")
    assert (found["torch", "fp16"]["status"], found["torch", "fp16"]["reason"]) == ("failed", "out of memory")
    assert found["torch", "fp32"]["status"] == "ok"


def test_a_rate_that_fails_late_is_left_out(fake, tiny):
    fail_in_run(fake, 3, kind="matmul", precision="fp32")
    ended = ended_at_the_end_of_the_rounds(fake)
    report = compare.compare([tiny], ("onnxruntime", "torch"), (1,), 16, 4)
    on_cpu = by_engine(report, device="cpu")
    assert on_cpu["onnxruntime", "fp32"]["status"] == "ok" and on_cpu["onnxruntime", "fp32"]["matmul_share"] is None
    assert on_cpu["torch", "bf16"]["matmul_share"] is not None
    measured = {rate["what"]: rate["giga_per_second"] is not None for rate in report["rates"]}
    assert measured == {"bf16": True, "fp32": False}  # and none of int8, which no row computes in
    assert "fp32 on cpu not measured (the GPU fell off the bus)" in rates_line(report)
    assert ("matmul", "fp32") in {(spec.kind, spec.precision) for spec in ended}


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


def test_a_product_that_would_take_minutes_is_not_run(monkeypatch):
    torch = pytest.importorskip("torch")
    sizes = []

    def slow(a, b):
        sizes.append(len(a))
        time.sleep(0.03)

    monkeypatch.setattr(torch, "mm", slow)
    runner = worker.make_runner(Spec("matmul", precision="bf16"))
    with pytest.raises(EngineError, match=r"slow here, \d+ s for one product"):
        runner.open()
    assert set(sizes) == {runners.PROBE_SIZE}


def test_rows_and_rounds_are_told_as_they_begin(fake, tiny, caplog):
    with caplog.at_level("INFO", "bench"):
        compare.compare([tiny], ("onnxruntime", "openvino", "torch"), (2,), 16, 2)
    lines = [record.getMessage() for record in caplog.records]
    rows_told = [line for line in lines if ", row " in line]
    assert rows_told == [
        "batch 2, row 1 of 4: onnxruntime fp32 on cpu",
        "batch 2, row 2 of 4: openvino fp32 on cpu",
        "batch 2, row 3 of 4: torch fp32 on cpu",
        "batch 2, row 4 of 4: torch bf16 on cpu",
    ]
    assert lines[-2:] == ["batch 2, round 1 of 2", "batch 2, round 2 of 2"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--json", "file/report.json"], 1, "file/report.json: cannot be written"),
        (["--plot", "file/plot.png"], 1, "file/plot.png: cannot be written"),
        (["--plot", "one", "--json", "one"], 2, "--json and --plot contradict each other"),
        (["--baseline", "nowhere.py"], 2, "--baseline nowhere.py: no such file"),
    ],
)
def test_what_cannot_succeed_is_refused_before_anything_is_measured(
    monkeypatch, tmp_path, tiny_checkpoint, options, code, message
):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "compare", lambda *_, **__: pytest.fail("measured"))
    result = CliRunner().invoke(main, ["bench", str(tiny_checkpoint), *options])
    assert result.exit_code == code and message in result.output


@pytest.mark.parametrize("arguments", [["--engines", "fastest"], ["--batch", "1,x"], ["--batch", "0"]])
def test_wrong_options_are_refused_in_one_line(arguments):
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1 and "expected" in result.output


def test_without_a_model_the_shipped_one_is_measured_in_both_forms(fake, tmp_path):
    file = tmp_path / "report.json"
    options = ["--engines", "onnxruntime", "--batch", "1", "--frames", "16", "--rounds", "1", "--song-seconds", "0"]
    result = CliRunner().invoke(main, ["bench", *options, "--json", str(file)])
    assert result.exit_code == 0, result.output
    report = read_report(file)
    measured = {(row["model"], row["precision"]) for row in report["rows"] if row["status"] == "ok"}
    assert measured == {("default-fp32", "fp32"), ("default-int8", "int8")}
    assert report["command"] == "ft bench default-fp32 default-int8"


def test_the_command_writes_what_it_prints(fake, tiny_onnx, tmp_path):
    fake.setattr(command, "end_to_end", lambda *_, **__: song_row("onnxruntime", 60, 1.1))
    arguments = ["bench", str(tiny_onnx), "--engines", "onnxruntime,torch-compile", "--batch", "1", "--rounds", "1"]
    files = ["--json", str(tmp_path / "report.json"), "--plot", str(tmp_path / "plot.png"), "--song-seconds", "1"]
    result = CliRunner().invoke(main, [*arguments, "--frames", "16", *files])
    assert result.exit_code == 0, result.output
    assert "WRONG: its mask has" in result.output and "unusable: no GPU" in result.output
    report = read_report(tmp_path / "report.json")
    assert [row["engine"] for row in report["rows"] if row["status"] == "ok"] == ["onnxruntime"]
    assert len(report["end_to_end"]) == 2  # the model's rate and another
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


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

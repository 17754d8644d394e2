"""The page of results: made from the reports, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import CliRunner
from fake_bench import EMPTY_REPORT, WRONG, row_without_time, timed_row

from bench import page, picture
from bench.rows import judge
from ft.errors import ConfigError

NO_GPU = {"status": "unusable", "reason": "no GPU found", "device": "cuda", "batch": None, "frames": None}


def read_description(path: Path) -> str:
    with PIL.Image.open(path) as image:
        return image.info["Description"]


def report(*rows: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**EMPTY_REPORT, "rows": list(rows), **values}


BAR = {"kind": "at least", "limit": 2, "unit": "x", "met": False, "note": ""}


@pytest.fixture
def sample() -> dict[str, Any]:
    return report(
        timed_row("onnxruntime", speed=40),
        timed_row("torch", speed=20),
        timed_row("onnxruntime", speed=400, batch=4),
        row_without_time("torch-compile", **WRONG),
        row_without_time("tensorrt", **NO_GPU),
        row_without_time("torch", **NO_GPU),
        bars=[
            {**BAR, "name": "quick", "figure": 1.5},
            {**BAR, "name": "none", "figure": None, "note": "a|b"},
            {**BAR, "name": "exact", "figure": 0.0123, "kind": "at most", "limit": 0.1, "unit": "dB", "met": True},
            {**BAR, "name": "close", "figure": 1.601, "kind": "at most", "limit": 1.6},
        ],
    )


def test_the_page_is_what_the_reports_give():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(page.read_reports()), "run `python -m bench.page`"


def test_readme_has_the_table_of_the_reports():
    text = page.README.read_text(encoding="utf-8")
    assert text.count(page.BEGIN) == text.count(page.END) == 1
    assert page.fill_readme(text, page.short_table(page.read_reports())) == text, "run `python -m bench.page`"


def test_pictures_are_of_the_reports():
    for name, group in page.machines(page.read_reports()).items():
        path = page.PAGE.parent / picture.picture_name(name)
        assert read_description(path) == picture.picture_digest(group), "run `python -m bench.page`"
    used = {picture.picture_name(name) for name in page.machines(page.read_reports())}
    assert {path.name for path in page.PAGE.parent.glob("benchmarks-*.png")} == used


def test_there_are_reports_and_no_time_in_them_is_of_a_wrong_mask():
    reports = page.read_reports()
    assert reports
    for found in reports:
        timed = [row for row in found["rows"] if row["status"] == "ok"]
        assert timed, found["command"]
        for row in timed:
            assert row["snr_db"] is not None and judge(row["snr_db"], row["precision"]) is None, row


def test_every_file_of_results_is_read_and_must_be_a_report(sample, tmp_path):
    (tmp_path / "first.json").write_text(json.dumps(sample))
    (tmp_path / "second.json").write_text(json.dumps({**sample, "command": "other"}))
    assert [found["command"] for found in page.read_reports(tmp_path)] == ["ft bench default", "other"]
    (tmp_path / "second.json").write_text(json.dumps({**sample, "rows": None}))
    with pytest.raises(ConfigError, match=r"second\.json: report: rows is None"):
        page.read_reports(tmp_path)


def test_wrong_rows_have_no_time_and_unusable_ones_a_reason(sample):
    lines = page.page([sample]).splitlines()
    (wrong,) = [line for line in lines if "torch-compile" in line and line.startswith("|")]
    assert wrong == "| torch-compile | fp32 | cpu | 1 | **WRONG** |  |  |  |  | 1.5 |  |"
    (right,) = [line for line in lines if "onnxruntime" in line and "| 1 |" in line]
    assert right == "| onnxruntime | fp32 | cpu | 1 | 25 | 1234 | 40 | 0.5 | 321 | 101 | 50% |"
    assert "Cannot run here: tensorrt fp32 on cuda, torch fp32 on cuda: no GPU found" in lines
    assert "| quick | 1.5 x | at least 2 | **missed** |  |" in lines
    assert "| none | nothing | at least 2 | **missed** | a/b |" in lines
    assert "| exact | 0.0123 dB | at most 0.1 | met |  |" in lines
    assert "| close | 1.601 x | at most 1.6 | **missed** |  |" in lines


def test_a_model_that_is_not_measured_here_is_on_the_page_with_the_reason():
    waveforms = {"model": "wave.onnx", "status": "unusable", "reason": "takes waveforms", "batch": None, "frames": None}
    lines = page.page([report(timed_row("onnxruntime"), row_without_time("onnxruntime", **waveforms))]).splitlines()
    start = lines.index("**wave.onnx**")
    assert lines[start + 2] == "Cannot run here: onnxruntime fp32 on cpu: takes waveforms"


def test_short_table_has_single_windows_with_the_fastest_first(sample):
    rows = [line for line in page.short_table([sample]).splitlines() if line.startswith("| shipped")]
    assert rows == [
        "| shipped | onnxruntime | fp32 | 40 | 2.00 | 101 dB |",
        "| shipped | torch | fp32 | 20 | 1.00 | 101 dB |",
        "| shipped | torch-compile | fp32 | **WRONG** |  |  |",
    ]


def test_a_gpu_has_its_columns_and_its_best_batch():
    gpu = {"device": "cuda:0", "device_memory_mb": 900, "bandwidth_share": 0.25}
    found = report(
        timed_row("torch", speed=100, **gpu),
        timed_row("torch", "fp16", speed=300, **gpu),
        timed_row("torch", "fp16", 500, batch=4, **gpu),
    )
    assert "| 50% | 900 | 25% |" in page.page([found])
    assert "| shipped | torch, cuda:0 | fp16 | 500 | 5.00 | 101 dB |" in page.short_table([found])


def test_only_what_stands_between_the_marks_is_replaced():
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    assert page.fill_readme(text, r"new \1") == f"before\n{page.BEGIN}\nnew \\1\n{page.END}\nafter\n"


@pytest.mark.parametrize("text", ["no marks\n", page.BEGIN, 2 * (page.BEGIN + page.END), page.END + page.BEGIN])
def test_without_its_marks_in_readme_nothing_is_written(monkeypatch, tmp_path, sample, text):
    monkeypatch.setattr(page, "README", tmp_path / "README.md")
    monkeypatch.setattr(page, "PAGE", tmp_path / "docs" / "BENCHMARKS.md")
    monkeypatch.setattr(page, "read_reports", lambda: [sample])
    page.README.write_text(text)
    result = CliRunner().invoke(page.main)
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert f"README.md: expected {page.BEGIN} and {page.END}, once each" in line
    assert not page.PAGE.exists() and page.README.read_text() == text


def test_the_page_the_picture_and_the_table_are_written(monkeypatch, tmp_path, sample):
    monkeypatch.setattr(page, "README", tmp_path / "README.md")
    monkeypatch.setattr(page, "PAGE", tmp_path / "docs" / "BENCHMARKS.md")
    monkeypatch.setattr(page, "read_reports", lambda: [sample])
    page.README.write_text(f"before\n{page.BEGIN}\n{page.END}\n")
    result = CliRunner().invoke(page.main)
    assert result.exit_code == 0, result.output
    assert page.PAGE.read_text() == page.page([sample])
    assert "| shipped | onnxruntime | fp32 | 40 |" in page.README.read_text()
    assert (page.PAGE.parent / picture.picture_name("Test CPU, 2 cores")).exists()


def test_a_picture_tells_what_it_was_made_of(sample, tmp_path):
    picture.save_picture(tmp_path / "plot.png", [sample])
    assert read_description(tmp_path / "plot.png") == picture.picture_digest([sample])
    assert picture.picture_digest([sample]) != picture.picture_digest([report()])
    picture.save_picture(tmp_path / "empty.png", [report()])

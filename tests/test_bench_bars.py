"""The bars: what each of them compares, and that one which cannot be measured is missed and no more."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from fake_bench import EMPTY_REPORT, WRONG, row_without_time, song_row, timed_row

from bench import bars, context, original
from bench.report import check_report, read_report
from bench.rows import read_model_file
from bench.runners import Spec
from bench.worker import Worker, WorkerError

ORACLE = str(Path(__file__).parent / "oracle.py")


def window_rows(**medians: float) -> list[dict[str, Any]]:
    """Rows by `engine_precision`, with their milliseconds; 0 is a wrong mask."""
    rows = []
    for name, median in medians.items():
        engine, _, precision = name.rpartition("_")
        timed = median and timed_row(engine, precision, 1000 / median, matmul_share=50 / median)
        rows.append(timed or row_without_time(engine, precision, **WRONG))
    return rows


def test_bars_compare_with_the_plain_implementation():
    rows = window_rows(
        baseline_fp32=100, onnxruntime_fp32=50, openvino_fp32=40, openvino_int8=20, torch_bf16=1, openvino_bf16=2
    )
    found = {bar.limit: bar for bar in bars.window_bars(rows, "onnxruntime")}
    assert {limit: bar.figure for limit, bar in found.items()} == {0.45: 0.5, 1.9: 2.0, 2.4: 2.5, 3.5: 5.0}
    assert all(bar.met for bar in found.values())
    slower = {bar.limit: bar.met for bar in bars.window_bars(rows, "openvino")}
    assert slower == {0.45: True, 1.9: True, 2.4: True, 3.5: True}


def test_a_bar_that_was_not_measured_is_missed():
    rows = window_rows(baseline_fp32=150, onnxruntime_fp32=100, openvino_int8=0)
    found = {bar.limit: bar for bar in bars.window_bars(rows, "onnxruntime")}
    assert [found[limit].met for limit in (0.45, 1.9, 2.4, 3.5)] == [False] * 4
    assert "openvino wrong: its mask has 1.5 dB" in found[3.5].note
    assert found[3.5].figure is None and "MISSED" in found[3.5].as_line() and "nothing" in found[3.5].as_line()
    check_report(Path("report"), {**EMPTY_REPORT, "bars": [bar.as_dict() for bar in found.values()]})


@pytest.fixture
def short_example(monkeypatch, tmp_path) -> Path:
    """A quarter of a second of the example, in its place."""
    for name in ("mixture", "vocals", "instrumental"):
        samples, rate = soundfile.read(context.EXAMPLE / f"{name}.flac", stop=11025)
        soundfile.write(tmp_path / f"{name}.flac", samples, rate)
    monkeypatch.setattr(bars, "EXAMPLE", tmp_path)
    return tmp_path


@pytest.mark.long
def test_bars_of_whole_songs(short_example, tiny_onnx):
    """With the same weights nearly nothing is lost, and the song is really separated in both ways."""
    model = read_model_file(str(tiny_onnx))
    candidates = [(model, name) for name in bars.ENGINES]
    speed, exact, lost = bars.whole_song_bars(candidates, ORACLE, 1, 0.01)
    assert [bar.limit for bar in (speed, exact, lost)] == [0.01, 0.01, 0.1]
    assert speed.met and speed.unit == "x"
    assert all(f"{name} fp32 0." in speed.note for name in bars.ENGINES)
    assert exact.figure == speed.figure and "fp32 alone" in exact.name
    assert lost.met and lost.unit == "dB"


class SongWorker:
    """Separates in no time, all of it into the instrumental, and takes the seconds that its runtime says."""

    seconds_of = {"onnxruntime": 2.0, "openvino": 4.0}  # noqa: RUF012
    failing: dict[str, int] = {}  # noqa: RUF012
    """In which run which one fails."""
    alive: list[str] = []  # noqa: RUF012

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.name = "plain" if spec.kind == "baseline-song" else f"{spec.runtime} {Path(spec.model).stem}"
        self.runs = 0
        self.alive.append(self.name)

    def ask(self, do: str, save: str = "", **values: Any) -> dict[str, Any]:
        assert self.name in self.alive
        if do == "open":
            return {}
        self.runs += 1
        if self.failing.get(self.name) == self.runs:
            raise WorkerError("its process ended with -9: it said nothing")
        folder = Path(self.spec.song).parent
        if self.name == "plain":
            np.save(save, np.stack([soundfile.read(folder / "mixture.flac")[0].T] * 2))
            return {"seconds": 100.0}
        files = {stem: str(folder / "mixture.flac") for stem in ("vocals", "instrumental")}
        return {
            "seconds": self.seconds_of[self.spec.runtime] / (4 if "int8" in self.name else 1),
            "files": files,
            "gain": 1,
        }

    seconds = Worker.seconds
    __enter__ = Worker.__enter__
    __exit__ = Worker.__exit__

    def close(self) -> None:
        if self.name in self.alive:
            self.alive.remove(self.name)


@pytest.fixture
def song_bars(monkeypatch, short_example, tiny_onnx):
    """The bars of ONNX Runtime and OpenVINO in fp32 and OpenVINO in int8, where those named fail in that run."""
    monkeypatch.setattr(original, "Worker", SongWorker)
    exact = dataclasses.replace(read_model_file(str(tiny_onnx)), path="fp32.onnx")
    small = dataclasses.replace(exact, path="int8.onnx", precision="int8")

    def judge(**failing: int) -> list[bars.Bar]:
        names = {"ort": "onnxruntime fp32", "openvino": "openvino fp32", "int8": "openvino int8", "plain": "plain"}
        monkeypatch.setattr(SongWorker, "failing", {names[name]: run for name, run in failing.items()})
        candidates = [(exact, "onnxruntime"), (exact, "openvino"), (small, "openvino")]
        found = list(bars.whole_song_bars(candidates, ORACLE, 3, 60))
        assert SongWorker.alive == []
        return found

    return judge


def test_speed_is_judged_with_all_precisions_and_in_fp32_alone(song_bars):
    speed, exact, lost = song_bars()
    assert (speed.figure, speed.met) == (100, True) and (exact.figure, exact.met) == (50, False)
    assert speed.limit == exact.limit == 60 and "fp32 alone" in exact.name and speed.name != exact.name
    assert speed.note == "onnxruntime fp32 2.00 s, openvino fp32 4.00 s, openvino int8 1.00 s, plain 100.00 s"
    assert "int8" not in exact.note
    assert lost.figure == pytest.approx(0, abs=1e-6) and "with openvino int8" in lost.note


def test_a_candidate_that_fails_in_its_third_run_leaves_the_others_theirs(song_bars):
    speed, exact, lost = song_bars(int8=3)
    assert speed.figure == exact.figure == 50 and lost.met
    assert "openvino int8 failed: its process ended with -9" in speed.note
    speed, exact, _ = song_bars(ort=1)
    assert (speed.figure, exact.figure) == (100, 25)
    assert "onnxruntime fp32 failed: its process" in exact.note


def test_bars_without_the_plain_implementation_or_any_candidate_are_missed_with_the_reason(song_bars):
    for failing in ({"plain": 2}, {"ort": 1, "openvino": 2, "int8": 3}):
        found = song_bars(**failing)
        assert len(found) == 3
        assert not any(bar.met for bar in found) and all(bar.figure is None for bar in found)
        assert all("its process ended with -9" in bar.note for bar in found)


def test_bars_of_ft_separate_take_the_default_engine_for_its_cost_and_the_best_for_its_speed():
    whole = song_row("onnxruntime", 10, 1.18)
    shipped = [song_row("onnxruntime", 30, 1.61), song_row("openvino", 40, 1.7)]
    found = {bar.limit: (bar.figure, bar.met) for bar in bars.engine_bars("m", whole, shipped)}
    assert found == {1.18: (1.18, True), 1.6: (1.61, False), 40: (40, True)}


def test_a_separation_that_fails_misses_its_own_bars_only():
    gone = WorkerError("out of memory")
    found = {bar.limit: bar for bar in bars.engine_bars("m", gone, [gone, song_row("openvino", 50, 1.1)])}
    assert {limit: bar.met for limit, bar in found.items()} == {1.18: False, 1.6: False, 40: True}
    assert found[1.18].note == "failed: out of memory" and found[1.6].figure is None
    assert all(bar.figure is None and "out of memory" in bar.note for bar in bars.engine_bars("m", gone, [gone, gone]))


def test_all_bars_are_judged_where_one_separation_fails(monkeypatch, tiny_onnx):
    """Everything that measures is replaced; what failed is in no row, and every bar has its line."""

    def separate_file(model, song, rounds, **options):
        if options["runtime"] == "openvino":
            raise WorkerError("openvino is not installed")
        return song_row("onnxruntime", 50, 1.1)

    monkeypatch.setattr(bars, "end_to_end", separate_file)
    measured = window_rows(baseline_fp32=100, onnxruntime_fp32=50)
    monkeypatch.setattr(bars, "compare", lambda *args, **kwargs: {**EMPTY_REPORT, "rows": measured})
    monkeypatch.setattr(bars, "whole_song_bars", lambda *args: [bars.Bar("song", 1.0, "at least", 1)])
    report = bars.check(read_model_file(str(tiny_onnx)), None, ORACLE, 1, 1, 1)
    assert [row["engine"] for row in report["end_to_end"]] == ["onnxruntime"] * 3
    assert [bar["met"] for bar in report["bars"]] == [True, True, False, False, True, True, True, True, True]


@pytest.mark.parametrize(("figure", "code"), [(2.5, 0), (2.3, 1)])
def test_bars_end_with_a_code_and_a_report(monkeypatch, tmp_path, tiny_onnx, figure, code):
    bar = bars.Bar("quick", figure, "at least", 2.4, "x", "onnxruntime")
    found = {**EMPTY_REPORT, "load": 0.0, "bars": [bar.as_dict()], "end_to_end": [song_row("onnxruntime", 10, 1.1)]}
    monkeypatch.setattr(bars, "check", lambda *args: dict(found))
    monkeypatch.setattr(bars, "use_cores", lambda count: None)
    monkeypatch.setattr(bars, "tell_progress", lambda: None)
    arguments = ["--model", str(tiny_onnx), "--baseline", ORACLE, "--json", str(tmp_path / "bars.json")]
    result = CliRunner().invoke(bars.main, arguments)
    assert result.exit_code == code
    assert ("MISSED" in result.stdout) == bool(code)
    assert json.loads(result.stdout.splitlines()[-1])["missed"] == ["quick"] * code
    assert read_report(tmp_path / "bars.json")["command"] == "python -m bench.bars"

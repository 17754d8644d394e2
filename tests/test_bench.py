"""The scripts behind the published figures: what they count and what they conclude."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from stubs import StubEngine, all_ones, stub_config

from bench import bars, context, machine, memory, speed
from bench.report import check_report, read_report
from bench.rows import read_model
from bench.runners import Spec
from ft import dsp, separate


def table(*values: float) -> list[dict[str, float]]:
    contexts = (0, 0.25, 0.5, 1.0, 2.0)
    return [{"context_seconds": c, "sdr_vocals": v} for c, v in zip(contexts, values, strict=False)]


def test_context_is_enough_when_no_doubling_from_there_changes_much():
    assert context.enough(table(0, 1, 2, 2.01, 2.02)) == 0.5
    assert context.enough(table(0, 2, 2.01, 2.1, 2.11)) == 1.0  # the small step at first does not count
    assert context.enough(table(0, 1, 2, 3, 4)) is None


def test_context_counts_the_frames_and_leaves_the_engine_as_it_was():
    engine = StubEngine(all_ones, stub_config())
    with engine:
        rows = list(context.rows(engine, 4.0, 0.05, (0.0, 0.5, 2.0)))
    assert [row["context_seconds"] for row in rows] == [0.0, 0.5]  # the last one would fill the window
    assert 1 <= rows[0]["frames_run"] < rows[1]["frames_run"]
    assert engine.frames_run == pytest.approx(sum(row["frames_run"] for row in rows) * 30 * 8000 / 32, rel=1e-3)
    assert "_infer" not in vars(engine)


def test_the_example_repeated_has_the_length_asked_for(tmp_path):
    memory.repeat_example(tmp_path / "song.flac", 70)
    assert soundfile.info(tmp_path / "song.flac").frames == 70 * 44100


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_counts_child_processes():
    """A process that takes 100 MB, below one that takes another 100 MB."""
    hold = "x = bytearray(100_000_000); import time; time.sleep(1)"
    nested = f"import subprocess, sys; y = bytearray(100_000_000); subprocess.run([sys.executable, '-c', {hold!r}])"
    assert 200 < memory.peak_mb([sys.executable, "-c", nested]) < 300


@pytest.fixture
def stub_separator(monkeypatch):
    """`ft separate` without a network; the model's rate is 8 kHz, the song's 44.1."""
    engine = StubEngine(all_ones, stub_config(normalize="track"))
    monkeypatch.setattr(separate, "load_engine", lambda *args, **kwargs: engine)
    monkeypatch.setattr(separate, "read_config", lambda model: engine.config)
    return engine


def test_shares_are_of_all_that_a_separation_takes(stub_separator, tmp_path):
    song = speed.make_song(tmp_path, 2)
    runner = speed.SongRunner(Spec("song", song=str(song)))
    before = [vars(owner)[name] for owner, name in WRAPPED]
    runner.open()
    runner.run(None)
    details = runner.details()
    assert [vars(owner)[name] for owner, name in WRAPPED] == before  # nothing stays wrapped
    shares = details["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert set(shares) == {"decode", "resample", "fft", "network", "write", "rest"}
    assert all(shares[name] > 0 for name in ("decode", "resample", "fft", "write"))
    assert all(soundfile.info(file).frames == 2 * 44100 for file in details["files"].values())
    assert details["gain"] == 1
    runner.close()
    assert not any(Path(file).exists() for file in details["files"].values())


WRAPPED = [
    (dsp.StreamingStft, "push"),
    (dsp.StreamingIstft, "finish"),
    (separate, "read_blocks"),
    (separate, "cut_windows"),
]


def test_the_engine_alone_runs_the_windows_of_the_song(stub_separator, tmp_path):
    song = str(speed.make_song(tmp_path, 45))
    whole, alone = speed.SongRunner(Spec("song", song=song)), speed.WindowsRunner(Spec("windows", song=song))
    whole.open()
    whole.run(None)
    expected = stub_separator.batches.copy()
    alone.open()
    stub_separator.batches.clear()
    alone.run(None)
    whole.close()
    alone.close()
    assert len(expected) > 2
    assert all(np.array_equal(a, b) for a, b in zip(expected, stub_separator.batches, strict=True))


def test_a_song_of_another_rate_is_as_long(tmp_path):
    info = soundfile.info(speed.make_song(tmp_path, 3, 48000))
    assert (info.samplerate, info.frames) == (48000, 3 * 48000)


def test_speed_prints_a_table_and_json(monkeypatch, tiny_onnx):
    """File to files in processes of their own."""
    monkeypatch.setattr(speed, "use_cores", lambda count: None)
    arguments = ["--engine", str(tiny_onnx), "--rounds", "1", "--seconds", "1"]
    result = CliRunner().invoke(speed.main, arguments)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout.splitlines()[-1])
    assert row["engine"] == "onnxruntime" and row["times_real_time"] > 0 and row["ratio_to_engine"] > 1
    check_report(tiny_onnx, {**EMPTY_REPORT, "end_to_end": [row]})


EMPTY_REPORT = {
    "machine": machine.describe_machine(),
    "versions": {},
    "date": "2026-01-01",
    "command": "ft bench",
    "rates": [],
    "rows": [],
}


def window_rows(**medians: float) -> list[dict[str, Any]]:
    """Rows by `engine_precision`, with their milliseconds."""
    return [
        {
            "engine": name.rpartition("_")[0],
            "precision": name.rpartition("_")[2],
            "device": "cpu",
            "status": "ok" if median else "wrong",
            "latency_ms": {"median": median},
            "matmul_share": 50 / median if median else None,
            "snr_db": 70.0,
        }
        for name, median in medians.items()
    ]


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
    assert found[3.5].figure is None and "MISSED" in found[3.5].as_line() and "nothing" in found[3.5].as_line()
    check_report(Path("report"), {**EMPTY_REPORT, "bars": [bar.as_dict() for bar in found.values()]})


def test_bars_of_whole_songs(monkeypatch, tiny_onnx, tmp_path):
    """With the same weights nearly nothing is lost, and the song is really separated in both ways."""
    for name in ("mixture", "vocals", "instrumental"):
        samples, rate = soundfile.read(context.EXAMPLE / f"{name}.flac", stop=11025)
        soundfile.write(tmp_path / f"{name}.flac", samples, rate)
    monkeypatch.setattr(bars, "EXAMPLE", tmp_path)
    model = read_model(str(tiny_onnx))
    lost = list(bars.whole_song_bars([(model, name) for name in bars.ENGINES], str(Path(__file__).parent / "oracle.py"), 1, 0.01))
    assert [bar.limit for bar in lost] == [0.01, 0.1]
    assert lost[0].met and lost[0].unit == "x"
    assert lost[1].met and lost[1].unit == "dB"


def song_row(engine: str, speed: float, ratio: float) -> dict[str, Any]:
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
        "shares": {"network": 1.0},
    }


def test_bars_of_ft_separate_take_the_default_engine_for_its_cost_and_the_best_for_its_speed():
    whole = song_row("onnxruntime", 10, 1.1)
    shipped = [song_row("onnxruntime", 30, 1.5), song_row("openvino", 50, 1.7)]
    found = {bar.limit: (bar.figure, bar.met) for bar in bars.engine_bars(whole, shipped)}
    assert found == {1.18: (1.1, True), 1.6: (1.5, True), 40: (50, True)}


@pytest.mark.parametrize(("figure", "code"), [(2.5, 0), (2.3, 1)])
def test_bars_end_with_a_code_and_a_report(monkeypatch, tmp_path, tiny_onnx, figure, code):
    bar = bars.Bar("quick", figure, "at least", 2.4, "x", "onnxruntime")
    found = {**EMPTY_REPORT, "load": 0.0, "bars": [bar.as_dict()], "end_to_end": [song_row("onnxruntime", 10, 1.1)]}
    monkeypatch.setattr(bars, "check", lambda *args: dict(found))
    monkeypatch.setattr(bars, "use_cores", lambda count: None)
    monkeypatch.setattr(bars, "tell_progress", lambda: None)
    baseline = str(Path(__file__).parent / "oracle.py")
    arguments = ["--model", str(tiny_onnx), "--baseline", baseline, "--json", str(tmp_path / "bars.json")]
    result = CliRunner().invoke(bars.main, arguments)
    assert result.exit_code == code
    assert ("MISSED" in result.stdout) == bool(code)
    assert json.loads(result.stdout.splitlines()[-1])["missed"] == ["quick"] * code
    assert read_report(tmp_path / "bars.json")["command"] == "python -m bench.bars"


def test_a_bar_says_which_way_it_goes():
    assert bars.Bar("a", 2.0, "at least", 2.0).met and not bars.Bar("a", 1.9, "at least", 2.0).met
    assert bars.Bar("a", 2.0, "at most", 2.0).met and not bars.Bar("a", 2.1, "at most", 2.0).met
    assert "MISSED" in bars.Bar("a", 2.1, "at most", 2.0).as_line()


@pytest.mark.parametrize("name", ["context", "memory", "speed", "bars"])
def test_scripts_say_what_they_take(name):
    result = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and ("--engine" in result.stdout or "--model" in result.stdout)

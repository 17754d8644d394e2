"""The scripts behind the published figures: what they count and what they conclude."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from fake_bench import EMPTY_REPORT
from stubs import StubEngine, all_ones, stub_config

from bench import bars, context, memory, songs, speed
from bench.report import check_report
from bench.runners import Spec
from engines.machine import int8_products
from ft import dsp
from ft.audio.source import AudioSource
from ft.files import FP32_MODEL, INT8_MODEL, model_path
from ft.separate import separator as separate
from ft.separate import stream


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
    runner = songs.SongRunner(Spec("song", song=str(song)))
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
    (AudioSource, "blocks"),
    (stream, "cut_windows"),
]


def test_the_engine_alone_runs_the_windows_of_the_song(stub_separator, tmp_path):
    song = str(speed.make_song(tmp_path, 45))
    whole, alone = songs.SongRunner(Spec("song", song=song)), songs.WindowsRunner(Spec("windows", song=song))
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


def test_speed_is_that_of_the_model_or_of_what_ft_separate_takes(monkeypatch, tiny_onnx):
    """File to files in processes of their own."""
    monkeypatch.setattr(speed, "use_cores", lambda count: None)
    suits, precision = (INT8_MODEL, "int8") if int8_products() else (FP32_MODEL, "fp32 (fp16 weights)")
    for more, name, computes in (
        (["--engine", tiny_onnx], tiny_onnx.name, "fp32"),
        ([], model_path(suits).name, precision),
    ):
        arguments = ["--device", "cpu", "--rounds", "1", "--seconds", "1", *(str(each) for each in more)]
        result = CliRunner().invoke(speed.main, arguments)
        assert result.exit_code == 0, result.output
        row = json.loads(result.stdout.splitlines()[-1])
        assert (row["model"], row["precision"], row["engine"]) == (name, computes, "onnxruntime")
        assert row["times_real_time"] > 0 and row["ratio_to_engine"] > 1
        check_report(tiny_onnx, {**EMPTY_REPORT, "end_to_end": [row]})


@pytest.mark.parametrize(("arguments", "tail"), [([], []), (["--engine", "m.onnx"], ["--model", "m.onnx"])])
def test_without_a_model_the_memory_is_that_of_what_ft_separate_takes(monkeypatch, arguments, tail):
    commands: list[list[str]] = []

    def take(command: list[str]) -> float:
        commands.append(command)
        song = Path(command[command.index("separate") + 1])
        (song.parent / song.stem).mkdir()
        return 100.0

    monkeypatch.setattr(memory, "peak_mb", take)
    result = CliRunner().invoke(memory.main, ["--seconds", "1", "--seconds", "2", *arguments])
    assert result.exit_code == 0, result.output
    assert [command[command.index("-o") + 2 :] for command in commands] == [tail, tail]


@pytest.mark.parametrize("script", [context, memory, speed, bars])
def test_scripts_say_what_they_take(script):
    result = CliRunner().invoke(script.main, ["--help"])
    assert result.exit_code == 0 and ("--engine" in result.stdout or "--model" in result.stdout)

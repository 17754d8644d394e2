"""The scripts behind the published figures: what they count and what they conclude."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner
from stubs import StubEngine, all_ones, stub_config

from bench import context, memory, speed


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


def test_speed_prints_a_table_and_json(monkeypatch):
    monkeypatch.setattr(speed, "load_engine", lambda model: StubEngine(all_ones, stub_config()))
    monkeypatch.setattr(speed, "use_cores", lambda count: None)
    result = CliRunner().invoke(speed.main, ["--rounds", "1", "--seconds", "2"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert {row["name"] for row in rows} >= {"stub, file to files", "decode", "write", "without network"}
    assert all(row["times_real_time"] > 0 for row in rows)


@pytest.mark.parametrize("name", ["context", "memory", "speed"])
def test_scripts_say_what_they_take(name):
    result = subprocess.run(
        [sys.executable, "-m", f"bench.{name}", "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and "--engine" in result.stdout

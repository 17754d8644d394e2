"""What is told of a run."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ft.songs.report import SongRecord, Summary, printable, sum_line

DONE = SongRecord(
    input=Path("music/a.flac"),
    files={"vocals": Path("out/a/vocals.flac")},
    audio_seconds=180.00049,
    wall_seconds=12.0,
    engine="onnxruntime",
    device="cpu",
    precision="int8",
    model="default",
    gain=0.87654321,
    warnings=("one", "two"),
)
FAILED = SongRecord(input=Path("b.wav"), status="failed", error="b.wav: empty; expected audio")


def summary_of(*records, inputs=None) -> Summary:
    summary = Summary(inputs)
    for record in records:
        summary.add(record)
    return summary


def test_a_record_is_one_line_of_every_field():
    line = DONE.to_json()
    assert "\n" not in line and line.isascii()
    values = json.loads(line)
    assert list(values)[:2] == ["type", "input"] and values["type"] == "song"
    assert set(values) == {item.name for item in fields(SongRecord)} | {"type", "x_realtime"}
    assert values["files"] == {"vocals": str(Path("out/a/vocals.flac"))} and values["images"] == {}
    assert (values["audio_seconds"], values["x_realtime"], values["gain"]) == (180.0, 15.0, 0.876543)
    assert values["warnings"] == ["one", "two"] and values["error"] is None and values["clipped"] is None


def test_what_is_not_known_is_null_and_never_nan():
    values = json.loads(SongRecord(input="-", audio_seconds=float("nan"), gain=float("inf")).to_json())
    assert values["audio_seconds"] is None and values["gain"] is None and values["x_realtime"] is None
    assert json.loads(SongRecord(input="-", audio_seconds=3.0, wall_seconds=0.0).to_json())["x_realtime"] is None


@given(st.binary(min_size=1).map(os.fsdecode), st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"]))
def test_no_file_name_breaks_a_line_of_json_or_of_a_terminal(name, encoding):
    record = SongRecord(input=Path(name), status="failed", files={"vocals": Path(name)}, error=f"{name}: bad")
    summary = summary_of(record)
    for line in (record.to_json(), summary.to_json()):
        assert len(line.splitlines()) == 1 and line.isascii()
    values = json.loads(record.to_json())
    assert os.fsencode(values["input"]) == os.fsencode(Path(name))  # the name itself, though it be no UTF-8
    assert os.fsencode(values["files"]["vocals"]) == os.fsencode(Path(name))
    printable(name, encoding).encode(encoding)


def test_ordinary_names_are_printed_as_they_are():
    for name in ("Ünïcode “x”.wav", "日本語\u3000の曲.flac", "a\\b.wav", "🎵.wav"):
        assert printable(name) == name
    assert printable("a\u202eb\x1b[2J\r") == "a\\u202eb\\x1b[2J\\r"
    assert printable("日", "latin-1") == "\\u65e5"


def test_the_summary_counts_and_sums():
    copied, skipped = SongRecord(input="c", status="copied"), SongRecord(input="d", status="skipped")
    summary = summary_of(DONE, DONE.changed(wall_seconds=18.0), FAILED, copied, skipped)
    values = json.loads(summary.to_json())
    assert values["type"] == "summary" and values["inputs"] == 5 and values["left"] == 0
    assert {name: values[name] for name in ("done", "failed", "copied", "skipped")} == {
        "done": 2,
        "failed": 1,
        "copied": 1,
        "skipped": 1,
    }
    assert (values["audio_seconds"], values["wall_seconds"], values["x_realtime"]) == (360.001, 30.0, 12.0)
    assert values["failures"] == [{"input": "b.wav", "error": "b.wav: empty; expected audio"}]
    assert values["interrupted"] is False
    summary.wall_seconds = 15.0
    assert json.loads(summary.to_json())["x_realtime"] == 24.0


def test_the_exit_code_is_never_0_unless_every_input_is_done():
    assert summary_of().exit_code == 0
    assert summary_of(DONE, DONE.changed(status="skipped"), inputs=2).exit_code == 0
    assert summary_of(DONE, FAILED).exit_code == 1
    short = summary_of(DONE, inputs=3)
    assert short.exit_code == 1 and json.loads(short.to_json())["left"] == 2
    short.interrupted = True
    assert short.exit_code == 130


def test_numbers_of_numpy_are_numbers():
    values = json.loads(SongRecord(input="-", audio_seconds=np.float32(1.5), clipped=np.int64(3)).to_json())
    assert (values["audio_seconds"], values["clipped"]) == (1.5, 3)


def test_the_sum_counts_and_repeats_no_failure():
    summary = summary_of(DONE, FAILED, SongRecord(input="c", status="skipped"), inputs=10)
    assert sum_line(summary) == (
        "10 inputs: 1 done, 1 skipped, 1 failed, 7 left; 180.0 s of audio in 12.0 s, 15.0 times real time"
    )
    assert sum_line(summary_of(FAILED)) == "1 inputs: 1 failed"

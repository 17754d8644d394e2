"""Nothing is sent and nothing kept for others: what commands leave in an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

COMMANDS = """
import sys
from ft.cli import main
song, output = sys.argv[1:]
for command in (
    ["-q", "separate", song, "-o", output],
    ["-q", "separate", song, "-o", output + "-openvino", "--runtime", "openvino", "--segment-seconds", "4"],
    ["doctor"],
):
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, command
"""
IMPORTED_BY_OTHERS = {
    "export": "import export.gate",
    "bench": "import bench.bars, openvino.tools.ovc, onnxruntime.quantization",
    "tests": "import engines, openvino.tools.ovc; from engines.ort import import_onnxruntime as o; o()",
}


def left_in_home(tmp_path: Path, code: str, *arguments: str) -> list[str]:
    """What a process that runs `code` leaves in its home, without the variables that silence libraries."""
    home = tmp_path / "home"
    home.mkdir()
    silencers = ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in silencers} | {"HOME": str(home)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


def test_commands_leave_nothing_in_an_empty_home(tmp_path, example):
    sound, rate = soundfile.read(example / "mixture.flac", frames=44100)
    soundfile.write(tmp_path / "song.wav", sound, rate)
    assert left_in_home(tmp_path, COMMANDS, str(tmp_path / "song.wav"), str(tmp_path / "out")) == []
    assert (tmp_path / "out" / "song" / "vocals.wav").is_file()
    assert (tmp_path / "out-openvino" / "song" / "vocals.wav").is_file()


@pytest.mark.parametrize("code", IMPORTED_BY_OTHERS.values(), ids=IMPORTED_BY_OTHERS)
def test_telemetry_is_off_before_the_libraries_are_loaded(tmp_path, code):
    assert left_in_home(tmp_path, code) == []

"""What is shown while something works, and where nobody can be shown anything."""

from __future__ import annotations

import io
import subprocess
import sys
from time import sleep

import pytest

from ft import progress
from ft.progress import BatchProgress, seconds_bar, share_bar

CLOSED = io.StringIO()
CLOSED.close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [None, CLOSED, io.StringIO()], ids=["none", "closed", "file"])
def test_work_goes_on_where_nobody_watches(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with seconds_bar("song.wav") as bar, share_bar("plan") as share:
        bar(1.0, 2.0)
        bar(2.0, None)
        share(0.5)
    assert stream in (None, CLOSED) or stream.getvalue() == ""


def test_a_bar_says_which_song_of_how_many_and_what_is_left_of_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    batch = BatchProgress(28)
    for _ in range(20):
        batch.begin()  # left out, as they are there
    batch.begin()
    with seconds_bar("song.wav", batch=batch) as bar:
        bar(0.0, 100.0)
        sleep(0.12)  # the bar is drawn ten times a second
        bar(50.0, 100.0)  # half a song in 30 s
        for _ in range(3):
            bar(100.0, 100.0)  # again and again while its files are encoded, 120 s in all
    batch.begin()
    assert batch.told(0.0) == "all 75%, 14:00 left"  # seven songs of 120 s
    assert "21 of 28: song.wav" in sys.stderr.getvalue() and "all 73%, 07:30 left" in sys.stderr.getvalue()


def test_a_song_alone_has_a_bar_of_its_own_only(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with seconds_bar("song.wav", batch=BatchProgress(1, number=1)) as bar:
        bar(50.0, 100.0)
    assert " of " not in sys.stderr.getvalue() and "all" not in sys.stderr.getvalue()


def test_closed_standard_streams_give_their_numbers_to_no_file(tmp_path):
    """A file opened next would be number 2, and get what C libraries print among its bytes."""
    code = (
        "import os, sys; os.close(0); os.close(2)\n"
        "from ft.cli import main\n"
        "try: main(['info', 'nowhere.onnx'])\n"
        "except SystemExit: pass\n"
        "print('number', os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT))"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "stem"], capture_output=True, text=True, check=True)
    assert int(result.stdout.split("number")[1]) > 2

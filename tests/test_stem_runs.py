"""Stem files of several runs, processes and threads with one output."""

import errno
import fcntl
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stems import ROOT, STEMS, names, noise, writer_of, written

import ft.audio.wav
import ft.songs.parts
import ft.songs.writer
from ft.audio.open import read_audio
from ft.errors import AudioError
from ft.songs.parts import part_of, remove_parts

OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stems import noise, writer_of
from ft.errors import AudioError

writer = writer_of(Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None, rate=48000)
try:
    with writer:
        print("begun", flush=True)
        sys.stdin.readline()
        writer.write({{"vocals": noise(5000, seed=2), "instrumental": noise(5000, seed=3)}})
        writer.commit()
except AudioError as error:
    print(error, flush=True)
"""


def in_threads(work: Callable[[int], None], count: int) -> None:
    """`work` of 0 to `count` - 1 at the same time; an error of one is raised."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "16"), ("wav", "float"), ("flac", "16"), ("opus", None)])
@pytest.mark.parametrize("other_first", [True, False])
def test_of_two_processes_that_write_the_same_files_one_is_told_and_one_wins(tmp_path, name, bit_depth, other_first):
    """At whatever moment the second comes: at once, or when the first has written sound."""
    folder, sound = tmp_path / "song", {"vocals": noise(5000), "instrumental": noise(5000, seed=1)}
    expected = [{"vocals": noise(5000, seed=2), "instrumental": noise(5000, seed=3)}, sound][not other_first]
    wanted = written(writer_of(tmp_path / "alone", name, bit_depth, rate=48000), expected)
    command = [sys.executable, "-c", OTHER.format(tests=str(Path(__file__).parent)), folder, name, bit_depth or ""]

    def start() -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return process, process.stdout.readline()

    line = rf"instrumental\.{name}: another run is writing it; wait for it, or choose another `output`\n?$"
    if other_first:
        process, said = start()
        assert said == "begun\n"
        before = names(folder)
        with pytest.raises(AudioError, match=line), writer_of(folder, name, bit_depth, rate=48000):
            pass
        remove_parts([folder / "vocals.x"])  # which leaves alone what is in use
        assert names(folder) == before
        process.communicate("\n", timeout=30)
    else:
        with writer_of(folder, name, bit_depth, rate=48000) as writer:
            writer.write({stem: block[:, :3000] for stem, block in sound.items()})
            process, said = start()
            assert re.search(line, said)
            process.communicate(timeout=30)
            writer.write({stem: block[:, 3000:] for stem, block in sound.items()})
            writer.commit()
    assert names(folder) == sorted(path.name for path in wanted.values())
    for path in wanted.values():
        assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "float"), ("flac", "16")])
def test_of_threads_that_write_the_same_files_one_wins_whole(tmp_path, monkeypatch, name, bit_depth):
    """All begin at once, and none ends before all have."""
    monkeypatch.setattr(ft.songs.parts, "_PAUSE", 0.001)
    folder, won, told = tmp_path / "new" / "song", [], []
    begun, tried = threading.Barrier(4), threading.Barrier(4)

    def work(seed: int) -> None:
        begun.wait(10)
        writer = writer_of(folder, name, bit_depth, stems=STEMS[:: 1 if seed % 2 else -1])
        try:
            with writer:
                tried.wait(10)
                writer.write({"vocals": noise(9000, seed=seed), "instrumental": noise(9000, seed=9 * seed)})
                writer.commit()
            won.append(seed)
        except AudioError as error:
            told.append(str(error))
            tried.wait(10)

    for turn in range(10):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(told)) == (turn + 1, 3 * (turn + 1))
        assert names(folder) == [f"instrumental.{name}", f"vocals.{name}"]
        np.testing.assert_allclose(read_audio(folder / f"vocals.{name}")[0], noise(9000, seed=won[-1]), atol=2**-15)
    assert all("another run is writing it" in line for line in told)


def test_who_fails_takes_away_nothing_of_who_came_after(tmp_path, monkeypatch):
    """A run that fails between two names removes the file it gave one, but not one that another program put there."""
    replace = Path.replace

    def fails(part, path):
        if path.name.startswith("vocals"):
            monkeypatch.undo()
            (tmp_path / "other").write_bytes(b"of another program")
            (tmp_path / "other").replace(tmp_path / "instrumental.wav")
            raise OSError(5, "Input/output error")
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(AudioError, match="Input/output"):
        written(writer_of(tmp_path), {"vocals": noise(10), "instrumental": noise(10)})
    assert names(tmp_path) == ["instrumental.wav"]
    assert (tmp_path / "instrumental.wav").read_bytes() == b"of another program"


def test_where_there_are_no_locks_songs_are_written_and_parts_of_others_stay(tmp_path, monkeypatch, caplog):
    def refuses(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuses)
    other = tmp_path / ".ft-0123456789ab.part"
    other.write_bytes(b"of a run that may be alive")
    with caplog.at_level("DEBUG", "ft"):
        written(writer_of(tmp_path), {"vocals": noise(10), "instrumental": noise(10)})
    assert names(tmp_path) == [other.name, "instrumental.wav", "vocals.wav"]
    assert other.read_bytes() == b"of a run that may be alive"
    assert "cannot be locked" in caplog.text


def test_songs_of_several_threads_do_not_take_each_others_folders(tmp_path):
    """One song after another fails beside those that are written below the same new folder."""

    def work(number: int) -> None:
        for turn in range(40):
            with writer_of(tmp_path / "out" / f"{number % 2}" / f"{number}-{turn}") as writer:
                writer.write({"vocals": noise(10), "instrumental": noise(10)})
                if number < 2:
                    writer.commit()

    in_threads(work, 4)
    assert len(list(tmp_path.rglob("*.wav"))) == 160 and not list(tmp_path.rglob("*.part"))


def test_songs_of_one_folder_do_not_take_each_others_parts_for_those_of_killed_runs(tmp_path):
    """Each that begins looks for such parts; what was just made and is not locked yet is looked at again."""

    def work(number: int) -> None:
        for turn in range(60):
            with writer_of(tmp_path, stems=(f"{number}-{turn}",), bit_depth=("16", "float")[turn % 2]) as writer:
                writer.write({f"{number}-{turn}": noise(10)})
                if turn % 3:
                    writer.commit()

    in_threads(work, 4)
    assert len(names(tmp_path)) == 4 * 40 and not list(tmp_path.glob(".ft-*"))


def test_parts_of_killed_runs_go_whatever_they_were_of(tmp_path):
    """Of other formats, copies and pictures, when a song is begun in their folder; not what only looks like one."""
    parts = [".ft-0123456789ab.part", ".ft-0123456789ab.raw.part", ".ft-cccccccccccc.raw.part", ".ft-eeeeeeeeeeee.lock"]
    others = [".ft-0123456789ab.part.wav", ".ft-0123456789.part", "x.part", ".ft-0123456789ab.other.part", ".ft-output"]
    for name in parts + others:
        (tmp_path / name).touch()
    with writer_of(tmp_path) as writer:
        own = {part_of(path, kind).name for path in writer.files.values() for kind in ("lock", "raw.part")}
        assert set(names(tmp_path)) == own | set(others)
        (tmp_path / parts[0]).touch()
        remove_parts([tmp_path / "any.wav"])
        assert not (tmp_path / parts[0]).exists()
    assert names(tmp_path) == sorted(others)
    remove_parts([tmp_path / "missing" / "a.wav"])


def test_parts_are_found_in_a_folder_that_had_none_before(tmp_path):
    """What is known of a folder is not believed once anything in it changed."""
    long_ago = time.time() - 100
    os.utime(tmp_path, (long_ago, long_ago))
    remove_parts([tmp_path / "a.wav"])
    (tmp_path / ".ft-0123456789ab.part").touch()
    remove_parts([tmp_path / "a.wav"])
    assert names(tmp_path) == []

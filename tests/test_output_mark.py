"""Marks in folders of stems: where they go, and when they go away."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ft.options import SeparateOptions
from ft.songs.inputs import STDIN, Song, find_songs
from ft.songs.jobs import read_jobs, work_of
from ft.songs.marks import MARKER, marking

STEMS = ("vocals", "instrumental")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with the songs `music/a.wav` and `music/sub/b.wav`."""
    monkeypatch.chdir(tmp_path)
    touch("music/a.wav", "music/sub/b.wav")
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*paths: str, output: str = "out", **options) -> list[Song]:
    return find_songs([Path(path) for path in paths], Path(output), STEMS, SeparateOptions(**options), "net")


def marks(*paths: str, output: str = "out", **options) -> list[set[str]]:
    return [set(map(str, song.marks)) for song in found(*paths, output=output, **options)]


def write(song: Song) -> None:
    """Does what separating a song does to the disk."""
    with marking(song):
        for file in song.files.values():
            assert any((folder / MARKER).exists() for folder in (file.parent, *file.parent.parents)) or not song.marks
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"stem")


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# -------------------------------------------------------------------------------------------------------------- where


def test_the_output_folder_is_marked_be_it_new_empty_or_full_of_other_things(here):
    assert marks("music") == [{"out"}, {"out"}]
    touch("out/readme.txt", "out/cover/a.jpg", "out/.hidden/a.wav")
    assert marks("music") == [{"out"}, {"out"}]


@pytest.mark.parametrize("paths, output", [(("music/a.wav",), "music"), (("music/sub",), "music"), (("music",), ".")])
def test_a_folder_with_inputs_is_not_marked_but_those_of_the_songs_are(here, paths, output):
    for song in found(*paths, output=output):
        assert song.marks == (song.files["vocals"].parent,)


def test_a_folder_with_other_sound_is_not_marked_since_that_would_hide_it(here):
    touch("out/mine/c.flac")
    assert marks("music/a.wav") == [{"out/a"}]
    touch("out/a/too.ogg")
    assert marks("music/a.wav") == [set()]


def test_stems_of_before_are_no_other_sound(here):
    touch("out/a/vocals.wav", "separated/x/vocals.wav", "out/old/vocals.wav", f"out/old/{MARKER}")
    assert marks("music/a.wav") == [{"out"}]
    assert marks("music/a.wav", output="separated") == [{"separated"}]


def test_a_folder_above_inputs_is_never_marked_not_even_for_another_song(here):
    touch("music/a/deep/c.wav")
    for song in found("music/a.wav", "music/a", output="music"):
        assert Path("music/a") not in song.marks
    assert marks("music/a.wav", output="music") == [set()]  # an input of another call, then


def test_all_folders_of_a_song_are_marked(here):
    assert marks("music/a.wav", output="music", name_template="{stem}/{song}.{ext}") == [
        {"music/vocals", "music/instrumental"}
    ]


def test_standard_input_is_in_no_folder(here):
    Path("music/a.wav").unlink()
    Path("music/sub/b.wav").unlink()
    assert marks("-", output=".") == [{"."}] and found("-")[0].path == STDIN


def test_a_huge_folder_is_no_output_folder(here, monkeypatch):
    monkeypatch.setattr("ft.songs.marks._ENTRIES", 3)
    touch(*(f"out/{number}.txt" for number in range(4)))
    assert marks("music/a.wav") == [{"out/a"}]


def test_links_do_not_hide_an_input(here):
    Path("link").symlink_to("music")
    assert marks("music/a.wav", output="link") == [{"link/a"}]


def test_jobs_mark_each_their_own_folder_and_none_with_an_input_of_any(here):
    jobs = [
        {"output": "out", "convert": ["music/a.wav"]},
        {"output": "music", "copy": ["music/sub/b.wav"]},
        {"output": "other", "copy": ["music/a.wav"]},
    ]
    Path("jobs.json").write_text(json.dumps(jobs))
    work = work_of(read_jobs(Path("jobs.json")), STEMS, SeparateOptions(), "net")
    assert [song.marks for song in (*work.songs, *work.copies)] == [(Path("out"),), (), (Path("other"),)]


@pytest.mark.parametrize("output", ["out", "music", "readme", "."])
def test_stems_are_not_found_as_songs_whatever_the_output_folder(here, output):
    touch("readme/readme.txt")
    songs = found("music/a.wav", "music/sub/b.wav", output=output)
    for song in songs:
        write(song)
    again = [song.path.name for song in found(".", output="elsewhere")]
    assert again == ["a.wav", "b.wav"]


def test_a_run_that_goes_on_after_a_kill_marks_the_same(here):
    for output in ("out", "music"):
        whole = found("music/a.wav", "music/sub/b.wav", output=output)
        write(whole[0])
        Path(output, "b").mkdir()
        (Path(output, "b") / ".ft-0123456789ab.raw.part").touch()
        again = found("music/a.wav", "music/sub/b.wav", output=output, skip_existing=True)
        assert [song.marks for song in again] == [song.marks for song in whole]


# --------------------------------------------------------------------------------------------------------------- when


def song_of(*folders: Path) -> Song:
    return Song(Path("a.wav"), marks=folders)


def test_the_mark_is_there_before_anything_else_and_stays(tmp_path):
    out = tmp_path / "x/out"
    with marking(song_of(out)):
        assert below(out) == {MARKER}
        (out / "vocals.wav").touch()
    assert below(out) == {MARKER, "vocals.wav"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_song_that_fails_leaves_nothing_but_folders_that_were_there(tmp_path, error):
    for there in (tmp_path, tmp_path / "x", tmp_path / "x/y/out"):
        there.mkdir(parents=True, exist_ok=True)
        before = below(tmp_path)
        with pytest.raises(error), marking(song_of(tmp_path / "x/y/out", tmp_path / "x/z")):
            raise error
        assert below(tmp_path) == before


def test_a_song_that_fails_keeps_the_mark_of_others(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/vocals.wav").touch()
    with pytest.raises(ValueError), marking(song_of(tmp_path / "out")):
        raise ValueError
    assert below(tmp_path / "out") == {MARKER, "vocals.wav"}


def test_a_mark_alone_goes_whoever_made_it_and_the_folder_stays(tmp_path):
    (tmp_path / MARKER).touch()  # of a run that was killed
    with pytest.raises(ValueError), marking(song_of(tmp_path)):
        raise ValueError
    assert below(tmp_path) == set() and tmp_path.exists()


def test_a_song_that_fails_keeps_the_mark_of_one_that_has_begun(tmp_path):
    out = tmp_path / "x/out"
    with marking(song_of(out)):
        with pytest.raises(ValueError), marking(song_of(out)):
            raise ValueError
        assert below(out) == {MARKER}
    with marking(song_of(out)):
        first, second = marking(song_of(out)), marking(song_of(out))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert below(out) == {MARKER}
    assert not (tmp_path / "x").exists()


def test_threads_agree(tmp_path):
    out, wrong = tmp_path / "x/out", list[int]()

    def work(number: int) -> None:
        for _ in range(50):
            with marking(song_of(out)):
                if not (out / MARKER).exists():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and below(tmp_path) == set()


CHILD = """
import sys
from pathlib import Path
from ft.songs.inputs import Song
from ft.songs.marks import marking
with marking(Song(Path("b.wav"), marks=(Path(sys.argv[1]),))):
    print("begun", flush=True)
    sys.stdin.readline()
"""


def test_another_process_keeps_the_mark(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        with marking(song_of(out)):
            assert child.stdout.readline() == "begun\n"
        assert below(out) == {MARKER}
        child.stdin.write("\n")
        child.stdin.flush()
        child.wait()
    assert not (out / MARKER).exists()


@pytest.mark.parametrize("out", ["file/out", "file", "x" * 300, "broken"])
def test_what_cannot_be_marked_is_no_error_here(tmp_path, out):
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere/else")
    before = below(tmp_path)
    with marking(song_of(tmp_path / "new" / ".." / out)):
        pass
    assert below(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists the open files")
def test_no_file_stays_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with marking(song_of(tmp_path / "out")):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before

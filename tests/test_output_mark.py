"""Marks in folders of stems: where they go, and when they go away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ft.options import SeparateOptions
from ft.songs.inputs import STDIN, Song, find_songs
from ft.songs.jobs import read_jobs, work_of
from ft.songs.marks import MARKER
from ft.songs.parts import Outputs, part_of

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
    songs = found(*paths, output=output, **options)
    assert all(mark.name == MARKER for song in songs for mark in song.marks)
    return [{str(mark.parent) for mark in song.marks} for song in songs]


def write(song: Song) -> None:
    """Does what separating a song does to the disk."""
    with Outputs(song.outputs, song.marks) as outputs:
        for file in song.outputs:
            part_of(file).write_bytes(b"stem")
        outputs.commit()


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
        assert song.marks == (song.files["vocals"].parent / MARKER,)


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
        assert Path("music/a") / MARKER not in song.marks
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
    assert [song.marks for song in (*work.songs, *work.copies)] == [
        (Path("out") / MARKER,),
        (),
        (Path("other") / MARKER,),
    ]


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


@contextmanager
def written(out: Path, name: str, marks: list[Path]) -> Iterator[Outputs]:
    """Stems that only lack their names."""
    with Outputs([out / name / "vocals.wav"], marks) as outputs:
        for path in outputs.paths:
            part_of(path).write_bytes(b"stem")
        yield outputs


def test_the_mark_comes_with_the_first_file_and_stays(tmp_path):
    out = tmp_path / "x/out"
    with written(out, "a", [out / MARKER]) as outputs:
        assert not (out / MARKER).exists()
        outputs.commit()
        assert (out / MARKER).exists()
    assert below(out) == {MARKER, "a", "a/vocals.wav"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_song_that_fails_leaves_nothing_but_folders_that_were_there(tmp_path, error):
    for there in (tmp_path, tmp_path / "x", tmp_path / "x/y/out"):
        there.mkdir(parents=True, exist_ok=True)
        before, out = below(tmp_path), tmp_path / "x/y/out"
        with pytest.raises(error), written(out, "a", [out / MARKER, out / "a" / MARKER]) as outputs:
            outputs.commit()
            raise error
        assert below(tmp_path) == before


def test_a_song_that_fails_keeps_the_mark_of_others(tmp_path):
    """Of one that is done, and of one that is being written and counts on the mark that it found."""
    out = tmp_path / "out"
    mark = out / MARKER
    with written(out, "b", [mark]) as other:
        with pytest.raises(ValueError), written(out, "a", [mark]) as outputs:
            outputs.commit()
            raise ValueError
        assert mark.exists()
        other.commit()
    with pytest.raises(ValueError), written(out, "a", [mark]) as outputs:
        outputs.commit()
        raise ValueError
    assert below(out) == {MARKER, "b", "b/vocals.wav"}


@pytest.mark.parametrize("out", ["file/out", "file", "x" * 300, "broken"])
def test_what_cannot_be_marked_is_no_error(tmp_path, out):
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere/else")
    with written(tmp_path, "a", [tmp_path / out / MARKER]) as outputs:
        outputs.commit()
    assert below(tmp_path) == {"file", "broken", "a", "a/vocals.wav"}

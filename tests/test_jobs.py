"""Batches in JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ft.songs.jobs
from ft.errors import AudioError, ConfigError
from ft.options import SeparateOptions
from ft.songs.jobs import Job, copy_song, read_jobs, work_of
from ft.songs.marks import MARKER
from ft.songs.parts import Outputs, part_of

STEMS = ("vocals", "instrumental")


@pytest.fixture
def batch(tmp_path):
    """Writes a file of jobs beside `a.flac`, `b.wav`, `c.mp3` and `sub/a.wav`, and gives its path."""
    for name in ("a.flac", "b.wav", "c.mp3", "sub/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def write(document) -> Path:
        path = tmp_path / "jobs.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return path

    return write


def work(batch, document, **options):
    return work_of(read_jobs(batch(document)), STEMS, SeparateOptions(**options), "net")


# ------------------------------------------------------------------------------------------------------------ reading


def test_one_object_and_a_list_of_them_are_read(batch, tmp_path):
    one = {"output": "out", "convert": ["a.flac", "sub/a.wav"], "copy": ["b.wav"]}
    job = Job(tmp_path / "out", (tmp_path / "a.flac", tmp_path / "sub/a.wav"), (tmp_path / "b.wav",))
    assert read_jobs(batch(one)) == [job]
    assert read_jobs(batch([one, {"output": "../x", "copy": ["c.mp3"]}])) == [
        job,
        Job(tmp_path / "../x", (), (tmp_path / "c.mp3",)),
    ]


def test_paths_are_relative_to_the_file_and_not_to_where_one_stands(batch, tmp_path, monkeypatch):
    path = batch({"output": "out", "convert": ["a.flac", str(tmp_path / "b.wav")]})
    (tmp_path / "-").touch()
    monkeypatch.chdir(tmp_path / "sub")
    (job,) = read_jobs(Path("../jobs.json"))
    assert job == Job(Path("../out"), (Path("../a.flac"), tmp_path / "b.wav"), ())
    monkeypatch.chdir(tmp_path)
    path.write_text(json.dumps({"output": "out", "convert": ["-"]}))
    assert read_jobs(Path("jobs.json"))[0].convert == (tmp_path / "-",)  # no standard input in a batch


def test_a_mark_of_byte_order_does_no_harm(batch):
    assert len(read_jobs(batch("\ufeff" + json.dumps({"output": "o", "copy": ["a.flac"]})))) == 1


@pytest.mark.parametrize(
    "document, said",
    [
        ("", "jobs.json: not JSON"),
        ("{", "jobs.json: not JSON"),
        ("[" * 100_000, "jobs.json: not JSON"),
        ("1" * 5000, "jobs.json: not JSON"),
        ("null", "jobs.json: null; expected an object"),
        ("[]", "jobs.json: an empty list"),
        ('["a.flac"]', r"jobs.json: \[0\]: a text; expected an object of output, convert and copy"),
        ('{"output": "a", "output": "b"}', "the key 'output' stands twice"),
        ({"convert": ["a.flac"]}, "jobs.json: the key 'output' is missing"),
        ([{"output": "o", "copy": ["a.flac"]}, {"output": "o", "Convert": []}], r"\[1\]: the key 'Convert' is unknown"),
        ({"output": 3, "copy": ["a.flac"]}, "jobs.json: output: a number; expected a path"),
        ({"output": "", "copy": ["a.flac"]}, "output: an empty text; expected a path"),
        ({"output": "o\0", "copy": ["a.flac"]}, "output: a name that no file can have"),
        ({"output": "o", "convert": "a.flac"}, "jobs.json: convert: a text; expected a list"),
        ({"output": "o", "convert": ["a.flac", None]}, r"convert\[1\]: null; expected a path"),
        ({"output": "o", "convert": ["\ud800"]}, r"convert\[0\]: a name that no file can have"),
        ({"output": "o", "convert": [], "copy": []}, "nothing to convert or copy"),
        ({"output": "o", "convert": ["sub"]}, r"convert\[0\]: .*sub is a folder"),
        ({"output": "o", "copy": ["b.wav", "nein.wav"]}, r"copy\[1\]: .*nein.wav is missing"),
        ([{"output": "o", "convert": ["x" * 300]}], r"\[0\]\.convert\[0\]: x*"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(batch, document, said):
    with pytest.raises(ConfigError, match=said) as error:
        read_jobs(batch(document))
    assert "\n" not in str(error.value) and "; expected" in str(error.value)
    assert error.value.exit_code == 2


def test_several_missing_files_are_one_line(batch):
    with pytest.raises(ConfigError, match=r"convert\[0\]: .*convert\[1\]: .*convert\[2\]: .*and 7 more; expected"):
        read_jobs(batch({"output": "o", "convert": [f"{number}.wav" for number in range(10)]}))


def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path):
    for path, said in ((tmp_path / "none.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=said):
            read_jobs(path)
    (tmp_path / "latin.json").write_bytes(b'{"output": "\xe4"}')
    with pytest.raises(ConfigError, match="not JSON"):
        read_jobs(tmp_path / "latin.json")


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["output", "convert", "copy", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_json_holds_it_is_jobs_or_an_error_of_one_line(batch, document):
    try:
        jobs = read_jobs(batch(json.dumps(document)))
    except ConfigError as error:
        assert "\n" not in str(error) and "; expected" in str(error)
    else:
        assert jobs and all(job.convert or job.copy for job in jobs)


# -------------------------------------------------------------------------------------------------------------- names


def test_files_have_the_names_of_the_original(batch, tmp_path):
    found = work(batch, {"output": "out", "convert": ["a.flac"], "copy": ["c.mp3", "b.wav"]}, images=True)
    out = tmp_path / "out"
    (song,) = found.songs
    assert song.path == tmp_path / "a.flac"
    assert song.files == {"vocals": out / "a_Vocals.wav", "instrumental": out / "a_Instruments.wav"}
    assert song.images["mask"] == out / "a_Mask.png" and song.images["vocals"] == out / "a_Vocals.png"
    assert [copy.files for copy in found.copies] == [
        {"instrumental": out / "c_Instruments.mp3"},
        {"instrumental": out / "b_Instruments.wav"},
    ]
    assert all(copy.images == {} for copy in found.copies)


def test_format_and_stem_hold_for_jobs_too(batch, tmp_path):
    (song,) = work(batch, {"output": "out", "convert": ["a.flac"]}, format="mp3", stem="vocals").songs
    assert song.files == {"vocals": tmp_path / "out/a_Vocals.mp3"}


def test_any_stems_have_names_as_the_original_would_give_them(batch, tmp_path):
    jobs = read_jobs(batch({"output": "out", "convert": ["a.flac"]}))
    (song,) = work_of(jobs, ("drums", "bass", "vocals", "no_vocals"), SeparateOptions(images=True), "net").songs
    assert [file.name for file in song.files.values()] == [
        f"a_{title}.wav" for title in ("Drums", "Bass", "Vocals", "No_vocals")
    ]
    assert [file.name for file in song.images.values()][:2] == ["a_Mask.png", "a_Drums.png"]


def test_a_template_of_ones_own_has_its_own_names(batch, tmp_path):
    document = {"output": "out", "convert": ["a.flac"], "copy": ["c.mp3"]}
    found = work(batch, document, name_template="{model}/{song}.{stem}.{ext}")
    assert found.songs[0].files["vocals"] == tmp_path / "out/net/a.vocals.wav"
    assert found.copies[0].files == {"instrumental": tmp_path / "out/net/c.instrumental.mp3"}
    found = work(batch, document, name_template="{song}.{stem}.wav")
    assert found.copies[0].files == {"instrumental": tmp_path / "out/c.instrumental.wav.mp3"}


def test_a_copy_without_a_suffix_stays_without(batch, tmp_path):
    (tmp_path / "plain").touch()
    (copy,) = work(batch, {"output": "out", "copy": ["plain"]}).copies
    assert copy.files == {"instrumental": tmp_path / "out/plain_Instruments"}


@pytest.mark.parametrize(
    "document",
    [
        {"output": "o", "convert": ["a.flac", "sub/a.wav"]},
        {"output": "o", "convert": ["a.flac"], "copy": ["sub/a.wav"]},
        [{"output": "o", "convert": ["a.flac"]}, {"output": "x/../o", "convert": ["sub/a.wav"]}],
    ],
)
def test_two_inputs_of_one_name_fail_also_across_jobs(batch, document):
    done = work(batch, document)
    both = [*done.songs, *done.copies]
    assert len(both) == 2 and all("and so would" in str(song.error) and not song.files for song in both)


def test_jobs_of_different_folders_do_not_collide_and_doubles_count_once(batch):
    job = {"convert": ["a.flac", "a.flac"], "copy": ["b.wav"]}
    found = work(batch, [{"output": "o", **job}, {"output": "p", **job}, {"output": "p", **job}])
    assert (len(found.songs), len(found.copies)) == (2, 2)


def test_a_copy_never_replaces_an_input(batch, tmp_path):
    (tmp_path / "b_Instruments.wav").touch()
    found = work(batch, {"output": ".", "convert": ["b_Instruments.wav"], "copy": ["b.wav"]})
    assert "would replace the input" in str(found.copies[0].error) and found.songs[0].error is None
    with pytest.raises(AudioError, match="would replace the input"):
        copy_song(found.copies[0], SeparateOptions(force=True))


# ------------------------------------------------------------------------------------------------------------ copying


@pytest.fixture
def copy_of(batch, example, tmp_path):
    """The work of copying the example's instrumental."""
    (tmp_path / "a.flac").write_bytes((example / "instrumental.flac").read_bytes())

    def make(output="out/deep"):
        return work(batch, {"output": output, "copy": ["a.flac"]}).copies[0]

    return make


def below(folder: Path) -> list[str]:
    """All that is there but marks of folders with stems."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name != MARKER)


def test_a_copy_is_the_same_byte_by_byte(copy_of, example, tmp_path):
    record = copy_song(copy_of(), SeparateOptions())
    target = tmp_path / "out/deep/a_Instruments.flac"
    assert target.read_bytes() == (example / "instrumental.flac").read_bytes()
    assert record.status == "copied" and record.files == {"instrumental": target}
    assert below(tmp_path / "out") == ["deep", "deep/a_Instruments.flac"]


def test_a_copy_follows_the_rules_of_what_is_there(copy_of, tmp_path):
    song = copy_of()
    copy_song(song, SeparateOptions())
    target = song.files["instrumental"]
    target.write_bytes(b"other")
    with pytest.raises(AudioError, match="is there already"):
        copy_song(song, SeparateOptions())
    left = part_of(target)
    left.write_bytes(b"half of a copy that was killed")
    assert copy_song(song, SeparateOptions(skip_existing=True)).status == "skipped" and target.read_bytes() == b"other"
    assert not left.exists()
    assert copy_song(song, SeparateOptions(force=True)).status == "copied"
    assert target.read_bytes() == song.path.read_bytes()


def test_a_copy_that_fails_leaves_nothing(copy_of, tmp_path, monkeypatch):
    song, before = copy_of(), below(tmp_path)
    song.path.unlink()
    with pytest.raises(AudioError, match=r"a\.flac: cannot be copied to .*: No such file or directory"):
        copy_song(song, SeparateOptions())
    assert below(tmp_path) == [name for name in before if name != "a.flac"]
    song.path.write_bytes(b"sound")
    (tmp_path / "out").write_bytes(b"a file in place of the folder")
    with pytest.raises(AudioError, match=r"deep: cannot write there: (File exists|Not a directory)"):
        copy_song(song, SeparateOptions())
    (tmp_path / "out").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AudioError, match="cannot write: No space left on device") as error:
        copy_song(song, SeparateOptions())
    assert not re.search(r"\.part", str(error.value)) and below(tmp_path) == before


def test_a_failed_copy_keeps_what_was_there(copy_of, monkeypatch):
    song = copy_of()
    copy_song(song, SeparateOptions())
    target = song.files["instrumental"]
    song.path.unlink()
    with pytest.raises(AudioError):
        copy_song(song, SeparateOptions(force=True))
    assert target.stat().st_size > 0 and below(target.parent) == [target.name]


def test_a_copy_that_another_run_is_writing_is_left_to_it(copy_of, monkeypatch):
    """Begun while the other copies, it is refused; what the other ended while this one began is skipped."""
    song, copyfile = copy_of(), shutil.copyfile
    refused = []

    def copies_while_another_tries(source, part):
        copyfile(source, part)
        with pytest.raises(AudioError) as error:
            copy_song(song, SeparateOptions(force=True))
        refused.append(str(error.value))

    monkeypatch.setattr(shutil, "copyfile", copies_while_another_tries)
    target = song.files["instrumental"]
    assert copy_song(song, SeparateOptions()).status == "copied"
    assert refused == [f"{target}: another run is writing it; wait for it, or choose another `output`"]
    assert target.read_bytes() == song.path.read_bytes() and below(target.parent) == [target.name]
    target.unlink()

    def other_run_ends(paths, marks):
        target.write_bytes(b"of the other run")
        return Outputs(paths, marks)

    monkeypatch.setattr(ft.songs.jobs, "Outputs", other_run_ends)
    assert copy_song(song, SeparateOptions(skip_existing=True)).status == "skipped"
    assert target.read_bytes() == b"of the other run" and below(target.parent) == [target.name]

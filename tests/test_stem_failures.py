"""Stem files: that nothing is left half done, whatever ends a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stems import KINDS, ROOT, STEMS, WholeWriter, names, noise, writer_of, written

import ft.audio.wav
import ft.songs.parts
import ft.songs.writer
from ft.audio.encode import StemPart
from ft.audio.formats import stem_format
from ft.audio.source import AudioInfo
from ft.audio.tags import Tags
from ft.errors import AudioError, Cancelled
from ft.options import SeparateOptions
from ft.songs.parts import part_of, remove_parts


def test_parts_grow_beside_the_final_place_and_names_come_at_the_end(tmp_path):
    folder = tmp_path / "song"
    block = noise(100_000)
    for bit_depth, kind in (("16", "raw.part"), ("float", "part")):
        with writer_of(folder, bit_depth=bit_depth) as writer:
            files = writer.files.values()
            parts = sorted(part_of(path, each).name for path in files for each in ("lock", kind))
            sizes = []
            for _ in range(3):
                writer.write({"vocals": block, "instrumental": block})
                assert [name for name in names(folder) if name not in ("vocals.wav", "instrumental.wav")] == parts
                sizes.append(part_of(folder / "vocals.wav", kind).stat().st_size)
            assert sizes == sorted(sizes) and sizes[0] < sizes[2]
            writer.commit()
        assert names(folder) == ["instrumental.wav", "vocals.wav"]


def test_what_was_there_before_stays_until_the_new_is_whole(tmp_path):
    (tmp_path / "vocals.wav").write_text("old")
    with pytest.raises(ValueError), writer_of(tmp_path) as writer:
        writer.write({"vocals": noise(10), "instrumental": noise(10)})
        raise ValueError
    assert names(tmp_path) == ["vocals.wav"]
    assert (tmp_path / "vocals.wav").read_text() == "old"


@pytest.mark.parametrize(("owner", "method"), [(StemPart, "encode"), (StemPart, "check"), (Path, "replace")])
def test_a_failure_in_one_stem_leaves_neither(tmp_path, monkeypatch, owner, method):
    works, calls = getattr(owner, method), []

    def fails_for_the_second(first, *others):
        calls.append(first)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return works(first, *others)

    monkeypatch.setattr(owner, method, fails_for_the_second)
    with pytest.raises(AudioError, match=r"(vocals|instrumental)\.wav: cannot write: No space left on device"):
        written(writer_of(tmp_path / "song"), {"vocals": noise(10), "instrumental": noise(10)})
    assert list(tmp_path.iterdir()) == [] and len(calls) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
@pytest.mark.parametrize("failing", STEMS)
def test_encoders_of_other_stems_stop_when_one_fails(tmp_path, monkeypatch, error, failing):
    """Not at their ends: that may be minutes away."""
    encode, stopped = ft.songs.writer.StemPart.encode, []

    def fails(part, gain):
        if part.path.name.startswith(failing):
            raise error
        try:
            encode(part, gain)
        except Cancelled as cancelled:
            stopped.append(cancelled)
            raise

    monkeypatch.setattr(ft.songs.writer.StemPart, "encode", fails)
    block = noise(2_000_000)
    with writer_of(tmp_path / "song", "mp3", None, 2, 48000) as writer:
        writer.write({"vocals": block, "instrumental": block})
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else AudioError):
            writer.commit()
    assert len(stopped) == 1
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stems import noise, writer_of, written
import ft.songs.writer
from ft.errors import FtError
from ft.songs.writer import StemPart
from ft.audio.tags import Cover, Tags, write_tags

folder, name, depth, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
encode = StemPart.encode
limits = []

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

def limited_encode(part, gain):
    if limits:
        limit(limits[0])
    encode(part, gain)
    if not limits:
        limit(part.part.stat().st_size + 5000)

StemPart.encode = limited_encode
cover = Cover(b"\\xff\\xd8\\xff" + bytes(200_000), "image/jpeg")
for first, limits, tags in (
    (40_000, [40_000], None),  # the raw part
    (hard, [4000], None),  # what an encoder writes as it goes
    (hard, [size - 700], None),  # or when it is closed, of which libsndfile is silent
    (hard, [size - 1], None),
    (hard, [], Tags({{"TITLE": ("x",)}}, cover)),
):
    try:
        limit(limits[0] if limits and depth == "float" else first)  # which has no encoder
        writer = writer_of(folder / "new", name, None if depth == "None" else depth, 2, 48000, ("vocals",), tags=tags)
        written(writer, {{"vocals": noise(60_000)}})
        sys.stderr.write("no error\\n")
    except FtError as error:
        sys.stderr.write(f"ft: {{error}}\\n")
"""


REFUSED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stems import noise, writer_of, written
import ft.audio.encode
from ft.errors import AudioError

ft.audio.encode.require_room = lambda part: None  # as where another process made room just then
encode, (_, hard) = ft.audio.encode.StemPart.encode, resource.getrlimit(resource.RLIMIT_FSIZE)

def limited(part, gain):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    encode(part, gain)

ft.audio.encode.StemPart.encode = limited
for name in ("flac", "ogg", "opus", "mp3"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        writer = writer_of(Path(sys.argv[1]) / "new", name, None, 2, 48000)
        written(writer, {{"vocals": noise(60_000), "instrumental": noise(60_000)}})
    except AudioError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
def test_what_the_system_says_is_told_where_libsndfile_does_not(tmp_path):
    script = REFUSED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and all(line.endswith(": cannot write: File too large") for line in lines)
    assert done.stderr == "" and names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
def test_a_disk_that_fills_up_leaves_one_line_and_nothing_else(tmp_path, name, bit_depth):
    """Wherever it does, tags included; never a traceback of a callback, nor a word of a decoder given half a file."""
    files = written(writer_of(tmp_path / "a", name, bit_depth, 2, 48000, ("v",)), {"v": noise(60_000)})
    script = LIMITED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-W", "error", "-c", script, tmp_path, name, bit_depth, files["v"].stat().st_size]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    expected = f"ft: {tmp_path / 'new' / 'vocals'}.{name}: cannot write: File too large\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", 5 * expected)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["flac", "ogg", "opus", "mp3"])
def test_a_file_that_an_encoder_left_incomplete_never_gets_its_name(tmp_path, monkeypatch, name):
    """Whatever the reason may be: 400 bytes are missing at the end."""
    encode = ft.songs.writer.StemPart.encode

    def forgets(part, gain):
        encode(part, gain)
        os.truncate(part.part, part.part.stat().st_size - 400)

    monkeypatch.setattr(ft.songs.writer.StemPart, "encode", forgets)
    with pytest.raises(AudioError, match=r"vocals\.\w+: (not whole after writing|cannot write)"):
        written(writer_of(tmp_path / "song", name, None, 2, 48000, ("vocals",)), {"vocals": noise(60_000)})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(AudioError, match=r"song: cannot write there: Not a directory"),
        writer_of(tmp_path / "file" / "song"),
    ):
        pass
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_place_of_a_file_is_named_before_anything_is_made(tmp_path):
    (tmp_path / "instrumental.wav").mkdir()
    with (
        pytest.raises(AudioError, match=r"instrumental\.wav: is a folder; expected to write a file"),
        writer_of(tmp_path),
    ):
        pass
    assert names(tmp_path) == ["instrumental.wav"]


def test_names_may_be_as_long_as_the_file_system_allows_and_not_longer(tmp_path):
    format = stem_format(SeparateOptions(), AudioInfo(Path("a"), 8000, 1, 1, "16"))
    longest = tmp_path / "song" / ("ä" * 125 + "b.wav")
    assert len(os.fsencode(longest.name)) == 255
    written(WholeWriter({"vocals": longest}, 1, 8000, format), {"vocals": noise(10, 1)})
    assert names(tmp_path / "song") == [longest.name]
    too_long = tmp_path / "new" / f"b{longest.name}"
    with pytest.raises(AudioError, match=r"bä+b\.wav: cannot write: File name too long"):
        written(WholeWriter({"vocals": too_long}, 1, 8000, format), {"vocals": noise(10, 1)})
    with pytest.raises(AudioError, match=r"File name too long"):
        written(WholeWriter({"vocals": tmp_path / "new" / ("c" * 256) / "v.wav"}, 1, 8000, format), {})
    assert names(tmp_path) == ["song"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
def test_names_that_are_no_text_are_written(tmp_path, name, bit_depth):
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    writer = writer_of(folder, name, bit_depth, rate=48000, tags=Tags({"TITLE": ("x",)}))
    files = written(writer, {"vocals": noise(5000), "instrumental": noise(5000)})
    assert names(folder) == sorted(path.name for path in files.values()) and writer.warnings == []


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stems import noise, writer_of, written
import ft.songs.writer
from ft.audio.tags import Tags

def killing(work):
    def killed(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return work(*arguments)
    return killed

steps = [(ft.songs.writer, "write_tags"), (Path, "replace"), (ft.songs.parts, "sync_file")]
for method in ("open", "write", "finish", "encode", "check", "remove_raw"):
    steps.append((ft.songs.writer.StemPart, method))
for owner, method in steps:
    setattr(owner, method, killing(getattr(owner, method)))
tags = Tags({{"TITLE": ("x",)}})
for left in range(100):
    process = os.fork()
    if process == 0:
        stems = {{"vocals": noise(5000), "instrumental": noise(5000, seed=1)}}
        writer = writer_of(Path(sys.argv[1]) / str(left), sys.argv[2], sys.argv[3], rate=48000, tags=tags)
        written(writer, stems, 2500)
        os._exit(0)
    if os.waitpid(process, 0)[1] == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are killed are forks of one")
@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "float"), ("flac", "16")])
def test_a_run_that_is_killed_at_any_moment_leaves_whole_files_and_parts_that_are_found(tmp_path, name, bit_depth):
    script = KILLED.format(tests=str(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", script, str(tmp_path), name, bit_depth], check=True, cwd=ROOT)
    *killed, whole = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    files = [whole / f"{stem}.{name}" for stem in STEMS]
    assert names(whole) == sorted(path.name for path in files)
    before, between = set(), 0
    for folder in killed:
        before |= set(names(folder))
        remove_parts([folder / path.name for path in files])
        left = names(folder)
        between += len(left) == 1
        for found in left:
            assert (folder / found).read_bytes() == (whole / found).read_bytes()
    assert len(killed) > 15 and between == 1 and any(part.endswith(".part") for part in before)

"""Places where files are written that cannot sync, lock or rename as a disk does: network shares, FUSE, VirtualBox."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest
from stems import STEMS, names, noise, writer_of, written

from ft.errors import AudioError
from ft.files import atomic_write
from ft.separate import Separator
from ft.songs import separate_file
from ft.songs.parts import Outputs, part_of

SOUND = {"vocals": noise(10), "instrumental": noise(10, seed=1)}


def refuse_sync(monkeypatch, code: int, of_folders: bool, after: int = 0) -> None:
    """Makes the sync of folders, or else of files, fail with this error from a number of calls on."""
    sync, calls = os.fsync, []

    def refuses(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            calls.append(descriptor)
            if len(calls) > after:
                raise OSError(code, os.strerror(code))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuses)


@pytest.mark.parametrize(
    ("of_folders", "code"),
    [(True, errno.EINVAL), (True, errno.ENOTSUP), (True, errno.EIO), (False, errno.EINVAL), (False, errno.ENOSYS)],
)
@pytest.mark.parametrize("after", [0, 1])
def test_songs_are_written_where_files_or_folders_cannot_be_synced(tmp_path, monkeypatch, of_folders, code, after):
    refuse_sync(monkeypatch, code, of_folders, after)
    written(writer_of(tmp_path / "song"), SOUND)
    assert names(tmp_path / "song") == ["instrumental.wav", "vocals.wav"]
    with atomic_write(tmp_path / "report.json") as part:
        part.write_text("{}")
    assert names(tmp_path) == ["report.json", "song"]


def test_a_folder_that_may_be_written_and_not_read_takes_files(tmp_path, monkeypatch):
    opens = os.open

    def refuses(path, flags, *mode):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return opens(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuses)
    written(writer_of(tmp_path / "song"), SOUND)
    assert names(tmp_path / "song") == ["instrumental.wav", "vocals.wav"]


@pytest.mark.parametrize("after", range(2))
def test_bytes_that_do_not_reach_the_disk_leave_no_stem(tmp_path, monkeypatch, after):
    refuse_sync(monkeypatch, errno.EIO, of_folders=False, after=after)
    with pytest.raises(AudioError, match="Input/output error"):
        written(writer_of(tmp_path / "song"), SOUND)
    assert list(tmp_path.iterdir()) == []


def test_songs_are_written_where_open_files_cannot_be_renamed(tmp_path, monkeypatch):
    replace, renamed = Path.replace, []

    def refuses_open(part, path):
        assert not any(os.path.samestat(part.stat(), status) for status in open_files())
        renamed.append(path)
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", refuses_open)
    written(writer_of(tmp_path / "song"), SOUND)
    assert names(tmp_path / "song") == ["instrumental.wav", "vocals.wav"] and len(renamed) == 2


def open_files() -> list[os.stat_result]:
    """Of the descriptors of this process."""
    found = []
    for descriptor in range(256):
        try:
            found.append(os.fstat(descriptor))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("failing", STEMS)
def test_a_name_that_cannot_be_given_takes_the_stems_before_it_away(tmp_path, monkeypatch, failing):
    replace = Path.replace

    def fails(part, path):
        if path.name.startswith(failing):
            raise PermissionError(errno.EACCES, "Permission denied")
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(AudioError, match=rf"{failing}\.wav: cannot write: Permission denied"):
        written(writer_of(tmp_path / "song"), SOUND)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_cannot_be_placed_takes_the_stems_away(tmp_path, monkeypatch, example, tiny_onnx):
    replace, placed = Path.replace, []

    def fails(part, path):
        if path.name == "vocals.png":
            raise OSError(errno.EIO, "Input/output error")
        placed.append(path)
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", fails)
    with (
        Separator(tiny_onnx, images=True, duration=1.0) as separator,
        pytest.raises(AudioError, match=r"\.png: cannot"),
    ):
        separate_file(separator, example / "mixture.flac", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [] and placed


def test_a_claim_locks_no_byte_of_the_sound(tmp_path):
    """On SMB shares nobody reads or writes what is locked, the owner's other descriptors neither."""
    path = tmp_path / "a.wav"
    with Outputs([path]):
        with part_of(path).open("w+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where another owner holds it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(AudioError, match="another run is writing it"), Outputs([path]):
            pass
    assert list(tmp_path.iterdir()) == []

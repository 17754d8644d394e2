"""`ft data check`: what is wrong with a library is found and named, and what is right is left alone."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner, Result

from ft.cli import main
from ft.config import ModelConfig
from ft.data.check import Root, check_library, find_tracks, role_of, roots_of_config, split_of
from ft.data.check_measure import measure
from ft.data.check_screen import FLOOR_DB, excerpts_of, vocals_level
from ft.errors import AudioError, DataError, EngineError
from ft.train_config import Source, TrainConfig

RATE = 44100


@pytest.fixture(scope="module")
def library(example, tmp_path_factory) -> Path:
    """A library in small, of two halves of the example, with one of everything that can be wrong."""
    root = tmp_path_factory.mktemp("library")
    song = {}
    for stem in ("mixture", "vocals", "instrumental"):
        song[stem], _ = soundfile.read(example / f"{stem}.flac", dtype="float32")
    half = len(song["mixture"]) // 2
    short = 8 * RATE

    def write(name: str, samples: np.ndarray, **settings) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, settings.pop("rate", RATE), **settings)

    write("train/pairs/one/mixture.flac", song["mixture"][:short])
    write("train/pairs/one/instrumental.flac", song["instrumental"][:short])
    write("train/vocals/alto.wav", song["vocals"][:short].mean(axis=1))
    write("train/instrumentals/loud.wav", np.clip(song["instrumental"][:short] * 8, -1, 1))
    write("train/instrumentals/silent.wav", np.zeros((RATE, 2)))
    write("train/instrumentals/left.wav", song["instrumental"][half : half + 500_000] * [1, 0], subtype="FLOAT")
    write("validation/instrumentals/copy.ogg", song["instrumental"][half : half + 400_000] * 0.5)
    (root / "train/instrumentals/broken.flac").write_bytes(b"fLaC and no more")
    write("train/stems/one/drums.wav", song["instrumental"][: 2 * RATE])
    for stem in ("vocals", "bass"):
        write(f"train/stems/one/{stem}.wav", np.zeros((RATE, 2)))
    write("train/stems/silence/vocals.wav", np.zeros((RATE, 2)))
    (root / "train/notes.txt").write_text("not audio")
    return root


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", "check", "--jobs", "1", *map(str, arguments)])


def run(*arguments: object) -> tuple[int, str]:
    result = invoke(*arguments)
    return result.exit_code, result.stdout


@pytest.fixture(scope="module")
def found(library) -> dict:
    code, output = run(library, "--json")
    assert code == 1
    return json.loads(output)


def of(found: dict, name: str) -> dict:
    (file,) = (file for file in found["files"] if file["path"].endswith(name))
    return file


def test_files_are_measured(found, library):
    assert len(found["files"]) == 12 and found["failed"]
    left = of(found, "left.wav")
    waveform, _ = soundfile.read(library / "train/instrumentals/left.wav")
    assert left["seconds"] == pytest.approx(len(waveform) / RATE, abs=1e-3)
    assert left["sample_rate"] == RATE and left["channels"] == "one silent"
    assert left["peak_db"] == pytest.approx(20 * np.log10(np.abs(waveform).max()), abs=0.01)
    assert left["rms_db"] == pytest.approx(10 * np.log10(np.mean(waveform**2)), abs=0.01)
    assert of(found, "alto.wav")["channels"] == "mono" and of(found, "mixture.flac")["channels"] == "stereo"
    assert of(found, "loud.wav")["clipped"] > 0.05 and of(found, "mixture.flac")["clipped"] == 0
    assert of(found, "silent.wav")["silent"] == 1 and of(found, "silent.wav")["peak_db"] is None
    assert [Path(path).parent.name for path in found["silent"]] == ["instrumentals", "silence"]
    assert found["silent_stems"] == [str(library / f"train/stems/one/{stem}.wav") for stem in ("bass", "vocals")]
    seconds = sum(file.get("seconds", 0) for file in found["files"])
    assert found["seconds"] == pytest.approx(seconds, abs=1e-2)


def test_what_cannot_be_read_is_named(found, library):
    (broken,) = found["unreadable"]
    assert broken.endswith("broken.flac") and "broken.flac" in found["unreadable"][broken]
    assert found["ignored"] == []


def test_a_recording_in_two_splits_is_a_leak(found):
    (leak,) = (each for each in found["shared"] if each["leaks"])
    assert Path(leak["first"]).name == "left.wav" and Path(leak["second"]).name == "copy.ogg"
    assert sorted(leak["splits"]) == ["train", "validation"] and leak["share"] > 0.2


def test_recordings_within_a_split_are_remarks(found):
    """`loud` is the instrumental of the song, whose own files are meant to share what they hold."""
    pairs = {frozenset((Path(each["first"]).name, Path(each["second"]).name)) for each in found["shared"]}
    assert frozenset(("instrumental.flac", "loud.wav")) in pairs
    assert frozenset(("mixture.flac", "loud.wav")) in pairs
    assert frozenset(("instrumental.flac", "mixture.flac")) not in pairs


def test_text_names_all_of_it(library):
    code, text = run(library)
    assert code == 1
    for line in (
        "cannot be read: 1",
        "the same recording in two splits: 1",
        "silent from beginning to end: 2",
        "silent stems of songs that have others, which is no fault: 2",
        "one channel is silent: 1",
        "clipping in more than 1% of the time: 1",
        "one recording several times in a split: ",
        "times real time",
    ):
        assert line in text
    assert "vocals in more" not in text  # nobody listened


def test_exclude_file_lists_what_to_leave_out(library, tmp_path):
    file = tmp_path / "exclude.yaml"
    assert run(library, "--exclude-file", file)[0] == 1
    lists = yaml.safe_load(file.read_text())
    folders = {"instrumentals": ["broken", "left", "silent"], "stems/silence": ["vocals"]}  # of a leak what trains
    assert lists == {str(library / "train" / folder): names for folder, names in folders.items()}


def test_a_song_in_which_nobody_sings_passes(library):
    assert run(library / "train/stems/one")[0] == 0
    assert run(library / "train/stems/silence")[0] == 1


def test_a_good_library_passes(library, tmp_path):
    file = tmp_path / "exclude.yaml"
    code, text = run(library / "train/pairs", "--exclude-file", file)
    assert code == 0 and "cannot be read" not in text
    assert yaml.safe_load(file.read_text()) == {}


def test_splits_can_be_said(library):
    code, output = run("--train", library / "train/pairs", "--validation", library / "train/pairs", "--json")
    found = json.loads(output)
    assert code == 1 and len(found["files"]) == 4
    assert {(Path(each["first"]).name, each["leaks"]) for each in found["shared"] if each["share"] == 1} == {
        ("mixture.flac", True),
        ("instrumental.flac", True),
    }


def test_config_says_folders_splits_and_roles(library, tmp_path):
    config = tmp_path / "run.yaml"
    valid = {"songs": [str(library / "validation/instrumentals")]}
    train = {"instrumentals": [str(library / "train/vocals")], "pairs": [str(library / "train/pairs")]}
    config.write_text(yaml.safe_dump({"train": {**train, "validation": valid}}))
    found = json.loads(run("--config", config, "--json")[1])
    said = {Path(file["path"]).name: (file["split"], file["role"]) for file in found["files"]}
    assert said == {
        "alto.wav": ("train", "instrumental"),
        "mixture.flac": ("train", "mixture"),
        "instrumental.flac": ("train", "instrumental"),
        "copy.ogg": ("validation", "instrumental"),
    }


def test_config_says_stems_and_patches(write_constant, tmp_path):
    """Of a folder of songs each source has its own files; patches are named and no mistake."""
    for stem in ("mixture", "vocals", "drums", "bass"):
        write_constant(f"musdb/one/{stem}.wav", 0.1, -0.1)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/a_p0.npz").write_bytes(b"not looked at")
    musdb, config = str(tmp_path / "musdb"), tmp_path / "run.yaml"
    instrumentals = [{"folder": musdb, "stems": ["drums", "bass"]}, str(tmp_path / "cut")]
    config.write_text(
        yaml.safe_dump({"train": {"instrumentals": instrumentals, "vocals": [{"folder": musdb, "stems": ["vocals"]}]}})
    )
    found = json.loads(run("--config", config, "--json")[1])
    assert {Path(file["path"]).stem: file["role"] for file in found["files"]} == {
        "drums": "instrumental",
        "bass": "instrumental",
        "vocals": "vocals",
    }
    assert found["patches"] == {str(tmp_path / "cut"): 1}
    code, text = run(tmp_path / "cut")
    assert code == 0 and "folders of patches, not checked: 1" in text


def test_processes_find_the_same(library, found):
    parts = [library / "train/pairs", library / "train/vocals"]
    report = check_library([Root(part, "train") for part in parts], jobs=2)
    levels = {file["path"]: file["rms_db"] for file in found["files"] if Path(file["path"]).is_relative_to(parts[0])}
    assert len(levels) == 2 and len(report.measures) == 3
    for path, level in levels.items():
        assert 20 * np.log10(report.measures[Path(path)].rms) == pytest.approx(level, abs=0.01)


class Hearing:
    """Stands for a model that takes a given share of each sample for vocals: nothing, until a second, then a part."""

    config, model = ModelConfig(), "hearing"

    def __init__(self, part: float, rate: int) -> None:
        self.part, self.first, self.seen = part, rate, 0

    def levels(self, blocks, rate):
        assert sum(block.shape[1] for block in blocks)
        return (None,)

    def stream(self, blocks, rate, levels):
        for block in blocks:
            here = np.arange(self.seen, self.seen + block.shape[1]) >= self.first
            self.seen += block.shape[1]
            vocals = block * np.where(here, self.part, 0).astype(np.float32)
            yield {"vocals": vocals, "instrumental": block - vocals}


@pytest.mark.parametrize(("share", "level"), [(0.1, -19.0), (0.7, -19.0), (0.8, FLOOR_DB)])
def test_level_that_vocals_exceed_in_a_share_of_the_time(share, level, write_constant):
    """They are there from the first second of four on."""
    path = write_constant("loud.wav", 0.5, -0.5, samples=4 * 8000, rate=8000)
    hearing = Hearing(10 ** (-19 / 20), 8000)
    assert vocals_level(hearing, path, 4.0, None, share) == pytest.approx(level, abs=1e-4)
    quiet = write_constant("quiet.wav", 1e-4, 1e-4, samples=4 * 8000, rate=8000)
    assert vocals_level(Hearing(1.0, 0), quiet, 4.0, None, share) == FLOOR_DB
    assert vocals_level(Hearing(1.0, 0), path, 4.0, 2.0, share) == pytest.approx(0)


def test_music_without_vocals_says_what_the_model_takes_for_them(tmp_path, write_constant, monkeypatch):
    """Nothing that is as loud in known music is suspected; what is louder is."""
    for name, left in (("clean/a.wav", 0.3), ("clean/b.wav", 0.5), ("music/c.wav", 0.4), ("music/d.wav", 0.6)):
        write_constant(name, left, left, samples=8000, rate=8000)
    monkeypatch.setattr("ft.separate.Separator", lambda model: nullcontext(Loudness()))
    folders, options = (tmp_path / "clean", tmp_path / "music"), ("--screen", "--json")
    without = json.loads(run(*folders, *options)[1])
    assert without["vocals_db"] == -20 and len(without["suspected"]) == 4
    code, output = run(*folders, *options, "--clean", tmp_path / "clean")
    found = json.loads(output)
    assert code == 1 and list(found["suspected"]) == [str(tmp_path / "music/d.wav")]
    assert found["vocals_db"] == pytest.approx(20 * np.log10(0.5), abs=0.01)
    assert of(found, "b.wav")["vocals_db"] == found["vocals_db"]
    (tmp_path / "other").mkdir()
    result = invoke(*folders, *options, "--clean", tmp_path / "other")
    assert result.exit_code == 1 and "other: none of the instrumentals that are checked" in result.stderr
    assert invoke(folders[0], "--clean", folders[0]).exit_code == 2


class Loudness:
    """Stands for a model that takes loud music for vocals: as large a part of it as its first sample is."""

    config, model = ModelConfig(), "loudness"

    def levels(self, blocks, rate):
        return (None,)

    def stream(self, blocks, rate, levels):
        for block in blocks:
            yield {"vocals": block * block[0, 0], "instrumental": block * (1 - block[0, 0])}


def test_a_model_listens_to_instrumentals(library, tmp_path, monkeypatch):
    """Every window counts above a level that nothing falls below, and none above one that nothing reaches."""
    file = tmp_path / "exclude.yaml"
    folders = (library / "train/pairs", library / "train/vocals")
    options = ("--screen", "--sample", "4", "--vocals-db", "-200", "--exclude-file", file, "--json")
    code, output = run(*folders, *options)
    found = json.loads(output)
    assert code == 1 and [Path(path).name for path in found["suspected"]] == ["instrumental.flac"]
    assert found["screened_seconds"] == pytest.approx(4) and found["screen_wall_seconds"] > 0
    assert -60 < of(found, "instrumental.flac")["vocals_db"] < 0
    assert "vocals_db" not in of(found, "alto.wav") and "vocals_db" not in of(found, "mixture.flac")
    assert yaml.safe_load(file.read_text()) == {str(library / "train/pairs/one"): ["instrumental"]}
    monkeypatch.setattr("ft.separate.Separator", lambda model: nullcontext(Hearing(1.0, 0)))
    code, text = run(*folders, "--screen", "--sample", "4", "--vocals-db", "20")
    assert code == 0 and "listened to 0.00 h of 1 instrumentals" in text
    monkeypatch.setattr(Hearing, "config", ModelConfig(stems=("drums",), rest="no_drums"))
    result = invoke(folders[0], "--screen")
    assert result.exit_code == 1 and "hearing: gives drums, no_drums, expected vocals" in result.stderr


def test_wrong_folders_are_named(library, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        find_tracks([Root(tmp_path / "nowhere")])
    with pytest.raises(DataError, match="no audio files"):
        find_tracks([Root(tmp_path)])
    result = invoke()
    assert result.exit_code == 2 and "no folder" in result.stderr


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("mixtures/a.wav", "mixture"), ("x/vocals.wav", "vocals"), ("x/drums.wav", "instrumental"),
        ("x/Song_(Vocals).wav", "vocals"), ("voice/music/no_vocals.wav", "instrumental"),
        ("voice/alto/a.wav", "vocals"), ("vocals/instrumentals/a.wav", "instrumental"),
    ],
)  # fmt: skip
def test_names_say_what_a_file_is(path, role):
    assert role_of(Path(path)) == role
    assert split_of(Path("a/train/b/validation") / path) == "validation" and split_of(Path(path)) == ""


def test_folders_of_each_stem_are_known_by_it(tmp_path):
    stems = {"drums": (Source(str(tmp_path / "a")),), "vocals": (Source(str(tmp_path / "b"), stems=("x",)),)}
    roots = roots_of_config(TrainConfig(stems=stems, pairs=(Source(str(tmp_path / "c")),)))
    expected = [("a", "instrumental", ()), ("b", "vocals", ("x",)), ("c", None, ())]
    assert [(root.path.name, root.role, root.stems) for root in roots] == expected


def test_excerpts_lie_within_the_file():
    for seconds, sample in ((61.0, 60.0), (600.0, 60.0), (7.0, 5.0), (1000.0, 3.0)):
        excerpts = excerpts_of(seconds, sample)
        assert sum(length for _, length in excerpts) == pytest.approx(sample)
        ends = [0.0, *(time for start, length in excerpts for time in (start, start + length)), seconds]
        assert ends == sorted(ends)


def test_measuring_takes_the_same_memory_for_any_length(write_constant):
    import tracemalloc

    peaks = []
    for minutes in (1, 2):
        path = write_constant(f"{minutes}.wav", 0.1, 0.1, samples=minutes * 60 * 8000, rate=8000)
        tracemalloc.start()
        found = measure(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.seconds == minutes * 60 and found.channels == "equal"
    assert peaks[1] < 1.3 * peaks[0] + 1e6


def test_samples_that_are_not_numbers_make_a_file_unreadable(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full((100, 2), np.nan), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        measure(tmp_path / "nan.wav")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of any bytes")
def test_a_name_that_is_no_text_is_checked_and_listed(tmp_path, write_constant):
    silent = write_constant("lib/plain.wav", 0.0, 0.0, samples=44100)
    silent.rename(os.fsdecode(os.fsencode(tmp_path) + b"/lib/caf\xe9.wav"))
    code, text = run(tmp_path / "lib", "--exclude-file", tmp_path / "exclude.yaml")
    assert code == 1 and "silent from beginning to end: 1" in text
    (names,) = yaml.safe_load((tmp_path / "exclude.yaml").read_text()).values()
    assert names == ["caf\udce9"]


def test_a_folder_that_is_named_twice_is_checked_once(tmp_path, write_constant):
    write_constant("lib/music/a.wav", 0.5, 0.25, samples=44100)
    report = find_tracks([Root(tmp_path / "lib"), Root(tmp_path / "lib/music", "train")])
    assert [track.split for track in report.tracks] == ["train"]


@pytest.mark.parametrize("flag", ["-m", "--model", "--engine", "--exclude-file"])
def test_what_cannot_be_opened_or_written_is_named_before_anything_is_read(library, flag):
    is_list = flag == "--exclude-file"
    path, wrong = ("loud.wav/list.yaml", "cannot be written") if is_list else ("typo.onnx", "no such file")
    result = invoke(library, flag, library / "train/instrumentals" / path)
    assert result.exit_code == 1 and f"{path}: {wrong}" in result.stderr and not result.stdout


def test_what_was_read_is_reported_where_the_model_fails(library, monkeypatch):
    def broken(model):
        raise EngineError("the model broke")

    monkeypatch.setattr("ft.separate.Separator", broken)
    result = invoke(library / "train/vocals", "--screen")
    assert result.exit_code == 1 and "the model broke" in result.stderr and "read 0.00 h" in result.stdout

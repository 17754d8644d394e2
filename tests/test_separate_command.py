"""`ft separate` as a process: pipes, JSON, exit codes, and what a kill leaves."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from ft.checkpoint import load_config, load_model, save_checkpoint
from ft.cli import main
from ft.separate import Separator
from ft.songs import separate_files
from ft.songs.marks import MARKER

RATE = 22050
STEMS = ("vocals", "instrumental")


@pytest.fixture(scope="session")
def short(tiny_onnx):
    """The start of every command here: a real network and short segments."""
    segments = ["--segment-seconds", "1", "--context-seconds", "0.1", "--threads", "1"]
    return [sys.executable, "-m", "ft", "separate", "--engine", str(tiny_onnx), *segments]


@pytest.fixture
def songs(example, tmp_path):
    """A folder of songs cut from the example, one of them in a folder below."""
    mixture, rate = soundfile.read(example / "mixture.flac", dtype="int16", always_2d=True)
    assert rate == 2 * RATE
    folder = tmp_path / "music"
    for number, name in enumerate(["one.wav", "two.flac", "album/three.wav", "album/vier und fünf.flac"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, mixture[number * RATE : (number + 6) * RATE], rate)
    return folder


def run(command, **settings):
    return subprocess.run([str(word) for word in command], capture_output=True, timeout=120, check=False, **settings)


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def records_of(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_folder_keeps_its_structure_and_json_has_a_record_for_each(short, songs, tmp_path):
    result = run([*short, "--json", "-q", songs, "-o", tmp_path / "out"])
    assert (result.returncode, result.stderr) == (0, b"")
    *records, summary = records_of(result.stdout)
    names = {Path(record["input"]).relative_to(songs).as_posix() for record in records}
    assert names == {"one.wav", "two.flac", "album/three.wav", "album/vier und fünf.flac"}
    for record in records:
        assert record["status"] == "done" and record["error"] is None and record["gain"] == 1
        assert record["audio_seconds"] == pytest.approx(3.0) and record["wall_seconds"] > 0
        assert record["x_realtime"] == pytest.approx(record["audio_seconds"] / record["wall_seconds"], rel=0.05)
        assert (record["engine"], record["device"], record["precision"]) == ("onnxruntime", "cpu", "fp32")
        parent = Path(record["input"]).relative_to(songs).with_suffix("")
        assert Path(record["files"]["vocals"]) == tmp_path / "out" / parent / "vocals.wav"
        assert all(Path(file).is_file() for file in record["files"].values())
    assert summary["done"] == 4 and summary["failed"] == 0 and summary["failures"] == []
    assert summary["audio_seconds"] == pytest.approx(12.0)


def test_a_failure_is_one_line_and_the_others_go_on(short, songs, tmp_path):
    (songs / "broken.wav").write_bytes(b"RIFF no sound")
    result = run([*short, "--json", "-q", songs, tmp_path / "nowhere.wav", "-o", tmp_path / "out"])
    assert result.returncode == 1
    *records, summary = records_of(result.stdout)
    failed = {Path(record["input"]).name: record for record in records if record["status"] == "failed"}
    assert set(failed) == {"broken.wav", "nowhere.wav"} and len(records) == 6
    lines = result.stderr.decode().splitlines()
    for name, record in failed.items():
        assert record["files"] == {} and name in record["error"]
        assert lines.count(f"ft: {record['error']}") == 1
    assert [entry["error"] for entry in summary["failures"]] == [record["error"] for record in failed.values()]
    assert b"Traceback" not in result.stderr
    assert not (tmp_path / "out" / "broken").exists()
    assert len(files_below(tmp_path / "out")) == 8 + 1  # and the mark of an output folder


def test_what_is_there_is_a_failure_unless_something_else_is_said(short, songs, tmp_path):
    command = [*short, "-q", "--json", songs / "one.wav", "-o", tmp_path / "out"]
    assert run(command).returncode == 0
    vocals = tmp_path / "out/one/vocals.wav"
    whole = vocals.read_bytes()
    again = run(command)
    assert again.returncode == 1
    assert str(vocals) in again.stderr.decode() and "force" in again.stderr.decode()
    skipped = run([*command, "--skip-existing"])
    assert skipped.returncode == 0 and records_of(skipped.stdout)[0]["status"] == "skipped"
    vocals.unlink()  # a song of which one file is missing is done again
    assert records_of(run([*command, "--skip-existing"]).stdout)[0]["status"] == "done"
    assert vocals.read_bytes() == whole
    vocals.write_bytes(b"")
    assert run([*command, "--force"]).returncode == 0 and vocals.read_bytes() == whole


def test_killed_at_any_moment_and_started_again_ends_with_the_same_files(short, songs, tmp_path):
    command = [*short, "-q", songs, "--format", "flac"]
    begin = time.perf_counter()
    assert run([*command, "-o", tmp_path / "whole"]).returncode == 0
    seconds = time.perf_counter() - begin
    expected = files_below(tmp_path / "whole")
    chance = random.Random(1)
    again = [str(word) for word in [*command, "--skip-existing", "-o", tmp_path / "killed"]]
    for _ in range(6):
        process = subprocess.Popen(again, stdout=subprocess.DEVNULL)
        time.sleep(seconds * chance.uniform(0.5, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in files_below(tmp_path / "killed"):
            if name in expected:
                assert (tmp_path / "killed" / name).read_bytes() == expected[name]  # no name before it is whole
    assert run(again).returncode == 0
    found = files_below(tmp_path / "killed")
    assert {name: found[name] for name in expected} == expected
    assert not [name for name in found if ".part" in name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_is_130_and_leaves_whole_songs_only(short, songs, tmp_path, number):
    long = np.tile(soundfile.read(songs / "one.wav", dtype="int16")[0], (100, 1))
    soundfile.write(songs / "zzz.wav", long, 2 * RATE)
    process = subprocess.Popen(
        [str(word) for word in [*short, "--json", songs, "-o", tmp_path / "out"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # whoever runs the tests may ignore it
    )
    for _ in range(4):
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["status"] == "done"
    deadline = time.monotonic() + 30
    while not list((tmp_path / "out" / "zzz").glob(".*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    *_, said, counts = errors.decode().splitlines()
    assert said == "ft: interrupted" and b"Traceback" not in errors
    assert counts.startswith("ft: 5 inputs: 4 done, 1 left; ")
    assert json.loads(output.splitlines()[-1])["interrupted"] is True
    assert not (tmp_path / "out" / "zzz").exists()
    assert not [name for name in files_below(tmp_path / "out") if ".part" in name]


def test_a_pipe_gives_its_first_sound_after_one_segment_and_json_on_stderr(short, songs):
    samples, _ = soundfile.read(songs / "one.wav", dtype="float32")
    raw = ["--raw", "f32le", "--rate", "44100", "--channels", "2"]
    command = [*short, "-q", "--json", "-", "--stem", "instrumental", "-o", "-", *raw]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, bufsize=0, **pipes)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(samples[: int(1.2 * 44100)].tobytes())  # one segment, the frame behind it, the resampler
    process.stdin.flush()
    first = b""
    while len(first) < 8 * 20_000:  # comes while the input is still open
        first += process.stdout.read(8 * 20_000 - len(first))
    rest, errors = process.communicate(samples[int(1.2 * 44100) :].tobytes(), timeout=60)
    assert len(first) + len(rest) == samples.nbytes
    record, summary = records_of(errors)
    assert process.returncode == 0
    assert record["input"] == "-" and record["audio_seconds"] == pytest.approx(3.0) and summary["done"] == 1


def test_clipped_samples_of_a_pipe_are_counted(short, songs, tmp_path):
    square = np.where(np.arange(3 * RATE) % 100 < 50, 1.2, -1.2).astype("<f4")
    raw = ["--raw", "f32le", "--rate", "22050", "--channels", "1"]
    command = [*short, "--json", "-", "--stem", "instrumental", "-o", tmp_path / "out", "--bit-depth", "float", *raw]
    assert run(command, input=square.tobytes()).returncode == 0
    stem, _ = soundfile.read(tmp_path / "out/stdin/instrumental.wav", dtype="float32")
    soundfile.write(tmp_path / "loud.wav", square, RATE, subtype="FLOAT")
    command = [*short, "-q", "--json", tmp_path / "loud.wav", "--stem", "instrumental", "-o", "-", "--bit-depth", "16"]
    result = run(command)
    warning = next(line for line in result.stderr.decode().splitlines() if line.startswith("ft: "))
    clipped = json.loads(result.stderr.splitlines()[-2])["clipped"]
    assert clipped == np.count_nonzero(np.abs(stem) > 1) > 0
    assert f" {clipped} samples" in warning


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-", "-o", "-"], "--stem"),
        (["-", "song.wav"], "alone"),
        (["song.wav", "-o", "-", "--stem", "vocals", "--format", "flac"], "--format flac"),
        (["song.wav", "--raw", "f32le"], "--raw"),
        (["-", "--raw", "f32le"], "--rate"),
        (["-", "--raw", "f32le", "--rate", "8000"], "--channels"),
        (["-", "--track", "2"], "--track"),
        (["song.wav", "--raw-output", "f32le"], "-o -"),
        (["song.wav", "-o", "-", "--stem", "vocals", "--force"], "--force"),
        (["song.wav", "-o", "-", "--stem", "vocals", "--raw", "f32le", "--bit-depth", "16"], "--bit-depth"),
        (["song.wav", "--ensemble-by", "median"], "--ensemble"),
        (["song.wav", "--device", "gpu"], "--device gpu"),
        (["song.wav", "--segment-seconds", "1e9"], "--segment-seconds"),
        (["song.wav", "--overlap", "0.9"], "overlap: 0.9, expected 0 to 0.5"),
        (["song.wav", "--segment-seconds", "nan"], "--segment-seconds"),
        (["song.wav", "--threads", "100000000"], "--threads"),
        (["song.wav", "--format", "flac", "--bit-depth", "float"], "float"),
        (["song.wav", "--stem", "drums"], "vocals, instrumental"),
        (["song.wav", "--skip-existing", "--force"], "--force"),
        (["song.wav", "--name-template", "{song}.{ext}"], "{stem}"),
        ([], "no input"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments, text):
    result = CliRunner().invoke(main, ["separate", *arguments])
    assert result.exit_code == 2
    assert text in result.stderr and result.stderr.count("ft: ") == 1


def odd_sounds(rate: int) -> dict[str, np.ndarray]:
    time = np.arange(3 * rate) / rate
    return {
        "silence": np.zeros((3 * rate, 2)),
        "one-sample": np.full((1, 2), 0.5),
        "dc": np.full((3 * rate, 2), 0.7),
        "square": np.where(np.sin(2 * np.pi * 220 * time) >= 0, 1.0, -1.0)[:, None].repeat(2, 1),
        "rumble": (0.9 * np.sin(2 * np.pi * time))[:, None],
        "click": np.eye(1, 3 * rate, rate).T,
        "black": np.zeros((60 * 8000, 1)),
    }


@pytest.mark.parametrize("scale", ["window-peak", "track-peak"])
def test_odd_sounds_are_not_bad_ones(tiny_checkpoint, tmp_path, scale):
    sounds = odd_sounds(44100)
    for name, sound in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, 8000 if name == "black" else 44100, subtype="FLOAT")
    config = load_config(tiny_checkpoint)
    scaled = replace(config, front=replace(config.front, scale=scale))
    save_checkpoint(tmp_path / "model.safetensors", load_model(tiny_checkpoint).state_dict(), scaled)
    with Separator(tmp_path / "model.safetensors") as separator:
        records = list(separate_files(separator, [tmp_path / f"{name}.wav" for name in sounds], tmp_path / "out"))
    assert [(record.status, record.error) for record in records] == [("done", None)] * len(sounds)
    for name, sound in sounds.items():
        stems = [soundfile.read(tmp_path / "out" / name / f"{stem}.wav", always_2d=True)[0] for stem in STEMS]
        assert stems[0].shape == stems[1].shape == sound.shape
        np.testing.assert_allclose(stems[0] + stems[1], sound, atol=1e-6)


def test_a_pipe_gives_the_samples_of_the_file_and_each_side_may_be_bare(short, songs, tmp_path):
    wav = (songs / "one.wav").read_bytes()
    samples, _ = soundfile.read(songs / "one.wav", dtype="int16")
    pipe = [*short, "-q", "-", "--stem", "vocals", "-o", "-"]
    bare = ["--raw", "s16le", "--rate", "44100", "--channels", "2"]
    assert run([*short, "-q", songs / "one.wav", "--stem", "vocals", "-o", tmp_path / "out"]).returncode == 0
    expected, _ = soundfile.read(tmp_path / "out/one/vocals.wav", dtype="int16")
    piped, rate = soundfile.read(io.BytesIO(run(pipe, input=wav).stdout), dtype="int16")
    np.testing.assert_array_equal(piped, expected)
    assert rate == 2 * RATE and len(expected) == len(samples)
    from_wav = run([*pipe, "--raw", "s16le"], input=wav)
    assert from_wav.stdout == expected.tobytes() and from_wav.stderr == b""
    to_wav = run([*pipe, *bare, "--raw-output", "wav", "--bit-depth", "16"], input=samples.tobytes())
    np.testing.assert_array_equal(soundfile.read(io.BytesIO(to_wav.stdout), dtype="int16")[0], expected)
    wrong = run([*pipe, *bare], input=wav)  # its header would be heard as a click
    assert (wrong.returncode, wrong.stdout) == (1, b"") and b"header of a WAV file" in wrong.stderr


def test_songs_are_done_though_nobody_takes_the_results(short, songs, tmp_path):
    with Path("/dev/full").open("wb") as full:
        command = [str(word) for word in [*short, "-q", songs, "-o", tmp_path / "out"]]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr.decode().splitlines() == [
        "ft: stdout: cannot be written (No space left on device); the songs are done without it"
    ]
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 8


def test_a_closed_stdin_is_one_line(short, tmp_path):
    command = " ".join([*short, "-q", "-", "-o", str(tmp_path / "out"), "<&-"])
    result = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (1, b"ft: -: standard input is closed; expected a pipe or a file\n")


@pytest.fixture
def invoke(tiny_onnx):
    """Runs the command in this process, with the same network."""
    segments = ["--engine", tiny_onnx, "--segment-seconds", 1, "--context-seconds", 0.1]
    return lambda *words: CliRunner().invoke(main, ["separate", *map(str, (*segments, *words))])


def test_json_has_its_records_though_nothing_could_begin(songs, invoke):
    result = invoke("--json", songs / "one.wav", songs / "two.flac", "--engine", "nowhere.onnx")
    assert result.exit_code == 1
    *records, summary = records_of(result.stdout.encode())
    assert [(Path(record["input"]).name, record["status"]) for record in records] == [
        ("one.wav", "failed"),
        ("two.flac", "failed"),
    ]
    assert summary["failed"] == 2 and result.stderr.count("\n") == 1 and "nowhere.onnx: no such file" in result.stderr


def test_names_with_line_breaks_stay_in_one_line_and_json_has_them_as_they_are(songs, invoke, tmp_path):
    loud, rate = soundfile.read(songs / "one.wav")
    path = tmp_path / "two\nlines \x1b[31m.wav"
    soundfile.write(path, np.clip(loud * 20, -1, 1), rate)
    result = invoke("--json", path, "-o", tmp_path / "out")
    assert result.exit_code == 0
    record, _ = records_of(result.stdout.encode())
    assert record["input"] == str(path) and Path(record["files"]["vocals"]).is_file()
    assert record["gain"] < 1 and len(record["warnings"]) == 1
    assert all(line.startswith("ft: ") for line in result.stderr.splitlines()) and "\x1b" not in result.stderr


def test_what_opus_cannot_hold_is_said_once(songs, invoke, tmp_path):
    result = invoke("-q", songs, "-o", tmp_path / "out", "--format", "opus", "--stem", "vocals")
    assert result.exit_code == 0
    assert len([line for line in result.stderr.splitlines() if "44100 Hz" in line and "48000 Hz" in line]) == 1
    files = list((tmp_path / "out").rglob("vocals.opus"))
    assert len(files) == 4 and {soundfile.info(file).samplerate for file in files} == {48000}


def test_a_part_of_a_song_with_pictures_by_an_ensemble(songs, invoke, tiny_onnx, tmp_path):
    words = ("--start", 1, "--duration", 1.5, "--tta", "--postprocess", "--images", "--bit-depth", "24")
    result = invoke("-q", songs / "two.flac", "-o", tmp_path / "out", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    info = soundfile.info(tmp_path / "out/two/vocals.wav")
    assert info.subtype == "PCM_24" and info.frames == 66150
    names = {path.name for path in (tmp_path / "out/two").iterdir()}
    assert names == {"vocals.wav", "instrumental.wav", "mask.png", "vocals.png", "instrumental.png"}
    models = ["--ensemble", tiny_onnx, "--ensemble", tiny_onnx, "--ensemble-by", "median"]
    out = ["-o", tmp_path / "both", "--segment-seconds", 1, "--context-seconds", 0.1]
    result = CliRunner().invoke(main, [str(word) for word in ["separate", songs / "one.wav", *models, *out]])
    assert result.exit_code == 0, result.stderr
    assert invoke(songs / "one.wav", "-o", tmp_path / "alone").exit_code == 0
    both, alone = (soundfile.read(tmp_path / name / "one/vocals.wav")[0] for name in ("both", "alone"))
    np.testing.assert_allclose(both, alone, atol=2**-15)


def test_jobs_separate_and_copy_under_the_names_of_the_original(songs, invoke, tmp_path):
    jobs = [{"output": "done", "convert": ["music/one.wav"], "copy": ["music/two.flac"]}]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    result = invoke("--jobs-file", tmp_path / "jobs.json", "--json")
    assert result.exit_code == 0, result.stderr
    assert [record["status"] for record in records_of(result.stdout.encode())[:-1]] == ["done", "copied"]
    names = {path.name for path in (tmp_path / "done").glob("[!.]*")}
    assert names == {"one_Vocals.wav", "one_Instruments.wav", "two_Instruments.flac"}
    assert (tmp_path / "done/two_Instruments.flac").read_bytes() == (songs / "two.flac").read_bytes()
    assert (tmp_path / "done" / MARKER).is_file()  # so that no search takes them for songs
    assert invoke("--jobs-file", tmp_path / "jobs.json", "-o", tmp_path / "elsewhere").exit_code == 2


def test_stems_of_another_song_are_not_taken_for_those_of_this_one(songs, invoke, tmp_path):
    out = ["-o", tmp_path / "out"]
    assert invoke(songs / "one.wav", "--duration", 1, *out).exit_code == 0
    result = invoke("-q", songs / "one.wav", "--skip-existing", *out)
    assert result.exit_code == 1
    assert "one/vocals.wav is there and lasts 1.0 s, not 3.0 s; " in result.stderr
    assert invoke(songs / "one.wav", "--duration", 1, "--skip-existing", *out).exit_code == 0


def test_an_empty_path_is_no_folder_to_search(invoke):
    for words in (("",), ("song.wav", "-o", "")):
        result = invoke(*words)
        assert result.exit_code == 2 and "an empty path" in result.stderr


def test_a_second_ctrl_c_does_not_break_off_the_cleaning_up(short, songs, tmp_path):
    mixture, rate = soundfile.read(songs / "one.wav", dtype="int16")
    soundfile.write(tmp_path / "long.wav", np.tile(mixture, (100, 1)), rate)
    process = subprocess.Popen(
        [str(word) for word in [*short, "-q", tmp_path / "long.wav", "-o", tmp_path / "out"]],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not list((tmp_path / "out").rglob(".ft-*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(4):
        process.send_signal(signal.SIGINT)
        time.sleep(0.03)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"ft: interrupted\n")
    assert not (tmp_path / "out").exists()


def test_stderr_that_is_closed_stops_no_song(short, songs, tmp_path):
    command = " ".join([*short, "--json", str(songs / "one.wav"), "-o", str(tmp_path / "out"), "2>&-"])
    result = subprocess.run(command, shell=True, capture_output=True, timeout=60, check=False)
    assert result.returncode == 0 and records_of(result.stdout)[0]["status"] == "done"


def test_an_input_that_may_not_be_read_is_one_line_among_others(songs, invoke, tmp_path, monkeypatch):
    opens, locked = open, str(songs / "two.flac")

    def refuse(path, *arguments, **settings):
        if str(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *arguments, **settings)

    monkeypatch.setattr(io, "open", refuse)  # whoever runs the tests may be allowed everything
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != locked)
    result = invoke("--json", songs / "two.flac", songs / "one.wav", "-o", tmp_path / "out")
    assert result.exit_code == 1
    *records, summary = records_of(result.stdout.encode())
    assert [record["status"] for record in records] == ["failed", "done"] and summary["done"] == 1
    assert "two.flac: cannot be read (Permission denied)" in records[0]["error"]


def test_names_that_are_no_utf8_come_back_out_of_json(songs, invoke, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    (tmp_path / name).write_bytes((songs / "one.wav").read_bytes())
    result = invoke("--json", tmp_path / name, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    record, _ = records_of(result.stdout.encode())
    assert Path(record["input"]) == tmp_path / name and Path(record["files"]["vocals"]).is_file()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--overwrite", "--force"),
        ("--output_format", "--format"),
        ("--single_stem", "--stem"),
        ("--skip-existin", "--skip-"),
    ],
)
def test_a_flag_of_another_tool_is_answered_with_ours(invoke, wrong, right):
    result = invoke(wrong, "x.wav")
    assert result.exit_code == 2 and f"No such option '{wrong}'. Did you mean '{right}" in result.stderr


def test_values_have_no_case_and_the_model_has_the_names_of_the_field(songs, invoke, tmp_path, tiny_onnx):
    words = ("--stem", "Vocals", "--format", "FLAC", "--device", "CPU", "--runtime", "OnnxRuntime")
    for flag in ("-m", "--model"):
        result = invoke(flag, tiny_onnx, songs / "one.wav", "-o", tmp_path / flag, *words)
        assert result.exit_code == 0, result.stderr
        assert [path.name for path in (tmp_path / flag / "one").iterdir()] == ["vocals.flac"]

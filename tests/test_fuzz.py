"""A slice of what `python -m tests.fuzz` runs by the thousand, and that it would see what it looks for."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import soundfile
from fuzz.audio_cases import AudioCampaign
from fuzz.campaign import run_campaign
from fuzz.cases import MEMORY, Case
from fuzz.judge_streams import judge_listing, judge_pipe
from fuzz.material import audio_files, model_files
from fuzz.model_cases import DEEP, ModelCampaign
from fuzz.pipe_cases import PipeCampaign
from stubs import StubEngine, all_ones

from ft.audio.open import open_source
from ft.checkpoint import CONFIG_KEY, load_config, load_model, read_header, read_metadata
from ft.errors import AudioError, CheckpointError
from ft.info import describe_model
from ft.onnx_metadata import append_onnx_metadata
from ft.separate import Separator


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return audio_files(tmp_path_factory.mktemp("audio"))


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_checkpoint, tiny_onnx):
    return model_files(tmp_path_factory.mktemp("models"), tiny_checkpoint, tiny_onnx)


def test_damaged_audio_gives_stems_or_one_line(audio, tiny_onnx):
    report = run_campaign(AudioCampaign(audio, tiny_onnx), range(304), workers=2)
    assert not report.findings, json.dumps(report.findings[0], indent=1)
    assert report.cases == 304


@pytest.mark.long
def test_damaged_models_give_stems_or_one_line(models, audio):
    report = run_campaign(ModelCampaign(models, audio["wav"][0]), range(100), workers=2)
    assert not report.findings, json.dumps(report.findings[0], indent=1)
    assert report.cases == 100


def test_damaged_sounds_through_pipes_give_a_stem_or_one_line(audio, tiny_onnx):
    report = run_campaign(PipeCampaign(audio, tiny_onnx), range(48), workers=2)
    assert not report.findings, json.dumps(report.findings[0], indent=1)
    assert report.cases == 48


class Program:
    """A campaign of one case: `code` in place of `ft`."""

    together, seconds = 1, 1.0

    def __init__(self, code: str, must: str = "", codes: tuple[int, ...] = (0, 1)) -> None:
        self.code, self.must, self.codes = code, must, codes

    def case(self, seed: int) -> Case:
        return Case(seed, "wav", (), "song.wav", {"song.wav": b""}, self.must)

    def job(self, cases, folder):
        out = folder / "out"
        out.mkdir()
        promised = [{"name": "song.wav", "path": "", "must": self.must, "files": [str(out / "vocals.wav")]}]
        keys = {"inputs": promised, "output": str(out), "folder": str(folder), "codes": list(self.codes)}
        return {"arguments": [], "program": self.code, "memory": MEMORY, "open": 40, **keys}


FAILS = "import sys, os; sys.stderr.write('ft: song.wav: is empty\\n'); "


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise ValueError('x')", "not caught: ValueError"),
        ("pass", "exit code 0 with 1 of 1 inputs without files"),
        ("raise SystemExit(1)", "exit code 1 without a line"),
        (FAILS + "os.write(2, b'mpg123: oh no\\n'); sys.exit(1)", "on stderr: mpg123"),
        (FAILS + "open('out/vocals.wav', 'w').write('x'); sys.exit(0)", "vocals.wav cannot be read"),
        (FAILS + "open('out/vocals.wav.part', 'w'); sys.exit(1)", "left behind: vocals.wav.part"),
        (FAILS + "sys.exit(3)", "exit code 3"),
        (FAILS * 2 + "sys.exit(1)", "2 lines on stderr for one input"),
        ("import os; os.abort()", "died: SIGABRT"),
        ("import time; time.sleep(9)", "did not end within"),
        ("bytearray(1 << 33)", "not caught: MemoryError"),
    ],
)
def test_what_must_not_be_is_seen(code, problem):
    """The first run of a worker has more time and memory, so each program is run a second time."""
    campaign = Program(FAILS + "sys.exit(1)")
    original = campaign.job

    def job(cases, folder):
        campaign.code = code if cases[0].seed else FAILS + "sys.exit(1)"
        return original(cases, folder)

    campaign.job = job
    report = run_campaign(campaign, range(2))
    assert [finding["seeds"] for finding in report.findings] == [[1]]
    assert any(problem in found for found in report.findings[0]["problems"]), report.findings


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"audio_seconds": 0.6}, "0.6 s"),
        ({"files": {}}, "names other files"),
        ({"status": "failed", "error": "song.wav: is empty", "files": {}}, "not the line on stderr"),
        ({"input": "else.wav"}, "not one line for each input"),
        ({"error": float("nan")}, "NaN is no JSON"),
        ({"done": 0, "failed": 1}, "the summary has {'inputs': 1, 'done': 0"),
        ({"failures": [{"input": "song.wav", "error": "x"}]}, "other failures"),
    ],
)
def test_a_report_that_does_not_agree_is_seen(tmp_path, change, problem):
    file = tmp_path / "vocals.wav"
    soundfile.write(file, np.zeros(4000), 8000)
    song = {"type": "song", "input": "song.wav", "status": "done", "files": {"vocals": str(file)}, "error": None}
    song |= {"audio_seconds": 0.5, "wall_seconds": 1.0, "x_realtime": 0.5, "warnings": []}
    summary = {"type": "summary", "inputs": 1, "done": 1, "failed": 0, "skipped": 0, "copied": 0, "left": 0}
    summary |= {"interrupted": False, "failures": []}
    lines = [{key: change.get(key, value) for key, value in record.items()} for record in (song, summary)]
    job = {"arguments": ["--json"], "inputs": [{"path": "song.wav", "files": [str(file)]}]}
    result = {"code": 0, "stdout": "".join(json.dumps(line) + "\n" for line in lines), "stderr": ""}
    found = list(judge_listing(job, result))
    assert any(problem in each for each in found) if problem else not found, found


@pytest.mark.parametrize(
    ("raw", "written", "problem"),
    [(None, 4000, ""), (None, 3999, "a stem of"), ("s16le", 4000, ""), ("s16le", 3999, "bytes of bare samples")],
)
def test_a_stem_in_a_pipe_that_lacks_something_is_seen(tmp_path, raw, written, problem):
    kind = "WAV" if raw is None else "RAW"
    song = tmp_path / ("song.wav" if raw is None else "song.raw")
    for path, samples in ((song, 4000), (tmp_path / "stdout", written)):
        soundfile.write(path, np.full(samples, 0.1), 8000, format=kind, subtype="PCM_16")
    job = {"inputs": [{"name": "-", "path": str(song), "must": "done"}], "folder": str(tmp_path), "pipe": {"raw": raw}}
    found = list(judge_pipe(job, {"code": 0, "error": ""}))
    assert any(problem in each for each in found) if problem else not found, found


def safetensors(header: object, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 7,
        safetensors({}, 99_000_000),
        safetensors({}, 1 << 63),
        safetensors(DEEP.encode()),
        safetensors([]),
        safetensors({"__metadata__": []}),
        safetensors({"__metadata__": {CONFIG_KEY: 7}}),
        safetensors({"weight": {"dtype": {}, "shape": [1]}}),
        safetensors({"weight": {"dtype": "F32", "shape": ["x"]}}),
    ],
    ids=range(9),
)
def test_a_checkpoint_that_is_none_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no safetensors file"):
        read_header(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"front": {"n_fft": 1 << 31}}, "n_fft: 2147483648, expected an even number of at most"),
        ({"sample_rate": 10**30}, "sample_rate: .* expected 1000 to 768000"),
        ({"front": {"hop_length": "\x1b[2J" * 2000}}, r"hop_length: '.x1b\[2J"),
    ],
)
def test_a_configuration_that_asks_for_too_much_is_refused(tmp_path, tiny_onnx, changes, text):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    config = json.loads(read_metadata(path)[CONFIG_KEY])
    config |= changes | {"front": config["front"] | changes.get("front", {})}
    append_onnx_metadata(path, {CONFIG_KEY: json.dumps(config)})
    with pytest.raises(CheckpointError, match=text) as caught:
        load_config(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value"), [("ft_weights", DEEP), ("ft_weights", "7"), ("ft_gate", "{"), ("ft_parameters", "x")]
)
def test_other_damaged_metadata_is_refused_where_it_is_read(tmp_path, tiny_onnx, key, value):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    append_onnx_metadata(path, {key: value})
    with pytest.raises(CheckpointError, match=rf"model\.onnx: .*{key}"):
        load_model(path) if key == "ft_weights" else describe_model(path)


@pytest.mark.parametrize("value", [1e30, -3e38])
def test_samples_that_would_overflow_are_refused_as_what_they_are(tmp_path, value):
    samples = np.zeros((1000, 2), np.float32)
    samples[441, 1] = value
    path = tmp_path / "song.wav"
    soundfile.write(path, samples, 44100, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"song\.wav: values beyond 1e\+15 after 0\.0 s"), open_source(path) as source:
        list(source.blocks())
    with pytest.raises(AudioError, match="values beyond"), Separator(StubEngine(all_ones)) as separator:
        separator.separate(samples.T, 44100)

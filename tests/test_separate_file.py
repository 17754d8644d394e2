"""From files to files, in Python and on the command line."""

import re
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from stubs import StubEngine, each_frame_alone, noise, stub_config

import engines
import ft.separate.separator
import ft.songs.run
from ft.audio.open import read_audio
from ft.audio.source import AudioSource
from ft.cli import main
from ft.config import Segment
from ft.errors import AudioError, Cancelled, ConfigError
from ft.options import SeparateOptions
from ft.separate import Separator
from ft.songs import separate_file, separate_files

RATE = 8000
SHORT = {"segment_seconds": 0.5, "context_seconds": 0.05, "overlap": 0.1}


@pytest.fixture
def song(tmp_path):
    """Writes a song and gives its path."""

    def write(name="song.wav", waveform=None, rate=RATE, subtype="PCM_16"):
        path = tmp_path / name
        soundfile.write(path, (noise(9000) if waveform is None else waveform).T, rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def separator():
    return Separator(StubEngine(each_frame_alone), **SHORT)


@pytest.fixture
def command(monkeypatch):
    """Runs `ft separate` with a stub in place of every model."""
    monkeypatch.setattr(ft.separate.separator, "load_engine", lambda *_, **__: StubEngine(each_frame_alone))
    for module in (ft.separate.separator, engines):
        monkeypatch.setattr(module, "read_config", lambda model: stub_config())
    return lambda *arguments: CliRunner().invoke(main, ["separate", *map(str, arguments)])


@pytest.mark.parametrize("rate", [RATE, 11025, 44100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_stems_have_the_form_of_the_input_and_sum_to_it(song, separator, tmp_path, rate, channels, subtype):
    path = song(waveform=noise(20_001, channels), rate=rate, subtype=subtype)
    result = separate_file(separator, path, tmp_path / "out")
    assert result.files == {stem: tmp_path / "out" / "song" / f"{stem}.wav" for stem in ("vocals", "instrumental")}
    total = 0
    for file in result.files.values():
        info = soundfile.info(file)
        assert (info.samplerate, info.channels, info.frames, info.subtype) == (rate, channels, 20_001, subtype)
        total = total + read_audio(file)[0]
    np.testing.assert_allclose(total, read_audio(path)[0], atol=1e-4)
    assert result.audio_seconds == pytest.approx(20_001 / rate) and result.gain == 1 and result.warnings == ()
    assert result.x_realtime > 0


def test_a_file_gives_what_its_array_gives(song, separator, tmp_path):
    path = song(waveform=noise(100_000), subtype="FLOAT")
    files = separate_file(separator, path, tmp_path / "out").files
    stems = separator.separate(read_audio(path)[0], RATE)
    for stem, file in files.items():
        np.testing.assert_allclose(read_audio(file)[0], stems[stem], atol=1e-5)


def test_a_first_pass_finds_the_peak_of_the_song(song, tmp_path):
    waveform = noise(200_000) * np.linspace(0.01, 1, 200_000, dtype=np.float32)
    path = song(waveform=waveform, subtype="FLOAT")
    engine = StubEngine(each_frame_alone, stub_config(normalize="track"))
    separator = Separator(engine, **SHORT)
    separate_file(separator, path, tmp_path / "out")
    from_file = engine.batches[:]
    engine.batches.clear()
    separator.separate(waveform, RATE)
    for one, other in zip(from_file, engine.batches, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_clipping_is_lowered_with_one_gain_and_a_warning_that_names_it(tmp_path, song, caplog):
    loud = np.clip(5 * noise(9000), -0.999, 0.999)
    path = song(waveform=loud)

    def half_of_the_bins(batch):  # leaves an instrumental that is louder than the mixture
        mask = np.zeros_like(batch)
        mask[:, :, ::2] = 1
        return mask

    separator = Separator(StubEngine(half_of_the_bins), **SHORT)
    result = separate_file(separator, path, tmp_path / "out")
    assert result.gain < 1
    assert f"one gain of {result.gain:.4f}" in result.warnings[0] and str(path) in result.warnings[0]
    assert caplog.messages == list(result.warnings)
    stems = {stem: read_audio(file)[0] for stem, file in result.files.items()}
    assert max(np.abs(stem).max() for stem in stems.values()) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(sum(stems.values()), result.gain * read_audio(path)[0], atol=1e-4)
    floating = Separator(StubEngine(half_of_the_bins), bit_depth="float", **SHORT)
    unchanged = separate_file(floating, path, tmp_path / "float")
    assert unchanged.gain == 1 and unchanged.warnings == ()


def test_progress_counts_seconds_up_to_the_end(song, separator, tmp_path):
    calls = []
    separate_file(separator, song(), tmp_path / "out", progress=lambda *call: calls.append(call))
    assert calls == sorted(calls) and len(calls) > 2
    assert calls[-1] == (pytest.approx(9000 / RATE), pytest.approx(9000 / RATE))


@pytest.mark.parametrize("where", ["engine", "progress"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_no_parts(song, tmp_path, where, error):
    count = 0

    def interrupts(value, *_):
        nonlocal count
        count += 1
        if count == 3:
            raise error
        return each_frame_alone(value) if where == "engine" else None

    engine = StubEngine(interrupts if where == "engine" else each_frame_alone)
    with pytest.raises(error):
        separate_file(
            Separator(engine, **SHORT), song(), tmp_path / "out", progress=interrupts if where == "progress" else None
        )
    assert not (tmp_path / "out").exists()


def test_a_file_shorter_than_its_header_says_is_an_error_or_a_warning(song, separator, tmp_path):
    path = song()
    path.write_bytes(path.read_bytes()[: 44 + 4 * 4000])
    with pytest.raises(AudioError, match=r"song\.wav: .*`allow_truncated`"):
        separate_file(separator, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tolerant = Separator(StubEngine(each_frame_alone), allow_truncated=True, **SHORT)
    result = separate_file(tolerant, path, tmp_path / "out")
    (warning,) = result.warnings
    assert "song.wav" in warning and "0.5 s" in warning and "1.1 s" in warning
    assert soundfile.info(result.files["vocals"]).frames == 4000


def test_memory_does_not_grow_with_length(song, tmp_path):
    class Forgetful(StubEngine):
        def _infer(self, inputs):
            return each_frame_alone(*inputs.values())

    peaks = []
    for seconds in (120, 360):
        path = song(f"{seconds}.flac", np.tile(noise(30 * RATE), seconds // 30))
        tracemalloc.start()
        separate_file(Separator(Forgetful(each_frame_alone), segment_seconds=4), path, tmp_path / "out")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0]


def test_the_command_prints_each_file_and_a_line_per_song(song, command, tmp_path):
    first, second = song("first.wav"), song("second.wav")
    result = command(first, second, "-o", tmp_path / "out")
    assert result.exit_code == 0
    out = tmp_path / "out"
    expected = [str(out / name / f"{stem}.wav") for name in ("first", "second") for stem in ("vocals", "instrumental")]
    assert result.stdout.splitlines() == expected
    lines = result.stderr.splitlines()
    assert len(lines) == 3  # no bar, since nobody watches
    assert lines[2].startswith("ft: 2 inputs: 2 done; 2.2 s of audio in ")
    times = r"1\.1 s of audio in \d+\.\d s, [\d.]+ times real time"
    assert re.fullmatch(rf"ft: 1 of 2: {re.escape(str(first))}: {times}", lines[0])


def test_the_engine_and_its_reason_are_said_once_and_not_to_those_who_want_quiet(song, command, tmp_path, monkeypatch):
    class Reasoned(StubEngine):
        def describe(self):
            return replace(super().describe(), version="1.0", reason="no GPU found")

    monkeypatch.setattr(ft.separate.separator, "load_engine", lambda *_, **__: Reasoned(each_frame_alone))
    songs = [song(f"{name}.wav") for name in ("first", "second", "third")]
    lines = command(*songs, "-o", tmp_path / "out").stderr.splitlines()
    assert lines[0] == "ft: stub 1.0 on cpu, fp32 (no GPU found)" and len(lines) == 2 + len(songs)
    assert not [line for line in lines[1:] if "stub" in line]
    quiet = CliRunner().invoke(main, ["-q", "separate", *map(str, songs), "-o", str(tmp_path / "quiet")])
    assert quiet.exit_code == 0 and quiet.stderr == "" and len(quiet.stdout.splitlines()) == 2 * len(songs)


@pytest.mark.parametrize("memory", ["cuda-python", "pycuda"])
def test_who_handles_the_memory_of_a_gpu_reaches_the_engine(song, command, tmp_path, monkeypatch, memory):
    asked = []

    def load(*_, memory, **__):
        asked.append(memory)
        return StubEngine(each_frame_alone)

    monkeypatch.setattr(ft.separate.separator, "load_engine", load)
    options = () if memory == "cuda-python" else ("--memory", memory)
    assert command(song(), "-o", tmp_path / "out", *options).exit_code == 0
    assert asked == [memory]


def test_options_reach_the_separator(song, command, tmp_path, monkeypatch):
    made = []
    create = Separator.__init__

    def spy(self, models, options):
        made.append((models, options))
        create(self, models, options)

    monkeypatch.setattr(Separator, "__init__", spy)
    result = command(
        *(song(), "-o", tmp_path / "out", "--engine", "model.onnx", "--batch-size", 3, "--segment-seconds", 4),
        *("--context-seconds", 0.5, "--overlap", 0.2, "--threads", 1, "--bit-depth", "float", "--tta"),
        *("--device", "cuda:1", "--runtime", "onnxruntime", "--memory", "pycuda"),
    )
    assert result.exit_code == 0
    chosen = SeparateOptions(
        batch_size=3,
        segment_seconds=4.0,
        context_seconds=0.5,
        overlap=0.2,
        threads=1,
        bit_depth="float",
        tta=True,
        device="cuda:1",
        runtime="onnxruntime",
        memory="pycuda",
    )
    assert made == [(["model.onnx"], chosen)]
    assert soundfile.info(tmp_path / "out" / "song" / "vocals.wav").subtype == "FLOAT"


def test_reading_computing_and_writing_each_have_a_thread(song, tmp_path, monkeypatch):
    threads = {}

    def mask(batch):
        threads["engine"] = threading.current_thread()
        return each_frame_alone(batch)

    def read(self, blocks=AudioSource.blocks):
        for block in blocks(self):
            threads["reader"] = threading.current_thread()
            yield block

    monkeypatch.setattr(AudioSource, "blocks", read)
    separate_file(Separator(StubEngine(mask), **SHORT), song(), tmp_path / "out")
    assert len({threads["engine"], threads["reader"], threading.current_thread()}) == 3


def test_help_states_the_real_defaults():
    text = " ".join(CliRunner().invoke(main, ["separate", "--help"]).stdout.split())
    usual = Segment()
    for option in ("segment-seconds", "context-seconds", "overlap"):
        value = getattr(usual, option.removeprefix("segment-").removesuffix("-seconds"))
        assert re.search(rf"--{option} [A-Z]+ [^\[]*\[default: the model's, usually {value:g}[],]", text)


def test_a_real_process_with_a_real_network_needs_no_torch(song, tiny_onnx, tmp_path):
    blocker = "import sys\nsys.modules.update(torch=None, scipy=None, onnx=None, matplotlib=None, safetensors=None)\n"
    program = f"{blocker}from ft.cli import main\nmain()"
    path = song(waveform=noise(100_000), rate=44100)
    result = subprocess.run(
        [sys.executable, "-c", program, "separate", str(path), "-o", str(tmp_path / "out"), "--engine", str(tiny_onnx)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    files = [read_audio(Path(line))[0] for line in result.stdout.splitlines()]
    np.testing.assert_allclose(files[0] + files[1], read_audio(path)[0], atol=1e-4)


@pytest.mark.parametrize("normalize", ["window", "track"])
def test_a_callback_that_gives_false_cancels_and_nothing_is_left(song, tmp_path, normalize):
    engine = StubEngine(each_frame_alone, stub_config(normalize=normalize))
    path = song(waveform=noise(60_000))
    calls = []

    def stop_in_the_middle(done, total):
        calls.append((done, total))
        return done < 2

    with Separator(engine, **SHORT) as separator:
        with pytest.raises(Cancelled, match="cancelled after 2"):
            separate_file(separator, path, tmp_path / "out", progress=stop_in_the_middle)
        assert not (tmp_path / "out").exists()
        assert {total for _, total in calls} == {7.5} and 2 <= calls[-1][0] < 3
        with pytest.raises(Cancelled):
            separator.separate(noise(60_000), RATE, progress=lambda done, total: False)
        assert separate_file(separator, path, tmp_path / "out").files["vocals"].is_file()


def test_many_files_give_a_record_each_and_one_that_fails_is_among_them(song, tmp_path):
    for name in ("a.wav", "album/b.flac"):
        (tmp_path / "music" / name).parent.mkdir(parents=True, exist_ok=True)
        song(f"music/{name}")
    (tmp_path / "music" / "c.wav").write_bytes(b"")
    watched = []
    with Separator(StubEngine(each_frame_alone), **SHORT) as separator:
        files = separate_files(
            separator,
            [tmp_path / "music"],
            tmp_path / "out",
            progress=lambda path, done, total: watched.append(path.name),
        )
        records = list(files)
    assert {Path(record.input).name: record.status for record in records} == {
        "a.wav": "done",
        "b.flac": "done",
        "c.wav": "failed",
    }
    assert set(watched) == {"a.wav", "b.flac"}
    assert (tmp_path / "out/album/b/vocals.wav").is_file()
    with pytest.raises(AudioError, match="a folder; expected a file"):
        separate_file(separator, tmp_path / "music", tmp_path / "out")


def test_an_error_nobody_expected_fails_one_song_in_one_line(song, command, tmp_path, monkeypatch):
    first, second = song("first.wav"), song("second.wav")
    monkeypatch.setattr(ft.songs.run, "read_tags", lambda path: 1 / 0 if path == first else None)
    result = command(first, second, "-o", tmp_path / "out")
    assert result.exit_code == 1 and len(result.stdout.splitlines()) == 2
    assert f"ft: {first}: failed unexpectedly (ZeroDivisionError" in result.stderr and "Traceback" not in result.stderr


def test_a_model_that_returns_nan_fails_its_song_and_the_next_one_is_done(song, command, tmp_path, monkeypatch):
    def broken_once(batch):
        mask = each_frame_alone(batch)
        return mask * np.float32(np.nan) if not done.append(1) and len(done) == 1 else mask

    done = []
    monkeypatch.setattr(ft.separate.separator, "load_engine", lambda *_, **__: StubEngine(broken_once))
    first, second = song("first.wav"), song("second.wav")
    result = command(first, second, "-q", "-o", tmp_path / "out")
    assert result.exit_code == 1
    line, *summary = result.stderr.splitlines()
    assert line.startswith(f"ft: {first}: ") and "not finite" in line
    assert len(summary) == 1 and summary[0].startswith("ft: 2 inputs: 1 done, 1 failed; ")
    assert [path.parent.name for path in (tmp_path / "out").rglob("*.wav")] == ["second"] * 2


def test_what_a_callback_raises_is_not_blamed_on_the_song(song, tmp_path):
    def fails(path, done, total):
        raise ValueError("the window was closed")

    with Separator(StubEngine(each_frame_alone), **SHORT) as separator:
        with pytest.raises(ValueError, match="the window was closed"):
            list(separate_files(separator, [song()], tmp_path / "out", progress=fails))
        with pytest.raises(Cancelled):
            list(separate_files(separator, [song()], tmp_path / "out", progress=lambda *_: np.False_))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("start", "3"), ("batch_size", 2.5), ("format", "aiff"), ("tta", 1)])
def test_options_hold_what_their_types_say(name, value):
    with pytest.raises(ConfigError, match=f"^`{name}` "):
        SeparateOptions(**{name: value})


def test_a_stem_that_the_model_has_not_is_refused_at_once():
    with pytest.raises(ConfigError, match="`stem` drums: the model has vocals, instrumental"):
        Separator(StubEngine(each_frame_alone), stem="drums")

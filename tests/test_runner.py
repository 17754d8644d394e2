"""Going on where a device has no memory or is lost, with engines that fail when they are told to."""

import logging
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from stubs import StubEngine, each_frame_alone, noise, stub_config

import engines
import ft.separate.separator
from engines.runner import Runner
from ft.cli import main
from ft.errors import CheckpointError, DeviceLost, EngineError, OutOfDeviceMemory
from ft.separate import Separator
from ft.songs import separate_file

RATE = 8000
SHORT = {"segment_seconds": 0.5, "context_seconds": 0.05, "overlap": 0.1}


@pytest.fixture(autouse=True)
def seen(caplog):
    caplog.set_level(logging.INFO)


class SmallMemory(StubEngine):
    """Has memory for so many items."""

    def __init__(self, items: int, config=None) -> None:
        super().__init__(self.limited, config)
        self.items = items
        self.refused: list[int] = []

    def limited(self, batch):
        if len(batch) > self.items:
            self.refused.append(len(batch))
            raise OutOfDeviceMemory(f"no room for {len(batch)}")
        return each_frame_alone(batch)


class Breaking(StubEngine):
    """Loses its device at one batch, and answers nothing from then on."""

    def __init__(self, at: int) -> None:
        super().__init__(self.breaks)
        self.at = at
        self.closed = False

    def breaks(self, batch):
        if len(self.batches) > self.at:
            raise DeviceLost("CUDA failure 719: unspecified launch failure")
        return each_frame_alone(batch)

    def _unload(self) -> None:
        self.closed = True


@pytest.mark.parametrize("items", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [2, 7, 16])
def test_every_input_has_one_result_in_order_whatever_fits(items, batch_size, caplog):
    lengths = [9] * 8 + [5] + [9] * 3 + [4, 4]
    inputs = [(n, {"magnitude": np.full((1, 2, 32, size), n / 20, np.float32)}) for n, size in enumerate(lengths)]
    read = []

    def source():
        for pair in inputs:
            read.append(pair[0])
            yield pair

    with SmallMemory(items) as engine:
        engine.mask = lambda batch: engine.limited(batch) * 0 + batch
        runner = Runner(engine, batch_size)
        results = list(runner.run(source()))
    assert [label for label, _ in results] == read == list(range(len(inputs)))
    for (_, value), (_, result) in zip(inputs, results, strict=True):
        assert np.array_equal(value["magnitude"], result)
    assert runner.batch_size <= max(items, 1) or not engine.refused
    assert bool(caplog.messages) == bool(engine.refused) and len(set(caplog.messages)) == len(caplog.messages)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_eager_gives_each_result_before_the_next_input_is_read(batch_size):
    read = []

    def source():
        for number in range(6):
            read.append(number)
            yield number, {"magnitude": np.full((1, 2, 32, 9), number / 10, np.float32)}

    with StubEngine(lambda batch: batch) as engine:
        for number, (label, result) in enumerate(Runner(engine, batch_size).run(source(), eager=True)):
            assert label == number and read == list(range(number + 1))
            assert np.all(result == np.float32(number / 10))
    assert [len(batch) for batch in engine.batches] == [1] * 6


@pytest.mark.parametrize("normalize", ["window", "track"])
def test_a_song_is_the_same_with_less_memory_than_was_asked_for(normalize, caplog):
    config = stub_config(normalize=normalize)
    mixture = noise(5 * RATE) * np.linspace(0.1, 1, 5 * RATE, dtype=np.float32)
    expected = Separator(StubEngine(each_frame_alone, config), **SHORT).separate(mixture, RATE)
    engine = SmallMemory(2, config)
    separator = Separator(engine, batch_size=8, **SHORT)
    stems = separator.separate(mixture, RATE)
    for stem, samples in expected.items():
        np.testing.assert_allclose(samples, stems[stem], atol=1e-6)
    assert caplog.messages == [
        "no memory for 8 windows at once; going on with 4",
        "no memory for 4 windows at once; going on with 2",
    ]
    assert separator.batch_size == 2 and set(engine.refused) == {8, 4}
    separator.separate(mixture, RATE)  # the next song starts with what fits
    assert len(caplog.messages) == 2


def test_a_stream_without_a_known_peak_keeps_its_scale_over_a_retry():
    config = stub_config(normalize="track")
    mixture = noise(4 * RATE) * np.linspace(1, 0.1, 4 * RATE, dtype=np.float32)
    inputs = []
    for engine in (StubEngine(each_frame_alone, config), SmallMemory(2, config)):
        separator = Separator(engine, batch_size=8, **SHORT)
        list(separator.stream([mixture], RATE))
        done = [batch for batch in engine.batches if len(batch) <= getattr(engine, "items", 8)]
        inputs.append(np.concatenate([batch for batch in done if batch.shape[3] == separator.plan.frames]))
    assert np.array_equal(*inputs)


def test_one_window_that_does_not_fit_is_an_error_in_one_line(tmp_path):
    soundfile.write(tmp_path / "song.wav", noise(9000).T, RATE)
    separator = Separator(SmallMemory(0), batch_size=4, **SHORT)
    with pytest.raises(OutOfDeviceMemory, match=r"no room for 1; one window alone does not fit: use a smaller `seg"):
        separate_file(separator, tmp_path / "song.wav", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class LargeEngine(StubEngine):
    """Made for so many items at once, with a device that has memory for others when it is opened or made."""

    def __init__(self, items: int, room: int, config) -> None:
        super().__init__(each_frame_alone, config)
        self.items, self.room = items, room

    def _load(self) -> None:
        if self.items > self.room:
            raise OutOfDeviceMemory(f"no room to open {self.items}")


@pytest.fixture
def opening(monkeypatch):
    """Makes separators whose engines take memory when they are opened, or already when they are made."""

    def open_separator(batch_size, room, channels=2, when_made=False, model="model.onnx", **options):
        asked, before = [], []

        def load(model, threads, *, runtime, device, windows, memory):
            assert not [engine for engine in before if engine() is not None], "an engine that failed is still held"
            asked.append(windows)
            engine = LargeEngine(windows[0], room, config)
            if when_made:
                engine._load()
            before.append(weakref.ref(engine))
            return engine

        config = stub_config(channels=channels)
        monkeypatch.setattr(ft.separate.separator, "load_engine", load)
        monkeypatch.setattr(ft.separate.separator, "read_config", lambda model: config)
        monkeypatch.setattr(
            ft.separate.separator, "plan_window", lambda model: (4, 0.5) if model.endswith(".plan") else None
        )
        settings = {"context_seconds": 0.05, "overlap": 0.1} if model.endswith(".plan") else SHORT
        try:
            return Separator(model, batch_size=batch_size, **settings, **options), asked
        except OutOfDeviceMemory as error:
            return error, asked

    return open_separator


@pytest.mark.parametrize("when_made", [False, True])
@pytest.mark.parametrize(
    ("batch_size", "room", "channels", "tried"),
    [(8, 8, 2, [8]), (8, 3, 2, [8, 4, 2]), (7, 1, 2, [7, 3, 1]), (8, 4, 1, [8, 4, 2])],
)
def test_an_engine_that_does_not_fit_is_loaded_again_for_half_the_windows(
    opening, caplog, batch_size, room, channels, tried, when_made
):
    separator, asked = opening(batch_size, room, channels, when_made)
    items = 2 if channels == 1 else 1  # a stereo song is two items of a mono network
    assert asked == [(windows * items, separator.plan.frames) for windows in tried]
    assert separator.batch_size == tried[-1] and separator.engine.items == tried[-1] * items
    assert caplog.messages == [
        f"no memory for {windows} windows at once; going on with {windows // 2}" for windows in tried[:-1]
    ]
    mixture = noise(5 * RATE)
    expected = Separator(StubEngine(each_frame_alone, stub_config(channels=channels)), **SHORT).separate(mixture, RATE)
    for stem, samples in separator.separate(mixture, RATE).items():
        np.testing.assert_allclose(samples, expected[stem], atol=1e-6)
    assert max(len(batch) for batch in separator.engine.batches) == tried[-1] * items


@pytest.mark.parametrize("when_made", [False, True])
def test_where_not_even_one_window_can_be_opened_it_fails_in_one_line(opening, when_made):
    error, asked = opening(5, 0, when_made=when_made)
    assert [windows for windows, _ in asked] == [5, 2, 1]
    assert str(error) == (
        "no room to open 1; one window alone does not fit: use a smaller `segment_seconds`, or an .onnx with "
        "`device` cpu"
    )


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_plan_that_does_not_fit_is_not_tried_again(opening, caplog, batch_size):
    """What it takes was settled when it was built, and its error says how to build a smaller one."""
    error, asked = opening(batch_size, 0, model="model.plan")
    assert len(asked) == 1 and str(error) == f"no room to open {batch_size or 4}" and caplog.messages == []


def test_without_another_engine_a_lost_device_fails_every_later_song():
    engine = Breaking(at=2)
    separator = Separator(engine, **SHORT)
    with pytest.raises(DeviceLost, match="unspecified launch failure"):
        separator.separate(noise(3 * RATE), RATE)
    asked = len(engine.batches)
    for _ in range(2):
        with pytest.raises(DeviceLost, match=r"earlier song \(CUDA failure 719.*\); start again, or use `device` auto"):
            separator.separate(noise(RATE), RATE)
    assert len(engine.batches) == asked


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `ft separate` on four songs; the engine of the first call breaks in the second song."""
    asked = []

    def load(model, threads, *, runtime, device, windows, memory):
        asked.append(device)
        if device == "cpu" and isinstance(run.instead, Exception):
            raise run.instead
        return run.first if len(asked) == 1 else run.instead

    monkeypatch.setattr(ft.separate.separator, "load_engine", load)
    for module in (ft.separate.separator, engines):
        monkeypatch.setattr(module, "read_config", lambda model: stub_config())
    monkeypatch.setattr(ft.separate.separator, "plan_window", lambda model: (1, 0.5) if model == "model.plan" else None)
    songs = []
    for name in ("one", "two", "three", "four"):
        songs.append(tmp_path / f"{name}.wav")
        soundfile.write(songs[-1], noise(9000).T, RATE)

    def run(*options):
        arguments = [
            *map(str, songs),
            "-o",
            str(tmp_path / "out"),
            "--segment-seconds",
            "0.5",
            "--context-seconds",
            "0",
        ]
        result = CliRunner().invoke(main, ["separate", *arguments, *options])
        done = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
        return result.exit_code, result.stderr.splitlines(), done, asked

    run.first, run.instead = Breaking(at=5), SmallerNumbers(each_frame_alone)
    return run


class SmallerNumbers(StubEngine):
    """As the shipped model in int8 stands on a CPU for the one in fp32 on a GPU."""

    def describe(self):
        return replace(super().describe(), precision="int8")


LOST = "the GPU was lost at an earlier song (CUDA failure 719: unspecified launch failure); "


def lost(lines):
    """What is said of the songs after the one that met the loss; the summary, indented, says it again."""
    songs = [line.partition(".wav: ") for line in lines if line.startswith("ft: /")]
    assert [Path(name).name for name, _, text in songs if text.startswith(LOST)] == ["three", "four"]
    return [text for _, _, text in songs if text.startswith(LOST)]


def test_after_a_lost_gpu_the_next_song_runs_on_the_cpu(run):
    code, lines, done, asked = run()
    assert code == 1 and done == ["four", "one", "three"]  # nothing of the song that was running
    assert asked == ["auto", "cpu"]
    assert any(line.endswith("two.wav: CUDA failure 719: unspecified launch failure") for line in lines)
    assert "ft: the GPU was lost; going on with stub on cpu (int8)" in lines
    assert run.first.closed and run.instead.batches


def test_a_gpu_that_was_asked_for_is_not_replaced(run):
    code, lines, done, asked = run("--device", "cuda")
    assert code == 1 and done == ["one"] and asked == ["cuda"]
    assert lost(lines) == [f"{LOST}start again, or use --device auto to go on without it"] * 2


@pytest.mark.parametrize("error", [EngineError, CheckpointError])
def test_where_nothing_can_replace_a_lost_gpu_the_rest_fails_in_one_line_each(run, error):
    run.instead = error("openvino is not installed; pip install it")
    code, lines, done, asked = run()
    assert code == 1 and done == ["one"] and asked == ["auto", "cpu"]
    assert lost(lines) == [f"{LOST}nothing can go on instead: openvino is not installed; pip install it"] * 2


@pytest.mark.parametrize("options", [("--tensorrt",), ("--runtime", "tensorrt"), ("--engine", "model.plan")])
def test_tensorrt_is_not_asked_to_go_on_without_a_gpu(run, options):
    code, lines, done, asked = run(*options)
    assert code == 1 and done == ["one"] and asked == ["auto"]
    advice = "start again, or use --model MODEL.onnx with --device auto, and no TensorRT, to go on without it"
    assert lost(lines) == [LOST + advice] * 2

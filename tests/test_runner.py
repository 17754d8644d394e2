"""Going on where a device has no memory or is lost, with engines that fail when they are told to."""

import logging

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from stubs import StubEngine, each_frame_alone, stub_config

import ft.separate
from engines.runner import Runner
from ft.cli import main
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory
from ft.separate import Separator

RATE = 8000
SHORT = {"window_seconds": 0.5, "context_seconds": 0.05, "overlap": 0.1}


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((2, samples))).astype(np.float32)


@pytest.fixture(autouse=True)
def seen(caplog, monkeypatch):
    """What is logged is seen here even after a command of another test has set up its own handlers."""
    for name in ("ft", "engines"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
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
    inputs = [(n, np.full((1, 2, 32, frames), n / 20, np.float32)) for n, frames in enumerate(lengths)]
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
        assert np.array_equal(value, result)
    assert runner.batch_size <= max(items, 1) or not engine.refused
    assert bool(caplog.messages) == bool(engine.refused) and len(set(caplog.messages)) == len(caplog.messages)


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
    with pytest.raises(OutOfDeviceMemory, match=r"no room for 1; one window alone does not fit: use a smaller --wind"):
        separator.separate_file(tmp_path / "song.wav", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_another_engine_a_lost_device_fails_every_later_song():
    engine = Breaking(at=2)
    separator = Separator(engine, **SHORT)
    with pytest.raises(DeviceLost, match="unspecified launch failure"):
        separator.separate(noise(3 * RATE), RATE)
    asked = len(engine.batches)
    with pytest.raises(DeviceLost, match="lost at an earlier song; start again, or use --device auto"):
        separator.separate(noise(RATE), RATE)
    assert len(engine.batches) == asked


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `ft separate` on three songs; the engine of the first call breaks in the second song."""
    asked = []

    def load(model, threads, *, runtime, device, windows):
        asked.append(device)
        if device == "cpu" and isinstance(run.instead, Exception):
            raise run.instead
        return run.first if len(asked) == 1 else run.instead

    monkeypatch.setattr(ft.separate, "load_engine", load)
    monkeypatch.setattr(ft.separate, "read_config", lambda model: stub_config())
    songs = []
    for name in ("one", "two", "three"):
        songs.append(tmp_path / f"{name}.wav")
        soundfile.write(songs[-1], noise(9000).T, RATE)

    def run(*options):
        arguments = [*map(str, songs), "-o", str(tmp_path / "out"), "--window-seconds", "0.5", "--context-seconds", "0"]
        result = CliRunner().invoke(main, ["separate", *arguments, *options])
        done = sorted(path.name for path in (tmp_path / "out").iterdir())
        return result.exit_code, result.stderr.splitlines(), done, asked

    run.first, run.instead = Breaking(at=5), StubEngine(each_frame_alone)
    return run


def test_after_a_lost_gpu_the_next_song_runs_on_the_cpu(run):
    code, lines, done, asked = run()
    assert code == 1 and done == ["one", "three"]  # nothing of the song that was running
    assert asked == ["auto", "cpu"]
    assert "ft: CUDA failure 719: unspecified launch failure" in lines
    assert "ft: the GPU was lost; going on with stub on cpu" in lines
    assert run.first.closed and run.instead.batches


def test_a_gpu_that_was_asked_for_is_not_replaced(run):
    code, lines, done, asked = run("--device", "cuda")
    assert code == 1 and done == ["one"] and asked == ["cuda"]
    assert lines[-1].startswith("ft: the GPU was lost at an earlier song")


def test_where_nothing_can_replace_a_lost_gpu_the_rest_fails_in_one_line_each(run):
    run.instead = EngineError("model.plan: TensorRT runs on NVIDIA GPUs only")
    code, lines, done, _ = run()
    assert code == 1 and done == ["one"]
    assert lines[-1].endswith("nothing can go on instead: model.plan: TensorRT runs on NVIDIA GPUs only")

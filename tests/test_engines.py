"""The contract of the engines, and ONNX Runtime and PyTorch against each other."""

import sys
import threading
import time

import numpy as np
import pytest
from stubs import StubEngine, all_ones

import engines.base
import ft.workers
from engines import load_engine
from engines.base import Inputs
from engines.devices import find_gpus
from engines.ort import OrtEngine
from engines.pytorch import PytorchEngine
from export.gate import relative_l2
from ft.audio.open import read_audio
from ft.config import TensorSpec
from ft.errors import CheckpointError, EngineError
from ft.separate import Separator
from ft.workers import usable_cores


def magnitudes(batch: int, frames: int, seed: int = 0, channels: int = 2, bins: int = 64) -> Inputs:
    random = np.random.default_rng(seed)
    return {"magnitude": random.random((batch, channels, bins, frames), dtype=np.float32)}


@pytest.fixture(scope="module")
def ort(tiny_onnx):
    with load_engine(tiny_onnx) as engine:
        yield engine


def test_the_kind_of_file_picks_the_runtime(tiny_onnx, tiny_checkpoint):
    with load_engine(tiny_onnx, device="cpu") as engine:
        info = engine.describe()
        assert (info.name, info.io, info.device, info.precision) == ("onnxruntime", "network", "cpu", "fp32")
        assert info.reads == (TensorSpec("magnitude", ("batch", 2, 64, "frames"), 0.0, 1.0),)
        assert info.gives == TensorSpec("mask", ("batch", 2, 64, "frames"), 0.0, 1.0) and info.config.name == "tiny"
    with load_engine(str(tiny_checkpoint)) as engine:
        assert engine.describe().name == "torch"
        assert engine.describe().config == info.config


def test_map_keeps_the_order_and_takes_any_shapes(ort):
    batches = [magnitudes(1 + number % 2, 5 + number, seed=number) for number in range(6)]
    for batch, mask in zip(batches, ort.map(iter(batches)), strict=True):
        np.testing.assert_allclose(mask, ort.run(batch), atol=1e-6)
    assert list(ort.map([])) == []


def test_map_holds_two_batches_and_computes_them_in_another_thread():
    threads, running, asked = set(), [], 0

    def slow(batch):
        threads.add(threading.current_thread())
        time.sleep(0.005)
        running.append(asked - len(running))
        return batch

    def batches():
        nonlocal asked
        for number in range(8):
            asked += 1
            yield magnitudes(1, 3, number, bins=32)

    with StubEngine(slow) as engine:
        results = list(engine.map(batches()))
    assert len(results) == 8
    assert max(running) == engines.base.IN_FLIGHT == 2
    assert threading.current_thread() not in threads


def test_the_next_batch_is_prepared_while_one_is_computed():
    """The engine waits until the second batch has been asked for; without overlap it would wait for ever."""
    second = threading.Event()

    def waits(batch):
        assert second.wait(10)
        return batch

    def batches():
        yield magnitudes(1, 3, bins=32)
        second.set()
        yield magnitudes(1, 3, bins=32)

    with StubEngine(waits) as engine:
        assert len(list(engine.map(batches()))) == 2


def test_leaving_map_early_ends_its_thread():
    before = threading.active_count()
    with StubEngine(all_ones) as engine:
        results = engine.map(magnitudes(1, 3, bins=32) for _ in range(100))
        next(results)
        results.close()
        assert threading.active_count() == before
        assert len(engine.batches) <= 3


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"magnitude": magnitudes(1, 5)["magnitude"][0]}, r"shape \(2, 64, 5\) and type float32"),
        ({"magnitude": magnitudes(1, 5)["magnitude"].astype(np.float64)}, r"shape .* and type float64"),
        (magnitudes(1, 5, channels=1), r"shape \(1, 1, 64, 5\)"),
        (magnitudes(1, 5, bins=63), r"shape \(1, 2, 63, 5\)"),
        (magnitudes(1, 0), r"shape \(1, 2, 64, 0\)"),
        (magnitudes(0, 5), r"shape \(0, 2, 64, 5\)"),
    ],
)
def test_wrong_inputs_are_refused(ort, given, text):
    with pytest.raises(EngineError, match=rf"onnxruntime: magnitude of {text}.*; expected \(batch, 2, 64, frames\)"):
        ort.run(given)


def test_inputs_of_other_names_are_refused(ort):
    wrong = {"x": magnitudes(1, 5)["magnitude"]}
    for given, found in ((wrong, "x"), (wrong | magnitudes(1, 5), "x, magnitude")):
        with pytest.raises(EngineError, match=rf"tiny\.onnx takes magnitude; {found} was given"):
            ort.run(given)


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (lambda batch: batch[..., :-1], r"gave mask of shape \(1, 2, 32, 4\); expected \(1, 2, 32, 5\)"),
        (lambda batch: np.full_like(batch, np.nan), "not finite"),
        (lambda batch: np.full_like(batch, 2), r"from 2 to 2; expected mask in 0\.\.1"),
        (lambda batch: np.full_like(batch, -1), "from -1 to -1"),
    ],
)
def test_wrong_results_are_refused(mask, text):
    with StubEngine(mask) as engine, pytest.raises(EngineError, match=f"stub.*{text}"):
        engine.run(magnitudes(1, 5, bins=32))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_a_closed_engine_says_so_and_is_opened_again(tiny_onnx, runtime):
    engine = load_engine(tiny_onnx, runtime=runtime, device="cpu")
    for use in (engine.describe, lambda: engine.run(magnitudes(1, 5))):
        with pytest.raises(EngineError, match="not open; use `with`"):
            use()
    with engine:
        first = engine.run(magnitudes(1, 5))
    with pytest.raises(EngineError, match="not open"):
        engine.run(magnitudes(1, 5))
    with engine:
        assert np.array_equal(engine.run(magnitudes(1, 5)), first)


def test_a_separator_closes_only_what_it_opened(tiny_onnx):
    given = StubEngine(all_ones)
    with Separator(given):
        pass
    given.run(magnitudes(1, 5, bins=32))
    with Separator(tiny_onnx) as separator:
        own = separator.engine
    with pytest.raises(EngineError, match="not open"):
        own.run(magnitudes(1, 5))


def test_missing_and_strange_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.onnx: no such file"):
        load_engine(tmp_path / "nowhere.onnx")
    text = tmp_path / "model.txt"
    text.write_text("no model")
    with pytest.raises(EngineError, match=r"model\.txt: no engine runs this kind of file"):
        load_engine(text)


@pytest.mark.parametrize(
    ("runtime", "module", "extra"),
    [("onnxruntime", "onnxruntime", "cpu"), ("openvino", "openvino", "openvino"), ("torch", "torch", "train")],
)
def test_a_missing_runtime_names_the_line_that_installs_it(tiny_onnx, monkeypatch, runtime, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=rf"{module}.* is not installed.*pip install 'frame-transformer\[{extra}\]'"):
        load_engine(tiny_onnx, runtime=runtime, device="cpu").open()


def test_a_damaged_checkpoint_is_an_engine_error(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"no safetensors file"):
        load_engine(path, device="cpu").open()


def test_threads_are_the_usable_cores_or_what_was_asked(tiny_onnx):
    assert OrtEngine(tiny_onnx).threads == usable_cores() >= 1
    assert OrtEngine(tiny_onnx, threads=3).threads == 3


@pytest.mark.gpu
@pytest.mark.skipif(not find_gpus().found, reason="waits for an NVIDIA GPU")
def test_torch_gives_on_a_gpu_what_it_gives_on_a_cpu(tiny_checkpoint):
    inputs = magnitudes(2, 100)
    with PytorchEngine(tiny_checkpoint, device="cuda") as gpu, PytorchEngine(tiny_checkpoint, device="cpu") as cpu:
        assert relative_l2(gpu.run(inputs), cpu.run(inputs)) <= 1e-5


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({}, 64),
    ],
)
def test_a_quota_of_the_control_group_counts(tmp_path, monkeypatch, files, cores):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(ft.workers, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores() == cores


@pytest.fixture(scope="module")
def excerpt(example):
    mixture, _ = read_audio(example / "mixture.flac")
    return mixture[:, : 10 * 44100]


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"threads": 1}])
def test_stems_of_a_real_network_do_not_depend_on_how_it_runs(tiny_onnx, excerpt, options):
    settings = {"segment_seconds": 2, "context_seconds": 0.2}
    with Separator(tiny_onnx, **settings) as separator, Separator(tiny_onnx, **settings, **options) as other:
        expected = separator.separate(excerpt, 44100)
        for stem, samples in other.separate(excerpt, 44100).items():
            np.testing.assert_allclose(samples, expected[stem], atol=1e-5)
        again = separator.separate(excerpt, 44100)
        assert np.array_equal(again["vocals"], expected["vocals"])

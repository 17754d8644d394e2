"""The runtime of plans, on a GPU that is none: what it takes, in which order it works, what it says when it cannot."""

from __future__ import annotations

import dataclasses
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_gpu import CAPTURE_INVALIDATED, ILLEGAL_ADDRESS, OUT_OF_MEMORY, FakeCuda, fake_tensorrt
from stubs import StubEngine, each_frame_alone, stub_config

import engines.tensorrt
import engines.tensorrt_library
from engines.devices import Gpu, Gpus
from engines.plan import PlanManifest, Profile, manifest_path, write_plan
from engines.plan_cache import plans_folder
from engines.tensorrt import TensorrtEngine
from engines.tensorrt_build import ExportedModel, make_profiles
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory
from ft.separate import Separator

CONFIG = stub_config()
BATCH, FRAMES = 2, 40
SHAPE = CONFIG.reads[0].sized(BATCH, FRAMES)
LEAST = (1, *SHAPE[1:3], 1)
TAKING = ("cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags")
MAKING = ("create_execution_context", "cudaGraphInstantiate")


def manifest(**changes):
    profiles = (
        Profile("window", {"magnitude": (SHAPE, SHAPE, SHAPE)}),
        Profile("tail", {"magnitude": (LEAST, (1, *SHAPE[1:]), SHAPE)}),
    )
    made = PlanManifest(
        plan_sha256="",
        model="song.safetensors",
        model_sha256="0" * 64,
        kind="full",
        version="11.0.0.1",
        targets=("sm86",),
        precision="fp16",
        io="network",
        batch=BATCH,
        frames=FRAMES,
        profiles=profiles,
        fused=4,
        decomposed=1,
        parameters=1234,
        gate=None,
        config=CONFIG,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def cuda(monkeypatch):
    runtime = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    return runtime


@pytest.fixture
def tensorrt(cuda, monkeypatch):
    module = fake_tensorrt(cuda, each_frame_alone, [(SHAPE, SHAPE), (LEAST, SHAPE)])
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    gpus = Gpus((Gpu(0, "NVIDIA A", (8, 6), 2**33), Gpu(1, "NVIDIA B", (8, 9), 2**33)))
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: gpus)
    return module


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "model.plan"
    write_plan(path, b"an engine", manifest())
    return path


def random_batch(number, batch=BATCH, frames=FRAMES):
    return {"magnitude": np.random.default_rng(number).random((batch, *SHAPE[1:3], frames), dtype=np.float32)}


def masks_of(batch):
    return each_frame_alone(batch["magnitude"])


def test_masks_are_right_and_in_order_whatever_the_shapes(plan, cuda, tensorrt):
    shapes = [(2, 40), (2, 40), (1, 7), (2, 40), (1, 40), (2, 3), (1, 7), (1, 7), (2, 40)]
    batches = [random_batch(number, *shape) for number, shape in enumerate(shapes)]
    with TensorrtEngine(plan) as engine:
        results = list(engine.map(iter(batches)))
        np.testing.assert_array_equal(engine.run(batches[2]), results[2])
    for batch, mask in zip(batches, results, strict=True):
        np.testing.assert_allclose(mask, masks_of(batch), rtol=1e-6)


def test_a_window_takes_nothing_and_runs_as_a_graph(plan, cuda, tensorrt):
    with TensorrtEngine(plan) as engine:
        assert cuda.count("create_execution_context") == 3  # of the window for each set of buffers, and of the tail
        before = len(cuda.calls)
        for number in range(6):
            engine.run(random_batch(number))
        list(engine.map(random_batch(number) for number in range(6)))
        engine.run(random_batch(0, 1, 9))
        names = [call[0] for call in cuda.calls[before:]]
        assert not set(names) & {*TAKING, *MAKING}
        assert names.count("cudaGraphLaunch") == 12
        assert names.count("execute_async_v3") == 1  # the tail


def test_copies_of_one_batch_hide_behind_computing_of_another(plan, cuda, tensorrt):
    with TensorrtEngine(plan) as engine:
        before = len(cuda.calls)
        results = engine.map(random_batch(number) for number in range(4))
        next(results)
        calls = cuda.calls[before:]
        names = [call[0] for call in calls]
        copies = {call[-1] for call in calls if call[0] == "cudaMemcpyAsync"}
        assert len({*copies, *(call[-1] for call in calls if call[0] == "cudaGraphLaunch")}) == len(copies) + 1 == 3
        # Both batches were sent before anybody waited for the first, and nobody waited but for its result.
        first_wait = names.index("cudaEventSynchronize")
        assert names[:first_wait].count("cudaGraphLaunch") == 2
        assert "cudaStreamSynchronize" not in names
        list(results)


def test_two_songs_at_once_do_not_mix(plan, cuda, tensorrt):
    with TensorrtEngine(plan) as engine:
        songs = [[random_batch(10 * song + number) for number in range(5)] for song in range(3)]
        running = [engine.map(iter(song)) for song in songs]
        for number in range(5):
            for song, masks in zip(songs, running, strict=True):
                np.testing.assert_allclose(next(masks), masks_of(song[number]), rtol=1e-6)


def test_songs_in_threads_do_not_mix(plan, cuda, tensorrt):
    def work(song):
        batches = [random_batch(10 * song + number, 1 + number % 2) for number in range(8)]
        return list(zip(batches, engine.map(batches), strict=True))

    with TensorrtEngine(plan) as engine, ThreadPoolExecutor(4) as pool:
        for pairs in pool.map(work, range(4)):
            for batch, mask in pairs:
                np.testing.assert_allclose(mask, masks_of(batch), rtol=1e-6)


def test_closing_under_a_song_fails_that_song_and_reads_no_memory_that_was_given_back(plan, cuda, tensorrt):
    engine = TensorrtEngine(plan)
    engine.open()
    results = engine.map(random_batch(number) for number in range(5))
    next(results)
    engine.close()
    with pytest.raises(EngineError):
        list(results)
    assert not cuda.memory and not cuda.streams and not cuda.events and not cuda.graphs


def test_leaving_early_leaves_nothing_behind(plan, cuda, tensorrt):
    with TensorrtEngine(plan) as engine:
        results = engine.map(random_batch(number) for number in range(9))
        next(results)
        results.close()
        np.testing.assert_allclose(engine.run(random_batch(7)), masks_of(random_batch(7)), rtol=1e-6)
    assert not cuda.memory and not cuda.streams and not cuda.events and not cuda.graphs


def test_the_engine_goes_before_the_memory_of_the_device(plan, cuda, tensorrt):
    for _ in range(2):
        with TensorrtEngine(plan) as engine:
            engine.run(random_batch(0))
            results = engine.map(random_batch(number) for number in range(3))
            next(results)  # and the other two are never asked for
        names = cuda.names()
        assert names.index("engine freed") < names.index("cudaStreamDestroy")
        cuda.calls.clear()


def test_each_graph_has_a_context_of_its_own_that_nothing_changes(plan, cuda, tensorrt):
    """Tails between the windows would change it; the fake GPU fails a graph whose context was changed."""
    with TensorrtEngine(plan) as engine:
        assert len(set(cuda.captured)) == len(cuda.captured) == cuda.count("cudaGraphInstantiate") == 2
        for number in range(6):
            for shape in ((2, 40), (1, 5), (2, 5)):  # windows come in both sets of buffers
                batch = random_batch(number, *shape)
                np.testing.assert_allclose(engine.run(batch), masks_of(batch), rtol=1e-6)
        assert cuda.count("cudaGraphLaunch") == 6
        assert len(cuda.captured) == len(cuda.graphs) == 2  # and none of a tail, however often it comes
    assert not cuda.graphs


def test_every_context_runs_before_it_is_captured(plan, cuda, tensorrt):
    """What depends on the shapes is settled by the first run, and must not become part of a graph."""
    with TensorrtEngine(plan):
        names = cuda.names()
        first = names.index("cudaStreamBeginCapture")
        assert names[:first].count("execute_async_v3") == names[:first].count("cudaStreamSynchronize") - 3 == 2


@pytest.mark.parametrize("function", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_without_graphs_it_still_runs_and_says_so_once(plan, cuda, tensorrt, function, caplog):
    cuda.fail[function] = CAPTURE_INVALIDATED
    if function == "cudaStreamEndCapture":
        cuda.capturing.clear()
    with caplog.at_level("INFO"), TensorrtEngine(plan) as engine:
        cuda.capturing.clear()  # a stream whose capture failed goes on as before
        for number in range(3):
            batch = random_batch(number)
            np.testing.assert_allclose(engine.run(batch), masks_of(batch), rtol=1e-6)
    assert cuda.count("cudaGraphLaunch") == 0
    assert caplog.text.count("running without CUDA graphs") == 1
    assert cuda.count(function) == 1


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"batch": 2}, "build it again: ft export song.safetensors --fp16 --tensorrt full --force -o "),
        ({"batch": 9}, "build it again: ft export song.safetensors --fp16 --tensorrt full --batch 4 --force -o "),
        ({"batch": 1}, "build it again: ft export .* --tensorrt full --segment-seconds 0.08 --force -o "),
    ],
)
def test_no_memory_when_opening_gives_the_command_for_less_and_frees_what_was_taken(
    tmp_path, cuda, tensorrt, changes, advice
):
    path = tmp_path / "model.plan"
    write_plan(path, b"an engine", manifest(**changes))
    cuda.fail["cudaHostAlloc"] = OUT_OF_MEMORY
    engine = TensorrtEngine(path)
    with pytest.raises(OutOfDeviceMemory, match=rf"windows of 40 frames do not fit .*; {advice}{path}$"):
        engine.open()
    assert not cuda.memory and not cuda.streams


def test_no_memory_for_a_plan_that_was_built_for_this_run_gives_no_command(tmp_path, cuda, tensorrt, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = plans_folder() / "model.plan"
    write_plan(path, b"an engine", manifest())
    cuda.fail["cudaHostAlloc"] = OUT_OF_MEMORY
    with pytest.raises(OutOfDeviceMemory, match=r"; use a smaller `batch_size` or `segment_seconds`$"):
        TensorrtEngine(path).open()


def test_no_memory_and_a_lost_gpu_while_running(plan, cuda, tensorrt):
    with TensorrtEngine(plan) as engine:
        tensorrt.refuses = [
            "[executionContext.cpp] Error Code 2: OutOfMemory (Requested size was 1 bytes, out of memory)"
        ]
        with pytest.raises(OutOfDeviceMemory, match=r"model\.plan"):
            engine.run(random_batch(0, 1, 8))
        np.testing.assert_allclose(engine.run(random_batch(1)), masks_of(random_batch(1)), rtol=1e-6)
        cuda.fail["cudaEventSynchronize"] = ILLEGAL_ADDRESS
        with pytest.raises(DeviceLost, match=r"cuda:0.*illegal memory access"):
            engine.run(random_batch(2))


def test_an_error_comes_after_the_results_before_it(plan, cuda, tensorrt):
    batches = [random_batch(0), random_batch(1, 1, FRAMES + 1), random_batch(2)]
    with TensorrtEngine(plan) as engine:
        results = engine.map(iter(batches))
        np.testing.assert_allclose(next(results), masks_of(batches[0]), rtol=1e-6)
        with pytest.raises(EngineError, match=r"takes magnitude of up to \(2, 2, 32, 40\), \(1, 2, 32, 41\) was given"):
            next(results)


def test_wrong_values_of_a_plan_are_refused(plan, cuda, monkeypatch, tensorrt):
    broken = fake_tensorrt(cuda, lambda batch: batch * np.nan, [(SHAPE, SHAPE), (LEAST, SHAPE)])
    monkeypatch.setitem(sys.modules, "tensorrt", broken)
    with TensorrtEngine(plan) as engine, pytest.raises(EngineError, match=r"tensorrt \(fp16 on cuda:0\).*not finite"):
        engine.run(random_batch(0))


def test_the_thread_keeps_the_device_it_had(plan, cuda, tensorrt):
    with TensorrtEngine(plan, device="cuda:0") as engine:
        engine.run(random_batch(0))
        assert cuda.device == 3  # where PyTorch, say, had set it


@pytest.mark.parametrize("song", [1, 2])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_plan_holds_its_windows_of_a_stereo_song_whatever_its_network_hears(
    tmp_path, cuda, tensorrt, monkeypatch, channels, song
):
    """A window of a stereo song is two items for a mono network."""
    config = stub_config(channels=channels)
    model = ExportedModel(tmp_path / "a.onnx", config, "fp16", "network", None, None, None)
    profiles = make_profiles(model, BATCH, FRAMES)
    shapes = [profile.inputs["magnitude"] for profile in profiles]
    module = fake_tensorrt(cuda, each_frame_alone, [(least, most) for least, _, most in shapes])
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    path = tmp_path / "model.plan"
    write_plan(path, b"an engine", manifest(config=config, profiles=profiles))
    mixture = np.random.default_rng(0).standard_normal((song, 3 * 8000)).astype(np.float32) * 0.1
    with Separator(path, context_seconds=0.016) as separator:
        assert (separator.batch_size, separator.plan.frames) == (BATCH, FRAMES)
        stems = separator.separate(mixture, 8000)
    settings = {"segment_seconds": FRAMES * 32 / 8000, "context_seconds": 0.016}
    with StubEngine(each_frame_alone, config) as engine, Separator(engine, **settings) as separator:
        expected = separator.separate(mixture, 8000)
    np.testing.assert_allclose(stems["vocals"], expected["vocals"], atol=1e-6)
    assert (cuda.count("cudaGraphLaunch") > 3) is (song == 2 or channels == 2)  # the profile of the window fits them


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ((2, 40), None),
        ((1, 40), "its window is 2 x 40 frames, 1 x 40 will be given; those run in its slower profile"),
        ((4, 40), "4 x 40 will be given, which it does not take; build it again: ft export song.* --batch 4 --force"),
        ((1, 50), "1 x 50 will be .* does not take; build it again: .* --batch 2 --segment-seconds 0.2 --force"),
    ],
)
def test_another_window_than_that_of_the_plan_is_told(plan, cuda, tensorrt, caplog, windows, said):
    with TensorrtEngine(plan, windows=windows):
        pass
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (said is not None)
    assert said is None or re.search(said, warned[0])


def test_what_is_opened_is_what_was_checked(plan, cuda, tensorrt, monkeypatch):
    """Also where the file is replaced between the two."""
    real = engines.tensorrt.why_not

    def replaces(*arguments):
        plan.write_bytes(b"another engine")
        return real(*arguments)

    monkeypatch.setattr(engines.tensorrt, "why_not", replaces)
    with TensorrtEngine(plan) as engine:
        np.testing.assert_allclose(engine.run(random_batch(1)), masks_of(random_batch(1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "device", "message"),
    [
        (
            {"version": "10.15.1.2"},
            "auto",
            r"built by TensorRT 10\.15\.1\.2, and 11\.0\.0\.1 is installed; build it again: "
            r"ft export song\.safetensors --fp16 --tensorrt full --batch 2 --force -o .*model\.plan$",
        ),
        ({}, "cuda:1", r"built for sm86, and NVIDIA B \(cuda:1\) is sm89; build it again: ft export "),
        ({}, "cuda:2", "there are 2 GPUs"),
        ({"kind": "rtx"}, "cuda:1", "TensorRT-RTX"),
    ],
)
def test_a_plan_that_cannot_run_here_is_refused_in_one_line(tmp_path, cuda, tensorrt, changes, device, message):
    path = tmp_path / "model.plan"
    write_plan(path, b"an engine", manifest(**changes))
    with pytest.raises(EngineError, match=message) as caught:
        TensorrtEngine(path, device=device).open()
    assert "\n" not in str(caught.value)
    assert not cuda.calls  # nothing was taken


def test_a_damaged_plan_and_one_without_its_manifest_never_reach_tensorrt(plan, cuda, tensorrt):
    plan.write_bytes(b"an engin")
    with pytest.raises(EngineError, match=r"another SHA-256 than model\.plan\.json says; build it again: ft export"):
        TensorrtEngine(plan).open()
    manifest_path(plan).unlink()
    with pytest.raises(EngineError, match=r"its manifest model\.plan\.json is missing.*ft export MODEL --fp16"):
        TensorrtEngine(plan).open()
    assert not cuda.calls


def test_what_tensorrt_says_of_a_plan_it_refuses_is_shown(tmp_path, cuda, tensorrt):
    path = tmp_path / "model.plan"
    write_plan(path, b"no engine", manifest())
    with pytest.raises(EngineError, match="tensorrt cannot open it: magic tag does not match"):
        TensorrtEngine(path).open()
    assert not cuda.memory


def test_rtx_keeps_its_kernels_for_the_next_start(tmp_path, cuda, tensorrt, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", tensorrt)
    path = tmp_path / "model.plan"
    write_plan(path, b"an engine", manifest(kind="rtx"))
    for first in (True, False):
        with TensorrtEngine(path) as engine:
            assert engine.describe().name == "tensorrt-rtx"
            for _ in range(6):
                batch = random_batch(3, 1, 12)
                np.testing.assert_allclose(engine.run(batch), masks_of(batch), rtol=1e-6)
        assert [call for call in cuda.calls if call[0] == "compiled"][-1] == ("compiled", first)
        (kept,) = (tmp_path / "frame-transformer").glob("kernels-*.cache")
        assert kept.read_bytes() == b"kernels"
    # It compiles better kernels for a shape meanwhile, which a graph of the first ones would never run.
    assert cuda.count("cudaGraphLaunch") == 0


def test_without_a_gpu_it_says_why(plan, monkeypatch):
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: Gpus(reason="no GPU found (no driver)"))
    with pytest.raises(EngineError, match=r"model\.plan cannot run here: .*no GPU found \(no driver\)"):
        TensorrtEngine(plan).open()


def test_info_and_device(plan, cuda, tensorrt):
    with TensorrtEngine(plan, reason="asked for") as engine:
        info = engine.describe()
    assert (info.name, info.version, info.device, info.precision) == ("tensorrt", "11.0.0.1", "cuda:0", "fp16")
    assert (info.io, info.config, info.reason) == ("network", CONFIG, "asked for; found NVIDIA A")

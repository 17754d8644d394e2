"""Several songs at once through one engine, one runner and one separator, each song in a thread of its own."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stubs import StubEngine, each_frame_alone

from engines import load_engine
from engines.base import Inputs
from engines.runner import Runner
from ft.audio.open import read_audio
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory
from ft.separate import Separator

THREADS = 4
PATIENCE = 20


def batches(song: int, count: int = 6, bins: int = 32) -> list[Inputs]:
    """Windows of changing lengths, other ones for each song."""
    random = np.random.default_rng(song)
    sizes = [5 + (song + n) % 3 for n in range(count)]
    return [{"magnitude": random.random((1, 2, bins, size), dtype=np.float32)} for size in sizes]


def in_threads(work, count=THREADS):
    """What `work(0)`, `work(1)`, ... give, all of them started at once; an error is given like a result."""
    start = threading.Barrier(count)

    def guarded(number):
        start.wait(PATIENCE)
        try:
            return work(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(guarded, number) for number in range(count)]]


class Watched(StubEngine):
    """Counts the batches that are computed at once, and may take several at once."""

    reentrant = False

    def __init__(self, mask=each_frame_alone, most=None) -> None:
        super().__init__(mask)
        self.inside, self.most_inside = 0, 0
        self._count = threading.Lock()

    def _infer(self, inputs):
        with self._count:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            time.sleep(0.002)
            return super()._infer(inputs)
        finally:
            with self._count:
                self.inside -= 1


class Reentrant(Watched):
    reentrant = True


@pytest.mark.parametrize("kind", [Watched, Reentrant])
def test_only_an_engine_that_may_computes_several_batches_at_once(kind):
    with kind() as engine:
        results = in_threads(lambda song: list(engine.map(batches(song))))
    for song, masks in enumerate(results):
        for batch, mask in zip(batches(song), masks, strict=True):
            np.testing.assert_array_equal(mask, each_frame_alone(batch["magnitude"]))
    assert (engine.most_inside > 1) == engine.reentrant


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_a_real_engine_gives_each_thread_its_own_masks(tiny_onnx, runtime):
    with load_engine(tiny_onnx, runtime=runtime, device="cpu", windows=(1, 6)) as engine:
        assert engine.reentrant == (runtime == "onnxruntime")
        expected = [list(engine.map(batches(song, bins=64))) for song in range(THREADS)]
        found = in_threads(lambda song: list(engine.map(batches(song, bins=64))))
    for masks, others in zip(expected, found, strict=True):
        for mask, other in zip(masks, others, strict=True):
            np.testing.assert_allclose(other, mask, atol=1e-6)


def test_songs_at_once_give_the_stems_of_songs_one_after_another(tiny_onnx, example):
    mixture, rate = read_audio(example / "mixture.flac")
    songs = [mixture[:, number * rate : int((number + 1.5) * rate)] for number in range(THREADS)]
    with Separator(tiny_onnx, device="cpu", segment_seconds=0.5, context_seconds=0.1) as separator:
        expected = [separator.separate(song, rate) for song in songs]
        found = in_threads(lambda number: separator.separate(songs[number], rate))
    for stems, others in zip(expected, found, strict=True):
        for stem, samples in stems.items():
            np.testing.assert_allclose(others[stem], samples, atol=1e-6)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_thread_may_hold_two_streams_and_leave_one(tiny_onnx, runtime):
    def work(song):
        abandoned = engine.map(batches(song, bins=64))
        next(abandoned)
        pair = zip(engine.map(batches(song, bins=64)), engine.map(batches(song + 1, bins=64)), strict=True)
        masks = list(pair)
        return masks, abandoned  # held until all are done

    with load_engine(tiny_onnx, runtime=runtime, device="cpu") as engine:
        expected = [[engine.run(batch) for batch in batches(song, bins=64)] for song in range(THREADS + 1)]
        found = in_threads(work)
        for song, (masks, _) in enumerate(found):
            for number, pair in enumerate(masks):
                for mask, truth in zip(pair, (expected[song][number], expected[song + 1][number]), strict=True):
                    np.testing.assert_allclose(mask, truth, atol=1e-6)
    with pytest.raises(EngineError):  # the engine was closed under it
        list(found[0][1])


def test_opening_at_once_loads_once():
    class Slow(StubEngine):
        loads = 0

        def _load(self):
            time.sleep(0.01)
            self.loads += 1

    engine = Slow(each_frame_alone)
    assert in_threads(lambda _: engine.open()) == [None] * THREADS
    assert engine.loads == 1


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_closing_under_songs_that_run_fails_those_and_nothing_else(tiny_onnx, runtime):
    engine = load_engine(tiny_onnx, runtime=runtime, device="cpu")
    engine.open()
    begun = threading.Barrier(THREADS + 1)

    def work(song):
        for number, _ in enumerate(engine.map(batches(song, 10_000, 64))):
            if number == 2:
                begun.wait(PATIENCE)

    def close(number):
        if number < THREADS:
            return work(number)
        begun.wait(PATIENCE)
        return engine.close()

    *songs, closed = in_threads(close, THREADS + 1)
    assert closed is None
    assert all(isinstance(error, EngineError) and "\n" not in str(error) for error in songs)


class Little(Watched):
    """Has memory for so many items."""

    room = 2

    def _infer(self, inputs):
        items = len(inputs["magnitude"])
        if items > self.room:
            raise OutOfDeviceMemory(f"no room for {items}")
        return super()._infer(inputs)


def labelled(song: int, count: int = 20):
    random = np.random.default_rng(song)
    return [(number, {"magnitude": random.random((1, 2, 32, 5), dtype=np.float32)}) for number in range(count)]


def test_a_batch_that_several_threads_find_too_large_is_halved_no_further_than_it_must():
    with Little() as engine:
        runner = Runner(engine, 16)
        found = in_threads(lambda song: list(runner.run(labelled(song))))
    assert runner.batch_size == Little.room
    for song, results in enumerate(found):
        for (number, value), (label, mask) in zip(labelled(song), results, strict=True):
            assert label == number
            np.testing.assert_array_equal(mask, each_frame_alone(value["magnitude"]))


class Breaking(Watched):
    """Answers nothing after so many batches."""

    def _infer(self, inputs):
        if len(self.batches) >= 10:
            raise DeviceLost("CUDA failure 719: unspecified launch failure")
        return super()._infer(inputs)


def test_after_a_loss_every_thread_goes_on_with_the_one_engine_that_takes_its_place():
    made = []

    def another():
        made.append(Watched())
        return made[-1]

    def work(song):
        outcomes = []
        for _ in range(5):
            try:
                outcomes.append(list(runner.run(labelled(song))))
            except DeviceLost as error:
                outcomes.append(error)
        return outcomes

    with Breaking() as engine:
        runner = Runner(engine, 2, another)
        found = in_threads(work)
    assert len(made) == 1 and runner.engine is made[0]
    assert any(isinstance(outcome, DeviceLost) for outcomes in found for outcome in outcomes)
    for song, outcomes in enumerate(found):
        lost = [isinstance(outcome, DeviceLost) for outcome in outcomes]
        assert sum(lost) <= 1, outcomes  # only what ran on it
        for (_, value), (_, mask) in zip(labelled(song), outcomes[-1], strict=True):
            np.testing.assert_array_equal(mask, each_frame_alone(value["magnitude"]))

"""Plans on a real GPU: the masks of ONNX Runtime, memory that does not grow, and both backends beside PyTorch."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from engines.cuda import BACKENDS
from engines.devices import find_gpus
from engines.ort import OrtEngine
from engines.plan import check_plan
from engines.plan_cache import cached_plan
from engines.tensorrt import TensorrtEngine
from export.gate import relative_l2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not find_gpus().found, reason="waits for an NVIDIA GPU"),
]
WINDOW = (2, 200)
SHAPES = ((2, 200), (1, 200), (1, 1), (2, 61))


@pytest.fixture(scope="module")
def plan(tiny_onnx, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield cached_plan(tiny_onnx, windows=WINDOW)


def inputs(batch, frames, seed=0):
    return {"magnitude": np.random.default_rng(seed).random((batch, 2, 64, frames), dtype=np.float32)}


def backends():
    return [name for name in BACKENDS if name != "pycuda" or importlib.util.find_spec("pycuda")]


@pytest.mark.parametrize("memory", backends())
def test_masks_are_those_of_onnx_runtime(plan, tiny_onnx, memory):
    batches = [inputs(*shape) for shape in SHAPES] * 3
    with TensorrtEngine(plan, memory=memory) as engine, OrtEngine(tiny_onnx, device="cpu") as reference:
        expected = {shape: reference.run(batch) for shape, batch in zip(SHAPES, batches, strict=False)}
        for batch, mask in zip(batches, engine.map(iter(batches)), strict=True):
            # cuda kernels add in another order; TF32 is off, or this would be 1e-3
            assert relative_l2(mask, expected[engine.describe().size(batch)]) <= 1e-5


def test_windows_take_no_memory_of_the_device(plan):
    from cuda.bindings import runtime

    with TensorrtEngine(plan) as engine:
        engine.run(inputs(*WINDOW))
        before = runtime.cudaMemGetInfo()[1]
        for mask in engine.map(inputs(*WINDOW, seed=number) for number in range(50)):
            assert np.isfinite(mask).all()
        assert runtime.cudaMemGetInfo()[1] == before


def test_it_lives_beside_pytorch(plan):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("waits for a PyTorch that has CUDA")
    ones = torch.ones(1000, device="cuda")
    for memory in backends():
        with TensorrtEngine(plan, memory=memory) as engine:
            mask = engine.run(inputs(*WINDOW))
            assert float((ones * 2).sum()) == 2000
            np.testing.assert_array_equal(engine.run(inputs(*WINDOW)), mask)
    assert float((ones * 3).sum()) == 3000
    assert check_plan(plan).batch == WINDOW[0]

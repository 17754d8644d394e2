"""PyTorch as an engine: the reference that the others are compared with."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from networks import random_input, tiny_model

from engines.ort import OrtEngine
from engines.pytorch import PytorchEngine
from export.gate import relative_l2
from export.limits import EQUAL
from ft.errors import EngineError
from ft.models.signal import activated


def inputs(frames: int) -> dict[str, np.ndarray]:
    return {"magnitude": random_input(tiny_model().model_config, frames).numpy()}


def test_torch_gives_the_mask_of_the_network(tiny_checkpoint):
    model, given = tiny_model(), inputs(30)
    with torch.inference_mode():
        expected = activated(model(torch.from_numpy(given["magnitude"])), model.model_config.output).numpy()
    with PytorchEngine(tiny_checkpoint, device="cpu") as engine:
        assert np.array_equal(engine.run(given), expected)
        info = engine.describe()
    assert (info.name, info.device, info.precision, info.model) == ("torch", "cpu", "fp32", str(tiny_checkpoint))
    assert [spec.shape for spec in (*info.reads, info.gives)] == [("batch", 2, 64, "frames")] * 2


def test_both_engines_run_the_exported_file(tiny_onnx):
    with OrtEngine(tiny_onnx) as ort, PytorchEngine(tiny_onnx, device="cpu") as reference:
        assert ort.describe().config == reference.describe().config
        assert relative_l2(ort.run(inputs(77)), reference.run(inputs(77))) <= EQUAL


def test_torch_is_closed_and_opened_again(tiny_checkpoint):
    engine = PytorchEngine(tiny_checkpoint, device="cpu")
    with engine:
        first = engine.run(inputs(5))
    with pytest.raises(EngineError, match="not open"):
        engine.run(inputs(5))
    with engine:
        assert np.array_equal(engine.run(inputs(5)), first)


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:99", "cpu:0"])
def test_an_unknown_device_is_refused(tiny_checkpoint, device):
    with pytest.raises(EngineError, match=rf"device {device}"):
        PytorchEngine(tiny_checkpoint, device=device).open()


def test_without_torch_the_install_line_is_printed(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=r"torch is not installed.*pip install 'frame-transformer\[train\]'"):
        PytorchEngine(tiny_checkpoint).open()


def test_a_damaged_checkpoint_is_an_engine_error(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"no safetensors file"):
        PytorchEngine(path).open()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for an NVIDIA GPU")
def test_the_gpu_gives_the_mask_of_the_cpu(tiny_checkpoint):
    with PytorchEngine(tiny_checkpoint, device="cuda") as gpu, PytorchEngine(tiny_checkpoint, device="cpu") as cpu:
        assert relative_l2(gpu.run(inputs(100)), cpu.run(inputs(100))) <= 1e-5

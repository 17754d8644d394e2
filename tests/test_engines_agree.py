"""PyTorch as an engine: the reference that the others are compared with."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from networks import tiny_model

from engines.ort import OrtEngine
from engines.pytorch import PytorchEngine
from export.verify import relative_l2, synthetic_magnitude
from ft.errors import EngineError


def test_torch_gives_the_mask_of_the_network(tiny_checkpoint):
    model = tiny_model()
    magnitude = synthetic_magnitude(model.model_config, 2, 30)
    with torch.inference_mode():
        expected = torch.sigmoid(model(2 * torch.from_numpy(magnitude) - 1)).numpy()
    with PytorchEngine(tiny_checkpoint, device="cpu") as engine:
        assert np.array_equal(engine.run(magnitude), expected)
        info = engine.describe()
    assert (info.name, info.device, info.precision, info.model) == ("torch", "cpu", "fp32", str(tiny_checkpoint))
    assert info.shape == ("batch", 2, 64, "frames")


def test_both_engines_run_the_exported_file(tiny_onnx):
    magnitude = synthetic_magnitude(tiny_model().model_config, 1, 77)
    with OrtEngine(tiny_onnx) as ort, PytorchEngine(tiny_onnx, device="cpu") as reference:
        assert ort.describe().config == reference.describe().config
        assert relative_l2(ort.run(magnitude), reference.run(magnitude)) <= 5e-6


def test_torch_is_closed_and_opened_again(tiny_checkpoint):
    engine = PytorchEngine(tiny_checkpoint, device="cpu")
    magnitude = synthetic_magnitude(tiny_model().model_config, 1, 5)
    with engine:
        first = engine.run(magnitude)
    with pytest.raises(EngineError, match="not open"):
        engine.run(magnitude)
    with engine:
        assert np.array_equal(engine.run(magnitude), first)


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
    magnitude = synthetic_magnitude(tiny_model().model_config, 2, 100)
    with PytorchEngine(tiny_checkpoint, device="cuda") as gpu, PytorchEngine(tiny_checkpoint, device="cpu") as cpu:
        assert relative_l2(gpu.run(magnitude), cpu.run(magnitude)) <= 1e-5

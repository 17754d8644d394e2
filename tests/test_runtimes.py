"""Which runtime a model gets, OpenVINO against ONNX Runtime, and files that none of them can run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from networks import with_metadata
from stubs import StubEngine, all_ones
from test_tensorrt_engine import manifest

import engines
import engines.devices
import engines.machine
from bench.rows import read_model_file
from engines import RUNTIMES, SUFFIXES, load_engine, plan_window, read_config
from engines.base import Inputs
from engines.devices import NO_GPU, Gpu, Gpus
from engines.openvino import OpenvinoEngine
from engines.ort import OrtEngine
from engines.plan import write_plan
from engines.pytorch import PytorchEngine
from export.gate import relative_l2
from ft.checkpoint import load_model
from ft.errors import CheckpointError, EngineError, FtError
from ft.files import FP32_MODEL, INT8_MODEL, model_path
from ft.info import describe_model
from ft.separate import Separator

NONE = Gpus(reason="no GPU found (none)")
ONE = Gpus((Gpu(0, "NVIDIA L4", (8, 9), 1),))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(engines, "find_gpus", lambda: NONE)
    monkeypatch.setattr(engines.devices, "find_gpus", lambda: NONE)


@pytest.fixture
def stating(tiny_onnx, tmp_path):
    """The tiny model with other metadata; None takes an entry away."""

    def write(name="model.onnx", **entries):
        return with_metadata(tiny_onnx, tmp_path / name, **entries)

    return write


def magnitudes(batch: int, frames: int, seed: int = 0) -> Inputs:
    return {"magnitude": np.random.default_rng(seed).random((batch, 2, 64, frames), dtype=np.float32)}


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        ("fp32", OrtEngine),
        ("fp32 (fp16 weights)", OrtEngine),
        ("fp16", OrtEngine),
        ("int8", OrtEngine),
        ("bf16", OpenvinoEngine),
    ],
)
def test_on_a_cpu_the_precision_picks_the_runtime(stating, no_gpu, precision, kind):
    assert type(load_engine(stating(ft_precision=precision))) is kind
    assert type(load_engine(stating(ft_precision=precision), runtime="onnxruntime")) is OrtEngine


def test_on_a_gpu_every_precision_goes_to_onnx_runtime(stating, monkeypatch):
    monkeypatch.setattr(engines, "find_gpus", lambda: ONE)
    path = stating(ft_precision="bf16")
    assert type(load_engine(path)) is OrtEngine
    assert type(load_engine(path, device="cpu")) is OpenvinoEngine


@pytest.mark.parametrize(
    ("feature", "gpus", "options", "name"),
    [
        ("avx512_vnni", NONE, {}, INT8_MODEL),
        ("avx512_vnni", NONE, {"runtime": "openvino"}, INT8_MODEL),
        (None, NONE, {}, FP32_MODEL),
        (None, NONE, {"runtime": "openvino"}, FP32_MODEL),
        ("avx512_vnni", NONE, {"runtime": "torch"}, FP32_MODEL),
        ("avx512_vnni", ONE, {}, FP32_MODEL),
        ("avx512_vnni", ONE, {"device": "cpu"}, INT8_MODEL),
    ],
)
def test_default_and_no_model_are_the_file_that_suits_the_machine(monkeypatch, feature, gpus, options, name):
    monkeypatch.setattr(engines, "find_gpus", lambda: gpus)
    monkeypatch.setattr(engines, "int8_products", lambda: feature)
    taken = {load_engine(model, **options).model for model in (None, "default", Path("default"), name)}
    assert taken == {model_path(name)}
    for asked in (FP32_MODEL, INT8_MODEL):  # by its name each is taken wherever it runs
        assert load_engine(asked, **options).model == model_path(asked)


def test_where_a_file_is_read_default_is_the_one_in_fp32(monkeypatch):
    monkeypatch.setattr(engines, "int8_products", lambda: "avx512_vnni")
    assert model_path("default") == model_path(FP32_MODEL) != model_path(INT8_MODEL)
    assert read_config() == read_config("default") == read_config(INT8_MODEL)


@pytest.mark.parametrize(
    ("system", "machine", "cpuinfo", "found"),
    [
        ("linux", "x86_64", {"flags": "fpu avx2 avx512_vnni amx_int8"}, "avx512_vnni"),
        ("linux", "x86_64", {"flags": "fpu avx2 avx_vnni"}, "avx_vnni"),
        ("linux", "x86_64", {"flags": "fpu avx2 avx512f"}, None),
        ("linux", "aarch64", {"Features": "fp asimd asimddp"}, "asimddp"),
        ("linux", "aarch64", {"Features": "fp asimd"}, None),
        ("darwin", "arm64", {}, "asimddp"),
        ("darwin", "x86_64", {}, "not known"),
        ("win32", "AMD64", {}, "not known"),
    ],
)
def test_what_multiplies_in_eight_bits_is_read_from_the_processor(monkeypatch, system, machine, cpuinfo, found):
    monkeypatch.setattr(engines.machine, "_cpu_fields", lambda: cpuinfo)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert engines.machine.int8_products() == found


def test_a_runtime_can_be_asked_for(tiny_onnx, no_gpu):
    chosen = {
        "onnxruntime": (OrtEngine, f"asked for; {NO_GPU}"),
        "openvino": (OpenvinoEngine, "asked for"),  # runs nowhere but on the CPU
        "torch": (PytorchEngine, f"asked for; {NO_GPU}"),
        "auto": (OrtEngine, NO_GPU),
    }
    for runtime, (kind, reason) in chosen.items():
        for device, why in (("auto", reason), ("cpu", "asked for")):
            numbers = {"threads": np.int64(1), "windows": (np.int64(1), np.int32(30))}
            engine = load_engine(tiny_onnx, runtime=runtime, device=device, **numbers)
            assert type(engine) is kind
            with engine:
                info = engine.describe()
            assert (info.device, info.config, bool(info.version)) == ("cpu", read_config(tiny_onnx), True)
            assert info.reason == why


@pytest.mark.parametrize(
    ("suffix", "options", "text"),
    [
        (".safetensors", {"runtime": "onnxruntime"}, "onnxruntime does not run this kind of file; it takes .onnx"),
        (".plan", {"runtime": "torch"}, "torch does not run this kind of file; it takes .onnx and .safetensors"),
        (".plan", {"device": "cpu"}, "TensorRT runs on NVIDIA GPUs only"),
        (".onnx", {"runtime": "tensorrt", "device": "cpu"}, "TensorRT runs on NVIDIA GPUs only"),
        (".onnx", {"runtime": "tflite"}, "runtime tflite; expected auto, onnxruntime, openvino, torch, tensorrt"),
        (".onnx", {"device": "tpu"}, "device tpu; expected auto, cpu, cuda or cuda:N"),
        (".pth", {}, "no engine runs this kind of file; expected .onnx, .safetensors, .plan"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, suffix, options, text):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(EngineError, match=text):
        load_engine(path, **options)


@pytest.mark.parametrize(("name", "of"), [("MODEL.ONNX", "tiny_onnx"), ("model.SafeTensors", "tiny_checkpoint")])
def test_endings_of_models_have_no_case(tmp_path, no_gpu, request, name, of):
    source = request.getfixturevalue(of)
    path = tmp_path / name
    path.write_bytes(source.read_bytes())
    for runtime in ("auto", *SUFFIXES[source.suffix]):
        if runtime != "tensorrt":
            load_engine(path, runtime=runtime).open()
    facts, expected = describe_model(path), describe_model(source)
    assert facts | {"path": None} == expected | {"path": None}
    assert read_model_file(str(path)).suffix == source.suffix
    assert load_model(path).model_config == read_config(path)
    if source.suffix == ".onnx":
        with pytest.raises(EngineError, match="TensorRT needs an NVIDIA GPU"):
            load_engine(path, runtime="tensorrt")


def test_endings_of_plans_and_configurations_have_no_case(tmp_path, no_gpu):
    plan, config = tmp_path / "MODEL.PLAN", tmp_path / "MODEL.YML"
    write_plan(plan, b"an engine", manifest(batch=3))
    assert plan_window(plan) is not None and read_config(plan) == manifest().config
    assert describe_model(plan)["kind"] == "tensorrt"
    with pytest.raises(EngineError, match="TensorRT runs on NVIDIA GPUs only"):
        load_engine(plan, device="cpu")
    config.write_text("model: {preset: tiny}\n")
    assert describe_model(config)["kind"] == "configuration"


def test_tensorrt_without_a_gpu_is_refused_before_a_plan_is_built(tiny_onnx, no_gpu):
    with pytest.raises(
        EngineError, match=r"tiny\.onnx: TensorRT needs an NVIDIA GPU: no GPU found \(none\); use another"
    ):
        load_engine(tiny_onnx, runtime="tensorrt")


def test_a_plan_says_window_and_batch_to_the_separator(tmp_path, monkeypatch):
    path = tmp_path / "model.plan"
    write_plan(path, b"an engine", manifest(batch=3, frames=40))
    asked = []

    def load(model, threads, *, runtime, device, windows, memory):
        asked.append(windows)
        return StubEngine(all_ones, manifest().config)

    monkeypatch.setattr("ft.separate.separator.load_engine", load)
    for options in ({}, {"batch_size": 1, "segment_seconds": 0.2}):
        with Separator(path, context_seconds=0, **options) as separator:
            asked.append((separator.batch_size, separator.plan.frames))
    short = round(0.2 * manifest().config.frame_rate)
    assert asked == [(3, 40), (3, 40), (1, short), (1, short)]


@pytest.mark.parametrize("windows", [None, (2, 30)])
def test_openvino_equals_onnx_runtime_at_every_shape(tiny_onnx, windows):
    with OrtEngine(tiny_onnx) as ort, OpenvinoEngine(tiny_onnx, windows=windows) as openvino:
        # A first input of 1 frame spoilt all later ones, with free shapes.
        for batch, frames in ((1, 1), (3, 77), (2, 30), (1, 200), (2, 30)):
            inputs = magnitudes(batch, frames, seed=frames)
            mask = openvino.run(inputs)
            assert relative_l2(mask, ort.run(inputs)) <= 5e-6 and mask.dtype == np.float32


def test_openvino_compiles_the_window_and_one_model_for_all_other_shapes(tiny_onnx, monkeypatch):
    compiled = []
    create = OpenvinoEngine._compile

    def counting(self, shapes):
        compiled.append(shapes)
        return create(self, shapes)

    monkeypatch.setattr(OpenvinoEngine, "_compile", counting)
    with OpenvinoEngine(tiny_onnx, windows=(1, 30)) as engine:
        assert compiled == []
        for frames in (30, 30, 12, 13, 30, 14):
            engine.run(magnitudes(1, frames))
    assert compiled == [[(1, 2, 64, 30)], None]


def test_masks_of_openvino_stay_what_they_were(tiny_onnx):
    """Its output lies in memory that the next batch is written to."""
    with OpenvinoEngine(tiny_onnx, windows=(1, 20)) as engine:
        first = engine.run(magnitudes(1, 20, seed=1))
        kept = first.copy()
        engine.run(magnitudes(1, 20, seed=2))
        assert np.array_equal(first, kept)


def test_openvino_computes_in_the_precision_of_the_file_and_no_lower_one(stating, tiny_onnx):
    import openvino

    inputs = magnitudes(1, 20)
    with OpenvinoEngine(tiny_onnx) as engine:
        fp32 = engine.run(inputs)
        assert engine._any_shape.get_compiled_model().get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    with OpenvinoEngine(stating(ft_precision="bf16")) as engine:
        bf16, info = engine.run(inputs), engine.describe()
        assert info.precision == "bf16"
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert 1e-4 < relative_l2(bf16, fp32) < 3e-2
    else:
        assert "no bf16" in info.reason and relative_l2(bf16, fp32) <= 5e-6


def test_openvino_is_for_the_cpu(tiny_onnx):
    with pytest.raises(EngineError, match="device cuda: OpenVINO runs on the CPU only; use `device` cpu or another"):
        load_engine(tiny_onnx, runtime="openvino", device="cuda").open()


def test_onnx_runtime_refuses_bf16_on_a_cpu_and_names_who_runs_it(stating, no_gpu):
    with pytest.raises(
        EngineError, match=r"bf16, which ONNX Runtime does not compute on a CPU; use `runtime` openvino"
    ):
        load_engine(stating(ft_precision="bf16"), runtime="onnxruntime").open()


def foreign(path: Path) -> None:
    """A model of another project: the right names and shapes, and none of our metadata."""
    import onnx
    from onnx import TensorProto, helper

    shape = ["batch", 2, 64, "frames"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("magnitude", "mask")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["magnitude"], ["mask"])], "foreign", values[:1], values[1:]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def broken_graph(path: Path, source: Path) -> None:
    """Our metadata behind a graph that is none: bytes of the weights and nodes are lost."""
    content = bytearray(source.read_bytes())
    content[20:4000] = bytes(3980)
    path.write_bytes(content)


RUNNABLE = [runtime for runtime in RUNTIMES if runtime != "tensorrt"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["random", "empty", "text", "truncated", "foreign", "no configuration", "future"])
def test_a_file_that_is_no_model_of_ours_is_one_line_in_every_runtime(
    tmp_path, tiny_onnx, stating, no_gpu, kind, runtime
):
    path = tmp_path / f"{kind}.onnx"
    if kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "truncated":
        path.write_bytes(tiny_onnx.read_bytes()[:5000])
    elif kind == "foreign":
        foreign(path)
    elif kind == "no configuration":
        stating(path.name, ft_config=None)
    else:
        stating(path.name, ft_format="99")
    with pytest.raises(FtError) as caught:
        load_engine(path, runtime=runtime).open()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    if runtime != "tensorrt":  # without a GPU it may say that first
        assert isinstance(caught.value, EngineError) and text.startswith(str(path))
        assert {"truncated": "not an ONNX model", "foreign": "holds no configuration"}.get(kind, "") in text
    with pytest.raises(CheckpointError, match=path.name):
        Separator(path, runtime=runtime)


@pytest.mark.parametrize("runtime", RUNNABLE)
def test_a_model_with_a_broken_graph_is_one_line_in_every_runtime(tmp_path, tiny_onnx, no_gpu, runtime):
    path = tmp_path / "broken.onnx"
    broken_graph(path, tiny_onnx)
    with pytest.raises(EngineError, match=r"broken\.onnx") as caught, load_engine(path, runtime=runtime) as engine:
        engine.run(magnitudes(1, 10))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_another_kind_of_input_is_refused(stating, no_gpu, runtime):
    with pytest.raises(EngineError, match=r"takes 'video' \(ft_io\); this version runs network and waveform"):
        load_engine(stating(ft_io="video"), runtime=runtime).open()

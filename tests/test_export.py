"""The exported graph: what it is made of, what it says of itself, and that a wrong one is never written."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import DENSE, PARAMETERS, changed, random_input, tiny_config, tiny_model

from engines.ort import OrtEngine
from export import to_onnx
from export.gate import SHAPES, compare, relative_l2, synthetic_inputs
from export.limits import EQUAL
from export.to_onnx import export_onnx
from ft import __version__
from ft.checkpoint import load_model, save_checkpoint
from ft.cli import main
from ft.config import IO, ModelConfig
from ft.errors import CheckpointError, ExportError, FtError
from ft.models import make_network
from ft.models.frame_layers import FrameConvolution, FrameNorm, MultichannelMultiheadAttention
from ft.models.signal import activated

CASTS = 1
"""Of the number of frames."""


def session(path, **options):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def mask_of(path, magnitude):
    return session(path).run(["mask"], {"magnitude": magnitude})[0]


def reference(model, magnitude):
    with torch.inference_mode():
        return activated(model(torch.from_numpy(magnitude)), model.model_config.output).numpy()


def write(tmp_path, model, name="model.safetensors"):
    save_checkpoint(tmp_path / name, model.state_dict(), model.model_config)
    return tmp_path / name


@pytest.fixture
def stub(traced, tiny_onnx):
    """Exports without tracing: every graph is the one of `tiny_onnx`."""
    traced(tiny_onnx)


def test_each_module_is_one_node(tiny_onnx):
    """A native one where there is one, and one product for each weight; shapes are computed from the input alone."""
    graph, model = onnx.load(tiny_onnx).graph, tiny_model()
    nodes = Counter(node.op_type for node in graph.node)
    modules = Counter(type(module) for module in model.modules())
    attentions = modules[MultichannelMultiheadAttention]
    assert (nodes["Attention"], nodes["RotaryEmbedding"]) == (attentions, 2 * attentions)
    assert (nodes["LayerNormalization"], nodes["Conv"]) == (modules[FrameNorm], modules[FrameConvolution])
    products = [name for node in graph.node if node.op_type == "MatMul" for name in node.input]
    weights = [name for name in model.state_dict() if name.endswith(("weight_pw", "weight_dw")) or name == "out"]
    assert sorted(name for name in products if name in weights) == sorted(weights)
    assert nodes["MatMul"] == len(weights)
    assert nodes["Shape"] <= 2 and nodes["Cast"] == CASTS and not nodes.keys() & {"Einsum", "Tile", "Gather"}
    assert len(graph.node) <= 200


def test_inputs_outputs_and_opset(tiny_onnx):
    proto = onnx.load(tiny_onnx)
    for value, name in ((proto.graph.input, "magnitude"), (proto.graph.output, "mask")):
        assert [entry.name for entry in value] == [name]
        dims = value[0].type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 2, 64, "frames"]
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 23)]
    onnx.checker.check_model(proto, full_check=True)
    # No trace of the source is left.
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert not proto.graph.metadata_props and b".py" not in proto.SerializeToString()


def test_metadata(tiny_onnx):
    metadata = session(tiny_onnx).get_modelmeta().custom_metadata_map
    config = tiny_config()
    assert ModelConfig.from_dict(json.loads(metadata.pop("ft_config"))) == config
    names = json.loads(metadata.pop("ft_weights"))
    assert all(name.endswith(".freqs") for name in names)
    gate = json.loads(metadata.pop("ft_gate"))
    assert gate["relative_l2"] <= gate["relative_l2_limit"] == EQUAL
    assert metadata == {
        "ft_format": "2",
        "ft_io": "network",
        "ft_parameters": str(PARAMETERS),
        "ft_precision": "fp32",
        "ft_version": __version__,
        "sample_rate": "44100",
        "stems": "vocals,instrumental",
        "license": config.license,
    }


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 40), (1, 333)])
def test_mask_equals_pytorch_at_shapes_that_were_not_traced(tiny_onnx, shape):
    model = tiny_model()
    batch, frames = shape
    magnitude = random_input(model.model_config, frames, batch).numpy()
    mask = mask_of(tiny_onnx, magnitude)
    assert relative_l2(mask, reference(model, magnitude)) <= EQUAL
    assert mask.min() >= 0 and mask.max() <= 1
    assert mask.std() > 0.01


def test_weights_are_stored_in_half_and_nothing_else_is(tmp_path, stub, tiny_checkpoint):
    exact = tiny_model()
    result = export_onnx(tiny_checkpoint, tmp_path / "half.onnx", weights="fp16")
    assert result.precision == "fp32 (fp16 weights)"
    assert len(result.gate["shapes"]) == len(SHAPES)

    graph = onnx.load(result.path).graph
    halves = [tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16]
    assert sorted(halves) == sorted(name for name in exact.state_dict() if name.endswith("weight_pw"))
    assert result.path.stat().st_size < 0.6 * tiny_checkpoint.stat().st_size
    assert result.nodes == Counter(node.op_type for node in graph.node)
    assert result.nodes["Cast"] == CASTS + len(halves)

    rounded = load_model(result.path)
    for name, value in exact.state_dict().items():
        expected = value.half().float() if name.endswith("weight_pw") else value
        assert torch.equal(rounded.state_dict()[name], expected), name
    magnitude = random_input(exact.model_config, 64).numpy()
    assert 1e-6 < relative_l2(reference(rounded, magnitude), reference(exact, magnitude)) < 1e-3

    # ONNX Runtime folds the casts when it loads the graph: nothing is cast at run time but the number of frames.
    session(result.path, optimized_model_filepath=str(tmp_path / "optimized.onnx"))
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    assert Counter(node.op_type for node in optimized.node)["Cast"] <= CASTS


def test_an_exported_file_is_exported_again_over_one_of_two_files(tmp_path, stub, tiny_onnx):
    stale = tmp_path / "old.onnx.data"
    stale.write_bytes(b"weights of the file that is replaced")
    result = export_onnx(tiny_onnx, tmp_path / "old.onnx", force=True)
    assert result.path.is_file() and not stale.exists()
    assert max(shape["relative_l2"] for shape in result.gate["shapes"]) == result.gate["relative_l2"] <= EQUAL


def test_the_dense_variant_untrained_for_older_runtimes_in_two_files(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "LARGEST_FILE", 100_000)
    heads = (4, 0)  # and without attention below
    config = tiny_config(qk_norm_order="norm-first", input_power=0.3, standardize=True, heads=heads, **DENSE)
    torch.manual_seed(0)
    model = make_network(config).eval()  # every norm is ones and zeros: the graph keeps one of each
    model.model_config = config
    result = export_onnx(write(tmp_path, model), tmp_path / "out" / "dense.onnx", opset=20)
    assert [(entry.domain, entry.version) for entry in onnx.load(result.path).opset_import] == [("", 20)]
    assert not result.nodes.keys() & {"Attention", "RotaryEmbedding", "Einsum", "Tile"}
    assert result.files == [tmp_path / "out" / "dense.onnx", tmp_path / "out" / "dense.onnx.data"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(result.files)
    graph, data = (file.stat().st_size for file in result.files)
    assert graph < 300_000 < data
    magnitude = random_input(config, 17).numpy()
    assert relative_l2(mask_of(result.path, magnitude), reference(model, magnitude)) <= EQUAL
    loaded = load_model(result.path)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert isinstance(loaded.get_buffer("enc1_transformer.attn.rotary_embedding.freqs"), torch.Tensor)


def test_the_norm_that_is_never_applied_is_not_looked_for():
    """It comes back from a graph as it starts; the shipped kinds of blocks apply it."""
    for numbers, levels in ((DENSE, (1, 2)), ({}, ())):
        model = tiny_model(tiny_config(**numbers))
        norms = {f"enc{level}_transformer.norm3.norm.{kind}" for level in levels for kind in ("weight", "bias")}
        unused = {name for name in model.state_dict() if model.is_unused(name)}
        assert {name for name in unused if not name.endswith(".freqs")} == norms


def test_a_graph_that_differs_is_not_written(tmp_path, stub, tiny_checkpoint, monkeypatch):
    model = load_model(tiny_checkpoint)
    with torch.no_grad():
        model.get_parameter("dec1.linear1.weight_pw").mul_(1.01)
    monkeypatch.setattr("export.graph.weight_names", lambda *_: {})
    path = write(tmp_path, model)
    message = r"at the usual shape \(1, 2, 64, 256\) .* differs from PyTorch by \d.*e-0\d .*at most 1e-05 is allowed"
    with pytest.raises(ExportError, match=message):
        export_onnx(path, tmp_path / "model.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (lambda mask: np.full_like(mask, np.nan), r"values that are not finite.*nothing was written"),
        (lambda mask: mask[..., :-1], r"gave mask of shape \(1, 2, 64, 255\); expected \(1, 2, 64, 256\); nothing"),
        *[
            (lambda mask, at=at: mask + 1e-4 * ((len(mask), mask.shape[-1]) == at), f"at the {name} shape")
            for name, at in SHAPES.items()
        ],
    ],
    ids=["not finite", "another shape", *SHAPES],
)
def test_a_graph_that_fails_at_any_shape_is_not_written(tmp_path, stub, tiny_checkpoint, monkeypatch, spoilt, message):
    infer = OrtEngine._infer
    monkeypatch.setattr(OrtEngine, "_infer", lambda engine, inputs: spoilt(infer(engine, inputs)).astype(np.float32))
    with pytest.raises(ExportError, match=message):
        export_onnx(tiny_checkpoint, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_lost_weight_is_named(tmp_path, tiny_checkpoint, tiny_onnx, monkeypatch):
    import onnx_ir

    def lossy(*_):
        graph = onnx_ir.load(tiny_onnx)
        graph.graph.initializers["dec1.linear1.weight_pw"].name = "w"
        graph.graph.initializers["w"].const_value = onnx_ir.tensor(np.zeros((2, 16, 64), np.float32))
        return graph

    monkeypatch.setattr("export.graph.build_graph", lossy)
    with pytest.raises(ExportError, match=r"does not hold the weight dec1.linear1.weight_pw"):
        export_onnx(tiny_checkpoint, tmp_path / "model.onnx")


def test_weights_beyond_fp16_are_refused(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.get_parameter("enc2.linear1.weight_pw")[0, 0, 0] = 1e5
    with pytest.raises(ExportError, match=r"enc2.linear1.weight_pw has values beyond 65504"):
        export_onnx(write(tmp_path, model), tmp_path / "model.onnx", weights="fp16")


def test_an_existing_file_is_kept(tmp_path, tiny_checkpoint):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(ExportError, match="exists; use another name or `force`"):
        export_onnx(tiny_checkpoint, path)
    path.rename(tmp_path / "other.onnx.data")
    with pytest.raises(ExportError, match=r"other.onnx.data: exists"):
        export_onnx(tiny_checkpoint, tmp_path / "other.onnx")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"mine"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("file/model.onnx", {}, "file/model.onnx: cannot be written"),
        ("model.onnx", {"precision": "int8", "calibrate": Path("nowhere")}, "nowhere: no such folder.*`calibrate`"),
        ("model.onnx", {"precision": "fp16", "example": Path("nowhere")}, "nowhere: no mixture.*`example` takes"),
        ("model.onnx", {"opset": 24}, "opset 24; expected 20 to 23"),
        ("model.onnx", {"opset": 19}, "opset 19; expected 20 to 23"),
        ("model.onnx", {"weights": "int8"}, "weights int8; expected fp32 or fp16"),
        ("model.onnx", {"io": "spectrum"}, "`io` spectrum; expected network or waveform"),
        ("model.onnx", {"io": "waveform", "precision": "int8"}, "int8: a graph of the whole chain computes in fp32 or"),
        ("model.trt", {}, "expected a name that ends in .onnx"),
    ],
)
def test_what_cannot_succeed_is_refused_before_the_weights_are_read(
    tmp_path, tiny_checkpoint, monkeypatch, name, options, message
):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(to_onnx, "load_model", lambda source: pytest.fail("read"))
    with pytest.raises(FtError, match=message):
        export_onnx(tiny_checkpoint, tmp_path / name, **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("flags", [["--fp16", "--int8"], ["--bf16", "--fp16"]])
def test_two_precisions_contradict_each_other(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["export", "default", *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and all(flag in error for flag in (*flags, "contradict each other"))


@pytest.mark.parametrize("package", ["onnx_ir", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_tracing(tmp_path, tiny_checkpoint, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("export.graph.build_graph", lambda *_: pytest.fail("traced"))
    with pytest.raises(ExportError, match=rf"needs {package}, .*pip install 'frame-transformer\[train,cpu\]'"):
        export_onnx(tiny_checkpoint, tmp_path / "model.onnx")


def test_missing_packages_of_loading_and_comparing_are_named(tiny_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"needs onnx: pip install 'frame-transformer\[train\]'"):
        load_model(tiny_onnx)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'frame-transformer\[cpu\]'"):
        compare(tiny_onnx, tiny_model(), tiny_config(), "fp32", IO[0])


def test_command(tmp_path, stub, tiny_checkpoint, capsys):
    output = tmp_path / "model.onnx"
    main(["export", str(tiny_checkpoint), "-o", str(output)], standalone_mode=False)
    out, err = capsys.readouterr()
    steps = [line for line in err.splitlines() if "export" in line]
    assert steps == ["ft: export: tracing (1 of 2)", "ft: export: comparing (2 of 2)"]
    lines = out.splitlines()
    assert lines[0].startswith(f"{output}  ")
    assert lines[1] == f"{PARAMETERS:,} parameters, fp32, opset 23, {len(onnx.load(output).graph.node)} nodes"
    assert [line.split()[0] for line in lines[2:]] == ["relative_l2", "relative_l2_limit"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(SystemExit):
        main(["export", str(tiny_checkpoint), "-o", str(output)])
    assert "--force" in capsys.readouterr().err


def test_inputs_of_the_comparison_are_like_those_of_music():
    config = changed(tiny_config(), bins=512)
    inputs = synthetic_inputs(config)
    assert {name: (len(x["magnitude"]), x["magnitude"].shape[-1]) for name, x in inputs.items()} == SHAPES
    magnitude = inputs["usual"]["magnitude"]
    assert magnitude.shape == (1, 2, 512, 256) and magnitude.dtype == np.float32
    assert magnitude.min() >= 0 and magnitude.max() == 1
    assert (magnitude < 0.01).mean() > 0.5  # most of it is near silence,
    low, high = magnitude[:, :, :128].mean(), magnitude[:, :, 384:].mean()
    assert low > 5 * high > 0  # and the energy is low in frequency
    assert np.array_equal(magnitude, synthetic_inputs(config)["usual"]["magnitude"])
    fixed = synthetic_inputs(changed(tiny_config(), frames=12, multiple=4))
    assert {x["magnitude"].shape[-1] for x in fixed.values()} == {12}

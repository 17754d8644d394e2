"""Exports in fp16, bf16 and int8: what the files hold, how they sound, and what does not pass."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from networks import DENSE, random_input, tiny_config, tiny_model

from engines import load_engine
from export.calibration import RecordingEngine, calibration_windows
from export.example import read_example
from export.gate import judge, signal_to_noise
from export.limits import LIMITS, Limits, limits_of
from export.quantize import quantize
from export.to_onnx import _lowered, export_onnx
from ft.audio.open import read_audio
from ft.checkpoint import load_config, load_model, save_checkpoint
from ft.cli import main
from ft.errors import EngineError, ExportError, NotFinite
from ft.files import INT8_MODEL, model_path
from ft.info import describe_model
from ft.onnx_metadata import append_onnx_metadata, read_onnx_metadata
from ft.separate import Separator

HALF = onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def excerpt(excerpt_folder) -> np.ndarray:
    """Four seconds of the example as the shipped model takes them."""
    recording = RecordingEngine(load_config("default"))
    with Separator(recording) as separator:
        separator.separate(*read_audio(excerpt_folder / "mixture.flac"))
    (window,) = recording.inputs
    return window["magnitude"]


@pytest.fixture(scope="module")
def default_int8() -> Path:
    """The shipped model in int8, as `ft export` wrote it once."""
    return model_path(INT8_MODEL)


@pytest.mark.long
def test_the_shipped_model_in_int8_can_be_made_again(tmp_path, music, excerpt_folder):
    path = tmp_path / "default.int8.onnx"
    gate = export_onnx("default", path, precision="int8", calibrate=music / "pairs", example=excerpt_folder).gate
    assert gate["snr_db"] >= 25 and gate["sdr_loss_db"] <= 0.2
    calibration = describe_model(path)["calibration"]
    assert calibration["files"] == ["song/instrumental.flac", "song/mixture.flac"]
    assert 11 < calibration["seconds"] < 13
    test_int8_files_hold_eight_bits(path)


@pytest.fixture(scope="module")
def dense_bf16(tmp_path_factory, excerpt_folder) -> tuple[Path, Path]:
    """A checkpoint of the dense variant, and its file in bf16."""
    folder = tmp_path_factory.mktemp("bf16")
    model = tiny_model(tiny_config(**DENSE))
    save_checkpoint(folder / "dense.safetensors", model.state_dict(), model.model_config)
    options = {"precision": "bf16", "example": excerpt_folder}
    export_onnx(folder / "dense.safetensors", folder / "dense.bf16.onnx", **options)
    return folder / "dense.safetensors", folder / "dense.bf16.onnx"


def mask_of(model: Path | str, batch: np.ndarray, runtime: str = "onnxruntime") -> np.ndarray:
    with load_engine(model, runtime=runtime, device="cpu") as engine:
        return engine.run({"magnitude": batch})


def types_of(path: Path) -> dict[str, int]:
    """Element type of every tensor of a graph."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_fp16_computes_in_half_precision_where_it_matters(tiny_half, tiny_onnx):
    graph, types = onnx.load(tiny_half).graph, types_of(tiny_half)
    for kind in ("MatMul", "Conv", "Attention", "RotaryEmbedding", "LayerNormalization"):
        inputs = [name for node in graph.node if node.op_type == kind for name in node.input[:3] if name]
        expected = {HALF, onnx.TensorProto.INT64} if kind == "RotaryEmbedding" else {HALF}
        assert {types[name] for name in inputs} <= expected, kind
    assert {types[value.name] for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
    angles = [name for node in graph.node if node.op_type in ("Cos", "Sin") for name in node.input]
    assert angles and {types[name] for name in angles} == {onnx.TensorProto.FLOAT}
    half, single = (Counter(node.op_type for node in onnx.load(path).graph.node) for path in (tiny_half, tiny_onnx))
    assert half - Counter(Cast=half["Cast"]) == single - Counter(Cast=single["Cast"])  # each norm stays one node


def test_what_a_file_passed_stands_in_it(tiny_half, default_int8):
    # The shipped file is of the first format, which says of what the ratio is.
    for path, precision, snr in ((tiny_half, "fp16", "snr"), (default_int8, "int8", "mask_snr")):
        facts = describe_model(path)
        gate = facts["gate"]
        assert facts["precision"] == precision
        assert gate[f"{snr}_db"] >= gate[f"{snr}_limit_db"] == LIMITS[precision].snr_db
        assert gate["sdr_loss_db"] <= gate["sdr_loss_limit_db"] == LIMITS[precision].sdr_loss_db
        assert gate["finite"] and len({tuple(shape["shape"]) for shape in gate["shapes"]}) == 4
        assert "in_sample" not in gate and "source_precision" not in gate
        assert gate[f"{snr}_db"] == min(figures[f"{snr}_db"] for figures in gate["engines"].values())
    assert describe_model(tiny_half)["gate"]["engines"].keys() >= {f"torch {torch.__version__} cpu"}
    assert describe_model(default_int8)["calibration"]["files"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_sounds_like_fp32(default_int8, excerpt, runtime):
    ratio = signal_to_noise(mask_of(default_int8, excerpt, runtime), mask_of("default-fp32", excerpt))
    assert LIMITS["int8"].snr_db < ratio < 60  # more than int8 can give would be fp32


def test_int8_files_hold_eight_bits(default_int8):
    graph = onnx.load(default_int8).graph
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name.endswith("weight_pw_quantized")}
    assert len(weights) == sum(name.endswith("weight_pw") for name in load_model("default").state_dict())
    values = [onnx.numpy_helper.to_array(tensor) for tensor in weights.values()]
    assert {value.dtype for value in values} == {np.dtype(np.int8)}
    assert max(np.abs(value.astype(int)).max() for value in values) <= 64  # sums of two products stay within 16 bits
    products = [node for node in graph.node if node.op_type == "MatMul" and "weight_pw" in node.input[1]]
    made = {node.output[0]: node.op_type for node in graph.node}
    assert all(made[name] == "DequantizeLinear" for node in products for name in node.input)
    assert default_int8.stat().st_size < 20e6


def test_weights_come_back_from_lower_precision(tiny_half, tiny_checkpoint, default_int8):
    for path, source, expected in ((tiny_half, tiny_checkpoint, 60), (default_int8, "default", 20)):
        state, exact = load_model(path).state_dict(), load_model(source).state_dict()
        ratios = [signal_to_noise(state[name].numpy(), exact[name].numpy()) for name in exact if exact[name].numel()]
        assert min(ratios) > expected


def test_bf16_runs_where_there_are_kernels_for_it(dense_bf16):
    checkpoint, path = dense_bf16
    batch = random_input(load_config(path), 40).numpy()
    exact = mask_of(checkpoint, batch, "torch")
    assert LIMITS["bf16"].snr_db < signal_to_noise(mask_of(path, batch, "openvino"), exact) < 70
    with pytest.raises(EngineError, match=r"bf16.*openvino"):
        load_engine(path, runtime="onnxruntime", device="cpu").open()
    assert set(describe_model(path)["gate"]["engines"]) >= {f"torch {torch.__version__} cpu"}
    nodes = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert (nodes["Attention"], nodes["RotaryEmbedding"]) == (4, 8)


def test_a_network_that_overflows_in_half_does_not_pass(excerpt_folder):
    model = tiny_model()
    with torch.no_grad():
        model.dec1.linear1.weight_pw.mul_(3e4)  # finite in fp16 as weights, beyond it in the products
        model.dec1.linear2.weight_pw.mul_(3e4)
    with pytest.raises(NotFinite, match=r"torch \(fp16 on cpu\): tiny gave values that are not finite"):
        judge(None, model, model.model_config, "fp16", LIMITS["fp16"], read_example(excerpt_folder))


def test_a_weight_beyond_half_precision_is_named(excerpt_folder):
    model = tiny_model()
    with torch.no_grad():
        model.enc2.linear1.weight_pw[0, 0, 0] = 1e5
    with pytest.raises(ExportError, match=r"enc2.linear1.weight_pw has values beyond 65504"):
        judge(None, model, model.model_config, "fp16", LIMITS["fp16"], read_example(excerpt_folder))


def test_a_graph_of_other_weights_does_not_pass(tiny_onnx, excerpt_folder):
    with pytest.raises(
        ExportError, match=r"int8: the network's output has -?\d+\.\d dB .* at least 25 .*nothing was written"
    ):
        judge(
            tiny_onnx, tiny_model(seed=1), load_config(tiny_onnx), "int8", LIMITS["int8"], read_example(excerpt_folder)
        )


def test_lost_sound_does_not_pass(tiny_onnx, excerpt_folder):
    model = tiny_model()
    with pytest.raises(ExportError, match=r"loses -?[\d.]+ dB of SDR .* at most -1 are"):
        judge(tiny_onnx, model, model.model_config, "fp16", Limits(45, -1), read_example(excerpt_folder))


def test_limits_are_those_that_are_asked_for():
    assert limits_of("fp16", 50, None) == Limits(50, 0.02)
    assert limits_of("int8", None, 0.1) == Limits(25, 0.1)


def test_what_does_not_pass_is_not_written(tmp_path, tiny_half, tiny_checkpoint, excerpt_folder, traced):
    traced(tiny_half)
    with pytest.raises(ExportError, match="at least 200 are wanted"):
        options = {"mask_snr_db": 200, "example": excerpt_folder}
        export_onnx(tiny_checkpoint, tmp_path / "model.onnx", precision="fp16", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_fp32_graph_does_not_pass_for_less(tmp_path, tiny_onnx, tiny_checkpoint, traced, precision, excerpt_folder):
    traced(tiny_onnx)
    with pytest.raises(ExportError, match=rf"{precision}: MatMul \S+ would compute in float; nothing was written"):
        export_onnx(tiny_checkpoint, tmp_path / "model.onnx", precision=precision, example=excerpt_folder)
    assert not list(tmp_path.iterdir())


def test_a_graph_without_products_is_not_int8(tmp_path, tiny_onnx, music):
    songs = calibration_windows(music / "pairs", load_config(tiny_onnx), count=1)
    with pytest.raises(ExportError, match="no product to quantize"):
        quantize(tiny_onnx, tmp_path / "model.onnx", set(), songs)


def test_a_file_that_no_engine_runs_is_not_judged(tiny_onnx, monkeypatch, excerpt_folder):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    model = tiny_model()
    with pytest.raises(ExportError, match=r"bf16: no engine here .*pip install 'frame-transformer\[openvino\]'"):
        judge(tiny_onnx, model, model.model_config, "bf16", LIMITS["bf16"], read_example(excerpt_folder))


def test_int8_of_the_example_alone_says_so(tmp_path, tiny_onnx, tiny_checkpoint, traced, caplog, excerpt_folder):
    traced(tiny_onnx)
    song = {"calibrate": excerpt_folder, "example": excerpt_folder}
    numbers = {"opset": np.int64(23), "mask_snr_db": np.float32(25), "sdr_loss_db": np.float32(0.25)}
    with caplog.at_level("INFO", "export"):
        result = export_onnx(tiny_checkpoint, tmp_path / "model.onnx", precision="int8", **song, **numbers)
    begun = [record.getMessage() for record in caplog.records if record.getMessage().startswith("export: ")]
    assert [line.split()[1] for line in begun] == ["calibrating", "tracing", "quantizing", "comparing"]
    assert begun[-1].endswith("(4 of 4)") and result.gate["sdr_loss_limit_db"] == 0.25
    assert result.gate["in_sample"] and "judged by the song that calibrated it" in caplog.text
    assert _lowered(result.path) == "int8" and "its weights are int8" in caplog.text
    assert _lowered(tiny_onnx) == _lowered(tiny_checkpoint) == _lowered("default") == ""


def test_calibration_takes_songs_as_ft_separate_cuts_them(music):
    config = load_config("default")
    songs = calibration_windows(music, config, count=5)
    windows = [array for inputs in songs.inputs for array in inputs.values()]
    assert len(songs.inputs) == len(windows) == 5
    assert {window.shape[:3] for window in windows} == {(1, 2, config.front.used_bins)}
    assert all(0 < window.max() <= 1 and window.min() >= 0 for window in windows)
    assert songs.seconds == pytest.approx(5 * 4, rel=0.3)


def test_calibration_leaves_out_what_it_cannot_hear(tmp_path, music, caplog):
    soundfile.write(tmp_path / "a-silence.wav", np.zeros((44100, 2)), 44100)
    (tmp_path / "b-noise.wav").write_bytes(b"no sound" * 100)
    with pytest.raises(ExportError, match="none of its 2 audio files holds sound"):
        calibration_windows(tmp_path, load_config("default"))
    assert "b-noise.wav" in caplog.text
    (tmp_path / "c-music.flac").write_bytes((music / "instrumentals" / "0.flac").read_bytes())
    songs = calibration_windows(tmp_path, load_config("default"))
    assert (len(songs.inputs), songs.files) == (1, ["c-music.flac"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--int8", "--calibrate", "EMPTY"], "EMPTY.*a folder in --calibrate"),
        (["--int8", "--calibrate", "MISSING"], "MISSING.*a folder in --calibrate"),
        (["--fp16", "--example", "EMPTY"], "EMPTY.*--example takes a folder"),
        (["--fp16", "--weights", "fp16"], "leave --weights away"),
        (["--fp16", "--calibrate", "EMPTY"], "--calibrate is for int8"),
        (["--mask-snr", "90"], "--mask-snr: for fp16, bf16 and int8"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, tiny_checkpoint, monkeypatch, capsys, options, message):
    monkeypatch.setattr("export.graph.build_graph", lambda *_: pytest.fail("traced"))
    (tmp_path / "EMPTY").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["export", str(tiny_checkpoint), "-o", "out.onnx", *options])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and re.search(message, line)
    assert [entry.name for entry in tmp_path.iterdir()] == ["EMPTY"]


def test_metadata_is_added_behind_a_graph_that_stays_as_it_is(tmp_path, tiny_onnx):
    path = tmp_path / "model.onnx"
    before = tiny_onnx.read_bytes()
    path.write_bytes(before)
    added = {"short": "ä", "long": "x" * 20_000, "json": json.dumps({"a": [1, 2]})}
    append_onnx_metadata(path, added)
    assert path.read_bytes().startswith(before)
    assert read_onnx_metadata(path) == read_onnx_metadata(tiny_onnx) | added
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded)
    assert {entry.key: entry.value for entry in loaded.metadata_props}.items() >= added.items()

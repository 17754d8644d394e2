"""`ft info`: the same facts of a preset, a checkpoint and an exported model, without the heavy libraries."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from networks import DENSE, PARAMETERS, tiny_config, tiny_model

from ft.checkpoint import save_checkpoint
from ft.cli import main
from ft.errors import CheckpointError
from ft.files import model_path
from ft.info import describe_model
from ft.onnx_metadata import read_onnx_metadata
from ft.settings import presets

KEYS = {
    "kind",
    "path",
    "parameters",
    "precision",
    "sample_rate",
    "n_fft",
    "hop_length",
    "stems",
    "network",
    "output",
    "license",
}


@pytest.mark.parametrize("name", presets())
def test_every_preset(name):
    facts = describe_model(name)
    assert facts.keys() >= KEYS
    assert (facts["kind"], facts["name"]) == ("preset", name)
    assert facts["parameters"] > 0


def test_the_same_network_in_three_forms(tiny_checkpoint, tiny_onnx):
    preset, checkpoint, onnx = (describe_model(source) for source in ("tiny", tiny_checkpoint, tiny_onnx))
    assert [facts["kind"] for facts in (preset, checkpoint, onnx)] == ["preset", "checkpoint", "onnx"]
    assert (checkpoint["path"], onnx["path"]) == (str(tiny_checkpoint), str(tiny_onnx))
    for facts in (preset, checkpoint, onnx):
        assert facts["parameters"] == PARAMETERS
        assert facts["precision"] == "fp32"
        assert (facts["sample_rate"], facts["n_fft"], facts["hop_length"]) == (44100, 1024, 512)
        assert (facts["stems"], facts["output"]) == (["vocals", "instrumental"], "mask")


def test_a_configuration_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {preset: tiny, license: CC0-1.0}\n")
    facts = describe_model(path)
    assert (facts["kind"], facts["license"], facts["parameters"]) == ("configuration", "CC0-1.0", PARAMETERS)


def test_fixed_frequencies_are_no_parameters(tmp_path):
    model = tiny_model(tiny_config(**DENSE))
    path = tmp_path / "model.safetensors"
    state = {name: value.half() for name, value in model.state_dict().items()}
    save_checkpoint(path, state, model.model_config)
    facts = describe_model(path)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["precision"] == "fp16"


def test_files_are_described_without_torch_onnx_and_numpy(tiny_checkpoint, tiny_onnx):
    code = (
        "import sys; from ft.info import describe_model; "
        f"print([describe_model(p)['parameters'] for p in ({str(tiny_checkpoint)!r}, {str(tiny_onnx)!r})]); "
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str([PARAMETERS, PARAMETERS]), "[]"]


def test_without_torch_a_preset_is_described_without_its_number_of_parameters(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert describe_model("tiny")["parameters"] is None
    assert "pip install 'frame-transformer[train]'" in caplog.text


def test_command_prints_two_columns_or_json(tiny_onnx, capsys):
    main(["info", str(tiny_onnx)], standalone_mode=False)
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() >= KEYS
    assert (lines["stems"], lines["n_fft"]) == ("vocals, instrumental", "1024")
    main(["info", str(tiny_onnx), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == describe_model(tiny_onnx)


def test_an_unknown_name_lists_the_presets(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["info", "tyni"])
    assert caught.value.code == 1
    assert "tyni: no such file or preset; presets are base, " in capsys.readouterr().err


def test_the_default_is_the_shipped_model():
    path = model_path("default")
    assert (path.parent.name, path.name) == ("assets", "default.onnx")
    facts = describe_model("default")
    assert (facts["kind"], facts["path"], facts["network"]) == ("onnx", str(path), "frame-transformer")


@pytest.mark.parametrize("content", [b"RIFF of a song", b"\x72\x04ab", bytes([0x72, 0xFF]), b"\x0b"])
def test_a_file_that_is_no_onnx_model_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.onnx: (not an ONNX model|holds no configuration)"):
        describe_model(path)


def test_metadata_is_what_onnx_reads(tiny_onnx):
    import onnx

    proto = onnx.load(tiny_onnx)
    assert read_onnx_metadata(tiny_onnx) == {entry.key: entry.value for entry in proto.metadata_props}


def test_an_onnx_model_of_others_is_refused(tmp_path):
    import onnx
    from onnx import helper

    node = helper.make_node("Identity", ["a"], ["b"])
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:])), path)
    with pytest.raises(CheckpointError, match="holds no configuration"):
        describe_model(path)

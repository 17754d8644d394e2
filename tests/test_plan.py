"""Manifests of plans: written first, read anywhere, and believed only where the engine is the one they name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from networks import format_1
from test_tensorrt_engine import CONFIG, manifest

import engines.plan
import engines.tensorrt_library
from engines.devices import Gpu, Gpus
from engines.plan import check_plan, manifest_path, model_sha256, read_manifest, read_plan, rebuild_command, write_plan
from ft.cli import main
from ft.errors import CheckpointError
from ft.info import describe_model

GATE = {"engine": "onnxruntime 1.31.1", "snr_db": 57.1, "finite": True, "shapes": [[1, 2, 32, 40]]}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "model.plan"
    write_plan(path, b"an engine", manifest(gate=GATE))
    return path


def test_what_is_written_is_read(plan):
    read = check_plan(plan)
    assert read == manifest(gate=GATE, plan_sha256=read.plan_sha256)
    assert plan.read_bytes() == b"an engine"  # nothing around the engine
    limits = {"mask-snr": 30.0, "example": "a song"}
    waveform = manifest(io="waveform", context={"window": 9}, segment_seconds=3.5, kind="rtx", gate=None, limits=limits)
    write_plan(plan, b"another", waveform)
    read, engine = read_plan(plan)
    assert (read.context, read.limits, engine) == ({"window": 9}, limits, b"another")
    assert read == check_plan(plan)


def test_the_manifest_comes_first_and_a_crash_between_leaves_no_pair_that_fits(plan, monkeypatch):
    written = []
    real = engines.plan.atomic_write

    def crashes(path):
        written.append(path.name)
        if path.name == "model.plan":
            raise OSError("the power went")
        return real(path)

    monkeypatch.setattr(engines.plan, "atomic_write", crashes)
    with pytest.raises(OSError, match="the power went"):
        write_plan(plan, b"a new engine", manifest())
    assert written == ["model.plan.json", "model.plan"]
    assert plan.read_bytes() == b"an engine"
    for read in (check_plan, read_plan):
        with pytest.raises(CheckpointError, match="another SHA-256"):
            read(plan)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a manifest that `ft export` wrote"),
        ("{", "not a manifest that `ft export` wrote"),
        ("[]", "not a manifest that `ft export` wrote"),
        ('{"format": 1}', "no 'tensorrt'"),
        ('{"format": 7}', "format 7, this ft .* reads up to 2"),
        ("\x00", "not a manifest"),
    ],
)
def test_an_unreadable_manifest_is_refused_in_one_line(plan, text, message):
    manifest_path(plan).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_manifest(plan)
    assert "model.plan.json" in str(caught.value) and "ft export MODEL" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["sha256", "model", "tensorrt", "targets", "profiles", "config", "window", "gate"])
def test_a_manifest_that_lacks_something_is_refused(plan, key):
    path = manifest_path(plan)
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"no '{key}'"):
        read_manifest(plan)


def test_the_command_builds_the_same_plan_again(plan):
    read = read_manifest(plan)
    assert rebuild_command(read, plan) == (
        f"ft export song.safetensors --fp16 --tensorrt full --batch 2 --force -o {plan}"
    )
    other = manifest(kind="rtx", precision="fp32", io="waveform", batch=1, segment_seconds=5.0, model="my song.onnx")
    assert rebuild_command(other, plan, "sm89") == (
        f"ft export 'my song.onnx' --io waveform --tensorrt rtx --segment-seconds 5 --target sm89 --force -o {plan}"
    )
    judged = manifest(limits={"mask-snr": 30.5, "sdr-loss": 0.1, "example": "my song"})
    assert "--batch 1 " not in rebuild_command(judged, plan, batch=1)
    assert rebuild_command(judged, plan).startswith(
        "ft export song.safetensors --fp16 --tensorrt full --batch 2 --mask-snr 30.5 --sdr-loss 0.1 "
        "--example 'my song' --force"
    )


def test_a_manifest_of_the_first_format_is_read(plan):
    """Also one of before limits were kept."""
    path, new = manifest_path(plan), check_plan(plan)
    values = json.loads(path.read_text())
    del values["limits"]
    gate = {"mask_snr_db": 57.1, "finite": True}
    old = {"format": 1, "io": "magnitude", "gate": gate, "config": format_1(CONFIG)}
    path.write_text(json.dumps(values | old))
    read = check_plan(plan)
    assert read == dataclasses.replace(new, gate=gate, config=read.config)
    for part in ("front", "output", "all_stems", "sample_rate", "reads"):
        assert getattr(read.config, part) == getattr(CONFIG, part)


def test_a_model_with_weights_beside_it_has_the_hash_of_both(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"graph")
    alone = model_sha256(model)
    (tmp_path / "model.onnx.data").write_bytes(b"weights")
    assert model_sha256(model) != alone


def test_info_describes_a_plan_anywhere(plan, capsys):
    main(["info", str(plan), "--json"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["precision"], facts["targets"]) == ("tensorrt", "fp16", ["sm86"])
    assert facts["tensorrt"] == {"kind": "full", "version": "11.0.0.1"}
    assert [profile["name"] for profile in facts["profiles"]] == ["window", "tail"]
    assert facts["profiles"][1]["inputs"]["magnitude"]["min"] == [1, 2, 32, 1]
    assert (facts["gate"], facts["parameters"], facts["license"]) == (GATE, 1234, CONFIG.license)
    assert facts["attentions"] == {"fused": 4, "decomposed": 1}
    main(["info", str(plan)], standalone_mode=False)
    assert "min 1 x 2 x 32 x 1" in capsys.readouterr().out


def test_info_says_whether_a_plan_runs_here(plan, monkeypatch):
    from types import SimpleNamespace

    found = Gpus(reason="no GPU found")
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: found)
    facts = describe_model(plan)
    assert facts["runs_here"] is False and "no GPU found" in facts["why_not"]
    found = Gpus((Gpu(0, "NVIDIA A", (8, 6), 2**33),))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "pip install 'frame-transformer[tensorrt]'" in describe_model(plan)["why_not"]
    module = SimpleNamespace(__version__="11.0.0.1", Runtime=object)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert (describe_model(plan)["runs_here"], describe_model(plan)["why_not"]) == (True, None)
    module.__version__ = "11.0.0.2"
    assert "built by TensorRT 11.0.0.1, and 11.0.0.2 is installed" in describe_model(plan)["why_not"]
    module.__version__ = "9.3.0"
    assert "too old" in describe_model(plan)["why_not"]


def test_describing_a_plan_loads_nothing_heavy(plan):
    code = (
        f"import sys; from ft.info import describe_model; describe_model({str(plan)!r}); "
        "print([n for n in ('torch', 'onnx', 'onnxruntime', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["info"], ["separate", "song.wav", "--engine"]])
def test_commands_refuse_a_damaged_plan_in_one_line(plan, capsys, arguments):
    write_plan(plan, b"an engine", manifest(frames=5000))
    plan.write_bytes(b"an eng")
    with pytest.raises(SystemExit) as caught:
        main([*arguments, str(plan)])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "another SHA-256" in error and "ft export song.safetensors --fp16" in error
    assert error.count("\n") == 1

"""From a model to a plan: what is refused first, what the file's gate must show, and plans that are kept."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path

import pytest
from networks import with_metadata

import engines.plan_cache
import engines.tensorrt_build
import engines.tensorrt_library
import export.to_tensorrt
from engines.devices import Gpu, Gpus
from engines.plan import write_plan
from engines.plan_cache import cache_folder, cached_plan
from engines.tensorrt_build import make_profiles, read_exported
from engines.tensorrt_library import library
from export.to_tensorrt import build_plan
from ft.checkpoint import GATE_KEY
from ft.cli import main
from ft.errors import EngineError, ExportError, FtError

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this system")


GATE = {"snr_db": 60.0, "snr_limit_db": 45.0, "sdr_loss_db": 0.001, "sdr_loss_limit_db": 0.02, "finite": True}
"""What an fp16 file that passed says of its comparison."""
FIRST = {"mask_snr_db": 57.0, "sdr_loss_db": 0.001, "finite": True}
"""What a file of the first format says."""


@pytest.fixture
def asked(tiny_plan, monkeypatch):
    """What `build_plan` asks of the build, which does not happen."""
    settings = {}

    def plan_from(model, output, **given):
        settings.update(given, model=model, output=output)
        return tiny_plan[0]

    monkeypatch.setattr(export.to_tensorrt, "plan_from_onnx", plan_from)
    return settings


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"targets": ["sm90"]}, ExportError, r"target sm90: TensorRT-RTX .* builds for sm75, sm80, sm86"),
        ({"targets": ["8.6"]}, ExportError, "target 8.6: "),
        ({"precision": "int8"}, ExportError, r"precision int8: plans are fp16, bf16 or fp32"),
        ({"segment_seconds": 0}, ExportError, "`segment_seconds` 0: expected a number above 0"),
        ({"precision": "bf16", "segment_seconds": 0}, ExportError, "`segment_seconds` 0: expected a number above 0"),
        ({"output": f"{__file__}/a.plan"}, FtError, r"a\.plan: cannot be written"),
        ({"output": "a.engine"}, ExportError, r"a\.engine: expected a name that ends in \.plan"),
    ],
)
def test_arguments_that_cannot_be_used(tiny_half, tmp_path, monkeypatch, arguments, error, message):
    for work in ("export_onnx", "plan_from_onnx"):
        monkeypatch.setattr(export.to_tensorrt, work, lambda *_, **__: pytest.fail("began"))
    settings = {"kind": "rtx", "output": "a.plan", **arguments}
    with pytest.raises(error, match=message) as caught:
        build_plan(tiny_half, tmp_path / settings.pop("output"), **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_full_tensorrt_says_what_brings_it(tiny_half, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"TensorRT is not installed; pip install 'frame-transformer\[tensorrt\]'"):
        build_plan(tiny_half, tmp_path / "a.plan", kind="full")


def test_an_output_that_exists_is_kept(tiny_plan, tiny_half):
    path = tiny_plan[0].path
    before = path.stat().st_mtime_ns
    with pytest.raises(ExportError, match=r"tiny\.plan: exists; use another name or `force`"):
        build_plan(tiny_half, path, kind="rtx")
    assert path.stat().st_mtime_ns == before


def test_the_command_builds_a_plan(tiny_half, asked, tmp_path, capsys):
    command = ["export", str(tiny_half), "--fp16", "--tensorrt", "rtx", "--target", "sm86", "--target", "sm120"]
    main([*command, "--batch", "4", "--segment-seconds", "5", "-o", str(tmp_path / "a.plan")], standalone_mode=False)
    assert asked["model"] == tiny_half  # which is fp16 already
    assert (asked["targets"], asked["batch"], asked["precision"]) == (("sm86", "sm120"), 4, "fp16")
    assert (asked["frames"], asked["segment_seconds"]) == (round(5 * 44100 / 512), 5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("sm89, sm86") and lines[2].endswith("taken apart")


@pytest.mark.parametrize(
    ("gate", "options", "message"),
    [
        (
            None,
            {},
            r"nothing says how it compares with fp32 \(no mask_snr_db in its ft_gate\); export it again with `ft",
        ),
        ("null", {}, "nothing says how it compares"),
        ("[]", {}, "nothing says how it compares"),
        ({**GATE, "finite": False}, {}, "nothing says how it compares"),
        ({**GATE, "sdr_loss_db": "little"}, {}, r"nothing says .* \(no sdr_loss_db in"),
        ({**GATE, "snr_db": 44.9}, {}, r"its output had 44\.9 dB .* at least 45 are wanted \(`mask_snr_db`\)"),
        (FIRST, {"mask_snr_db": 57.5}, r"its output had 57\.0 dB .* at least 57\.5 are wanted"),
        ({**GATE, "snr_db": float("nan")}, {}, "its output had nan dB"),
        (GATE, {"mask_snr_db": 60.5}, r"its output had 60\.0 dB .* at least 60\.5 are wanted"),
        ({**GATE, "sdr_loss_db": 0.03}, {}, r"lost 0\.030 dB of SDR .* at most 0\.02 are allowed \(`sdr_loss_db`\)"),
        (GATE, {"sdr_loss_db": 0.0}, r"lost 0\.001 dB of SDR .* at most 0 are"),
        (GATE, {"example": Path("song")}, "`example`: .* was compared when it was exported; export the checkpoint"),
    ],
)
def test_a_file_that_is_built_as_it_is_shows_a_gate_that_it_passed(tiny_half, tmp_path, asked, gate, options, message):
    text = gate if gate is None or isinstance(gate, str) else json.dumps(gate)
    model = with_metadata(tiny_half, tmp_path / "half.onnx", **{GATE_KEY: text})
    with pytest.raises(ExportError, match=message) as caught:
        build_plan(model, tmp_path / "a.plan", kind="rtx", precision="fp16", **options)
    assert "\n" not in str(caught.value)
    assert not asked


@pytest.mark.parametrize("gate", [{**GATE, "snr_db": 40.0}, FIRST])
def test_other_limits_are_looked_at_and_kept(tiny_half, tmp_path, asked, gate):
    model = with_metadata(tiny_half, tmp_path / "half.onnx", **{GATE_KEY: json.dumps(gate)})
    build_plan(model, tmp_path / "a.plan", kind="rtx", mask_snr_db=35.0)
    assert (asked["model"], asked["limits"]) == (model, {"mask-snr": 35.0})


def test_a_file_in_fp32_shows_that_it_equals_pytorch(tiny_onnx, tiny_waveform, tmp_path, asked):
    for model in (tiny_onnx, tiny_waveform):
        build_plan(model, tmp_path / "a.plan", kind="rtx")
        assert (asked["model"], asked["limits"]) == (model, {})
        asked.clear()
        with pytest.raises(ExportError, match="`mask_snr_db` and `sdr_loss_db` are for fp16 and bf16"):
            build_plan(model, tmp_path / "a.plan", kind="rtx", mask_snr_db=50.0)
        gate = {**read_exported(model).gate, "relative_l2": 1e-3, "stems_snr_db": 20.0}
        far = with_metadata(model, tmp_path / "far.onnx", **{GATE_KEY: json.dumps(gate)})
        with pytest.raises(ExportError, match="says that it does not equal PyTorch; nothing was built"):
            build_plan(far, tmp_path / "a.plan", kind="rtx")
        bare = with_metadata(model, tmp_path / "bare.onnx", **{GATE_KEY: None})
        with pytest.raises(ExportError, match="nothing says how it compares"):
            build_plan(bare, tmp_path / "a.plan", kind="rtx")
    assert not asked


@pytest.mark.parametrize(("precision", "built"), [("fp32 (int8 weights)", "fp32"), ("int8", None), ("fp8 (x)", None)])
def test_what_the_weights_have_lost_does_not_change_what_is_computed(
    tiny_onnx, tmp_path, monkeypatch, precision, built
):
    model = with_metadata(tiny_onnx, tmp_path / "a.onnx", ft_precision=precision)
    monkeypatch.setattr(engines.tensorrt_build, "_build", lambda *_: b"an engine")
    if built is None:
        with pytest.raises(ExportError, match="plans are fp16, bf16 or fp32"):
            build_plan(model, tmp_path / "a.plan", kind="rtx")
    else:
        assert build_plan(model, tmp_path / "a.plan", kind="rtx").manifest.precision == built


def test_the_full_tensorrt_without_a_gpu_says_what_else_there_is(tiny_half, tmp_path, monkeypatch):
    module = types.SimpleNamespace(__version__="11.0.0.1", Runtime=object)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: Gpus(reason="no GPU found (no driver)"))
    with pytest.raises(EngineError, match=r"^no GPU found \(no driver\); use `tensorrt` rtx, or build on the machine"):
        build_plan(tiny_half, tmp_path / "a.plan", kind="full")


def test_a_model_in_another_precision_is_exported_first(tiny_onnx, tiny_plan, tmp_path, monkeypatch):
    exported = []

    def export_onnx(source, output, **settings):
        exported.append((source, settings["precision"], settings["io"]))
        output.write_bytes(tiny_onnx.read_bytes())

    monkeypatch.setattr(export.to_tensorrt, "export_onnx", export_onnx)
    with pytest.raises(ExportError, match="no fp16 network"):  # what came out of it is looked at again
        build_plan(tiny_onnx, tmp_path / "a.plan", kind="rtx", precision="fp16")
    assert exported == [(tiny_onnx, "fp16", "network")]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--target", "sm86"], ["--batch", "2"], ["--tensorrt", "rtx", "--opset", "20"]])
def test_options_that_do_not_go_together(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["export", "default", *options])
    assert caught.value.code == 2
    assert "are for" in capsys.readouterr().err


@pytest.fixture
def one_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpus = Gpus((Gpu(0, "NVIDIA A", (8, 6), 2**33),))
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: gpus)


@pytest.fixture
def built(one_gpu, tiny_plan, monkeypatch):
    """What `cached_plan` asks of each build, which only writes a file."""
    asked = []

    def build(model, output, **settings):
        asked.append(settings)
        write_plan(output, b"an engine", tiny_plan[0].manifest)
        return tiny_plan[0]

    monkeypatch.setattr(engines.plan_cache, "plan_from_onnx", build)
    return asked


def test_a_cached_plan_is_built_once_and_keyed_by_all_that_matters(built, tiny_half, tmp_path, monkeypatch):
    first = cached_plan(tiny_half, windows=(1, 30))
    assert first.parent == cache_folder() / "plans" == tmp_path / "cache" / "frame-transformer" / "plans"
    (settings,) = built
    assert (settings["kind"], settings["targets"], settings["batch"], settings["frames"]) == ("rtx", ("sm86",), 1, 30)
    assert cached_plan(tiny_half, windows=(1, 30)) == first and len(built) == 1
    first.write_bytes(b"an engin")  # a damaged one is built again
    assert cached_plan(tiny_half, windows=(1, 30)) == first and len(built) == 2

    others = {first, cached_plan(tiny_half, windows=(2, 30)), cached_plan(tiny_half, windows=(1, 31))}
    changed = tmp_path / "fp16.onnx"
    changed.write_bytes(tiny_half.read_bytes() + b"\x72\x06\x0a\x01a\x12\x01b")  # one entry of metadata more
    others.add(cached_plan(changed, windows=(1, 30)))
    with monkeypatch.context() as other:
        other.setattr(engines.plan_cache, "__version__", "99")
        others.add(cached_plan(tiny_half, windows=(1, 30)))
    with monkeypatch.context() as other:
        other.setattr(library("rtx"), "__version__", "1.99.0.0")
        others.add(cached_plan(tiny_half, windows=(1, 30)))
    with monkeypatch.context() as other:
        gpus = Gpus((Gpu(0, "NVIDIA B", (8, 9), 2**33),))
        other.setattr(engines.tensorrt_library, "find_gpus", lambda: gpus)
        others.add(cached_plan(tiny_half, windows=(1, 30)))
    assert len(others) == 7


def test_a_cached_plan_of_a_file_without_a_gate_is_told(built, tiny_half, tmp_path, caplog):
    cached_plan(tiny_half, windows=(1, 30))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    bare = with_metadata(tiny_half, tmp_path / "bare.onnx", **{GATE_KEY: None})
    cached_plan(bare, windows=(1, 30))
    (warned,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == f"{bare}: nothing says how it compares with fp32; export it again with `ft export`"


def test_a_cached_plan_of_a_mono_network_counts_items(built, tiny_half, monkeypatch):
    """The caller counts items, the plan windows of a stereo song, which are two items each."""
    facts = read_exported(tiny_half)
    mono = dataclasses.replace(facts.config, channels=1)
    monkeypatch.setattr(engines.plan_cache, "read_exported", lambda path: dataclasses.replace(facts, config=mono))
    for windows in (None, (4, 30), (3, 31)):
        cached_plan(tiny_half, windows=windows)
    assert [settings["batch"] for settings in built] == [1, 2, 2]
    window, tail = make_profiles(dataclasses.replace(facts, config=mono), 2, 30)
    assert window.inputs["magnitude"] == ((4, 1, 64, 30),) * 3
    assert tail.inputs["magnitude"] == ((1, 1, 64, 1), (2, 1, 64, 30), (4, 1, 64, 30))


def test_a_gpu_that_rtx_does_not_know_needs_the_full_tensorrt(one_gpu, tiny_half, monkeypatch):
    gpus = Gpus((Gpu(0, "NVIDIA H", (9, 0), 2**33),))
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: gpus)
    with pytest.raises(EngineError, match=r"builds no plans for sm90; pip install 'frame-transformer\[tensorrt\]'"):
        cached_plan(tiny_half)


def test_without_a_gpu_no_plan_is_cached(tiny_half, monkeypatch):
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: Gpus(reason="no GPU found"))
    with pytest.raises(EngineError, match="no GPU found"):
        cached_plan(tiny_half)

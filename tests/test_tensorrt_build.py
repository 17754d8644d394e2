"""Plans built by TensorRT-RTX, which needs no GPU for it: the tiny network, and the model that ships."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import types
from pathlib import Path

import pytest
import torch
from networks import tiny_model

import engines.plan_cache
import engines.tensorrt_build
import engines.tensorrt_library
import export.to_tensorrt
import ft.separate
import ft.windows
from engines.devices import Gpu, Gpus
from engines.plan_cache import cache_folder, cached_plan
from engines.tensorrt_build import DEFAULT_TARGETS, make_profiles, plan_from_onnx, read_model, window_frames
from engines.tensorrt_library import library
from engines.tensorrt_network import check_precision, decompose, parse
from export.to_tensorrt import build_plan
from ft.checkpoint import CONFIG_KEY, GATE_KEY, load_config
from ft.cli import main
from ft.errors import EngineError, ExportError
from ft.files import model_path
from ft.info import describe_model
from ft.plan import check_plan, file_sha256, manifest_path, write_plan
from ft.windows import WindowPlan

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this system")

GATE = {"mask_snr_db": 60.0, "mask_snr_limit_db": 45.0, "sdr_loss_db": 0.001, "sdr_loss_limit_db": 0.02, "finite": True}


@pytest.fixture(scope="session")
def tiny_half(tmp_path_factory):
    """The tiny network as an fp16 ONNX file, and the same file that says bf16 and lies."""
    import onnx_ir

    from export.graph import build_graph

    model = tiny_model()
    folder = tmp_path_factory.mktemp("half")
    graph = build_graph(model, model.model_config, 23, torch.float16)
    graph.metadata_props.update({"ft_io": "magnitude", "ft_parameters": "263177", GATE_KEY: json.dumps(GATE)})
    for precision in ("fp16", "bf16"):
        graph.metadata_props["ft_precision"] = precision
        graph.metadata_props[CONFIG_KEY] = json.dumps(model.model_config.to_dict())
        onnx_ir.save(graph, folder / f"{precision}.onnx")
    return folder / "fp16.onnx"


@pytest.fixture(scope="session")
def tiny_plan(tiny_half, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "tiny.plan"
    progress: list[float] = []
    built = build_plan(tiny_half, path, kind="rtx", targets=["sm89", "sm86"], batch=4, progress=progress.append)
    return built, progress


def test_a_plan_says_what_it_is(tiny_plan, tiny_half):
    built, _ = tiny_plan
    manifest = check_plan(built.path)
    assert manifest == built.manifest
    assert (manifest.kind, manifest.version) == ("rtx", library("rtx").__version__)
    assert (manifest.precision, manifest.targets, manifest.batch) == ("fp16", ("sm89", "sm86"), 4)
    assert (manifest.model, manifest.model_sha256) == (str(tiny_half), file_sha256(tiny_half))
    assert manifest.config == load_config(tiny_half)
    assert built.bytes == built.path.stat().st_size


def with_metadata(source, path, **changes):
    """A copy of an exported file with other entries in its metadata; None takes one away."""
    import onnx

    model = onnx.load(source)
    props = {entry.key: entry.value for entry in model.metadata_props} | changes
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: value for key, value in props.items() if value is not None})
    onnx.save(model, path)
    return path


@pytest.fixture
def asked(tiny_plan, monkeypatch):
    """What `build_plan` asks of the build, which does not happen."""
    settings = {}

    def plan_from(model, output, **given):
        settings.update(given, model=model, output=output)
        return tiny_plan[0]

    monkeypatch.setattr(export.to_tensorrt, "plan_from_onnx", plan_from)
    return settings


def test_one_profile_for_the_window_and_one_for_the_tail(tiny_plan):
    window, tail = tiny_plan[0].manifest.profiles
    frames = window_frames(tiny_plan[0].manifest.config)
    assert window.inputs["magnitude"] == ((4, 2, 64, frames),) * 3
    assert tail.inputs["magnitude"] == ((1, 2, 64, 1), (1, 2, 64, frames), (4, 2, 64, frames))
    assert window.takes({"magnitude": (4, 2, 64, frames)}) and not window.takes({"magnitude": (3, 2, 64, frames)})
    assert tail.takes({"magnitude": (3, 2, 64, 1)}) and not tail.takes({"magnitude": (1, 2, 64, frames + 1)})


def test_the_window_is_that_of_ft_separate():
    config = load_config("default")
    rate = config.audio.sample_rate / config.audio.hop_length
    usual = ft.windows.usual_window_seconds(config), ft.separate.CONTEXT_SECONDS, ft.separate.OVERLAP
    assert window_frames(config) == WindowPlan.from_seconds(*usual, rate).frames
    assert window_frames(config, 5) == WindowPlan.from_seconds(5, 1, 0.05, rate).frames


def test_progress_grows_to_the_end(tiny_plan):
    _, progress = tiny_plan
    assert len(progress) > 10
    assert all(0 <= share <= 1 for share in progress)
    assert progress == sorted(progress) and progress[-1] > 0.5


def test_an_interrupt_stops_the_build_and_writes_nothing(tiny_half, tmp_path):
    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(tiny_half, tmp_path / "a.plan", kind="rtx", targets=["sm86"], progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_attentions_without_a_kernel_are_taken_apart(tiny_plan, tiny_half, tiny_onnx):
    # The heads of the tiny network are 8 to 32 wide in places; fp16 has kernels from 16 on, fp32 none.
    half = parse(library("rtx"), tiny_half)
    fused, decomposed = decompose(half)
    widths = [layer.get_input(0).shape[-1] for layer in half.attentions()]
    assert fused == sum(width in (16, 32, 64, 128) for width in widths)
    assert decomposed == len(widths) - fused > 0
    assert [layer.attention.decomposable for layer in half.attentions()] == [width < 16 for width in widths]
    assert (tiny_plan[0].manifest.fused, tiny_plan[0].manifest.decomposed) == (fused, decomposed)
    assert decompose(parse(library("rtx"), tiny_onnx)) == (0, len(widths))


def test_precision_is_that_of_the_parsed_network(tiny_half, tiny_onnx, tmp_path):
    half, single = (parse(library("rtx"), path) for path in (tiny_half, tiny_onnx))
    assert check_precision(half, "fp16") == check_precision(single, "fp32") > 100
    for network, precision in ((single, "fp16"), (half, "fp32"), (half, "bf16")):
        with pytest.raises(ExportError, match=rf"^\w+ \(\w+\) computes in (float|half), so this is no {precision} net"):
            check_precision(network, precision)
    frames = 30
    with pytest.raises(ExportError, match="no fp16 network"):
        plan_from_onnx(tiny_onnx, tmp_path / "a.plan", kind="rtx", frames=frames, precision="fp16")
    liar = tiny_half.with_name("bf16.onnx")
    with pytest.raises(ExportError, match="computes in half, so this is no bf16 network"):
        build_plan(liar, tmp_path / "a.plan", kind="rtx")
    assert not list(tmp_path.iterdir())


def test_transforms_around_a_network_are_no_part_of_its_precision(tiny_onnx, tiny_waveform):
    plain, whole = (parse(library("rtx"), path) for path in (tiny_onnx, tiny_waveform))
    transforms = [layer for layer in whole.layers() if layer.name.startswith(("stft", "istft"))]
    assert {"MATRIX_MULTIPLY"} <= {layer.type.name for layer in transforms}
    assert check_precision(whole, "fp32") == check_precision(plain, "fp32")
    with pytest.raises(ExportError, match=r"^(?!i?stft)\w+ \(\w+\) computes in float, so this is no fp16"):
        check_precision(whole, "fp16")


def test_a_model_of_waveforms_takes_the_window_that_its_file_names(tiny_waveform):
    model = read_model(tiny_waveform)
    window, tail = make_profiles(model, 3, window_frames(model.config))
    assert window.inputs["waveform"][1] == (3, 2, model.context["window"])
    assert tail.inputs["waveform"][0] == (1, 2, model.context["smallest"])
    assert (window.inputs["scale"][1], tail.inputs["scale"]) == ((3,), ((1,), (1,), (3,)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"targets": ["sm90"]}, ExportError, r"target sm90: TensorRT-RTX .* builds for sm75, sm80, sm86"),
        ({"targets": ["8.6"]}, ExportError, "target 8.6: "),
        ({"precision": "int8"}, ExportError, r"precision int8: plans are fp16, bf16 or fp32"),
        ({"window_seconds": 0}, ExportError, "window: 0 seconds"),
        ({"output": "a.engine"}, ExportError, r"a\.engine: expected a name that ends in \.plan"),
    ],
)
def test_arguments_that_cannot_be_used(tiny_half, tmp_path, arguments, error, message):
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
    with pytest.raises(ExportError, match=r"tiny\.plan: exists; use another name or --force"):
        build_plan(tiny_half, path, kind="rtx")
    assert path.stat().st_mtime_ns == before


def test_a_file_tensorrt_cannot_read_is_named(tmp_path, tiny_half):
    broken = tmp_path / "broken.onnx"
    data = tiny_half.read_bytes()
    broken.write_bytes(data.replace(b"RotaryEmbedding", b"RotaryEmbeddinh"))
    with pytest.raises(ExportError, match=r"broken\.onnx: tensorrt_rtx\w* [\d.]+ cannot read it: .*RotaryEmbeddinh"):
        plan_from_onnx(broken, tmp_path / "a.plan", kind="rtx", frames=30)


def test_an_attention_whose_kernel_is_missing_does_not_fail_the_build(tiny_half, tmp_path, monkeypatch, caplog):
    """As on a TensorRT with fewer kernels than expected: the second try takes all of them apart."""
    tries = []

    def build(network, *_):
        decomposable = [layer.attention.decomposable for layer in network.attentions()]
        tries.append(decomposable)
        if not all(decomposable):
            raise ExportError("no implementation for the attention")
        return b"an engine"

    monkeypatch.setattr(engines.tensorrt_build, "_build", build)
    with caplog.at_level(logging.WARNING):
        built = plan_from_onnx(tiny_half, tmp_path / "a.plan", kind="rtx", frames=30)
    assert len(tries) == 2 and built.manifest.fused == 0 < built.manifest.decomposed
    assert "all are taken apart (no implementation for the attention)" in caplog.text
    check_plan(built.path)


@pytest.fixture
def one_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gpus = Gpus((Gpu(0, "NVIDIA A", (8, 6), 2**33),))
    monkeypatch.setattr(engines.tensorrt_library, "find_gpus", lambda: gpus)


def test_a_cached_plan_is_built_once_and_keyed_by_all_that_matters(
    one_gpu, tiny_half, tiny_plan, tmp_path, monkeypatch
):
    built = []

    def build(model, output, **settings):
        built.append(settings)
        made = tiny_plan[0]
        return dataclasses.replace(made, manifest=write_plan(output, b"an engine", made.manifest))

    monkeypatch.setattr(engines.plan_cache, "plan_from_onnx", build)
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


def test_a_cached_plan_of_a_file_without_a_gate_is_told(one_gpu, tiny_half, tiny_plan, tmp_path, monkeypatch, caplog):
    def build(model, output, **settings):
        write_plan(output, b"an engine", tiny_plan[0].manifest)
        return tiny_plan[0]

    monkeypatch.setattr(engines.plan_cache, "plan_from_onnx", build)
    cached_plan(tiny_half, windows=(1, 30))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    bare = with_metadata(tiny_half, tmp_path / "bare.onnx", **{GATE_KEY: None})
    cached_plan(bare, windows=(1, 30))
    (warned,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == f"{bare}: nothing says how it compares with fp32; export it again with `ft export`"


def test_a_cached_plan_of_a_mono_network_counts_items(one_gpu, tiny_half, tiny_plan, monkeypatch):
    """The caller counts items, the plan windows of a stereo song, which are two items each."""
    facts = read_model(tiny_half)
    config = facts.config
    mono = dataclasses.replace(
        config,
        audio=dataclasses.replace(config.audio, channels=1),
        network=dataclasses.replace(config.network, in_channels=1),
    )
    monkeypatch.setattr(engines.plan_cache, "read_model", lambda path: dataclasses.replace(facts, config=mono))
    batches = []

    def build(model, output, **settings):
        batches.append(settings["batch"])
        write_plan(output, b"an engine", tiny_plan[0].manifest)
        return tiny_plan[0]

    monkeypatch.setattr(engines.plan_cache, "plan_from_onnx", build)
    for windows in (None, (4, 30), (3, 31)):
        cached_plan(tiny_half, windows=windows)
    assert batches == [1, 2, 2]
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


def test_the_shipped_model_as_an_fp16_plan(default_half, tmp_path):
    """The whole way of `ft export default --fp16 --tensorrt rtx`, but for the export that other tests share."""
    built = build_plan(default_half, tmp_path / "model.plan", kind="rtx", precision="fp16")
    facts = describe_model(built.path)
    assert (facts["kind"], facts["precision"], facts["targets"]) == ("tensorrt", "fp16", list(DEFAULT_TARGETS))
    assert facts["parameters"] == describe_model("default")["parameters"]
    assert facts["attentions"] == {"fused": 16, "decomposed": 0}
    assert facts["gate"]["mask_snr_db"] >= facts["gate"]["mask_snr_limit_db"] == 45
    assert facts["window"] == {"batch": 1, "frames": 861, "seconds": None}
    assert facts["runs_here"] is (facts["why_not"] is None)
    assert json.loads(manifest_path(built.path).read_text())["sha256"] == file_sha256(built.path)


def test_the_command_builds_a_plan(tiny_half, asked, tmp_path, capsys):
    command = ["export", str(tiny_half), "--fp16", "--tensorrt", "rtx", "--target", "sm86", "--target", "sm120"]
    main([*command, "--batch", "4", "--window-seconds", "5", "-o", str(tmp_path / "a.plan")], standalone_mode=False)
    assert asked["model"] == tiny_half  # which is fp16 already
    assert (asked["targets"], asked["batch"], asked["precision"]) == (("sm86", "sm120"), 4, "fp16")
    assert (asked["frames"], asked["window_seconds"]) == (round(5 * 44100 / 512), 5)
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
        ({**GATE, "mask_snr_db": 44.9}, {}, r"its mask had 44\.9 dB .* at least 45 are wanted \(--mask-snr\)"),
        ({**GATE, "mask_snr_db": float("nan")}, {}, "its mask had nan dB"),
        (GATE, {"mask_snr_db": 60.5}, r"its mask had 60\.0 dB .* at least 60\.5 are wanted"),
        ({**GATE, "sdr_loss_db": 0.03}, {}, r"lost 0\.030 dB of SDR .* at most 0\.02 are allowed \(--sdr-loss\)"),
        (GATE, {"sdr_loss_db": 0.0}, r"lost 0\.001 dB of SDR .* at most 0 are"),
        (GATE, {"example": Path("song")}, "--example: .* was compared when it was exported; export the checkpoint"),
    ],
)
def test_a_file_that_is_built_as_it_is_shows_a_gate_that_it_passed(tiny_half, tmp_path, asked, gate, options, message):
    text = gate if gate is None or isinstance(gate, str) else json.dumps(gate)
    model = with_metadata(tiny_half, tmp_path / "half.onnx", **{GATE_KEY: text})
    with pytest.raises(ExportError, match=message) as caught:
        build_plan(model, tmp_path / "a.plan", kind="rtx", precision="fp16", **options)
    assert "\n" not in str(caught.value)
    assert not asked


def test_other_limits_are_looked_at_and_kept(tiny_half, tmp_path, asked):
    model = with_metadata(tiny_half, tmp_path / "half.onnx", **{GATE_KEY: json.dumps({**GATE, "mask_snr_db": 40.0})})
    build_plan(model, tmp_path / "a.plan", kind="rtx", mask_snr_db=35.0)
    assert (asked["model"], asked["limits"]) == (model, {"mask-snr": 35.0})


def test_a_file_in_fp32_shows_that_it_equals_pytorch(tiny_onnx, tiny_waveform, tmp_path, asked):
    for model in (tiny_onnx, tiny_waveform):
        build_plan(model, tmp_path / "a.plan", kind="rtx")
        assert (asked["model"], asked["limits"]) == (model, {})
        asked.clear()
        with pytest.raises(ExportError, match="--mask-snr and --sdr-loss are for --fp16 and --bf16"):
            build_plan(model, tmp_path / "a.plan", kind="rtx", mask_snr_db=50.0)
        gate = {**read_model(model).gate, "relative_l2": 1e-3, "stems_snr_db": 20.0}
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
    with pytest.raises(EngineError, match=r"^no GPU found \(no driver\); use --tensorrt rtx, or build on the machine"):
        build_plan(tiny_half, tmp_path / "a.plan", kind="full")


def test_a_model_in_another_precision_is_exported_first(tiny_onnx, tiny_plan, tmp_path, monkeypatch):
    exported = []

    def export_onnx(source, output, **settings):
        exported.append((source, settings["precision"], settings["io"]))
        output.write_bytes(tiny_onnx.read_bytes())

    monkeypatch.setattr(export.to_tensorrt, "export_onnx", export_onnx)
    with pytest.raises(ExportError, match="no fp16 network"):  # what came out of it is looked at again
        build_plan(tiny_onnx, tmp_path / "a.plan", kind="rtx", precision="fp16")
    assert exported == [(tiny_onnx, "fp16", "magnitude")]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--target", "sm86"], ["--batch", "2"], ["--tensorrt", "rtx", "--opset", "20"]])
def test_options_that_do_not_go_together(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["export", "default", *options])
    assert caught.value.code == 2
    assert "are for" in capsys.readouterr().err


def test_the_shipped_model_is_not_fp16_by_itself(tmp_path):
    with pytest.raises(ExportError, match="computes in float, so this is no fp16 network; nothing was built"):
        plan_from_onnx(model_path("default"), tmp_path / "a.plan", kind="rtx", frames=861, precision="fp16")
    assert not list(tmp_path.iterdir())

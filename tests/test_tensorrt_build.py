"""Plans built by TensorRT-RTX, which needs no GPU for it: the tiny network, and the model that ships."""

from __future__ import annotations

import json
import logging

import pytest
from networks import with_metadata
from stubs import StubEngine, all_ones

import engines.tensorrt_build
from engines.plan import check_plan, file_sha256, manifest_path
from engines.tensorrt_build import DEFAULT_TARGETS, make_profiles, plan_from_onnx, read_exported, window_frames
from engines.tensorrt_library import library
from engines.tensorrt_network import check_precision, decompose, parse
from export.to_tensorrt import build_plan
from ft.checkpoint import load_config
from ft.errors import ExportError
from ft.files import model_path
from ft.info import describe_model
from ft.separate import Separator

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this system")


def test_a_plan_says_what_it_is(tiny_plan, tiny_half):
    built, _ = tiny_plan
    manifest = check_plan(built.path)
    assert manifest == built.manifest
    assert (manifest.kind, manifest.version) == ("rtx", library("rtx").__version__)
    assert (manifest.precision, manifest.targets, manifest.batch) == ("fp16", ("sm89", "sm86"), 4)
    assert (manifest.model, manifest.model_sha256) == (str(tiny_half), file_sha256(tiny_half))
    assert manifest.config == load_config(tiny_half)
    assert built.bytes == built.path.stat().st_size


def test_one_profile_for_the_window_and_one_for_the_tail(tiny_plan):
    window, tail = tiny_plan[0].manifest.profiles
    frames = window_frames(tiny_plan[0].manifest.config)
    assert window.inputs["magnitude"] == ((4, 2, 64, frames),) * 3
    assert tail.inputs["magnitude"] == ((1, 2, 64, 1), (1, 2, 64, frames), (4, 2, 64, frames))
    assert window.takes({"magnitude": (4, 2, 64, frames)}) and not window.takes({"magnitude": (3, 2, 64, frames)})
    assert tail.takes({"magnitude": (3, 2, 64, 1)}) and not tail.takes({"magnitude": (1, 2, 64, frames + 1)})


def test_the_window_is_that_of_ft_separate():
    config = load_config("default")
    with StubEngine(all_ones, config) as engine:
        for seconds in (None, 5):
            with Separator(engine, segment_seconds=seconds) as separator:
                assert window_frames(config, seconds) == separator.plan.frames


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
    # The heads of the tiny network are 16 and 8 wide; fp16 has kernels from 16 on, fp32 none.
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
    assert check_precision(half, "fp16") == check_precision(single, "fp32") > 30
    for network, precision in ((single, "fp16"), (half, "fp32"), (half, "bf16")):
        with pytest.raises(ExportError, match=rf"^\w+ \(\w+\) computes in (float|half), so this is no {precision} net"):
            check_precision(network, precision)
    with pytest.raises(ExportError, match="no fp16 network"):
        plan_from_onnx(tiny_onnx, tmp_path / "a.plan", kind="rtx", frames=30, precision="fp16")
    liar = with_metadata(tiny_half, tmp_path / "bf16.onnx", ft_precision="bf16")
    with pytest.raises(ExportError, match="computes in half, so this is no bf16 network"):
        build_plan(liar, tmp_path / "a.plan", kind="rtx")
    assert list(tmp_path.iterdir()) == [liar]


def test_transforms_around_a_network_are_no_part_of_its_precision(tiny_onnx, tiny_waveform):
    plain, whole = (parse(library("rtx"), path) for path in (tiny_onnx, tiny_waveform))
    transforms = [layer for layer in whole.layers() if layer.name.startswith(("stft", "istft"))]
    assert {"MATRIX_MULTIPLY"} <= {layer.type.name for layer in transforms}
    assert check_precision(whole, "fp32") == check_precision(plain, "fp32")
    with pytest.raises(ExportError, match=r"^(?!i?stft)\w+ \(\w+\) computes in float, so this is no fp16"):
        check_precision(whole, "fp16")


def test_a_model_of_waveforms_takes_the_window_that_its_file_names(tiny_waveform):
    model = read_exported(tiny_waveform)
    window, tail = make_profiles(model, 3, window_frames(model.config))
    assert window.inputs["waveform"][1] == (3, 2, model.context["window"])
    assert tail.inputs["waveform"][0] == (1, 2, model.context["smallest"])
    assert (window.inputs["scale"][1], tail.inputs["scale"]) == ((3,), ((1,), (1,), (3,)))


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


@pytest.mark.long
def test_the_shipped_model_as_an_fp16_plan(excerpt_folder, tmp_path):
    """The whole way of `ft export default --fp16 --tensorrt rtx`."""
    built = build_plan("default", tmp_path / "model.plan", kind="rtx", precision="fp16", example=excerpt_folder)
    facts = describe_model(built.path)
    assert (facts["kind"], facts["precision"], facts["targets"]) == ("tensorrt", "fp16", list(DEFAULT_TARGETS))
    assert facts["parameters"] == describe_model("default")["parameters"]
    assert sum(facts["attentions"].values()) == 16  # its heads are 96 to 12 wide, for which RTX has no fused attention
    assert facts["gate"]["snr_db"] >= facts["gate"]["snr_limit_db"] == 45
    assert facts["window"] == {"batch": 1, "frames": 861, "seconds": None}
    assert facts["runs_here"] is (facts["why_not"] is None)
    assert json.loads(manifest_path(built.path).read_text())["sha256"] == file_sha256(built.path)


def test_the_shipped_model_is_not_fp16_by_itself(tmp_path):
    with pytest.raises(ExportError, match="computes in float, so this is no fp16 network; nothing was built"):
        plan_from_onnx(model_path("default"), tmp_path / "a.plan", kind="rtx", frames=861, precision="fp16")
    assert not list(tmp_path.iterdir())

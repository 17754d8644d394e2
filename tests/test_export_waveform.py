"""The whole chain as one graph: its transforms, what it says of itself, and that songs come out as by masks."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from networks import changed, tiny_config, tiny_model

from engines import load_engine
from engines.base import Array, Inputs
from engines.pytorch import NetworkEngine
from export.gate import synthetic_song
from export.graph import lowered
from export.limits import STEMS_SNR_DB
from export.to_onnx import export_onnx
from export.waveform import WaveformNetwork, check_whole, context
from ft.audio.open import read_audio
from ft.checkpoint import load_config, load_model
from ft.cli import main
from ft.config import IO, ModelConfig, Output
from ft.errors import ExportError
from ft.info import describe_model
from ft.metrics import sdr
from ft.models.network import SeparationNetwork
from ft.separate import Separator
from ft.separate.front import joined, make_front

# What the transforms add to the graph of the network: a change here is a change of what engines are given.
TRANSFORM_PRODUCTS = {
    *("stft.even", "stft.odd", "stft.even_above", "stft.odd_above"),
    *("istft.even", "istft.odd", "istft.square"),
}
ALLOWED_NODES = {
    *("Add", "And", "Attention", "Cast", "Clip", "Concat", "Conv", "Cos", "Div", "Expand", "Gather", "Gelu", "Greater"),
    *("GreaterOrEqual", "LayerNormalization", "Less", "MatMul", "Max", "Min", "Mul", "Pad", "Pow", "Range", "Relu"),
    *("ReduceMax", "Reshape", "RotaryEmbedding", "Shape", "Sigmoid", "Sin", "Slice", "Split", "Sqrt", "Squeeze"),
    *("Sub", "Transpose", "Unsqueeze", "Where"),
}


def song(config: ModelConfig, samples: int, seed: int = 0) -> np.ndarray:
    """A synthetic song with noise in every bin."""
    tones = synthetic_song(samples, config, seed)
    return (tones + 0.01 * np.random.default_rng(seed).standard_normal(tones.shape)).astype(np.float32)


def padded(waveform: np.ndarray, config: ModelConfig) -> np.ndarray:
    front = make_front(config, IO[1], config.sample_rate)
    return joined(np.concatenate(list(front.frames([waveform])), axis=1))[None]


def whole(config: ModelConfig, model: SeparationNetwork | None = None, dtype=torch.float32) -> WaveformNetwork:
    return WaveformNetwork(lowered(model or tiny_model(config), config, dtype), config)


def stems_of(network: WaveformNetwork, waveform: np.ndarray, scale: float = 0.0) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.tensor(waveform), torch.full((len(waveform),), scale)).numpy()


class WholeEngine(NetworkEngine):
    """Runs the module in PyTorch as a file of its graph is run."""

    def __init__(self, config: ModelConfig, model: SeparationNetwork | None = None) -> None:
        super().__init__(whole(config, model), config)
        self._info = dataclasses.replace(self._info, io=IO[1])

    def _infer(self, inputs: Inputs) -> Array:
        with torch.inference_mode():
            return self.network(*map(torch.tensor, inputs.values())).numpy()


def separated(engine: NetworkEngine, waveform: np.ndarray) -> dict[str, np.ndarray]:
    """The stems of a song in one window."""
    with Separator(engine, segment_seconds=60) as separator:
        return separator.separate(waveform, engine.describe().config.sample_rate)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"of": "rest"},
        {"hop_length": 256},
        {"hop_length": 300},
        {"n_fft": 1030, "hop_length": 400},
        {"above": 16},
        {"of": "rest", "above": "stem", "gain": 1.2},
        {"of": "rest", "above": 16},
        {"of": "rest", "n_fft": 128, "hop_length": 64},
        {"n_fft": 130, "hop_length": 65},
        {"stereo": "mid-side", "above": 16},
        {"channels": 1, "hop_length": 256},
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", ["window-peak", "track-peak", 7.0])
def test_the_module_gives_what_transforms_and_mask_give(values, scale):
    config = changed(tiny_config(), scale=scale, **values)
    model = tiny_model(config)
    mixture = song(tiny_config(), 30 * config.front.hop_length - 5)
    expected, found = (
        separated(engine, mixture) for engine in (NetworkEngine(model, config), WholeEngine(config, model))
    )
    assert min(sdr(found[stem], expected[stem]) for stem in expected) > 95


def test_what_lies_beyond_the_outer_centres_fades_and_never_grows():
    config = changed(tiny_config(), hop_length=256)
    network = whole(config)
    loud = np.sign(song(config, config.front.samples(20)))[None]
    assert np.abs(stems_of(network, loud)[:, 0]).max() < 4


@pytest.mark.parametrize("scale", ["track-peak", "window-peak"])
def test_a_scale_of_nothing_takes_the_peak_of_each_item(scale):
    config = changed(tiny_config(), scale=scale)
    network = whole(config)
    items = np.concatenate([padded(level * song(config, 10_000, seed), config) for seed, level in ((0, 1), (1, 0.1))])
    together = stems_of(network, items)
    for item, found in zip(items, together, strict=True):
        pieces = np.lib.stride_tricks.sliding_window_view(item, 1024, axis=1)[:, ::512]
        values = np.abs(np.fft.rfft(pieces * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024))))
        peak = values[..., : config.front.used_bins if scale == "track-peak" else None].max()
        assert sdr(found, stems_of(network, item[None], float(peak))[0]) > 90


def test_the_peak_counts_bins_above_the_networks_where_each_window_has_its_own():
    config = tiny_config()
    network = whole(config)
    tone = np.sin(2 * np.pi * 15_000 * np.arange(20 * 512) / 44100)
    waveform = (song(config, 20 * 512) + tone).astype(np.float32)[None]
    with torch.inference_mode():
        *_, values, peak, _ = network.stft(torch.tensor(waveform))
    assert peak > 5 * values.max()


def test_silence_stays_silence():
    config = tiny_config()
    network = whole(config)
    assert not stems_of(network, np.zeros((1, 2, 5120), np.float32)).any()


def test_half_a_network_leaves_its_transforms_whole():
    config = tiny_config()
    exact, half = (whole(config, dtype=dtype) for dtype in (torch.float32, torch.float16))
    assert half.network.out.dtype == torch.float16
    assert {value.dtype for part in (half.stft, half.istft) for value in part.buffers()} == {torch.float32}
    waveform = padded(song(config, 50_000), config)
    assert 45 < sdr(stems_of(half, waveform)[:, 0], stems_of(exact, waveform)[:, 0]) < 100


def test_nodes_and_their_names(tiny_waveform, tiny_onnx):
    graph, plain = (onnx.load(path).graph for path in (tiny_waveform, tiny_onnx))
    found = Counter(node.op_type for node in graph.node)
    assert set(found) <= ALLOWED_NODES
    products = {node.input[1]: node.name for node in graph.node if node.op_type == "MatMul"}
    for matrix in TRANSFORM_PRODUCTS:
        assert products.pop(matrix).split(".")[0] == matrix.split(".")[0]
    assert len(graph.node) - len(plain.node) < 90
    mask = Counter(node.op_type for node in plain.node)
    for kind in ("Attention", "Conv", "RotaryEmbedding", "LayerNormalization"):
        assert found[kind] == mask[kind]
    others = [node.name for node in graph.node if node.op_type in ("MatMul", "Conv") and "stft" in node.name]
    assert sorted(others) == sorted(name for name in others if name.startswith(("stft.", "istft.")))
    assert len(others) == len(TRANSFORM_PRODUCTS)


def test_inputs_outputs_and_metadata(tiny_waveform):
    proto = onnx.load(tiny_waveform)
    onnx.checker.check_model(proto, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "waveform": ["batch", 2, "samples"],
        "scale": ["batch"],
        "stems": ["batch", 2, 2, "samples"],
    }
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata["ft_io"] == "waveform"
    assert json.loads(metadata["ft_context"]) == context(tiny_config())
    facts = describe_model(tiny_waveform)
    assert (facts["io"], facts["precision"], facts["context"]["alignment"]) == ("waveform", "fp32", 512)
    assert facts["gate"]["stems_snr_db"] >= facts["gate"]["stems_snr_limit_db"] == STEMS_SNR_DB
    assert facts["gate"]["samples"] == [255 * 512, 60 * 512, 512, 511 * 512]


def test_the_recipe_in_the_metadata_gives_the_song(tiny_waveform):
    """What a program in another language does: mirror, cut, run, throw the context away, cross-fade, cut off."""
    config = changed(tiny_config(), scale="track-peak")
    facts = context(config)
    # A window of its own size, so that some seconds hold several.
    window = facts["smallest"] + 200 * facts["alignment"]
    drop, fade = facts["transform"] + 40 * facts["alignment"], 8 * facts["alignment"]
    waveform = song(config, 6 * 44100 + 77)
    samples = waveform.shape[1]
    behind = facts["smallest"] - facts["reflect"] + -(samples + facts["smallest"]) % facts["alignment"]
    mirrored = np.pad(waveform, ((0, 0), (facts["reflect"], behind)), mode="reflect")
    with Separator(NetworkEngine(tiny_model(config), config), segment_seconds=60) as ordinary:
        expected = ordinary.separate(waveform, 44100)["vocals"]
        (level,) = ordinary.levels([waveform], 44100)
    scale = np.full(1, level.scale, np.float32)
    with load_engine(tiny_waveform) as engine:
        in_one = engine.run({"waveform": mirrored[None], "scale": scale})[0, 0]
        vocals, start, length = np.zeros_like(mirrored), 0, mirrored.shape[1]
        while True:
            end = min(start + window, length)
            found = engine.run({"waveform": mirrored[None, :, start:end], "scale": scale})[0, 0]
            weight = np.ones(end - start)
            if start:
                weight[:drop] = 0
                weight[drop : drop + fade] = np.linspace(0, 1, fade)
            if end < length:
                weight[-drop:] = 0
                weight[-drop - fade : -drop] = np.linspace(1, 0, fade)
            vocals[:, start:end] += found * weight
            if end == length:
                break
            start += window - 2 * drop - fade
    assert start > window
    inside = slice(facts["reflect"], facts["reflect"] + samples)
    # Random weights hear far: windows of 200 frames differ by this.
    assert sdr(vocals[:, inside], in_one[:, inside]) > 40
    assert sdr(in_one[:, inside], expected) > 100


def test_items_of_a_batch_do_not_meet_in_the_graph(tiny_waveform):
    waveforms = np.stack([level * song(tiny_config(), 40 * 512, seed) for seed, level in enumerate((1, 0.1, 0.5))])
    scales = np.array([0, 5, 0], np.float32)
    with load_engine(tiny_waveform) as engine:
        together = engine.run({"waveform": waveforms.astype(np.float32), "scale": scales})
        for index, found in enumerate(together):
            item = slice(index, index + 1)
            alone = engine.run({"waveform": waveforms[item].astype(np.float32), "scale": scales[item]})
            assert sdr(found, alone[0]) > 90


@pytest.fixture(scope="module")
def mixture(example) -> np.ndarray:
    return read_audio(example / "mixture.flac")[0]


@pytest.mark.parametrize(
    ("runtime", "rate", "channels", "samples"),
    [
        ("onnxruntime", 44100, 2, None),
        ("openvino", 44100, 2, None),
        ("onnxruntime", 44100, 1, 300_001),
        ("onnxruntime", 48000, 2, 200_003),
        ("onnxruntime", 22050, 2, 99_999),
        ("onnxruntime", 44100, 2, 400),
        ("onnxruntime", 44100, 2, 1),
    ],
)
def test_a_song_gives_the_stems_that_masks_give(tiny_waveform, tiny_onnx, mixture, runtime, rate, channels, samples):
    part = mixture[:channels, :samples]
    with Separator(tiny_onnx) as ordinary, Separator(tiny_waveform, runtime=runtime) as waveform:
        expected, found = ordinary.separate(part, rate), waveform.separate(part, rate)
        assert waveform.engine.describe().name == runtime
    for stem in expected:
        assert found[stem].shape == part.shape
        energy, error = (np.sum(value.astype(np.float64) ** 2) for value in (part, found[stem] - expected[stem]))
        assert error <= 1e-8 * energy  # 80 dB
        assert samples is not None or sdr(found[stem], expected[stem]) >= 80
    np.testing.assert_allclose(found["vocals"] + found["instrumental"], part, atol=1e-6)


def test_weights_come_back_bit_for_bit(tiny_waveform):
    state = load_model(tiny_waveform).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tiny_model().state_dict().items())


def test_nothing_is_written_where_the_comparison_fails(tmp_path, tiny_checkpoint, tiny_waveform, monkeypatch, traced):
    model = load_model(tiny_checkpoint)
    with torch.no_grad():
        model.get_parameter("out").mul_(1.01)
    monkeypatch.setattr("export.to_onnx.load_model", lambda source: model)
    monkeypatch.setattr("export.graph.weight_names", lambda *_: {})
    traced(tiny_waveform)
    message = (
        r"at the usual length of 130560 samples a stem .* has [3-7]\d\.\d dB .* 80 are wanted; nothing was written"
    )
    with pytest.raises(ExportError, match=message):
        export_onnx(tiny_checkpoint, tmp_path / "model.onnx", io="waveform")
    assert not list(tmp_path.iterdir())


def test_command_names_the_file_and_shows_the_figure(tmp_path, tiny_waveform, tiny_checkpoint, traced, capsys):
    traced(tiny_waveform)
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(tiny_checkpoint.read_bytes())
    main(["export", str(copy), "--io", "waveform"], standalone_mode=False)
    lines = capsys.readouterr().out
    assert lines.startswith(f"{tmp_path / 'mine.waveform.onnx'}  ") and "stems_snr_db" in lines


@pytest.mark.parametrize(
    "values",
    [
        {"bins": 63},
        {"values": "log1p-magnitude"},
        {"win_length": 1024},
        {"output": Output("complex-mask")},
        {"rest": None},
        {"channels": 1, "mono": "mix"},
        {"multiple": 4},
    ],
    ids=str,
)
def test_models_whose_transforms_cannot_be_inside_are_refused(values):
    check_whole(tiny_config())
    with pytest.raises(ExportError, match=r"tiny: `io` waveform is for one real mask .*; leave it out"):
        check_whole(changed(tiny_config(), **values))


def test_the_shipped_models_transforms_are_as_cheap_as_its_band(example):
    """Its network sees the lower bins only; the matrices hold no others."""
    config = load_config("default")
    engine = WholeEngine(config, load_model("default"))
    sizes = {name: tuple(value.shape) for name, value in engine.network.stft.named_buffers()}
    assert sizes["even"] == sizes["odd"] == (1024, config.front.used_bins) and config.front.used_bins < 1024
    assert sizes["even_above"] == (1024, 0)
    part = read_audio(example / "mixture.flac")[0][:, 5 * 44100 : 7 * 44100]
    expected = separated(NetworkEngine(load_model("default"), config), part)
    assert sdr(separated(engine, part)["vocals"], expected["vocals"]) > 100

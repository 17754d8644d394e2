"""The contract, for every kind of network and every form of front end and output.

Each kind is trained, stopped and resumed; exported, compared and run by every runtime; evaluated; and separates songs
into two stems and into four. Nothing here knows a kind but the table of the models.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import made_once
from networks import changed
from training import trainer

from engines import load_engine
from engines.pytorch import NetworkEngine
from export.to_onnx import export_onnx
from ft.audio.open import read_audio
from ft.checkpoint import load_config, load_model, save_checkpoint
from ft.cli import main
from ft.config import ModelConfig, Network, Output, Segment, Spectrogram, Waveform
from ft.metrics import sdr
from ft.models import NETWORKS, make_network, module_of
from ft.models.signal import Signal, activated
from ft.separate import Separator
from ft.settings import override
from ft.stems import recipe

FOUR = ("drums", "bass", "other", "vocals")
RUNTIMES = ("onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else []), "torch")


def of_four(config: ModelConfig) -> ModelConfig:
    """The same kind for four stems: the last one is the rest of the mixture."""
    if config.network.kind == "several":
        return config
    if config.network.kind == "open-unmix":
        networks = [{"kind": "open-unmix", "stems": [stem], **config.network.numbers} for stem in FOUR]
        return dataclasses.replace(config, stems=FOUR, rest=None, network=Network("several", {"networks": networks}))
    return changed(config, stems=FOUR[:3], rest="vocals")


def of_two(config: ModelConfig) -> ModelConfig:
    """The same kind for vocals and the rest."""
    if config.network.kind != "several":
        return config
    first = next(entry for entry in config.network.numbers["networks"] if "vocals" in entry["stems"])
    return changed(config, stems=("vocals",), rest="instrumental", networks=[{**first, "stems": ["vocals"]}])


MODELS = {kind: module_of(kind).tiny() for kind in NETWORKS}
MODELS["several"] = changed(  # two for two stems each, of which one hears the other; of a fixed number of frames
    MODELS["conv-tasnet"],
    name="tiny-several",
    segment=Segment(context=0.1, frames=96),
    stems=FOUR,
    rest=None,
    network=Network(
        "several",
        {
            "networks": [
                {"kind": "conv-tasnet", "stems": FOUR[:2], **MODELS["conv-tasnet"].network.numbers},
                {"kind": "conv-tasnet", "stems": FOUR[2:], "fed": True, **MODELS["conv-tasnet"].network.numbers},
            ]
        },
    ),
)
BOTH = {
    **{f"{kind}, two stems": of_two(config) for kind, config in MODELS.items()},
    **{f"{kind}, four stems": of_four(config) for kind, config in MODELS.items() if kind != "several"},
}


def network_of(config: ModelConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_network(config).eval()


@pytest.fixture(scope="session", params=list(MODELS))
def exported(request, tmp_path_factory, excerpt_folder) -> Path:
    """The folder of a checkpoint, of four stems where one network gives them, and of what was exported of it."""
    config = MODELS[request.param] if request.param == "open-unmix" else of_four(MODELS[request.param])

    def make(folder: Path) -> None:
        network = network_of(config)
        save_checkpoint(folder / "model.safetensors", network.state_dict(), config)
        export_onnx(folder / "model.safetensors", folder / "model.onnx")
        export_onnx(
            folder / "model.safetensors", folder / "half.onnx", precision="fp16", opset=20, example=excerpt_folder
        )

    return made_once(tmp_path_factory, f"kind-{request.param}", make)


@pytest.fixture(scope="session")
def song(excerpt_folder) -> tuple[np.ndarray, int]:
    return read_audio(excerpt_folder / "mixture.flac")


@pytest.mark.parametrize("kind", MODELS)
def test_a_training_that_is_stopped_and_resumed_equals_one_that_was_not(music, tmp_path, kind):
    config = of_four(MODELS[kind])
    frames = config.segment.frames or 8
    train = {
        "stems": {stem: [str(music / ("vocals" if stem == "vocals" else "instrumentals"))] for stem in FOUR},
        "stages": [{"frames": frames, "last_epoch": 2, "batch_size": 1, "accumulation": 1}],
        "epoch_size": 4,
        "warmup_steps": 1,
        "workers": 0,
        "losses": {"magnitude_l1": 0, "waveform_l1": 1, "si_sdr": 0.01},
    }
    values = {**config.to_sections(), "train": train}
    states = []
    for stops in ((3,), (1, 3)):
        for stop in stops:
            run = trainer(tmp_path / f"run-{len(stops)}", override(values, [f"train.max_steps={stop}"]))
            if stop != stops[0]:
                torch.manual_seed(999)
                run.restore()
            run.run()
        states.append(run.network.state_dict())
    start = network_of(config).state_dict()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, start[name]) for name, value in states[0].items())


def test_every_runtime_gives_what_pytorch_gives(exported, song):
    with Separator(exported / "model.safetensors") as separator:
        expected = separator.separate(*song)
    for runtime in RUNTIMES:
        for name, least in (("model.onnx", 80.0), ("half.onnx", 40.0)):
            if (name, runtime) == ("half.onnx", "openvino"):  # computes it in float32
                continue
            with Separator(exported / name, runtime=runtime, device="cpu") as separator:
                found = separator.separate(*song)
            assert list(found) == list(expected) == list(separator.config.all_stems)
            worst = min(sdr(found[stem], expected[stem]) for stem in separator.config.stems)
            assert worst >= least, (runtime, name)


def test_weights_come_back_from_the_graph(exported):
    state, found = (
        load_model(exported / "model.safetensors").state_dict(),
        load_model(exported / "model.onnx").state_dict(),
    )
    assert all(torch.equal(value, found[name]) for name, value in state.items())


def test_products_are_computed_in_int8(tmp_path, excerpt_folder):
    """Of a network with linear layers; those of the frame transformer are tested elsewhere, and others have none."""
    config = MODELS["bs-roformer"]
    save_checkpoint(tmp_path / "model.safetensors", network_of(config).state_dict(), config)
    loose = {"mask_snr_db": 10, "sdr_loss_db": 5}  # random weights
    songs = {"calibrate": excerpt_folder, "example": excerpt_folder}
    export_onnx(tmp_path / "model.safetensors", tmp_path / "int8.onnx", precision="int8", **loose, **songs)
    with load_engine(tmp_path / "int8.onnx", device="cpu") as engine:
        assert engine.describe().precision == "int8"


def test_a_plan_is_built_where_the_parser_takes_the_graph(exported, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this system")
    from engines.plan import read_manifest
    from export.to_tensorrt import build_plan

    plan = tmp_path / "model.plan"
    build_plan(exported / "model.onnx", plan, kind="rtx", targets=["sm89"])
    assert read_manifest(plan).config == load_config(exported / "model.onnx")


def test_it_is_evaluated_stem_by_stem(exported, excerpt_folder, tmp_path):
    model, found = str(exported / "model.onnx"), tmp_path / "found.json"
    arguments = ["evaluate", str(excerpt_folder), "--model", model, "--metrics", "sdr", "--json", str(found)]
    main(arguments, standalone_mode=False)
    rows = json.loads(found.read_text())["songs"][0]["rows"]
    assert set(rows["model"]) == {"vocals", "instrumental"}


@pytest.mark.parametrize("config", BOTH.values(), ids=BOTH.keys())
def test_songs_are_separated_into_two_stems_and_into_four(config, song):
    mixture, rate = song
    network = network_of(config)
    options = {} if config.segment.frames else {"segment_seconds": 1.5, "context_seconds": 0.2}
    with Separator(NetworkEngine(network, config), **options) as separator:
        whole = separator.separate(mixture, rate)
        levels = separator.levels([mixture], rate)
        blocks = [mixture[:, start : start + 7001] for start in range(0, mixture.shape[1], 7001)]
        parts = list(separator.stream(blocks, rate, levels))
    assert tuple(whole) == config.all_stems and len(whole) in (2, 4)
    for stem, samples in whole.items():
        assert samples.shape == mixture.shape
        streamed = np.concatenate([part[stem] for part in parts], axis=1)
        np.testing.assert_allclose(streamed, samples, atol=1e-5)
    if config.rest is not None:
        np.testing.assert_allclose(sum(whole.values()), mixture, atol=1e-5)
    assert recipe("instrumental", list(whole))


FRONTS = {
    "magnitude": Spectrogram(n_fft=256, hop_length=64, bins=100),
    "log1p": Spectrogram(n_fft=256, hop_length=64, values="log1p-magnitude", scale=0.01),
    "shorter window": Spectrogram(n_fft=256, hop_length=64, win_length=200, scale="window-peak"),
    "mid and side": Spectrogram(n_fft=256, hop_length=128, stereo="mid-side"),
    "complex": Spectrogram(n_fft=256, hop_length=100, values="complex", scale="none"),
    "rectangular": Spectrogram(
        n_fft=256, hop_length=64, win_length=128, window="rectangular", ends="zeros", scale="none"
    ),
    "waveform": Waveform(hop_length=64, scale="track-deviation"),
    "waveform, peak": Waveform(hop_length=64, scale="track-peak"),
}
OUTPUTS = {
    "mask": Output("mask"),
    "mask of the rest": Output("mask", of="rest", above="stem"),
    "mask of the rest, louder": Output("mask", of="rest", above="stem", gain=1.1),
    "mask, extended": Output("mask", above=8),
    "complex mask": Output("complex-mask"),
    "magnitude": Output("magnitude", gain=1.1),
    "ratio": Output("magnitude", combine="ratio", exponent=1.0),
    "spectrum": Output("spectrum"),
    "waveform": Output("waveform"),
}
TWINS = [
    (front, output, stems)
    for front in FRONTS
    for output in OUTPUTS
    for stems in (("vocals",), FOUR)
    if front.startswith("waveform") == (output == "waveform")
    and not (len(stems) > 1 and output.startswith(("mask of", "mask, ")))
]


@pytest.mark.parametrize(
    ("front", "output", "stems"), TWINS, ids=lambda value: "+".join(value) if isinstance(value, tuple) else value
)
def test_what_trains_in_torch_is_what_separates_in_numpy(front, output, stems, song):
    """A network of random numbers that depend on its input, over a whole song in one window."""
    mixture, rate = song[0][:, :20_000], song[1]
    rest = None if len(stems) > 1 else "instrumental"
    config = ModelConfig(sample_rate=rate, stems=stems, rest=rest, front=FRONTS[front], output=OUTPUTS[output])
    gives = config.gives

    def network(x: torch.Tensor) -> torch.Tensor:
        shape = gives.sized(len(x), x.shape[-1])
        weights = torch.randn(shape[:-1], generator=torch.Generator().manual_seed(1))[..., None]
        return weights * (
            0.2 + x.mean(dim=tuple(range(1, x.ndim - 1)), keepdim=True).reshape(len(x), *[1] * (len(shape) - 2), -1)
        )

    hop = config.front.hop_length
    samples = mixture.shape[1] // hop * hop
    mixture = np.ascontiguousarray(mixture[:, :samples])
    with Separator(NetworkEngine(network, config), segment_seconds=60) as separator:
        found = separator.separate(mixture, rate)
    signal = Signal(config)
    whole = torch.from_numpy(mixture)[None]
    spec = signal.transformed(whole, center=True)
    level = signal.level(spec)
    estimates = signal.estimates(activated(network(signal.inputs(spec, level)), config.output), spec, level)
    for index, stem in enumerate(stems):
        expected = estimates[0, index]
        if isinstance(config.front, Spectrogram):
            expected = inverse(torch.cat((expected, above(signal, network, spec, level)), dim=1), config, samples)
        # A phase is noise where a bin is next to nothing, and a magnitude may be large there.
        assert sdr(found[stem], expected.numpy()) > 55, stem


def above(signal: Signal, network, spec: torch.Tensor, level) -> torch.Tensor:
    """The spectrum (channels, bins, frames) of the one stem above the bins that the network reads."""
    output = signal.output
    rest = spec[0, :, signal.front.used_bins :]
    if output.kind != "mask" or output.above == "rest":
        return rest * 0
    if output.above == "stem":
        return rest * output.gain
    mask = activated(network(signal.inputs(spec, level)), output)[0]
    return mask[:, -output.above :].mean(-2, keepdim=True) * rest * output.gain


def inverse(spec: torch.Tensor, config: ModelConfig, samples: int) -> torch.Tensor:
    """Torch's own inverse of a whole song's spectra (channels, bins, frames)."""
    front = config.front
    spec = torch.nn.functional.pad(spec, (0, 0, 0, front.all_bins - spec.shape[-2]))
    window = torch.hann_window(front.window_length) if front.window == "hann" else torch.ones(front.window_length)
    sound = torch.istft(spec, front.n_fft, front.hop_length, front.window_length, window, length=samples)
    return torch.stack((sound[0] + sound[1], sound[0] - sound[1])) if config.is_mid_side else sound


def test_a_new_network_is_one_module():
    """What is outside of a network's own module asks for its kind nowhere."""
    root = Path(__file__).parents[1]
    kinds = "|".join(kind for kind in NETWORKS if kind != "several")
    asks = re.compile(rf"kind\b.*[\"'](?:{kinds})[\"']")
    allowed = ("ft/models/", "ft/importers/", "ft/format_1.py", "ft/config.py")
    asking = {
        path.relative_to(root).as_posix()
        for package in ("ft", "engines", "export", "bench")
        for path in (root / package).rglob("*.py")
        if asks.search(path.read_text("utf-8"))
    }
    assert not {name for name in asking if not name.startswith(allowed)}

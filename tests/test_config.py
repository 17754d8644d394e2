"""Configuration: what YAML may say, and that every mistake is named with its remedy."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from networks import changed, format_1, tiny_config

from ft.config import (
    ModelConfig,
    Network,
    Output,
    Segment,
    Spectrogram,
    Waveform,
    load_model_config,
    model_config_from_yaml,
)
from ft.errors import ConfigError
from ft.models import completed, make_network
from ft.settings import build, load_yaml, override, presets
from ft.train_config import train_config_from_yaml

ORIGINALS = {"original-dense", "original-gelu", "original", "base"}


def model(**sections):
    return model_config_from_yaml(sections, "test.yaml")


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_has_its_own_name(name):
    config = load_model_config(name)
    assert config.name == name
    assert config.all_stems == ("vocals", "instrumental")


def test_presets_of_the_original_have_its_front_end():
    assert set(presets()) >= ORIGINALS | {"tiny"}
    for name in ORIGINALS:
        config = load_model_config(name)
        assert (config.sample_rate, config.channels, config.front) == (44100, 2, Spectrogram(bins=1024))
        assert config.output == Output("mask", "sigmoid", of="rest", above="stem")


@pytest.mark.parametrize("name", presets())
def test_dict_and_sections_and_back(name):
    config = completed(load_model_config(name))
    values = config.to_dict()
    assert ModelConfig.from_dict(json.loads(json.dumps(values))) == config
    assert model_config_from_yaml(config.to_sections(), "test") == config


MODELS = {
    "four stems, waveform": ModelConfig(
        stems=("drums", "bass", "other", "vocals"),
        rest=None,
        front=Waveform(hop_length=256, scale="track-deviation"),
        output=Output("waveform"),
        segment=Segment(7.8, 0.0, overlap=0.25, frames=1344),
        network=Network("conv-tasnet", {"layers": 2}),
    ),
    "complex, mono": ModelConfig(
        sample_rate=16000,
        channels=1,
        mono="mix",
        front=Spectrogram(n_fft=2048, hop_length=441, win_length=1024, values="complex", scale=32768.0),
        output=Output("complex-mask", gain=1.035),
        segment=Segment(8.0, lookahead=0.1, multiple=16),
    ),
    "ratio": ModelConfig(stems=("vocals", "rest"), rest=None, output=Output("magnitude", combine="ratio")),
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_what_the_models_of_the_field_declare_comes_back(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert model_config_from_yaml(config.to_sections(), "test") == config


def test_tensors_of_models():
    four, mono, ratio = MODELS.values()
    assert four.reads[0].shape == ("batch", 2, 1344 * 256) and four.gives.shape == ("batch", 4, 2, 1344 * 256)
    assert mono.reads[0].shape == ("batch", 2, 1025, "frames") and mono.reads[0].multiple == 16
    assert mono.gives.shape == mono.reads[0].shape and mono.gives.low is None
    assert ratio.gives.shape == ("batch", 2, 2, 1025, "frames") and (ratio.gives.low, ratio.gives.high) == (0, None)
    reads, gives = load_model_config("small").tensors("waveform")
    assert [spec.sized(3, 4096) for spec in reads] == [(3, 2, 4096), (3,)] and gives.sized(3, 4096) == (3, 2, 2, 4096)


OLD = {
    "vocals": ({"mask_stem": "vocals"}, {}, Output("mask")),
    "vocals, extended": ({"mask_stem": "vocals"}, {"extend_mask": 32}, Output("mask", above=32)),
    "original": ({}, {}, Output("mask", of="rest", above="stem")),
    "original, fewer bins": ({}, {"bins": 512}, Output("mask", of="rest")),
    "other order": ({"stems": ["instrumental", "vocals"]}, {"bins": 512}, Output("mask", above="stem")),
    "complex": ({"mask": "complex", "mask_stem": "vocals"}, {}, Output("complex-mask")),
}


@pytest.mark.parametrize(("model_section", "audio", "output"), OLD.values(), ids=OLD)
def test_sections_of_the_first_format_say_what_they_said(model_section, audio, output):
    config = model(model={"channels": 2, **model_section}, audio={"stereo": "mid-side", **audio})
    assert config.output == output
    assert config.front.stereo == "mid-side" and config.network.numbers == {"channels": 2}
    assert config.all_stems == tuple(model_section.get("stems", ("vocals", "instrumental")))


def test_checkpoints_of_the_first_format_still_load():
    config = changed(tiny_config(), above=8)
    assert ModelConfig.from_dict(format_1(config)) == config
    values = format_1(config)
    without = ModelConfig.from_dict({**values, "network": {**values["network"], "attention": False}})
    assert without.network.numbers["heads"] == [0, 0]


def test_a_file_lists_only_what_it_changes(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("front: {n_fft: 512, hop_length: 256, bins: 256}\nnetwork: {channels: 2}\n")
    expected = ModelConfig(
        front=Spectrogram(n_fft=512, hop_length=256, bins=256), network=Network(numbers={"channels": 2})
    )
    assert load_model_config(path) == expected


def test_a_file_may_start_from_a_preset():
    tiny = load_model_config("tiny")
    config = model(model={"preset": "tiny"}, network={"expansion": 3}, front={"scale": "track-peak"})
    assert config == changed(tiny, expansion=3, scale="track-peak")
    assert model(model={"preset": "tiny", "expansion": 3}, audio={"normalize": "track"}) == config
    assert model(model={"preset": "tiny", "stems": ["drums", "bass"]}).rest == "instrumental"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"nane": "x"}}, r"test.yaml: model: unknown key 'nane'; did you mean 'name'\?"),
        ({"front": {"hop": 2}}, r"unknown key 'hop'; did you mean 'hop_length'\?"),
        ({"modle": {}}, r"test.yaml: unknown key 'modle'; did you mean 'model'\?"),
        ({"front": {"kind": "wave"}}, r"kind: 'wave', expected spectrogram or waveform"),
        ({"front": {"scale": "loud"}}, r"scale: 'loud', expected track-peak or .* or a number"),
        ({"front": {"scale": 0}}, r"scale: 0.0, expected a number above 0"),
        ({"model": {"name": [1]}}, r"name: \[1\], expected text"),
        ({"model": {"mask_stem": "drums"}}, r"mask_stem: 'drums', expected vocals or instrumental"),
        ({"model": {"stems": ["bass", "bass"]}}, r"stems: \['bass', 'bass'\], expected one or more different names"),
        ({"model": 3}, r"model is 3, expected keys and values"),
        ({"model": {"preset": ["tiny"]}}, r"model: preset: \['tiny'\], expected text"),
        ({"front": {"bins": 1056}}, r"bins: 1056, expected 1 to n_fft / 2 \+ 1 = 1025"),
        ({"front": {"n_fft": 2047}}, r"n_fft: 2047, expected an even number"),
        ({"front": {"hop_length": 1500}}, r"more than half of the window of 2048"),
        ({"front": {"stereo": "mid-side"}, "audio": {"channels": 1}}, r"mid-side of 1 channel"),
        ({"audio": {"channels": 3}}, r"channels: 3, expected 1 or 2"),
        ({"audio": {"sample_rate": -1}}, r"sample_rate: -1, expected 1000 to 768000 Hz"),
        ({"output": {"above": 2000}}, r"above: 2000, expected 1 to 1025"),
        (
            {"output": {"above": 3}, "model": {"stems": ["bass", "drums"]}},
            r"above: 3 of the stems .* expected one",
        ),
        ({"output": {"kind": "waveform"}}, r"output.kind: waveform behind"),
        ({"output": {"kind": "spectrum", "combine": "ratio"}}, r"ratio of a spectrum; expected kind: magnitude"),
        ({"segment": {"overlap": 0.7}}, r"overlap: 0.7, expected 0 to 0.5"),
    ],
)
def test_a_mistake_is_named(sections, message):
    with pytest.raises(ConfigError, match=message) as caught:
        model(**sections)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"expanson": 2}, r"network: unknown key 'expanson'; did you mean 'expansion'\?"),
        ({"bins": 64}, r"unknown key 'bins'"),
        ({"kind": "unet"}, r"network.kind: 'unet', expected frame-transformer, "),
        ({"heads": [3, 4]}, r"heads: 3 do not divide the 64 features of level 1"),
        ({"heads": [4, 3]}, r"heads: 3 do not divide the 32 features of level 2"),
        ({"heads": [4]}, r"heads: \[4\], expected 2 numbers of at least 0"),
        ({"heads": [4, -1]}, r"heads: .* expected 2 numbers of at least 0"),
        ({"multipliers": [1, 0]}, r"multipliers: .* expected numbers of at least 1"),
        ({"multipliers": [1] * 8, "heads": [1] * 8}, r"bins: 64, expected a multiple of 128, so that 8 levels"),
        ({"dropout": 1}, r"dropout: 1.0, expected 0 <= x < 1"),
        ({"activation": "relu"}, r"activation: 'relu', expected gelu or squared-relu"),
        ({"channels": 1.5}, r"channels: 1.5, expected a whole number"),
        ({"channels": True}, r"channels: True, expected a whole number"),
        ({"channels": 0}, r"channels: 0, expected a number above 0"),
        ({"feed_forward_mixing": "maybe"}, r"expected true or false"),
    ],
)
def test_a_mistake_in_a_network_is_named_where_it_is_made(network, message):
    config = model(model={"preset": "tiny"}, network=network)
    with pytest.raises(ConfigError, match=message) as caught:
        make_network(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"voxaug": {"skip_vocals": 2}}, r"test.yaml: train: voxaug: skip_vocals: 2.0, expected 0 to 1"),
        ({"voxaug": {"mixup_alpha": 0}}, r"mixup_alpha: 0.0, expected a number above 0"),
        ({"augment": {"pan": -0.1}}, r"pan: -0.1, expected 0 to 1"),
        ({"augment": {"filter_db": -3}}, r"filter_db: -3.0, expected 0 or more"),
        ({"validation": {"items": 0}}, r"items: 0, expected a number above 0"),
        ({"warmup_steps": -1}, r"warmup_steps: -1, expected 0 or more"),
        ({"workers": -1}, r"workers: -1, expected 0 or more"),
        ({"stages": []}, r"stages: none, expected at least one"),
        ({"stages": [{"last_epoch": 5}, {"last_epoch": 5}]}, r"last_epoch \[5, 5\], expected rising numbers"),
        ({"vocals": ["voices"]}, r"instrumentals: none, expected folders of music"),
        ({"learning_rat": 1}, r"test.yaml: train: unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
    ],
)
def test_a_mistake_in_a_training_is_named(train, message):
    with pytest.raises(ConfigError, match=message):
        train_config_from_yaml({"train": train}, "test.yaml")


@dataclasses.dataclass(frozen=True)
class Sample:
    rate: float = 0.0
    steps: int = 0
    limit: int | None = 1
    sizes: tuple[int, ...] = ()


def test_values_become_the_type_of_their_field():
    # YAML 1.1 reads 3e-4 as text and 16e3 too.
    sample = build(Sample, {"rate": "3e-4", "steps": "16e3", "limit": None, "sizes": [1, "2", 3.0]}, "here")
    assert sample == Sample(3e-4, 16000, None, (1, 2, 3))
    assert [type(value) for value in (sample.rate, sample.steps, *sample.sizes)] == [float, int, int, int, int]
    assert build(Sample, {"sizes": 5}, "here").sizes == (5,)
    assert build(Sample, {"steps": 2**60 + 1}, "here").steps == 2**60 + 1


def test_numbers_of_numpy_are_numbers():
    sample = build(Sample, {"rate": np.float32(0.5), "steps": np.int64(3), "sizes": np.array([1, 2])}, "here")
    assert sample == dataclasses.replace(Sample(0.5, 3), sizes=(1, 2))
    assert [type(value) for value in (sample.rate, sample.steps, *sample.sizes)] == [float, int, int, int]
    with pytest.raises(ConfigError, match=r"here: steps: 2\.5, expected a whole number"):
        build(Sample, {"steps": np.float64(2.5)}, "here")
    config = tiny_config(channels=np.int64(2), heads=tuple(np.array([4, 2])))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_words_have_no_case():
    train = train_config_from_yaml({"train": {"precision": "BFloat16", "optimizer": "AdamW"}}, "test")
    assert (train.precision, train.optimizer) == ("bfloat16", "adamw")


@pytest.mark.parametrize(
    "values", [{"rate": "fast"}, {"steps": 2.5}, {"sizes": [1, "x"]}, {"rate": float("nan")}, {"rate": 10**400}]
)
def test_a_value_of_another_type_is_refused(values):
    with pytest.raises(ConfigError, match=f"here: {next(iter(values))}.*expected a"):
        build(Sample, values, "here")


def test_override_reads_yaml_and_leaves_the_source_alone():
    source = {"train": {"seed": 1}}
    changed = override(source, ["train.seed=2", "model.heads=[1, 2]", "train.learning_rate=3e-4", "train.deep.key=yes"])
    assert changed == {
        "train": {"seed": 2, "learning_rate": "3e-4", "deep": {"key": True}},
        "model": {"heads": [1, 2]},
    }
    assert source == {"train": {"seed": 1}}
    assert override({"train": None}, ["train.seed=2"]) == {"train": {"seed": 2}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.seed", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("train.seed.x=1", "seed is a value and has no keys"),
        ("train.seed=[1", "the value is not YAML"),
    ],
)
def test_override_names_a_mistake(assignment, message):
    with pytest.raises(ConfigError, match=message):
        override({"train": {"seed": 1}}, [assignment])


def test_a_missing_file_lists_the_presets():
    with pytest.raises(ConfigError, match=r"nothing.yaml: no such file or preset; presets are .*tiny"):
        load_yaml("nothing.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not YAML"),
        (b"- 1\n- 2\n", "holds a list, expected sections"),
        (b"\xff\xfe\x00a", "not text in UTF-8, expected a YAML file"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_the_default(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert load_model_config(path) == ModelConfig()

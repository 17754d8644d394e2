"""Configuration: what YAML may say, and that every mistake is named with its remedy."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from ft.config import AudioConfig, ModelConfig, NetworkConfig, load_model_config, model_config_from_yaml
from ft.errors import ConfigError
from ft.settings import build, load_yaml, override, presets
from ft.train_config import train_config_from_yaml

ORIGINALS = {"original-dense", "original-gelu", "original", "base"}


def model(**sections):
    return model_config_from_yaml(sections, "test.yaml")


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_has_its_own_name(name):
    config = load_model_config(name)
    assert config.name == name
    assert config.network.bins == config.audio.bins


def test_presets_of_the_original_have_its_front_end():
    assert set(presets()) >= ORIGINALS | {"tiny"}
    for name in ORIGINALS:
        config = load_model_config(name)
        audio = config.audio
        assert (audio.sample_rate, audio.n_fft, audio.hop_length, audio.bins) == (44100, 2048, 1024, 1024)
        assert (audio.channels, audio.normalize, config.mask_stem) == (2, "track", "instrumental")


@pytest.mark.parametrize("name", presets())
def test_dict_and_back(name):
    config = load_model_config(name)
    values = config.to_dict()
    assert ModelConfig.from_dict(values) == config
    assert isinstance(values["network"]["heads"], list)  # plain values, as JSON gives them back


def test_models_that_say_attention_for_all_levels_still_load():
    config = load_model_config("tiny")
    values = config.to_dict()
    assert ModelConfig.from_dict({**values, "network": {**values["network"], "attention": True}}) == config
    without = ModelConfig.from_dict({**values, "network": {**values["network"], "attention": False}})
    assert without.network == dataclasses.replace(config.network, heads=(0, 0))


def test_a_file_lists_only_what_it_changes(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("audio: {n_fft: 512, hop_length: 256, bins: 256}\nmodel: {name: mine, channels: 2}\n")
    config = load_model_config(path)
    assert config.network == NetworkConfig(bins=256, channels=2)
    assert config.audio == AudioConfig(n_fft=512, hop_length=256, bins=256)


def test_a_file_may_start_from_a_preset():
    config = model(model={"preset": "tiny", "expansion": 3}, audio={"normalize": "track"})
    tiny = load_model_config("tiny")
    assert config.network == dataclasses.replace(tiny.network, expansion=3)
    assert config.audio == dataclasses.replace(tiny.audio, normalize="track")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"expanson": 2}}, r"test.yaml: model: unknown key 'expanson'; did you mean 'expansion'\?"),
        ({"audio": {"hop": 2}}, r"unknown key 'hop'; did you mean 'hop_length'\?"),
        ({"modle": {}}, r"test.yaml: unknown key 'modle'; did you mean 'model'\?"),
        ({"model": {"bins": 64}}, r"unknown key 'bins'"),
        ({"model": {"heads": [3, 4, 4, 4, 4, 4]}}, r"3 heads do not divide the 1024 features of level 1"),
        ({"model": {"heads": [4, 4, 4, 4, 4, 3]}}, r"3 heads do not divide the 32 features of level 6"),
        ({"model": {"heads": [4, 4]}}, r"heads: \[4, 4\], expected 6 numbers of at least 0"),
        ({"model": {"heads": [4, 4, 4, 4, 4, -1]}}, r"heads: .* expected 6 numbers of at least 0"),
        ({"model": {"multipliers": [1, 2, 4, 6, 8, 0]}}, r"multipliers: .* expected numbers of at least 1"),
        ({"model": {"dropout": 1}}, r"dropout: 1.0, expected 0 <= x < 1"),
        ({"model": {"activation": "relu"}}, r"activation: 'relu', expected gelu or squared-relu"),
        ({"model": {"channels": 1.5}}, r"channels: 1.5, expected a whole number"),
        ({"model": {"channels": True}}, r"channels: True, expected a whole number"),
        ({"model": {"channels": 0}}, r"channels: 0, expected a number above 0"),
        ({"model": {"feed_forward_mixing": "maybe"}}, r"expected true or false"),
        ({"model": {"name": [1]}}, r"name: \[1\], expected text"),
        ({"model": {"mask_stem": "drums"}}, r"mask_stem: 'drums', expected one of"),
        ({"model": {"stems": ["bass", "drums"]}}, r"expected vocals and instrumental"),
        ({"model": 3}, r"model is 3, expected keys and values"),
        ({"model": {"preset": ["tiny"]}}, r"model: preset: \['tiny'\], expected text"),
        ({"audio": {"bins": 1056}}, r"bins: 1056, expected at most n_fft / 2 = 1024"),
        ({"audio": {"bins": 1008}}, r"bins: 1008, expected a multiple of 32, so that 6 levels"),
        ({"audio": {"n_fft": 2047}}, r"2047 is odd"),
        ({"audio": {"hop_length": 1500}}, r"more than half of n_fft 2048"),
        ({"audio": {"channels": 3}}, r"channels: 3, expected 1 or 2"),
        ({"audio": {"sample_rate": -1}}, r"sample_rate: -1, expected a number above 0"),
        ({"audio": {"normalize": "song"}}, r"expected track or window"),
        ({"audio": {"extend_mask": 2000}}, r"extend_mask: 2000, expected 0 to 1024"),
    ],
)
def test_a_mistake_is_named(sections, message):
    with pytest.raises(ConfigError, match=message) as caught:
        model(**sections)
    assert caught.value.exit_code == 2
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


def test_network_and_front_end_must_agree():
    with pytest.raises(ConfigError, match=r"the network takes 512 bins and audio\.bins is 1024"):
        ModelConfig(network=NetworkConfig(bins=512))


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
    network = NetworkConfig(channels=np.int64(2), heads=tuple(np.array([4, 4, 2, 2, 1, 1])))
    config = dataclasses.replace(load_model_config("tiny"), network=dataclasses.replace(network, bins=64))
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

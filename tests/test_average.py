"""The mean of the weights of several models."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from networks import changed, tiny_config, tiny_model

from ft.average import average_models
from ft.checkpoint import load_model, save_checkpoint
from ft.cli import main
from ft.errors import CheckpointError, FtError


def write(path, **options):
    model = tiny_model(**options)
    save_checkpoint(path, model.state_dict(), model.model_config)
    return path


def test_weights_are_the_mean_and_the_configuration_that_of_all(tmp_path):
    sources = [write(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(3)]
    output = tmp_path / "mean.safetensors"
    done = CliRunner().invoke(main, ["average", *map(str, sources), "-o", str(output)], catch_exceptions=False)
    assert (done.exit_code, done.output) == (0, f"{output}\n")
    states, found = [load_model(source).state_dict() for source in sources], load_model(output)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, sum(state[name] for state in states) / 3, msg=name)
    assert found.model_config == load_model(sources[0]).model_config


def test_what_cannot_be_averaged_is_named(tmp_path):
    first = write(tmp_path / "a.safetensors")
    other = write(tmp_path / "b.safetensors", config=tiny_config(input_power=0.5))
    output = tmp_path / "mean.safetensors"
    with pytest.raises(CheckpointError, match="1 model to average; expected at least two"):
        average_models([first], output)
    with pytest.raises(CheckpointError, match=r"b\.safetensors: another network than .*a\.safetensors"):
        average_models([first, other], output)
    inverse = write(tmp_path / "c.safetensors", config=changed(tiny_config(), of="rest"))
    with pytest.raises(CheckpointError, match=r"c\.safetensors: another output than"):
        average_models([first, inverse], output)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: exists; use another name or `force`"):
        average_models([first, first], first)
    with pytest.raises(CheckpointError, match=r"mean\.onnx: expected a name that ends in \.safetensors"):
        average_models([first, first], tmp_path / "mean.onnx")
    with pytest.raises(FtError, match=r"below/mean\.safetensors: cannot be written \(Not a directory"):
        average_models([first, first], first / "below" / "mean.safetensors")
    assert not output.exists()

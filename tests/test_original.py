"""Weights of the original implementation: its logits, its geometry, and no code from a file."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
import torch
from networks import golden

from ft.checkpoint import load_model
from ft.cli import main
from ft.config import Output, Spectrogram, load_model_config
from ft.errors import CheckpointError
from ft.importers.original import convert_state, import_original, infer_config, read_state
from ft.models import numbers_of

HEADS = {
    "original-dense": (4, 4, 4, 2, 2, 1),
    "original-gelu": (8, 4, 4, 2, 2, 1),
    "original": (2, 2, 2, 2, 2, 2),
}


def write(path, name, zipped=True):
    torch.save(golden(name)[0], path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_logits_are_those_of_the_original(tmp_path, name, zipped):
    source = write(tmp_path / "weights.pth", name, zipped)
    import_original(source, tmp_path / "model.safetensors")
    _, x, expected = golden(name)
    with torch.inference_mode():
        logits = load_model(tmp_path / "model.safetensors")(x, prepared=True).numpy()
    assert np.abs(logits - expected).max() < 1e-4


@pytest.mark.parametrize("name", HEADS)
def test_geometry_comes_from_the_shapes(tmp_path, name):
    config = infer_config(tmp_path / "song.pth", golden(name)[0])
    preset, network = numbers_of(load_model_config(name)), numbers_of(config)
    assert (config.front.bins, network.channels, network.expansion, config.channels) == (64, 2, 2, 2)
    assert network.heads == HEADS[name]
    same = ["multipliers", "attention_conv", "rotary", "activation", "feed_forward_mixing", "decoder_block"]
    assert [getattr(network, key) for key in same] == [getattr(preset, key) for key in same]
    assert config.front == Spectrogram(n_fft=128, hop_length=64, bins=64)
    assert (config.output, config.name) == (Output("mask", of="rest", above="stem"), "song")


def test_what_was_assumed_is_said_and_what_was_given_is_not(tmp_path, caplog):
    state = golden("original")[0]
    with caplog.at_level(logging.WARNING):
        infer_config(tmp_path / "a.pth", state)
        assumed = caplog.text
        caplog.clear()
        config = infer_config(tmp_path / "a.pth", state, "gelu", "norm-first")
    assert "activation squared-relu (`activation`)" in assumed
    assert "rotary-first (`qk_norm_order`)" in assumed
    assert "44100 Hz" in assumed
    assert "activation" not in caplog.text and "order" not in caplog.text and "44100 Hz" in caplog.text
    assert (config.network.numbers["activation"], config.network.numbers["qk_norm_order"]) == ("gelu", "norm-first")


@pytest.mark.parametrize("option", [{"activation": "gelu"}, {"qk_norm_order": "norm-first"}])
def test_the_options_change_the_network(tmp_path, option):
    import_original(write(tmp_path / "weights.pth", "original"), tmp_path / "model.safetensors", **option)
    _, x, expected = golden("original")
    with torch.inference_mode():
        assert np.abs(load_model(tmp_path / "model.safetensors")(x, prepared=True).numpy() - expected).max() > 1e-3


def test_pickled_code_never_runs(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it-ran"),)

    plain, wrapped = tmp_path / "plain.pth", tmp_path / "wrapped.pth"
    plain.write_bytes(pickle.dumps({"out": Trap()}, protocol=2))
    torch.save({"out": Trap()}, wrapped)
    for source in (plain, wrapped):
        with pytest.raises(CheckpointError, match=r"refused: .*nothing of it was run"):
            read_state(source)
    assert not (tmp_path / "it-ran").exists()
    pickle.loads(plain.read_bytes())
    assert (tmp_path / "it-ran").exists()  # the trap works where a file is trusted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, expected a state dict"),
        ({}, "holds a dict, expected a state dict"),
        ({"epoch": 3}, "'epoch' is a int, expected a state dict"),
        ({"weight": torch.zeros(2)}, "not a network of the original FrameTransformer"),
        (
            {"module.encoder.0.SDlayer.convs.0.weight": torch.zeros(2), "module.decoder": torch.zeros(2)},
            "a network of the family SCNet, which cannot be imported yet",
        ),
        ({"model": {"a": torch.zeros(2)}, "ema": {"a": torch.zeros(2)}}, "holds 2 state dicts .'model', 'ema'."),
    ],
)
def test_another_content_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        import_original(tmp_path / "weights.pth", tmp_path / "model.safetensors")


def as_saved_by(trainer, state):
    """A state dict as trainers wrap it."""
    if trainer == "lightning":
        inner = {f"model.{name}": value for name, value in state.items()}
        return {"epoch": 3, "pytorch-lightning_version": "2", "optimizer_states": [{}], "state_dict": inner}
    if trainer == "inside":
        optimizer = {"state": {0: {"step": torch.ones(())}}, "param_groups": []}
        return {"model": state, "optimizer": optimizer, "best": torch.ones(())}
    return {f"{trainer}{name}": value for name, value in state.items()}


@pytest.mark.parametrize("trainer", ["module.", "_orig_mod.", "module._orig_mod.", "inside", "lightning"])
def test_what_trainers_wrap_weights_in_is_taken_off(tmp_path, trainer):
    state = {name: torch.as_tensor(value) for name, value in golden("original")[0].items()}
    torch.save(as_saved_by(trainer, state), tmp_path / "weights.pth")
    found = read_state(tmp_path / "weights.pth")
    assert list(found) == list(state) and all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    state = {name: torch.as_tensor(value).clone() for name, value in golden("original")[0].items()}
    state["out"].view(-1)[:2] = value
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: weights that are not finite: out \(2 of 4 values\)"):
        import_original(tmp_path / "weights.pth", tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()


def test_what_a_broken_download_left_is_named(tmp_path):
    path = tmp_path / "weights.pth"
    contents = {
        "an empty file": b"",
        "a Git LFS pointer, not the file": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "an HTML page, not the file": b"<!DOCTYPE html><title>Not found</title>",
    }
    for line, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"weights.pth: {line}"):
            read_state(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    for content in (b"RIFF of a song", b"PK\x03\x04 no zip"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"weights.pth: (refused|not a readable)"):
            read_state(path)
    torch.save({"out": torch.zeros(2, 2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in range(1, len(whole), 5):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"weights.pth: (refused|not a readable)"):
            read_state(path)
    with pytest.raises(CheckpointError, match=r"gone.pth: no such file; expected weights"):
        read_state(tmp_path / "gone.pth")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    state, _, _ = golden("original-gelu")
    config = infer_config(tmp_path / "a.pth", state)
    del state["dec3.linear2.weight_dw"]
    state["enc2.linear1.bias"] = torch.zeros(3)
    state["enc3.linear1.weight_pw"] = state["enc3.linear1.weight_pw"][:, 1:]
    with pytest.raises(CheckpointError) as caught:
        convert_state(tmp_path / "a.pth", state, config)
    message = str(caught.value)
    assert "missing dec3.linear2.weight_dw" in message
    assert "unexpected enc2.linear1.bias" in message
    assert "misshapen enc3.linear1.weight_pw (4, 32, 63) instead of (4, 32, 64)" in message


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("out", (2, 2, 1), r"out has shape \(2, 2, 1\), expected 2 dimensions"),
        ("enc4.linear1.weight_dw", (13, 8), "13 enc4.linear1.weight_dw rows is no multiple of 2"),
        ("enc2_transformer.attn.q_norm.norm.weight", (5,), "32 features of .* is no multiple of 5"),
        ("enc1.norm1.norm.weight", (60,), "no network that is known here|no multiple"),
    ],
)
def test_an_impossible_geometry_is_named(tmp_path, name, shape, message):
    state = {**golden("original")[0], name: torch.zeros(shape)}
    with pytest.raises(CheckpointError, match=message):
        infer_config(tmp_path / "a.pth", state)


def test_command(tmp_path, capsys):
    source = write(tmp_path / "weights.pth", "original-gelu")
    arguments = ["import", str(source), "--qk-norm-order", "norm-first"]
    main(arguments, standalone_mode=False)
    captured = capsys.readouterr()
    output = tmp_path / "weights.safetensors"
    assert captured.out.strip() == str(output)
    assert "assumed: activation gelu" in captured.err
    assert load_model(output).numbers.qk_norm_order == "norm-first"
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    assert "exists; use another name or --force" in capsys.readouterr().err
    main([*arguments, "--force", "-o", str(output)], standalone_mode=False)

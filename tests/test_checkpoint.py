"""Checkpoints: whole or not at all, and every tensor that does not fit is named."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from networks import DENSE, random_input, tiny_config, tiny_model
from safetensors import safe_open
from safetensors.torch import save_file

from ft import __version__
from ft.checkpoint import load_config, load_model, read_metadata, save_checkpoint
from ft.errors import CheckpointError, FtError
from ft.files import atomic_write, check_writable
from ft.library.sound import write as write_sound


@pytest.fixture
def saved(tmp_path):
    """A checkpoint and the network in it."""
    model = tiny_model()
    path = tmp_path / "deep" / "model.safetensors"
    save_checkpoint(path, model.state_dict(), model.model_config)
    return path, model


def rewrite(path, change):
    """Changes the metadata of a checkpoint by `change(metadata)`."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.mark.parametrize("variant", [{}, DENSE])
def test_a_network_comes_back_bit_for_bit(tmp_path, variant):
    model = tiny_model(tiny_config(**variant))
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.state_dict(), model.model_config)
    loaded = load_model(path)
    assert not loaded.training
    assert loaded.model_config == load_config(path) == model.model_config
    state = loaded.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in model.named_parameters()}
    x = random_input(model.model_config, 9)
    assert torch.equal(loaded(x), model(x))


def test_other_precisions_are_loaded_as_float32(saved):
    path, model = saved
    save_checkpoint(path, {name: value.half() for name, value in model.state_dict().items()}, model.model_config)
    loaded = load_model(path)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.out, model.out.half().float())


def test_tensors_that_share_memory_are_written(saved):
    path, model = saved
    state = model.state_dict()
    state["dec1.norm.norm.weight"] = state["dec1.norm.norm.bias"] = torch.arange(64.0)[::2]
    save_checkpoint(path, state, model.model_config)
    assert torch.equal(load_model(path).state_dict()["dec1.norm.norm.bias"], torch.arange(0.0, 64, 2))


def test_metadata_is_readable_by_anyone(saved):
    path, model = saved
    save_checkpoint(path, model.state_dict(), model.model_config, {"note": "text", "step": 3, "run": {"seed": [1]}})
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata == read_metadata(path)
    assert json.loads(metadata["ft_config"]) == model.model_config.to_dict()
    assert (metadata["ft_version"], metadata["format"], metadata["ft_format"]) == (__version__, "pt", "2")
    assert (metadata["note"], metadata["step"], json.loads(metadata["run"])) == ("text", "3", {"seed": [1]})


def test_the_configuration_is_read_without_torch(saved):
    path, model = saved
    code = (
        "import sys; from ft.checkpoint import load_config; "
        f"print(load_config({str(path)!r}).name, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [model.model_config.name, "False", "False"]


def test_saving_names_what_does_not_fit(saved):
    path, model = saved
    before = path.read_bytes()
    state = dict(model.state_dict())
    del state["out"]
    state["surplus"] = torch.zeros(1)
    state["enc1.norm1.norm.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(path, state, model.model_config)
    message = str(caught.value)
    for part in ("missing out;", "unexpected surplus;", "enc1.norm1.norm.bias (5,) instead of (64,)"):
        assert part in message
    assert path.read_bytes() == before


def test_loading_names_what_does_not_fit(saved):
    path, _ = saved

    def widen(metadata):
        config = json.loads(metadata["ft_config"])
        config["network"]["numbers"]["expansion"] = 3
        metadata["ft_config"] = json.dumps(config)

    rewrite(path, widen)
    with pytest.raises(CheckpointError, match=r"linear1.weight_pw \(1, 64, 128\) instead of \(1, 64, 192\).*more"):
        load_model(path)


def test_weights_that_are_not_finite_are_named_by_whoever_saves_or_loads(saved):
    path, model = saved
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["out"].view(-1)[0] = float("nan")
    written = path.read_bytes()
    line = r"model\.safetensors: weights that are not finite: out \(1 of 2 values\)"
    with pytest.raises(CheckpointError, match=line):
        save_checkpoint(path, state, model.model_config)
    assert path.read_bytes() == written
    with safe_open(path, "pt") as file:
        save_file(state, path, file.metadata())
    with pytest.raises(CheckpointError, match=line):
        load_model(path)


@pytest.mark.parametrize("content", [b"RIFF", b"\x80\x02}q\x00.", b"\x04" + bytes(7) + b"[[]]", bytes(100)])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "song.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"song.safetensors: no safetensors file; expected a checkpoint"):
        load_model(path)


@pytest.mark.parametrize("suffix", ["safetensors", "onnx"])
def test_what_a_broken_download_or_clone_leaves_is_named(tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    contents = {b"": "an empty file", b"version https://git-lfs": "a Git LFS pointer", b"<HTML><head>": "an HTML page"}
    for content, named in contents.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"model.{suffix}: {named}.*; expected a"):
            read_metadata(path)


def test_a_file_cut_short_is_refused(saved):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(path)


def test_a_safetensors_file_of_others_is_refused(saved):
    path, _ = saved
    rewrite(path, lambda metadata: metadata.pop("ft_config"))
    with pytest.raises(CheckpointError, match=r"holds no configuration.*`ft import`"):
        load_config(path)


def test_a_later_format_and_a_broken_configuration_are_refused(saved):
    path, _ = saved
    rewrite(path, lambda metadata: metadata.update(ft_format="3"))
    with pytest.raises(CheckpointError, match=r"format version 3, this ft .* reads up to 2"):
        load_config(path)
    rewrite(path, lambda metadata: metadata.update(ft_format="2", ft_config='{"nam": "x"}'))
    with pytest.raises(CheckpointError, match=r"configuration is not usable: .*did you mean 'name'"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone.safetensors: no such file; expected a checkpoint"):
        load_model(tmp_path / "gone.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_config(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(saved):
    path, model = saved
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(path / "below.safetensors", model.state_dict(), model.model_config)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit((tmp_path / "pipe").read_bytes)
        with atomic_write(tmp_path / "pipe") as part:
            part.write_bytes(b"all of it")
        assert found.result(timeout=10) == b"all of it"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_permissions_that_the_umask_gives(saved, tmp_path, umask):
    """A checkpoint by safetensors, which makes files of mode 600, and sound by libsndfile, which makes 644 at most."""
    _, model = saved
    (tmp_path / "model.safetensors.part").touch(0o600)  # of a run that was killed
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "model.safetensors", model.state_dict(), model.model_config)
        write_sound(np.zeros((9, 1), np.float32), tmp_path / "sound.wav")
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir() if file.is_file()}
    assert modes == dict.fromkeys(("model.safetensors", "sound.wav"), oct(0o666 & ~umask))


def test_atomic_write_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.bin"
    with atomic_write(path) as part:
        part.write_bytes(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as part:
        part.write_bytes(b"half of the sec")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_a_file_that_cannot_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "taken").write_bytes(b"kept")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    found = {
        "taken/out.json": "Not a directory",
        "taken/new/out.json": "Not a directory",
        "gone/out.json": "No such file",
        "": "Is a directory",
        "n" * 300: "too long",
        "/dev/absent": "No such file",
    }
    for name, reason in found.items():
        with pytest.raises(FtError, match=f"cannot be written .*{reason}"):
            check_writable(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    for name in ("out.json", "new/folders/out.json", "taken", "pipe", "/dev/null"):
        check_writable(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gone", "pipe", "taken"]
    assert (tmp_path / "taken").read_bytes() == b"kept"

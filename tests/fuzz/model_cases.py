"""Damaged models: each is asked what it is, is separated with, or is imported."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft.checkpoint import CONFIG_KEY

from .cases import MEMORY, Case, generator
from .damage import damage

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 63, 1 << 20, 1 << 31, 1 << 63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "7", "x" * 3000, "\x1b[31m\n", "\udcff", [], [1] * 7, {}, {"a": {}}, [[[]]]),
)
DEEP = "[" * 200_000
WHOLE = {"safetensors", "onnx", "int8"}
"""Kinds that `ft separate` runs here; a plan needs a GPU."""


class ModelCampaign:
    """See `cases.Campaign`."""

    together = 1
    seconds = 60.0

    def __init__(self, models: Mapping[str, Path], song: Path) -> None:
        """`models`: of `material.model_files`, or a part of it. `song`: a short one."""
        self.models = {kind: (path.suffix, path.read_bytes()) for kind, path in models.items()}
        self.manifest = (
            models["plan"].with_name(models["plan"].name + ".json").read_bytes() if "plan" in models else b""
        )
        self.song = song

    def case(self, seed: int) -> Case:
        rng = generator("models", seed)
        kind = rng.choice(sorted(self.models))
        suffix, data = self.models[kind]
        manifest, done = self.manifest, ["keep"]
        how = rng.random()
        if how < 0.5 and kind in ("safetensors", "onnx", "int8"):
            data, done = (_edit_safetensors if kind == "safetensors" else _edit_onnx)(rng, data)
        elif kind == "plan" and how < 0.85:
            edit = _edit_json if rng.random() < 0.6 else lambda r, d: damage(r, d, data)
            manifest, done = edit(rng, manifest)
        elif kind == "pth" and how < 0.15:
            data, done = _code(rng), ["code"]
        else:
            data, done = damage(rng, data, rng.choice(list(self.models.values()))[1])
        if rng.random() < 0.05:
            suffix = "." + rng.choice(("onnx", "safetensors", "plan", "pth"))
            done = [*done, f"as {suffix}"]
        name = f"m{seed:07d}{suffix}"
        files = {name: data, f"{name}.json": manifest} if suffix == ".plan" else {name: data}
        must = "done" if done == ["keep"] and kind in WHOLE else ""
        return Case(seed, kind, tuple(done), name, files, must)

    def job(self, cases: list[Case], folder: Path) -> dict[str, Any]:
        (case,) = cases
        rng = generator("use", case.seed)
        model, out = folder / case.name, folder / "out"
        inputs: list[dict[str, Any]] = []
        action = "separate" if case.must else rng.choice(("separate", "separate", "separate", "info"))
        if model.suffix == ".pth":
            action = "import"
        if action == "info":
            arguments = ["-q", "info", str(model), *rng.choice(((), ("--json",)))]
        elif action == "import":
            out.mkdir()
            arguments = ["-q", "import", str(model), "-o", str(out / "m.safetensors")]
            inputs = [self._input(case, model, [out / "m.safetensors"])]
        else:
            runtime = rng.choice(("auto", "auto", "openvino", "torch"))
            runtime = "auto" if model.suffix != ".onnx" else runtime
            arguments = ["-q", "separate", str(self.song), "-o", str(out), "--engine", str(model), "--runtime", runtime]
            arguments += ["--device", "cpu", "--threads", "1", "--segment-seconds", "1", "--context-seconds", "0.1"]
            stems = [out / self.song.stem / f"{stem}.wav" for stem in ("vocals", "instrumental")]
            inputs = [self._input(case, self.song, stems)]
        return {
            "arguments": arguments,
            "inputs": inputs,
            "output": str(out),
            "folder": str(folder),
            "codes": [0, 1, 2] if action == "separate" else [0, 1],
            "memory": MEMORY,
            "forbidden": str(folder / "ran"),
            "open": 40,  # what torch and OpenVINO keep
        }

    def _input(self, case: Case, path: Path, files: list[Path]) -> dict[str, Any]:
        return {"name": case.name, "path": str(path), "must": case.must, "files": list(map(str, files))}


def _edit_json(rng: random.Random, text: bytes) -> tuple[bytes, list[str]]:
    """One value of a JSON text becomes another one, is removed, or the text nests without end."""
    if rng.random() < 0.05:
        return DEEP.encode(), ["deep"]
    values = json.loads(text)
    node, path = values, []
    while isinstance(node, dict | list) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        path.append(str(key))
        parent, node = node, node[key]
        if rng.random() < 0.15:
            break
    if rng.random() < 0.15:
        del parent[key]
    elif isinstance(parent, dict) and rng.random() < 0.1:
        parent["strange"] = rng.choice(VALUES)
    else:
        parent[key] = rng.choice(VALUES)
    return json.dumps(values).encode("utf-8", "surrogatepass"), ["edit " + ".".join(path)]


def _edit_config(rng: random.Random, text: str) -> tuple[str, list[str]]:
    edited, done = _edit_json(rng, text.encode())
    return edited.decode("utf-8", "replace"), done


def _edit_safetensors(rng: random.Random, data: bytes) -> tuple[bytes, list[str]]:
    """A well-formed file whose header says something else."""
    (size,) = struct.unpack("<Q", data[:8])
    header, tensors = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.5:
        values = json.loads(header)
        values["__metadata__"][CONFIG_KEY], done = _edit_config(rng, values["__metadata__"][CONFIG_KEY])
        text = json.dumps(values).encode()
    else:
        text, done = _edit_json(rng, header)
    if rng.random() < 0.1:
        tensors, done = _strange_weights(rng, tensors), [*done, "weights"]
    return struct.pack("<Q", len(text)) + text + tensors, done


def _strange_weights(rng: random.Random, data: bytes) -> bytes:
    values = [struct.pack("<f", value) for value in (float("nan"), float("inf"), 1e38, -1e38)]
    count = len(data) // 4
    damaged = bytearray(data)
    for _ in range(1000):
        start = 4 * rng.randrange(max(count, 1))
        damaged[start : start + 4] = rng.choice(values)
    return bytes(damaged)


def _edit_onnx(rng: random.Random, data: bytes) -> tuple[bytes, list[str]]:
    """A well-formed file with another description, another graph or other weights."""
    import onnx

    model = onnx.load_from_string(data)
    entries = {entry.key: entry for entry in model.metadata_props}
    graph = model.graph
    how = rng.choice(("config", "config", "metadata", "type", "edge", "drop", "attribute", "shape", "weights", "input"))
    done = [how]
    node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
    if how == "config":
        entries[CONFIG_KEY].value, done = _edit_config(rng, entries[CONFIG_KEY].value)
    elif how == "metadata":
        entry = rng.choice(list(entries.values()))
        entry.value, done = rng.choice(("", "7", "-1", "[]", "{", "x" * 3000, DEEP)), [f"metadata {entry.key}"]
    elif how == "type":
        node.op_type = rng.choice(graph.node).op_type
    elif how == "edge" and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(rng.choice(graph.node).output or [""])
    elif how == "drop":
        graph.node.remove(node)
    elif how == "attribute" and node.attribute:
        attribute = rng.choice(node.attribute)
        attribute.i = rng.choice((-1, 0, 1 << 20, 1 << 62))
        attribute.ints[:] = [rng.choice((-1, 0, 7, 1 << 40)) for _ in attribute.ints]
    elif how == "shape" and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((-1, 0, 1, 1 << 31, 1 << 62))
    elif how == "weights" and tensor.raw_data:
        tensor.raw_data = _strange_weights(rng, tensor.raw_data)
    elif how == "input":
        shape = graph.input[0].type.tensor_type.shape.dim
        rng.choice(shape).dim_value = rng.choice((0, 1, 3, 65, 1 << 40))
    return model.SerializeToString(), done


def _code(rng: random.Random) -> bytes:
    """A pickle that would write a file `ran` beside itself, bare or in PyTorch's zip."""
    import io
    import pickle
    import zipfile

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("import os, sys; open(os.path.join(os.environ['FT_FUZZ_FOLDER'], 'ran'), 'w')",)

    bare = pickle.dumps({"out": Code()}, protocol=rng.choice((2, 4)))
    if rng.random() < 0.5:
        return bare
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("a/data.pkl", bare), ("a/version", b"3\n"), ("a/byteorder", b"little")):
            archive.writestr(name, content)
    return file.getvalue()

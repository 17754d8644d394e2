"""The graph of an exported model without its weights, which `ft pull` puts beside it as the file `NAME.onnx.data`.

python -m export.skeleton spleeter.onnx ft/catalogue/spleeter.onnx

So a model runs without PyTorch once its published weights were fetched, by the graph that was compared with PyTorch:
the SHA-256 that is printed, and stands in the catalogue, is that of the weights that this was done with.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click
import onnx

from ft.checkpoint import LAYOUT_KEY, WEIGHTS_KEY, expected_shapes, load_config, read_metadata
from ft.errors import ExportError
from ft.onnx_metadata import append_onnx_metadata


def write_skeleton(source: Path, output: Path) -> str:
    """Writes the graph; returns the SHA-256 of its weights, laid down one behind the other.

    Raises:
        ExportError: a weight is held in another layout than the network's state has.
    """
    names = json.loads(read_metadata(source)[WEIGHTS_KEY])
    if packed := [held for held in names.values() if "^" in held]:
        raise ExportError(f"{source}: {packed[0]} is a weight in another layout; expected weights as they are")
    own = {name: name for name in expected_shapes(load_config(source))} | {held: name for name, held in names.items()}
    model = onnx.load(source)
    layout, digest, offset = [], hashlib.sha256(), 0
    for tensor in model.graph.initializer:
        if tensor.name not in own:
            continue
        data = onnx.numpy_helper.to_array(tensor).tobytes()
        layout.append(own[tensor.name])
        digest.update(data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": f"{output.name}.data", "offset": offset, "length": len(data)}
        tensor.external_data.extend(
            onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()
        )
        offset += len(data)
    output.write_bytes(model.SerializeToString())
    append_onnx_metadata(output, {LAYOUT_KEY: json.dumps(layout)})
    return digest.hexdigest()


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def main(source: Path, output: Path) -> None:
    """Write the graph of SOURCE without weights, and say their SHA-256."""
    click.echo(write_skeleton(source, output))


if __name__ == "__main__":
    main()

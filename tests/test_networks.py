"""What every network of the registry does, whatever its kind."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from export.graph import lowered
from ft.checkpoint import load_model, save_checkpoint
from ft.config import ModelConfig, Output, Spectrogram
from ft.errors import ConfigError
from ft.models import NETWORKS, Sizes, completed, make_network, module_of
from ft.models.network import SeparationNetwork
from ft.models.open_unmix import Config as OpenUnmixNumbers
from ft.models.open_unmix import Network as OpenUnmix

FOUR = ("drums", "bass", "other", "vocals")


def changed(config: ModelConfig, stems: tuple[str, ...] | None = None, **numbers: object) -> ModelConfig:
    """A model with other numbers of its network, or other stems."""
    network = dataclasses.replace(config.network, numbers={**config.network.numbers, **numbers})
    of = {} if stems is None else {"stems": stems, "rest": None}
    return dataclasses.replace(config, network=network, **of)


def entry(config: ModelConfig, *stems: str, fed: bool = False) -> dict[str, object]:
    """A model's network as one of several."""
    return {"kind": config.network.kind, "stems": list(stems), "fed": fed, **config.network.numbers}


def several(config: ModelConfig, *networks: dict[str, object]) -> ModelConfig:
    """A model of four stems with the outsides of another, of several networks."""
    network = dataclasses.replace(config.network, kind="several", numbers={"networks": networks})
    return dataclasses.replace(config, network=network, stems=FOUR, rest=None)


TINY = {kind: module_of(kind).tiny() for kind in NETWORKS}
BS_ROFORMER, CONV_TASNET = TINY["bs-roformer"], TINY["conv-tasnet"]
CASES = {
    **TINY,
    **{f"{kind}, two stems": changed(TINY[kind], ("a", "b")) for kind in ("frame-transformer", "bs-roformer")},
    **{f"{kind}, four stems": changed(TINY[kind], FOUR) for kind in ("frame-transformer", "bs-roformer")},
    "conv-tasnet, two stems": changed(CONV_TASNET, ("a", "b")),
    "conv-tasnet, four stems": changed(CONV_TASNET, FOUR),
    "open-unmix of all bins": changed(TINY["open-unmix"], read_bins=None, layers=1),
    "bs-roformer, three linear maps a mask, mono": dataclasses.replace(changed(BS_ROFORMER, mask_depth=3), channels=1),
    "several, of pairs and fed by them": several(
        BS_ROFORMER, entry(BS_ROFORMER, "drums", "bass"), entry(BS_ROFORMER, "other", "vocals", fed=True)
    ),
    "several, the last for all": several(
        CONV_TASNET, entry(CONV_TASNET, "vocals"), entry(CONV_TASNET, "drums"), entry(CONV_TASNET, *FOUR, fed=True)
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys(), scope="module")
def network(request) -> SeparationNetwork:
    """A network in eval mode, of which nothing is where it starts; its `model_config` is set."""
    torch.manual_seed(0)
    made = make_network(request.param).eval()
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point() and not name.endswith("running_var"):
                value.add_(0.05 * torch.rand_like(value))
    made.model_config = request.param
    return made


def sizes(config: ModelConfig, frames: int, shape: tuple[int | str, ...]) -> list[int]:
    """The sizes of a tensor for two items of so many frames, or of the only number that the model takes."""
    free = {"batch": 2, "frames": frames, "samples": frames * config.front.hop_length}
    return [free[size] if isinstance(size, str) else size for size in shape]


def inputs(config: ModelConfig, frames: int = 13) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(sizes(config, frames, config.reads[0].shape), generator=generator)


@pytest.mark.parametrize("frames", [13, 1])
def test_gives_the_shape_that_the_model_declares(network, frames):
    config = network.model_config
    with torch.no_grad():
        given = network(inputs(config, frames))
    assert list(given.shape) == sizes(config, frames, config.gives.shape) and given.isfinite().all()


def test_items_of_a_batch_do_not_meet_and_frames_do(network):
    x = inputs(network.model_config)
    with torch.no_grad():
        given, alone = network(x), network(x[1:])
        later = network(torch.cat((x[..., :-1], x[..., -1:] + 1), dim=-1))
    torch.testing.assert_close(alone, given[1:], atol=3e-5 * float(given.abs().max()), rtol=0)
    assert not torch.equal(later[..., :-1], given[..., :-1])


def test_a_checkpoint_holds_all_of_it(network, tmp_path):
    x = inputs(network.model_config)
    save_checkpoint(tmp_path / "model.safetensors", network.state_dict(), network.model_config)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.model_config == completed(network.model_config)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_every_weight_learns_but_those_that_are_not_used(network):
    try:
        network.train()
        network(inputs(network.model_config)).square().mean().backward()
        still = [
            name
            for name, value in network.named_parameters()
            if value.grad is None or not value.grad.any() or not value.grad.isfinite().all()
        ]
        assert [name for name in still if not network.is_unused(name)] == []
    finally:
        network.zero_grad()
        network.eval()


def test_matrices_are_weights_of_two_axes_or_more(network):
    state = network.state_dict()
    assert all(state[name].ndim >= 2 for name in network.matrices())


def test_halved_it_takes_and_gives_what_it_did(network):
    x = inputs(network.model_config)
    halved = lowered(network, network.model_config, torch.float16)
    with torch.no_grad():
        exact, given = network(x), halved(x)
    assert (given.float() - exact).abs().max() < 0.02 * exact.abs().max()


FITTED = {
    "frame-transformer": changed(TINY["frame-transformer"], standardize=True),
    "open-unmix": TINY["open-unmix"],
    "several": TINY["several"],
}


@pytest.mark.parametrize("config", FITTED.values(), ids=FITTED.keys())
def test_fitting_makes_the_output_the_same_for_louder_bins(config):
    torch.manual_seed(0)
    network = make_network(config)
    assert network.wants_fit and not make_network(TINY["bs-roformer"]).wants_fit
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.fit(inputs(config) * torch.linspace(0.1, 0.9, config.front.used_bins)[:, None])
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_open_unmix_brings_each_bin_that_it_reads_to_the_same_spread():
    network = make_network(TINY["open-unmix"])
    read = network.read
    x = inputs(TINY["open-unmix"]) * torch.linspace(0.1, 5, 257)[:, None] + 3
    network.fit(x)
    scaled = (x[:, :, :read].transpose(2, 3) + network.input_mean) * network.input_scale
    torch.testing.assert_close(scaled.mean((0, 1, 2)), torch.zeros(read), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std((0, 1, 2)), torch.ones(read), atol=0.05, rtol=0)


def test_open_unmix_has_the_parameters_of_the_original():
    with torch.device("meta"):
        network = OpenUnmix(OpenUnmixNumbers(read_bins=1487), Sizes(2, 2, ("vocals",), 2049))
    assert sum(value.numel() for value in network.parameters()) == 8_893_348  # its README


def test_open_unmix_gives_nothing_where_the_mixture_is_silent():
    config = TINY["open-unmix"]
    x = inputs(config)
    x[:, :, 200:] = 0
    with torch.no_grad():
        assert not make_network(config).eval()(x)[:, :, 200:].any()


def test_bands_of_bs_roformer_hear_each_other_and_tile_the_bins():
    torch.manual_seed(0)
    network = make_network(BS_ROFORMER).eval()
    x = inputs(BS_ROFORMER)
    top = x.clone()
    top[:, :, -1] += 1
    with torch.no_grad():
        assert ((network(top) - network(x)).abs().amax((0, 1, 3)) > 0).all()


def test_a_fed_network_hears_the_others_and_the_last_of_a_stem_counts():
    config = CASES["several, the last for all"]
    torch.manual_seed(0)
    network, x = make_network(config).eval(), inputs(config)
    with torch.no_grad():
        before = network(x)
        network.networks[0].decoder.weight.mul_(-2)
        heard = network(x)
        network.networks[2].decoder.weight.zero_()
        silent = network(x)
    assert not torch.allclose(before, heard) and not silent.any()


def test_what_is_fed_has_real_parts_before_imaginary_ones():
    config = CASES["several, of pairs and fed by them"]
    network, x = make_network(config), torch.zeros(1, 4, 129, 3)
    x[:, :2] = 1
    given = [torch.cat((torch.full((1, 2, 129, 3), value), torch.zeros(1, 2, 129, 3)), 1) for value in (2.0, 3.0)]
    assert network._joined(x, given)[0, :, 0, 0].tolist() == [1, 1, 2, 2, 3, 3, 0, 0, 0, 0, 0, 0]


REFUSED = [
    (changed(TINY["open-unmix"], ("vocals", "drums")), "expected kind: several"),
    (changed(TINY["open-unmix"], read_bins=300), "read_bins: 300, expected at most the 257"),
    (changed(TINY["open-unmix"], hidden=5), "hidden: 5, expected an even number"),
    (changed(TINY["open-unmix"], hiden=6), "unknown key 'hiden'; did you mean 'hidden'"),
    (
        dataclasses.replace(TINY["open-unmix"], front=BS_ROFORMER.front, output=Output("spectrum")),
        "expected front.values: magnitude",
    ),
    (changed(BS_ROFORMER, bands=[100]), "bands: of 100 bins in all, expected the 129"),
    (changed(BS_ROFORMER, head_width=7), "head_width: 7, expected an even number"),
    (
        dataclasses.replace(BS_ROFORMER, front=Spectrogram(n_fft=256, hop_length=128), output=Output("mask")),
        "expected front.values: complex",
    ),
    (changed(CONV_TASNET, length=24), "expected half of it to divide hop_length 256"),
    (changed(CONV_TASNET, kernel=4), "kernel: 4, expected an odd number"),
    (several(CONV_TASNET), "networks: none"),
    (several(CONV_TASNET, {"kind": "conv-tasnet"}), "networks[0]: no stems"),
    (several(CONV_TASNET, {"kind": "tasnet", "stems": ["vocals"]}), "'tasnet', expected frame-transformer"),
    (
        several(CONV_TASNET, entry(CONV_TASNET, "vocals", "guitar")),
        "stems: guitar, expected some of drums",
    ),
    (several(CONV_TASNET, entry(CONV_TASNET, "vocals")), "none of them gives drums, bass, other"),
    (several(CONV_TASNET, {**entry(CONV_TASNET, *FOUR), "length": 6}), "networks[0]: length: 6"),
    (
        several(
            dataclasses.replace(BS_ROFORMER, output=Output("mask")),
            entry(BS_ROFORMER, "drums"),
            entry(BS_ROFORMER, *FOUR, fed=True),
        ),
        "networks[1]: fed: true, but networks read 4 channels and give 2",
    ),
    (dataclasses.replace(CONV_TASNET, network=dataclasses.replace(CONV_TASNET.network, kind="x")), "network.kind: 'x'"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED, ids=itertools.count())
def test_numbers_that_do_not_fit_are_refused_in_one_line(config, message):
    with torch.device("meta"), pytest.raises(ConfigError) as raised:
        make_network(config)
    assert message in str(raised.value) and "\n" not in str(raised.value)

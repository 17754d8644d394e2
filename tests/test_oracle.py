"""The plain implementation that the network and its speed are compared with."""

from __future__ import annotations

import networks
import numpy as np
import oracle
import pytest
import torch
from networks import random_input, tiny_config, tiny_model

from bench.bars import OVERRIDES
from bench.rows import count_work
from bench.runners import load_baseline
from ft.config import model_config_from_yaml
from ft.errors import EngineError
from ft.models import count_parameters
from ft.models.frame_transformer import FrameTransformer
from ft.models.signal import activated
from ft.settings import load_yaml, override

VARIANTS = {
    "grouped": {},
    "dense": networks.DENSE,
    "gelu": {"activation": "gelu"},
    "norm-first": {"qk_norm_order": "norm-first"},
    "power": {"input_power": 0.5},
    "standardize": {"standardize": True},
    "attention below the first level": {"heads": (0, 2)},
}


def plain(model: FrameTransformer) -> oracle.Oracle:
    return oracle.Oracle(model.model_config, model.state_dict())


@pytest.mark.parametrize("network", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("frames", [1, 37])
def test_network_equals_its_formulas(network, frames):
    model = tiny_model(tiny_config(**network))
    magnitude = random_input(model.model_config, frames)
    with torch.inference_mode():
        found = activated(model(magnitude), model.model_config.output)
        expected = plain(model).mask(magnitude)
    assert torch.linalg.norm(found - expected) <= 1e-5 * torch.linalg.norm(expected)
    assert expected.std() > 0.005


@pytest.mark.parametrize("network", [{}, networks.DENSE], ids=["grouped", "dense"])
def test_work_that_is_counted_is_the_work_that_is_done(network):
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_model(tiny_config(**network))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        plain(model).logits(random_input(model.model_config, 37, batch=3))
    assert count_work(model.model_config, 3, 37).flops == counter.get_total_flops()


@pytest.mark.parametrize(
    "network",
    [{"transformer": False}, {"heads": (0, 0)}, {"heads": (0, 2)}, {"attention_conv": "none"}],
    ids=str,
)
def test_parts_that_are_left_out_are_not_counted(network):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_model(tiny_config(**network))
    # The counter does not know the fused attention of a CPU.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(random_input(model.model_config, 37, batch=3))
    assert count_work(model.model_config, 3, 37).flops == counter.get_total_flops()


def test_the_network_of_the_bars():
    values = override(load_yaml("original-gelu"), OVERRIDES)
    config = model_config_from_yaml(values, "original-gelu")
    assert count_parameters(config) == 45_234_057
    work = count_work(config, 1, 256)
    assert work.flops == 27_545_960_448
    assert work.values > 45_000_000


def test_original_way_pads_with_silence_and_keeps_the_sum():
    """One window holds the song, 1,024 frames of silence on both sides of it."""
    model = tiny_model()
    config = model.model_config
    front = config.front
    generator = np.random.default_rng(0)
    mixture = generator.uniform(-1, 1, (config.channels, 40 * front.hop_length)).astype(np.float32)
    stems = oracle.separate(plain(model), mixture, padding=16)
    assert set(stems) == set(config.all_stems)
    assert np.abs(sum(stems.values()) - mixture).max() < 1e-5

    from ft.dsp import istft, stft

    spec = stft(mixture, front.n_fft, front.hop_length)
    magnitude = np.abs(spec)[:, : front.used_bins] / np.abs(spec).max()
    padded = np.pad(magnitude, ((0, 0), (0, 0), (16, 16 + oracle.WINDOW_FRAMES - spec.shape[2])))
    with torch.inference_mode():
        given = torch.from_numpy(padded[None].astype(np.float32))
        mask = activated(model(given), config.output)[0, ..., 16 : 16 + spec.shape[2]].numpy()
    mask = np.pad(mask, ((0, 0), (0, spec.shape[1] - front.used_bins), (0, 0)))
    expected = istft(mask * spec, front.n_fft, front.hop_length, mixture.shape[1])
    assert np.abs(stems["vocals"] - expected).max() < 1e-5


def test_original_way_runs_each_window_with_its_padding():
    """A song of two windows: the network sees 2,560 frames for each 512, as the original did."""

    class Counting(oracle.Oracle):
        shapes: list[tuple[int, ...]] = []  # noqa: RUF012

        def mask(self, magnitude):
            self.shapes.append(tuple(magnitude.shape))
            return torch.full_like(magnitude, 0.25)

    model = tiny_model()
    config = model.model_config
    front = config.front
    network = Counting(model.model_config, model.state_dict())
    mixture = np.random.default_rng(0).uniform(-1, 1, (config.channels, 700 * front.hop_length)).astype(np.float32)
    oracle.separate(network, mixture)
    assert network.shapes == [(1, config.channels, front.used_bins, 512 + 2 * 1024)] * 2


def test_baseline_is_loaded_by_path(tmp_path, tiny_checkpoint):
    found = load_baseline(oracle.__file__).load(str(tiny_checkpoint))
    assert found.config == tiny_config()
    (tmp_path / "empty.py").write_text("def load(model): ...\n")
    with pytest.raises(EngineError, match=r"has no separate\(\)"):
        load_baseline(str(tmp_path / "empty.py"))
    with pytest.raises(EngineError, match="no Python file"):
        load_baseline(str(tmp_path / "missing.py"))

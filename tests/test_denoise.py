"""Pre-training by denoising: the table of B.1, exact resuming, and the hand-over to separation."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from training import losses, settings, trainer

from ft.checkpoint import load_model
from ft.config import ConfigError, ModelConfig, Network, Spectrogram
from ft.data.loading import Batch
from ft.models import make_network
from ft.models.frame_transformer import tiny
from ft.models.signal import Signal
from ft.settings import build
from ft.train_config import Denoise, TrainConfig
from ft.training.run_folder import LAST
from ft.training.tasks import DenoiseTask, add_noise
from ft.training.validation import score

SHAPE = (10, 2, 500, 100)
BASELINE = Denoise().sigma * (2 / np.pi) ** 0.5
"""What an estimate of no noise scores in training: E |e| = sigma sqrt(2 / pi)."""


def noisy(options: Denoise, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return add_noise(clean, options, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [Denoise(), Denoise(gamma=0.8, sigma=0.5)])
def test_noise_has_the_moments_that_its_formula_gives_it(options):
    """On 1e6 samples, to 2 %."""
    clean = torch.full(SHAPE, 0.7)
    x, noise = noisy(options, clean)
    assert x.mean().item() == pytest.approx(options.gamma**0.5 * 0.7, rel=0.02)
    assert x.var().item() == pytest.approx((1 - options.gamma) * options.sigma**2, rel=0.02)
    assert noise.std().item() == pytest.approx(options.sigma, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02 * options.sigma)
    fourth = (noise / options.sigma).pow(4).mean().item()
    assert fourth == pytest.approx(3, rel=0.02), "normal"


def test_noise_can_be_told_from_the_input():
    clean = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x, noise = noisy(Denoise(), clean)
    assert torch.allclose(x - 0.95**0.5 * clean, 0.05**0.5 * noise, atol=1e-6)


def test_each_value_has_noise_of_its_own():
    _, noise = noisy(Denoise(), torch.zeros(4, 2, 32, 20))
    assert len(torch.unique(noise)) > 0.99 * noise.numel()


def tones(config: ModelConfig, generator: torch.Generator, items: int = 16, frames: int = 16) -> Batch:
    """Three partials of random pitch and phase."""
    time = torch.arange(config.front.samples(frames)) / config.sample_rate
    pitch = 400 * 4 ** torch.rand(items, 1, 1, generator=generator)
    phases = 2 * np.pi * torch.rand(3, items, config.channels, 1, generator=generator)
    mixture = sum(torch.sin(2 * np.pi * pitch * k * time + phases[k - 1]) / k for k in (1, 2, 3)) / 10
    ones = torch.ones(items)
    return Batch({"instrumental": mixture}, 0 * ones, ones)


@pytest.fixture
def config() -> ModelConfig:
    """A bare U-Net on 32 bins of one channel."""
    front = Spectrogram(n_fft=256, hop_length=128, bins=32, scale="window-peak")
    numbers = {"channels": 4, "dropout": 0, "frame_dropout": 0, "transformer": False}
    numbers = {**tiny().network.numbers, **numbers}
    return dataclasses.replace(tiny(), channels=1, front=front, network=Network("frame-transformer", numbers))


def nothing(x: torch.Tensor, prepared: bool = False) -> torch.Tensor:
    """A network that finds no noise."""
    return torch.zeros_like(x)


def everything(x: torch.Tensor, prepared: bool = False) -> torch.Tensor:
    """A network that takes its input for noise."""
    return x


def test_an_estimate_of_nothing_scores_the_baseline(config):
    task, waveforms = DenoiseTask(TrainConfig(), config), tones(config, torch.Generator().manual_seed(0), 256, 64)
    for loss, wanted in ((task.loss, BASELINE), (task.validation_loss, BASELINE / 2)):
        assert loss(nothing, waveforms, contextlib.nullcontext).value.item() == pytest.approx(wanted, rel=0.02)


def test_the_network_is_given_what_a_separating_one_is_given_but_for_noise(config):
    task, waveforms = DenoiseTask(TrainConfig(), config), tones(config, torch.Generator().manual_seed(0))
    seen = []

    def network(x, prepared):
        assert prepared
        seen.append(x)
        return (x - 0.95**0.5 * clean) / 0.05**0.5

    signal = Signal(config)
    mixture = signal.transformed(waveforms.mixture)
    clean = 2 * signal.inputs(mixture, signal.level(mixture)) - 1
    loss = task.loss(network, waveforms, contextlib.nullcontext)
    assert loss.value.item() == pytest.approx(0, abs=1e-5), "the noise is the target"
    assert (seen[0] - 0.95**0.5 * clean).std().item() == pytest.approx(0.05**0.5 * 0.4, rel=0.02)


@pytest.fixture
def one_thread():
    """For steps so small that threads cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_it_learns_to_tell_noise(config, one_thread):
    """Below 60 % of the baseline, on music that it has not seen."""
    task, generator = DenoiseTask(TrainConfig(), config), torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    network = make_network(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(125):
        task.loss(network, tones(config, generator), contextlib.nullcontext).value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        held_out = task.validation_loss(network, tones(config, generator), contextlib.nullcontext).value.item()
    assert held_out < 0.6 * BASELINE / 2


def test_validation_has_the_same_noise_each_time_and_moves_no_random_numbers(config):
    task, waveforms = DenoiseTask(TrainConfig(), config), tones(config, torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    values = [task.validation_loss(everything, waveforms, contextlib.nullcontext).value.item() for _ in range(2)]
    assert values[0] == values[1]
    assert torch.equal(torch.get_rng_state(), state)
    other = task.validation_loss(everything, waveforms, contextlib.nullcontext, index=1).value.item()
    assert other != values[0], "each item has noise of its own"
    drawn = [task.loss(everything, waveforms, contextlib.nullcontext).value.item() for _ in range(2)]
    assert drawn[0] != drawn[1]


def test_each_item_of_a_validation_has_noise_of_its_own(music):
    """Whichever process of several takes it."""
    folder = str(music / "instrumentals")
    values = settings(music, task="denoise", vocals=[], validation={"instrumentals": [folder], "items": 3})
    validation = trainer(None, values).validation

    def losses_of(rank: int, size: int) -> list[float]:
        validation.rank, validation.step, kept = rank, size, []
        validation._together = lambda own: kept.extend(own) or [0.0]
        validation.scores(nothing, 16)
        return kept

    alone = losses_of(0, 1)
    assert len(set(alone)) == 3, "the estimate is none, so that the loss is that of the noise alone"
    assert losses_of(0, 2) == alone[::2] and losses_of(1, 2) == alone[1::2] and losses_of(0, 1) == alone


def test_noise_is_handed_over_to_separation(music, tmp_path, one_thread):
    """From music alone; resumed, it is what it would have been; a separating network takes all weights strictly."""
    folder = str(music / "instrumentals")
    values = settings(music, task="denoise", vocals=[], validation={"instrumentals": [folder], "items": 1}, max_steps=4)
    whole = trainer(tmp_path / "whole", values)
    whole.run()
    values["train"]["max_steps"] = 2
    trainer(tmp_path / "parts", values).run()
    values["train"]["max_steps"] = 4
    resumed = trainer(tmp_path / "parts", values)
    resumed.restore()
    resumed.run()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    scores = whole.validation.scores(whole.network.eval(), 16)
    assert (
        0.05 < scores["valid/loss_instrumentals"] < 1
        and score(scores, ["vocals"]) == -scores["valid/loss_instrumentals"]
    )

    path = tmp_path / "whole" / LAST
    saved = load_model(path).state_dict()
    separating = trainer(tmp_path / "separate", settings(music, init_from=str(path))).network
    assert all(torch.equal(value, saved.pop(name)) for name, value in separating.state_dict().items())
    assert not saved


@pytest.mark.parametrize(
    ("values", "message"),
    [({"gamma": 1}, "gamma: 1.0, expected 0 < x < 1"), ({"sigma": 0}, "sigma: 0.0, expected a number above 0")],
)
def test_wrong_noise_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Denoise, values, "denoise")

"""What a run trains: the tasks by name, and the loss that separation has."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from networks import tiny_config, tiny_model
from sounds import vocals_and_mixture, waveforms

from ft.config import ConfigError, ModelConfig
from ft.data.batches import batch_from_waveforms, network_input
from ft.models.frame_transformer import FrameTransformer
from ft.train_config import Losses, Stage, TrainConfig
from ft.training.denoise import DenoiseTask
from ft.training.tasks import SeparationTask, make_task


@pytest.fixture(scope="module")
def sound() -> tuple[torch.Tensor, torch.Tensor]:
    """Vocals and mixture of two items (batch, channels, samples) of the example."""
    return vocals_and_mixture()


def test_tasks_are_named():
    config = tiny_config()
    assert isinstance(make_task(TrainConfig(), config), SeparationTask)
    assert isinstance(make_task(TrainConfig(task="denoise"), config), DenoiseTask)
    for name in ("separate", "denoise"):
        task = make_task(TrainConfig(task=name), config)
        assert (task.name, task.needs_vocals, task.separates) == (name, name == "separate", name == "separate")


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_the_objective_of_the_original(sound, power):
    """A.6: pred = sigmoid(f(x)), and the mean of |pred (x + 1) / 2 - y|."""
    config = tiny_config(input_power=power)
    network, data = tiny_model(config), waveforms(*sound)
    loss = make_task(TrainConfig(), config).loss(network, data, contextlib.nullcontext)
    batch = batch_from_waveforms(data, config)
    magnitude, wanted = (x.abs() / batch.scale.reshape(-1, 1, 1, 1) for x in (batch.mixture, batch.target))
    mask = torch.sigmoid(network(2 * magnitude**power - 1))
    assert loss.value.item() == pytest.approx((mask * magnitude - wanted).abs().mean().item(), rel=1e-4)
    assert loss.parts == {"magnitude_l1": loss.value.detach()}
    assert not loss.parts["magnitude_l1"].requires_grad


def complex_config() -> ModelConfig:
    config = tiny_config()
    network = dataclasses.replace(config.network, mask="complex", in_channels=4)
    return dataclasses.replace(config, network=network)


@pytest.mark.parametrize("kind", ["magnitude", "complex"])
def test_gradients_of_micro_batches_add_up_to_that_of_the_batch(sound, kind):
    config = complex_config() if kind == "complex" else tiny_config()
    weights = Losses(1, 1, 1, 1, 0.01, 0.01, 1, 1, stft_n_fft=(256, 512))
    task = make_task(TrainConfig(losses=weights), config)
    network = tiny_model(config)
    vocals, mixture = sound
    gradients = []
    for parts in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        network.zero_grad()
        for part in parts:
            loss = task.loss(network, waveforms(vocals[part], mixture[part]), contextlib.nullcontext)
            (loss.value / len(parts)).backward()
            assert len(loss.parts) == 8
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.linalg.vector_norm(gradients[0] - gradients[1]) < 1e-3 * torch.linalg.vector_norm(gradients[0])


def test_only_the_network_runs_in_less_precision(sound):
    config, seen = tiny_config(), []
    network = FrameTransformer(config.network)

    def watched(x):
        logits = network(x)
        seen.append((x.dtype, logits.dtype))
        return logits

    task = make_task(TrainConfig(losses=Losses(1, 1, 1, 1, 1, 1, 1, 1)), config)
    loss = task.loss(watched, waveforms(*sound), lambda: torch.autocast("cpu", torch.bfloat16))
    assert seen == [(torch.float32, torch.bfloat16)]
    assert {value.dtype for value in (loss.value, *loss.parts.values())} == {torch.float32}


def test_masks_are_those_of_the_network(sound):
    for config in (tiny_config(), complex_config()):
        network = tiny_model(config)
        batch = batch_from_waveforms(waveforms(*sound), config)
        mask = SeparationTask(TrainConfig(), config).mask(network, batch.mixture, batch.scale, contextlib.nullcontext)
        logits = network(network_input(batch.mixture, batch.scale, config))
        if config.network.mask == "complex":
            assert torch.allclose(torch.cat((mask.real, mask.imag), 1), logits)
        else:
            assert torch.allclose(mask, torch.sigmoid(logits))
        assert mask.shape == batch.mixture.shape


def test_windows_longer_than_a_crop_are_named():
    train = TrainConfig(losses=Losses(stft_convergence=1, stft_n_fft=(512, 4096)), stages=(Stage(5, 1), Stage(16, 2)))
    with pytest.raises(ConfigError, match="stft_n_fft: 4096 is more than the 3072 samples of a crop of 5 frames"):
        make_task(train, tiny_config())
    make_task(dataclasses.replace(train, losses=Losses(stft_n_fft=(4096,))), tiny_config())

"""What a run trains: the tasks by name, and the loss that separation has."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
from sounds import batch_of, vocals_and_mixture

from ft.config import ConfigError, ModelConfig, Output, Segment, Waveform
from ft.config import Network as Choice
from ft.models import make_network
from ft.models.frame_transformer import tiny
from ft.models.signal import Signal
from ft.train_config import Losses, Stage, TrainConfig
from ft.training.tasks import DenoiseTask, SeparationTask, make_task, mixture_of, true_stems


def tiny_of(**numbers) -> ModelConfig:
    config = tiny()
    return dataclasses.replace(config, network=Choice(config.network.kind, {**config.network.numbers, **numbers}))


@pytest.fixture(scope="module")
def sound() -> tuple[torch.Tensor, torch.Tensor]:
    """Vocals and mixture of two items (batch, channels, samples) of the example."""
    return vocals_and_mixture()


def test_tasks_are_named():
    config = tiny()
    assert isinstance(make_task(TrainConfig(), config), SeparationTask)
    assert isinstance(make_task(TrainConfig(task="denoise"), config), DenoiseTask)
    for name in ("separate", "denoise"):
        task = make_task(TrainConfig(task=name), config)
        assert (task.name, task.separates) == (name, name == "separate")


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_the_objective_of_the_original(sound, power):
    """A.6: pred = sigmoid(f(x)), and the mean of |pred (x + 1) / 2 - y|."""
    config = tiny_of(input_power=power, dropout=0, frame_dropout=0)
    network, data = make_network(config), batch_of(*sound)
    loss = make_task(TrainConfig(), config).loss(network, data, contextlib.nullcontext)
    signal = Signal(config)
    mixture, level = mixture_of(data, signal)
    wanted = signal.transformed(data.stems["vocals"])
    magnitude, wanted = (x[:, :, :64].abs() / level.scale.reshape(-1, 1, 1, 1) for x in (mixture, wanted))
    mask = torch.sigmoid(network(2 * magnitude**power - 1, prepared=True))
    assert loss.value.item() == pytest.approx((mask * magnitude - wanted).abs().mean().item(), rel=1e-4)
    assert loss.parts == {"magnitude_l1": loss.value.detach()}
    assert not loss.parts["magnitude_l1"].requires_grad


def complex_config() -> ModelConfig:
    config = tiny_of(dropout=0, frame_dropout=0)
    return dataclasses.replace(
        config, front=dataclasses.replace(config.front, values="complex"), output=Output("complex-mask")
    )


@pytest.mark.parametrize("kind", ["magnitude", "complex"])
def test_gradients_of_micro_batches_add_up_to_that_of_the_batch(sound, kind):
    config = complex_config() if kind == "complex" else tiny_of(dropout=0, frame_dropout=0)
    weights = Losses(1, 1, 1, 1, 0.01, 0.01, 1, 1, stft_n_fft=(256, 512))
    task = make_task(TrainConfig(losses=weights), config)
    network = make_network(config)
    vocals, mixture = sound
    gradients = []
    for parts in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        network.zero_grad()
        for part in parts:
            loss = task.loss(network, batch_of(vocals[part], mixture[part]), contextlib.nullcontext)
            (loss.value / len(parts)).backward()
            assert len(loss.parts) == 8
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.linalg.vector_norm(gradients[0] - gradients[1]) < 1e-3 * torch.linalg.vector_norm(gradients[0])


def test_only_the_network_runs_in_less_precision(sound):
    config, seen = tiny(), []
    network = make_network(config)

    def watched(x):
        logits = network(x)
        seen.append((x.dtype, logits.dtype))
        return logits

    task = make_task(TrainConfig(losses=Losses(1, 1, 1, 1, 1, 1, 1, 1)), config)
    loss = task.loss(watched, batch_of(*sound), lambda: torch.autocast("cpu", torch.bfloat16))
    assert seen == [(torch.float32, torch.bfloat16)]
    assert {value.dtype for value in (loss.value, *loss.parts.values())} == {torch.float32}


def test_true_stems_are_made_of_what_the_data_has(sound):
    """An instrumental of drums and bass, and the vocals, whichever stems a model gives and in which order."""
    vocals, mixture = sound
    batch = batch_of(vocals, mixture)
    music = batch.stems.pop("instrumental")
    batch.stems.update(drums=0.25 * music, bass=0.75 * music)
    torch.testing.assert_close(true_stems(batch, ["instrumental"])[:, 0], music)
    torch.testing.assert_close(true_stems(batch, ["bass", "vocals"]), torch.stack((0.75 * music, vocals), 1))
    torch.testing.assert_close(batch.mixture, mixture)


@pytest.mark.parametrize("scale", ["track-peak", "window-peak", "track-deviation", "none", 8.0])
def test_the_level_follows_the_front_end(sound, scale):
    """The louder one of track and crop, and the headroom on it; a number stays what it is."""
    config = dataclasses.replace(tiny(), front=dataclasses.replace(tiny().front, scale=scale))
    signal, batch = Signal(config), batch_of(*sound)
    _, own = mixture_of(batch, signal)
    batch = dataclasses.replace(batch, headroom=torch.full((2,), 2.0), peak=own.scale * torch.tensor([0.5, 3.0]))
    factors = {"track-peak": [2.0, 6.0], "window-peak": [2.0, 2.0], "track-deviation": [2.0, 2.0]}.get(
        scale, [1.0, 1.0]
    )
    torch.testing.assert_close(mixture_of(batch, signal)[1].scale, own.scale * torch.tensor(factors))


def test_a_network_of_waveforms_is_trained(sound):
    """By losses of samples and of spectra; it is asked for as many samples as it was given."""
    config = dataclasses.replace(tiny(), front=Waveform(hop_length=512), output=Output("waveform"))
    task = make_task(TrainConfig(losses=Losses(1, 1, 1, 1, 0.01, 0.01, 1, 1, stft_n_fft=(256,))), config)
    network = torch.nn.Conv1d(2, 2, 9, padding=4)
    optimizer, seen = torch.optim.Adam(network.parameters(), 1e-2), []
    for _ in range(20):
        loss = task.loss(network, batch_of(*sound), contextlib.nullcontext)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        seen.append(loss.value.item())
    assert len(loss.parts) == 8 and seen[-1] < seen[0]


def test_windows_longer_than_a_crop_are_named():
    train = TrainConfig(losses=Losses(stft_convergence=1, stft_n_fft=(512, 4096)), stages=(Stage(5, 1), Stage(16, 2)))
    with pytest.raises(ConfigError, match="stft_n_fft: 4096 is more than the 3072 samples of a crop of 5 frames"):
        make_task(train, tiny())
    make_task(dataclasses.replace(train, losses=Losses(stft_n_fft=(4096,))), tiny())
    config = dataclasses.replace(tiny(), front=Waveform(hop_length=16), output=Output("waveform"))
    with pytest.raises(ConfigError, match="spectra of 2048 samples, and a crop of 16 frames has 256"):
        make_task(TrainConfig(stages=(Stage(16, 1),)), config)


@pytest.mark.parametrize(("segment", "line"), [({"multiple": 8}, "a multiple of 8"), ({"frames": 64}, "64")])
def test_crops_that_a_network_does_not_take_are_named(segment, line):
    config = dataclasses.replace(tiny(), segment=Segment(**segment))
    with pytest.raises(ConfigError, match=f"crops of 20 frames; this network takes {line}"):
        make_task(TrainConfig(stages=(Stage(64, 1), Stage(20, 2))), config)


def test_noise_is_for_the_frame_transformer():
    config = dataclasses.replace(tiny(), network=Choice("open-unmix"))
    with pytest.raises(ConfigError, match="denoise with a network of kind open-unmix"):
        make_task(TrainConfig(task="denoise"), config)

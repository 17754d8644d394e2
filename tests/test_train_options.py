"""What a step is made of: accumulation, the guard, checkpointed and compiled gradients, weights to begin with."""

from __future__ import annotations

import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from training import CPU, EXACT, log_lines, losses, settings, trainer

from ft.checkpoint import load_model
from ft.data.examples import MixtureItems
from ft.errors import CheckpointError
from ft.train_config import TrainConfig
from ft.training.averaging import WeightAverage
from ft.training.compiling import compiled_or_eager
from ft.training.distributed import Group
from ft.training.guard import TrainingError
from ft.training.optimizers import make_optimizer
from ft.training.run_folder import LAST, STATE
from ft.training.utilisation import CountFlops, StepClock, matrix_rate

ALL_LOSSES = {"magnitude_l1": 1, "complex_l1": 1, "energy": 1}


def gradients(run, stage) -> dict[str, torch.Tensor]:
    """Of the first step of a run, before clipping."""
    run.prepare()
    seen = {}
    run.optimizer.step = lambda *_: None
    clip = torch.nn.utils.clip_grad_norm_

    def keep(parameters, limit):
        seen.update({name: value.grad.clone() for name, value in run.network.named_parameters() if value.numel()})
        return clip(parameters, limit)

    torch.nn.utils.clip_grad_norm_ = keep
    try:
        run.step(run.batches(stage, stage.accumulation), stage)
    finally:
        torch.nn.utils.clip_grad_norm_ = clip
    return seen


def test_accumulation_equals_a_large_batch(music):
    found = []
    for batch_size, accumulation in ((4, 1), (1, 4), (2, 2)):
        stages = [{"frames": 16, "last_epoch": 2, "batch_size": batch_size, "accumulation": accumulation}]
        run = trainer(None, settings(music, *EXACT, stages=stages, losses=ALL_LOSSES))
        found.append(gradients(run, run.train.stages[0]))
    norm = torch.cat([value.flatten() for value in found[0].values()]).norm()
    for other in found[1:]:
        difference = torch.cat([(value - other[name]).flatten() for name, value in found[0].items()])
        assert difference.norm() < 1e-5 * norm
        assert difference.abs().max() < 1e-5


def test_gradients_are_clipped_whatever_the_precision(music, tmp_path):
    start = trainer(None, settings(music)).network.state_dict()
    values = settings(
        music, max_steps=1, optimizer="sgd", learning_rate=1.0, warmup_steps=0, clip_norm=1e-3, precision="bfloat16"
    )
    run = trainer(tmp_path, values)
    run.run()
    moved = torch.cat([(value - start[name]).flatten() for name, value in run.network.state_dict().items()]).norm()
    assert log_lines(tmp_path)[0]["train/grad_norm"] > 1e-3
    assert moved == pytest.approx(1e-3 * 1.9, rel=0.01)  # Nesterov's first step is 1 + momentum times the gradient


def test_fused_optimizer_equals_the_plain_one(music):
    network = trainer(None, settings(music)).network
    start = {name: value.clone() for name, value in network.state_dict().items()}
    for name in ("adam", "adamw", "sgd"):
        results = []
        for fused in (True, False):
            network.load_state_dict(start)
            optimizer = make_optimizer(TrainConfig(optimizer=name, learning_rate=1e-3, weight_decay=0.1), network)
            optimizer.param_groups[0]["fused"] &= fused
            for seed in range(3):
                torch.manual_seed(seed)
                for parameter in network.parameters():
                    parameter.grad = torch.randn_like(parameter)
                optimizer.step()
            results.append(torch.cat([value.flatten() for value in network.parameters()]).detach().clone())
        assert torch.allclose(*results, atol=1e-6)
        assert optimizer.param_groups[0]["fused"] is False


def test_checkpointed_gradients_are_identical(music):
    """Dropout included: it draws the same numbers when a level is computed again."""
    found, kept = [], []
    for checkpointed in (False, True):
        run = trainer(None, settings(music, checkpoint_gradients=checkpointed))
        kept.append(0)

        def count(value):
            kept[-1] += value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            found.append(gradients(run, run.train.stages[0]))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert kept[1] < 0.5 * kept[0]


def loss_of(run):
    stage = run.train.stages[0]
    waveforms = next(run.batches(stage, 1))
    return lambda network: run.task.loss(network, waveforms, run.autocast).value


def test_a_compiled_network_is_taken_where_it_equals_eager(caplog):
    caplog.set_level(logging.INFO, logger="ft.training.compiling")
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.1), torch.nn.Linear(4, 1))
    x, before = torch.rand(8, 4), torch.get_rng_state()
    chosen = compiled_or_eager(network, lambda run: run(x).square().mean(), "float32", backend="aot_eager")
    assert chosen is not network and "of eager's" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network[1].p == 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what dynamo does with autograd functions
def test_steps_run_what_was_compiled(music, monkeypatch):
    """All but the first micro-batch, whose operations are counted."""
    calls = []

    def backend(graph, inputs):
        def run(*arguments):
            calls.append(len(calls))
            return graph(*arguments)

        return run

    monkeypatch.setattr("ft.training.trainer.compiled_or_eager", partial(compiled_or_eager, backend=backend))
    run = trainer(None, settings(music, "network.transformer=false", compile=True, max_steps=2))
    run.run()
    graphs = len(calls) / (1 + 2 * run.train.stages[0].accumulation - 1)  # one batch of the comparison, one eager
    assert graphs >= 1 and graphs == int(graphs)
    assert run.flops[run.train.stages[0]] > 0


@pytest.mark.parametrize("fault", ["gradient", "no compiler"])
def test_a_compiled_network_that_differs_or_fails_is_left_for_eager(music, monkeypatch, caplog, fault):
    run = trainer(None, settings(music))

    def compiled(network, backend):
        def call(x):
            if fault == "no compiler":
                raise RuntimeError("No working C++ compiler found")
            logits = network(x)
            return logits.detach() + 0.9 * (logits - logits.detach())  # the same values, another gradient

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    assert compiled_or_eager(run.network, loss_of(run), "float32") is run.network
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line and "eager" in line
    assert ("off eager's, more than 0.001" if fault == "gradient" else "No working C++ compiler") in line


def test_weights_that_are_not_finite_stop_the_run_and_keep_the_last_state(music, tmp_path):
    trainer(tmp_path, settings(music, max_steps=2, save_every=1)).run()
    before = (tmp_path / STATE).read_bytes()
    broken = trainer(tmp_path, settings(music, max_steps=4, save_every=1))
    broken.restore()
    with torch.no_grad():
        broken.network.out.fill_(float("nan"))
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 2, epoch 0 \(items 8, 9, 10, 11 of .*\.flac"
    ) as caught:
        broken.run()
    assert "\n" not in str(caught.value)
    assert (tmp_path / STATE).read_bytes() == before


@pytest.fixture
def broken_item(monkeypatch) -> int:
    """Item 5 of every epoch holds a value that is not finite."""
    item = MixtureItems.item

    def broken(self, epoch, index, frames):
        made = item(self, epoch, index, frames)
        if index == 5:
            made.stems["vocals"] = np.full_like(made.stems["vocals"], np.nan)
        return made

    monkeypatch.setattr(MixtureItems, "item", broken)
    return 5


def test_an_item_that_is_not_finite_is_named_with_its_files(music, tmp_path, broken_item):
    run = trainer(tmp_path, settings(music))
    with pytest.raises(
        TrainingError, match=r"is nan at step 1, epoch 0 \(not finite themselves: items 5 of "
    ) as caught:
        run.run()
    named = str(caught.value).partition("items 5 of ")[2].partition(")")[0].split(", ")
    assert named == [str(path) for path in run.data.items.files(0, 5, 16)]
    assert any("instrumentals" in path for path in named)


def test_a_batch_that_is_not_finite_can_be_skipped(music, tmp_path, broken_item, caplog):
    run = trainer(tmp_path, settings(music, max_steps=3, on_nan="skip"))
    run.run()
    assert run.position.step == 3 and all(map(math.isfinite, losses(tmp_path)))
    assert all(torch.isfinite(value).all() for value in run.network.state_dict().values())
    assert next(line["skipped"] for line in log_lines(tmp_path) if "skipped" in line).startswith(
        "the loss is nan at step 1"
    )
    assert "items 5 of" in caplog.text


def test_too_many_skips_in_a_row_stop_the_run(music, tmp_path):
    run = trainer(tmp_path, settings(music, on_nan="skip", nan_limit=2))
    with torch.no_grad():
        run.network.out.fill_(float("nan"))
    with pytest.raises(TrainingError, match="after 2 batches skipped in a row"):
        run.run()
    assert run.position.step == 0


def test_a_loss_of_another_process_that_is_not_finite_is_refused_by_all(music, tmp_path):
    """In float16 too, where a gradient that overflows is passed over: else one of them would gather names alone."""

    class Other(Group):
        """Another process, whose loss is not a number, has a say in the means."""

        def mean(self, values):
            return values.index_fill_(0, torch.arange(2), float("nan"))

    run = trainer(tmp_path, settings(music), Other(CPU))
    run.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(TrainingError, match="the loss is nan at step 0"):
        run.run()


def test_an_average_of_weights_copies_integers():
    network = torch.nn.BatchNorm1d(2)
    average = WeightAverage(network, 0.9)
    for step in range(1, 4):
        network(torch.rand(4, 2))
        average.update(step)
    assert average.state()["num_batches_tracked"] == 3
    assert 0 < average.state()["running_mean"].mean() < network.running_mean.mean()
    with average.in_place():
        assert network.num_batches_tracked == 3


def test_a_run_begins_with_weights_of_another(music, tmp_path):
    trainer(tmp_path / "first", settings(music, max_steps=1)).run()
    source = tmp_path / "first" / LAST
    second = trainer(tmp_path / "second", settings(music, init_from=str(source)))
    weights = load_model(source).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in second.network.state_dict().items())
    with pytest.raises(CheckpointError, match=r"last\.safetensors: tensors do not fit .* misshapen"):
        trainer(tmp_path / "third", settings(music, "network.expansion=1", init_from=str(source)))
    with pytest.raises(CheckpointError, match="no such file"):
        trainer(tmp_path / "third", settings(music, init_from="nowhere.safetensors"))


def test_a_new_network_is_fitted_to_the_training_data_and_a_resumed_one_is_not(music, tmp_path):
    values = settings(music, "network.standardize=true", max_steps=1)
    first = trainer(tmp_path / "first", values)
    begun = first.network.standard_in.scale.detach().clone()
    assert begun.std() > 0.1 and torch.equal(begun, trainer(None, values).network.standard_in.scale)
    first.run()
    again = trainer(tmp_path / "first", values)
    again.restore()
    torch.testing.assert_close(again.network.standard_in.scale, first.network.standard_in.scale, rtol=0, atol=0)
    source = tmp_path / "first" / LAST
    second = trainer(tmp_path / "second", settings(music, "network.standardize=true", init_from=str(source)))
    assert torch.equal(second.network.standard_in.scale, load_model(source).standard_in.scale)


def test_pre_training_hands_its_weights_over(music, tmp_path):
    """Any music will do for it: neither vocals nor pairs are asked for."""
    values = settings(music, task="denoise", vocals=[], max_steps=1)
    trainer(tmp_path / "first", values).run()
    second = trainer(tmp_path / "second", settings(music, max_steps=1, init_from=str(tmp_path / "first" / LAST)))
    second.run()
    assert len(losses(tmp_path / "second")) == 1


def test_operations_and_waiting_are_counted(music, tmp_path):
    trainer(tmp_path, settings(music, max_steps=1)).run()
    line = log_lines(tmp_path)[0]
    assert 0 < line["wait_share"] < 1 and 0 < line["utilisation"] < 1.5
    with CountFlops() as count:
        torch.nn.functional.scaled_dot_product_attention(*torch.rand(3, 1, 1, 8, 4))
        torch.rand(3, 4) @ torch.rand(4, 5)
    assert count.total == 2 * (2 * 8 * 8 * 4) + 2 * 3 * 4 * 5
    state = torch.get_rng_state()
    assert matrix_rate(CPU, torch.float32) > 1e8
    assert torch.equal(torch.get_rng_state(), state)


def test_the_share_of_waiting_is_that_of_slow_batches(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = StepClock()
    clock.start()
    assert clock.next(iter("a")) == "a"
    clock.stop(items=5, flops=20.0)
    values = clock.values(rate=4.0)
    assert values == {"seconds_per_step": 10, "items_per_second": 0.5, "wait_share": 0.3, "utilisation": 0.5}

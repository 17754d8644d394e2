"""Trains several networks or recipes on the same data for the same budget, and scores them on the same songs.

python -m bench.contest bench/contests/ablation.yaml -o runs/ablation [--seconds 300 | --steps 400] [--only ROW]...

A contest is a YAML file: `base`, a training configuration (a preset or a file); `set`, what all rows change of it;
`rows`, each with a `name`, `set` (as `ft train --set`; of another kind of network, the whole of `network`), and perhaps
`pretrain`, the share of its steps that go into denoising first. Every row begins with the same seed. A row that is done
is not trained again, one that was interrupted goes on.

With --seconds every row gets as many steps as fit into that many seconds of training on this device, counted by what
its first steps take, so that a slow network takes fewer; with --steps all take the same number. The learning rate falls
to its end over exactly these steps, and what is scored are the last weights (their average where the recipe has one):
nothing is chosen by a score.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from bench.contest_page import SPEED_SECONDS, table
from bench.machine import describe_machine
from engines.pytorch import NetworkEngine
from ft.config import ModelConfig, model_config_from_yaml
from ft.data.augment_parts import mixed
from ft.data.examples import read_song
from ft.errors import ConfigError, FtError
from ft.files import atomic_write
from ft.separate import Separator
from ft.settings import load_yaml, override
from ft.train_config import TrainConfig, train_config_from_yaml
from ft.training.checks import check_task
from ft.training.distributed import Group, processes
from ft.training.run_folder import LAST, STATE
from ft.training.trainer import Trainer
from ft.training.validation import song_sdrs

logger = logging.getLogger(__name__)

WARM_STEPS, TIMED_STEPS = 2, 5


def load_contest(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The configuration that all rows share, and the rows.

    Raises:
        ConfigError: not such a file.
    """
    contest = load_yaml(path)
    unknown = set(contest) - {"base", "set", "rows"}
    if unknown or not contest.get("rows") or not contest.get("base"):
        raise ConfigError(f"{path}: keys {sorted(contest)}, expected base, set and rows")
    names = [row.get("name") for row in contest["rows"]]
    if None in names or len(set(names)) < len(names):
        raise ConfigError(f"{path}: rows named {names}, expected a name of its own for each")
    for row in contest["rows"]:
        if strange := set(row) - {"name", "set", "pretrain"}:
            raise ConfigError(f"{path}: row {row['name']} has {', '.join(sorted(strange))}; expected set or pretrain")
    values = override(load_yaml(contest["base"]), assignments(contest.get("set")))
    for row in contest["rows"]:
        config, train = configurations(row, values, *["train.task=denoise"] * bool(row.get("pretrain")))
        check_task(config, train)
        if not train.validation.songs:
            raise ConfigError(f"{path}: row {row['name']} has no train.validation.songs to be scored on")
    return values, contest["rows"]


def assignments(changes: Mapping[str, Any] | None) -> list[str]:
    """Changes as `ft train --set` takes them.

    >>> assignments({"model.mask": "complex", "train.losses": {"energy": 1}})
    ['model.mask="complex"', 'train.losses={"energy": 1}']
    """
    return [f"{key}={json.dumps(value)}" for key, value in (changes or {}).items()]


def open_trainer(config: ModelConfig, train: TrainConfig, folder: Path | None, group: Group) -> Trainer:
    """A trainer that scores nothing by itself."""
    trainer = Trainer(config, train, folder, group)
    trainer.validation.songs = []  # which are scored once, by `scores`
    return trainer


def seconds_per_step(trainer: Trainer) -> float:
    """What a step takes here: the median of a few behind the first ones, data waiting included."""
    stage = trainer.train.stages[0]
    batches = trainer.batches(stage, (WARM_STEPS + TIMED_STEPS) * stage.accumulation)
    taken = []
    for _ in range(WARM_STEPS + TIMED_STEPS):
        begin = time.monotonic()
        trainer.step(batches, stage)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - begin)
    return sorted(taken[WARM_STEPS:])[TIMED_STEPS // 2]


def speeds(row: Mapping[str, Any], values: Mapping[str, Any], group: Group) -> dict[str, Any]:
    """What a step of a row takes, and how fast it masks; its weights do not matter for that."""
    config, train = configurations(row, values)
    trainer = open_trainer(config, train, None, group)
    taken = seconds_per_step(trainer)
    stage = train.stages[0]
    fast = times_real_time(trainer.network.eval().cpu(), trainer, config)
    return {
        "seconds_per_step": round(taken, 4),
        "gflop_per_step": round(trainer.flops[stage] * stage.accumulation / 1e9, 4),
        "times_real_time": round(fast, 1),
        "threads": torch.get_num_threads(),
    }


def configurations(row: Mapping[str, Any], values: Mapping[str, Any], *more: str) -> tuple[ModelConfig, TrainConfig]:
    """The configuration that a row has of the one that all share."""
    own = override(dict(values), [*assignments(row.get("set")), *more])
    where = f"row {row.get('name')}"
    return model_config_from_yaml(own, where), train_config_from_yaml(own, where)


def budgeted(train: TrainConfig, steps: int) -> TrainConfig:
    """The run of so many steps, at the end of which the rate has fallen; validated at the end only."""
    warm = min(train.warmup_steps, steps // 10)
    stages = (replace(train.stages[0], last_epoch=1_000_000),)
    return replace(
        train,
        stages=stages,
        max_steps=steps,
        warmup_steps=warm,
        decay_steps=steps - warm,
        validate_every=10**9,
        patience=None,
    )


def run_row(
    row: Mapping[str, Any], values: Mapping[str, Any], folder: Path, group: Group, seconds: float, steps: int | None
) -> dict[str, Any]:
    """Trains and scores one row; what was found, as JSON holds it."""
    config, train = configurations(row, values)
    own = override(dict(values), assignments(row.get("set")))
    asked = json.loads(json.dumps({"row": row, "configuration": own, "seconds": seconds, "steps": steps}))
    plan, result = folder / "plan.json", folder / "result.json"
    if plan.exists():  # done or interrupted: the steps that were planned then
        planned = json.loads(plan.read_text(encoding="utf-8"))
        if planned["asked"] != asked:
            raise ConfigError(
                f"{folder}: holds another row, recipe or budget than row {row['name']}; remove it or take another -o"
            )
        if result.exists():
            return json.loads(result.read_text(encoding="utf-8"))
        count = planned["steps"]
    else:
        count = steps or max(1, round(seconds / seconds_per_step(open_trainer(config, train, None, group))))
        folder.mkdir(parents=True, exist_ok=True)
        _write(plan, {"asked": asked, "steps": count})
    before = round(count * row.get("pretrain", 0))
    if before:
        denoising = budgeted(configurations(row, values, "train.task=denoise")[1], before)
        train_row(config, denoising, folder / "pretraining", group)
        train = replace(train, init_from=str(folder / "pretraining" / LAST))
    budget = budgeted(train, count - before)
    trainer = train_row(config, budget, folder, group)
    found = {
        "name": row["name"],
        "network": config.network.kind,
        "set": row.get("set", {}),
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "steps": count,
        "pretraining_steps": before,
        "examples": count * trainer.items_per_step(train.stages[0]),
        "sdr": scores(trainer),
    }
    _write(result, found)
    return found


def train_row(config: ModelConfig, train: TrainConfig, folder: Path, group: Group) -> Trainer:
    """The trainer of a row at the end of its run, which goes on where it was interrupted."""
    trainer = open_trainer(config, train, folder, group)
    if (folder / STATE).exists():
        trainer.restore()
    trainer.run()
    return trainer


def scores(trainer: Trainer) -> dict[str, dict[str, float]]:
    """SDR of all stems for each validation song, of the averaged weights."""
    trainer.network.eval()
    sdr = {}
    with trainer.average.in_place(), trainer.validation.separator(trainer.network) as separator:
        for song in trainer.data.songs:
            found = song_sdrs(separator, song)
            sdr[song.file.path.parent.name] = {stem: round(value, 3) for stem, value in found.items()}
    return sdr


def times_real_time(network: nn.Module, trainer: Trainer, config: ModelConfig) -> float:
    """How fast a network on the CPU separates the first song in PyTorch in float32, transforms included."""
    song, rate = trainer.data.songs[0], config.sample_rate
    seconds = min(song.file.samples / song.file.sample_rate, SPEED_SECONDS)
    mixture = mixed(read_song(song, song.stems, 0, round(seconds * rate), config))
    with Separator(NetworkEngine(network, config)) as separator:
        separator.separate(mixture, rate)
        begin = time.monotonic()
        separator.separate(mixture, rate)
        return seconds / (time.monotonic() - begin)


def _write(path: Path, value: Any) -> None:
    with atomic_write(path) as part:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")


@click.command()
@click.argument("contest", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--seconds", type=float, help="Of training, for every row.")
@click.option("--steps", type=click.IntRange(1), help="For every row.")
@click.option("--only", multiple=True, help="Rows to run, by name; repeatable. [default: all]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the results there.")
def main(seconds: float | None, steps: int | None, **chosen: Any) -> None:
    """Train and score the rows of CONTEST, then print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if (seconds is None) == (steps is None):
        raise click.UsageError("one of --seconds and --steps is needed")
    try:
        found = run_contest(seconds=seconds, steps=steps, **chosen)
    except FtError as error:
        raise click.ClickException(str(error)) from error
    print(table(found))


def run_contest(
    *,
    contest: Path,
    output: Path,
    seconds: float | None,
    steps: int | None,
    only: Sequence[str],
    device: str,
    report: Path | None,
) -> list[dict[str, Any]]:
    """The results of the rows, in their order; arguments as those of the command. Raises FtError."""
    (values, rows), changes = load_contest(contest), load_yaml(contest).get("set", {})
    names = [row["name"] for row in rows]
    if strange := [name for name in only if name not in names]:
        raise ConfigError(f"--only {strange[0]}: no such row; expected one of {', '.join(names)}")
    results: list[dict[str, Any]] = []

    def save() -> None:
        if report is not None:
            budget = {"seconds": seconds} if steps is None else {"steps": steps}
            facts = {"contest": contest.stem, "set": changes, "budget": budget, "date": str(date.today())}
            _write(report, {**facts, "machine": describe_machine(), "rows": results})

    with processes(device) as group:
        for number, row in enumerate(rows):
            if only and row["name"] not in only:
                continue
            logger.info("%s", row["name"])
            results.append(run_row(row, values, output / f"{number:02d}", group, seconds or 0.0, steps))
            save()  # after each row: a session may end
        for result in results:
            (row,) = (row for row in rows if row["name"] == result["name"])
            result |= speeds(row, values, group)
            save()
    return results


if __name__ == "__main__":
    main()

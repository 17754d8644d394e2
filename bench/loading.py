"""How fast training examples are read, and how long a training step waits for them.

python -m bench.loading CONFIG [--set KEY=VALUE] [--cache FOLDER] [--workers 1] [--step-ms 200 --step-ms 400]

Examples per second of processor time by one process: mixed from audio files as the configuration says; out of a cache
(`ft data prepare cache`) whose files are in memory; and out of one that has to come from the disk, as with a cache
larger than memory. Then through the loader of the trainer, with a step that takes so long on a device beside it.
Without --cache one is made of as few examples as make sense, and removed again. Linux only (it empties the page cache
of single files).
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click
import torch

from ft.config import ModelConfig, model_config_from_yaml
from ft.data.cache import CachedItems
from ft.data.cache_build import build_cache
from ft.data.items import Items, mixture_items, open_batches
from ft.data.loading import Batching
from ft.settings import load_yaml, override
from ft.train_config import Cache, TrainConfig, train_config_from_yaml

GOAL = 60
"""Examples per second and core."""
SECONDS = 6.0


def forget(items: CachedItems) -> None:
    """Takes the shards out of memory, so that they are read from the disk."""
    for shard in items.shards:
        descriptor = os.open(shard.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def remember(items: CachedItems) -> None:
    for shard in items.shards:
        with shard.path.open("rb") as file:
            while file.read(1 << 24):
                pass


def rate(items: Items, frames: int, count: int, epoch: int = 0) -> dict[str, float]:
    """Examples by this process: per second of its processor time, and per second of the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    for index in range(count):
        items.item(epoch, index, frames)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"examples": count, "per_cpu_second": round(count / cpu, 1), "per_second": round(count / wall, 1)}


def steps(items: Items, frames: int, batch_size: int, workers: int, seconds: float, count: int) -> dict[str, float]:
    """`count` steps of `seconds` each, which a device computes while the processor is idle, behind a first batch."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time()
    batches = open_batches(items, Batching(batch_size, frames), 0, range(count + 1), workers)
    next(batches)
    waited, begin = 0.0, time.perf_counter()
    for _ in range(count):
        time.sleep(seconds)
        since = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - since
    share = waited / (time.perf_counter() - begin)
    assert next(batches, None) is None  # its processes have ended, so that their time can be read
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = time.process_time() - cpu + after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return {
        "step_ms": round(1000 * seconds),
        "batch_size": batch_size,
        "workers": workers,
        "wait_share": round(share, 4),
        "per_cpu_second": round((count + 1) * batch_size / used, 1),
    }


def open_config(config: str, assignments: tuple[str, ...]) -> tuple[ModelConfig, TrainConfig]:
    values = override(load_yaml(config), assignments)
    return model_config_from_yaml(values, config), train_config_from_yaml(values, config)


@click.command()
@click.argument("config")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key.")
@click.option("--cache", "folder", type=click.Path(path_type=Path), help="[default: one made for this]")
@click.option("--examples", default=128, show_default=True, help="Read by each row, and of a cache made for this.")
@click.option("--direct", default=16, show_default=True, help="Examples that are mixed from audio files; 0 is none.")
@click.option("--batch", "batch_size", default=16, show_default=True)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0))
@click.option("--step-ms", "step_ms", multiple=True, default=(200.0, 400.0), show_default=True, type=float)
@click.option("--steps", "count", default=16, show_default=True, help="Of each length.")
def main(
    config: str,
    assignments: tuple[str, ...],
    folder: Path | None,
    examples: int,
    direct: int,
    batch_size: int,
    workers: int,
    step_ms: tuple[float, ...],
    count: int,
) -> None:
    """Prints a table, then the same as JSON; the exit code is 1 where the cache is slower than it has to be."""
    torch.set_num_threads(1)
    model, train = open_config(config, assignments)
    with ExitStack() as stack:
        if folder is None and train.cache is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            build_cache(model, train, folder, examples, SECONDS)
        if folder is not None:
            train = replace(train, cache=Cache(str(folder)))
        items = CachedItems(model, train)
        frames = model.front.frames(items.manifest.samples)
        seconds = items.manifest.samples / model.sample_rate
        print(f"examples of {seconds:.2f} s; {items.count} in the cache, load {os.getloadavg()[0]:.1f}")
        rows = {}
        if direct:
            rows["from audio files"] = rate(mixture_items(model, train), frames, direct)
        forget(items)
        rows["cache, from the disk"] = rate(items, frames, examples)
        remember(items)
        rows["cache, from memory"] = rate(items, frames, examples, epoch=1)
        for name, row in rows.items():
            print(f"{name:22}{row['per_cpu_second']:8.1f} /s and core{row['per_second']:8.1f} /s")
        waits = []
        for length in step_ms:
            forget(items)
            waits.append(steps(items, frames, batch_size, workers, length / 1000, count))
            print(
                f"steps of {length:g} ms, {batch_size} examples each, {workers} workers: waits for "
                f"{waits[-1]['wait_share']:.1%}, {waits[-1]['per_cpu_second']:.1f} /s and core with the loader"
            )
    print(json.dumps({"rows": rows, "steps": waits}))
    if rows["cache, from the disk"]["per_cpu_second"] < GOAL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

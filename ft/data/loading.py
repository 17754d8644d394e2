"""Batches of training items, loaded by worker processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ft.data.examples import Item, MixtureItems
from ft.errors import FtError


@dataclass(frozen=True)
class Batch:
    """Items of equal length together."""

    stems: dict[str, Tensor]
    """Waveforms (batch, channels, samples) of what the mixture is the sum of."""
    peak: Tensor
    """(batch,), as `headroom`; see `Item`."""
    headroom: Tensor

    @property
    def mixture(self) -> Tensor:
        """Gives the sum of the stems (batch, channels, samples)."""
        return reduce(torch.add, self.stems.values())

    def pin_memory(self) -> Batch:
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        stems = {name: change(waveform) for name, waveform in self.stems.items()}
        return Batch(stems, change(self.peak), change(self.headroom))


def collate(items: Sequence[Item]) -> Batch:
    """Makes one batch of items of the same stems."""
    return Batch(
        {name: torch.from_numpy(np.stack([item.stems[name] for item in items])) for name in items[0].stems},
        torch.tensor([item.peak for item in items], dtype=torch.float32),
        torch.tensor([item.headroom for item in items], dtype=torch.float32),
    )


class _Keyed(Dataset):
    """Items by (epoch, index, frames).

    An error of ours is given in the item's place: raised in a worker, it would reach the user wrapped in a traceback.
    """

    def __init__(self, items: MixtureItems) -> None:
        self.items = items

    def __getitem__(self, key: tuple[int, int, int]) -> Item | FtError:
        try:
            return self.items.item(*key)
        except FtError as error:
            return error


def _collate_or_error(items: Sequence[Item | FtError]) -> Batch | FtError:
    error = next((item for item in items if isinstance(item, FtError)), None)
    return error or collate([item for item in items if isinstance(item, Item)])


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A terminal sends Ctrl-C to the workers too, and schedulers SIGTERM; the trainer still needs them for its step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True)
class Batching:
    """How items become batches: `batch_size` crops of `frames` for process `rank` of each of `size` processes."""

    batch_size: int
    frames: int
    rank: int = 0
    size: int = 1

    def keys(self, epoch: int, batch: int) -> list[tuple[int, int, int]]:
        """Epoch, index and frames of the items that this process has in a batch.

        >>> Batching(2, frames=16, rank=1, size=2).keys(0, 1)
        [(0, 6, 16), (0, 7, 16)]
        """
        begin = (batch * self.size + self.rank) * self.batch_size
        return [(epoch, begin + position, self.frames) for position in range(self.batch_size)]


def load_batches(
    items: MixtureItems, batching: Batching, epoch: int, numbers: range, workers: int, pin: bool = False
) -> Iterator[Batch]:
    """Gives the batches of an epoch with these `numbers`, in order.

    Raises:
        DataError: a file can no longer be read.
    """
    keys = [batching.keys(epoch, number) for number in numbers]
    loader: DataLoader = DataLoader(
        _Keyed(items),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate_or_error,
        worker_init_fn=_leave_signals_to_the_trainer,
        pin_memory=pin,
        # A generator of its own: the loader would draw from the one of dropout, and a resumed run would differ.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, FtError):
            raise batch
        yield batch

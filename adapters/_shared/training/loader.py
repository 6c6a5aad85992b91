"""Batches by key: order and content of an epoch depend on the seed alone, and a run can go on in the middle of one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cv2
import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from adapters._shared.training.batch import collate
from adapters._shared.training.dataset import SampleKey

if TYPE_CHECKING:
    from adapters._shared.training.config import TrainConfig
    from adapters._shared.training.dataset import TrainingSet
    from adapters._shared.training.evaluate import Judge


class KeyedBatches(Sampler[list[SampleKey]]):
    """Lists of keys, one list a batch.

    Args:
        images: in the set.
        batch: images per batch and process. A set with fewer images than one batch gives one smaller batch; the last
            batch of a larger set is dropped when it is not full (batch norms dislike it).
        seed: with the epoch it determines the order.
        shuffle: False keeps the order of the set.
        closing_from: first epoch whose keys say that mosaic and mixup are closed.
        rank: of this process.
        world: processes; each takes every ``world``-th batch.
    """

    def __init__(
        self, images: int, batch: int, seed: int, *, shuffle: bool, closing_from: int, rank: int = 0, world: int = 1
    ) -> None:
        self._images, self._batch, self._seed, self._shuffle = images, min(batch, images), seed, shuffle
        self._closing_from, self._rank, self._world = closing_from, rank, world
        self.epoch = 0
        self.start = 0
        """Batches of the coming epoch that are left out, because a resumed run has had them."""
        self.sampler = self
        """Lightning tells the epoch to ``batch_sampler.sampler``."""

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch and process, at least one."""
        return max(self._images // self._batch // self._world, 1)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield the batches of this epoch from ``start`` on; later epochs start at 0."""
        start, self.start, epoch = self.start, 0, self.epoch
        order = np.arange(self._images)
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._images)
        closing = epoch >= self._closing_from
        for number in range(start, len(self)):
            place = (number * self._world + self._rank) * self._batch
            chosen = np.take(order, np.arange(place, place + self._batch), mode="wrap")
            yield [SampleKey(epoch=epoch, index=int(index), closing=closing) for index in chosen]


class Loaders(lightning.LightningDataModule):
    """Training batches and the images of the evaluation.

    Args:
        train: augmented images by key.
        judge: gives the images of the evaluation.
        config: batch sizes, workers, seed.
        position: (epoch, batches done in it) that a resumed run goes on from.
    """

    def __init__(
        self, train: TrainingSet, judge: Judge, config: TrainConfig, position: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__()
        self._train, self._judge, self._config, self._position = train, judge, config, position
        self.allow_zero_length_dataloader_with_multiple_devices = False

    def train_dataloader(self) -> DataLoader[Any]:
        """(images uint8, truth) per batch."""
        trainer = self.trainer
        assert trainer is not None
        batches = KeyedBatches(
            len(self._train),
            self._config.batch,
            self._config.seed,
            shuffle=self._config.overfit_batches == 0,
            closing_from=closing_epoch(self._config, len(self._train) // self._config.batch // trainer.world_size),
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        batches.epoch, batches.start = self._position
        return DataLoader(
            self._train,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self._config.workers,
            persistent_workers=self._config.workers > 0,
            worker_init_fn=_one_thread_each,
            pin_memory=self._config.device != "cpu",
            generator=torch.Generator().manual_seed(self._config.seed),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Lists of preprocessed images."""
        trainer = self.trainer
        assert trainer is not None
        indices = range(trainer.global_rank, len(self._judge), trainer.world_size)
        return DataLoader(
            self._judge,  # type: ignore[arg-type]
            sampler=list(indices),
            batch_size=self._config.eval_batch,
            collate_fn=list,
            num_workers=self._config.workers,
            persistent_workers=self._config.workers > 0,
            worker_init_fn=_one_thread_each,
            generator=torch.Generator().manual_seed(self._config.seed),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Training batches as lightning does; images to judge stay numpy arrays until they are stacked."""
        return batch if isinstance(batch, list) else super().transfer_batch_to_device(batch, device, dataloader_idx)


def closing_epoch(config: TrainConfig, batches: int) -> int:
    """First epoch without mosaic and mixup.

    Args:
        config: ``epochs``, ``max_steps``, ``close_mosaic``.
        batches: per epoch and process.
    """
    epochs = config.epochs
    if config.max_steps is not None:
        epochs = min(epochs, math.ceil(config.max_steps * config.grad_accum / max(batches, 1)))
    return round(epochs * (1 - config.close_mosaic))


def _one_thread_each(_worker: int) -> None:
    """Workers share the machine: one thread each, and Ctrl-C is the parent's business."""
    import signal

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if os.name == "posix":
        signal.signal(signal.SIGINT, signal.SIG_IGN)

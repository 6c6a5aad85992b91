"""One run: lightning's trainer, told what the options say."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from adapters._shared.training.averaging import Averaging
from adapters._shared.training.checkpoint import BEST_FILE, POSITION, AtomicCheckpointIO, resumable_file
from adapters._shared.training.keeper import Keeper
from adapters._shared.training.loader import Loaders
from adapters._shared.training.module import Training
from bench.errors import UsageError
from bench.files import sha256_file

if TYPE_CHECKING:
    from adapters._shared.training.config import TrainConfig
    from adapters._shared.training.dataset import TrainingSet
    from adapters._shared.training.evaluate import Judge
    from adapters._shared.training.runfolder import RunRecord
    from adapters._shared.training.task import Task

PRECISIONS = {"no": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
LOG_EVERY_STEPS = 10


def fit(
    task: Task,
    config: TrainConfig,
    train: TrainingSet,
    judge: Judge,
    out: Path,
    record: RunRecord,
    resumed: dict[str, Any] | None = None,
    best_ap: float | None = None,
) -> Path:
    """Train, and return the path of the best weights.

    Args:
        task: network and loss.
        config: options.
        train: images to learn from.
        judge: images to judge on.
        out: folder of the run.
        record: completed at the end, also of an interrupted run.
        resumed: content of the ``last.pt`` to go on from.
        best_ap: AP of the ``best.pt`` that is in ``out`` already.

    Raises:
        UsageError: a device that is not there, or a resumed run that has nothing left to do.
        TrainingError: the loss or a detection is not finite.
        InputError: an image that cannot be read, a folder that cannot be written.
        KeyboardInterrupt: interrupted; ``last.pt`` holds the last finished epoch.
    """
    position = (0, 0) if resumed is None else (resumed[POSITION]["epoch"], resumed[POSITION]["batches"])
    if resumed is not None and (position[0] >= config.epochs or _steps(resumed) >= (config.max_steps or sys.maxsize)):
        raise UsageError(
            f"--resume: the run has finished {position[0]} epochs ({_steps(resumed)} steps) already; "
            f"epochs are the total. Type: --epochs {position[0] + max(position[0] // 2, 1)}"
        )
    averaging = Averaging(config.ema_decay, config.ema_steps) if config.ema_decay else None
    keeper = Keeper(task.adapter.spec, config, averaging, out, best_ap)
    module = Training(task, config, judge, out)
    with _quiet(), _deterministic(config):
        trainer = _trainer(config, out, [*([averaging] if averaging else []), keeper])
        loaders = Loaders(train, judge, config, position)
        try:
            # the file was read with weights_only before; lightning reads it the same way
            path = None if config.resume is None else str(resumable_file(config.resume))
            trainer.fit(module, datamodule=loaders, ckpt_path=path, weights_only=True if path else None)
            ended = _why(trainer, config)
            if keeper.judged_at != trainer.global_step:  # stopped within an epoch, or between evaluations
                trainer.validate(module, datamodule=loaders, verbose=False)
                keeper.note(trainer, module, epoch=trainer.current_epoch - 1)
        except (SystemExit, SIGTERMException) as error:  # what lightning makes of Ctrl-C and of kill
            record.finish(because="interrupted", best=_best(keeper, out))
            raise KeyboardInterrupt from error
    record.finish(because=ended, best=_best(keeper, out))
    return out / BEST_FILE


def _trainer(config: TrainConfig, out: Path, callbacks: list[Callback]) -> lightning.Trainer:
    shown = sys.stderr.isatty()
    if config.patience is not None:
        callbacks.append(EarlyStopping("AP", mode="max", patience=config.patience, verbose=False))
    if shown:
        callbacks.append(RichProgressBar(leave=True))
    accelerator, devices = _devices(config)
    return lightning.Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision=PRECISIONS[config.amp],  # type: ignore[arg-type]
        max_epochs=config.epochs,
        max_steps=config.max_steps if config.max_steps is not None else -1,
        max_time=timedelta(minutes=config.max_minutes) if config.max_minutes is not None else None,
        accumulate_grad_batches=config.grad_accum,
        gradient_clip_val=config.clip_norm or None,
        check_val_every_n_epoch=config.eval_every,
        num_sanity_val_steps=0,
        deterministic=True if config.deterministic else None,
        logger=TensorBoardLogger(out, name="", version="tensorboard"),
        log_every_n_steps=LOG_EVERY_STEPS,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=shown,
    )


def _devices(config: TrainConfig) -> tuple[str, Any]:
    """Accelerator and devices in lightning's words; never another device than the one asked for."""
    kind, _, number = config.device.partition(":")
    if kind == "cpu" and not number:
        return "cpu", 1
    if kind != "cuda" or (number and not number.isdecimal()):
        raise UsageError(f"training option device {config.device!r}: give cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UsageError(
            f"training option device {config.device}: torch {torch.__version__} sees no GPU here. Type: --device cpu"
        )
    count = torch.cuda.device_count()
    wanted = [int(number)] if number else list(range(config.devices))
    if wanted[-1] >= count:
        raise UsageError(
            f"training option device {config.device} with devices {config.devices}: this host has {count} GPUs"
        )
    return "cuda", wanted


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what lightning says about itself; its warnings about the user's run stay."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for text in (
            ".*does not have many workers.*",
            "The number of training batches.*is smaller than the logging interval.*",
            ".*LeafSpec.*",
            "Checkpoint directory .* exists and is not empty.*",
            ".*GPU available but not used.*",
            ".*your dataloader is not resumable.*",  # it is: see loader.KeyedBatches
            ".*eval mode at the start of training.*",  # frozen batch norms are meant to be
        ):
            warnings.filterwarnings("ignore", message=f"(?s){text}")
        try:
            yield
        finally:
            log.setLevel(level)


@contextmanager
def _deterministic(config: TrainConfig) -> Iterator[None]:
    """Torch's switches for repeatable results, put back afterwards; threads as asked."""
    threads, strict, benchmark = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
    )
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        torch.backends.cudnn.benchmark = benchmark


def _steps(checkpoint: dict[str, Any]) -> int:
    return int(checkpoint["global_step"])


def _why(trainer: lightning.Trainer, config: TrainConfig) -> str:
    if config.max_steps is not None and trainer.global_step >= config.max_steps:
        return "steps"
    if trainer.current_epoch >= config.epochs:
        return "epochs"
    return "patience" if any(isinstance(c, EarlyStopping) and c.stopped_epoch for c in trainer.callbacks) else "time"  # type: ignore[attr-defined]


def _best(keeper: Keeper, out: Path) -> dict[str, Any] | None:
    if keeper.best is None or not (out / BEST_FILE).is_file():
        return None
    return {**keeper.best, "file": BEST_FILE, "sha256": sha256_file(out / BEST_FILE)}

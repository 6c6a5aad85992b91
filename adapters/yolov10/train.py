"""Training with lightning: AdamW, warm-up and cosine, averaged weights, one JSON line per epoch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch.utils.data import DataLoader

from adapters._shared.checkpoints import load_strict, read_state_dict
from adapters.yolov10.data import Augmentation, AugmentedSet, Example, label_of_category, load_examples
from adapters.yolov10.evaluate import Evaluator
from adapters.yolov10.loss import LossGains, Truth, dual_loss
from adapters.yolov10.model import YoloV10
from adapters.yolov10.weights import Averaged, save_weights
from bench.errors import BenchError, InputError

if TYPE_CHECKING:
    from adapters.yolov10.config import TrainConfig
    from bench.types import FixtureSet

METRICS_FILE = "metrics.jsonl"
WEIGHTS_FILE = "best.safetensors"
LAST_WEIGHTS_FILE = "last.safetensors"
RESUME_FILE = "last.ckpt"


class TrainingError(BenchError):
    """The loss is no longer a finite number."""


def collate(examples: Sequence[Example]) -> tuple[torch.Tensor, Truth]:
    """Examples of one size -> (B, 3, S, S) float32 in 0..1 and padded ground truth."""
    images = torch.from_numpy(np.stack([e.image_rgb_u8 for e in examples])).permute(0, 3, 1, 2).float() / 255
    most = max(len(e.labels) for e in examples)
    boxes = torch.zeros(len(examples), most, 4)
    labels = torch.full((len(examples), most), -1, dtype=torch.int64)
    for row, example in enumerate(examples):
        boxes[row, : len(example.labels)] = torch.from_numpy(example.boxes_xyxy)
        labels[row, : len(example.labels)] = torch.from_numpy(example.labels)
    return images, Truth(boxes_xyxy=boxes, labels=labels)


class Training(lightning.LightningModule):
    """The network, its average and its schedule."""

    def __init__(self, network: YoloV10, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.average = Averaged(network, config.ema_decay, config.ema_steps)
        self.config = config
        self._gains = LossGains()
        self._started = time.monotonic()
        self._spent_s = 0.0

    @property
    def spent_s(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self._spent_s + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the schedule that is done: of the steps, or of the time budget where that is further."""
        done = self.trainer.global_step / max(self.trainer.estimated_stepping_batches, 1)
        if self.config.max_minutes is not None:
            done = max(done, self.spent_s / 60 / self.config.max_minutes)
        return min(done, 1.0)

    def on_fit_start(self) -> None:
        """Start the clock of the time budget."""
        self._started = time.monotonic()

    def training_step(self, batch: tuple[torch.Tensor, Truth], _index: int) -> torch.Tensor:
        """Loss of one batch.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        images, truth = batch
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            one2many, one2one = self.network.branches(images)
        loss, parts = dual_loss(one2many, one2one, truth, self._gains)
        if not torch.isfinite(loss):
            values = ", ".join(f"{name} {float(value):.4g}" for name, value in parts.items())
            raise TrainingError(
                f"epoch {self.current_epoch}, step {self.global_step}: the loss is {float(loss.detach())} ({values}); "
                f"lower lr (now {self.config.lr:g}) or set precision 32"
            )
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=len(images))
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Update the average, and stop when the time budget is spent."""
        self.average.update(self.network)
        if self.progress >= 1:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        """AdamW with decay on matrices only; warm-up, then cosine along `progress`."""
        decayed = [p for p in self.network.parameters() if p.requires_grad and p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.requires_grad and p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=self.config.lr,
            betas=(0.9, 0.99),
        )

        def share(step: int) -> float:
            warm = min((step + 1) / max(self.config.warmup_steps, 1), 1.0)
            cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
            return warm * (self.config.final_lr + (1 - self.config.final_lr) * cosine)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the average and the time spent."""
        checkpoint["average"] = self.average.network.state_dict()
        checkpoint["average_steps"] = self.average.steps
        checkpoint["spent_s"] = self.spent_s

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self.average.network.load_state_dict(checkpoint["average"])
        self.average.steps = checkpoint["average_steps"]
        self._spent_s = checkpoint["spent_s"]


class Journal(Callback):
    """After each epoch: weights, one line of metrics, and now and then the AP of the average."""

    def __init__(self, train_set: AugmentedSet, evaluator: Evaluator, config: TrainConfig, out: Path) -> None:
        self._train_set, self._evaluator, self._config, self._out = train_set, evaluator, config, out
        self.best_ap = -1.0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Tell the data which epoch it is, and close the mosaic near the end."""
        assert isinstance(pl_module, Training)
        self._train_set.epoch = trainer.current_epoch
        self._train_set.mosaic = pl_module.progress < 1 - self._config.close_mosaic

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write what this epoch gave."""
        assert isinstance(pl_module, Training)
        epoch = trainer.current_epoch
        last = trainer.should_stop or epoch + 1 == trainer.max_epochs
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": trainer.global_step,
            "minutes": round(pl_module.spent_s / 60, 2),
        }
        line["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        line |= {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        average = pl_module.average.network
        save_weights(average, self._out / LAST_WEIGHTS_FILE)
        if last or (epoch + 1) % self._config.evaluate_every == 0:
            line |= {name: round(value, 4) for name, value in self._evaluator(average).items()}
            if line["AP"] >= self.best_ap:
                self.best_ap = line["AP"]
                save_weights(average, self._out / WEIGHTS_FILE)
        trainer.save_checkpoint(self._out / RESUME_FILE, weights_only=False)
        with (self._out / METRICS_FILE).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")
        if not sys.stderr.isatty():
            sys.stderr.write(json.dumps(line) + "\n")
            sys.stderr.flush()

    def state_dict(self) -> dict[str, Any]:
        """The best AP so far."""
        return {"best_ap": self.best_ap}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        self.best_ap = state_dict["best_ap"]


def _check_resumable(path: Path) -> None:
    """Raise InputError unless ``path`` is a checkpoint of this module; nothing in it is executed."""
    import pickle

    if not path.is_file():
        raise InputError(f"resume {path}: no such file; give the {RESUME_FILE} of an earlier run")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"resume {path}: not a complete checkpoint ({error})") from error
    if not isinstance(content, dict) or "average" not in content:
        raise InputError(
            f"resume {path}: not a {RESUME_FILE} of this training; to start from weights use initial_weights"
        )


def fit(
    config: TrainConfig, train: FixtureSet, val: FixtureSet, class_names: tuple[str, ...], variant: str, out: Path
) -> Path:
    """Train a network and return the path of its best averaged weights.

    Args:
        config: options.
        train: images to learn from.
        val: images to judge on.
        class_names: name of each label.
        variant: key of ``model.VARIANTS``.
        out: folder for weights, metrics and checkpoints.

    Raises:
        TrainingError: the loss is not finite.
        InputError: a category without a class, an image, weights or a checkpoint that cannot be used.
    """
    if config.resume is not None:
        _check_resumable(config.resume)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, verbose=False)
    label_of = label_of_category(train, class_names)
    strength = Augmentation(
        mosaic=config.mosaic,
        flip=config.flip,
        scale=config.scale,
        translate=config.translate,
        hue=config.hue,
        saturation=config.saturation,
        value=config.value,
    )
    examples = load_examples(train.take(config.max_images), label_of, config.image_size)
    train_set = AugmentedSet(examples, config.image_size, strength, config.seed)
    evaluator = Evaluator(val.take(config.max_images), label_of_category(val, class_names), config.image_size)
    loader: DataLoader[Any] = DataLoader(
        train_set,  # type: ignore[arg-type]
        batch_size=config.batch,
        shuffle=True,
        drop_last=len(examples) > config.batch,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(config.seed),
    )
    network = YoloV10(variant, len(class_names))
    if config.initial_weights is not None:
        load_strict(network, read_state_dict(config.initial_weights), source=f"weights {config.initial_weights}")
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(network, config)
    journal = Journal(train_set, evaluator, config, out)
    (out / "config.json").write_text(json.dumps(asdict(config), indent=2, default=str) + "\n", encoding="utf-8")
    quiet = not sys.stderr.isatty()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=config.epochs,
        gradient_clip_val=config.clip_norm,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=not quiet,
        enable_checkpointing=False,
        callbacks=[journal, *([] if quiet else [TQDMProgressBar()])],
    )
    trainer.fit(training, loader, ckpt_path=config.resume, weights_only=True)
    return out / WEIGHTS_FILE

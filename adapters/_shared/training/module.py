"""The lightning module: one step of learning, one step of judging."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch import Tensor

from adapters._shared.training.checkpoint import write_checkpoint
from adapters._shared.training.optim import make_optimizer, parameter_groups, rate_at
from bench.errors import BenchError, ContractError, InputError

if TYPE_CHECKING:
    from adapters._shared.training.batch import Truth
    from adapters._shared.training.config import TrainConfig
    from adapters._shared.training.evaluate import Judge, Prepared
    from adapters._shared.training.task import Task
    from bench.types import Prediction

NON_FINITE_FILE = "nonfinite-batch.pt"


class TrainingError(BenchError):
    """Training that cannot go on: the loss or a detection is no longer a finite number."""


class Training(lightning.LightningModule):
    """A network, its loss and its judge.

    Args:
        task: what the model brings.
        config: options.
        judge: images and truth of the evaluation.
        out: folder of the run; a batch whose loss is not finite is saved there.
    """

    def __init__(self, task: Task, config: TrainConfig, judge: Judge, out: Path) -> None:
        super().__init__()
        self.network = task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward, self._loss, self._inference, self._groups = task.forward, task.loss, task.inference, task.groups
        self._config, self._out = config, out
        self.judge = judge
        """Images and truth of the evaluation."""
        self._judged: list[torch.nn.Module] = []  # in a list, so that it is no part of this module
        self.predictions: dict[int, Prediction] = {}
        """Of the last evaluation: image id -> detections."""
        self.stats: dict[str, float | None] = {}
        """Of the last evaluation."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Training:
        """Copy weights only: lightning copies the module for the average, and images are not to be copied with it."""
        import copy

        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        kept = (
            "judge",
            "_judged",
            "_forward",
            "_loss",
            "_inference",
            "_groups",
            "_config",
            "_out",
            "predictions",
            "stats",
        )
        for name, value in self.__getstate__().items():
            twin.__dict__[name] = value if name in kept else copy.deepcopy(value, memo)
        return twin

    def training_step(self, batch: tuple[Tensor, Truth], index: int) -> Tensor:
        """Loss of one batch.

        Raises:
            TrainingError: it is NaN or infinite; the batch is saved first.
        """
        images_u8, truth = batch
        images = images_u8.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)
        raw = self._forward(self.network, images, truth)
        try:
            with torch.autocast(self.device.type, enabled=False):
                loss, parts = self._loss(raw, truth)
        except ContractError as error:  # a loss may look at the outputs itself
            raise TrainingError(f"{self._save_offender(batch, math.nan, {})} {error}") from error
        if not torch.isfinite(loss):
            raise TrainingError(self._save_offender(batch, float(loss.detach()), parts))
        # kept on the device: a float() here would wait for the GPU in every step
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=len(images))
        self.log("loss", loss.detach(), on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images))
        return loss

    def _save_offender(self, batch: tuple[Tensor, Truth], loss: float, parts: dict[str, Tensor]) -> str:
        images_u8, truth = batch
        values = {name: float(value) for name, value in parts.items()}
        content = {
            "images_rgb_u8": images_u8.cpu(),
            "boxes_xyxy": truth.boxes_xyxy.cpu(),
            "labels": truth.labels.cpu(),
            "attributes": {name: value.cpu() for name, value in truth.attributes.items()},
            "epoch": self.current_epoch,
            "step": self.global_step,
            "loss_parts": values,
            "state_dict": self.network.state_dict(),
        }
        path = write_checkpoint(content, self._out / NON_FINITE_FILE)
        named = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        remedy = "lower --lr" if self._config.amp == "no" else f"lower --lr, or type --amp no (now {self._config.amp})"
        return (
            f"epoch {self.current_epoch}, step {self.global_step}: the loss is {loss} ({named}). "
            f"The batch and the weights are in {path}; {remedy} (now {self._config.lr:g})."
        )

    def on_validation_epoch_start(self) -> None:
        """Build the network that is judged: what the harness would load, of the weights that are in place now.

        Lightning's averaging has just put the averaged weights there. A fresh network has the memory format of the
        harness; with the one that is trained (channels last) outputs differ in the last bits.
        """
        self.predictions = {}
        self._judged = [self._inference(plain_state(self.network.state_dict())).to(self.device).eval()]

    def validation_step(self, batch: list[Prepared], index: int) -> None:
        """Detections of a few images, in float32."""
        with torch.autocast(self.device.type, enabled=False):
            self.predictions |= self.judge.detect(self._judged[0], batch, self.device)

    def on_validation_epoch_end(self) -> None:
        """Score; logs ``AP`` and the other defined numbers.

        Raises:
            TrainingError: a detection is not finite.
        """
        self._judged = []
        self._gather()
        try:
            self.stats = self.judge.score(self.predictions)
        except InputError as error:
            raise TrainingError(f"epoch {self.current_epoch}: the detections cannot be scored: {error}") from error
        self.log_dict({name: float(value) for name, value in self.stats.items() if value is not None})

    def _gather(self) -> None:
        if self.trainer.world_size == 1:
            return
        parts: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(parts, self.predictions)
        self.predictions = {image: found for part in parts for image, found in part.items()}

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule; the schedule ends with the run."""
        groups = parameter_groups(self.network, self._config, self._groups.get("backbone", ()))
        optimizer = make_optimizer(groups, self._config)
        total = self.trainer.estimated_stepping_batches
        share = rate_at(self._config, int(total) if math.isfinite(total) else self._config.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def plain_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous float32 copies, in the default memory format."""
    return {
        key: value.detach()
        .to(torch.float32 if value.is_floating_point() else value.dtype)
        .clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }

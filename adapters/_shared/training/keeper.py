"""After each epoch: ``last.pt``, ``best.pt``, one line of ``metrics.jsonl``, and what TensorBoard shows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from adapters._shared.training.checkpoint import (
    BEST_FILE,
    FACTS,
    FORMAT,
    LAST_FILE,
    POSITION,
    RANDOM,
    WEIGHTS,
    write_checkpoint,
)
from adapters._shared.training.draw import draw_boxes
from adapters._shared.training.module import Training, plain_state
from adapters._shared.training.runfolder import METRICS_FILE, config_json
from bench.images import read_image_rgb
from bench.timing import clock

if TYPE_CHECKING:
    from adapters._shared.training.averaging import Averaging
    from adapters._shared.training.config import TrainConfig
    from bench.types import ModelSpec

SHOWN_IMAGES = 4
"""With their detections, in TensorBoard."""
SHOWN_SCORE = 0.25
"""Of the detections that are drawn there."""


class Keeper(Callback):
    """Writes what a run leaves behind. Must come after the averaging in the list of callbacks.

    Args:
        spec: of the model as it is trained; goes into every checkpoint.
        config: options; go into every checkpoint.
        averaging: holds the averaged weights, or None.
        out: folder of the run.
        best_ap: of an earlier part of the run.
    """

    def __init__(
        self, spec: ModelSpec, config: TrainConfig, averaging: Averaging | None, out: Path, best_ap: float | None
    ) -> None:
        self._spec, self._config, self._averaging, self._out = spec, config, averaging, out
        self.best_ap = -1.0 if best_ap is None else best_ap
        self.best: dict[str, Any] | None = None
        self._spent_s, self._started = 0.0, clock()
        self._random: dict[str, Any] | None = None
        self._judged_at = -1
        self._position = {"epoch": 0, "batches": 0}

    @property
    def spent_s(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self._spent_s + clock() - self._started

    @property
    def judged_at(self) -> int:
        """Step of the last evaluation, -1 before the first."""
        return self._judged_at

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock, and restore the random state of a resumed run as late as possible."""
        self._started = clock()
        if self._random is not None:
            torch.set_rng_state(self._random["torch"])
            if self._random["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._random["cuda"])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Save within an epoch, when asked to or when the run ends here."""
        every, step = self._config.checkpoint_every, trainer.global_step
        epoch_loop = trainer.fit_loop.epoch_loop
        stepped = epoch_loop.batch_progress.current.ready % self._config.grad_accum == 0
        within = not epoch_loop._num_ready_batches_reached()
        if stepped and within and ((every and step % every == 0) or step == trainer.max_steps):
            self._save_last(trainer, epoch=trainer.current_epoch, batches=epoch_loop.batch_progress.current.ready)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keep the weights if their AP is the best so far; a tie goes to the later ones."""
        assert isinstance(pl_module, Training)
        self._judged_at = trainer.global_step
        ap = pl_module.stats["AP"]
        if trainer.is_global_zero and ap is not None and ap >= self.best_ap:
            self.best_ap = ap
            facts = self._facts(trainer)
            content = {WEIGHTS: self._weights(pl_module), FACTS: facts}
            write_checkpoint(content, self._out / BEST_FILE)
            self.best = {"epoch": facts["epoch"], "step": facts["step"], "AP": ap}
        self._show(trainer, pl_module)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Save the state of the run, then say what the epoch gave: what has a line in the journal can be resumed."""
        assert isinstance(pl_module, Training)
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            self._save_last(trainer, epoch=trainer.current_epoch + 1, batches=0)
        self.note(trainer, pl_module, epoch=trainer.current_epoch)

    def note(self, trainer: lightning.Trainer, pl_module: Training, *, epoch: int) -> None:
        """Append one line to ``metrics.jsonl`` and, where no progress bar is shown, to standard error."""
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if not name.endswith("_step")}
        parts = {
            name.removesuffix("_epoch"): round(value, 5)
            for name, value in values.items()
            if name not in pl_module.stats
        }
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": trainer.global_step,
            "minutes": round(self.spent_s / 60, 2),
            "lr": trainer.optimizers[0].param_groups[-1]["lr"] if trainer.optimizers else None,
            **dict(sorted(parts.items())),
        }
        if self._judged_at == trainer.global_step:
            line |= pl_module.stats
        with (self._out / METRICS_FILE).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")
        if not sys.stderr.isatty():
            sys.stderr.write(_in_words(line, self._config.epochs) + "\n")
            sys.stderr.flush()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what makes the file usable as weights, and what an exact continuation needs."""
        assert isinstance(pl_module, Training)
        checkpoint[WEIGHTS] = self._weights(pl_module)
        checkpoint[FACTS] = self._facts(trainer)
        checkpoint[RANDOM] = {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        checkpoint[POSITION] = dict(self._position)

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember the random state of the run that is resumed."""
        self._random = checkpoint[RANDOM]

    def state_dict(self) -> dict[str, Any]:
        """Time spent, and the best AP so far."""
        return {"spent_s": self.spent_s, "best_ap": self.best_ap, "best": self.best, "judged_at": self._judged_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._spent_s = state_dict["spent_s"]
        if (self._out / BEST_FILE).is_file():  # a run that goes on in another folder has its best weights yet to write
            self.best_ap, self.best = max(self.best_ap, state_dict["best_ap"]), state_dict["best"]
        self._judged_at = state_dict["judged_at"]

    def _save_last(self, trainer: lightning.Trainer, *, epoch: int, batches: int) -> None:
        self._position = {"epoch": epoch, "batches": batches}
        trainer.save_checkpoint(self._out / LAST_FILE, weights_only=False)

    def _weights(self, module: Training) -> dict[str, torch.Tensor]:
        average = self._averaging.average if self._averaging is not None else None
        source = module if average is None else average
        prefix = "network."
        state = {k[len(prefix) :]: v for k, v in source.state_dict().items() if k.startswith(prefix)}
        return {key: value.cpu() for key, value in plain_state(state).items()}

    def _facts(self, trainer: lightning.Trainer) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self._spec.name,
            "class_names": list(self._spec.class_names),
            "image_size": list(self._spec.image_hw),
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "ap": None if self.best_ap < 0 else self.best_ap,
            "config": config_json(self._config),
        }

    def _show(self, trainer: lightning.Trainer, module: Training) -> None:
        """A few evaluated images with their detections, for TensorBoard."""
        if trainer.logger is None or not trainer.is_global_zero:
            return
        writer = trainer.logger.experiment  # type: ignore[attr-defined]
        for sample in module.judge.fixtures.samples[:SHOWN_IMAGES]:
            found = module.predictions.get(sample.image_id)
            if found is None:
                continue
            clear = found.scores >= SHOWN_SCORE
            image = draw_boxes(
                read_image_rgb(sample.path),
                found.boxes_xyxy[clear],
                found.labels[clear],
                self._spec.class_names,
                found.scores[clear],
            )
            writer.add_image(f"detections/{sample.image_id}", image, trainer.global_step, dataformats="HWC")


def _in_words(line: dict[str, Any], epochs: int) -> str:
    """One line a person can read in a log."""
    text = f"epoch {line['epoch'] + 1}/{epochs}  step {line['step']}  {line['minutes']:.1f} min"
    if "loss" in line:
        text += f"  loss {line['loss']:.4f}"
    if line.get("AP") is not None:
        text += f"  AP {line['AP']:.4f}"
    return text

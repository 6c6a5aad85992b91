"""From options to a run: sets, classes, network, weights, then ``fit``. The same for every model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import lightning
import torch

from adapters._shared.checkpoints import read_facts, read_state_dict
from adapters._shared.training.augment import Augmentation
from adapters._shared.training.checkpoint import BEST_FILE, FACTS, POSITION, read_resumable
from adapters._shared.training.cleaning import CAMERA, labels_by_name
from adapters._shared.training.dataset import TrainingSet
from adapters._shared.training.evaluate import Judge
from adapters._shared.training.examples import ExampleSource
from adapters._shared.training.fit import fit
from adapters._shared.training.runfolder import (
    CONFIG_FILE,
    RunRecord,
    claim_folder,
    config_json,
    describe_set,
    file_facts,
)
from adapters._shared.training.splits import Splits, training_splits
from adapters._shared.training.transfer import freeze, load_weights
from bench.errors import InputError
from bench.files import write_atomic

if TYPE_CHECKING:
    from adapters._shared.training.config import TrainConfig
    from adapters._shared.training.task import Task
    from bench.types import FixtureSet, ModelSpec


class Recipe(Protocol):
    """What one model says about its training."""

    spec: ModelSpec
    """Of the registered model: its classes and size are defaults."""
    config: type[TrainConfig]
    """Options; may have more of them than the shared ones."""
    class_dependent: tuple[str, ...]
    """Prefixes of the entries whose shape depends on the number of classes."""
    copies: Mapping[str, str]
    """Prefix of entries that weights may lack -> prefix of those that they start from instead."""
    training_only: tuple[str, ...]
    """Prefixes of entries that weights may lack and that then keep their random values."""
    unshipped: tuple[str, ...]
    """Prefixes of the entries that inference does not need; shipped weights lack them."""
    stretch: bool
    """Images are resized to the square without keeping their aspect ratio, as the adapter's pre-processing does."""

    def names_in(self, weights: Path) -> tuple[str, ...]:
        """Classes of a weights file by label; empty where it does not tell. InputError: of another model."""

    def task(self, config: TrainConfig, class_names: tuple[str, ...], train: FixtureSet) -> Task:
        """Make a network with random weights (the seed is set), its loss and its fitted adapter."""


def run(recipe: Recipe, options: Mapping[str, Any], out: Path) -> Path:
    """Train as ``options`` say, into the folder ``out``; return the path of the best weights.

    Raises:
        UsageError: an option that does not exist or does not fit.
        InputError: a set, an image, weights or a checkpoint that cannot be used.
        TrainingError: the loss is not finite.
    """
    resumed = None
    defaults: dict[str, Any] = {"fixtures": recipe.spec.default_fixtures, "image_size": recipe.spec.image_hw[0]}
    if options.get("resume") is not None:
        resumed = read_resumable(Path(options["resume"]))
        defaults |= {k: v for k, v in resumed[FACTS]["config"].items() if k not in ("weights", "resume")}
    config = recipe.config.parse({**defaults, **options})
    splits = open_splits(config)
    class_names = names_of(splits.train, recipe.spec)
    if resumed is not None:
        _check_same(resumed[FACTS], recipe.spec.name, class_names, config)
        _check_options(resumed, config)
    lightning.seed_everything(config.seed, verbose=False)
    task = recipe.task(config, class_names, splits.train)
    notes = [splits.note] if splits.note else []
    if config.weights is not None and resumed is None:
        notes += _start_from(config.weights, recipe, task, class_names)
    if config.bn_momentum is not None:
        for layer in task.network.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                layer.momentum = config.bn_momentum
    if config.freeze is not None:
        notes.append(freeze(task.network, config.freeze, task.groups))
    source = ExampleSource(
        splits.train,
        labels_by_name(splits.train, class_names),
        config.image_size,
        attributes=present(task.attributes, splits.train),
        stretch=recipe.stretch,
        cache=config.cache,
    )
    train = TrainingSet(source, config.image_size, augmentation_of(config), config.seed)
    notes.append(str(source.cleaning))
    judge = Judge(task.adapter, splits.val, config.eval_max_dets, config.score_threshold)
    claim_folder(out, resumed=resumed is not None)
    for note in notes:
        sys.stderr.write(f"{note}\n")
    write_atomic(out / CONFIG_FILE, json.dumps(config_json(config), indent=2) + "\n")
    record = RunRecord(out, _describe(recipe.spec.name, task, config, splits, notes))
    best = out / BEST_FILE
    best_ap = read_facts(best).get("ap") if resumed is not None and best.is_file() else None
    return fit(task, config, train, judge, out, record, resumed, best_ap)


def preview(recipe: Recipe, options: Mapping[str, Any], page: Path) -> Path:
    """Write a page that shows what training would see; nothing is trained. Errors as `run`."""
    from adapters._shared.training.preview import write_preview

    config = recipe.config.parse(
        {"fixtures": recipe.spec.default_fixtures, "image_size": recipe.spec.image_hw[0], **options}
    )
    train = open_splits(config).train
    class_names = names_of(train, recipe.spec)
    labels = labels_by_name(train, class_names)
    source = ExampleSource(train, labels, config.image_size, stretch=recipe.stretch, cache="off")
    samples = TrainingSet(source, config.image_size, augmentation_of(config), config.seed)
    return write_preview(samples, class_names, page)


def open_splits(config: TrainConfig) -> Splits:
    """Images to learn from and to judge on, as the options say."""
    splits = training_splits(
        config.fixtures, config.val, seed=config.seed, val_fraction=config.val_fraction, progress=_progress
    )
    train, val, note = splits.train.take(config.max_images), splits.val.take(config.max_images), splits.note
    if config.overfit_batches:
        train = train.take(config.overfit_batches * config.batch)
        val = train
        note = (
            f"overfit run: {len(train.samples)} images of {train.name}, no augmentation, judged on themselves; "
            "the AP says that the model can learn, nothing about other images"
        )
    return Splits(train=train, val=val, note=note)


def augmentation_of(config: TrainConfig) -> Augmentation:
    """Strengths by option; all zero in an overfit run."""
    if config.overfit_batches:
        return Augmentation.off()
    return Augmentation(
        mosaic=config.mosaic,
        mixup=config.mixup,
        flip=config.flip,
        scale=config.scale,
        translate=config.translate,
        hue=config.hue,
        saturation=config.saturation,
        value=config.value,
        degrees=config.degrees,
    )


def present(attributes: tuple[str, ...], fixtures: FixtureSet) -> tuple[str, ...]:
    """Those of the attributes that the set has; the camera belongs to images."""
    found = {name for note in fixtures.annotations for name in attributes if name in note}
    if any(sample.camera is not None for sample in fixtures.samples):
        found.add(CAMERA)
    return tuple(name for name in attributes if name in found)


def names_of(fixtures: FixtureSet, spec: ModelSpec) -> tuple[str, ...]:
    """Classes of the set, in the model's order where they are the model's; numbered where the set names none.

    Raises:
        InputError: the set has no category.
    """
    if not fixtures.categories:
        raise InputError(f"{fixtures.name}: has no categories, so there is nothing to learn.")
    if not fixtures.named_categories:
        return tuple(f"class_{k}" for k in range(max(int(c["id"]) for c in fixtures.categories)))
    names = tuple(str(c["name"]) for c in fixtures.categories)
    return spec.class_names if set(names) == set(spec.class_names) else names


def _progress(done: int, total: int) -> None:
    """Say once in a while how far the rendering of a generated set is."""
    if done % max(total // 10, 1) == 0 or done == total:
        sys.stderr.write(f"rendering images {done}/{total}\n")


def _start_from(weights: Path, recipe: Recipe, task: Task, class_names: tuple[str, ...]) -> list[str]:
    loaded = load_weights(
        task.network,
        read_state_dict(weights),
        f"weights {weights}",
        class_dependent=recipe.class_dependent,
        copies=recipe.copies,
        allow_missing_prefixes=recipe.training_only,
        class_names_from=recipe.names_in(weights),
        class_names_to=class_names,
    )
    return [f"weights {weights.name}: {loaded.note}"]


def _check_same(facts: Mapping[str, Any], model: str, class_names: tuple[str, ...], config: TrainConfig) -> None:
    """Refuse to go on with another network.

    Raises:
        InputError: another model, other classes or another input size.
    """
    before, now = facts["class_names"], class_names
    for what, old, new in (
        ("model", facts["model"], model),
        ("image_size", facts["image_size"][0], config.image_size),
        ("set of classes", _short(before), _short(now)),
    ):
        if old != new:
            raise InputError(
                f"--resume {config.resume}: the run was of another {what}: {old}, now {new}. Go on as it was, or start "
                f"anew from its weights: --weights {config.resume}"
            )


FIXED = ("optimizer", "freeze")
"""Options that decide what the optimizer's state means."""
FIXED_WITHIN_EPOCH = ("batch", "grad_accum", "seed", "devices", "max_images", "fixtures", "val", "val_fraction")
"""Options that decide which batches an epoch has."""


def _check_options(resumed: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuse options under which the checkpoint means something else.

    Raises:
        InputError: names the option, its old and its new value.
    """
    before, now = resumed[FACTS]["config"], config_json(config)
    within = resumed[POSITION]["batches"] > 0
    names = [*FIXED, *(FIXED_WITHIN_EPOCH if within else ())]
    changed = [n for n in names if before.get(n) != now[n]]
    changed += ["ema_decay"] if bool(before.get("ema_decay")) != bool(now["ema_decay"]) else []
    if changed:
        where = "stopped within an epoch" if within else "has an optimizer of its own"
        listed = ", ".join(f"{n} {before.get(n)!r}, now {now[n]!r}" for n in changed)
        raise InputError(
            f"--resume {config.resume}: the run {where} and goes on only as it was: {listed}. To start anew from its "
            f"weights type: --weights {config.resume}"
        )


def _short(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})"


def _describe(model: str, task: Task, config: TrainConfig, splits: Splits, notes: list[str]) -> dict[str, Any]:
    parameters = list(task.network.parameters())
    return {
        "model": model,
        "command": sys.argv[1:] if Path(sys.argv[0]).name.startswith("parity") else [],
        "config": config_json(config),
        "class_names": list(task.adapter.spec.class_names),
        "image_size": list(task.adapter.spec.image_hw),
        "train": describe_set(splits.train),
        "val": describe_set(splits.val),
        "notes": notes,
        "parameters": {
            "all": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        },
        "weights": file_facts(config.weights) if config.weights is not None else None,
    }

"""The two verbs of a model that owns its training code; the model itself says only what its recipe is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters._shared.training.recipe import Recipe


class Trained(ABC):
    """An adapter that can be trained; importing it needs no training library."""

    @abstractmethod
    def recipe(self) -> Recipe:
        """What the shared engine needs to know of this model."""

    def train(self, config: Mapping[str, Any], out: Path) -> Path:
        """Train into the folder ``out`` and return the path of the best weights; classes are those of the set.

        Raises:
            UsageError: an option that the recipe's config does not have, or a value that does not fit.
            InputError: a set, an image, weights or a checkpoint that cannot be used.
            TrainingError: the loss is not finite.
        """
        from adapters._shared.training.recipe import run

        return run(self.recipe(), config, out)

    def preview(self, config: Mapping[str, Any], page: Path) -> Path:
        """Write a page of augmented training samples with their boxes; errors as `train`."""
        from adapters._shared.training.recipe import preview

        return preview(self.recipe(), config, page)

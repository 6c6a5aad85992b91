"""A network in torch behind a file for deployment: what ``bench.deployment.options.Reference`` asks of every model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from adapters._shared.synthetic import make_image
from bench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from bench.deployment.options import ReferencePrecision
    from bench.types import Array, Feeds, Outputs

_DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16}


class NetworkReference:
    """The part that does not depend on what the outputs mean; a model adds ``feeds``, ``scaled`` and what it selects.

    Args:
        network: in eval mode, float32, on the CPU.
        images: name of its input.
        names: of what it returns, in its order.
        image_hw: size of the input, pixels.
    """

    def __init__(self, network: nn.Module, *, images: str, names: Sequence[str], image_hw: tuple[int, int]) -> None:
        self._network = network
        self._images, self._names, self._image_hw = images, tuple(names), image_hw
        self._cast: dict[str, nn.Module] = {}

    def synthetic(self, batch: int) -> dict[str, Array]:
        """Smooth noise (batch, 3, H, W) float32 in 0..1, another image in every row."""
        return {self._images: make_image(f"validate {batch}", (batch, 3, *self._image_hw))}

    def meant(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """All values of all outputs say something."""
        return {}

    def outputs(self, feeds: Feeds, precision: ReferencePrecision) -> Outputs:
        """What torch computes at ``precision``, as float64 arrays.

        Raises:
            Unsupported: this torch has no fp16 kernels for this CPU.
        """
        dtype = _DTYPES[precision]
        if precision not in self._cast:
            self._cast[precision] = copy.deepcopy(self._network).to(dtype)
        images = torch.from_numpy(feeds[self._images]).to(dtype)
        try:
            with torch.inference_mode():
                found = self._cast[precision](images)
        except RuntimeError as error:
            if precision != "fp16" or "not implemented" not in str(error):
                raise
            raise Unsupported(f"torch {torch.__version__} cannot compute fp16 on this CPU: {error}") from error
        return {name: value.double().numpy() for name, value in zip(self._names, found, strict=True)}

"""The network in torch behind a file for deployment, for the comparison with the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapters._shared.reference import NetworkReference
from adapters.rtdetr_pose import deployed, process
from bench.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from adapters.rtdetr_pose import RtDetrPoseAdapter
    from bench.deployment.options import ExportOptions
    from bench.types import Array, Prediction

_NO_SELECTION = "rtdetr_pose: its files return raw outputs; none of them selects detections"


class TorchReference(NetworkReference):
    """``bench.deployment.options.Reference`` of this model.

    Args:
        adapter: the model.
        weights: of the file.
        options: of the file.

    Raises:
        InputError: as ``RtDetrPoseAdapter.build``.
    """

    def __init__(self, adapter: RtDetrPoseAdapter, weights: Path, options: ExportOptions) -> None:
        super().__init__(
            adapter.build(weights),
            images=adapter.spec.inputs[0].name,
            names=[t.name for t in adapter.spec.outputs],
            image_hw=options.image_hw,
        )

    def feeds(self, image_rgb_u8: Array) -> dict[str, Array]:
        """(H, W, 3) uint8 RGB -> ``images`` (1, 3, *image_hw) float32."""
        return process.preprocess(image_rgb_u8, self._image_hw)[0]

    def scaled(self, outputs: Mapping[str, Array]) -> dict[str, tuple[str, Array]]:
        """Scores, shares of the image, shares of the depth, entries of rotation matrices: `deployed.in_units`."""
        return deployed.in_units(outputs)

    def meant(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Boxes and poses of queries that may have an object: `deployed.meant`."""
        return deployed.meant(outputs)

    def select(self, outputs: Mapping[str, Array], *, iou_shift: float = 0.0) -> list[Prediction]:
        """Unsupported: no file of this model selects."""
        raise Unsupported(_NO_SELECTION)

    def read(self, outputs: Mapping[str, Array]) -> list[Prediction]:
        """Unsupported: no file of this model selects."""
        raise Unsupported(_NO_SELECTION)

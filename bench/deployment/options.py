"""What a person may choose about a file for deployment, and what a model offers for it.

A model that has such files gives its adapter ``export_heads``, ``image_multiple``, ``export_deployment`` and
``deployment_reference`` (`Deployable`). A model without them is still a model: only these options are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from bench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.types import Array, Feeds, ModelSpec, Outputs, Prediction

OPSET = 18
MIN_OPSET = 13
THRESHOLDS = {"conf": "--conf", "iou": "--iou", "max_detections": "--max-dets"}
"""Field of `ExportOptions` that only some heads use -> its option."""
LARGEST_SIDE_PX = 16_384

ReferencePrecision = Literal["fp64", "fp32", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """One file for deployment.

    Raises:
        UsageError: a value out of its range; names the option.
    """

    head: str
    """What the file returns, a key of ``Deployable.export_heads``."""
    image_hw: tuple[int, int]
    """Static height and width of the input, pixels."""
    opset: int = OPSET
    half: bool = False
    """fp16 weights and arithmetic; inputs and outputs stay float32."""
    conf: float = 0.25
    """Detections need a score above it."""
    iou: float = 0.7
    """A box goes when it overlaps a better one of its class by more."""
    max_detections: int = 300

    def __post_init__(self) -> None:
        if self.opset < MIN_OPSET:
            raise UsageError(
                f"--opset {self.opset}: too old. Type --opset {MIN_OPSET} or newer ({OPSET} is the default)"
            )
        if not 0 <= self.conf < 1:
            raise UsageError(f"--conf {self.conf:g}: a score threshold lies in 0..1, and 1 would drop everything.")
        if not 0 <= self.iou <= 1:
            raise UsageError(f"--iou {self.iou:g}: an overlap lies in 0..1.")
        if self.max_detections < 1:
            raise UsageError(f"--max-dets {self.max_detections}: give at least 1.")

    @property
    def precision(self) -> Literal["fp32", "fp16"]:
        """Precision of the file's arithmetic."""
        return "fp16" if self.half else "fp32"


class Reference(Protocol):
    """The same network in torch, at the size of the file, for the comparison with it."""

    def feeds(self, image_rgb_u8: Array) -> dict[str, Array]:
        """(H, W, 3) uint8 RGB -> feeds with B = 1."""

    def synthetic(self, batch: int) -> dict[str, Array]:
        """Smooth random feeds, another image in every row."""

    def outputs(self, feeds: Feeds, precision: ReferencePrecision) -> Outputs:
        """What torch computes, as float64: the dense outputs of the file, or what its selection reads.

        Raises:
            Unsupported: torch has no kernels of this precision here; the message is the reason.
        """

    def scaled(self, outputs: Mapping[str, Array]) -> dict[str, tuple[str, Array]]:
        """Dense output -> unit and values in it: the unit in which the absolute tolerance is meant."""

    def meant(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Dense output of torch -> which values say something (bool, its shape); one that is not named: all do.

        The absolute tolerance holds for these. The others, such as the pose of a query without an object, have to be
        finite, and are judged by the rms budget of the whole tensor where torch can give one.
        """

    def select(self, outputs: Mapping[str, Array], *, iou_shift: float = 0.0) -> list[Prediction]:
        """Dense outputs -> the detections per image that the file should select, in input pixels (plain numpy).

        Args:
            outputs: dense outputs.
            iou_shift: added to the overlap threshold, to see which boxes lie at it.
        """

    def read(self, outputs: Mapping[str, Array]) -> list[Prediction]:
        """Outputs of a file that selects -> detections per image, in input pixels.

        Raises:
            ContractError: rows that break the convention of the file; names image and row.
        """


@runtime_checkable
class Deployable(Protocol):
    """An adapter whose model can be exported with other outputs than those that the harness compares."""

    spec: ModelSpec
    export_heads: Mapping[str, tuple[str, ...]]
    """Head -> the `THRESHOLDS` that it uses; the first is the default."""
    image_multiple: int
    """Height and width must be multiples of it, pixels."""

    def export_deployment(self, weights: Path, out: Path, options: ExportOptions) -> Mapping[str, Any]:
        """Write the fp32 ONNX file and say what it is.

        Returns:
            ``outputs`` (list of name, shape, dtype, convention), ``recipe``, ``float_nodes`` (regular expressions of
            nodes that an fp16 file must leave in float32), and for files that select detections ``selects_from``:
            dense output of the reference -> name of the node, and number of its input, that reads it in the graph.
        """

    def deployment_reference(self, weights: Path, options: ExportOptions) -> Reference:
        """The network behind such a file."""


def as_deployable(adapter: Any) -> Deployable:
    """Return the adapter when it can export for deployment.

    Raises:
        UsageError: it cannot; says what works instead.
    """
    if not isinstance(adapter, Deployable):
        raise UsageError(
            f"{adapter.spec.name} has one file per precision and no other heads, sizes or opsets. "
            "Leave out --head, --opset, --imgsz, --conf, --iou, --max-dets and --validate."
        )
    return adapter


def choose(
    model: Deployable,
    *,
    head: str | None,
    image_size: str | None,
    opset: int | None,
    half: bool,
    conf: float | None,
    iou: float | None,
    max_detections: int | None,
) -> ExportOptions:
    """Turn what was typed into options; None means not typed.

    Raises:
        UsageError: an unknown head, a value out of its range, or a threshold that the head does not use.
    """
    name = head or next(iter(model.export_heads))
    if name not in model.export_heads:
        raise UsageError(f"--head {name}: {model.spec.name} has no such head.{did_you_mean(name, model.export_heads)}")
    thresholds = {"conf": conf, "iou": iou, "max_detections": max_detections}
    given: dict[str, Any] = {field: value for field, value in thresholds.items() if value is not None}
    for field in given:
        if field not in model.export_heads[name]:
            users = [other for other, uses in model.export_heads.items() if field in uses]
            raise UsageError(
                f"{THRESHOLDS[field]}: the head {name!r} does not use it. "
                f"Leave it out, or type --head {' or '.join(users)}"
            )
    return ExportOptions(
        head=name,
        image_hw=model.spec.image_hw if image_size is None else read_image_size(image_size, model.image_multiple),
        half=half,
        **({"opset": opset} if opset is not None else {}),
        **given,
    )


def read_image_size(text: str, multiple: int) -> tuple[int, int]:
    """``"640"`` or ``"384,640"`` (height, width) -> height and width in pixels.

    Raises:
        UsageError: no such numbers, or no multiples of ``multiple``; names the nearest.
    """
    parts = re.split(r"[,x]", text.strip())
    if len(parts) not in (1, 2) or not all(re.fullmatch(r"-?\d{1,9}", part.strip()) for part in parts):
        raise UsageError(f"--imgsz {text}: give one side, or height,width in pixels, for example 640 or 384,640")
    height, width = (int(part) for part in (parts * 2)[:2])
    nearest = [max(round(side / multiple), 1) * multiple for side in (height, width)]
    if [height, width] != nearest:
        shown = str(nearest[0]) if len(parts) == 1 else ",".join(map(str, nearest))
        raise UsageError(f"--imgsz {text}: sides must be multiples of {multiple}. The nearest: --imgsz {shown}")
    if max(height, width) > LARGEST_SIDE_PX:
        raise UsageError(f"--imgsz {text}: sides may have at most {LARGEST_SIDE_PX} pixels.")
    return height, width

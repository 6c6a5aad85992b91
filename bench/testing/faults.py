"""The faults that ``parity doctor --prove`` plants, one lane-importable name each, and the changes that are none.

Names ending in ``_backend`` go in the place of the candidate's runtime, those in ``_adapter`` in that of the model.
``marked_backend`` is honest: an adapter planted ``beside`` it is wrong in the candidate's lane only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np

from bench import testing
from bench.errors import UsageError
from bench.testing.fakes import FakeNetwork
from bench.testing.proof import (
    IMAGE_HW,
    KEYPOINTS,
    adapter,
    feeds_of,
    letterbox,
    meta_of,
    pose_adapter,
    proof_image,
)
from bench.testing.saboteurs import sabotage, sabotage_adapter
from bench.types import Prediction

if TYPE_CHECKING:
    from bench.types import Adapter, Array, Artifact, Backend, Outputs

MARK = "fake-marked"
FIRST_LANE_RUNS = 5
"""Runs of a lane before the accuracy pass: its first inference and four raw samples."""
HONEST_RUNS = 100
"""A lane over 40 images does 49 runs in the accuracy pass and warms up with 8 steps: 5 honest rounds are left."""
_KNOWN_IMAGES = 400

_fake = cast("Backend", testing.fake_backend)
_wrong = partial(sabotage, _fake)
_detector = cast("Adapter", adapter)
_poser = cast("Adapter", pose_adapter)


class _Once:
    """Changes the outputs of one run only, counted from 0 over a lane's life."""

    def __init__(self, run: int, change: Callable[[Outputs], Outputs]) -> None:
        self._run, self._change, self._seen = run, change, 0

    def __call__(self, outputs: Outputs) -> Outputs:
        self._seen += 1
        return self._change(outputs) if self._seen - 1 == self._run else outputs


class _Late:
    """Gives the outputs of the run before."""

    def __init__(self) -> None:
        self._last: Outputs | None = None

    def __call__(self, outputs: Outputs) -> Outputs:
        late, self._last = self._last or outputs, {name: value.copy() for name, value in outputs.items()}
        return late


def _nan_in_a_box(outputs: Outputs) -> Outputs:
    boxes = outputs["boxes"].copy()
    boxes[..., 0] = np.nan
    return {**outputs, "boxes": boxes}


def _without_a_class(outputs: Outputs) -> Outputs:
    scores = outputs["scores"].copy()
    scores[:, -1] = 0
    return {**outputs, "scores": scores}


def _extra(outputs: Outputs) -> Outputs:
    """A sure box of every class in every image."""
    found = outputs["scores"] > testing.FakeAdapter.spec.score_floor
    boxes = np.where(found[..., None], outputs["boxes"], np.array([4, 6, 20, 20], np.float32))
    return {**outputs, "boxes": boxes, "scores": np.where(found, outputs["scores"], np.float32(0.99))}


def _swapped_classes(outputs: Outputs) -> Outputs:
    return {name: value[:, [1, 0, 2]] for name, value in outputs.items()}


def _scores_up(outputs: Outputs) -> Outputs:
    found = outputs["scores"] > testing.FakeAdapter.spec.score_floor
    return {**outputs, "scores": np.where(found, outputs["scores"] + np.float32(0.01), outputs["scores"])}


def _as_xywh(outputs: Outputs) -> Outputs:
    boxes = outputs["boxes"].copy()
    boxes[..., 2:] -= boxes[..., :2]
    return {**outputs, "boxes": boxes}


def _transposed(outputs: Outputs) -> Outputs:
    return {**outputs, "keypoints": outputs["keypoints"][..., [1, 0, 2]]}


def _left_for_right(outputs: Outputs) -> Outputs:
    order = [KEYPOINTS.index(_mirror(name)) for name in KEYPOINTS]
    return {**outputs, "keypoints": outputs["keypoints"][:, :, order]}


def _mirror(name: str) -> str:
    side, _, rest = name.partition("_")
    return f"{ {'left': 'right', 'right': 'left'}[side] }_{rest}"


def _with_network(artifact: Artifact, network: FakeNetwork) -> Artifact:
    return replace(artifact, build=lambda: network)


def _mixed(seed: int, share: float) -> FakeNetwork:
    """Weights that are ``share`` random and else the right ones."""
    random = np.random.default_rng(seed).normal(0, 0.6, (3, 3))
    return FakeNetwork(mix=((1 - share) * np.eye(3) + share * random).astype(np.float32))


# outputs of the candidate's runtime
nan_backend = _wrong(name="fake-nan", change=_nan_in_a_box)
one_nan_backend = _wrong(name="fake-one-nan", change=_Once(FIRST_LANE_RUNS + 20, _nan_in_a_box))
inf_backend = _wrong(name="fake-inf", change=lambda o: {**o, "scores": np.full_like(o["scores"], np.inf)})
shape_backend = _wrong(name="fake-shape", change=lambda o: {**o, "boxes": o["boxes"][..., :3]})
extra_backend = _wrong(name="fake-extra", change=_extra)
missing_backend = _wrong(name="fake-missing", change=_without_a_class)
classes_backend = _wrong(name="fake-classes", change=_swapped_classes)
scores_backend = _wrong(name="fake-scores", change=_scores_up)
xywh_backend = _wrong(name="fake-xywh", change=_as_xywh)
transposed_backend = _wrong(name="fake-transposed", change=_transposed)
mirrored_backend = _wrong(name="fake-mirrored", change=_left_for_right)
late_backend = _wrong(name="fake-late", change=_Late())
own_resize_backend = _wrong(
    name="fake-own-resize",
    feed=lambda f: {n: cv2.blur(v[0].transpose(1, 2, 0), (2, 2)).transpose(2, 0, 1)[None] for n, v in f.items()},
)

# which file, which precision, which device
random_backend = _wrong(name="fake-random", artifact=lambda a: _with_network(a, _mixed(5, 1.0)))
stale_backend = _wrong(name="fake-stale", artifact=lambda a: _with_network(a, _mixed(5, 0.01)))
precision_backend = _wrong(name="fake-precision", cell=lambda c: replace(c, precision="fp32"))
provider_backend = _wrong(name="fake-provider", testify=lambda e: replace(e, provider="npu"))

# timing
cached_backend = _wrong(name="fake-cached", works=lambda runs: False)
tiring_backend = _wrong(name="fake-tiring", works=lambda runs: runs < HONEST_RUNS)
remembering_backend = _wrong(name="fake-remembering", remembers=True)

marked_backend = sabotage(_fake, name=MARK)


def _swap_channels(image: Array, honest: Callable[[Array], Any]) -> Any:
    return honest(np.ascontiguousarray(image[..., ::-1]))


def _unnormalised(image: Array, honest: Callable[[Array], Any]) -> Any:
    return feeds_of(letterbox(image), divisor=1.0), meta_of(image)


def _half_pixel(image: Array, honest: Callable[[Array], Any]) -> Any:
    return feeds_of(letterbox(image, shift_px=0.5)), meta_of(image)


def _other_interpolation(image: Array, honest: Callable[[Array], Any]) -> Any:
    return feeds_of(letterbox(image, interpolation=cv2.INTER_AREA)), meta_of(image)


def _with_image_key(image: Array, honest: Callable[[Array], Any]) -> Any:
    feeds, meta = honest(image)
    return feeds, {**meta, "image": hashlib.sha256(image.tobytes()).hexdigest()}


class _Drop:
    """No detections on the image with this id."""

    def __init__(self, image_id: int) -> None:
        self._image_id = image_id

    def __call__(self, outputs: Mapping[str, Array], meta: Mapping[str, Any], honest: Callable[..., Prediction]) -> Any:
        found = honest(outputs, meta)
        boxes_xyxy, scores, labels = (column[:0] for column in _columns(found))
        return Prediction(boxes_xyxy, scores, labels) if _image_id(meta) == self._image_id else found


def _leak(outputs: Mapping[str, Array], meta: Mapping[str, Any], honest: Callable[..., Prediction]) -> Prediction:
    """The ground truth in the place of what was found."""
    truth = proof_image(_image_id(meta))[1]
    boxes_xyxy = np.array([box for _, box in truth], np.float32).reshape(-1, 4)
    return Prediction(boxes_xyxy, np.full(len(truth), 0.9, np.float32), np.array([n for n, _ in truth], np.int64))


_image_ids: dict[str, int] = {}


def _image_id(meta: Mapping[str, Any]) -> int:
    """Id of a proof image, recognised by its pixels."""
    if not _image_ids:
        for image_id in range(1, _KNOWN_IMAGES + 1):
            _image_ids[hashlib.sha256(proof_image(image_id)[0].tobytes()).hexdigest()] = image_id
    if meta["image"] not in _image_ids:
        raise UsageError(f"this saboteur knows the first {_KNOWN_IMAGES} proof images ({IMAGE_HW}) only")
    return _image_ids[meta["image"]]


def _columns(prediction: Prediction) -> tuple[Array, Array, Array]:
    return prediction.boxes_xyxy, prediction.scores, prediction.labels


# pre-processing, in the candidate's lane and in every lane
rgb_lane_adapter = sabotage_adapter(_detector, preprocess=_swap_channels, beside=MARK)
rgb_adapter = sabotage_adapter(_detector, preprocess=_swap_channels)
unnormalised_lane_adapter = sabotage_adapter(_detector, preprocess=_unnormalised, beside=MARK)
unnormalised_adapter = sabotage_adapter(_detector, preprocess=_unnormalised)
half_pixel_lane_adapter = sabotage_adapter(_detector, preprocess=_half_pixel, beside=MARK)
half_pixel_adapter = sabotage_adapter(_detector, preprocess=_half_pixel)
interpolation_lane_adapter = sabotage_adapter(_detector, preprocess=_other_interpolation, beside=MARK)
interpolation_adapter = sabotage_adapter(_detector, preprocess=_other_interpolation)

# post-processing in the candidate's lane, and a network that overflows in fp16
dropped_adapter = sabotage_adapter(_detector, preprocess=_with_image_key, postprocess=_Drop(21), beside=MARK)
leaking_adapter = sabotage_adapter(_detector, preprocess=_with_image_key, postprocess=_leak, beside=MARK)
overflowing_adapter = sabotage_adapter(_detector, network=lambda network: replace(network, gain=2.0**10))

# changes that are none
backwards_backend = _wrong(name="fake-backwards", artifact=lambda a: _with_network(a, FakeNetwork(backwards=True)))
batched_backend = _wrong(
    name="fake-batched",
    feed=lambda f: {n: np.concatenate([v] * 4) for n, v in f.items()},
    change=lambda o: {n: v[: len(v) // 4] for n, v in o.items()},
)


def _twice(outputs: Mapping[str, Array], meta: Mapping[str, Any], honest: Callable[..., Prediction]) -> Prediction:
    """Every box twice with the same score, as a model without NMS may give it."""
    return _in_order(honest(outputs, meta), np.array([0, 1]))


def _twice_reversed(
    outputs: Mapping[str, Array], meta: Mapping[str, Any], honest: Callable[..., Prediction]
) -> Prediction:
    """The same pairs, the other one first: a sort that is not stable."""
    return _in_order(honest(outputs, meta), np.array([1, 0]))


def _in_order(found: Prediction, order: Array) -> Prediction:
    boxes, scores, labels = _columns(found)
    shifts = np.array([0, 2e-3], np.float32)[order]
    doubled = (boxes[:, None] + shifts[:, None]).reshape(-1, 4)
    return Prediction(doubled, np.repeat(scores, 2), np.repeat(labels, 2))


_tied = sabotage_adapter(_detector, postprocess=_twice)
ties_adapter = sabotage_adapter(
    cast("Adapter", _tied),
    postprocess=lambda outputs, meta, honest: _twice_reversed(outputs, meta, adapter.postprocess),
    beside=MARK,
)
